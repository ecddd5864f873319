"""Nodes that are called: their processes have an address, and an attempt says whether its request was taken.

Work for them goes through the same queue, leases and fences as for nodes that fetch it. `sent_at`: the last moment when
somebody of ours held the request; `accepted_at`: the node took it; `remaining_seconds`: what an attempt has left of its
time, which stands still while it waits. A parent whose child is unfinished holds no slot, so the queue knows parents.
"""

from __future__ import annotations

from alembic import op

from controlplane.postgres import indexes

revision = "0002"
down_revision = "0001"

QUEUE = """
alter table queue
  add column if not exists parent_id uuid,
  add column if not exists sent_at timestamptz,
  add column if not exists accepted_at timestamptz,
  add column if not exists waiting_at timestamptz,
  add column if not exists remaining_seconds double precision
"""

QUEUE_PARENT = "create index queue_parent on queue (bucket, parent_id) where parent_id is not null"
QUEUE_UNACCEPTED = """
create index queue_unaccepted on queue (bucket, sent_at) where sent_at is not null and accepted_at is null
"""
QUEUE_ACCEPTED = "create index queue_accepted on queue (bucket, accepted_at) where accepted_at is not null"

# `acknowledges`: it answers 202 at once and reports later; others answer with the result itself.
SESSIONS = """
alter table sessions
  add column transport text not null default 'pull',
  add column base_url text,
  add column acknowledges boolean not null default false,
  add column start_to_close_seconds double precision,
  add constraint transport_is_known check (transport in ('pull', 'push', 'serverless')),
  add constraint called_has_address check ((transport = 'pull') = (base_url is null))
"""

# One open session for each process; a process is its address and the id it gave itself at its start.
SESSIONS_PROCESS = """
create unique index sessions_process on sessions (bucket, namespace, node_id, base_url, instance_id)
where closed_at is null and base_url is not null
"""
SESSIONS_CALLED = """
create index sessions_called on sessions (bucket, id) where closed_at is null and base_url is not null
"""

# `left_at`: the last time that a process of the node said goodbye without saying which one it was.
NODES = """
alter table nodes
  add column left_at timestamptz,
  drop constraint nodes_transport_check,
  add constraint nodes_transport_check check (transport in ('pull', 'push', 'serverless'))
"""

# The status that a reasoner gave its failure: callers who wait get it instead of 502.
OUTCOMES = "alter table outcomes add column http_status smallint"

LOCAL_CALLS = """
alter table local_calls
  add column status_reason text,
  add column duration_ms bigint
"""
LOCAL_CALLS_LOCAL = "create index local_calls_local on local_calls (bucket, namespace, local_id)"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(QUEUE)
    for index in (QUEUE_PARENT, QUEUE_UNACCEPTED, QUEUE_ACCEPTED, LOCAL_CALLS_LOCAL):
        indexes.build(index)
    for statement in (SESSIONS, SESSIONS_PROCESS, SESSIONS_CALLED, NODES, OUTCOMES, LOCAL_CALLS):
        op.get_bind().exec_driver_sql(statement)
