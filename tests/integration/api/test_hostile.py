"""Hostile input against every route: never a 5xx, never a hang, nothing said back, nothing stuck, no byte changed.

New routes are met without being named here: the requests are made from `OPERATIONS`, the façades' among them.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from urllib.parse import quote

import msgspec
import orjson
import pytest

from controlplane.api.operation import Operation
from controlplane.app import operations_of
from controlplane.settings import Settings
from tests.integration.api import rawhttp
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
from tests.integration.api.rawhttp import Connection, Reply, ask_all, connected
from tests.integration.api.serving import Apart, Api, Receiver, fence, fenced, pieces, until

DEADLINE_SECONDS = 15.0
pytestmark = pytest.mark.timeout(400)  # some of these walk every field of every form
KEY = "the-key-of-the-house"
KEY_LINE = f"X-API-Key: {KEY}\r\n".encode()
HOUSE = {
    "api_key": KEY,
    "endpoints_max": 1_000,
    "sync_wait_seconds": 2.0,
    "jobs_target": "n.echo",
    "agent_target": "n.echo",
}
OPERATIONS = operations_of(Settings(**HOUSE))
PARAMETER = re.compile(r"{(\w+)}")
WITH_BODY = [one for one in OPERATIONS if one.takes is not None]
SYNCHRONOUS = ("/api/v1/execute/{target}", "/api/v1/reasoners/{target}", "/api/v1/skills/{target}")
STREAMS = ("/api/ui/v1/executions/events", "/api/ui/v1/executions/{execution_id}/events")

# Where a form's first answer is not the only one worth having.
VARIANTS: dict[str, list[Known]] = {
    "/api/v1/memory/write": [{"op": "set"}, {"op": "append"}],
    "/api/v1/nodes/register": [{}, {"base_url": "http://127.0.0.1:1024", "instance_id": "i"}],  # nobody is there
    "/api/v1/schedules": [{"target": "n.echo", "cron": "0 0 29 2 *"}, {"target": "n.echo", "interval_seconds": 5e6}],
    "/api/v1/keys": [{"name": "hostile", "scopes": ["read"]}],
    "/api/v1/schedules/{name}": [{"target": "n.echo", "cron": "0 0 29 2 *"}],
    "/api/v1/triggers": [{"target": "n.echo", "preset": "hmac", "secret": "s"}],
    "/api/v1/triggers/{name}": [{}, {"preset": "hmac"}],
    "/api/v1/bulk": [{"dry_run": True}, {"dry_run": True, "action": "retry"}],  # else it would cancel all there is
    "/api/v1/executions/{execution_id}/status": [{"status": "running"}, {"status": "succeeded"}],
    "/api/v1/workflow/executions/events": [{}, {"status": "running", "execution_id": "inside"}],
}
SPOKEN = ("/api/v1/executions/{execution_id}/status", "/api/v1/executions/{execution_id}/logs")
"""Where an attempt speaks, and says which one it is."""

TYPED = [
    value
    for value in VALUES
    if not value.big
    and (value.fit or value.raw[:1] == b'"' or value.name in ("NaN", "1e400", "5,000 digits", "01", "depth 201"))
]


@dataclass(frozen=True, slots=True)
class Ask(rawhttp.Ask):
    """With the key of the house, which has one from the beginning: else a key that is made here would close it."""

    host: bytes | None = f"Host: 127.0.0.1\r\nX-API-Key: {KEY}".encode()


@pytest.fixture
async def api(shared: Api) -> AsyncIterator[Api]:
    """The house with a node `n`; afterwards it still works, and nothing is stuck in it."""
    shared.client.headers["X-API-Key"] = KEY
    await shared.register("n", "echo", "busy", "aside", "fails")
    yield shared
    async with working(shared):
        await until(lambda: _nothing_unfinished(shared), seconds=6 * DEADLINE_SECONDS)
        execution_id = (await shared.submit(input={"still": "works"}))["execution_id"]
        ended = await shared.read(execution_id, wait_seconds=DEADLINE_SECONDS)
        assert (ended["status"], ended["result"]) == ("succeeded", {"still": "works"})


async def _nothing_unfinished(api: Api) -> bool:
    page = await api.get("/executions", status="queued,running,waiting", limit=200)
    for one in page["items"]:
        # What was asked for later would be there in a year, and what a bulk asks again of a place waits for its node.
        if one.get("status_reason") == "scheduled" or one["target"].startswith("aside-"):
            await api.post(f"/executions/{one['execution_id']}/cancel", {})
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
    slowest: tuple[float, str] = (0.0, "")

    def look(self, operation: Operation, ask: Ask, reply: Reply) -> None:
        self.statuses[reply.status] += 1
        self.slowest = max(self.slowest, (reply.seconds, ask.what))
        fault = None if reply.refused_as_http else _fault(operation, ask, reply)
        if fault is not None:
            asked = ask.raw()
            self.complaints.append(
                f"{fault}: {ask.what}: {asked[:120]!r}…{asked[-300:]!r} → {reply.status} {reply.body!r}"
            )

    def __str__(self) -> str:
        counted = ", ".join(f"{count} × {status}" for status, count in sorted(self.statuses.items()))
        return f"{self.statuses.total()} requests ({counted}), the slowest {self.slowest[0]:.2f} s: {self.slowest[1]}"


def _fault(operation: Operation, ask: Ask, reply: Reply) -> str | None:
    """What is wrong with this answer, if anything is."""
    waited = operation.method == "POST" and operation.path in SYNCHRONOUS and reply.status in (502, 504)
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
    if CANARY.encode() in (reply.body or b"") and not waited:  # the run of what goes on is its caller's own word
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
    fenced: str

    def path_of(self, operation: Operation, **over: str) -> str:
        spoken = {"execution_id": self.fenced} if operation.method == "POST" and operation.path in SPOKEN else {}
        return PARAMETER.sub(lambda found: (self.path | spoken | over)[found[1]], operation.path)


async def place(api: Api, operation: Operation) -> Place:
    """A node of its own that holds an execution of its own, so that one operation does not end another's."""
    node = f"aside-{uuid.uuid4().hex[:8]}"
    await api.register(node, "x")
    if "/nodes/{node_id}/" in operation.path:  # a process to send heartbeats for; nobody listens there
        body = {"id": node, "base_url": "http://127.0.0.1:1024", "instance_id": "i", "reasoners": [{"id": "x"}]}
        assert (await api.post("/nodes/register", body)).status_code == 201
    session = await api.open_session(node)
    await api.submit(f"{node}.x")
    lease = await api.take(session)
    if "/schedules/{name}" in operation.path:
        yearly = {"name": node, "target": f"{node}.x", "cron": "0 0 29 2 *"}
        assert (await api.post("/schedules", yearly)).status_code == 201
    event_id = SHOWN_ID.replace("exec", "tev")
    if "/triggers/{name}" in operation.path:
        made = {"name": node, "target": f"{node}.x", "preset": "bearer", "secret": "s"}
        assert (await api.post("/triggers", made)).status_code == 201
        sent = await api.client.post(f"/hooks/{node}", content=b"1", headers={"Authorization": "Bearer s"})
        event_id = sent.json()["trigger_event_id"]
    if "{namespace}" in operation.path:
        assert (await api.post("/namespaces", {"name": node})).status_code == 201
    if "/endpoints/{endpoint_id}" in operation.path:
        made = {"name": node, "url": "http://127.0.0.1:1024/"}
        assert (await api.post("/endpoints", made)).status_code == 201
    limit = f"key:{node}"
    if "/limits/{key}" in operation.path:
        assert (await api.client.put(f"/api/v1/limits/{limit}", json={"concurrency_max": 5})).status_code == 201
    path = {
        "target": "n.echo",
        "execution_id": str(lease["execution_id"]),
        "job_id": str(lease["execution_id"]),
        "task_id": str(lease["execution_id"]),
        "run_id": str(lease["run_id"]),
        "session_id": session,
        "node_id": node,
        "name": node,
        "delivery_id": SHOWN_ID.replace("exec", "dlv"),
        "bulk_id": SHOWN_ID.replace("exec", "bulk"),
        "key_id": SHOWN_ID.replace("exec", "key"),
        "key": limit if "/limits/{key}" in operation.path else "hostile",
        "event": "hostile",
        "namespace": node if "{namespace}" in operation.path else "default",
        "event_id": event_id,
        "slug": node,
        "endpoint_id": node,
        "token": "hostile",
    }
    known: dict[str, object] = fence(lease) | {
        "wait_seconds": 0,
        "slots": 5,
        "id": "hostile",
        "reasoners": [],
        "skills": [],
        "url": "https://127.0.0.1:1/",
        "callback_url": "https://127.0.0.1:1/",
        "webhook_url": "https://127.0.0.1:1/",
        "params": {},
        "decision": "approved",
        "embedding": [1],
        "query_embedding": [1],
        "parent_execution_id": fenced(lease),
        "invocation_url": "http://127.0.0.1:1024",
    }
    return Place(path, known, (b"X-Execution-ID: " + fenced(lease).encode(),), fenced(lease))


