"""Namespaces: what belongs to one is not there for the others, by whatever route it is asked for."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import httpx
import orjson
import pytest
import websockets

from controlplane.api.operation import OPEN, Operation
from controlplane.app import operations_of
from controlplane.domain.key import KeyScope
from controlplane.settings import Settings
from tests.integration.api.corpus import example
from tests.integration.api.serving import Api, Json, Receiver, fence, fenced, streaming, the_problem, until

ON = {"api_key": "the-first-key", "jobs_target": "canary.echo", "agent_target": "canary.echo"}
FIRST = pytest.mark.parametrize("settings", [ON], ids=["keyed"])
OPERATIONS = [one for one in operations_of(Settings(**ON)) if one.scope != OPEN]
PARAMETER = re.compile(r"{(\w+)}")
EVERY = [scope.value for scope in KeyScope]
TABLES = """
select c.relname
from pg_class c
join pg_attribute a on a.attrelid = c.oid and a.attname = 'namespace' and not a.attisdropped
where c.relkind in ('r', 'p') and not c.relispartition and c.relnamespace = 'public'::regnamespace
  and c.relname <> 'census'
order by c.relname
"""

# Whatever names no thing of another namespace, or is answered as of a thing that is not there.
OTHERWISE = {
    ("POST", "/api/v1/executions/{execution_id}/logs"): 202,  # best effort: taken, and dropped
    ("GET", "/agent/status/{task_id}"): 200,  # a 200 that says that there is none
    ("PUT", "/api/v1/limits/{key}"): 422,  # would be one of its own, but says nothing
    ("GET", "/api/v1/namespaces/{namespace}/caps"): 403,  # of `default`, whose name is no secret
    ("PUT", "/api/v1/namespaces/{namespace}/caps"): 403,
    ("DELETE", "/api/v1/memory/vector/{key}"): 409,  # in the name of an attempt that there is not
}


# What stands in a form where the same word means something else elsewhere.
OWN_WORDS: dict[str, dict[str, object]] = {
    "/api/v1/executions/{execution_id}/restart": {"scope": "workflow"},
    "/api/v1/executions/{execution_id}/status": {"status": "succeeded"},
    "/api/v1/agents/{node_id}/executions/{execution_id}/awaiter-status": {"status": "waiting"},
    "/api/v1/executions/{execution_id}/logs": {"execution_id": None},
    "/api/v1/workflow/executions/events": {"status": "running", "execution_id": "inside"},
}


@dataclass(frozen=True, slots=True)
class Theirs:
    """One of everything in the namespace `default`."""

    path: dict[str, str]
    known: dict[str, object]
    headers: dict[str, str]

    def path_of(self, one: Operation) -> str:
        spoken = {"execution_id": self.headers["X-Execution-ID"]} if one.path.endswith(("/status", "/logs")) else {}
        said = spoken if one.method == "POST" else {}
        if one.path == "/api/v1/limits/{key}":
            said = {"key": "key:canary"}
        return PARAMETER.sub(lambda found: (self.path | said)[found[1]], one.path)


@pytest.fixture
async def theirs(api: Api, receiver: Receiver) -> Theirs:
    """A node that runs something, and all that grew from it."""
    session = await _node(api)
    told = await api.run(session, {"is": "canary"}, target="canary.echo", webhook={"url": receiver.url})
    await until(lambda: _delivered(api, told))
    [delivery] = await api.deliveries(told)
    await api.submit("canary.echo", input={"canary": 1}, headers={"X-Run-ID": "canary-run"})
    lease = await api.take(session)
    speaking = {"X-Execution-ID": fenced(lease), "X-Run-ID": "canary-run"}
    assert (await api.post("/memory/set", {"key": "canary-key", "data": "canary"}, headers=speaking)).status_code == 200
    vector = {"key": "canary-key", "embedding": [1, 2]}
    assert (await api.post("/memory/vector", vector, headers=speaking)).status_code == 200
    assert (await api.post("/executions/note", {"message": "canary"}, headers=speaking)).status_code == 200
    yearly = {"name": "canary-schedule", "target": "canary.echo", "cron": "0 0 29 2 *"}
    assert (await api.post("/schedules", yearly)).status_code == 201
    more: list[tuple[str, Json, dict[str, str]]] = [
        ("/memory/append", {"key": "canary-list", "items": [1]}, speaking),
        (f"/sessions/{session}/logs", {"entries": [fence(lease) | {"message": "canary"}]}, {}),
        ("/workflow/executions/events", {"execution_id": "inside", "status": "running"} | _parent(lease), {}),
        ("/execute/async/canary.echo", {"delay_seconds": 9_999, "idempotency_key": "canary"}, {}),
        ("/schedules/canary-schedule/run", {}, {}),
        ("/steps/write", {"writes": [fence(lease) | {"ops": [{"op": "done", "name": "canary", "value": 1}]}]}, {}),
        (f"/executions/{lease['execution_id']}/signals/canary-event", {"canary": 1}, {}),
    ]
    for where, body, headers in more:
        assert (await api.post(where, body, headers=headers)).is_success, where
    made = await api.post("/bulk", {"action": "cancel", "filter": {"target": "canary.none"}})
    assert made.status_code == 202, made.text
    bearer = {"name": "canary-schedule", "target": "canary.echo", "preset": "bearer", "secret": "canary-secret"}
    assert (await api.post("/triggers", bearer)).status_code == 201
    outside = {"Authorization": "Bearer canary-secret", "Content-Type": "application/json"}
    hooked = await api.client.post("/hooks/canary-schedule", content=b'{"id": "canary"}', headers=outside)
    assert hooked.status_code == 202, hooked.text
    [event] = (await api.get("/triggers/canary-schedule/events"))["items"]
    assert (await api.client.put("/api/v1/limits/key:canary", json={"concurrency_max": 3})).status_code == 201
    assert (await api.client.put("/api/v1/namespaces/default/caps", json={"nodes": 5_000})).status_code == 200
    told_all = {"name": "canary-schedule", "url": receiver.url, "events": ["endpoint.disabled"]}
    endpoint = await api.post("/endpoints", told_all)
    assert endpoint.status_code == 201, endpoint.text
    listening = {"webhook": {"url": receiver.url, "events": ["execution.started"]}, "delay_seconds": 9_999}
    await api.submit("canary.echo", **listening)
    key = (await api.post("/keys", {"name": "canary", "scopes": ["read"]})).json()
    assert (await api.post("/tickets", {"path": "/canary"})).status_code == 201
    await api.submit("canary.echo", input={"canary": 2})  # waits, ready to be taken
    asking = await api.take(session)
    await api.submit("canary.echo", input={"canary": 3})
    wished = {"approval_request_id": "canary-approval"}
    assert (await api.post(f"/executions/{fenced(asking)}/request-approval", wished)).status_code == 200
    assert (await api.post("/nodes/canary/pause", {"reason": "canary"})).status_code == 200
    path = {
        "target": "canary.echo",
        "execution_id": str(lease["execution_id"]),
        "job_id": str(lease["execution_id"]),
        "task_id": str(lease["execution_id"]),
        "run_id": "canary-run",
        "session_id": session,
        "node_id": "canary",
        "name": "canary-schedule",
        "delivery_id": str(delivery["delivery_id"]),
        "bulk_id": str(made.json()["bulk_id"]),
        "key": "canary-key",
        "key_id": str(key["key_id"]),
        "event_id": str(event["trigger_event_id"]),
        "event": "canary-event",
        "namespace": "default",
        "endpoint_id": str(endpoint.json()["endpoint_id"]),
    }
    known: dict[str, object] = fence(lease) | {
        "execution_ids": [told, lease["execution_id"]],
        "parent_execution_id": fenced(lease),
        "request_id": "canary-approval",
        "requestId": "canary-approval",
        "approval_request_id": "canary-approval",
        "decision": "approved",
        "target": "canary.echo",
        "cron": "0 0 29 2 *",
        "node_id": "canary",
        "id": "stranger",
        "reasoners": [],
        "skills": [],
        "instance_id": "i",
        "slots": 1,
        "max": 1,
        "wait_seconds": 0,
        "key": "canary-key",
        "embedding": [1, 2],
        "query_embedding": [1, 2],
        "scope": "global",
        "action": "cancel",
        "ids": [told, lease["execution_id"]],
        "filter": {"ids": [told, lease["execution_id"]]},
        "items": [],
        "statuses": ["failed"],
        "name": "strange",
        "scopes": ["read"],
        "namespace": "default",
        "invocation_url": "http://127.0.0.1:1",
        "callback_url": "http://127.0.0.1:1024/",
        "message": "m",
        "reuse": "none",
        "overlap": "skip",
        "catch_up": "one",
        "run_id": "canary-run",
    }
    return Theirs(path, known, speaking)


def _parent(lease: Json) -> dict[str, Json]:
    return {"parent_execution_id": fenced(lease)}


async def _node(api: Api) -> str:
    await api.register("canary", "echo")
    return await api.open_session("canary")


async def _delivered(api: Api, execution_id: str) -> bool:
    return [one["state"] for one in await api.deliveries(execution_id)] == ["delivered"]


@pytest.fixture
async def stranger(api: Api) -> AsyncIterator[Api]:
    """Who has every scope, of another namespace."""
    assert (await api.post("/namespaces", {"name": "elsewhere"})).status_code == 201
    wish = {"name": "all", "scopes": EVERY, "node_ids": ["*"], "namespace": "elsewhere"}
    key = (await api.post("/keys", wish)).json()
    assert key["namespace"] == "elsewhere"
    headers = {"X-API-Key": key["key"]}
    async with httpx.AsyncClient(base_url=api.url, headers=headers, timeout=30, trust_env=False) as client:
        yield Api(api.app, api.host, api.port, client)


async def digests(conn: asyncpg.Connection) -> dict[str, tuple[int, str]]:
    """How many rows of the namespace `default` each table has, and the hash of them all."""
    found: dict[str, tuple[int, str]] = {}
    for row in await conn.fetch(TABLES):
        name = row["relname"]
        rows = await conn.fetch(f"select t::text as said from {name} t where namespace = 1 order by 1")
        said = "\n".join(one["said"] for one in rows)
        found[name] = (len(rows), hashlib.sha256(said.encode()).hexdigest())
    return found


async def ask(api: Api, one: Operation, theirs: Theirs) -> httpx.Response:
    known = theirs.known | OWN_WORDS.get(one.path, {})
    body = None if one.takes is None else example(one.takes, known)
    return await api.client.request(one.method, theirs.path_of(one), content=body, headers=theirs.headers)


@FIRST
async def test_nothing_crosses(api: Api, stranger: Api, theirs: Theirs, conn: asyncpg.Connection) -> None:
    """Every route, with every right and the ids of another namespace: not there, and no row of theirs is changed."""
    before = await digests(conn)
    wrong: list[str] = []
    for one in OPERATIONS:
        if one.streams and not PARAMETER.search(one.path):
            continue  # has no end: below
        answer = await ask(stranger, one, theirs)
        said = answer.text.replace("canary-run", "").replace("canary-approval", "")
        if answer.status_code >= 500 or "canary" in said:
            wrong.append(f"{one.method} {one.path}: {answer.status_code} {answer.text[:300]}")
        if PARAMETER.search(one.path) and answer.status_code != OTHERWISE.get((one.method, one.path), 404):
            wrong.append(f"{one.method} {one.path}: {answer.status_code} {answer.text[:300]}")

    assert not wrong, "\n".join(wrong)
    assert await digests(conn) == before
    assert {name for name, (rows, _) in before.items() if not rows} <= {
        "limits",
        "ended_parents",
        "retention_walks",
        "breakers",
    }


@FIRST
async def test_it_is_there_for_its_own(api: Api, theirs: Theirs) -> None:
    """The walk above would find what it asks for: every reading route does, for who may."""
    for one in OPERATIONS:
        if one.method == "GET" and PARAMETER.search(one.path) and not one.streams:
            answer = await ask(api, one, theirs)
            assert answer.status_code == (404 if one.path.endswith("approval-status") else 200), (one.path, answer.text)


@FIRST
async def test_what_has_no_path_says_as_little(stranger: Api, theirs: Theirs) -> None:
    """In bodies and headers another namespace's ids are those of nothing."""
    execution_id = theirs.path["execution_id"]
    states = (await stranger.post("/executions/batch-status", {"execution_ids": [execution_id]})).json()
    note = await stranger.post("/executions/note", {"message": "m"}, headers=theirs.headers)
    child = await stranger.post("/execute/async/canary.echo", {}, headers={"X-Parent-Execution-ID": execution_id})
    bulk = await stranger.post("/bulk", {"action": "cancel", "filter": {"ids": [execution_id]}, "dry_run": True})
    event = {"execution_id": "inside", "status": "running", "parent_execution_id": theirs.headers["X-Execution-ID"]}
    heard = await stranger.post("/workflow/executions/events", event)
    value = {"key": "k", "data": 1, "scope": "global"}

    assert states == {execution_id: {"execution_id": execution_id, "status": "not_found"}}
    the_problem(note, 409, "lease_lost")
    the_problem(child, 404, "target_not_found")
    assert bulk.json()["matched"] == 0
    assert heard.json()["updated"] is False
    the_problem(await stranger.post("/memory/set", value, headers=theirs.headers), 409, "lease_lost")


