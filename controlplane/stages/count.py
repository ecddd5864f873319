"""Count: what there is, so that caps and metrics need not count it themselves.

Beside the thread: no execution moves. Each bucket is counted as a whole by whichever replica first finds its count old.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from controlplane.postgres.pool import Connection

STEP_MAX = 5_000
"""Executions that one step of a walk looks at."""

# Looked for first: `on conflict` alone would wait for whoever is counting.
BEGIN = """
insert into census (bucket, namespace, name, count, counted_at)
select $1, 0, $2, 0, '-infinity'
where not exists (
  select 1
  from census
  where bucket = $1
    and namespace = 0
    and name = $2
)
on conflict do nothing
"""

# Who has it counts; who finds it locked or young leaves it.
CLAIM = """
select true
from census
where bucket = $1
  and namespace = 0
  and name = $2
  and counted_at <= clock() - make_interval(secs => $3)
for update skip locked
"""

# Of every namespace how many, and how many in each state, and of all together how many in each state. What is none any
# more is written as 0. The namespace 0 is written in any case: its row says when it was. How late the oldest is belongs
# to the totals below.
EXECUTIONS = """
with counted as (
  select coalesce(namespace, 0) as namespace,
    coalesce(case when namespace is null then 'executions.' else 'standing.' end || state, 'executions') as name,
    count(*) as count
  from queue
  where bucket = $1
  group by grouping sets ((namespace), (state), (namespace, state))
),
named as (
  select namespace, name
  from counted
  union
  select namespace, name
  from census
  where bucket = $1
    and (name = 'executions' or name ~ '^(executions|standing)[.]' and name <> 'executions.oldest_ready_seconds')
)
insert into census (bucket, namespace, name, count, counted_at)
select $1, n.namespace, n.name, coalesce(c.count, 0), clock()
from named n
left join counted c using (namespace, name)
order by n.namespace, n.name
on conflict (bucket, namespace, name) do update
set count = excluded.count, counted_at = excluded.counted_at
where census.namespace = 0 or census.count <> excluded.count
"""

# Seconds are counted, too: how long the oldest delivery has been due. Not of those that are held back: before 17
# PostgreSQL subtracts no infinite instants.
TOTALS = """
with counted as (
  select 'deliveries.pending' as name, count(*) as count
  from deliveries
  where bucket = $1
    and state = 'pending'
  union all
  select 'deliveries.oldest_due_seconds',
    coalesce(greatest(extract(epoch from clock() - min(next_at)), 0), 0)::bigint
  from deliveries
  where bucket = $1
    and state = 'pending'
    and next_at < 'infinity'
  union all
  select 'deliveries.leased', count(*)
  from deliveries
  where bucket = $1
    and state = 'leased'
  union all
  select 'executions.oldest_ready_seconds',
    coalesce(greatest(extract(epoch from clock() - min(available_at)), 0), 0)::bigint
  from queue
  where bucket = $1
    and state = 'ready'
  union all
  select 'sessions.' || case when draining then 'draining' else 'open' end, count(*)
  from sessions
  where bucket = $1
    and closed_at is null
  group by draining
),
named as (
  select name
  from counted
  union
  select name
  from census
  where bucket = $1
    and namespace = 0
    and (name = 'totals' or name like 'sessions.%')
)
insert into census (bucket, namespace, name, count, counted_at)
select $1, 0, n.name, coalesce(c.count, 0), clock()
from named n
left join counted c using (name)
order by n.name
on conflict (bucket, namespace, name) do update
set count = excluded.count, counted_at = excluded.counted_at
"""

MEMORY = """
with counted as (
  select namespace, count(*) as keys, sum(octet_length(value)) as bytes
  from memory
  where bucket = $1
  group by namespace
),
items as (
  select namespace, sum(octet_length(value)) as bytes
  from memory_items
  where bucket = $1
  group by namespace
),
named as (
  select namespace
  from counted
  union
  select namespace
  from census
  where bucket = $1
    and name = 'memory_keys'
)
insert into census (bucket, namespace, name, count, counted_at)
select $1, n.namespace, m.name, m.count, clock()
from named n
left join counted c using (namespace)
left join items i using (namespace)
cross join lateral (
  values ('memory_keys', coalesce(c.keys, 0)), ('memory_bytes', coalesce(c.bytes, 0) + coalesce(i.bytes, 0))
) as m(name, count)
order by n.namespace, m.name
on conflict (bucket, namespace, name) do update
set count = excluded.count, counted_at = excluded.counted_at
where census.namespace = 0 or census.count <> excluded.count
"""

# Taken before anything is looked at: no lock is held for as long as that takes.
TURN = """
insert into census (bucket, namespace, name, count, counted_at)
values ($1, 0, 'invariants', 0, clock())
on conflict (bucket, namespace, name) do update
set counted_at = excluded.counted_at
where census.counted_at <= clock() - make_interval(secs => $2)
returning true
"""

VIOLATIONS = """
with gone as (
  delete from census
  where bucket = $1
    and namespace = 0
    and starts_with(name, 'invariants.')
    and name <> all($2::text[])
)
insert into census (bucket, namespace, name, count, counted_at)
select $1, 0, f.name, f.count, clock()
from unnest($2::text[], $3::bigint[]) as f(name, count)
where f.count is not null
order by f.name
on conflict (bucket, namespace, name) do update
set count = excluded.count, counted_at = excluded.counted_at
"""

WALK = """
select coalesce(cursor, '00000000-0000-0000-0000-000000000000') as after
from census
where bucket = $1
  and namespace = 0
  and name = 'stored_bytes'
  and (cursor is not null or counted_at <= clock() - make_interval(secs => $2))
