"""What others tell an execution that waits: that something has happened, and what people decided."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from controlplane_sdk import strict_json
from controlplane_sdk.transport import Transport


class Signal(BaseModel):
    """A signal that was taken. `delivered`: somebody waited for it; else it is kept for who will."""

    model_config = ConfigDict(frozen=True, extra="allow")

    signal_id: str
    execution_id: str
    event: str
    delivered: bool = False


class Approval(BaseModel):
    """A question that an execution put to people: `pending`, or what was decided."""

    model_config = ConfigDict(frozen=True, extra="allow")

    execution_id: str = ""
    approval_request_id: str
    status: str
    title: str | None = None
    request_url: str | None = None
    feedback: str | None = None
    response: Any = None
    requested_at: str | None = None
    responded_at: str | None = None
    expires_at: str | None = None


async def signal(
    transport: Transport,
    execution_id: str,
    event: str,
    payload: Any,
    *,
    idempotency_key: str | None,
    patience_seconds: float | None,
) -> Signal:
    """Once, however often it has to be sent. Raises: NotFound, AlreadyFinished, RequestRefused, ServerUnreachable."""
    reply = await transport.send_until_answered(
        "POST",
        f"/executions/{quote(execution_id, safe='')}/signals/{quote(event, safe='')}",
        strict_json.encode(payload),
        headers={"Idempotency-Key": idempotency_key or uuid.uuid4().hex},
        patience_seconds=patience_seconds,
    )
    return Signal.model_validate(reply.expect())


async def approval(transport: Transport, execution_id: str, *, patience_seconds: float | None) -> Approval:
    """What is open, else what was asked last. Raises: NotFound, ServerUnreachable."""
    path = f"/executions/{quote(execution_id, safe='')}/approval-status"
    reply = await transport.send_until_answered("GET", path, patience_seconds=patience_seconds)
    return Approval.model_validate(reply.expect())


async def decide(
    transport: Transport, execution_id: str, said: Mapping[str, Any], *, patience_seconds: float | None
) -> str:
    """What is decided now: the first decision stands. Raises: NotFound, RequestRefused, ServerUnreachable."""
    reply = await transport.send_until_answered(
        "POST",
        f"/executions/{quote(execution_id, safe='')}/approval-response",
        strict_json.encode({name: value for name, value in said.items() if value is not None}),
        patience_seconds=patience_seconds,
    )
    return str(reply.expect()["decision"])
