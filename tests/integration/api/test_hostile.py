"""Hostile input against every route: never a 5xx, never a hang, nothing said back, nothing stuck, no byte changed.

New routes are met without being named here: the requests are made from `OPERATIONS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import asyncpg
import httpx
import msgspec
import orjson
import pytest
from tests.integration.api.corpus import (
    BODIES,
    CANARY,
    FIT,
    HEADER_LINES,
    HEADER_VALUES,
    IDS,
    OVERSIZED_BYTES,
    SHOWN_ID,
    TOO_DEEP,
    UNFIT,
    VALUES,
    WORDS,
    Known,
    Value,
    example,
    spots,
)
from tests.integration.api.rawhttp import Ask, Connection, Reply, ask_all, connected
from tests.integration.api.serving import Answer, Apart, Api, Receiver, fence, fenced, pieces, until

from controlplane.api.memory import OpForm
from controlplane.api.operation import Operation
from controlplane.app import OPERATIONS

DEADLINE_SECONDS = 15.0
SYNC_SECONDS = 2.0
PARAMETER = re.compile(r"{(\w+)}")
WITH_BODY = [one for one in OPERATIONS if one.takes is not None]
STREAMS = ("/api/ui/v1/executions/events", "/api/ui/v1/executions/{execution_id}/events")

# Where a form's first answer is not the only one worth having.
VARIANTS: dict[str, list[Known]] = {"/api/v1/memory/write": [{"op": "set"}, {"op": "append"}]}

TYPED = [
    value
    for value in VALUES
    if not value.big
    and (value.fit or value.raw[:1] == b'"' or value.name in ("NaN", "1e400", "5,000 digits", "01", "depth 201"))
]


@pytest.fixture(scope="module")
def house(server: str, template: str) -> Iterator[Apart]:
    """One server for all of this, with a loop of its own."""
    name = f"test_{uuid.uuid4().hex}"
    with asyncio.Runner() as runner:
        runner.run(_execute(server, f"create database {name} template {template} strategy file_copy"))
        apart = Apart(urlsplit(server)._replace(path=f"/{name}").geturl(), sync_wait_seconds=SYNC_SECONDS)
        try:
            yield apart
        finally:
            apart.stop()
            runner.run(_execute(server, f"drop database {name} with (force)"))


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
async def api(house: Apart) -> AsyncIterator[Api]:
    """The house with a node `n`; afterwards it still works, and nothing is stuck in it."""
    async with httpx.AsyncClient(base_url=house.url, timeout=DEADLINE_SECONDS * 2, trust_env=False) as client:
        api = Api(house.app, house.host, house.port, client)
        await api.register("n", "echo", "busy", "aside")
        yield api
        async with working(api):
            await until(lambda: _nothing_unfinished(api), seconds=DEADLINE_SECONDS)
            execution_id = (await api.submit(input={"still": "works"}))["execution_id"]
            ended = await api.read(execution_id, wait_seconds=DEADLINE_SECONDS)
            assert (ended["status"], ended["result"]) == ("succeeded", {"still": "works"})


async def _nothing_unfinished(api: Api) -> bool:
    page = await api.get("/executions", status="queued,running,waiting", limit=5)
    return page["items"] == []


@contextlib.asynccontextmanager
async def working(api: Api) -> AsyncIterator[dict[str, bytes]]:
    """A node's process that returns what it is given, byte for byte, and remembers what it was given."""
    given: dict[str, bytes] = {}
    session = await api.open_session("n", slots=1_000)

    async def work() -> None:
        async with contextlib.AsyncExitStack() as stack:
            line = await stack.enter_async_context(connected(api.host, api.port))
            while True:
                asked = await line.ask(_post(f"/api/v1/sessions/{session}/lease", b'{"max":100,"wait_seconds":1}'))
                assert asked.status == 200, asked
                leases = [pieces(one) for one in _list(pieces(asked.body or b"")["leases"])]
                for lease in leases:
                    given[_word(lease["execution_id"])] = lease["input"]
                reports = [
                    b'{"execution_id":%b,"attempt":%b,"status":"succeeded","result":%b}'
                    % (lease["execution_id"], lease["attempt"], lease["input"])
                    for lease in leases
                ]
                for report in reports:  # one by one: together they may be larger than a request
                    done = await line.ask(_post(f"/api/v1/sessions/{session}/results", b'{"results":[%b]}' % report))
                    assert done.status in (200, 409), done  # 409: it was cancelled or ran out of time

    task = asyncio.create_task(work())
    try:
        yield given
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await api.post(f"/sessions/{session}/close", {})


