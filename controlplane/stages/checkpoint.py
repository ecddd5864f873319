"""Checkpoint: what a run has worked out so far becomes durable. The 200 means committed.

submit ──► lease ──► complete ──► finish ──► deliver
             └── *checkpoint*
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from uuid import UUID

import asyncpg

from controlplane.domain.ids import bucket_of
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
from controlplane.errors import ControlPlaneError, LeaseLost, LengthMismatch, NotAList, bare
from controlplane.postgres.lane import Raced
from controlplane.postgres.pool import Connection
from controlplane.stages import hold

# All that a write does where nothing is in its way, in one round trip that commits by itself: the fences are held, the
# rows locked, and only if every fence stands and every append fits is anything written. Else it says nothing, and what
# is wrong with whom is found out step by step. A list that was appended to and is replaced takes that way, too: this
# statement would not see elements that were added while it waited for the row. A key that somebody made meanwhile ends
# it with a division by zero, so that nothing of it stays. An append (`appended` > 0) leaves the stored value alone.
WRITE = """
with held as materialized (
  select id, attempt, crashes,
    heartbeat_seconds is not null and state = 'leased' and deadline_at < least(
      attempt_deadline_at, total_deadline_at, clock() + make_interval(secs => 0.9 * heartbeat_seconds)
    ) as unheard
  from queue
  where bucket = $1
    and id = any($2::uuid[])
    and session_id is not null
  order by id
  for share
),
wish as materialized (
  select w.n, w.namespace, w.scope, w.scope_id, w.key, w.value, w.length, w.items, w.expected, w.writer_execution_id,
    w.writer_attempt, w.run_id, w.node_id, w.actor_key
  from unnest(
    $4::smallint[], $5::text[], $6::text[], $7::text[], $8::bytea[], $9::int[], $10::int[], $11::int[], $12::uuid[],
    $13::int[], $14::text[], $15::text[], $16::text[]
  ) with ordinality as w(
    namespace, scope, scope_id, key, value, length, items, expected, writer_execution_id, writer_attempt, run_id,
    node_id, actor_key, n
  )
  where not exists (
    select f.id, f.attempt
    from unnest($2::uuid[], $3::int[]) as f(id, attempt)
    except
    select id, attempt
    from held
  )
  order by w.namespace, w.scope, w.scope_id, w.key
),
was as materialized (
  select w.n, m.length, m.appended, m.version, m.previous
  from wish w
  cross join lateral (
    select length, appended, version,
      case when appended = 0 and octet_length(value) <= $17::int then value end as previous
    from memory
    where bucket = $1
      and namespace = w.namespace
      and scope = w.scope
      and scope_id = w.scope_id
      and key = w.key
    for update
  ) m
),
shall as materialized (
  select w.n, w.namespace, w.scope, w.scope_id, w.key, w.value, w.items, w.writer_execution_id, w.writer_attempt,
    w.run_id, w.node_id, w.actor_key, was.n is not null as existed, was.previous,
    coalesce(was.version, 0) + 1 as version,
    case when w.value is null then coalesce(was.length, 0) + w.items else w.length end as length,
    case when w.value is null then coalesce(was.appended, 0) + w.items else 0 end as appended
  from wish w
  left join was on was.n = w.n
  where not exists (
    select
    from wish w
    left join was on was.n = w.n
    where case
      when w.value is not null then was.appended > 0
      else was.n is not null and was.length is null or w.expected <> coalesce(was.length, 0)
    end
  )
),
stored as (
  insert into memory as m (
    bucket, namespace, scope, scope_id, key, value, length, appended, version, writer_execution_id, writer_attempt,
    created_at, updated_at
  )
  select $1, namespace, scope, scope_id, key, coalesce(value, '[]'), length, appended, version, writer_execution_id,
    writer_attempt, clock(), clock()
  from shall
  order by namespace, scope, scope_id, key
  on conflict (bucket, namespace, scope, scope_id, key) do update
  set value = case when excluded.appended > 0 then m.value else excluded.value end,
    length = excluded.length,
    appended = excluded.appended,
    version = excluded.version,
    writer_execution_id = excluded.writer_execution_id,
    writer_attempt = excluded.writer_attempt,
    updated_at = excluded.updated_at
  where m.version = excluded.version - 1
  returning m.namespace, m.scope, m.scope_id, m.key, m.created_at, m.updated_at
),
added as (
  insert into memory_items (bucket, namespace, scope, scope_id, key, position, value)
  select $1, s.namespace, s.scope, s.scope_id, s.key, s.length - s.items + i.place, i.value
  from unnest($18::int[], $19::int[], $20::bytea[]) as i(n, place, value)
  join shall s on s.n = i.n
),
told as (
  insert into memory_changes (
    bucket, namespace, scope, scope_id, key, action, value, previous, run_id, node_id, actor_key, at
  )
  select $1, namespace, scope, scope_id, key, case when value is null then 'append' else 'set' end,
    case when octet_length(value) <= $21::int then value end, previous, run_id, node_id, actor_key, clock()
  from shall
  order by n
)
select s.n, s.version, s.length, s.existed, t.created_at, t.updated_at, 1 / (t.key is not null)::int as whole,
  array(select id from held where crashes > 0) as crashed,
  array(select id from held where unheard) as unheard
