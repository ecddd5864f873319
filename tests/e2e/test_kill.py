"""What dies may die: node, server and database, alone and together. Deadlines are part of the promise."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from controlplane.postgres.embedded import EmbeddedPostgres
from controlplane_sdk import Client, Handle
from tests.e2e.conftest import StartNode, execute
from tests.e2e.processes import DRAIN_SECONDS, LEASE_SECONDS, Plane, until
from tests.e2e.receiver import Receiver

ITEMS = [f"item {n}" for n in range(60)]
GRACE_SECONDS = 5.0
LONGER_THAN_A_LEASE = 1.5 * LEASE_SECONDS

# 60 items of 30 ms; every call of the model leaves a line in a file of its own, whatever becomes of the rest.
CORPUS = """
import asyncio, os
from pathlib import Path
from controlplane_sdk import Agent
from controlplane_sdk.logger import log_info

app = Agent("batch", heartbeat_seconds=0.5)
calls = Path(os.environ["CALLS"]).open("a", buffering=1)

@app.reasoner
async def process(items: list[str]) -> dict:
    done = await app.memory.get("done", default=0)
    results = await app.memory.get("results", default=[])
    for i in range(done, len(items)):
        print(items[i], file=calls)
        await asyncio.sleep(0.03)
        results.append(items[i].upper())
        await app.memory.set_many({"results": results, "done": i + 1})
        log_info(f"processed {i + 1}/{len(items)}")
    return {"processed": len(items), "results": results}

@app.reasoner
async def quick(n: int) -> int:
    return n

app.run()
"""


class Calls:
    """The calls that nodes made of the model, in a file that outlives them."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.env = {"CALLS": str(file)}

    def counted(self) -> Counter[str]:
        return Counter(self.file.read_text().splitlines()) if self.file.exists() else Counter()

    def await_some(self, count: int) -> None:
        until(f"{count} calls", lambda: self.counted().total() >= count, seconds=15)

    def repeated(self) -> int:
        return self.counted().total() - len(self.counted())


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    return Calls(tmp_path / "calls")


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    """Calls that are under way while the test goes on."""
    with ThreadPoolExecutor(8) as threads:
        yield threads


def test_a_killed_nodes_execution_goes_on_elsewhere(
    plane: Plane, node: StartNode, calls: Calls, measured: Callable[[str, float], None]
) -> None:
    """A node killed in the middle: within lease + 5 s another goes on from the last checkpoint."""
    first = node(CORPUS, **calls.env)
    id_ = plane.submit("batch.process", items=ITEMS)
    calls.await_some(10)
    node(CORPUS, **calls.env)
    first.kill()
    killed_at = time.monotonic()
    at_kill = calls.counted().total()
    until("another attempt", lambda: plane.look(id_)["attempt"] == 2, seconds=LEASE_SECONDS + GRACE_SECONDS)
    measured("node killed until its execution runs elsewhere", time.monotonic() - killed_at)
    ended = plane.end_of(id_, within=15)

    assert ended["result"] == {"processed": len(ITEMS), "results": [item.upper() for item in ITEMS]}
    assert calls.repeated() <= 1
    assert calls.counted().total() - at_kill <= len(ITEMS) - at_kill + 1
    assert plane.memory_of(ended["run_id"], "done") == len(ITEMS)
    assert plane.event_types_of(id_) == [
        "execution.queued",
        "execution.started",
        "lease.expired",
        "execution.started",
        "execution.completed",
    ]


@pytest.mark.parametrize("outage_seconds", [0.0, LONGER_THAN_A_LEASE], ids=["at-once", "longer-than-a-lease"])
def test_a_killed_server_takes_nothing_along(
    plane: Plane, node: StartNode, calls: Calls, measured: Callable[[str, float], None], outage_seconds: float
) -> None:
    """A server killed in the middle and started again: the node keeps its attempt, nothing is done twice."""
    node(CORPUS, **calls.env)
    id_ = plane.submit("batch.process", items=ITEMS)
    calls.await_some(10)
    plane.kill()
    time.sleep(outage_seconds)  # what is tested is an outage of this length
    measured("server started until it is ready", plane.restart())
    ended = plane.end_of(id_, within=20)

    assert (ended["status"], ended["attempt"]) == ("succeeded", 1)
    assert calls.counted() == Counter(ITEMS)
    assert plane.event_types_of(id_) == ["execution.queued", "execution.started", "execution.completed"]


