"""What dies may die: an agent on AgentField's SDK, and the server, at any moment."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.agentfield.article import BATCH, MODEL
from tests.e2e.agentfield.conftest import StartAgent, start_agent
from tests.e2e.conftest import NewDatabase
from tests.e2e.processes import Plane, Stage, until
from tests.e2e.receiver import Heard, Model, Receiver
from tests.e2e.seed import summaries

ITEMS = [f"item {n}" for n in range(40)]
NOTICED_SECONDS = 30.0
OUTAGE_SECONDS = 9.0
"""Within the 15 s in which the SDK tries to tell a result."""
LONG_OUTAGE_SECONDS = 25.0

Measured = Callable[[str, float], None]

# Each call of the reasoner leaves a line in a file of its own, whatever becomes of the rest.
WORK = """
import asyncio, os
from agentfield import Agent

app = Agent(node_id="work", agentfield_server=os.getenv("AGENTFIELD_SERVER"))

@app.reasoner()
async def work(name: str, seconds: float) -> dict:
    with open("calls", "a") as calls:
        print(name, file=calls)
    await asyncio.sleep(seconds)
    return {"name": name, "result": list(range(100))}

@app.reasoner()
async def hold(seconds: float) -> str:
    if await app.memory.get("begun", default=False):
        return "resumed"
    await app.memory.set("begun", True)
    open("held", "w").close()
    await asyncio.sleep(seconds)
    return "held"

app.run()
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Where the processes of one test stand: these tests leave dead ones behind."""
    with Stage(tmp_path) as stage:
        yield stage


@pytest.fixture
def plane(stage: Stage, sdk: Path, new_database: NewDatabase) -> Plane:
    return stage.plane(new_database())


@pytest.fixture
def agent(stage: Stage, plane: Plane, sdk: Path) -> StartAgent:
    return partial(start_agent, stage, plane, sdk)


@pytest.fixture
def model() -> Iterator[Model]:
    with Model() as model:
        yield model


@pytest.fixture
def moments() -> random.Random:
    """When something dies."""
    seed = random.randrange(1_000_000)
    print(f"seed of the moments: {seed}")
    return random.Random(seed)


def calls(stage: Stage) -> Counter[str]:
    """How often each was begun."""
    file = stage.folder / "calls"
    return Counter(file.read_text().splitlines()) if file.exists() else Counter()


def fire(plane: Plane, receiver: Receiver) -> dict[str, Any]:
    """The article's work, accepted."""
    id_ = plane.submit("batch.process_corpus", items=ITEMS, model=MODEL, webhook=receiver.webhook)
    return plane.look(id_)


def told(plane: Plane, receiver: Receiver, id_: str) -> list[Heard]:
    """All that the receiver heard of it, once the server has nothing more to say."""

    def settled() -> bool:
        items = plane.api.get(f"/executions/{id_}/deliveries").json()["items"]
        return [one["state"] for one in items] == ["delivered"]

    # A server that is killed between claiming a delivery and noting what became of it keeps its lease for as long as
    # sending may take.
    until("its webhook to be settled", settled, seconds=60)
    heard = receiver.about(id_)
    assert {one.word for one in heard} == {"ok"}
    return heard


def told_once(plane: Plane, receiver: Receiver, id_: str) -> bool:
    return len(told(plane, receiver, id_)) == 1


def told_under_one_id(plane: Plane, receiver: Receiver, id_: str) -> bool:
    """Whether a receiver that goes by the id takes it once: a server that is killed after sending, before noting it,
    sends again.
    """
    return len({one.webhook_id for one in told(plane, receiver, id_)}) == 1


def whole(result: dict[str, Any]) -> bool:
    """Whether every item is there. The article stores its results and then how many there are: where it was killed
    between the two, the last item is done again and stands there twice.
    """
    once = list({one["item"]: one for one in result["results"]}.values())
    return result | {"results": once} == summaries(*ITEMS) and len(result["results"]) - len(once) <= 1


@pytest.mark.parametrize("again", ["restarted at once", "another later"])
def test_a_killed_agents_run_goes_on(
    plane: Plane,
    agent: StartAgent,
    model: Model,
    receiver: Receiver,
    moments: random.Random,
    measured: Measured,
    again: str,
) -> None:
    """kill -9 in the middle: the same run goes on from its last checkpoint, at most one item is asked for twice."""
    first = agent(BATCH, name="first", **model.env)
    fired = fire(plane, receiver)
    id_, point = fired["execution_id"], moments.randrange(1, len(ITEMS) - 1)
    until(f"{point} items", lambda: model.asked.total() >= point, seconds=20)
    first.kill()
    killed_at = time.monotonic()
    if again == "restarted at once":
        first.start()
        first.ready()
    else:
        until("it to wait again", lambda: plane.look(id_)["status"] == "queued", seconds=NOTICED_SECONDS)
        measured("agent killed until its execution waits for another", time.monotonic() - killed_at)
        agent(BATCH, name="second", **model.env)
    until("another attempt", lambda: plane.look(id_)["attempt"] == 2, seconds=NOTICED_SECONDS)
    measured(f"agent killed until its execution runs again ({again})", time.monotonic() - killed_at)
    ended = plane.end_of(id_, within=30)
    print(f"measured: items asked for twice: {model.asked.total() - len(ITEMS)}")

    assert (ended["status"], ended["attempt"], ended["run_id"]) == ("succeeded", 2, fired["run_id"])
    assert whole(ended["result"])
    assert model.asked.total() - len(ITEMS) <= 1
    assert plane.memory_of(ended["run_id"], "done") == len(ITEMS)
    assert told_once(plane, receiver, id_)


