"""The OpenAPI document, made from the operations, the very forms that bodies are decoded into, and the contract."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from controlplane import __version__
from controlplane.api.contract import CONTRACT, RULES
from controlplane.api.contract.parameters import HEADERS, IN_HEADER, IN_PATH, IN_QUERY
from controlplane.api.contract.said import ByName, Link, Media, Said, Schema
from controlplane.api.operation import OPEN, Operation
from controlplane.domain.key import KeyScope, wanting

PROBLEM = {
    "type": "object",
    "description": "RFC 9457, with `error` and `message` for AgentField's clients. Facts of some problems stand beside"
    " these members, each under a name of its own.",
    "required": ["type", "title", "status", "detail", "error", "message", "request_id"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "code": {"type": "string", "pattern": "^[a-z_]+$", "description": "A stable word for programs."},
        "error": {"type": "string"},
        "message": {"type": "string"},
        "where": {"type": "string", "description": "The offending part of the request."},
        "fix": {"type": "string", "description": "The next step."},
        "request_id": {"type": "string", "description": "As in X-Request-ID; it stands in the server's log."},
    },
    "additionalProperties": True,
}
PROBLEM_JSON = "application/problem+json"
JSON = "application/json"
ANYWHERE = {
    408: ("TooSlow", "The request took too long to arrive."),
    429: ("RateLimited", "Too many requests or wrong keys, or too much under way in the namespace: see `Retry-After`."),
    431: ("HeadTooLarge", "The URL and the headers are larger than the limit."),
    503: ("Unavailable", "The database is out of reach, or this server is full or about to stop; try again."),
}
"""What the guard in front of all routes may answer, and no route itself."""
UNREFUSED = frozenset({"/livez"})
"""What is answered even then."""
EVERYWHERE = ("X-Request-ID", "RateLimit", "RateLimit-Policy")
ALONG = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}
"""Headers of a refusal, by its status."""
BY_NODE = "4XX"
"""In place of the single refusals, where a node may answer any."""
Ids = Mapping[tuple[str, str], str]
"""Method and path → the name of the operation."""
PARAMETER = re.compile(r"{(\w+)}")
SECURITY = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "The same key as `Authorization: Bearer`."},
    "query_key": {
        "type": "apiKey",
        "in": "query",
        "name": "api_key",
        "description": "For what a browser streams, which can send no header.",
    },
    "query_ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "The same without the key in an address: made for this stream, good once and for a minute.",
    },
}
STREAMED = ("query_key", "query_ticket")
"""Of those the ones for streams alone."""
SOCKETS = {
    "/api/ui/v1/executions/ws": "Live events of every execution; each frame carries its `id`.",
    "/api/ui/v1/executions/{execution_id}/ws": "Live events of one execution, until its end.",
    "/api/v1/memory/events/ws": "Live changes of memory; each carries its `cursor`.",
}
"""WebSockets, which OpenAPI has no words for. They need the scope `read`."""
ABOUT = (
    "A durable execution control plane for AI agents, on PostgreSQL. As long as there is no key at all, requests from "
    "the machine it runs on need none. A namespace that has as many of something as it may have is refused more with "
    "422 and `cap_reached`, and with 429 and `namespace_full` where there is room again by and by. To a key that hides "
    "payloads a text is told as `hidden: … bytes, sha256 …`, a list as one `Hidden`, and anything else as a `Hidden`."
)


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The whole document."""
    types = list(dict.fromkeys(_types(operations)))
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(types, schemas, strict=True))
    for kind in types:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            _refine(components[schema_of[kind]["$ref"].rsplit("/", 1)[1]], kind)
    ids = {(one.method, one.path): _operation_id(one) for one in operations}
    paths: dict[str, Any] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schema_of, ids)
    refusals = _share(paths)
    return {
        "openapi": "3.1.0",
        "info": {"title": "controlplane", "version": __version__, "description": ABOUT},
        "paths": paths,
        "components": {
            "responses": {name: _problem(status, meaning) for status, (name, meaning) in ANYWHERE.items()} | refusals,
            "headers": HEADERS,
            "schemas": {"Problem": PROBLEM} | dict(components),
            "securitySchemes": SECURITY,
        },
        "security": [{"key": []}, {"bearer": []}],
        "x-websockets": SOCKETS,
    }


