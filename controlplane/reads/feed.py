"""Every delivery in the order in which it came to be, without a gap: for who catches up and does not trust push.

A transaction draws its number when it begins to write, so a late commit can appear with an earlier one. The reader goes
by (transaction, id) and stops before the oldest transaction still running, as `reads.events` does, and never passes by
what it may not tell yet. Rows from before the numbers come first, by their ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from heapq import merge
from typing import NamedTuple
from uuid import UUID

import asyncpg

from controlplane.domain.delivery import DeliveryState
from controlplane.domain.ids import BUCKETS_MAX, within
from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Connection
from controlplane.reads.deliveries import AttemptView, DeliveryView

LOOK_MAX = 2_000
"""Rows of a bucket that are looked at for one page, matching or not."""
PAGE_BYTES_MAX = 4 * 1024 * 1024
"""Bodies of one page together; one that is larger than this comes alone."""
NO_ID = UUID(int=0)
LAST_ID = UUID(int=2**128 - 1)

# What may be told already ends at the first row that may not: one behind it waits for it, or a reader would pass it by.
NUMBERED = """
with ahead as materialized (
  select d.xid, d.id, d.webhook_n, d.execution_id, d.event, d.host, d.url, d.state, d.attempt, d.charged,
    d.attempts_max, d.next_at, d.created_at, d.settled_at, d.endpoint_id, octet_length(d.body) as bytes,
    d.xid < pg_snapshot_xmin(pg_current_snapshot()) or d.created_at < clock() - interval '1 hour' as certain
  from deliveries d
  where d.bucket = $1
    and d.namespace = $2
    and d.xid is not null
    and (d.xid, d.id) > ($3::text::xid8, $4::uuid)
  order by d.xid, d.id
  limit $12
),
looked as materialized (
  select a.xid, a.id, a.webhook_n, a.execution_id, a.event, a.host, a.url, a.state, a.attempt, a.charged,
    a.attempts_max, a.next_at, a.created_at, a.settled_at, a.endpoint_id, a.bytes
  from (select *, bool_and(certain) over (order by xid, id) as told from ahead) as a
  where a.told
)
select seen.rows, seen.last_xid, seen.last_id, found.xid, found.id, found.execution_id, found.event, found.url,
  found.state, found.attempt, found.charged, found.attempts_max, found.next_at, found.created_at, found.settled_at,
  found.endpoint_id, found.bytes, found.run_id, found.target
from (
  select count(*) as rows,
    (select xid::text::bigint from looked order by looked.xid desc, id desc limit 1) as last_xid,
    (select id from looked order by xid desc, id desc limit 1) as last_id
  from looked
) as seen
left join (
  select l.xid::text::bigint as xid, l.id, l.execution_id, l.event, l.url, l.state, l.attempt, l.charged,
    l.attempts_max, l.next_at, l.created_at, l.settled_at, l.endpoint_id, l.bytes, e.run_id, e.target
  from looked l
  left join lateral (
    select e.run_id, e.target
    from executions e
    where e.bucket = $1
      and e.id = l.execution_id
    limit 1
  ) as e on true
  where l.webhook_n is distinct from 0
    and ($5::text[] is null or l.state = any($5::text[]))
    and ($6::text is null or l.event = $6)
    and ($7::text is null or l.host = $7)
    and ($8::uuid is null or l.endpoint_id = $8)
    and ($9::uuid is null or l.execution_id = $9)
    and ($10::timestamptz is null or l.created_at >= $10)
  order by l.xid, l.id
  limit $11
) as found on true
order by found.xid, found.id
"""

# Those without a number; they are older than the first that has one, and nobody writes any more of them.
UNNUMBERED = """
with looked as materialized (
  select d.xid, d.namespace, d.id, d.webhook_n, d.execution_id, d.event, d.host, d.url, d.state, d.attempt, d.charged,
    d.attempts_max, d.next_at, d.created_at, d.settled_at, d.endpoint_id, octet_length(d.body) as bytes
  from deliveries d
  where d.bucket = $1
    and d.id > $3
    and ($4::uuid is null or d.id < $4)
  order by d.id
  limit $12
)
select seen.rows, 0::bigint as last_xid, seen.last_id, 0::bigint as xid, found.id, found.execution_id, found.event,
  found.url, found.state, found.attempt, found.charged, found.attempts_max, found.next_at, found.created_at,
  found.settled_at, found.endpoint_id, found.bytes, found.run_id, found.target
