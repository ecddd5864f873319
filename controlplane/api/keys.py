"""API keys and namespaces: make, list, rotate and revoke. A key is in one answer only: the one that made it."""

from __future__ import annotations

import logging
import math
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.audited import Noted, audited, seeing
from controlplane.api.body import clean, read_form
from controlplane.api.doors import Doors, asker_of, caller_of, doors_of, namespace_of
from controlplane.api.executions import query_text
from controlplane.api.operation import ADMIN, Operation
from controlplane.api.paging import limit_of
from controlplane.api.shapes import Shape, answer, present
from controlplane.domain.cap import Cap
from controlplane.domain.execution import DEFAULT_NAMESPACE
from controlplane.domain.ids import read, show
from controlplane.domain.key import (
    ENVIRONMENT,
    LIFE_MAX_SECONDS,
    LIFE_MIN_SECONDS,
    NAME_MAX,
    NODES_MAX,
    OVERLAP_MAX_SECONDS,
    OVERLAP_SECONDS,
    Key,
    KeyId,
    KeyScope,
    Namespace,
    is_pattern,
)
from controlplane.domain.notice import moment
from controlplane.domain.target import is_name
from controlplane.errors import Invalid, NamespaceNotAllowed, NamespaceNotFound, PayloadsHidden
from controlplane.reads import keys
from controlplane.security.keys import digest, make, prefix_of
from controlplane.stages import issue_key
from controlplane.stages.issue_key import Wish
from controlplane.stages.open_namespace import open_namespace

log = logging.getLogger(__name__)

PLACE = "api_keys"
"""Beside a namespace's number: what the bucket of its keys is hashed from."""
SECRET = {"Cache-Control": "no-store"}


class KeyForm(msgspec.Struct, forbid_unknown_fields=True):
    """A key for `scopes`: execute, read, operate, admin, node. With `node` it names the nodes it may speak as.

    `node_ids`: exact, or with `*` at their end. `namespace`: another than the caller's own, for admins of `default`.
    `hide_payloads`: it is told that inputs, results, values and texts are there, and never what they are.
    """

    name: str
    scopes: list[KeyScope]
    node_ids: list[str] | None = None
    namespace: str | None = None
    expires_in_seconds: float | None = None
    hide_payloads: bool = False


class RotateForm(msgspec.Struct, forbid_unknown_fields=True):
    """The old key goes on for `overlap_seconds`, a day by default. Without `expires_in_seconds` the new one lives as
    long as the old one was to live.
    """

    overlap_seconds: float = OVERLAP_SECONDS
    expires_in_seconds: float | None = None


class NamespaceForm(msgspec.Struct, forbid_unknown_fields=True):
    name: str


async def create(request: Request) -> Response:
    """A new key. The answer is the only place where it can ever be read."""
    doors = doors_of(request)
    form = await read_form(request, KeyForm, doors.limits.body_bytes_max)
    scopes, node_ids = granted(form.scopes, form.node_ids, hide_payloads=form.hide_payloads)
    if asker_of(request).hide_payloads and not form.hide_payloads:
        raise PayloadsHidden(
            "Who is shown no payloads makes only keys that are shown none.",
            where="body.hide_payloads",
            fix=f"Say hide_payloads: true. {issue_key.SEEING_KEY}",
        )
    name = named(form.name)
    expires = _life(form.expires_in_seconds)
    namespace = await named_namespace(request, form.namespace, where="body.namespace")
    id_ = KeyId(doors.ids.new(doors.placement.of_key(namespace.id, PLACE)))
    text = make(id_)
    made = await audited(
        request,
        lambda done: _noted(done, namespace, before=None, after=done),
        issue_key.issue,
        Wish(
            id=id_,
            namespace=namespace.id,
            name=name,
            prefix=prefix_of(id_),
            hash=digest(text.encode()),
            scopes=scopes,
            node_ids=node_ids,
            created_by=caller_of(request),
            expires_in_seconds=expires,
            hide_payloads=form.hide_payloads,
        ),
        keys_max=doors.caps.most(namespace.id, Cap.KEYS),
    )
    doors.entrance.changed()
    _told("key.created", request, made)
    return answer(shape_of(made, namespace.name) | {"key": text}, 201, SECRET)