@pytest.mark.parametrize("outage_seconds", [0.0, LONGER_THAN_A_LEASE], ids=["at-once", "longer-than-a-lease"])
def test_a_killed_database_takes_nothing_along(
    plane: Plane,
    node: StartNode,
    calls: Calls,
    postgres: EmbeddedPostgres,
    measured: Callable[[str, float], None],
    outage_seconds: float,
) -> None:
    """PostgreSQL killed in the middle and started again: no process restarts, no accepted submit is missing."""
    node(CORPUS, **calls.env)
    id_ = plane.submit("batch.process", items=ITEMS)
    calls.await_some(10)
    accepted = plane.submit("batch.quick", n=7)
    postgres.kill()
    time.sleep(outage_seconds)  # what is tested is an outage of this length
    started_at = time.monotonic()
    postgres.start()
    measured("database started until it has recovered", time.monotonic() - started_at)
    assert plane.end_of(accepted, within=15)["result"] == 7
    measured("database started until the next execution is done", time.monotonic() - started_at)
    ended = plane.end_of(id_, within=20)

    assert (ended["status"], ended["attempt"]) == ("succeeded", 1)
    assert calls.counted() == Counter(ITEMS)


def test_a_submit_waits_out_a_short_outage_of_the_database(
    plane: Plane, node: StartNode, calls: Calls, postgres: EmbeddedPostgres, beside: ThreadPoolExecutor
) -> None:
    """Submits made while PostgreSQL is away are accepted when it is back: 202, not 5xx."""
    node(CORPUS, **calls.env)
    assert plane.end_of(plane.submit("batch.quick", n=0), within=10)["result"] == 0
    postgres.kill()
    submits = [beside.submit(plane.submit, "batch.quick", n=n) for n in range(8)]
    time.sleep(1.0)  # what is tested is an outage of this length, and the recovery
    assert not any(submit.done() for submit in submits)
    postgres.start()
    ids = [submit.result(timeout=75) for submit in submits]

    assert [plane.end_of(id_, within=30)["result"] for id_ in ids] == list(range(8))


def test_all_three_may_die_in_one_run(
    plane: Plane, node: StartNode, calls: Calls, postgres: EmbeddedPostgres, receiver: Receiver
) -> None:
    """Node, server and database killed one after the other: one end, one webhook, at most one item done twice."""
    first = node(CORPUS, **calls.env)
    id_ = plane.submit("batch.process", items=ITEMS, webhook=receiver.webhook)
    calls.await_some(10)
    first.kill()
    node(CORPUS, **calls.env)
    calls.await_some(25)
    plane.kill()
    plane.restart()
    calls.await_some(40)
    postgres.kill()
    postgres.start()
    ended = plane.end_of(id_, within=20)
    until("the webhook", lambda: receiver.about(id_), seconds=10)

    assert ended["result"] == {"processed": len(ITEMS), "results": [item.upper() for item in ITEMS]}
    assert ended["attempt"] == 2
    assert calls.repeated() <= 1
    assert [heard.word for heard in receiver.about(id_)] == ["ok"]
    assert plane.event_types_of(id_).count("execution.completed") == 1


