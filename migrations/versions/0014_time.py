"""Time: how long an attempt may be silent, what a reasoner asks for by default, and what becomes of children."""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"

# Not valid: no row has the columns yet, and to look at all of them would hold everybody up.
EXECUTIONS = """
alter table executions
  add column heartbeat_seconds double precision,
  add column on_parent_end text,
  add constraint executions_heartbeat_seconds_check
    check (heartbeat_seconds > 0 and heartbeat_seconds <= 1e9) not valid,
  add constraint executions_on_parent_end_check check (on_parent_end in ('cancel', 'keep')) not valid
"""

REASONERS = """
alter table reasoners
  add column schedule_to_start_seconds double precision,
  add column total_seconds double precision,
  add column heartbeat_seconds double precision,
  add column on_parent_end text
"""

# `deadline_at` stays the nearest of all deadlines of a row. Of a row with a heartbeat it moves on with every sign of
# life, and `attempt_deadline_at` keeps what the attempt has altogether. A child that was accepted before there was a
# policy has none, and goes on.
QUEUE = """
alter table queue
  add column heartbeat_seconds double precision,
  add column attempt_deadline_at timestamptz,
  add column on_parent_end text
"""

# Ended without a result, with children that shall not go on: written with the end, deleted when they have been told. An
# execution ends once, so an id alone need not be unique here, and one index serves those who come first, first.
ENDED_PARENTS = """
create table ended_parents (
  bucket smallint not null,
  id uuid not null,
  namespace smallint not null,
  status text not null check (status in ('failed', 'cancelled', 'timeout')),
  at timestamptz not null,
  primary key (bucket, at, id)
)
"""


def upgrade() -> None:
    for statement in (EXECUTIONS, REASONERS, QUEUE, ENDED_PARENTS):
        op.get_bind().exec_driver_sql(statement)
