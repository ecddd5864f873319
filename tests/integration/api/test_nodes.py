"""Nodes over HTTP: what they say of themselves, and what is seen of them."""

from __future__ import annotations

import asyncpg
import httpx
import pytest

from tests.integration.api.serving import Api, Json, the_problem, until

REASONER = {
    "id": "process",
    "description": "Reads \x00 and understands.",
    "tags": ["nlp", "slow"],
    "input_schema": {"type": "object", "x": 1.0},
    "output_schema": {"type": "string"},
    "retries": 3,
    "retry_delay_seconds": 1,
    "retry_factor": 3,
    "retry_cap_seconds": 60,
    "timeout_seconds": 90,
}


@pytest.mark.parametrize("path", ["/nodes/register", "/nodes"])
async def test_a_node_registers(api: Api, path: str) -> None:
    """In AgentField's shape; fields we do not know are left alone."""
    body = {"id": "n", "reasoners": [REASONER], "skills": [{"id": "tool"}], "heartbeat_interval": "5s", "did": {}}

    answer = await api.post(path, body)

    assert answer.status_code == 201
    assert answer.json() == {
        "id": "n",
        "success": True,
        "status": "registered",
        "transport": "pull",
        "reasoners": 2,
        "resolved_base_url": None,
    }


async def test_a_node_is_seen(api: Api) -> None:
    """With what it serves, its schemas as they came, and its live processes together."""
    body = {"id": "n", "version": "2.1", "transport": "pull", "metadata": {"a": 1.0}, "reasoners": [REASONER]}
    await api.post("/nodes/register", body | {"skills": [{"id": "tool"}]})
    await api.open_session("n", slots=3)
    session = await api.open_session("n", slots=4)
    await api.heartbeat(session, count=2)

    node = await api.get("/nodes/n")

    assert (node["id"], node["node_id"], node["version"], node["transport"]) == ("n", "n", "2.1", "pull")
    assert (node["lifecycle_status"], node["health_status"]) == ("ready", "healthy")
    assert (node["sessions"], node["slots"], node["running"]) == (2, 7, 2)
    assert node["metadata"] == {"a": 1.0}
    [reasoner] = node["reasoners"]
    assert reasoner["description"] == "Reads \N{REPLACEMENT CHARACTER} and understands."
    assert (reasoner["target"], reasoner["tags"], reasoner["retries"]) == ("n.process", ["nlp", "slow"], 3)
    assert (reasoner["input_schema"], reasoner["output_schema"]) == (REASONER["input_schema"], {"type": "string"})
    assert [skill["target"] for skill in node["skills"]] == ["n.tool"]


async def test_registering_again_replaces(api: Api) -> None:
    """What a newer version no longer names stays known, because work may have been accepted for it."""
    await api.register("n", "old", "both")
    await api.register("n", "both", "new", retries=2)

    served = (await api.get("/reasoners"))["items"]

    assert [(one["target"], one["retries"]) for one in served] == [("n.both", 2), ("n.new", 2), ("n.old", 0)]
    assert (await api.submit("n.old"))["status"] == "queued"


async def test_nodes_are_listed(api: Api) -> None:
    """Those that live; all when asked for."""
    for node in ("b", "a", "c"):
        await api.register(node)
    session = await api.open_session("b")

    alive = await api.get("/nodes")
    everyone = await api.get("/nodes", show_all="true")
    await api.post(f"/sessions/{session}/close")

    assert [node["id"] for node in alive["nodes"]] == ["b"]
    assert ([node["id"] for node in everyone["nodes"]], everyone["count"]) == (["a", "b", "c"], 3)
    assert [node["lifecycle_status"] for node in everyone["nodes"]] == ["offline", "ready", "offline"]
    assert (await api.get("/nodes"))["nodes"] == []


async def test_a_node_that_died_is_offline(api: Api) -> None:
    """As soon as its lease has run out."""
    await api.register("n")
    await api.open_session("n", heartbeat_seconds=0.1)
    assert (await api.get("/nodes/n"))["lifecycle_status"] == "ready"

    async def offline() -> bool:
        return (await api.get("/nodes/n"))["lifecycle_status"] == "offline"

    await until(offline)
    [target] = (await api.get("/reasoners"))["items"]

    assert target["up"] is False


