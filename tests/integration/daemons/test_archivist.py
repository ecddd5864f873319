"""The archivist's pass: what it removes is the stage's, that it goes on and says so is its own."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import asyncpg
import pytest

from controlplane.daemons.archivist import Archivist
from controlplane.domain.placement import Placement
from controlplane.domain.retention import DAY_SECONDS, Keep
from controlplane.postgres.pool import Connection, Pool
from tests.make import accept, counts, make_execution, submission

WEEK = 7 * DAY_SECONDS
KEEP = Keep(succeeded_seconds=WEEK, logs_seconds=WEEK, events_seconds=WEEK, delivered_seconds=WEEK, dead_seconds=WEEK)


@pytest.fixture
async def later(database: str) -> AsyncIterator[Pool]:
    """An archivist's connections, on which it is half a year later."""
    async with asyncpg.create_pool(
        database, min_size=1, max_size=2, server_settings={"controlplane.clock_offset": "26 weeks"}
    ) as pool:
        yield pool


async def test_removes_until_there_is_nothing_left(conn: Connection, later: Pool) -> None:
    """Bucket by bucket, and the weeks that are empty then; a pass that did nothing says so."""
    for bucket in (0, 1):
        await make_execution(conn, "succeeded", bucket=bucket)
    archivist = Archivist(later, Placement(buckets=2, hashed=2), KEEP)

    while await archivist.tick():
        pass

    old = "select count(*) from pg_class where relname ~ '^(executions|events)_2' and relkind = 'r'"
    assert await counts(conn, "executions", "events") == {"executions": 0, "events": 0}
    assert await conn.fetchval(old) == 0


async def test_says_what_it_removed(conn: Connection, later: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """One line for each step that removed something, with the counts."""
    await make_execution(conn, "succeeded")
    archivist = Archivist(later, Placement(), Keep(succeeded_seconds=WEEK))
    with caplog.at_level(logging.INFO):
        while await archivist.tick():
            pass

    [line] = [record for record in caplog.records if record.message == "retention.removed"]
    assert vars(line)["executions"] == {"succeeded": 1}
    assert vars(line)["rows"]["events"] == 2


async def test_keeps_all_by_default(conn: Connection, later: Pool) -> None:
    """Without settings only empty weeks go."""
    await make_execution(conn, "succeeded")
    archivist = Archivist(later, Placement(), Keep())

    while await archivist.tick():
        pass

    assert await counts(conn, "executions") == {"executions": 1}


async def test_a_default_partition_with_rows_is_an_alarm(
    conn: Connection, later: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, not at every pass."""
    await accept(conn, submission(id=await conn.fetchval("select (uuid_floor(clock() + interval '60 weeks'))")))
    archivist = Archivist(later, Placement(), Keep())

    for _ in range(3):
        await archivist.tick()

    [alarm] = [record for record in caplog.records if record.message == "partitions.default_not_empty"]
    assert (alarm.levelno, vars(alarm)["tables"]) == (logging.ERROR, ["events", "executions"])
