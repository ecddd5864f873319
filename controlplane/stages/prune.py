"""Prune: make room ahead, and forget what nobody may need any more."""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.postgres.pool import Connection

# In one pass: there is one for every write to memory, and what comes in in an hour must go in an hour.
CHANGES_MAX = 10_000

# Partitions made ahead of time; the function takes its own locks and gives up after 200 ms rather than queue others.
ENSURE_PARTITIONS = "select ensure_partitions($1)"

# Those whose plans are of another time; it takes no lock that anybody who reads or writes waits for.
ANALYZE_GROWN = "select analyze_grown($1, $2, $3)"

DROP_PARTITION = "select drop_partition($1)"

# A row in there came before its week's partition, or long after it: its week cannot be made or dropped any more.
STRAYS = """
select t.name
from (
  select 'executions' as name, exists (select from executions_default) as used
  union all
  select 'outcomes', exists (select from outcomes_default)
  union all
  select 'events', exists (select from events_default)
  union all
  select 'logs', exists (select from logs_default)
  union all
  select 'delivery_attempts', exists (select from delivery_attempts_default)
) as t
where t.used
order by t.name
"""

# By what they name: by the key itself it was now and then planned, with stale statistics, to read the whole bucket.
DROP_KEYS = """
delete from idempotency_keys
where bucket = $1
  and expires_at < clock()
  and execution_id = any(array(
    select execution_id
    from idempotency_keys
    where bucket = $1
      and expires_at < clock()
    order by expires_at
    limit $2
    for update skip locked
  ))
"""

# A secret is worth stealing for as long as it is kept: after this long nobody sends that webhook again.
# What is erased is left empty, not null: sent again by hand the webhook must not go out as if it had never been signed.
FORGET_SECRETS = """
update webhooks
set secret_sealed = case when secret_sealed is not null then ''::bytea end,
  headers_sealed = case when headers_sealed is not null then ''::bytea end
where bucket = $1
  and (execution_id, n) in (
    select w.execution_id, w.n
    from webhooks w
    where w.bucket = $1
      and (length(w.secret_sealed) > 0 or length(w.headers_sealed) > 0)
      and w.created_at < clock() - make_interval(secs => $2)
      and not exists (
        select 1
        from queue q
        where q.bucket = $1
          and q.id = w.execution_id
      )
      and not exists (
        select 1
        from deliveries d
        where d.bucket = $1
          and d.execution_id = w.execution_id
          and d.webhook_n = w.n
          and (d.state in ('pending', 'leased') or d.settled_at > clock() - make_interval(secs => $2))
      )
    order by w.created_at
    limit $3
    for update of w skip locked
  )
"""

# By their places in the table, which a lock keeps as they are: by key it was planned to read the whole of it.
DROP_CHANGES = """
delete from memory_changes
where bucket = $1
  and ctid = any(array(
    select ctid
    from memory_changes
    where bucket = $1
      and at < clock() - make_interval(secs => $2)
    order by at
    limit $3
    for update skip locked
  ))
"""

# What waits or has not ended, as far as anybody has looked, is not over, however old it is. By their places, as above.
DROP_TICKS = """
delete from schedule_ticks
where bucket = $1
  and ctid = any(array(
    select ctid
    from schedule_ticks
    where bucket = $1
      and not open
      and outcome <> 'waiting'
      and at < clock() - make_interval(secs => $2)
    order by at
    limit $3
    for update skip locked
  ))
"""

DROP_BULKS = """
delete from bulks
where bucket = $1
  and id = any(array(
    select id
    from bulks
    where bucket = $1
      and ended_at < clock() - make_interval(secs => $2)
    order by ended_at
    limit $3
    for update skip locked
  ))
"""

