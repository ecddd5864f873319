"""Fills a database with what years of work leave behind, set by set: partitions are filled first and indexed after."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

WEEKS = 9
SESSIONS = 1_000
LINES = 100
BATCH_ROWS = 500_000
"""Rows of one statement: what a failure throws away, and how often progress is said."""

# Ids as `domain/ids.py` makes them, of a moment, in bucket 0; the n-th is always the same but for its time.
MAKE_ID = """
create or replace function made_id(kind text, n bigint, at timestamptz) returns uuid language sql immutable as $$
  select (
    lpad(to_hex(floor(1000 * extract(epoch from at))::bigint), 12, '0')
    || '7' || substr(md5(kind || n), 1, 3) || '8' || substr(md5(kind || n), 4, 12) || '000'
  )::uuid
$$
"""

MAKE_RUN = """
create or replace function made_run(kind text, n bigint) returns text language sql immutable as $$
  select 'run_' || left(md5(kind || n), 26)
$$
"""

# $1 to $2 are their numbers; the first was at $3, each next one $4 seconds later.
EXECUTIONS = """
insert into {table} (
  bucket, id, namespace, run_id, root_id, target, type, input, priority, retries_max, retry_delay_seconds, retry_factor,
  retry_cap_seconds, webhooks, created_at
)
select 0, id, 1, made_run('{kind}', n), id, {target}, 'reasoner', convert_to(
    '{{"text": "' || repeat(md5(n::text), 5) || '"}}', 'UTF8'
  ), 0, 2, 5, 2, 300, (n % 10 = 0)::int, at
from generate_series($1::bigint, $2::bigint) as n
cross join lateral (select $3::timestamptz + (n - $1) * make_interval(secs => $4) as at) as t
cross join lateral (select made_id('{kind}', n, at) as id) as i
"""

OUTCOMES = """
insert into {table} (
  bucket, id, namespace, status, result, error, error_class, attempt, failures, started_at, finished_at
)
select 0, made_id('f', n, at), 1,
  case when n % 20 = 0 then 'failed' when n % 97 = 0 then 'cancelled' else 'succeeded' end,
  case when n % 20 > 0 then convert_to('{{"text": "' || repeat(md5(n::text), 5) || '"}}', 'UTF8') end,
  case when n % 20 = 0 then '"it was not to be"'::bytea end, case when n % 20 = 0 then 'ValueError' end,
  1, (n % 20 = 0)::int, at + interval '1 second', at + interval '2 seconds'
from generate_series($1::bigint, $2::bigint) as n
cross join lateral (select $3::timestamptz + (n - $1) * make_interval(secs => $4) as at) as t
"""

EVENTS = """
insert into {table} (bucket, execution_id, seq, namespace, run_id, target, type, attempt, at, data)
select 0, made_id('f', n, at), nextval('events_seq_seq'), 1, made_run('f', n), 'n.t' || n % 50, type,
  (m > 1)::int, at + m * interval '1 second',
  case m when 2 then '{{"session_id":"ses_06f4a1c8d2e7g9k3m5n8p0q2r4","node_id":"n"}}'::bytea end
from generate_series($1::bigint, $2::bigint) as n
cross join lateral (select $3::timestamptz + (n - $1) * make_interval(secs => $4) as at) as t
cross join unnest(array['execution.queued', 'execution.started', 'execution.completed']) with ordinality as e(type, m)
"""

DELIVERY_ATTEMPTS = """
insert into {table} (bucket, delivery_id, attempt, namespace, outcome, http_status, latency_ms, at)
select 0, made_id('d', n, at), 1, 1, 'delivered', 200, 12, at
from generate_series($1::bigint, $2::bigint) as n
cross join lateral (select $3::timestamptz + (n - $1) * make_interval(secs => $4) as at) as t
where n % 10 = 0
"""

WEBHOOKS = """
insert into webhooks (bucket, execution_id, n, namespace, url, host, secret_sealed, attempts_max, created_at)
select 0, made_id('f', n, at), 1, 1, 'https://h' || n % 300 || '.example/hook', 'h' || n % 300 || '.example', '', 5, at
from generate_series($1::bigint, $2::bigint) as n
cross join lateral (select $3::timestamptz + (n - $1) * make_interval(secs => $4) as at) as t
where n % 10 = 0
"""

DELIVERIES = """
insert into deliveries (
  bucket, id, namespace, execution_id, webhook_n, event, host, url, body, state, attempt, charged, attempts_max,
  next_at, created_at, settled_at
)
select 0, made_id('d', n, at), 1, made_id('f', n, at), 1, 'execution.completed', 'h' || n % 300 || '.example',
  'https://h' || n % 300 || '.example/hook', convert_to('{"text": "' || repeat(md5(n::text), 8) || '"}', 'UTF8'),
  'delivered', 1, 0, 5, at, at, at
