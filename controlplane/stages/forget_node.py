"""Forget a node: one that is gone for good leaves the list, and what belongs to it alone goes with it.

register ──► open ──► (lease, renew, complete …) ──► close ──► *forget*

Only when nobody is connected, nothing of it is unfinished and nothing will be submitted to it. What has ended stays as
it was: an execution carries all that it says of itself. What a person has set, as a limit, stays as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from controlplane.domain.kept import Kept
from controlplane.domain.limit import REASONER
from controlplane.errors import NodeInUse, NodeNotFound
from controlplane.postgres.pool import Connection
from controlplane.stages import limit

COUNT_MAX = 1_000
"""Unfinished executions that are counted; what is more is only said to be more."""
NAMES_MAX = 5
"""Schedules and triggers that are named."""

# After the node, as everybody takes them who takes both, and in the order in which others take them.
LOCK_CLOSED = """
select id
from sessions
where bucket = $1
  and namespace = $2
  and node_id = $3
  and closed_at is not null
order by id
for update
"""

# Whoever registers, opens a session or pauses it at this moment waits for the end, and finds it gone.
LOCK_NODE = """
select transport, version, base_url, registered_at
from nodes
where bucket = $1
  and namespace = $2
  and id = $3
for update
"""

SESSIONS = """
select count(*)
from sessions
where bucket = $1
  and namespace = $2
  and node_id = $3
  and closed_at is null
"""

# By no index: states that only wait have none by target. It is read when a person asks about a node that is gone.
UNFINISHED = """
select count(*)
from (
  select 1
  from queue
  where bucket = $1
    and namespace = $2
    and starts_with(target, $3)
  limit $4
) q
"""

SCHEDULES = """
select name
from schedules
where bucket = $1
  and namespace = $2
  and starts_with(target, $3)
order by name
limit $4
"""

TRIGGERS = """
select name
from triggers
where bucket = $1
  and namespace = $2
  and starts_with(target, $3)
order by name
limit $4
"""

DROP_PAUSES = """
delete from pauses
where bucket = $1
  and namespace = $2
  and node_id = $3
"""

DROP_REASONERS = """
delete from reasoners
where bucket = $1
  and namespace = $2
  and node_id = $3
returning target
"""

DROP_SESSIONS = """
delete from sessions
where bucket = $1
  and namespace = $2
  and node_id = $3
  and closed_at is not null
"""

DROP_NODE = """
delete from nodes
where bucket = $1
  and namespace = $2
  and id = $3
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgottenNode:
    """A node as it was."""

    transport: str
    version: str
    base_url: str | None
    registered_at: datetime
    targets: Sequence[str]


async def forget(
    conn: Connection, bucket: int, *, buckets: Sequence[int], namespace: int, node_id: str
) -> ForgottenNode:
    """The node is not known any more, nor is what it served. `buckets`: where work for it may lie.

    Guard: the node's row, which everybody takes who makes something that would keep it: of two who forget it the second
    finds nothing, and a node that registers meanwhile comes back as a new one. What is submitted by a copy of the
    catalogue that is a second old waits for it in the queue, as for any node that is away.
    Raises: NodeNotFound, NodeInUse.
    """
    async with conn.transaction():
        row = await conn.fetchrow(LOCK_NODE, bucket, namespace, node_id)
        if row is None:
            raise NodeNotFound
        await conn.fetch(LOCK_CLOSED, bucket, namespace, node_id)
        kept = await keeps(conn, bucket, buckets=buckets, namespace=namespace, node_id=node_id)
        if kept:
            raise NodeInUse(
                kept.sentence,
                fix=kept.fix(node_id),
                sessions=kept.sessions,
                executions=kept.executions,
                schedules=list(kept.schedules),
                triggers=list(kept.triggers),
            )
        await conn.execute(DROP_PAUSES, bucket, namespace, node_id)
        targets = sorted(row["target"] for row in await conn.fetch(DROP_REASONERS, bucket, namespace, node_id))
        await limit.declare(conn, bucket, dict.fromkeys(REASONER + target for target in targets), namespace=namespace)
        await conn.execute(DROP_SESSIONS, bucket, namespace, node_id)
        await conn.execute(DROP_NODE, bucket, namespace, node_id)
    return ForgottenNode(**dict(row), targets=targets)


async def keeps(conn: Connection, bucket: int, *, buckets: Sequence[int], namespace: int, node_id: str) -> Kept:
    """What keeps this node from being forgotten. Reads only."""
    prefix = f"{node_id}."
    sessions = await conn.fetchval(SESSIONS, bucket, namespace, node_id)
    executions, schedules, triggers = 0, list[str](), list[str]()
    for place in buckets:
        if not sessions and executions <= COUNT_MAX:
            executions += await conn.fetchval(UNFINISHED, place, namespace, prefix, COUNT_MAX + 1)
        schedules += [row["name"] for row in await conn.fetch(SCHEDULES, place, namespace, prefix, NAMES_MAX + 1)]
        triggers += [row["name"] for row in await conn.fetch(TRIGGERS, place, namespace, prefix, NAMES_MAX + 1)]
    return Kept(
        sessions=sessions,
        executions=min(executions, COUNT_MAX),
        executions_is_more=executions > COUNT_MAX,
        schedules=sorted(schedules)[:NAMES_MAX],
        triggers=sorted(triggers)[:NAMES_MAX],
        more=max(len(schedules), len(triggers)) > NAMES_MAX,
    )
