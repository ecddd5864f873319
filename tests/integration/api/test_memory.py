"""Memory over HTTP: AgentField's calls, and checkpoints of several operations."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest

from tests.integration.api.serving import Api, Json, fence, fenced, the_problem

RUN = {"X-Run-ID": "r"}


async def test_a_value_is_stored_and_read(api: Api) -> None:
    """AgentField's row, with a version."""
    stored = await api.post("/memory/set", {"key": "k", "data": {"a": 1}}, headers=RUN)
    read = await api.post("/memory/get", {"key": "k"}, headers=RUN)
    again = await api.post("/memory/set", {"key": "k", "data": None}, headers=RUN)
    row = stored.json()

    assert (stored.status_code, read.status_code) == (200, 200)
    assert row == read.json()
    assert datetime.fromisoformat(row.pop("created_at")) <= datetime.fromisoformat(row.pop("updated_at"))
    assert row == {"scope": "run", "scope_id": "r", "key": "k", "data": {"a": 1}, "version": 1}
    assert (again.json()["version"], again.json()["data"]) == (2, None)
    assert again.json()["created_at"] == stored.json()["created_at"]


async def test_what_is_not_there(api: Api) -> None:
    """AgentField's client reads `error: not_found` and returns its default."""
    for path in ("get", "delete"):
        answer = await api.post(f"/memory/{path}", {"key": "k"}, headers=RUN)

        problem = the_problem(answer, 404, "memory_not_found")
        assert (problem["error"], problem["details"]) == ("not_found", "memory not found")


async def test_a_key_is_forgotten(api: Api) -> None:
    """204, then it is as if it had never been."""
    await api.post("/memory/set", {"key": "k", "data": 1}, headers=RUN)

    forgotten = await api.post("/memory/delete", {"key": "k"}, headers=RUN)
    read = await api.post("/memory/get", {"key": "k"}, headers=RUN)
    anew = await api.post("/memory/set", {"key": "k", "data": 2}, headers=RUN)

    assert (forgotten.status_code, forgotten.content) == (204, b"")
    assert read.status_code == 404
    assert anew.json()["version"] == 1


@pytest.mark.parametrize(
    ("headers", "body", "place"),
    [
        ({}, {}, ("global", "global")),
        ({"X-Actor-ID": "a"}, {}, ("actor", "a")),
        ({"X-Actor-ID": "a", "X-Session-ID": "s"}, {}, ("session", "s")),
        ({"X-Actor-ID": "a", "X-Session-ID": "s", "X-Run-ID": "r"}, {}, ("run", "r")),
        ({"X-Workflow-ID": "w", "X-Run-ID": "r"}, {}, ("workflow", "w")),
        ({"X-Workflow-ID": "w", "X-Run-ID": "r"}, {"scope": "run"}, ("run", "w")),
        ({"X-Run-ID": "r", "X-Session-ID": "s"}, {"scope": "session"}, ("session", "s")),
        ({"X-Run-ID": "r"}, {"scope": "workflow"}, ("workflow", "r")),
        ({"X-Run-ID": "r"}, {"scope": "global"}, ("global", "global")),
        ({"X-Run-ID": "r"}, {"scope": "global", "scope_id": "g"}, ("global", "global")),
        ({"X-Run-ID": "r"}, {"scope_id": "other"}, ("run", "other")),
        ({}, {"scope": "actor", "scope_id": "a b"}, ("actor", "a b")),
    ],
    ids=str,
)
async def test_where_a_value_is_kept(shared: Api, headers: Json, body: Json, place: tuple[str, str]) -> None:
    """Run, session, actor, global: the first of the headers, or what the body says."""
    row = (await shared.post("/memory/set", {"key": "k", "data": 1} | body, headers=headers)).json()

    assert (row["scope"], row["scope_id"]) == place


AROUND = {"X-Workflow-ID": "w", "X-Run-ID": "w", "X-Session-ID": "s", "X-Actor-ID": "a"}


