"""Triggers: say who may send what to which reasoner, look at what came in, replay it."""

from __future__ import annotations

import base64
import secrets
import shlex
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import incoming, shapes
from controlplane.api.audited import Noted, audited, first_seen, seeing
from controlplane.api.body import clean, payload, read_form
from controlplane.api.doors import Doors, doors_of, namespace_of
from controlplane.api.executions import no_node, query_text
from controlplane.api.hooks import PREFIX, secrets_of, submission_of
from controlplane.api.operation import OPERATE, OPERATE_OR_NODE, READ, READ_OR_NODE, Handler, Operation
from controlplane.api.paging import limit_of
from controlplane.api.shapes import answer, present
from controlplane.api.whose import as_node, require_declared, require_node
from controlplane.domain import target as targets
from controlplane.domain.cap import Cap
from controlplane.domain.ids import read as read_id
from controlplane.domain.ids import show, show_execution
from controlplane.domain.key import KeyScope
from controlplane.domain.notice import moment
from controlplane.domain.target import is_name
from controlplane.domain.trigger import (
    CONFIGURABLE,
    OVERLAP_MAX_SECONDS,
    OVERLAP_SECONDS,
    PRESETS,
    SECRET_CHARS_MAX,
    Algorithm,
    Definition,
    Encoding,
    Outcome,
    Preset,
    Scheme,
    Trigger,
    TriggerEventId,
    TriggerId,
    header_of,
    sealed_for,
    slug_of,
)
from controlplane.errors import Invalid, NodeNotAllowed, TriggerEventNotFound, TriggerNotFound
from controlplane.postgres.pool import Connection
from controlplane.reads import triggers
from controlplane.reads.triggers import EventView, TriggerView
from controlplane.security.incoming import sign
from controlplane.security.keys import same
from controlplane.stages import trigger

REASON_MAX = 200
SAMPLE = b'{"type":"test","data":{"hello":"world"}}'
SAMPLE_BYTES_MAX = 65_536
FREE = ("header", "prefix", "algorithm", "encoding", "signed", "timestamp_header", "id_from", "type_from")


P = ParamSpec("P")
Result = TypeVar("Result")


class SchemeForm(msgspec.Struct, forbid_unknown_fields=True):
    """What stands in no preset but is said: for `hmac` and `bearer`; `tolerance_seconds` for all."""

    header: str | None = None
    prefix: str | None = None
    algorithm: Algorithm | None = None
    encoding: Encoding | None = None
    signed: str | None = None
    timestamp_header: str | None = None
    id_from: str | None = None
    type_from: str | None = None
    tolerance_seconds: float | None = None


class TriggerForm(SchemeForm, forbid_unknown_fields=True, kw_only=True):
    """Who may send (`preset`, `secret`), what is submitted (`target`, `arguments`), and for what (`event_types`)."""

    name: str
    target: str
    preset: Preset
    secret: str
    arguments: dict[str, str] | None = None
    event_types: list[str] = []
    managed_by: str | None = None
    paused: bool = False


class ChangeForm(SchemeForm, forbid_unknown_fields=True, kw_only=True):
    """What is left out stays as it is; with `preset` how the sender signs is said anew, whole.

    The secret before goes on to be taken for `overlap_seconds`, a day when nothing is said.
    """

    target: str | None = None
    preset: Preset | None = None
    secret: str | None = None
    overlap_seconds: float = OVERLAP_SECONDS
    arguments: dict[str, str] | None = None
    event_types: list[str] | None = None
    managed_by: str | None = None


class ReasonForm(msgspec.Struct, forbid_unknown_fields=True):
    reason: str | None = None


class SampleForm(msgspec.Struct, forbid_unknown_fields=True):
    """`body`: what the sample sends, any JSON. `event_type`: for senders that say it in a header."""

    body: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    event_type: str | None = None


class ReplayForm(msgspec.Struct, forbid_unknown_fields=True):
    idempotency_key: str | None = None


