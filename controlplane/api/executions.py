"""Executions: submit, watch, wait for, list, cancel."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache, partial
from typing import NamedTuple
from uuid import UUID

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.agentfield.workflow import owner_of
from controlplane.api.audited import cancel_audited
from controlplane.api.body import clean, decode, payload, read_body, read_form
from controlplane.api.doors import CANCEL_TOPIC, EVENTS_TOPIC, Doors, asker_of, doors_of, namespace_of
from controlplane.api.fields import field, fields_of
from controlplane.api.links import linked
from controlplane.api.operation import EXECUTE, EXECUTE_OR_OPERATE, READ, Operation
from controlplane.api.paging import limit_of, query_instant, seconds, words
from controlplane.api.policy import RetryPolicyForm, policy_of, retries_of
from controlplane.api.problems import TITLES, TYPE_BASE, body_of
from controlplane.api.replay import HIT_HEADER, REPLAY_HEADERS, replay_of
from controlplane.api.shapes import answer
from controlplane.api.start import start_of
from controlplane.domain import call
from controlplane.domain import target as targets
from controlplane.domain.approval import may_have_asked
from controlplane.domain.delivery import sealed_for
from controlplane.domain.endpoint import ALL, ENDS, EXECUTION_WIDE, events_of
from controlplane.domain.execution import (
    ON_PARENT_END,
    SCHEDULED,
    Accepted,
    ParentEnd,
    Replay,
    Status,
    Submission,
    Webhook,
)
from controlplane.domain.ids import (
    ExecutionId,
    bucket_of,
    is_execution,
    read_execution,
    read_fenced,
    show,
    show_execution,
)
from controlplane.domain.limit import CONCURRENCY_MAX, KEY, LABEL_MAX, bucket_of_key
from controlplane.domain.notice import milliseconds, moment
from controlplane.domain.retry import RetryPolicy
from controlplane.domain.step import NAME_MAX
from controlplane.domain.value import value
from controlplane.errors import ExecutionNotFound, Invalid, InvalidParameter, PayloadsHidden, WaitedTooLong
from controlplane.postgres.lane import Lane
from controlplane.reads import approvals, deliveries, executions
from controlplane.reads.executions import ExecutionView, Filter, Parent, view_of
from controlplane.reads.nodes import Entry
from controlplane.security.egress import check_headers

WAIT_MAX_SECONDS = 60.0
BATCH_STATUS_MAX = 1_000
"""As many as a batch submits."""
SECRET_MAX = 4096
WEBHOOKS_MAX = 5
"""Of one execution."""
REASON_MAX = 1_000
PRIORITY_MAX = 1_000
TIMEOUT_MAX_SECONDS = 10 * 365 * 86_400.0
EMPTY = b"{}"


class WebhookForm(msgspec.Struct, forbid_unknown_fields=True):
    """Whom to tell of the end. `secret` signs; `headers` are sent along; `events`: what else it is told of."""

    url: str
    secret: str | None = None
    headers: dict[str, str] | None = None
    events: list[str] | None = None


class ConcurrencyForm(msgspec.Struct, forbid_unknown_fields=True):
    """A concurrency key, and of how many executions with it may be under way at once from here on."""

    key: str
    max: int | None = None


class SubmitForm(msgspec.Struct, forbid_unknown_fields=True):
    """`input` are the reasoner's arguments. `delay_seconds` or `run_at` (RFC 3339): when it may begin.

    From then on it may wait `schedule_to_start_seconds` for a node and take `total_seconds` in all, and each attempt
    `timeout_seconds`; an attempt that is silent for `heartbeat_seconds` has failed. What is left out is as the reasoner
    was registered. `retry` says more than `retries`: one of the two. `on_parent_end`: what becomes of it
    when its parent ends without a result. `step`: the name under which the parent attempt keeps this call, instead of
    an idempotency key; asked for again it is the same execution.
    Of those with one `concurrency_key` no more run at once than its limit allows; `concurrency` sets that limit along
    with the key. Of those with one `fairness_key` (a child's is its run) few are ready at once, so that others pass.
    `webhooks` are told as `webhook` is, each with its own secret.
    `run_metadata` and `authority` are taken and left alone (AgentField).
    """

    input: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    context: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    webhook: WebhookForm | None = None
    webhooks: list[WebhookForm] | None = None
    priority: int = 0
    retries: int | None = None
    retry: RetryPolicyForm | None = None
    timeout_seconds: float | None = None
    schedule_to_start_seconds: float | None = None
    total_seconds: float | None = None
    heartbeat_seconds: float | None = None
    on_parent_end: ParentEnd | None = None
    delay_seconds: float | None = None
    run_at: datetime | None = None
    concurrency_key: str | None = None
    concurrency: ConcurrencyForm | None = None
    fairness_key: str | None = None
    idempotency_key: str | None = None
    step: str | None = None
    run_metadata: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    authority: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class BatchStatusForm(msgspec.Struct, forbid_unknown_fields=True):
    execution_ids: list[str]


class CancelForm(msgspec.Struct):
    reason: str | None = None


async def submit_async(request: Request) -> Response:
    """Accept and answer at once; the work is in the database when this returns 202."""
    submission, accepted, _, warnings = await _accept(request)
    shape = shape_of(submission, accepted)
    if accepted.replayed and submission.step is not None:
        shape["replayed"] = True
    if warnings:
        shape["warnings"] = warnings
    headers = headers_of(accepted)
    if accepted.source_id is not None:
        headers[HIT_HEADER] = show_execution(accepted.source_id)
    return answer(shape, 202, headers)


def shape_of(submission: Submission, accepted: Accepted) -> shapes.Shape:
    """What is answered to whoever asked for this."""
    created_at = _moment_of_many(accepted.created_at)
    shape: shapes.Shape = {
        "execution_id": show_execution(accepted.id),
        "run_id": accepted.run_id,
        "workflow_id": accepted.run_id,
        "status": "queued" if accepted.source_id is None else "succeeded",
        "target": submission.target,
        "type": submission.type,
        "created_at": created_at,
        "enqueued_at": created_at,
        "webhook_registered": bool(submission.webhooks),
    }
    if accepted.scheduled_at is not None:
        shape |= {"status_reason": SCHEDULED, "available_at": moment(accepted.scheduled_at)}
    if accepted.blocked_by is not None:
        shape["blocked_by"] = accepted.blocked_by
    return shape


@lru_cache(maxsize=16)
def _moment_of_many(at: datetime) -> str:
    """What one flush accepts has one moment, which is written out once and not for each."""
    return moment(at)


def headers_of(accepted: Accepted) -> dict[str, str]:
    id_ = show_execution(accepted.id)
    headers = {"Location": f"/api/v1/executions/{id_}", "X-Execution-ID": id_, "X-Run-ID": accepted.run_id}
    return headers | ({"Idempotent-Replayed": "true"} if accepted.replayed else {})


async def submit_sync(request: Request) -> Response:
    """Accept, wait for the end and answer with the result; the execution goes on when the caller leaves."""
    return await answer_end(request, lambda _, shape: shape)


async def answer_end(request: Request, shape_of: Callable[[ExecutionView, shapes.Shape], shapes.Shape]) -> Response:
    """Accept, wait and answer with the end: 200 in the shape that is asked for, else the same for everybody.

    A failure answers 502, but with the node's own status where that was a 4xx. Waiting too long answers 504.
    """
    doors = doors_of(request)
    submission, accepted, entry, _ = await _accept(request)
    view = await _await_end(doors, accepted.id, namespace_of(request), doors.limits.sync_wait_seconds)
    headers = {"X-Execution-ID": show_execution(accepted.id), "X-Run-ID": accepted.run_id}
    if entry.version and entry.version.isascii():
        headers["X-Routed-Version"] = entry.version
    if accepted.source_id is not None:
        headers[HIT_HEADER] = show_execution(accepted.source_id)
    if not view.status.final:
        late = WaitedTooLong(
            f"The execution did not finish within {doors.limits.sync_wait_seconds:g} s; it goes on.",
            fix=f"Poll GET /api/v1/executions/{show_execution(accepted.id)}.",
            execution_id=show_execution(accepted.id),
            run_id=accepted.run_id,
        )
        return Response(orjson.dumps(body_of(late)), 504, headers, media_type="application/problem+json")
    shape = shapes.execution(view) | {"webhook_registered": bool(submission.webhooks)}
    assert view.finished_at is not None
    shape["finished_at"] = moment(view.finished_at)
    shape["duration_ms"] = milliseconds(view.started_at or view.created_at, view.finished_at)
    if view.status is Status.SUCCEEDED:
        return answer(shape_of(view, shape), 200, headers)
    problem = {"type": TYPE_BASE + "execution_failed", "title": TITLES[502], "code": "execution_failed"}
    said = view.http_status if view.status is Status.FAILED else None
    status = said if said is not None and 400 <= said < 500 else 502
    return answer(problem | {"message": shape.get("error_message", "")} | shape, status, headers)


async def read(request: Request) -> Response:
    """One execution as it stands now, or as soon as it has ended within `wait_seconds`."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_, _ = read_fenced(request.path_params["execution_id"], where="path/execution_id")
    wait = seconds(request, "wait_seconds", most=WAIT_MAX_SECONDS)
    view = await _await_end(doors, id_, namespace, wait)
    shape = shapes.execution(view)
    if view.webhooks and view.status.final:  # nobody polls this any more: one more look does not cost
        told = await doors.run(deliveries.of_execution, bucket_of(id_), id_, namespace=namespace) if view.told else ()
        shape["webhook_events"] = shapes.webhook_events(told)
    if view.asked and (view.status.final or may_have_asked(view.status_reason)):
        asked = await doors.run(approvals.latest, bucket_of(id_), id_, namespace=namespace)
        shape |= {} if asked is None else shapes.asked(linked(doors, asked))
    return answer(shape)


async def read_input(request: Request) -> Response:
    """What was asked, byte for byte."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_ = read_execution(request.path_params["execution_id"], where="path/execution_id")
    asked = await doors.run(executions.read_input, bucket_of(id_), id_, namespace=namespace)
    if asked is None:
        raise ExecutionNotFound
    shape = {"execution_id": show_execution(id_), "input": shapes.raw(asked[0]), "context": shapes.raw(asked[1])}
    return answer(shapes.present(shape))


async def batch_status(request: Request) -> Response:
    """Many at once, by id; an unknown one answers `not_found` in its place."""
    doors, namespace = doors_of(request), namespace_of(request)
    form = await read_form(request, BatchStatusForm, doors.limits.body_bytes_max)
    if not 1 <= len(form.execution_ids) <= BATCH_STATUS_MAX:
        raise InvalidParameter(f"From 1 to {BATCH_STATUS_MAX} ids.", where="body.execution_ids")
    wanted = {
        text: read_fenced(text, where="body.execution_ids")[0] for text in form.execution_ids if is_execution(text)
    }
    views = await doors.run(executions.read, list(set(wanted.values())), namespace=namespace)
    return answer(
        {
            text: shapes.execution(views[wanted[text]])
            if wanted.get(text) in views
            else {"execution_id": text[:200], "status": "not_found"}
            for text in form.execution_ids
        }
    )


async def page(request: Request) -> Response:
    """The newest first, without payloads. Where few match, a page may be short of them and yet not be the last."""
    doors, namespace = doors_of(request), namespace_of(request)
    limit = limit_of(request)
    wanted = Filter(
        statuses=tuple(_status(word) for word in words(request, "status")),
        target=query_text(request, "target"),
        node_id=query_text(request, "node_id"),
        run_id=query_text(request, "run_id"),
        session_key=query_text(request, "session_key"),
        actor_key=query_text(request, "actor_key"),
        error_class=query_text(request, "error_class"),
        created_after=query_instant(request, "created_after"),
        created_before=query_instant(request, "created_before"),
        ended_after=query_instant(request, "ended_after"),
        ended_before=query_instant(request, "ended_before"),
        before=_cursor(request),
    )
    found = await doors.run(executions.search, wanted, namespace=namespace, limit=limit + 1, placement=doors.placement)
    views = found.views
    after = views[limit - 1].id if len(views) > limit else found.reached
    return answer(
        {
            "items": [shapes.execution(view, payloads=False) for view in views[:limit]],
            "next_cursor": None if after is None else show_execution(after),
        }
    )


def reason_of(form: CancelForm) -> str | None:
    """Why, in the caller's words."""
    said = form.reason
    return None if said is None else clean(said, where="body.reason", chars_max=REASON_MAX, empty=True) or None


async def request_cancel(request: Request) -> Response:
    """From here on the execution can only end as cancelled."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_, _ = read_fenced(request.path_params["execution_id"], where="path/execution_id")
    form = await read_form(request, CancelForm, doors.limits.body_bytes_max)
    reason = reason_of(form)
    if not await doors.run(executions.read, [id_], namespace=namespace):
        raise ExecutionNotFound
    done = await cancel_audited(request, id_, reason)
    if done.settled:
        doors.ended([id_])
    else:
        doors.hints.tell(CANCEL_TOPIC)
        doors.hints.tell(EVENTS_TOPIC)
    shape = {
        "execution_id": show_execution(id_),
        "previous_status": done.previous.value,
        "status": "cancelled",
        "settled": done.settled,
        "reason": reason,
        "cancelled_at": moment(done.at),
    }
    return answer(shapes.present(shape))


async def _accept(request: Request) -> tuple[Submission, Accepted, Entry, list[dict[str, str]]]:
    doors, namespace = doors_of(request), namespace_of(request)
    target = request.path_params["target"]
    entry = doors.catalogue.known(namespace, target)  # whose name was looked at when it was registered
    if entry is None:
        entry = await doors.catalogue.find(namespace, str(targets.parse(target)))
    raw = await read_body(request, doors.limits.body_bytes_max)
    form = decode(raw or EMPTY, SubmitForm)
    caller = await caller_of(request, doors, namespace)
    key = field(request, b"idempotency-key")
    key = form.idempotency_key if key is None else key
    keyed = None if key is None else Keyed.of(key, caller.run_id or "", entry.target.encode() + b"\0" + raw)
    bucket = bucket_for(doors, caller, keyed)
    replay, ignored = await replay_of(request, doors, namespace, bucket, caller.run_id, caller.parent)
    submission = submission_of(doors, caller, entry, form, bucket=bucket, keyed=keyed, replay=replay)
    warnings = [*caller.warnings, *ignored]
    accepted = await lane_of(doors, submission).put(submission)
    if accepted.source_id is not None:
        doors.ended([accepted.id])
        return submission, accepted, entry, warnings
    return submission, accepted, entry, warnings + no_node(entry)


def lane_of(doors: Doors, submission: Submission) -> Lane[Submission, Accepted]:
    return doors.lanes.submit if submission.replay is None else doors.lanes.replay


@value(frozen=True, slots=True, kw_only=True)
class Caller:
    """In whose name work is asked for, as the headers say it: the same for everything that one request asks for."""

    namespace: int
    run_id: str | None
    parent_id: UUID | None
    parent_attempt: int | None
    parent: Parent | None
    session_key: str | None
    actor_key: str | None
    warnings: Sequence[dict[str, str]]
    sees: bool


NO_PARENT = (None, None, None, ())


class Keyed(NamedTuple):
    """An idempotency key, what it is unique within, and the hash of what was asked with it."""

    key: str
    scope: str
    request_hash: bytes

    @classmethod
    def of(cls, key: str, scope: str, asked: bytes) -> Keyed:
        """Raises Invalid."""
        return cls(clean(key, where="Idempotency-Key"), scope, hashlib.sha256(asked).digest())


async def caller_of(request: Request, doors: Doors, namespace: int) -> Caller:
    """Who asks. Raises Invalid, ExecutionNotFound for a parent that there is not."""
    said = fields_of(request.scope)
    run_id = _header(said, b"x-run-id")
    named = _header(said, b"x-parent-execution-id")
    parent_id, parent_attempt, parent, warnings = await _parent(doors, namespace, named, run_id) if named else NO_PARENT
    return Caller(
        namespace=namespace,
        run_id=run_id or (parent.run_id if parent else None),
        parent_id=parent_id,
        parent_attempt=parent_attempt,
        parent=parent,
        session_key=_header(said, b"x-session-id") or (parent.session_key if parent else None),
        actor_key=_header(said, b"x-actor-id") or (parent.actor_key if parent else None),
        warnings=warnings,
        sees=not asker_of(request).hide_payloads,
    )


def bucket_for(doors: Doors, caller: Caller, keyed: Keyed | None) -> int:
    """Where a new execution of this caller lives: always the same for the same key."""
    if caller.parent_id is not None:
        return bucket_of(caller.parent_id)
    key = None if keyed is None else keyed.key
    return doors.placement.of_submit(caller.namespace, run_id=caller.run_id, idempotency_key=key)


def submission_of(
    doors: Doors,
    caller: Caller,
    entry: Entry,
    form: SubmitForm,
    *,
    bucket: int,
    keyed: Keyed | None,
    replay: Replay | None,
) -> Submission:
    """What this form asks for. Raises what a submit is refused with; `where` counts from `body`."""
    step = step_of(form.step, caller, keyed)
    input_ = input_of(form.input, doors.limits.payload_bytes_max)
    context = context_of(form.context, doors.limits.payload_bytes_max)
    id_ = ExecutionId(doors.ids.new(bucket))
    delay_seconds, run_at = start_of(form.delay_seconds, form.run_at, id_)
    run_id = caller.run_id or show("run", id_)
    concurrency_key, concurrency_max = _concurrency(form, entry)
    fairness_key = _label(form.fairness_key, "fairness_key") or (run_id if caller.parent_id is not None else None)
    return Submission(
        id=id_,
        namespace=caller.namespace,
        run_id=run_id,
        root_id=caller.parent.root_id if caller.parent else id_,
        parent_id=caller.parent_id,
        parent_attempt=caller.parent_attempt,
        target=entry.target,
        type=entry.type,
        input=input_,
        context=context,
        replay=replay,
        session_key=caller.session_key,
        actor_key=caller.actor_key,
        priority=bounded(form.priority, "body.priority", -PRIORITY_MAX, PRIORITY_MAX),
        retry=_retry(entry, form),
        timeout_seconds=_time(form.timeout_seconds, "timeout_seconds") or entry.timeout_seconds,
        schedule_to_start_seconds=_time(form.schedule_to_start_seconds, "schedule_to_start_seconds")
        or entry.schedule_to_start_seconds,
        total_seconds=_time(form.total_seconds, "total_seconds") or entry.total_seconds,
        heartbeat_seconds=_time(form.heartbeat_seconds, "heartbeat_seconds") or entry.heartbeat_seconds,
        on_parent_end=form.on_parent_end or entry.on_parent_end or ON_PARENT_END,
        delay_seconds=delay_seconds,
        run_at=run_at,
        webhooks=_webhooks(doors, form, id_, sees=caller.sees),
        step=step,
        concurrency_key=concurrency_key,
        concurrency_max=concurrency_max,
        limit_bucket=0
        if concurrency_max is None
        else bucket_of_key(doors.placement, caller.namespace, f"{KEY}{concurrency_key}"),
        fairness_key=fairness_key,
        line=doors.catalogue.line(caller.namespace, entry.target, concurrency_key),
        idempotency_key=None if keyed is None else keyed.key,
        idempotency_scope="" if keyed is None else keyed.scope,
        request_hash=b"" if keyed is None else keyed.request_hash,
    )


def step_of(name: str | None, caller: Caller, keyed: Keyed | None) -> str | None:
    """The step of its parent that a call is. Raises Invalid."""
    if name is None:
        return None
    if keyed is not None:
        raise Invalid("Either step or idempotency_key.", where="body.step", fix="A step is enough to ask once.")
    if caller.parent_id is None or caller.parent_attempt is None:
        raise Invalid(
            "A step belongs to the attempt that calls.",
            where="body.step",
            fix="Send X-Parent-Execution-ID: exec_…~<attempt>.",
        )
    return clean(name, where="body.step", chars_max=NAME_MAX)


def no_node(entry: Entry) -> list[dict[str, str]]:
    """Words of warning when nobody is there to do what was just accepted, or when it is paused."""
    said: list[dict[str, str]] = []
    if not entry.up:
        message = f"No node that serves {entry.target} is connected right now; the work waits."
        said.append({"code": "no_node", "message": message})
    if entry.paused:
        said.append({"code": "paused", "message": f"{entry.target} is paused; the work waits until it is resumed."})
    return said


def input_of(raw: msgspec.Raw, bytes_max: int) -> bytes:
    """The reasoner's arguments, as the bytes they came as."""
    if bytes(raw) in (b"", b"null", EMPTY):
        return EMPTY
    kept, value = payload(raw, where="body.input", bytes_max=bytes_max)
    if not isinstance(value, dict):
        raise Invalid("An object: the reasoner's arguments by name.", where="body.input")
    return kept


def context_of(raw: msgspec.Raw, bytes_max: int) -> bytes | None:
    if bytes(raw) in (b"", b"null"):
        return None
    return payload(raw, where="body.context", bytes_max=bytes_max)[0]


async def _parent(
    doors: Doors, namespace: int, text: str, run_id: str | None
) -> tuple[UUID | None, int | None, Parent | None, Sequence[dict[str, str]]]:
    """The execution that asks for this one, as the header names it (fenced, when a node of ours asks)."""
    owner = None if is_execution(text) else await owner_of(doors, namespace, text, run_id)
    if owner is not None:
        text = call.fenced(owner)
    if not is_execution(text):
        return (
            None,
            None,
            None,
            [{"code": "parent_unknown", "message": "The parent is not an execution of this server."}],
        )
    id_, attempt = read_fenced(text, where="X-Parent-Execution-ID")
    parent = await doors.run(executions.read_parent, bucket_of(id_), id_, namespace=namespace)
    if parent is None:
        raise ExecutionNotFound("There is no such parent execution.", where="X-Parent-Execution-ID")
    return id_, attempt, parent, []


def _webhooks(doors: Doors, form: SubmitForm, id_: ExecutionId, *, sees: bool) -> tuple[Webhook, ...]:
    if form.webhook is None and not form.webhooks:
        return ()
    said = [] if form.webhook is None else [(form.webhook, "body.webhook")]
    said += [(one, f"body.webhooks[{n}]") for n, one in enumerate(form.webhooks or ())]
    if len(said) > WEBHOOKS_MAX:
        raise Invalid(
            f"At most {WEBHOOKS_MAX}, `webhook` counted in.", where="body.webhooks", fix="An endpoint hears of many."
        )
    return tuple(webhook_of(doors, one, id_, sees=sees, where=where, n=n) for n, (one, where) in enumerate(said, 1))


def webhook_of(
    doors: Doors,
    form: WebhookForm,
    id_: ExecutionId,
    *,
    sees: bool,
    where: str = "body.webhook",
    url_where: str | None = None,
    n: int = 1,
) -> Webhook:
    """An invalid webhook refuses the submit: work is never accepted whose caller cannot be told.

    `sees`: whether who asks is shown payloads. One who is not would be sent the result.
    """
    url_where = url_where or f"{where}.url"
    if not sees:
        raise PayloadsHidden(where=url_where, fix="Leave the webhook out, or ask with a key that is shown payloads.")
    origin = doors.egress.check_url(form.url, where=url_where)
    headers = check_headers(form.headers, where=f"{where}.headers") if form.headers else {}
    if form.secret is not None:
        clean(form.secret, where=f"{where}.secret", chars_max=SECRET_MAX)
    return Webhook(
        url=form.url,
        host=f"{origin.host}:{origin.port}",
        secret_sealed=None
        if form.secret is None
        else doors.keyring.seal(form.secret.encode(), bound_to=sealed_for(id_, n, "secret")),
        headers_sealed=doors.keyring.seal(orjson.dumps(headers), bound_to=sealed_for(id_, n, "headers"))
        if headers
        else None,
        attempts_max=doors.limits.webhook_attempts_max,
        events=() if form.events is None else _beside_the_end(form.events, f"{where}.events"),
    )


def _beside_the_end(given: list[str], where: str) -> tuple[str, ...]:
    """What a webhook is told of beside its end, which it always is; `*` is all there is today."""
    said = events_of(given, where=where, known=EXECUTION_WIDE)
    wide = [one.value for one in EXECUTION_WIDE] if ALL in said else said
    return tuple(sorted(set(wide) - {one.value for one in ENDS}))


def _retry(entry: Entry, form: SubmitForm) -> RetryPolicy:
    if form.retry is not None:
        if form.retries is not None:
            raise Invalid("Either retries or retry.", where="body.retries", fix="Say it as retry.max.")
        return policy_of(form.retry, entry.retry, where="body.retry")
    if form.retries is None:
        return entry.retry
    return replace(entry.retry, retries_max=retries_of(form.retries, where="body.retries"))


def _time(seconds: float | None, name: str) -> float | None:
    if seconds is not None and not 0 < seconds <= TIMEOUT_MAX_SECONDS:
        raise Invalid(f"A number of seconds above 0, at most {TIMEOUT_MAX_SECONDS:g}.", where=f"body.{name}")
    return seconds


def _concurrency(form: SubmitForm, entry: Entry) -> tuple[str | None, int | None]:
    """The key, and the limit that comes with it. Raises Invalid."""
    if form.concurrency is None:
        return _label(form.concurrency_key, "concurrency_key") or entry.concurrency_key, None
    if form.concurrency_key is not None:
        raise Invalid(
            "Either concurrency_key or concurrency.", where="body.concurrency_key", fix="Say it as concurrency.key."
        )
    most = form.concurrency.max
    return _label(form.concurrency.key, "concurrency.key"), None if most is None else bounded(
        most, "body.concurrency.max", 0, CONCURRENCY_MAX
    )


def _label(text: str | None, name: str) -> str | None:
    return None if text is None else clean(text, where=f"body.{name}", chars_max=LABEL_MAX)


def bounded(value: int, where: str, least: int, most: int) -> int:
    """A whole number in its bounds. Raises Invalid."""
    if not least <= value <= most:
        raise Invalid(f"A whole number from {least} to {most}.", where=where)
    return value


def _header(fields: Mapping[bytes, bytes], name: bytes) -> str | None:
    said = fields.get(name)
    return clean(said.decode("latin-1"), where=name.decode().title().replace("-Id", "-ID")) if said else None


def query_text(request: Request, name: str) -> str | None:
    """A name in the query. Raises Invalid for what can be none."""
    text = request.query_params.get(name)
    return clean(text, where=f"query/{name}", chars_max=260) if text else None


def _status(word: str) -> Status:
    try:
        return Status(word)
    except ValueError:
        raise Invalid(f"One of {', '.join(Status)}.", where="query/status") from None


def _cursor(request: Request) -> UUID | None:
    text = request.query_params.get("cursor")
    return read_execution(text, where="query/cursor") if text else None


async def _await_end(doors: Doors, id_: ExecutionId, namespace: int, wait: float) -> ExecutionView:
    """The execution as it stands now, or as soon as it has ended while there is time to wait."""
    look = partial(doors.lanes.read.put, (namespace, id_))
    if not wait or doors.stopping:
        return await look()
    with doors.waiting.watch(id_) as end:
        if not doors.begun.knows(id_, namespace):  # what has just begun here need not be looked at before its end
            view = await look()
            if view.status.final:
                return view
        told = await end(wait)
        return await look() if told is None else view_of(told)


SUBMIT_HEADERS = {
    "X-Run-ID": "Join this run; else a new one begins.",
    "X-Parent-Execution-ID": "The execution that asks for this one.",
    "X-Session-ID": "Scope of session memory.",
    "X-Actor-ID": "Scope of actor memory.",
    "Idempotency-Key": "The same key and body again answer with the first execution, for 24 hours.",
} | REPLAY_HEADERS
SUBMIT_REFUSALS = {
    400: "The target or the body is malformed.",
    404: "No registered node has this target; `nearest` names some.",
    409: "The parent attempt has lost its lease.",
    413: "Larger than a limit, which is named.",
    422: "The body says something that cannot be; nothing was accepted.",
    503: "The database is out of reach; try again.",
}
SYNC_ANSWERS = SUBMIT_REFUSALS | {
    200: "The result.",
    502: "The execution failed; a node's own 4xx is answered as that.",
    504: "Not finished in time; it goes on.",
}

OPERATIONS = [
    Operation(
        scope=EXECUTE,
        method="POST",
        path="/api/v1/execute/async/{target}",
        handler=submit_async,
        summary="Submit an execution and return at once",
        tag="executions",
        takes=SubmitForm,
        headers=SUBMIT_HEADERS,
        answers={202: "Accepted and durable."} | SUBMIT_REFUSALS,
    ),
    Operation(
        scope=EXECUTE,
        method="POST",
        path="/api/v1/execute/{target}",
        handler=submit_sync,
        summary="Submit an execution and wait for its result",
        tag="executions",
        takes=SubmitForm,
        headers=SUBMIT_HEADERS,
        answers=SYNC_ANSWERS,
    ),
    Operation(
        scope=READ,
        method="POST",
        path="/api/v1/executions/batch-status",
        handler=batch_status,
        summary="Read up to 1,000 executions",
        tag="executions",
        takes=BatchStatusForm,
        answers={
            200: "By id.",
            400: "Malformed, or not from 1 to 1,000 ids.",
            413: "Too large.",
            422: "Not valid.",
            503: "Try again.",
        },
    ),
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/executions",
        handler=page,
        summary="List executions, newest first",
        tag="executions",
        query={
            "status": "queued, running, waiting, succeeded, failed, cancelled, timeout; repeatable",
            "target": "node_id.reasoner_name",
            "node_id": "Those of one node",
            "run_id": "Those of one run",
            "session_key": "Those of one X-Session-ID",
            "actor_key": "Those of one X-Actor-ID",
            "error_class": "Those that ended with this error; `Name*`: whose name begins so",
            "created_after": "From this moment on: 2030-01-31T09:00:00Z",
            "created_before": "Up to this moment",
            "ended_after": "Those that ended from this moment on",
            "ended_before": "Those that ended up to this moment",
            "limit": "1 to 200, 50 by default",
            "cursor": "next_cursor of the page before, which may be there although that page was short",
        },
        answers={200: "A page.", 422: "A filter is not valid.", 503: "Try again."},
    ),
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/executions/{execution_id}",
        handler=read,
        summary="Read one execution, or wait for its end",
        tag="executions",
        query={"wait_seconds": "0 to 60: hold the answer until the execution has ended"},
        answers={200: "The execution.", 404: "Unknown.", 422: "Not an id.", 503: "Try again."},
    ),
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/executions/{execution_id}/input",
        handler=read_input,
        summary="What was asked, byte for byte",
        tag="executions",
        answers={200: "Input and context.", 404: "Unknown.", 422: "Not an id.", 503: "Try again."},
    ),
    *(
        Operation(
            scope=EXECUTE_OR_OPERATE,
            method="POST",
            path=f"/api/{prefix}/executions/{{execution_id}}/cancel",
            handler=request_cancel,
            audit="execution.cancelled",
            summary="Cancel an execution",
            tag="executions",
            takes=CancelForm,
            answers={
                200: "It can only end as cancelled now.",
                400: "Malformed.",
                404: "Unknown.",
                409: "It has ended already.",
                413: "Too large.",
                422: "Not valid.",
                503: "Try again.",
            },
        )
        for prefix in ("v1", "ui/v1")
    ),
]
