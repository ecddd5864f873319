"""Steps, waits without a slot and fan-out, with real nodes that are killed. Side effects are lines in a file."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from controlplane_sdk import Client
from tests.e2e.conftest import NewDatabase, StartNode
from tests.e2e.processes import LEASE_SECONDS, Plane, Stage, until

SOON_SECONDS = 15.0
ITEMS = [f"item {n}" for n in range(12)]
STOPS_AT = 7
CHILDREN = 1_000

NODE = """
import asyncio, os, time
from pathlib import Path
from controlplane_sdk import Agent, Context

app = Agent(os.environ["NODE"], slots=int(os.environ.get("SLOTS", "1")), heartbeat_seconds=0.5)
calls = Path(os.environ["CALLS"]).open("a", buffering=1)
gate = Path(os.environ["GATE"])

async def summarise(item: str) -> str:
    if item == os.environ.get("STOPS_AT"):
        while not gate.exists():
            await asyncio.sleep(0.01)
    print(item, file=calls)
    return item.upper()

@app.reasoner
async def process(ctx: Context, items: list[str]) -> list[str]:
    return [await ctx.step(summarise, item) for item in items]

@app.reasoner
async def quick(n: int) -> int:
    return n

@app.reasoner(retries=0)
async def story(ctx: Context) -> list:
    print("began", file=calls)
    built = await ctx.step(lambda: print("built", file=calls) or "build 1", name="build")
    decision = await ctx.approve("Deploy build 1?", expires=3600, tell=lambda link: print(link, file=calls))
    when = await ctx.wait_for_event("deploy.window")
    await ctx.sleep(1.5)
    return [built, decision.decision, decision.feedback, when, ctx.attempt]

@app.reasoner
async def ask_briefly(ctx: Context) -> list:
    decision = await ctx.approve("Quick?", expires=1.2)
    return [decision.decision, decision.approved]

@app.reasoner
async def listen(ctx: Context) -> list:
    first = await ctx.wait_for_event("go")
    return [first, await ctx.wait_for_event("go"), ctx.attempt]

@app.reasoner
async def in_vain(ctx: Context) -> str:
    try:
        await ctx.wait_for_event("go", timeout=1.2)
    except TimeoutError:
        return f"timed out in attempt {ctx.attempt}"

@app.reasoner
def in_a_thread(ctx: Context) -> list:
    return [app.wait(ctx.step(time.time_ns)), app.wait(ctx.wait_for_event("go")), ctx.attempt]

@app.reasoner
async def beside(ctx: Context) -> list:
    return [*await asyncio.gather(ctx.wait_for_event("go"), app.call(f"{app.node_id}.quick", n=5)), ctx.attempt]

@app.reasoner
async def gated(n: int, gate: Path) -> int:
    while not gate.exists():
        await asyncio.sleep(0.02)
    return 2 * n

@app.reasoner
async def fan(ctx: Context, count: int, gate: Path) -> list:
    print("began", ctx.execution_id, file=calls)
    return [ctx.attempt, sum(await gated.map({"n": n, "gate": gate} for n in range(count)))]

@app.reasoner
async def window(ctx: Context, count: int, at_once: int) -> list:
    return [ctx.attempt, await quick.map(range(count), at_once=at_once)]

@app.reasoner(retries=1, retry_delay=0.1)
async def flaky(n: int, gate: Path) -> int:
    await gated(n, gate)
    if n == 3:
        raise ValueError(f"no {n}")
    return n

@app.reasoner
async def with_errors(gate: Path) -> list:
    found = await flaky.map([{"n": n, "gate": gate} for n in (1, 3)], return_exceptions=True)
    return [one if isinstance(one, int) else type(one).__name__ for one in found]

@app.reasoner(retries=1, retry_delay=0.1)
async def fails_with_its_child(ctx: Context) -> None:
    print("began", ctx.execution_id, file=calls)
    await app.call(f"{app.node_id}.once", key=ctx.execution_id)

@app.reasoner
async def once(key: str) -> str:
    print("child", key, file=calls)
    raise ValueError("the first child fails")

