"""What a reasoner does once and waits for, against a control plane's double: memo, suspension, what stays."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from datetime import UTC, date, datetime, timedelta
from functools import partial

import pytest

from controlplane_sdk import Context, EventTimedOut
from controlplane_sdk.durable import call_name

calls: list[str] = []


@pytest.fixture(autouse=True)
def nothing_called_yet() -> None:
    calls.clear()


def again(double, fence, **more):
    """Offer the next attempt of an execution that waited or died."""
    execution_id, attempt = fence
    return double.offer("n.work", execution_id=execution_id, attempt=attempt + 1, **more)


async def test_a_step_runs_once(double, make_agent, serving):
    """The next attempt gets what the first one stored, and calls nothing; a failure is not stored."""
    app = make_agent()

    async def fetch(n: int) -> dict[str, tuple[int, int]]:
        calls.append(f"fetch {n}")
        return {"pair": (n, n)}

    @app.reasoner
    async def work(ctx: Context) -> list[object]:
        found = [await ctx.step(fetch, 1), await ctx.step(fetch, n=2)]
        if ctx.attempt == 1:
            with contextlib.suppress(ZeroDivisionError):
                await ctx.step(lambda: 1 / 0, name="risky")
            raise ValueError("later")
        return [*found, await ctx.step(lambda: 7, name="risky")]

    async with serving(app):
        first = double.offer("n.work")
        await double.report(first)
        second = await double.report(again(double, first))

    assert second["result"] == [{"pair": [1, 1]}, {"pair": [2, 2]}, 7]
    assert calls == ["fetch 1", "fetch 2"]
    assert list(double.steps["exec_1"]) == ["fetch", "fetch#2", "risky"]


async def test_the_first_run_sees_what_a_later_one_will(double, make_agent, serving):
    """A step's value is JSON from the beginning, so that nothing changes with a crash."""
    app = make_agent()

    @app.reasoner
    async def work(ctx: Context) -> list[str]:
        values = [await ctx.step(lambda: (1, 2), name="a"), await ctx.step(lambda: date(2030, 1, 1), name="b")]
        return [type(value).__name__ for value in values]

    async with serving(app):
        report = await double.report(double.offer("n.work"))

    assert report["result"] == ["list", "str"]


async def test_a_step_that_blocks_has_a_thread(double, make_agent, serving):
    """A synchronous function does not hold the event loop up, and knows whose it is; so does a `partial`."""
    app = make_agent()

    def block(n: int) -> bool:
        assert app.ctx.execution_id == "exec_1"
        return threading.current_thread() is not threading.main_thread()

    async def inner() -> str:
        return "awaited"

    @app.reasoner
    async def work() -> list[object]:
        return [
            await app.ctx.step(block, 1),
            await app.ctx.step(partial(block, n=2)),
            await app.ctx.step(lambda: inner()),  # noqa: PLW0108 - it is not async itself
        ]

    async with serving(app):
        report = await double.report(double.offer("n.work"))

    assert report["result"] == [True, True, "awaited"]
    assert list(double.steps["exec_1"]) == ["block", "block#2", "<lambda>"]


async def test_a_result_that_is_not_json_fails_for_good(double, make_agent, serving):
    """The report names the step."""
    app = make_agent()

    @app.reasoner
    async def work(ctx: Context) -> None:
        await ctx.step(lambda: float("nan"), name="odd")

    async with serving(app):
        report = await double.report(double.offer("n.work"))

    assert (report["error_class"], report["retryable"]) == ("ResultInvalid", False)
    assert "'odd'" in report["error"]


async def test_a_long_sleep_gives_the_attempt_up(double, make_agent, serving):
    """It is reported as waiting, past any `except Exception`; what is awake again goes on behind it."""
    app = make_agent()

    @app.reasoner
    async def work(ctx: Context) -> str:
        try:
            await ctx.sleep(60)
        except Exception:  # noqa: BLE001 - what a reasoner may well do
            calls.append("swallowed")
        return "slept"

    async with serving(app):
        first = double.offer("n.work")
        report = await double.report(first)
        double.steps["exec_1"]["sleep"]["due"] = 0.0
        second = await double.report(again(double, first))

    assert report == {
        "execution_id": "exec_1",
        "attempt": 1,
        "status": "waiting",
        "waits": ["sleep"],
        "until": "any",
    }
    assert (second["status"], second["result"], calls) == ("succeeded", "slept", [])


