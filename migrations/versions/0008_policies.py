"""Policies: which failures are tried again, and how long an execution may wait and take altogether."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"

# Not valid: no row has the columns yet, and to look at all of them would hold everybody up.
EXECUTIONS = """
alter table executions
  add column retry_jitter double precision,
  add column fatal_errors text[],
  add column retry_errors text[],
  add column schedule_to_start_seconds double precision,
  add column total_seconds double precision,
  add constraint executions_retry_jitter_check check (retry_jitter between 0 and 1) not valid,
  add constraint executions_schedule_to_start_seconds_check
    check (schedule_to_start_seconds > 0 and schedule_to_start_seconds <= 1e9) not valid,
  add constraint executions_total_seconds_check check (total_seconds > 0 and total_seconds <= 1e9) not valid
"""

REASONERS = """
alter table reasoners
  add column retry_jitter double precision,
  add column fatal_errors text[],
  add column retry_errors text[]
"""

# `deadline_at` is the nearest of all deadlines of a row, so that one index finds what is overdue. This one stays.
QUEUE = "alter table queue add column total_deadline_at timestamptz"


def upgrade() -> None:
    connection = op.get_bind()
    for statement in (EXECUTIONS, REASONERS, QUEUE):
        connection.exec_driver_sql(statement)
