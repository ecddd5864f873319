"""One connection: uvicorn's parser with what it leaves open. Everything that keeps a server waiting has an end.

The parser itself (llhttp, strict) refuses what makes two servers see two requests in one: a length beside chunks, two
lengths, folded lines, a bare CR or LF, a space before the colon. It keeps an unfinished head in memory without a word,
however long it is, and it never asks for the time: that is done here.
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from controlplane.api import problems
from controlplane.api.auth import OPEN_PATHS
from controlplane.api.connection import CONNECTION
from controlplane.api.guard import HEADERS
from controlplane.errors import ControlPlaneError, HeadTooLarge, NotHttp, TooManyConnections, TooSlow
from controlplane.wire.limits import FIELDS_MAX, READER_BYTES_PER_SECOND_MIN, SURPLUS_MAX, WireLimits

log = logging.getLogger(__name__)

Message = dict[str, Any]
"""Of ASGI."""

LOOK_SECONDS = 1.0
"""How often a body that is on its way is looked at."""
LINGER_SECONDS = 2.0
"""How long what a refused client still sends is thrown away: closing at once would take the answer from it again."""

_OPEN_PATHS = frozenset(path.encode() for path in OPEN_PATHS)


TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""What the name of a field is made of, RFC 9110."""
TEXT = bytes(set(range(256)) - set(range(32)) - {127} | {0x09})
"""What its value is made of. Both are taken away from what goes out: a pattern took five times as long."""


class Cycle(RequestResponseCycle):
    """As uvicorn's, which looks at each field of an answer three times and sends head and body by themselves: a fifth
    of all that a submit cost here.

    The head of an answer of known length that keeps its connection is looked at once, as a whole, and leaves with the
    first of its body.
    """

    _held: bytes | None = None

    async def send(self, message: Message) -> None:  # type: ignore[override]
        if not self.response_started and message["type"] == "http.response.start":
            self._held = self._head_of(message)
            if self._held is not None:
                self.response_started, self.waiting_for_100_continue = True, False
                return
        elif self._held is not None and message["type"] == "http.response.body":
            if self.flow.write_paused and not self.disconnected:
                await self.flow.drain()
            if self.disconnected:
                return
            head, self._held = self._held, None
            body = message.get("body", b"")
            if len(body) <= self.expected_content_length:  # else it is told so below
                self.transport.writelines((head, body))
                self.expected_content_length -= len(body)
                if not self.expected_content_length and not message.get("more_body", False):
                    self._end()
                    return
                message = {**message, "body": b""}
        await super().send(message)  # type: ignore[arg-type]

    def _end(self) -> None:
        """All is written, as it was said to be. To send nothing more through uvicorn took a twentieth of all this."""
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    def _head_of(self, message: Message) -> bytes | None:
        """The bytes of this head; None for one that is not plain, or not in order."""
        fields = [*self.default_headers, *message["headers"]]
        said = dict(fields)
        length = said.get(b"content-length", b"")
        if self.scope["method"] == "HEAD" or self.access_log or not self.keep_alive or not length.isdigit():
            return None
        if b"connection" in said or b"transfer-encoding" in said:
            return None
        ends = b"\r\n" * len(fields)
        block = b"\r\n".join([b": ".join(field) for field in fields]) + b"\r\n"
        if b"" in said or b"".join(said).translate(None, TOKEN) or block.translate(None, TEXT) != ends:
            return None
        self.expected_content_length, self.chunked_encoding = int(length), False
        return b"%b%b\r\n" % (STATUS_LINE[message["status"]], block)


class _Reading(Enum):
    """What comes next."""

    NOTHING = "nothing"
    HEAD = "head"
    BODY = "body"


class _Refused(Exception):
    """Out of a callback of the parser; `_refusal` says why."""


