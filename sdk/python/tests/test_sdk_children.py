"""Calls of children and fan-out, against a control plane's double."""

from __future__ import annotations

import asyncio

import pytest

from controlplane_sdk import Context, ExecutionFailed, RequestRefused
from sdk.python.tests.sdk_double import problem
from sdk.python.tests.test_sdk_durable import again


def finish_all(double, **outcome):
    """Every child has ended, with the number that it was given doubled."""
    for steps in double.steps.values():
        for step in steps.values():
            if step["kind"] == "call" and double.executions[step["child_id"]]["status"] == "queued":
                said = {"status": "succeeded", "result": 2 * step["input"].get("n", 0)} | outcome
                double.finish(step["child_id"], **said)


async def finishing(double, *, at_most=10**9):
    """End the children as they come; the most that were open at once."""
    most = 0
    while True:
        open_ = [one for one in double.executions.values() if one["status"] == "queued"]
        most = max(most, len(open_))
        finish_all(double)
        if sum(one["status"] == "succeeded" for one in double.executions.values()) >= at_most:
            return most
        await asyncio.sleep(0.01)


async def test_a_parent_that_runs_again_finds_its_child(double, make_agent, serving):
    """Whatever the order in which its calls begin; nothing is started twice."""
    app = make_agent()

    @app.reasoner
    async def work(ctx: Context) -> list[int]:
        numbers = [1, 2, 2] if ctx.attempt == 1 else [2, 2, 1]
        return await asyncio.gather(*(app.call("n.child", n=n) for n in numbers))

    async with serving(app):
        first = double.offer("n.work")
        await double.until(lambda: len(double.executions) == 3)
        double.lost.add(first)
        fence = again(double, first)
        finish_all(double)
        report = await double.report(fence)

    assert sorted(report["result"]) == [2, 4, 4]
    assert len(double.said("/execute/async/n.child")) == 3
    assert [name.rpartition("#")[2] for name in double.steps["exec_1"]][2] == "2"


@pytest.mark.parametrize(("past", "started"), [([("failed", 1)], 2), ([("waiting", 1)], 1)], ids=["failed", "waited"])
async def test_a_failed_child_is_called_again_only_by_a_retry(double, make_agent, serving, past, started):
    """A parent that failed with it tries again; one that waited is told that it failed."""
    app = make_agent()
    double.past["exec_1"] = [{"attempt": n, "ended": "retried" if ended == "failed" else ended} for ended, n in past]

    @app.reasoner
    async def work(ctx: Context) -> str:
        try:
            return str(await app.call("n.child", n=1))
        except ExecutionFailed:
            if ctx.attempt == 1:
                raise
            return "failed"

    async with serving(app):
        first = double.offer("n.work")
        await double.until(lambda: double.executions)
        finish_all(double, status="failed")
        await double.report(first)
        fence = again(double, first, failures=1)
        await double.until(lambda: len(double.executions) == started)
        finish_all(double)
        report = await double.report(fence)

    assert len(double.said("/execute/async/n.child")) == started
    assert report["result"] == ("2" if started == 2 else "failed")


async def test_map_suspends_once_and_answers_in_order(double, make_agent, serving):
    """Three requests start 2,500; the parent waits for all of them without a process, and starts none again."""
    app = make_agent()

    @app.reasoner
    async def child(n: int) -> int:
        return n

    @app.reasoner
    async def work() -> list[int]:
        return await child.map(range(2500))

    async with serving(app):
        first = double.offer("n.work")
        waiting = await double.report(first, 30)
        finish_all(double)
        report = await double.report(again(double, first), 30)

    assert (waiting["status"], waiting["until"], len(waiting["waits"])) == ("waiting", "all", 2500)
    assert report["result"] == [2 * n for n in range(2500)]
    assert [len(body["items"]) for body in double.said("/execute/batch")] == [1000, 1000, 500]


async def test_children_that_are_quick_cost_no_attempt(double, make_agent, serving):
    """What has ended within a second is answered where it was asked."""
    app = make_agent()

    @app.reasoner
    async def work() -> list[int]:
        return await app.map("n.child", [{"n": n} for n in range(3)])

    async with serving(app):
        fence = double.offer("n.work")
        ending = asyncio.create_task(finishing(double, at_most=3))
        report = await double.report(fence)
        await ending

    assert (report["status"], report["result"]) == ("succeeded", [0, 2, 4])


