"""API keys: made, used, rotated, revoked; every route against every wrong key; nodes that speak only as themselves."""

from __future__ import annotations

import asyncio
import logging
import re
from uuid import UUID

import asyncpg
import httpx
import pytest
import websockets

from controlplane.api.operation import OPEN, Operation
from controlplane.app import operations_of
from controlplane.domain.ids import read, show
from controlplane.domain.key import KeyId, KeyScope
from controlplane.security.keys import make
from controlplane.settings import Settings
from tests.integration.api.serving import Api, Json, fence, fenced, serving, the_problem, until

FIRST = "the-first-key-of-all"
HOUSE = {"api_key": FIRST, "jobs_target": "n.echo", "agent_target": "n.echo"}
OPERATIONS = operations_of(Settings(**HOUSE))
PARAMETER = re.compile(r"{(\w+)}")
NOBODY = UUID(int=1 << 100)
PREFIX_OF = {"execution_id": "exec", "key_id": "key", "session_id": "ses", "delivery_id": "dlv", "bulk_id": "bulk"}
CLOSED = [one for one in OPERATIONS if one.scope != OPEN]
OURS = ("controlplane", "uvicorn", "asyncpg")
EVERY = [scope.value for scope in KeyScope]


@pytest.fixture
async def house_api(shared: Api) -> Api:
    """The house, and its first key."""
    shared.client.headers["X-API-Key"] = FIRST
    return shared


async def create(api: Api, *scopes: str, name: str = "some", **more: Json) -> dict[str, Json]:
    if "node" in scopes:
        more = {"node_ids": ["*"]} | more
    answer = await api.post("/keys", {"name": name, "scopes": list(scopes), **more})
    assert answer.status_code == 201, answer.text
    found: dict[str, Json] = answer.json()
    return found


async def ask(
    api: Api, key: str | None, path: str = "/api/v1/nodes", method: str = "GET", **more: Json
) -> httpx.Response:
    """By this key alone."""
    async with httpx.AsyncClient(base_url=api.url, trust_env=False, timeout=20) as client:
        return await client.request(method, path, headers={} if key is None else {"X-API-Key": key}, **more)


def path_of(one: Operation) -> str:
    """With ids that there are not, in the form that each must have."""
    return PARAMETER.sub(lambda found: show(PREFIX_OF[found[1]], NOBODY) if found[1] in PREFIX_OF else "x.y", one.path)


@pytest.fixture
async def wrong(house_api: Api) -> dict[str, str | None]:
    """Every way in which a key can be wrong for all routes."""
    revoked, expired = await create(house_api, *EVERY), await create(house_api, *EVERY, expires_in_seconds=1)
    assert (await house_api.post(f"/keys/{revoked['key_id']}/revoke")).status_code == 200
    good = str(revoked["key"])
    keys = {
        "none": None,
        "unknown": make(KeyId(NOBODY)),
        "revoked": good,
        "expired": str(expired["key"]),
        "wrong checksum": good[:-1] + ("0" if good[-1] != "0" else "1"),
        "another secret": make(KeyId(read("key", str(revoked["key_id"]), where=""))),
        "cut off": good[:-1],
        "only its prefix": str(revoked["prefix"]),
    }

    async def over() -> bool:
        return (await ask(house_api, str(expired["key"]))).status_code == 401

    await until(over)
    return keys


async def test_every_route_against_every_wrong_key(house_api: Api, wrong: dict[str, str | None]) -> None:
    """401 before anything else is looked at, and nothing of the key is said back."""
    async with httpx.AsyncClient(base_url=house_api.url, trust_env=False) as client:
        for key in wrong.values():
            for one in CLOSED:
                headers = {} if key is None else {"Authorization": f"Bearer {key}"}
                answer = await client.request(one.method, path_of(one), headers=headers)
                the_problem(answer, 401, "unauthorized")
                assert answer.headers["www-authenticate"] == "Bearer"
                assert key is None or key not in answer.text


@pytest.mark.parametrize("lacking", KeyScope)
async def test_every_route_against_every_other_scope(house_api: Api, lacking: KeyScope) -> None:
    """A key with all scopes but those that a route wants is refused, and told which one is missing."""
    key = (await create(house_api, *(scope for scope in EVERY if scope != lacking)))["key"]
    refused = [one for one in CLOSED if one.scope == {lacking}]
    async with httpx.AsyncClient(base_url=house_api.url, trust_env=False, headers={"X-API-Key": key}) as client:
        for one in refused:
            problem = the_problem(await client.request(one.method, path_of(one)), 403, "scope_missing")
            assert problem["scope"] == lacking.value
            assert lacking.value in problem["detail"]

    assert refused


