"""Limits: how many executions of a key may be under way, and how many may begin; see what each holds back."""

from __future__ import annotations

import math
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.audited import Noted, audited, first_seen, seeing
from controlplane.api.body import clean, read_form
from controlplane.api.doors import Doors, doors_of, namespace_of
from controlplane.api.executions import bounded
from controlplane.api.operation import OPERATE, READ, Operation
from controlplane.api.paging import limit_of
from controlplane.api.shapes import answer
from controlplane.domain.audit import Facts
from controlplane.domain.limit import (
    CONCURRENCY_MAX,
    KEY,
    LABEL_MAX,
    RATE_MAX,
    RATE_SECONDS_MAX,
    RATE_SECONDS_MIN,
    Limit,
    Rule,
    bucket_of_key,
    is_key,
)
from controlplane.domain.notice import moment
from controlplane.errors import Invalid, LimitNotFound
from controlplane.reads import limits
from controlplane.reads.limits import COUNT_MAX, LimitView
from controlplane.stages import limit

KEY_MAX = len(KEY) + LABEL_MAX + 100
"""Characters of a limit's key: a node and its reasoner have up to 128 each, a free key LABEL_MAX."""
FORMS = "reasoner:node_id.reasoner_name, node:node_id or key:concurrency_key"


class LimitForm(msgspec.Struct, forbid_unknown_fields=True):
    """At most `concurrency_max` under way at once, and at most `rate_max` begin in any `rate_seconds`."""

    concurrency_max: int | None = None
    rate_max: int | None = None
    rate_seconds: float | None = None


async def page(request: Request) -> Response:
    """By key, with what each holds and how many wait for it."""
    doors, count = doors_of(request), limit_of(request)
    cursor = request.query_params.get("cursor")
    views = await doors.run(
        limits.page,
        namespace=namespace_of(request),
        after=clean(cursor, where="query/cursor", chars_max=KEY_MAX) if cursor else "",
        limit=count + 1,
        placement=doors.placement,
    )
    more = len(views) > count
    return answer(
        {"items": [_shape(view) for view in views[:count]], "next_cursor": views[count - 1].limit.key if more else None}
    )


async def read(request: Request) -> Response:
    """One limit, what it holds and how many wait for it."""
    return answer(await _read(request, _key(request)))


async def put(request: Request) -> Response:
    """The limit of this key is this one from here on: a lower one lets what runs finish, a higher one lets more in."""
    doors, namespace, key = doors_of(request), namespace_of(request), _key(request)
    rule = _rule(await read_form(request, LimitForm, doors.limits.body_bytes_max))
    bucket = bucket_of_key(doors.placement, namespace, key)
    look = partial(limit.lock, bucket=bucket, namespace=namespace, key=key)
    _, (_, new) = await audited(
        request,
        lambda done: Noted(
            kind="limit", id=key, before=_facts(first_seen(done[0], new=done[1][1])), after=_facts(done[1][0])
        ),
        seeing(look, limit.put),
        bucket,
        rule,
        namespace=namespace,
        key=key,
    )
    await _changed(doors)
    return answer(await _read(request, key), 201 if new else 200)


async def remove(request: Request) -> Response:
    """Forget what was set; what its node says of a reasoner holds again."""
    doors, namespace, key = doors_of(request), namespace_of(request), _key(request)
    bucket = bucket_of_key(doors.placement, namespace, key)
    look = partial(limit.lock, bucket=bucket, namespace=namespace, key=key)
    _, gone = await audited(
        request,
        lambda done: Noted(kind="limit", id=key, before=_facts(done[0])),
        seeing(look, limit.remove),
        bucket,
        namespace=namespace,
        key=key,
    )
    await _changed(doors)
    return answer({"key": key, "deleted": gone})


async def _changed(doors: Doors) -> None:
    """This replica knows of it from here on, the others within a second."""
    await doors.catalogue.refresh()
    doors.admission.blocked()


async def _read(request: Request, key: str) -> shapes.Shape:
    doors = doors_of(request)
    view = await doors.run(limits.read, namespace=namespace_of(request), key=key, placement=doors.placement)
    if view is None:
        raise LimitNotFound
    return _shape(view)


