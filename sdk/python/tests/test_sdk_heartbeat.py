"""The lease stays alive while the event loop does not."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest
from starlette.responses import Response

from controlplane_sdk.heartbeat import ANSWER_MARGIN_SECONDS, Watchdog


def waits_to_be_done(make_agent):
    """An agent that beats often and whose `wait` ends when the event that comes with it is set."""
    app = make_agent(heartbeat_seconds=0.2)
    done = asyncio.Event()

    @app.reasoner
    async def wait() -> None:
        await done.wait()

    return app, done


async def test_the_heartbeat_goes_on_while_the_loop_is_blocked(double, make_agent, serving):
    """A reasoner that blocks the event loop keeps its lease: beats come from a thread."""
    app = make_agent(heartbeat_seconds=0.2)
    blocked: list[float] = []

    @app.reasoner
    async def block() -> None:
        blocked.append(time.monotonic())
        time.sleep(3)  # noqa: ASYNC251 - what the test is about
        blocked.append(time.monotonic())

    async with serving(app):
        await double.report(double.offer("n.block"))
    inside = [at for at, _ in double.beats if blocked[0] < at < blocked[1]]

    assert len(inside) >= 5


async def test_a_blocked_loop_is_named(caplog):
    """The watchdog says how long the loop has been blocked, and by which line."""
    watchdog = Watchdog(logging.getLogger("controlplane_sdk"), blocked_seconds=0.2)
    watchdog.start()
    await asyncio.sleep(0)

    time.sleep(1)  # noqa: ASYNC251 - what the test is about
    watchdog.stop()
    watchdog.join(5)

    assert "has been blocked" in caplog.text
    assert "time.sleep(1)" in caplog.text


@pytest.mark.parametrize(("says", "asks"), [(None, 0.2), (0.1, 0.2), (25.0, 25.0), (60.0, 30.0)])
async def test_who_holds_nothing_asks_to_be_held_as_long_as_is_said(double, make_agent, serving, says, asks):
    """An older control plane says nothing of it: it would let the session expire meanwhile."""
    double.idle_wait_seconds = says

    async with serving(make_agent(heartbeat_seconds=0.2)):
        await double.until(lambda: len(double.beats) >= 2)
        waits = [beat["wait_seconds"] for _, beat in double.beats[:2]]

    assert waits == [0.2, asks]


async def test_who_holds_something_does_not(double, make_agent, serving):
    """Its beats are as short as ever, and are again held for long when all is done."""
    double.idle_wait_seconds = 0.3
    app, done = waits_to_be_done(make_agent)

    async with serving(app):
        offered = double.offer("n.wait")
        await double.until(lambda: len([beat for _, beat in double.beats if beat["count"]]) >= 2)
        done.set()
        await double.report(offered)
        reported = len(double.beats)
        await double.until(lambda: len(double.beats) >= reported + 2)
        waits = {beat["count"]: beat["wait_seconds"] for _, beat in double.beats[1:]}

    assert waits == {0: 0.3, 1: 0.2}


async def test_a_long_beat_that_does_not_come_back_after_a_claim_is_given_up(double, make_agent, serving):
    """Whoever held it may be gone without a word. What was claimed elsewhere needs another beat, and names all."""
    double.idle_wait_seconds = 30.0
    app, done = waits_to_be_done(make_agent)

    async with serving(app):
        await double.until(lambda: double.beats and double.beats[-1][1]["wait_seconds"] == 30)
        began = time.monotonic()
        offered = double.offer("n.wait")
        await double.until(lambda: double.beats[-1][1]["count"] == 1)
        took = time.monotonic() - began
        told = double.beats[-1][1]
        done.set()
        await double.report(offered)

    assert took < 0.2 + ANSWER_MARGIN_SECONDS + 3
    assert [one["execution_id"] for one in told["executions"]] == [offered[0]]
    assert told["wait_seconds"] == 0.2


async def test_it_is_given_up_also_when_what_was_claimed_blocks_the_loop(double, make_agent, serving):
    """The thread sees a claim by itself."""
    double.idle_wait_seconds = 30.0
    app = make_agent(heartbeat_seconds=0.2)
    blocked: list[float] = []

    @app.reasoner
    async def block() -> None:
        blocked.append(time.monotonic())
        time.sleep(0.2 + ANSWER_MARGIN_SECONDS + 2)  # noqa: ASYNC251 - what the test is about
        blocked.append(time.monotonic())

    async with serving(app):
        await double.until(lambda: double.beats and double.beats[-1][1]["wait_seconds"] == 30)
        await double.report(double.offer("n.block"))
    inside = [beat for at, beat in double.beats if blocked[0] < at < blocked[1]]

    assert inside
    assert inside[0]["count"] == len(inside[0]["executions"]) == 1


async def test_what_is_done_needs_no_other_beat(double, make_agent, serving):
    """The control plane has seen that it holds nothing again, and rightly goes on holding the long beat."""
    double.idle_wait_seconds = 30.0
    app, done = waits_to_be_done(make_agent)

    @app.reasoner
    async def quick() -> None:
        pass

    async with serving(app):
        await double.until(lambda: double.beats and double.beats[-1][1]["wait_seconds"] == 30)
        before = len(double.beats)
        await double.report(double.offer("n.quick"))
        await asyncio.sleep(2)  # of the five that it would be waited for
        began = time.monotonic()
        offered = double.offer("n.wait")
        await double.until(lambda: len(double.beats) > before)
        took = time.monotonic() - began
        done.set()
        await double.report(offered)

    assert took > 0.2 + ANSWER_MARGIN_SECONDS - 1  # from the second on, not from the first


@pytest.mark.parametrize(("content", "headers"), [(b"[]", {}), (b"x", {"Content-Encoding": "gzip"})])
async def test_an_answer_that_is_none_does_not_end_the_beats(double, make_agent, serving, content, headers):
    """Something between may answer in its own words for a while. What is held would be lost without a sign."""
    odd = Response(content, media_type="application/json", headers=headers)
    double.refuse["heartbeat"] = lambda _: odd
    async with serving(make_agent(heartbeat_seconds=0.2)):
        await double.until(lambda: len(double.said("heartbeat")) >= 2)
        del double.refuse["heartbeat"]
        await double.until(lambda: double.beats)


async def test_a_long_beat_holds_nobody_up_who_leaves(double, make_agent, serving):
    """What is under way is given up."""
    double.idle_wait_seconds = 30.0

    async with serving(make_agent(heartbeat_seconds=0.2)):
        await double.until(lambda: double.beats and double.beats[-1][1]["wait_seconds"] == 30)
        began = time.monotonic()

    assert time.monotonic() - began < 1.5
    assert not [one.name for one in threading.enumerate() if one.name == "controlplane-heartbeat"]


async def test_beats_go_on_through_an_outage_and_say_so_once(double, make_agent, serving, caplog):
    """One line when the control plane goes, one when it is back."""
    app = make_agent(heartbeat_seconds=0.2)
    double.misbehave.extend([("/heartbeat", "503")] * 3)

    async with serving(app):
        await double.until(lambda: len(double.beats) > 2)

    assert caplog.text.count("trying again until it is back") == 1
    assert caplog.text.count("answers again") == 1


async def test_the_lease_loop_is_back_at_once_after_an_outage(double, make_agent, serving, caplog):
    """After a failed poll the next one does not wait for work, so that the recovery is seen and said at once."""
    double.misbehave.append(("/lease", "503"))
    async with serving(make_agent()):
        await double.until(lambda: len(double.said("/lease")) == 3)

    assert [poll["wait_seconds"] for poll in double.said("/lease")] == [25, 0, 25]
    assert "answers again" in caplog.text


async def test_repeated_cancels_do_not_make_it_race(double, make_agent, serving):
    """An answer that comes at once, again and again, is paced."""
    app = make_agent(heartbeat_seconds=5)

    @app.reasoner
    async def go() -> None: ...

    double.cancels["exec_unknown", 1] = None
    async with serving(app):
        began = time.monotonic()
        await double.until(lambda: len(double.beats) == 3)

    assert time.monotonic() - began > 1.5
