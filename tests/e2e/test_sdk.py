"""The Python SDK against a real server: what a reasoner and a caller may rely on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controlplane_sdk import (
    Client,
    ExecutionCancelled,
    ExecutionFailed,
    ExecutionTimeout,
    Handle,
    NotFound,
    Tick,
    webhook,
)
from tests.e2e.conftest import NewDatabase
from tests.e2e.processes import LEASE_SECONDS, Node, Plane, Stage, until
from tests.e2e.receiver import Receiver

AGENT = Path(__file__).parent / "sdk_agent.py"
LONGER_THAN_A_LEASE = 1.5 * LEASE_SECONDS
SOON_SECONDS = 10.0

# One slot, and executions that wait for others of their kind.
NARROW = """
import asyncio
from controlplane_sdk import Agent

app = Agent("narrow", slots=1)

@app.reasoner
async def fib(n: int) -> int:
    if n < 2:
        return n
    return sum(await asyncio.gather(app.call("narrow.fib", n=n - 1), app.call("narrow.fib", n=n - 2)))

app.run()
"""


# Says how many of it ran at once at most.
LIMITED = """
import asyncio
from controlplane_sdk import Agent

app = Agent("limited")
running = most = 0

@app.reasoner(concurrency=2)
async def busy() -> int:
    global running, most
    running += 1
    most = max(most, running)
    await asyncio.sleep(0.05)
    running -= 1
    return most

app.run()
"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One server and one node for all of these tests: none of them kills anything."""
    with Stage(tmp_path_factory.mktemp("sdk")) as stage:
        yield stage


@pytest.fixture(scope="module")
def plane(stage: Stage, new_database: NewDatabase) -> Plane:
    return stage.plane(new_database())


@pytest.fixture(scope="module", autouse=True)
def serving(stage: Stage, plane: Plane) -> Node:
    """The node whose reasoners these tests call."""
    return stage.node(plane, AGENT.read_text(), name="sdk_agent")


@pytest.fixture
async def client(plane: Plane) -> AsyncIterator[Client]:
    async with Client(plane.url) as client:
        yield client


async def test_fifty_at_once_do_not_mix_their_memory(client: Client) -> None:
    """Executions that run side by side in one process each have the memory of their own run."""
    handles = [await client.start("sdk.remember", n=n) for n in range(50)]
    results = await asyncio.gather(*(handle.result(timeout=30) for handle in handles))

    assert results == [[n, n, n] for n in range(50)]


@pytest.mark.parametrize("reasoner", ["block_a_thread", "block_the_loop"])
async def test_a_blocking_reasoner_keeps_its_lease(client: Client, reasoner: str) -> None:
    """`time.sleep` for longer than the lease, in a thread and on the event loop: one attempt."""
    handle = await client.start(f"sdk.{reasoner}", seconds=LONGER_THAN_A_LEASE)

    assert await handle.result(timeout=LONGER_THAN_A_LEASE + SOON_SECONDS) == "awake"
    assert (await handle.status()).attempt == 1


async def test_a_schedule_runs_a_reasoner(client: Client) -> None:
    """By itself at its time, and at once when it is told to."""
    at = datetime.now(UTC) + timedelta(seconds=0.5)
    await client.schedules.create("soon", "sdk.number", {"n": 7}, run_at=at, overlap="queue", replace=True)
    by_hand = await client.schedules.run("soon")

    async with asyncio.timeout(SOON_SECONDS):
        while not (planned := await planned_ticks(client)):  # noqa: ASYNC110 - a tick has no event of its own
            await asyncio.sleep(0.05)

    assert await by_hand.result(timeout=SOON_SECONDS) == 7
    assert await client.execution(planned[0].execution_id or "").result(timeout=SOON_SECONDS) == 7
    await client.schedules.delete("soon")


async def test_a_run_as_a_program_sees_it(client: Client) -> None:
    """How far it is, its tree, its place in the list; nothing is left to cancel."""
    handle = await client.start("sdk.parent", n=7)
    await handle.result(timeout=SOON_SECONDS)
    run = await client.runs.get(handle.run_id)
    root, child = await client.runs.tree(handle.run_id)
    page = await client.runs.list(target="sdk.parent")

    assert (run.status, run.finished, run.executions, run.counts) == ("succeeded", True, 2, {"succeeded": 2})
    assert (root.execution_id, child.parent_execution_id) == (handle.execution_id, handle.execution_id)
    assert handle.run_id in [one.run_id for one in page.items]
    assert await client.runs.cancel(handle.run_id) == 0


