"""Endpoints: receivers that are registered once and told of everything that they subscribe to."""

from __future__ import annotations

from alembic import op

from controlplane.postgres import indexes

revision = "0018"
down_revision = "0017"

# All endpoints of a namespace lie in one bucket. `slot` is a number from 1 to the limit: two that are made at once
# cannot both take the last one. Of `since_xid` an endpoint hears what later transactions do. The secret before goes on
# to sign until `previous_until`. `dead_streak` and `failing_since`: how its receiver does, from which it is disabled.
ENDPOINTS = """
create table endpoints (
  bucket smallint not null,
  id uuid not null,
  namespace smallint not null,
  slot smallint not null check (slot > 0),
  name text not null check (name <> ''),
  description text,
  url text not null,
  host text not null,
  events text[] not null check (cardinality(events) > 0),
  targets text[] not null,
  schedule float8[] not null check (cardinality(schedule) > 0),
  secret_sealed bytea not null,
  previous_sealed bytea,
  previous_until timestamptz,
  headers_sealed bytea,
  state text not null check (state in ('enabled', 'disabled')),
  disabled_at timestamptz,
  disabled_by text,
  disabled_reason text,
  dead_streak integer not null default 0,
  failing_since timestamptz,
  since_xid xid8 not null,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  primary key (bucket, id),
  unique (bucket, namespace, name),
  unique (bucket, namespace, slot),
  constraint disabled_has_moment check ((state = 'disabled') = (disabled_at is not null)),
  constraint disabled_has_author check ((state = 'disabled') = (disabled_by is not null)),
  constraint previous_has_an_end check ((previous_sealed is null) = (previous_until is null))
)
"""

# How far the events of a bucket have been announced: behind it nothing has been looked at.
CURSORS = """
create table announced (
  bucket smallint primary key,
  xid xid8 not null,
  seq bigint not null,
  moved_at timestamptz not null
)
"""

# An execution whose webhook wants to hear of more than its end; gone when its end has been announced.
LISTENERS = """
create table listeners (
  bucket smallint not null,
  execution_id uuid not null,
  namespace smallint not null,
  primary key (bucket, execution_id)
)
"""
EVENTS = "alter table webhooks add column events text[]"

# A delivery is of a webhook's end (`webhook_n`), of an endpoint, or of what else a webhook wants to hear (`heard_n`).
# The last two have no `webhook_n`: `one_delivery_per_webhook_and_event` then does not stand in the way of the second
# start of an execution, and who plans a callback finds that constraint as it was. What makes these happen once is the
# number of the event.
COLUMNS = """
alter table deliveries
  alter column webhook_n drop not null,
  add column if not exists heard_n smallint,
  add column if not exists event_seq bigint
"""
TO_ONE = """
alter table deliveries
  add constraint to_one_of_three check (num_nonnulls(webhook_n, endpoint_id, heard_n) = 1) not valid,
  add constraint announced_has_event check ((webhook_n is null) = (event_seq is not null)) not valid
"""
ONCE_PER_ENDPOINT = """
create unique index deliveries_endpoint on deliveries (bucket, endpoint_id, event_seq) where endpoint_id is not null
"""
ONCE_PER_WEBHOOK = """
create unique index deliveries_heard on deliveries (bucket, execution_id, heard_n, event_seq) where heard_n is not null
"""
# Those of endpoints that are disabled: they wait for the day that never comes, until somebody enables it.
PARKED = """
create index deliveries_parked on deliveries (bucket, endpoint_id, id)
where state = 'pending' and next_at = 'infinity' and endpoint_id is not null
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(COLUMNS)
    for index in (ONCE_PER_ENDPOINT, ONCE_PER_WEBHOOK, PARKED):
        indexes.build(index)
    for statement in (ENDPOINTS, CURSORS, LISTENERS, EVENTS, TO_ONE):
        op.get_bind().exec_driver_sql(statement)
