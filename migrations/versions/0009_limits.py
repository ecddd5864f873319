"""Limits: how many executions of a key may be under way, how many may begin, and whose turn is next."""

from __future__ import annotations

from alembic import op

from controlplane.postgres import indexes

revision = "0009"
down_revision = "0008"

# `line`: where a row waits when it may not be leased yet (a limit's key, or `turn:<target>`); null for the many that
# nothing holds back. `limited`: a limit counts it. Rows from before know neither, and a limit takes them in.
QUEUE = """
alter table queue
  add column if not exists line text,
  add column if not exists limited boolean not null default false,
  add column if not exists concurrency_key text,
  add column if not exists fairness_key text
"""
BLOCKED_HAS_LINE = """
alter table queue add constraint blocked_has_line check (state <> 'blocked' or line is not null) not valid
"""

# None of these holds a row that no limit counts and that belongs to no fairness key: such rows cost nothing here.
BLOCKED = """
create index queue_blocked on queue
  (bucket, namespace, line, priority desc, (coalesce(fairness_key, '') collate "C"), available_at, id)
  where state = 'blocked'
"""
TURN = """
create index queue_turn on queue (bucket, namespace, target, fairness_key)
  where state = 'ready' and fairness_key is not null
"""
# A node's targets are one range of it: the letters of a name are compared as bytes.
HELD = """
create index queue_held on queue (bucket, namespace, (target collate "C"), id)
  where limited and state in ('ready', 'leased')
"""
HELD_KEY = """
create index queue_held_key on queue (bucket, namespace, concurrency_key, id)
  where concurrency_key is not null and state in ('ready', 'leased')
"""

EXECUTIONS = """
alter table executions
  add column concurrency_key text,
  add column fairness_key text
"""

REASONERS = "alter table reasoners add column concurrency_key text"

# What is held is counted in the queue; a counter beside it could only drift. `declared_max` is what the node says,
# which a person's `concurrency_max` overrules. `spent_at` and `spent`: what a rate has let go, piece by piece of its
# window. `adopt_after`: up to where the rows that were there before have been taken in; null: all of them.
# Keys are compared as bytes: those of all nodes and reasoners are two ranges of them, whatever the database's language.
LIMITS = """
alter table limits
  drop column held,
  alter column key type text collate "C",
  add column declared_max integer check (declared_max >= 0),
  add column spent_at double precision[] not null default '{}',
  add column spent integer[] not null default '{}',
  add column turn text not null default '',
  add column adopt_after uuid,
  add column adopt_passes smallint not null default 0,
  add constraint rate_is_whole check ((rate_max is null) = (rate_seconds is null)),
  add constraint spent_is_whole check (cardinality(spent_at) = cardinality(spent))
"""

ADOPTING = "create index limits_adopting on limits (bucket, namespace, key) where adopt_passes > 0"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(QUEUE)
    for index in (BLOCKED, TURN, HELD, HELD_KEY):
        indexes.build(index)
    for statement in (BLOCKED_HAS_LINE, EXECUTIONS, REASONERS, LIMITS, ADOPTING):
        op.get_bind().exec_driver_sql(statement)
