"""Checkpoint: a write stands whole or not at all, only under its lease, and may be said twice."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from controlplane.domain.lease import Fence, Verdict
from controlplane.domain.memory import Append, Place, Put, Remove, Scope, Write, Written, assemble
from controlplane.errors import LeaseLost, LengthMismatch, NotAList
from controlplane.postgres.lane import Raced
from controlplane.postgres.pool import Connection, Pool
from controlplane.stages import checkpoint
from tests.make import (
    NAMESPACE,
    Made,
    all_rows,
    append,
    counts,
    lease,
    make_execution,
    must,
    only_row,
    put,
    queue_row,
    race,
    remove,
    report,
    run_place,
    until_blocked,
)

READ = "select value, length, version from memory where scope_id = $1 and key = $2"
READ_ITEMS = "select value from memory_items where scope_id = $1 and key = $2 order by position"


async def write(conn: Connection, item: Write) -> list[Written]:
    [answer] = await checkpoint.write(conn, [item])
    return must(answer)


async def stored(conn: Connection, made: Made, key: str = "k") -> bytes | None:
    """The value as a reader sees it."""
    row = await conn.fetchrow(READ, made.run_id, key)
    items = [row["value"] for row in await conn.fetch(READ_ITEMS, made.run_id, key)]
    assert row is not None or not items
    return None if row is None else assemble(row["value"], items)


def group(made: Made, *ops: Put | Append | Remove) -> Write:
    return Write(ops=ops, fence=made.fence, writer=made.id)


@pytest.fixture
async def made(conn: Connection) -> Made:
    """A running execution."""
    return await make_execution(conn, "running")


async def test_puts_bytes_as_they_came(conn: Connection, made: Made) -> None:
    """A value comes back byte for byte, its first version is 1."""
    raw = b'{ "b": 1.0,\n"a": "\\u0000\\ud83d" , "a": 1e999}'

    [written] = await write(conn, put(made, raw))

    assert (written.version, written.existed, written.length) == (1, False, None)
    assert written.created_at == written.updated_at is not None
    assert await stored(conn, made) == raw


async def test_a_put_again_is_the_next_version(conn: Connection, made: Made) -> None:
    """Versions count the writes; the moment of creation stays."""
    [first] = await write(conn, put(made, b"1"))

    [second] = await write(conn, put(made, b"2"))

    assert (second.version, second.existed, second.created_at) == (2, True, first.created_at)
    assert await stored(conn, made) == b"2"


async def test_names_the_writer(conn: Connection) -> None:
    """The row tells which attempt wrote it."""
    made = await make_execution(conn, "running", attempt=4)

    await write(conn, put(made, b"1"))
    row = await only_row(conn, "select writer_execution_id, writer_attempt from memory")

    assert tuple(row) == (made.id, 4)


async def test_the_next_attempt_reads_what_the_last_wrote(conn: Connection, made: Made) -> None:
    """Memory outlives the attempt that wrote it."""
    await write(conn, put(made, b'"step 1"'))
    await report(conn, made.fence, Verdict.RELEASED)
    await lease(conn, made.session)

    assert await stored(conn, made) == b'"step 1"'


@pytest.mark.parametrize("status", ["queued", "succeeded", "cancelled"])
async def test_without_the_lease_nothing_is_written(conn: Connection, status: str) -> None:
    """An attempt that does not hold the lease is refused."""
    made = await make_execution(conn, status, attempt=1)

    [answer] = await checkpoint.write(conn, [put(made, b"1")])

    assert isinstance(answer, LeaseLost)
    assert await stored(conn, made) is None


async def test_a_stale_attempt_does_not_fail_its_neighbours(conn: Connection, made: Made) -> None:
    """In one batch the stale write is refused and the live one stands."""
    stale, live = await checkpoint.write(conn, [put(made, b"1", fence=Fence(made.id, 9)), put(made, b"2")])

    assert isinstance(stale, LeaseLost)
    assert must(live)[0].version == 1
    assert await stored(conn, made) == b"2"


async def test_without_a_fence_anybody_writes(conn: Connection) -> None:
    """Callers write session, actor and global memory without holding a lease."""
    place = Place(0, NAMESPACE, Scope.GLOBAL, "global", "k")

    await write(conn, Write(ops=(Put(place=place, value=b"1", length=None),)))

    assert await conn.fetchval(READ, "global", "k") == b"1"


async def test_a_write_that_waits_for_a_take_over_changes_nothing(
    conn: Connection, other: Connection, observer: Connection, made: Made
) -> None:
    """The stale write waited for the row; when the take-over commits it finds its lease gone."""

    async def take_over(own: Connection) -> None:
        await report(own, made.fence, Verdict.RELEASED)
        await lease(own, made.session)

    _, [answer] = await race(
        conn, other, observer, first=take_over, second=lambda c: checkpoint.write(c, [put(made, b"stale")])
    )

    assert isinstance(answer, LeaseLost)
    assert await counts(conn, "memory") == {"memory": 0}


async def test_a_completion_waits_for_a_write_of_its_attempt(
    conn: Connection, other: Connection, observer: Connection, made: Made
) -> None:
    """While a checkpoint is being committed its attempt cannot end."""
    _, recorded = await race(
        conn, other, observer, first=lambda c: write(c, put(made, b"1")), second=lambda c: report(c, made.fence)
    )

    assert recorded.code == "recorded"
    assert await stored(conn, made) == b"1"


async def test_appends_create_a_list(conn: Connection, made: Made) -> None:
    """The key need not exist; the elements come back in order."""
    [first] = await write(conn, append(made, b"1", b" 2 "))
    [second] = await write(conn, append(made, b"[3]"))

    assert (first.length, first.version, second.length, second.version) == (2, 1, 3, 2)
    assert await stored(conn, made) == b"[1, 2 ,[3]]"


async def test_an_empty_append_makes_an_empty_list(conn: Connection, made: Made) -> None:
    """Nothing appended to nothing is []."""
    [written] = await write(conn, append(made))

    assert written.length == 0
    assert await stored(conn, made) == b"[]"


async def test_appends_to_a_list_that_was_set(conn: Connection, made: Made) -> None:
    """What is appended follows what was put."""
    await write(conn, put(made, b"[ 1, 2 ]", length=2))

    [written] = await write(conn, append(made, b"3", expected_length=2))

    assert written.length == 3
    assert await stored(conn, made) == b"[ 1, 2,3]"


async def test_an_append_costs_what_it_adds(conn: Connection, made: Made) -> None:
    """The stored value is not rewritten; elements are rows of their own."""
    await write(conn, put(made, b"[1]", length=1))

    await write(conn, append(made, b"2"))

    assert await conn.fetchval(READ, made.run_id, "k") == b"[1]"
    assert await all_rows(conn, READ_ITEMS, made.run_id, "k") == [(b"2",)]


async def test_a_wrong_expected_length_is_refused(conn: Connection, made: Made) -> None:
    """The refusal carries the length; nothing is added."""
    await write(conn, append(made, b"1", b"2"))

    [answer] = await checkpoint.write(conn, [append(made, b"3", expected_length=1)])

    assert isinstance(answer, LengthMismatch)
    assert answer.facts == {"length": 2}
    assert await stored(conn, made) == b"[1,2]"


@pytest.mark.parametrize("before", [[], [b"0"], [b"0", b"1"]])
async def test_a_repeated_append_adds_nothing(conn: Connection, made: Made, before: list[bytes]) -> None:
    """With an expected length the repeat after a lost answer is answered as the first was."""
    if before:
        await write(conn, append(made, *before))
    item = append(made, b"8", b"9", expected_length=len(before))
    [first] = await write(conn, item)

    [again] = await write(conn, item)

    assert (again.length, again.version) == (first.length, first.version) == (len(before) + 2, first.version)
    assert await stored(conn, made) == b"[" + b",".join([*before, b"8", b"9"]) + b"]"


async def test_a_repeated_append_to_a_list_that_was_set(conn: Connection, made: Made) -> None:
    """The repeat is recognised behind the elements that were put, too."""
    await write(conn, put(made, b"[1]", length=1))
    item = append(made, b"2", expected_length=1)
    await write(conn, item)

    [again] = await write(conn, item)

    assert again.length == 2


async def test_a_repeat_that_was_overtaken_adds_nothing(conn: Connection, made: Made) -> None:
    """A repeat that comes after the next append still finds its own elements in their place."""
    item = append(made, b"1", expected_length=0)
    await write(conn, item)
    await write(conn, append(made, b"2", expected_length=1))

    [again] = await write(conn, item)

    assert again.length == 2
    assert await stored(conn, made) == b"[1,2]"


async def test_other_elements_are_not_a_repeat(conn: Connection, made: Made) -> None:
    """The same length with other elements is a mismatch."""
    await write(conn, append(made, b"1", expected_length=0))

    [answer] = await checkpoint.write(conn, [append(made, b"2", expected_length=0)])

    assert isinstance(answer, LengthMismatch)


async def test_an_empty_append_with_another_length_is_a_mismatch(conn: Connection, made: Made) -> None:
    """Nothing to add is no reason to overlook that the list has changed."""
    await write(conn, append(made, b"1", b"2"))

    [answer] = await checkpoint.write(conn, [append(made, expected_length=1)])

    assert isinstance(answer, LengthMismatch)


async def test_a_repeated_group_of_appends_adds_nothing(conn: Connection, made: Made) -> None:
    """A group that appends twice to one key is recognised when it is sent again."""
    place = run_place(made.run_id)
    item = group(
        made,
        Append(place=place, items=(b"1",), expected_length=0),
        Append(place=place, items=(b"2", b"3"), expected_length=1),
        Put(place=run_place(made.run_id, "cursor"), value=b"3", length=None),
    )
    await write(conn, item)

    again = await write(conn, item)

    assert [one.length for one in again] == [3, 3, None]
    assert await stored(conn, made) == b"[1,2,3]"


async def test_appending_to_no_list_is_refused(conn: Connection, made: Made) -> None:
    """A value that is not a list stays as it is."""
    await write(conn, put(made, b'{"a":1}'))

    [answer] = await checkpoint.write(conn, [append(made, b"1")])

    assert isinstance(answer, NotAList)
    assert await stored(conn, made) == b'{"a":1}'


async def test_a_put_over_a_grown_list_drops_its_elements(conn: Connection, made: Made) -> None:
    """After a put only the new value is there."""
    await write(conn, append(made, b"1", b"2"))

    await write(conn, put(made, b"[9]", length=1))
    await write(conn, append(made, b"10", expected_length=1))

    assert await stored(conn, made) == b"[9,10]"


async def test_removes(conn: Connection, made: Made) -> None:
    """The key and its elements are gone; version 0 says so."""
    await write(conn, append(made, b"1"))

    [written] = await write(conn, remove(made))

    assert (written.version, written.existed) == (0, True)
    assert await counts(conn, "memory", "memory_items") == {"memory": 0, "memory_items": 0}


async def test_removing_twice_says_that_it_was_not_there(conn: Connection, made: Made) -> None:
    """A missing key is no error."""
    await write(conn, put(made, b"1"))
    await write(conn, remove(made))

    [again] = await write(conn, remove(made))

    assert (again.version, again.existed) == (0, False)


async def test_a_group_works_top_down(conn: Connection, made: Made) -> None:
    """Each operation of a group sees what the ones before it did."""
    place = run_place(made.run_id)
    await write(conn, append(made, b"old"))

    await write(
        conn,
        group(
            made,
            Remove(place=place),
            Append(place=place, items=(b"1",), expected_length=0),
            Put(place=place, value=b"[5]", length=1),
            Append(place=place, items=(b"6",), expected_length=1),
        ),
    )

    assert await stored(conn, made) == b"[5,6]"
    assert await conn.fetchval("select length from memory") == 2


async def test_a_group_that_ends_with_a_removal_leaves_nothing(conn: Connection, made: Made) -> None:
    """Put and removed in one breath is not there."""
    place = run_place(made.run_id)

    await write(conn, group(made, Put(place=place, value=b"1", length=None), Remove(place=place)))

    assert await stored(conn, made) is None


async def test_a_refused_group_leaves_nothing_behind(conn: Connection, made: Made) -> None:
    """When one operation is refused the others of its group are not done either."""
    await write(conn, put(made, b"1", key="plain"))
    bad = group(
        made,
        Put(place=run_place(made.run_id, "a"), value=b"1", length=None),
        Append(place=run_place(made.run_id, "b"), items=(b"1",), expected_length=None),
        Remove(place=run_place(made.run_id, "plain")),
        Append(place=run_place(made.run_id, "c"), items=(b"1",), expected_length=4),
    )

    [answer] = await checkpoint.write(conn, [bad])

    assert isinstance(answer, LengthMismatch)
    assert await counts(conn, "memory", "memory_items") == {"memory": 1, "memory_items": 0}


async def test_a_refused_group_leaves_its_neighbours_alone(conn: Connection, made: Made) -> None:
    """What a refused group had begun on a key does not reach another group of the same batch."""
    good = put(made, b'"good"')
    bad = group(
        made,
        Put(place=run_place(made.run_id), value=b'"bad"', length=None),
        Append(place=run_place(made.run_id, "c"), items=(b"1",), expected_length=4),
    )

    _, refused, last = await checkpoint.write(conn, [good, bad, put(made, b"1", key="other")])

    assert isinstance(refused, LengthMismatch)
    assert must(last)[0].version == 1
    assert await stored(conn, made) == b'"good"'


async def test_one_key_twice_in_a_batch(conn: Connection, made: Made) -> None:
    """Two groups on one key are done one after the other."""
    await checkpoint.write(conn, [append(made, b"1"), append(made, b"2", expected_length=1)])

    assert await stored(conn, made) == b"[1,2]"


async def test_scopes_and_keys_are_apart(conn: Connection, made: Made) -> None:
    """The same key in another scope, scope id or namespace is another value."""
    place = run_place(made.run_id)
    places = [place, place._replace(scope=Scope.SESSION), place._replace(scope_id="x"), place._replace(namespace=2)]

    await write(conn, group(made, *(Put(place=one, value=b"1", length=None) for one in places)))

    assert await counts(conn, "memory") == {"memory": 4}


async def test_several_buckets_in_one_write(conn: Connection, made: Made) -> None:
    """Run memory and global memory may live in two buckets; the group is still one."""
    places = [run_place(made.run_id, bucket=bucket) for bucket in (3, 1, 2)]

    await write(conn, group(made, *(Append(place=one, items=(b"1",), expected_length=0) for one in places)))

    assert await all_rows(conn, "select bucket from memory order by bucket") == [(1,), (2,), (3,)]


async def test_a_key_created_by_two_at_once(conn: Connection, other: Connection, observer: Connection) -> None:
    """Whoever comes second to a new key is told to run its flush again, and then finds the first."""
    first, second = await make_execution(conn, "running", run_id="r"), await make_execution(conn, "running", run_id="r")

    async def late(own: Connection) -> None:
        with pytest.raises(Raced):
            await checkpoint.write(own, [append(second, b"2")])

    await race(conn, other, observer, first=lambda c: write(c, append(first, b"1")), second=late)
    [written] = await write(other, append(second, b"2"))

    assert written.length == 2
    assert await stored(conn, first) == b"[1,2]"


async def test_a_key_removed_and_written_at_once(
    conn: Connection, other: Connection, observer: Connection, made: Made
) -> None:
    """An append that waited for a removal starts a new list."""
    await write(conn, append(made, b"1", b"2"))

    await race(
        conn,
        other,
        observer,
        first=lambda c: write(c, remove(made)),
        second=lambda c: write(c, append(made, b"3")),
    )

    assert await stored(conn, made) == b"[3]"


async def kept(conn: Connection, made: Made) -> list[tuple[object, ...]]:
    """All that stands of this run, but for the moments."""
    rows: list[tuple[object, ...]] = []
    for columns in (
        "key, value, length, appended, version, writer_attempt from memory where scope_id = $1 order by key",
        "key, position, value from memory_items where scope_id = $1 order by key, position",
        "key, action, value, previous, run_id, node_id from memory_changes where scope_id = $1 order by seq",
    ):
        rows += [tuple(row) for row in await conn.fetch(f"select {columns}", made.run_id)]
    return rows


def some_group(made: Made, chance: random.Random) -> Write:
    """Sometimes what cannot be, and sometimes what was said before."""
    ops: list[Put | Append] = []
    for key in chance.sample(("a", "b", "c"), chance.randint(1, 3)):
        place = run_place(made.run_id, key)
        if chance.random() < 0.3:
            value, length = chance.choice([(b"{}", None), (b"[ ]", 0), (b"[1, 2]", 2)])
            ops.append(Put(place=place, value=value, length=length))
        else:
            items = tuple(b"%d" % n for n in range(chance.randint(1, 3)))
            ops.append(Append(place=place, items=items, expected_length=chance.choice([None, 0, 1, 2, 3])))
    return Write(ops=tuple(ops), fence=made.fence, writer=made.id, node_id="n")


@pytest.mark.parametrize("seed", range(20))
async def test_at_once_and_in_steps_the_same_becomes_of_it(conn: Connection, seed: int) -> None:
    """Of any writes, one alone or several in a batch: the same answers, rows, elements and news."""
    one, other = await make_execution(conn, "running", run_id="r1"), await make_execution(conn, "running", run_id="r2")
    answers: list[list[object]] = []
    for made, write_all in ((one, checkpoint.write), (other, checkpoint.write_in_steps)):
        chance, said = random.Random(seed), []
        for _ in range(30):
            batch = [some_group(made, chance) for _ in range(chance.choice([1, 1, 2]))]
            for answer in await write_all(conn, batch):
                if isinstance(answer, list):
                    said.append([replace(done, created_at=None, updated_at=None) for done in answer])
                else:
                    said.append((type(answer), answer.facts, answer.where))
        answers.append(said)

    def renamed(rows: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
        return [tuple("r1" if value == "r2" else value for value in row) for row in rows]

    assert answers[0] == answers[1]
    assert await kept(conn, one) == renamed(await kept(conn, other))


async def test_what_was_added_while_it_waited_for_the_list_goes_with_it(
    conn: Connection, other: Connection, observer: Connection, made: Made
) -> None:
    """A value that replaces a list takes all of its elements away, also those that it could not see at first."""
    await write(conn, put(made, b"[1]", length=1))

    async with conn.transaction():
        await write(conn, append(made, b"2"))
        replacing = asyncio.create_task(write(other, put(made, b'"new"')))
        await until_blocked(observer, other.get_server_pid())
    await replacing

    assert await stored(conn, made) == b'"new"'
    assert await conn.fetchval("select count(*) from memory_items") == 0


async def test_concurrent_appends_lose_nothing(conn: Connection, pool: Pool) -> None:
    """Forty appends from several connections make a list of forty."""
    made = await make_execution(conn, "running")

    async def add(n: int) -> None:
        async with pool.acquire() as own:
            while True:
                try:
                    await write(own, append(made, b"%d" % n))
                    return
                except Raced:
                    continue

    await asyncio.gather(*(add(n) for n in range(40)))

    assert await conn.fetchval("select length from memory") == 40
    assert await conn.fetchval("select count(distinct value) from memory_items") == 40


async def test_progress_clears_the_crash_count(conn: Connection, made: Made) -> None:
    """An execution that writes a checkpoint is not in a crash loop."""
    await conn.execute("update queue set crashes = 9")

    await write(conn, put(made, b"1"))

    assert (await queue_row(conn, made.id))["crashes"] == 0


async def test_a_stale_write_does_not_clear_the_crash_count(conn: Connection, made: Made) -> None:
    """Only a checkpoint that stands counts as progress."""
    await conn.execute("update queue set crashes = 9")

    await checkpoint.write(conn, [put(made, b"1", fence=Fence(made.id, 9))])

    assert (await queue_row(conn, made.id))["crashes"] == 9


async def test_the_crash_count_is_cleared_after_the_commit(
    conn: Connection, other: Connection, observer: Connection, made: Made
) -> None:
    """Clearing waits for other checkpoints of the execution while it holds no lock that they could wait for."""
    await conn.execute("update queue set crashes = 9")

    async with conn.transaction():
        await conn.fetch("select 1 from queue for share")
        writing = asyncio.create_task(checkpoint.write(other, [put(made, b"1")]))
        await until_blocked(observer, other.get_server_pid())
        assert await stored(observer, made) == b"1"
    await writing

    assert (await queue_row(conn, made.id))["crashes"] == 0


async def test_an_empty_group_is_nothing(conn: Connection, made: Made) -> None:
    """A group without operations only says whether the lease holds."""
    live, stale = await checkpoint.write(conn, [group(made), replace(group(made), fence=Fence(made.id, 9))])

    assert live == []
    assert isinstance(stale, LeaseLost)
