"""Schedules as a program sees them: what it says goes out as it is, what comes in are times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from controlplane_sdk import Client, NotFound

FIRST = datetime(2030, 1, 1, 9, tzinfo=UTC)


async def test_what_is_left_out_is_not_sent(double):
    """The control plane's defaults are the control plane's."""
    async with Client(double.url) as client:
        made = await client.schedules.create("s", "n.f", {"x": 1}, cron="0 9 * * *", time_zone="Europe/Berlin")

    assert double.said("/schedules") == [
        {"name": "s", "target": "n.f", "input": {"x": 1}, "cron": "0 9 * * *", "time_zone": "Europe/Berlin"}
    ]
    assert (made.name, made.next_at, made.next[0]) == ("s", FIRST, FIRST)


async def test_replacing_is_putting(double):
    """A moment goes out with its offset; sent again after a lost answer it says the same."""
    double.misbehave.append(("/schedules/s", "lose the answer"))
    at = datetime(2030, 1, 31, 9, tzinfo=timezone(timedelta(hours=1)))
    async with Client(double.url) as client:
        await client.schedules.create("s", "n.f", run_at=at, replace=True)
    sent = [(method, body) for method, path, _, body in double.heard if path == "/schedules/s"]

    assert sent == 2 * [("PUT", {"target": "n.f", "run_at": "2030-01-31T09:00:00+01:00"})]


async def test_a_moment_needs_a_zone(double):
    """A local time is refused before it is sent."""
    async with Client(double.url) as client:
        with pytest.raises(ValueError, match="time zone"):
            await client.schedules.create("s", "n.f", run_at=datetime(2030, 1, 1))  # noqa: DTZ001 - it is the point

    assert double.heard == []


async def test_looked_at_and_turned(double):
    """Read, list, next times, ticks, pause, resume, delete."""
    async with Client(double.url) as client:
        await client.schedules.create("s", "n.f", interval_seconds=60)
        assert (await client.schedules.pause("s")).paused
        assert not (await client.schedules.resume("s")).paused
        assert (await client.schedules.get("s")).target == "n.f"
        assert [one.name for one in (await client.schedules.list()).items] == ["s"]
        assert await client.schedules.next("s", 1) == [FIRST]
        assert [one.outcome for one in (await client.schedules.ticks("s")).items] == ["skipped"]
        await client.schedules.delete("s")
        with pytest.raises(NotFound):
            await client.schedules.get("s")


async def test_run_starts_once(double):
    """Sent again after a lost answer it is one execution, and the handle is its."""
    double.misbehave.append(("/run", "lose the answer"))
    async with Client(double.url) as client:
        await client.schedules.create("s", "n.f", interval_seconds=60)
        handle = await client.schedules.run("s")
        double.finish(handle.execution_id, status="succeeded", result=2)

        assert await handle.result() == 2
    assert len(double.executions) == 1