@contextlib.asynccontextmanager
async def places(api: Api, operations: Iterable[Operation]) -> AsyncIterator[list[tuple[Operation, Place]]]:
    """A place for each; afterwards what was held there ends, if it has not, and what was restarted from it."""
    found = [(operation, await place(api, operation)) for operation in operations]
    try:
        yield found
    finally:
        for held in (await api.get("/pauses", limit=200))["items"]:
            doors = {"all": "", "node": f"/nodes/{held.get('name')}", "reasoner": f"/reasoners/{held.get('name')}"}
            await api.post(f"{doors[held['scope']]}/resume", {})
        for made in (await api.get("/schedules", limit=200))["items"]:
            await api.client.delete(f"/api/v1/schedules/{made['name']}")
        while made := (await api.get("/triggers", limit=200))["items"]:
            for one in made:
                await api.client.delete(f"/api/v1/triggers/{one['name']}")
        for made in (await api.get("/endpoints", limit=200))["items"]:
            await api.client.delete(f"/api/v1/endpoints/{made['endpoint_id']}")
        for made in (await api.get("/limits", limit=200))["items"]:
            await api.client.delete(f"/api/v1/limits/{quote(made['key'])}")
        for _, one in found:
            await api.post(f"/executions/{one.path['execution_id']}/cancel", {})
            await api.post(f"/sessions/{one.path['session_id']}/close", {})
            while left := (await api.get("/executions", node_id=one.path["node_id"], status="queued"))["items"]:
                for execution in left:
                    await api.post(f"/executions/{execution['execution_id']}/cancel", {})


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
                (
                    operation,
                    Ask(operation.method, one.path_of(operation), raw, one.headers, what=f"{operation.path} {name}"),
                )
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
            large = True
            for spot in spots(operation.takes, one.known | variant):
                values = [value for value in VALUES if large or not value.big] if spot.payload else TYPED
                large = large and not spot.payload  # once for each form
                for value in values:
                    ask = Ask(operation.method, one.path_of(operation), spot.body(value.raw), one.headers)
                    yield operation, replace(ask, what=f"{operation.path} {spot.name} = {value.name}")