@FIRST
async def test_the_same_names_in_both(api: Api, stranger: Api, theirs: Theirs) -> None:
    """A node, a run, a schedule and a key of memory of one name are two, each with its own work."""
    await stranger.register("canary", "echo")
    session = await stranger.open_session("canary")
    taken = await stranger.lease(session, wait_seconds=0)
    await stranger.submit("canary.echo", input={"own": 1}, headers={"X-Run-ID": "canary-run"})
    own = await stranger.take(session)
    value = {"key": "canary-key", "data": "own", "scope": "global"}
    assert (await stranger.post("/memory/set", value)).status_code == 200
    await stranger.post("/runs/canary-run/cancel", {})

    assert taken == []
    assert own["input"] == {"own": 1}
    assert (await api.read(theirs.path["execution_id"]))["status"] == "running"
    the_problem(await api.post("/memory/get", {"key": "canary-key", "scope": "global"}), 404, "memory_not_found")
    run = await stranger.get("/runs/canary-run")
    assert run["executions"] == 1


@FIRST
async def test_a_report_of_another_namespace_is_lost(api: Api, stranger: Api, theirs: Theirs) -> None:
    """Through a session of one's own nothing is said of what others run."""
    await stranger.register("canary", "echo")
    session = await stranger.open_session("canary")
    said = {"execution_id": theirs.path["execution_id"], "attempt": 1}
    report = {**said, "status": "succeeded", "result": "stolen"}
    answer = await stranger.post(f"/sessions/{session}/results", {"results": [report]})
    logs = await stranger.post(f"/sessions/{session}/logs", {"entries": [{**said, "message": "m"}]})

    the_problem(answer, 409, "lease_lost")
    the_problem(logs, 409, "lease_lost")
    assert (await api.read(theirs.path["execution_id"]))["status"] == "running"


