"""Keeps the lease alive from a thread of its own: a blocked event loop must not cost the work.

A second small thread asks the loop for a sign of life and says where it hangs when none comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from controlplane_sdk import strict_json
from controlplane_sdk.contact import Contact
from controlplane_sdk.context import Fence
from controlplane_sdk.errors import ServerError
from controlplane_sdk.transport import Backoff, Reply, Transport, unreachable

FULL_EVERY = 6
BLOCKED_SECONDS = 5.0
WAIT_MAX_SECONDS = 30.0
# Cancels are repeated until the attempt has reported, and a beat with something to say is answered at once.
PACE_SECONDS = 1.0
ANSWER_MARGIN_SECONDS = 5.0
SESSION_GONE = frozenset({"session_closed", "session_not_found"})


class Heartbeat:
    """Renews one session's lease until it is stopped or the control plane says that the session is closed.

    While nothing is held a beat may be held for as long as the control plane says; one that says nothing of it (an
    older one) is asked every `seconds`. `on_answer` and `on_gone` are called on the event loop.
    """

    def __init__(
        self,
        *,
        server: str,
        headers: Mapping[str, str],
        session_id: str,
        seconds: float,
        held: Callable[[], list[Fence]],
        contact: Contact,
        on_answer: Callable[[dict[str, Any]], None],
        on_gone: Callable[[str], None],
    ) -> None:
        self._server = server
        self._headers = dict(headers)
        self._session_id = session_id
        self._seconds = min(seconds, WAIT_MAX_SECONDS)
        self._pace_seconds = min(PACE_SECONDS, self._seconds)
        self._idle_seconds = 0.0
        self._held = held
        self._contact = contact
        self._on_answer = on_answer
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._own_loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()
        self._stopping = threading.Event()
        self._tell_all = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._beat_on()), name="controlplane-heartbeat", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def tell_all(self) -> None:
        """The next beat names every attempt: after a claim, and after one whose answer was lost.

        The thread sees it soon by itself: to be woken it would take the interpreter from the work that has just begun.
        """
        self._tell_all.set()

    def stop(self) -> None:
        """Ask the thread to end; what it has under way is given up."""
        self._stopping.set()
        if self._own_loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._own_loop.call_soon_threadsafe(self._stopped.set)

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    async def _beat_on(self) -> None:
        self._own_loop = asyncio.get_running_loop()
        backoff = Backoff(cap_seconds=min(5.0, self._seconds / 2))
        beats = 0
        async with Transport(self._server, self._headers) as transport:
            while not self._stopping.is_set():
                began = time.monotonic()
                asked = self._tell_all.is_set()
                if asked:  # what is asked from here on is for the next one
                    self._tell_all.clear()
                all_ = asked or beats % FULL_EVERY == 0
                try:
                    reply = await self._beat(transport, all_)
                except ServerError as error:
                    await self._failed(error, all_, backoff)
                    continue
                if reply is None:
                    return
                if reply.code in SESSION_GONE:
                    self._call(self._on_gone, self._session_id)
                    return
                if not reply.ok or not isinstance(reply.body, dict):
                    await self._failed(f"heartbeat refused: {reply.status} {reply.code}", all_, backoff)
                    continue
                beats += 1
                backoff.reset()
                self._idle_seconds = min(float(reply.body.get("idle_wait_seconds") or 0.0), WAIT_MAX_SECONDS)
                self._contact.made("heartbeat")
                self._call(self._on_answer, reply.body)
                rest = self._pace_seconds - (time.monotonic() - began)
                if rest > 0:
                    await self._rest(rest)

    async def _beat(self, transport: Transport, all_: bool) -> Reply | None:
        """The answer; None when there is nobody left to hear it."""
        held = self._held()
        wait_seconds = self._seconds if held else max(self._seconds, self._idle_seconds)
        body = {
            "executions": [{"execution_id": id_, "attempt": attempt} for id_, attempt in held] if all_ else None,
            "count": len(held),
            "wait_seconds": wait_seconds,
        }
        asking = asyncio.ensure_future(
            transport.send(
                "POST",
                f"/sessions/{self._session_id}/heartbeat",
                strict_json.encode(body),
                answer_seconds=wait_seconds + ANSWER_MARGIN_SECONDS,
            )
        )
        try:
            return asking.result() if await self._answered(asking, idle=wait_seconds > self._seconds) else None
        finally:
            asking.cancel()

    async def _answered(self, asking: asyncio.Future[Reply], *, idle: bool) -> bool:
        """False: it was stopped meanwhile.

        A long beat that was begun with nothing held comes back within `seconds` of a claim. If it does not, whoever
        holds it may be gone without a word, and our lease with it, before its own time is over.
        Raises: ServerUnreachable.
        """
        until: float | None = None
        waits_for: set[Fence] = set()
        stopped: asyncio.Future[Any] = asyncio.ensure_future(self._stopped.wait())
        either: set[asyncio.Future[Any]] = {asking, stopped}
        try:
            while not stopped.done() and not asking.done():
                if idle and waits_for.isdisjoint(held := self._held()):  # what is done needs no other beat
                    waits_for = set(held)
                    until = time.monotonic() + self._seconds + ANSWER_MARGIN_SECONDS if held else None
                if until is not None and time.monotonic() > until:
                    raise unreachable(self._server, TimeoutError("a beat was not answered in time after a claim"))
                look_in = self._pace_seconds if idle else None
                await asyncio.wait(either, timeout=look_in, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        return asking.done()

    async def _failed(self, why: object, all_: bool, backoff: Backoff) -> None:
        if all_:
            self._tell_all.set()
        if not self._stopping.is_set():
            self._contact.lost("heartbeat", why)
        await self._rest(backoff.next_seconds())

    async def _rest(self, seconds: float) -> None:
        """Wait so long, or until it is stopped."""
        stopped = asyncio.ensure_future(self._stopped.wait())
        await asyncio.wait({stopped}, timeout=seconds)
        stopped.cancel()

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        if not self._stopping.is_set():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
                self._loop.call_soon_threadsafe(function, *arguments)


class Watchdog:
    """Says when the event loop has been blocked, for how long, and by which line."""

    def __init__(self, log: logging.Logger, *, blocked_seconds: float = BLOCKED_SECONDS) -> None:
        self._log = log
        self._blocked_seconds = blocked_seconds
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="controlplane-watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _watch(self) -> None:
        while not self._stopping.wait(min(1.0, self._blocked_seconds / 2)):
            alive = threading.Event()
            asked = time.monotonic()
            try:
                self._loop.call_soon_threadsafe(alive.set)
            except RuntimeError:
                return  # the loop is closed
            if alive.wait(self._blocked_seconds):
                continue
            self._log.warning(
                "the event loop has been blocked for %.0f s: the lease is safe, but all else waits. It is here:\n%s",
                self._blocked_seconds,
                self._where(),
            )
            while not alive.wait(0.5) and not self._stopping.is_set():
                pass
            if alive.is_set():
                self._log.warning("the event loop was blocked for %.1f s", time.monotonic() - asked)

    def _where(self) -> str:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - documented; the only way to see another thread
        return "".join(traceback.format_stack(frame)[-5:]).rstrip() if frame else "(unknown)"
