"""Bulks: one action on everything that a filter matches, as work that outlives whoever asked for it."""

from __future__ import annotations

from alembic import op

from controlplane.postgres import indexes

revision = "0012"
down_revision = "0011"

# A bulk has one row in every bucket, with the same id: each bucket goes through its own rows, in its own transactions.
# `cursor` is the last id that was looked at. `matched` is how many were counted at the beginning, and is exact at the
# end. `reasons` is JSON: why something was skipped, what failed and how often, and the first few failures.
BULKS = """
create table bulks (
  bucket smallint not null,
  id uuid not null,
  namespace smallint not null,
  action text not null check (action in ('cancel', 'retry', 'redrive_deliveries', 'pause', 'resume')),
  filter bytea not null,
  reason text,
  reuse text check (reuse in ('succeeded-before', 'none')),
  state text not null check (state in ('running', 'done', 'stopped', 'failed')),
  error text,
  cursor uuid,
  matched integer not null check (matched >= 0),
  exact boolean not null,
  done integer not null default 0 check (done >= 0),
  skipped integer not null default 0 check (skipped >= 0),
  failed integer not null default 0 check (failed >= 0),
  reasons bytea,
  created_at timestamptz not null,
  began_at timestamptz,
  moved_at timestamptz not null,
  ended_at timestamptz,
  primary key (bucket, id),
  constraint ended_has_moment check ((state = 'running') = (ended_at is null)),
  constraint failed_has_error check ((state = 'failed') = (error is not null)),
  constraint retry_says_what_is_reused check ((action = 'retry') = (reuse is not null))
) with (fillfactor = 70)
"""

# Those whose turn was longest ago come first, so that a long one does not keep a short one waiting.
RUNNING = "create index bulks_running on bulks (bucket, moved_at) where state = 'running'"
ENDED = "create index bulks_ended on bulks (bucket, ended_at) where ended_at is not null"

# Few are dead, and all of them are looked for among many that are not.
DEAD = "create index deliveries_dead on deliveries (bucket, id) where state = 'dead'"


def upgrade() -> None:
    indexes.build(DEAD)
    for statement in (BULKS, RUNNING, ENDED):
        op.get_bind().exec_driver_sql(statement)