app.run()
"""


class Side:
    """What a test's node leaves behind, and the gate that it waits at."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.file = folder / f"{name}.calls"
        self.gate = folder / f"{name}.gate"
        self.env = {"NODE": name, "CALLS": str(self.file), "GATE": str(self.gate)}

    def link(self) -> str:
        """The address that the people who decide were told."""
        return next(line for line in self.counted() if line.startswith("http"))

    def counted(self) -> Counter[str]:
        return Counter(self.file.read_text().splitlines()) if self.file.exists() else Counter()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One server for all of these tests; each has nodes of its own, and may kill them."""
    with Stage(tmp_path_factory.mktemp("waiting")) as stage:
        yield stage


@pytest.fixture(scope="module")
def plane(stage: Stage, new_database: NewDatabase) -> Plane:
    return stage.plane(new_database())


@pytest.fixture
def side(request: pytest.FixtureRequest, stage: Stage) -> Side:
    """A name of this test's own."""
    return Side(stage.folder, request.node.name.removeprefix("test_").partition("[")[0][:60])


@pytest.fixture
def node(stage: Stage, plane: Plane, side: Side) -> Iterator[StartNode]:
    """Starts a process of this test's node; what is left of them at the end is killed."""
    started: list[Any] = []

    def start(**env: str) -> Any:
        started.append(partial(stage.node, plane, NODE, name=f"{side.name}-{len(started)}")(**side.env, **env))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture(scope="module")
def shared(stage: Stage, plane: Plane) -> Side:
    """What a process leaves behind that serves all tests which kill nothing."""
    shared = Side(stage.folder, "shared")
    stage.node(plane, NODE, name=shared.name, SLOTS="64", **shared.env)
    return shared


def waits(plane: Plane, id_: str, reason: str) -> dict[str, Any]:
    """The execution, once it waits for this reason without a process."""

    def look() -> dict[str, Any] | None:
        shown = plane.look(id_)
        return shown if (shown["status"], shown.get("status_reason")) == ("waiting", reason) else None

    return until(f"{id_} to wait: {reason}", look, seconds=SOON_SECONDS)  # type: ignore[return-value]


def signal(plane: Plane, id_: str, event: str, payload: Any) -> bool:
    answer = plane.api.post(f"/executions/{id_}/signals/{event}", json=payload)
    assert answer.status_code == 202, answer.text
    return bool(answer.json()["delivered"])


def steps_of(plane: Plane, id_: str) -> list[dict[str, Any]]:
    return list(plane.api.get(f"/executions/{id_}/steps", params={"limit": 1000}).json()["steps"])


def test_a_killed_node_repeats_no_step(plane: Plane, node: StartNode, side: Side) -> None:
    """The seed's loop in steps: killed in the middle of one, the next attempt repeats nothing that was done."""
    first = node(STOPS_AT=ITEMS[STOPS_AT])
    id_ = plane.submit(f"{side.name}.process", items=ITEMS)
    until("the steps before the gate", lambda: len(steps_of(plane, id_)) == STOPS_AT, seconds=SOON_SECONDS)
    first.kill()
    side.gate.touch()
    node()
    ended = plane.end_of(id_, within=LEASE_SECONDS + SOON_SECONDS)

    assert ended["result"] == [item.upper() for item in ITEMS]
    assert ended["attempt"] == 2
    assert side.counted() == Counter(ITEMS)


def test_a_story_in_one_slot(plane: Plane, node: StartNode, side: Side) -> None:
    """Approval by a link, event and sleep, each without the slot, on whichever process is there; steps done once."""
    first = node()
    id_ = plane.submit(f"{side.name}.story")
    waits(plane, id_, "waiting_for_approval")
    meanwhile = plane.end_of(plane.submit(f"{side.name}.quick", n=1), within=SOON_SECONDS)
    first.kill()
    link = side.link()
    page = httpx.get(link)
    decided = httpx.post(link, data={"decision": "approved", "feedback": "fine"})
    node()
    waits(plane, id_, "waiting_for_event")
    delivered = signal(plane, id_, "deploy.window", {"at": "noon"})
    waits(plane, id_, "sleeping")
    ended = plane.end_of(id_, within=SOON_SECONDS)

    assert (meanwhile["status"], delivered) == ("succeeded", True)
    assert (page.status_code, "Deploy build 1?" in page.text, decided.status_code) == (200, True, 200)
    assert ended["result"] == ["build 1", "approved", "fine", {"at": "noon"}, 4]
    assert side.counted() == Counter({"began": 4, "built": 1, link: 1})
    assert "lease.expired" not in plane.event_types_of(id_)