async def test_a_short_sleep_stays_in_the_process(double, make_agent, serving):
    """Nobody gives up a process for the tenth of a second; the sleep is durable all the same."""
    app = make_agent()

    @app.reasoner
    async def work(ctx: Context) -> int:
        await ctx.sleep(0.1)
        await ctx.sleep_until(datetime.now(UTC) + timedelta(seconds=0.05))
        await ctx.sleep_until(datetime.now(UTC) - timedelta(seconds=5))
        return ctx.attempt

    async with serving(app):
        report = await double.report(double.offer("n.work"))

    assert report["result"] == 1
    assert [step["status"] for step in double.steps["exec_1"].values()] == ["done", "done"]


@pytest.mark.parametrize("kind", ["bare except", "finally that fails"])
async def test_a_suspension_that_is_swallowed_counts(double, make_agent, serving, kind):
    """Whatever a function does on its way out, its execution waits."""
    app = make_agent()

    @app.reasoner
    async def work(ctx: Context) -> str:
        try:
            await ctx.sleep(60)
        except:  # noqa: E722 - what a reasoner should not do
            if kind == "bare except":
                return "swallowed"
            raise ValueError("on the way out") from None
        return "slept"

    async with serving(app):
        report = await double.report(double.offer("n.work"))

    assert (report["status"], report["waits"]) == ("waiting", ["sleep"])


async def test_after_a_swallowed_suspension_nothing_durable_happens(double, make_agent, serving):
    """The next step would stand behind a wait that is not over."""
    app = make_agent()

    @app.reasoner
    async def work(ctx: Context) -> None:
        try:
            await ctx.sleep(60)
        except BaseException:  # noqa: BLE001 - what a reasoner should not do
            await ctx.step(lambda: calls.append("done"))

    async with serving(app):
        report = await double.report(double.offer("n.work"))

    assert (report["status"], calls) == ("waiting", [])


async def test_in_a_task_of_its_own_a_wait_stays_in_the_process(double, make_agent, serving):
    """Its neighbours go on, the lease is kept and the slot is free."""
    app = make_agent(slots=1)

    @app.reasoner
    async def work(ctx: Context) -> list[object]:
        return await asyncio.gather(ctx.wait_for_event("go"), ctx.sleep(1.5))

    @app.reasoner
    async def other() -> str:
        return "other"

    async with serving(app):
        first = double.offer("n.work")
        beside = await double.report(double.offer("n.other"))
        double.signals["exec_1"].append(("go", {"n": 1}))
        report = await double.report(first)

    assert (beside["result"], report["result"]) == ("other", [{"n": 1}, None])


async def test_a_wait_beside_other_durable_work_stays_in_the_process(double, make_agent, serving):
    """The attempt is not given up under a step that runs in another task; when that is done, it is."""
    app = make_agent()
    go_on = asyncio.Event()

    async def slow() -> str:
        await go_on.wait()
        return "done"

    @app.reasoner
    async def work(ctx: Context) -> None:
        beside = asyncio.create_task(ctx.step(slow))
        await asyncio.sleep(0)
        await ctx.wait_for_event("go")
        await beside

    async with serving(app):
        fence = double.offer("n.work")
        await double.until(lambda: len(double.said("/steps/write")) >= 2)
        unreported = fence not in double.reports
        go_on.set()
        report = await double.report(fence)

    assert unreported
    assert report["status"] == "waiting"
    assert double.steps["exec_1"]["slow"]["value"] == "done"


async def test_a_synchronous_reasoner_waits_in_its_thread(double, make_agent, serving):
    """`app.wait` around anything durable."""
    app = make_agent()

    @app.reasoner
    def work(ctx: Context) -> object:
        return [app.wait(ctx.step(lambda: "stepped", name="s")), app.wait(ctx.wait_for_event("go"))]

    async with serving(app):
        double.signals["exec_1"] = [("go", 3)]
        report = await double.report(double.offer("n.work"))

    assert report["result"] == ["stepped", 3]


async def test_an_event_that_does_not_come(double, make_agent, serving):
    """EventTimedOut, and again in every attempt that comes later."""
    app = make_agent()

    @app.reasoner
    async def work(ctx: Context) -> str:
        try:
            await ctx.wait_for_event("go", timeout=0.05)
        except EventTimedOut:
            await ctx.wait_for_event("other")
        return "timed out"

    async with serving(app):
        first = double.offer("n.work")
        waiting = await double.report(first)
        double.signals["exec_1"] = [("go", 1), ("other", 2)]
        report = await double.report(again(double, first))

    assert waiting["waits"] == ["event:other"]
    assert report["result"] == "timed out"


