"""Memory against a control plane's double: committed, isolated, coalesced, and cheap for lists that grow."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from controlplane_sdk import Client, Context, LeaseLost, MemoryConflict, NotJson, RequestRefused, ScopeMissing
from controlplane_sdk.checkpoints import Committed, encoded
from sdk.python.tests.sdk_double import problem


def ops(double) -> list[dict[str, Any]]:
    return [op for body in double.said("/memory/write") for group in body["writes"] for op in group["ops"]]


async def test_a_growing_list_travels_as_what_was_added(double, make_agent, serving):
    """The article's loop costs O(n) bytes: one set, then appends with the length they expect."""
    app = make_agent()

    @app.reasoner
    async def grow(n: int) -> None:
        results: list[dict[str, Any]] = []
        for i in range(n):
            results.append({"item": i, "text": "é" * 50})
            await app.memory.set("results", results)

    async with serving(app):
        await double.report(double.offer("n.grow", {"n": 200}))
    sent = [op for op in ops(double) if op["key"] == "results"]

    assert [op["op"] for op in sent] == ["set"] + ["append"] * 199
    assert [op["expected_length"] for op in sent[1:]] == list(range(1, 200))
    assert len(double.memory["run", "run_1", "results"]) == 200
    assert sum(len(json.dumps(op)) for op in sent) < 200 * 600


@pytest.mark.parametrize(
    ("old", "new", "added"),
    [
        ([], [1], b"1"),
        ([1], [1, 2], b"2"),
        ([1], [1, 2, [3]], b"2,[3]"),
        ([1], [12, 3], None),
        ([1, 2], [1], None),
        ([1, 2], [1, 2], None),
        ([1, 2], [2, 2, 3], None),
        (["a"], ["a", "b"], b'"b"'),
        ([[1]], [[1, 2], 3], None),
        ([{"a": 1}], [{"a": 1, "b": 2}, 3], None),
    ],
)
def test_only_a_true_extension_is_an_append(old, new, added):
    """The beginning must be the very same elements, not just the same characters."""
    known = Committed.of(encoded(old), 1)

    assert known is not None
    assert known.added_by(encoded(new)) == added


async def test_somebody_elses_write_in_between_is_overwritten(double, make_agent, serving):
    """set() means the whole value, also where another writer changed the list and kept or changed its length."""
    app = make_agent()

    @app.reasoner
    async def write(other: list[int]) -> Any:
        await app.memory.set("k", [1, 2])
        app_side = ("run", "run_1", "k")
        double.memory[app_side] = other
        double.versions[app_side] += 1
        await app.memory.set("k", [1, 2, 3])
        return await app.memory.get("k")

    async with serving(app):
        longer = await double.report(double.offer("n.write", {"other": [7, 8, 9]}))
        same = await double.report(double.offer("n.write", {"other": [7, 8]}))

    assert longer["result"] == same["result"] == [1, 2, 3]


async def test_concurrent_executions_do_not_mix_their_memory(double, make_agent, serving):
    """Each execution in one process sees only its own run; many writes share a request."""
    app = make_agent()

    @app.reasoner
    async def count(ctx: Context) -> int:
        for _ in range(10):
            seen = await app.memory.get("n", 0)
            await asyncio.sleep(0)
            await app.memory.set_many({"n": seen + 1, "who": ctx.execution_id})
        assert await app.memory.get("who") == ctx.execution_id
        return await app.memory.get("n")

    async with serving(app):
        fences = [double.offer("n.count", run=f"run_{n}") for n in range(40)]
        reports = [await double.report(fence, 30) for fence in fences]
    batches = [len(body["writes"]) for body in double.said("/memory/write")]

    assert [report.get("result") for report in reports] == [10] * 40
    assert sum(batches) == 400
    assert len(batches) < 200


async def test_a_stale_write_raises_and_stops_the_attempt(double, make_agent, serving):
    """LeaseLost reaches the reasoner; even one that swallows it goes no further, and nothing is reported."""
    app = make_agent(heartbeat_seconds=30)
    seen = []
    ended = asyncio.Event()

    @app.reasoner
    async def write() -> None:
        try:
            await app.memory.set("k", 1)
        except LeaseLost:
            seen.append("lost")
        try:
            await asyncio.sleep(0)
            seen.append("went on")
        finally:
            ended.set()

    double.refuse["write"] = lambda _: problem(409, "lease_lost")
    async with serving(app):
        double.offer("n.write")
        await double.until(lambda: double.said("/memory/write"))
        await asyncio.wait_for(ended.wait(), 10)

    assert seen == ["lost"]
    assert not double.reports


