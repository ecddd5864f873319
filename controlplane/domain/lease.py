"""A lease: a session's right to one attempt. It lives as long as the session; the attempt number is the fence."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from controlplane.domain.execution import CRASHES_MAX, Conclusion, Held, Overdue, Replay, Status
from controlplane.domain.ids import ExecutionId, SessionId, show
from controlplane.domain.row import Row


class Transport(StrEnum):
    """How work reaches a process: it fetches it, it is called, or it exists only while it is called."""

    PULL = "pull"
    PUSH = "push"
    SERVERLESS = "serverless"


class Fence(NamedTuple):
    """Who speaks: this attempt of this execution."""

    execution_id: ExecutionId
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One live process of a node.

    One that is called has a `base_url`. `acknowledges`: it answers 202 at once and reports later, and whoever has not
    done so in time has not got the request; the others answer with the result itself, whenever they have it.
    `start_to_close_seconds`: how long an attempt may be active in it, by its SDK's own limit; None: for ever.
    """

    id: SessionId
    namespace: int
    node_id: str
    instance_id: str
    slots: int
    heartbeat_seconds: float
    lease_seconds: float
    transport: Transport = Transport.PULL
    base_url: str | None = None
    acknowledges: bool = False
    start_to_close_seconds: float | None = None

    @property
    def called(self) -> bool:
        return self.transport is not Transport.PULL

    @property
    def started(self) -> bytes:
        """JSON that the event of each lease says."""
        return b'{"session_id":"%b","node_id":"%b"}' % (show("ses", self.id).encode(), self.node_id.encode())

    @classmethod
    def from_row(cls, row: Row) -> Session:
        return cls(
            id=SessionId(row["id"]),
            namespace=row["namespace"],
            node_id=row["node_id"],
            instance_id=row["instance_id"],
            slots=row["slots"],
            heartbeat_seconds=row["heartbeat_seconds"],
            lease_seconds=row["lease_seconds"],
            transport=Transport(row["transport"]),
            base_url=row["base_url"],
            acknowledges=row["acknowledges"],
            start_to_close_seconds=row["start_to_close_seconds"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A session's wish for work on these targets."""

    session: Session
    targets: tuple[str, ...]
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Work handed to a session: what was asked, and the attempt that every answer must carry.

    `deadline_in_seconds`: after so long it ends as timed out, unless it waits in between. `heartbeat_seconds`: for so
    long it may be silent. `steps`: how many earlier attempts have left. `acknowledges`: its process does, as it
    had registered at the moment of the claim.
    """

    execution_id: ExecutionId
    attempt: int
    failures: int
    namespace: int
    target: str
    type: str
    run_id: str
    root_id: UUID
    parent_id: UUID | None
    session_key: str | None
    actor_key: str | None
    input: bytes
    context: bytes | None
    timeout_seconds: float | None
    created_at: datetime
    deadline_in_seconds: float | None = None
    heartbeat_seconds: float | None = None
    replay: Replay | None = None
    steps: int = 0
    acknowledges: bool = False


class Verdict(StrEnum):
    """What a node says of an attempt."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RELEASED = "released"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A node's last word on an attempt. `error`, `error_details` and `result` are JSON bytes.

    `http_status`: the status that the reasoner gave its failure (an exception that carries one). `overdue`: it is the
    clock that says so, in the name of a node of which nothing was heard. `waits`: the steps that a `waiting` one waits
    for, all of them or `waits_any`.
    """

    fence: Fence
    verdict: Verdict
    result: bytes | None = None
    error: bytes | None = None
    error_class: str | None = None
    error_details: bytes | None = None
    traceback: str | None = None
    retryable: bool = True
    retry_after_seconds: float | None = None
    http_status: int | None = None
    overdue: Overdue | None = None
    waits: tuple[str, ...] = ()
    waits_any: bool = False


class ReportCode(StrEnum):
    RECORDED = "recorded"
    ALREADY_RECORDED = "already_recorded"
    DISCARDED = "discarded"
    LEASE_LOST = "lease_lost"


class Ready(NamedTuple):
    """A target that has work again. `blocked`: a limit has to let it in first."""

    namespace: int
    target: str
    blocked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What became of a report. `status` is the execution's status now; None when it is unknown.

    `ready`: what it waited for has come already, and an attempt may go on with it at once. `child`: it was asked for by
    an execution, which may wait for this end. `end`: how it ended just now, where all of that is known.
    """

    code: ReportCode
    status: Status | None
    ready: Ready | None = None
    child: bool = False
    end: Conclusion | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """A heartbeat. `held` is the full list of attempts the process knows of, or None on the beats between."""

    session_id: SessionId
    held: tuple[Fence, ...] | None
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Extended:
    """The answer to a heartbeat."""

    session: Session
    draining: bool
    expires_in_seconds: float
    lost: tuple[Fence, ...] = ()


WITHDRAWING = "withdrawing"
"""The `status_reason` of an attempt that its process is told to stop because we withdraw it."""

SILENT = "silent"
"""Why the session of a process that is called was closed when nothing was heard of it: it may only be busy."""

NODE_SILENT = "node_silent"
"""The `status_reason` of work that was freed so. As long as nobody has taken it up, what its process says counts."""

CRASHED = frozenset({"expired", "replaced", "refused"})
"""Why a session was closed, when its process is thought to have died: its leases count as crashes."""


def crash_loops(held: Held, *, crashes_max: int = CRASHES_MAX) -> bool:
    """Whether one more lost lease makes this execution a crash loop: so many in a row without a checkpoint."""
    return held.crashes + 1 >= crashes_max


def lease_seconds(*, heartbeat_seconds: float, floor_seconds: float) -> float:
    """A lease outlives three missed heartbeats."""
    return max(floor_seconds, 3 * heartbeat_seconds)
