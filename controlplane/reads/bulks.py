"""Bulks as they stand, and what the filter of one finds: page by page, whatever the history behind it.

A dry run and the bulk itself ask with the very same statements.
"""

from __future__ import annotations

from datetime import datetime
from heapq import merge
from itertools import groupby
from typing import assert_never
from uuid import UUID

import asyncpg

from controlplane.domain.bulk import (
    UNHAPPY,
    Action,
    Asked,
    Bulk,
    BulkId,
    BulkState,
    Count,
    Match,
    Page,
    bounds,
    in_bucket,
    together,
)
from controlplane.domain.ids import BUCKETS_MAX
from controlplane.domain.placement import Placement, span
from controlplane.postgres.pool import Connection

COUNT_LOOK_MAX = 5_000
"""Rows that one statement looks at that counts, matching or not."""
COUNTED_MAX = 10_000
"""Matches that are counted; of more it is said that there are at least so many."""
LOOKED_MAX = 100_000
"""Rows that are looked at for a count."""
SAMPLE_MAX = 10

# In the order of the primary key, so many rows and no more: which of them match is asked of those. One that does not
# match costs as much as one that does, and what was looked at is never looked at again.
FIND_UNFINISHED = """
with looked as materialized (
  select q.id, q.namespace, q.run_id, q.target, q.state, q.cancel_requested_at, q.pause_requested
  from queue q
  where q.bucket = $1
    and q.id > $2
    and q.id < $3
  order by q.id
  limit $4
)
select seen.rows, seen.last_id, found.id, found.run_id
from (select count(*) as rows, (select id from looked order by id desc limit 1) as last_id from looked) as seen
left join (
  select l.id, l.run_id
  from looked l
  cross join lateral (
    select e.created_at, e.session_key, e.actor_key
    from executions e
    where e.bucket = $1
      and e.id = l.id
    limit 1
  ) as e
  where l.namespace = $5
    and l.state = any($6::text[])
    and (case $7 when 'cancel' then l.cancel_requested_at is null
      when 'pause' then l.state <> 'paused' and not l.pause_requested and l.cancel_requested_at is null
      else l.state = 'paused' or l.pause_requested end)
    and ($9::text is null or l.target = $9)
    and ($10::text is null or starts_with(l.target, $10))
    and ($11::text is null or l.run_id = $11)
    and ($12::text is null or e.session_key = $12)
    and ($13::text is null or e.actor_key = $13)
    and e.created_at <= $8
    and ($14::timestamptz is null or e.created_at >= $14)
    and ($15::timestamptz is null or e.created_at < $15)
) as found on true
order by found.id
"""

# Status by status along its index, and of all of them together the first so many: no status is passed over. Status and
# id are compared and ordered as one: as `status = … order by id` it was planned through the primary key, past all that
# had succeeded.
FIND_FINISHED = """
with looked as materialized (
  select o.id, o.error_class, o.finished_at
  from unnest($6::text[]) as wanted(status)
  cross join lateral (
    select o.id, o.error_class, o.finished_at
    from outcomes o
    where o.bucket = $1
      and o.namespace = $5
      and (o.status, o.id) > (wanted.status, $2)
      and (o.status, o.id) < (wanted.status, $3)
    order by o.status, o.id
    limit $4
  ) as o
  order by o.id
  limit $4
)
select seen.rows, seen.last_id, found.id, found.run_id
from (select count(*) as rows, (select id from looked order by id desc limit 1) as last_id from looked) as seen
left join (
  select l.id, e.run_id
  from looked l
  cross join lateral (
    select e.run_id, e.target, e.created_at, e.session_key, e.actor_key
    from executions e
    where e.bucket = $1
      and e.id = l.id
    limit 1
  ) as e
  where l.finished_at <= $7
    and ($8::text is null or e.target = $8)
    and ($9::text is null or starts_with(e.target, $9))
    and ($10::text is null or e.session_key = $10)
    and ($11::text is null or e.actor_key = $11)
    and ($12::timestamptz is null or e.created_at >= $12)
    and ($13::timestamptz is null or e.created_at < $13)
    and ($14::text is null or l.error_class = $14
      or right($14, 1) = '*' and starts_with(l.error_class, left($14, -1)))
    and ($15::timestamptz is null or l.finished_at >= $15)
    and ($16::timestamptz is null or l.finished_at < $16)
) as found on true
order by found.id
"""

