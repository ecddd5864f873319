"""Steps and signals: what an execution has done and waits for, so that it can give its lease back while it waits.

A step is a memo: the first write under a name counts, and whoever asks again is answered with it. `awaited`: the
execution has given its lease back until this step (or all that are awaited) is done; `news`: it is done, and nobody has
looked yet whether the execution may go on. News are left by the end of a child, which must not touch its parent's row.
A signal comes from outside and is taken by one step, in the order in which signals came.
"""

from __future__ import annotations

from alembic import op

from controlplane.postgres import indexes

revision = "0010"
down_revision = "0009"

# `attempt`: the one that wrote it first. `child_id`: the execution that a call has become; its result is read there.
STEPS = """
create table steps (
  bucket smallint not null,
  execution_id uuid not null,
  name text not null,
  namespace smallint not null,
  kind text not null check (kind in ('step', 'sleep', 'event', 'approval', 'call')),
  status text not null check (status in ('pending', 'done', 'failed')),
  value bytea,
  attempt integer not null,
  due_at timestamptz,
  timed_out boolean not null default false,
  event text,
  request_id text,
  child_id uuid,
  awaited boolean not null default false,
  news boolean not null default false,
  created_at timestamptz not null,
  done_at timestamptz,
  primary key (bucket, execution_id, name),
  constraint settled_has_moment check ((status = 'pending') = (done_at is null)),
  constraint call_has_child check ((kind = 'call') = (child_id is not null)),
  constraint news_is_awaited check (not news or (awaited and status <> 'pending'))
) with (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0)
"""

# Each holds only what somebody waits for: a step that is done at once touches the primary key alone.
STEPS_DUE = """
create index steps_due on steps (bucket, due_at)
where status = 'pending' and due_at is not null and kind <> 'approval'
"""
STEPS_OPEN = "create index steps_open on steps (bucket, execution_id, name) where status = 'pending' or awaited"
STEPS_CHILD = "create index steps_child on steps (bucket, child_id) where status = 'pending' and child_id is not null"
# "Is anything missing yet?" is one probe, however many have come already.
STEPS_AWAITED = "create index steps_awaited on steps (bucket, execution_id) where awaited and status = 'pending'"
STEPS_NEWS = "create index steps_news on steps (bucket, execution_id) where news"

SIGNALS = """
create table signals (
  bucket smallint not null,
  execution_id uuid not null,
  seq bigint generated always as identity (cache 1),
  id uuid not null,
  namespace smallint not null,
  event text not null,
  payload bytea not null,
  idempotency_key text,
  request_hash bytea not null,
  step text,
  received_at timestamptz not null,
  consumed_at timestamptz,
  primary key (bucket, execution_id, seq),
  constraint consumed_by_a_step check ((consumed_at is null) = (step is null))
)
"""

# One that was sent without a key has its own id for one. Partial only to keep others away: whoever takes a signal was
# planned through it while the table was empty.
SIGNALS_KEY = """
create unique index signals_key on signals (bucket, execution_id, idempotency_key) where idempotency_key is not null
"""
SIGNALS_OPEN = "create index signals_open on signals (bucket, execution_id, event, seq) where consumed_at is null"

# `waits_until` any or all of the awaited steps: only of a row that nobody holds, also while it is paused.
QUEUE = """
alter table queue
  add column waits_until text,
  add column waits_reason text,
  add constraint queue_waits_until_check check (waits_until in ('any', 'all')) not valid,
  add constraint suspended_has_no_session check (
    waits_until is null or (session_id is null and waits_reason is not null and state in ('waiting', 'paused'))
  ) not valid
"""

# `durable`: asked by a step. It outlives its attempt, and several may be open at once.
APPROVALS = """
alter table approvals
  add column if not exists title text,
  add column if not exists durable boolean not null default false
"""
APPROVALS_PENDING = "create index approvals_pending_ on approvals (bucket, execution_id) where status = 'pending'"
APPROVALS_HELD = """
create unique index approvals_held on approvals (bucket, execution_id) where status = 'pending' and not durable
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(APPROVALS)
    for index in (APPROVALS_PENDING, APPROVALS_HELD):
        indexes.build(index)
    for statement in (
        STEPS,
        STEPS_DUE,
        STEPS_OPEN,
        STEPS_CHILD,
        STEPS_AWAITED,
        STEPS_NEWS,
        SIGNALS,
        SIGNALS_KEY,
        SIGNALS_OPEN,
        QUEUE,
        "drop index approvals_pending",
        "alter index approvals_pending_ rename to approvals_pending",
    ):
        op.get_bind().exec_driver_sql(statement)
