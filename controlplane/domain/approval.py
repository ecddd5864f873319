"""An approval: a question that an attempt put to people, and what they decided.

    ask ──► pending ──► approved, rejected, request_changes     somebody decided
               └──────► expired                                 nobody did in time, or nobody waits for it any more

It is decided once. Whatever the decision, the execution goes on: how it ends is for the attempt that asked to say.
The process that waits is told by a delivery of its own, a callback, which shares everything with webhooks but the URL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from urllib.parse import urlsplit

from controlplane.domain.call import fenced
from controlplane.domain.ids import ExecutionId
from controlplane.domain.lease import Fence
from controlplane.domain.notice import text
from controlplane.domain.row import Row

WAITING_FOR_APPROVAL = "waiting_for_approval"
"""Why an attempt waits that has asked (`queue.status_reason`)."""

_ANSWERED = "approval_"

CALLBACK_N = 0
"""The `webhook_n` of a callback; a caller's webhooks count from 1."""

CALLBACK_ATTEMPTS_MAX = 20
CALLBACK_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0)
"""What lies between two tries, the last again and again: a process waits, and most outages of one are restarts."""

_EVENT = "approval.decided"


class Decision(StrEnum):
    """Where an approval stands (the CHECK of `approvals.status` holds the same words)."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    REQUEST_CHANGES = "request_changes"
    EXPIRED = "expired"


_WORDS: Mapping[str, Decision] = {
    **{one.value: one for one in Decision if one is not Decision.PENDING},
    "approve": Decision.APPROVED,
    "reject": Decision.REJECTED,
    "deny": Decision.REJECTED,
    "denied": Decision.REJECTED,
    "declined": Decision.REJECTED,
    "changes_requested": Decision.REQUEST_CHANGES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A question and its answer. `response` is JSON bytes; `attempt` asked it, or asked it again, last.

    `durable`: asked by a step, it waits whatever becomes of the attempt.
    """

    execution_id: ExecutionId
    request_id: str
    attempt: int
    node_id: str
    status: Decision
    url: str | None
    callback_url: str | None
    feedback: str | None
    response: bytes | None
    requested_at: datetime
    expires_at: datetime | None
    decided_at: datetime | None
    title: str | None = None
    durable: bool = False

    @property
    def fence(self) -> Fence:
        return Fence(self.execution_id, self.attempt)

    @classmethod
    def from_row(cls, row: Row) -> Approval:
        return cls(
            execution_id=ExecutionId(row["execution_id"]),
            request_id=row["request_id"],
            attempt=row["attempt"],
            node_id=row["node_id"],
            status=Decision(row["status"]),
            url=row["url"],
            callback_url=row["callback_url"],
            feedback=row["feedback"],
            response=row["response"],
            requested_at=row["requested_at"],
            expires_at=row["expires_at"],
            decided_at=row["decided_at"],
            title=row["title"],
            durable=row["durable"],
        )


def decisions() -> list[str]:
    """Every word that means a decision."""
    return list(_WORDS)


def decision_of(word: str) -> Decision | None:
    """The decision that somebody else's word means; None for a word that is none."""
    return _WORDS.get(word.strip().lower())


def reason_after(decision: Decision) -> str:
    """Why an attempt runs that waited for this decision."""
    return _ANSWERED + decision.value


def may_have_asked(status_reason: str | None) -> bool:
    """Whether an execution that runs or waits for this reason has an approval to show, as cheaply as it can be told."""
    return status_reason is not None and status_reason.startswith((WAITING_FOR_APPROVAL, _ANSWERED))


def callback_event(request_id: str, attempt: int) -> str:
    """The name under which this attempt is told: once for each question and attempt."""
    return f"{_EVENT}:{request_id}:{attempt}"


def callback_attempt(event: str) -> int:
    """The attempt that a callback is for."""
    return int(event.rpartition(":")[2])


def callback_host(url: str) -> str:
    """The host and port of a URL that was checked before: what deliveries are shared out by.

    Marked as a node's: a receiver at the same address takes none of its places, and no breaker holds it back.
    """
    parts = urlsplit(url)
    return f"node:{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def callback_body(approval: Approval) -> bytes:
    """The JSON bytes that a waiting process is sent (AgentField's shape).

    Its execution is called by the id that the process knows: the one with the attempt that it was given.
    """
    fields = {
        "execution_id": fenced(approval.fence),
        "decision": approval.status.value,
        "new_status": "running",
        "feedback": approval.feedback or "",
        "approval_request_id": approval.request_id,
        "response": (approval.response or b"").decode(),
    }
    return b"{" + b",".join(text(name) + b":" + text(value) for name, value in fields.items()) + b"}"
