"""Memory: set, get, delete, list, append, and several operations as one checkpoint. 200 means committed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.audited import Noted, audited
from controlplane.api.body import clean, payload, read_form
from controlplane.api.doors import CHANGES_TOPIC, Doors, doors_of, put_each
from controlplane.api.operation import EXECUTE_OR_NODE, READ_OR_NODE, Handler, Operation
from controlplane.api.paging import integer
from controlplane.api.problems import answer as problem
from controlplane.api.problems import status_of
from controlplane.api.scopes import HEADERS, Around, around_of, place_of, scope_of, scopes_around, word_for
from controlplane.api.shapes import answer
from controlplane.api.whose import require
from controlplane.domain.ids import bucket_of, read_fenced
from controlplane.domain.lease import Fence
from controlplane.domain.memory import (
    KEY_MAX,
    SCOPE_ID_MAX,
    Append,
    Op,
    Place,
    Put,
    Remove,
    Scope,
    Value,
    Write,
    Written,
)
from controlplane.errors import (
    ControlPlaneError,
    ExecutionNotFound,
    Invalid,
    LengthMismatch,
    MemoryNotFound,
    NotAList,
    bare,
)
from controlplane.postgres.pool import Connection
from controlplane.reads import executions, memory
from controlplane.stages import checkpoint

OPS_MAX = 1_000
ITEMS_MAX = 10_000
LIST_MAX = 1_000


class KeyForm(msgspec.Struct):
    """One key. Without `scope` the first id among the headers decides: run, session, actor, else global."""

    key: str
    scope: str | None = None
    scope_id: str | None = None


class SetForm(msgspec.Struct):
    """A value to store under a key."""

    key: str
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    scope: str | None = None
    scope_id: str | None = None


class AppendForm(msgspec.Struct):
    """Elements to add to a list; with `expected_length` a repeat after a lost answer adds nothing."""

    key: str
    items: list[msgspec.Raw]
    expected_length: int | None = None
    scope: str | None = None
    scope_id: str | None = None


class OpForm(msgspec.Struct, forbid_unknown_fields=True):
    op: Literal["set", "delete", "append"]
    key: str
    value: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    items: list[msgspec.Raw] = []
    expected_length: int | None = None
    scope: str | None = None
    scope_id: str | None = None


class GroupForm(msgspec.Struct, forbid_unknown_fields=True):
    """Operations that stand together or not at all. With an attempt, only while it holds its lease."""

    ops: list[OpForm]
    execution_id: str | None = None
    attempt: int | None = None
    run_id: str | None = None
    session_key: str | None = None
    actor_key: str | None = None


class WriteForm(msgspec.Struct, forbid_unknown_fields=True):
    writes: list[GroupForm]


async def set_value(request: Request) -> Response:
    """Store a value; it comes back byte for byte."""
    doors = doors_of(request)
    form = await read_form(request, SetForm, doors.limits.body_bytes_max)
    around = around_of(request)
    place = place_of(doors, around, form.key, form.scope, form.scope_id, "body")
    op = _put(place, form.data, "body.data", doors.limits.payload_bytes_max)
    written = (await _write(request, doors, around, (op,)))[0]
    assert written.created_at is not None
    assert written.updated_at is not None
    value = Value(
        scope=place.scope,
        scope_id=place.scope_id,
        key=place.key,
        value=op.value,
        length=written.length,
        version=written.version,
        created_at=written.created_at,
        updated_at=written.updated_at,
    )
    return answer(shapes.memory(value, word_for(place.scope, around, form.scope)))


async def get_value(request: Request) -> Response:
    """The value under a key; without `scope` the nearest: run, session, actor, global."""
    doors = doors_of(request)
    form = await read_form(request, KeyForm, doors.limits.body_bytes_max)
    around = around_of(request)
    scopes = [scope_of(form.scope, "body.scope")] if form.scope else scopes_around(around)
    for scope in scopes:
        place = place_of(doors, around, form.key, scope.value, form.scope_id, "body")
        value = await doors.run(memory.read, place)
        if value is not None:
            return answer(shapes.memory(value, word_for(scope, around, form.scope)))
    raise _missing()


async def delete_value(request: Request) -> Response:
    """Forget a key."""
    doors = doors_of(request)
    form = await read_form(request, KeyForm, doors.limits.body_bytes_max)
    around = around_of(request)
    place = place_of(doors, around, form.key, form.scope, form.scope_id, "body")
    written = (await _write(request, doors, around, (Remove(place=place),)))[0]
    if not written.existed:
        raise _missing()
    return Response(status_code=204)


async def append_items(request: Request) -> Response:
    """Add elements to a list without sending it again."""
    doors = doors_of(request)
    form = await read_form(request, AppendForm, doors.limits.body_bytes_max)
    around = around_of(request)
    place = place_of(doors, around, form.key, form.scope, form.scope_id, "body")
    op = _append(place, form.items, form.expected_length, "body", doors.limits.payload_bytes_max)
    written = (await _write(request, doors, around, (op,)))[0]
    shape = {"scope": word_for(place.scope, around, form.scope), "scope_id": place.scope_id, "key": place.key}
    return answer(shape | {"length": written.length, "version": written.version})


async def list_values(request: Request) -> Response:
    """The values of a scope in the order of their keys, at most 1,000; go on with `after`."""
    doors = doors_of(request)
    around = around_of(request)
    query = request.query_params
    after = query.get("after", "")
    limit = integer(request, "limit", default=LIST_MAX, least=1, most=LIST_MAX)
    prefix = clean(query.get("prefix", ""), where="query/prefix", chars_max=KEY_MAX, empty=True)
    asked = query.get("scope") or None
    place = place_of(doors, around, after or " ", asked, query.get("scope_id") or None, "query")
    start = place._replace(key=after)
    values = await doors.run(memory.page, start, prefix=prefix, limit=limit)
    word = word_for(place.scope, around, asked)
    return answer([shapes.memory(value, word) for value in values])


async def write(request: Request) -> Response:
    """Checkpoints: every group whole or not at all, each answered by itself."""
    doors = doors_of(request)
    form = await read_form(request, WriteForm, doors.limits.body_bytes_max)
    if not 1 <= sum(len(group.ops) for group in form.writes) <= OPS_MAX:
        raise Invalid(f"From 1 to {OPS_MAX} operations.", where="body.writes")
    places = [f"body.writes[{n}]" for n in range(len(form.writes))]
    around = around_of(request)
    groups = [
        await _parsed(request, doors, around.again(), group, where)
        for group, where in zip(form.writes, places, strict=True)
    ]
    answers = await _commit_each(request, doors, groups)
    if any(isinstance(one, list) for one in answers):
        doors.hints.tell(CHANGES_TOPIC)
    for where, one in zip(places, answers, strict=True):
        if isinstance(one, LengthMismatch | NotAList):
            one.where = f"{where}.{one.where}"
    if len(answers) == 1 and isinstance(answers[0], ControlPlaneError):
        return problem(answers[0])
    return answer({"results": [_result(one) for one in answers]})


def _result(done: list[Written] | ControlPlaneError) -> shapes.Shape:
    if isinstance(done, ControlPlaneError):
        return {"http_status": status_of(done), "code": done.code, "message": done.detail} | dict(done.facts)
    versions = [shapes.present({"key": one.key, "version": one.version, "length": one.length}) for one in done]
    return {"http_status": 200, "code": "committed", "versions": versions}


async def _write(request: Request, doors: Doors, around: Around, ops: tuple[Op, ...]) -> list[Written]:
    await require(request, around.fence)
    try:
        written = await _commit(request, doors, around.write(ops))
    except (LengthMismatch, NotAList) as error:
        error.where = "body.key"
        raise
    doors.hints.tell(CHANGES_TOPIC)
    return written


async def _commit_each(
    request: Request, doors: Doors, writes: Sequence[Write | ControlPlaneError]
) -> list[list[Written] | ControlPlaneError]:
    if any(isinstance(one, Write) and _is_audited(one) for one in writes):
        return [await _committed(request, doors, one) for one in writes]
    return await put_each(doors.lanes.memory, writes)


async def _committed(
    request: Request, doors: Doors, write: Write | ControlPlaneError
) -> list[Written] | ControlPlaneError:
    if isinstance(write, ControlPlaneError):
        return write
    try:
        return await _commit(request, doors, write)
    except ControlPlaneError as error:
        return bare(error)


async def _commit(request: Request, doors: Doors, write: Write) -> list[Written]:
    if _is_audited(write):
        return await audited(request, lambda done: _noted(write, done), _write_now, write)
    return await doors.lanes.memory.put(write)


def _is_audited(write: Write) -> bool:
    """What somebody takes away who is no attempt stands in the audit log, with its keys."""
    return write.fence is None and any(isinstance(op, Remove) for op in write.ops)


async def _write_now(conn: Connection, write: Write) -> list[Written]:
    [written] = await checkpoint.write(conn, [write])
    if isinstance(written, ControlPlaneError):
        raise written
    return written


def _noted(write: Write, written: list[Written]) -> Noted | None:
    """None where nothing was there to be taken away."""
    done = zip(write.ops, written, strict=True)
    names = [_name(op.place) for op, one in done if isinstance(op, Remove) and one.existed]
    return Noted(kind="memory", id=names[0], before={"keys": names}) if names else None


def _name(place: Place) -> str:
    return f"{place.scope.value}/{place.scope_id}/{place.key}"


async def _parsed(
    request: Request, doors: Doors, around: Around, form: GroupForm, where: str
) -> Write | ControlPlaneError:
    """What cannot be in one group must not keep the others, of other executions, from being written."""
    try:
        return await _group(request, doors, around, form, where)
    except ControlPlaneError as error:
        return bare(error)


async def _group(request: Request, doors: Doors, around: Around, form: GroupForm, where: str) -> Write:
    if form.execution_id is not None:
        id_, attempt = read_fenced(form.execution_id, where=f"{where}.execution_id")
        attempt = form.attempt if form.attempt is not None else attempt
        around.writer = id_
        around.fence = None if attempt is None else Fence(id_, _attempt(attempt, where))
    for scope, text in ((Scope.RUN, form.run_id), (Scope.SESSION, form.session_key), (Scope.ACTOR, form.actor_key)):
        if text is not None:
            around.scope_ids[scope] = clean(text, where=where, chars_max=SCOPE_ID_MAX)
    await require(request, around.fence)
    if around.writer is not None and any(_lacks(around, op) for op in form.ops):
        await _fill(doors, around)
    ops: list[Op] = []
    for n, op in enumerate(form.ops):
        here = f"{where}.ops[{n}]"
        place = place_of(doors, around, op.key, op.scope, op.scope_id, here)
        if op.op == "set":
            ops.append(_put(place, op.value, f"{here}.value", doors.limits.payload_bytes_max))
        elif op.op == "append":
            ops.append(_append(place, op.items, op.expected_length, here, doors.limits.payload_bytes_max))
        else:
            ops.append(Remove(place=place))
    if not ops:
        raise Invalid("At least one operation.", where=f"{where}.ops")
    return around.write(tuple(ops))


def _lacks(around: Around, op: OpForm) -> bool:
    scope = scope_of(op.scope, "scope") if op.scope else Scope.RUN
    return op.scope_id is None and scope is not Scope.GLOBAL and scope not in around.scope_ids


async def _fill(doors: Doors, around: Around) -> None:
    """The scope ids of the execution that writes, for those that the request does not name."""
    id_ = around.writer
    assert id_ is not None
    found = await doors.run(executions.read_parent, bucket_of(id_), id_, namespace=around.namespace)
    if found is None:
        raise ExecutionNotFound
    own = {Scope.RUN: found.run_id, Scope.SESSION: found.session_key, Scope.ACTOR: found.actor_key}
    around.scope_ids = {scope: text for scope, text in own.items() if text is not None} | around.scope_ids


def _put(place: Place, raw: msgspec.Raw, where: str, bytes_max: int) -> Put:
    if not bytes(raw):
        raise Invalid("A value is needed; null is one.", where=where)
    kept, value = payload(raw, where=where, bytes_max=bytes_max)
    return Put(place=place, value=kept, length=len(value) if isinstance(value, list) else None)


def _append(place: Place, items: list[msgspec.Raw], expected: int | None, where: str, bytes_max: int) -> Append:
    if not 1 <= len(items) <= ITEMS_MAX:
        raise Invalid(f"From 1 to {ITEMS_MAX} elements.", where=f"{where}.items")
    if expected is not None and not 0 <= expected < 2**31 - ITEMS_MAX:
        raise Invalid("A whole number from 0.", where=f"{where}.expected_length")
    kept = tuple(payload(item, where=f"{where}.items[{n}]", bytes_max=bytes_max)[0] for n, item in enumerate(items))
    return Append(place=place, items=kept, expected_length=expected)


def _attempt(attempt: int, where: str) -> int:
    if not 1 <= attempt < 2**31:
        raise Invalid("A whole number from 1.", where=f"{where}.attempt")
    return attempt


def _missing() -> MemoryNotFound:
    """AgentField's client reads `error: not_found` and returns its default."""
    return MemoryNotFound("Nothing is stored under this key.", error="not_found", details="memory not found")


