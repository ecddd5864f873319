"""What an execution does once, and what it waits for, however often its function is run from the beginning.

Every durable thing has a name, `<what>` and from the second one on `<what>#2`, `<what>#3`, counted in the order in
which they begin; inside a step it is `<step> > <what>`. A run that comes later finds by these names what is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal
from urllib.parse import quote

from controlplane_sdk import steps, strict_json
from controlplane_sdk.connection import Connection
from controlplane_sdk.context import Context
from controlplane_sdk.errors import (
    EventTimedOut,
    LeaseLost,
    NotJson,
    ResultInvalid,
    ServerError,
    ServerUnavailable,
    ServerUnreachable,
    StepChanged,
)
from controlplane_sdk.steps import Step
from controlplane_sdk.thread import called
from controlplane_sdk.transport import Backoff
from controlplane_sdk.writes import PATIENCE_SECONDS

IN_PROCESS_SECONDS = 1.0
"""A wait that is over so soon is not worth giving the attempt up for."""
LOOK_FIRST_SECONDS = 0.2
LOOK_CAP_SECONDS = 5.0
"""How often a wait that stays in the process looks whether it is over."""
NAME_CHARACTERS = 255
ATTEMPTS_PAGE = 200

_INSIDE = " > "
_NTH = "#"
_inside: ContextVar[str] = ContextVar("controlplane_step", default="")


@dataclass(frozen=True, slots=True)
class Decision:
    """What people answered: approved, rejected, request_changes, or expired when nobody did in time."""

    decision: str
    feedback: str | None = None
    response: Any = None

    @property
    def approved(self) -> bool:
        return self.decision == "approved"


class Suspended(BaseException):
    """The attempt ends here and its execution waits; it is run again from the beginning when that is over.

    No Exception, so that no `except Exception` takes it for a failure. Let it pass.
    """

    def __init__(self, waits: Sequence[str], until: Literal["any", "all"]) -> None:
        super().__init__(f"waits for {', '.join(waits[:3])}{' …' if len(waits) > 3 else ''}")
        self.waits = tuple(waits)
        self.until = until


class Durable:
    """The memo of one attempt, and its way to wait."""

    def __init__(
        self, context: Context, connection: Connection, *, stored: int | None, waiting: Callable[[int], None]
    ) -> None:
        """`stored`: how many steps there are already; None when the control plane keeps none at all.

        `waiting` is told when a wait in this process begins (+1) and ends (-1): meanwhile the slot is free.
        """
        self.supported = stored is not None
        self.task: asyncio.Task[None] | None = None
        """The attempt's own task: only what it awaits itself may end the attempt."""
        self.suspension: Suspended | None = None
        self._context = context
        self._connection = connection
        self._waiting = waiting
        self._lock = threading.Lock()
        self._counted: Counter[str] = Counter()
        self._memo: dict[str, Step] | None = None if stored else {}
        self._last_failed: int | None = None
        self._loading: asyncio.Future[dict[str, Step]] | None = None
        self._busy: Counter[asyncio.Task[Any] | None] = Counter()

    # What a reasoner does.

    async def step(
        self, function: Callable[..., Any], args: Sequence[Any], keywords: Mapping[str, Any], name: str | None
    ) -> Any:
        async with self.at_work():
            name = self.name(name or _name_of(function))
            if known := await self.known(name, "step"):
                return known.value
            with _within(name):
                value = await called(function, args, keywords)
            try:
                return (await self._write({"op": "done", "name": name, "value": value})).value
            except NotJson as error:
                raise ResultInvalid(f"the result of the step {name!r} cannot be written as JSON: {error}") from error

    async def sleep(self, seconds: float, name: str | None) -> None:
        if not math.isfinite(seconds):
            raise ValueError("a sleep has an end: give finite seconds")
        await self._connection.here(self._sleep(seconds, name))

    async def wait_for_event(self, event: str, timeout_seconds: float | None, name: str | None) -> Any:
        op: dict[str, Any] = {"op": "event", "event": event}
        if timeout_seconds is not None:
            op["timeout_seconds"] = max(0.0, timeout_seconds)
        step = await self._connection.here(self._wait("event", name or f"event:{event}", op))
        if step.timed_out:
            raise EventTimedOut(f"no {event!r} came in time")
        return step.value

    async def approve(
        self,
        title: str,
        expires: float | timedelta | None,
        url: str | None,
        tell: Callable[[str], Any] | None,
        name: str | None,
    ) -> Decision:
        op: dict[str, Any] = {"op": "approval", "title": title}
        if expires is not None:
            op["expires_seconds"] = expires.total_seconds() if isinstance(expires, timedelta) else expires
        if url is not None:
            op["url"] = url
        step = await self._connection.here(self._wait("approval", name or "approval", op, tell))
        said = step.value if isinstance(step.value, dict) else {}
        return Decision(str(said.get("decision") or ""), said.get("feedback"), said.get("response"))

    # What calls of children need beside it.

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """While a durable thing is under way in one task, no other one ends the attempt. Raises: Suspended."""
        if self.suspension is not None:
            raise self.suspension  # swallowed, by a bare `except` or a `finally` that returned
        if not self.supported:
            raise ServerError("this control plane keeps no steps: it is older than this package")
        task = _current_task()
        self._busy[task] += 1
        try:
            yield
        except LeaseLost:
            self._context.lost()
            raise
        finally:
            self._busy[task] -= 1
            if not self._busy[task]:
                del self._busy[task]

    def name(self, wanted: str) -> str:
        """The name of the next durable thing that is called so. Raises: ValueError."""
        if not wanted or _NTH in wanted or _INSIDE in wanted:
            raise ValueError(f"a step cannot be called {wanted!r}: {_NTH!r} and {_INSIDE!r} are taken")
        name = _inside.get() + wanted
        with self._lock:
            self._counted[name] += 1
            count = self._counted[name]
        name = name if count == 1 else f"{name}{_NTH}{count}"
        if len(name) > NAME_CHARACTERS:
            raise ValueError(f"the name of a step has at most {NAME_CHARACTERS} characters: {name[:60]!r}…")
        return name

    async def known(self, name: str, kind: str) -> Step | None:
        """What an earlier attempt left under this name. Raises: StepChanged."""
        memo = self._memo
        if memo is None:
            memo = await self._connection.here(self._load())
        step = memo.get(name)
        if step is not None and step.kind != kind:
            raise StepChanged(
                f"{name!r} was a {step.kind} when an earlier attempt ran and is a {kind} now:"
                " the code has changed under a running execution"
            )
        return step

    def may_suspend(self) -> bool:
        """Whether the attempt may end here: it waits in its own task, and nothing else of it is under way."""
        task = _current_task()
        return task is not None and task is self.task and not any(one is not task for one in self._busy)

    def suspend(self, waits: Sequence[str], until: Literal["any", "all"]) -> None:
        """End the attempt. Raises: Suspended, always."""
        self.suspension = Suspended(waits, until)
        raise self.suspension

    @contextlib.contextmanager
    def slot_free(self) -> Iterator[None]:
        """While it waits in this process its slot is another's."""
        self._waiting(1)
        try:
            yield
        finally:
            self._waiting(-1)

    async def failed_since(self, attempt: int) -> bool:
        """Whether an attempt from this one on has failed: then what failed with it is tried again."""
        if self._context.failures and self._last_failed is None:
            self._last_failed = await self._read_last_failed()
        return (self._last_failed or 0) >= attempt

    # How.

    async def _load(self) -> dict[str, Step]:
        """On the connection's loop; the first who asks reads for all."""
        if self._memo is None:
            if self._loading is None:
                self._loading = asyncio.ensure_future(self._read())
            self._memo = await asyncio.shield(self._loading)
        return self._memo

    async def _read(self) -> dict[str, Step]:
        try:
            found = await steps.read(
                self._connection.transport, self._context.execution_id, patience_seconds=PATIENCE_SECONDS
            )
        except BaseException:
            self._loading = None
            raise
        return {step.name: step for step in found}

    async def _read_last_failed(self) -> int:
        """The newest attempt that failed, as against one that crashed or waited; 0 when none did."""
        path = f"/executions/{quote(self._context.execution_id, safe='')}/attempts"
        last: int = 0
        cursor = "0"
        while True:
            asked = {"limit": str(ATTEMPTS_PAGE), "cursor": cursor}
            body = (await self._connection.transport.send_until_answered("GET", path, params=asked)).expect()
            last = max([last, *(int(one["attempt"]) for one in body["items"] if one["ended"] in {"failed", "retried"})])
            if not body.get("next_cursor"):
                return last
            cursor = str(body["next_cursor"])

    async def _write(self, op: Mapping[str, Any]) -> Step:
        return await self._connection.here(self._connection.steps.write(self._context.fence, op))

    async def _sleep(self, seconds: float, name: str | None) -> None:
        async with self.at_work():
            name = self.name(name or "sleep")
            known = await self.known(name, "sleep")
            if (known and known.done) or (known is None and seconds <= 0):
                return
            await self._until_done({"op": "sleep", "name": name, "seconds": max(0.0, seconds)})

    async def _wait(
        self, kind: str, name: str, op: Mapping[str, Any], tell: Callable[[str], Any] | None = None
    ) -> Step:
        async with self.at_work():
            name = self.name(name)
            step = await self.known(name, kind)
            if step is not None and step.done:
                return step
            op = {**op, "name": name}
            if kind == "approval":
                # Whoever decides by this id alone, as a webhook does, must not decide for other executions as well.
                op["request_id"] = f"{self._context.execution_id}:{name}"[:NAME_CHARACTERS]
            if tell is not None and not (step := await self._write(op)).done:
                with _within(name):
                    await self.step(tell, [step.approval_request_url], {}, "tell")
            return await self._until_done(op)

    async def _until_done(self, op: Mapping[str, Any]) -> Step:
        """Begin the wait, or find it, and return when it is over. Raises: Suspended."""
        backoff = Backoff(first_seconds=LOOK_FIRST_SECONDS, cap_seconds=LOOK_CAP_SECONDS)
        while (step := await self._ask(op)).status == steps.PENDING:
            left = math.inf if step.due_in_seconds is None else max(0.01, step.due_in_seconds)
            if left > IN_PROCESS_SECONDS and self.may_suspend():
                self.suspend([step.name], "any")
            if left <= IN_PROCESS_SECONDS:
                await asyncio.sleep(left)
                continue
            with self.slot_free():
                await self._pause(step.name, left if step.kind == "sleep" else min(left, backoff.next_seconds()))
        return step

    async def _ask(self, op: Mapping[str, Any]) -> Step:
        """How the wait stands. A control plane that is away ends no wait, though it may end the lease."""
        while True:
            try:
                return await self._write(op)
            except (ServerUnreachable, ServerUnavailable):
                await asyncio.sleep(LOOK_CAP_SECONDS)

    async def _pause(self, name: str, seconds: float) -> None:
        """Wait in this process. What kept the attempt from being given up may end meanwhile. Raises: Suspended."""
        clock = asyncio.get_running_loop().time
        ends = clock() + seconds
        while (left := ends - clock()) > 0:
            await asyncio.sleep(min(left, LOOK_CAP_SECONDS))
            if ends - clock() > IN_PROCESS_SECONDS and self.may_suspend():
                self.suspend([name], "any")


def call_name(target: str, arguments: Mapping[str, Any]) -> str:
    """What a call is called: by its target and arguments, so that calls that begin in another order are still found."""
    plain = strict_json.decode(strict_json.encode(arguments))
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return f"{target[:200]}:{digest[:16]}"


@contextlib.contextmanager
def _within(name: str) -> Iterator[None]:
    token = _inside.set(name + _INSIDE)
    try:
        yield
    finally:
        _inside.reset(token)


def _name_of(function: Callable[..., Any]) -> str:
    inner = getattr(function, "func", function)  # of a partial
    return str(getattr(inner, "__name__", None) or type(inner).__name__)


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
