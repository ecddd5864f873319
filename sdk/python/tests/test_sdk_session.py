"""A node's life against a control plane's double: lease, run, report, and what goes wrong in between."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from controlplane_sdk import Context, Fatal, RequestRefused, Retryable
from sdk.python.tests.sdk_double import problem


def asking(**said: object) -> Exception:
    """What the client of another service raises when that asks for patience."""
    error = Exception("busy")
    for name, value in said.items():
        setattr(error, name, value)
    return error


class Doc(BaseModel):
    id: str
    pages: int = 1


@dataclass
class Answer:
    doc: Doc
    at: datetime


async def test_a_reasoner_gets_typed_arguments_and_its_result_is_reported(double, make_agent, serving):
    """Arguments are coerced to their types; models, dataclasses and dates come back as JSON."""
    app = make_agent()

    @app.reasoner(tags=["entry"])
    async def read(doc: Doc, times: int, ctx: Context) -> Answer:
        assert ctx.run_id == "run_1"
        return Answer(Doc(id=doc.id, pages=doc.pages * times), datetime(2030, 1, 2, tzinfo=UTC))

    async with serving(app):
        report = await double.report(double.offer("n.read", {"doc": {"id": "a"}, "times": "3"}))

    assert report["status"] == "succeeded"
    assert report["result"] == {"doc": {"id": "a", "pages": 3}, "at": "2030-01-02T00:00:00Z"}


async def test_registration_announces_schema_retries_and_tags(double, make_agent, serving):
    """What registration says of a reasoner is what its decorator and signature say."""
    app = make_agent()

    @app.reasoner(tags=["entry"], retries=3, timeout=60)
    async def read(items: list[str], ctx: Context, model: str | None = None) -> dict[str, int]:
        """Reads."""
        return {}

    @app.skill
    def add(a: int, b: int) -> int:
        return a + b

    async with serving(app):
        await double.until(lambda: double.registrations)
    said = double.registrations[0]

    assert said["transport"] == "pull"
    assert [skill["id"] for skill in said["skills"]] == ["add"]
    reasoner = said["reasoners"][0]
    assert (reasoner["retries"], reasoner["timeout_seconds"], reasoner["description"]) == (3, 60, "Reads.")
    assert reasoner["input_schema"]["required"] == ["items"]
    assert set(reasoner["input_schema"]["properties"]) == {"items", "model"}


async def test_bad_input_fails_for_good(double, make_agent, serving):
    """Arguments that do not fit are not worth another try, and the report says which."""
    app = make_agent()

    @app.reasoner
    async def read(times: int) -> None: ...

    async with serving(app):
        report = await double.report(double.offer("n.read", {"times": "many", "extra": 1}))

    assert (report["status"], report["error_class"], report["retryable"]) == ("failed", "InvalidInput", False)
    assert {detail["where"][0] for detail in report["error_details"]} == {"times", "extra"}


@pytest.mark.parametrize("result", [float("nan"), {"x": [float("inf")]}, "\ud800", object(), {1, object()}])
async def test_a_result_that_is_not_json_fails_for_good(double, make_agent, serving, result):
    """NaN, Infinity, lone surrogates and unknown objects never travel; the execution ends instead of hanging."""
    app = make_agent()

    @app.reasoner
    async def give() -> Any:
        return result

    async with serving(app):
        report = await double.report(double.offer("n.give"))

    assert (report["status"], report["error_class"], report["retryable"]) == ("failed", "ResultInvalid", False)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("no"), {"error": "no", "error_class": "ValueError", "retryable": True}),
        (Fatal("never", details={"a": 1}), {"retryable": False, "error_details": {"a": 1}}),
        (Retryable("later", after_seconds=7), {"retryable": True, "retry_after_seconds": 7}),
        (asking(retry_after=7), {"retryable": True, "retry_after_seconds": 7}),
        (asking(retry_after=timedelta(minutes=1)), {"retry_after_seconds": 60}),
        (asking(response=SimpleNamespace(headers={"retry-after": "7"})), {"retry_after_seconds": 7}),
        (asking(retry_after=float("nan")), {"retryable": True}),
        (SystemExit(3), {"error_class": "SystemExit"}),
        (ValueError("\ud800"), {"error": "\\ud800"}),
    ],
)
async def test_what_a_reasoner_raises_is_its_failure(double, make_agent, serving, error, expected):
    """Every exception becomes a report; the process goes on."""
    app = make_agent()

    @app.reasoner
    async def fail() -> None:
        raise error

    async with serving(app):
        report = await double.report(double.offer("n.fail"))

    assert report["status"] == "failed"
    assert expected.items() <= report.items()
    assert "raise error" in report["traceback"]


async def test_a_synchronous_reasoner_runs_in_a_thread_and_reaches_memory(double, make_agent, serving):
    """A plain function does not block the loop, keeps its execution, and waits for coroutines with app.wait."""
    app = make_agent()

    @app.reasoner
    def count(ctx: Context) -> dict[str, Any]:
        app.wait(app.memory.set("done", 3))
        ctx.progress(1, 4)
        return {"done": app.wait(app.memory.get("done")), "main": threading.current_thread() is threading.main_thread()}

    async with serving(app):
        report = await double.report(double.offer("n.count"))

    assert report["result"] == {"done": 3, "main": False}
    assert double.memory["run", "run_1", "done"] == 3
    assert double.progress[0] == {"execution_id": "exec_1", "attempt": 1, "done": 1, "total": 4}


async def test_cancel_arrives_as_cancelled_error(double, make_agent, serving):
    """The heartbeat's answer cancels the task, and the report says so."""
    app = make_agent()
    begun = asyncio.Event()
    seen = []

    @app.reasoner
    async def wait(ctx: Context) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append(ctx.cancelled)
            raise

    async with serving(app):
        fence = double.offer("n.wait")
        await asyncio.wait_for(begun.wait(), 10)
        double.cancels[fence] = None
        double._notify()
        report = await double.report(fence)

    assert report["status"] == "cancelled"
    assert seen == [True]


