"""One way to speak to the control plane: bytes out, a `Reply` back, and two errors that mean "try again"."""

from __future__ import annotations

import asyncio
import io
import os
import platform
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from controlplane_sdk import strict_json
from controlplane_sdk.errors import (
    AlreadyFinished,
    LeaseLost,
    MemoryConflict,
    NotFound,
    RequestRefused,
    ServerError,
    ServerUnavailable,
    ServerUnreachable,
    Unauthorized,
)
from controlplane_sdk.version import VERSION

PREFIX = "/api/v1"
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 15.0
SENT_BYTES_PER_SECOND_MIN = 64 * 1024
"""A body that goes slower than this is given up: the other side may be gone without a word."""
BYTES_AT_ONCE_MAX = 256 * 1024
"""A larger body is sent in pieces, so that it does not hold up the event loop."""
KEEPALIVE_SECONDS = 4.0
"""Idle connections go before the usual five seconds of the other side are over, so that none closes in use."""
RETRY_FIRST_SECONDS = 0.2
RETRY_CAP_SECONDS = 5.0
NOT_NOW = frozenset({408, 425, 429})
_FAULTS = (aiohttp.ClientError, HttpProcessingError, OSError, RuntimeError)
"""Of a connection. RuntimeError: uvloop raises it where asyncio raises OSError."""
_CONFLICTS = frozenset({"length_mismatch", "not_a_list"})


def server_url(given: str | None = None) -> str:
    """The control plane to speak to: what was given, else the environment, else this machine."""
    names = ("CONTROLPLANE_SERVER", "AGENTFIELD_SERVER", "AGENTFIELD_SERVER_URL")
    url = given or next((os.environ[name] for name in names if os.environ.get(name)), "http://localhost:8080")
    url = (url if "://" in url else f"http://{url}").rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"the server must be an http or https address, not {url!r}")
    return url


def standard_headers(api_key: str | None = None) -> dict[str, str]:
    """What every request carries; the key comes from the environment unless it is given."""
    key = api_key or os.environ.get("CONTROLPLANE_API_KEY") or os.environ.get("AGENTFIELD_API_KEY")
    headers = {
        "User-Agent": f"controlplane-sdk/{VERSION} python/{platform.python_version()}",
        "Accept": "application/json",
        "Content-Type": "application/json",
    }
    return headers | ({"X-API-Key": key} if key else {})


