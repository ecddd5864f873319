"""The life of an execution: executions, queue, outcomes, events, logs, memory, nodes, webhooks, deliveries.

State is which table a row is in: an accepted execution stands in `executions` for good and in exactly one of `queue`
(not finished) and `outcomes` (finished). Every table that work flows through starts its keys with `bucket`, and every
row carries its `namespace`. Payloads are JSON bytes: they come back as they were sent.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

CLOCK = """
create function clock() returns timestamptz
language sql stable parallel safe
as $$ select now() + coalesce(nullif(current_setting('controlplane.clock_offset', true), ''), '0')::interval $$
"""

UUID_FLOOR = """
create function uuid_floor(moment timestamptz) returns uuid
language sql immutable parallel safe
as $$ select (lpad(to_hex((extract(epoch from moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid $$
"""

# The upper bounds keep out what no deadline can be computed from (infinity, NaN): one such row in the queue would fail
# every claim beside it.
EXECUTIONS = """
create table executions (
  bucket smallint not null,
  id uuid not null,
  namespace smallint not null,
  run_id text not null,
  root_id uuid not null,
  parent_id uuid,
  source_execution_id uuid,
  target text not null,
  type text not null check (type in ('reasoner', 'skill')),
  input bytea not null,
  context bytea,
  session_key text,
  actor_key text,
  priority smallint not null,
  retries_max smallint not null check (retries_max >= 0),
  retry_delay_seconds double precision not null check (retry_delay_seconds between 0 and 1e9),
  retry_factor double precision not null check (retry_factor between 1 and 1e9),
  retry_cap_seconds double precision not null check (retry_cap_seconds between 0 and 1e9),
  timeout_seconds double precision check (timeout_seconds > 0 and timeout_seconds <= 1e9),
  webhooks smallint not null,
  created_at timestamptz not null,
  primary key (bucket, id)
) partition by range (id)
"""

EXECUTIONS_RUN = "create index executions_run on executions (bucket, run_id)"
EXECUTIONS_PARENT = "create index executions_parent on executions (bucket, parent_id) where parent_id is not null"

QUEUE = """
create table queue (
  bucket smallint not null,
  id uuid not null,
  namespace smallint not null,
  target text not null,
  run_id text not null,
  state text not null check (state in ('ready', 'delayed', 'leased', 'waiting', 'paused', 'blocked')),
  priority smallint not null,
  available_at timestamptz not null,
  attempt integer not null default 0 check (attempt >= 0),
  failures smallint not null default 0 check (failures >= 0),
  crashes smallint not null default 0 check (crashes >= 0),
  retries_max smallint not null,
  webhooks smallint not null,
  timeout_seconds double precision,
  session_id uuid,
  leased_at timestamptz,
  started_at timestamptz,
  deadline_at timestamptz,
  cancel_requested_at timestamptz,
  cancel_reason text,
  pause_requested boolean not null default false,
  status_reason text,
  progress bytea,
  progress_at timestamptz,
  primary key (bucket, id),
  constraint leased_has_session check (state <> 'leased' or (session_id is not null and leased_at is not null)),
  constraint resting_has_no_session check (state in ('leased', 'waiting') or session_id is null),
  constraint session_has_attempt check (session_id is null or attempt > 0)
) with (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_vacuum_threshold = 500,
  autovacuum_vacuum_cost_delay = 0,
  autovacuum_analyze_scale_factor = 0.05
)
"""

# The claim reads this index in order, one target at a time.
QUEUE_READY = """
create index queue_ready on queue (bucket, namespace, target, priority desc, available_at, id)
where state = 'ready'
"""
QUEUE_DELAYED = "create index queue_delayed on queue (bucket, available_at) where state = 'delayed'"
# Not `where session_id is not null`: fences say exactly that, and with stale statistics they would be planned through
# this index and read every leased row.
QUEUE_SESSION = "create index queue_session on queue (bucket, session_id) where state in ('leased', 'waiting')"
QUEUE_CANCEL = "create index queue_cancel on queue (bucket, cancel_requested_at) where cancel_requested_at is not null"
QUEUE_DEADLINE = "create index queue_deadline on queue (bucket, deadline_at) where deadline_at is not null"

OUTCOMES = """
create table outcomes (
  bucket smallint not null,
  id uuid not null,
  namespace smallint not null,
  status text not null check (status in ('succeeded', 'failed', 'cancelled', 'timeout')),
  status_reason text,
  result bytea,
  error bytea,
  error_class text,
  error_details bytea,
  attempt integer not null check (attempt >= 0),
  failures smallint not null,
  progress bytea,
  started_at timestamptz,
  finished_at timestamptz not null,
  primary key (bucket, id),
  constraint succeeded_has_result check (status <> 'succeeded' or result is not null)
) partition by range (id)
"""

OUTCOMES_STATUS = "create index outcomes_status on outcomes (bucket, namespace, status, id)"

# xid lets a reader stop before the oldest transaction still running, so that a late commit is never skipped.
EVENTS = """
create table events (
  bucket smallint not null,
  execution_id uuid not null,
  seq bigint generated always as identity (cache 1),
  xid xid8 not null default pg_current_xact_id(),
  namespace smallint not null,
  run_id text not null,
  target text not null,
  type text not null,
  attempt integer not null,
  at timestamptz not null,
  data bytea,
  primary key (bucket, execution_id, seq)
) partition by range (execution_id)
"""

EVENTS_STREAM = "create index events_stream on events (bucket, xid, seq)"

LOGS = """
create table logs (
  bucket smallint not null,
  execution_id uuid not null,
  seq bigint generated always as identity (cache 1),
  namespace smallint not null,
  attempt integer not null,
  at timestamptz not null,
  level text not null,
  event_type text,
  source text,
  message text not null,
  attributes bytea,
  primary key (bucket, execution_id, seq)
) partition by range (execution_id)
"""

# `length` counts the elements when the value is a list: those in `value` and the `appended` ones, rows of their own.
MEMORY = """
create table memory (
  bucket smallint not null,
  namespace smallint not null,
  scope text not null check (scope in ('run', 'session', 'actor', 'global')),
  scope_id text not null,
  key text not null,
  value bytea not null,
  length integer check (length >= 0),
  appended integer not null default 0 check (appended >= 0),
  version bigint not null default 1,
  writer_execution_id uuid,
  writer_attempt integer,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  primary key (bucket, namespace, scope, scope_id, key)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)
"""

MEMORY_ITEMS = """
create table memory_items (
  bucket smallint not null,
  namespace smallint not null,
  scope text not null,
  scope_id text not null,
  key text not null,
  position integer not null check (position >= 0),
  value bytea not null,
  primary key (bucket, namespace, scope, scope_id, key, position)
)
"""

NODES = """
create table nodes (
  bucket smallint not null,
  namespace smallint not null,
  id text not null,
  transport text not null check (transport in ('pull', 'push')),
  version text not null,
  base_url text,
  metadata bytea,
  registered_at timestamptz not null,
  updated_at timestamptz not null,
  primary key (bucket, namespace, id)
)
"""

SESSIONS = """
create table sessions (
  bucket smallint not null,
  id uuid not null,
  namespace smallint not null,
  node_id text not null,
  instance_id text not null,
  slots integer not null check (slots > 0),
  heartbeat_seconds double precision not null check (heartbeat_seconds > 0),
  lease_seconds double precision not null check (lease_seconds > 0),
  running integer not null default 0,
  draining boolean not null default false,
  opened_at timestamptz not null,
  renewed_at timestamptz not null,
  expires_at timestamptz not null,
  closed_at timestamptz,
  closed_reason text,
  primary key (bucket, id)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0)
"""

SESSIONS_NODE = "create index sessions_node on sessions (bucket, namespace, node_id) where closed_at is null"

REASONERS = """
create table reasoners (
  bucket smallint not null,
  namespace smallint not null,
  target text not null,
  node_id text not null,
  reasoner_id text not null,
  type text not null check (type in ('reasoner', 'skill')),
  description text,
  tags text[] not null default '{}',
  input_schema bytea,
  output_schema bytea,
  retries_max smallint not null check (retries_max >= 0),
  retry_delay_seconds double precision not null,
  retry_factor double precision not null,
  retry_cap_seconds double precision not null,
  timeout_seconds double precision,
  registered_at timestamptz not null,
  updated_at timestamptz not null,
  primary key (bucket, namespace, target)
)
"""

WEBHOOKS = """
create table webhooks (
  bucket smallint not null,
  execution_id uuid not null,
  n smallint not null,
  namespace smallint not null,
  url text not null,
  host text not null,
  secret_sealed bytea,
  headers_sealed bytea,
  attempts_max smallint not null check (attempts_max > 0),
  created_at timestamptz not null,
  primary key (bucket, execution_id, n)
)
"""

# An erased secret is an empty value, not a null: what was signed once is never sent unsigned.
WEBHOOKS_SEALED = """
create index webhooks_sealed on webhooks (bucket, created_at)
where length(secret_sealed) > 0 or length(headers_sealed) > 0
"""

# The claimed attempt number is the fence of every later write, as it is for the queue.
# `charged` counts the attempts whose end is known, `unknown` those in a row whose dispatcher died.
DELIVERIES = """
create table deliveries (
  bucket smallint not null,
  id uuid not null,
  namespace smallint not null,
  execution_id uuid not null,
  webhook_n smallint not null,
  event text not null,
  host text not null,
  url text not null,
  body bytea not null,
  state text not null check (state in ('pending', 'leased', 'delivered', 'dead')),
  attempt integer not null default 0,
  charged smallint not null default 0,
  unknown smallint not null default 0,
  attempts_max smallint not null,
  next_at timestamptz not null,
  lease_until timestamptz,
  created_at timestamptz not null,
  settled_at timestamptz,
  primary key (bucket, id),
  constraint one_delivery_per_webhook_and_event unique (bucket, execution_id, webhook_n, event),
  constraint leased_has_lease check ((state = 'leased') = (lease_until is not null)),
  constraint settled_has_moment check ((state in ('delivered', 'dead')) = (settled_at is not null))
) with (
  fillfactor = 80,
  autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_vacuum_threshold = 500,
  autovacuum_vacuum_cost_delay = 0
)
"""

DELIVERIES_DUE = "create index deliveries_due on deliveries (bucket, host, next_at) where state = 'pending'"
DELIVERIES_LEASED = "create index deliveries_leased on deliveries (bucket, lease_until) where state = 'leased'"

DELIVERY_ATTEMPTS = """
create table delivery_attempts (
  bucket smallint not null,
  delivery_id uuid not null,
  attempt integer not null,
  namespace smallint not null,
  outcome text not null check (outcome in ('delivered', 'failed', 'refused', 'unknown')),
  http_status smallint,
  latency_ms integer,
  error text,
  response_body bytea,
  at timestamptz not null,
  primary key (bucket, delivery_id, attempt)
) partition by range (delivery_id)
"""

# A key given together with a run is unique within that run: `scope` is the run id, or empty.
IDEMPOTENCY_KEYS = """
create table idempotency_keys (
  bucket smallint not null,
  namespace smallint not null,
  scope text not null,
  key text not null,
  execution_id uuid not null,
  request_hash bytea not null,
  expires_at timestamptz not null,
  primary key (bucket, namespace, scope, key)
)
"""

IDEMPOTENCY_EXPIRY = "create index idempotency_keys_expiry on idempotency_keys (bucket, expires_at)"

LIMITS = """
create table limits (
  bucket smallint not null,
  namespace smallint not null,
  key text not null,
  concurrency_max integer check (concurrency_max >= 0),
  rate_max integer check (rate_max >= 0),
  rate_seconds double precision check (rate_seconds > 0),
  held integer not null default 0 check (held >= 0),
  updated_at timestamptz not null,
  primary key (bucket, namespace, key)
)
"""

SCHEDULES = """
create table schedules (
  bucket smallint not null,
  id uuid not null,
  namespace smallint not null,
  name text not null,
  target text not null,
  input bytea not null,
  cron text,
  interval_seconds double precision check (interval_seconds > 0),
  time_zone text not null default 'UTC',
  paused boolean not null default false,
  next_at timestamptz,
  last_at timestamptz,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  primary key (bucket, id),
  unique (bucket, namespace, name),
  constraint cron_or_interval check ((cron is null) <> (interval_seconds is null))
)
"""

API_KEYS = """
create table api_keys (
  bucket smallint not null,
  id uuid not null,
  namespace smallint not null,
  name text not null,
  prefix text not null,
  hash bytea not null,
  scopes text[] not null,
  node_id text,
  created_at timestamptz not null,
  expires_at timestamptz,
  last_used_at timestamptz,
  revoked_at timestamptz,
  primary key (bucket, id),
  unique (bucket, prefix)
)
"""

# Calls that a node made inside its own process under an id of its own making: shown, never run.
LOCAL_CALLS = """
create table local_calls (
  bucket smallint not null,
  execution_id uuid not null,
  local_id text not null,
  namespace smallint not null,
  parent_local_id text,
  reasoner_id text not null,
  status text not null,
  input bytea,
  result bytea,
  error bytea,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  primary key (bucket, execution_id, local_id)
)
"""

# Weekly ranges of the uuidv7 ids. Creating one locks the DEFAULT partition for a moment: a busy moment is left for the
# next pass instead of queueing everybody behind it.
ENSURE_PARTITIONS = """
create function ensure_partitions(weeks_ahead integer) returns integer
language plpgsql
set lock_timeout = '200ms'
as $$
declare
  parent text;
  week timestamptz;
  name text;
  made integer := 0;
begin
  perform pg_advisory_xact_lock(hashtext('controlplane.partitions'));
  foreach parent in array array['executions', 'outcomes', 'events', 'logs', 'delivery_attempts'] loop
    for week in
      select generate_series(
        date_trunc('week', clock() at time zone 'UTC') - interval '1 week',
        date_trunc('week', clock() at time zone 'UTC') + make_interval(weeks => weeks_ahead),
        interval '1 week'
      ) at time zone 'UTC'
    loop
      name := parent || to_char(week at time zone 'UTC', '_YYYY_MM_DD');
      if to_regclass(name) is null then
        begin
          execute format(
            'create table %I partition of %I for values from (%L) to (%L)',
            name, parent, uuid_floor(week), uuid_floor(week + interval '1 week')
          );
          made := made + 1;
        exception when check_violation then
          -- It came too late: rows of that week lie in the DEFAULT partition. The weeks after it are made all the same.
          raise warning 'no partition %: rows of its week are in %_default', name, parent;
        end;
      end if;
    end loop;
  end loop;
  return made;
end
$$
"""

STATEMENTS = (
    CLOCK,
    UUID_FLOOR,
    EXECUTIONS,
    EXECUTIONS_RUN,
    EXECUTIONS_PARENT,
    QUEUE,
    QUEUE_READY,
    QUEUE_DELAYED,
    QUEUE_SESSION,
    QUEUE_CANCEL,
    QUEUE_DEADLINE,
    OUTCOMES,
    OUTCOMES_STATUS,
    EVENTS,
    EVENTS_STREAM,
    LOGS,
    MEMORY,
    MEMORY_ITEMS,
    NODES,
    SESSIONS,
    SESSIONS_NODE,
    REASONERS,
    WEBHOOKS,
    WEBHOOKS_SEALED,
    DELIVERIES,
    DELIVERIES_DUE,
    DELIVERIES_LEASED,
    DELIVERY_ATTEMPTS,
    IDEMPOTENCY_KEYS,
    IDEMPOTENCY_EXPIRY,
    LIMITS,
    SCHEDULES,
    API_KEYS,
    LOCAL_CALLS,
    # The DEFAULT partitions stay empty; a row in one means that partitions were not made ahead in time.
    "create table executions_default partition of executions default",
    "create table outcomes_default partition of outcomes default",
    "create table events_default partition of events default",
    "create table logs_default partition of logs default",
    "create table delivery_attempts_default partition of delivery_attempts default",
    ENSURE_PARTITIONS,
    "select ensure_partitions(4)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
