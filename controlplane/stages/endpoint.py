"""Endpoint: who is told of what, without having submitted it.

    event ──► announce ──► deliver        beside the thread: no execution moves

All endpoints of a namespace lie in one bucket. How its receiver does is noted with every delivery that is settled; one
that has taken nothing for long is disabled there, and that is an event as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import asyncpg

from controlplane.domain.endpoint import (
    CONTROLPLANE,
    FAILING,
    GONE,
    Definition,
    Endpoint,
    EndpointId,
    EndpointState,
    check,
)
from controlplane.domain.placement import by_bucket
from controlplane.errors import EndpointExists, EndpointNotFound, EndpointsFull
from controlplane.postgres.pool import Connection

# The lowest number that is free. Two that want the same one at once: the second finds it taken, and looks again.
INSERT = """
insert into endpoints (
  bucket, id, namespace, slot, name, description, url, host, events, targets, schedule, secret_sealed, headers_sealed,
  state, since_xid, created_at, updated_at
)
select $1, $2, $3, s.slot, $5, $6, $7, $8, $9, $10, $11, $12, $13, 'enabled', pg_current_xact_id(), clock(), clock()
from generate_series(1, $4::int) as s(slot)
where not exists (
  select 1
  from endpoints e
  where e.bucket = $1
    and e.namespace = $3
    and (e.slot = s.slot or e.name = $5)
)
order by s.slot
limit 1
on conflict do nothing
returning id, namespace, name, description, url, host, events, targets, schedule, secret_sealed, previous_sealed,
  previous_until, headers_sealed, state, disabled_at, disabled_by, disabled_reason, dead_streak, failing_since,
  created_at, updated_at, clock() as now
"""

LOCK = """
select id, namespace, name, description, url, host, events, targets, schedule, secret_sealed, previous_sealed,
  previous_until, headers_sealed, state, disabled_at, disabled_by, disabled_reason, dead_streak, failing_since,
  created_at, updated_at, clock() as now
from endpoints
where bucket = $1
  and namespace = $2
  and (id = $3 or name = $4)
for update
"""

COUNT = "select count(*) from endpoints where bucket = $1 and namespace = $2"

REPLACE = """
update endpoints
set description = $3, url = $4, host = $5, events = $6, targets = $7, schedule = $8, headers_sealed = $9,
  updated_at = clock()
where bucket = $1
  and id = $2
returning id, namespace, name, description, url, host, events, targets, schedule, secret_sealed, previous_sealed,
  previous_until, headers_sealed, state, disabled_at, disabled_by, disabled_reason, dead_streak, failing_since,
  created_at, updated_at, clock() as now
"""

# From this transaction on it hears again; what happened while it was disabled was not for it.
ENABLE = """
update endpoints
set state = 'enabled', disabled_at = null, disabled_by = null, disabled_reason = null, dead_streak = 0,
  failing_since = null, since_xid = pg_current_xact_id(), updated_at = clock()
where bucket = $1
  and id = $2
returning id, namespace, name, description, url, host, events, targets, schedule, secret_sealed, previous_sealed,
  previous_until, headers_sealed, state, disabled_at, disabled_by, disabled_reason, dead_streak, failing_since,
  created_at, updated_at, clock() as now
"""

DISABLE = """
update endpoints
set state = 'disabled', disabled_at = clock(), disabled_by = $3, disabled_reason = $4, updated_at = clock()
where bucket = $1
  and id = $2
returning id, namespace, name, description, url, host, events, targets, schedule, secret_sealed, previous_sealed,
  previous_until, headers_sealed, state, disabled_at, disabled_by, disabled_reason, dead_streak, failing_since,
  created_at, updated_at, clock() as now
"""

# Two at most: one that was still signing from a change before stops now.
ROTATE = """
update endpoints
set previous_sealed = case when $4::float8 > 0 then secret_sealed end,
  previous_until = case when $4::float8 > 0 then clock() + make_interval(secs => $4) end,
  secret_sealed = $3,
  updated_at = clock()
where bucket = $1
  and id = $2
returning id, namespace, name, description, url, host, events, targets, schedule, secret_sealed, previous_sealed,
  previous_until, headers_sealed, state, disabled_at, disabled_by, disabled_reason, dead_streak, failing_since,
  created_at, updated_at, clock() as now
"""

REMOVE = """
delete from endpoints
where bucket = $1
  and namespace = $2
  and (id = $3 or name = $4)