async def test_a_route_with_two_scopes_takes_either(house_api: Api) -> None:
    """And names both where neither is there."""
    key = (await create(house_api, "admin"))["key"]
    either = [one for one in CLOSED if len(one.scope) > 1]
    for one in either:
        problem = the_problem(await ask(house_api, key, path_of(one), one.method), 403, "scope_missing")
        assert all(scope.value in problem["scope"] for scope in one.scope)
        assert " or " in problem["scope"]

    assert either


def test_every_route_declares_its_scope() -> None:
    """Health alone is open to everybody, and what is signed speaks for itself."""
    signed = {"/approvals/{token}", "/hooks/{slug}"}
    health = {"/livez", "/readyz", "/health", "/api/v1/health"}
    assert {one.path for one in OPERATIONS if one.scope == OPEN} == health | signed


async def test_a_key_is_shown_once(house_api: Api) -> None:
    """In the answer that made it; the list shows its beginning, who made it and when it was used."""
    made = await create(house_api, "read", "execute", name="ci")
    [listed] = [one for one in (await house_api.get("/keys", limit=200))["items"] if one["key_id"] == made["key_id"]]

    assert listed == {name: value for name, value in made.items() if name != "key"}
    assert (listed["scopes"], listed["state"], listed["created_by"]) == (["execute", "read"], "active", "environment")
    assert listed["namespace"] == "default"
    assert made["key"].startswith(listed["prefix"])


BAD = [
    ({}, 422),
    ({"name": "a"}, 422),
    ({"name": "a", "scopes": []}, 422),
    ({"name": "a", "scopes": ["everything"]}, 422),
    ({"name": "", "scopes": ["read"]}, 422),
    ({"name": "environment", "scopes": ["read"]}, 422),
    ({"name": "x" * 129, "scopes": ["read"]}, 422),
    ({"name": "a", "scopes": ["node"]}, 422),
    ({"name": "a", "scopes": ["read"], "node_ids": ["n"]}, 422),
    ({"name": "a", "scopes": ["node"], "node_ids": ["a*b"]}, 422),
    ({"name": "a", "scopes": ["node"], "node_ids": ["n"] * 5 + [f"n{n}" for n in range(101)]}, 422),
    ({"name": "a", "scopes": ["read"], "expires_in_seconds": 0}, 422),
    ({"name": "a", "scopes": ["read"], "expires_in_seconds": 1e12}, 422),
    ({"name": "a", "scopes": ["read"], "namespace": "nowhere"}, 404),
    ({"name": "a", "scopes": ["read"], "hash": "x"}, 422),
]


@pytest.mark.parametrize(("body", "status"), BAD, ids=str)
async def test_what_is_no_key_is_refused(house_api: Api, body: Json, status: int) -> None:
    """And nothing is made."""
    before = await house_api.get("/keys", limit=200)
    answer = await house_api.post("/keys", body)

    the_problem(answer, status, "invalid" if status == 422 else "namespace_not_found")
    assert await house_api.get("/keys", limit=200) == before


async def test_a_key_acts_by_its_name(house_api: Api) -> None:
    """Who paused something is the name of the key."""
    key = (await create(house_api, "operate", name="ops"))["key"]
    await house_api.register("named")
    paused = await ask(house_api, key, "/api/v1/nodes/named/pause", "POST", json={})
    await house_api.post("/nodes/named/resume", {})

    assert paused.json()["paused_by"] == "ops"


async def test_rotate_with_overlap(house_api: Api) -> None:
    """Both let in; the old one has an end and a successor, and is not rotated twice."""
    old = await create(house_api, "read", name="turning", expires_in_seconds=1_000)
    new = (await house_api.post(f"/keys/{old['key_id']}/rotate", {"overlap_seconds": 60})).json()
    statuses = [(await ask(house_api, one["key"])).status_code for one in (old, new)]
    again = the_problem(await house_api.post(f"/keys/{old['key_id']}/rotate", {}), 409, "key_replaced")

    assert statuses == [200, 200]
    assert (new["name"], new["scopes"], new["replaces"]["replaced_by"]) == ("turning", ["read"], new["key_id"])
    assert new["replaces"]["expires_at"] < new["expires_at"]
    assert again["key_id"] == new["key_id"]


