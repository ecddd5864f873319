"""Who may come in, and for what. Without any key only this machine may, and only by a name that is surely this one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from controlplane.api import signin
from controlplane.api.doors import CALLER, Doors
from controlplane.api.fields import fields_of
from controlplane.api.front import DOORS, FOUND, Found, Shown, Table
from controlplane.api.operation import OPEN, READ, Operation
from controlplane.api.problems import answer
from controlplane.domain.key import ANYBODY, Caller, KeyScope, wanting
from controlplane.errors import ControlPlaneError, NodeNotAllowed, PagesReadOnly, ScopeMissing, Unauthorized

OPEN_PATHS = frozenset({"/livez", "/readyz", "/health", "/api/v1/health"})
"""Whoever looks after us is answered, however full the house is."""
LOOPBACK_HOSTS = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})
NODE_PARAMETER = "node_id"
QUERY_KEY = b"api_key"
QUERY_TICKET = b"ticket"
FROM_HERE = "Call it as localhost or 127.0.0.1, or make a key: controlplane keys create."


class Gate:
    """`X-API-Key`, `Authorization: Bearer`, or `?ticket=` and `?api_key=` for what browsers stream.

    Without a key the `Host` header must name this machine, and so must the `Origin` of a page that asks: neither a name
    that somebody points at 127.0.0.1 nor a form on a foreign page may reach the API through a developer's browser.
    `signed`: paths that look for themselves who comes, by a signature. A key only says for which namespace.
    A browser that has signed in sends a cookie instead; to change anything it needs `X-Controlplane-Page` beside it,
    which no page of another origin can send. Where the pages are read-only, whatever carries it changes nothing.
    `shown`: makes a page of a refusal.
    """

    def __init__(
        self, app: ASGIApp, *, operations: Sequence[Operation], shown: Shown, signed: Collection[str] = ()
    ) -> None:
        self._app = app
        self._shown = shown
        self._table = Table(operations)
        self._signed = frozenset(signed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        socket = scope["type"] == "websocket"
        found = None if socket else self._table.find(scope["method"], scope["path"])
        scope[FOUND] = found
        streams = socket or (found is not None and found.operation.streams)
        try:
            caller = await self._who(scope, found, streams=streams)
            if caller is not None:
                if scope["path"] not in self._signed:
                    _check(caller, found, READ if socket else None)
                    _look_only(scope)
                scope[CALLER] = caller
        except ControlPlaneError as error:
            await self._refuse(error, scope, receive, send)
            return
        if streams and caller is not None and (caller.key_id is not None or caller is ANYBODY):
            await self._stream(caller, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _who(self, scope: Scope, found: Found | None, *, streams: bool) -> Caller | None:
        """Who asks; None for what is open to everybody. Raises: Unauthorized, RateLimited, DatabaseUnavailable."""
        if found is not None and found.operation.scope == OPEN:
            return None
        if found is None and self._is_open(scope):
            return None  # it is told that this is no method of the path
        fields = fields_of(scope)
        said = fields.get(b"x-api-key") or _bearer(fields.get(b"authorization", b""))
        in_query, ticket = _take_from_query(scope, QUERY_KEY), _take_from_query(scope, QUERY_TICKET)
        doors: Doors = scope[DOORS]
        host = scope["client"][0] if scope.get("client") else ""
        if not said and streams:
            if ticket:
                return await doors.entrance.redeem(ticket, scope["path"], host=host)
            said = in_query.encode("utf-8", "replace")
        try:
            caller = await _known(scope, doors, said, host)
        except Unauthorized:
            if scope["path"] in self._signed:
                return None
            raise
        if caller is not None:
            return caller
        if scope["path"] in self._signed:
            return None
        origin = fields.get(b"origin")
        if not _is_loopback(fields.get(b"host", b"localhost")) or not (
            origin is None or _is_loopback(origin.partition(b"://")[2])
        ):
            raise Unauthorized(fix=FROM_HERE)
        return ANYBODY

    async def _refuse(self, error: ControlPlaneError, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": error.code})
            return
        await self._shown(Request(scope), answer(error))(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        """Whether everything that the path takes is open to everybody."""
        others = self._table.about(scope["path"]) if scope["type"] == "http" else {}
        return bool(others) and all(one.scope == OPEN for one in others.values())

    async def _stream(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer for as long as the key lets somebody in."""
        doors: Doors = scope[DOORS]
        with doors.entrance.streaming(caller) as gone:
            answering = asyncio.ensure_future(self._app(scope, receive, send))
            over = asyncio.ensure_future(gone.wait())
            try:
                await asyncio.wait({answering, over}, return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    await _cut(answering, scope, send)
                else:
                    answering.result()
            finally:
                over.cancel()
                answering.cancel()


async def _known(scope: Scope, doors: Doors, said: bytes, host: str) -> Caller | None:
    """Whom a key lets in, or in its place the cookie of a browser that has shown one."""
    caller = None if said else await signin.admit(scope, doors)
    return caller or await doors.entrance.admit(said, host=host)


def _check(caller: Caller, found: Found | None, otherwise: frozenset[KeyScope] | None) -> None:
    """Whether the key is for this. Of a key that may only speak as a node, the path must name one of its nodes.

    Raises: ScopeMissing, NodeNotAllowed.
    """
    wanted = otherwise if found is None else found.operation.scope
    if wanted is None:
        return
    if not caller.may(wanted):
        words = wanting(wanted)
        raise ScopeMissing(
            f"This needs a key with the scope {words}.",
            fix=f"Make one: controlplane keys create NAME --scope {min(wanted).value}.",
            scope=words,
        )
    node_id = None if found is None else found.path_params.get(NODE_PARAMETER)
    by_node = wanted & caller.scopes == {KeyScope.NODE}
    if node_id is not None and by_node and not caller.speaks_for(node_id):
        raise NodeNotAllowed


def _look_only(scope: Scope) -> None:
    """Whether a page may change anything here: neither keys nor other clients are meant. Raises: PagesReadOnly."""
    if signin.PAGE_HEADER in fields_of(scope) and scope[DOORS].ui_read_only and not signin.is_safe(scope):
        raise PagesReadOnly(
            fix="Use the API, the command line or an SDK, or start the server without CONTROLPLANE_UI_READ_ONLY."
        )


async def _cut(answering: asyncio.Future[None], scope: Scope, send: Send) -> None:
    """End an answer in the middle. It has begun, or there would have been nothing to wait for."""
    answering.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await answering
    last = (
        {"type": "websocket.close", "code": 1008, "reason": Unauthorized.code}
        if scope["type"] == "websocket"
        else {"type": "http.response.body", "body": b"", "more_body": False}
    )
    with contextlib.suppress(RuntimeError):  # whoever listened has gone in between
        await send(last)


def _is_loopback(authority: bytes) -> bool:
    name = authority if authority.endswith(b"]") else authority.rpartition(b":")[0] or authority
    return name.lower() in LOOPBACK_HOSTS


def _bearer(header: bytes) -> bytes:
    scheme, _, key = header.partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""


def _take_from_query(scope: Scope, what: bytes) -> str:
    """The key or the ticket in the query, which nobody behind the gate sees or logs."""
    query: bytes = scope.get("query_string", b"")
    if what not in query:
        return ""
    said = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    scope["query_string"] = urlencode([pair for pair in said if pair[0] != what.decode()]).encode()
    return next((value for name, value in said if name == what.decode()), "")
