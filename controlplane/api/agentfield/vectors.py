"""Vector memory: embeddings beside a key, in the scopes of memory, searched by their angle."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.body import clean, payload, read_form
from controlplane.api.doors import Doors, doors_of
from controlplane.api.operation import EXECUTE_OR_NODE, READ_OR_NODE, Handler, Operation
from controlplane.api.scopes import HEADERS, around_of, place_of, word_for
from controlplane.api.shapes import answer
from controlplane.api.whose import require
from controlplane.domain.memory import KEY_MAX
from controlplane.domain.vector import (
    DIMENSIONS_MAX,
    LOOKED_AT_MAX,
    METADATA_BYTES_MAX,
    TOP_K_DEFAULT,
    TOP_K_MAX,
    Change,
    Forget,
    Keep,
    measure,
    read_object,
)
from controlplane.errors import Invalid, MemoryNotFound
from controlplane.reads import vectors
from controlplane.stages import embed

log = logging.getLogger(__name__)

INCOMPLETE = "X-Search-Incomplete"


class VectorForm(msgspec.Struct):
    """An embedding to store under a key, with an object that says what it is of."""

    key: str
    embedding: list[float]
    metadata: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    scope: str | None = None
    scope_id: str | None = None


class VectorKeyForm(msgspec.Struct):
    """One key. Without `scope` the first id among the headers decides: run, session, actor, else global."""

    key: str
    scope: str | None = None
    scope_id: str | None = None


class VectorSearchForm(msgspec.Struct):
    """What to compare with. `filters`: top-level keys of the metadata and the values they must have."""

    query_embedding: list[float]
    top_k: int | None = None
    filters: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    scope: str | None = None
    scope_id: str | None = None


class NamespaceForm(msgspec.Struct):
    """What the keys begin with."""

    namespace: str
    scope: str | None = None
    scope_id: str | None = None


async def set_vector(request: Request) -> Response:
    """Store a vector; its metadata comes back byte for byte."""
    doors = doors_of(request)
    form = await read_form(request, VectorForm, doors.limits.body_bytes_max)
    around = around_of(request)
    place = place_of(doors, around, form.key, form.scope, form.scope_id, "body")
    embedding = measure(form.embedding, where="body.embedding")
    metadata = _object(form.metadata, "body.metadata")
    await _change(request, doors, Keep(place=place, embedding=embedding, metadata=metadata, fence=around.fence))
    word = word_for(place.scope, around, form.scope)
    return answer(
        {"key": place.key, "scope": word, "scope_id": place.scope_id, "metadata": shapes.raw(metadata or b"{}")}
    )


async def search(request: Request) -> Response:
    """The nearest vectors of one scope, best first, equals by key; only those with the query's dimension.

    Of a scope of more than 10,000 the first by key are compared, and the header X-Search-Incomplete says so.
    """
    doors = doors_of(request)
    form = await read_form(request, VectorSearchForm, doors.limits.body_bytes_max)
    around = around_of(request)
    place = place_of(doors, around, " ", form.scope, form.scope_id, "body")
    query = measure(form.query_embedding, where="body.query_embedding")
    wanted = read_object(_object(form.filters, "body.filters") or b"{}")
    top_k = form.top_k or TOP_K_DEFAULT  # AgentField's Go client says 0
    if not 1 <= top_k <= TOP_K_MAX:
        raise Invalid(f"A whole number from 1 to {TOP_K_MAX}.", where="body.top_k")
    found = await doors.run(vectors.search, place, query, wanted=wanted, top_k=top_k)
    word = word_for(place.scope, around, form.scope)
    return answer([shapes.hit(one, word) for one in found.hits], headers=_left_out(found))


async def get_vector(request: Request) -> Response:
    """The vector under a key."""
    doors = doors_of(request)
    around = around_of(request)
    key, scope, scope_id = _asked(request)
    place = place_of(doors, around, key, scope, scope_id, "query")
    found = await doors.run(vectors.read, place)
    if found is None:
        raise MemoryNotFound("No vector is stored under this key.", error="not_found", details="vector not found")
    return answer(shapes.vector(found, word_for(place.scope, around, scope)))


async def delete_vector(request: Request) -> Response:
    """Forget the vector under a key; it need not be there."""
    doors = doors_of(request)
    form = await read_form(request, VectorKeyForm, doors.limits.body_bytes_max)
    around = around_of(request)
    place = place_of(doors, around, form.key, form.scope, form.scope_id, "body")
    await _change(request, doors, Forget(place=place, fence=around.fence))
    return Response(status_code=204)


async def delete_named(request: Request) -> Response:
    """Forget the vector under a key; it need not be there."""
    doors = doors_of(request)
    around = around_of(request)
    place = place_of(doors, around, *_asked(request), "query")
    await _change(request, doors, Forget(place=place, fence=around.fence))
    return Response(status_code=204)


async def delete_namespace(request: Request) -> Response:
    """Forget every vector of a scope whose key begins so."""
    doors = doors_of(request)
    form = await read_form(request, NamespaceForm, doors.limits.body_bytes_max)
    clean(form.namespace, where="body.namespace", chars_max=KEY_MAX)
    around = around_of(request)
    place = place_of(doors, around, form.namespace, form.scope, form.scope_id, "body")
    await require(request, around.fence)
    deleted = 0
    while gone := await doors.run(embed.clear, place, fence=around.fence):
        deleted += gone
    word = word_for(place.scope, around, form.scope)
    shape = {"namespace": form.namespace, "scope": word, "scope_id": place.scope_id}
    return answer(shape | {"deleted": deleted, "status": "deleted"})


async def _change(request: Request, doors: Doors, change: Change) -> None:
    await require(request, change.fence)
    [refusal] = await doors.run(embed.write, [change])
    if refusal is not None:
        raise refusal


def _asked(request: Request) -> tuple[str, str | None, str | None]:
    query = request.query_params
    return request.path_params["key"], query.get("scope") or None, query.get("scope_id") or None


def _object(raw: msgspec.Raw, where: str) -> bytes | None:
    """The bytes of an object; null is as good as nothing. Raises Malformed, Invalid, TooLarge."""
    if bytes(raw) in (b"", b"null"):
        return None
    kept, value = payload(raw, where=where, bytes_max=METADATA_BYTES_MAX)
    if not isinstance(value, dict):
        raise Invalid("An object.", where=where)
    return kept


def _left_out(found: vectors.Found) -> Mapping[str, str]:
    if found.complete:
        return {}
    log.warning("vectors.search_incomplete", extra={"looked_at": LOOKED_AT_MAX})
    return {INCOMPLETE: f"only the first {LOOKED_AT_MAX} vectors of the scope were compared"}


REFUSALS = {422: "Not valid.", 503: "Try again."}
BODY_REFUSALS = {400: "Malformed.", 413: "Too large."} | REFUSALS
LEASE_LOST = {409: "The lease is lost."}
SCOPE_QUERY = {"scope": "run, session, actor, global", "scope_id": "Else from the headers"}


def _operation(
    method: str,
    path: str,
    handler: Handler,
    summary: str,
    answers: Mapping[int, str],
    *,
    takes: type | None = None,
    query: Mapping[str, str] | None = None,
) -> Operation:
    return Operation(
        scope=READ_OR_NODE if handler in (search, get_vector) else EXECUTE_OR_NODE,
        method=method,
        path=f"/api/v1/memory/vector{path}",
        handler=handler,
        summary=summary,
        tag="vectors",
        takes=takes,
        query=query or {},
        headers=HEADERS,
        answers=dict(answers),
        reveals=handler is search,  # its filters ask what metadata holds, and its scores are the vectors
    )


KEPT = {200: f"Committed: at most {DIMENSIONS_MAX} numbers."} | LEASE_LOST | BODY_REFUSALS
GONE = {204: "Committed."} | LEASE_LOST

OPERATIONS = [
    _operation("POST", "", set_vector, "Store a vector", KEPT, takes=VectorForm),
    _operation("POST", "/set", set_vector, "Store a vector", KEPT, takes=VectorForm),
    _operation(
        "POST",
        "/search",
        search,
        "The nearest vectors of a scope",
        {200: "Best first."} | BODY_REFUSALS,
        takes=VectorSearchForm,
    ),
    _operation("POST", "/delete", delete_vector, "Forget a vector", GONE | BODY_REFUSALS, takes=VectorKeyForm),
    _operation(
        "DELETE",
        "/namespace",
        delete_namespace,
        "Forget the vectors whose keys begin so",
        {200: "Committed."} | LEASE_LOST | BODY_REFUSALS,
        takes=NamespaceForm,
    ),
    _operation(
        "GET",
        "/{key}",
        get_vector,
        "Read a vector",
        {200: "Found.", 404: "Nothing there."} | REFUSALS,
        query=SCOPE_QUERY,
    ),
    _operation("DELETE", "/{key}", delete_named, "Forget a vector", GONE | REFUSALS, query=SCOPE_QUERY),
]