async def create(request: Request) -> Response:
    """A new trigger; one of this name that says the same is answered as it stands. The secret is never shown."""
    doors, namespace = doors_of(request), namespace_of(request)
    form = await read_form(request, TriggerForm, doors.limits.body_bytes_max)
    if not is_name(form.name):
        raise Invalid("1 to 128 letters, digits, _ - or :", where="body.name")
    secret = _secret(form.secret)
    entry = await doors.catalogue.find(namespace, str(targets.parse(form.target)))
    arguments = {"event": ""} if form.arguments is None else form.arguments
    definition = Definition(
        target=entry.target,
        scheme=_scheme(PRESETS[form.preset], form),
        arguments=arguments,
        event_types=tuple(dict.fromkeys(form.event_types)),
        managed_by=_managed_by(form.managed_by),
    )
    if as_node(request, KeyScope.OPERATE):
        require_declared(request, definition.target, definition.managed_by)
    bucket = doors.placement.of_key(namespace, form.name)
    id_ = TriggerId(doors.ids.new(bucket))
    _, (made, new) = await audited(
        request,
        lambda done: _noted(doors, form.name, first_seen(done[0], new=done[1][1]), done[1][0]),
        _seeing(request, form.name, trigger.create),
        bucket,
        id_,
        definition,
        namespace=namespace,
        name=form.name,
        secret_sealed=doors.keyring.seal(secret.encode(), bound_to=sealed_for(id_)),
        same_secret=lambda there: same(_opened(doors, there).encode(), secret.encode()),
        paused=form.paused,
        ceiling=doors.caps.ceiling(namespace, Cap.TRIGGERS),
    )
    warnings = no_node(entry)
    return answer(_shape(doors, made) | ({"warnings": warnings} if warnings else {}), 201 if new else 200)


async def change(request: Request) -> Response:
    """What is named changes, at once and together."""
    doors, namespace = doors_of(request), namespace_of(request)
    form = await read_form(request, ChangeForm, doors.limits.body_bytes_max)
    name, bucket = _name(request), _bucket(request)
    if form.target is not None:
        await doors.catalogue.find(namespace, str(targets.parse(form.target)))
    if not 0 <= form.overlap_seconds <= OVERLAP_MAX_SECONDS:
        raise Invalid(f"Seconds from 0 to {OVERLAP_MAX_SECONDS:g}.", where="body.overlap_seconds")
    secret = None if form.secret is None else _secret(form.secret)

    def revise(there: Trigger) -> tuple[Definition, bytes | None]:
        _allow(request, there)
        sealed = None
        if secret is not None and not same(secret.encode(), _opened(doors, there).encode()):
            sealed = doors.keyring.seal(secret.encode(), bound_to=sealed_for(there.id))
        revised = _revised(there.definition, form)
        _allow(request, replace(there, definition=revised))
        return revised, sealed

    _, changed = await audited(
        request,
        lambda done: _noted(doors, name, done[0], done[1]),
        _seeing(request, name, trigger.change),
        bucket,
        revise,
        namespace=namespace,
        name=name,
        overlap_seconds=form.overlap_seconds,
    )
    return answer(_shape(doors, changed))


async def page(request: Request) -> Response:
    """By name, without secrets."""
    doors, namespace = doors_of(request), namespace_of(request)
    limit, cursor = limit_of(request), query_text(request, "cursor")
    if as_node(request, KeyScope.READ):
        node_id = query_text(request, "managed_by")
        if node_id is None:
            raise NodeNotAllowed(where="query/managed_by", fix="Name the node: ?managed_by=NODE.")
        require_node(request, node_id)
    found = await doors.run(
        triggers.page,
        namespace=namespace,
        after=cursor or "",
        target=query_text(request, "target"),
        managed_by=query_text(request, "managed_by"),
        limit=limit + 1,
        placement=doors.placement,
    )
    more = len(found) > limit
    return answer(
        {
            "items": [_shape(doors, one) for one in found[:limit]],
            "next_cursor": found[limit - 1].name if more else None,
        }
    )


async def read(request: Request) -> Response:
    """One trigger, without its secret."""
    one = (await _view(request)).trigger
    if as_node(request, KeyScope.READ):
        require_declared(request, one.definition.target, one.definition.managed_by)
    return answer(_shape(doors_of(request), one))