async def test_a_silent_reasoner_is_stopped(client: Client, stage: Stage) -> None:
    """It ends as timed out and is told; one that says how far it is may take longer than it may be silent."""
    silent, talking = await client.start("sdk.quiet", says=0), await client.start("sdk.quiet", says=5)

    assert await talking.result(timeout=SOON_SECONDS) == "said"
    with pytest.raises(ExecutionTimeout):
        await silent.result(timeout=SOON_SECONDS)
    assert (await silent.status()).status_reason == "heartbeat"
    until("the reasoner to be told", (stage.folder / f"{silent.execution_id}.told").exists, seconds=SOON_SECONDS)


async def planned_ticks(client: Client) -> list[Tick]:
    return [one for one in (await client.schedules.ticks("soon")).items if not one.by_hand and one.execution_id]


async def test_a_bulk_pauses_counts_and_cancels(client: Client) -> None:
    """What waits for later is held back, let go and cancelled, as far as the filter reaches."""
    handles = [await client.start("sdk.number", n=n, delay_seconds=3600, session_id="bulk") for n in range(3)]
    counted = await client.bulk.dry_run("cancel", session_key="bulk")
    done = [
        await client.bulk.wait((await begin(session_key="bulk")).bulk_id, timeout=SOON_SECONDS)
        for begin in (client.bulk.pause, client.bulk.resume)
    ]
    last = await client.bulk.cancel(ids=[one.execution_id for one in handles], reason="enough")
    last = await client.bulk.wait(last.bulk_id, timeout=SOON_SECONDS)

    assert (counted.matched, counted.exact) == (3, True)
    assert [(one.action, one.state, one.done) for one in (*done, last)] == [
        ("pause", "done", 3),
        ("resume", "done", 3),
        ("cancel", "done", 3),
    ]
    assert {(await one.status()).status for one in handles} == {"cancelled"}
    assert [one.bulk_id for one in (await client.bulk.list(limit=1)).items] == [last.bulk_id]


async def test_a_child_belongs_to_the_run_of_its_parent(client: Client, plane: Plane) -> None:
    """`app.call` starts an execution under this one, in the same run, with the same memory."""
    handle = await client.start("sdk.parent", n=7)
    result = await handle.result(timeout=SOON_SECONDS)

    assert result["answer"] == 8
    assert result["child"] == {"parent": handle.execution_id, "root": handle.execution_id, "run": handle.run_id, "n": 7}
    assert {one.target for one in (await client.list(run_id=handle.run_id)).items} == {"sdk.parent", "sdk.child"}


async def test_a_failed_child_fails_its_parent_with_the_reason(client: Client) -> None:
    """What `app.call` raises says which execution failed and why."""
    with pytest.raises(ExecutionFailed, match=r"sdk\.hopeless.*no use") as caught:
        await (await client.start("sdk.ask_in_vain")).result(timeout=SOON_SECONDS)

    assert caught.value.error_class == "ExecutionFailed"
    assert caught.value.details["error_class"] == "Fatal"


async def test_who_waits_for_a_child_gives_its_slot_away(stage: Stage, plane: Plane, client: Client) -> None:
    """A node with one slot runs a tree of executions that all wait for one another."""
    stage.node(plane, NARROW)

    assert await (await client.start("narrow.fib", n=5)).result(timeout=20) == 5


async def test_failures_are_tried_again_as_the_policy_says(client: Client, plane: Plane) -> None:
    """`retries=2` makes three attempts; the events tell why each of the first two failed."""
    handle = await client.start("sdk.flaky", failures=2)
    assert await handle.result(timeout=SOON_SECONDS) == 3
    why = [event["data"] for event in plane.events_of(handle.execution_id) if event["type"] == "execution.retrying"]

    assert [one["error"] for one in why] == ["failure 1", "failure 2"]
    assert {one["error_class"] for one in why} == {"ValueError"}
    assert all("failure" in one["traceback"] for one in why)


async def test_the_last_failure_is_the_outcome(client: Client) -> None:
    """When every attempt failed the execution has, with the words of the last."""
    handle = await client.start("sdk.flaky", failures=9)
    with pytest.raises(ExecutionFailed, match="failure 3") as caught:
        await handle.result(timeout=SOON_SECONDS)

    assert (caught.value.attempts, caught.value.error_class) == (3, "ValueError")


