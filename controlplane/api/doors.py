"""What every route needs, built once in `app.py` and passed in."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar
from uuid import UUID

from starlette.requests import Request
from starlette.websockets import WebSocket

from controlplane.api.front import DOORS
from controlplane.domain import topic
from controlplane.domain.begun import Begun
from controlplane.domain.delivery import Attempt
from controlplane.domain.execution import Accepted, Conclusion, Submission
from controlplane.domain.ids import ExecutionId, IdMaker
from controlplane.domain.key import ANYBODY, Caller
from controlplane.domain.lease import Beat, Claim, Extended, Lease, Ready, Recorded, Report
from controlplane.domain.memory import Write, Written
from controlplane.domain.placement import Placement
from controlplane.domain.retention import Keep
from controlplane.domain.step import Step, StepWrite
from controlplane.errors import ControlPlaneError
from controlplane.observe.metrics import Meter
from controlplane.postgres.lane import Lane
from controlplane.postgres.listen import Hints
from controlplane.postgres.pool import Connection, Pool, persist
from controlplane.reads.changes import ChangeView
from controlplane.reads.events import EventView
from controlplane.reads.executions import ExecutionView
from controlplane.security.egress import EgressPolicy
from controlplane.security.secrets import KeyRing
from controlplane.stages.log import Entry

if TYPE_CHECKING:
    from controlplane.api.agentfield.processes import Processes
    from controlplane.api.caps import Caps
    from controlplane.api.catalogue import Catalogue
    from controlplane.api.entrance import Entrance
    from controlplane.api.facades.intake import Facades
    from controlplane.api.lately import LatelyKept
    from controlplane.api.leases import Sessions
    from controlplane.api.lookout import Lookout
    from controlplane.api.matching import Matching
    from controlplane.api.streams import Streams
    from controlplane.api.upkeep import Upkeep
    from controlplane.api.waiting import Waiting
    from controlplane.api.whose import Whose

P = ParamSpec("P")
Item = TypeVar("Item")
Result = TypeVar("Result")

READ_RETRY_SECONDS = 5.0
TESTS_MAX = 8
"""Receivers that are tried at once; more wait their turn."""
EVENTS_TOPIC = "events"
CHANGES_TOPIC = "changes"
ENDED_TOPIC = "ended"
NEWS_TOPIC = "news"
"""What a parked execution waits for may have come."""
DELIVERIES_TOPIC = "deliveries"
CANCEL_TOPIC = "cancel"
SCHEDULES_TOPIC = "schedules"
BULKS_TOPIC = "bulks"
LIMITS_TOPIC = "limits"


@dataclass(slots=True)
class Admission:
    """When whoever lets work in has to look. While nobody waits in a line, what ends or begins is no news."""

    hints: Hints
    waits: bool = True

    def blocked(self) -> None:
        """Somebody stands in a line now, or a limit has changed."""
        self.waits = True
        self.hints.tell(LIMITS_TOPIC)

    def freed(self) -> None:
        """There may be room. One replica is enough to find it."""
        if self.waits:
            self.hints.wake(LIMITS_TOPIC)


KEYS_TOPIC = "keys"
CALLER = "controlplane.caller"
"""Where in a request's scope the gate leaves who asks."""


