"""Vector memory: embeddings beside a key, searched by their angle within one scope."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"

MEMORY_VECTORS = """
create table memory_vectors (
  bucket smallint not null,
  namespace smallint not null,
  scope text not null check (scope in ('run', 'session', 'actor', 'global')),
  scope_id text not null,
  key text not null,
  embedding double precision[] not null,
  norm double precision not null check (norm > 0),
  metadata bytea,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  primary key (bucket, namespace, scope, scope_id, key)
) with (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(MEMORY_VECTORS)