def test_a_server_killed_again_and_again_repeats_nothing(
    plane: Plane, agent: StartAgent, stage: Stage, receiver: Receiver, moments: random.Random, measured: Measured
) -> None:
    """A server killed three times while an agent works: the agent keeps its attempt, nothing is begun twice."""
    agent(WORK)
    ids = [plane.submit("work.work", name=f"{n}", seconds=2.0 * n, webhook=receiver.webhook) for n in range(1, 4)]
    for _ in range(3):
        time.sleep(moments.uniform(0.0, 1.5))  # the moment is what is tested
        plane.kill()
        measured("server started until it is ready", plane.restart())
    ended = [plane.end_of(id_, within=30) for id_ in ids]

    assert [(one["status"], one["attempt"]) for one in ended] == [("succeeded", 1)] * 3
    assert [one["result"]["name"] for one in ended] == ["1", "2", "3"]
    assert calls(stage) == Counter(["1", "2", "3"])
    assert all(told_under_one_id(plane, receiver, id_) for id_ in ids)


@pytest.mark.parametrize("callback", ["tried again", "lost for good"])
def test_a_result_outlives_an_outage_of_the_server(
    plane: Plane, agent: StartAgent, stage: Stage, receiver: Receiver, measured: Measured, callback: str
) -> None:
    """An agent that finishes while the server is away: its result is kept, whether its callback is or not."""
    working = agent(WORK)
    id_ = plane.submit("work.work", name="one", seconds=1.0, webhook=receiver.webhook)
    until("it to begin", lambda: calls(stage), seconds=10)
    plane.kill()
    lost = callback == "lost for good"
    time.sleep(LONG_OUTAGE_SECONDS if lost else OUTAGE_SECONDS)  # what is tested is an outage of this length
    assert ("Failed to deliver async status" in working.log()) is lost
    plane.restart()
    ready_at = time.monotonic()
    ended = plane.end_of(id_, within=NOTICED_SECONDS)
    measured(f"server back until the result is known (callback {callback})", time.monotonic() - ready_at)

    assert (ended["status"], ended["attempt"]) == ("succeeded", 1)
    assert ended["result"] == {"name": "one", "result": list(range(100))}
    assert calls(stage) == Counter(["one"])
    assert told_once(plane, receiver, id_)


def test_a_server_killed_between_checkpoints_costs_one_item(
    plane: Plane, agent: StartAgent, model: Model, receiver: Receiver, moments: random.Random, measured: Measured
) -> None:
    """A checkpoint that finds no server fails the reasoner in the SDK: the same run goes on from the last one."""
    agent(BATCH, **model.env)
    fired = fire(plane, receiver)
    point = moments.randrange(1, len(ITEMS) - 10)
    until(f"{point} items", lambda: model.asked.total() >= point, seconds=20)
    plane.kill()
    killed_at = time.monotonic()
    plane.restart()
    ended = plane.end_of(fired["execution_id"], within=30)
    measured("server killed until the article's run is done", time.monotonic() - killed_at)
    print(f"measured: attempts: {ended['attempt']}, items asked for twice: {model.asked.total() - len(ITEMS)}")

    assert (ended["status"], ended["run_id"]) == ("succeeded", fired["run_id"])
    assert whole(ended["result"])
    assert model.asked.total() - len(ITEMS) <= 1
    assert told_once(plane, receiver, ended["execution_id"])


def test_an_agent_that_is_told_to_leave_finishes(plane: Plane, agent: StartAgent, stage: Stage) -> None:
    """SIGTERM: a run that is shorter than the drain ends where it is, with its result."""
    leaving = agent(WORK)
    id_ = plane.submit("work.work", name="short", seconds=2.0)
    until("it to begin", lambda: calls(stage), seconds=10)
    leaving.signal(signal.SIGTERM)
    ended = plane.end_of(id_, within=15)
    leaving.ended(within=15)

    assert (ended["status"], ended["attempt"], ended["result"]["name"]) == ("succeeded", 1, "short")


def test_an_agent_that_leaves_hands_its_work_over(
    plane: Plane, agent: StartAgent, stage: Stage, receiver: Receiver, measured: Measured
) -> None:
    """SIGTERM: a run that is longer than the drain is no cancel; it goes on elsewhere, with its memory."""
    leaving = agent(WORK, AGENTFIELD_SHUTDOWN_TIMEOUT="1")
    fired = plane.look(plane.submit("work.hold", seconds=60.0, webhook=receiver.webhook))
    until("it to be held", (stage.folder / "held").exists, seconds=10)
    leaving.signal(signal.SIGTERM)
    told_at = time.monotonic()
    leaving.ended(within=15)
    agent(WORK)
    ended = plane.end_of(fired["execution_id"], within=NOTICED_SECONDS)
    measured("agent told to leave until its work is done elsewhere (drain 1 s)", time.monotonic() - told_at)

    assert (ended["status"], ended["attempt"], ended["result"]) == ("succeeded", 2, "resumed")
    assert (ended["run_id"], ended["failures"]) == (fired["run_id"], 0)
    assert told_once(plane, receiver, fired["execution_id"])
    assert "lease.released" in plane.event_types_of(fired["execution_id"])
