"""Workflow events: decoration for executions of ours, and all that is known of calls inside a process."""

from __future__ import annotations

from itertools import permutations

import pytest

from tests.integration.api.agentfield.agent import AgentDouble, Asked
from tests.integration.api.serving import DEADLINE_SECONDS, Api, Json, the_problem, until

LOCAL = "exec_1764123456789_0a1b2c3d"
INNER = "exec_1764123456790_0a1b2c3e"
EVENTS = "/workflow/executions/events"


@pytest.fixture
async def call(api: Api, agent: AgentDouble) -> Asked:
    """Something that the agent runs."""
    await api.submit()
    return await agent.take()


def event(call: Asked, status: str, **over: Json) -> Json:
    """What the Python SDK says of a reasoner that was called as a function."""
    run_id = call.headers["x-run-id"]
    return {
        "execution_id": LOCAL,
        "workflow_id": run_id,
        "run_id": run_id,
        "reasoner_id": "inner",
        "type": "inner",
        "agent_node_id": "n",
        "status": status,
        "parent_execution_id": call.id,
        "parent_workflow_id": run_id,
        **over,
    }


async def calls_of(api: Api, call: Asked) -> list[dict[str, Json]]:
    items: list[dict[str, Json]] = (await api.get(f"/executions/{call.execution_id}/local-calls"))["items"]
    return items


@pytest.mark.parametrize("status", ["running", "succeeded", "failed", "cancelled", "waiting", "nonsense"])
async def test_an_event_of_what_runs(api: Api, agent: AgentDouble, call: Asked, status: str) -> None:
    """Changes nothing: the callback is the end."""
    said = await api.post(EVENTS, event(call, status, execution_id=call.id, result="no"))
    between = await api.read(call.execution_id)
    kept = await calls_of(api, call)
    await agent.succeed(call, "yes")

    assert (said.status_code, kept) == (200, [])
    assert (between["status"], between.get("result")) == ("running", None)
    assert (await api.read(call.execution_id))["result"] == "yes"


@pytest.mark.parametrize("status", ["running", "failed"])
async def test_an_event_of_what_has_ended(api: Api, agent: AgentDouble, call: Asked, status: str) -> None:
    """Changes nothing, also when it contradicts, as it does after every cancel."""
    await agent.call_back(call, status="cancelled", error="cancelled_by_control_plane")
    before = await api.read(call.execution_id)

    said = await api.post(EVENTS, event(call, status, execution_id=call.id, error={"type": "CancelledError"}))

    assert said.status_code == 200
    assert await api.read(call.execution_id) == before


async def test_a_call_inside_the_process(api: Api, call: Asked) -> None:
    """Is kept beside the execution that made it, with how it went."""
    first = await api.post(EVENTS, event(call, "running", input_data={"x": 1}))
    [running] = await calls_of(api, call)
    second = await api.post(EVENTS, event(call, "succeeded", result=[1, "ü"], duration_ms=12))
    [done] = await calls_of(api, call)

    assert [one.json()["updated"] for one in (first, second)] == [True, True]
    assert (running["execution_id"], running["reasoner_id"], running["status"]) == (LOCAL, "inner", "running")
    assert (done["status"], done["result"], done["duration_ms"]) == ("succeeded", [1, "ü"], 12)


@pytest.mark.parametrize("error", ["boom", {"type": "ValueError", "message": "boom"}, ["boom"]])
async def test_a_call_that_failed(api: Api, call: Asked, error: Json) -> None:
    """With its error, which is a text or anything else."""
    await api.post(EVENTS, event(call, "failed", error=error, status_reason="user_error"))

    [failed] = await calls_of(api, call)

    assert (failed["status"], failed["error"], failed["status_reason"]) == ("failed", error, "user_error")


@pytest.mark.parametrize("order", sorted(set(permutations(["running", "running", "succeeded"]))))
async def test_events_in_any_order(api: Api, call: Asked, order: tuple[str, ...]) -> None:
    """What has ended stays so."""
    for status in order:
        await api.post(EVENTS, event(call, status))

    assert [one["status"] for one in await calls_of(api, call)] == ["succeeded"]


async def test_an_end_stays(api: Api, call: Asked) -> None:
    """Also when it is contradicted."""
    for status, result in (("succeeded", 1), ("failed", None), ("succeeded", 2), ("cancelled", None)):
        await api.post(EVENTS, event(call, status, result=result))

    assert [(one["status"], one["result"]) for one in await calls_of(api, call)] == [("succeeded", 1)]


async def test_calls_inside_calls(api: Api, call: Asked) -> None:
    """However deep, they are of the execution at the top, and know who made them."""
    await api.post(EVENTS, event(call, "running"))
    await api.post(EVENTS, event(call, "running", execution_id=INNER, parent_execution_id=LOCAL))
    await api.post(EVENTS, event(call, "succeeded", execution_id=INNER, parent_execution_id=LOCAL))

    found = {one["execution_id"]: one for one in await calls_of(api, call)}

    assert found.keys() == {LOCAL, INNER}
    assert (found[INNER]["parent_execution_id"], found[INNER]["status"]) == (LOCAL, "succeeded")
    assert "parent_execution_id" not in found[LOCAL]


