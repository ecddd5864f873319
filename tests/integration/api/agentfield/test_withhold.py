"""Nodes that are called, paused and drained: what is not sent, what is let end, and what is sent afterwards."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.integration.api.agentfield.agent import AgentDouble, Asked
from tests.integration.api.serving import Api, until

HOLDS = [("/reasoners/n.echo/pause", "/reasoners/n.echo/resume"), ("/nodes/n/drain", "/nodes/n/undrain")]


async def said(api: Api, path: str) -> dict[str, Any]:
    answer = await api.post(path, {})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize(("hold", "let_go"), HOLDS)
async def test_nothing_is_sent_until_it_is_let_go(api: Api, agent: AgentDouble, hold: str, let_go: str) -> None:
    """What runs is let end; what was submitted meanwhile is sent at once when it may be."""
    await api.submit()
    running = await agent.take()
    await said(api, hold)
    waits = await api.submit()
    await agent.succeed(running, "done")
    ended = await api.read(running.execution_id, wait_seconds=10)
    await asyncio.sleep(0.3)  # a slot is free, and the pusher has looked
    sent = len(agent.calls)

    await said(api, let_go)
    later: Asked = await agent.take(seconds=4.0)  # its next look by itself may be five seconds away

    assert (ended["status"], sent) == ("succeeded", 1)
    assert later.execution_id == waits["execution_id"]


async def test_another_process_is_sent_what_the_drained_one_is_not(api: Api, agent: AgentDouble) -> None:
    """A rolling update: the old one drains, the new one at its own address serves, and the counts go down."""
    await api.submit()
    running = await agent.take()
    drained = await said(api, "/nodes/n/drain")
    async with AgentDouble(api) as new:
        await new.register()
        await api.submit()
        await new.take()
        seen = await api.get("/nodes/n")
        await agent.succeed(running)
        done = await until(lambda: _left(api))

    assert (drained["draining"], drained["draining_running"]) == (1, 1)
    assert (seen["sessions"], seen["draining"], seen["draining_running"]) == (2, 1, 1)
    assert done["draining"] == 1
    assert len(agent.calls) == 1


async def test_a_restart_at_the_same_address_serves(api: Api, agent: AgentDouble) -> None:
    """The process that was told to drain is gone, and with it what it was told."""
    await said(api, "/nodes/n/drain")
    await api.submit()
    await agent.restart()

    await agent.take()

    assert (await api.get("/nodes/n"))["draining"] == 0


async def test_its_heartbeats_do_not_undrain_it(api: Api, agent: AgentDouble) -> None:
    """Nor does it register itself out of it."""
    await said(api, "/nodes/n/drain")
    await agent.beat()
    await agent.register()
    await api.submit()
    await asyncio.sleep(0.3)  # the pusher was woken and has looked

    assert (await api.get("/nodes/n"))["draining"] == 1
    assert agent.calls == []


async def _left(api: Api) -> dict[str, Any] | None:
    found: dict[str, Any] = await api.get("/nodes/n")
    return found if found["draining_running"] == 0 else None