def test_signals_that_come_before_the_wait(plane: Plane, shared: Side) -> None:
    """They are kept, in order, and the execution never has to wait."""
    body = {"input": {}, "delay_seconds": 1.0}
    id_ = plane.api.post(f"/execute/async/{shared.name}.listen", json=body).json()["execution_id"]
    delivered = [signal(plane, id_, "go", n) for n in (1, 2)]
    ended = plane.end_of(id_, within=SOON_SECONDS)

    assert (delivered, ended["result"]) == ([False, False], [1, 2, 1])


def test_an_event_that_does_not_come(plane: Plane, shared: Side) -> None:
    """The wait ends by the clock, without a process."""
    id_ = plane.submit(f"{shared.name}.in_vain")
    waits(plane, id_, "waiting_for_event")

    assert plane.end_of(id_, within=SOON_SECONDS)["result"] == "timed out in attempt 2"


def test_a_question_that_nobody_answers(plane: Plane, shared: Side) -> None:
    """It expires, and the execution is told so."""
    id_ = plane.submit(f"{shared.name}.ask_briefly")

    assert plane.end_of(id_, within=SOON_SECONDS)["result"] == ["expired", False]


@pytest.mark.parametrize("reasoner", ["in_a_thread", "beside"])
def test_a_wait_that_stays_keeps_its_lease(plane: Plane, node: StartNode, side: Side, reasoner: str) -> None:
    """In a thread, or beside other work: one attempt, longer than a lease, and the one slot is free."""
    node()
    id_ = plane.submit(f"{side.name}.{reasoner}")
    until("the wait to begin", lambda: any(one["kind"] == "event" for one in steps_of(plane, id_)), seconds=10)
    time.sleep(1.5 * LEASE_SECONDS)
    quick = plane.end_of(plane.submit(f"{side.name}.quick", n=1), within=SOON_SECONDS)
    signal(plane, id_, "go", "now")
    ended = plane.end_of(id_, within=SOON_SECONDS)

    assert quick["result"] == 1
    assert "now" in ended["result"]
    assert ended["result"][-1] == 1


def test_a_thousand_children_resume_their_parent_once(
    plane: Plane, shared: Side, measured: Callable[[str, float], None]
) -> None:
    """One request starts them, the parent has no process meanwhile, and is run again when the last has ended."""
    began = time.monotonic()
    gate = shared.file.with_suffix(".thousand")
    id_ = plane.submit(f"{shared.name}.fan", count=CHILDREN, gate=str(gate))
    waits(plane, id_, "awaiting_child")
    measured("1,000 children started, parent without a process", time.monotonic() - began)
    opened = time.monotonic()
    gate.touch()
    ended = plane.end_of(id_, within=60)
    measured("1,000 children run and their parent resumed", time.monotonic() - opened)

    assert ended["result"] == [2, CHILDREN * (CHILDREN - 1)]
    assert shared.counted()[f"began {id_}"] == 2
    assert plane.event_types_of(id_).count("execution.started") == 2
    assert Counter(one["status"] for one in steps_of(plane, id_)) == Counter(done=CHILDREN)


def test_a_killed_server_loses_no_end_of_a_child(plane: Plane, node: StartNode, side: Side) -> None:
    """Killed while children end: their parent is still resumed, and once."""
    node(SLOTS="8")
    id_ = plane.submit(f"{side.name}.fan", count=200, gate=str(side.gate))
    waits(plane, id_, "awaiting_child")
    side.gate.touch()
    until("some ends", lambda: ended_steps(plane, id_) >= 20, seconds=30)
    plane.kill()
    plane.restart()
    ended = plane.end_of(id_, within=60)

    assert ended["result"] == [2, 200 * 199]
    assert side.counted() == Counter({f"began {id_}": 2})
    assert plane.event_types_of(id_).count("execution.woken") == 1