@pytest.mark.parametrize(
    ("scope", "scope_id", "headers"),
    [
        ("workflow", "w", {"X-Workflow-ID": "w"}),
        ("session", "s", {"X-Session-ID": "s"}),
        ("actor", "a", {"X-Actor-ID": "a"}),
        ("global", "global", {}),
    ],
)
@pytest.mark.parametrize("data", [None, "text", "123", 0, False, [], {"a": [None]}], ids=repr)
async def test_agentfields_scopes(shared: Api, scope: str, scope_id: str, headers: dict[str, str], data: Json) -> None:
    """Named in the body or by the headers alone, every scope takes every value, and says its own name back."""
    for said, said_headers in (({"scope": scope}, AROUND), ({}, headers)):
        key = f"{scope} {data!r} {len(said)}"
        row = (await shared.post("/memory/set", {"key": key, "data": data} | said, headers=said_headers)).json()
        read = (await shared.post("/memory/get", {"key": key} | said, headers=said_headers)).json()
        listed = await shared.client.get("/api/v1/memory/list", params=said, headers=said_headers)
        gone = await shared.post("/memory/delete", {"key": key} | said, headers=said_headers)
        after = await shared.post("/memory/get", {"key": key} | said, headers=said_headers)

        assert (row["scope"], row["scope_id"], row["data"]) == (scope, scope_id, data)
        assert read == row
        assert row in listed.json()
        assert gone.status_code == 204
        assert (the_problem(after, 404, "memory_not_found")["error"], "details" in after.json()) == ("not_found", True)


async def test_the_nearest_value_is_read(api: Api) -> None:
    """Without a scope: run, session, actor, global; with one only there."""
    headers = {"X-Run-ID": "r", "X-Session-ID": "s", "X-Actor-ID": "a"}
    for scope in ("global", "actor", "session", "run"):
        await api.post("/memory/set", {"key": "k", "data": scope, "scope": scope}, headers=headers)

    found = []
    for scope in ("run", "session", "actor", "global"):
        found.append((await api.post("/memory/get", {"key": "k"}, headers=headers)).json()["data"])
        await api.post("/memory/delete", {"key": "k", "scope": scope}, headers=headers)
    none = await api.post("/memory/get", {"key": "k"}, headers=headers)

    assert found == ["run", "session", "actor", "global"]
    assert none.status_code == 404


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"data": 1}, "body"),
        ({"key": "", "data": 1}, "body.key"),
        ({"key": "a\x00b", "data": 1}, "body.key"),
        ({"key": "a" * 513, "data": 1}, "body.key"),
        ({"key": "k"}, "body.data"),
        ({"key": "k", "data": 1, "scope": "galaxy"}, "body.scope"),
        ({"key": "k", "data": 1, "scope": "session"}, "body.scope_id"),
        ({"key": "k", "data": 1, "scope": "session", "scope_id": ""}, "body.scope_id"),
        ({"key": 1, "data": 1}, "body.key"),
    ],
    ids=str,
)
async def test_what_cannot_be_stored(shared: Api, body: Json, where: str) -> None:
    """422 names the field."""
    assert the_problem(await shared.post("/memory/set", body), 422, "invalid")["where"] == where


async def test_a_key_may_have_512_letters(api: Api) -> None:
    """Of any script."""
    stored = await api.post("/memory/set", {"key": "é" * 512, "data": 1})

    assert stored.json()["key"] == "é" * 512


async def test_a_scope_is_listed(api: Api) -> None:
    """In the order of the keys, by prefix, page by page; other scopes stay out of it."""
    for n in range(9):
        await api.post("/memory/set", {"key": f"{'ab'[n % 2]}{n}", "data": n}, headers=RUN)
    await api.post("/memory/set", {"key": "other", "data": 0}, headers={"X-Run-ID": "r2"})

    async def keys(**query: Json) -> list[str]:
        answer = await api.client.get("/api/v1/memory/list", params=query, headers=RUN)
        assert answer.status_code == 200
        return [row["key"] for row in answer.json()]

    everything = ["a0", "a2", "a4", "a6", "a8", "b1", "b3", "b5", "b7"]
    assert await keys() == everything
    assert await keys(scope="run", scope_id="r") == everything
    assert await keys(prefix="b") == everything[5:]
    assert await keys(limit=4) == everything[:4]
    assert await keys(limit=4, after="a6") == everything[4:8]
    assert await keys(after="b7") == []
    assert await keys(scope="global") == []
    assert await keys(prefix="%") == []


async def test_a_list_grows(api: Api) -> None:
    """The key need not exist; the answer says how long it is now."""
    first = await api.post("/memory/append", {"key": "k", "items": [1, {"a": None}]}, headers=RUN)
    second = await api.post("/memory/append", {"key": "k", "items": ["x"], "expected_length": 2}, headers=RUN)
    read = await api.post("/memory/get", {"key": "k"}, headers=RUN)

    assert first.json() == {"scope": "run", "scope_id": "r", "key": "k", "length": 2, "version": 1}
    assert (second.json()["length"], second.json()["version"]) == (3, 2)
    assert read.json()["data"] == [1, {"a": None}, "x"]


async def test_a_repeated_append_adds_nothing(api: Api) -> None:
    """After a lost answer the same is said again, and answered the same."""
    body = {"key": "k", "items": [1, 2], "expected_length": 0}

    first, again = await api.post("/memory/append", body), await api.post("/memory/append", body)

    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json()["length"] == again.json()["length"] == 2
    assert (await api.post("/memory/get", {"key": "k"})).json()["data"] == [1, 2]