async def page(request: Request) -> Response:
    """The keys of a namespace, the newest first: their beginnings, never themselves."""
    doors, limit = doors_of(request), limit_of(request)
    cursor = request.query_params.get("cursor")
    namespace = await named_namespace(request, query_text(request, "namespace"), where="query/namespace")
    found = await doors.run(
        keys.page,
        doors.placement.of_key(namespace.id, PLACE),
        namespace=namespace.id,
        before=read("key", cursor, where="query/cursor") if cursor else None,
        limit=limit + 1,
    )
    more = len(found) > limit
    return answer(
        {
            "items": [shape_of(one, namespace.name) for one in found[:limit]],
            "next_cursor": show("key", found[limit - 1].id) if more else None,
        }
    )


async def revoke(request: Request) -> Response:
    """Nobody comes in by this key any more, at any replica, and whatever streams by it ends."""
    doors, id_ = doors_of(request), _id(request)
    namespace = await named_namespace(request, query_text(request, "namespace"), where="query/namespace")
    _, gone = await audited(
        request,
        lambda done: _noted(done[1], namespace, before=done[0], after=done[1]),
        seeing(partial(issue_key.lock, id_=id_, namespace=namespace.id), issue_key.revoke),
        id_,
        namespace=namespace.id,
        revoked_by=caller_of(request),
    )
    doors.entrance.changed()
    _told("key.revoked", request, gone)
    return answer(shape_of(gone, namespace.name))


async def rotate(request: Request) -> Response:
    """A new key for the same, beside the old one until that ends."""
    doors, id_ = doors_of(request), _id(request)
    form = await read_form(request, RotateForm, doors.limits.body_bytes_max)
    if not (math.isfinite(form.overlap_seconds) and 0 <= form.overlap_seconds <= OVERLAP_MAX_SECONDS):
        raise Invalid(f"A number of seconds from 0 to {OVERLAP_MAX_SECONDS:g}.", where="body.overlap_seconds")
    expires = _life(form.expires_in_seconds)
    namespace = await named_namespace(request, query_text(request, "namespace"), where="query/namespace")
    new_id = KeyId(doors.ids.new(doors.placement.of_key(namespace.id, PLACE)))
    text = make(new_id)
    _, (new, old) = await audited(
        request,
        lambda done: _noted(done[1][1], namespace, before=done[0], after=done[1][1]),
        seeing(partial(issue_key.lock, id_=id_, namespace=namespace.id), issue_key.rotate),
        id_,
        new_id,
        prefix=prefix_of(new_id),
        key_hash=digest(text.encode()),
        namespace=namespace.id,
        overlap_seconds=form.overlap_seconds,
        expires_in_seconds=expires,
        created_by=caller_of(request),
        keys_max=doors.caps.most(namespace.id, Cap.KEYS),
        hidden_only=asker_of(request).hide_payloads,
    )
    doors.entrance.changed()
    _told("key.rotated", request, new)
    shape = shape_of(new, namespace.name) | {"key": text, "replaces": shape_of(old, namespace.name)}
    return answer(shape, 201, SECRET)


async def create_namespace(request: Request) -> Response:
    """A new part of this control plane, of which the others see nothing. Its keys are made next."""
    doors = doors_of(request)
    form = await read_form(request, NamespaceForm, doors.limits.body_bytes_max)
    _require_default(request)
    if not is_name(form.name):
        raise Invalid("1 to 128 letters, digits, _ - or :", where="body.name")
    made = await audited(
        request, lambda done: Noted(kind="namespace", id=done.name, after={}), open_namespace, form.name
    )
    log.info("namespace.created", extra={"namespace_name": made.name, "namespace": made.id, "by": caller_of(request)})
    return answer(_namespace_shape(made), 201)


