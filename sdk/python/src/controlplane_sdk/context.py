"""Which execution the running code belongs to. Every execution has its own; they never see each other's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from controlplane_sdk.thread import called

if TYPE_CHECKING:
    from controlplane_sdk.checkpoints import Keys
    from controlplane_sdk.durable import Decision, Durable
    from controlplane_sdk.trace import Trace


class Fence(NamedTuple):
    """The right to write for one attempt of one execution; a stale one changes nothing."""

    execution_id: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.execution_id}~{self.attempt}"


class Sent:
    """Already on its way: may be awaited, need not be."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


SENT = Sent()


@dataclass(slots=True, kw_only=True, eq=False)
class Context:
    """The execution that is running. Annotate a parameter with it and it is passed in."""

    execution_id: str
    attempt: int
    node_id: str
    target: str
    reasoner: str
    run_id: str
    root_execution_id: str
    parent_execution_id: str | None = None
    session_key: str | None = None
    actor_key: str | None = None
    context: Any = None
    input: Any = None
    failures: int = 0
    created_at: str | None = None
    timeout_seconds: float | None = None
    deadline_in_seconds: float | None = None
    heartbeat_seconds: float | None = None
    cancelled: bool = False
    """True when the work should stop: cancelled, lost, or the node is closing. Synchronous reasoners look at it."""

    # How the package reaches the process that runs this attempt; None in a context that a test made by hand.
    trace: Trace | None = field(default=None, repr=False)
    keys: Keys | None = field(default=None, repr=False)
    lose: Callable[[], None] | None = field(default=None, repr=False)
    durable: Durable | None = field(default=None, repr=False)

    @property
    def fence(self) -> Fence:
        return Fence(self.execution_id, self.attempt)

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> Sent:
        """Tell how far the work is: `progress(3, 10)`, or a fraction as in `progress(0.3)`. The newest one counts.

        Returns at once; it may be awaited, it need not be.
        """
        if self.trace is not None:
            self.trace.progress(self.fence, done, total, message)
        return SENT

    def note(self, message: str, tags: list[str] | None = None) -> Sent:
        """Leave a note on the execution for people to read. Returns at once; it may be awaited, it need not be."""
        if self.trace is not None:
            self.trace.note(self.fence, self.node_id, message, tags or [])
        return SENT

    async def step(self, function: Callable[..., Any], /, *args: Any, name: str | None = None, **keywords: Any) -> Any:
        """Call the function once in the life of this execution: what it returned is committed, as JSON, and is what
        every later attempt gets instead of calling it. What it raises is not kept.

        One that is not async is called in a thread. A step that a crash cut off is done again, so the function should
        bear that. `name` is the function's unless it is given. Raises: ResultInvalid, LeaseLost.
        """
        if self.durable is None:
            return await called(function, args, keywords)
        return await self.durable.step(function, args, keywords, name)

    async def sleep(self, seconds: float, *, name: str | None = None) -> None:
        """Sleep for as long as that takes, through restarts, without a slot: the attempt ends here, and the next one
        runs the function from its beginning. Up to a second, in a task of its own, or in a synchronous reasoner it
        stays in the process."""
        if self.durable is None:
            await asyncio.sleep(max(0.0, seconds))
        else:
            await self.durable.sleep(seconds, name)

    async def sleep_until(self, moment: datetime, *, name: str | None = None) -> None:
        """Sleep until this moment, which says its time zone."""
        if moment.tzinfo is None:
            raise ValueError("sleep_until needs a time zone: datetime.now(UTC) + timedelta(hours=1)")
        await self.sleep((moment - datetime.now(UTC)).total_seconds(), name=name)

    async def wait_for_event(self, event: str, *, timeout: float | None = None, name: str | None = None) -> Any:
        """The payload of the next signal of this name to this execution, also of one that came before; waits as
        `sleep` does. Raises: EventTimedOut after `timeout` seconds."""
        return await self._served().wait_for_event(event, timeout, name)

    async def approve(
        self,
        title: str,
        *,
        expires: float | timedelta | None = None,
        url: str | None = None,
        tell: Callable[[str], Any] | None = None,
        name: str | None = None,
    ) -> Decision:
        """Ask people, and wait as `sleep` does. Nobody within `expires` (seconds): the decision is `expired`.

        `url`: a page where people decide; without one the control plane makes a link to a page of its own, which works
        once and needs no key. `tell`: a function that brings the address to them; it is a step.
        """
        return await self._served().approve(title, expires, url, tell, name)

    def lost(self) -> None:
        """Stop this attempt and report nothing: another one has taken over."""
        if self.lose is not None:
            self.lose()

    def _served(self) -> Durable:
        if self.durable is None:
            raise RuntimeError("this context was made by hand: nobody can signal or decide")
        return self.durable


current: ContextVar[Context | None] = ContextVar("controlplane_execution", default=None)


def read_lease(lease: dict[str, Any], *, node_id: str) -> Context:
    """The context of a leased attempt. Raises: KeyError when the lease is not one."""
    target = str(lease["target"])
    return Context(
        execution_id=str(lease["execution_id"]),
        attempt=int(lease["attempt"]),
        node_id=node_id,
        target=target,
        reasoner=str(lease.get("reasoner") or target.partition(".")[2]),
        run_id=str(lease["run_id"]),
        root_execution_id=str(lease.get("root_execution_id") or lease["execution_id"]),
        parent_execution_id=lease.get("parent_execution_id"),
        session_key=lease.get("session_key"),
        actor_key=lease.get("actor_key"),
        context=lease.get("context"),
        input=lease.get("input"),
        failures=int(lease.get("failures") or 0),
        created_at=lease.get("created_at"),
        timeout_seconds=lease.get("timeout_seconds"),
        heartbeat_seconds=lease.get("heartbeat_seconds"),
        deadline_in_seconds=lease.get("deadline_in_seconds", lease.get("timeout_seconds")),
    )