async def remove(request: Request) -> Response:
    """Close the door; what has come in goes on."""
    doors, name = doors_of(request), _name(request)
    await audited(
        request,
        lambda done: _noted(doors, name, done[0], None),
        _seeing(request, name, trigger.remove),
        _bucket(request),
        namespace=namespace_of(request),
        name=name,
    )
    return answer({"name": name, "deleted": True})


async def pause(request: Request) -> Response:
    """What comes in is verified and kept, and submits nothing."""
    doors = doors_of(request)
    form = await read_form(request, ReasonForm, doors.limits.body_bytes_max)
    reason = None if form.reason is None else clean(form.reason, where="body.reason", chars_max=REASON_MAX)
    name = _name(request)
    _, paused = await audited(
        request,
        lambda done: _noted(doors, name, done[0], done[1]),
        _seeing(request, name, trigger.pause),
        _bucket(request),
        namespace=namespace_of(request),
        name=name,
        reason=reason,
        allow=lambda there: _allow(request, there),
    )
    return answer(_shape(doors, paused))


async def resume(request: Request) -> Response:
    """What comes in submits again; what was held meanwhile can be replayed."""
    doors, name = doors_of(request), _name(request)
    _, resumed = await audited(
        request,
        lambda done: _noted(doors, name, done[0], done[1]),
        _seeing(request, name, trigger.resume),
        _bucket(request),
        namespace=namespace_of(request),
        name=name,
        allow=lambda there: _allow(request, there),
    )
    return answer(_shape(doors, resumed))


async def sample(request: Request) -> Response:
    """A request as the sender would make it, signed; as long as its timestamp is fresh it is a real event."""
    doors = doors_of(request)
    form = await read_form(request, SampleForm, doors.limits.body_bytes_max)
    view = await _view(request)
    body, _ = payload(bytes(form.body) or SAMPLE, where="body.body", bytes_max=SAMPLE_BYTES_MAX)
    event_type = "test" if form.event_type is None else clean(form.event_type, where="body.event_type")
    headers = _signed(doors, view, body, event_type)
    one = view.trigger
    url = _url(doors, one)
    # It changes nothing, but whoever has it may speak as the sender.
    await audited(request, lambda _: Noted(kind="trigger", id=one.name), _nothing)
    said = [f"-H {_quoted(f'{name}: {value}', one)}" for name, value in headers.items()]
    curl = " ".join(["curl -sS", shlex.quote(url), *said, "--data-binary", shlex.quote(body.decode())])
    return answer({"method": "POST", "url": url, "headers": headers, "body": body.decode(), "curl": curl})


async def events(request: Request) -> Response:
    """What came in, the newest first, without bodies."""
    doors, limit = doors_of(request), limit_of(request)
    cursor, outcome = query_text(request, "cursor"), query_text(request, "outcome")
    view = await _view(request)
    found = await doors.run(
        triggers.events,
        _bucket(request),
        view.trigger.id,
        before=None if cursor is None else TriggerEventId(read_id("tev", cursor, where="query/cursor")),
        outcome=None if outcome is None else _outcome(outcome),
        limit=limit + 1,
    )
    more = len(found) > limit
    return answer(
        {
            "items": [_event(one) for one in found[:limit]],
            "next_cursor": show("tev", found[limit - 1].id) if more else None,
        }
    )


async def event(request: Request) -> Response:
    """One event with its body, and with those of its headers that are kept."""
    one = await _came(request, await _view(request))
    parsed, _ = incoming.read(one.body, {name: [value] for name, value in one.headers.items()})
    shown: shapes.Shape = (
        {"body": shapes.raw(parsed)} if parsed is not None else {"body_base64": base64.b64encode(one.body).decode()}
    )
    return answer(_event(one) | {"headers": dict(one.headers)} | shown)