# Says who it is in memory and in its result. A process whose execution was taken over still tries to write.
STUBBORN = """
import asyncio, os
from pathlib import Path
from controlplane_sdk import Agent, Context, LeaseLost

app = Agent("stubborn", heartbeat_seconds=0.5)
me = os.environ["ME"]
go = Path(os.environ["GO"])

@app.reasoner
async def hold(context: Context) -> str:
    await app.memory.set("holder", me)
    Path(f"{me}.holds").touch()
    try:
        while not go.exists():
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        try:
            await app.memory.set("holder", f"late {me}")
        except LeaseLost:
            Path(f"{me}.refused").touch()
        return f"late {me}"
    return me

app.run()
"""


def test_a_process_that_slept_through_its_lease_changes_nothing(
    plane: Plane, node: StartNode, tmp_path: Path, receiver: Receiver
) -> None:
    """A node stopped for two leases and continued: its late writes are refused, the second node's result stands."""
    go = tmp_path / "go"
    first = node(STUBBORN, ME="first", GO=str(go))
    id_ = plane.submit("stubborn.hold", webhook=receiver.webhook)
    until("the first to hold it", (tmp_path / "first.holds").exists, seconds=10)
    node(STUBBORN, ME="second", GO=str(go))
    first.stop()
    stopped_at = time.monotonic()
    until("the second to hold it", (tmp_path / "second.holds").exists, seconds=LEASE_SECONDS + GRACE_SECONDS)
    time.sleep(max(0.0, stopped_at + 2 * LEASE_SECONDS - time.monotonic()))  # the sleep is what is tested
    first.cont()
    until("the first to be refused", (tmp_path / "first.refused").exists, seconds=10)
    run_id = plane.look(id_)["run_id"]
    assert plane.memory_of(run_id, "holder") == "second"
    assert _late_result(plane, id_) == (409, "lease_lost")
    go.touch()
    ended = plane.end_of(id_, within=10)
    until("the webhook", lambda: receiver.about(id_), seconds=10)

    assert (ended["attempt"], ended["result"]) == (2, "second")
    assert _late_result(plane, id_) == (409, "lease_lost")
    assert _late_write(plane, id_) == (409, "lease_lost")
    assert plane.memory_of(run_id, "holder") == "second"
    assert plane.event_types_of(id_).count("execution.completed") == 1
    assert [heard.body["result"] for heard in receiver.about(id_)] == ["second"]


@pytest.mark.parametrize("dies", ["killed", "stopped", "stopped before"])
def test_a_node_that_was_idle_for_long_dies_with_its_first_work(
    plane: Plane, node: StartNode, tmp_path: Path, dies: str, measured: Callable[[str, float], None]
) -> None:
    """Its session was renewed in its name, until it was handed something: another has it within lease + 5 s, as ever.

    Also where nobody noticed that it had stopped while it was idle, and its poll was still there to be handed work.
    """
    go = tmp_path / "go"
    first = node(STUBBORN, ME="first", GO=str(go))
    time.sleep(LONGER_THAN_A_LEASE)  # the sleep is what is tested
    if dies == "stopped before":
        first.stop()
    id_ = plane.submit("stubborn.hold")
    until("the first to be handed it", lambda: plane.look(id_)["attempt"] == 1, seconds=10)
    if dies != "stopped before":
        until("the first to hold it", (tmp_path / "first.holds").exists, seconds=10)
    handed_at = time.monotonic()
    if dies == "killed":
        first.kill()
    elif dies == "stopped":
        first.stop()
    node(STUBBORN, ME="second", GO=str(go))
    until("the second to hold it", (tmp_path / "second.holds").exists, seconds=LEASE_SECONDS + GRACE_SECONDS)
    measured(f"idle node {dies} until its first execution runs elsewhere", time.monotonic() - handed_at)
    go.touch()

    assert plane.end_of(id_, within=10)["attempt"] == 2
    assert plane.look(id_)["failures"] == 0


def _late_result(plane: Plane, id_: str) -> tuple[int, str]:
    """What the first process is answered when it reports its attempt now."""
    started = next(event for event in plane.events_of(id_) if event["type"] == "execution.started")
    session_id = started["data"]["session_id"]
    report = {"execution_id": id_, "attempt": 1, "status": "succeeded", "result": "late"}
    answer = plane.api.post(f"/sessions/{session_id}/results", json={"results": [report]})
    return answer.status_code, answer.json()["code"]


