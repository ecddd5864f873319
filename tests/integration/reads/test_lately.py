"""What has ended in the last 24 hours: where it ended, how it ended, and of how many."""

from __future__ import annotations

from datetime import timedelta

import pytest

from controlplane.domain.execution import Status
from controlplane.domain.lately import HOURS, Lately
from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Connection
from controlplane.reads import lately
from controlplane.reads.lately import LOOK_MAX
from tests.make import NAMESPACE, STOCK, TARGET, make_execution

# A minute into an hour of the clock, so many before the one that is not over.
ENDED = """
update outcomes
set finished_at = date_trunc('hour', clock(), 'UTC') + interval '1 minute' - make_interval(hours => $3),
  started_at = date_trunc('hour', clock(), 'UTC') + interval '1 minute' - make_interval(hours => $3, secs => $4)
where bucket = $1
  and id = $2
"""


async def end(
    conn: Connection, hours_ago: int, status: str = "succeeded", *, ran_seconds: float = 1.0, **over: object
) -> None:
    """An execution that ended so many hours ago, and was accepted in this one."""
    made = await make_execution(conn, status, **over)  # type: ignore[arg-type]
    await conn.execute(ENDED, made.id.int & 4_095, made.id, hours_ago, ran_seconds)


async def look(conn: Connection, look_max: int = LOOK_MAX, placement: Placement = STOCK) -> Lately:
    return await lately.read(conn, namespace=NAMESPACE, buckets=placement.all(), look_max=look_max)


async def test_nothing(conn: Connection) -> None:
    """There are hours all the same, and nothing in them."""
    found = await look(conn)

    assert len(found.begins_at) == HOURS
    assert {one - other for one, other in zip(found.begins_at[1:], found.begins_at, strict=False)} == {
        timedelta(hours=1)
    }
    assert (found.whole.count, found.whole.failure_rate, found.whole.run_time(0.5)) == (0, None, None)


async def test_each_is_counted_in_the_hour_that_it_ended_in(conn: Connection) -> None:
    """Up to the very first of 24, and what ended before is not."""
    for hours_ago, status in ((0, "failed"), (1, "succeeded"), (1, "succeeded"), (23, "cancelled"), (24, "failed")):
        await end(conn, hours_ago, status)

    found = await look(conn)

    counted = [(n, status.value, count) for n, hour in enumerate(found.whole.hours) for status, count in hour.items()]
    assert {one for one in counted if one[2]} == {(23, "failed", 1), (22, "succeeded", 2), (0, "cancelled", 1)}
    assert list(found.targets) == [TARGET]


async def test_the_share_that_failed_leaves_out_what_was_cancelled(conn: Connection) -> None:
    """And the time is of what succeeded."""
    for status, ran_seconds in (("failed", 900), ("cancelled", 900), *(("succeeded", n) for n in (4, 1, 3, 2))):
        await end(conn, 1, status, ran_seconds=ran_seconds)

    found = (await look(conn)).of(TARGET)

    assert found.failure_rate == pytest.approx(0.2)
    assert (found.run_time(0.5), found.run_time(0.95)) == (2_000, 4_000)


async def test_of_many_the_newest_are_counted_and_that_is_said(conn: Connection) -> None:
    """Of each status apart: however much succeeds, what fails is found."""
    await end(conn, 0, "failed", target="n.rare")
    for _ in range(5):
        await end(conn, 0)

    found = await look(conn, look_max=3)

    assert found.whole.totals[Status.SUCCEEDED] == 3
    assert found.of("n.rare").count == 1
    assert {status for _, status in found.more} == {Status.SUCCEEDED}


async def test_what_was_accepted_days_ago_and_ended_now(conn: Connection) -> None:
    """It is counted: the clock has gone on between."""
    made = await make_execution(conn)
    for name, offset in (("in time", "3 days"), ("long after", "10 days")):
        await conn.execute("select set_config('controlplane.clock_offset', $1, false)", offset)
        await conn.execute("delete from outcomes")
        await conn.execute(
            "insert into outcomes (bucket, id, namespace, status, attempt, failures, finished_at)"
            " values (0, $1, 1, 'failed', 1, 1, clock())",
            made.id,
        )
        assert (await look(conn)).whole.count == (name == "in time"), name


async def test_several_buckets_and_no_other_namespace(conn: Connection) -> None:
    """All buckets together, and the times of all in order."""
    for n in range(6):
        await end(conn, 1, ran_seconds=n + 1, bucket=n % 3)
    await end(conn, 1, namespace=2)

    found = await look(conn, placement=Placement(buckets=3, hashed=3))

    assert found.whole.count == 6
    assert found.of(TARGET).run_time(0.5) == 3_000