# Younger ones are what an event that is sent again is known by. By their places, as above.
DROP_TRIGGER_EVENTS = """
delete from trigger_events
where bucket = $1
  and ctid = any(array(
    select ctid
    from trigger_events
    where bucket = $1
      and at < clock() - make_interval(secs => $2)
    order by at
    limit $3
    for update skip locked
  ))
"""

# Nobody sends there any more. By their places, as above; `failures` is what the index says.
DROP_BREAKERS = """
delete from breakers
where bucket = $1
  and ctid = any(array(
    select ctid
    from breakers
    where bucket = $1
      and failures >= 0
      and changed_at < clock() - make_interval(secs => $2)
    order by changed_at
    limit $3
    for update skip locked
  ))
"""

READ_CLOCK = "select extract(epoch from clock())::float8"


async def ensure_partitions(conn: Connection, *, weeks_ahead: int) -> int:
    """There is a partition for every id that can be made in the next weeks. Says how many it made."""
    made: int = await conn.fetchval(ENSURE_PARTITIONS, weeks_ahead)
    return made


async def analyze_grown(conn: Connection, *, factor: float, rows_min: float, limit: int) -> list[str]:
    """ANALYZE tables and partitions with more than `rows_min` rows and `factor` times those of the last time; names."""
    grown: list[str] = await conn.fetchval(ANALYZE_GROWN, factor, rows_min, limit)
    return grown


async def drop_partition(conn: Connection, buckets: Sequence[int]) -> str | None:
    """Drop one weekly partition that is empty and over; its name, or None when there is none.

    Guard: it is empty while nobody else is in it. Gives up after 200 ms rather than queue others behind it.
    """
    name: str | None = await conn.fetchval(DROP_PARTITION, buckets)
    return name


async def strays(conn: Connection) -> list[str]:
    """The tables that have rows in their DEFAULT partition, where none should ever be."""
    return [row["name"] for row in await conn.fetch(STRAYS)]


async def drop_keys(conn: Connection, bucket: int, *, limit: int = 1_000) -> int:
    """Forget idempotency keys whose time is over."""
    return _count(await conn.execute(DROP_KEYS, bucket, limit))


async def forget_secrets(conn: Connection, bucket: int, *, after_seconds: float, limit: int = 1_000) -> int:
    """Erase webhook secrets of deliveries that were settled long ago."""
    return _count(await conn.execute(FORGET_SECRETS, bucket, after_seconds, limit))


async def drop_changes(conn: Connection, bucket: int, *, after_seconds: float, limit: int = CHANGES_MAX) -> int:
    """Forget changes of memory that nobody looks back to any more."""
    return _count(await conn.execute(DROP_CHANGES, bucket, after_seconds, limit))


async def drop_ticks(conn: Connection, bucket: int, *, after_seconds: float, limit: int = 1_000) -> int:
    """Forget what became of the ticks of schedules long ago."""
    return _count(await conn.execute(DROP_TICKS, bucket, after_seconds, limit))


async def drop_bulks(conn: Connection, bucket: int, *, after_seconds: float, limit: int = 1_000) -> int:
    """Forget bulks that were over long ago."""
    return _count(await conn.execute(DROP_BULKS, bucket, after_seconds, limit))


async def drop_trigger_events(conn: Connection, bucket: int, *, after_seconds: float, limit: int = 1_000) -> int:
    """Forget what came in through triggers long ago; the executions stay for as long as they are kept."""
    return _count(await conn.execute(DROP_TRIGGER_EVENTS, bucket, after_seconds, limit))


async def drop_breakers(conn: Connection, bucket: int, *, after_seconds: float, limit: int = 1_000) -> int:
    """Forget hosts that have neither failed nor answered for long: nobody sends to them any more."""
    return _count(await conn.execute(DROP_BREAKERS, bucket, after_seconds, limit))


async def database_seconds(conn: Connection) -> float:
    """The database's clock, in Unix seconds: ids are stamped with it."""
    seconds: float = await conn.fetchval(READ_CLOCK)
    return seconds


def _count(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
