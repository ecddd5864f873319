"""How much a namespace may have: what is beyond it is refused, says so, and changes nothing; others do not notice."""

from __future__ import annotations

import asyncio

import asyncpg
import httpx
import pytest

from controlplane.api.caps import Standing
from controlplane.domain.cap import CHILDREN_FACTOR
from tests.integration.api.serving import Api, Json, Receiver, fenced, serving, the_problem, until

FEW = {
    "cap_executions": 4,
    "cap_schedules": 2,
    "cap_triggers": 2,
    "cap_keys": 3,
    "cap_nodes": 2,
    "cap_sessions_per_node": 2,
}
FIRST = "the-first-key-of-all"
CAPPED = pytest.mark.parametrize("settings", [FEW], ids=["few"])
BEARER = {"target": "n.echo", "preset": "bearer", "secret": "a-secret-of-somebody"}


async def count(conn: asyncpg.Connection, table: str) -> int:
    return int(await conn.fetchval(f"select count(*) from {table}"))


async def submit(api: Api, **headers: str) -> httpx.Response:
    return await api.post("/execute/async/n.echo", {}, headers=headers)


async def fill(api: Api, most: int = FEW["cap_executions"]) -> list[str]:
    return [str((await api.submit())["execution_id"]) for _ in range(most)]


@CAPPED
async def test_one_more_execution_than_there_may_be(api: Api, conn: asyncpg.Connection) -> None:
    """429 that says the cap, what there is and what to do; there is room again when one has ended."""
    session = await api.node()
    await fill(api)

    refused = the_problem(await submit(api), 429, "namespace_full")

    assert (refused["cap"], refused["most"], refused["present"]) == ("executions", 4, 4)
    assert "4" in refused["detail"]
    assert "bulk cancel" in refused["fix"]
    assert await count(conn, "executions") == await count(conn, "queue") == 4
    await api.finish(session, await api.take(session))
    await until(lambda: accepted(api))


async def accepted(api: Api) -> bool:
    answer = await submit(api)
    assert answer.status_code in (202, 429), answer.text
    assert answer.status_code == 202 or answer.headers["retry-after"]
    return answer.status_code == 202


@CAPPED
async def test_what_was_accepted_before_is_answered_so(api: Api, conn: asyncpg.Connection) -> None:
    """A submit that is sent again for its lost answer is no new one, however full it is."""
    await api.node()
    first = await submit(api, **{"Idempotency-Key": "a"})
    await fill(api, 3)

    again = await submit(api, **{"Idempotency-Key": "a"})
    other = await api.post("/execute/async/n.echo", {"input": {"a": 1}}, headers={"Idempotency-Key": "a"})

    assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
    assert again.json()["execution_id"] == first.json()["execution_id"]
    the_problem(other, 422, "idempotency_conflict")
    the_problem(await submit(api, **{"Idempotency-Key": "b"}), 429, "namespace_full")
    assert await count(conn, "idempotency_keys") == 1


@CAPPED
async def test_of_many_at_once_as_many_as_there_is_room_for(api: Api, conn: asyncpg.Connection) -> None:
    """A batch and a crowd: exactly the cap, and each of the others hears why."""
    await api.node()
    items = [{"target": "n.echo"}] * 3
    batch = (await api.post("/execute/batch", {"items": items})).json()
    crowd = await asyncio.gather(*(submit(api) for _ in range(20)))
    last = (await api.post("/execute/batch", {"items": items})).json()

    assert [one["http_status"] for one in batch["items"]] == [202] * 3
    assert sorted(one.status_code for one in crowd) == [202] + [429] * 19
    assert {(one["http_status"], one["code"]) for one in last["items"]} == {(429, "namespace_full")}
    assert await count(conn, "queue") == 4


