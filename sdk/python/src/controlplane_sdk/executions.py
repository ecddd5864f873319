"""Executions as a caller sees them: submit one or many, look at it, wait for its end, ask it once more."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from controlplane_sdk import strict_json
from controlplane_sdk.errors import ExecutionCancelled, ExecutionError, ExecutionFailed, ExecutionTimeout
from controlplane_sdk.transport import Transport, present

WAIT_SECONDS = 30.0
ANSWER_MARGIN_SECONDS = 15.0
PACE_SECONDS = 0.25
BATCH_MAX = 1_000
BATCH_BYTES_MAX = 8 * 1024 * 1024
BATCH_ANSWER_SECONDS = 60.0
LOOK_MAX = 200
FINISHED = frozenset({"succeeded", "failed", "cancelled", "timeout"})

_ENDINGS: dict[str, type[ExecutionError]] = {
    "failed": ExecutionFailed,
    "cancelled": ExecutionCancelled,
    "timeout": ExecutionTimeout,
}


class Execution(BaseModel):
    """An execution at one moment. Fields that a newer control plane adds are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    execution_id: str
    run_id: str = ""
    target: str = ""
    status: str
    status_reason: str | None = None
    attempt: int = 0
    created_at: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    duration_ms: int | None = None
    progress: dict[str, Any] | None = None
    result: Any = None
    error: Any = None
    error_class: str | None = None
    error_details: Any = None
    node_id: str | None = None
    retry: dict[str, Any] | None = None
    retries_used: int = 0
    next_retry_at: str | None = None
    timeout_seconds: float | None = None
    schedule_to_start_seconds: float | None = None
    total_seconds: float | None = None
    heartbeat_seconds: float | None = None
    deadline_at: str | None = None
    on_parent_end: str | None = None

    @property
    def finished(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.status in FINISHED

    def outcome(self) -> Any:
        """The result. Raises: ExecutionFailed, ExecutionCancelled, ExecutionTimeout."""
        if self.status == "succeeded":
            return self.result
        kind = _ENDINGS.get(self.status, ExecutionError)
        why = self.error or self.status_reason or self.status
        raise kind(
            f"{self.target} [{self.execution_id}] {self.status}: {why}",
            execution_id=self.execution_id,
            status=self.status,
            error_class=self.error_class,
            attempts=self.attempt,
            details=self.error_details,
        )


class Explanation(BaseModel):
    """Why an execution stands where it stands. `code` is a stable word, `fix` the next step, `facts` what is known."""

    model_config = ConfigDict(frozen=True, extra="allow")

    execution_id: str
    status: str
    code: str
    sentence: str
    since: str | None = None
    fix: str | None = None
    facts: dict[str, Any] = {}


class Retention(BaseModel):
    """How long what is over is kept, in days from its end; None keeps it. `default_not_empty` names odd tables."""

    model_config = ConfigDict(frozen=True, extra="allow")

    keep_days: dict[str, float | None]
    default_not_empty: list[str] = []


class AttemptRecord(BaseModel):
    """One try at an execution, and how it ended."""

    model_config = ConfigDict(frozen=True, extra="allow")

    attempt: int
    ended: str
    started_at: str
    ended_at: str | None = None
    duration_ms: int | None = None
    node_id: str | None = None
    session_id: str | None = None
    reason: str | None = None
    retry_in_seconds: float | None = None
    retry_after_seconds: float | None = None
    error: Any = None
    error_class: str | None = None
    traceback: str | None = None
    progress: dict[str, Any] | None = None


async def submit(
    transport: Transport,
    target: str,
    body: Mapping[str, Any],
    *,
    headers: Mapping[str, str | None],
    patience_seconds: float | None,
) -> dict[str, Any]:
    """Start an execution, once however often it has to be sent: the idempotency key sees to it.

    Raises: NotJson, NotFound, RequestRefused, LeaseLost, ServerUnreachable.
    """
    path = f"/execute/async/{quote(target, safe='')}"
    return await _begin(transport, path, body, headers=headers, patience_seconds=patience_seconds)


async def submit_many(
    transport: Transport,
    items: Iterable[Mapping[str, Any]],
    *,
    same_run: bool,
    headers: Mapping[str, str | None],
    patience_seconds: float | None,
) -> list[dict[str, Any]]:
    """Start many, and say of each, in order, how it began or why it was refused; however often it has to be sent.

    Raises: NotJson, NotFound (the parent), RequestRefused, ServerUnreachable.
    """
    said = present(headers)
    key = said.pop("Idempotency-Key", uuid.uuid4().hex)
    answers: list[dict[str, Any]] = []
    for n, piece in enumerate(_pieces([strict_json.encode(present(item)) for item in items])):
        reply = await transport.send_until_answered(
            "POST",
            "/execute/batch",
            b'{"same_run":%b,"items":[%b]}' % (b"true" if same_run else b"false", b",".join(piece)),
            headers=said | {"Idempotency-Key": f"{key}-{n}"},
            answer_seconds=BATCH_ANSWER_SECONDS,
            patience_seconds=patience_seconds,
        )
        body = reply.expect()
        answers += body["items"]
        if same_run:
            said["X-Run-ID"] = body["run_id"]  # the next thousand joins them
    return answers


def _pieces(items: Sequence[bytes]) -> Iterator[list[bytes]]:
    """The items in as few requests as their number and their size allow."""
    piece: list[bytes] = []
    size = 0
    for item in items:
        if piece and (len(piece) == BATCH_MAX or size + len(item) > BATCH_BYTES_MAX):
            yield piece
            piece, size = [], 0
        piece.append(item)
        size += len(item) + 1
    if piece:
        yield piece


async def retry(
    transport: Transport,
    execution_id: str,
    body: Mapping[str, Any],
    *,
    headers: Mapping[str, str | None],
    patience_seconds: float | None,
) -> dict[str, Any]:
    """Ask once more what has failed, in the same run, once however often it has to be sent.

    Raises: NotFound, RequestRefused, ServerUnreachable.
    """
    path = f"/executions/{quote(execution_id, safe='')}/retry"
    return await _begin(transport, path, body, headers=headers, patience_seconds=patience_seconds)


async def restart(
    transport: Transport,
    execution_id: str,
    body: Mapping[str, Any],
    *,
    headers: Mapping[str, str | None],
    patience_seconds: float | None,
) -> dict[str, Any]:
    """Begin an execution again, in a new run, once however often it has to be sent.

    Raises: NotJson, NotFound, RequestRefused, ServerUnreachable.
    """
    path = f"/executions/{quote(execution_id, safe='')}/restart"
    return await _begin(transport, path, body, headers=headers, patience_seconds=patience_seconds)


async def look(
    transport: Transport, execution_id: str, *, wait_seconds: float = 0.0, patience_seconds: float | None = None
) -> Execution:
    """The execution now, or as soon as it has ended within `wait_seconds`."""
    reply = await transport.send_until_answered(
        "GET",
        f"/executions/{quote(execution_id, safe='')}",
        params={"wait_seconds": f"{wait_seconds:g}"} if wait_seconds else None,
        answer_seconds=wait_seconds + ANSWER_MARGIN_SECONDS,
        patience_seconds=patience_seconds,
    )
    return Execution.model_validate(reply.expect())


async def look_each(transport: Transport, execution_ids: Sequence[str]) -> list[Execution]:
    """Many at once, as they are now; what there is none of has the status `not_found`."""
    found: list[Execution] = []
    for first in range(0, len(execution_ids), LOOK_MAX):
        body = strict_json.encode({"execution_ids": execution_ids[first : first + LOOK_MAX]})
        reply = await transport.send_until_answered(
            "POST", "/executions/batch-status", body, answer_seconds=BATCH_ANSWER_SECONDS
        )
        found += [Execution.model_validate(one) for one in reply.expect().values()]
    return found


async def wait(transport: Transport, execution_id: str) -> Execution:
    """The execution when it has ended, however long that takes and however often the control plane is away."""
    while True:
        began = time.monotonic()
        execution = await look(transport, execution_id, wait_seconds=WAIT_SECONDS)
        if execution.finished:
            return execution
        await pace(began)


async def pace(began: float, seconds: float = PACE_SECONDS) -> None:
    """Do not ask again at once: at least so many seconds lie between two questions."""
    if (left := began + seconds - time.monotonic()) > 0:
        await asyncio.sleep(left)


async def _begin(
    transport: Transport,
    path: str,
    body: Mapping[str, Any],
    *,
    headers: Mapping[str, str | None],
    patience_seconds: float | None,
) -> dict[str, Any]:
    said, body = present(headers), present(body)
    if "step" not in body:  # which happens once, by its name
        said.setdefault("Idempotency-Key", uuid.uuid4().hex)
    reply = await transport.send_until_answered(
        "POST",
        path,
        strict_json.encode(body),
        headers=said,
        patience_seconds=patience_seconds,
    )
    return dict(reply.expect())
