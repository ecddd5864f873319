"""The lease stays alive while the event loop does not."""

from __future__ import annotations

import asyncio
import logging
import time

from controlplane_sdk.heartbeat import Watchdog


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
