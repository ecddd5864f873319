"""Pause and resume over HTTP: what waits is held back, what runs goes on to the end of its attempt."""

from __future__ import annotations

import httpx
import pytest

from tests.integration.api.agentfield.agent import AgentDouble
from tests.integration.api.serving import DEADLINE_SECONDS, Api, Json, streaming, the_problem, until

BOTH = pytest.mark.parametrize("prefix", ["v1", "ui/v1"])


async def ask(api: Api, prefix: str, execution_id: str, verb: str, **body: Json) -> httpx.Response:
    return await api.client.post(f"/api/{prefix}/executions/{execution_id}/{verb}", json=body)


async def pause(api: Api, execution_id: str) -> httpx.Response:
    return await ask(api, "v1", execution_id, "pause")


async def resume(api: Api, execution_id: str) -> httpx.Response:
    return await ask(api, "v1", execution_id, "resume")


@BOTH
async def test_what_waits_is_held_back(api: Api, prefix: str) -> None:
    """No agent is sent it until it is resumed; it shows as `waiting`, because SDKs hang on `paused`."""
    await api.register()
    id_ = (await api.submit())["execution_id"]
    paused = await ask(api, prefix, id_, "pause", reason="hold on")
    shown = await api.read(id_)
    async with AgentDouble(api) as agent:
        await agent.register()
        next_ = (await api.submit())["execution_id"]
        assert (await agent.take()).execution_id == next_

        resumed = await ask(api, prefix, id_, "resume")
        call = await agent.take()
        await agent.succeed(call, 1)

    assert paused.status_code == 200
    assert paused.json().keys() == {"execution_id", "previous_status", "status", "reason", "paused_at"}
    assert (paused.json()["previous_status"], paused.json()["status"]) == ("queued", "paused")
    assert (shown["status"], shown["status_reason"]) == ("waiting", "paused")
    assert (resumed.status_code, resumed.json()["previous_status"]) == (200, "paused")
    assert (call.execution_id, call.attempt) == (id_, 1)
    assert (await api.read(id_))["status"] == "succeeded"


@BOTH
async def test_what_runs_goes_on(api: Api, agent: AgentDouble, prefix: str) -> None:
    """It shows as `waiting`, and its end counts all the same."""
    id_ = (await api.submit())["execution_id"]
    call = await agent.take()
    paused = await ask(api, prefix, id_, "pause")
    shown = await api.read(id_)

    done = await agent.succeed(call, "all the same")

    assert (paused.status_code, paused.json()["previous_status"]) == (200, "running")
    assert (shown["status"], shown["status_reason"]) == ("waiting", "paused")
    assert done.status_code == 200
    assert (await api.read(id_))["result"] == "all the same"


async def test_what_runs_is_resumed(api: Api, agent: AgentDouble) -> None:
    """Before its attempt has ended: as if nothing had been."""
    id_ = (await api.submit())["execution_id"]
    call = await agent.take()
    await pause(api, id_)

    resumed = await resume(api, id_)
    shown = await api.read(id_)
    await agent.succeed(call, 1)

    assert (resumed.status_code, resumed.json()["status"]) == (200, "running")
    assert (shown["status"], shown.get("status_reason")) == ("running", None)
    assert (await api.read(id_))["status"] == "succeeded"


@pytest.mark.parametrize("how", ["crash", "failure", "shutdown"])
async def test_an_attempt_that_is_not_the_last(api: Api, agent: AgentDouble, how: str) -> None:
    """Paused meanwhile, it is parked and not sent again before it is resumed."""
    await agent.register(reasoners=[{"id": "echo", "retries": 3, "retry_delay_seconds": 0}])
    id_ = (await api.submit())["execution_id"]
    call = await agent.take()
    await pause(api, id_)

    if how == "crash":
        await agent.restart()
    elif how == "failure":
        await agent.call_back(call, status="failed", error="boom")
    else:
        await agent.call_back(call, status="cancelled", error_details={"reason": "shutdown"})
    await until(lambda: _parked(api, id_))
    next_ = (await api.submit())["execution_id"]
    assert (await agent.take()).execution_id == next_  # and not the one that is parked
    await resume(api, id_)
    second = await agent.take()
    await agent.succeed(second, "after all")

    assert second.id == f"{id_}~2"
    assert (await api.read(id_, wait_seconds=DEADLINE_SECONDS))["result"] == "after all"


async def test_not_in_a_state_for_that(api: Api, agent: AgentDouble) -> None:
    """409 that names the state: paused twice, resumed without a pause, cancelled, ended."""
    id_ = (await api.submit())["execution_id"]
    call = await agent.take()

    early = the_problem(await resume(api, id_), 409, "invalid_state")
    await pause(api, id_)
    twice = the_problem(await pause(api, id_), 409, "invalid_state")
    await api.post(f"/executions/{id_}/cancel", {})
    cancelled = the_problem(await resume(api, id_), 409, "invalid_state")
    await agent.call_back(call, status="cancelled")
    ended = [await pause(api, id_), await resume(api, id_)]

    assert {one["error"] for one in (early, twice, cancelled)} == {"invalid_state"}
    assert "cancelled" in cancelled["message"]
    assert [(one.status_code, one.json()["error"]) for one in ended] == [(409, "invalid_state")] * 2


@BOTH
@pytest.mark.parametrize("verb", ["pause", "resume"])
async def test_what_is_not_there(api: Api, prefix: str, verb: str) -> None:
    """404, and 422 for what is no execution at all."""
    the_problem(await ask(api, prefix, f"exec_{'0' * 26}", verb), 404, "execution_not_found")
    the_problem(await ask(api, prefix, "exec_1", verb), 422, "invalid")


async def test_what_is_paused_is_cancelled(api: Api, agent: AgentDouble) -> None:
    """At once, when nothing of it runs."""
    await agent.vanish()
    id_ = (await api.submit())["execution_id"]
    await until(lambda: _paused(api, id_))

    said = await api.post(f"/executions/{id_}/cancel", {})

    assert (said.status_code, said.json()["settled"]) == (200, True)
    assert (await api.read(id_))["status"] == "cancelled"


async def test_it_is_seen_in_the_stream(api: Api) -> None:
    """In AgentField's words."""
    await api.register()
    id_ = (await api.submit())["execution_id"]
    async with streaming(api) as stream:
        await pause(api, id_)
        *_, paused = await stream.until("execution_paused")
        await resume(api, id_)
        *_, resumed = await stream.until("execution_resumed")

    assert [one.data["execution_id"] for one in (paused, resumed)] == [id_, id_]
    assert paused.data["status"] == "waiting"


async def _parked(api: Api, execution_id: str) -> bool:
    return (await api.read(execution_id))["state"] == "paused"


async def _paused(api: Api, execution_id: str) -> bool:
    """Held back, once nobody tries to send it."""
    await pause(api, execution_id)
    return await _parked(api, execution_id)
