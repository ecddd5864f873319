"""`controlplane receive`: a receiver on this machine that verifies what it is told, and prints it."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import orjson

from controlplane.cli import output
from controlplane.cli.failure import ExitCode, Failure
from controlplane.security.signature import verify_agentfield, verify_standard

BODY_BYTES_MAX = 16 * 1024 * 1024
READ_SECONDS = 30.0
KEPT_MAX = 100_000
"""Ids that are remembered, to tell what comes again."""


class Told(msgspec.Struct):
    """What is shown of a body, whatever else it holds."""

    event: str | None = None
    execution_id: str | None = None
    status: str | None = None


@dataclass(slots=True, kw_only=True)
class Desk:
    """What to answer, and what was heard so far; `count` of them end it."""

    secrets: list[str]
    status: int | None
    count: int | None
    as_json: bool
    heard: dict[str, None] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)
    requests: int = 0

    def take(self, headers: dict[str, str], body: bytes) -> int:
        """Print it, and say what to answer: 401 for what is not signed with the secret."""
        standard = any(
            verify_standard(
                secret,
                webhook_id=headers.get("webhook-id"),
                timestamp=headers.get("webhook-timestamp"),
                body=body,
                signature=headers.get("webhook-signature"),
            )
            for secret in self.secrets
        )
        agentfield = any(
            verify_agentfield(secret, body, headers.get("x-agentfield-signature")) for secret in self.secrets
        )
        verified = standard if self.secrets else None
        status = self.status or (401 if verified is False else 200)
        with self.lock:
            self._print(headers, body, verified, agentfield if self.secrets else None, status)
            self.requests += 1
            if self.count is not None and self.requests >= self.count:
                self.ended.set()
        return status

    def _print(
        self, headers: dict[str, str], body: bytes, verified: bool | None, agentfield: bool | None, status: int
    ) -> None:
        id_ = headers.get("webhook-id", "")
        again = bool(id_) and id_ in self.heard
        if id_ and len(self.heard) < KEPT_MAX:
            self.heard[id_] = None
        try:
            told = msgspec.json.decode(body, type=Told)
            raw: object = orjson.Fragment(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            told, raw = Told(), body.decode(errors="replace")
        if self.as_json:
            said = {"webhook_id": id_, "verified": verified, "agentfield_verified": agentfield, "again": again}
            output.data(orjson.dumps(said | {"answered": status, "body": raw}))
            return
        words = {None: "not checked", True: "verified", False: "NOT VERIFIED"}
        parts = (id_ or "without an id", words[verified], told.event, told.execution_id, told.status)
        line = " ".join(part for part in parts if part)
        output.data(output.plain(f"{line}{' again' if again else ''} → {status}"))


def receive(*, host: str, port: int, secrets: list[str], status: int | None, count: int | None, as_json: bool) -> None:
    """Listen until Ctrl-C, or until so many requests came."""
    desk = Desk(secrets=secrets, status=status, count=count, as_json=as_json)
    try:
        server = _server(host, port, desk)
    except OSError as error:
        raise Failure(f"Nothing can listen on {host}:{port}: {error.strerror}.", code=ExitCode.USAGE) from None
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    output.say(f"Listening on http://{host}:{server.server_address[1]}/ (any path). Ctrl-C ends it.")
    try:
        desk.ended.wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.shutdown()
        server.server_close()


def _server(host: str, port: int, desk: Desk) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = READ_SECONDS

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not (length.isascii() and length.isdigit() and int(length) <= BODY_BYTES_MAX):
                self.close_connection = True
                self._say(413 if length.isdigit() else 411)
                return
            body = self.rfile.read(int(length))
            self._say(desk.take({name.lower(): value for name, value in self.headers.items()}, body))

        def _say(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its super()'s name
            """What was heard is printed; the rest is nobody's business."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = False  # the last answer is sent before it ends

    return Server((host, port), Handler)
