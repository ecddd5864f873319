"""Restart: begin a run again, or one execution of it, and take over what had succeeded.

Finished executions never reopen: a restart is a new execution in a new run, whose memory is empty.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from enum import StrEnum

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.audited import submit_audited
from controlplane.api.body import clean, decode, read_body
from controlplane.api.doors import Doors, asker_of, doors_of, namespace_of
from controlplane.api.executions import (
    EMPTY,
    WebhookForm,
    context_of,
    headers_of,
    input_of,
    no_node,
    webhook_of,
)
from controlplane.api.operation import EXECUTE, Operation
from controlplane.api.shapes import answer
from controlplane.domain.execution import Replay, ReplayMode, Submission
from controlplane.domain.ids import ExecutionId, bucket_of, read_fenced, show, show_execution
from controlplane.domain.notice import moment
from controlplane.errors import ExecutionNotFound
from controlplane.reads import executions

REASON_MAX = 1_000


class Scope(StrEnum):
    """What begins again: the run from its root, or this execution by itself."""

    WORKFLOW = "workflow"
    EXECUTION = "execution"


class RestartForm(msgspec.Struct, forbid_unknown_fields=True):
    """What is left out is as it was. `reuse`: which finished calls of the old run are taken over."""

    scope: Scope = Scope.WORKFLOW
    reuse: ReplayMode = ReplayMode.SUCCEEDED_BEFORE
    fork: bool | None = None
    reason: str | None = None
    input: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    context: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    webhook: WebhookForm | None = None
    idempotency_key: str | None = None


async def restart(request: Request) -> Response:
    """Accept a new execution that asks what the old one asked; the old one stays as it is."""
    doors, namespace = doors_of(request), namespace_of(request)
    named_id, _ = read_fenced(request.path_params["execution_id"], where="path/execution_id")
    raw = await read_body(request, doors.limits.body_bytes_max)
    form = decode(raw or EMPTY, RestartForm)
    named = await _asked(doors, named_id, namespace)
    again = named if form.scope is Scope.EXECUTION else await _asked(doors, ExecutionId(named.root_id), namespace)
    entry = await doors.catalogue.find(namespace, again.target)
    sees = not asker_of(request).hide_payloads
    submission = _submission(doors, form, named, again, key=_key(request, form), raw=raw, sees=sees)
    accepted = await submit_audited(request, submission, show_execution(named.id))
    if accepted.ready:
        doors.ready(namespace, submission.target)
    replay = submission.replay
    assert replay is not None
    id_, created_at = show_execution(accepted.id), moment(accepted.created_at)
    shape = shapes.present(
        {
            "execution_id": id_,
            "run_id": accepted.run_id,
            "workflow_id": accepted.run_id,
            "status": "queued",
            "target": submission.target,
            "type": submission.type,
            "created_at": created_at,
            "enqueued_at": created_at,
            "source_execution_id": show_execution(named.id),
            "source_run_id": again.run_id,
            "restarted_execution_id": show_execution(again.id),
            "replay_before_execution_id": None if replay.before_id is None else show("exec", replay.before_id),
            "replay_mode": replay.mode.value,
            "scope": form.scope.value,
            "kind": _kind(form),
            "webhook_registered": bool(submission.webhooks),
            "warnings": no_node(entry) or None,
        }
    )
    return answer(shape, 202, headers_of(accepted))


def _submission(
    doors: Doors,
    form: RestartForm,
    named: Submission,
    again: Submission,
    *,
    key: str | None,
    raw: bytes,
    sees: bool,
) -> Submission:
    """In the bucket of the old run, where the stage looks for what can be taken over."""
    bucket, bytes_max = bucket_of(again.id), doors.limits.payload_bytes_max
    id_ = ExecutionId(doors.ids.new(bucket))
    return replace(
        again,
        id=id_,
        run_id=show("run", doors.ids.new(bucket)),
        root_id=id_,
        parent_id=None,
        source_execution_id=again.id,
        replay=_replay(form, named, again),
        origin=_origin(form, named, again),
        fairness_key=None if again.fairness_key == again.run_id else again.fairness_key,
        line=doors.catalogue.line(again.namespace, again.target, again.concurrency_key),
        input=again.input if bytes(form.input) in (b"", b"null") else input_of(form.input, bytes_max),
        context=context_of(form.context, bytes_max) or again.context,
        webhooks=() if form.webhook is None else (webhook_of(doors, form.webhook, id_, sees=sees),),
        idempotency_key=key,
        idempotency_scope=f"restart {show_execution(named.id)}",
        request_hash=hashlib.sha256(raw).digest() if key is not None else b"",
    )


def _replay(form: RestartForm, named: Submission, again: Submission) -> Replay:
    """`succeeded-before` needs something that comes before: of what begins again itself, all that succeeded counts."""
    if form.reuse is ReplayMode.SUCCEEDED_BEFORE and form.scope is Scope.EXECUTION:
        return Replay(source_run_id=again.run_id, mode=ReplayMode.ALL_SUCCEEDED)
    before = form.reuse is ReplayMode.SUCCEEDED_BEFORE and named.id != again.id
    return Replay(source_run_id=again.run_id, mode=form.reuse, before_id=named.id if before else None)


def _kind(form: RestartForm) -> str:
    return "fork" if form.fork else "restart"


def _origin(form: RestartForm, named: Submission, again: Submission) -> bytes:
    reason = clean(form.reason or "", where="body.reason", chars_max=REASON_MAX, empty=True) or None
    said = {"kind": _kind(form), "source_execution_id": show_execution(named.id), "source_run_id": again.run_id}
    return orjson.dumps(said | shapes.present({"reason": reason}))


def _key(request: Request, form: RestartForm) -> str | None:
    key = request.headers.get("idempotency-key", form.idempotency_key)
    return None if key is None else clean(key, where="Idempotency-Key")


async def _asked(doors: Doors, id_: ExecutionId, namespace: int) -> Submission:
    asked = await doors.run(executions.read_asked, bucket_of(id_), id_, namespace=namespace)
    if asked is None:
        raise ExecutionNotFound
    return asked


OPERATIONS = [
    Operation(
        scope=EXECUTE,
        method="POST",
        path="/api/v1/executions/{execution_id}/restart",
        handler=restart,
        audit="execution.restarted",
        summary="Begin a run again, or one execution of it, in a new run that takes over what had succeeded",
        tag="executions",
        takes=RestartForm,
        headers={"Idempotency-Key": "The same key and body again answer with the first restart, for 24 hours."},
        answers={
            202: "Accepted and durable: a new execution in a new run.",
            400: "The body is malformed.",
            404: "There is no such execution.",
            413: "Larger than a limit, which is named.",
            422: "The body says something that cannot be, or the key was used with another one; nothing was accepted.",
            503: "The database is out of reach; try again.",
        },
    ),
]