async def test_an_append_that_comes_too_late(api: Api) -> None:
    """409 says how long the list is; what is no list cannot grow. Neither says the key back."""
    await api.post("/memory/set", {"key": "<k>", "data": [1]})
    await api.post("/memory/set", {"key": "<text>", "data": "[]"})

    late = await api.post("/memory/append", {"key": "<k>", "items": [2], "expected_length": 5})
    text = await api.post("/memory/append", {"key": "<text>", "items": [2]})

    mismatch = the_problem(late, 409, "length_mismatch")
    assert (mismatch["length"], mismatch["where"]) == (1, "body.key")
    assert the_problem(text, 409, "not_a_list")["where"] == "body.key"
    assert (await api.post("/memory/get", {"key": "<k>"})).json()["data"] == [1]


@pytest.mark.parametrize("body", [{"items": []}, {"items": "x"}, {}, {"items": [1], "expected_length": -1}], ids=str)
async def test_what_cannot_be_appended(shared: Api, body: Json) -> None:
    """From 1 to 10,000 elements, behind a length that can be."""
    the_problem(await shared.post("/memory/append", {"key": "k"} | body), 422, "invalid")


async def test_appends_at_once_lose_nothing(api: Api) -> None:
    """Fifty writers, fifty elements."""
    await asyncio.gather(*(api.post("/memory/append", {"key": "k", "items": [n]}) for n in range(50)))

    assert sorted((await api.post("/memory/get", {"key": "k"})).json()["data"]) == list(range(50))


async def test_several_operations_are_one_checkpoint(api: Api) -> None:
    """All of a group stand together, and say which version they made."""
    await api.post("/memory/set", {"key": "old", "data": 1}, headers=RUN)
    ops = [
        {"op": "set", "key": "a", "value": {"x": 1}},
        {"op": "append", "key": "l", "items": [1, 2], "expected_length": 0},
        {"op": "delete", "key": "old"},
        {"op": "delete", "key": "never was"},
    ]

    answer = await api.post("/memory/write", {"writes": [{"run_id": "r", "ops": ops}]})
    listed = await api.client.get("/api/v1/memory/list", headers=RUN)
    [group] = answer.json()["results"]

    assert (group["http_status"], group["code"]) == (200, "committed")
    assert group["versions"] == [
        {"key": "a", "version": 1},
        {"key": "l", "version": 1, "length": 2},
        {"key": "old", "version": 0},
        {"key": "never was", "version": 0},
    ]
    assert {row["key"]: row["data"] for row in listed.json()} == {"a": {"x": 1}, "l": [1, 2]}


async def test_a_group_stands_whole_or_not_at_all(api: Api) -> None:
    """One operation that cannot be undoes its group, and no other; the place of the fault is named."""
    await api.post("/memory/set", {"key": "text", "data": "x"})
    bad = [{"op": "set", "key": "bad", "value": 1}, {"op": "append", "key": "text", "items": [1]}]
    good = [{"op": "set", "key": "good", "value": 1}]

    both = await api.post("/memory/write", {"writes": [{"ops": bad}, {"ops": good}]})
    alone = await api.post("/memory/write", {"writes": [{"ops": bad}]})
    listed = await api.client.get("/api/v1/memory/list")

    assert both.status_code == 200
    assert [(one["http_status"], one["code"]) for one in both.json()["results"]] == [
        (409, "not_a_list"),
        (200, "committed"),
    ]
    assert the_problem(alone, 409, "not_a_list")["where"] == "body.writes[0].ops[1].key"
    assert [row["key"] for row in listed.json()] == ["good", "text"]


async def test_groups_are_written_in_their_order(api: Api) -> None:
    """The last word of a request is the last, whether a group names its run or is asked for it."""
    session = await api.node()
    await api.submit(headers=RUN)
    lease = await api.take(session)
    writes = [
        {**fence(lease), "ops": [{"op": "set", "key": "k", "value": 0}]},
        {**fence(lease), "run_id": "r", "ops": [{"op": "set", "key": "k", "value": 1}]},
        {**fence(lease), "ops": [{"op": "set", "key": "k", "value": 2}]},
        {"run_id": "r", "ops": [{"op": "set", "key": "k", "value": 3}]},
    ]

    answer = await api.post("/memory/write", {"writes": writes})

    assert [one["versions"][0]["version"] for one in answer.json()["results"]] == [1, 2, 3, 4]
    assert (await api.post("/memory/get", {"key": "k"}, headers=RUN)).json()["data"] == 3


