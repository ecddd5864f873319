"""Around everything that is answered: an id for each request, and the headers that keep a browser from guessing."""

from __future__ import annotations

import re
import time

import orjson
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controlplane.api import problems
from controlplane.api.fields import fields_of
from controlplane.api.front import FOUND, Found
from controlplane.api.problems import MEDIA_TYPE, REQUEST_ID
from controlplane.observe.metrics import OTHER, Meter
from controlplane.security.randomness import RandomBits

REQUEST_ID_HEADER = b"x-request-id"
WELL_FORMED = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")

HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
]
"""On every answer that does not say otherwise by itself. Nothing in it is ever run, framed or kept by a browser."""

PAGE_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    b"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Of pages: their own files only, and nothing inline."""

_PROBLEM = MEDIA_TYPE.encode()
_random = RandomBits()


class Guard:
    """`X-Request-ID` is taken when it is well-formed, else made; the answer says it, and so does a problem."""

    def __init__(self, app: ASGIApp, *, meter: Meter | None = None) -> None:
        self._app = app
        self._meter = Meter() if meter is None else meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        scope[REQUEST_ID] = request_id.decode()
        held: Message | None = None
        answered = False
        begun = time.monotonic()

        async def guarded(message: Message) -> None:
            nonlocal answered, held
            if message["type"] == "http.response.start":
                answered = True
                found: Found | None = scope.get(FOUND)
                route = OTHER if found is None else found.operation.path
                self._meter.answered(scope["method"], route, message["status"], time.monotonic() - begun)
                content_type = _complete(message["headers"], request_id)
                if content_type == _PROBLEM:
                    held = message  # until its body is there, which says the id, too
                    return
            elif held is not None:
                start, held = held, None
                if not message.get("more_body", False):
                    message["body"] = _with_id(message["body"], request_id)
                    start["headers"] = [_measured(one, len(message["body"])) for one in start["headers"]]
                await send(start)
            await send(message)

        try:
            await self._app(scope, receive, guarded)
        except Exception as error:
            if not answered:
                await problems.of(Request(scope), error)(scope, receive, guarded)
            raise  # nobody catches what breaks a door, so that it is seen


def request_id_of(scope: Scope) -> bytes:
    """The id that the caller gave the request, or a new one."""
    given = fields_of(scope).get(REQUEST_ID_HEADER)
    if given is not None and WELL_FORMED.fullmatch(given):
        return given
    return b"req_%016x%016x" % (_random(64), _random(64))


def _complete(headers: list[tuple[bytes, bytes]], request_id: bytes) -> bytes:
    """Adds what is not there yet, and says what the answer holds."""
    said = dict(headers)
    content_type = said.get(b"content-type", b"")
    headers.append((REQUEST_ID_HEADER, request_id))
    for name, value in HEADERS:
        if name not in said:
            page = name == b"content-security-policy" and content_type.startswith(b"text/html")
            headers.append((name, PAGE_POLICY if page else value))
    return content_type


def _with_id(body: bytes, request_id: bytes) -> bytes:
    return body[:-1] + b',"request_id":' + orjson.dumps(request_id.decode()) + b"}" if body.endswith(b"}") else body


def _measured(header: tuple[bytes, bytes], size: int) -> tuple[bytes, bytes]:
    return (header[0], b"%d" % size) if header[0] == b"content-length" else header