async def test_another_replica_has_not_met_the_parent(api: Api, call: Asked) -> None:
    """It finds it by the run."""
    await api.post(EVENTS, event(call, "running"))
    api.app.state.doors.processes._locals.clear()  # as one that was started meanwhile

    await api.post(EVENTS, event(call, "succeeded", execution_id=INNER, parent_execution_id=LOCAL))

    assert {one["execution_id"] for one in await calls_of(api, call)} == {LOCAL, INNER}


@pytest.mark.parametrize("parent", [None, "exec_9_9", f"exec_{'0' * 26}~1", f"exec_{'0' * 26}", "x"])
async def test_a_parent_that_nobody_knows(api: Api, call: Asked, parent: str | None) -> None:
    """200, because no SDK would do anything about it; nothing is kept."""
    said = await api.post(EVENTS, event(call, "running", parent_execution_id=parent))

    assert (said.status_code, said.json()["success"], said.json()["updated"]) == (200, True, False)
    assert await calls_of(api, call) == []


async def test_a_stale_attempt_says_nothing(api: Api, agent: AgentDouble, call: Asked) -> None:
    """What it called inside is not kept any more."""
    await agent.restart()
    second = await agent.take()

    stale = await api.post(EVENTS, event(call, "running"))
    fresh = await api.post(EVENTS, event(second, "running", execution_id=INNER))

    assert (stale.status_code, stale.json()["updated"]) == (200, False)
    assert (fresh.status_code, fresh.json()["updated"]) == (200, True)
    assert [one["execution_id"] for one in await calls_of(api, call)] == [INNER]


@pytest.mark.parametrize(
    "over",
    [
        {"status": "sleeping"},
        {"status": None},
        {"execution_id": ""},
        {"execution_id": None},
        {"execution_id": "\x00"},
        {"reasoner_id": "x" * 1_000},
        {"parent_execution_id": 5},
    ],
)
async def test_an_event_that_is_not_valid(api: Api, call: Asked, over: Json) -> None:
    """422, and nothing is kept."""
    the_problem(await api.post(EVENTS, event(call, "running") | over), 422, "invalid")

    assert await calls_of(api, call) == []


async def test_the_sdk_makes_its_own_ids(api: Api, agent: AgentDouble) -> None:
    """Asked for some, the answer is a JSON 404 at once, with which it keeps its own."""
    body = {"execution_id": LOCAL, "run_id": "r", "workflow_id": "r", "reasoner_name": "inner", "node_id": "n"}

    answer = await api.post("/workflow/executions", body)

    assert answer.status_code == 404
    assert {"error", "message"} <= answer.json().keys()


async def test_calls_of_nobody(api: Api) -> None:
    """404 for an execution that is not known, 422 for what is none."""
    the_problem(await api.client.get(f"/api/v1/executions/exec_{'0' * 26}/local-calls"), 404, "execution_not_found")
    the_problem(await api.client.get(f"/api/v1/executions/{LOCAL}/local-calls"), 422, "invalid")


@pytest.mark.parametrize("replica", ["the same", "another"])
async def test_a_submit_from_inside_the_process(api: Api, agent: AgentDouble, call: Asked, replica: str) -> None:
    """Whose parent is a call inside: the child is a child of the execution that made it, and is fenced with it."""
    await api.post(EVENTS, event(call, "running"))
    headers = {"X-Parent-Execution-ID": LOCAL, "X-Execution-ID": LOCAL, "X-Run-ID": call.headers["x-run-id"]}
    if replica == "another":
        api.app.state.doors.processes._locals.clear()

    child = (await api.submit(headers=headers))["execution_id"]
    found = await api.read(child)
    await agent.restart()
    await until(lambda: _again(agent, call))
    stale = await api.post("/execute/async/n.echo", {}, headers=headers)

    assert (found["parent_execution_id"], found["run_id"]) == (call.execution_id, call.headers["x-run-id"])
    the_problem(stale, 409, "lease_lost")


async def test_a_submit_with_an_unknown_parent(api: Api, agent: AgentDouble) -> None:
    """Is accepted, with a word of warning: refused, the SDK would submit it again by other ways."""
    accepted = await api.submit(headers={"X-Parent-Execution-ID": LOCAL, "X-Run-ID": "r"})

    call = await agent.take()
    await agent.succeed(call, 1)

    assert "parent_unknown" in [one["code"] for one in accepted["warnings"]]
    assert (await api.read(accepted["execution_id"], wait_seconds=DEADLINE_SECONDS))["status"] == "succeeded"


async def _again(agent: AgentDouble, call: Asked) -> bool:
    return f"{call.execution_id}~2" in [one.id for one in agent.calls]
