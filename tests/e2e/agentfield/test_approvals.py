"""`app.pause` on AgentField's SDK: people decide, the agent is told, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.agentfield.conftest import StartAgent, start_agent
from tests.e2e.conftest import execute
from tests.e2e.processes import Plane, Stage, until

SOON_SECONDS = 15.0
MOMENT_HOURS = 0.0005

GATE = """
import os
from agentfield import Agent

app = Agent(node_id="gate", agentfield_server=os.getenv("AGENTFIELD_SERVER"))

@app.reasoner()
async def ask(request: str, hours: float = 1.0) -> list[str]:
    said = await app.pause(request, "https://example.com/ask", expires_in_hours=hours, timeout=100.0)
    return [said.decision, said.feedback]

app.run()
"""


def decide(plane: Plane, request: str, decision: str) -> str:
    """What the server says to a person's decision."""
    said = {"requestId": request, "decision": decision, "feedback": "so be it"}
    answer = plane.api.post("/webhooks/approval-response", json=said)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["status"])


def asked(plane: Plane, request: str, **input_: float) -> str:
    """The id of an execution that waits for this request."""
    id_ = plane.submit("gate.ask", request=request, **input_)
    until("it to wait", lambda: plane.look(id_)["status"] == "waiting", seconds=SOON_SECONDS)
    return id_


@pytest.fixture(scope="module")
def gate(agent: StartAgent) -> None:
    agent(GATE, name="gate")


@pytest.mark.usefixtures("gate")
@pytest.mark.parametrize("decision", ["approved", "rejected", "request_changes"])
def test_the_agent_hears_the_decision(plane: Plane, decision: str) -> None:
    """It waits until people decide, and goes on with what they said; how it ends is the agent's."""
    id_ = asked(plane, f"req-{decision}")
    assert decide(plane, f"req-{decision}", decision) == "processed"
    ended = plane.end_of(id_, within=SOON_SECONDS)

    assert (ended["status"], ended["attempt"]) == ("succeeded", 1)
    assert ended["result"] == [decision, "so be it"]
    assert decide(plane, f"req-{decision}", "approved") == "already_processed"


@pytest.mark.usefixtures("gate")
def test_nobody_decides(plane: Plane) -> None:
    """When the time to decide is over the server says so, long before the agent gives up by itself."""
    id_ = plane.submit("gate.ask", request="req-late", hours=MOMENT_HOURS)

    assert plane.end_of(id_, within=SOON_SECONDS)["result"][0] == "expired"


@pytest.fixture
def own(tmp_path: Path, sdk: Path, database: str) -> Iterator[tuple[Plane, StartAgent]]:
    """A server and agents of this test's own, to be killed."""
    with Stage(tmp_path) as stage:
        plane = stage.plane(database)
        yield plane, partial(start_agent, stage, plane, sdk)


def test_the_server_dies_while_it_tells(own: tuple[Plane, StartAgent], database: str) -> None:
    """A decision that was taken is told, though the server is killed while the agent does not answer."""
    plane, agent = own
    gate = agent(GATE)
    id_ = asked(plane, "req-1")
    gate.stop()
    assert decide(plane, "req-1", "approved") == "processed"
    plane.kill()
    gate.cont()
    # The dead server's claim on the callback lasts for 40 s; on the database's clock they pass now.
    name = database.partition("?")[0].rpartition("/")[2]
    asyncio.run(execute(database, f"alter database {name} set controlplane.clock_offset = '1 minute'"))
    plane.restart()
    ended = plane.end_of(id_, within=SOON_SECONDS)

    assert (ended["attempt"], ended["result"]) == (1, ["approved", "so be it"])


def test_all_die_before_it_is_told(own: tuple[Plane, StartAgent]) -> None:
    """The agent dies, people decide, the server dies: the next attempt asks again and is told at once."""
    plane, agent = own
    gate = agent(GATE)
    id_ = asked(plane, "req-1")
    run_id = plane.look(id_)["run_id"]
    gate.kill()
    assert decide(plane, "req-1", "approved") == "processed"
    plane.kill()
    plane.restart()
    gate.start()
    gate.ready()
    ended = plane.end_of(id_, within=SOON_SECONDS)

    assert (ended["attempt"], ended["result"]) == (2, ["approved", "so be it"])
    assert ended["run_id"] == run_id
