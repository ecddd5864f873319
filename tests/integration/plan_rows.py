"""A backlog of 50,000: what the tables look like when plans matter."""

from __future__ import annotations

from uuid import UUID

from controlplane.postgres.pool import Connection

ROWS = 50_000
SMALL = 200

# Ids as `domain/ids.py` makes them, in bucket 0, all of the week before this one (one partition, whatever day it is);
# the n-th is always the same but for its time.
MAKE_ID = """
create function made_id(kind text, n integer) returns uuid language sql immutable as $$
  select (
    lpad(
      to_hex(
        1000 * floor(extract(epoch from date_trunc('week', current_date) - interval '1 day'))::bigint - n * 10000
      ), 12, '0'
    )
    || '7' || substr(md5(kind || n), 1, 3) || '8' || substr(md5(kind || n), 4, 12) || '000'
  )::uuid
$$
"""

# 2 % ready for the target that is asked for, children of others; 60 % for a hundred others; 20 % leased by 52 sessions,
# some overdue, some cancelled, a third of them sent to processes that are called (most of that taken, some
# running for too long); 10 % delayed, 8 % waiting.
QUEUE = """
insert into queue (
  bucket, id, namespace, target, run_id, state, priority, available_at, attempt, retries_max, webhooks, session_id,
  leased_at, started_at, deadline_at, cancel_requested_at, parent_id, sent_at, accepted_at, waits_until, waits_reason
)
select 0, made_id('e', n), 1,
  case when n % 50 = 0 then 'n.echo' else 'n.other' || n % 100 end,
  'run-' || n,
  case when n % 50 < 31 then 'ready' when n % 50 < 41 then 'leased' when n % 50 < 46 then 'delayed' else 'waiting' end,
  n % 3,
  clock() + interval '1 second' * (case when n % 50 between 41 and 45 and n % 1000 <> 41 then n else -n end),
  case when n % 50 between 31 and 40 then 1 else 0 end,
  0, 1,
  case when n % 50 between 31 and 37 then made_id('s', n % 200)
    when n % 50 between 38 and 40 then made_id('c', n % 200) end,
  case when n % 50 between 31 and 40 then clock() - interval '1 hour' end,
  case when n % 50 between 31 and 40 then clock() - interval '1 hour' end,
  case when n % 1000 = 31 then clock() - make_interval(secs => n)
    when n % 50 between 31 and 40 then clock() + make_interval(secs => n) end,
  case when n % 50 in (32, 40) then clock() - interval '1 second' * (case n % 1000 when 32 then 60 else 0 end) end,
  case when n % 50 = 0 then made_id('e', n - 10) end,
  case when n % 50 between 38 and 40 then clock() - interval '1 min' * (n % 1000 = 38)::int end,
  case when n % 1000 = 39 then clock() - interval '3 hours' when n % 50 in (39, 40) then clock() end,
  case when n % 50 >= 46 then case when n % 100 = 46 then 'any' else 'all' end end,
  case when n % 50 >= 46 then 'waiting_for_event' end
from generate_series($1::int, $2::int) as n
"""

# The oldest is written first, as it came.
EXECUTIONS = """
insert into executions (
  bucket, id, namespace, run_id, root_id, target, type, input, priority, retries_max, retry_delay_seconds, retry_factor,
  retry_cap_seconds, webhooks, created_at
)
select 0, made_id(k, n), 1, 'run-' || n, made_id(k, n), 'n.echo', 'reasoner', '{}', 0, 0, 5, 2, 300, 1, clock()
from generate_series($1::int, $2::int) as n, unnest(array['e', 'o']) as k
order by n desc
"""

OUTCOMES = """
insert into outcomes (bucket, id, namespace, status, result, attempt, failures, finished_at)
select 0, made_id('o', n), 1, 'succeeded', '1', 1, 0, clock()
from generate_series($1::int, $2::int) as n
"""

EVENTS = """
insert into events (bucket, execution_id, namespace, run_id, target, type, attempt, at)
select 0, made_id('o', n), 1, 'run-' || n, 'n.echo', 'execution.completed', 1, clock()
from generate_series($1::int, $2::int) as n
"""

WEBHOOKS = """
insert into webhooks (bucket, execution_id, n, namespace, url, host, secret_sealed, attempts_max, created_at)
select 0, made_id(k, n), 1, 1, 'https://h', 'h', case when n % 10 = 0 then 's'::bytea else '' end, 5,
  clock() - interval '1 day'
from generate_series($1::int, $2::int) as n, unnest(array['e', 'o']) as k
"""