class Protocol(HttpToolsProtocol):
    """Costs nothing while requests come in whole: the clock is asked only after a piece that left one unfinished."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: WireLimits,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._reading = _Reading.NOTHING
        self._since = 0.0
        self._looked = 0.0
        self._bytes = 0
        self._fields = 0
        self._heard = False
        self._unheard = 0
        self._surplus = False
        self._last = False
        self._lingering = False
        self._refusal: ControlPlaneError | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._reader_watch: asyncio.TimerHandle | None = None
        self._unsent = 0

    # What comes in.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        beyond = len(self.connections) - self._limits.connections_max
        self._surplus = beyond > 0
        if beyond > SURPLUS_MAX:
            transport.write(_answer(TooManyConnections()))
            transport.close()
        else:
            self._look_later(self._limits.head_seconds)

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        self._heard = False
        super().data_received(data)
        # The parser keeps a field, or what stands beside the size of a chunk, to itself until its end.
        self._unheard = 0 if self._heard or self._reading is _Reading.NOTHING else self._unheard + len(data)
        if self._lingering or self.transport.is_closing():
            return
        if self._unheard > self._limits.head_bytes_max:
            self._refuse(self._head_too_large())
        elif self._watch is None:
            if self._reading is not _Reading.NOTHING:
                self._look_later(LOOK_SECONDS if self._reading is _Reading.BODY else self._limits.head_seconds)
            elif self._idle and self.timeout_keep_alive_task is None:  # empty lines, which are no request
                self._since = self.loop.time()
                self._look_later(self._limits.head_seconds)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reading, self._heard = _Reading.HEAD, True
        self._since = self.loop.time()
        self._bytes = self._fields = 0

    def on_url(self, url: bytes) -> None:
        self._heard = True
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._heard = True
        self._fields += 1
        if self._fields > FIELDS_MAX:
            raise self._because(HeadTooLarge(f"There are more than {FIELDS_MAX} header fields.", where="headers"))
        self._count(len(name) + len(value))
        if self._reading is _Reading.HEAD:  # a trailer comes behind the gate: nothing is believed of it
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._check_head()
        upgrading = self.parser.should_upgrade()
        if upgrading and not self._idle:
            raise self._because(NotHttp("An upgrade before the answer to the request before it."))
        super().on_headers_complete()
        if self.cycle is not None:
            self.cycle.__class__ = Cycle  # uvicorn makes its own, without asking anybody for another
            self.cycle.scope[CONNECTION] = self.transport  # type: ignore[literal-required]
        self._reading = _Reading.BODY
        self._since = self._looked = self.loop.time()
        self._bytes = self._fields = 0
        if self.cycle is not None and (self._surplus or upgrading):
            self.cycle.keep_alive = False  # behind an upgrade that we do not take comes nobody knows what

    def on_body(self, body: bytes) -> None:
        self._heard = True
        self._bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._reading = _Reading.NOTHING
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words
        self._refuse(self._refusal or NotHttp())

    def handle_websocket_upgrade(self) -> None:
        self._stop_watching()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    # What goes out.

    def on_response_complete(self) -> None:
        if self._last:
            self.transport.close()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unsent = self.transport.get_write_buffer_size()
        if self._reader_watch is None:
            self._reader_watch = self.loop.call_later(self._limits.stalled_seconds, self._look_at_reader)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reader_watch is not None:
            self._reader_watch.cancel()
            self._reader_watch = None

    def _look_at_reader(self) -> None:
        """Of what was there the last time a little must be gone. Nothing is added while writing is paused."""
        unsent, self._reader_watch = self.transport.get_write_buffer_size(), None
        if self._unsent - unsent < READER_BYTES_PER_SECOND_MIN * self._limits.stalled_seconds:
            log.info("connection.stalled", extra={"unsent_bytes": unsent})
            self.transport.abort()
            return
        self._unsent = unsent
        self._reader_watch = self.loop.call_later(self._limits.stalled_seconds, self._look_at_reader)

    # The watch.

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _look_later(self, seconds: float) -> None:
        self._watch = self.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self._watch = None
        now = self.loop.time()
        if self._reading is _Reading.BODY:
            self._look_at_body(now)
        elif self._reading is _Reading.HEAD or (self._idle and self.timeout_keep_alive_task is None):
            left = self._limits.head_seconds - (now - self._since)
            if left > 0:
                self._look_later(left)
            elif self._reading is _Reading.HEAD:
                self._refuse(TooSlow("The head of the request took too long.", where="headers"))
            else:
                self.transport.close()

    def _look_at_body(self, now: float) -> None:
        if self.flow.read_paused:  # it is we who are slow
            self._since += now - self._looked
        self._looked = now
        seconds = now - self._since
        late = seconds >= self._limits.body_seconds
        slow = seconds >= self._limits.head_seconds and self._bytes < self._limits.body_bytes_per_second_min * seconds
        if late or slow:
            self._refuse(TooSlow("The body of the request took too long.", where="body"))
        else:
            self._look_later(LOOK_SECONDS)

    def _stop_watching(self) -> None:
        for watch in (self._watch, self._reader_watch):
            if watch is not None:
                watch.cancel()
        self._watch = self._reader_watch = None

    # What is refused.

    def _count(self, size: int) -> None:
        self._bytes += size if self._reading is _Reading.HEAD else 0
        if size > self._limits.head_bytes_max or (
            self._reading is _Reading.HEAD and self._bytes > self._limits.head_bytes_max
        ):
            raise self._because(self._head_too_large())

    def _head_too_large(self) -> ControlPlaneError:
        most = self._limits.head_bytes_max
        return HeadTooLarge(f"The head is larger than {most} bytes.", where="headers", limit_bytes=most)

    def _check_head(self) -> None:
        """What the parser lets through and two servers might read in two ways. Raises _Refused."""
        names = [name for name, _ in self.headers]
        if names.count(b"host") > 1 or (b"host" not in names and self.parser.get_http_version() == "1.1"):
            raise self._because(NotHttp("There must be one Host.", where="Host"))
        if b"transfer-encoding" in names:
            codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
            if codings != [b"chunked"] or self.parser.get_http_version() == "1.0":
                fix = "Send it as `chunked` alone, or with its length."
                raise self._because(NotHttp("The body is coded in a way that is not read here.", fix=fix))
        if self._surplus and self.url.partition(b"?")[0] not in _OPEN_PATHS:
            raise self._because(TooManyConnections())

    def _because(self, refusal: ControlPlaneError) -> _Refused:
        self._refusal = refusal
        return _Refused(refusal.detail)

    def _refuse(self, error: ControlPlaneError) -> None:
        """Answer what cannot be read any further, and close. An answer that is still owed to others comes first."""
        cycle = self.cycle
        own = self._reading is _Reading.BODY and not self.pipeline
        if not self._idle and not own:
            self._last = True
            self.flow.pause_reading()
            return
        self._stop_watching()
        if own and not self._idle:
            cycle.disconnected = True  # the handler, which waits for more of the body, hears that none comes
            cycle.message_event.set()
        if self.transport.is_closing():
            return
        if own and cycle.response_started:
            self.transport.close()
            return
        self.transport.write(_answer(error))
        self.transport.write_eof()
        self._lingering = True
        self._watch = self.loop.call_later(LINGER_SECONDS, self.transport.close)


def _answer(error: ControlPlaneError) -> bytes:
    said = problems.answer(error, {"Connection": "close"})
    fields = [name + b": " + value + b"\r\n" for name, value in [*said.raw_headers, *HEADERS]]
    return b"".join([STATUS_LINE[said.status_code], *fields, b"\r\n", bytes(said.body)])