@FIRST
async def test_streams_tell_of_their_own(api: Api, stranger: Api, theirs: Theirs) -> None:
    """From the very beginning on, of executions and of memory, by SSE and by WebSocket."""
    await stranger.register("own", "echo")
    url = f"ws://{stranger.host}:{stranger.port}/api/v1/memory/events/ws?after=0.0.0"
    keyed = {"X-API-Key": stranger.client.headers["X-API-Key"]}
    async with (
        streaming(stranger, after="0.0.0") as stream,
        websockets.connect(url, additional_headers=keyed, proxy=None) as socket,
    ):
        await api.submit("canary.echo", input={"canary": 4})
        await api.post("/memory/set", {"key": "canary-2", "data": 1, "scope": "global"})
        mine = await stranger.submit("own.echo")
        await stranger.post("/memory/set", {"key": "own", "data": 1, "scope": "global"})
        [frame] = await stream.until("execution_created")
        async with asyncio.timeout(20):
            change = orjson.loads(await socket.recv())

    assert frame.data["execution_id"] == mine["execution_id"]
    assert change["key"] == "own"


@FIRST
async def test_a_socket_on_what_is_not_there(stranger: Api, theirs: Theirs) -> None:
    """The life of another namespace's execution is not told."""
    path = f"/api/ui/v1/executions/{theirs.path['execution_id']}/ws"
    keyed = {"X-API-Key": stranger.client.headers["X-API-Key"]}
    with pytest.raises(websockets.InvalidStatus):
        await websockets.connect(f"ws://{stranger.host}:{stranger.port}{path}", additional_headers=keyed, proxy=None)


