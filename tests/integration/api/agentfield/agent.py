"""An agent as AgentField's SDKs make them, seen from outside: an HTTP server that is called, and that calls back.

It keeps every request as it came and does as it is told: it may be slow, break off, vanish and come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import unquote

import httpx

from tests.integration.api.serving import DEADLINE_SECONDS, Api, Json, pieces

CANCEL = re.compile(r"/_internal/executions/([^/]+)/cancel")
PYTHON = {"deployment": {"tags": {"sdk_version": "0.1.144", "language": "python"}}}
PROCESSING = b'{"status":"processing"}'
HEARTBEAT = "60s"
"""So rare that its lease outlives every test."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What comes back. `hang`: only after `let_go`. `reset`: the connection breaks instead, `cut`: in the middle.

    `drip`: byte by byte.
    """

    status: int = 202
    body: bytes = PROCESSING
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False
    reset: bool = False
    cut: bool = False
    drip: bool = False


TAKEN = Reply()
LOST = Reply(reset=True)
HANGS = Reply(hang=True)
STOPPED = Reply(200, b'{"cancelled":true}')
NOT_ACTIVE = Reply(200, b'{"cancelled":false,"reason":"execution_not_active"}')
NO_SUCH_PATH = Reply(404, b'{"detail":"Not Found"}')


def inline(result: Json) -> Reply:
    """The answer is the result."""
    return Reply(200, json.dumps(result).encode())


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came; names of headers in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        return json.loads(self.body)

    @property
    def id(self) -> str:
        """The execution and its attempt, as they were dispatched."""
        return self.headers["x-execution-id"] if "x-execution-id" in self.headers else self._context["execution_id"]

    @property
    def execution_id(self) -> str:
        return self.id.partition("~")[0]

    @property
    def attempt(self) -> int:
        return int(self.id.partition("~")[2])

    @property
    def _context(self) -> dict[str, str]:
        found: dict[str, str] = self.json["execution_context"]
        return found


class AgentDouble:
    """One process of the agent `node`. Listens for as long as its context, at one port, also when it comes back.

    `answer` is given to every dispatch, after what is in `queue`; `cancel` to every cancel, or the truth.
    """

    def __init__(self, api: Api, node: str = "n", *, heartbeat: str = HEARTBEAT, python: bool = True) -> None:
        self.api = api
        self.node = node
        self.heartbeat = heartbeat
        self.metadata: Json = PYTHON if python else {}
        self.reasoners: list[Json] = [{"id": "echo"}]
        self.skills: list[Json] = [{"id": "add"}]
        self.instance_id = uuid.uuid4().hex
        self.answer = TAKEN
        self.queue: deque[Reply] = deque()
        self.cancel: Reply | None = None
        self.health = Reply(200, b'{"status":"healthy"}')
        self.discovered = Reply(200, b"{}")
        self.ring: list[str] = []
        self.asked: list[Asked] = []
        self.running: set[str] = set()
        self._change = asyncio.Condition()
        self._let_go = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[None]] = set()
        self._place: socket.socket | None = None  # kept, so that nobody else listens there while it is away
        self._taken = 0

    @property
    def port(self) -> int:
        if self._place is None:
            self._place = _bound(0)
        return int(self._place.getsockname()[1])

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def calls(self) -> list[Asked]:
        """Every dispatch so far."""
        return [one for one in self.asked if one.path.startswith(("/reasoners/", "/skills/", "/execute"))]

    @property
    def cancels(self) -> list[Asked]:
        return [one for one in self.asked if CANCEL.fullmatch(one.path)]

    def count(self, path: str) -> int:
        return sum(one.path.startswith(path) for one in self.asked)

    # What it does by itself

    def described(self, **over: Json) -> Json:
        """What a Python agent says when it registers."""
        return {
            "id": self.node,
            "team_id": "default",
            "base_url": over.pop("base_url") if "base_url" in over else self.base_url,
            "version": "1.0.0",
            "reasoners": self.reasoners,
            "skills": self.skills,
            "proposed_tags": [],
            "instance_id": self.instance_id,
            "lifecycle_status": "ready",
            "communication_config": {
                "protocols": ["http"],
                "websocket_endpoint": "",
                "heartbeat_interval": self.heartbeat,
            },
            "health_status": "healthy",
            "last_heartbeat": datetime.now(UTC).isoformat(),
            "registered_at": datetime.now(UTC).isoformat(),
            "features": {},
            "metadata": self.metadata,
            **over,
        }

    async def register(self, **over: Json) -> Json:
        answer = await self.api.post("/nodes/register", self.described(**over))
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def restart(self) -> None:
        """Another process at the same address: it knows nothing of what ran before."""
        self.instance_id = uuid.uuid4().hex
        self.running.clear()
        self.ring.clear()
        await self.register()

    async def beat(self, **over: Json) -> httpx.Response:
        said = datetime.now(UTC).replace(tzinfo=None).isoformat()
        body = {"status": "ready", "timestamp": said, "version": "1.0.0", "instance_id": self.instance_id, **over}
        return await self.api.post(f"/nodes/{self.node}/heartbeat", body)

    async def say_goodbye(self, *, seconds: float = 30.0) -> httpx.Response:
        return await self.api.post(f"/nodes/{self.node}/shutdown", {"reason": "signal", "timeout_seconds": seconds})

    async def call_back(self, call: Asked, **body: Json) -> httpx.Response:
        """The status callback, with what the SDK always adds."""
        self.running.discard(call.id)
        said = {"execution_id": call.id, "reasoner": "echo", "duration_ms": 5, **body}
        return await self.api.post(f"/executions/{call.id}/status", said)

    async def succeed(self, call: Asked, result: Json = None) -> httpx.Response:
        return await self.call_back(call, status="succeeded", result=result, completed_at="2026-11-23T02:24:40+00:00")

    def remember(self, call: Asked, event: str = "reasoner.completed", **attributes: Json) -> None:
        """The last line of an execution in the process's own log, which says how it ended."""
        self.running.discard(call.id)
        said = {"execution_id": call.id, "event_type": event, "message": "over", "attributes": attributes}
        self.ring.append(json.dumps(said))

    # What is asked of it

    async def take(self, *, seconds: float = DEADLINE_SECONDS) -> Asked:
        """The next dispatch that was not taken yet, as soon as it is there."""
        self._taken += 1
        return (await self.wait_for("calls", self._taken, seconds=seconds))[-1]

    async def wait_for(self, what: str, count: int, *, seconds: float = DEADLINE_SECONDS) -> list[Asked]:
        """The first so many `calls` or `cancels`."""
        async with asyncio.timeout(seconds), self._change:
            await self._change.wait_for(lambda: len(getattr(self, what)) >= count)
        found: list[Asked] = getattr(self, what)
        return found[:count]

    async def wait_for_path(self, path: str, count: int) -> None:
        """That so many requests for what begins so have come."""
        async with asyncio.timeout(DEADLINE_SECONDS), self._change:
            await self._change.wait_for(lambda: self.count(path) >= count)

    def let_go(self) -> None:
        """What hangs goes on."""
        self._let_go.set()
        self._let_go = asyncio.Event()

    async def listen(self) -> None:
        taken = _bound(self.port)
        self._server = await asyncio.start_server(self._talk, sock=taken, limit=16 * 1024 * 1024)

    async def vanish(self) -> None:
        """Nobody listens any more, and every connection is broken off."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    async def __aenter__(self) -> AgentDouble:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.vanish()
        if self._place is not None:
            self._place.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._one(reader, writer):
                    pass
        finally:
            self._talks.discard(task)
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer. Says whether the connection is good for another."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head[:-4].split("\r\n")
        headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in fields)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        method, path, _ = line.split(" ")
        asked = Asked(method, unquote(path), headers, body)
        reply = self._reply(asked)
        async with self._change:
            self.asked.append(asked)
            self._change.notify_all()
        if reply.hang:
            await self._let_go.wait()
        if reply.reset:
            _break_off(writer)
            return False
        more = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        writer.write(f"HTTP/1.1 {reply.status} Said\r\nContent-Length: {len(reply.body)}\r\n{more}\r\n".encode())
        await self._say(writer, reply)
        return not reply.cut

    async def _say(self, writer: asyncio.StreamWriter, reply: Reply) -> None:
        body = reply.body[: len(reply.body) // 2] if reply.cut else reply.body
        for part in [body[n : n + 1] for n in range(len(body))] if reply.drip else [body]:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)

    def _reply(self, asked: Asked) -> Reply:
        if stop := CANCEL.fullmatch(asked.path):
            return self._stop(stop[1])
        path = asked.path.partition("?")[0]
        if path == "/health":
            return self.health
        if path == "/discover":
            return self.discovered
        if path == "/agentfield/v1/logs":
            return Reply(200, b"".join(map(_ring_line, self.ring)))
        reply = self.queue.popleft() if self.queue else self.answer
        if reply.status == 202 and not reply.reset:
            self.running.add(asked.id)
        return reply

    def _stop(self, id_: str) -> Reply:
        active = id_ in self.running
        self.running.discard(id_)
        return self.cancel or (STOPPED if active else NOT_ACTIVE)


def raw_of(response: httpx.Response, name: str) -> bytes:
    """A member of a JSON answer as the very bytes that came."""
    return pieces(response.content)[name]


def _ring_line(line: str) -> bytes:
    said = {"v": 1, "seq": 1, "ts": "2026-11-23T02:24:40Z", "stream": "stdout", "line": line, "level": "info"}
    return json.dumps(said).encode() + b"\n"


def _bound(port: int) -> socket.socket:
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind(("127.0.0.1", port))
    return place


def _break_off(writer: asyncio.StreamWriter) -> None:
    """With a reset, not with a polite end."""
    taken: socket.socket = writer.get_extra_info("socket")
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