def _late_write(plane: Plane, id_: str) -> tuple[int, str]:
    """What the first process is answered when it writes memory now."""
    answer = plane.api.post(
        "/memory/set",
        json={"key": "holder", "data": "late"},
        headers={"X-Execution-ID": f"{id_}~1", "X-Run-ID": plane.look(id_)["run_id"]},
    )
    return answer.status_code, answer.json()["code"]


# Its lease is 30 s: whoever takes its work over sooner did not wait for that.
DRAINING = """
import asyncio
from pathlib import Path
from controlplane_sdk import Agent

app = Agent("draining", heartbeat_seconds=10, drain_seconds=1.5)

@app.reasoner
async def work(name: str, seconds: float) -> str:
    Path(f"{name}.begun").touch()
    await asyncio.sleep(seconds)
    return name

app.run()
"""


def test_a_node_that_is_told_to_leave_hands_its_work_over(
    plane: Plane, node: StartNode, tmp_path: Path, measured: Callable[[str, float], None]
) -> None:
    """SIGTERM: what can end in time ends here; the rest is taken by another node long before the lease is over."""
    first = node(DRAINING)
    short = plane.submit("draining.work", name="short", seconds=1.0)
    long = plane.submit("draining.work", name="long", seconds=4.0)
    until("both to begin", lambda: len(list(tmp_path.glob("*.begun"))) == 2, seconds=5)
    node(DRAINING)
    first.terminate()
    told_at = time.monotonic()
    assert first.ended(within=5) == 0
    until("another attempt", lambda: plane.look(long)["attempt"] == 2, seconds=2)
    measured("node told to leave until its work runs elsewhere (drain 1.5 s)", time.monotonic() - told_at)

    assert plane.end_of(short, within=2)["attempt"] == 1
    assert plane.end_of(long, within=10)["result"] == "long"
    assert plane.look(long)["failures"] == 0
    assert "lease.released" in plane.event_types_of(long)


def test_a_drain_outlives_the_server(plane: Plane, node: StartNode, tmp_path: Path) -> None:
    """A real process that drains runs on, and takes nothing new, through a crash of the server; a second one serves."""
    node(DRAINING)
    long = plane.submit("draining.work", name="long", seconds=3.0)
    until("it to begin", lambda: list(tmp_path.glob("long.begun")), seconds=5)
    told = plane.api.post("/nodes/draining/drain", json={"reason": "update"}).json()
    plane.kill()
    plane.restart()
    waits = plane.submit("draining.work", name="waits", seconds=0.0)
    assert plane.end_of(long, within=15)["attempt"] == 1
    held = plane.look(waits)["status"]
    why = plane.api.get(f"/executions/{waits}/explain").json()["code"]
    node(DRAINING)

    assert plane.end_of(waits, within=10)["result"] == "waits"
    assert (told["draining"], told["draining_running"]) == (1, 1)
    assert (held, why) == ("queued", "node_draining")


def test_a_server_that_is_told_to_leave_leaves(
    plane: Plane,
    node: StartNode,
    calls: Calls,
    beside: ThreadPoolExecutor,
    measured: Callable[[str, float], None],
) -> None:
    """SIGTERM with long polls, streams and callers waiting: gone within 3 s and the drain, and nothing is lost."""
    node(CORPUS, **calls.env)
    caller = beside.submit(plane.api.post, "/execute/batch.process", json={"input": {"items": ITEMS}})
    calls.await_some(5)
    [shown] = plane.api.get("/executions").json()["items"]
    waiting = beside.submit(plane.look, shown["execution_id"], wait_seconds=60)
    frames: list[str] = []
    stream = beside.submit(_read_stream, f"{plane.url}/api/ui/v1/executions/events", frames)
    until("the stream to begin", lambda: frames, seconds=5)
    plane.terminate()
    told_at = time.monotonic()
    assert plane.ended(within=3 + DRAIN_SECONDS) == 0
    measured("server told to leave until it is gone", time.monotonic() - told_at)
    answer = caller.result(timeout=1)
    assert (answer.status_code, answer.json()["execution_id"]) == (504, shown["execution_id"])
    assert waiting.result(timeout=1)["status"] == "running"
    stream.result(timeout=1)
    plane.restart()
    ended = plane.end_of(shown["execution_id"], within=15)

    assert (ended["status"], ended["attempt"]) == ("succeeded", 1)
    assert calls.counted() == Counter(ITEMS)


