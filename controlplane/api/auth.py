"""Who may come in. Without a key only this machine may, and only by a name that is surely this machine."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from controlplane.api.problems import answer
from controlplane.errors import Unauthorized

OPEN_PATHS = frozenset({"/livez", "/readyz", "/health", "/api/v1/health"})
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Gate:
    """`X-API-Key`, `Authorization: Bearer`, or `?api_key=` for browsers' streams.

    Without a key the `Host` header must name this machine, and so must the `Origin` of a page that asks: neither a name
    that somebody points at 127.0.0.1 nor a form on a foreign page may reach the API through a developer's browser.
    `signed`: paths that look for themselves who comes, by a signature. `links`: what such paths begin with that
    name whom they ask.
    """

    def __init__(
        self, app: ASGIApp, *, api_key: str | None, links: tuple[str, ...], signed: Collection[str] = ()
    ) -> None:
        self._app = app
        self._open = OPEN_PATHS.union(signed)
        self._links = links
        self._key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._is_open(scope["path"]) or self._may(scope):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": Unauthorized.code})
            return
        fix = (
            "Call it as localhost or 127.0.0.1, or start it with CONTROLPLANE_API_KEY."
            if self._key is None
            else "Send X-API-Key or Authorization: Bearer."
        )
        await answer(Unauthorized(fix=fix))(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path in self._open or path.startswith(self._links)

    def _may(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        if self._key is None:
            origin = headers.get("origin")
            return _is_loopback(headers.get("host", "localhost")) and (
                origin is None or _is_loopback(origin.partition("://")[2])
            )
        said = headers.get("x-api-key") or _bearer(headers.get("authorization", ""))
        # Headers are read as Latin-1: back to the bytes that came, which a key outside ASCII has as UTF-8.
        return hmac.compare_digest(said.encode("latin-1") or _query_key(scope).encode(), self._key)


def _is_loopback(authority: str) -> bool:
    name = authority if authority.endswith("]") else authority.rpartition(":")[0] or authority
    return name.lower() in LOOPBACK_HOSTS


def _bearer(header: str) -> str:
    scheme, _, key = header.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _query_key(scope: Scope) -> str:
    query: bytes = scope.get("query_string", b"")
    return parse_qs(query.decode("latin-1")).get("api_key", [""])[0]