async def test_a_synchronous_reasoner_sees_the_flag(double, make_agent, serving):
    """A thread cannot be interrupted; it looks at ctx.cancelled and returns."""
    app = make_agent()
    begun = threading.Event()

    @app.reasoner
    def wait(ctx: Context) -> str:
        begun.set()
        while not ctx.cancelled:
            time.sleep(0.01)
        raise InterruptedError

    async with serving(app):
        fence = double.offer("n.wait")
        assert await asyncio.to_thread(begun.wait, 10)
        double.cancels[fence] = None
        double._notify()

        assert (await double.report(fence))["status"] == "cancelled"


async def test_a_lost_attempt_is_stopped_and_reports_nothing(double, make_agent, serving):
    """When another session has taken over, the old attempt ends without a word."""
    app = make_agent()
    begun = asyncio.Event()
    ended = asyncio.Event()

    @app.reasoner
    async def wait() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async with serving(app):
        fence = double.offer("n.wait")
        await asyncio.wait_for(begun.wait(), 10)
        double.lost.add(fence)
        double._notify()
        await asyncio.wait_for(ended.wait(), 10)

    assert not double.reports


async def test_a_closed_session_is_replaced_and_its_work_is_dropped(double, make_agent, serving):
    """After session_closed everything running is lost; a new session takes new work."""
    app = make_agent()
    begun = asyncio.Event()

    @app.reasoner
    async def wait(seconds: float) -> None:
        begun.set()
        await asyncio.sleep(seconds)

    async with serving(app):
        old = double.offer("n.wait", {"seconds": 60})
        await asyncio.wait_for(begun.wait(), 10)
        double.closed.add("ses_1")
        double._notify()
        new = double.offer("n.wait", {"seconds": 0})
        report = await double.report(new)

    assert report["status"] == "succeeded"
    assert old not in double.reports
    assert set(double.sessions) == {"ses_1", "ses_2"}


async def test_a_forgotten_node_registers_again(double, make_agent, serving):
    """node_not_found on opening a session is answered with a new registration."""
    app = make_agent()

    @app.reasoner
    async def go() -> None: ...

    async with serving(app):
        await double.until(lambda: double.sessions)
        double.registrations.clear()
        double.closed.add("ses_1")
        double._notify()
        await double.until(lambda: len(double.sessions) == 2)

    assert len(double.registrations) == 1


async def test_results_survive_an_outage_and_lost_answers(double, make_agent, serving):
    """A report is sent until it is acknowledged; a repeat changes nothing."""
    app = make_agent()

    @app.reasoner
    async def go(n: int) -> int:
        return n

    double.misbehave.extend([("/results", "503"), ("/results", "lose the answer")])
    async with serving(app):
        fences = [double.offer("n.go", {"n": n}) for n in range(20)]
        reports = [await double.report(fence) for fence in fences]

    assert [report["result"] for report in reports] == list(range(20))


async def test_a_refused_result_ends_the_execution_as_result_invalid(double, make_agent, serving):
    """A result that the control plane will not store becomes a failure that says why; its neighbours are not harmed."""
    app = make_agent()

    @app.reasoner
    async def go(n: int) -> int:
        return n

    def refuse(body: Any) -> Any:
        return problem(413, "too_large") if any(item.get("result") == 3 for item in body["results"]) else None

    double.refuse["results"] = refuse
    async with serving(app):
        reports = [await double.report(double.offer("n.go", {"n": n})) for n in range(5)]

    assert [report.get("result") for report in reports] == [0, 1, 2, None, 4]
    assert reports[3]["error_class"] == "ResultInvalid"