async def replay(request: Request) -> Response:
    """A new execution of an event that came in, with the trigger as it is today, whatever became of it then."""
    doors, namespace = doors_of(request), namespace_of(request)
    form = await read_form(request, ReplayForm, doors.limits.body_bytes_max)
    key = request.headers.get("idempotency-key", form.idempotency_key)
    if key is not None:
        clean(key, where="Idempotency-Key")
    view, bucket = await _view(request), _bucket(request)
    one, came = view.trigger, await _came(request, view)
    parsed, why = incoming.read(came.body, {name: [value] for name, value in came.headers.items()})
    if parsed is None:
        raise Invalid(f"No input can be made of it: {why}", where="path/event_id")
    input_ = incoming.input_of(one.definition, parsed, came.headers, bytes_max=doors.limits.payload_bytes_max)
    wish = await submission_of(doors, bucket, one, came.id, input_, key=came.key, replay=True)
    scope = f"trigger {show('tev', came.id)}"
    doors.caps.enter(namespace)
    accepted = await audited(
        request,
        lambda done: Noted(
            kind="trigger",
            id=one.name,
            after={"trigger_event_id": show("tev", came.id), "execution_id": show_execution(done.id)},
        ),
        trigger.replay,
        bucket,
        one.id,
        came.id,
        replace(wish, idempotency_key=key, idempotency_scope=scope),
    )
    if accepted.blocked_by is not None:
        doors.admission.blocked()
    elif not accepted.replayed:
        doors.ready(namespace, wish.target)
    id_ = show_execution(accepted.id)
    shape = {
        "execution_id": id_,
        "run_id": accepted.run_id,
        "status": "queued",
        "target": wish.target,
        "trigger": one.name,
        "trigger_event_id": show("tev", came.id),
        "created_at": moment(accepted.created_at),
    }
    headers = {"Location": f"/api/v1/executions/{id_}", "X-Execution-ID": id_, "X-Run-ID": accepted.run_id}
    return answer(shape, 202, headers | ({"Idempotent-Replayed": "true"} if accepted.replayed else {}))


def _seeing(
    request: Request, name: str, call: Callable[Concatenate[Connection, P], Awaitable[Result]]
) -> Callable[Concatenate[Connection, P], Awaitable[tuple[Trigger | None, Result]]]:
    namespace = namespace_of(request)
    bucket = doors_of(request).placement.of_key(namespace, name)
    return seeing(partial(trigger.lock, bucket=bucket, namespace=namespace, name=name), call)


def _noted(doors: Doors, name: str, before: Trigger | None, after: Trigger | None) -> Noted:
    """Of a secret only that it is another one."""
    was, now = (None if one is None else _shape(doors, one) for one in (before, after))
    if before is not None and after is not None and was is not None and now is not None:
        was["updated_at"] = now["updated_at"]
        now["secret_changed"] = True if before.secret_sealed != after.secret_sealed else None
    return Noted(kind="trigger", id=name, before=was, after=now)


async def _nothing(_: Connection) -> None:
    pass


def _allow(request: Request, there: Trigger) -> None:
    """The caller may touch this trigger: a node's only its own. Raises: NodeNotAllowed."""
    if as_node(request, KeyScope.OPERATE):
        require_declared(request, there.definition.target, there.definition.managed_by)


def _scheme(base: Scheme, form: SchemeForm) -> Scheme:
    """The preset with what the form says. Raises Invalid where the preset leaves nothing to be said."""
    said = {word: value for word in FREE if (value := getattr(form, word)) is not None}
    if said and base.preset not in CONFIGURABLE:
        word = next(iter(said))
        raise Invalid(f"The preset {base.preset.value} says this itself.", where=f"body.{word}", fix="Preset hmac.")
    if base.preset is Preset.BEARER and "header" in said and "prefix" not in said:
        said["prefix"] = ""
    if said.get("timestamp_header") and "signed" not in said and "{timestamp}" not in base.signed:
        said["signed"] = "{timestamp}.{body}"
    for word in ("id_from", "type_from"):
        if said.get(word) == "":
            said[word] = None
    if form.tolerance_seconds is not None:
        said["tolerance_seconds"] = form.tolerance_seconds
    return replace(base, **said)


def _revised(there: Definition, form: ChangeForm) -> Definition:
    base = there.scheme if form.preset is None else PRESETS[form.preset]
    return Definition(
        target=there.target if form.target is None else form.target,
        scheme=_scheme(base, form),
        arguments=there.arguments if form.arguments is None else form.arguments,
        event_types=there.event_types if form.event_types is None else tuple(dict.fromkeys(form.event_types)),
        managed_by=there.managed_by if form.managed_by is None else _managed_by(form.managed_by),
    )


