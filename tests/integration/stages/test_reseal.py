"""Stored secrets under another key: every place, beside writers, and nothing opens where it does not belong."""

from __future__ import annotations

import uuid

import asyncpg
import pytest

from controlplane.domain import delivery, endpoint, trigger
from controlplane.domain.ids import ExecutionId
from controlplane.security.secrets import KeyRing, SealBroken
from controlplane.stages import reseal
from controlplane.stages.reseal import PLACES, Cursor, Place, Resealed

OLD_KEY, NEW_KEY = (KeyRing.generate() for _ in range(2))
OLD, NEW, BOTH = (KeyRing.from_text(text) for text in (OLD_KEY, NEW_KEY, f"{NEW_KEY},{OLD_KEY}"))
SECRET = b"a-secret"
SEALED_COLUMNS = """
select c.relname || '.' || a.attname
from pg_attribute a
join pg_class c on c.oid = a.attrelid and c.relkind in ('r', 'p') and not c.relispartition
where a.attname like '%sealed%' and not a.attisdropped and c.relnamespace = 'public'::regnamespace
"""
WEBHOOK = """
insert into webhooks (
  bucket, execution_id, n, namespace, url, host, secret_sealed, headers_sealed, attempts_max, created_at
)
values (0, $1, 1, 1, 'https://r.example/', 'r.example:443', $2, $3, 5, clock())
"""
TRIGGER = """
insert into triggers (bucket, id, namespace, name, target, preset, scheme, arguments, event_types, secret_sealed,
  previous_sealed, previous_until, paused, created_at, updated_at)
values (0, $1::uuid, 1, $1::uuid::text, 'n.echo', 'bearer', '{}', '{}', '{}', $2, $3, clock(), false, clock(), clock())
"""
ENDPOINT = """
insert into endpoints (bucket, id, namespace, slot, name, url, host, events, targets, schedule, secret_sealed,
  previous_sealed, previous_until, headers_sealed, state, since_xid, created_at, updated_at)
select 0, $1::uuid, 1, count(*) + 1, $1::uuid::text, 'https://h', 'h', '{e}', '{}', '{0}', $2, $3, clock(), $4,
  'enabled', pg_current_xact_id(), clock(), clock()
from endpoints
"""


async def plant(conn: asyncpg.Connection, rows: int, ring: KeyRing = OLD) -> list[uuid.UUID]:
    """So many rows in every table, with a secret in each place, and one whose secrets were erased."""
    ids = sorted(uuid.uuid4() for _ in range(rows))
    for id_ in ids:
        secret, headers = (delivery.sealed_for(ExecutionId(id_), 1, what) for what in ("secret", "headers"))
        await conn.execute(WEBHOOK, id_, ring.seal(SECRET, bound_to=secret), ring.seal(SECRET, bound_to=headers))
        await conn.execute(TRIGGER, id_, *(ring.seal(SECRET, bound_to=trigger.sealed_for(id_)) for _ in range(2)))
        own = (endpoint.sealed_for(id_, what) for what in ("secret", "secret", "headers"))
        await conn.execute(ENDPOINT, id_, *(ring.seal(SECRET, bound_to=bound_to) for bound_to in own))
    await conn.execute(WEBHOOK, uuid.UUID(int=1), b"", None)
    return ids


async def stored(conn: asyncpg.Connection, place: Place) -> list[tuple[uuid.UUID, bytes]]:
    rows = await conn.fetch(place.page, 0, reseal.FIRST, -1, 1_000)
    return [(row["id"], row["sealed"]) for row in rows if row["sealed"]]


async def round_of(conn: asyncpg.Connection, place: Place, *, limit: int = 500) -> Resealed:
    done = Resealed()
    after: Cursor | None = Cursor()
    while after is not None:
        part = await reseal.batch(conn, 0, place, BOTH, after=after, limit=limit)
        done.add(part.done)
        after = part.after
    return done


async def test_every_sealed_column_is_a_place(conn: asyncpg.Connection) -> None:
    """A table with a secret of its own cannot be forgotten."""
    columns = {row[0] for row in await conn.fetch(SEALED_COLUMNS)}

    assert columns == {place.name for place in PLACES}


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
async def test_all_is_sealed_anew(conn: asyncpg.Connection, place: Place) -> None:
    """In batches, whatever their size; the secret stays the same, and the old key has nothing left."""
    await plant(conn, 7)
    before = await reseal.counts(conn, 0, place, BOTH)
    done = await round_of(conn, place, limit=3)
    again = await round_of(conn, place)

    assert before == {OLD.current: 7}
    assert (done, again) == (Resealed(anew=7), Resealed())
    assert await reseal.counts(conn, 0, place, BOTH) == {NEW.current: 7}
    opened = [NEW.open(sealed, bound_to=place.bound_to(id_, 1)) for id_, sealed in await stored(conn, place)]
    assert opened == [SECRET] * 7


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
async def test_swapped_values_do_not_open(conn: asyncpg.Connection, place: Place) -> None:
    """Neither for who sends them nor for who would seal them anew: they stay as they are, and are counted."""
    first, second = await plant(conn, 2)
    values = dict(await stored(conn, place))
    key = "execution_id" if place.table == "webhooks" else "id"
    for id_, sealed in ((first, values[second]), (second, values[first])):
        await conn.execute(f"update {place.table} set {place.column} = $2 where {key} = $1", id_, sealed)

    assert await round_of(conn, place) == Resealed(broken=2)
    assert await reseal.newest_broken(conn, 0, place, BOTH) == 2
    assert dict(await stored(conn, place)) == {first: values[second], second: values[first]}
    with pytest.raises(SealBroken):
        BOTH.open(values[second], bound_to=place.bound_to(first, 1))


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
async def test_a_racing_change_wins(conn: asyncpg.Connection, place: Place) -> None:
    """What was changed after it was read is not overwritten with what it was before."""
    [id_] = await plant(conn, 1)
    [(_, was)] = await stored(conn, place)
    key = "execution_id" if place.table == "webhooks" else "id"
    other = OLD.seal(b"another", bound_to=place.bound_to(id_, 1))
    await conn.execute(f"update {place.table} set {place.column} = $2 where {key} = $1", id_, other)
    late = await conn.fetch(place.put, 0, [id_], [1 if place.table == "webhooks" else 0], [was], [b"late"])

    assert late == []
    assert await stored(conn, place) == [(id_, other)]
    assert await round_of(conn, place) == Resealed(anew=1)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
async def test_who_holds_a_row_is_not_waited_for(
    conn: asyncpg.Connection, other: asyncpg.Connection, place: Place
) -> None:
    """It is left to the next round."""
    await plant(conn, 2)
    async with other.transaction():
        await other.execute(f"select from {place.table} for update")
        held = await round_of(conn, place)

    assert held == Resealed(left=2)
    assert await round_of(conn, place) == Resealed(anew=2)


async def test_a_key_that_is_not_there(conn: asyncpg.Connection) -> None:
    """Its values are counted under its id, and stay for whoever has it."""
    await plant(conn, 1)
    [place, *_] = PLACES
    part = await reseal.batch(conn, 0, place, NEW, after=Cursor())

    assert part.done == Resealed(broken=1)
    assert await reseal.counts(conn, 0, place, NEW) == {OLD.current: 1}
    assert await reseal.newest_broken(conn, 0, place, NEW) == 1
    assert await reseal.newest_broken(conn, 0, place, OLD) == 0