async def list_namespaces(request: Request) -> Response:
    """By name."""
    doors, limit = doors_of(request), limit_of(request)
    _require_default(request)
    found = await doors.run(keys.namespaces, after=query_text(request, "cursor") or "", limit=limit + 1)
    more = len(found) > limit
    return answer(
        {
            "items": [_namespace_shape(one) for one in found[:limit]],
            "next_cursor": found[limit - 1].name if more else None,
        }
    )


def granted(
    scopes: list[KeyScope], node_ids: list[str] | None, *, hide_payloads: bool = False
) -> tuple[list[KeyScope], list[str]]:
    """What a key is for, and as which nodes it speaks. Raises Invalid."""
    if not scopes:
        raise Invalid(f"At least one of {', '.join(KeyScope)}.", where="body.scopes")
    if hide_payloads and KeyScope.NODE in scopes:
        raise Invalid(
            "A node is given payloads to work on.",
            where="body.hide_payloads",
            fix="Make a key with the scope node, and another that hides payloads.",
        )
    patterns = list(dict.fromkeys(node_ids or []))
    if (KeyScope.NODE in scopes) != bool(patterns):
        raise Invalid(
            "The scope node and node_ids belong together.",
            where="body.node_ids",
            fix="Name the nodes that the key may speak as; `*` at the end stands for anything.",
        )
    if len(patterns) > NODES_MAX:
        raise Invalid(f"More than {NODES_MAX} nodes.", where="body.node_ids")
    if not all(is_pattern(one) for one in patterns):
        raise Invalid("Each is the name of a node, or its beginning and `*`.", where="body.node_ids")
    return [scope for scope in KeyScope if scope in scopes], patterns


def named(name: str) -> str:
    """A name for a key. Raises Invalid."""
    clean(name, where="body.name", chars_max=NAME_MAX)
    if name == ENVIRONMENT:
        raise Invalid("That is the name of the key that the server was started with.", where="body.name")
    return name


def shape_of(key: Key, namespace: str) -> Shape:
    """A key as it is listed."""
    return present(
        {
            "key_id": show("key", key.id),
            "name": key.name,
            "namespace": namespace,
            "prefix": key.prefix,
            "scopes": [scope.value for scope in key.scopes],
            "node_ids": list(key.node_ids) or None,
            "hide_payloads": key.hide_payloads,
            "state": key.state.value,
            "created_at": moment(key.created_at),
            "created_by": key.created_by,
            "expires_at": None if key.expires_at is None else moment(key.expires_at),
            "last_used_at": None if key.last_used_at is None else moment(key.last_used_at),
            "revoked_at": None if key.revoked_at is None else moment(key.revoked_at),
            "revoked_by": key.revoked_by,
            "replaced_by": None if key.replaced_by is None else show("key", key.replaced_by),
        }
    )


def _noted(one: Key, namespace: Namespace, *, before: Key | None, after: Key | None) -> Noted:
    return Noted(
        kind="key",
        id=show("key", one.id),
        before=None if before is None else shape_of(before, namespace.name),
        after=None if after is None else shape_of(after, namespace.name),
        namespace=namespace.id,
    )


def _namespace_shape(one: Namespace) -> Shape:
    return {"name": one.name, "created_at": moment(one.created_at)}


def _told(event: str, request: Request, key: Key) -> None:
    log.info(event, extra={"key_id": show("key", key.id), "key_name": key.name, "by": caller_of(request)})


def _id(request: Request) -> KeyId:
    return KeyId(read("key", request.path_params["key_id"], where="path/key_id"))