@CAPPED
async def test_children_of_what_runs_find_room(api: Api) -> None:
    """Else a namespace full of parents would wait for ever; they have their end, too."""
    session = await api.node()
    await fill(api)
    speaking = {"X-Parent-Execution-ID": fenced(await api.take(session))}

    children = [(await submit(api, **speaking)).status_code for _ in range(5)]

    assert children == [202] * 4 + [429]
    assert CHILDREN_FACTOR * 4 == 4 + 4


@CAPPED
async def test_what_comes_by_other_ways_waits_too(api: Api, conn: asyncpg.Connection) -> None:
    """A trigger's sender hears 429 and nothing is kept; a schedule is late, and submits when there is room."""
    session = await api.node()
    assert (await api.post("/triggers", BEARER | {"name": "t"})).status_code == 201
    await fill(api)
    soon = {"name": "s", "target": "n.echo", "interval_seconds": 1}
    assert (await api.post("/schedules", soon)).status_code == 201
    outside = {"Authorization": f"Bearer {BEARER['secret']}", "Content-Type": "application/json"}
    event = await api.client.post("/hooks/t", content=b'{"id": 1}', headers=outside)
    run = await api.post("/schedules/s/run", {})

    the_problem(event, 429, "namespace_full")
    the_problem(run, 429, "namespace_full")
    assert await count(conn, "trigger_events") == 0
    await until(lambda: conn.fetchval("select due_at > clock() + interval '2 seconds' from schedules"))
    assert await count(conn, "executions") == 4
    for _ in range(4):
        await api.finish(session, await api.take(session))
    await conn.execute("update schedules set due_at = next_at")
    await until(lambda: conn.fetchval("select exists (select from schedule_ticks where outcome = 'submitted')"))


@CAPPED
@pytest.mark.parametrize(
    ("cap", "path", "body", "table"),
    [
        ("schedules", "/schedules", {"target": "n.echo", "cron": "0 0 29 2 *"}, "schedules"),
        ("triggers", "/triggers", BEARER, "triggers"),
        ("keys", "/keys", {"scopes": ["admin", "execute", "read", "operate"]}, "api_keys"),
    ],
    ids=["schedules", "triggers", "keys"],
)
async def test_one_more_than_there_may_be(
    api: Api, conn: asyncpg.Connection, cap: str, path: str, body: dict[str, Json], table: str
) -> None:
    """422 that says the cap and what there is; one of a name that is there is none more."""
    most = FEW[f"cap_{cap}"]
    await api.register()
    for n in range(most):
        made = await api.post(path, body | {"name": f"name-{n}"})
        assert made.status_code == 201, made.text
        if "key" in made.json():
            api.client.headers["X-API-Key"] = made.json()["key"]

    refused = the_problem(await api.post(path, body | {"name": "one-more"}), 422, "cap_reached")

    assert (refused["cap"], refused["most"], refused["present"]) == (cap, most, most)
    assert refused["fix"]
    assert await count(conn, table) == most
    if cap != "keys":
        assert (await api.post(path, body | {"name": "name-0"})).status_code == 200


@CAPPED
async def test_one_more_node(api: Api, conn: asyncpg.Connection) -> None:
    """One that is known may register again; of one that is not, no reasoner is kept."""
    await api.register("a")
    await api.register("b")
    await api.register("a", "more")

    refused = await api.post("/nodes/register", {"id": "c", "reasoners": [{"id": "echo"}]})

    the_problem(refused, 422, "cap_reached")
    assert await conn.fetchval("select count(*) from reasoners where node_id = 'c'") == 0


@CAPPED
async def test_one_more_process_of_a_node(api: Api) -> None:
    """429: there is room when one of them has stopped. Another node is another count."""
    await api.register("a")
    await api.register("b")
    first, _ = [await api.open_session("a") for _ in range(2)]
    body = {"instance_id": "i", "slots": 1, "heartbeat_seconds": 60}

    refused = await api.post("/nodes/a/sessions", body)

    assert the_problem(refused, 429, "namespace_full")["cap"] == "sessions_per_node"
    await api.open_session("b")
    assert (await api.post(f"/sessions/{first}/close", {})).is_success
    await until(lambda: opened(api, body))


