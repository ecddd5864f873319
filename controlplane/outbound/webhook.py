"""Send one webhook attempt: whatever the receiver does, `send` returns in time and says what came of it.

The answer is streamed and clipped. Redirects, cookies, proxies and compression are off; `dial.py` guards the addresses.
"""

from __future__ import annotations

import asyncio
import io
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from controlplane.domain.delivery import (
    ERROR_CHARS_MAX,
    RESPONSE_BYTES_MAX,
    Attempt,
    AttemptOutcome,
    parse_retry_after,
)
from controlplane.errors import EgressRefused, Invalid
from controlplane.outbound.dial import LINE, Connector, DialRefusedError, Line
from controlplane.security.egress import EgressPolicy

BYTES_AT_ONCE_MAX = 256 * 1024  # a larger body is sent in pieces, so that it does not hold up the event loop
HEADER_LINE_BYTES_MAX = 8 * 1024
HEADERS_MAX = 100
GONE = 410
REDIRECTS = frozenset({301, 302, 303, 307, 308})

_REFUSED = (Invalid.code, EgressRefused.code)

# RuntimeError: uvloop raises it where asyncio raises OSError. ValueError: UnicodeError, ssl.CertificateError and what
# the client says of a header it will not send.
_FAULTS = (Invalid, EgressRefused, aiohttp.ClientError, HttpProcessingError, OSError, ValueError, RuntimeError)


class WebhookSender:
    """The one client that calls receivers. Use as `async with WebhookSender(policy) as sender`.

    Concurrency is not limited here: the dispatcher caps sends in flight, altogether and for each host.
    """

    def __init__(
        self, policy: EgressPolicy, *, user_agent: str = "controlplane", tls: ssl.SSLContext | None = None
    ) -> None:
        """`tls` replaces the system's certificate authorities."""
        self._policy = policy
        self._user_agent = user_agent
        self._tls = tls or ssl.create_default_context()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=Connector(self._policy, tls=self._tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "Accept-Encoding": "identity",
                "Content-Type": "application/json",
                "User-Agent": self._user_agent,
            },
            timeout=aiohttp.ClientTimeout(total=None),
            trust_env=False,
            auto_decompress=False,
            read_bufsize=RESPONSE_BYTES_MAX,
            max_line_size=HEADER_LINE_BYTES_MAX,
            max_field_size=HEADER_LINE_BYTES_MAX,
            max_headers=HEADERS_MAX,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(
        self,
        *,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        total_seconds: float = 15.0,
        connect_seconds: float = 4.0,
    ) -> Attempt:
        """POST exactly these bytes and say what came of it; nothing but cancellation gets out of here.

        `total_seconds` bounds everything: name, connection, TLS, request, reading the answer. The status decides: a 2xx
        whose body then stalls or breaks was delivered. `headers` have passed `egress.check_headers`, or are our own.
        A kept-alive connection that turns out to be closed is replaced once by a new one, within the same attempt.
        """
        session = self._session
        if session is None or session.closed:
            raise RuntimeError("WebhookSender is used outside its context")
        started = time.monotonic()
        exchange = _Exchange()
        line = LINE.set(exchange.line)
        error = None
        try:
            target = URL(self._policy.check_url(url).url, encoded=True)
            async with asyncio.timeout(total_seconds):
                await _post(session, exchange, target, body, headers, connect_seconds)
        except _FAULTS as fault:
            error = _describe(fault, exchange)
        finally:
            exchange.line.hang_up()
            LINE.reset(line)
        return _attempt(exchange, error, latency_ms=round((time.monotonic() - started) * 1000))


@dataclass(slots=True, kw_only=True)
class _Exchange:
    """What is known so far of one attempt; it is read after the deadline has cut everything off."""

    line: Line = field(default_factory=Line)
    status: int | None = None
    retry_after: str | None = None
    body: bytearray = field(default_factory=bytearray)

    @property
    def awaited(self) -> str:
        if self.line.transport is None:
            return "connection"
        return "answer" if self.status is None else "end of the answer"