from shall s
left join stored t
  on t.namespace = s.namespace and t.scope = s.scope and t.scope_id = s.scope_id and t.key = s.key
order by s.n
"""

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
    written = await _write_at_once(conn, batch)
    return await write_in_steps(conn, batch) if written is None else written


async def write_in_steps(conn: Connection, batch: Sequence[Write]) -> list[list[Written] | ControlPlaneError]:
    """As `write`, whatever is asked for and whatever is in its way."""
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
                answers[index] = bare(error)
        await _store(conn, slots.values())
        await _tell(conn, slots.values())
    stood = {item.fence for n, item in enumerate(batch) if answers[n] is None and item.fence is not None}
    wrote = {fence: row for fence, row in held.items() if fence in stood}
    await hold.forgive(conn, {fence.execution_id for fence, row in wrote.items() if row["crashes"]})
    await hold.hear(conn, wrote)
    return [answer if answer is not None else _written(batch[n], slots) for n, answer in enumerate(answers)]


async def _write_at_once(conn: Connection, batch: Sequence[Write]) -> list[list[Written] | ControlPlaneError] | None:
    """None when nothing was written, because it is not as simple as that. Raises Raced."""
    ops = [(item, op) for item in batch for op in item.ops]
    fences = list({item.fence for item in batch if item.fence is not None})
    buckets = {op.place.bucket for _, op in ops} | {bucket_of(fence.execution_id) for fence in fences}
    if len(buckets) != 1 or len({op.place for _, op in ops}) != len(ops):
        return None
    if any(isinstance(op, Remove) or (isinstance(op, Append) and not op.items) for _, op in ops):
        return None
    added = [_items_of(op) for _, op in ops]
    items = [(n, place, item) for n, some in enumerate(added, 1) for place, item in enumerate(some)]
    try:
        rows = await conn.fetch(
            WRITE,
            buckets.pop(),
            [fence.execution_id for fence in fences],
            [fence.attempt for fence in fences],
            *_columns([op.place for _, op in ops]),
            [op.value if isinstance(op, Put) else None for _, op in ops],
            [op.length if isinstance(op, Put) else None for _, op in ops],
            [len(some) for some in added],
            [op.expected_length if isinstance(op, Append) else None for _, op in ops],
            [item.writer for item, _ in ops],
            [None if item.fence is None else item.fence.attempt for item, _ in ops],
            [item.run_id for item, _ in ops],
            [item.node_id for item, _ in ops],
            [item.actor_key for item, _ in ops],
            CHANGE_PREVIOUS_BYTES_MAX,
            [n for n, _, _ in items],
            [place for _, place, _ in items],
            [item for _, _, item in items],
            CHANGE_VALUE_BYTES_MAX,
        )
    except asyncpg.DivisionByZeroError:
        raise Raced from None  # somebody made the key between our look and our write
    if not rows:
        return None
    await hold.forgive(conn, rows[0]["crashed"])
    await hold.hear_of(conn, rows[0]["unheard"])
    written = (
        Written(
            key=op.place.key,
            version=row["version"],
            length=row["length"],
            existed=row["existed"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
        )
        for (_, op), row in zip(ops, rows, strict=True)
    )
    return [list(islice(written, len(item.ops))) for item in batch]


def _items_of(op: Op) -> tuple[bytes, ...]:
    return op.items if isinstance(op, Append) else ()


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
