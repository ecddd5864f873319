"""Functions of both kinds: one that blocks gets a thread of its own.

Not one of a pool: a pool bounds the slots, and is waited for at exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any


async def called(function: Callable[..., Any], args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """What the function returns; one that is not async is called in a thread, so that nothing else stands still."""
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        return await function(*args, **keywords)
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    in_thread(lambda: function(*args, **keywords), done)
    value = await done
    return await value if inspect.isawaitable(value) else value


def in_thread(work: Callable[[], Any], done: asyncio.Future[Any]) -> threading.Thread:
    """Do the work and settle `done` on its own loop, in a copy of the caller's context."""
    context = contextvars.copy_context()
    loop = done.get_loop()

    def settle(value: Any, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(value)
        else:
            done.set_exception(error)

    def body() -> None:
        value: Any = None
        failure: BaseException | None = None
        try:
            value = context.run(work)
        except StopIteration as error:
            failure = RuntimeError(f"the reasoner raised StopIteration: {error}")
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever awaits
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, value, failure)

    thread = threading.Thread(target=body, name="controlplane-reasoner", daemon=True)
    thread.start()
    return thread
