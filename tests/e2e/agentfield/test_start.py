"""Who starts first does not matter: agents and servers find each other, and nobody is given work too early."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.agentfield.conftest import StartAgent
from tests.e2e.processes import Plane, until

KINDS = (Path(__file__).parent / "kinds_agent.py").read_text()
AGAIN_SECONDS = 45.0
"""The SDK registers every 10 s until a server answers, at worst after its check of every 30 s."""

# An agent registers before it listens; this one takes its time in between.
SLOW = KINDS.replace(
    'if __name__ == "__main__":',
    """
from contextlib import asynccontextmanager

@asynccontextmanager
async def slowly(_):
    await asyncio.sleep(2.0)
    yield

app.router.lifespan_context = slowly

if __name__ == "__main__":""",
)


def named(script: str, node: str) -> str:
    return script.replace('node_id="kinds"', f'node_id="{node}"')


def test_an_agent_may_start_before_the_server(
    plane: Plane, agent: StartAgent, measured: Callable[[str, float], None]
) -> None:
    """An agent that found no server registers by itself once there is one, and works."""
    plane.kill()
    agent(named(KINDS, "early"))
    plane.restart()
    ready_at = time.monotonic()
    until("it to register", lambda: plane.api.get("/nodes/early").status_code == 200, seconds=AGAIN_SECONDS)
    measured("server ready until an agent that was there before is registered", time.monotonic() - ready_at)

    assert plane.end_of(plane.submit("early.give", value=1), within=10)["result"] == 1


def test_an_idle_server_may_restart(plane: Plane, agent: StartAgent, measured: Callable[[str, float], None]) -> None:
    """A server that was killed while nothing ran gives its agents work as soon as it is back."""
    agent(named(KINDS, "idle"))
    plane.kill()
    measured("server started until it is ready", plane.restart())
    ready_at = time.monotonic()
    ended = plane.end_of(plane.submit("idle.give", value=1), within=10)
    measured("server ready until an execution is done", time.monotonic() - ready_at)

    assert (ended["status"], ended["result"], ended["attempt"]) == ("succeeded", 1, 1)


def test_no_work_before_it_listens(plane: Plane, agent: StartAgent) -> None:
    """Work that waits for an agent is handed over when it listens, not when it registers: one attempt is enough."""
    starting = agent(named(SLOW, "slow"))
    starting.terminate()
    starting.ended(within=10)
    id_ = plane.submit("slow.give", value=1)
    starting.start()
    ended = plane.end_of(id_, within=20)

    assert (ended["status"], ended["attempt"]) == ("succeeded", 1)
    assert plane.event_types_of(id_) == ["execution.queued", "execution.started", "execution.completed"]
