"""Cancels on their way to an agent: told with the right words, heeded, not heeded, or too late."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest

from tests.integration.api.agentfield.agent import HANGS, NO_SUCH_PATH, AgentDouble, Reply
from tests.integration.api.serving import DEADLINE_SECONDS, Api, Json, the_problem, until

SOON = pytest.mark.parametrize("settings", [{"cancel_grace_seconds": 0.5}])
BY_US: Json = {
    "status": "cancelled",
    "error": "cancelled_by_control_plane",
    "status_reason": "cancelled",
    "error_details": {"reason": "cancelled"},
}


async def ended(api: Api, execution_id: str) -> dict[str, Json]:
    return await api.read(execution_id, wait_seconds=DEADLINE_SECONDS)


async def test_an_agent_is_told(api: Api, agent: AgentDouble) -> None:
    """By the id that it knows, with the reason; what it then calls back is the end."""
    accepted = await api.submit()
    call = await agent.take()
    said = await api.post(f"/executions/{accepted['execution_id']}/cancel", {"reason": "enough"})
    between = await api.read(accepted["execution_id"])

    [told] = await agent.wait_for("cancels", 1)
    await agent.call_back(call, **BY_US)
    found = await ended(api, accepted["execution_id"])

    assert (said.status_code, said.json()["status"], said.json()["settled"]) == (200, "cancelled", False)
    assert (between["status"], between["status_reason"]) == ("running", "cancelling")
    assert (told.method, told.path) == ("POST", f"/_internal/executions/{call.id}/cancel")
    assert told.headers["x-execution-id"] == call.id
    assert told.headers["x-workflow-id"] == accepted["run_id"]
    assert told.headers["x-agentfield-source"] == "cancel-dispatcher"
    assert told.json.keys() == {"execution_id", "workflow_id", "reason", "emitted_at"}
    assert (told.json["execution_id"], told.json["reason"]) == (call.id, "enough")
    assert datetime.fromisoformat(told.json["emitted_at"])
    assert (found["status"], found["error_message"]) == ("cancelled", "enough")


async def test_an_agent_is_told_when_the_time_is_over(api: Api, agent: AgentDouble) -> None:
    """It has ended by then; the agent stops what nobody waits for any more."""
    accepted = await api.submit(total_seconds=0.5)
    call = await agent.take()
    found = await ended(api, accepted["execution_id"])

    [told] = await agent.wait_for("cancels", 1)

    assert (found["status"], found["status_reason"]) == ("timeout", "total")
    assert (told.json["execution_id"], told.json["reason"]) == (call.id, "total")


async def test_no_reason_is_a_reason(api: Api, agent: AgentDouble) -> None:
    """The agent is told one all the same."""
    id_ = (await api.submit())["execution_id"]
    await agent.take()
    await api.client.post(f"/api/ui/v1/executions/{id_}/cancel")

    [told] = await agent.wait_for("cancels", 1)

    assert told.json["reason"] == "cancelled"


async def test_it_does_not_run_it_any_more(api: Api, agent: AgentDouble) -> None:
    """Then there is nothing to wait for: it ends long before the grace."""
    id_ = (await api.submit())["execution_id"]
    call = await agent.take()
    agent.running.discard(call.id)

    await api.post(f"/executions/{id_}/cancel", {})
    found = await until(lambda: _cancelled(api, id_), seconds=8)

    assert (found["status"], len(agent.calls)) == ("cancelled", 1)


@SOON
@pytest.mark.parametrize(
    "cancel", [HANGS, NO_SUCH_PATH, Reply(reset=True), Reply(500, b"{}")], ids=["hangs", "404", "reset", "500"]
)
async def test_it_does_not_heed(api: Api, agent: AgentDouble, cancel: Reply) -> None:
    """After the grace it has ended; what the agent says later is thrown away."""
    agent.cancel = cancel
    id_ = (await api.submit())["execution_id"]
    call = await agent.take()
    await api.post(f"/executions/{id_}/cancel", {"reason": "enough"})

    found = await ended(api, id_)
    late = await agent.succeed(call, "late")

    assert (found["status"], found["error_message"]) == ("cancelled", "enough")
    assert late.status_code in (200, 409)
    assert (await api.read(id_)).get("result") is None


async def test_one_that_hangs_holds_up_nobody_else(api: Api, agent: AgentDouble) -> None:
    """Another agent is told at once."""
    agent.cancel = HANGS
    first = (await api.submit())["execution_id"]
    await agent.take()
    await api.post(f"/executions/{first}/cancel", {})
    await agent.wait_for("cancels", 1)
    async with AgentDouble(api, "m") as other:
        await other.register()
        second = (await api.submit("m.echo"))["execution_id"]
        await other.take()
        await api.post(f"/executions/{second}/cancel", {})

        await other.wait_for("cancels", 1, seconds=4)  # sooner than the first is given up

    assert len(agent.cancels) == 1


async def test_what_waits_is_never_sent(api: Api, agent: AgentDouble) -> None:
    """Cancelled in the queue, it ends there."""
    await agent.vanish()
    id_ = (await api.submit())["execution_id"]
    await until(lambda: _queued(api, id_))  # whether it was tried in vain before or not

    said = await api.post(f"/executions/{id_}/cancel", {})
    await agent.listen()
    next_ = (await api.submit())["execution_id"]
    call = await agent.take()

    assert (said.status_code, (await api.read(id_))["status"]) == (200, "cancelled")
    assert (call.execution_id, agent.cancels) == (next_, [])


async def test_a_skill_is_hung_up_on(api: Api, agent: AgentDouble) -> None:
    """Nobody waits for the answer of a cancelled call; its agent is told, too."""
    agent.queue.append(Reply(200, b'"late"', hang=True))
    id_ = (await api.submit("n.add"))["execution_id"]
    call = await agent.take()

    await api.post(f"/executions/{id_}/cancel", {})
    [told] = await agent.wait_for("cancels", 1)
    agent.let_go()
    found = await ended(api, id_)

    assert told.path == f"/_internal/executions/{call.id}/cancel"
    assert (found["status"], found.get("result")) == ("cancelled", None)


async def test_a_tree_is_cancelled(api: Api, agent: AgentDouble) -> None:
    """Every attempt of it is told, and what waits is never sent."""
    root = await api.submit()
    parent = await agent.take()
    child = (await api.submit(headers={"X-Parent-Execution-ID": parent.id}))["execution_id"]
    await agent.take()
    await api.register("m")
    waiting = (await api.submit("m.echo", headers={"X-Parent-Execution-ID": parent.id}))["execution_id"]

    body = (await api.post(f"/workflows/{root['run_id']}/cancel-tree", {"reason": "all"})).json()
    told = await agent.wait_for("cancels", 2)
    for call in agent.calls:
        await agent.call_back(call, **BY_US)

    assert (body["cancelled_count"], body["total_nodes"]) == (3, 3)
    assert {one.headers["x-execution-id"] for one in told} == {call.id for call in agent.calls}
    ends = await asyncio.gather(*(ended(api, id_) for id_ in (root["execution_id"], child, waiting)))
    assert [(one["status"], one["error_message"]) for one in ends] == [("cancelled", "all")] * 3


async def test_cancelled_twice(api: Api, agent: AgentDouble) -> None:
    """Asked again it says the same, until it has ended."""
    id_ = (await api.submit())["execution_id"]
    call = await agent.take()

    first, second = [await api.post(f"/executions/{id_}/cancel", {}) for _ in range(2)]
    await agent.call_back(call, **BY_US)
    third = await api.post(f"/executions/{id_}/cancel", {})

    assert (first.status_code, second.status_code) == (200, 200)
    the_problem(third, 409, "already_finished")


async def test_cancelled_while_it_is_lost(api: Api, agent: AgentDouble) -> None:
    """Nobody knows whether it runs, and nobody wants it: it is not sent again."""
    agent.queue.append(Reply(reset=True, hang=True))
    id_ = (await api.submit())["execution_id"]
    await agent.take()

    await api.post(f"/executions/{id_}/cancel", {})
    agent.let_go()

    assert (await ended(api, id_))["status"] == "cancelled"
    assert len(agent.calls) == 1


async def _cancelled(api: Api, execution_id: str) -> dict[str, Json] | None:
    found = await api.read(execution_id)
    return found if found["status"] == "cancelled" else None


async def _queued(api: Api, execution_id: str) -> bool:
    return (await api.read(execution_id))["status"] == "queued"
