"""The audit log: pages of it, and where its chains begin and end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from controlplane.domain.audit import START, Audited, Broken, Mark, Walked, walk
from controlplane.postgres.pool import Connection

LOOK_MAX = 2_000
"""Numbers that one page looks at for those that are asked for."""
WALK_MAX = 5_000
"""Rows that are verified in one go, FETCH_MAX of them in memory at once."""
FETCH_MAX = 500

HEAD = """
select seq, hash, removed_seq, removed_hash
from audit_heads
where bucket = $1
  and namespace = $2
"""

# A window of numbers, which have no gaps: what is asked for may be rare, and the next page goes on behind the window.
BACKWARD = """
select namespace, seq, id, at, actor_kind, actor, key_id, actor_namespace, request_id, address, user_agent, action,
  object_kind, object_id, before, after, previous, hash
from audit
where bucket = $1
  and namespace = $2
  and seq < $3
  and seq >= $4
  and ($5::text is null or coalesce(actor, actor_kind) = $5)
  and ($6::text is null or action = $6 or starts_with(action, $6 || '.'))
  and ($7::text is null or object_id = $7)
  and ($8::timestamptz is null or at >= $8)
  and ($9::timestamptz is null or at < $9)
order by seq desc
limit $10
"""

FORWARD = """
select namespace, seq, id, at, actor_kind, actor, key_id, actor_namespace, request_id, address, user_agent, action,
  object_kind, object_id, before, after, previous, hash
from audit
where bucket = $1
  and namespace = $2
  and seq > $3
  and seq <= $4
  and ($5::text is null or coalesce(actor, actor_kind) = $5)
  and ($6::text is null or action = $6 or starts_with(action, $6 || '.'))
  and ($7::text is null or object_id = $7)
  and ($8::timestamptz is null or at >= $8)
  and ($9::timestamptz is null or at < $9)
order by seq
limit $10
"""

FOLLOWING = """
select namespace, seq, id, at, actor_kind, actor, key_id, actor_namespace, request_id, address, user_agent, action,
  object_kind, object_id, before, after, previous, hash
from audit
where bucket = $1
  and namespace = $2
  and seq > $3
order by seq
limit $4
"""

HASH = """
select hash
from audit
where bucket = $1
  and namespace = $2
  and seq = $3
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which rows. `action`: also a beginning of it, as `key` of `key.revoked`. `until` is not among them."""

    actor: str | None = None
    action: str | None = None
    object_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


EVERYTHING = Wanted()


@dataclass(frozen=True, slots=True)
class Chain:
    """The last row, and the last one that retention has taken away."""

    head: Mark
    removed: Mark


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows, and behind which number the next ones begin; None: there are no more."""

    rows: list[Audited]
    following: int | None


@dataclass(frozen=True, slots=True)
class Verified:
    """How far it holds, and the chain it was compared with. `complete`: that was all of it."""

    walked: Walked
    chain: Chain
    complete: bool


async def chain(conn: Connection, bucket: int, *, namespace: int) -> Chain:
    """Where it begins and ends; nothing was ever written down: both before the first."""
    row = await conn.fetchrow(HEAD, bucket, namespace)
    if row is None:
        return Chain(START, START)
    return Chain(Mark(row["seq"], row["hash"]), Mark(row["removed_seq"], row["removed_hash"]))


async def newest(
    conn: Connection, bucket: int, wanted: Wanted, *, namespace: int, before: int | None, limit: int
) -> Page:
    """The newest first, from before this number on."""
    ends = await chain(conn, bucket, namespace=namespace)
    top = ends.head.seq + 1 if before is None else before
    bottom = max(ends.removed.seq + 1, top - LOOK_MAX)
    rows = await _page(conn, BACKWARD, (bucket, namespace, top, bottom), wanted, limit)
    last = rows[-1].seq if len(rows) == limit else bottom
    return Page(rows, last if last > ends.removed.seq + 1 else None)


async def oldest(conn: Connection, bucket: int, wanted: Wanted, *, namespace: int, after: int, limit: int) -> Page:
    """The oldest first, from behind this number on."""
    ends = await chain(conn, bucket, namespace=namespace)
    bottom = max(after, ends.removed.seq)
    top = min(bottom + LOOK_MAX, ends.head.seq)
    rows = await _page(conn, FORWARD, (bucket, namespace, bottom, top), wanted, limit)
    last = rows[-1].seq if len(rows) == limit else top
    return Page(rows, last if last < ends.head.seq else None)


async def verify(
    conn: Connection, bucket: int, *, namespace: int, after: Mark | None, kept: Mark | None, rows_max: int = WALK_MAX
) -> Verified:
    """Go along the chain and find the first row that is not what was written, or is not there.

    `after`: go on behind this row, which was found good. `kept`: the head of an earlier day, which must be in it still.
    Rows that retention has taken away are compared no more; the first that is left has to go on from the last of them.
    """
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        ends = await chain(conn, bucket, namespace=namespace)
        begin = ends.removed if after is None or after.seq < ends.removed.seq else after
        for mark in (begin, kept):
            if mark is not None and (broken := await _compare(conn, bucket, namespace, ends, mark)) is not None:
                return Verified(Walked(begin, begin, broken), ends, complete=False)
        end = begin
        while end.seq - begin.seq < rows_max:
            rows = await conn.fetch(FOLLOWING, bucket, namespace, end.seq, FETCH_MAX)
            part = walk(end, map(Audited.from_row, rows))
            end = part.end
            if part.broken is not None:
                return Verified(Walked(begin, end, part.broken), ends, complete=False)
            if len(rows) < FETCH_MAX:
                return Verified(Walked(begin, end, _at_the_end(end, ends.head)), ends, complete=True)
    return Verified(Walked(begin, end, None), ends, complete=False)


async def _page(
    conn: Connection, statement: str, place: tuple[int, int, int, int], wanted: Wanted, limit: int
) -> list[Audited]:
    rows = await conn.fetch(
        statement, *place, wanted.actor, wanted.action, wanted.object_id, wanted.since, wanted.until, limit
    )
    return [Audited.from_row(row) for row in rows]


async def _compare(conn: Connection, bucket: int, namespace: int, ends: Chain, mark: Mark) -> Broken | None:
    """Whether the row of this number has this hash, as far as that can still be seen."""
    if mark.seq < ends.removed.seq:
        return None
    there: bytes | None = (
        ends.removed.hash if mark.seq == ends.removed.seq else await conn.fetchval(HASH, bucket, namespace, mark.seq)
    )
    if there is None:
        return Broken(mark.seq, "It is missing.")
    return None if there == mark.hash else Broken(mark.seq, "It has another hash than it had.")


def _at_the_end(end: Mark, head: Mark) -> Broken | None:
    if end.seq < head.seq:
        return Broken(end.seq + 1, "It is missing: the chain has gone further.")
    if end != head:
        return Broken(end.seq, "It is not where the chain ends.")
    return None
