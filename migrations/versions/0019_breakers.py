"""Breakers: hosts that fail are left alone for a while, by every replica and each namespace for itself."""

from __future__ import annotations

from alembic import op

from controlplane.postgres import indexes

revision = "0019"
down_revision = "0018"

# A row for hosts that fail, or ask for time, and for no others. By namespace: what one of them is answered must not
# hold back what another sends to the same host.
BREAKERS = """
create table breakers (
  bucket smallint not null,
  host text not null,
  namespace smallint not null,
  failures int not null check (failures >= 0),
  windows smallint not null check (windows between 0 and 16),
  opened_at timestamptz,
  open_until timestamptz,
  held_until timestamptz,
  changed_at timestamptz not null,
  primary key (bucket, host, namespace),
  constraint open_has_moments check (
    (windows > 0) = (open_until is not null) and (windows > 0) = (opened_at is not null)
  )
) with (
  fillfactor = 80,
  autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_vacuum_threshold = 500,
  autovacuum_vacuum_cost_delay = 0
)
"""

# For the janitor alone, who says the same: a plan made while the table is empty takes it for any other statement, too.
CHANGED = "create index breakers_changed on breakers (bucket, changed_at) where failures >= 0"

# Those that have been open for long, of whom there are few.
OPENED = "create index breakers_opened on breakers (bucket, opened_at) where opened_at is not null"

# The walk goes from host to host and from namespace to namespace, so that it can pass one by and take the next.
# Servers of before claim by the old one until the new one is there.
DUE = "create index deliveries_due_ on deliveries (bucket, host, namespace, next_at) where state = 'pending'"
DROP_DUE = "drop index deliveries_due"
RENAME_DUE = "alter index deliveries_due_ rename to deliveries_due"


def upgrade() -> None:
    indexes.build(DUE)
    for statement in (BREAKERS, CHANGED, OPENED, DROP_DUE, RENAME_DUE):
        op.get_bind().exec_driver_sql(statement)