def _secret(text: str) -> str:
    if not text or len(text) > SECRET_CHARS_MAX or not text.isprintable():
        raise Invalid(f"1 to {SECRET_CHARS_MAX} printable characters.", where="body.secret")
    return text


def _managed_by(text: str | None) -> str | None:
    if text and not is_name(text):
        raise Invalid("The id of a node.", where="body.managed_by")
    return text or None


def _opened(doors: Doors, there: Trigger) -> str:
    return secrets_of(doors, TriggerView(trigger=there, now=there.updated_at))[0]


def _outcome(text: str) -> Outcome:
    if text not in list(Outcome):
        raise Invalid(f"One of {', '.join(Outcome)}.", where="query/outcome")
    return Outcome(text)


def _name(request: Request) -> str:
    name: str = request.path_params["name"]
    if not is_name(name):
        raise TriggerNotFound
    return name


def _bucket(request: Request) -> int:
    return doors_of(request).placement.of_key(namespace_of(request), _name(request))


async def _view(request: Request) -> TriggerView:
    view = await doors_of(request).run(
        triggers.read, _bucket(request), namespace=namespace_of(request), name=_name(request)
    )
    if view is None:
        raise TriggerNotFound
    return view


async def _came(request: Request, view: TriggerView) -> EventView:
    id_ = TriggerEventId(read_id("tev", request.path_params["event_id"], where="path/event_id"))
    found = await doors_of(request).run(triggers.event, _bucket(request), view.trigger.id, id_)
    if found is None:
        raise TriggerEventNotFound
    return found


def _url(doors: Doors, one: Trigger) -> str:
    return f"{doors.public_url}{PREFIX}{slug_of(one.namespace, one.name)}"


def _shape(doors: Doors, one: Trigger) -> shapes.Shape:
    """A trigger in the words it was asked for in; of its secret only whether the one before is still taken."""
    asked, scheme = one.definition, one.definition.scheme
    shape: shapes.Shape = {
        "name": one.name,
        "trigger_id": show("trg", one.id),
        "slug": slug_of(one.namespace, one.name),
        "url": _url(doors, one),
        "target": asked.target,
        "preset": scheme.preset.value,
        "weak": True if scheme.preset is Preset.BEARER else None,
        "tolerance_seconds": scheme.tolerance_seconds,
        "id_from": scheme.id_from,
        "type_from": scheme.type_from,
        "arguments": dict(asked.arguments),
        "event_types": list(asked.event_types),
        "managed_by": asked.managed_by,
        "previous_secret_until": None if one.previous_until is None else moment(one.previous_until),
        "paused": one.paused,
        "paused_reason": one.paused_reason,
        "created_at": moment(one.created_at),
        "updated_at": moment(one.updated_at),
    }
    if scheme.preset in CONFIGURABLE:
        shape |= {word: getattr(scheme, word) for word in FREE}
    return present(shape)


def _event(one: EventView) -> shapes.Shape:
    return present(
        {
            "trigger_event_id": show("tev", one.id),
            "key": one.key,
            "type": one.type,
            "outcome": one.outcome.value,
            "reason": one.reason,
            "execution_id": None if one.execution_id is None else show_execution(one.execution_id),
            "replays": one.replays,
            "replay_execution_id": None if one.replay_execution_id is None else show_execution(one.replay_execution_id),
            "at": moment(one.at),
        }
    )


def _signed(doors: Doors, view: TriggerView, body: bytes, event_type: str) -> dict[str, str]:
    """The headers of a sample; instead of a bearer's secret, which is never shown, the name of a variable for it."""
    scheme = view.trigger.definition.scheme
    secret = "$SECRET" if scheme.preset is Preset.BEARER else secrets_of(doors, view)[0]
    timestamp, event_id = str(int(view.now.timestamp())), f"test_{secrets.token_hex(8)}"
    headers = {"Content-Type": "application/json"}
    if scheme.timestamp_header:
        headers[scheme.timestamp_header] = timestamp
    for source, value in ((scheme.id_from, event_id), (scheme.type_from, event_type)):
        if source is not None and header_of(source) is not None:
            headers[source.partition(":")[2]] = value
    headers[scheme.header] = sign(scheme, secret, body, timestamp=timestamp, event_id=event_id)
    return headers