async def opened(api: Api, body: Json) -> bool:
    return (await api.post("/nodes/a/sessions", body)).status_code == 201


@pytest.mark.parametrize("settings", [{"cap_memory_keys": 2}], ids=["memory"])
async def test_memory_that_is_full(api: Api, conn: asyncpg.Connection) -> None:
    """As of the last count: what adds to it is refused, what takes from it is done."""
    for key in ("a", "b"):
        assert (await api.post("/memory/set", {"key": key, "data": 1, "scope": "global"})).status_code == 200
    await conn.execute("update census set counted_at = '-infinity'")

    await until(lambda: full(api))

    refused = the_problem(await api.post("/memory/set", {"key": "c", "data": 1, "scope": "global"}), 422, "cap_reached")
    assert (refused["cap"], refused["most"], refused["present"]) == ("memory_keys", 2, 2)
    assert (await api.post("/memory/delete", {"key": "a", "scope": "global"})).is_success


async def full(api: Api) -> bool:
    return (await api.post("/memory/set", {"key": "b", "data": 1, "scope": "global"})).status_code == 422


async def test_of_one_namespace_and_not_of_another(database: str, conn: asyncpg.Connection) -> None:
    """What was said of one holds for it alone, at every replica, and the other does not notice that it is full."""
    async with serving(database, api_key=FIRST, cap_executions=50) as api, serving(database, api_key=FIRST) as replica:
        keys = {name: await tenant(api, name) for name in ("small", "large")}
        said = await api.client.put("/api/v1/namespaces/small/caps", json={"executions": 2, "schedules": None})
        answers = {name: [await as_(api, key) for _ in range(6)] for name, key in keys.items()}

        assert said.status_code == 200, said.text
        assert caps_of(said)["executions"] == {"most": 2, "default": 50, "said": True, "present": 0}
        assert (caps_of(said)["schedules"]["most"], caps_of(said)["keys"]["said"]) == (None, False)
        assert answers == {"small": [202] * 2 + [429] * 4, "large": [202] * 6}
        await until(lambda: knows(replica, 2))
        await until(lambda: refused_at(replica, keys["small"]))
        assert await count(conn, "queue") <= 8 + 2  # each replica lets in what it believes that there is room for


async def tenant(api: Api, name: str) -> str:
    """A namespace with the node `n`, and the key of its admin."""
    assert (await api.post("/namespaces", {"name": name})).status_code == 201
    wish = {"name": name, "namespace": name, "scopes": ["admin", "execute", "read", "node"], "node_ids": ["*"]}
    key = str((await api.post("/keys", wish)).json()["key"])
    node = {"id": "n", "reasoners": [{"id": "echo"}]}
    assert (await api.post("/nodes/register", node, headers={"X-API-Key": key})).status_code == 201
    return key


async def as_(api: Api, key: str) -> int:
    return (await submit(api, **{"X-API-Key": key})).status_code


async def knows(api: Api, most: int) -> bool:
    found = caps_of(await api.client.get("/api/v1/namespaces/small/caps"))
    return bool(found["executions"]["most"] == most)


async def refused_at(api: Api, key: str) -> bool:
    return await as_(api, key) == 429


def caps_of(answer: httpx.Response) -> dict[str, dict[str, Json]]:
    return {one.pop("cap"): one for one in answer.json()["caps"]}