async def test_an_unknown_node(api: Api) -> None:
    """Is not found, whatever its name."""
    for name in ("nobody", "no%20body", "%00", "a" * 200):
        the_problem(await api.client.get(f"/api/v1/nodes/{name}"), 404, "node_not_found")


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "body"),
        ({"id": ""}, "body.id"),
        ({"id": "a.b"}, "body.id"),
        ({"id": "a b"}, "body.id"),
        ({"id": "é"}, "body.id"),
        ({"id": "a" * 129}, "body.id"),
        ({"id": "n", "version": "a\x00"}, "body.version"),
        ({"id": "n", "reasoners": {}}, "body.reasoners"),
        ({"id": "n", "reasoners": [{"id": "a"}, {"id": "b."}]}, "body.reasoners[1].id"),
        ({"id": "n", "reasoners": [{"id": "a"}], "skills": [{"id": "a"}]}, "body.reasoners"),
        ({"id": "n", "reasoners": [{"id": "a", "retries": 1_001}]}, "body.reasoners[0].retries"),
        ({"id": "n", "reasoners": [{"id": "a", "retry_factor": 0.5}]}, "body.reasoners[0].retry_factor"),
        ({"id": "n", "reasoners": [{"id": "a", "timeout_seconds": 0}]}, "body.reasoners[0].timeout_seconds"),
        ({"id": "n", "reasoners": [{"id": "a", "tags": ["a\x1fb"]}]}, "body.reasoners[0].tags"),
        ({"id": "n", "reasoners": [{"id": f"r{n}"} for n in range(1_001)]}, "body.reasoners"),
        ({"id": "n", "transport": "push"}, "body.base_url"),
        ({"id": "n", "transport": "carrier pigeon"}, "body.transport"),
        ({"id": "n", "base_url": "n:8001"}, "body.base_url"),
        ({"id": "n", "base_url": "http://user@n:8001"}, "body.base_url"),
        ({"id": "n", "base_url": "http://127.0.0.1:8001", "instance_id": "a\x00"}, "body.instance_id"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_what_is_no_node(shared: Api, body: Json, where: str) -> None:
    """422 names the field, and nothing is known afterwards."""
    refused = the_problem(await shared.post("/nodes/register", body), 422, "invalid")

    assert refused["where"] == where
    assert (await shared.get("/nodes", show_all="1"))["nodes"] == []


async def test_many_reasoners(api: Api) -> None:
    """A thousand of them, each a target."""
    await api.register("n", *(f"r{n}" for n in range(1_000)))

    assert len((await api.get("/reasoners"))["items"]) == 1_000
    assert (await api.submit("n.r999"))["status"] == "queued"


async def forget(api: Api, node_id: str = "n") -> httpx.Response:
    return await api.client.delete(f"/api/v1/nodes/{node_id}")


async def test_one_that_is_gone_is_forgotten(shared: Api) -> None:
    """It leaves the list, what it served is not known any more, and what it has run can still be looked at."""
    api = shared
    await api.register("gone", "echo")
    session = await api.open_session("gone")
    done = await api.run(session, {"is": "kept"}, target="gone.echo")
    await api.post(f"/sessions/{session}/close", {})

    answer = await forget(api, "gone")
    again = await forget(api, "gone")
    looks = [
        await api.client.get(path)
        for path in (f"/api/v1/executions/{done}", f"/executions/{done}", f"/ui/x/executions/{done}/tabs/attempts")
    ]

    assert (answer.status_code, answer.json()) == (200, {"node_id": "gone", "deleted": True, "targets": ["gone.echo"]})
    the_problem(again, 404, "node_not_found")
    assert "gone" not in {one["id"] for one in (await api.get("/nodes", show_all="true"))["nodes"]}
    assert "gone.echo" not in {one["target"] for one in (await api.get("/reasoners"))["items"]}
    assert [one.status_code for one in looks] == [200, 200, 200]
    assert (looks[0].json()["result"], looks[0].json()["status"]) == ({"is": "kept"}, "succeeded")
    assert (await api.get(f"/executions/{done}/explain"))["code"] == "succeeded"
    the_problem(await api.post(f"/executions/{done}/restart", {}), 404, "target_not_found")
    the_problem(await api.post("/execute/async/gone.echo", {}), 404, "target_not_found")


async def test_what_keeps_it_is_said(shared: Api) -> None:
    """One thing after the other, each with the next step, before and when it is asked for; then nothing is left."""
    api = shared
    await api.register("kept", "echo")
    session = await api.open_session("kept")
    waits = (await api.submit("kept.echo"))["execution_id"]
    await api.post("/schedules", {"name": "nightly", "target": "kept.echo", "cron": "0 3 * * *"})
    said, said_before = [], []
    for clear in (
        lambda: api.post(f"/sessions/{session}/close", {}),
        lambda: api.post(f"/executions/{waits}/cancel", {}),
        lambda: api.client.delete("/api/v1/schedules/nightly"),
    ):
        problem = the_problem(await forget(api, "kept"), 409, "node_in_use")
        kept = (await api.get("/nodes/kept"))["kept_by"]
        said.append((problem["sessions"], problem["executions"], problem["schedules"], problem["fix"].split()[0]))
        said_before.append((kept["detail"], kept["fix"]) == (problem["detail"], problem["fix"]))
        assert (await clear()).is_success
    kept_at_last = (await api.get("/nodes/kept")).get("kept_by")

    assert said == [(1, 0, ["nightly"], "Stop"), (0, 1, ["nightly"], "Start"), (0, 0, ["nightly"], "Let")]
    assert all(said_before)
    assert kept_at_last is None
    assert (await forget(api, "kept")).status_code == 200


async def test_a_trigger_keeps_it(shared: Api) -> None:
    """What comes in by it would find nobody."""
    api = shared
    await api.register("triggered", "echo")
    trigger = {"name": "inbox", "target": "triggered.echo", "preset": "bearer", "secret": "a-secret"}
    assert (await api.post("/triggers", trigger)).status_code == 201

    problem = the_problem(await forget(api, "triggered"), 409, "node_in_use")

    assert (problem["triggers"], problem["fix"]) == (
        ["inbox"], "Let it submit to another target, or delete it: DELETE /api/v1/triggers/inbox."
    )  # fmt: skip


async def test_it_comes_back_as_a_new_one(shared: Api) -> None:
    """A process that does not know that it was forgotten is told to register, and then serves."""
    api = shared
    await api.register("back", "echo", "old")
    await forget(api, "back")
    lost = await api.post("/nodes/back/sessions", {"instance_id": "i", "slots": 1, "heartbeat_seconds": 60})
    await api.register("back", "echo")
    session = await api.open_session("back")
    done = await api.run(session, 1, target="back.echo")

    the_problem(lost, 404, "node_not_found")
    served = {one["target"] for one in (await api.get("/reasoners"))["items"] if one["node_id"] == "back"}
    assert served == {"back.echo"}
    assert (await api.read(done))["status"] == "succeeded"


async def test_what_was_submitted_at_the_same_moment_waits(api: Api, conn: asyncpg.Connection) -> None:
    """By a replica that did not know yet: it says why it waits, can be cancelled, and is done when the node is back."""
    await api.register("n", "echo")
    late = (await api.submit())["execution_id"]
    await conn.execute("delete from reasoners")
    await conn.execute("delete from nodes")  # as if it was accepted a moment later

    why = await api.get(f"/executions/{late}/explain")
    page = await api.client.get(f"/executions/{late}")
    session = await api.node("echo")
    await api.finish(session, await api.take(session), 1)

    assert (why["code"], page.status_code) == ("no_node", 200)
    assert (await api.read(late))["status"] == "succeeded"


async def test_who_forgot_it_is_written_down(shared: Api) -> None:
    """With what it was."""
    api = shared
    await api.register("noted", "echo")
    await forget(api, "noted")

    [row] = [
        one
        for one in (await api.get("/audit"))["items"]
        if (one["action"], one["object_id"]) == ("node.forgotten", "noted")
    ]

    assert row["object_kind"] == "node"
    assert (row["before"]["targets"], row["before"]["transport"]) == (["noted.echo"], "pull")