async def test_a_synchronous_reasoner_maps_in_its_thread(double, make_agent, serving):
    """It has one attempt, however long its children take."""
    app = make_agent()

    @app.reasoner
    def work(ctx: Context) -> list[int]:
        return [*app.wait(app.map("n.child", [{"n": 1}, {"n": 2}])), ctx.attempt]

    async with serving(app):
        fence = double.offer("n.work")
        await double.until(lambda: sum(path.endswith("/batch-status") for _, path, *_ in double.heard) > 0)
        finish_all(double)
        report = await double.report(fence)

    assert report["result"] == [2, 4, 1]


async def test_at_once_is_a_window(double, make_agent, serving):
    """Never more than so many are under way, and the parent stays where it is."""
    app = make_agent(slots=1)

    @app.reasoner
    async def work() -> list[int]:
        return await app.map("n.child", ({"n": n} for n in range(40)), at_once=7)

    async with serving(app):
        fence = double.offer("n.work")
        ending = asyncio.create_task(finishing(double, at_most=40))
        report = await double.report(fence, 30)
        most = await ending

    assert report["result"] == [2 * n for n in range(40)]
    assert 1 < most <= 7


async def test_a_window_that_fails_starts_no_more(double, make_agent, serving):
    """The first error ends it, as `asyncio.gather` does."""
    app = make_agent()

    @app.reasoner
    async def work() -> None:
        await app.map("n.child", [{"n": n} for n in range(40)], at_once=5)

    async with serving(app):
        fence = double.offer("n.work")
        await double.until(lambda: len(double.executions) == 5)
        double.finish(next(iter(double.executions)), status="failed", error="no")
        report = await double.report(fence)

    assert report["error_class"] == "ExecutionFailed"
    assert len(double.executions) == 5


async def test_errors_may_be_results(double, make_agent, serving):
    """A child that failed and one that was refused stand in their places."""
    app = make_agent()

    @app.reasoner
    async def work() -> list[str]:
        one = await app.map("n.child", [{"n": 1}], return_exceptions=True)
        two = await app.map("n.nobody", [{"n": 2}], return_exceptions=True)
        return [type(found).__name__ for found in [*one, *two]]

    async with serving(app):
        fence = double.offer("n.work")
        await double.until(lambda: double.executions)
        finish_all(double, status="failed")
        report = await double.report(fence)

    assert report["result"] == ["ExecutionFailed", "NotFound"]


async def test_an_item_that_is_refused_fails_the_map(double, make_agent, serving):
    """With what the control plane said."""
    app = make_agent()

    @app.reasoner
    async def work() -> None:
        await app.map("n.nobody", [{"n": 1}])

    async with serving(app):
        report = await double.report(double.offer("n.work"))

    assert (report["error_class"], report["error"]) == ("NotFound", "no such target")


async def test_map_outside_of_an_execution(double, make_agent):
    """A program starts them in one run and waits."""
    app = make_agent()

    @app.reasoner
    async def child(n: int) -> int:
        return n

    mapping = asyncio.create_task(child.map([1, {"n": 2}]))
    await double.until(lambda: len(double.executions) == 2)
    for execution_id in list(double.executions):
        double.finish(execution_id, status="succeeded", result="done")

    assert await mapping == ["done", "done"]
    assert double.said("/execute/batch")[0]["same_run"] is True
    assert await child(1) == 1
    await app.aclose()


async def test_what_is_no_item_is_refused(make_agent):
    """A value stands for the one argument of a function of this node; else an item is a dict."""
    app = make_agent()

    @app.reasoner
    async def two(a: int, b: int) -> int:
        return a + b

    with pytest.raises(TypeError, match=r"n\.two is a dict"):
        await two.map([1])
    with pytest.raises(TypeError, match=r"elsewhere\.f"):
        await app.map("elsewhere.f", [1])
    with pytest.raises(ValueError, match="at_once"):
        await two.map([], at_once=0)
    assert await two.map([]) == []
    await app.aclose()


async def test_a_whole_batch_that_is_refused(double, make_agent, serving):
    """Raised as it is, also where errors may be results: nothing has begun."""
    app = make_agent()
    double.refuse["batch"] = lambda _: problem(422, "invalid")

    @app.reasoner
    async def work() -> None:
        with pytest.raises(RequestRefused):
            await app.map("n.child", [{"n": 1}], return_exceptions=True)

    async with serving(app):
        report = await double.report(double.offer("n.work"))

    assert report["status"] == "succeeded"
