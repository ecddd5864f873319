"""Withhold: a person keeps work from being handed out, and lets it go again.

submit ──► (*withhold*) ──► lease ──► complete ──► finish ──► deliver

Nothing that was accepted moves. A pause is a row that every claim reads before it takes anything: what it names stays
in the queue, new processes get nothing of it either, until it is resumed. A drain is said of the processes that are
there now: each takes nothing new and finishes what it runs, until it is undrained or gone; whoever starts later serves.
"""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.domain.ids import SessionId
from controlplane.domain.pause import Pause, Paused, PauseScope
from controlplane.errors import NodeNotFound
from controlplane.postgres.pool import Connection
from controlplane.stages import hold

PAUSE = """
insert into pauses (bucket, namespace, node_id, name, scope, reason, paused_by, paused_at)
values ($1, $2, $3, $4, $5, $6, $7, clock())
on conflict (bucket, namespace, node_id, name) do nothing
returning scope, node_id, name, reason, paused_by, paused_at
"""

READ = """
select scope, node_id, name, reason, paused_by, paused_at
from pauses
where bucket = $1
  and namespace = $2
  and node_id = $3
  and name = $4
for share
"""

RESUME = """
delete from pauses
where bucket = $1
  and namespace = $2
  and node_id = $3
  and name = $4
returning scope, node_id, name, reason, paused_by, paused_at
"""

DRAIN = """
update sessions
set drain_requested_at = clock(), drain_requested_by = $4, drain_reason = $5
where bucket = $1
  and id = any(array(
    select id
    from sessions
    where bucket = $1
      and namespace = $2
      and node_id = $3
      and closed_at is null
      and drain_requested_at is null
    order by id
    for update
  ))
returning id
"""

# Also those that have closed: a process that comes back with a session of its own asks what was said of its last one.
UNDRAIN = """
update sessions
set drain_requested_at = null, drain_requested_by = null, drain_reason = null
where bucket = $1
  and id = any(array(
    select id
    from sessions
    where bucket = $1
      and namespace = $2
      and node_id = $3
      and drain_requested_at is not null
    order by id
    for update
  ))
returning id
"""


async def pause(
    conn: Connection,
    buckets: Sequence[int],
    what: Paused,
    *,
    namespace: int,
    reason: str | None,
    paused_by: str | None,
) -> tuple[Pause, bool]:
    """From the commit on, no claim that begins takes any of this work. Says the pause, and whether it is new.

    `buckets`: where it has to be known, in ascending order. Guard: one row per name; who comes second is told what the
    first has said. A claim that has begun before may still hand out what it took. Raises: NodeNotFound.
    """
    async with conn.transaction():
        await _known(conn, buckets[0], what, namespace)
        made = [await _put(conn, bucket, what, namespace, reason, paused_by) for bucket in buckets]
    return made[0]


async def resume(conn: Connection, buckets: Sequence[int], what: Paused, *, namespace: int) -> Pause | None:
    """Take a pause back; what it held may be handed out again. Says what was taken back, None when nothing was.

    Guard: one row per name, deleted once. Raises: NodeNotFound.
    """
    async with conn.transaction():
        await _known(conn, buckets[0], what, namespace)
        rows = [await conn.fetchrow(RESUME, bucket, namespace, what.node_id, what.name) for bucket in buckets]
    gone = [Pause.from_row(row) for row in rows if row is not None]
    return gone[0] if gone else None


async def drain(
    conn: Connection, bucket: int, *, namespace: int, node_id: str, reason: str | None, asked_by: str | None
) -> list[SessionId]:
    """The processes of this node that are there now take nothing new. Says which of them were told so just now.

    Guard: who was told before keeps the first word. Their leases, and what they renew, are untouched.
    Raises: NodeNotFound.
    """
    async with conn.transaction():
        await _known(conn, bucket, Paused.node(node_id), namespace)
        rows = await conn.fetch(DRAIN, bucket, namespace, node_id, asked_by, reason)
    return [SessionId(row["id"]) for row in rows]


async def undrain(conn: Connection, bucket: int, *, namespace: int, node_id: str) -> list[SessionId]:
    """The processes of this node take work again. Says which of them had been told to drain. Raises: NodeNotFound."""
    async with conn.transaction():
        await _known(conn, bucket, Paused.node(node_id), namespace)
        rows = await conn.fetch(UNDRAIN, bucket, namespace, node_id)
    return [SessionId(row["id"]) for row in rows]


async def _known(conn: Connection, bucket: int, what: Paused, namespace: int) -> None:
    if what.scope is not PauseScope.ALL and not await hold.keep_node(conn, bucket, namespace, what.node_id):
        raise NodeNotFound


async def _put(
    conn: Connection, bucket: int, what: Paused, namespace: int, reason: str | None, paused_by: str | None
) -> tuple[Pause, bool]:
    place = (bucket, namespace, what.node_id, what.name)
    while True:
        made = await conn.fetchrow(PAUSE, *place, what.scope.value, reason, paused_by)
        found = made or await conn.fetchrow(READ, *place)
        if found is not None:  # else it was resumed between the two, and there is none any more
            return Pause.from_row(found), made is not None
