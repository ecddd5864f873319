"""Room: whether a namespace may have one more of something. Asked inside the transaction that has just made it.

Counts what the transaction sees: of those that are made in the very same moment by others it knows nothing, so a cap
may be exceeded by as many as are made at once. Serves all stages.
"""

from __future__ import annotations

from controlplane.domain.cap import Cap, Ceiling, reached
from controlplane.postgres.pool import Connection

SCHEDULES = """
select count(*) from (select 1 from schedules where bucket = $1 and namespace = $2 limit $3) s
"""

TRIGGERS = """
select count(*) from (select 1 from triggers where bucket = $1 and namespace = $2 limit $3) t
"""

NODES = """
select count(*) from (select 1 from nodes where bucket = $1 and namespace = $2 limit $3) n
"""

SESSIONS = """
select count(*)
from (
  select 1
  from sessions
  where bucket = $1
    and namespace = $2
    and node_id = $4
    and closed_at is null
  limit $3
) s
"""

COUNTS = {Cap.SCHEDULES: SCHEDULES, Cap.TRIGGERS: TRIGGERS, Cap.NODES: NODES, Cap.SESSIONS_PER_NODE: SESSIONS}


async def require(conn: Connection, ceiling: Ceiling | None, namespace: int, *of: str) -> None:
    """There are no more than there may be, the new one included. Raises: CapReached, NamespaceFull."""
    if ceiling is None or ceiling.most is None:
        return
    statement, present = COUNTS[ceiling.cap], 0
    for bucket in ceiling.buckets:
        present += await conn.fetchval(statement, bucket, namespace, ceiling.most + 1, *of)
    if present > ceiling.most:
        raise reached(ceiling.cap, most=ceiling.most, present=present - 1)
