"""The body of the webhook that tells a caller how an execution ended (AgentField's payload, field for field).

It is frozen when the execution ends: every attempt sends the same bytes, so a receiver can verify any of them. Payloads
are spliced in as the bytes they came as.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from controlplane.domain.execution import Settlement, Status
from controlplane.domain.ids import show_execution

# AgentField knows two ends; the exact one stands in `status`.
TERMINAL_EVENT = {
    Status.SUCCEEDED: "execution.completed",
    Status.FAILED: "execution.failed",
    Status.CANCELLED: "execution.failed",
    Status.TIMEOUT: "execution.failed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """An end, with what was asked at the beginning."""

    settlement: Settlement
    type: str
    context: bytes | None
    session_key: str | None
    actor_key: str | None
    created_at: datetime
    finished_at: datetime


def notice_body(notice: Notice) -> bytes:
    """The JSON bytes to send."""
    end, held = notice.settlement, notice.settlement.held
    node_id, _, reasoner_id = held.target.partition(".")
    started_at = held.started_at or notice.created_at
    fields: dict[str, bytes | None] = {
        "event": text(TERMINAL_EVENT[end.status]),
        "execution_id": text(show_execution(held.id)),
        "run_id": text(held.run_id),
        "workflow_id": text(held.run_id),
        "agent_node_id": text(node_id),
        "reasoner_id": text(reasoner_id),
        "target": text(held.target),
        "type": text(notice.type),
        "status": text(end.status.value),
        "status_reason": None if end.status_reason is None else text(end.status_reason),
        "error_category": None
        if end.status_reason is None or end.status is Status.SUCCEEDED
        else text(end.status_reason),
        "started_at": text(moment(started_at)),
        "completed_at": text(moment(notice.finished_at)),
        "duration_ms": str(milliseconds(started_at, notice.finished_at)).encode(),
        "retry_count": str(held.failures).encode(),
        "session_id": None if notice.session_key is None else text(notice.session_key),
        "actor_id": None if notice.actor_key is None else text(notice.actor_key),
        "context": notice.context,
    }
    if end.status is Status.SUCCEEDED:
        fields["result"] = b"null" if end.result is None else end.result
    else:
        fields["error_message"] = text(error_text(end.error))
        fields["error_details"] = end.error_details
    fields["timestamp"] = text(moment(notice.finished_at))
    return b"{" + b",".join(text(name) + b":" + raw for name, raw in fields.items() if raw is not None) + b"}"


def text(value: str) -> bytes:
    """A JSON string."""
    return json.dumps(value, ensure_ascii=True).encode()


def error_text(error: bytes | None) -> str:
    """The words of an error that may be any JSON."""
    if error is None:
        return ""
    # Only a string is parsed: what is nested too deep or too long a number for Python must not keep an end from ending.
    words = error.strip()
    if not words.startswith(b'"'):
        return words.decode()
    said: str = json.loads(words)
    return said


def moment(at: datetime) -> str:
    """RFC 3339 in UTC."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def milliseconds(start: datetime, end: datetime) -> int:
    return max(0, round((end - start).total_seconds() * 1000))