async def test_rotate_without_overlap(house_api: Api) -> None:
    """The old one is over at once."""
    old = await create(house_api, "read")
    assert (await ask(house_api, old["key"])).status_code == 200
    new = (await house_api.post(f"/keys/{old['key_id']}/rotate", {"overlap_seconds": 0})).json()

    the_problem(await ask(house_api, old["key"]), 401, "unauthorized")
    assert (await ask(house_api, new["key"])).status_code == 200
    assert "expires_at" not in new


async def test_revoke_says_the_same_twice(house_api: Api) -> None:
    """What is revoked stays so, by whom it was first, and is neither rotated nor let in."""
    made = await create(house_api, "read")
    first, second = [(await house_api.post(f"/keys/{made['key_id']}/revoke")).json() for _ in range(2)]

    assert first == second
    assert (first["state"], first["revoked_by"]) == ("revoked", "environment")
    the_problem(await house_api.post(f"/keys/{made['key_id']}/rotate", {}), 409, "key_revoked")
    the_problem(await house_api.post(f"/keys/{show('key', NOBODY)}/revoke"), 404, "key_not_found")


async def test_the_key_in_the_query_is_for_streams(house_api: Api) -> None:
    """A browser can send it in no other way; everything else wants a header."""
    key = (await create(house_api, "read"))["key"]
    url = f"ws://{house_api.host}:{house_api.port}/api/ui/v1/executions/ws?api_key={key}"
    async with httpx.AsyncClient(base_url=house_api.url, trust_env=False) as client:
        async with client.stream("GET", "/api/ui/v1/executions/events", params={"api_key": key}) as stream:
            assert stream.status_code == 200
        the_problem(await client.get("/api/v1/nodes", params={"api_key": key}), 401, "unauthorized")
    async with websockets.connect(url, proxy=None) as socket:
        assert "connected" in str(await socket.recv())


async def test_a_socket_wants_the_scope(house_api: Api) -> None:
    """A key that may not read hears nothing."""
    key = (await create(house_api, "execute"))["key"]
    url = f"ws://{house_api.host}:{house_api.port}/api/ui/v1/executions/ws"
    with pytest.raises(websockets.InvalidStatus):
        await websockets.connect(url, additional_headers={"X-API-Key": key}, proxy=None)


async def test_a_node_speaks_only_as_itself(house_api: Api) -> None:
    """Whatever another node's process could be asked or told is refused, in the path, the body and the headers."""
    own = (await create(house_api, "node", node_ids=["mine*"]))["key"]
    await house_api.register("other")
    session = await house_api.open_session("other")
    await house_api.submit("other.echo")
    lease = await house_api.take(session)
    result = {**fence(lease), "status": "succeeded", "result": 1}
    asked: list[tuple[str, Json, dict[str, str]]] = [
        ("/nodes/register", {"id": "other"}, {}),
        ("/nodes/other/sessions", {"instance_id": "i", "slots": 1}, {}),
        (f"/sessions/{session}/lease", {"max": 1}, {}),
        (f"/sessions/{session}/heartbeat", {}, {}),
        (f"/sessions/{session}/results", {"results": [result]}, {}),
        (f"/sessions/{session}/logs", {"entries": [{**fence(lease), "message": "m"}]}, {}),
        (f"/sessions/{session}/close", {}, {}),
        (f"/executions/{fenced(lease)}/status", {"status": "succeeded"}, {}),
        ("/nodes/other/heartbeat", {}, {}),
        ("/nodes/other/shutdown", {}, {}),
        ("/actions/claim", {"node_id": "other"}, {}),
        (f"/executions/{fenced(lease)}/request-approval", {"approval_request_id": "a"}, {}),
        (f"/agents/other/executions/{fenced(lease)}/awaiter-status", {"status": "waiting"}, {}),
        ("/memory/set", {"key": "k", "data": 1, "scope": "global"}, {"X-Execution-ID": fenced(lease)}),
        ("/memory/vector", {"key": "k", "embedding": [1], "scope": "global"}, {"X-Execution-ID": fenced(lease)}),
        ("/memory/write", {"writes": [{**fence(lease), "ops": [{"op": "set", "key": "k", "value": 1}]}]}, {}),
        ("/executions/note", {"message": "m"}, {"X-Execution-ID": fenced(lease)}),
    ]
    async with httpx.AsyncClient(base_url=f"{house_api.url}/api/v1", trust_env=False) as client:
        for path, body, headers in asked:
            answer = await client.post(path, json=body, headers=headers | {"X-API-Key": own})
            assert answer.json()["code"] == "node_not_allowed", (path, answer.text)
            assert answer.status_code == 403

    assert (await house_api.read(lease["execution_id"]))["status"] == "running"
    assert (await house_api.finish(session, lease)).status_code == 200