# Most are delivered; 20 % wait at one dead host, 10 % are due at 300 others, 2 % are being sent, 2 % are dead.
DELIVERIES = """
insert into deliveries (
  bucket, id, namespace, execution_id, webhook_n, event, host, url, body, state, attempts_max, next_at, lease_until,
  created_at, settled_at
)
select 0, made_id('d', n), 1, made_id('o', n), 1, 'execution.completed',
  case when n % 50 < 10 then 'h0000.dead' else 'h' || lpad((n % 301)::text, 4, '0') end,
  'https://h', '{}',
  case when n % 50 < 15 then 'pending' when n % 50 = 15 then 'leased' when n % 50 = 16 then 'dead' else 'delivered' end,
  5,
  clock() + interval '1 second' * (case when n % 50 < 10 then n else -n end),
  case when n % 50 = 15 then clock() + interval '1 second' * (case when n % 500 = 15 then -n else n end) end,
  clock(),
  case when n % 50 > 15 then clock() - interval '1 day' end
from generate_series($1::int, $2::int) as n
"""

# So many wait at one host, and one at each of so many others.
MANY_HOSTS = """
insert into deliveries (
  bucket, id, namespace, execution_id, webhook_n, event, host, url, body, state, attempts_max, next_at, created_at
)
select 0, made_id('d', n), 1, made_id('o', n), 1, 'execution.completed',
  case when n <= $1 then 'g' else 'h' || lpad((n - $1)::text, greatest(4, length((n - $1)::text)), '0') end,
  'https://h', '{}', 'pending', 5, clock() - interval '1 second' * n, clock()
from generate_series(1, $1::int + $2::int) as n
"""

# All but one of those hosts fail: half are closed still, a quarter is left alone, a quarter may be asked again.
BREAKERS = """
insert into breakers (bucket, host, namespace, failures, windows, opened_at, open_until, changed_at)
select 0, 'h' || lpad(n::text, greatest(4, length(n::text)), '0'), 1, 1 + n % 4, n % 2,
  case when n % 2 = 1 then clock() end,
  case when n % 2 = 1 then clock() + interval '1 minute' * (2 - n % 4) end, clock() - interval '1 hour' * (n % 50)
from generate_series($1::int, $2::int) as n
"""

# Every waiting execution asked something, one in 20 of it is overdue; every finished one had asked once.
APPROVALS = """
insert into approvals (
  bucket, execution_id, request_id, namespace, attempt, node_id, status, requested_at, expires_at, decided_at
)
select 0, made_id(k, n), 'r-' || n, 1, 1, 'n', case when k = 'e' then 'pending' else 'approved' end, clock(),
  clock() + interval '1 second' * (case when n % 1000 = 46 then -n else n end), case when k = 'o' then clock() end
from generate_series($1::int, $2::int) as n, unnest(array['e', 'o']) as k
where k = 'o' or n % 50 >= 46
"""

# Everything that runs or has run has done two steps; what waits waits for an event and has had a signal, one in twenty
# is over; a call has ended that nobody has looked at for one in twenty. One of those has 3,000 children, of which the
# last is missing.
STEPS = """
insert into steps (
  bucket, execution_id, name, namespace, kind, status, value, attempt, due_at, event, request_id, child_id, awaited,
  news, created_at, done_at
)
select 0, made_id(k, n), 'step#' || m, 1, 'step', 'done', '1'::bytea, 1, null, null, null, null::uuid, false, false,
  clock(), clock()
from generate_series($1::int, $2::int) as n, unnest(array['e', 'o']) as k, generate_series(1, 2) as m
where k = 'o' or n % 50 >= 31
union all
select 0, made_id('e', n), 'go', 1, 'event', 'pending', null, 1,
  clock() + interval '1 second' * (case when n % 1000 = 46 then -n else n end), 'go', null, null, true, false,
  clock(), null
from generate_series($1::int, $2::int) as n
where n % 50 >= 46
union all
select 0, made_id('e', n), 'ask', 1, 'approval', 'pending', null, 1, null, null, 'r-' || n, null, true, false, clock(),
  null
from generate_series($1::int, $2::int) as n
where n % 50 >= 46
union all
select 0, made_id('e', n), 'kid', 1, 'call', 'done', null, 1, null, null, null, made_id('o', n), true, true, clock(),
  clock()
from generate_series($1::int, $2::int) as n
where n % 1000 in (46, 47)
union all
select 0, made_id('e', n - 10), 'kid', 1, 'call', 'pending', null, 1, null, null, null, made_id('e', n), false, false,
  clock(), null
from generate_series($1::int, $2::int) as n
where n % 50 = 0
union all
select 0, made_id('e', 47), 'kid#' || m, 1, 'call', case when m = 3000 then 'pending' else 'done' end, null, 1, null,
  null, null, made_id('m', m), true, false, clock(), case when m < 3000 then clock() end
from generate_series(1, 3000) as m
where $1 = 1
"""

