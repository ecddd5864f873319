"""An execution: one durable call of one reasoner with one input.

                    claim                      succeed / fail for good / cancel / time out
    ready ────────────────────────► leased ─────────────────────────────────────────────► (outcome)
      ▲  ▲                            │ │                                                     ▲
      │  └──── expire, release ───────┘ └── fail with a retry left ──► delayed ──┐            │
      └──────────────────────── promote when due ────────────────────────────────┘            │
    ready, delayed, paused, blocked, waiting without a session ── cancel ─────────────────────┘

    What is asked for while a session waits for it is accepted as leased (`api/matching.py`).
    What is asked for a later moment is accepted as delayed (`scheduled`). What a limit counts, or of whose fairness key
    enough are ready, becomes blocked wherever others become ready; admit lets it in: blocked ──► ready.

    leased ◄── wait, continue ──► waiting with its session        ready, delayed, blocked ◄── pause, resume ──► paused
    leased ── suspend ──► waiting without a session ── wake ──► ready      waiting without a session ◄── pause, resume

A finished execution never moves again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING
from uuid import UUID

from controlplane.domain.ids import DeliveryId, ExecutionId, SessionId
from controlplane.domain.retry import RetryPolicy
from controlplane.domain.value import value

if TYPE_CHECKING:
    from controlplane.domain.lease import Lease

DEFAULT_NAMESPACE = 1
CRASHES_MAX = 10
SCHEDULED = "scheduled"
"""The `status_reason` of what was accepted for a later moment, until that has come."""


class Status(StrEnum):
    """The words on the wire (compatible with AgentField's nine)."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"

    @property
    def final(self) -> bool:
        return self in FINAL


FINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.TIMEOUT})


class State(StrEnum):
    """Where an unfinished execution stands (the CHECK of `queue.state` holds the same words)."""

    READY = "ready"
    DELAYED = "delayed"
    LEASED = "leased"
    WAITING = "waiting"
    PAUSED = "paused"
    BLOCKED = "blocked"


STATUS_OF_STATE = {
    State.READY: Status.QUEUED,
    State.DELAYED: Status.QUEUED,
    State.BLOCKED: Status.QUEUED,
    State.LEASED: Status.RUNNING,
    State.WAITING: Status.WAITING,
    # `paused` shows as `waiting`: AgentField's SDK hangs on any other word.
    State.PAUSED: Status.WAITING,
}


