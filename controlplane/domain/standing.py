"""Standing: what is known of where an execution stands, gathered by `reads/explain.py` and judged by `explain.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from controlplane.domain.approval import Approval
from controlplane.domain.execution import State, Status
from controlplane.domain.ids import ExecutionId, SessionId, show, show_execution
from controlplane.domain.lease import Transport
from controlplane.domain.limit import Held, Limit
from controlplane.domain.notice import moment
from controlplane.domain.pause import Pause
from controlplane.domain.step import StepKind, Until
from controlplane.domain.target import parse

Json = object

AHEAD_MAX = 1_000
"""Executions that are counted in front of one that waits."""
CHILDREN_MAX = 1_000
"""Unfinished children that are counted."""
SHOWN_MAX = 10
"""Children and executions that are named, not only counted."""
FINISHES_LEAST = 5
"""Finishes of late from which a rate is made; fewer say nothing."""
LATE_BEATS = 2.5
LATE_LEAST_SECONDS = 1.0
"""A process is late when nothing was heard of it for so many heartbeats, and for so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """Somebody asked for something: when, why, and who, where that is known."""

    at: datetime
    reason: str | None = None
    by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process of the node. `held`: how many of its slots are taken, `runs` by what, the longest first.

    `draining`: it takes nothing new, by its own goodbye or because a person asked for that (`drain`).
    """

    id: SessionId
    transport: Transport
    slots: int
    heartbeat_seconds: float
    renewed_at: datetime
    expires_at: datetime
    draining: bool = False
    drain: Word | None = None
    acknowledges: bool = False
    closed_at: datetime | None = None
    closed_reason: str | None = None
    held: int = 0
    runs: tuple[ExecutionId, ...] = ()

    @property
    def called(self) -> bool:
        return self.transport is not Transport.PULL

    def silent_seconds(self, now: datetime) -> float:
        return max(0.0, (now - self.renewed_at).total_seconds())

    def late(self, now: datetime) -> bool:
        """A function that exists only while it is called is never late: it sends no heartbeats."""
        patience = max(LATE_BEATS * self.heartbeat_seconds, LATE_LEAST_SECONDS)
        return self.transport is not Transport.SERVERLESS and self.silent_seconds(now) > patience


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The node of the target. `left_at`: when its last process was gone, as far as that is known."""

    id: str
    registered_at: datetime | None = None
    left_at: datetime | None = None
    processes: tuple[Process, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What is ready before it (counted to one above AHEAD_MAX), and what of its target has finished of late."""

    ahead: int
    finishes: int = 0
    seconds: float = 0.0

    @property
    def estimate_seconds(self) -> float | None:
        if self.ahead > AHEAD_MAX or self.finishes < FINISHES_LEAST or self.seconds <= 0:
            return None
        return (self.ahead + 1) * self.seconds / self.finishes


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What holds it back: the line it stands in, the limit if there is one, and what that holds already.

    `holders` are named, the longest first. `ahead`: how many come before it, as far as that can be said while `turns`
    fairness keys take turns.
    """

    line: str
    limit: Limit | None = None
    held: Held = field(default_factory=Held)
    holders: tuple[ExecutionId, ...] = ()
    ahead: int = 0
    turns: int = 1
    finishes: int = 0
    seconds: float = 0.0

    @property
    def waiting(self) -> Line:
        return Line(ahead=self.ahead, finishes=self.finishes, seconds=self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The failure after which it is tried again. `error` is JSON bytes; `retry_after_seconds` is what it asked for."""

    attempt: int
    at: datetime
    error: bytes | None = None
    error_class: str | None = None
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    id: ExecutionId
    target: str
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Awaited:
    """A step that an execution waits for without a lease, and that has not come yet."""

    name: str
    kind: StepKind
    due_at: datetime | None = None
    event: str | None = None
    child_id: ExecutionId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """What an execution waits for without a lease: `any` or `all` of so many steps, so many of which are done.

    `first` names some of the others: what comes by itself first, the soonest before all. `calls` counts children.
    """

    until: Until
    steps: int
    done: int = 0
    calls: int = 0
    calls_done: int = 0
    first: tuple[Awaited, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """All that is known of where an execution stands. `state` None: it has ended, and `ended_at` says when.

    `pause` is of the execution itself; `pauses` are those of its reasoner, its node or everything, the widest first.
    `heartbeat_seconds`: its nearest deadline is that of its next sign of life.
    """

    id: ExecutionId
    now: datetime
    target: str
    type: str
    status: Status
    state: State | None
    status_reason: str | None
    attempt: int
    failures: int
    retries_max: int
    created_at: datetime
    available_at: datetime | None = None
    leased_at: datetime | None = None
    deadline_at: datetime | None = None
    heartbeat_seconds: float | None = None
    waiting_at: datetime | None = None
    accepted: bool = False
    progress_at: datetime | None = None
    log_at: datetime | None = None
    holder: Process | None = None
    pause: Word | None = None
    pause_requested: bool = False
    cancel: Word | None = None
    cancel_grace_seconds: float = 0.0
    dispatch_seconds: float = 0.0
    failure: Failure | None = None
    approval: Approval | None = None
    waits: Waits | None = None
    children: tuple[Child, ...] = ()
    children_count: int = 0
    pauses: tuple[Pause, ...] = ()
    node: Node | None = None
    line: Line | None = None
    hold: Hold | None = None
    fairness_key: str | None = None
    ended_at: datetime | None = None
    error: bytes | None = None

    @property
    def node_id(self) -> str:
        return parse(self.target).node_id


def facts(it: Standing) -> dict[str, Json]:
    """What is said of every execution, as JSON values by name."""
    return {
        "target": it.target,
        "node_id": it.node_id,
        "state": None if it.state is None else it.state.value,
        "status_reason": it.status_reason,
        "attempt": it.attempt,
        "failures": it.failures,
        "retries_max": it.retries_max,
        "created_at": moment(it.created_at),
    }


def attempt_facts(it: Standing) -> dict[str, Json]:
    return {
        "started_at": maybe(it.leased_at),
        "waiting_at": maybe(it.waiting_at),
        "times_out_at": maybe(it.deadline_at),
        "attempt_heartbeat_seconds": it.heartbeat_seconds,
        "progress_at": maybe(it.progress_at),
        "log_age_seconds": None if it.log_at is None else _age(it.now, it.log_at),
    } | ({} if it.holder is None else process_facts(it, it.holder))


def process_facts(it: Standing, one: Process) -> dict[str, Json]:
    return {
        "session_id": show("ses", one.id),
        "transport": one.transport.value,
        "heartbeat_seconds": one.heartbeat_seconds,
        "heartbeat_age_seconds": _age(it.now, one.renewed_at),
        "lease_expires_at": moment(one.expires_at),
        "draining": one.draining,
    }


def slot_facts(processes: Sequence[Process]) -> dict[str, Json]:
    runs = [show_execution(id_) for one in processes for id_ in one.runs]
    return {
        "processes": len(processes),
        "slots": sum(one.slots for one in processes),
        "slots_taken": sum(one.held for one in processes),
        "runs": runs[:SHOWN_MAX],
    }


def line_facts(line: Line) -> dict[str, Json]:
    estimate = line.estimate_seconds
    return {
        "ahead": min(line.ahead, AHEAD_MAX),
        "ahead_is_more": line.ahead > AHEAD_MAX,
        "finishes": line.finishes,
        "finishes_seconds": round(line.seconds, 3),
        "estimate_seconds": None if estimate is None else round(estimate, 1),
    }


def hold_facts(it: Standing, hold: Hold) -> dict[str, Json]:
    limit = hold.limit
    at = None if limit is None else limit.next_at(it.now.timestamp())
    return {
        "blocked_by": hold.line,
        "fairness_key": it.fairness_key,
        "concurrency_max": None if limit is None else limit.most,
        "rate_max": None if limit is None else limit.rate_max,
        "rate_seconds": None if limit is None else limit.rate_seconds,
        "next_at": maybe(at),
        "held": hold.held.held,
        "holders": [show_execution(id_) for id_ in hold.holders],
        "fairness_keys": hold.turns,
    } | line_facts(hold.waiting)


def child_facts(it: Standing) -> dict[str, Json]:
    if not it.children_count:
        return {}
    return {
        "children": [
            {"execution_id": show_execution(one.id), "target": one.target, "state": one.state.value}
            for one in it.children
        ],
        "children_unfinished": min(it.children_count, CHILDREN_MAX),
        "children_are_more": it.children_count > CHILDREN_MAX,
    }


def pause_facts(one: Pause) -> dict[str, Json]:
    return {
        "paused": one.what.scope.value,
        "paused_at": moment(one.paused_at),
        "paused_by": one.paused_by,
        "pause_reason": one.reason,
    }


def waits_facts(waits: Waits) -> dict[str, Json]:
    return {
        "waits_until": waits.until.value,
        "awaited": waits.steps,
        "awaited_done": waits.done,
        "awaited_steps": [
            {
                name: said
                for name, said in {
                    "name": one.name,
                    "kind": one.kind.value,
                    "event": one.event,
                    "due_at": maybe(one.due_at),
                    "execution_id": None if one.child_id is None else show_execution(one.child_id),
                }.items()
                if said is not None
            }
            for one in waits.first
        ],
    }


def word_facts(name: str, word: Word | None) -> dict[str, Json]:
    if word is None:
        return {}
    said: dict[str, Json] = {f"{name}_requested_at": moment(word.at), f"{name}_reason": word.reason}
    return said if word.by is None else said | {f"{name}_requested_by": word.by}


def _age(now: datetime, at: datetime) -> float:
    return round(max(0.0, (now - at).total_seconds()), 3)


def maybe(at: datetime | None) -> str | None:
    return None if at is None else moment(at)