SIGNALS = """
insert into signals (
  bucket, execution_id, id, namespace, event, payload, idempotency_key, request_hash, step, received_at, consumed_at
)
select 0, made_id('e', n), made_id('g', n), 1, 'go' || m, '1', 'k' || m, '', case when m = 1 then 'step#1' end, clock(),
  case when m = 1 then clock() end
from generate_series($1::int, $2::int) as n, generate_series(1, 2) as m
where n % 50 >= 46
"""

MEMORY = """
insert into memory (bucket, namespace, scope, scope_id, key, value, length, appended, created_at, updated_at)
select 0, 1, 'run', 'run-' || n % 1000, 'k' || n, '[]', 1, 1, clock(), clock()
from generate_series($1::int, $2::int) as n
"""

MEMORY_ITEMS = """
insert into memory_items (bucket, namespace, scope, scope_id, key, position, value)
select 0, 1, 'run', 'run-' || n % 1000, 'k' || n, 0, '1'
from generate_series($1::int, $2::int) as n
"""

MEMORY_VECTORS = """
insert into memory_vectors (bucket, namespace, scope, scope_id, key, embedding, norm, created_at, updated_at)
select 0, 1, 'run', 'run-' || n % 1000, 'k' || n, '{1}', 1, clock(), clock()
from generate_series($1::int, $2::int) as n
"""

# Of the last two hours.
MEMORY_CHANGES = """
insert into memory_changes (bucket, namespace, scope, scope_id, key, action, value, at)
select 0, 1, 'run', 'run-' || n % 1000, 'k' || n, 'set', '1', clock() - interval '1 second' * ($2 - n) * 0.144
from generate_series($1::int, $2::int) as n
"""

KEYS = """
insert into idempotency_keys (bucket, namespace, scope, key, execution_id, request_hash, expires_at)
select 0, 1, '', 'k' || n, made_id('e', n), 'h',
  clock() + make_interval(secs => case when n % 100 = 0 then -n else n end)
from generate_series($1::int, $2::int) as n
"""

SESSIONS = """
insert into sessions (
  bucket, id, namespace, node_id, instance_id, slots, heartbeat_seconds, lease_seconds, opened_at, renewed_at,
  expires_at
)
select 0, made_id('s', n), 1, 'n', 'i', 8, 10, 30, clock(), clock(), clock() + interval '1 hour'
from generate_series(0, 199) as n
"""

# Ten processes for each of twenty nodes that are called, and those that they have replaced.
CALLED = """
insert into sessions (
  bucket, id, namespace, node_id, instance_id, slots, heartbeat_seconds, lease_seconds, opened_at, renewed_at,
  expires_at, transport, base_url, acknowledges, start_to_close_seconds, closed_at, closed_reason
)
select 0, made_id(k, n), 1, 'p' || n % 20, 'i' || k || n, 8, 2, 90, clock(), clock() - interval '1 minute', clock(),
  case when n % 10 = 0 then 'serverless' else 'push' end, 'http://p' || n, true, 7200,
  case when k = 'r' then clock() end, case when k = 'r' then 'replaced' end
from generate_series(0, 199) as n, unnest(array['c', 'r']) as k
"""

NODES = """
insert into nodes (bucket, namespace, id, transport, version, base_url, registered_at, updated_at, left_at)
select 0, 1, 'p' || n, 'push', '1', 'http://p', clock(), clock(), case when n % 2 = 0 then clock() end
from generate_series(0, 19) as n
"""

LOCAL_CALLS = """
insert into local_calls (bucket, execution_id, local_id, namespace, reasoner_id, status, created_at, updated_at)
select 0, made_id('e', n), 'l' || n, 1, 'child', 'running', clock(), clock()
from generate_series($1::int, $2::int) as n
"""

# Many more than anybody pauses by hand: of a hundred nodes, each and twenty of its reasoners.
PAUSES = """
insert into pauses (bucket, namespace, node_id, name, scope, paused_at)
select 0, 1, 'h' || n, 'h' || n || case when m > 0 then '.r' || m else '' end,
  case when m > 0 then 'reasoner' else 'node' end, clock()
from generate_series(0, 99) as n, generate_series(0, 20) as m
"""