async def test_ids_in_paths(house: Apart, api: Api) -> None:
    """Whatever stands where an id does is refused, or names nothing, on every route that has one in its path."""
    with_id = [one for one in OPERATIONS if PARAMETER.search(one.path)]
    async with working(api), places(api, with_id) as found:
        judge = await judged(house, _id_asks(found))

    # 200: what /agent/status says of an unknown task; 202: an event may have any name; 204: a vector that is not there
    # is forgotten, too; 307: a slash too many; 401: a hook that nobody has; 403: the execution of another node
    assert judge.statuses.keys() <= {200, 202, 204, 307, 400, 401, 403, 404, 422}
    assert judge.statuses[200] <= len(IDS)


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
            if body and what == "upgrade to a socket":
                continue  # never a request of ours: the server below leaves a handshake with a body unanswered
            yield operation, replace(asked, headers=[*one.headers, *lines], what=f"{operation.path} {what}")


async def test_what_is_taken_comes_back_byte_for_byte(house: Apart, api: Api, receiver: Receiver) -> None:
    """Input, context, memory and result survive the whole way: lease, reads, lists, sync answer, webhook."""
    asked: dict[str, Value] = {}
    async with place_alone(api) as alone, connected(house.host, house.port) as line:
        for value in FIT:
            asked[await alone.carry(line, value, receiver.url)] = value
        told = {one.json["execution_id"]: one.body for one in await receiver.wait_for(len(FIT))}

    for execution_id, value in asked.items():
        body = pieces(told[execution_id])
        assert body["result"] == _bare(value), value.name
        assert body.get("context", b"null") == _bare(value), value.name


