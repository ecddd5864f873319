"""A step: a memo of one durable thing that an execution did or waits for, under a name of its own.

    (nothing) ──► done                     a step: its function has run
    (nothing) ──► pending ──► done         a sleep, an event, an approval or a call: what was waited for has come
                     └──────► failed       a call that did not succeed; a wait that its execution did not live to see

The first write under a name counts. An attempt that begins again asks for the same names and is told what is known, so
that nothing which was done is done again. An attempt that has nothing to do but wait gives its lease back.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from controlplane.domain.approval import WAITING_FOR_APPROVAL, Approval
from controlplane.domain.ids import ExecutionId
from controlplane.domain.lease import Fence
from controlplane.domain.notice import text
from controlplane.domain.row import Row

NAME_MAX = 255
EVENT_MAX = 200
SLEEP_MAX_SECONDS = 10 * 365 * 86_400.0
WAITS_MAX = 10_000
"""Steps that one attempt may wait for at once."""
SIGNALS_MAX = 1_000
"""Signals that are kept for an execution that has not waited for them yet."""

SLEEPING = "sleeping"
WAITING_FOR_EVENT = "waiting_for_event"
AWAITING_CHILD = "awaiting_child"
WOKEN = "woken"
"""The `status_reason` of an execution that has waited without a lease, until an attempt goes on with it."""


class StepKind(StrEnum):
    """What a step is a memo of (the CHECK of `steps.kind` holds the same words)."""

    STEP = "step"
    SLEEP = "sleep"
    EVENT = "event"
    APPROVAL = "approval"
    CALL = "call"


class StepStatus(StrEnum):
    """Where a step stands (the CHECK of `steps.status` holds the same words)."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


class Until(StrEnum):
    """How many of the awaited steps have to be done before the execution goes on."""

    ANY = "any"
    ALL = "all"


# Of several the first: what a person can do something about.
_REASONS = (
    (StepKind.APPROVAL, WAITING_FOR_APPROVAL),
    (StepKind.EVENT, WAITING_FOR_EVENT),
    (StepKind.CALL, AWAITING_CHILD),
    (StepKind.SLEEP, SLEEPING),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a function of the execution has answered; JSON bytes."""

    name: str
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep:
    """Begin a sleep, or find the one that was begun."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitEvent:
    """Take the oldest signal of this event, or wait for the next."""

    name: str
    event: str
    timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskApproval:
    """Ask people, or find what was asked."""

    name: str
    request_id: str
    title: str | None
    url: str | None
    expires_seconds: float


StepOp = Done | Sleep | AwaitEvent | AskApproval

KIND_OF: dict[type[StepOp], StepKind] = {
    Done: StepKind.STEP,
    Sleep: StepKind.SLEEP,
    AwaitEvent: StepKind.EVENT,
    AskApproval: StepKind.APPROVAL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWrite:
    """Operations of one attempt that stand together or not at all."""

    fence: Fence
    ops: tuple[StepOp, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step as it stands. `value` is JSON bytes; of a call it is read from its execution, with the `error`.

    `due_in_seconds`: 0 when its time has come and nobody has said so yet.
    """

    execution_id: ExecutionId
    name: str
    kind: StepKind
    status: StepStatus
    value: bytes | None = None
    attempt: int = 0
    due_at: datetime | None = None
    due_in_seconds: float | None = None
    timed_out: bool = False
    event: str | None = None
    request_id: str | None = None
    child_id: UUID | None = None
    error: bytes | None = None
    error_class: str | None = None
    child_status: str | None = None
    created_at: datetime | None = None
    done_at: datetime | None = None

    @classmethod
    def from_row(cls, row: Row) -> Step:
        return cls(
            execution_id=ExecutionId(row["execution_id"]),
            name=row["name"],
            kind=StepKind(row["kind"]),
            status=StepStatus(row["status"]),
            value=row["value"],
            attempt=row["attempt"],
            due_at=row["due_at"],
            due_in_seconds=row["due_in_seconds"],
            timed_out=row["timed_out"],
            event=row["event"],
            request_id=row["request_id"],
            child_id=row["child_id"],
            created_at=row["created_at"],
            done_at=row["done_at"],
        )


def reason_of(kinds: set[StepKind]) -> str:
    """Why an execution waits that waits for steps of these kinds (`queue.status_reason`)."""
    return next(reason for kind, reason in _REASONS if kind in kinds)


def decision_value(approval: Approval) -> bytes:
    """What a step that asked people is answered with, as JSON bytes."""
    said = b"null" if approval.feedback is None else text(approval.feedback)
    decision = text(approval.status.value)
    return b'{"decision":%b,"feedback":%b,"response":%b}' % (decision, said, approval.response or b"null")