# More than one namespace may have, in two of them; every tenth is revoked.
API_KEYS = """
insert into api_keys (bucket, id, namespace, name, prefix, hash, scopes, created_at, revoked_at)
select 0, made_id('a', n), 1 + n % 2, 'k' || n, 'cp_' || n, sha256(n::text::bytea), array['read'], clock(),
  case when n % 10 = 0 then clock() end
from generate_series(1, 4000) as n
"""

# One in a hundred is due, one in a hundred has ticks that wait, one in ten is paused.
SCHEDULES = """
insert into schedules (
  bucket, id, namespace, name, target, input, interval_seconds, paused, waiting, next_at, due_at, created_at, updated_at
)
select 0, made_id('k', n), 1, 's' || n, 'n.echo', '{}', 60, n % 10 = 9, case when n % 100 = 1 then 2 else 0 end, at, at,
  clock(), clock()
from generate_series($1::int, $2::int) as n, lateral (
  select clock() + interval '1 second' * (case when n % 100 = 0 then -n else n end) as at
) as planned
"""

# The last of each has ended, long ago for one in a hundred; one in fifty has not.
SCHEDULE_TICKS = """
insert into schedule_ticks (
  bucket, schedule_id, planned_at, by_hand, namespace, outcome, execution_id, open, at
)
select 0, made_id('k', n), clock(), false, 1, 'submitted', made_id('o', n), false,
  clock() - interval '1 day' * (case when n % 100 = 0 then 40 else 1 end)
from generate_series($1::int, $2::int) as n
union all
select 0, made_id('k', n), clock() + interval '1 minute', false, 1, 'submitted', made_id('e', n), true, clock()
from generate_series($1::int, $2::int) as n
where n % 50 = 31
union all
select 0, made_id('k', n), clock() + interval '1 minute' * m, false, 1, 'waiting', null, false, clock()
from generate_series($1::int, $2::int) as n, generate_series(1, 2) as m
where n % 100 = 1
"""

# One in a hundred runs, the others were over a day or, one in ten, forty days ago.
BULKS = """
insert into bulks (
  bucket, id, namespace, action, filter, state, matched, exact, created_at, moved_at, ended_at
)
select 0, made_id('b', n), 1, 'cancel', '{}', case when n % 100 = 0 then 'running' else 'done' end, 0, true, clock(),
  clock() - interval '1 second' * n,
  case when n % 100 > 0 then clock() - interval '1 day' * (case when n % 10 = 0 then 40 else 1 end) end
from generate_series($1::int, $2::int) as n
"""

ENDED_PARENTS = """
insert into ended_parents (bucket, id, namespace, status, at)
select 0, made_id('o', n), 1, 'failed', clock() - interval '1 second' * n
from generate_series($1::int, $2::int) as n
"""

# Held back: most in one line, of 200 fairness keys; the others in a hundred lines and waiting for their turn. One in a
# hundred has been let in by its limit.
HELD_BACK = """
insert into queue (
  bucket, id, namespace, target, run_id, state, priority, available_at, attempt, retries_max, webhooks, session_id,
  leased_at, line, limited, concurrency_key, fairness_key
)
select 0, made_id('b', n), 1, case when n % 10 = 9 then 'n.turn' else 'n.held' || n % 10 end, 'run-b',
  case n % 200 when 0 then 'ready' when 100 then 'leased' else 'blocked' end, n % 3, clock(),
  case when n % 200 = 100 then 1 else 0 end, 0, 1,
  case when n % 200 = 100 then made_id('s', n % 200) end, case when n % 200 = 100 then clock() end,
  case when n % 10 = 9 then 'turn:n.turn' when n % 10 < 7 then 'key:main' else 'key:l' || n % 1000 end,
  n % 10 < 9,
  case when n % 10 < 7 then 'main' when n % 10 < 9 then 'l' || n % 1000 end,
  case when n % 2 = 0 then 'f' || n % 200 end
from generate_series($1::int, $2::int) as n
"""

LIMITS = """
insert into limits (bucket, namespace, key, concurrency_max, adopt_passes, updated_at)
select 0, 1,
  case when n = 1 then 'key:main' when n % 500 = 0 then 'reasoner:n.held' || n when n % 500 = 1 then 'node:p' || n
    else 'key:l' || n end, 300, case when n % 500 = 0 then 2 else 0 end, clock()
from generate_series($1::int, $2::int) as n
"""