@dataclass
class Judge:
    """Looks at every answer, and remembers what was answered how often."""

    statuses: Counter[int] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def look(self, operation: Operation, ask: Ask, reply: Reply) -> None:
        self.statuses[reply.status] += 1
        self.slowest = max(self.slowest, reply.seconds)
        fault = None if reply.refused_as_http else _fault(operation, ask, reply)
        if fault is not None:
            asked = ask.raw()
            self.complaints.append(f"{fault}: {ask.what}: {asked[:120]!r}…{asked[-300:]!r} → {reply.status} {reply.body!r}")

    def __str__(self) -> str:
        counted = ", ".join(f"{count} × {status}" for status, count in sorted(self.statuses.items()))
        return f"{self.statuses.total()} requests ({counted}), the slowest {self.slowest:.2f} s"


def _fault(operation: Operation, ask: Ask, reply: Reply) -> str | None:
    """What is wrong with this answer, if anything is."""
    waited = operation.path.endswith("/execute/{target}") and reply.status in (502, 504)
    if reply.status >= 500 and not waited:
        return "our fault"
    if reply.status < 400 or reply.status == 502:
        return None
    if reply.headers["content-type"] != "application/problem+json":
        return "no problem"
    if ask.method == "HEAD":
        return None
    body = orjson.loads(reply.body or b"")
    if not {"type", "title", "status", "detail", "error", "message"} <= body.keys() or body["status"] != reply.status:
        return "not the form of a problem"
    if CANARY.encode() in (reply.body or b""):
        return "said back"
    if body["type"] != "about:blank" and reply.status not in operation.answers:  # about:blank: there is no such path
        return "not declared"
    return None


@dataclass(frozen=True, slots=True)
class Place:
    """What stands in a path, a body and the headers where something in particular must."""

    path: dict[str, str]
    known: dict[str, object]
    headers: tuple[bytes, ...]

    def path_of(self, operation: Operation, **over: str) -> str:
        return PARAMETER.sub(lambda found: (self.path | over)[found[1]], operation.path)


async def place(api: Api) -> Place:
    """A node of its own that holds an execution of its own, so that one operation does not end another's."""
    node = f"aside-{uuid.uuid4().hex[:8]}"
    await api.register(node, "x")
    session = await api.open_session(node)
    await api.submit(f"{node}.x")
    lease = await api.take(session)
    path = {
        "target": "n.echo",
        "execution_id": str(lease["execution_id"]),
        "session_id": session,
        "node_id": node,
        "delivery_id": SHOWN_ID.replace("exec", "dlv"),
    }
    known: dict[str, object] = fence(lease) | {
        "wait_seconds": 0,
        "slots": 5,
        "id": "hostile",
        "reasoners": [],
        "skills": [],
        "url": "https://127.0.0.1:1/",
    }
    return Place(path, known, (b"X-Execution-ID: " + fenced(lease).encode(),))


@contextlib.asynccontextmanager
async def places(api: Api, operations: Iterable[Operation]) -> AsyncIterator[list[tuple[Operation, Place]]]:
    """A place for each; afterwards what was held there ends, if it has not."""
    found = [(operation, await place(api)) for operation in operations]
    try:
        yield found
    finally:
        for _, one in found:
            await api.post(f"/executions/{one.path['execution_id']}/cancel", {})
            await api.post(f"/sessions/{one.path['session_id']}/close", {})


