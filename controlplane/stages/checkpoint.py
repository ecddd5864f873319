"""Checkpoint: what a run has worked out so far becomes durable. The 200 means committed.

submit ──► lease ──► complete ──► finish ──► deliver
             └── *checkpoint*
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import asyncpg

from controlplane.domain.lease import Fence
from controlplane.domain.memory import (
    CHANGE_PREVIOUS_BYTES_MAX,
    CHANGE_VALUE_BYTES_MAX,
    Action,
    Append,
    Op,
    Place,
    Put,
    Remove,
    Scope,
    Write,
    Written,
    appended_before,
    assemble,
)
from controlplane.domain.placement import by_bucket, by_place
from controlplane.errors import ControlPlaneError, LeaseLost, LengthMismatch, NotAList
from controlplane.postgres.lane import Raced
from controlplane.postgres.pool import Connection
from controlplane.stages import hold

# `previous`: `octet_length` knows the size without reading the value, which may be large and stored apart.
LOCK = """
select m.namespace, m.scope, m.scope_id, m.key, m.length, m.appended, m.version, m.writer_execution_id,
  m.writer_attempt, m.created_at,
  case when m.appended = 0 and octet_length(m.value) <= $6::int then m.value end as previous
from unnest($2::smallint[], $3::text[], $4::text[], $5::text[]) as w(namespace, scope, scope_id, key)
join memory m
  on m.bucket = $1 and m.namespace = w.namespace and m.scope = w.scope and m.scope_id = w.scope_id and m.key = w.key
order by m.namespace, m.scope, m.scope_id, m.key
for update of m
"""

# `version`: the row is still the one that was locked, or still absent; otherwise nothing comes back and the whole flush
# is run again.
STORE = """
insert into memory as m (
  bucket, namespace, scope, scope_id, key, value, length, appended, version, writer_execution_id, writer_attempt,
  created_at, updated_at
)
select $1, w.namespace, w.scope, w.scope_id, w.key, w.value, w.length, w.appended, w.version, w.writer_execution_id,
  w.writer_attempt, clock(), clock()
