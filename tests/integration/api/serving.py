"""The whole server on a real socket, the few words a caller and a node speak with it, and a receiver of webhooks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
import msgspec
from fastapi import FastAPI

from controlplane.app import build
from controlplane.security.secrets import KeyRing
from controlplane.server import Server, bind
from controlplane.settings import Settings
from tests.integration.api.witness import Witness

DEADLINE_SECONDS = 20.0
"""Long, so that a busy machine fails no test; what has to be quick is measured where it is said."""
LEASE_SECONDS = 1.0
KEYRING = KeyRing.from_text(KeyRing.generate())
ABANDONED = "ConnectionError('unexpected connection_lost() call')"
"""What asyncio says of a connection to the database that was given up in the moment in which it was made: asyncpg 0.32
closes it, and nobody takes the failure that follows.
"""

Found = TypeVar("Found")
Json = Any


class Underway(Server):
    """The server as it is, but for signals, which belong to pytest, and a word when it is up."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(app, drain_seconds=settings.drain_seconds, limits=settings.wire)
        self.witness = Witness(app)
        self.config.app = self.witness
        self.up = asyncio.Event()
        self.leaving = asyncio.Event()

    async def main_loop(self) -> None:
        await self.leaving.wait()  # not at the next tenth of a second: a test is short

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@dataclass(frozen=True, slots=True)
class Api:
    """A running server, and how one speaks with it. What is not asked for is `n.echo`, served by the node `n`."""

    app: FastAPI
    host: str
    port: int
    client: httpx.AsyncClient

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def register(self, node: str = "n", *reasoners: str, **policy: Json) -> None:
        """`policy` (retries, timeout_seconds, …) holds for each of the reasoners."""
        served = [{"id": name, **policy} for name in reasoners or ("echo",)]
        answer = await self.client.post("/api/v1/nodes/register", json={"id": node, "reasoners": served})
        assert answer.status_code == 201, answer.text

    async def open_session(self, node: str = "n", *, slots: int = 100, heartbeat_seconds: float = 60.0) -> str:
        """A session whose lease outlives every test, unless its heartbeat is short."""
        body = {"instance_id": "i", "slots": slots, "heartbeat_seconds": heartbeat_seconds}
        answer = await self.client.post(f"/api/v1/nodes/{node}/sessions", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["session_id"])

    async def node(self, *reasoners: str, **policy: Json) -> str:
        """The node `n` and a session of it."""
        await self.register("n", *reasoners, **policy)
        return await self.open_session("n")

    async def submit(
        self, target: str = "n.echo", *, headers: Mapping[str, str] | None = None, **body: Json
    ) -> dict[str, Json]:
        answer = await self.client.post(f"/api/v1/execute/async/{target}", json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        found: dict[str, Json] = answer.json()
        return found

    async def lease(self, session: str, *, limit: int = 1, wait_seconds: float = DEADLINE_SECONDS) -> list[Json]:
        answer = await self.lease_answer(session, limit=limit, wait_seconds=wait_seconds)
        assert answer.status_code == 200, answer.text
        leases: list[Json] = answer.json()["leases"]
        return leases

    async def lease_answer(self, session: str, *, limit: int = 1, wait_seconds: float = 0.0) -> httpx.Response:
        body = {"max": limit, "wait_seconds": wait_seconds}
        return await self.client.post(f"/api/v1/sessions/{session}/lease", json=body)

    async def take(self, session: str) -> dict[str, Json]:
        """The one execution that is there to lease, as the fence and everything else."""
        [one] = await self.lease(session)
        found: dict[str, Json] = one
        return found

    async def finish(
        self, session: str, lease: Mapping[str, Json], result: Json = None, *, status: str = "succeeded", **over: Json
    ) -> httpx.Response:
        """The whole answer, because a single refused report is refused as a request."""
        item = {**fence(lease), "status": status, **({"result": result} if status == "succeeded" else {}), **over}
        return await self.client.post(f"/api/v1/sessions/{session}/results", json={"results": [item]})

    async def heartbeat(self, session: str, **body: Json) -> httpx.Response:
        return await self.client.post(f"/api/v1/sessions/{session}/heartbeat", json=body)

    async def read(self, execution_id: str, *, wait_seconds: float = 0.0) -> dict[str, Json]:
        answer = await self.client.get(f"/api/v1/executions/{execution_id}", params={"wait_seconds": wait_seconds})
        assert answer.status_code == 200, answer.text
        found: dict[str, Json] = answer.json()
        return found

    async def get(self, path: str, **params: Json) -> Json:
        answer = await self.client.get(f"/api/v1{path}", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, body: Json = None, *, headers: Mapping[str, str] | None = None) -> httpx.Response:
        return await self.client.post(f"/api/v1{path}", json=body, headers=headers)

    async def run(self, session: str, result: Json = None, **body: Json) -> str:
        """Submit, lease and finish one execution."""
        accepted = await self.submit(**body)
        done = await self.finish(session, await self.take(session), result)
        assert done.status_code == 200, done.text
        return str(accepted["execution_id"])

    async def deliveries(self, execution_id: str) -> list[Json]:
        items: list[Json] = (await self.get(f"/executions/{execution_id}/deliveries"))["items"]
        return items


@contextlib.asynccontextmanager
async def serving(database: str, **over: Json) -> AsyncIterator[Api]:
    """The application as it is built for production, on a free port of this event loop. It may log no error."""
    settings = Settings(
        **{"port": 0, "lease_seconds": LEASE_SECONDS, "egress_allow_loopback": True, "drain_seconds": 2.0}
        | {"wrong_keys_per_minute": 1_000_000}  # all tests of a server come from one address
        | {"verify_seconds": 0.0}  # tests change rows behind the back of all stages
        | over
    )
    app = build(settings, database_url=database, keyring=KEYRING)
    server = Underway(app, settings)
    listener = bind(settings)
    host, port = listener.getsockname()[:2]
    with no_errors_logged():
        running = asyncio.create_task(server.serve(sockets=[listener]))
        up = asyncio.create_task(server.up.wait())
        await asyncio.wait({running, up}, return_when=asyncio.FIRST_COMPLETED, timeout=DEADLINE_SECONDS)
        up.cancel()
        assert server.started, "the server did not come up"
        key = settings.api_key
        try:
            async with httpx.AsyncClient(
                base_url=f"http://{host}:{port}",
                timeout=DEADLINE_SECONDS * 2,
                headers={} if key is None else {"X-API-Key": key.get_secret_value().encode()},
                trust_env=False,
            ) as client:
                yield Api(app, host, port, client)
        finally:
            server.leaving.set()
            await running
    assert not server.witness.told, list(dict.fromkeys(server.witness.told))[:20]


@contextlib.contextmanager
def no_errors_logged() -> Iterator[None]:
    """Whatever is logged as an error is a bug of ours that somebody caught, but what a test breaks on purpose."""
    said: list[logging.LogRecord] = []
    ear = logging.Handler(logging.ERROR)
    ear.addFilter(lambda record: record.getMessage() != "invariant.violated" and ABANDONED not in record.getMessage())
    ear.emit = said.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(ear)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(ear)
    assert not said, [(one.getMessage(), one.__dict__.get("error"), one.exc_info) for one in said]


class Apart:
    """A server in a thread of its own, for a whole module; its clients cannot hide that its loop hangs."""

    def __init__(self, database: str, **over: Json) -> None:
        self._leave = asyncio.Event()
        self._up: Future[tuple[asyncio.AbstractEventLoop, Api]] = Future()
        self._failure: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(database, over), name="server")
        self._thread.start()
        self._loop, inside = self._up.result(DEADLINE_SECONDS)
        self.app, self.host, self.port, self.url = inside.app, inside.host, inside.port, inside.url

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._leave.set)
        self._thread.join(DEADLINE_SECONDS)
        assert not self._thread.is_alive()
        if self._failure:
            raise self._failure[0]

    def _run(self, database: str, over: Mapping[str, Json]) -> None:
        try:
            asyncio.run(self._serve(database, over))
        except BaseException as error:  # noqa: BLE001 - carried over to the thread that waits
            self._failure.append(error)
            if not self._up.done():
                self._up.set_exception(error)

    async def _serve(self, database: str, over: Mapping[str, Json]) -> None:
        async with serving(database, **over) as api:
            self._up.set_result((asyncio.get_running_loop(), api))
            await self._leave.wait()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver says; `hang` says nothing until it is told to let go."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"ok"
    hang: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        return json.loads(self.body)


