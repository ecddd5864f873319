"""Follow: the children of an execution that has ended without a result end with it, unless they shall go on.

    finish ──► *follow* ──► cancel ──► finish ──► …
               a few children at a time, then theirs, down the tree

What is to be done stands in `ended_parents`, written with the end of the parent: a server that dies here loses nothing.
A parent that lost its lease, or fails and is tried again, has not ended: its children go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import asyncpg

from controlplane.domain.execution import REASON_OF, Status
from controlplane.postgres.pool import Connection
from controlplane.stages import cancel, finish

PARENTS_MAX = 16
"""Ended parents whose children are looked at in one pass."""
CHILDREN_MAX = 256
"""Children of one parent that are cancelled in one transaction."""

TAKE = """
select id, status, at
from ended_parents
where bucket = $1
order by at, id
limit 1
for update skip locked
"""

CHILDREN = """
select id
from queue
where bucket = $1
  and parent_id = $2
  and on_parent_end = 'cancel'
  and cancel_requested_at is null
limit $3
"""

# Behind the others: a parent of thousands lets those of a few go first.
PUT_BACK = """
update ended_parents
set at = clock()
where bucket = $1
  and at = $2
  and id = $3
"""

DONE = """
delete from ended_parents
where bucket = $1
  and at = $2
  and id = $3
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What one pass did: how many parents and children it moved, and which children have ended.

    `cancelling`: processes have to be told to stop what they run.
    """

    rows: int = 0
    ended: tuple[UUID, ...] = ()
    cancelling: bool = False


async def sweep(conn: Connection, bucket: int, *, make_id: finish.MakeId) -> Followed:
    """Cancel children whose parents have ended without a result; what ends so leaves its own children to the next pass.

    Moves: as `cancel.request`, with the reason `parent cancelled`, `parent failed` or `parent timed out`.
    Guard: the row of the ended parent is locked, and goes only when none of its children is left to be told.
    """
    rows, ended, cancelling = 0, list[UUID](), False
    for _ in range(PARENTS_MAX):
        async with conn.transaction():
            parent = await conn.fetchrow(TAKE, bucket)
            if parent is None:
                break
            done = await _cancel(conn, bucket, parent, make_id)
        rows += 1 + len(done)
        ended += [one.id for one in done if one.settled]
        cancelling = cancelling or any(not one.settled for one in done)
    return Followed(rows=rows, ended=tuple(ended), cancelling=cancelling)


async def _cancel(
    conn: Connection, bucket: int, parent: asyncpg.Record, make_id: finish.MakeId
) -> list[cancel.Cancelled]:
    children = [row["id"] for row in await conn.fetch(CHILDREN, bucket, parent["id"], CHILDREN_MAX)]
    said = await cancel.request(conn, children, reason=REASON_OF[Status(parent["status"])], make_id=make_id)
    if len(children) == CHILDREN_MAX:
        await conn.execute(PUT_BACK, bucket, parent["at"], parent["id"])
    else:
        await conn.execute(DONE, bucket, parent["at"], parent["id"])
    return [one for one in said if isinstance(one, cancel.Cancelled)]  # the others have ended in between