# A run is small beside the history, and its index knows no order: so its rows are found first and sorted then. Planned
# as one, the primary key was walked instead, past everybody's executions.
FIND_FINISHED_OF_RUN = """
with of_run as materialized (
  select e.id, e.run_id, e.namespace, e.target, e.created_at, e.session_key, e.actor_key
  from executions e
  where e.bucket = $1
    and e.run_id = $17
),
looked as materialized (
  select *
  from of_run
  where id > $2
    and id < $3
  order by id
  limit $4
)
select seen.rows, seen.last_id, found.id, found.run_id
from (select count(*) as rows, (select id from looked order by id desc limit 1) as last_id from looked) as seen
left join (
  select l.id, l.run_id
  from looked l
  cross join lateral (
    select o.status, o.finished_at, o.error_class
    from outcomes o
    where o.bucket = $1
      and o.id = l.id
    limit 1
  ) as o
  where l.namespace = $5
    and o.status = any($6::text[])
    and o.finished_at <= $7
    and ($8::text is null or l.target = $8)
    and ($9::text is null or starts_with(l.target, $9))
    and ($10::text is null or l.session_key = $10)
    and ($11::text is null or l.actor_key = $11)
    and ($12::timestamptz is null or l.created_at >= $12)
    and ($13::timestamptz is null or l.created_at < $13)
    and ($14::text is null or o.error_class = $14
      or right($14, 1) = '*' and starts_with(o.error_class, left($14, -1)))
    and ($15::timestamptz is null or o.finished_at >= $15)
    and ($16::timestamptz is null or o.finished_at < $16)
) as found on true
order by found.id
"""

# Not what a process of a node is told (webhook_n 0): whoever listens there asks for itself.
FIND_DEAD = """
with looked as materialized (
  select d.id, d.namespace, d.execution_id, d.webhook_n, d.host, d.event, d.endpoint_id,
    d.created_at, d.settled_at
  from deliveries d
  where d.bucket = $1
    and d.state = 'dead'
    and d.id > $2
    and d.id < $3
  order by d.id
  limit $4
)
select seen.rows, seen.last_id, found.id, found.run_id, found.host
from (select count(*) as rows, (select id from looked order by id desc limit 1) as last_id from looked) as seen
left join (
  select l.id, e.run_id, l.host
  from looked l
  left join lateral (
    select e.run_id, e.target, e.session_key, e.actor_key
    from executions e
    where e.bucket = $1
      and e.id = l.execution_id
    limit 1
  ) as e on true
  where l.namespace = $5
    and l.webhook_n is distinct from 0
    and l.settled_at <= $6
    and ($7::text is null or e.target = $7)
    and ($8::text is null or starts_with(e.target, $8))
    and ($9::text is null or e.run_id = $9)
    and ($10::text is null or e.session_key = $10)
    and ($11::text is null or e.actor_key = $11)
    and ($12::timestamptz is null or l.created_at >= $12)
    and ($13::timestamptz is null or l.created_at < $13)
    and ($14::text is null or l.host = $14)
    and ($15::timestamptz is null or l.settled_at >= $15)
    and ($16::timestamptz is null or l.settled_at < $16)
    and ($17::text is null or l.event = $17)
    and ($18::uuid is null or l.endpoint_id = $18)
) as found on true
order by found.id
"""