def _key(request: Request) -> str:
    key = clean(request.path_params["key"], where="path/key", chars_max=KEY_MAX)
    if not is_key(key) or (key.startswith(KEY) and len(key) > len(KEY) + LABEL_MAX):
        raise Invalid("Not the key of a limit.", where="path/key", fix=f"One of {FORMS}.")
    return key


def _rule(form: LimitForm) -> Rule:
    if form.concurrency_max is None and form.rate_max is None:
        raise Invalid(
            "Neither concurrency_max nor rate_max.", where="body", fix="Say one of them, or DELETE the limit."
        )
    if (form.rate_max is None) != (form.rate_seconds is None):
        raise Invalid("rate_max and rate_seconds belong together.", where="body.rate_seconds")
    seconds = form.rate_seconds
    if seconds is not None and not (math.isfinite(seconds) and RATE_SECONDS_MIN <= seconds <= RATE_SECONDS_MAX):
        raise Invalid(
            f"A number of seconds from {RATE_SECONDS_MIN:g} to {RATE_SECONDS_MAX:g}.", where="body.rate_seconds"
        )
    if form.concurrency_max is not None:
        bounded(form.concurrency_max, "body.concurrency_max", 0, CONCURRENCY_MAX)
    if form.rate_max is not None:
        bounded(form.rate_max, "body.rate_max", 0, RATE_MAX)
    return Rule(concurrency_max=form.concurrency_max, rate_max=form.rate_max, rate_seconds=seconds)


def _facts(one: Limit | None) -> Facts | None:
    """What somebody has set; None where that is nothing."""
    if one is None or (one.concurrency_max is None and one.rate_max is None):
        return None
    return {"concurrency_max": one.concurrency_max, "rate_max": one.rate_max, "rate_seconds": one.rate_seconds}


def _shape(view: LimitView) -> shapes.Shape:
    one = view.limit
    next_at = one.next_at(view.now.timestamp())
    return shapes.present(
        {
            "key": one.key,
            "concurrency_max": one.most,
            "declared_max": one.declared_max,
            "rate_max": one.rate_max,
            "rate_seconds": one.rate_seconds,
            "held": view.held.held,
            "blocked": view.blocked,
            "counts_are_more": True if max(view.held.held, view.blocked) >= COUNT_MAX else None,
            "next_at": None if next_at is None else moment(next_at),
            "updated_at": None if one.updated_at is None else moment(one.updated_at),
        }
    )


LOOK = {404: "There is no such limit.", 422: "Not the key of a limit.", 503: "Try again."}

OPERATIONS = [
    Operation(
        method="GET",
        scope=READ,
        path="/api/v1/limits",
        handler=page,
        summary="List limits by key",
        tag="limits",
        query={"limit": "1 to 200, 50 by default", "cursor": "next_cursor of the page before"},
        answers={200: "A page.", 422: "A parameter is not valid.", 503: "Try again."},
    ),
    Operation(
        method="GET",
        scope=READ,
        path="/api/v1/limits/{key}",
        slashes=True,
        handler=read,
        summary="Read one limit, what it holds and how many wait",
        tag="limits",
        answers={200: "The limit.", **LOOK},
    ),
    Operation(
        method="PUT",
        scope=OPERATE,
        path="/api/v1/limits/{key}",
        slashes=True,
        handler=put,
        audit="limit.set",
        summary="Set the limit of a reasoner, a node or a concurrency key",
        tag="limits",
        takes=LimitForm,
        answers={
            200: "Changed.",
            201: "Set.",
            400: "The body is malformed.",
            413: "Larger than the limit, which is named.",
            422: "The key or the body says something that cannot be; nothing was changed.",
            503: "Try again.",
        },
    ),
    Operation(
        method="DELETE",
        scope=OPERATE,
        path="/api/v1/limits/{key}",
        slashes=True,
        handler=remove,
        audit="limit.deleted",
        summary="Delete a limit; what waited for it is let in",
        tag="limits",
        answers={200: "Gone, or as the node says again.", **LOOK},
    ),
]