async def test_a_caller_may_ask_for_other_retries(client: Client) -> None:
    """`retries` at the start overrules the reasoner's."""
    handle = await client.start("sdk.flaky", {"failures": 9}, retries=0)
    with pytest.raises(ExecutionFailed):
        await handle.result(timeout=SOON_SECONDS)

    assert (await handle.status()).attempt == 1


@pytest.mark.parametrize(
    ("reasoner", "arguments", "error_class", "words"),
    [
        ("hopeless", {}, "Fatal", "no use"),
        ("typed", {"items": "abc", "other": 1}, "InvalidInput", "items"),
        ("typed", {}, "InvalidInput", "items"),
        ("unwritable", {}, "ResultInvalid", "NaN"),
    ],
)
async def test_what_will_never_work_is_tried_once(
    client: Client, reasoner: str, arguments: dict[str, object], error_class: str, words: str
) -> None:
    """Fatal errors, arguments that do not fit and results that are not JSON spend no retry."""
    handle = await client.start(f"sdk.{reasoner}", arguments)
    with pytest.raises(ExecutionFailed, match=words) as caught:
        await handle.result(timeout=SOON_SECONDS)

    assert (caught.value.error_class, caught.value.attempts) == (error_class, 1)


async def test_details_of_a_failure_reach_the_caller(client: Client) -> None:
    """`Fatal(details=…)` is there for the program that asked."""
    with pytest.raises(ExecutionFailed) as caught:
        await client.call("sdk.hopeless")

    assert caught.value.details == {"why": "it never works"}


async def test_retryable_says_when(client: Client) -> None:
    """`Retryable(after_seconds=…)` overrules the policy's delay of a minute."""
    began = time.monotonic()
    assert await (await client.start("sdk.patient")).result(timeout=SOON_SECONDS) == 2

    assert time.monotonic() - began >= 0.5


@pytest.mark.parametrize("reasoner", ["long", "long_thread"])
async def test_cancel_reaches_the_reasoner(client: Client, stage: Stage, reasoner: str) -> None:
    """A cancel while it runs: CancelledError where it awaits, `context.cancelled` in a thread; then it is cancelled."""
    handle = await client.start(f"sdk.{reasoner}")
    begun(stage, handle.execution_id)
    assert await handle.cancel("enough")
    with pytest.raises(ExecutionCancelled, match="enough"):
        await handle.result(timeout=3)

    assert (await handle.status()).status == "cancelled"
    told(stage, handle.execution_id)
    assert not await handle.cancel()


async def test_a_timeout_ends_it_and_the_node_is_told(client: Client, stage: Stage) -> None:
    """`timeout=1` bounds one attempt: the status is timeout, and the reasoner stops."""
    handle = await client.start("sdk.endless")
    with pytest.raises(ExecutionTimeout):
        await handle.result(timeout=5)

    assert (await handle.status()).status == "timeout"
    told(stage, handle.execution_id)


async def test_notes_and_progress(client: Client, plane: Plane) -> None:
    """A note is kept with its tags, the newest progress shows."""
    handle = await client.start("sdk.speak")
    await handle.result(timeout=SOON_SECONDS)
    [note] = plane.api.get(f"/executions/{handle.execution_id}/notes").json()["notes"]
    progress = (await handle.status()).progress

    assert (note["message"], note["tags"]) == ("a remark", ["people", "test"])
    assert progress is not None
    assert (progress["done"], progress["total"], progress["message"]) == (3, 10, "a third or so")


async def test_memory_of_session_actor_and_everybody(client: Client) -> None:
    """Each scope keeps its own value, and outlives the execution."""
    await (await client.start("sdk.scopes", value=1, session_id="s1", actor_id="a1")).result(timeout=SOON_SECONDS)

    assert await client.memory.session("s1").get("value") == 1
    assert await client.memory.actor("a1").get("value") == 2
    assert await client.memory.global_scope.get("sdk.value") == 3
    assert await client.memory.session("another").get("value") is None


async def test_memory_without_its_scope_says_so(client: Client) -> None:
    """A reasoner that uses the memory of a session it was not started in fails with that reason."""
    with pytest.raises(ExecutionFailed, match="session scope needs an id"):
        await client.call("sdk.scopes", value=1)


async def test_many_values_are_stored_together_or_not_at_all(client: Client) -> None:
    """`set_many` with one key that is refused stores none."""
    good = await client.start("sdk.both_or_none", key="second")
    bad = await client.start("sdk.both_or_none", key="x" * 600)
    await good.result(timeout=SOON_SECONDS)
    with pytest.raises(ExecutionFailed, match="512"):
        await bad.result(timeout=SOON_SECONDS)

    assert [entry.key for entry in await client.memory.run(good.run_id).list()] == ["first", "second"]
    assert await client.memory.run(bad.run_id).list() == []