from (select count(*) as rows, (select id from looked order by id desc limit 1) as last_id from looked) as seen
left join (
  select l.id, l.execution_id, l.event, l.url, l.state, l.attempt, l.charged, l.attempts_max, l.next_at, l.created_at,
    l.settled_at, l.endpoint_id, l.bytes, e.run_id, e.target
  from looked l
  left join lateral (
    select e.run_id, e.target
    from executions e
    where e.bucket = $1
      and e.id = l.execution_id
    limit 1
  ) as e on true
  where l.namespace = $2
    and l.xid is null
    and l.webhook_n is distinct from 0
    and ($5::text[] is null or l.state = any($5::text[]))
    and ($6::text is null or l.event = $6)
    and ($7::text is null or l.host = $7)
    and ($8::uuid is null or l.endpoint_id = $8)
    and ($9::uuid is null or l.execution_id = $9)
    and ($10::timestamptz is null or l.created_at >= $10)
  order by l.id
  limit $11
) as found on true
order by found.id
"""

FIRST_NUMBERED = """
select created_at
from deliveries
where bucket = $1
  and namespace = $2
  and xid is not null
order by xid, id
limit 1
"""

BODIES = """
select id, body
from deliveries
where bucket = $1
  and id = any($2::uuid[])
"""

# Without what the receivers answered: a page of these could be as large as all of them together.
TRIES = """
select delivery_id, attempt, outcome, http_status, latency_ms, error, null::bytea as response_body, at
from delivery_attempts
where bucket = $1
  and delivery_id = any($2::uuid[])
order by delivery_id, attempt
"""

CLOCK = """
select pg_snapshot_xmin(pg_current_snapshot())::text::bigint as oldest,
  pg_snapshot_xmax(pg_current_snapshot())::text::bigint as next
"""


class Place(NamedTuple):
    """A place in the feed of one bucket: behind this delivery. With xid 0 it is among those without a number."""

    xid: int
    id: UUID


BEGINNING = Place(0, NO_ID)
NUMBERS_BEGIN = Place(1, NO_ID)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedFilter:
    """Which deliveries to tell of; None means any, no states mean all."""

    states: tuple[DeliveryState, ...] = ()
    event: str | None = None
    host: str | None = None
    endpoint_id: UUID | None = None
    execution_id: UUID | None = None
    created_after: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One delivery and its place. `bytes`: how long its body is."""

    place: Place
    view: DeliveryView
    bytes: int

    @property
    def bucket(self) -> int:
        return self.view.id.int % BUCKETS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a bucket has next, how far it was looked at, and whether there is more at once."""

    items: tuple[Told, ...]
    reached: Place
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """What comes next, where to go on in each bucket, and whether there is more at once."""

    items: tuple[Told, ...]
    reached: Mapping[int, Place]
    more: bool


async def now(conn: Connection, placement: Placement) -> dict[int, Place]:
    """The end of what has certainly come to be."""
    row = await conn.fetchrow(CLOCK)
    assert row is not None
    return dict.fromkeys(placement.all(), Place(row["oldest"] - 1, LAST_ID))


async def is_ahead(conn: Connection, after: Mapping[int, Place]) -> bool:
    """Whether a place lies behind all that this database has ever numbered: it is another database's."""
    row = await conn.fetchrow(CLOCK)
    assert row is not None
    return any(place.xid > row["next"] for place in after.values())


