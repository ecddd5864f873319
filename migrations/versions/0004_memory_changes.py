"""What changed in memory, for those who listen.

Unlogged: changes are told as they happen and kept for a while for those who look back; a crash of the database may
forget them, and no checkpoint has to wait for them.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

MEMORY_CHANGES = """
create unlogged table memory_changes (
  bucket smallint not null,
  seq bigint generated always as identity (cache 1),
  xid xid8 not null default pg_current_xact_id(),
  namespace smallint not null,
  scope text not null,
  scope_id text not null,
  key text not null,
  action text not null check (action in ('set', 'append', 'delete')),
  value bytea,
  previous bytea,
  run_id text,
  node_id text,
  actor_key text,
  at timestamptz not null,
  primary key (bucket, xid, seq)
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0)
"""

# The values are kept compressed by `memory` already; to compress them once more halved the checkpoints of 20 kB.
STORAGE = """
alter table memory_changes
  alter column value set storage external,
  alter column previous set storage external
"""

AT = "create index memory_changes_at on memory_changes (bucket, at)"


def upgrade() -> None:
    for statement in (MEMORY_CHANGES, STORAGE, AT):
        op.get_bind().exec_driver_sql(statement)