class Wording(IntEnum):
    """In whose words a webhook tells of the end: ours, or those of a façade. Its numbers (`webhooks.n`) begin here."""

    EXECUTION = 0
    TASK = 1_000
    JOB = 2_000

    @classmethod
    def of(cls, n: int) -> Wording:
        """What the number of a webhook says; ours for one that this version does not know: an end never fails."""
        return {one.value: one for one in cls}.get(n // 1_000 * 1_000, cls.EXECUTION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Whom to tell about the end, and how. Secret and headers are sealed before they travel any further.

    `events`: what else it is told of.
    """

    url: str
    host: str
    secret_sealed: bytes | None
    headers_sealed: bytes | None
    attempts_max: int
    wording: Wording = Wording.EXECUTION
    events: tuple[str, ...] = ()


class ReplayMode(StrEnum):
    """Which finished children of the source run a restarted one takes over instead of running them again."""

    SUCCEEDED_BEFORE = "succeeded-before"
    ALL_SUCCEEDED = "all-succeeded"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """An execution started anew from `source_run_id`. `before_id`: only what was accepted before that one counts."""

    source_run_id: str
    mode: ReplayMode
    before_id: UUID | None = None


class ParentEnd(StrEnum):
    """What becomes of a child whose parent has ended without a result (`on_parent_end`).

    A parent that only lost its lease, or fails and is tried again, has not ended: its next attempt may find the child.
    """

    CANCEL = "cancel"
    KEEP = "keep"


ON_PARENT_END = ParentEnd.CANCEL
"""When nothing is said: nobody is left who waits for what the child finds."""


REASON_OF = {
    Status.FAILED: "parent failed",
    Status.CANCELLED: "parent cancelled",
    Status.TIMEOUT: "parent timed out",
}
"""Why a child is cancelled whose parent has ended so."""


@value(frozen=True, slots=True, kw_only=True)
class Submission:
    """Everything that is asked of one execution; never changed afterwards.

    `origin`: JSON that the event of its beginning carries (why it was started anew). It may be leased `delay_seconds`
    after it was accepted, and not before `run_at`; from then on it has `schedule_to_start_seconds` to be leased for the
    first time and `total_seconds` to end, whatever it waits for. One attempt may be active for `timeout_seconds`
    and silent for `heartbeat_seconds`. `step`: under which name its parent keeps that it has asked for it, and finds
    it again.

    `line`: the limit by which it has to be let in first (`domain/limit.py`); None when no limit counts it.
    `concurrency_max`: what the limit of its `concurrency_key` (in `limit_bucket`) shall be from here on.
    """

    id: ExecutionId
    namespace: int
    run_id: str
    root_id: UUID
    target: str
    type: str
    input: bytes
    context: bytes | None = None
    parent_id: UUID | None = None
    parent_attempt: int | None = None
    source_execution_id: UUID | None = None
    replay: Replay | None = None
    origin: bytes | None = None
    session_key: str | None = None
    actor_key: str | None = None
    priority: int = 0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout_seconds: float | None = None
    schedule_to_start_seconds: float | None = None
    total_seconds: float | None = None
    heartbeat_seconds: float | None = None
    on_parent_end: ParentEnd = ON_PARENT_END
    delay_seconds: float = 0.0
    run_at: datetime | None = None
    webhooks: tuple[Webhook, ...] = ()
    step: str | None = None
    concurrency_key: str | None = None
    fairness_key: str | None = None
    line: str | None = None
    concurrency_max: int | None = None
    limit_bucket: int = 0
    idempotency_key: str | None = None
    idempotency_scope: str = ""
    request_hash: bytes = b""

    @property
    def at_once(self) -> bool:
        """Whether it may begin as soon as it is accepted, if its turn (of a fairness key) is not later."""
        return not self.delay_seconds and self.run_at is None and self.line is None

    @property
    def hooks(self) -> list[tuple[int, Webhook]]:
        """Its webhooks, each with the number under which it is kept."""
        return [(webhook.wording + n, webhook) for n, webhook in enumerate(self.webhooks, 1)]


@value(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The answer to a submission. `replayed`: an earlier request with this idempotency key, or for this step, made it.

    `source_id`: it has ended already, with the result of this execution of the run that was started anew.
    `scheduled_at`: it waits for this moment before it may be leased for the first time. `blocked_by`: in this line.
    `lease`: of the session that waited for just this and has it already.
    """

    id: ExecutionId
    run_id: str
    created_at: datetime
    replayed: bool = False
    source_id: ExecutionId | None = None
    scheduled_at: datetime | None = None
    blocked_by: str | None = None
    lease: Lease | None = None

    @property
    def ready(self) -> bool:
        """Whether there is new work now that a node may take."""
        later = self.scheduled_at is not None or self.blocked_by is not None
        return not self.replayed and self.source_id is None and self.lease is None and not later


class Overdue(StrEnum):
    """Why an execution has timed out (the `status_reason`).

    Nobody began it, an attempt took too long or was silent for too long, or all of it took too long.
    """

    SCHEDULE_TO_START = "schedule_to_start"
    START_TO_CLOSE = "start_to_close"
    HEARTBEAT = "heartbeat"
    TOTAL = "total"


@value(frozen=True, slots=True, kw_only=True)
class Held:
    """One row of the queue, locked by the stage that reads it."""

    id: ExecutionId
    namespace: int
    target: str
    run_id: str
    state: State
    attempt: int
    failures: int
    crashes: int
    retries_max: int
    webhooks: int
    session_id: SessionId | None
    leased_at: datetime | None
    started_at: datetime | None
    cancel_requested: bool
    cancel_reason: str | None
    progress: bytes | None
    status_reason: str | None = None
    total_passed: bool = False
    heartbeat_next: bool = False
    """Its deadline is that of its next sign of life, and not that of the attempt."""
    parent_id: UUID | None = None

    @property
    def overdue(self) -> Overdue:
        """Which of its times is over, when one is."""
        if self.total_passed:
            return Overdue.TOTAL
        if self.session_id is None:
            return Overdue.SCHEDULE_TO_START
        return Overdue.HEARTBEAT if self.heartbeat_next else Overdue.START_TO_CLOSE


@value(frozen=True, slots=True, kw_only=True)
class Settlement:
    """How an execution ends. Three causes bring it (the node, the caller, the clock); `stages/finish.py` writes it."""

    held: Held
    status: Status
    status_reason: str | None = None
    result: bytes | None = None
    error: bytes | None = None
    error_class: str | None = None
    error_details: bytes | None = None
    traceback: str | None = None
    http_status: int | None = None
    failures: int = 0


@value(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """How an execution has just ended, and what had been asked: all that a look at it would find.

    It had begun in the commit that accepted it. `approval`: whether it has ever asked people for approval.
    """

    submission: Submission
    settlement: Settlement
    at: datetime
    approval: bool


@value(frozen=True, slots=True, kw_only=True)
class Settled:
    """An execution that has just ended, and the deliveries that its end made due."""

    id: ExecutionId
    status: Status
    deliveries: tuple[DeliveryId, ...] = ()