async def judged(house: Apart, asked: Iterable[tuple[Operation, Ask]]) -> Judge:
    """Every request made and every answer looked at."""
    of: dict[int, Operation] = {}

    def asks() -> Iterator[Ask]:
        for operation, ask in asked:
            of[id(ask)] = operation
            yield ask

    judge = Judge()
    async for ask, reply in ask_all(house.host, house.port, asks(), deadline_seconds=DEADLINE_SECONDS):
        judge.look(of[id(ask)], ask, reply)
    print(f"\n{judge}")
    assert not judge.complaints, "\n".join([f"{len(judge.complaints)} answers:", *judge.complaints[:20]])
    return judge


def _post(path: str, body: bytes, *headers: bytes) -> Ask:
    return Ask("POST", path, body, headers, what=path)


def _list(raw: bytes) -> list[bytes]:
    return [bytes(one) for one in msgspec.json.decode(raw, type=list[msgspec.Raw])]


def _word(raw: bytes) -> str:
    return str(orjson.loads(raw))


async def test_whole_bodies(house: Apart, api: Api) -> None:
    """Whatever is sent instead of a form is refused, or taken, by every route that takes one."""
    async with working(api), places(api, WITH_BODY) as found:
        judge = await judged(
            house,
            [
                (operation, replace(_post(one.path_of(operation), raw, *one.headers), what=f"{operation.path} {name}"))
                for operation, one in found
                for name, raw in BODIES.items()
            ],
        )

    assert judge.statuses.total() == len(BODIES) * len(WITH_BODY)


async def test_every_field(house: Apart, api: Api) -> None:
    """Whatever stands in a field is refused or taken, by every field of every form."""
    distinct = list({one.handler: one for one in WITH_BODY}.values())
    async with working(api), places(api, distinct) as found:
        judge = await judged(house, _field_asks(found))

    assert judge.statuses[200] > 1_000
    assert judge.statuses[422] > 1_000
    assert judge.statuses[400] > 1_000


def _field_asks(found: list[tuple[Operation, Place]]) -> Iterator[tuple[Operation, Ask]]:
    for operation, one in found:
        assert operation.takes is not None
        for variant in VARIANTS.get(operation.path, [{}]):
            for spot in spots(operation.takes, one.known | variant):
                for value in VALUES if spot.payload else TYPED:
                    ask = _post(one.path_of(operation), spot.body(value.raw), *one.headers)
                    yield operation, replace(ask, what=f"{operation.path} {spot.name} = {value.name}")


async def test_ids_in_paths(house: Apart, api: Api) -> None:
    """Whatever stands where an id does is refused, or names nothing, on every route that has one in its path."""
    with_id = [one for one in OPERATIONS if PARAMETER.search(one.path)]
    async with working(api), places(api, with_id) as found:
        judge = await judged(house, _id_asks(found))

    # A target that is spelled otherwise and a node's session are no ids of rows: only those may be taken.
    assert judge.statuses[404] > 1_000


def _id_asks(found: list[tuple[Operation, Place]]) -> Iterator[tuple[Operation, Ask]]:
    for operation, one in found:
        body = example(operation.takes, one.known) if operation.takes else b""
        for name in PARAMETER.findall(operation.path):
            for what, id_ in IDS.items():
                ask = Ask(operation.method, one.path_of(operation, **{name: id_}), body, one.headers)
                yield operation, replace(ask, what=f"{operation.path} {name} is {what}")