class Receiver:
    """Somebody else's server: keeps every request as it came, and answers as it is told, `answer` after the queue."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answer = Answer()
        self.queue: deque[Answer] = deque()
        self._change = asyncio.Condition()
        self._let_go = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/hook"

    def let_go(self) -> None:
        self._let_go.set()

    async def wait_for(self, count: int, *, seconds: float = DEADLINE_SECONDS) -> list[Received]:
        """The first so many requests, as soon as they are there."""
        async with asyncio.timeout(seconds), self._change:
            await self._change.wait_for(lambda: len(self.received) >= count)
        return self.received[:count]

    async def __aenter__(self) -> Receiver:
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0, limit=16 * 1024 * 1024)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._let_go.set()
        self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    await self._one(reader, writer)
        finally:
            self._talks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head[:-4].split("\r\n")
        headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in fields)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        async with self._change:
            self.received.append(Received(line.split(" ")[1], headers, body))
            self._change.notify_all()
        said = self.queue.popleft() if self.queue else self.answer
        if said.hang:
            await self._let_go.wait()
        more = "".join(f"{name}: {value}\r\n" for name, value in said.headers.items())
        writer.write(f"HTTP/1.1 {said.status} Said\r\nContent-Length: {len(said.body)}\r\n{more}\r\n".encode())
        writer.write(said.body)
        await writer.drain()


@dataclass(frozen=True, slots=True)
class Frame:
    """One block of an event stream."""

    id: str | None
    data: Json

    @property
    def type(self) -> str:
        return str(self.data["type"])


class EventStream:
    """The frames of an SSE answer, one by one; anything but `id:`, `data:` and `retry:` lines is refused."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()
        self.retry_ms: int | None = None
        self.joined: str | None = None

    async def next(self, *, seconds: float = DEADLINE_SECONDS) -> Frame | None:
        """The next frame; None when the stream has ended."""
        async with asyncio.timeout(seconds):
            return await self._next()

    async def until(self, *types: str) -> list[Frame]:
        """Frames up to the first of one of these types, heartbeats left out."""
        frames: list[Frame] = []
        while not frames or frames[-1].type not in types:
            frame = await self.next()
            assert frame is not None, f"the stream ended after {[one.type for one in frames]}"
            if frame.type != "heartbeat":
                frames.append(frame)
        return frames

    async def rest(self) -> list[Frame]:
        """Every frame until the server ends the stream."""
        frames: list[Frame] = []
        while (frame := await self.next()) is not None:
            frames.append(frame)
        return frames

    async def _next(self) -> Frame | None:
        id_: str | None = None
        data: str | None = None
        async for line in self._lines:
            name, _, value = line.partition(": ")
            if not line:
                if data is not None:
                    return Frame(id_, json.loads(data))
            elif name == "id":
                id_ = value
            elif name == "data":
                assert data is None, "a payload has broken out of its line"
                data = value
            elif name == "retry":
                self.retry_ms = int(value)
            else:
                raise AssertionError(f"not a line of ours: {line!r}")
        return None