@pytest.mark.parametrize("settings", [{"api_key": FIRST}], ids=["closed"])
async def test_a_tenant_sees_its_caps_and_sets_none(api: Api, conn: asyncpg.Connection) -> None:
    """Nor does it see another's."""
    key = {"X-API-Key": await tenant(api, "small")}
    await api.post("/namespaces", {"name": "other"})

    seen = await api.client.get("/api/v1/namespaces/small/caps", headers=key)
    raised = await api.client.put("/api/v1/namespaces/small/caps", json={"executions": None}, headers=key)
    others = await api.client.get("/api/v1/namespaces/other/caps", headers=key)

    assert caps_of(seen)["nodes"]["present"] == 1
    the_problem(raised, 403, "namespace_not_allowed")
    the_problem(others, 403, "namespace_not_allowed")
    assert await count(conn, "caps") == 0


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"executions": -1}, "body.executions"),
        ({"executions": 10**16}, "body.executions"),
        ({"schedules": 1.5}, None),
        ({"nothing": 1}, None),
    ],
    ids=["negative", "large", "half", "unknown"],
)
async def test_what_is_no_cap(api: Api, conn: asyncpg.Connection, body: Json, where: str | None) -> None:
    """422, and what was said before holds."""
    assert (await api.client.put("/api/v1/namespaces/default/caps", json={"nodes": 7})).status_code == 200

    refused = the_problem(await api.client.put("/api/v1/namespaces/default/caps", json=body), 422, "invalid")

    assert where is None or refused["where"] == where
    assert [tuple(row) for row in await conn.fetch("select name, most from caps")] == [("nodes", 7)]


async def test_what_is_said_replaces_what_was_said(api: Api) -> None:
    """What is left out is as the server says of all."""
    path = "/api/v1/namespaces/default/caps"
    await api.client.put(path, json={"executions": 3, "nodes": 7})
    await api.client.put(path, json={"nodes": 8})
    found = caps_of(await api.client.get(path))

    assert (found["executions"]["most"], found["executions"]["said"]) == (1_000_000, False)
    assert (found["nodes"]["most"], found["nodes"]["said"]) == (8, True)
    the_problem(await api.client.get("/api/v1/namespaces/none/caps"), 404, "namespace_not_found")


async def test_who_stands_far_from_its_cap_asks_nobody(api: Api, conn: asyncpg.Connection) -> None:
    """Below half of it nothing is counted for a submit, but once when the first of all comes."""
    await api.node()
    await fill(api, 1)
    caps = api.app.state.doors.caps
    [standing] = caps._standings.values()
    await until(lambda: looked_at(standing))
    counted_at = standing.rests_until
    await fill(api, 20)
    await caps._count_close()

    assert standing.rests_until == counted_at


async def looked_at(standing: Standing) -> bool:
    return standing.rests_until > 0


async def test_a_replica_that_starts_knows_what_is_there(database: str, receiver: Receiver) -> None:
    """It counts once for itself, and does not begin at nothing."""
    async with serving(database, cap_executions=3) as api:
        await api.node()
        await fill(api, 3)
    async with serving(database, cap_executions=3) as api:
        assert (await submit(api)).status_code in (202, 429)
        await until(lambda: counted(api))
        the_problem(await submit(api), 429, "namespace_full")


async def counted(api: Api) -> bool:
    return bool(caps_of(await api.client.get("/api/v1/namespaces/default/caps"))["executions"]["present"] >= 3)


@pytest.mark.parametrize("settings", [{"cap_stored_bytes": 100}], ids=["stored"])
async def test_who_stores_too_much(api: Api, conn: asyncpg.Connection) -> None:
    """422 for what is new; what has begun ends, and its result is kept."""
    session = await api.node()
    await api.submit(input={"text": "x" * 100})
    await conn.execute("update census set counted_at = '-infinity' where name = 'stored_bytes'")

    await until(lambda: stored(api, conn))

    refused = the_problem(await submit(api), 422, "cap_reached")
    assert (refused["cap"], refused["most"], refused["present"] > 100) == ("stored_bytes", 100, True)
    done = await api.finish(session, await api.take(session), "kept")
    assert done.status_code == 200


async def stored(api: Api, conn: asyncpg.Connection) -> bool:
    await conn.execute("update census set counted_at = '-infinity' where name = 'stored_bytes' and namespace = 0")
    return (await submit(api)).status_code == 422
