"""Bulk: cancel, retry, pause, resume or send again everything that a filter matches; count first, look on, stop."""

from __future__ import annotations

import hashlib
import json
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.audited import Noted, audited
from controlplane.api.body import clean, decode, read_body
from controlplane.api.doors import BULKS_TOPIC, Doors, caller_of, doors_of, namespace_of
from controlplane.api.executions import EMPTY, REASON_MAX, query_text
from controlplane.api.operation import OPERATE, READ, Operation
from controlplane.api.paging import instant, limit_of
from controlplane.api.shapes import answer
from controlplane.domain import target as targets
from controlplane.domain.bulk import (
    IDS_MAX,
    Action,
    Asked,
    Bulk,
    BulkId,
    BulkState,
    Count,
    Filter,
    check,
    check_count,
    dump,
    prefix_of,
)
from controlplane.domain.delivery import ENDPOINT, DeliveryState
from controlplane.domain.execution import Status
from controlplane.domain.ids import bucket_of, read, read_fenced, show
from controlplane.domain.notice import moment
from controlplane.domain.replay import Reuse
from controlplane.domain.target import is_name
from controlplane.errors import BulkNotFound, Invalid, TargetMalformed
from controlplane.reads import bulks
from controlplane.stages import bulk

TEXT_MAX = 260


class BulkFilterForm(msgspec.Struct, forbid_unknown_fields=True):
    """Which ones; all that is said must hold. `ids` (up to 1,000: exec_… or, to send again, dlv_…) stand alone."""

    status: list[str] | str | None = None
    target: str | None = None
    node_id: str | None = None
    run_id: str | None = None
    session_key: str | None = None
    actor_key: str | None = None
    error_class: str | None = None
    host: str | None = None
    created_after: str | None = None
    created_before: str | None = None
    ended_after: str | None = None
    ended_before: str | None = None
    ids: list[str] | None = None
    state: list[str] | str | None = None
    event: str | None = None
    endpoint_id: str | None = None


class BulkForm(msgspec.Struct, forbid_unknown_fields=True):
    """What is done to which ones. `all` in place of a filter means every one; `dry_run` only counts.

    `confirm`: to send again more than 10,000 deliveries that were delivered already.
    """

    action: Action
    filter: BulkFilterForm = msgspec.field(default_factory=BulkFilterForm)
    all: bool = False
    reason: str | None = None
    reuse: Reuse | None = None
    dry_run: bool = False
    confirm: bool = False
    idempotency_key: str | None = None


async def begin(request: Request) -> Response:
    """Count what matches; and unless that is all that was asked for, begin to work through it."""
    doors, namespace = doors_of(request), namespace_of(request)
    raw = await read_body(request, doors.limits.body_bytes_max)
    form = decode(raw or EMPTY, BulkForm)
    asked = _asked(doors, form, namespace)
    key = request.headers.get("idempotency-key", form.idempotency_key)
    keyed = None if key is None else clean(key, where="Idempotency-Key")
    counted = await doors.run(bulks.count, asked, placement=doors.placement)
    if form.dry_run:
        return answer(_counted(asked, counted, everything=form.all))
    check_count(asked, counted, confirmed=form.confirm)
    id_, again = await audited(
        request,
        lambda done: Noted(
            kind="bulk",
            id=show("bulk", done[0]),
            after={
                "action": asked.action.value,
                "filter": json.loads(dump(asked.filter, asked.action)),
                "reason": asked.reason,
                "matched": counted.total,
            },
        ),
        bulk.begin,
        BulkId(doors.ids.new(doors.placement.next() if keyed is None else doors.placement.of_key(namespace, keyed))),
        asked,
        counted=counted,
        created_by=caller_of(request),
        keyed=None if keyed is None else bulk.Keyed(key=keyed, request_hash=hashlib.sha256(raw).digest()),
    )
    doors.hints.tell(BULKS_TOPIC)
    headers = {"Location": f"/api/v1/bulk/{show('bulk', id_)}"} | ({"Idempotent-Replayed": "true"} if again else {})
    return answer(_shape(await _whole(doors, id_, namespace)), 202, headers)