def present(said: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is not there."""
    return {name: value for name, value in said.items() if value is not None}


class Backoff:
    """How long to wait before the next try: doubling, capped, and spread out so that many nodes do not come at once."""

    def __init__(self, *, first_seconds: float = RETRY_FIRST_SECONDS, cap_seconds: float = RETRY_CAP_SECONDS) -> None:
        self._first = first_seconds
        self._cap = cap_seconds
        self._tries = 0

    def next_seconds(self, at_least: float | None = None) -> float:
        ceiling = min(self._cap, self._first * 2.0 ** min(self._tries, 30))
        self._tries += 1
        delay = ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreading load, not guarding a secret
        return max(delay, min(at_least or 0.0, 60.0))

    def reset(self) -> None:
        self._tries = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that is neither 5xx nor "not now"."""

    status: int
    body: Any

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def code(self) -> str:
        return str(self.body.get("code") or self.body.get("error") or "") if isinstance(self.body, dict) else ""

    def expect(self) -> Any:
        """The body of a 2xx. Raises: the error that a refusal means."""
        if self.ok:
            return self.body
        raise refusal(self.status, self.code, self.body)


def refusal(status: int, code: str, facts: Any) -> RequestRefused | LeaseLost:
    """The error that a 4xx means."""
    known = facts if isinstance(facts, dict) else {}
    message = str(known.get("message") or known.get("detail") or code or f"HTTP {status}")
    if (where := known.get("where")) and where not in {"body", "path", "query"}:
        message = f"{where}: {message}"
    if fix := known.get("fix"):
        message = f"{message} ({fix})"
    if code == "lease_lost":
        return LeaseLost(message)
    kind: type[RequestRefused] = RequestRefused
    if status in {401, 403}:
        kind = Unauthorized
    elif status == 404:
        kind = NotFound
    elif code == "already_finished":
        kind = AlreadyFinished
    elif code in _CONFLICTS:
        kind = MemoryConflict
    return kind(message, status=status, code=code or "refused", facts=known)


def _read(response: aiohttp.ClientResponse, content: bytes) -> Reply:
    """The answer as a Reply. Raises: ServerUnavailable, ServerError."""
    status = response.status
    if status >= 500 or status in NOT_NOW:
        after = response.headers.get("Retry-After", "")
        raise ServerUnavailable(
            f"the control plane answered {status}",
            status=status,
            retry_after_seconds=float(after) if after.isascii() and after.isdigit() else None,
        )
    if 300 <= status < 400:
        raise ServerError(f"{response.url} answered {status}: it redirects; use the address it redirects to")
    try:
        return Reply(status, strict_json.decode(content) if content else None)
    except ValueError:
        if status < 300:
            raise ServerError(f"{response.url} did not answer with JSON: is it a control plane?") from None
        return Reply(status, None)


class Transport:
    """Asynchronous requests to one control plane, bound to the event loop that it is made in."""

    def __init__(self, server: str, headers: Mapping[str, str]) -> None:
        self.server = server
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            proxy=_proxy(server),
        )

    async def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> Reply:
        """One try. Raises: ServerUnreachable, ServerUnavailable, ServerError."""
        async with self._answer(method, path, body, headers, params, answer_seconds) as response:
            return _read(response, await response.read())

    async def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str | None] | None = None,
        answer_seconds: float = ANSWER_SECONDS,
        patience_seconds: float | None,
    ) -> Any:
        """The body of the answer to a request that may be repeated; a parameter that is None is not said.

        Raises: NotJson, ServerUnreachable, and whatever the control plane refuses it with.
        """
        reply = await self.send_until_answered(
            method,
            path,
            None if body is None else strict_json.encode(body),
            headers=headers,
            params=present(params or {}) or None,
            answer_seconds=answer_seconds,
            patience_seconds=patience_seconds,
        )
        return reply.expect()

    async def send_until_answered(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        answer_seconds: float = ANSWER_SECONDS,
        patience_seconds: float | None = None,
    ) -> Reply:
        """Try until there is an answer, or for about `patience_seconds`. Only for requests that may be repeated."""
        backoff = Backoff()
        began = time.monotonic()
        while True:
            try:
                return await self.send(
                    method, path, body, headers=headers, params=params, answer_seconds=answer_seconds
                )
            except (ServerUnreachable, ServerUnavailable) as error:
                if patience_seconds is not None and time.monotonic() - began >= patience_seconds:
                    raise
                after = error.retry_after_seconds if isinstance(error, ServerUnavailable) else None
            await asyncio.sleep(backoff.next_seconds(after))

    async def stream(
        self, path: str, *, headers: Mapping[str, str], silence_seconds: float
    ) -> AsyncGenerator[bytes, None]:
        """An open answer, piece by piece. Raises: ServerUnreachable, and whatever the control plane refuses it with."""
        async with self._answer("GET", path, None, headers, None, silence_seconds) as response:
            if response.status != 200:
                _read(response, await response.read()).expect()
            async for piece in response.content.iter_any():
                yield piece

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str] | None,
        params: Mapping[str, str] | None,
        silence_seconds: float,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The head of an answer, and its body for as long as no more than `silence_seconds` pass without a piece of it.

        Raises: ServerUnreachable.
        """
        size = len(body or b"")
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=silence_seconds)
        try:
            async with (
                asyncio.timeout(CONNECT_SECONDS + silence_seconds + size / SENT_BYTES_PER_SECOND_MIN) as head,
                self._session.request(
                    method,
                    URL(f"{self.server}{PREFIX}{path}", encoded=True),
                    data=body if body is None or size <= BYTES_AT_ONCE_MAX else io.BytesIO(body),
                    headers=headers,
                    params=params,
                    timeout=timeout,
                    allow_redirects=False,
                ) as response,
            ):
                head.reschedule(None)
                yield response
        except _FAULTS as error:
            if isinstance(error, RuntimeError) and self._session.closed:
                raise
            raise unreachable(self.server, error) from None  # eighty lines of sockets say no more

    async def aclose(self) -> None:
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _proxy(server: str) -> str | None:
    """What the environment says (HTTPS_PROXY, ALL_PROXY, NO_PROXY), asked once and not for each request."""
    url = urlsplit(server)
    if proxy_bypass(url.hostname or ""):
        return None
    known = getproxies()
    return known.get(url.scheme) or known.get("all")


def unreachable(server: str, error: Exception) -> ServerUnreachable:
    """What a broken connection means, in words."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return ServerUnreachable(f"no answer from {server}: {str(cause) or type(cause).__name__}")