def _life(seconds: float | None) -> float | None:
    if seconds is not None and not LIFE_MIN_SECONDS <= seconds <= LIFE_MAX_SECONDS:
        bounds = f"{LIFE_MIN_SECONDS:g} to {LIFE_MAX_SECONDS:g}"
        raise Invalid(f"A number of seconds from {bounds}.", where="body.expires_in_seconds")
    return seconds


async def named_namespace(request: Request, name: str | None, *, where: str) -> Namespace:
    """The namespace that is spoken of, else the caller's own. Raises NamespaceNotAllowed, NamespaceNotFound."""
    doors, own = doors_of(request), namespace_of(request)
    found = await _read(doors, own, name)
    if own != DEFAULT_NAMESPACE and (found is None or found.id != own):
        raise NamespaceNotAllowed(where=where)  # the same of one that there is and of one that there is not
    if found is None:
        raise NamespaceNotFound(where=where, fix="POST /api/v1/namespaces makes one.")
    return found


async def namespace_in_query(request: Request) -> Namespace:
    """As `named_namespace`, of what the query says."""
    return await named_namespace(request, query_text(request, "namespace"), where="query/namespace")


async def _read(doors: Doors, own: int, name: str | None) -> Namespace | None:
    if name is None:
        return await doors.run(keys.namespace_of, own)
    return await doors.run(keys.namespace, clean(name, where="namespace"))


def _require_default(request: Request) -> None:
    if asker_of(request).namespace != DEFAULT_NAMESPACE:
        raise NamespaceNotAllowed


NAMESPACE_QUERY = {"namespace": "Another than the key's own, for admins of default"}
LOOK = {404: "Unknown.", 422: "Not valid.", 503: "Try again."}

OPERATIONS = [
    Operation(
        scope=ADMIN,
        method="POST",
        path="/api/v1/keys",
        handler=create,
        audit="key.created",
        summary="Make an API key; it is shown this once",
        tag="keys",
        takes=KeyForm,
        answers={201: "The key, this once.", 400: "Malformed.", 413: "Too large.", **LOOK},
    ),
    Operation(
        scope=ADMIN,
        method="GET",
        path="/api/v1/keys",
        handler=page,
        summary="List API keys, newest first",
        tag="keys",
        query=NAMESPACE_QUERY | {"limit": "1 to 200, 50 by default", "cursor": "next_cursor of the page before"},
        answers={200: "A page.", **LOOK},
    ),
    Operation(
        scope=ADMIN,
        method="POST",
        path="/api/v1/keys/{key_id}/revoke",
        handler=revoke,
        audit="key.revoked",
        summary="Revoke an API key, at once and for good",
        tag="keys",
        query=NAMESPACE_QUERY,
        answers={200: "Revoked.", **LOOK},
    ),
    Operation(
        scope=ADMIN,
        method="POST",
        path="/api/v1/keys/{key_id}/rotate",
        handler=rotate,
        audit="key.rotated",
        summary="Make a key in place of another, which goes on for a while",
        tag="keys",
        takes=RotateForm,
        query=NAMESPACE_QUERY,
        answers={
            201: "The new key, this once.",
            400: "Malformed.",
            409: "It is revoked, has expired, or was replaced before.",
            413: "Too large.",
            **LOOK,
        },
    ),
    Operation(
        scope=ADMIN,
        method="POST",
        path="/api/v1/namespaces",
        handler=create_namespace,
        audit="namespace.created",
        summary="Make a namespace",
        tag="keys",
        takes=NamespaceForm,
        answers={
            201: "Made.",
            400: "Malformed.",
            409: "There is one of this name.",
            413: "Too large.",
            422: "Not valid.",
            503: "Try again.",
        },
    ),
    Operation(
        scope=ADMIN,
        method="GET",
        path="/api/v1/namespaces",
        handler=list_namespaces,
        summary="List namespaces by name",
        tag="keys",
        query={"limit": "1 to 200, 50 by default", "cursor": "next_cursor of the page before"},
        answers={200: "A page.", 422: "Not valid.", 503: "Try again."},
    ),
]
