"""The OpenAPI document, made from the operations and the very forms that bodies are decoded into."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from controlplane import __version__
from controlplane.api.operation import OPEN, Operation
from controlplane.domain.key import wanting

PROBLEM = {
    "type": "object",
    "description": "RFC 9457, with `error` and `message` for AgentField's clients.",
    "required": ["type", "title", "status", "detail", "error", "message"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "error": {"type": "string"},
        "message": {"type": "string"},
        "where": {"type": "string", "description": "The offending part of the request."},
        "fix": {"type": "string", "description": "The next step."},
    },
}
ANYWHERE = {
    408: ("TooSlow", "The request took too long to arrive."),
    429: ("RateLimited", "Too many requests, or too much under way in the namespace: see `Retry-After`."),
    431: ("HeadTooLarge", "The URL and the headers are larger than the limit."),
}
"""What the guard in front of all routes may answer, and no route itself."""
PARAMETER = re.compile(r"{(\w+)}")


def document(operations: list[Operation]) -> dict[str, Any]:
    """The whole document."""
    forms = [one.takes for one in operations if one.takes is not None]
    unique = list(dict.fromkeys(forms))
    schemas, components = msgspec.json.schema_components(unique, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(unique, schemas, strict=True))
    paths: dict[str, Any] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "controlplane",
            "version": __version__,
            "description": "A durable execution control plane for AI agents, on PostgreSQL.",
        },
        "paths": paths,
        "components": {
            "responses": {name: _answer(status, meaning) for status, (name, meaning) in ANYWHERE.items()},
            "schemas": {"Problem": PROBLEM} | dict(components),
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(one: Operation, schema_of: dict[type, dict[str, Any]]) -> dict[str, Any]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in PARAMETER.findall(one.path)
    ]
    elsewhere = [
        {"name": name, "in": where, "required": False, "description": meaning, "schema": {"type": "string"}}
        for where, named in (("query", one.query), ("header", one.headers))
        for name, meaning in named.items()
    ]
    answers = dict(one.answers)
    if one.scope != OPEN:
        answers = {401: "No valid API key.", 403: f"The key has not the scope {wanting(one.scope)}.", **answers}
    described: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{one.method.lower()}{one.path}").strip("_"),
        "summary": one.summary,
        "description": (one.handler.__doc__ or "").strip(),
        "tags": [one.tag],
        "parameters": in_path + elsewhere,
        "responses": {str(status): _answer(status, meaning) for status, meaning in sorted(answers.items())}
        | {str(status): {"$ref": f"#/components/responses/{name}"} for status, (name, _) in ANYWHERE.items()},
    }
    if one.takes is not None:
        described["requestBody"] = {"content": {"application/json": {"schema": schema_of[one.takes]}}}
    return described


def _answer(status: int, meaning: str) -> dict[str, Any]:
    if status < 400:
        return {"description": meaning}
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": meaning, "content": {"application/problem+json": {"schema": schema}}}