def _quoted(text: str, one: Trigger) -> str:
    """For a shell; a bearer's header lets it fill in the secret."""
    return f'"{text}"' if one.definition.scheme.preset is Preset.BEARER and "$SECRET" in text else shlex.quote(text)


LOOK = {404: "There is no trigger of this name.", 422: "Not valid.", 503: "Try again."}
BODY = {400: "Malformed.", 413: "Larger than a limit, which is named."}
KEYED = {"Idempotency-Key": "The same key again answers with the first execution, for 24 hours."}


def _one(
    method: str,
    path: str,
    handler: Handler,
    summary: str,
    *,
    takes: type | None = None,
    status: int = 200,
    done: str = "The trigger.",
    query: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    audit: str | None = None,
    scope: frozenset[KeyScope] | None = None,
) -> Operation:
    return Operation(
        method=method,
        scope=scope or (READ if method == "GET" else OPERATE),
        path=f"/api/v1/triggers/{{name}}{path}",
        handler=handler,
        audit=audit,
        summary=summary,
        tag="triggers",
        takes=takes,
        answers={status: done, **LOOK, **({} if takes is None else BODY)},
        query=query or {},
        headers=headers or {},
    )


OPERATIONS = [
    Operation(
        method="POST",
        scope=OPERATE_OR_NODE,
        path="/api/v1/triggers",
        handler=create,
        audit="trigger.created",
        summary="Create a trigger",
        tag="triggers",
        takes=TriggerForm,
        answers={
            200: "It was there already.",
            201: "Created.",
            404: "No registered node has this target; `nearest` names some.",
            409: "There is another of this name.",
            422: "The body says something that cannot be; nothing was changed.",
            503: "Try again.",
            **BODY,
        },
    ),
    Operation(
        method="GET",
        scope=READ_OR_NODE,
        path="/api/v1/triggers",
        handler=page,
        summary="List triggers by name",
        tag="triggers",
        query={
            "target": "Those that submit this node_id.reasoner_name",
            "managed_by": "Those that the code of this node declares",
            "limit": "1 to 200, 50 by default",
            "cursor": "next_cursor of the page before",
        },
        answers={200: "A page.", 422: "A filter is not valid.", 503: "Try again."},
    ),
    _one("GET", "", read, "Read one trigger", scope=READ_OR_NODE),
    _one(
        "PATCH",
        "",
        change,
        "Change a trigger, or its secret",
        takes=ChangeForm,
        audit="trigger.changed",
        scope=OPERATE_OR_NODE,
    ),
    _one("DELETE", "", remove, "Delete a trigger; what has come in goes on", done="Gone.", audit="trigger.deleted"),
    _one(
        "POST",
        "/pause",
        pause,
        "Pause a trigger; what comes in is kept",
        takes=ReasonForm,
        audit="trigger.paused",
        scope=OPERATE_OR_NODE,
    ),
    _one("POST", "/resume", resume, "Resume a trigger", audit="trigger.resumed", scope=OPERATE_OR_NODE),
    _one(
        "POST",
        "/test",
        sample,
        "A signed sample request",
        takes=SampleForm,
        done="A request, also as curl.",
        audit="trigger.sampled",
    ),
    _one(
        "GET",
        "/events",
        events,
        "What came in, the newest first",
        done="A page.",
        query={
            "outcome": "submitted, filtered, held or rejected",
            "limit": "1 to 200, 50 by default",
            "cursor": "next_cursor of the page before",
        },
    ),
    _one("GET", "/events/{event_id}", event, "One event with its body", done="The event."),
    _one(
        "POST",
        "/events/{event_id}/replay",
        replay,
        "Submit an event that came in once more",
        takes=ReplayForm,
        audit="trigger.replayed",
        status=202,
        done="Accepted and durable.",
        headers=KEYED,
    ),
]
