"""Retention: how far the walks over old executions have come, what finds who refers to what, and how weeks go."""

from __future__ import annotations

from alembic import op

from controlplane.postgres import indexes

revision = "0013"
down_revision = "0012"

# One row per bucket and walk, locked by the replica that goes the next few steps: the others leave them to it. `status`
# is null before the first step of a pass, and a pass that came to the end rests.
WALKS = """
create table retention_walks (
  bucket smallint not null,
  subject text not null check (subject in ('executions', 'events', 'logs')),
  namespace smallint not null default 0,
  status text check (status in ('succeeded', 'failed', 'cancelled', 'timeout')),
  after_id uuid not null default '00000000-0000-0000-0000-000000000000',
  rests_until timestamptz,
  primary key (bucket, subject)
)
"""

# Who refers to an execution or a run keeps it. Few rows refer to anything: both indexes are small.
SOURCE = """
create index executions_source on executions (bucket, source_execution_id) where source_execution_id is not null
"""
REPLAY_SOURCE = """
create index executions_replay_source on executions (bucket, replay_source_run_id)
where replay_source_run_id is not null
"""
# Ids only grow, so a new key goes to the right edge of it.
KEYS_EXECUTION = "create index idempotency_keys_execution on idempotency_keys (bucket, execution_id)"
SETTLED = """
create index deliveries_settled on deliveries (bucket, state, settled_at) where settled_at is not null
"""

# One partition per call, because the drop keeps everybody out of its table until the transaction ends. It holds nothing
# by then: whatever keeps an execution keeps its row, and its row keeps the week. What is younger than the week before
# this one is never looked at: `ensure_partitions` makes those.
DROP_PARTITION = """
create function drop_partition(buckets smallint[]) returns text
language plpgsql
set lock_timeout to '200ms'
as $$
declare
  parent text;
  name text;
  week timestamptz;
  used boolean;
begin
  perform pg_advisory_xact_lock(hashtext('controlplane.partitions'));
  for parent, name, week in
    select p.parent, c.relname, to_date(right(c.relname, 10), 'YYYY_MM_DD')::timestamp at time zone 'UTC'
    from unnest(array['executions', 'outcomes', 'events', 'logs', 'delivery_attempts']) with ordinality as p(parent, n)
    join pg_inherits i on i.inhparent = to_regclass(p.parent)
    join pg_class c on c.oid = i.inhrelid
    where c.relname ~ ('^' || p.parent || '_\\d{4}_\\d{2}_\\d{2}$')
    order by p.n, c.relname
  loop
    continue when week >= date_trunc('week', clock() at time zone 'UTC') at time zone 'UTC' - interval '1 week';
    -- Outcomes, events and logs are written as long as their execution is there, perhaps none of them so far.
    continue when parent in ('outcomes', 'events', 'logs')
      and to_regclass('executions' || right(name, 11)) is not null;
    if parent = 'delivery_attempts' then
      select bool_or(d.found) into used
      from unnest(buckets) as b(bucket)
      cross join lateral (
        select exists (
          select 1
          from deliveries
          where deliveries.bucket = b.bucket
            and id >= uuid_floor(week)
            and id < uuid_floor(week + interval '1 week')
        ) as found
      ) as d;
      continue when used;
    end if;
    execute format('select exists (select 1 from %I)', name) into used;
    continue when used;
    -- The parent first, as everybody does who reads or writes through it.
    execute format('lock table only %I in access exclusive mode', parent);
    execute format('lock table %I in access exclusive mode', name);
    execute format('select exists (select 1 from %I)', name) into used;
    if not used then
      execute format('drop table %I', name);
      return name;
    end if;
  end loop;
  return null;
end
$$
"""


def upgrade() -> None:
    for index in (SOURCE, REPLAY_SOURCE, KEYS_EXECUTION, SETTLED):
        indexes.build(index)
    for statement in (WALKS, DROP_PARTITION):
        op.get_bind().exec_driver_sql(statement)
