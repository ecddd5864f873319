"""Deliveries in the order in which they came to be, and those that belong to an endpoint."""

from __future__ import annotations

from alembic import op

from controlplane.postgres import indexes

revision = "0017"
down_revision = "0016"

# Both are null for what is there already. The default comes in a statement of its own: in the first one it would be
# computed for every row, and the table written anew.
COLUMNS = """
alter table deliveries
  add column if not exists endpoint_id uuid,
  add column if not exists xid xid8
"""
NUMBERED = "alter table deliveries alter column xid set default pg_current_xact_id()"

# As `events_stream`: a reader goes by (xid, id) and stops before the oldest transaction still running.
FEED = "create index deliveries_feed on deliveries (bucket, namespace, xid, id) where xid is not null"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(COLUMNS)
    op.get_bind().exec_driver_sql(NUMBERED)
    indexes.build(FEED)