def _share(paths: dict[str, Any]) -> dict[str, Any]:
    """Refusals that several operations answer in the same words become components, named by status and words."""
    named: dict[str, list[tuple[dict[str, Any], str]]] = {}
    for operation in (one for methods in paths.values() for one in methods.values()):
        for status, response in operation["responses"].items():
            if PROBLEM_JSON in response.get("content", {}) and len(response["content"]) == 1:
                words = re.sub(r"[^A-Za-z0-9 ]", "", response["description"]).title().split()
                named.setdefault(f"{status}{''.join(words)}", []).append((operation["responses"], status))
    shared = {}
    for name, places in named.items():
        if len(places) > 1:
            shared[name] = places[0][0][places[0][1]]
            for responses, status in places:
                responses[status] = {"$ref": f"#/components/responses/{name}"}
    return shared


def _types(operations: Sequence[Operation]) -> Iterator[Any]:
    """Forms first, then what is answered, then what only the rules name."""
    for one in operations:
        if one.takes is not None:
            yield one.takes
    for one in operations:
        for body in _said(one).answers.values():
            yield from (kind for kind in _alternatives(body) if not isinstance(kind, Media))
    yield from RULES


def _alternatives(body: Any) -> Iterator[Any]:
    """The types of an answer, one by one."""
    for one in body if isinstance(body, tuple) else (body,):
        if isinstance(one, ByName):
            yield from one.types
        elif one is not None:
            yield one


def _said(one: Operation) -> Said:
    return CONTRACT.get(one.handler, Said())


def _refine(schema: Schema, form: type) -> None:
    """Put the rules of a form, and of those it grew from, into the schema that msgspec has made of its types."""
    rules: dict[str, Schema] = {}
    for base in reversed(form.__mro__):
        rules |= RULES.get(base, {})
    properties = schema.get("properties", {})
    for name, rule in rules.items():
        if name:
            properties[name] = _narrowed(properties[name], rule)
        else:
            schema |= rule


def _narrowed(schema: Schema, rule: Schema) -> Schema:
    """The schema with what the rule says; of one that may be null, the part that is not."""
    if "anyOf" not in schema:
        return {**schema, **({**rule, "$ref": schema["$ref"]} if "$ref" in schema else rule)}
    parts = [one if one.get("type") == "null" else _fitting(one, rule) for one in schema["anyOf"]]
    return {**schema, "anyOf": parts}


def _fitting(part: Schema, rule: Schema) -> Schema:
    """The rule where it can mean this part: several types may be alternatives."""
    wanted = rule.get("type", part.get("type"))
    return {**part, **rule} if wanted == part.get("type") else part


def _operation_id(one: Operation) -> str:
    return re.sub(r"\W+", "_", f"{one.method.lower()}{one.path}").strip("_")


def _operation(one: Operation, schema_of: Mapping[Any, Schema], ids: Ids) -> dict[str, Any]:
    said = _said(one)
    described: dict[str, Any] = {
        "operationId": _operation_id(one),
        "summary": one.summary,
        "description": (one.handler.__doc__ or "").strip(),
        "tags": [one.tag],
        "parameters": [*_parameters(one, said)],
        "responses": _responses(one, said, schema_of, ids),
        "security": _security(one),
    }
    if one.takes is not None:
        schema = schema_of[one.takes]
        described["requestBody"] = {"required": _is_needed(one.takes), "content": {JSON: {"schema": schema}}}
    elif said.body is not None:
        described["requestBody"] = {"content": {media: {"schema": schema} for media, schema in said.body.items()}}
    return described


def _is_needed(form: Any) -> bool:
    """An empty body counts as `{}`."""
    return any(field.required for field in msgspec.structs.fields(form)) or "" in RULES.get(form, {})


def _parameters(one: Operation, said: Said) -> Iterator[Schema]:
    for name in PARAMETER.findall(one.path):
        yield {"name": name, "in": "path", "required": True, "schema": said.parameters.get(name, IN_PATH.get(name))}
    for where, named, known in (("query", one.query, IN_QUERY), ("header", one.headers, IN_HEADER)):
        for name, meaning in named.items():
            schema = said.parameters.get(name, known.get(name, {"type": "string"}))
            yield {
                "name": name,
                "in": where,
                "required": name in said.required,
                "description": meaning,
                "schema": schema,
            }


