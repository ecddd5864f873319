"""Replay: an execution that was started anew knows the run whose finished children it may take over."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"

# Not valid: no row has the column yet, and to look at all of them would hold everybody up.
EXECUTIONS = """
alter table executions
  add column replay_source_run_id text,
  add column replay_before_id uuid,
  add column replay_mode text,
  add constraint replay_mode_is_known check (replay_mode in ('succeeded-before', 'all-succeeded', 'none')) not valid
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(EXECUTIONS)
