"""One request to somebody else's server: whatever it does, `post` returns in time and says what came of it.

The answer is streamed and clipped. Redirects, cookies, proxies and compression are off; `dial.py` guards the addresses.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from controlplane.errors import EgressRefused, Invalid
from controlplane.outbound.dial import LINE, Connector, DialRefusedError, Line
from controlplane.security.egress import EgressPolicy

BYTES_AT_ONCE_MAX = 256 * 1024  # a larger body is sent in pieces, so that it does not hold up the event loop
READ_BYTES = 16 * 1024
HEADER_LINE_BYTES_MAX = 8 * 1024
HEADERS_MAX = 100

# RuntimeError: uvloop raises it where asyncio raises OSError. ValueError: UnicodeError, ssl.CertificateError and what
# the client says of a header it will not send.
_FAULTS = (Invalid, EgressRefused, aiohttp.ClientError, HttpProcessingError, OSError, ValueError, RuntimeError)


class Fault(StrEnum):
    """Why there is no whole answer. Up to `unreached` nothing was sent; after the others nobody knows what arrived."""

    FORBIDDEN = "forbidden"
    NOBODY = "nobody"
    UNREACHED = "unreached"
    LOST = "lost"
    LATE = "late"


NOTHING_SENT = frozenset({Fault.FORBIDDEN, Fault.NOBODY, Fault.UNREACHED})


@dataclass(slots=True, kw_only=True)
class Exchange:
    """What came of one request; while it runs, what is known so far, which is read after the deadline has cut it off.

    `error` is a short class, a colon and a sentence; it holds neither the URL nor the other side's words. `clipped`:
    the answer was longer than was wanted of it.
    """

    status: int | None = None
    retry_after: str | None = None
    body: bytearray = field(default_factory=bytearray)
    clipped: bool = False
    fault: Fault | None = None
    error: str | None = None
    latency_ms: int = 0
    line: Line = field(default_factory=Line)

    @property
    def awaited(self) -> str:
        if self.line.transport is None:
            return "connection"
        return "answer" if self.status is None else "end of the answer"


@cache
def authorities() -> ssl.SSLContext:
    """The system's certificate authorities, read once for all clients of this process: that takes 50 ms."""
    return ssl.create_default_context()


class Client:
    """The one client that leaves the house. Use as `async with Client(policy) as client`.

    Concurrency is not limited here: who sends caps what is in flight.
    """

    def __init__(
        self, policy: EgressPolicy, *, user_agent: str = "controlplane", tls: ssl.SSLContext | None = None
    ) -> None:
        """`tls` replaces the system's certificate authorities."""
        self._policy = policy
        self._user_agent = user_agent
        self._tls = tls or authorities()
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
            read_bufsize=READ_BYTES,
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
        body: bytes | None,
        headers: Mapping[str, str],
        total_seconds: float,
        connect_seconds: float,
        answer_bytes_max: int,
        repeatable: bool,
    ) -> Exchange:
        """POST exactly these bytes (GET when there are none); nothing but cancellation gets out of here.

        `total_seconds` bounds everything: name, connection, TLS, request, reading the answer. `repeatable`: a
        kept-alive connection that turns out to be closed is replaced once by a new one, though the other side may have
        read the request.
        """
        session = self._session
        if session is None or session.closed:
            raise RuntimeError("the client is used outside its context")
        started = time.monotonic()
        exchange = Exchange()
        line = LINE.set(exchange.line)
        try:
            target = URL(self._policy.check_url(url).url, encoded=True)
            async with asyncio.timeout(total_seconds):
                await _talk(
                    session, exchange, target, body, headers, connect_seconds, answer_bytes_max, repeatable=repeatable
                )
        except _FAULTS as fault:
            exchange.error = _describe(fault, exchange)
            exchange.fault = _kind(fault, exchange)
        finally:
            exchange.line.hang_up()
            LINE.reset(line)
        exchange.latency_ms = round((time.monotonic() - started) * 1000)
        return exchange


async def _talk(
    session: aiohttp.ClientSession,
    exchange: Exchange,
    target: URL,
    body: bytes | None,
    headers: Mapping[str, str],
    connect_seconds: float,
    answer_bytes_max: int,
    *,
    repeatable: bool,
) -> None:
    async def ask() -> aiohttp.ClientResponse:
        return await session.request(
            "GET" if body is None else "POST",
            target,
            data=body if body is None or len(body) <= BYTES_AT_ONCE_MAX else io.BytesIO(body),
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_seconds),
        )

    try:
        response = await ask()
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError):
        if not (repeatable and exchange.line.reused):
            raise
        response = await ask()
    exchange.status = response.status
    exchange.retry_after = response.headers.get("Retry-After")
    try:
        while (room := answer_bytes_max - len(exchange.body)) > 0:
            chunk = await response.content.read(room)
            if not chunk:
                break
            exchange.body += chunk
        else:
            exchange.clipped = not response.content.at_eof()
    finally:
        response.close()  # gives a connection back that has been read to its end, else closes it


def _kind(fault: Exception, exchange: Exchange) -> Fault:
    match fault:
        case EgressRefused() | Invalid() | aiohttp.ClientConnectorError(os_error=DialRefusedError()):
            return Fault.FORBIDDEN
        case aiohttp.ClientConnectorError(os_error=OSError(errno=errno.ECONNREFUSED)):
            return Fault.NOBODY
        case aiohttp.ClientConnectorError() | aiohttp.ClientConnectorCertificateError():
            return Fault.UNREACHED
        case TimeoutError():
            return Fault.UNREACHED if exchange.line.transport is None else Fault.LATE
        case _:
            return Fault.LOST


def _describe(fault: Exception, exchange: Exchange) -> str:
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