async def test_no_two_ids_are_one_row(house: Apart, api: Api) -> None:
    """An id is that id: spelled in any other way it names nothing."""
    execution_id = (await api.submit())["execution_id"]
    spellings = [
        execution_id.upper(),
        execution_id.capitalize(),
        execution_id.replace("_", "%5f%5f"),
        f"%20{execution_id}",
        f"{execution_id}%20",
        f"{execution_id}%00",
        f"{execution_id}%0a",
        f"{execution_id}%e2%80%8b",
        f"{execution_id}~01",
        f"{execution_id}~1~1",
        f"{execution_id}0",
        execution_id[:-1],
        execution_id.translate(str.maketrans("0", "O")),
        execution_id.replace("e", "%ef%bd%85", 1),
        execution_id.replace("exec", "ses"),
    ]
    async with working(api), connected(house.host, house.port) as line:
        same = await line.ask(Ask("GET", f"/api/v1/executions/{execution_id.replace('e', '%65')}"))
        answers = [await line.ask(Ask("GET", f"/api/v1/executions/{one}")) for one in spellings]

    assert same.status == 200
    assert {one.status for one in answers} == {422}


async def test_targets_are_not_folded(house: Apart, api: Api) -> None:
    """`n.echo` and `N.Echo` are two targets; a look-alike is none."""
    await api.register("N", "Echo")
    async with working(api), connected(house.host, house.port) as line:
        other = await line.ask(_post("/api/v1/execute/async/N.Echo", b"{}"))
        none = [
            (await line.ask(_post(f"/api/v1/execute/async/{one}", b"{}"))).status
            for one in ("N.echo", "n.Echo", "n.ech%ce%bf", "n.echo%e2%80%8b", "n%ef%bc%8eecho")
        ]
        await api.post(f"/executions/{orjson.loads(other.body or b'')['execution_id']}/cancel", {})

    assert other.status == 202
    assert orjson.loads(other.body or b"")["target"] == "N.Echo"
    assert none == [404, 404, 400, 400, 400]


async def test_queries(house: Apart, api: Api) -> None:
    """Whatever stands in a query is refused or understood, on every route."""
    async with working(api), places(api, OPERATIONS) as found:
        judge = await judged(house, _query_asks(found))

    assert judge.statuses[200] > 500
    assert judge.statuses[422] > 300


def _query_asks(found: list[tuple[Operation, Place]]) -> Iterator[tuple[Operation, Ask]]:
    for operation, one in found:
        body = example(operation.takes, one.known) if operation.takes else b""
        path = one.path_of(operation)
        queries = [f"{name}={word}" for name in operation.query for word in WORDS]
        queries += [f"{name}=1&{name}=2&{name}" for name in operation.query]
        queries += ["", "&&&", "=", f"{CANARY}={CANARY}", "%ff=%fe", "a[b]=c", "?", "%00", "\udcff", "a=b;c=d"]
        queries += ["&".join(f"k{n}={n}" for n in range(5_000))]
        for query in queries:
            ask = Ask(operation.method, f"{path}?{query}", body, one.headers)
            yield operation, replace(ask, what=f"{operation.path}?{query[:80]}")


async def test_headers(house: Apart, api: Api) -> None:
    """Whatever stands in a header is refused or understood, on every route."""
    async with working(api), places(api, OPERATIONS) as found:
        await judged(house, _header_asks(found))


def _header_asks(found: list[tuple[Operation, Place]]) -> Iterator[tuple[Operation, Ask]]:
    for operation, one in found:
        body = example(operation.takes, one.known) if operation.takes else b""
        asked = Ask(operation.method, one.path_of(operation), body)
        for name in operation.headers:
            for value in HEADER_VALUES:
                own = [line for line in one.headers if not line.lower().startswith(name.lower().encode())]
                lines = [*own, name.encode() + b": " + value]
                yield operation, replace(asked, headers=lines, what=f"{operation.path} {name}: {value[:60]!r}")
        for what, lines in HEADER_LINES.items():
            yield operation, replace(asked, headers=[*one.headers, *lines], what=f"{operation.path} {what}")