TRIGGERS = """
insert into triggers (
  bucket, id, namespace, name, target, preset, scheme, arguments, event_types, secret_sealed, paused, created_at,
  updated_at
)
select 0, made_id('t', n), 1, 't' || n, 'n.echo', 'github', '{}', '{}', '{}', '', false, clock(), clock()
from generate_series($1::int, $2::int) as n
"""

# Those of ten triggers; one in a hundred came long ago.
TRIGGER_EVENTS = """
insert into trigger_events (
  bucket, id, trigger_id, namespace, key, outcome, execution_id, body, headers, at
)
select 0, made_id('v', n), made_id('t', n % 10 + 1), 1, 'k' || n, 'submitted', made_id('o', n), '{}', '{}',
  clock() - interval '1 day' * (case when n % 100 = 0 then 40 else 1 end)
from generate_series($1::int, $2::int) as n
"""

# The first hundred came long ago.
AUDIT = """
insert into audit (
  bucket, namespace, seq, id, at, actor_kind, actor, action, object_kind, object_id, previous, hash
)
select 0, 1, n, made_id('z', n), clock() - interval '1 day' * (case when n <= 100 then 40 else 1 end), 'key',
  'k' || n % 10, 'limit.set', 'limit', 'l' || n, sha256(int4send(n - 1)), sha256(int4send(n))
from generate_series($1::int, $2::int) as n
"""

AUDIT_HEAD = "insert into audit_heads (bucket, namespace, seq, hash) values (0, 1, 1000000, sha256(''))"

ENDPOINTS = """
insert into endpoints (
  bucket, id, namespace, slot, name, url, host, events, targets, schedule, secret_sealed, state, disabled_at,
  disabled_by, since_xid, created_at, updated_at
)
select 0, made_id('g', n), 1, n, 'e' || n, 'https://h', 'h', '{*}', '{}', '{0}', '',
  case when n % 2 = 0 then 'disabled' else 'enabled' end, case when n % 2 = 0 then clock() end,
  case when n % 2 = 0 then 'me' end, '1', clock(), clock()
from generate_series(1, 20) as n
"""

# One in ten waits for an endpoint that is disabled, of one or the other.
PARKED = """
insert into deliveries (
  bucket, id, namespace, execution_id, endpoint_id, event_seq, event, host, url, body, state, attempts_max, next_at,
  created_at
)
select 0, made_id('q', n), 1, made_id('o', n), made_id('g', n % 20 + 1), n, 'execution.completed', 'h9999.parked',
  'https://h', '{}', 'pending', 10, 'infinity', clock()
from generate_series($1::int, $2::int) as n
where n % 10 = 1
"""

# One in a hundred is listened to; 200 events have not been announced.
LISTENERS = """
insert into listeners (bucket, execution_id, namespace)
select 0, made_id('e', n), 1
from generate_series($1::int, $2::int) as n
where n % 100 = 31
"""
ANNOUNCED = """
insert into announced (bucket, xid, seq, moved_at)
select 0, xid, seq, clock()
from events
where $1::int <= $2::int
order by events.xid desc, events.seq desc
offset 200
limit 1
on conflict (bucket) do update set xid = excluded.xid, seq = excluded.seq
"""

TABLES = (
    AUDIT,
    TRIGGERS,
    TRIGGER_EVENTS,
    BULKS,
    QUEUE,
    HELD_BACK,
    LIMITS,
    EXECUTIONS,
    OUTCOMES,
    EVENTS,
    WEBHOOKS,
    DELIVERIES,
    BREAKERS,
    PARKED,
    LISTENERS,
    ANNOUNCED,
    APPROVALS,
    MEMORY,
    MEMORY_ITEMS,
    MEMORY_VECTORS,
    MEMORY_CHANGES,
    KEYS,
    LOCAL_CALLS,
    SCHEDULES,
    SCHEDULE_TICKS,
    ENDED_PARENTS,
    STEPS,
    SIGNALS,
)


async def prepare(conn: Connection) -> None:
    """Sixty weeks of partitions, the nodes that are called, and the sessions."""
    await conn.execute("select ensure_partitions(58)")
    await conn.execute(MAKE_ID)
    for statement in (NODES, SESSIONS, CALLED, PAUSES, API_KEYS, AUDIT_HEAD, ENDPOINTS):
        await conn.execute(statement)


async def load(conn: Connection, first: int, last: int) -> None:
    for statement in TABLES:
        await conn.execute(statement, first, last)


async def ids(conn: Connection, kind: str, *numbers: int) -> list[UUID]:
    rows = await conn.fetch("select made_id($1, n) as id from unnest($2::int[]) as n", kind, list(numbers))
    return [row["id"] for row in rows]
