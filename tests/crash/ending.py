"""How a story has ended: all that the database holds of it, without what another run would call or count otherwise."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from controlplane.postgres.pool import Connection
from controlplane.reads.verify import INVARIANTS

BUCKET = 0
UUIDS = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
SHOWN = re.compile(r"\b([a-z]+)_[0-9a-hjkmnp-tv-z]{26}\b")
"""An id as the API shows it."""

BROKEN = "\nunion all\n".join(f"select '{one.name}' as name, id from ({one.query}) {one.name}" for one in INVARIANTS)

# Not among them: what says how often something was tried or when it was looked at (sessions, delivery_attempts,
# breakers, census, announced, retention_walks), what is kept as best it can be (logs, memory_changes, tickets), and
# what `verify` judges (audit_heads).
TABLES = (
    "api_keys",
    "approvals",
    "audit",
    "bulks",
    "caps",
    "deliveries",
    "ended_parents",
    "endpoints",
    "executions",
    "idempotency_keys",
    "limits",
    "listeners",
    "local_calls",
    "memory",
    "memory_items",
    "memory_vectors",
    "namespaces",
    "nodes",
    "outcomes",
    "pauses",
    "queue",
    "reasoners",
    "schedule_ticks",
    "schedules",
    "signals",
    "steps",
    "trigger_events",
    "triggers",
    "webhooks",
)
ROWS = "\nunion all\n".join(f"select '{name}' as name, to_jsonb(t)::text as row from {name} t" for name in TABLES)

# What is told once, however often the rest is tried.
EVENTS = """
select 'events' as name, jsonb_build_object('execution_id', execution_id, 'type', type)::text as row
from events
where type not in (
  'execution.started', 'lease.released', 'lease.expired', 'memory.written', 'note.added', 'execution.progress'
)
"""

OTHERWISE = frozenset(
    {
        "at",
        "attempt",
        "attempts",
        "body",
        "crashes",
        "event_seq",
        "generation",
        "hash",
        "headers_sealed",
        "known_xid",
        "origin",
        "position",
        "prefix",
        "previous",
        "previous_sealed",
        "reasons",
        "removed_hash",
        "secret_sealed",
        "seq",
        "since_xid",
        "spent",
        "turn",
        "version",
        "writer_attempt",
        "xid",
    }
)
"""Columns that may differ: how often it was tried, and what is random or a clock's."""

MOMENTS = ("_at", "_since", "_until")
OTHERWISE_OF = {"bulks": frozenset({"state"})}
"""One that is stopped may just have come to its end."""

Ending = Counter[str]


async def read(conn: Connection, names: Mapping[str, str]) -> Ending:
    """Each row as a line of text, and how often it is there."""
    rows = await conn.fetch(f"{ROWS}\nunion all\n{EVENTS}")
    return Counter(f"{row['name']} {_line(row['name'], json.loads(row['row']), names)}" for row in rows)


async def broken(conn: Connection) -> list[str]:
    """The invariants of `controlplane verify` that do not hold."""
    return [f"{row['name']}: {row['id']}" for row in await conn.fetch(BROKEN, BUCKET)]


def difference(expected: Ending, found: Ending) -> list[str]:
    """What is missing, and what there is too much of."""
    lost = [f"missing: {line}" for line in (expected - found).elements()]
    return lost + [f"surplus: {line}" for line in (found - expected).elements()]


def _line(table: str, row: dict[str, Any], names: Mapping[str, str]) -> str:
    left_out = OTHERWISE | OTHERWISE_OF.get(table, frozenset())
    kept = {
        name: value
        for name, value in row.items()
        if not (name in left_out or name.endswith(("_at", "_since", "_until")))
    }
    text = json.dumps({name: value for name, value in kept.items() if value is not None}, sort_keys=True)
    return SHOWN.sub(r"\1_?", UUIDS.sub(lambda found: names.get(found[0], "?"), text))