@FIRST
async def test_only_default_speaks_of_others(api: Api, stranger: Api) -> None:
    """Its admins make namespaces and their keys; the others see their own alone, and not which there are."""
    wishes: list[Json] = [{"name": "k", "scopes": ["read"], "namespace": name} for name in ("default", "nowhere")]
    for wish in wishes:
        the_problem(await stranger.post("/keys", wish), 403, "namespace_not_allowed")
    the_problem(await stranger.post("/namespaces", {"name": "mine"}), 403, "namespace_not_allowed")
    the_problem(await stranger.client.get("/api/v1/namespaces"), 403, "namespace_not_allowed")
    the_problem(await stranger.client.get("/api/v1/keys?namespace=default"), 403, "namespace_not_allowed")
    own = (await stranger.post("/keys", {"name": "k", "scopes": ["read"]})).json()
    listed = [one["name"] for one in (await stranger.get("/keys"))["items"]]

    assert own["namespace"] == "elsewhere"
    assert listed == ["k", "all"]
    assert [one["name"] for one in (await api.get("/keys", namespace="elsewhere"))["items"]] == listed
    assert [one["name"] for one in (await api.get("/namespaces"))["items"]] == ["default", "elsewhere"]
    the_problem(await api.post("/namespaces", {"name": "elsewhere"}), 409, "namespace_exists")
    answer = await api.client.post(f"/api/v1/keys/{own['key_id']}/revoke?namespace=elsewhere")
    assert answer.json()["state"] == "revoked"


@FIRST
async def test_many_namespaces_at_once(api: Api) -> None:
    """Each gets a number of its own, and a name that two want is one's."""
    asked = [api.post("/namespaces", {"name": name}) for name in [f"n{n}" for n in range(12)] + ["n3", "n3"]]
    statuses = [answer.status_code for answer in await asyncio.gather(*asked)]

    assert sorted(statuses) == [201] * 12 + [409] * 2
