"""The body of the webhook that tells a caller how an execution ended (AgentField's payload, field for field).

It is frozen when the execution ends: every attempt sends the same bytes, so a receiver can verify any of them. Payloads
are spliced in as the bytes they came as.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

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


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """All that is told of an end. `result_url`: where the rest is, when some of it is too large to be told."""

    event: str
    id: UUID
    run_id: str
    target: str
    type: str
    status: Status
    status_reason: str | None
    result: bytes | None
    error: bytes | None
    error_details: bytes | None
    failures: int
    context: bytes | None
    session_key: str | None
    actor_key: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime
    result_url: str | None = None


def notice_body(notice: Notice) -> bytes:
    """The JSON bytes to send."""
    end, held = notice.settlement, notice.settlement.held
    return end_body(
        End(
            event=TERMINAL_EVENT[end.status],
            id=held.id,
            run_id=held.run_id,
            target=held.target,
            type=notice.type,
            status=end.status,
            status_reason=end.status_reason,
            result=end.result,
            error=end.error,
            error_details=end.error_details,
            failures=held.failures,
            context=notice.context,
            session_key=notice.session_key,
            actor_key=notice.actor_key,
            created_at=notice.created_at,
            started_at=held.started_at,
            finished_at=notice.finished_at,
        )
    )


def end_body(end: End) -> bytes:
    """An end as it is told, whoever is told."""
    node_id, _, reasoner_id = end.target.partition(".")
    started_at = end.started_at or end.created_at
    fields: dict[str, bytes | None] = {
        "event": text(end.event),
        "execution_id": text(show_execution(end.id)),
        "run_id": text(end.run_id),
        "workflow_id": text(end.run_id),
        "agent_node_id": text(node_id),
        "reasoner_id": text(reasoner_id),
        "target": text(end.target),
        "type": text(end.type),
        "status": text(end.status.value),
        "status_reason": None if end.status_reason is None else text(end.status_reason),
        "error_category": None
        if end.status_reason is None or end.status is Status.SUCCEEDED
        else text(end.status_reason),
        "started_at": text(moment(started_at)),
        "completed_at": text(moment(end.finished_at)),
        "duration_ms": str(milliseconds(started_at, end.finished_at)).encode(),
        "retry_count": str(end.failures).encode(),
        "session_id": None if end.session_key is None else text(end.session_key),
        "actor_id": None if end.actor_key is None else text(end.actor_key),
        "context": end.context,
    }
    if end.result_url is not None:
        fields |= {"truncated": b"true", "result_url": text(end.result_url)}
    if end.status is Status.SUCCEEDED and (end.result is not None or end.result_url is None):
        fields["result"] = b"null" if end.result is None else end.result
    if end.status is not Status.SUCCEEDED:
        fields["error_message"] = text(error_text(end.error))
        fields["error_details"] = end.error_details
    fields["timestamp"] = text(moment(end.finished_at))
    return _object(fields)


def fact_body(
    event: str, *, id_: UUID, run_id: str, target: str, attempt: int, at: datetime, data: bytes | None
) -> bytes:
    """What is told of anything but an end. `data` is a JSON object."""
    node_id, _, reasoner_id = target.partition(".")
    return _object(
        {
            "event": text(event),
            "execution_id": text(show_execution(id_)),
            "run_id": text(run_id),
            "workflow_id": text(run_id),
            "agent_node_id": text(node_id),
            "reasoner_id": text(reasoner_id),
            "target": text(target),
            "attempt": str(attempt).encode(),
            "data": data or b"{}",
            "timestamp": text(moment(at)),
        }
    )


def _object(fields: Mapping[str, bytes | None]) -> bytes:
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
