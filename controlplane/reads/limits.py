"""Limits, what they hold, and who waits for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from controlplane.domain.limit import KEY, Held, Limit, bucket_of_key, range_of
from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Connection

COUNT_MAX = 10_000
"""Executions that are counted in one limit and in its line."""

READ = """
select namespace, key, concurrency_max, declared_max, rate_max, rate_seconds, spent_at, spent, turn, updated_at,
  clock() as now
from limits
where bucket = $1
  and namespace = $2
  and key = $3
"""

PAGE = """
select namespace, key, concurrency_max, declared_max, rate_max, rate_seconds, spent_at, spent, turn, updated_at,
  clock() as now
from limits
where bucket = $1
  and namespace = $2
  and key > $3
order by key
limit $4
"""

# Which reasoners and nodes have a limit: what a submit has to know. Two ranges of the key, past all that are free.
KNOWN = """
select namespace, key
from limits
where bucket = $1
  and (key >= 'node:' and key < 'node;' or key >= 'reasoner:' and key < 'reasoner;')
"""

BLOCKED = """
select count(*)
from (
  select 1
  from queue
  where bucket = $1
    and namespace = $2
    and line = $3
    and state = 'blocked'
  limit $4
) q
"""

# As `admit` counts: whoever waits for its children holds nothing.
HELD_BY_TARGET = """
select count(*) as held, count(*) filter (where state = 'ready') as ready
from (
  select q.state
  from queue q
  where q.bucket = $1
    and q.namespace = $2
    and q.limited
    and q.state in ('ready', 'leased')
    and q.target collate "C" >= $3
    and q.target collate "C" < $4
    and not exists (
      select 1
      from queue c
      where c.bucket = $1
        and c.parent_id = q.id
      offset 0
    )
  limit $5
) q
"""

HELD_BY_KEY = """
select count(*) as held, count(*) filter (where state = 'ready') as ready
from (
  select q.state
  from queue q
  where q.bucket = $1
    and q.namespace = $2
    and q.concurrency_key = $3
    and q.state in ('ready', 'leased')
    and not exists (
      select 1
      from queue c
      where c.bucket = $1
        and c.parent_id = q.id
      offset 0
    )
  limit $4
) q
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitView:
    """A limit as it stands at one moment. Counts end at COUNT_MAX."""

    limit: Limit
    now: datetime
    held: Held
    blocked: int


async def read(conn: Connection, *, namespace: int, key: str, placement: Placement) -> LimitView | None:
    row = await conn.fetchrow(READ, bucket_of_key(placement, namespace, key), namespace, key)
    return None if row is None else await _view(conn, row, placement)


async def page(conn: Connection, *, namespace: int, after: str, limit: int, placement: Placement) -> list[LimitView]:
    """The limits after this key, by key as the database sorts them, at most `limit`."""
    rows: list[asyncpg.Record] = []
    for bucket in placement.all():
        rows += await conn.fetch(PAGE, bucket, namespace, after, limit)
    rows.sort(key=lambda row: row["key"])
    return [await _view(conn, row, placement) for row in rows[:limit]]


async def known(conn: Connection, *, bucket: int) -> list[tuple[int, str]]:
    """The keys of all reasoners and nodes that have a limit, with their namespaces."""
    return [(row["namespace"], row["key"]) for row in await conn.fetch(KNOWN, bucket)]


async def held(conn: Connection, *, namespace: int, key: str, placement: Placement) -> Held:
    """What this key holds, as `admit` counts it."""
    count = ready = 0
    for bucket in placement.all():
        row = await (
            conn.fetchrow(HELD_BY_KEY, bucket, namespace, key.removeprefix(KEY), COUNT_MAX)
            if key.startswith(KEY)
            else conn.fetchrow(HELD_BY_TARGET, bucket, namespace, *range_of(key), COUNT_MAX)
        )
        assert row is not None
        count, ready = count + row["held"], ready + row["ready"]
    return Held(held=count, ready=ready)


async def _view(conn: Connection, row: asyncpg.Record, placement: Placement) -> LimitView:
    limit = Limit.from_row(row)
    blocked = 0
    for bucket in placement.all():
        blocked += await conn.fetchval(BLOCKED, bucket, limit.namespace, limit.key, COUNT_MAX)
    return LimitView(
        limit=limit,
        now=row["now"],
        held=await held(conn, namespace=limit.namespace, key=limit.key, placement=placement),
        blocked=blocked,
    )