async def test_writes_wait_for_the_control_plane_to_come_back(double, make_agent, serving):
    """An outage is a delay: lost answers and 503 are tried again and change nothing twice."""
    app = make_agent()

    @app.reasoner
    async def write() -> Any:
        for n in range(6):
            await app.memory.set("k", list(range(n)))
        await app.memory.append("log", "a")
        await app.memory.append("log", "b", "c")
        return [await app.memory.get("k"), await app.memory.get("log")]

    double.misbehave.extend(
        [("/write", how) for how in ["503", "lose the answer", "well"] + ["lose the answer", "well"] * 7]
    )
    async with serving(app):
        report = await double.report(double.offer("n.write"), 30)

    assert report["result"] == [[0, 1, 2, 3, 4], ["a", "b", "c"]]


async def test_one_bad_group_does_not_harm_the_others(double, make_agent, serving):
    """A request that is refused as a whole is sent again piece by piece."""
    app = make_agent()

    @app.reasoner
    async def write(value: int) -> str:
        await asyncio.gather(*(app.memory.set(f"k{n}", value) for n in range(5)))
        return "ok"

    def refuse(body: Any) -> Any:
        bad = any(op.get("value") == 13 for group in body["writes"] for op in group["ops"])
        return problem(413, "too_large") if bad else None

    double.refuse["write"] = refuse
    async with serving(app):
        fences = [double.offer("n.write", {"value": 10 + n}) for n in range(5)]
        reports = [await double.report(fence) for fence in fences]

    assert [report["status"] for report in reports] == ["succeeded"] * 3 + ["failed", "succeeded"]
    assert reports[3]["error_class"] == "RequestRefused"


async def test_appends_of_one_execution_keep_their_order_and_read_the_length_once(double, make_agent, serving):
    """Concurrent appends to one list come in the order they were called; others' appends are kept."""
    app = make_agent()

    @app.reasoner
    async def write() -> list[int]:
        lengths = await asyncio.gather(*(app.memory.append("k", n) for n in range(10)))
        double.memory["run", "run_1", "k"].append("other")
        await app.memory.append("k", 10)
        return lengths

    async with serving(app):
        report = await double.report(double.offer("n.write"))

    assert report["result"] == list(range(1, 11))
    assert double.memory["run", "run_1", "k"] == [*range(10), "other", 10]
    assert len(double.said("/memory/get")) == 1


async def test_scopes_and_accessors_name_their_place(double, make_agent, serving):
    """Session, actor, run and global memory are reached by accessor or by word."""
    app = make_agent()

    @app.reasoner
    async def write() -> Any:
        await app.memory.session("s-1").set("k", 1)
        await app.memory.actor("a-1").set("k", 2)
        await app.memory.workflow("run_x").set("k", 3)
        await app.memory.global_scope.set("k", 4)
        await app.memory.set("k", 5, scope="session")
        await app.memory.delete("gone")
        found = await app.memory.session("s-1").list("k")
        return [await app.memory.exists("k"), found[0].value]

    async with serving(app):
        report = await double.report(double.offer("n.write", session_key="own"))

    assert report["result"] == [False, 1]
    assert double.memory == {
        ("session", "s-1", "k"): 1,
        ("actor", "a-1", "k"): 2,
        ("run", "run_x", "k"): 3,
        ("global", "", "k"): 4,
        ("session", "own", "k"): 5,
    }


async def test_outside_an_execution_a_scope_is_needed(double):
    """Without an execution writing is unfenced and says whose memory it means."""
    async with Client(double.url) as client:
        with pytest.raises(ScopeMissing):
            await client.memory.set("k", 1)
        await client.memory.run("run_5").set("k", [1])
        await client.memory.run("run_5").append("k", 2)
        found = await client.memory.get("k", scope="run", scope_id="run_5")

    assert found == [1, 2]
    assert all("execution_id" not in group for body in double.said("/memory/write") for group in body["writes"])


async def test_values_that_are_not_json_are_refused_before_they_travel(double):
    """NaN and lone surrogates raise where they are written."""
    async with Client(double.url) as client:
        for value in (float("nan"), "\ud800", {"a": float("-inf")}):
            with pytest.raises(NotJson):
                await client.memory.global_scope.set("k", value)

    assert not double.said("/memory/write")


async def test_conflicts_are_errors_of_their_own(double):
    """Appending to what is no list says so."""
    double.refuse["write"] = lambda _: problem(409, "not_a_list")
    async with Client(double.url) as client:
        with pytest.raises(MemoryConflict):
            await client.memory.global_scope.append("k", 1)
        with pytest.raises(RequestRefused):
            await client.memory.global_scope.set("k", 1)


async def test_a_long_list_of_keys_is_read_in_pages(double):
    """list() gives everything, however much there is."""
    for n in range(2500):
        double.memory["global", "", f"k{n:05}"] = n
    double.memory["global", "", "other"] = 0
    async with Client(double.url) as client:
        found = await client.memory.global_scope.list("k")

    assert [entry.value for entry in found] == list(range(2500))
    assert len(double.said("/memory/list")) == 3