async def test_an_approval_is_a_decision(double, make_agent, serving):
    """Asked with all that was given, waited for, and answered with who said what."""
    app = make_agent()

    @app.reasoner
    async def work(ctx: Context) -> object:
        decision = await ctx.approve("Deploy?", expires=timedelta(hours=1), url="http://x")
        return [decision.approved, decision.feedback, decision.response]

    async with serving(app):
        first = double.offer("n.work")
        waiting = await double.report(first)
        double.decisions["exec_1"] = {"decision": "approved", "feedback": "fine", "response": {"by": "me"}}
        report = await double.report(again(double, first))

    [write] = double.said("/steps/write")[0]["writes"]
    assert write["ops"] == [
        {
            "op": "approval",
            "name": "approval",
            "title": "Deploy?",
            "expires_seconds": 3600.0,
            "url": "http://x",
            "request_id": "exec_1:approval",
        }
    ]
    assert waiting["waits"] == ["approval"]
    assert report["result"] == [True, "fine", {"by": "me"}]


async def test_who_is_to_decide_is_told_once(double, make_agent, serving):
    """With the link, as a step: a later attempt does not tell again."""
    app = make_agent()

    @app.reasoner
    async def work(ctx: Context) -> str:
        return (await ctx.approve("Deploy?", tell=calls.append)).decision

    async with serving(app):
        first = double.offer("n.work")
        await double.report(first)
        second = again(double, first)
        await double.report(second)
        double.decisions["exec_1"] = {"decision": "rejected"}
        report = await double.report(again(double, second))

    assert (report["result"], calls) == ("rejected", ["http://link"])
    assert list(double.steps["exec_1"]) == ["approval", "approval > tell"]


async def test_what_is_inside_a_step_has_names_of_its_own(double, make_agent, serving):
    """A step that is done is skipped with all that it did, and what follows keeps its name."""
    app = make_agent()

    async def outer() -> str:
        await app.ctx.sleep(0.01)
        return str(await app.ctx.step(lambda: "inner", name="inner"))

    @app.reasoner
    async def work(ctx: Context) -> str:
        found = await ctx.step(outer)
        await ctx.sleep(60)
        return str(found)

    async with serving(app):
        first = double.offer("n.work")
        await double.report(first)
        second = await double.report(again(double, first))

    assert list(double.steps["exec_1"]) == ["outer > sleep", "outer > inner", "outer", "sleep"]
    assert (second["status"], second["waits"]) == ("waiting", ["sleep"])


async def test_a_wait_inside_a_step_gives_the_attempt_up(double, make_agent, serving):
    """The step is begun again, and finds what it has waited for."""
    app = make_agent()

    async def outer() -> str:
        calls.append("outer")
        return str(await app.ctx.wait_for_event("go"))

    @app.reasoner
    async def work(ctx: Context) -> str:
        return str(await ctx.step(outer))

    async with serving(app):
        first = double.offer("n.work")
        waiting = await double.report(first)
        double.signals["exec_1"] = [("go", "now")]
        report = await double.report(again(double, first))

    assert waiting["waits"] == ["outer > event:go"]
    assert (report["result"], calls) == ("now", ["outer", "outer"])


async def test_a_task_group_does_not_hide_a_suspension(double, make_agent, serving):
    """It wraps what leaves it in a group of its own."""
    app = make_agent()

    @app.reasoner
    async def work(ctx: Context) -> None:
        async with asyncio.TaskGroup():
            await ctx.sleep(60)

    async with serving(app):
        report = await double.report(double.offer("n.work"))

    assert (report["status"], report["waits"]) == ("waiting", ["sleep"])


async def test_code_that_changed_meanwhile_is_noticed(double, make_agent, serving):
    """A name that was something else fails for good, and says so."""
    app = make_agent()
    double.steps["exec_1"] = {"pause": {"name": "pause", "kind": "sleep", "status": "done", "attempt": 1}}

    @app.reasoner
    async def work(ctx: Context) -> None:
        await ctx.step(lambda: 1, name="pause")

    async with serving(app):
        report = await double.report(double.offer("n.work", attempt=2))

    assert (report["error_class"], report["retryable"]) == ("StepChanged", False)


async def test_an_attempt_that_lost_its_lease_stores_nothing(double, make_agent, serving):
    """The write is refused, the reasoner is cancelled and nothing is reported."""
    app = make_agent()

    @app.reasoner
    async def work(ctx: Context) -> None:
        double.lost.add(ctx.fence)
        try:
            await ctx.step(lambda: 1)
            await asyncio.sleep(60)
        finally:
            calls.append("left")

    async with serving(app):
        fence = double.offer("n.work")
        await double.until(lambda: calls)

    assert fence not in double.reports
    assert not double.steps["exec_1"] if "exec_1" in double.steps else True


