"""A witness: every answer that a test's server gives is held against the OpenAPI document, with every object closed.

The document leaves objects open, so that a client of today may read a server of tomorrow. What a server says today is
in the document all the same, or it is not exact: here a member that is not described is a fault, as are a status, a
media type and a missing header. It sees what passes through the application, and nothing that is refused below it. What
is said to a client that has gone counts for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema_rs
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controlplane.api import openapi
from controlplane.api.facades import jobs, tasks
from controlplane.api.front import FOUND
from controlplane.app import OPERATIONS
from tests.fuzz.document import closed

Json = Any
DOCUMENT = "urn:controlplane:openapi"


@cache
def document() -> Json:
    """Of every route that there can be, with every answer closed."""
    return closed(openapi.document([*OPERATIONS, *jobs.OPERATIONS, *tasks.OPERATIONS]))


@cache
def described(path: str, method: str, status: int) -> dict[str, Json] | None:
    """What is said of an answer; None when there can be none of this status."""
    responses = document()["paths"][path][method.lower()]["responses"]
    found = responses.get(str(status), responses.get(f"{status // 100}XX"))
    if found is not None and "$ref" in found:
        found = document()["components"]["responses"][found["$ref"].rsplit("/", 1)[1]]
    return found  # type: ignore[no-any-return]


@cache
def registry() -> jsonschema_rs.Registry:
    """The document, read once: with a copy of its components a thousand validators took gigabytes."""
    return jsonschema_rs.Registry(
        [(DOCUMENT, document() | {"$schema": "https://json-schema.org/draft/2020-12/schema"})]
    )


@cache
def validator(path: str, method: str, status: int, media: str) -> jsonschema_rs.Draft202012Validator:
    said = described(path, method, status)
    assert said is not None
    return jsonschema_rs.Draft202012Validator(
        absolute(said["content"][media]["schema"]), validate_formats=True, registry=registry()
    )


def absolute(schema: Json) -> Json:
    """The same with its references into the document as they are from outside of it."""
    if isinstance(schema, dict):
        return {
            key: DOCUMENT + value if key == "$ref" and isinstance(value, str) else absolute(value)
            for key, value in schema.items()
        }
    return [absolute(one) for one in schema] if isinstance(schema, list) else schema


@cache
def problem() -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(document()["components"]["schemas"]["Problem"], validate_formats=True)


@cache
def header(name: str) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(document()["components"]["headers"][name]["schema"])


def read(name: str, value: str) -> str | int:
    """What a header says."""
    schema = document()["components"]["headers"][name]["schema"]
    return int(value) if schema.get("type") == "integer" and value.isdigit() else value


def faults(path: str, method: str, status: int, headers: dict[str, str], body: bytes, *, head: bool) -> Iterator[str]:
    """What of an answer the document does not say."""
    said = described(path, method, status)
    if said is None:
        yield f"the status {status}"
        return
    for name in said.get("headers", {}):
        value = headers.get(name.lower())
        if value is not None and not header(name).is_valid(read(name, value)):
            yield f"the header {name}: {value}"
        if value is None and document()["components"]["headers"][name].get("required", False):
            yield f"no header {name}"
    media = headers.get("content-type", "").partition(";")[0]
    content = said.get("content", {})
    if media not in content:
        if media or (content and not head):
            yield f"the media type {media or 'of nothing'}"
    elif media.endswith("json") and not head:
        for error in validator(path, method, status, media).iter_errors(json.loads(body)):
            yield f"{'/'.join(map(str, error.instance_path))}: {error.message[:300]}"


class Witness:
    """In front of an application: `told` are the answers that it should not have given."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.told: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start: Message = {}
        body: list[bytes] = []
        whole = gone = False

        async def come() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or (message["type"] == "http.disconnect" and not whole)
            return message

        async def heard(message: Message) -> None:
            nonlocal start, whole
            if message["type"] == "http.response.start":
                start = message
            else:
                body.append(message.get("body", b""))
                whole = not message.get("more_body", False)
            await send(message)

        await self._app(scope, come, heard)
        if whole and not gone:
            self._judge(scope, start, b"".join(body))

    def _judge(self, scope: Scope, start: Message, body: bytes) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in start["headers"]}
        found = scope.get(FOUND)
        if found is None or found.operation.tag == "pages":
            if headers.get("content-type") == openapi.PROBLEM_JSON and not problem().is_valid(json.loads(body)):
                self.told.append(f"{scope['method']} {scope['path']} → {start['status']}: {body[:300]!r}")
            return
        one = found.operation
        method, status, head = one.method, start["status"], scope["method"] == "HEAD"
        self.told += [
            f"{method} {one.path} → {status}: {fault}"
            for fault in faults(one.path, method, status, headers, body, head=head)
        ]
