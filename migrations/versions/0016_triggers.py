"""Triggers: doors for outside senders, and the events that came in through them."""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"

# `scheme` is how the sender signs and `arguments` what of an event goes where (JSON of ours, read whole, never
# searched). The secret before goes on to be taken until `previous_until`.
TRIGGERS = """
create table triggers (
  bucket smallint not null,
  id uuid not null,
  namespace smallint not null,
  name text not null check (name <> ''),
  target text not null,
  preset text not null check (preset in ('github', 'stripe', 'slack', 'standard', 'hmac', 'bearer')),
  scheme text not null,
  arguments text not null,
  event_types text[] not null,
  secret_sealed bytea not null,
  previous_sealed bytea,
  previous_until timestamptz,
  managed_by text,
  paused boolean not null,
  paused_reason text,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  primary key (bucket, id),
  unique (bucket, namespace, name),
  constraint previous_has_an_end check ((previous_sealed is null) = (previous_until is null)),
  constraint paused_has_the_reason check (paused or paused_reason is null)
)
"""

# The unique key is what makes an event happen once, however often and to however many replicas its sender says it.
# The execution may be forgotten before the event: what came is remembered for longer than anybody sends it again.
EVENTS = """
create table trigger_events (
  bucket smallint not null,
  id uuid not null,
  trigger_id uuid not null,
  namespace smallint not null,
  key text not null check (key <> ''),
  type text,
  outcome text not null check (outcome in ('submitted', 'filtered', 'held', 'rejected')),
  reason text,
  execution_id uuid,
  replay_execution_id uuid,
  replays integer not null default 0,
  body bytea not null,
  headers text not null,
  at timestamptz not null,
  primary key (bucket, id),
  unique (bucket, trigger_id, key),
  constraint submitted_has_execution check ((outcome = 'submitted') = (execution_id is not null)),
  constraint replayed_has_execution check ((replays > 0) = (replay_execution_id is not null))
)
"""

# Both with a condition that only the list and the search by age imply: planned while the table was empty, they were
# taken for what is found by its key, too.
OF_TRIGGER = """
create index trigger_events_newest on trigger_events (bucket, trigger_id, id desc) where replays >= 0
"""
OVER = "create index trigger_events_over on trigger_events (bucket, at) where at is not null"


def upgrade() -> None:
    for statement in (TRIGGERS, EVENTS, OF_TRIGGER, OVER):
        op.get_bind().exec_driver_sql(statement)