@contextlib.asynccontextmanager
async def streaming(
    api: Api, path: str = "/api/ui/v1/executions/events", *, after: str | None = None, **params: str
) -> AsyncIterator[EventStream]:
    """An event stream that is joined: its `connected` frame has been read."""
    headers = {"Accept": "text/event-stream"} | ({} if after is None else {"Last-Event-ID": after})
    async with api.client.stream("GET", path, headers=headers, params=params or None) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        stream = EventStream(response)
        first = await stream.next()
        assert first is not None
        assert first.type == "connected"
        stream.joined = first.id
        yield stream


def fence(lease: Mapping[str, Json]) -> dict[str, Json]:
    return {"execution_id": lease["execution_id"], "attempt": lease["attempt"]}


def fenced(lease: Mapping[str, Json]) -> str:
    """The execution and its attempt as one header says it."""
    return f"{lease['execution_id']}~{lease['attempt']}"


def pieces(raw: bytes) -> dict[str, bytes]:
    """A JSON object as the very bytes of its members."""
    return {name: bytes(value) for name, value in msgspec.json.decode(raw, type=dict[str, msgspec.Raw]).items()}


def the_problem(response: httpx.Response, status: int, code: str) -> dict[str, Json]:
    """The refusal, once it is known to be the expected one and to have its form."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Json] = response.json()
    assert {"type", "title", "status", "detail", "error", "message"} <= body.keys()
    assert (body["status"], body["code"]) == (status, code), body
    return body


async def until(look: Callable[[], Awaitable[Found | None]], *, seconds: float = DEADLINE_SECONDS) -> Found:
    """What a look finds, as soon as it finds something."""
    async with asyncio.timeout(seconds):
        for turn in itertools.count():
            found = await look()
            if found:
                return found
            await asyncio.sleep(min(0.01 * 2**turn, 0.1))
    raise AssertionError("unreachable")


async def watched(api: Api) -> bool:
    """Whether somebody waits for an end inside the server."""
    return bool(api.app.state.doors.waiting._waiters)
