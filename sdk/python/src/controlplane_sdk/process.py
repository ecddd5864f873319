"""The process around a serving agent: which signals it hears, and how it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator

try:
    import uvloop
except ImportError:  # an extra, and not for every system
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
else:
    new_loop = uvloop.new_event_loop

LEFTOVER_SECONDS = 1.0

_log = logging.getLogger("controlplane_sdk")


@contextlib.contextmanager
def signals(heard: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT are heard on the event loop. Only the main thread gets them."""
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: loop.call_soon_threadsafe(heard)) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(loop: asyncio.AbstractEventLoop) -> None:
    """Close the loop without waiting for ever on what swallows its cancellation."""
    leftover = asyncio.all_tasks(loop)
    for task in leftover:
        task.cancel()
    if leftover:
        loop.run_until_complete(asyncio.wait(leftover, timeout=LEFTOVER_SECONDS))
    loop.run_until_complete(loop.shutdown_asyncgens())
    if any(not task.done() for task in leftover):
        _log.warning("%d tasks did not stop and are left behind", sum(not task.done() for task in leftover))
    loop.close()
