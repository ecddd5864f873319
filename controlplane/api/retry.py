"""Retry: ask once more what has failed, in the run it failed in.

Finished executions never reopen: a retry is a new execution beside the old one. It stays in the old run, as a restart
does not, because what it needs to go on from where the old one stopped is the memory of that run.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.audited import submit_audited
from controlplane.api.body import clean, decode, read_body
from controlplane.api.doors import Doors, asker_of, doors_of, namespace_of
from controlplane.api.executions import (
    EMPTY,
    REASON_MAX,
    WebhookForm,
    headers_of,
    no_node,
    shape_of,
    webhook_of,
)
from controlplane.api.operation import EXECUTE, Operation
from controlplane.api.shapes import answer
from controlplane.api.start import start_of
from controlplane.domain.execution import Status, Submission
from controlplane.domain.ids import ExecutionId, bucket_of, read_fenced, show_execution
from controlplane.domain.replay import Reuse, retry_of
from controlplane.errors import ExecutionNotFound, InvalidState
from controlplane.reads import executions


class RetryForm(msgspec.Struct, forbid_unknown_fields=True):
    """Why and when; the question is the old one. The webhooks of the old one are not told again."""

    reason: str | None = None
    reuse: Reuse = Reuse.SUCCEEDED_BEFORE
    delay_seconds: float | None = None
    run_at: datetime | None = None
    webhook: WebhookForm | None = None
    idempotency_key: str | None = None


async def retry(request: Request) -> Response:
    """Accept a new execution in the run of one that failed, was cancelled or ran out of time."""
    doors, namespace = doors_of(request), namespace_of(request)
    old_id, _ = read_fenced(request.path_params["execution_id"], where="path/execution_id")
    raw = await read_body(request, doors.limits.body_bytes_max)
    form = decode(raw or EMPTY, RetryForm)
    old = await _failed(doors, old_id, namespace)
    entry = await doors.catalogue.find(namespace, old.target)
    key = request.headers.get("idempotency-key", form.idempotency_key)
    submission = _submission(doors, form, old, key=key, raw=raw, sees=not asker_of(request).hide_payloads)
    accepted = await submit_audited(request, submission, show_execution(old.id))
    if accepted.ready:
        doors.ready(namespace, submission.target)
    shape = shape_of(submission, accepted) | {"source_execution_id": show_execution(old.id), "kind": "retry"}
    return answer(shape | shapes.present({"warnings": no_node(entry) or None}), 202, headers_of(accepted))


def _submission(
    doors: Doors, form: RetryForm, old: Submission, *, key: str | None, raw: bytes, sees: bool
) -> Submission:
    """In the bucket of its run."""
    id_ = ExecutionId(doors.ids.new(bucket_of(old.id)))
    delay_seconds, run_at = start_of(form.delay_seconds, form.run_at, id_)
    reason = clean(form.reason or "", where="body.reason", chars_max=REASON_MAX, empty=True) or None
    return replace(
        retry_of(old, id_, reuse=form.reuse, reason=reason),
        line=doors.catalogue.line(old.namespace, old.target, old.concurrency_key),
        delay_seconds=delay_seconds,
        run_at=run_at,
        webhooks=() if form.webhook is None else (webhook_of(doors, form.webhook, id_, sees=sees),),
        idempotency_key=None if key is None else clean(key, where="Idempotency-Key"),
        idempotency_scope=f"retry {show_execution(old.id)}",
        request_hash=b"" if key is None else hashlib.sha256(raw).digest(),
    )


async def _failed(doors: Doors, id_: ExecutionId, namespace: int) -> Submission:
    """What was asked of an execution that has ended without a result. Raises ExecutionNotFound, InvalidState."""
    asked = await doors.run(executions.read_asked, bucket_of(id_), id_, namespace=namespace)
    view = (await doors.run(executions.read, [id_], namespace=namespace)).get(id_)
    if asked is None or view is None:
        raise ExecutionNotFound
    if not view.status.final:
        raise InvalidState(
            f"The execution is {view.status}: there is nothing to retry yet.",
            fix="Wait for its end, or cancel it.",
            status=view.status.value,
        )
    if view.status is Status.SUCCEEDED:
        raise InvalidState(
            "The execution has succeeded.",
            fix=f"POST /api/v1/executions/{show_execution(id_)}/restart begins it again in a new run.",
            status=view.status.value,
        )
    return asked


OPERATIONS = [
    Operation(
        scope=EXECUTE,
        method="POST",
        path="/api/v1/executions/{execution_id}/retry",
        handler=retry,
        audit="execution.retried",
        summary="Ask once more what has failed, in the same run and with its memory",
        tag="executions",
        takes=RetryForm,
        headers={"Idempotency-Key": "The same key and body again answer with the first retry, for 24 hours."},
        answers={
            202: "Accepted and durable: a new execution in the old run.",
            400: "The body is malformed.",
            404: "There is no such execution.",
            409: "It has not ended, or it has succeeded.",
            413: "Larger than a limit, which is named.",
            422: "The body says something that cannot be, or the key was used with another one; nothing was accepted.",
            503: "The database is out of reach; try again.",
        },
    ),
]