REFUSALS = {
    400: "Malformed.",
    404: "Nothing there.",
    409: "The lease is lost, or the list has another length.",
    413: "Too large.",
    422: "Not valid.",
    503: "Try again.",
}


def _operation(name: str, handler: Handler, summary: str, takes: type, status: int = 200) -> Operation:
    return Operation(
        scope=READ_OR_NODE if name == "get" else EXECUTE_OR_NODE,
        method="POST",
        path=f"/api/v1/memory/{name}",
        handler=handler,
        summary=summary,
        tag="memory",
        takes=takes,
        headers=HEADERS,
        audit="memory.deleted" if name in ("delete", "write") else None,
        answers={status: "Committed."} | REFUSALS,
    )


OPERATIONS = [
    _operation("set", set_value, "Store a value", SetForm),
    _operation("get", get_value, "Read a value", KeyForm),
    _operation("delete", delete_value, "Forget a key", KeyForm, 204),
    _operation("append", append_items, "Add elements to a list", AppendForm),
    _operation("write", write, "Several operations as one checkpoint", WriteForm),
    Operation(
        scope=READ_OR_NODE,
        method="GET",
        path="/api/v1/memory/list",
        handler=list_values,
        summary="List the values of a scope",
        tag="memory",
        headers=HEADERS,
        query={
            "scope": "run, session, actor, global",
            "scope_id": "Else from the headers",
            "prefix": "Only keys that begin so",
            "after": "The last key of the page before",
            "limit": "1 to 1000",
        },
        answers={200: "The values.", 422: "Not valid.", 503: "Try again."},
    ),
]