@dataclass(frozen=True, slots=True)
class Alone:
    """A node nobody else uses, to see what one value becomes on its way."""

    target: str
    session: str

    async def carry(self, line: Connection, value: Value, url: str) -> str:
        """The id of an execution that had this value for input, context, memory and result."""
        bare = _bare(value)
        input_ = b'{"v":%b,  "w" : 1.0}' % value.raw
        webhook = orjson.dumps({"url": url})
        accepted = await self._ask(
            line,
            f"/api/v1/execute/async/{self.target}",
            b'{"input":%b,"context":%b,"webhook":%b}' % (input_, value.raw, webhook),
            status=202,
        )
        execution_id = _word(accepted["execution_id"])
        path = f"/api/v1/executions/{execution_id}"
        leased = await self._ask(line, f"/api/v1/sessions/{self.session}/lease", b'{"max":1,"wait_seconds":10}')
        [lease] = [pieces(one) for one in _list(leased["leases"])]
        assert lease["input"] == input_, value.name
        assert lease.get("context", b"null") == bare, value.name
        wished = await self._ask(line, f"{path}/input", method="GET")
        assert (wished["input"], wished.get("context", b"null")) == (input_, bare), value.name
        await self._remember(line, value, b'"execution_id":%b,"attempt":1' % lease["execution_id"], execution_id)
        await self._ask(
            line,
            f"/api/v1/sessions/{self.session}/results",
            b'{"results":[{"execution_id":%b,"attempt":1,"status":"succeeded","result":%b}]}'
            % (lease["execution_id"], value.raw),
        )
        ended = await self._ask(line, path, method="GET")
        assert ended["result"] == bare, value.name
        many = await self._ask(line, "/api/v1/executions/batch-status", orjson.dumps({"execution_ids": [execution_id]}))
        assert pieces(many[execution_id])["result"] == bare, value.name
        return execution_id

    async def fail_to_say(self, api: Api, line: Connection, value: Value) -> None:
        """Report this value as a result; whatever is answered, the execution ends."""
        execution_id = (await api.submit(self.target))["execution_id"]
        lease = await api.take(self.session)
        report = b'{"execution_id":"%b","attempt":1,"status":"succeeded","result":%b}'
        raw = report % (execution_id.encode(), value.raw)
        said = await line.ask(_post(f"/api/v1/sessions/{self.session}/results", b'{"results":[%b]}' % raw))
        if said.status != 200:
            assert said.status == 400, value.name
            assert (await api.finish(self.session, lease, "said better")).status_code == 200, value.name
        ended = await api.read(execution_id)
        expected = ("succeeded", None) if said.status == 400 else ("failed", "ResultInvalid")
        assert (ended["status"], ended.get("error_class")) == expected, value.name

    async def _remember(self, line: Connection, value: Value, fence_: bytes, execution_id: str) -> None:
        bare, scope = _bare(value), f"X-Run-ID: {execution_id}".encode()
        stored = await self._ask(line, "/api/v1/memory/set", b'{"key":"set","data":%b}' % value.raw, scope)
        assert stored["data"] == bare, value.name
        items = b'{"key":"list","items":[%b,%b],"expected_length":0}' % (value.raw, value.raw)
        await self._ask(line, "/api/v1/memory/append", items, scope)
        write = (
            b'{"op":"set","key":"written","value":%b},{"op":"append","key":"list","items":[%b]},'
            b'{"op":"set","key":"base","value":[ %b ]},{"op":"append","key":"base","items":[%b]}'
        ) % (value.raw, value.raw, value.raw, value.raw)
        run_id = b'"run_id":"%b"' % execution_id.encode()
        await self._ask(line, "/api/v1/memory/write", b'{"writes":[{%b,%b,"ops":[%b]}]}' % (fence_, run_id, write))
        read = {
            key: (await self._ask(line, "/api/v1/memory/get", b'{"key":"%b"}' % key.encode(), scope))["data"]
            for key in ("set", "written", "list", "base")
        }
        assert read["set"] == read["written"] == bare, value.name
        assert _list(read["list"]) == [bare] * 3, value.name
        assert _list(read["base"]) == [bare] * 2, value.name
        listed = await line.ask(Ask("GET", "/api/v1/memory/list", headers=[scope]))
        assert {_word(one["key"]): one["data"] for one in map(pieces, _list(listed.body or b""))} == read, value.name

    async def _ask(
        self, line: Connection, path: str, body: bytes = b"", *headers: bytes, method: str = "POST", status: int = 200
    ) -> dict[str, bytes]:
        reply = await line.ask(Ask(method, path, body, headers))
        assert reply.status == status, (path, body[:300], reply.status, (reply.body or b"")[:300])
        return pieces(reply.body or b"")