async def test_a_first_attempt_reads_nothing(double, make_agent, serving):
    """The lease says that there are no steps; a later attempt reads all of them once, page by page."""
    app = make_agent()

    @app.reasoner
    async def work(ctx: Context) -> int:
        return sum([await ctx.step(lambda n=n: n, name="s") for n in range(450)])

    async with serving(app):
        first = double.offer("n.work")
        await double.report(first, 30)
        reads = [path for method, path, *_ in double.heard if path.endswith("/steps")]
        second = await double.report(again(double, first), 30)

    assert (reads, second["result"]) == ([], sum(range(450)))
    assert len([path for method, path, *_ in double.heard if path.endswith("/steps")]) == 3
    assert len([one for body in double.said("/steps/write") for one in body["writes"]]) == 450


async def test_a_lost_answer_does_a_step_once(double, make_agent, serving):
    """The write is sent again, and the function is not called again."""
    app = make_agent()
    double.misbehave += [("/steps/write", "lose the answer"), ("/steps/write", "503")]

    @app.reasoner
    async def work(ctx: Context) -> object:
        return await ctx.step(lambda: calls.append("called"))

    async with serving(app):
        report = await double.report(double.offer("n.work"))

    assert (report["status"], calls) == ("succeeded", ["called"])
    assert len(double.said("/steps/write")) == 3


async def test_a_control_plane_that_is_away_ends_no_wait(double, make_agent, serving, monkeypatch):
    """Longer than the patience of any write."""
    monkeypatch.setattr("controlplane_sdk.writes.PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("controlplane_sdk.durable.LOOK_CAP_SECONDS", 0.05)
    app = make_agent()
    double.misbehave += [("/steps/write", "503")] * 3

    @app.reasoner
    async def work(ctx: Context) -> object:
        return await ctx.wait_for_event("go")

    async with serving(app):
        double.signals["exec_1"] = [("go", 5)]
        report = await double.report(double.offer("n.work"))

    assert report["result"] == 5


async def test_a_control_plane_without_steps_says_so(double, make_agent, serving):
    """An older one: steps fail with a sentence, calls go on as ever."""
    app = make_agent()

    @app.reasoner
    async def work(ctx: Context) -> None:
        with pytest.raises(Exception, match="older"):
            await ctx.step(lambda: 1)
        return await app.call("n.child")

    async with serving(app):
        fence = double.offer("n.work", steps=None)
        await double.until(lambda: double.executions)
        double.finish("exec_child_1", status="succeeded", result=5)
        report = await double.report(fence)

    assert report["result"] == 5
    assert double.said("/execute/async/n.child") == [{"input": {}}]


async def test_a_cancelled_wait_is_cancelled(double, make_agent, serving):
    """A wait that stays in the process hears of it as everything does."""
    app = make_agent()

    @app.reasoner
    async def work(ctx: Context) -> None:
        await asyncio.gather(ctx.wait_for_event("never"))

    async with serving(app):
        fence = double.offer("n.work")
        await double.until(lambda: double.said("/steps/write"))
        double.cancels[fence] = None
        report = await double.report(fence)

    assert report["status"] == "cancelled"


async def test_a_hand_made_context_runs_steps_and_sleeps():
    """A reasoner can be called in a test, without a server."""
    ctx = Context(
        execution_id="e", attempt=1, node_id="n", target="n.f", reasoner="f", run_id="r", root_execution_id="e"
    )
    await ctx.sleep(0)

    assert await ctx.step(lambda n: n + 1, 1) == 2
    with pytest.raises(RuntimeError, match="by hand"):
        await ctx.wait_for_event("x")
    with pytest.raises(ValueError, match="time zone"):
        await ctx.sleep_until(datetime(2030, 1, 1))  # noqa: DTZ001 - the point


@pytest.mark.parametrize("name", ["a#2", "a > b", "x" * 300])
async def test_a_name_that_cannot_be_is_refused(double, make_agent, serving, name):
    """What counts and nests is not for names."""
    app = make_agent()

    @app.reasoner
    async def work(ctx: Context) -> None:
        await ctx.step(lambda: 1, name=name)

    async with serving(app):
        report = await double.report(double.offer("n.work"))

    assert report["error_class"] == "ValueError"


def test_a_call_is_called_by_its_arguments():
    """Whatever their order, and whatever they are made of; others have another name."""
    assert call_name("n.f", {"a": 1, "b": (2,)}) == call_name("n.f", {"b": [2], "a": 1})
    assert call_name("n.f", {"a": 1}) != call_name("n.f", {"a": "1"})
    assert len(call_name("n." + "f" * 300, {})) < 240