async def page(request: Request) -> Response:
    """The newest first."""
    doors, namespace, limit = doors_of(request), namespace_of(request), limit_of(request)
    cursor = request.query_params.get("cursor")
    word = query_text(request, "state")
    if word is not None and word not in list(BulkState):
        raise Invalid(f"One of {', '.join(BulkState)}.", where="query/state")
    found = await doors.run(
        bulks.page,
        namespace=namespace,
        state=None if word is None else BulkState(word),
        before=read("bulk", cursor, where="query/cursor") if cursor else None,
        limit=limit + 1,
        placement=doors.placement,
    )
    more = len(found) > limit
    return answer(
        {
            "items": [_shape(one) for one in found[:limit]],
            "next_cursor": show("bulk", found[limit - 1].id) if more else None,
        }
    )


async def look(request: Request) -> Response:
    """How far it is."""
    return answer(_shape(await _whole(doors_of(request), _id(request), namespace_of(request))))


async def stop(request: Request) -> Response:
    """No further batch begins; what was done stays done."""
    doors, namespace, id_ = doors_of(request), namespace_of(request), _id(request)
    await audited(
        request,
        lambda _: Noted(kind="bulk", id=show("bulk", id_), after={"state": "stopped"}),
        bulk.stop,
        id_,
        doors.placement.all(),
        namespace=namespace,
    )
    return answer(_shape(await _whole(doors, id_, namespace)))


def _id(request: Request) -> BulkId:
    return BulkId(read("bulk", request.path_params["bulk_id"], where="path/bulk_id"))


async def _whole(doors: Doors, id_: BulkId, namespace: int) -> Bulk:
    found = await doors.run(bulks.read, id_, namespace=namespace, placement=doors.placement)
    if found is None:
        raise BulkNotFound
    return found


def _asked(doors: Doors, form: BulkForm, namespace: int) -> Asked:
    reason = clean(form.reason or "", where="body.reason", chars_max=REASON_MAX, empty=True) or None
    if form.reuse is not None and form.action is not Action.RETRY:
        raise Invalid("Only a retry takes over what was found.", where="body.reuse", fix="Leave it out.")
    asked = Asked(
        namespace=namespace,
        action=form.action,
        filter=_filter(doors, form.filter, form.action),
        reason=reason,
        reuse=(form.reuse or Reuse.SUCCEEDED_BEFORE) if form.action is Action.RETRY else None,
    )
    check(asked, everything=form.all)
    return asked


def _filter(doors: Doors, form: BulkFilterForm, action: Action) -> Filter:
    words = [form.status] if isinstance(form.status, str) else form.status or []
    states = [form.state] if isinstance(form.state, str) else form.state or []
    if form.node_id is not None and not is_name(form.node_id):
        raise Invalid("1 to 128 letters, digits, _ - or :", where="body.filter.node_id")
    return Filter(
        statuses=tuple(dict.fromkeys(_status(word) for word in words)),
        target=None if form.target is None else _target(form.target),
        node_id=form.node_id,
        run_id=_text(form.run_id, "run_id"),
        session_key=_text(form.session_key, "session_key"),
        actor_key=_text(form.actor_key, "actor_key"),
        error_class=_text(form.error_class, "error_class"),
        host=_text(form.host, "host"),
        created_after=instant(form.created_after, "body.filter.created_after"),
        created_before=instant(form.created_before, "body.filter.created_before"),
        ended_after=instant(form.ended_after, "body.filter.ended_after"),
        ended_before=instant(form.ended_before, "body.filter.ended_before"),
        ids=_ids(doors, form.ids, action),
        states=tuple(dict.fromkeys(_state(word) for word in states)),
        event=_text(form.event, "event"),
        endpoint_id=_endpoint(form.endpoint_id),
    )


def _target(text: str) -> str:
    try:
        return str(targets.parse(text))
    except TargetMalformed as error:
        raise TargetMalformed(error.detail, where="body.filter.target", fix=error.fix) from None


def _text(text: str | None, name: str) -> str | None:
    return None if text is None else clean(text, where=f"body.filter.{name}", chars_max=TEXT_MAX)


def _status(word: str) -> Status:
    try:
        return Status(word)
    except ValueError:
        raise Invalid(f"One of {', '.join(Status)}.", where="body.filter.status") from None


