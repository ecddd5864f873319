"""Embed: a vector becomes durable under its key, or is forgotten. The 200 means committed.

submit ──► lease ──► complete ──► finish ──► deliver
             └── checkpoint, *embed*
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from controlplane.domain.lease import Fence
from controlplane.domain.memory import Place
from controlplane.domain.placement import by_bucket, by_place
from controlplane.domain.vector import Change, Forget, Keep
from controlplane.errors import ControlPlaneError, LeaseLost
from controlplane.postgres.pool import Connection
from controlplane.stages import hold

CLEAR_BATCH = 1_000

# In one order, so that two batches cannot wait for each other.
LOCK = """
select 1
from unnest($2::smallint[], $3::text[], $4::text[], $5::text[]) as w(namespace, scope, scope_id, key)
join memory_vectors v
  on v.bucket = $1 and v.namespace = w.namespace and v.scope = w.scope and v.scope_id = w.scope_id and v.key = w.key
order by v.namespace, v.scope, v.scope_id, v.key
for update of v
"""

# $8 holds the numbers of all vectors one after the other: arrays of several lengths do not fit into one array.
STORE = """
insert into memory_vectors as v (
  bucket, namespace, scope, scope_id, key, norm, metadata, embedding, created_at, updated_at
)
select $1, w.namespace, w.scope, w.scope_id, w.key, w.norm, w.metadata,
  ($8::double precision[])[w.starts:w.ends], clock(), clock()
from unnest(
  $2::smallint[], $3::text[], $4::text[], $5::text[], $6::double precision[], $7::bytea[], $9::int[], $10::int[]
) as w(namespace, scope, scope_id, key, norm, metadata, starts, ends)
order by w.namespace, w.scope, w.scope_id, w.key
on conflict (bucket, namespace, scope, scope_id, key) do update
set norm = excluded.norm,
  metadata = excluded.metadata,
  embedding = excluded.embedding,
  updated_at = excluded.updated_at
"""

REMOVE = """
delete from memory_vectors v
using unnest($2::smallint[], $3::text[], $4::text[], $5::text[]) as w(namespace, scope, scope_id, key)
where v.bucket = $1
  and v.namespace = w.namespace
  and v.scope = w.scope
  and v.scope_id = w.scope_id
  and v.key = w.key
"""

CLEAR = """
delete from memory_vectors
where bucket = $1
  and namespace = $2
  and scope = $3
  and scope_id = $4
  and key = any(array(
    select key
    from memory_vectors
    where bucket = $1
      and namespace = $2
      and scope = $3
      and scope_id = $4
      and starts_with(key, $5)
    order by key
    limit $6
    for update
  ))
returning key
"""


async def write(conn: Connection, batch: Sequence[Change]) -> list[ControlPlaneError | None]:
    """Each vector is stored or forgotten, in the order of the batch; a stale change changes nothing.

    Moves: the vector under a key → these numbers and this metadata, or gone; the crash count of its writer → 0.
    Guard: the queue row of the fence is held `for share`. Said twice, the same stands.
    Raises: per item LeaseLost.
    """
    async with conn.transaction():
        held = await _held(conn, {item.fence for item in batch if item.fence is not None})
        stands = [item.fence is None or item.fence in held for item in batch]
        last = {item.place: item for item, stood in zip(batch, stands, strict=True) if stood}
        for bucket, places in by_place(sorted(last), lambda place: place.bucket):
            await conn.execute(LOCK, bucket, *_columns(places))
            changes = [last[place] for place in places]
            gone = [change.place for change in changes if isinstance(change, Forget)]
            if gone:
                await conn.execute(REMOVE, bucket, *_columns(gone))
            await _store(conn, bucket, [change for change in changes if isinstance(change, Keep)])
    await hold.forgive(conn, {fence.execution_id for fence, row in held.items() if row["crashes"]})
    await hold.hear(conn, held)
    return [None if stood else LeaseLost() for stood in stands]


async def clear(conn: Connection, start: Place, *, fence: Fence | None = None, limit: int = CLEAR_BATCH) -> int:
    """Forgets vectors of a scope whose keys begin with `start.key`, at most `limit`; how many they were.

    Moves: those vectors → gone. Call it again while it comes back full.
    Guard: the queue row of the fence is held `for share`. Said twice, there is nothing left.
    Raises: LeaseLost.
    """
    async with conn.transaction():
        held = await _held(conn, set() if fence is None else {fence})
        if fence is not None and fence not in held:
            raise LeaseLost
        rows = await conn.fetch(
            CLEAR, start.bucket, start.namespace, start.scope.value, start.scope_id, start.key, limit
        )
    return len(rows)


async def _held(conn: Connection, fences: set[Fence]) -> dict[Fence, asyncpg.Record]:
    held: dict[Fence, asyncpg.Record] = {}
    for bucket, part in by_bucket(fences, lambda fence: fence.execution_id):
        held |= await hold.share(conn, bucket, part)
    return held


async def _store(conn: Connection, bucket: int, kept: list[Keep]) -> None:
    if not kept:
        return
    ends: list[int] = []
    for change in kept:
        ends.append((ends[-1] if ends else 0) + len(change.embedding.values))
    await conn.execute(
        STORE,
        bucket,
        *_columns([change.place for change in kept]),
        [change.embedding.norm for change in kept],
        [change.metadata for change in kept],
        [value for change in kept for value in change.embedding.values],
        [1, *(end + 1 for end in ends[:-1])],
        ends,
    )


def _columns(places: Sequence[Place]) -> tuple[list[int], list[str], list[str], list[str]]:
    return (
        [place.namespace for place in places],
        [place.scope.value for place in places],
        [place.scope_id for place in places],
        [place.key for place in places],
    )
