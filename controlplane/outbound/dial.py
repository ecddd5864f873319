"""Reach a stranger's server: only at addresses the policy allows, and at a bounded price whatever comes back.

An address is checked among the answers of the resolver (all of them, once, and those are dialled), and again at the
socket, because addresses written literally in a URL never reach the resolver.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
from aiohappyeyeballs import AddrInfoType
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader
from aiohttp.tracing import Trace

from controlplane.errors import EgressRefused
from controlplane.security.egress import EgressPolicy

KEEPALIVE_SECONDS = 4.0  # shorter than the 5 s after which the usual servers hang up
DNS_THREADS = 32
DNS_CACHE_SECONDS = 10
PROBE_AFTER_SECONDS = 60
PROBE_EVERY_SECONDS = 15
PROBES_MAX = 4
"""A connection on which nothing comes is probed: whoever waits hours for an answer learns of a machine that is gone."""

INFORMATIONAL_MAX = 32
HEAD_PIECE_BYTES = 4 * 1024
PROBES = (
    ("TCP_KEEPIDLE", PROBE_AFTER_SECONDS),
    ("TCP_KEEPINTVL", PROBE_EVERY_SECONDS),
    ("TCP_KEEPCNT", PROBES_MAX),
)
_HEAD_END = b"\r\n\r\n"

LookUp = Callable[[str, int, int, int], Sequence[tuple[int, int, int, str, tuple[Any, ...]]]]


@dataclass(slots=True, kw_only=True)
class Line:
    """The connection that a request got, as told by the connector to whoever has put a line into `LINE`."""

    transport: asyncio.Transport | None = None
    dialled: bool = False

    @property
    def reused(self) -> bool:
        """Whether the connection came from the pool."""
        return self.transport is not None and not self.dialled

    def hang_up(self) -> None:
        """Leave nothing of a closed connection; one that goes back to the pool stays.

        Else it would live on, with what is still to be sent, until a receiver who never reads has read.
        """
        if self.transport is not None and self.transport.is_closing():
            self.transport.abort()


LINE: ContextVar[Line] = ContextVar("line")


class DialRefusedError(PermissionError):
    """The egress policy speaking as an OSError, the only kind of error that dialling hands through unharmed."""


class Connector(aiohttp.TCPConnector):
    """Dials what the policy allows and nothing else. Without a limit: who sends caps what is in flight."""

    def __init__(self, policy: EgressPolicy, *, tls: ssl.SSLContext) -> None:
        self._policy = policy
        self._names = CheckedResolver(policy)
        super().__init__(
            resolver=self._names,
            socket_factory=self._socket,
            ssl=tls,
            limit=0,
            keepalive_timeout=KEEPALIVE_SECONDS,
            ttl_dns_cache=DNS_CACHE_SECONDS,
        )
        protocol: Callable[..., ResponseHandler] = _Protocol
        self._factory = partial(protocol, loop=self._loop)  # the one private name of the client that we rely on

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        line = LINE.get()
        line.transport, line.dialled = None, False
        connection = await super().connect(req, traces, timeout)
        line.transport = connection.transport
        return connection

    async def close(self, *, abort_ssl: bool = False) -> None:
        await super().close(abort_ssl=abort_ssl)
        await self._names.close()

    def _socket(self, info: AddrInfoType) -> socket.socket:
        """The one place that every address passes, however it was come by."""
        family, kind, protocol, _, address = info
        try:
            self._policy.check_address(address[0])
        except EgressRefused as refusal:
            raise DialRefusedError(errno.EACCES, refusal.detail) from None
        LINE.get().dialled = True
        dialled = socket.socket(family, kind, protocol)
        dialled.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in PROBES:
            if (option := getattr(socket, name, None)) is not None:  # not every system has them all
                dialled.setsockopt(socket.IPPROTO_TCP, option, value)
        return dialled


class CheckedResolver(AbstractResolver):
    """One forbidden address among the answers refuses them all, so nothing can be won by mixing or ordering them.

    It has threads of its own: names that hang must not hold up those who use the event loop's default threads.
    """

    def __init__(self, policy: EgressPolicy, *, look_up: LookUp = socket.getaddrinfo) -> None:
        self._policy = policy
        self._look_up = look_up
        self._threads = ThreadPoolExecutor(DNS_THREADS, thread_name_prefix="dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        look_up = partial(self._look_up, host, port, family, socket.SOCK_STREAM)
        answers = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        results: list[ResolveResult] = []
        for found, _, protocol, _, address in answers:
            ip_text = str(address[0])
            self._policy.check_address(ip_text)
            results.append(ResolveResult(hostname=host, host=ip_text, port=port, family=found, proto=protocol, flags=0))
        return results

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Protocol(ResponseHandler):
    """Feeds the parser one head at a time until the final status is in.

    Whole segments at once cost dearly: a server that sends nothing but `103` held uvloop's event loop for 3 s and took
    170 MB, and what a broken server sends behind its `204` hid the status from us.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._informational = 0
        self._answer: StreamReader | None = None

    def set_response_params(self, **params: Any) -> None:
        self._informational = 0
        self._answer = None
        super().set_response_params(**params)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        if 100 <= data[0].code < 200 and data[0].code != 101:
            self._informational += 1
        else:
            self._answer = data[1]
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        while True:
            cut = len(data) if self._answer is not None else _first_piece(data)
            super().data_received(data[:cut])
            data = data[cut:]
            if self._informational > INFORMATIONAL_MAX and self.transport is not None:
                self.set_exception(HttpProcessingError(message="too many informational answers"))
                self.transport.abort()
            if (fault := self.exception()) is not None:
                self._break_answer(fault)
                return
            if not data:
                return

    def _break_answer(self, fault: BaseException) -> None:
        """Tell who reads the body that a malformed chunk has ended it; else they would wait until the deadline."""
        if self._answer is not None and not self._answer.is_eof():
            self._answer.set_exception(aiohttp.ClientPayloadError("malformed"), fault)


def _first_piece(data: bytes) -> int:
    """How much of the data goes to the parser at once: to the end of a head, and no more than it may cost."""
    end = data.find(_HEAD_END, 0, HEAD_PIECE_BYTES)
    return HEAD_PIECE_BYTES if end < 0 else end + len(_HEAD_END)