def _read_stream(url: str, frames: list[str]) -> None:
    with httpx.stream("GET", url, timeout=30) as response:
        frames += response.iter_lines()


async def test_a_stream_goes_on_where_the_killed_server_left_it(plane: Plane, node: StartNode, calls: Calls) -> None:
    """Who follows an execution through the death of the server hears of every event, once, in order."""
    node(CORPUS, **calls.env)
    async with Client(plane.url) as client:
        handle = await client.start("batch.process", items=ITEMS)
        following = asyncio.create_task(_follow(handle))
        await asyncio.to_thread(calls.await_some, 10)
        plane.kill()
        await asyncio.to_thread(plane.restart)
        heard = await asyncio.wait_for(following, 20)

    assert heard == [event["type"] for event in plane.events_of(handle.execution_id)]
    assert heard.count("execution.progress") > 2


async def _follow(handle: Handle) -> list[str]:
    return [event.data["event"] async for event in handle.events()]


def test_a_webhook_outlives_the_server_that_was_sending_it(
    plane: Plane, node: StartNode, calls: Calls, receiver: Receiver, database: str
) -> None:
    """A server killed while a receiver hangs: the next one sends it again, under the same webhook-id."""
    node(CORPUS, **calls.env)
    receiver.hold()
    id_ = plane.submit("batch.quick", n=1, webhook=receiver.webhook)
    until("the first try", lambda: receiver.heard, seconds=5)
    plane.kill()
    receiver.let_go()
    # The dead server's claim on the delivery lasts for 40 s; on the database's clock they pass now.
    asyncio.run(execute(database, f"alter database {name_of(database)} set controlplane.clock_offset = '1 minute'"))
    plane.restart()
    until("the second try", lambda: len(receiver.heard) == 2, seconds=5)
    first, second = receiver.heard

    assert first.webhook_id == second.webhook_id
    assert first.body == second.body
    assert second.word == "ok"
    deliveries = until("it to be settled", lambda: _settled(plane, id_), seconds=5)
    assert [attempt["outcome"] for attempt in deliveries[0]["attempts"]] == ["unknown", "delivered"]


def test_a_server_that_is_told_to_leave_ends_what_it_is_sending(
    plane: Plane, node: StartNode, calls: Calls, receiver: Receiver
) -> None:
    """SIGTERM while a receiver thinks: its answer is waited for and written down, and nobody sends it again."""
    node(CORPUS, **calls.env)
    receiver.hold()
    id_ = plane.submit("batch.quick", n=1, webhook=receiver.webhook)
    until("the first try", lambda: receiver.heard, seconds=5)
    plane.terminate()
    receiver.let_go()
    assert plane.ended(within=3 + DRAIN_SECONDS) == 0
    plane.restart()
    [delivery] = until("it to be settled", lambda: _settled(plane, id_), seconds=5)

    assert [attempt["outcome"] for attempt in delivery["attempts"]] == ["delivered"]
    assert len(receiver.heard) == 1


def _settled(plane: Plane, id_: str) -> list[dict[str, Any]]:
    deliveries = plane.api.get(f"/executions/{id_}/deliveries").json()["items"]
    return [one for one in deliveries if one["state"] == "delivered"]


def name_of(dsn: str) -> str:
    return dsn.partition("?")[0].rpartition("/")[2]
