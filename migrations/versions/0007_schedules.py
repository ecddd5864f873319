"""Schedules: the rest of what one says, when it comes due, and its ticks, each of which happens once."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"

# `anchor_at`: what an interval is counted from. `next_at` is the tick planned next and `due_at` the same with its
# jitter, never earlier. `waiting` counts the ticks that wait, so that the schedules that have some are found by index.
SCHEDULES = """
alter table schedules
  drop constraint cron_or_interval,
  add column run_at timestamptz,
  add column anchor_at timestamptz not null default clock(),
  add column context bytea,
  add column overlap text not null default 'skip' check (overlap in ('skip', 'queue', 'cancel_other')),
  add column catch_up text not null default 'one' check (catch_up in ('none', 'one', 'all')),
  add column jitter_seconds double precision not null default 0 check (jitter_seconds between 0 and 1e9),
  add column priority smallint not null default 0,
  add column retries_max smallint check (retries_max >= 0),
  add column timeout_seconds double precision check (timeout_seconds > 0 and timeout_seconds <= 1e9),
  add column due_at timestamptz,
  add column waiting smallint not null default 0 check (waiting >= 0),
  add constraint one_way_to_say_when check (num_nonnulls(cron, interval_seconds, run_at) = 1),
  add constraint planned_comes_due check ((next_at is null) = (due_at is null) and due_at >= next_at)
"""

DUE = "create index schedules_due on schedules (bucket, due_at) where not paused and due_at is not null"
WAITING = "create index schedules_waiting on schedules (bucket, id) where not paused and waiting > 0"

# The primary key is what makes a tick happen once, whoever fires it and however often. `missed` stands for all that
# were planned up to `until_at`. `open`: its execution had not ended when it was last looked for; the queue knows.
TICKS = """
create table schedule_ticks (
  bucket smallint not null,
  schedule_id uuid not null,
  planned_at timestamptz not null,
  by_hand boolean not null,
  namespace smallint not null,
  outcome text not null check (outcome in ('submitted', 'waiting', 'skipped', 'missed')),
  until_at timestamptz,
  execution_id uuid,
  open boolean not null,
  at timestamptz not null,
  primary key (bucket, schedule_id, planned_at, by_hand),
  constraint submitted_has_execution check ((outcome = 'submitted') = (execution_id is not null)),
  constraint open_has_execution check (not open or execution_id is not null),
  constraint missed_has_an_end check ((outcome = 'missed') = (until_at is not null))
)
"""

EXECUTION = """
create unique index schedule_ticks_execution on schedule_ticks (bucket, execution_id) where execution_id is not null
"""
OPEN = "create index schedule_ticks_open on schedule_ticks (bucket, schedule_id) where open"
WAITS = """
create index schedule_ticks_waiting on schedule_ticks (bucket, schedule_id, planned_at) where outcome = 'waiting'
"""
# What may be forgotten.
OVER = "create index schedule_ticks_over on schedule_ticks (bucket, at) where not open and outcome <> 'waiting'"


def upgrade() -> None:
    for statement in (SCHEDULES, DUE, WAITING, TICKS, EXECUTION, OPEN, WAITS, OVER):
        op.get_bind().exec_driver_sql(statement)