async def test_a_fenced_group_knows_its_scopes(api: Api) -> None:
    """They are the execution's: the node need not repeat them."""
    session = await api.node()
    await api.submit(headers={"X-Run-ID": "r", "X-Session-ID": "s", "X-Actor-ID": "a"})
    lease = await api.take(session)
    ops = [{"op": "set", "key": "k", "value": scope, "scope": scope} for scope in ("run", "session", "actor", "global")]

    answer = await api.post("/memory/write", {"writes": [{**fence(lease), "ops": ops}]})

    assert answer.status_code == 200
    for scope, scope_id in (("run", "r"), ("session", "s"), ("actor", "a"), ("global", "global")):
        body = {"key": "k", "scope": scope, "scope_id": scope_id}
        assert (await api.post("/memory/get", body)).json()["data"] == scope


@pytest.mark.parametrize(
    "writes",
    [
        [],
        [{"ops": []}],
        [{"ops": [{"op": "burn", "key": "k"}]}],
        [{"ops": [{"op": "set", "key": "k"}]}],
        [{"ops": [{"op": "append", "key": "k"}]}],
        [{"ops": [{"op": "set", "key": "k", "value": 1}], "execution_id": "x", "attempt": 1}],
        [{"ops": [{"op": "set", "key": "k", "value": 1}] * 1_001}],
    ],
    ids=["none", "no ops", "unknown op", "no value", "no items", "no id", "too many"],
)
async def test_what_is_no_checkpoint(api: Api, writes: Json) -> None:
    """422, and nothing is written."""
    the_problem(await api.post("/memory/write", {"writes": writes}), 422, "invalid")
    assert (await api.client.get("/api/v1/memory/list")).json() == []


async def test_a_node_writes_while_it_holds_its_lease(api: Api) -> None:
    """With the fence in the header; after its result it may not."""
    session = await api.node()
    await api.submit(headers=RUN)
    lease = await api.take(session)
    headers = RUN | {"X-Execution-ID": fenced(lease)}

    during = await api.post("/memory/set", {"key": "k", "data": 1}, headers=headers)
    await api.finish(session, lease, 1)
    after = await api.post("/memory/set", {"key": "k", "data": 2}, headers=headers)

    assert during.status_code == 200
    the_problem(after, 409, "lease_lost")
    assert (await api.post("/memory/get", {"key": "k"}, headers=RUN)).json()["data"] == 1


async def test_what_one_attempt_stored_is_there_for_the_next(api: Api) -> None:
    """A checkpoint outlives the process that made it."""
    session = await api.node()
    await api.submit(headers=RUN)
    first = await api.take(session)
    await api.post("/memory/set", {"key": "k", "data": 1}, headers=RUN | {"X-Execution-ID": fenced(first)})

    await api.finish(session, first, status="released")
    second = await api.take(session)
    read = await api.post("/memory/get", {"key": "k"}, headers={"X-Run-ID": second["run_id"]})

    assert read.json()["data"] == 1


@pytest.mark.parametrize("settings", [{"buckets": 8, "buckets_hashed": 8}])
async def test_an_execution_writes_to_another_run(api: Api) -> None:
    """AgentField's `memory.workflow("other")`: whoever asks for that run finds it, in whatever bucket."""
    session = await api.node()
    await api.submit()
    lease = await api.take(session)
    own = {"X-Run-ID": lease["run_id"], "X-Execution-ID": fenced(lease)}

    for n in range(8):
        headers = own | {"X-Workflow-ID": f"other-{n}"}
        await api.post("/memory/set", {"key": "k", "data": n, "scope": "workflow"}, headers=headers)
    asked = [{"key": "k", "scope": "workflow", "scope_id": f"other-{n}"} for n in range(8)]
    read = [(await api.post("/memory/get", one)).json()["data"] for one in asked]

    assert read == list(range(8))


@pytest.mark.parametrize("settings", [{"payload_bytes_max": 2_000, "body_bytes_max": 10_000}])
async def test_a_value_has_a_limit(api: Api) -> None:
    """413 names it; the limit of a value and that of a body are two."""
    value = await api.post("/memory/set", {"key": "k", "data": "x" * 2_000})
    item = await api.post("/memory/append", {"key": "k", "items": [1, "x" * 2_000]})
    body = await api.post("/memory/set", {"key": "k", "data": "x" * 10_000})

    assert (the_problem(value, 413, "too_large")["where"], value.json()["limit_bytes"]) == ("body.data", 2_000)
    assert the_problem(item, 413, "too_large")["where"] == "body.items[1]"
    assert (the_problem(body, 413, "too_large")["where"], body.json()["limit_bytes"]) == ("body", 10_000)
    assert (await api.post("/memory/set", {"key": "k", "data": "x" * 1_998})).status_code == 200