# Also what was delivered: in the order of the primary key, past everything that is something else.
FIND_SETTLED = """
with looked as materialized (
  select d.id, d.namespace, d.execution_id, d.webhook_n, d.state, d.host, d.event, d.endpoint_id,
    d.created_at, d.settled_at
  from deliveries d
  where d.bucket = $1
    and d.id > $2
    and d.id < $3
  order by d.id
  limit $4
)
select seen.rows, seen.last_id, found.id, found.run_id, found.host
from (select count(*) as rows, (select id from looked order by id desc limit 1) as last_id from looked) as seen
left join (
  select l.id, e.run_id, l.host
  from looked l
  left join lateral (
    select e.run_id, e.target, e.session_key, e.actor_key
    from executions e
    where e.bucket = $1
      and e.id = l.execution_id
    limit 1
  ) as e on true
  where l.namespace = $5
    and l.webhook_n is distinct from 0
    and l.settled_at <= $6
    and ($7::text is null or e.target = $7)
    and ($8::text is null or starts_with(e.target, $8))
    and ($9::text is null or e.run_id = $9)
    and ($10::text is null or e.session_key = $10)
    and ($11::text is null or e.actor_key = $11)
    and ($12::timestamptz is null or l.created_at >= $12)
    and ($13::timestamptz is null or l.created_at < $13)
    and ($14::text is null or l.host = $14)
    and ($15::timestamptz is null or l.settled_at >= $15)
    and ($16::timestamptz is null or l.settled_at < $16)
    and ($17::text is null or l.event = $17)
    and ($18::uuid is null or l.endpoint_id = $18)
    and l.state = any($19::text[])
) as found on true
order by found.id
"""

READ_NAMED = """
select e.id, e.run_id, coalesce(q.state, o.status) as standing
from executions e
left join queue q on q.bucket = $1 and q.id = e.id and q.id = any($2::uuid[])
left join outcomes o on o.bucket = $1 and o.id = e.id and o.id = any($2::uuid[]) and o.id between $4 and $5
where e.bucket = $1
  and e.id = any($2::uuid[])
  and e.id between $4 and $5
  and e.namespace = $3
"""

READ_NAMED_DELIVERIES = """
select d.id, d.state as standing, d.host
from deliveries d
where d.bucket = $1
  and d.id = any($2::uuid[])
  and d.namespace = $3
  and d.webhook_n is distinct from 0
"""

READ_CLOCK = "select clock()"

READ = """
select id, action, filter, reason, reuse, state, error, matched, exact, done, reasons, created_at,
  created_by, began_at, ended_at
from bulks
where bucket = $1
  and id = $2
  and namespace = $3
"""

PAGE = """
select id, action, filter, reason, reuse, state, error, matched, exact, done, reasons, created_at,
  created_by, began_at, ended_at
from bulks
where bucket = $1
  and namespace = $2
  and ($3::uuid is null or id < $3)
order by id desc
limit $4
"""


async def find(
    conn: Connection, bucket: int, asked: Asked, *, began_at: datetime, after: UUID | None, limit: int, look: int
) -> Page:
    """The next ones of this bucket that are meant, at most `limit`, of at most `look` that are looked at."""
    if asked.filter.ids:
        return await _named(conn, bucket, asked, after, limit)
    low, high = bounds(asked.filter, began_at)
    low = low if after is None else max(low, after)
    rows = await _rows(conn, bucket, asked, low, high, look, began_at)
    items = [
        Match(id=row["id"], run_id=row["run_id"] or "", host=row.get("host", ""))
        for row in rows
        if row["id"] is not None
    ]
    if len(items) > limit:
        return Page(items=tuple(items[:limit]), cursor=items[limit - 1].id, more=True)
    return Page(items=tuple(items), cursor=rows[0]["last_id"] or after, more=rows[0]["rows"] >= look)


async def count(conn: Connection, asked: Asked, *, placement: Placement) -> Count:
    """How many would be meant by a bulk that began now: exactly, or at least so many where there are a lot."""
    began_at: datetime = await conn.fetchval(READ_CLOCK)
    matched: dict[int, int] = {}
    exact: dict[int, bool] = {}
    sample: list[UUID] = []
    looked = 0
    for bucket in placement.all():
        matched[bucket], exact[bucket] = 0, False
        after: UUID | None = None
        while looked < LOOKED_MAX and sum(matched.values()) < COUNTED_MAX:
            page = await find(
                conn, bucket, asked, began_at=began_at, after=after, limit=COUNT_LOOK_MAX, look=COUNT_LOOK_MAX
            )
            meant = [one.id for one in page.items if one.skip is None]
            matched[bucket] += len(meant)
            sample += meant[: SAMPLE_MAX - len(sample)]
            looked += COUNT_LOOK_MAX if page.more else 0
            if not page.more:
                exact[bucket] = True
                break
            after = page.cursor
    return Count(matched=matched, exact=exact, sample=tuple(sample))