async def test_no_more_than_slots_run_at_once(double, make_agent, serving):
    """The node asks for as much work as it has room for."""
    app = make_agent(slots=2)
    running, most = set(), []

    @app.reasoner
    async def go(ctx: Context) -> None:
        running.add(ctx.execution_id)
        most.append(len(running))
        await asyncio.sleep(0.01)
        running.discard(ctx.execution_id)

    async with serving(app):
        for fence in [double.offer("n.go") for _ in range(12)]:
            await double.report(fence)

    assert max(most) == 2


async def test_waiting_for_a_child_gives_the_slot_away(double, make_agent, serving):
    """A node with one slot may call itself: while the parent waits, the child can run there."""
    app = make_agent(slots=1)

    @app.reasoner
    async def parent() -> Any:
        return await app.call("n.child", n=20)

    @app.reasoner
    async def child(n: int) -> int:
        return n + 1

    async with serving(app):
        outer = double.offer("n.parent", run="run_7", session_key="s")
        child_id = (await double.until(lambda: list(double.executions)))[0]
        inner = double.offer("n.child", {"n": 20}, execution_id=child_id)
        result = (await double.report(inner))["result"]
        double.finish(child_id, status="succeeded", result=result)
        report = await double.report(outer)
    headers = next(headers for _, path, headers, _ in double.heard if path.startswith("/execute/async/"))

    assert report["result"] == 21
    assert headers["x-parent-execution-id"] == "exec_1~1"
    assert (headers["x-run-id"], headers["x-session-id"]) == ("run_7", "s")


async def test_how_a_child_is_asked_for(double, make_agent, serving):
    """`options` go with the child's input; what is left out is not said."""
    app = make_agent()

    @app.reasoner
    async def parent() -> Any:
        return await app.options(on_parent_end="keep", total_seconds=60).call("n.other", n=1)

    async with serving(app):
        outer = double.offer("n.parent")
        child_id = (await double.until(lambda: list(double.executions)))[0]
        double.finish(child_id, status="succeeded", result=2)
        assert (await double.report(outer))["result"] == 2

    [said] = double.said("/execute/async/n.other")
    assert said.pop("step").startswith("n.other:")
    assert said == {"input": {"n": 1}, "on_parent_end": "keep", "total_seconds": 60}


async def test_a_failed_child_raises_in_the_parent(double, make_agent, serving):
    """ExecutionFailed carries the child's error, and becomes the parent's failure unless it is caught."""
    app = make_agent()

    @app.reasoner
    async def parent() -> Any:
        return await app.call("n.other")

    async with serving(app):
        outer = double.offer("n.parent")
        child_id = (await double.until(lambda: list(double.executions)))[0]
        double.finish(child_id, status="failed", error="boom", error_class="ValueError", attempt=2)
        report = await double.report(outer)

    assert report["error_class"] == "ExecutionFailed"
    assert report["error_details"]["execution_id"] == child_id
    assert "boom" in report["error"]


async def test_an_unknown_reasoner_is_handed_back_and_at_last_refused(double, make_agent, serving):
    """During a roll-out another process may know it; after ten tries nobody does."""
    app = make_agent()

    async with serving(app):
        early = await double.report(double.offer("n.newer"))
        late = await double.report(double.offer("n.newer", attempt=10))

    assert early["status"] == "released"
    assert late["error_class"] == "LookupError"


async def test_a_newer_lease_of_the_same_execution_ends_the_older(double, make_agent, serving):
    """Two attempts of one execution never go on side by side in one process."""
    app = make_agent()
    begun = asyncio.Event()

    @app.reasoner
    async def go(ctx: Context) -> int:
        begun.set()
        await asyncio.sleep(60 if ctx.attempt == 1 else 0)
        return ctx.attempt

    async with serving(app):
        double.offer("n.go", execution_id="exec_9", attempt=1)
        await asyncio.wait_for(begun.wait(), 10)
        report = await double.report(double.offer("n.go", execution_id="exec_9", attempt=2))

    assert report["result"] == 2
    assert ("exec_9", 1) not in double.reports


async def test_a_refused_first_registration_is_an_error(double, make_agent):
    """A wrong key or name is said at once, not retried for ever."""
    app = make_agent()
    double.refuse["register"] = lambda _: problem(422, "invalid")

    with pytest.raises(RequestRefused, match="refused: invalid"):
        await asyncio.wait_for(app.serve(), 10)


async def test_full_lists_follow_a_claim(double, make_agent, serving):
    """The beat after a claim names every attempt, the ones between carry a count."""
    app = make_agent(heartbeat_seconds=0.2)

    @app.reasoner
    async def wait() -> None:
        await asyncio.sleep(60)

    async with serving(app):
        double.offer("n.wait")
        full = await double.until(lambda: [beat for _, beat in double.beats if beat["executions"]])
        await double.until(lambda: [beat for _, beat in double.beats if beat["executions"] is None and beat["count"]])
        app.stop()
        app.stop()

    assert full[0]["executions"] == [{"execution_id": "exec_1", "attempt": 1}]
