"""Deliveries in the order in which they came to be, and those that belong to an endpoint."""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"

# Both are null for what is there already. The default comes in a statement of its own: in the first one it would be
# computed for every row, and the table written anew.
COLUMNS = """
alter table deliveries
  add column endpoint_id uuid,
  add column xid xid8
"""
NUMBERED = "alter table deliveries alter column xid set default pg_current_xact_id()"

# As `events_stream`: a reader goes by (xid, id) and stops before the oldest transaction still running.
FEED = "create index deliveries_feed on deliveries (bucket, namespace, xid, id) where xid is not null"


def upgrade() -> None:
    for statement in (COLUMNS, NUMBERED, FEED):
        op.get_bind().exec_driver_sql(statement)
