"""Events: append-only facts about transitions. The trace, the streams and the list of attempts are read from them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class EventType(StrEnum):
    QUEUED = "execution.queued"
    STARTED = "execution.started"
    PROGRESS = "execution.progress"
    RETRYING = "execution.retrying"
    RELEASED = "lease.released"
    EXPIRED = "lease.expired"
    CANCELLING = "execution.cancelling"
    COMPLETED = "execution.completed"
    FAILED = "execution.failed"
    CANCELLED = "execution.cancelled"
    TIMED_OUT = "execution.timeout"
    WAITING = "execution.waiting"
    CONTINUED = "execution.continued"
    SUSPENDED = "execution.suspended"
    WOKEN = "execution.woken"
    PAUSED = "execution.paused"
    RESUMED = "execution.resumed"
    APPROVAL_REQUESTED = "approval.requested"
    APPROVAL_DECIDED = "approval.decided"
    DISCARDED = "result.discarded"
    SIGNAL = "signal.received"
    NOTE = "note.added"
    DELIVERED = "delivery.delivered"
    DELIVERY_DEAD = "delivery.dead"
    DELIVERY_RETRIED = "delivery.retried"
    ENDPOINT_DISABLED = "endpoint.disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One fact to append. `data` is JSON bytes."""

    execution_id: UUID
    namespace: int
    run_id: str
    target: str
    type: EventType
    attempt: int
    data: bytes | None = None
