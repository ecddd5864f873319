"""Pauses: work of a reasoner, of a node or of everything is held back; processes are asked to drain."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"

# A pause lies in the bucket of its node, beside the sessions that it concerns; that of everything lies in every bucket
# in which nodes do, under no node. A claim reads all that may hold it back in one range of the primary key.
PAUSES = """
create table pauses (
  bucket smallint not null,
  namespace smallint not null,
  node_id text not null,
  name text not null,
  scope text not null check (scope in ('all', 'node', 'reasoner')),
  reason text,
  paused_by text,
  paused_at timestamptz not null,
  primary key (bucket, namespace, node_id, name),
  constraint scope_tells_the_name check (
    case scope
      when 'all' then node_id = '' and name = ''
      when 'node' then node_id <> '' and name = node_id
      else node_id <> '' and starts_with(name, node_id || '.')
    end
  )
)
"""

# Not `draining`, which a goodbye sets and a heartbeat clears: a person's word stays until a person takes it back.
SESSIONS = """
alter table sessions
  add column drain_requested_at timestamptz,
  add column drain_requested_by text,
  add column drain_reason text
"""


def upgrade() -> None:
    connection = op.get_bind()
    for statement in (PAUSES, SESSIONS):
        connection.exec_driver_sql(statement)