def _security(one: Operation) -> list[dict[str, list[str]]]:
    """A key with one of the scopes; none of what is open to everybody."""
    schemes = ("key", "bearer", *(STREAMED if one.streams else ()))
    return [{scheme: [scope.value]} for scope in KeyScope if scope in one.scope for scheme in schemes]


def _responses(one: Operation, said: Said, schema_of: Mapping[Any, Schema], ids: Ids) -> dict[str, Any]:
    meanings = dict(one.answers)
    if one.scope != OPEN:
        meanings = {401: "No valid API key.", 403: f"The key has not the scope {wanting(one.scope)}.", **meanings}
    responses: dict[str, Any] = {}
    for status, meaning in sorted(meanings.items()):
        if status in said.answers:
            responses[str(status)] = _answer(status, meaning, said, schema_of, ids)
        elif status < 400:
            responses[str(status)] = {"description": meaning, "headers": _headers(EVERYWHERE)}
        else:
            responses[str(status)] = _problem(status, meaning, said.headers.get(status, ()))
    if one.path not in UNREFUSED:
        for status, (name, _) in ANYWHERE.items():
            responses.setdefault(str(status), {"$ref": f"#/components/responses/{name}"})
    if said.any_refusal:
        _let_node_refuse(responses)
    return responses


def _let_node_refuse(responses: dict[str, Any]) -> None:
    """A node may give a failure of its reasoner any 4xx, also one that a refusal of ours has."""
    failed = {JSON: responses["502"]["content"][JSON]}
    meaning = "The status that the node gave the failure of its reasoner."
    for status in [status for status in responses if status.startswith("4")]:
        one = responses[status]
        responses[status] = _problem(int(status), meaning) if "$ref" in one else one
        responses[status]["content"] |= failed
        for name in ALONG.get(int(status), ()):
            del responses[status]["headers"][name]  # of ours alone
    responses[BY_NODE] = {"description": meaning, "content": failed}


def _answer(status: int, meaning: str, said: Said, schema_of: Mapping[Any, Schema], ids: Ids) -> dict[str, Any]:
    named = (*EVERYWHERE, *said.headers.get(status, ()))
    described: dict[str, Any] = {"description": meaning, "headers": _headers(named)}
    content = _content(said.answers[status], schema_of)
    if content:
        described["content"] = content
    links = {name: _link(link, ids) for name, link in said.links.get(status, {}).items() if (link.by, link.to) in ids}
    if links:
        described["links"] = links
    return described


def _content(body: Any, schema_of: Mapping[Any, Schema]) -> dict[str, Any]:
    """Media type → schema; of several types of one medium any may be meant."""
    found: dict[str, list[Schema]] = {}
    for one in body if isinstance(body, tuple) else (body,):
        if isinstance(one, Media):
            schema = {"$ref": "#/components/schemas/Problem"} if one.type == PROBLEM_JSON else one.schema
            found.setdefault(one.type, []).append(schema)
        elif isinstance(one, ByName):
            members = {"anyOf": [schema_of[kind] for kind in one.types]}
            found.setdefault(JSON, []).append({"type": "object", "additionalProperties": members})
        elif one is not None:
            found.setdefault(JSON, []).append(schema_of[one])
    return {
        media: {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}} for media, schemas in found.items()
    }


def _link(link: Link, ids: Ids) -> dict[str, Any]:
    described: dict[str, Any] = {"operationId": ids[link.by, link.to]}
    if link.parameters:
        described["parameters"] = dict(link.parameters)
    if link.body is not None:
        described["requestBody"] = dict(link.body)
    return described


def _problem(status: int, meaning: str, headers: Sequence[str] = ()) -> dict[str, Any]:
    return {
        "description": meaning,
        "headers": _headers((*EVERYWHERE, *ALONG.get(status, ()), *headers)),
        "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def _headers(names: Sequence[str]) -> dict[str, Schema]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