async def page(
    conn: Connection,
    wanted: FeedFilter,
    after: Mapping[int, Place],
    *,
    namespace: int,
    limit: int,
    placement: Placement,
    bodies: bool,
    look: int = LOOK_MAX,
) -> Feed:
    """What came to be next, at most `limit`, with `bodies` at most about PAGE_BYTES_MAX of them."""
    if wanted == FeedFilter():  # nearly every row is meant
        look = min(look, 2 * limit)
    parts = {
        bucket: await _part(conn, bucket, wanted, after.get(bucket, BEGINNING), namespace, limit, look)
        for bucket in placement.all()
    }
    items = _fitting(list(merge(*(part.items for part in parts.values()), key=lambda one: one.place)), limit, bodies)
    reached = {bucket: _reached(part, after.get(bucket, BEGINNING), items) for bucket, part in parts.items()}
    more = any(part.more for part in parts.values()) or len(items) < sum(len(part.items) for part in parts.values())
    return Feed(items=tuple(await _complete(conn, items, bodies=bodies)), reached=reached, more=more)


def _fitting(items: list[Told], limit: int, bodies: bool) -> list[Told]:
    kept, left = items[:limit], PAGE_BYTES_MAX
    for n, one in enumerate(kept):
        left -= one.bytes if bodies else 0
        if left < 0 and n > 0:
            return kept[:n]
    return kept


def _reached(part: Part, after: Place, items: Sequence[Told]) -> Place:
    """As far as it was looked at, unless something found there does not fit on the page."""
    fits = {one.view.id for one in items}
    told = [one.place for one in part.items if one.view.id in fits]
    if len(told) == len(part.items):
        return part.reached
    return told[-1] if told else after


async def _part(
    conn: Connection, bucket: int, wanted: FeedFilter, after: Place, namespace: int, limit: int, look: int
) -> Part:
    old: tuple[Told, ...] = ()
    if after.xid == 0:
        first: datetime | None = await conn.fetchval(FIRST_NUMBERED, bucket, namespace)
        _, high = within(None, first)
        part = await _looked(conn, UNNUMBERED, bucket, wanted, namespace, (after.id, high), limit, look, after)
        if part.more:
            return part
        old, after = part.items, NUMBERS_BEGIN
    where = (str(after.xid), after.id)
    part = await _looked(conn, NUMBERED, bucket, wanted, namespace, where, limit, look, after)
    return replace(part, items=old + part.items)


async def _looked(
    conn: Connection,
    statement: str,
    bucket: int,
    wanted: FeedFilter,
    namespace: int,
    where: tuple[object, object],
    limit: int,
    look: int,
    after: Place,
) -> Part:
    rows = await conn.fetch(
        statement,
        bucket,
        namespace,
        *where,
        [state.value for state in wanted.states] or None,
        wanted.event,
        wanted.host,
        wanted.endpoint_id,
        wanted.execution_id,
        wanted.created_after,
        limit,
        look,
    )
    items = tuple(_told(row) for row in rows if row["id"] is not None)
    if len(items) == limit:
        return Part(items=items, reached=items[-1].place, more=True)
    seen = rows[0]
    reached = after if seen["last_id"] is None else Place(seen["last_xid"], seen["last_id"])
    return Part(items=items, reached=reached, more=seen["rows"] >= look)


def _told(row: asyncpg.Record) -> Told:
    beside = ("rows", "last_xid", "last_id", "xid", "bytes")
    fields = {name: value for name, value in row.items() if name not in beside}
    return Told(place=Place(row["xid"], row["id"]), view=DeliveryView(**fields, attempts=()), bytes=row["bytes"])


async def _complete(conn: Connection, items: Sequence[Told], *, bodies: bool) -> list[Told]:
    """The same with their attempts, and with what is sent."""
    tries: dict[UUID, list[AttemptView]] = {}
    sent: dict[UUID, bytes] = {}
    for bucket in sorted({one.bucket for one in items}):
        ids = [one.view.id for one in items if one.bucket == bucket]
        for row in await conn.fetch(TRIES, bucket, ids):
            tries.setdefault(row["delivery_id"], []).append(AttemptView(**dict(row)))
        if bodies:
            sent |= {row["id"]: row["body"] for row in await conn.fetch(BODIES, bucket, ids)}
    return [
        replace(one, view=replace(one.view, attempts=tuple(tries.get(one.view.id, ())), body=sent.get(one.view.id)))
        for one in items
    ]
