"""Approvals: questions that an execution put to people, and what was decided.

The agent is told by a delivery (`webhook_n` 0: a node's address instead of a caller's), with all its retries.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

APPROVALS = """
create table approvals (
  bucket smallint not null,
  execution_id uuid not null,
  request_id text not null,
  namespace smallint not null,
  attempt integer not null,
  node_id text not null,
  status text not null check (status in ('pending', 'approved', 'rejected', 'request_changes', 'expired')),
  url text,
  callback_url text,
  feedback text,
  response bytea,
  requested_at timestamptz not null,
  expires_at timestamptz,
  decided_at timestamptz,
  primary key (bucket, execution_id, request_id),
  constraint decided_has_moment check ((status = 'pending') = (decided_at is null))
)
"""

ONE_PENDING = "create unique index approvals_pending on approvals (bucket, execution_id) where status = 'pending'"
REQUEST = "create index approvals_request on approvals (bucket, namespace, request_id)"
EXPIRY = "create index approvals_expiry on approvals (bucket, expires_at) where status = 'pending'"


def upgrade() -> None:
    for statement in (APPROVALS, ONE_PENDING, REQUEST, EXPIRY):
        op.get_bind().exec_driver_sql(statement)
