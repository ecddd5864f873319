"""Keys that are shown no payloads, and tickets for streams."""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"

# A node is given payloads to work on: a key that hides them cannot be one's.
API_KEYS = """
alter table api_keys
  add column hide_payloads boolean not null default false,
  add constraint node_keys_see check (not (hide_payloads and 'node' = any(scopes)))
"""

TICKETS = """
create table tickets (
  bucket smallint not null,
  hash bytea not null check (length(hash) = 32),
  namespace smallint not null,
  path text not null,
  key_id uuid,
  expires_at timestamptz not null,
  primary key (bucket, hash)
)
"""
TICKETS_EXPIRY = "create index tickets_expiry on tickets (bucket, expires_at)"


def upgrade() -> None:
    connection = op.get_bind()
    for statement in (API_KEYS, TICKETS, TICKETS_EXPIRY):
        connection.exec_driver_sql(statement)