async def test_a_node_reports_only_its_own(house_api: Api) -> None:
    """In its own session it says nothing of what another node runs."""
    own = (await create(house_api, "node", node_ids=["mine"]))["key"]
    await house_api.register("theirs")
    session = await house_api.open_session("theirs")
    await house_api.submit("theirs.echo")
    lease = await house_api.take(session)
    async with httpx.AsyncClient(base_url=f"{house_api.url}/api/v1", headers={"X-API-Key": own}) as client:
        await client.post("/nodes/register", json={"id": "mine", "reasoners": [{"id": "echo"}]})
        opened = await client.post("/nodes/mine/sessions", json={"instance_id": "i", "slots": 1})
        path = f"/sessions/{opened.json()['session_id']}/results"
        answer = await client.post(path, json={"results": [{**fence(lease), "status": "succeeded", "result": 1}]})

    the_problem(answer, 403, "node_not_allowed")
    assert (await house_api.finish(session, lease)).status_code == 200


async def test_a_node_works_with_its_key(house_api: Api) -> None:
    """Registers, leases, remembers and reports; and may not do what a caller does."""
    own = (await create(house_api, "node", node_ids=["worker"]))["key"]
    async with httpx.AsyncClient(base_url=house_api.url, headers={"X-API-Key": own}, trust_env=False) as client:
        node = Api(house_api.app, house_api.host, house_api.port, client)
        await node.register("worker")
        session = await node.open_session("worker")
        accepted = await house_api.submit("worker.echo")
        lease = await node.take(session)
        kept = await node.post(
            "/memory/set", {"key": "k", "data": 1}, headers={"X-Execution-ID": fenced(lease), "X-Run-ID": "r"}
        )
        assert kept.status_code == 200, kept.text
        assert (await node.finish(session, lease, 5)).status_code == 200
        the_problem(await node.post("/execute/async/worker.echo", {}), 403, "scope_missing")

    assert (await house_api.read(accepted["execution_id"]))["result"] == 5


async def test_a_caller_does_not_speak_for_an_attempt(house_api: Api) -> None:
    """Memory is for callers, too; but only a node writes in the name of an attempt."""
    key = (await create(house_api, "execute"))["key"]
    async with httpx.AsyncClient(base_url=f"{house_api.url}/api/v1", headers={"X-API-Key": key}) as client:
        body = {"key": "k", "data": 1, "scope": "global"}
        plain = await client.post("/memory/set", json=body)
        speaking = await client.post("/memory/set", json=body, headers={"X-Execution-ID": f"{show('exec', NOBODY)}~1"})

    assert plain.status_code == 200
    assert the_problem(speaking, 403, "scope_missing")["scope"] == "node"


# Without any key, and several servers on one database.


async def test_open_until_there_is_a_key(api: Api) -> None:
    """From the first key on every route wants one, also when that key is revoked: a lost key opens no door."""
    assert (await ask(api, None)).status_code == 200
    first = await create(api, "admin", "read")

    the_problem(await ask(api, None), 401, "unauthorized")
    assert (await ask(api, None, "/livez")).status_code == 200
    assert (await ask(api, first["key"], "/api/v1/keys")).status_code == 200
    assert "created_by" not in first
    assert (await ask(api, first["key"], f"/api/v1/keys/{first['key_id']}/revoke", "POST")).status_code == 200
    the_problem(await ask(api, first["key"]), 401, "unauthorized")
    the_problem(await ask(api, None), 401, "unauthorized")