async def test_appends_of_many_executions_all_arrive(client: Client) -> None:
    """Thirty executions append to one list at once: each number is there once."""
    handles = [await client.start("sdk.add", n=n) for n in range(30)]
    lengths = await asyncio.gather(*(handle.result(timeout=20) for handle in handles))

    assert sorted(lengths) == list(range(1, 31))
    assert sorted(await client.memory.session("a list").get("numbers")) == list(range(30))


async def test_events_tell_the_story_to_its_end(client: Client) -> None:
    """`handle.events()` begins at the beginning and ends with the execution, also when that is over already."""
    handle = await client.start("sdk.flaky", failures=1)
    live = [event.type async for event in handle.events() if event.type != "execution_updated"]
    again = [event.type async for event in handle.events() if event.type != "execution_updated"]

    assert live == [
        "execution_created",
        "execution_started",
        "execution_retried",
        "execution_started",
        "execution_completed",
    ]
    assert again == live


async def test_an_idempotency_key_starts_once(client: Client) -> None:
    """The same start under the same key is the same execution."""
    first = await client.start("sdk.number", n=1, idempotency_key="once")
    second = await client.start("sdk.number", n=1, idempotency_key="once")

    assert second.execution_id == first.execution_id


async def test_an_unknown_target_names_the_nearest(client: Client) -> None:
    """A typing error is answered with what was probably meant."""
    with pytest.raises(NotFound, match=r"sdk\.number"):
        await client.start("sdk.numbr")


async def test_the_sdk_verifies_what_the_server_signed(client: Client) -> None:
    """`webhook.verify` and `verify_standard` take a real delivery, and no changed one."""
    with Receiver() as receiver:
        handle = await client.start("sdk.number", n=1, webhook=receiver.webhook)
        await handle.result(timeout=SOON_SECONDS)
        [heard] = until("the webhook", lambda: receiver.about(handle.execution_id), seconds=SOON_SECONDS)
    header, secret = heard.headers["X-AgentField-Signature"], receiver.webhook["secret"]

    assert webhook.verify(heard.raw_body, header, secret)
    assert webhook.verify_standard(heard.raw_body, heard.headers, secret)
    assert not webhook.verify(heard.raw_body + b" ", header, secret)
    assert not webhook.verify_standard(heard.raw_body, heard.headers, "another")


async def test_five_hundred_through_one_node(client: Client, stage: Stage) -> None:
    """Five hundred executions through 64 slots: every result, and never more than 64 at once."""
    began = time.monotonic()
    handles = await asyncio.gather(*(client.start("sdk.number", n=n) for n in range(500)))
    results = await asyncio.gather(*(handle.result(timeout=60) for handle in handles))
    print(f"measured: 500 executions through one node: {time.monotonic() - began:.1f} s")

    assert results == list(range(500))
    assert int((stage.folder / "most").read_text()) <= 64


def begun(stage: Stage, execution_id: str) -> None:
    until("it to begin", (stage.folder / f"{execution_id}.begun").exists, seconds=SOON_SECONDS)


def told(stage: Stage, execution_id: str) -> None:
    until("the reasoner to be told", (stage.folder / f"{execution_id}.told").exists, seconds=3)


async def test_a_reasoner_says_how_many_of_it_may_run(client: Client, stage: Stage, plane: Plane) -> None:
    """Of eight that are asked for at once, two run at once, in a process that has room for all."""
    stage.node(plane, LIMITED, name="limited")
    limit = await client.limits.get("reasoner:limited.busy")
    handles = await client.submit_many([{"target": "limited.busy"}] * 8)
    found = [await handle.result() for handle in handles if isinstance(handle, Handle)]

    assert limit.concurrency_max == 2
    assert (len(found), max(found)) == (8, 2)


async def test_a_limit_is_set_seen_and_deleted(client: Client) -> None:
    """What it holds back goes on when it is gone."""
    made = await client.limits.set("key:tests", concurrency_max=0)
    handle = await client.start("sdk.number", n=7, concurrency_key="tests", fairness_key="f")
    [listed] = [one for one in (await client.limits.list()).items if one.key == "key:tests"]
    why = await handle.explain()
    await client.limits.delete("key:tests")

    assert (made.concurrency_max, listed.blocked, why.code) == (0, 1, "blocked")
    assert await handle.result() == 7
    with pytest.raises(NotFound):
        await client.limits.get("key:tests")