returning id
"""

# Nothing is written for a receiver that does well, and of one that fails only the first failure and each death. All
# that will be written is locked at once, in one order: two flushes would wait for each other.
LOCK_NOTED = """
select l.id
from endpoints l
join unnest($2::uuid[], $3::boolean[], $4::int[]) as n(id, taken, dead) on n.id = l.id
where l.bucket = $1
  and l.id = any($2::uuid[])
  and case when n.taken then l.dead_streak > 0 or l.failing_since is not null
    else n.dead > 0 or l.failing_since is null end
order by l.id
for update of l
"""

NOTE = """
update endpoints e
set dead_streak = case when n.taken then 0 else e.dead_streak + n.dead end,
  failing_since = case when not n.taken then coalesce(e.failing_since, clock()) end
from unnest($2::uuid[], $3::boolean[], $4::int[]) as n(id, taken, dead)
where e.bucket = $1
  and e.id = n.id
  and e.id = any($5::uuid[])
"""

GIVE_UP = """
update endpoints
set state = 'disabled', disabled_at = clock(), disabled_by = $6, updated_at = clock(),
  disabled_reason = case when id = any($3::uuid[]) then $7 else $8 end
where bucket = $1
  and id = any(array(
    select id
    from endpoints
    where bucket = $1
      and id = any($2::uuid[])
      and state = 'enabled'
      and (id = any($3::uuid[]) or dead_streak >= $4 and failing_since < clock() - make_interval(secs => $5))
    order by id
    for update
  ))
returning id, namespace, name, disabled_reason
"""


class Ref(NamedTuple):
    """An endpoint, by its id or by its name."""

    id: EndpointId | None
    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """When an endpoint is disabled: at least so many deliveries dead in a row, and nothing taken for so long."""

    dead_max: int
    failing_seconds: float


PATIENCE = Patience(dead_max=20, failing_seconds=72 * 3_600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """What a delivery came to, as far as its endpoint is concerned. `gone`: the receiver says so itself."""

    endpoint_id: UUID
    taken: bool
    dead: bool
    gone: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Disabled:
    """An endpoint that was disabled just now, and why."""

    id: UUID
    namespace: int
    name: str
    reason: str


async def create(
    conn: Connection,
    bucket: int,
    id_: EndpointId,
    definition: Definition,
    *,
    namespace: int,
    name: str,
    secret_sealed: bytes,
    headers_sealed: bytes | None,
    same: Callable[[Endpoint], bool],
    most: int,
) -> tuple[Endpoint, bool]:
    """A new endpoint; one of this name that says the same is answered as it stands. Says whether it is new.

    Guard: the unique name and the unique number, of which there are `most`. `same`: whether one that is there has the
    same secret and headers. Raises: Invalid; EndpointExists where it is another; EndpointsFull.
    """
    check(definition)
    while True:
        async with conn.transaction():
            row = await conn.fetchrow(
                INSERT,
                bucket,
                id_,
                namespace,
                most,
                name,
                definition.description,
                definition.url,
                definition.host,
                list(definition.events),
                list(definition.targets),
                list(definition.schedule),
                secret_sealed,
                headers_sealed,
            )
            if row is not None:
                return Endpoint.from_row(row), True
            row = await conn.fetchrow(LOCK, bucket, namespace, None, name)
            if row is None and await conn.fetchval(COUNT, bucket, namespace) >= most:
                raise EndpointsFull(f"There are {most} endpoints already.", where="body.name", fix="Delete one.")
        if row is None:
            continue  # somebody took the number, or the name was removed in between
        there = Endpoint.from_row(row)
        if there.id == id_:  # our own earlier try, whose answer was lost
            return there, True
        if there.definition == definition and same(there):
            return there, False
        raise EndpointExists(
            "There is another endpoint of this name.", where="body.name", fix="PATCH changes it; or take another name."
        )


async def change(
    conn: Connection,
    bucket: int,
    ref: Ref,
    revise: Callable[[Endpoint], tuple[Definition, bytes | None]],
    *,
    namespace: int,
) -> Endpoint:
    """From here on it is as `revise` makes it of what stands there; what is pending goes where it is now.

    Guard: the locked row. Raises: EndpointNotFound, and what `revise` does.
    """
    async with conn.transaction():
        there = await _locked(conn, bucket, ref, namespace)
        new, headers_sealed = revise(there)
        check(new)
        if (new, headers_sealed) == (there.definition, there.headers_sealed):
            return there
        return await _one(
            conn,
            REPLACE,
            bucket,
            there.id,
            new.description,
            new.url,
            new.host,
            list(new.events),
            list(new.targets),
            list(new.schedule),
            headers_sealed,
        )


async def enable(conn: Connection, bucket: int, ref: Ref, *, namespace: int) -> Endpoint:
    """It hears of what happens from here on, and what was pending is sent. Raises: EndpointNotFound."""
    async with conn.transaction():
        there = await _locked(conn, bucket, ref, namespace)
        return there if there.state is EndpointState.ENABLED else await _one(conn, ENABLE, bucket, there.id)


async def disable(conn: Connection, bucket: int, ref: Ref, *, namespace: int, by: str, reason: str | None) -> Endpoint:
    """It is sent nothing and hears of nothing; what is pending waits. Raises: EndpointNotFound."""
    async with conn.transaction():
        there = await _locked(conn, bucket, ref, namespace)
        if there.state is EndpointState.DISABLED:
            return there
        return await _one(conn, DISABLE, bucket, there.id, by, reason)


async def rotate(
    conn: Connection,
    bucket: int,
    ref: Ref,
    seal: Callable[[Endpoint], bytes | None],
    *,
    namespace: int,
    overlap_seconds: float,
) -> Endpoint:
    """Another secret signs from here on, and for `overlap_seconds` the one before does, too.

    `seal` says None where the secret is the one that is there: said twice it changes nothing.
    Guard: the locked row. Raises: EndpointNotFound.
    """
    async with conn.transaction():
        there = await _locked(conn, bucket, ref, namespace)
        sealed = seal(there)
        return there if sealed is None else await _one(conn, ROTATE, bucket, there.id, sealed, overlap_seconds)


async def lock(conn: Connection, bucket: int, ref: Ref, *, namespace: int) -> Endpoint | None:
    """The endpoint as it stands until the caller's transaction ends; None when there is none."""
    row = await conn.fetchrow(LOCK, bucket, namespace, ref.id, ref.name)
    return None if row is None else Endpoint.from_row(row)