@contextlib.asynccontextmanager
async def place_alone(api: Api) -> AsyncIterator[Alone]:
    node = f"alone-{uuid.uuid4().hex[:8]}"
    await api.register(node, "x")
    session = await api.open_session(node)
    yield Alone(f"{node}.x", session)
    await api.post(f"/sessions/{session}/close", {})


def _bare(value: Value) -> bytes:
    """A value without the space around it, which belongs to nobody."""
    return value.raw.strip(b" \t\r\n")


async def test_a_synchronous_answer_holds_the_very_bytes(house: Apart, api: Api) -> None:
    """What the node returns is spliced into the answer as it is."""
    async with working(api) as given, connected(house.host, house.port) as line:
        for value in FIT:
            input_ = b'{"v":%b}' % value.raw
            reply = await line.ask(_post("/api/v1/execute/n.echo", b'{"input":%b}' % input_))
            answer = pieces(reply.body or b"")
            assert reply.status == 200, value.name
            assert answer["result"] == input_ == given[_word(answer["execution_id"])], value.name


async def test_what_a_failure_says_comes_back(house: Apart, api: Api, receiver: Receiver) -> None:
    """The details of an error are any JSON, the error is any text."""
    session, details = await api.node("fails"), [value for value in FIT if not value.big and value.raw != b"null"]
    async with connected(house.host, house.port) as line:
        asked = {}
        for value in details:
            body = {"webhook": {"url": receiver.url}}
            execution_id = (await api.submit("n.fails", **body))["execution_id"]
            error = orjson.dumps(f"\x00 {value.name}\n\x1b[31m\u2028")
            report = b'{"results":[{"execution_id":"%b","attempt":1,"status":"failed","error":%b,"error_details":%b}]}'
            await api.take(session)
            done = await line.ask(
                _post(f"/api/v1/sessions/{session}/results", report % (execution_id.encode(), error, value.raw))
            )
            assert done.status == 200, done
            ended = await line.ask(Ask("GET", f"/api/v1/executions/{execution_id}"))
            read = pieces(ended.body or b"")
            assert (_word(read["error"]), read["error_details"]) == (orjson.loads(error), _bare(value)), value.name
            asked[execution_id] = (orjson.loads(error), _bare(value))
        told = [pieces(one.body) for one in await receiver.wait_for(len(details))]
    await api.post(f"/sessions/{session}/close", {})

    assert {_word(one["execution_id"]): (_word(one["error_message"]), one["error_details"]) for one in told} == asked