@pytest.mark.parametrize("settings", [{}, {"notify": False}], ids=["notify", "polling"])
async def test_every_replica_knows_at_once(api: Api, database: str, settings: dict[str, object]) -> None:
    """What is made at one lets in at the other; what is revoked there lets in nowhere, and its streams end."""
    async with serving(database, **settings) as other:
        made = await create(api, "admin", "read")
        assert (await ask(other, made["key"])).status_code == 200
        headers = {"X-API-Key": made["key"]}
        url = f"ws://{other.host}:{other.port}/api/ui/v1/executions/ws"
        async with (
            websockets.connect(url, additional_headers=headers, proxy=None) as socket,
            other.client.stream("GET", "/api/ui/v1/executions/events", headers=headers) as stream,
        ):
            await ask(api, made["key"], f"/api/v1/keys/{made['key_id']}/revoke", "POST")

            async def shut() -> bool:
                return (await ask(other, made["key"])).status_code == 401

            await until(shut)
            async with asyncio.timeout(20):
                assert "connected" in "".join([text async for text in stream.aiter_text()])
                with pytest.raises(websockets.ConnectionClosed) as closed:
                    await _listen(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


async def _listen(socket: websockets.ClientConnection) -> None:
    while True:
        await socket.recv()


async def test_only_a_hash_is_kept(api: Api, conn: asyncpg.Connection, caplog: pytest.LogCaptureFixture) -> None:
    """No table, no log line and no event holds a key or its secret part; who used it is written late, and once."""
    caplog.set_level(logging.DEBUG)
    key = str((await create(api, *EVERY))["key"])
    for _ in range(3):
        await ask(api, key, "/api/v1/nodes")
        await ask(api, key, "/api/v1/executions/nothing")
        await ask(api, key + "x", "/api/v1/nodes", params={"api_key": key})
    api.client.headers["X-API-Key"] = key
    await api.client.request("POST", "/api/v1/execute/async/n.echo", content=b"{")

    async def used() -> bool:
        return bool(await conn.fetchval("select last_used_at is not null from api_keys"))

    await until(used)
    kept = await conn.fetch("select t::text as row from api_keys t union all select t::text from events t")
    secret = key.rpartition("_")[2][:43]
    said = [f"{one.getMessage()} {one.__dict__}" for one in caplog.records if one.name.startswith(OURS)]
    assert any("key.created" in line for line in said)
    assert not [line for line in [*said, *(row["row"] for row in kept)] if secret in line]


async def test_use_is_written_once_a_minute(api: Api, conn: asyncpg.Connection) -> None:
    """However often a key is used, and however many replicas write it."""
    key = str((await create(api, "read"))["key"])
    entrance = api.app.state.doors.entrance
    await ask(api, key)
    await entrance.write_used()
    first = await conn.fetchval("select last_used_at from api_keys")
    await ask(api, key)
    await entrance.write_used()

    assert first is not None
    assert await conn.fetchval("select last_used_at from api_keys") == first


# Who tries many keys.

FEW = {"api_key": "the-first-key", "wrong_keys_per_minute": 3}


@pytest.mark.parametrize("settings", [FEW], ids=["few"])
async def test_who_tries_many_keys_is_told_to_wait(api: Api) -> None:
    """Also before the one that would have been right is looked at; keys that are in use here go on working."""
    used = await create(api, "read")
    assert (await ask(api, used["key"])).status_code == 200
    fresh = await create(api, "read")
    answers = [await ask(api, f"guess-{n}") for n in range(5)]
    waits = await ask(api, fresh["key"])

    assert [one.status_code for one in answers] == [401, 401, 401, 429, 429]
    assert 0 < int(the_answer(answers[-1])) <= 20
    assert waits.status_code == 429
    assert [(await ask(api, key)).status_code for key in (used["key"], "the-first-key")] == [200, 200]
    metrics = await ask(api, used["key"], "/metrics")
    assert "controlplane_wrong_keys_throttled_total" in metrics.text


@pytest.mark.parametrize("settings", [FEW], ids=["few"])
async def test_the_first_key_cannot_be_guessed_either(api: Api) -> None:
    """From an address where it was never used it is one guess among the others; health is told to everybody."""
    for n in range(3):
        await ask(api, f"guess-{n}")

    assert (await ask(api, "the-first-key")).status_code == 429
    assert (await ask(api, "guess", "/health")).status_code == 200


@pytest.mark.parametrize("settings", [{"wrong_keys_per_minute": 1}], ids=["open"])
async def test_an_open_server_is_told_no_wrong_keys(api: Api) -> None:
    """Where nobody needs a key, one that is sent all the same means nothing."""
    assert [(await ask(api, "whatever")).status_code for _ in range(5)] == [200] * 5


def the_answer(refused: httpx.Response) -> str:
    """How long to wait, of a refusal that is in order."""
    wait = refused.headers["retry-after"]
    assert the_problem(refused, 429, "rate_limited")["retry_after_seconds"] == int(wait)
    return wait