for update skip locked
"""

# Sizes are known without unpacking what is stored. What is walked past and changes is counted the next time.
STEP = """
with seen as (
  select e.id, e.namespace,
    octet_length(e.input) + coalesce(octet_length(e.context), 0) + coalesce(octet_length(o.result), 0) as bytes
  from executions e
  left join outcomes o on o.bucket = $1 and o.id = e.id
  where e.bucket = $1
    and e.id > $2
  order by e.id
  limit $3
),
added as (
  insert into census (bucket, namespace, name, count, counted_at)
  select $1, namespace, 'stored_bytes.so_far', sum(bytes), clock()
  from seen
  group by namespace
  on conflict (bucket, namespace, name) do update
  set count = census.count + excluded.count, counted_at = excluded.counted_at
)
select count(*) as seen, (array_agg(id order by id desc))[1] as last
from seen
"""

MOVE = """
update census
set cursor = $2
where bucket = $1
  and namespace = 0
  and name = 'stored_bytes'
"""

PUBLISH = """
with walked as (
  delete from census
  where bucket = $1
    and name = 'stored_bytes.so_far'
  returning namespace, count
),
named as (
  select namespace
  from walked
  union
  select namespace
  from census
  where bucket = $1
    and name = 'stored_bytes'
)
insert into census (bucket, namespace, name, count, counted_at)
select $1, n.namespace, 'stored_bytes', coalesce(w.count, 0), clock()
from named n
left join walked w using (namespace)
order by n.namespace
on conflict (bucket, namespace, name) do update
set count = excluded.count, counted_at = excluded.counted_at, cursor = null
"""


async def executions(conn: Connection, bucket: int, *, older_than_seconds: float) -> bool:
    """Count the unfinished executions of every namespace anew. Says whether it was so old.

    Guard: the locked row of the count; of two that come at once one counts and the other goes on.
    """
    async with conn.transaction():
        if not await _claim(conn, bucket, "executions", older_than_seconds):
            return False
        await conn.execute(EXECUTIONS, bucket)
    return True


async def totals(conn: Connection, bucket: int, *, older_than_seconds: float) -> bool:
    """As `executions`: open deliveries, live sessions, and how long the oldest of what is due has waited."""
    async with conn.transaction():
        if not await _claim(conn, bucket, "totals", older_than_seconds):
            return False
        await conn.execute(TOTALS, bucket)
    return True


async def memory(conn: Connection, bucket: int, *, older_than_seconds: float) -> bool:
    """As `executions`: keys and bytes in memory. It reads all of it, so it is for those that have a cap of it."""
    async with conn.transaction():
        if not await _claim(conn, bucket, "memory_keys", older_than_seconds):
            return False
        await conn.execute(MEMORY, bucket)
    return True


async def stored(conn: Connection, bucket: int, *, older_than_seconds: float, limit: int = STEP_MAX) -> bool:
    """One step through what is stored, or the first of a new walk when the last one has ended so long ago.

    A walk is as old as it is long. Guard: the locked row that says where it is; a step happens whole or not at all.
    """
    async with conn.transaction():
        after: UUID | None = await conn.fetchval(WALK, bucket, older_than_seconds)
        if after is None:
            await conn.execute(BEGIN, bucket, "stored_bytes")
            return False
        row = await conn.fetchrow(STEP, bucket, after, limit)
        assert row is not None
        if row["seen"] < limit:  # not only when there is nothing: something always comes in
            await conn.execute(PUBLISH, bucket)
        else:
            await conn.execute(MOVE, bucket, row["last"])
    return True


async def take_turn(conn: Connection, bucket: int, *, older_than_seconds: float) -> bool:
    """Whether it is this caller's turn to look for what breaks an invariant: nobody began so short a time ago.

    Guard: the moment in the row. Of two that come at once the second finds it young. Who dies with its turn leaves it
    to whoever comes after that time.
    """
    return bool(await conn.fetchval(TURN, bucket, older_than_seconds))


async def violations(conn: Connection, bucket: int, found: Mapping[str, int | None]) -> None:
    """Keep how many break each invariant. None: it was not looked at, and what is known stays; others are forgotten."""
    names = sorted(found)
    await conn.execute(VIOLATIONS, bucket, [f"invariants.{name}" for name in names], [found[name] for name in names])


async def _claim(conn: Connection, bucket: int, name: str, older_than_seconds: float) -> bool:
    if await conn.fetchval(CLAIM, bucket, name, older_than_seconds):
        return True
    await conn.execute(BEGIN, bucket, name)
    return False
