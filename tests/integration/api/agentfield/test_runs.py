"""Whole runs over HTTP: which are under way, and cancelling a tree."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.api import runs
from tests.integration.api.serving import Api, fenced, the_problem


async def test_runs_under_way(api: Api) -> None:
    """The newest first, each with its root and what of it is unfinished; what has ended is not there."""
    session = await api.node()
    await api.run(session)
    parent = await api.submit(headers={"X-Session-ID": "s-1"})
    lease = await api.take(session)
    for _ in range(2):
        await api.submit(headers={"X-Parent-Execution-ID": fenced(lease)})
    other = await api.submit()

    found = await api.get("/executions/active")
    newest, oldest = found["runs"]

    assert (found["count"], newest["run_id"], oldest["run_id"]) == (2, other["run_id"], parent["run_id"])
    assert (oldest["root_execution_id"], oldest["target"], oldest["root_status"]) == (
        parent["execution_id"],
        "n.echo",
        "running",
    )
    assert (oldest["agent_id"], oldest["reasoner_id"], oldest["session_id"]) == ("n", "echo", "s-1")
    assert (oldest["active_executions"], oldest["status_counts"]) == (3, {"queued": 2, "running": 1})
    assert newest["status_counts"] == {"queued": 1}
    assert oldest["latest_activity"] >= oldest["started_at"]


async def test_a_run_whose_root_has_ended(api: Api) -> None:
    """It is under way for as long as anything of it is."""
    session = await api.node()
    parent = await api.submit()
    lease = await api.take(session)
    await api.submit(headers={"X-Parent-Execution-ID": fenced(lease)})
    await api.finish(session, lease, 1)

    [run] = (await api.get("/executions/active"))["runs"]

    assert (run["root_execution_id"], run["root_status"]) == (parent["execution_id"], "succeeded")
    assert (run["active_executions"], run["status_counts"]) == (1, {"queued": 1})


async def test_runs_under_way_are_filtered(api: Api) -> None:
    """By node, by session key, and by how many."""
    await api.register("n")
    await api.register("n2")
    one = await api.submit("n.echo")
    two = await api.submit("n2.echo", headers={"X-Session-ID": "s-2"})

    async def ids(**params: str | int) -> list[str]:
        return [run["run_id"] for run in (await api.get("/executions/active", **params))["runs"]]

    assert await ids() == [two["run_id"], one["run_id"]]
    assert await ids(agent_id="n") == [one["run_id"]]
    assert await ids(session_id="s-2") == [two["run_id"]]
    assert await ids(limit=1) == [two["run_id"]]
    assert await ids(limit=9999) == [two["run_id"], one["run_id"]]
    assert await ids(agent_id="nobody") == []


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1.5", "9" * 30])
async def test_how_many_runs(shared: Api, limit: str) -> None:
    """At least one."""
    answer = await shared.client.get("/api/v1/executions/active", params={"limit": limit})

    assert the_problem(answer, 400, "invalid_parameter")["parameter"] == "limit"


async def test_a_tree_is_cancelled(api: Api) -> None:
    """What waits has ended, what runs can only end as cancelled, what had ended stays; children come first."""
    session = await api.node()
    root = await api.submit()
    lease = await api.take(session)
    over = await api.submit(headers={"X-Parent-Execution-ID": fenced(lease)})
    await api.finish(session, await api.take(session), 1)
    child = await api.submit(headers={"X-Parent-Execution-ID": fenced(lease)})
    bystander = await api.submit()

    answer = await api.post(f"/workflows/{root['run_id']}/cancel-tree", {"reason": "enough"})
    body = answer.json()
    late = await api.finish(session, lease, "late")
    ended = await api.read(root["execution_id"])

    assert answer.status_code == 200
    assert [(one["execution_id"], one["settled"]) for one in body["nodes"]] == [
        (child["execution_id"], True),
        (root["execution_id"], False),
    ]
    assert (body["total_nodes"], body["cancelled_count"], body["skipped_count"], body["error_count"]) == (3, 2, 1, 0)
    assert (body["run_id"], body["reason"], body["truncated"]) == (root["run_id"], "enough", False)
    assert late.json()["results"][0]["status"] == "cancelled"
    assert (ended["status"], ended["error_message"]) == ("cancelled", "enough")
    assert (await api.read(over["execution_id"]))["status"] == "succeeded"
    assert (await api.read(bystander["execution_id"]))["status"] == "queued"


async def test_a_tree_is_cancelled_again(api: Api) -> None:
    """As often as one likes: what still runs is named again, what has ended is not."""
    session = await api.node()
    root = await api.submit()
    lease = await api.take(session)
    path = f"/workflows/{root['run_id']}/cancel-tree"

    first, second = [(await api.post(path, {})).json() for _ in range(2)]
    await api.finish(session, lease, status="cancelled", error="stopped")
    third = (await api.post(path)).json()

    assert first == second
    assert (first["cancelled_count"], third["cancelled_count"], third["nodes"]) == (1, 0, [])


async def test_a_tree_is_cancelled_by_two_at_once(api: Api) -> None:
    """Together they name everything, and nothing ends twice."""
    await api.register()
    root = await api.submit()
    children = [await api.submit(headers={"X-Run-ID": root["run_id"]}) for _ in range(30)]

    both = await asyncio.gather(*(api.post(f"/workflows/{root['run_id']}/cancel-tree", {}) for _ in range(2)))
    named = {node["execution_id"] for one in both for node in one.json()["nodes"]}
    ended = await api.post("/executions/batch-status", {"execution_ids": sorted(named)})

    assert {one.status_code for one in both} == {200}
    assert named == {root["execution_id"], *(one["execution_id"] for one in children)}
    assert {one["status"] for one in ended.json().values()} == {"cancelled"}


async def test_a_tree_of_many_batches(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are; beyond the limit the answer says that it was not all."""
    monkeypatch.setattr(runs, "TREE_BATCH", 7)
    monkeypatch.setattr(runs, "TREE_MAX", 21)
    await api.register()
    for _ in range(30):
        await api.submit(headers={"X-Run-ID": "many"})

    first, second, third = [(await api.post("/workflows/many/cancel-tree", {})).json() for _ in range(3)]

    assert [one["cancelled_count"] for one in (first, second, third)] == [21, 9, 0]
    assert [one["truncated"] for one in (first, second, third)] == [True, False, False]
    assert third["total_nodes"] == third["skipped_count"] == 30


async def test_a_tree_of_nobody(api: Api) -> None:
    """404 for a run that never was, 422 for what cannot be one."""
    the_problem(await api.post("/workflows/nobody/cancel-tree", {}), 404, "not_found")
    the_problem(await api.post("/workflows/%00/cancel-tree", {}), 422, "invalid")
    the_problem(await api.post("/workflows/x/cancel-tree", {"reason": "x" * 1_001}), 422, "invalid")