def ended_steps(plane: Plane, id_: str) -> int:
    return sum(one["status"] == "done" for one in steps_of(plane, id_))


def test_a_window_of_children(plane: Plane, shared: Side, measured: Callable[[str, float], None]) -> None:
    """`at_once` stays in the process, with its slot free, and answers in order."""
    began = time.monotonic()
    id_ = plane.submit(f"{shared.name}.window", count=300, at_once=50)
    ended = plane.end_of(id_, within=60)
    measured("300 children, 50 at once", time.monotonic() - began)

    assert ended["result"] == [1, list(range(300))]


def test_a_killed_parent_finds_its_children(plane: Plane, node: StartNode, side: Side) -> None:
    """Killed while it waits in its process: the next attempt starts no child again."""
    first = node(SLOTS="4")
    id_ = plane.submit(f"{side.name}.beside")
    until("the child", lambda: {one["kind"] for one in steps_of(plane, id_)} == {"event", "call"}, seconds=SOON_SECONDS)
    first.kill()
    node()
    until("the second attempt", lambda: plane.look(id_)["attempt"] == 2, seconds=LEASE_SECONDS + SOON_SECONDS)
    signal(plane, id_, "go", "again")
    ended = plane.end_of(id_, within=SOON_SECONDS)
    run = plane.api.get("/executions", params={"run_id": ended["run_id"]}).json()["items"]

    assert ended["result"] == ["again", 5, 2]
    assert len(run) == 2


def test_errors_of_children_may_be_results(plane: Plane, shared: Side) -> None:
    """What failed while its parent waited stands in its place, after its own retries, and is not called again."""
    gate = shared.file.with_suffix(".errors")
    id_ = plane.submit(f"{shared.name}.with_errors", gate=str(gate))
    waits(plane, id_, "awaiting_child")
    gate.touch()
    ended = plane.end_of(id_, within=SOON_SECONDS)
    run = plane.api.get("/executions", params={"run_id": ended["run_id"]}).json()["items"]

    assert (ended["result"], ended["attempt"]) == ([1, "ExecutionFailed"], 2)
    assert len(run) == 3


def test_a_retry_calls_a_failed_child_again(plane: Plane, shared: Side) -> None:
    """The second try of a parent that failed with its child has a new child."""
    id_ = plane.submit(f"{shared.name}.fails_with_its_child")
    ended = plane.end_of(id_, within=SOON_SECONDS)

    assert ended["status"] == "failed"
    assert (shared.counted()[f"began {id_}"], shared.counted()[f"child {id_}"]) == (2, 2)


async def test_a_caller_signals_and_decides(plane: Plane, shared: Side) -> None:
    """By the client of the SDK: steps, approval, decision and signal."""
    async with Client(plane.url) as client:
        handle = await client.start(f"{shared.name}.story")
        await asyncio.to_thread(waits, plane, handle.execution_id, "waiting_for_approval")
        asked = await handle.approval()
        decisions = [await handle.approve("yes", response={"n": 1}), await handle.reject("too late")]
        sent = await handle.signal("deploy.window", 3, idempotency_key="k")
        again = await client.signal(handle.execution_id, "deploy.window", 3, idempotency_key="k")
        result = await handle.result(timeout=SOON_SECONDS)
        steps = await handle.steps()

    assert (asked.status, decisions) == ("pending", ["approved", "approved"])
    assert sent.signal_id == again.signal_id
    assert result[:4] == ["build 1", "approved", "yes", 3]
    assert [one.name for one in steps] == ["build", "approval", "approval > tell", "event:deploy.window", "sleep"]
    assert steps[1].value == {"decision": "approved", "feedback": "yes", "response": {"n": 1}}


async def test_a_cancelled_wait_is_cancelled_at_once(plane: Plane, shared: Side) -> None:
    """Nobody holds it, so nobody has to be told."""
    async with Client(plane.url) as client:
        handle = await client.start(f"{shared.name}.listen")
        await asyncio.to_thread(waits, plane, handle.execution_id, "waiting_for_event")
        await handle.cancel()
        status = (await handle.status()).status

    assert status == "cancelled"
