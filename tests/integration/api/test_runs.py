"""Runs over HTTP: the list, the tree, how far one is, and cancelling all of it."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.api import runs
from tests.integration.api.serving import Api, fenced, the_problem

Json = Any


async def grown(api: Api, children: int = 2) -> tuple[str, Json, str]:
    """A run whose root has begun so many children: its id, the root's lease, and the session."""
    session = await api.node()
    accepted = await api.submit()
    lease = await api.take(session)
    items = [{"target": "n.echo"}] * children
    answer = await api.post("/execute/batch", {"items": items}, headers={"X-Parent-Execution-ID": fenced(lease)})
    assert answer.json()["counts"]["accepted"] == children, answer.text
    return accepted["run_id"], lease, session


async def test_the_tree(api: Api) -> None:
    """Every execution with its parent, which comes before it, and how far all of it is."""
    run_id, lease, session = await grown(api)
    below = await api.take(session)
    await api.submit(headers={"X-Parent-Execution-ID": fenced(below)})
    await api.finish(session, below, 1)

    run = await api.get(f"/runs/{run_id}")
    parents = {one["execution_id"]: one.get("parent_execution_id") for one in run["items"]}

    assert (run["root_execution_id"], run["target"], run["status"]) == (lease["execution_id"], "n.echo", "running")
    assert (run["executions"], run["unfinished"], run["truncated"], run["next_cursor"]) == (4, 3, False, None)
    assert run["counts"] == {"queued": 2, "running": 1, "succeeded": 1}
    assert sorted(filter(None, parents.values())) == sorted([lease["execution_id"]] * 2 + [below["execution_id"]])
    assert next(iter(parents)) == lease["execution_id"]
    assert "result" not in run["items"][0]


async def test_a_thousand_children_and_their_pages(api: Api) -> None:
    """A page of a thousand, the rest behind its cursor, and each of them once."""
    run_id, lease, _ = await grown(api, 1_000)

    first = await api.get(f"/runs/{run_id}", limit=1_000)
    second = await api.get(f"/runs/{run_id}", limit=1_000, cursor=first["next_cursor"])
    ids = [one["execution_id"] for one in [*first["items"], *second["items"]]]

    assert (len(first["items"]), len(second["items"]), second["next_cursor"]) == (1_000, 1, None)
    assert (len(set(ids)), ids[0], first["executions"]) == (1_001, lease["execution_id"], 1_001)


async def test_how_far_a_batch_is(api: Api) -> None:
    """In one call, without its executions."""
    session = await api.node()
    answer = await api.post("/execute/batch", {"items": [{"target": "n.echo"}] * 3, "same_run": True})
    run_id = answer.json()["run_id"]
    await api.finish(session, await api.take(session), 1)

    run = await api.get(f"/runs/{run_id}", limit=0)

    assert (run["items"], run["next_cursor"]) == ([], None)
    assert (run["executions"], run["unfinished"], run["counts"]) == (3, 2, {"queued": 2, "succeeded": 1})


async def test_a_run_is_over_when_all_of_it_is(api: Api) -> None:
    """Its first execution has ended and others have not: it is not over yet, and has no end."""
    session = await api.node()
    answer = await api.post("/execute/batch", {"items": [{"target": "n.echo"}] * 3, "same_run": True})
    run_id = answer.json()["run_id"]
    seen = []
    for _ in range(3):
        await api.finish(session, await api.take(session), 1)
        seen.append(await api.get(f"/runs/{run_id}", limit=0))

    assert [one["status"] for one in seen] == ["queued", "queued", "succeeded"]
    assert ["completed_at" in one for one in seen] == [False, False, True]


async def test_the_list(api: Api) -> None:
    """The newest first, each run once whatever grew in it, page by page."""
    one, _, session = await grown(api)
    two = (await api.submit())["run_id"]
    batch = await api.post("/execute/batch", {"items": [{"target": "n.echo"}] * 3, "same_run": True})
    three = batch.json()["run_id"]

    whole = await api.get("/runs")
    first = await api.get("/runs", limit=2)
    rest = await api.get("/runs", limit=2, cursor=first["next_cursor"])

    assert [run["run_id"] for run in whole["items"]] == [three, two, one]
    assert [run["executions"] for run in whole["items"]] == [3, 1, 3]
    assert [run["run_id"] for run in [*first["items"], *rest["items"]]] == [three, two, one]
    assert (rest["next_cursor"], session[:4]) == (None, "ses_")


async def test_the_list_by_target(api: Api) -> None:
    """Of the first execution."""
    await api.register("n")
    await api.register("n2")
    await api.submit("n.echo")
    other = await api.submit("n2.echo")

    assert [run["run_id"] for run in (await api.get("/runs", target="n2.echo"))["items"]] == [other["run_id"]]


async def test_cancelling_a_run(api: Api) -> None:
    """All of it can only end as cancelled; asked again, it says so again."""
    run_id, lease, session = await grown(api, 5)

    said = (await api.post(f"/runs/{run_id}/cancel", {"reason": "enough"})).json()
    await api.finish(session, lease, status="cancelled")
    run = await api.get(f"/runs/{run_id}")
    again = (await api.post(f"/runs/{run_id}/cancel")).json()

    assert said == {"run_id": run_id, "cancelled": 6, "settled": 5, "truncated": False, "reason": "enough"}
    assert (run["counts"], run["unfinished"]) == ({"cancelled": 6}, 0)
    assert (again["cancelled"], again["truncated"]) == (0, False)


async def test_cancelling_a_large_run(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one request does not reach the next one does."""
    monkeypatch.setattr(runs, "TREE_BATCH", 2)
    monkeypatch.setattr(runs, "TREE_MAX", 4)
    run_id, _, _ = await grown(api, 5)

    said = [(await api.post(f"/runs/{run_id}/cancel")).json() for _ in range(2)]

    assert [(one["cancelled"], one["truncated"]) for one in said] == [(4, True), (2, False)]


@pytest.mark.parametrize("limit", ["1001", "-1", "x"])
async def test_a_limit_that_is_none(api: Api, limit: str) -> None:
    """The parameter is named."""
    run_id, _, _ = await grown(api)

    refused = the_problem(await api.client.get(f"/api/v1/runs/{run_id}?limit={limit}"), 422, "invalid")

    assert refused["where"] == "query/limit"


async def test_a_run_that_nobody_knows(api: Api) -> None:
    """404, also to cancel it."""
    the_problem(await api.client.get("/api/v1/runs/nothing"), 404, "not_found")
    the_problem(await api.post("/runs/nothing/cancel"), 404, "not_found")
