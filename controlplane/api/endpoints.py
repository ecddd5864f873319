"""Endpoints: receivers that are registered once and told of everything that they subscribe to."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.audited import Noted, audited, seeing
from controlplane.api.body import clean, read_form
from controlplane.api.doors import DELIVERIES_TOPIC, EVENTS_TOPIC, Doors, caller_of, doors_of, namespace_of
from controlplane.api.executions import query_text
from controlplane.api.operation import NOTHING, OPERATE, READ, Handler, Operation
from controlplane.api.paging import limit_of
from controlplane.api.shapes import answer, present
from controlplane.domain.delivery import ENDPOINT, USER_AGENT, Attempt, AttemptOutcome
from controlplane.domain.endpoint import (
    DESCRIPTION_CHARS_MAX,
    ENDS,
    OVERLAP_MAX_SECONDS,
    OVERLAP_SECONDS,
    REASON_CHARS_MAX,
    SCHEDULE,
    SECRET_CHARS_MAX,
    TARGETS_MAX,
    Definition,
    Endpoint,
    EndpointId,
    EndpointState,
    events_of,
    sealed_for,
)
from controlplane.domain.ids import read as read_id
from controlplane.domain.ids import show
from controlplane.domain.notice import fact_body, moment
from controlplane.domain.target import is_name
from controlplane.errors import EndpointNotFound, Invalid
from controlplane.postgres.pool import Connection
from controlplane.reads import endpoints
from controlplane.security.egress import check_headers
from controlplane.security.keys import same
from controlplane.security.secrets import SealBroken
from controlplane.security.signature import new_secret, signed_headers, standard_key
from controlplane.stages import endpoint
from controlplane.stages.endpoint import Ref

PREFIX = f"{ENDPOINT}_"
TEST = "endpoint.test"
SOMEBODY = "somebody"
"""`disabled_by`, where there are no keys."""


class EndpointForm(msgspec.Struct, forbid_unknown_fields=True):
    """`events`: those that are told, the four ends when nothing is said, `*` for all; `targets`: only of these
    (`node_id.reasoner_name`, or a `node_id`), else of all.

    `secret` signs; without one it is made and shown once. `headers` are sent along. `schedule`: seconds before each
    attempt, ten over three days when nothing is said.
    """

    name: str
    url: str
    events: list[str] | None = None
    targets: list[str] = []
    secret: str | None = None
    headers: dict[str, str] | None = None
    schedule: list[float] | None = None
    description: str | None = None


class EndpointChangeForm(msgspec.Struct, forbid_unknown_fields=True):
    """What is left out stays as it is. `headers` are said anew, all of them; the secret is changed by `rotate`."""

    url: str | None = None
    events: list[str] | None = None
    targets: list[str] | None = None
    headers: dict[str, str] | None = None
    schedule: list[float] | None = None
    description: str | None = None


class DisableForm(msgspec.Struct, forbid_unknown_fields=True):
    reason: str | None = None


class EnableForm(msgspec.Struct, forbid_unknown_fields=True):
    """Nothing is asked for."""


class RotateForm(msgspec.Struct, forbid_unknown_fields=True):
    """`secret`: the new one, else it is made and shown once. The one before signs for `overlap_seconds` more."""

    secret: str | None = None
    overlap_seconds: float = OVERLAP_SECONDS


class TestForm(msgspec.Struct, forbid_unknown_fields=True):
    """Nothing is asked for."""


async def create(request: Request) -> Response:
    """A new endpoint; one of this name that says the same is answered as it stands, without its secret."""
    doors, namespace = doors_of(request), namespace_of(request)
    form = await read_form(request, EndpointForm, doors.limits.body_bytes_max)
    if not is_name(form.name) or form.name.startswith(PREFIX):
        raise Invalid(f"1 to 128 letters, digits, _ - or :, not beginning with {PREFIX}", where="body.name")
    url, host = _url(doors, form.url)
    definition = Definition(
        url=url,
        host=host,
        events=events_of([one.value for one in ENDS] if form.events is None else form.events, where="body.events"),
        targets=_targets(form.targets),
        schedule=tuple(map(float, SCHEDULE if form.schedule is None else form.schedule)),
        description=_description(form.description),
    )
    secret = new_secret() if form.secret is None else _secret(form.secret)
    headers = _headers(form.headers)
    bucket = _bucket(doors, namespace)
    id_ = EndpointId(doors.ids.new(bucket))
    _, (made, new) = await audited(
        request,
        lambda done: _noted(doors, done[0], done[1][0]),
        seeing(partial(_lock, bucket=bucket, ref=Ref(None, form.name), namespace=namespace), endpoint.create),
        bucket,
        id_,
        definition,
        namespace=namespace,
        name=form.name,
        secret_sealed=_seal(doors, id_, "secret", secret.encode()),
        headers_sealed=_sealed_headers(doors, id_, headers),
        same=lambda there: _same(doors, there, form.secret, headers),
        most=doors.limits.endpoints_max,
    )
    shown = {"secret": secret} if new and form.secret is None else {}
    return answer(_shape(doors, made) | shown, 201 if new else 200)


async def change(request: Request) -> Response:
    """What is named changes, at once and together; what is pending goes where it is then."""
    doors = doors_of(request)
    form = await read_form(request, EndpointChangeForm, doors.limits.body_bytes_max)
    place = None if form.url is None else _url(doors, form.url)
    events = None if form.events is None else events_of(form.events, where="body.events")
    description = _description(form.description)
    headers = None if form.headers is None else _headers(form.headers)

    def revise(there: Endpoint) -> tuple[Definition, bytes | None]:
        old = there.definition
        url, host = (old.url, old.host) if place is None else place
        new = Definition(
            url=url,
            host=host,
            events=old.events if events is None else events,
            targets=old.targets if form.targets is None else _targets(form.targets),
            schedule=old.schedule if form.schedule is None else tuple(map(float, form.schedule)),
            description=old.description if form.description is None else description,
        )
        if headers is None or headers == _opened_headers(doors, there):
            return new, there.headers_sealed
        return new, _sealed_headers(doors, there.id, headers)

    return answer(_shape(doors, await _turned(request, endpoint.change, revise)))


async def page(request: Request) -> Response:
    """By name, without secrets."""
    doors, namespace = doors_of(request), namespace_of(request)
    limit, cursor, state = limit_of(request), query_text(request, "cursor"), query_text(request, "state")
    if state is not None and state not in list(EndpointState):
        raise Invalid(f"One of {', '.join(EndpointState)}.", where="query/state")
    found = await doors.run(
        endpoints.page,
        _bucket(doors, namespace),
        namespace=namespace,
        after=cursor or "",
        state=state,
        limit=limit + 1,
    )
    more = len(found) > limit
    return answer(
        {
            "items": [_shape(doors, one) for one in found[:limit]],
            "next_cursor": found[limit - 1].name if more else None,
        }
    )


async def read(request: Request) -> Response:
    """One endpoint, without its secret."""
    return answer(_shape(doors_of(request), await _one(request)))


async def remove(request: Request) -> Response:
    """It is told nothing any more; what is pending is dead."""
    doors, namespace = doors_of(request), namespace_of(request)
    bucket, ref = _bucket(doors, namespace), _ref(request)
    _, id_ = await audited(
        request,
        lambda done: _noted(doors, done[0], None),
        seeing(partial(_lock, bucket=bucket, ref=ref, namespace=namespace), endpoint.remove),
        bucket,
        ref,
        namespace=namespace,
    )
    doors.hints.tell(EVENTS_TOPIC)
    return answer({"endpoint_id": show(ENDPOINT, id_), "deleted": True})


async def enable(request: Request) -> Response:
    """It hears of what happens from now on, and what was pending is sent."""
    doors = doors_of(request)
    await read_form(request, EnableForm, doors.limits.body_bytes_max)
    enabled = await _turned(request, endpoint.enable)
    doors.hints.tell(EVENTS_TOPIC)
    doors.hints.tell(DELIVERIES_TOPIC)
    return answer(_shape(doors, enabled))


async def disable(request: Request) -> Response:
    """It is sent nothing and hears of nothing; what is pending waits."""
    doors = doors_of(request)
    form = await read_form(request, DisableForm, doors.limits.body_bytes_max)
    reason = None if form.reason is None else clean(form.reason, where="body.reason", chars_max=REASON_CHARS_MAX)
    disabled = await _turned(request, partial(endpoint.disable, by=caller_of(request) or SOMEBODY, reason=reason))
    return answer(_shape(doors, disabled))


async def rotate(request: Request) -> Response:
    """Another secret signs from now on; for a while the one before signs, too."""
    doors = doors_of(request)
    form = await read_form(request, RotateForm, doors.limits.body_bytes_max)
    if not 0 <= form.overlap_seconds <= OVERLAP_MAX_SECONDS:
        raise Invalid(f"Seconds from 0 to {OVERLAP_MAX_SECONDS:g}.", where="body.overlap_seconds")
    secret = new_secret() if form.secret is None else _secret(form.secret)

    def seal(there: Endpoint) -> bytes | None:
        known = _opened(doors, there, there.secret_sealed)
        return None if same(known, secret.encode()) else _seal(doors, there.id, "secret", secret.encode())

    rotated = await _turned(request, partial(endpoint.rotate, overlap_seconds=form.overlap_seconds), seal)
    return answer(_shape(doors, rotated) | ({"secret": secret} if form.secret is None else {}))


async def test(request: Request) -> Response:
    """Send it a signed event of no execution, now and once, and show what was sent and what came back."""
    doors = doors_of(request)
    await read_form(request, TestForm, doors.limits.body_bytes_max)
    there = await _one(request)
    sample = doors.ids.new(0)
    body = fact_body(
        TEST,
        id_=sample,
        run_id=show("run", sample),
        target="endpoint.test",
        attempt=1,
        at=there.now,
        data=orjson.dumps({"endpoint_id": show(ENDPOINT, there.id), "name": there.name}),
    )
    try:
        keys = [_opened(doors, there, one).decode() for one in there.secrets_sealed]
        extra = _opened_headers(doors, there)
    except SealBroken:
        raise Invalid(
            "Its secret cannot be opened with this server's key ring.", where="path/endpoint_id", fix="Rotate it."
        ) from None
    own = {"Content-Type": "application/json", "User-Agent": USER_AGENT} | signed_headers(
        keys, webhook_id=show("dlv", sample), timestamp=int(there.now.timestamp()), body=body
    )
    async with doors.tests:
        said = await doors.send(url=there.definition.url, body=body, headers=extra | own)
    shown = own | dict.fromkeys(extra, "…")
    return answer(
        {
            "delivered": said.outcome is AttemptOutcome.DELIVERED,
            "request": {
                "method": "POST",
                "url": _shown_url(there),
                "headers": shown,
                "body": orjson.Fragment(body),
            },
            "response": _said(said),
        }
    )


async def _lock(conn: Connection, *, bucket: int, ref: Ref, namespace: int) -> Endpoint | None:
    return await endpoint.lock(conn, bucket, ref, namespace=namespace)


async def _turned(request: Request, turn: Callable[..., Awaitable[Endpoint]], *arguments: object) -> Endpoint:
    """The endpoint of the path after this was done to it, which the audit log knows then."""
    doors, namespace, ref = doors_of(request), namespace_of(request), _ref(request)
    bucket = _bucket(doors, namespace)
    _, turned = await audited(
        request,
        lambda done: _noted(doors, done[0], done[1]),
        seeing(partial(_lock, bucket=bucket, ref=ref, namespace=namespace), turn),
        bucket,
        ref,
        *arguments,
        namespace=namespace,
    )
    return turned


def _noted(doors: Doors, before: Endpoint | None, after: Endpoint | None) -> Noted:
    """Of what is secret only that it is another."""
    was, now = (None if one is None else _shape(doors, one) for one in (before, after))
    if before is not None and after is not None and was is not None and now is not None:
        was["updated_at"] = now["updated_at"]
        now["secret_changed"] = True if before.secret_sealed != after.secret_sealed else None
        now["headers_changed"] = True if before.headers_sealed != after.headers_sealed else None
    there = after or before
    return Noted(kind="endpoint", id="" if there is None else there.name, before=was, after=now)


def _said(said: Attempt) -> shapes.Shape:
    body = said.response_body
    try:
        text: shapes.Shape = {"body": body.decode()}
    except UnicodeDecodeError:
        text = {"body_base64": base64.b64encode(body).decode()}
    return present(
        {
            "outcome": said.outcome.value,
            "status": said.http_status,
            "latency_ms": said.latency_ms,
            "error": said.error,
        }
        | text
    )


def _bucket(doors: Doors, namespace: int) -> int:
    return doors.placement.of_key(namespace, "endpoints")


def _ref(request: Request) -> Ref:
    text: str = request.path_params["endpoint_id"]
    if text.startswith(PREFIX):
        return Ref(EndpointId(read_id(ENDPOINT, text, where="path/endpoint_id")), None)
    if not is_name(text):
        raise EndpointNotFound
    return Ref(None, text)


async def _one(request: Request) -> Endpoint:
    doors, namespace, ref = doors_of(request), namespace_of(request), _ref(request)
    found = await doors.run(endpoints.read, _bucket(doors, namespace), namespace=namespace, id_=ref.id, name=ref.name)
    if found is None:
        raise EndpointNotFound
    return found


def _url(doors: Doors, text: str) -> tuple[str, str]:
    """The URL and its host, once it may be called. Raises Invalid, EgressRefused."""
    origin = doors.egress.check_url(text, where="body.url")
    return text, f"{origin.host}:{origin.port}"


def _targets(given: list[str]) -> tuple[str, ...]:
    """Each once. Raises Invalid for more than may be named, also of the same."""
    if len(given) > TARGETS_MAX:
        raise Invalid(f"At most {TARGETS_MAX}.", where="body.targets")
    return tuple(dict.fromkeys(given))


def _secret(text: str) -> str:
    return clean(text, where="body.secret", chars_max=SECRET_CHARS_MAX)


def _description(text: str | None) -> str | None:
    if text is None or text == "":
        return None
    return clean(text, where="body.description", chars_max=DESCRIPTION_CHARS_MAX)


def _headers(given: Mapping[str, str] | None) -> dict[str, str]:
    return dict(check_headers(given, where="body.headers")) if given else {}


def _seal(doors: Doors, id_: EndpointId, what: str, plain: bytes) -> bytes:
    return doors.keyring.seal(plain, bound_to=sealed_for(id_, "secret" if what == "secret" else "headers"))


def _sealed_headers(doors: Doors, id_: EndpointId, headers: Mapping[str, str]) -> bytes | None:
    return _seal(doors, id_, "headers", orjson.dumps(headers)) if headers else None


def _opened(doors: Doors, there: Endpoint, sealed: bytes) -> bytes:
    return doors.keyring.open(sealed, bound_to=sealed_for(there.id, "secret"))


def _opened_headers(doors: Doors, there: Endpoint) -> dict[str, str]:
    if there.headers_sealed is None:
        return {}
    found: dict[str, str] = orjson.loads(
        doors.keyring.open(there.headers_sealed, bound_to=sealed_for(there.id, "headers"))
    )
    return found


def _same(doors: Doors, there: Endpoint, secret: str | None, headers: Mapping[str, str]) -> bool:
    """Whether what is secret of one that is there is what is asked for; a secret that is not said may be any."""
    if secret is not None and not same(_opened(doors, there, there.secret_sealed), secret.encode()):
        return False
    return _opened_headers(doors, there) == headers


def _shown_url(one: Endpoint) -> str:
    """Without its query, which may hold a secret."""
    return one.definition.url.partition("?")[0]


def _shape(doors: Doors, one: Endpoint) -> shapes.Shape:
    """An endpoint in the words it was asked for in; of what is secret only that it is there."""
    asked = one.definition
    return present(
        {
            "endpoint_id": show(ENDPOINT, one.id),
            "name": one.name,
            "description": asked.description,
            "url": _shown_url(one),
            "events": list(asked.events),
            "targets": list(asked.targets),
            "schedule": list(asked.schedule),
            "headers": sorted(_names(doors, one)),
            "signing_key_format": _key_format(doors, one),
            "previous_secret_until": moment(one.previous_until)
            if one.previous_until is not None and len(one.secrets_sealed) > 1
            else None,
            "state": one.state.value,
            "disabled_at": None if one.disabled_at is None else moment(one.disabled_at),
            "disabled_by": one.disabled_by,
            "disabled_reason": one.disabled_reason,
            "dead_streak": one.dead_streak,
            "failing_since": None if one.failing_since is None else moment(one.failing_since),
            "created_at": moment(one.created_at),
            "updated_at": moment(one.updated_at),
        }
    )


def _names(doors: Doors, one: Endpoint) -> list[str]:
    try:
        return list(_opened_headers(doors, one))
    except SealBroken:  # sealed with a key that is not on this ring any more
        return []


def _key_format(doors: Doors, one: Endpoint) -> str | None:
    """How the Standard Webhooks key is made of the secret: `standard`, or `raw` where it is no base64 of a key."""
    try:
        secret = _opened(doors, one, one.secret_sealed).decode()
    except SealBroken:
        return None
    return "raw" if standard_key(secret) == secret.encode() else "standard"


LOOK = {404: "There is no endpoint of this name or id.", 422: "Not valid.", 503: "Try again."}
BODY = {400: "Malformed.", 413: "Larger than a limit, which is named."}


def _of(
    method: str,
    path: str,
    handler: Handler,
    summary: str,
    *,
    takes: type | None = None,
    done: str = "The endpoint.",
    audit: str | None = None,
    reveals: bool = False,
) -> Operation:
    return Operation(
        method=method,
        scope=READ if method == "GET" else OPERATE,
        path=f"/api/v1/endpoints/{{endpoint_id}}{path}",
        handler=handler,
        summary=summary,
        tag="endpoints",
        takes=takes,
        audit=audit,
        reveals=reveals,
        answers={200: done, **LOOK, **({} if takes is None else BODY)},
    )


OPERATIONS = [
    Operation(
        method="POST",
        scope=OPERATE,
        path="/api/v1/endpoints",
        handler=create,
        audit="endpoint.created",
        reveals=True,
        summary="Register a webhook endpoint",
        tag="endpoints",
        takes=EndpointForm,
        answers={
            200: "It was there already.",
            201: "Created; a secret that was made is shown here and nowhere else.",
            409: "There is another of this name, or there are as many as there may be.",
            422: "The body says something that cannot be; nothing was changed.",
            503: "Try again.",
            **BODY,
        },
    ),
    Operation(
        method="GET",
        scope=READ,
        path="/api/v1/endpoints",
        handler=page,
        summary="List webhook endpoints by name",
        tag="endpoints",
        query={
            "state": "enabled or disabled",
            "limit": "1 to 200, 50 by default",
            "cursor": "next_cursor of the page before",
        },
        answers={200: "A page.", 422: "A filter is not valid.", 503: "Try again."},
    ),
    _of("GET", "", read, "Read one endpoint, by its name or id"),
    _of(
        "PATCH",
        "",
        change,
        "Change an endpoint",
        takes=EndpointChangeForm,
        audit="endpoint.changed",
        reveals=True,
    ),
    _of(
        "DELETE",
        "",
        remove,
        "Delete an endpoint; what is pending for it is dead",
        done="Gone.",
        audit="endpoint.deleted",
    ),
    _of(
        "POST",
        "/enable",
        enable,
        "Enable an endpoint; what was pending is sent",
        takes=EnableForm,
        audit="endpoint.enabled",
    ),
    _of(
        "POST",
        "/disable",
        disable,
        "Disable an endpoint; what is pending waits",
        takes=DisableForm,
        audit="endpoint.disabled",
    ),
    _of(
        "POST",
        "/rotate",
        rotate,
        "Change the secret that signs",
        takes=RotateForm,
        audit="endpoint.rotated",
        done="The endpoint; a secret that was made is shown here and nowhere else.",
    ),
    _of(
        "POST",
        "/test",
        test,
        "Send an event to see whether it arrives",
        takes=TestForm,
        audit=NOTHING,
        done="What was sent, and what the receiver said.",
    ),
]