async def read(conn: Connection, id_: BulkId, *, namespace: int, placement: Placement) -> Bulk | None:
    """A bulk as it stands in all buckets together."""
    rows = [await conn.fetchrow(READ, bucket, id_, namespace) for bucket in placement.all()]
    parts = [Bulk.from_row(row) for row in rows if row is not None]
    return together(parts) if parts else None


async def page(
    conn: Connection, *, namespace: int, state: BulkState | None, before: UUID | None, limit: int, placement: Placement
) -> list[Bulk]:
    """The newest bulks, at most `limit`; with `state` those of that state among the newest."""
    found: list[Bulk] = []
    while len(found) < limit:
        wholes = await _wholes(conn, namespace, before, limit, placement)
        found += [one for one in wholes if state is None or one.state is state]
        if len(wholes) < limit:
            break
        before = wholes[-1].id
    return found[:limit]


async def _wholes(
    conn: Connection, namespace: int, before: UUID | None, limit: int, placement: Placement
) -> list[Bulk]:
    """Every bucket has the same bulks."""
    parts = [
        [Bulk.from_row(row) for row in await conn.fetch(PAGE, bucket, namespace, before, limit)]
        for bucket in placement.all()
    ]
    newest = merge(*parts, key=lambda part: part.id.int, reverse=True)
    return [together(list(same)) for _, same in groupby(newest, key=lambda part: part.id)][:limit]


async def _named(conn: Connection, bucket: int, asked: Asked, after: UUID | None, limit: int) -> Page:
    left = [one for one in in_bucket(asked.filter.ids, bucket, BUCKETS_MAX) if after is None or one > after]
    ids = left[:limit]
    if not ids:
        return Page(items=(), cursor=after, more=False)
    if asked.action is Action.REDRIVE_DELIVERIES:
        rows = await conn.fetch(READ_NAMED_DELIVERIES, bucket, ids, asked.namespace)
        there, wanted = {row["id"]: (row["standing"], "", row["host"]) for row in rows}, asked.states
    else:
        rows = await conn.fetch(READ_NAMED, bucket, ids, asked.namespace, *span(ids))
        there, wanted = {row["id"]: (row["standing"], row["run_id"], "") for row in rows}, asked.wanted
        if asked.action is Action.RETRY:
            wanted = [status.value for status in UNHAPPY]
    items = []
    for id_ in ids:
        standing, run_id, host = there.get(id_, (None, "", ""))
        skip = None if standing in wanted else "not_found" if standing is None else f"is_{standing}"
        items.append(Match(id=id_, run_id=run_id, host=host, skip=skip))
    return Page(items=tuple(items), cursor=ids[-1], more=len(left) > limit)


async def _rows(
    conn: Connection, bucket: int, asked: Asked, low: UUID, high: UUID, look: int, began_at: datetime
) -> list[asyncpg.Record]:
    one = asked.filter
    node = None if one.node_id is None else one.node_id + "."
    where = (bucket, low, high, look, asked.namespace)
    ended = (one.ended_after, one.ended_before)
    created = (one.created_after, one.created_before)
    whose = (one.session_key, one.actor_key)
    match asked.action:
        case Action.CANCEL | Action.PAUSE | Action.RESUME:
            said = (asked.wanted, asked.action.value, began_at, one.target, node, one.run_id, *whose, *created)
            return await conn.fetch(FIND_UNFINISHED, *where, *said)
        case Action.RETRY:
            wanted = (asked.wanted, began_at, one.target, node, *whose, *created, one.error_class, *ended)
            if one.run_id is not None:
                return await conn.fetch(FIND_FINISHED_OF_RUN, *where, *wanted, one.run_id)
            return await conn.fetch(FIND_FINISHED, *where, *wanted)
        case Action.REDRIVE_DELIVERIES:
            which = (one.target, node, one.run_id, *whose, *created, one.host, *ended, one.event, one.endpoint_id)
            if asked.replays:
                return await conn.fetch(FIND_SETTLED, *where, began_at, *which, asked.states)
            return await conn.fetch(FIND_DEAD, *where, began_at, *which)
        case _:
            assert_never(asked.action)