from generate_series($1::bigint, $2::bigint) as n
cross join lateral (select $3::timestamptz + (n - $1) * make_interval(secs => $4) as at) as t
where n % 10 = 0
"""

SESSIONS_OPEN = """
insert into sessions (
  bucket, id, namespace, node_id, instance_id, slots, heartbeat_seconds, lease_seconds, opened_at, renewed_at,
  expires_at, running
)
select 0, made_id('s', n, date_trunc('day', clock())), 1, 'n' || n % 100, 'i' || n, 512, 10, 864000, clock(), clock(),
  clock() + interval '10 days', 100
from generate_series(0, $1::int - 1) as n
"""

READY = """
insert into queue (
  bucket, id, namespace, target, run_id, state, priority, available_at, retries_max, webhooks
)
select 0, made_id('r', n, at), 1, case when n % 5 = 0 then 'n.echo' else 'n.t' || n % 50 end,
  made_run('r', n), 'ready', 0, at, 2, (n % 10 = 0)::int
from generate_series($1::bigint, $2::bigint) as n
cross join lateral (select $3::timestamptz + (n - $1) * make_interval(secs => $4) as at) as t
"""

RUNNING = """
insert into queue (
  bucket, id, namespace, target, run_id, state, priority, available_at, attempt, retries_max, webhooks, session_id,
  leased_at, started_at, deadline_at, timeout_seconds, concurrency_key, limited
)
select 0, made_id('l', n, at), 1, case when n <= $6 then 'n.held' else 'n.t' || n % 50 end,
  made_run('l', n), 'leased', 0, at, 1, 2, 0,
  made_id('s', n % $5::int, date_trunc('day', clock())), at, at, clock() + interval '10 days', 864000,
  case when n <= $6 then 'l' || n % $6 end, n <= $6
from generate_series($1::bigint, $2::bigint) as n
cross join lateral (select $3::timestamptz + (n - $1) * make_interval(secs => $4) as at) as t
"""

BLOCKED = """
insert into queue (
  bucket, id, namespace, target, run_id, state, priority, available_at, retries_max, webhooks, line, limited,
  concurrency_key
)
select 0, made_id('b', n, at), 1, 'n.held', made_run('b', n), 'blocked', 0, at, 2, 0,
  'key:l' || n % $5::int, true, 'l' || n % $5::int
from generate_series($1::bigint, $2::bigint) as n
cross join lateral (select $3::timestamptz + (n - $1) * make_interval(secs => $4) as at) as t
"""

LIMITS = """
insert into limits (bucket, namespace, key, concurrency_max, updated_at)
select 0, 1, 'key:l' || n, 1, clock()
from generate_series(0, $1::int - 1) as n
"""

IN_WEEKS = {
    "executions": [(EXECUTIONS, {"kind": "f", "target": "'n.t' || n % 50"})],
    "outcomes": [(OUTCOMES, {})],
    "events": [(EVENTS, {})],
    "delivery_attempts": [(DELIVERY_ATTEMPTS, {})],
}

SIZE = "select pg_database_size(current_database())"
NOW = "select clock()"
ROWS = """
select coalesce(p.relname, c.relname) as name, sum(greatest(c.reltuples, 0))::bigint as rows,
  sum(pg_total_relation_size(c.oid))::bigint as bytes
from pg_class c
left join pg_inherits i on i.inhrelid = c.oid
left join pg_class p on p.oid = i.inhparent
where c.relkind = 'r'
  and c.relnamespace = 'public'::regnamespace
