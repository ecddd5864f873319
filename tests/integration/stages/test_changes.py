"""Changes: every checkpoint that changes something leaves a row that tells so, in the same transaction."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from controlplane.domain.lease import Fence
from controlplane.domain.memory import (
    CHANGE_PREVIOUS_BYTES_MAX,
    CHANGE_VALUE_BYTES_MAX,
    Append,
    Place,
    Put,
    Remove,
    Scope,
    Write,
)
from controlplane.errors import LeaseLost
from controlplane.postgres.lane import Raced
from controlplane.postgres.pool import Connection
from controlplane.stages import checkpoint
from tests.make import (
    NAMESPACE,
    Made,
    append,
    counts,
    make_execution,
    must,
    only_row,
    put,
    remove,
    run_place,
    until_blocked,
)

CHANGES = "select key, action, value, previous from memory_changes order by xid, seq"


@pytest.fixture
async def made(conn: Connection) -> Made:
    """A running execution."""
    return await make_execution(conn, "running")


async def told(conn: Connection) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await conn.fetch(CHANGES)]


async def write(conn: Connection, *items: Write) -> None:
    for item in items:
        must((await checkpoint.write(conn, [item]))[0])


async def test_set_append_delete(conn: Connection, made: Made) -> None:
    """What it is now, what it was before; of what was appended only that it was."""
    await write(conn, put(made, b"[1]", length=1), put(made, b"[ 2]", length=1), append(made, b"3"), remove(made))

    assert await told(conn) == [
        ("k", "set", b"[1]", None),
        ("k", "set", b"[ 2]", b"[1]"),
        ("k", "append", None, b"[ 2]"),
        ("k", "delete", None, None),  # the list was in several rows
    ]


async def test_a_deleted_value_is_told(conn: Connection, made: Made) -> None:
    """As what it was."""
    await write(conn, put(made, b"null"), remove(made))

    assert (await told(conn))[1] == ("k", "delete", None, b"null")


async def test_who_and_where(conn: Connection, made: Made) -> None:
    """The place of the key, and in whose name it is said to be written."""
    place = Place(3, NAMESPACE, Scope.SESSION, "s", "k")
    item = Write(
        ops=(Put(place=place, value=b"1", length=None),), fence=made.fence, run_id="r", node_id="n", actor_key="a"
    )

    await write(conn, item)
    row = await only_row(
        conn, "select *, clock() - at < interval '1 minute' and at <= clock() as now from memory_changes"
    )

    assert (row["bucket"], row["namespace"], row["scope"], row["scope_id"]) == (3, NAMESPACE, "session", "s")
    assert (row["run_id"], row["node_id"], row["actor_key"], row["now"]) == ("r", "n", "a", True)


@pytest.mark.parametrize(("bytes_", "kept"), [(CHANGE_VALUE_BYTES_MAX, True), (CHANGE_VALUE_BYTES_MAX + 1, False)])
async def test_a_large_value_is_not_told(conn: Connection, made: Made, bytes_: int, kept: bool) -> None:
    """Only that it was set: who wants it reads it."""
    value = b'"' + b"x" * (bytes_ - 2) + b'"'

    await write(conn, put(made, value))

    assert await told(conn) == [("k", "set", value if kept else None, None)]


@pytest.mark.parametrize(
    ("bytes_", "kept"), [(CHANGE_PREVIOUS_BYTES_MAX, True), (CHANGE_PREVIOUS_BYTES_MAX + 1, False)]
)
async def test_a_large_value_that_was_there_is_not_told(conn: Connection, made: Made, bytes_: int, kept: bool) -> None:
    """By its own size, however small the database has made it."""
    value = b'"' + b"x" * (bytes_ - 2) + b'"'

    await write(conn, put(made, value), put(made, b"1"))

    assert (await told(conn))[1] == ("k", "set", b"1", value if kept else None)


@pytest.mark.parametrize(("bytes_max", "read"), [(CHANGE_PREVIOUS_BYTES_MAX, False), (10**6, True)])
async def test_a_large_value_is_not_even_read(conn: Connection, made: Made, bytes_max: int, read: bool) -> None:
    """What is stored apart is left there: a checkpoint over it costs what it writes."""
    noise = await conn.fetchval("select string_agg(gen_random_uuid()::text, '') from generate_series(1, 9000)")
    await write(conn, put(made, b'"%b"' % noise.encode()))
    blocks = "select toast_blks_read + toast_blks_hit from pg_statio_user_tables where relname = 'memory'"

    await conn.execute("select pg_stat_force_next_flush()")
    before = await conn.fetchval(blocks)
    await conn.fetch(checkpoint.LOCK, 0, [NAMESPACE], ["run"], [made.run_id], ["k"], bytes_max)
    await conn.execute("select pg_stat_force_next_flush()")

    assert (await conn.fetchval(blocks) > before) == read


async def test_one_row_for_each_key_of_a_group(conn: Connection, made: Made) -> None:
    """In the order in which they were named, each as it is in the end."""
    a, b, c = (run_place(made.run_id, key) for key in "bac")
    ops = (
        Put(place=a, value=b"1", length=None),
        Put(place=b, value=b"[1]", length=1),
        Append(place=b, items=(b"2",), expected_length=None),
        Put(place=a, value=b"2", length=None),
        Put(place=c, value=b"1", length=None),
        Remove(place=c),
    )

    await write(conn, Write(ops=ops, fence=made.fence, writer=made.id))

    assert await told(conn) == [("b", "set", b"2", None), ("a", "set", b"[1,2]", None)]


async def test_a_list_instead_of_a_value(conn: Connection, made: Made) -> None:
    """Removed and appended to in one breath: that is what it now is."""
    await write(conn, put(made, b"1"))
    ops = (Remove(place=run_place(made.run_id)), Append(place=run_place(made.run_id), items=(b"7",), expected_length=0))

    await write(conn, Write(ops=ops, fence=made.fence, writer=made.id))

    assert (await told(conn))[1] == ("k", "set", b"[7]", b"1")


async def test_several_buckets(conn: Connection, made: Made) -> None:
    """Each change stands in the bucket of its key."""
    ops = tuple(Put(place=run_place(made.run_id, bucket=n), value=b"1", length=None) for n in (2, 0, 1))

    await write(conn, Write(ops=ops, fence=made.fence, writer=made.id))

    rows = await conn.fetch("select m.bucket, c.action from memory m left join memory_changes c using (bucket)")
    assert sorted(map(tuple, rows)) == [(0, "set"), (1, "set"), (2, "set")]


async def test_what_changes_nothing_tells_nothing(conn: Connection, made: Made) -> None:
    """A repeated append, nothing appended, a key removed that is not there."""
    item = append(made, b"1", expected_length=0)
    await write(conn, item)
    before = await told(conn)

    await write(conn, item, append(made), remove(made, "nothing"))

    assert await told(conn) == before == [("k", "append", None, None)]


async def test_what_is_refused_tells_nothing(conn: Connection, made: Made) -> None:
    """A stale attempt, a wrong length, and the rest of its group."""
    stale = put(made, b"1", fence=Fence(made.id, 9))
    wrong = Write(
        ops=(
            Put(place=run_place(made.run_id, "a"), value=b"1", length=None),
            *append(made, b"1", expected_length=4).ops,
        ),
        fence=made.fence,
    )

    answers = await checkpoint.write(conn, [stale, wrong, put(made, b"2", key="good")])

    assert isinstance(answers[0], LeaseLost)
    assert await told(conn) == [("good", "set", b"2", None)]


async def test_what_is_taken_back_tells_nothing(conn: Connection, observer: Connection, made: Made) -> None:
    """Neither while it is not committed nor after it was not."""
    transaction = conn.transaction()
    await transaction.start()
    await write(conn, put(made, b"1"))
    meanwhile = await told(observer)
    await transaction.rollback()

    assert meanwhile == await told(conn) == []


async def test_a_flush_that_raced_tells_once(
    conn: Connection, other: Connection, observer: Connection, made: Made
) -> None:
    """Run again it tells what it then does."""
    async with conn.transaction():
        await write(conn, put(made, b"1"))
        racing = asyncio.create_task(checkpoint.write(other, [put(made, b"2")]))
        await until_blocked(observer, other.get_server_pid())
    with pytest.raises(Raced):
        await racing

    await write(other, put(made, b"2"))

    assert await told(conn) == [("k", "set", b"1", None), ("k", "set", b"2", b"1")]


async def test_telling_does_not_wait_for_the_disk(conn: Connection) -> None:
    """The table is not logged: losing it in a crash loses nobody's checkpoint."""
    assert await conn.fetchval("select relpersistence from pg_class where relname = 'memory_changes'") == b"u"


async def test_an_empty_group_tells_nothing(conn: Connection, made: Made) -> None:
    """There is no statement to run."""
    await write(conn, replace(put(made, b"1"), ops=()))

    assert await counts(conn, "memory_changes") == {"memory_changes": 0}
