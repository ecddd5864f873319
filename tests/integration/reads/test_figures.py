"""Figures of the overview: right where there is little, bounded and as good as can be where there is much."""

from __future__ import annotations

from datetime import datetime, timedelta

from controlplane.domain.execution import Status
from controlplane.postgres.pool import Connection
from controlplane.reads import figures
from controlplane.reads.figures import LOOK_MAX, Figure, Figures
from controlplane.stages import count
from tests.integration import plan_rows
from tests.make import NAMESPACE, make_execution

READY = """
insert into queue (bucket, id, namespace, target, run_id, state, priority, available_at, attempt, retries_max, webhooks)
select 0, made_id('e', n), $2, 'n.other', 'r', 'ready', 0, clock(), 0, 0, 0
from generate_series(1, $1::int) as n
"""
DEAD = """
insert into deliveries (
  bucket, id, namespace, execution_id, webhook_n, event, host, url, body, state, attempts_max, next_at, created_at,
  settled_at
)
select 0, gen_random_uuid(), $2, gen_random_uuid(), 1, 'e', 'h', 'u', '', 'dead', 1, clock(), clock(),
  clock() - make_interval(mins => $3)
from generate_series(1, $1::int)
"""
FAILED = """
insert into outcomes (bucket, id, namespace, status, attempt, failures, started_at, finished_at)
select 0, uuid_floor(clock() - n * interval '1 second'), 1, 'failed', 1, 1, clock(), clock()
from generate_series(1, $1::int) as n
"""


async def read(conn: Connection, namespace: int = NAMESPACE) -> Figures:
    now: datetime = await conn.fetchval("select clock()")
    return await figures.read(conn, namespace=namespace, since=now - timedelta(hours=1), buckets=range(1))


async def census(conn: Connection) -> None:
    for _ in range(2):  # the first only says that there is something to count
        await count.executions(conn, 0, older_than_seconds=0)


async def test_a_few_are_counted_as_they_are(conn: Connection) -> None:
    """Of this namespace, without a census; what ended long ago does not count as lately."""
    for state in ("queued", "queued", "delayed", "running", "waiting", "failed", "failed", "succeeded"):
        await make_execution(conn, state)
    await conn.execute("update outcomes set finished_at = clock() - interval '2 hours' where id = $1", await last(conn))
    for namespace, minutes in ((NAMESPACE, 1), (NAMESPACE, 90), (7, 1)):
        await conn.execute(DEAD, 1, namespace, minutes)

    said = await read(conn)

    assert said.stands == {
        Status.QUEUED: Figure(count=3),
        Status.RUNNING: Figure(count=1),
        Status.WAITING: Figure(count=1),
    }
    assert (said.unhappy, said.dead) == (Figure(count=1), Figure(count=1))
    assert (await read(conn, 9)).stands[Status.QUEUED] == Figure(count=0)


async def test_very_many_are_what_the_census_found(conn: Connection) -> None:
    """Also for a namespace that has few of them, whose own would have to be looked for among all."""
    await plan_rows.prepare(conn)
    await conn.execute(READY, LOOK_MAX + 5, 7)
    await make_execution(conn, "running")
    await census(conn)

    assert (await read(conn, 7)).stands[Status.QUEUED] == Figure(count=LOOK_MAX + 5, sign="≈")
    assert (await read(conn)).stands[Status.RUNNING] == Figure(count=1, sign="≈")
    await conn.execute("delete from queue where namespace = 1")
    await census(conn)
    assert (await read(conn)).stands[Status.RUNNING] == Figure(count=0, sign="≈")


async def test_of_what_failed_the_newest_are_looked_at(conn: Connection) -> None:
    """There are at least so many."""
    await plan_rows.prepare(conn)
    await conn.execute(FAILED, LOOK_MAX + 1)
    await conn.execute(DEAD, LOOK_MAX + 1, NAMESPACE, 1)

    said = await read(conn)

    assert said.unhappy == Figure(count=LOOK_MAX, sign="+")
    assert said.dead == Figure(count=LOOK_MAX, sign="+")


async def last(conn: Connection) -> object:
    return await conn.fetchval("select id from outcomes where status = 'failed' order by id desc limit 1")