from unnest(
  $2::smallint[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::int[], $8::int[], $9::bigint[], $10::uuid[],
  $11::int[]
) as w(namespace, scope, scope_id, key, value, length, appended, version, writer_execution_id, writer_attempt)
order by w.namespace, w.scope, w.scope_id, w.key
on conflict (bucket, namespace, scope, scope_id, key) do update
set value = excluded.value,
  length = excluded.length,
  appended = excluded.appended,
  version = excluded.version,
  writer_execution_id = excluded.writer_execution_id,
  writer_attempt = excluded.writer_attempt,
  updated_at = excluded.updated_at
where m.version = excluded.version - 1
returning m.namespace, m.scope, m.scope_id, m.key, m.created_at, m.updated_at
"""

# An append leaves the stored value alone: what it costs is what it adds. Only for rows that were locked before, so that
# new keys are made by one statement, in one order.
GROW = """
update memory m
set length = w.length,
  appended = w.appended,
  version = w.version,
  writer_execution_id = w.writer_execution_id,
  writer_attempt = w.writer_attempt,
  updated_at = clock()
from unnest(
  $2::smallint[], $3::text[], $4::text[], $5::text[], $6::int[], $7::int[], $8::bigint[], $9::uuid[], $10::int[]
) as w(namespace, scope, scope_id, key, length, appended, version, writer_execution_id, writer_attempt)
where m.bucket = $1
  and m.namespace = w.namespace
  and m.scope = w.scope
  and m.scope_id = w.scope_id
  and m.key = w.key
  and m.version = w.version - 1
returning m.namespace, m.scope, m.scope_id, m.key, m.created_at, m.updated_at
"""

ADD_ITEMS = """
insert into memory_items (bucket, namespace, scope, scope_id, key, position, value)
select $1, w.namespace, w.scope, w.scope_id, w.key, w.position, w.value
from unnest($2::smallint[], $3::text[], $4::text[], $5::text[], $6::int[], $7::bytea[])
  as w(namespace, scope, scope_id, key, position, value)
"""

READ_ITEMS = """
select value
from memory_items
where bucket = $1
  and namespace = $2
  and scope = $3
  and scope_id = $4
  and key = $5
  and position >= $6
  and position < $7
order by position
"""

DROP_ITEMS = """
delete from memory_items i
using unnest($2::smallint[], $3::text[], $4::text[], $5::text[]) as w(namespace, scope, scope_id, key)
where i.bucket = $1
  and i.namespace = w.namespace
  and i.scope = w.scope
  and i.scope_id = w.scope_id
  and i.key = w.key
"""

REMOVE = """
delete from memory m
using unnest($2::smallint[], $3::text[], $4::text[], $5::text[]) as w(namespace, scope, scope_id, key)
where m.bucket = $1
  and m.namespace = w.namespace
  and m.scope = w.scope
  and m.scope_id = w.scope_id
  and m.key = w.key
"""

# In the same transaction: what is told has happened, and what has happened is told. The table is unlogged, so this
# costs a round trip but no wait for a disk.
TELL = """
insert into memory_changes (
  bucket, namespace, scope, scope_id, key, action, value, previous, run_id, node_id, actor_key, at
)
select $1, c.namespace, c.scope, c.scope_id, c.key, c.action, c.value, c.previous, c.run_id, c.node_id, c.actor_key,
  clock()
from unnest(
  $2::smallint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bytea[], $9::text[], $10::text[],
  $11::text[]
) as c(namespace, scope, scope_id, key, action, value, previous, run_id, node_id, actor_key)
"""


@dataclass(slots=True)
class Slot:
    """One key while a flush works on it: as it was locked, and as it shall be.

    `value` is what to store, None to leave what is stored; `items` are the elements to add behind it.
    `action` and `by`: what became of it, and whose write said so last.
    """

    place: Place
    existed: bool = False
    version: int = 0
    length: int | None = None
    appended: int = 0
    had_items: bool = False
    value: bytes | None = None
    items: tuple[bytes, ...] = ()
    gone: bool = False
    touched: bool = False
    action: Action = Action.APPEND
    by: Write | None = None
    previous: bytes | None = None
    writer: UUID | None = None
    writer_attempt: int | None = None
    last_writer: tuple[UUID | None, int | None] = (None, None)
    created_at: datetime | None = None
    updated_at: datetime | None = None


async def write(conn: Connection, batch: Sequence[Write]) -> list[list[Written] | ControlPlaneError]:
    """Each write stands in the database whole, or not at all; a stale one changes nothing.

    Guard: the queue row of the fence is held `for share`, the memory row by its version. A write may be sent twice: a
    put puts the same again, an append with `expected_length` finds its elements already there.
    Raises: per item LeaseLost, LengthMismatch (with the length), NotAList; Raced for the lane.
    """
    answers: list[list[Written] | ControlPlaneError | None] = [None] * len(batch)
    async with conn.transaction():
        held = await _check_fences(conn, batch, answers)
        slots = await _lock(conn, [item for item, answer in zip(batch, answers, strict=True) if answer is None])
        for index, item in enumerate(batch):
            if answers[index] is not None:
                continue
            before = {op.place: replace(slots[op.place]) for op in item.ops}
            try:
                for n, op in enumerate(item.ops):
                    await _apply(conn, slots[op.place], op, item, where=f"ops[{n}].key")
            except (LengthMismatch, NotAList) as error:
                slots.update(before)
                answers[index] = error
        await _store(conn, slots.values())
        await _tell(conn, slots.values())
    stood = {item.fence for n, item in enumerate(batch) if answers[n] is None and item.fence is not None}
    wrote = {fence: row for fence, row in held.items() if fence in stood}
    await hold.forgive(conn, {fence.execution_id for fence, row in wrote.items() if row["crashes"]})
    await hold.hear(conn, wrote)
    return [answer if answer is not None else _written(batch[n], slots) for n, answer in enumerate(answers)]


async def _check_fences(
    conn: Connection, batch: Sequence[Write], answers: list[list[Written] | ControlPlaneError | None]
) -> dict[Fence, asyncpg.Record]:
    """Refuses the stale ones, and holds the rows of the others."""
    fences = {item.fence for item in batch if item.fence is not None}
    held: dict[Fence, asyncpg.Record] = {}
    for bucket, part in by_bucket(fences, lambda fence: fence.execution_id):
        held |= await hold.share(conn, bucket, part)
    for index, item in enumerate(batch):
        if item.fence is not None and item.fence not in held:
            answers[index] = LeaseLost()
    return held


async def _lock(conn: Connection, writes: list[Write]) -> dict[Place, Slot]:
    slots = {op.place: Slot(place=op.place) for item in writes for op in item.ops}
    for bucket, places in by_place(sorted(slots), lambda place: place.bucket):
        for row in await conn.fetch(LOCK, bucket, *_columns(places), CHANGE_PREVIOUS_BYTES_MAX):
            slot = slots[_place(bucket, row)]
            slot.existed = True
            slot.version = row["version"]
            slot.length = row["length"]
            slot.appended = row["appended"]
            slot.had_items = row["appended"] > 0
            slot.last_writer = (row["writer_execution_id"], row["writer_attempt"])
            slot.previous = row["previous"]
            slot.created_at = row["created_at"]
    return slots


async def _apply(conn: Connection, slot: Slot, op: Op, item: Write, *, where: str) -> None:
    slot.by = item
    slot.writer = item.writer
    slot.writer_attempt = None if item.fence is None else item.fence.attempt
    match op:
        case Put():
            slot.value, slot.length, slot.items, slot.appended = op.value, op.length, (), 0
            slot.gone, slot.touched, slot.action = False, True, Action.SET
        case Remove():
            slot.value, slot.length, slot.items, slot.appended = None, None, (), 0
            slot.gone, slot.touched, slot.action = True, slot.existed, Action.DELETE
        case Append():
            await _append(conn, slot, op, where)


async def _append(conn: Connection, slot: Slot, op: Append, where: str) -> None:
    absent = slot.gone or not (slot.existed or slot.touched)
    if absent:
        slot.value, slot.length = b"[]", 0
        slot.action = Action.SET if slot.existed else Action.APPEND  # a list instead of what was there, or a new one
    if slot.length is None:
        raise NotAList(where=where, fix="Set a list first, or append to another key.")
    if op.expected_length is not None and op.expected_length != slot.length:
        if await _is_repeat(conn, slot, op):
            return
        raise LengthMismatch(
            f"The list has {slot.length} elements, not {op.expected_length}.", where=where, length=slot.length
        )
    slot.items += op.items
    slot.length += len(op.items)
    slot.gone, slot.touched = False, True


async def _is_repeat(conn: Connection, slot: Slot, op: Append) -> bool:
    """Whether these very elements were appended by an earlier try, of the same writer, whose answer was lost."""
    assert slot.length is not None
    assert op.expected_length is not None
    own = (slot.writer, slot.writer_attempt) == slot.last_writer
    before = appended_before(length=slot.length, expected_length=op.expected_length, items=len(op.items))
    if slot.touched or not own or not before:
        return False
    place = slot.place
    rows = await conn.fetch(
        READ_ITEMS,
        place.bucket,
        place.namespace,
        place.scope.value,
        place.scope_id,
        place.key,
        op.expected_length,
        op.expected_length + len(op.items),
    )
    return tuple(row["value"] for row in rows) == op.items


async def _store(conn: Connection, slots: Iterable[Slot]) -> None:
    touched = sorted((slot for slot in slots if slot.touched), key=lambda slot: slot.place)
    for bucket, part in by_place(touched, lambda slot: slot.place.bucket):
        gone = [slot for slot in part if slot.gone]
        put = [slot for slot in part if not slot.gone and slot.value is not None]
        grown = [slot for slot in part if not slot.gone and slot.value is None]
        stale = [slot.place for slot in (*gone, *put) if slot.had_items]
        if gone:
            await conn.execute(REMOVE, bucket, *_columns([slot.place for slot in gone]))
        if stale:
            await conn.execute(DROP_ITEMS, bucket, *_columns(stale))
        if put:
            await _write_rows(conn, STORE, bucket, put, [slot.value for slot in put])
        if grown:
            await _write_rows(conn, GROW, bucket, grown)
        await _add_items(conn, bucket, [slot for slot in (*put, *grown) if slot.items])


async def _write_rows(
    conn: Connection, statement: str, bucket: int, slots: list[Slot], *columns: Sequence[object]
) -> None:
    rows = await conn.fetch(
        statement,
        bucket,
        *_columns([slot.place for slot in slots]),
        *columns,
        [slot.length for slot in slots],
        [slot.appended + len(slot.items) for slot in slots],
        [slot.version + 1 for slot in slots],
        [slot.writer for slot in slots],
        [slot.writer_attempt for slot in slots],
    )
    if len(rows) != len(slots):
        raise Raced  # somebody created or removed the key between our look and our write
    by_key = {_place(bucket, row): row for row in rows}
    for slot in slots:
        row = by_key[slot.place]
        slot.version += 1
        slot.created_at, slot.updated_at = row["created_at"], row["updated_at"]


async def _add_items(conn: Connection, bucket: int, grown: list[Slot]) -> None:
    rows = [
        (slot.place, position, value)
        for slot in grown
        for position, value in enumerate(slot.items, (slot.length or 0) - len(slot.items))
    ]
    if rows:
        await conn.execute(
            ADD_ITEMS,
            bucket,
            *_columns([place for place, _, _ in rows]),
            [position for _, position, _ in rows],
            [value for _, _, value in rows],
        )


async def _tell(conn: Connection, slots: Iterable[Slot]) -> None:
    """In the order in which the keys were first named. Nothing appended to a list that is there is nothing to tell."""
    changed = [
        slot for slot in slots if slot.touched and (slot.action is not Action.APPEND or slot.items or not slot.existed)
    ]
    for bucket, part in by_place(changed, lambda slot: slot.place.bucket):
        by = [slot.by or Write(ops=()) for slot in part]
        await conn.execute(
            TELL,
            bucket,
            *_columns([slot.place for slot in part]),
            [slot.action.value for slot in part],
            [_told_value(slot) for slot in part],
            [slot.previous for slot in part],
            [one.run_id for one in by],
            [one.node_id for one in by],
            [one.actor_key for one in by],
        )


def _told_value(slot: Slot) -> bytes | None:
    if slot.action is not Action.SET or slot.value is None:
        return None
    bytes_ = len(slot.value) + sum(len(item) + 1 for item in slot.items)
    return assemble(slot.value, slot.items) if bytes_ <= CHANGE_VALUE_BYTES_MAX else None


def _written(item: Write, slots: dict[Place, Slot]) -> list[Written]:
    return [
        Written(
            key=op.place.key,
            version=0 if slot.gone else slot.version,
            length=slot.length,
            existed=slot.existed,
            created_at=slot.created_at,
            updated_at=slot.updated_at,
        )
        for op in item.ops
        for slot in (slots[op.place],)
    ]


def _columns(places: Sequence[Place]) -> tuple[list[int], list[str], list[str], list[str]]:
    return (
        [place.namespace for place in places],
        [place.scope.value for place in places],
        [place.scope_id for place in places],
        [place.key for place in places],
    )


def _place(bucket: int, row: asyncpg.Record) -> Place:
    return Place(bucket, row["namespace"], Scope(row["scope"]), row["scope_id"], row["key"])