@dataclass(slots=True, kw_only=True)
class Lanes:
    """The group commits in front of the hot stages, and of what is read most: how an execution stands."""

    submit: Lane[Submission, Accepted]
    replay: Lane[Submission, Accepted]
    claim: Lane[Claim, list[Lease]]
    renew: Lane[Beat, Extended]
    complete: Lane[Report, Recorded]
    memory: Lane[Write, list[Written]]
    steps: Lane[StepWrite, list[Step]]
    log: Lane[Entry, None]
    read: Lane[tuple[int, ExecutionId], ExecutionView]

    def all(self) -> tuple[Lane[Any, Any], ...]:
        return (
            self.submit,
            self.replay,
            self.claim,
            self.renew,
            self.complete,
            self.memory,
            self.steps,
            self.log,
            self.read,
        )

    async def close(self) -> None:
        for lane in self.all():
            await lane.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The sizes and times that routes keep to."""

    body_bytes_max: int
    payload_bytes_max: int
    sync_wait_seconds: float
    cancel_grace_seconds: float
    lease_floor_seconds: float
    webhook_attempts_max: int
    endpoints_max: int
    push_slots: int
    push_slots_of: Mapping[str, int]
    push_lease_seconds: float
    push_dispatch_seconds: float
    push_start_to_close_seconds: float


class Send(Protocol):
    """One attempt at a receiver, as a delivery makes it; nothing but cancellation gets out."""

    def __call__(self, *, url: str, body: bytes, headers: Mapping[str, str]) -> Awaitable[Attempt]: ...


@dataclass(slots=True, kw_only=True)
class Doors:
    pool: Pool
    lanes: Lanes
    hints: Hints
    admission: Admission
    placement: Placement
    ids: IdMaker
    limits: Limits
    keep: Keep
    keyring: KeyRing
    public_url: str
    egress: EgressPolicy
    nodes_egress: EgressPolicy
    approval_secret: str | None
    discover: Callable[[str], Awaitable[bytes]]
    send: Send
    catalogue: Catalogue
    caps: Caps
    lately: LatelyKept
    waiting: Waiting
    begun: Begun
    lookout: Lookout
    matching: Matching
    upkeep: Upkeep
    streams: Streams[EventView]
    changes: Streams[ChangeView]
    sessions: Sessions
    processes: Processes
    facades: Facades
    entrance: Entrance
    whose: Whose
    meter: Meter
    snapshot_seconds: float
    """For how long somebody may hold a snapshot until that is said."""
    verifies: bool
    """Whether this replica asks the database if every promise is kept, and so knows what the answer was."""
    ui_read_only: bool = False
    stopping: bool = False
    secrets_broken: int = 0
    turns: Iterator[int] = field(default_factory=itertools.count)
    began: float = field(default_factory=time.monotonic)
    tests: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(TESTS_MAX))
    """Held while a receiver is tried for somebody who waits."""

    @property
    def up_seconds(self) -> float:
        return time.monotonic() - self.began

    def inspected(self, broken: int) -> None:
        """So many of the newest stored secrets cannot be opened with this server's ring."""
        self.secrets_broken = broken

    async def run(
        self, call: Callable[Concatenate[Connection, P], Awaitable[Result]], *args: P.args, **kwargs: P.kwargs
    ) -> Result:
        """One read, or one write that may be repeated, through a short outage of the database."""
        return await persist(self.pool, lambda conn: call(conn, *args, **kwargs), seconds=READ_RETRY_SECONDS)

    async def registered(self) -> None:
        """A node has said what it serves: known here from now on, and by the other replicas within a second."""
        await self.catalogue.refresh()
        self.hints.tell(topic.REGISTERED)

    def ended(self, ids: Iterable[UUID], *, children: bool = True) -> None:
        """Tell everybody who waits for one of these executions, for its webhook or for its events.

        `children`: others may have asked for them, and wait.
        """
        self.concluded(dict.fromkeys(ids), children=children)

    def concluded(self, ended: Mapping[UUID, Conclusion | None], *, children: bool) -> None:
        """The same, with how they ended, where that is known."""
        if ended:
            self.begun.forget(ended)
            self.waiting.tell(ended)
            if children:
                self.hints.tell(NEWS_TOPIC)
            self.hints.tell(ENDED_TOPIC)
            self.hints.tell(DELIVERIES_TOPIC)
            self.hints.tell(EVENTS_TOPIC)
            self.admission.freed()

    def due(self) -> None:
        """Somebody has to be told something, and it can be seen."""
        self.hints.tell(DELIVERIES_TOPIC)
        self.hints.tell(EVENTS_TOPIC)

    def cancelling(self) -> None:
        """Some attempt shall stop."""
        self.hints.tell(CANCEL_TOPIC)
        self.hints.tell(EVENTS_TOPIC)

    def ready(self, namespace: int, target: str, rows: int = 1) -> None:
        """Wake as many waiting nodes as there is work."""
        tell_ready(self.hints, namespace, target, rows)

    def woken(self, targets: Iterable[Ready]) -> None:
        """What these targets had parked goes on, or has to be let in first."""
        for one in targets:
            if one.blocked:
                self.admission.blocked()
            else:
                self.ready(one.namespace, one.target)


def tell_ready(hints: Hints, namespace: int, target: str, rows: int) -> None:
    """There is work for as many of the nodes that wait, and something to be seen."""
    hints.tell(topic.queue(namespace, target), most=rows)
    hints.tell(EVENTS_TOPIC)


def doors_of(request: Request | WebSocket) -> Doors:
    doors: Doors = request.scope[DOORS]
    return doors


def asker_of(request: Request | WebSocket) -> Caller:
    """Who asks, and what it may."""
    caller: Caller = request.scope.get(CALLER, ANYBODY)
    return caller


def namespace_of(request: Request | WebSocket) -> int:
    """The namespace that the caller's key belongs to."""
    return asker_of(request).namespace


def caller_of(request: Request | WebSocket) -> str | None:
    """The name of the API key that the caller came with; None where it has none, or no key is asked for."""
    return asker_of(request).name


async def put_each(
    lane: Lane[Item, Result], items: Sequence[Item | ControlPlaneError]
) -> list[Result | ControlPlaneError]:
    """The lane's answer to each item, in order; what was refused before it came to the lane stays refused."""
    answers = iter(await lane.put_each([item for item in items if not isinstance(item, ControlPlaneError)]))
    return [item if isinstance(item, ControlPlaneError) else next(answers) for item in items]