def _state(word: str) -> DeliveryState:
    try:
        return DeliveryState(word)
    except ValueError:
        raise Invalid("delivered or dead.", where="body.filter.state") from None


def _endpoint(text: str | None) -> UUID | None:
    return None if text is None else read(ENDPOINT, text, where="body.filter.endpoint_id")


def _ids(doors: Doors, texts: list[str] | None, action: Action) -> tuple[UUID, ...]:
    if texts is None:
        return ()
    where = "body.filter.ids"
    if not 1 <= len(texts) <= IDS_MAX:
        raise Invalid(f"From 1 to {IDS_MAX} ids.", where=where, fix="Begin several bulks, or say what they share.")
    prefix = prefix_of(action)
    ids = {read("dlv", one, where=where) if prefix == "dlv" else read_fenced(one, where=where)[0] for one in texts}
    if any(bucket_of(one) not in doors.placement.all() for one in ids):
        raise Invalid("One of these ids was not made by this control plane.", where=where)
    return tuple(sorted(ids))


def _counted(asked: Asked, counted: Count, *, everything: bool) -> shapes.Shape:
    return {
        "dry_run": True,
        "action": asked.action.value,
        "filter": shapes.raw(dump(asked.filter, asked.action)),
        "all": everything,
        "matched": counted.total,
        "exact": counted.is_exact,
        "sample": [show(prefix_of(asked.action), one) for one in counted.sample],
    }


def _shape(one: Bulk) -> shapes.Shape:
    """A bulk in the words it was asked for in, and how far it is. `exact`: `matched` was counted to its end."""
    tally = one.tally
    return shapes.present(
        {
            "bulk_id": show("bulk", one.id),
            "action": one.action.value,
            "filter": shapes.raw(one.filter),
            "all": one.filter == b"{}",
            "reason": one.reason,
            "reuse": None if one.reuse is None else one.reuse.value,
            "state": one.state.value,
            "error": one.error,
            "matched": one.matched,
            "exact": one.exact,
            "done": tally.done,
            "skipped": tally.skipped.total(),
            "skipped_reasons": dict(tally.skipped),
            "failed": tally.failed.total(),
            "failed_reasons": dict(tally.failed),
            "errors": tally.errors,
            "created_at": moment(one.created_at),
            "created_by": one.created_by,
            "began_at": None if one.began_at is None else moment(one.began_at),
            "ended_at": None if one.ended_at is None else moment(one.ended_at),
        }
    )


LOOK = {404: "There is no bulk with this id.", 422: "Not an id.", 503: "Try again."}

OPERATIONS = [
    Operation(
        scope=OPERATE,
        method="POST",
        path="/api/v1/bulk",
        handler=begin,
        audit="bulk.begun",
        summary="Cancel, retry, pause, resume or send again everything that a filter matches",
        tag="bulk",
        takes=BulkForm,
        headers={"Idempotency-Key": "The same key and body again answer with the same bulk, for 24 hours."},
        answers={
            200: "Of a dry run: how many match (`exact`, or at least so many), and some of them.",
            202: "Begun and durable; it goes on by itself.",
            400: "The body or the target is malformed.",
            413: "Larger than a limit, which is named.",
            422: "The body says something that cannot be, or the key was used with another one; nothing was begun.",
            503: "The database is out of reach; try again.",
        },
    ),
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/bulk",
        handler=page,
        summary="List bulks, newest first",
        tag="bulk",
        query={
            "state": "running, done, stopped or failed",
            "limit": "1 to 200, 50 by default",
            "cursor": "next_cursor of the page before",
        },
        answers={200: "A page.", 422: "Not valid.", 503: "Try again."},
    ),
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/bulk/{bulk_id}",
        handler=look,
        summary="How far a bulk is",
        tag="bulk",
        answers={200: "The bulk.", **LOOK},
    ),
    Operation(
        scope=OPERATE,
        method="POST",
        path="/api/v1/bulk/{bulk_id}/stop",
        handler=stop,
        audit="bulk.stopped",
        summary="Stop a bulk before its next batch; what was done stays done",
        tag="bulk",
        answers={200: "It is stopped.", 409: "It has come to its end already.", **LOOK},
    ),
]