async def test_what_is_no_json_leaves_no_trace(house: Apart, api: Api) -> None:
    """Refused as input, context and memory; as a result it fails the attempt, or is refused and can be said better."""
    async with place_alone(api) as alone, connected(house.host, house.port) as line:
        memory = "/api/v1/memory"
        before = await line.ask(_post(f"{memory}/set", b'{"key":"unfit","data":[1]}'))
        for value in [*UNFIT, *TOO_DEEP]:
            refused = [
                (await line.ask(_post(path, body))).status
                for path, body in (
                    (f"/api/v1/execute/async/{alone.target}", b'{"input":{"v":%b}}' % value.raw),
                    (f"/api/v1/execute/async/{alone.target}", b'{"context":%b}' % (value.raw or b",")),
                    (f"{memory}/set", b'{"key":"unfit","data":%b}' % value.raw),
                    (f"{memory}/append", b'{"key":"unfit","items":[%b]}' % (value.raw or b",")),
                    (f"{memory}/write", b'{"writes":[{"ops":[{"op":"set","key":"unfit","value":%b}]}]}' % value.raw),
                )
            ]
            assert set(refused) <= {400, 422}, value.name
            await alone.fail_to_say(api, line, value)
        after = await line.ask(_post(f"{memory}/get", b'{"key":"unfit"}'))
        page = await api.get("/executions", target=alone.target, status="queued,running,waiting")

    assert (before.status, after.body) == (200, before.body)
    assert page["items"] == []


async def test_one_unfit_write_does_not_stop_its_neighbours(api: Api) -> None:
    """Groups of one request come from different executions: each is answered by itself."""
    good = {"ops": [{"op": "set", "key": "good", "value": 1}]}
    bad = {"ops": [{"op": "set", "key": "bad\x00", "value": 1}]}
    nobody = {"execution_id": SHOWN_ID, "attempt": 1, "ops": [{"op": "set", "key": "nobody", "value": 1}]}

    answer = await api.post("/memory/write", {"writes": [good, bad, nobody, good]})
    said = [(one["http_status"], one["code"]) for one in answer.json()["results"]]

    assert answer.status_code == 200
    assert said == [(200, "committed"), (422, "invalid"), (404, "execution_not_found"), (200, "committed")]


async def test_one_unfit_report_does_not_stop_its_neighbours(api: Api) -> None:
    """A report that names no execution is refused alone."""
    async with place_alone(api) as alone:
        await api.submit(alone.target)
        lease = await api.take(alone.session)
        reports = [
            {"execution_id": "nobody", "attempt": 1, "status": "succeeded"},
            {**fence(lease), "status": "succeeded", "result": 1},
            {**fence(lease), "attempt": 0, "status": "succeeded"},
        ]
        answer = await api.post(f"/sessions/{alone.session}/results", {"results": reports})

    assert answer.status_code == 200
    assert [one["http_status"] for one in answer.json()["results"]] == [422, 200, 422]


async def test_too_large(house: Apart, api: Api) -> None:
    """A body over the limit is refused by every route, before it has all arrived; nothing is kept of it."""
    async with connected(house.host, house.port) as line:
        for operation in WITH_BODY:
            path = PARAMETER.sub("n.echo", operation.path)
            told = await line.send(
                b"%b %b HTTP/1.1\r\nHost: localhost\r\n%bContent-Length: 10485761\r\n\r\n{"
                % (operation.method.encode(), path.encode(), KEY_LINE)
            )
            line.close()
            assert told.status in (413, 404, 422), operation.path  # the others look at the path first
        chunk = b"%x\r\n%b\r\n" % (1 << 20, b" " * (1 << 20))
        head = HEAD_OF_SET + b"Transfer-Encoding: chunked\r\n\r\n"
        chunked = await line.send(head + chunk * 11)

    assert chunked.status == 413
    assert orjson.loads(chunked.body or b"")["limit_bytes"] == OVERSIZED_BYTES - 1


