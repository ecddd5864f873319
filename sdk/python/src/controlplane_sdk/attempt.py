"""One attempt at one execution, from its lease to its report."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from typing import Any, Literal

from controlplane_sdk import report, strict_json
from controlplane_sdk.context import Context, Fence, current
from controlplane_sdk.errors import NotJson, ResultInvalid
from controlplane_sdk.function import Function
from controlplane_sdk.report import Report
from controlplane_sdk.thread import in_thread

STOP_GRACE_SECONDS = 5.0

Ending = Literal["cancelled", "lost", "released"]


class Attempt:
    """A reasoner at work. `run` never raises; it leaves what is to be said in `last_word`."""

    def __init__(self, context: Context, function: Function) -> None:
        self.context = context
        self.function = function
        self.task: asyncio.Task[None] | None = None
        self.ending: Ending | None = None
        self.thread: threading.Thread | None = None
        self.waits = 0  # for children, events and the like, just now
        self._report: Report | None = None
        self._began = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._home_thread = threading.get_ident()

    @property
    def fence(self) -> Fence:
        return self.context.fence

    @property
    def last_word(self) -> Report | None:
        """What to report; None when another attempt has taken over."""
        if self.ending == "lost":
            return None
        durable = self.context.durable
        if durable is not None and durable.suspension is not None and self.ending != "cancelled":
            # However the function ended: a `finally` of its own may have failed on the way out.
            return report.waiting(self.fence, durable.suspension.waits, durable.suspension.until)
        return self._report or self._stopped()

    async def run(self) -> None:
        """Call the reasoner with its input, in a context of its own."""
        current.set(self.context)
        try:
            value = await self._call()
            self._report = report.succeeded(self.fence, _result(value), self._duration_ms())
        except asyncio.CancelledError as error:
            self._report = self._stopped(error)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a reasoner raises, SystemExit too, is its failure alone
            self._report = self._stopped(error)

    def stop(self, ending: Ending) -> None:
        """Ask the reasoner to stop: CancelledError where it awaits, `context.cancelled` for a synchronous one."""
        if self.ending == "lost" or (self.ending is not None and ending != "lost"):
            return
        self.ending = ending
        self.context.cancelled = True
        if self.task is None:
            return
        if self.function.is_async or ending != "cancelled":
            self.task.cancel()
        else:
            self._loop.call_later(STOP_GRACE_SECONDS, self.task.cancel)

    def lose(self) -> None:
        """Stop and report nothing; from any thread."""
        if threading.get_ident() == self._home_thread:
            self.stop("lost")
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed, and everything has stopped
            self._loop.call_soon_threadsafe(self.stop, "lost")

    async def _call(self) -> Any:
        positional, keywords = self.function.signature.bind(self.context.input, self.context)
        if self.function.is_async:
            value = self.function.call(*positional, **keywords)
        else:
            done: asyncio.Future[Any] = self._loop.create_future()
            self.thread = in_thread(lambda: self.function.call(*positional, **keywords), done)
            value = await done
        # A decorator may have turned one kind into the other.
        return await value if inspect.isawaitable(value) else value

    def _stopped(self, error: BaseException | None = None) -> Report:
        if self.ending == "released":
            return report.released(self.fence)
        if self.ending == "cancelled":
            return report.cancelled(self.fence, self._duration_ms())
        return report.failed(self.fence, error or asyncio.CancelledError("cancelled by itself"), self._duration_ms())

    def _duration_ms(self) -> int:
        return int((time.monotonic() - self._began) * 1000)


def _result(value: Any) -> bytes:
    try:
        return strict_json.encode(value)
    except NotJson as error:
        raise ResultInvalid(f"the result cannot be written as JSON: {error}") from error
