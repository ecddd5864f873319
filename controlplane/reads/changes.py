"""Changes of memory in the order in which they became true, without a gap, for as long as they are kept.

Read as events are (see `reads/events.py`): by (transaction, number), and no further than the oldest transaction still
running. A checkpoint takes moments, so what is ten minutes old is past that: a transaction of somebody else that hangs
must not silence the stream until the changes are forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from controlplane.domain.memory import Action, Scope
from controlplane.postgres.pool import Connection
from controlplane.reads.events import Next, Position, told

STREAM = """
select bucket, seq, xid::text::bigint as xid, namespace, scope, scope_id, key, action, value, previous, run_id, node_id,
  actor_key, at,
  xid < pg_snapshot_xmin(pg_current_snapshot()) or at < clock() - interval '10 minutes' as certain
from memory_changes
where bucket = $1
  and (xid, seq) > ($2::text::xid8, $3::bigint)
order by memory_changes.xid, memory_changes.seq
limit $4
"""

# What is rare among very many changes may be further back than is looked.
LATEST = """
select c.bucket, c.seq, c.xid::text::bigint as xid, c.namespace, c.scope, c.scope_id, c.key, c.action, c.value,
  c.previous, c.run_id, c.node_id, c.actor_key, c.at
from (
  select bucket, seq, xid, namespace, scope, scope_id, key, action, value, previous, run_id, node_id, actor_key, at
  from memory_changes
  where bucket = $1
    and namespace = $2
    and at >= coalesce($3::timestamptz, '-infinity')
  order by at desc
  limit $8
) c
where ($4::text is null or c.scope = $4)
  and ($5::text is null or c.scope_id = $5)
  and ($6::text[] is null or c.key like any($6))
order by c.at desc, c.xid desc, c.seq desc
limit $7
"""

LOOK_BACK_MAX = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeView:
    """One change. `value` and `previous` are JSON bytes, None when they are not told."""

    bucket: int
    position: Position
    namespace: int
    scope: Scope
    scope_id: str
    key: str
    action: Action
    value: bytes | None
    previous: bytes | None
    run_id: str | None
    node_id: str | None
    actor_key: str | None
    at: datetime


async def stream(conn: Connection, bucket: int, after: Position, *, limit: int) -> Next[ChangeView]:
    """What changed next, in all memory of the bucket."""
    return told(await conn.fetch(STREAM, bucket, str(after.xid), after.seq, limit), _view)


async def latest(
    conn: Connection,
    buckets: Sequence[int],
    *,
    namespace: int,
    since: datetime | None,
    scope: Scope | None,
    scope_id: str | None,
    likes: Sequence[str] | None,
    limit: int,
) -> list[ChangeView]:
    """The last so many changes that are meant, oldest first. `likes`: patterns of SQL for the key."""
    word = None if scope is None else scope.value
    rows: list[asyncpg.Record] = []
    for bucket in buckets:
        rows += await conn.fetch(LATEST, bucket, namespace, since, word, scope_id, likes, limit, LOOK_BACK_MAX)
    views = sorted(map(_view, rows), key=lambda view: (view.at, view.position))
    return views[-limit:]


def _view(row: asyncpg.Record) -> ChangeView:
    return ChangeView(
        bucket=row["bucket"],
        position=Position(row["xid"], row["seq"]),
        namespace=row["namespace"],
        scope=Scope(row["scope"]),
        scope_id=row["scope_id"],
        key=row["key"],
        action=Action(row["action"]),
        value=row["value"],
        previous=row["previous"],
        run_id=row["run_id"],
        node_id=row["node_id"],
        actor_key=row["actor_key"],
        at=row["at"],
    )
