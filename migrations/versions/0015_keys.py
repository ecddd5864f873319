"""API keys that can be made, bound to nodes, rotated and revoked; and names for namespaces."""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"

# Nobody has ever written to this table. A key speaks for several nodes, so what it had for one goes.
API_KEYS = """
alter table api_keys
  drop column node_id,
  add column node_ids text[],
  add column created_by text,
  add column revoked_by text,
  add column replaced_by uuid,
  add constraint api_keys_scopes_check check (
    cardinality(scopes) > 0 and scopes <@ array['execute', 'read', 'operate', 'admin', 'node']
  ),
  add constraint node_keys_name_nodes check (('node' = any(scopes)) = (node_ids is not null)),
  add constraint node_keys_name_some check (cardinality(node_ids) > 0),
  add constraint api_keys_hash_check check (length(hash) = 32)
"""

# In the order that keys are listed in: the newest first, and with it the bucket of their namespace.
API_KEYS_NAMESPACE = "create index api_keys_namespace on api_keys (bucket, namespace, id)"

# All of them lie in one bucket: there are few, they are made by hand, and a number is given to each in turn.
NAMESPACES = """
create table namespaces (
  bucket smallint not null,
  id smallint not null check (id > 0),
  name text not null,
  created_at timestamptz not null,
  primary key (bucket, id),
  unique (bucket, name)
)
"""
DEFAULT = "insert into namespaces (bucket, id, name, created_at) values (0, 1, 'default', clock())"


def upgrade() -> None:
    connection = op.get_bind()
    for statement in (API_KEYS, API_KEYS_NAMESPACE, NAMESPACES, DEFAULT):
        connection.exec_driver_sql(statement)
