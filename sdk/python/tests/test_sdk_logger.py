"""Lines, progress and notes: seen on stderr, shipped in batches, never in anybody's way."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from controlplane_sdk.context import Fence
from controlplane_sdk.logger import find_progress, log_debug, log_error, log_info
from controlplane_sdk.trace import HELD_MAX, Trace
from controlplane_sdk.transport import Reply
from sdk.python.tests.sdk_double import problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processed 3/10", (3, 10)),
        ("3/10", (3, 10)),
        ("step 1/3 done, item 7/9.", (7, 9)),
        ("(4/4)", (4, 4)),
        ("3/10 items", (3, 10)),
        ("no numbers", None),
        ("0/0", None),
        ("11/10", None),
        ("2024/05/06", None),
        ("a/3/10", None),
        ("v1/2", None),
        ("http://host/1/2", None),
        ("1.5/3.5", None),
        ("٣/٩", None),
    ],
)
def test_progress_is_a_word_of_its_own(text, expected):
    """ "n/m" counts when it stands alone; paths, dates and fractions do not."""
    assert find_progress(text) == expected


async def test_lines_of_an_execution_are_shipped_before_its_result(double, make_agent, serving):
    """Every line arrives with level and attributes, in order, and before the report that would shut them out."""
    app = make_agent()

    @app.reasoner
    async def talk() -> None:
        log_debug("looking")
        log_info("read %d of %s, 2/4", 2, "four", pages=3, odd=object())
        log_error("\ud800", event_type="custom")
        app.note("for people", tags=["a"])
        await app.progress(0.75, message="nearly")

    async with serving(app):
        await double.report(double.offer("n.talk"))
    paths = [path for _, path, _, _ in double.heard if path.endswith(("/logs", "/note", "/results"))]

    assert [(line["level"], line["message"]) for line in double.lines] == [
        ("debug", "looking"),
        ("info", "read 2 of four, 2/4"),
        ("error", "\\ud800"),
    ]
    assert double.lines[1]["attributes"]["pages"] == "3" or double.lines[1]["attributes"]["pages"] == 3
    assert double.lines[2]["event_type"] == "custom"
    assert double.progress[-1]["fraction"] == 0.75
    assert double.notes[0][0] == "exec_1~1"
    assert paths[-1].endswith("/results")


async def test_a_thousand_lines_take_few_requests(double, make_agent, serving):
    """Lines gather while a request is in flight; of the progress only the newest travels."""
    app = make_agent()

    @app.reasoner
    async def talk() -> None:
        for n in range(1000):
            log_info(f"processed {n + 1}/1000")
            if n % 100 == 0:
                await asyncio.sleep(0)

    async with serving(app):
        await double.report(double.offer("n.talk"))

    assert len(double.lines) == 1000
    assert len(double.said("/logs")) < 20
    assert double.progress[-1]["done"] == 1000


async def test_a_control_plane_that_takes_no_lines_does_not_hold_up_the_result(double, make_agent, serving):
    """Lines are best effort; the report waits for them a second at most."""
    app = make_agent()

    @app.reasoner
    async def talk() -> str:
        log_info("hello")
        return "done"

    double.misbehave.extend([("/logs", "503")] * 50)
    async with serving(app):
        began = time.monotonic()
        await double.report(double.offer("n.talk"))
        double.misbehave.clear()

    assert time.monotonic() - began < 5


async def test_outside_an_execution_a_line_is_only_local(caplog):
    """Nothing is shipped where there is no execution to ship it to."""
    log_info("hello %s", "there")

    assert "hello there" in caplog.text


async def test_under_pressure_the_oldest_lines_go_and_are_counted():
    """The outbox is bounded, and says how many lines it left out."""
    sent: list[bytes] = []
    gate = asyncio.Event()

    async def post(path: str, body: bytes, headers: dict[str, str]) -> Reply:
        await gate.wait()
        sent.append(body)
        return Reply(202, {})

    trace = Trace(asyncio.get_running_loop(), post, on_lost=lambda _: None)
    for n in range(HELD_MAX + 7):
        trace.log(Fence("exec_1", 1), "info", f"line {n}")
    gate.set()
    await trace.settled()

    assert b"7 log lines were left out" in sent[0]
    assert b'"line 6"' not in b"".join(sent)
    assert b'"line 7"' in b"".join(sent)


async def test_lines_of_a_lost_attempt_stop_it(double, make_agent, serving):
    """The answer to a batch of lines may say that an attempt is lost."""
    lost: list[Any] = []

    async def post(path: str, body: bytes, headers: dict[str, str]) -> Reply:
        return Reply(202, {"lost": [{"execution_id": "exec_1", "attempt": 2}]})

    trace = Trace(asyncio.get_running_loop(), post, on_lost=lost.append)
    trace.log(Fence("exec_1", 2), "info", "hello")
    await trace.settled()

    assert lost == [("exec_1", 2)]


async def test_a_line_that_is_refused_takes_no_other_with_it(double, make_agent, serving):
    """A batch that cannot be read is sent again in halves."""
    app = make_agent()

    @app.reasoner
    async def talk() -> None:
        for n in range(8):
            log_info(f"line {n}, {n}/8")

    def refuse(body: Any) -> Any:
        return problem(422, "invalid") if any("line 5" in line["message"] for line in body["entries"]) else None

    double.refuse["logs"] = refuse
    async with serving(app):
        await double.report(double.offer("n.talk"))

    assert [line["message"][:6] for line in double.lines] == [f"line {n}" for n in range(8) if n != 5]
    assert double.progress[-1]["done"] == 7