async def _post(
    session: aiohttp.ClientSession,
    exchange: _Exchange,
    target: URL,
    body: bytes,
    headers: Mapping[str, str],
    connect_seconds: float,
) -> None:
    async def post() -> aiohttp.ClientResponse:
        return await session.post(
            target,
            data=body if len(body) <= BYTES_AT_ONCE_MAX else io.BytesIO(body),
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_seconds),
        )

    try:
        response = await post()
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError):
        if not exchange.line.reused:
            raise
        response = await post()
    exchange.status = response.status
    exchange.retry_after = response.headers.get("Retry-After")
    try:
        while (room := RESPONSE_BYTES_MAX - len(exchange.body)) > 0:
            chunk = await response.content.read(room)
            if not chunk:
                break
            exchange.body += chunk
    finally:
        response.close()  # gives a connection back that has been read to its end, else closes it


def _attempt(exchange: _Exchange, error: str | None, *, latency_ms: int) -> Attempt:
    status, retry_after = exchange.status, None
    refused = error is not None and error.partition(":")[0] in _REFUSED
    if status is None:
        outcome = AttemptOutcome.REFUSED if refused else AttemptOutcome.FAILED
    elif 200 <= status < 300:
        outcome = AttemptOutcome.DELIVERED
    else:
        outcome = AttemptOutcome.FAILED
        retry_after = parse_retry_after(exchange.retry_after, now=datetime.now(UTC))
        error = f"redirect: answered {status}, redirects are not followed" if status in REDIRECTS else f"http: {status}"
    return Attempt(
        outcome=outcome,
        http_status=status,
        latency_ms=latency_ms,
        error=None if error is None else error[:ERROR_CHARS_MAX],
        response_body=bytes(exchange.body),
        retry_after_seconds=retry_after,
        final=refused or status == GONE,
    )


def _describe(fault: Exception, exchange: _Exchange) -> str:
    """The fault in our own words: the client's hold the whole URL, or what the receiver said, which may be a secret."""
    match fault:
        case EgressRefused() | Invalid():
            return f"{fault.code}: {fault.detail}"
        case TimeoutError():  # the deadline, and the client's ConnectionTimeoutError
            return f"timeout: no {exchange.awaited} in time"
        case aiohttp.ClientConnectorError() | aiohttp.ClientConnectorCertificateError():
            return _unreached(fault)
        case aiohttp.ClientResponseError() | HttpProcessingError():
            return f"protocol: the answer is not valid HTTP ({_root(fault)})"
        case aiohttp.ClientPayloadError():
            return "protocol: the answer's body is broken or cut off"
        case ssl.SSLError():
            return f"tls: {fault.reason or 'broken'}"
        case aiohttp.ClientConnectionError() | OSError() | RuntimeError():
            return f"disconnected: the connection was lost before the answer ended ({_strerror(fault)})"
        case _:
            return f"request: it could not be sent ({type(fault).__name__})"


def _unreached(fault: aiohttp.ClientConnectorError | aiohttp.ClientConnectorCertificateError) -> str:
    match fault:
        case aiohttp.ClientConnectorCertificateError():
            return f"tls: {getattr(fault.certificate_error, 'verify_message', 'the certificate is not trusted')}"
        case aiohttp.ClientConnectorError(os_error=DialRefusedError() as refusal):
            return f"{EgressRefused.code}: {refusal.strerror}"
        case aiohttp.ClientConnectorError(os_error=ssl.SSLError() as broken):
            return f"tls: {broken.reason or 'no handshake'}"
        case aiohttp.ClientConnectorDNSError():
            return f"dns: {fault.os_error.strerror or 'the name could not be resolved'}"
        case _:
            return f"connect: {_strerror(fault.os_error)}"


def _strerror(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) and number > 0 else type(error).__name__


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return type(error).__name__