group by 1
having sum(pg_total_relation_size(c.oid)) > 1000000
order by bytes desc
"""


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """How much there is."""

    finished: int
    ready: int
    blocked: int
    running: int
    sessions: int

    @classmethod
    def of(cls, scale: float) -> Backlog:
        """The whole is what a busy installation has after a year without retention."""
        return cls(
            finished=int(10_000_000 * scale),
            ready=int(1_000_000 * scale),
            blocked=int(100_000 * scale),
            running=int(100_000 * scale),
            sessions=max(10, int(SESSIONS * min(1.0, 10 * scale))),
        )


async def fill(conn: asyncpg.Connection, wanted: Backlog, say: Callable[[str], None]) -> None:
    """Nine weeks of finished work and all that waits or runs, analysed. The tables must be empty."""
    began = time.monotonic()
    await conn.execute("set synchronous_commit = off")
    await conn.execute("set maintenance_work_mem = '1GB'")
    await conn.execute(MAKE_ID)
    await conn.execute(MAKE_RUN)
    now: datetime = await conn.fetchval(NOW)
    monday = (now - timedelta(days=now.weekday())).astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first = monday - timedelta(weeks=WEEKS - 1)
    # Whole microseconds, as the database counts: half of one too much is seconds after so many rows, and the next week.
    every = (now - timedelta(hours=1) - first) // wanted.finished
    step = every / timedelta(seconds=1)
    n = 0
    for week in (first + timedelta(weeks=k) for k in range(WEEKS)):
        at = first + every * n
        count = max(0, min(-((at - week - timedelta(weeks=1)) // every), wanted.finished - n))
        for parent, parts in IN_WEEKS.items():
            table = f"{parent}_{week:%Y_%m_%d}"
            await conn.execute(f"drop table if exists {table}")
            await conn.execute(f"create table {table} (like {parent} including defaults including constraints)")
            for statement, words in parts:
                await _rows(conn, statement.format(table=table, **words), n + 1, count, at, step)
            if parent == "executions" and monday == week:
                for kind, target, rows, spread in _unfinished(wanted):
                    sql = EXECUTIONS.format(table=table, kind=kind, target=target)
                    await _rows(conn, sql, 1, rows, now - timedelta(hours=1), spread)
            bounds = f"from (uuid_floor('{week}')) to (uuid_floor('{week + timedelta(weeks=1)}'))"
            await conn.execute(f"alter table {parent} attach partition {table} for values {bounds}")
        await _rows(conn, WEBHOOKS, n + 1, count, at, step)
        await _rows(conn, DELIVERIES, n + 1, count, at, step)
        n += count
        say(f"{n:,} finished, {await conn.fetchval(SIZE) / 1e9:.2f} GB, {time.monotonic() - began:.0f} s")
    await _unfinish(conn, wanted, now - timedelta(hours=1))
    await conn.execute("vacuum (analyze, freeze)")
    await conn.execute("checkpoint")
    say(f"{wanted}, {await conn.fetchval(SIZE) / 1e9:.2f} GB, {time.monotonic() - began:.0f} s")


def _unfinished(wanted: Backlog) -> list[tuple[str, str, int, float]]:
    """Kind, target, how many, and the seconds between two: all were accepted in the last hour."""
    held = max(1, min(LINES, wanted.running // 2))
    return [
        ("r", "case when n % 5 = 0 then 'n.echo' else 'n.t' || n % 50 end", wanted.ready, 3_000 / wanted.ready),
        ("l", f"case when n <= {held} then 'n.held' else 'n.t' || n % 50 end", wanted.running, 3_000 / wanted.running),
        ("b", "'n.held'", wanted.blocked, 3_000 / wanted.blocked),
    ]


async def _unfinish(conn: asyncpg.Connection, wanted: Backlog, at: datetime) -> None:
    held = max(1, min(LINES, wanted.running // 2))
    await conn.execute(SESSIONS_OPEN, wanted.sessions)
    await conn.execute(LIMITS, held)
    await _rows(conn, READY, 1, wanted.ready, at, 3_000 / wanted.ready)
    await _rows(conn, RUNNING, 1, wanted.running, at, 3_000 / wanted.running, wanted.sessions, held)
    await _rows(conn, BLOCKED, 1, wanted.blocked, at, 3_000 / wanted.blocked, held)


async def _rows(
    conn: asyncpg.Connection, sql: str, start: int, count: int, at: datetime, step: float, *more: int
) -> None:
    for low in range(start, start + count, BATCH_ROWS):
        high = min(low + BATCH_ROWS, start + count) - 1
        await conn.execute(sql, low, high, at + timedelta(seconds=step * (low - start)), step, *more, timeout=3_600)
