"""Keys that are shown no payloads."""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0017"

# A node is given payloads to work on: a key that hides them cannot be one's.
API_KEYS = """
alter table api_keys
  add column hide_payloads boolean not null default false,
  add constraint node_keys_see check (not (hide_payloads and 'node' = any(scopes)))
"""


def upgrade() -> None:
    connection = op.get_bind()
    connection.exec_driver_sql(API_KEYS)