async def remove(conn: Connection, bucket: int, ref: Ref, *, namespace: int) -> EndpointId:
    """It is told nothing any more; what is pending is dead when its time comes. Raises: EndpointNotFound."""
    id_ = await conn.fetchval(REMOVE, bucket, namespace, ref.id, ref.name)
    if id_ is None:
        raise EndpointNotFound
    return EndpointId(id_)


async def note(conn: Connection, batch: Sequence[Noted], patience: Patience) -> list[Disabled]:
    """Remember how these receivers do; says which endpoints are disabled for it.

    Runs inside the transaction that settles the deliveries, after them. Moves: enabled → disabled. Guard: the locked
    rows, lowest bucket and id first.
    """
    disabled: list[Disabled] = []
    for bucket, part in by_bucket(batch, lambda one: one.endpoint_id):
        ids = sorted({one.endpoint_id for one in part})
        gone = sorted({one.endpoint_id for one in part if one.gone})
        taken = [id_ not in gone and any(one.taken for one in part if one.endpoint_id == id_) for id_ in ids]
        dead = [sum(one.dead for one in part if one.endpoint_id == id_) for id_ in ids]
        locked = [row["id"] for row in await conn.fetch(LOCK_NOTED, bucket, ids, taken, dead)]
        if not locked:
            continue
        await conn.execute(NOTE, bucket, ids, taken, dead, locked)
        dying = [id_ for id_, well, count in zip(ids, taken, dead, strict=True) if count and not well]
        if dying:
            rows = await conn.fetch(
                GIVE_UP,
                bucket,
                dying,
                gone,
                patience.dead_max,
                patience.failing_seconds,
                CONTROLPLANE,
                GONE,
                FAILING,
            )
            disabled += [
                Disabled(id=row["id"], namespace=row["namespace"], name=row["name"], reason=row["disabled_reason"])
                for row in rows
            ]
    return disabled


async def _locked(conn: Connection, bucket: int, ref: Ref, namespace: int) -> Endpoint:
    row = await conn.fetchrow(LOCK, bucket, namespace, ref.id, ref.name)
    if row is None:
        raise EndpointNotFound
    return Endpoint.from_row(row)


async def _one(conn: Connection, statement: str, *arguments: object) -> Endpoint:
    row: asyncpg.Record | None = await conn.fetchrow(statement, *arguments)
    assert row is not None  # it is locked
    return Endpoint.from_row(row)