SET = b'{"key":"raw","data":1}'
HEAD_OF_SET = b"POST /api/v1/memory/set HTTP/1.1\r\nHost: 127.0.0.1\r\n" + KEY_LINE
REQUESTS: dict[str, tuple[bytes, set[int]]] = {
    "no host": (b"POST /api/v1/memory/set HTTP/1.0\r\n" + KEY_LINE + b"Content-Length: 22\r\n\r\n" + SET, {200}),
    "chunked": (
        HEAD_OF_SET + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"key\r\n11\r\n":"raw","data":1}\r\n0\r\n\r\n',
        {200},
    ),
    "chunks with trailers": (
        HEAD_OF_SET + b"Transfer-Encoding: chunked\r\n\r\n16\r\n" + SET + b"\r\n0\r\nX: y\r\n\r\n",
        {200},
    ),
    "bad chunk": (HEAD_OF_SET + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + SET + b"\r\n0\r\n\r\n", {400}),
    "chunk and length": (HEAD_OF_SET + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", {400, 422}),
    "two lengths": (HEAD_OF_SET + b"Content-Length: 22\r\nContent-Length: 5\r\n\r\n" + SET, {400}),
    "negative length": (HEAD_OF_SET + b"Content-Length: -1\r\n\r\n" + SET, {400}),
    "endless length": (HEAD_OF_SET + b"Content-Length: 99999999999999999999999\r\n\r\n" + SET, {400, 413}),
    "no length": (HEAD_OF_SET + b"\r\n", {422}),
    "expects": (HEAD_OF_SET + b"Expect: 100-continue\r\nContent-Length: 22\r\n\r\n" + SET, {200}),
    "absolute": (b"GET http://127.0.0.1/livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", {200, 401, 404}),
    "star": (b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", {401, 404, 405}),
    "another method": (b"BREW /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", {400, 401, 405}),
    "another version": (b"GET /livez HTTP/3.0\r\nHost: 127.0.0.1\r\n\r\n", {200, 400, 505}),
    "no version": (b"GET /livez\r\n\r\n", {200, 400}),
    "a space too many": (b"GET  /livez  HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", {200, 400}),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100 + b"\r\n\r\n", {400}),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 401, 404, 405}),
    "a long line": (b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", {400, 401, 404, 414, 431}),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_requests_that_no_client_makes(house: Apart, name: str) -> None:
    """Each is answered, by us or before it comes to us, and the next connection is as good as any."""
    raw, statuses = REQUESTS[name]
    async with asyncio.timeout(DEADLINE_SECONDS), connected(house.host, house.port) as line:
        reply = await line.send(raw)
    async with connected(house.host, house.port) as line:
        alive = await line.ask(Ask("GET", "/livez"))

    assert reply.status in statuses, reply
    assert alive.status == 200


async def test_connections_that_break(house: Apart, api: Api) -> None:
    """In the middle of a line, a head or a body, or before the answer: the server does not mind, and keeps nothing."""
    whole = _post("/api/v1/memory/set", b'{"key":"broken","data":1}').raw()
    for cut in (1, 20, whole.index(b"\r\n\r\n") + 2, len(whole) - 1):
        _, writer = await asyncio.open_connection(house.host, house.port)
        writer.write(whole[:cut])
        await writer.drain()
        writer.transport.abort()
    assert (await api.post("/memory/get", {"key": "broken"})).status_code == 404


async def test_a_body_in_small_pieces(house: Apart) -> None:
    """One byte at a time is still a body; requests in one piece are answered one after the other."""
    raw = _post("/api/v1/memory/set", b'{"key":"pieces","data":"\xf0\x9f\x98\x80"}').raw()
    reader, writer = await asyncio.open_connection(house.host, house.port)
    async with asyncio.timeout(DEADLINE_SECONDS):
        for n in range(len(raw)):
            writer.write(raw[n : n + 1])
            await writer.drain()
        assert b'"data":"\xf0\x9f\x98\x80"' in await reader.readuntil(b"}")
        writer.write(raw * 20)
        for version in range(2, 22):
            assert b'"version":%d,' % version in await reader.readuntil(b"}")
    writer.close()
