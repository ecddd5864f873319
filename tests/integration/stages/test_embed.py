"""Embed: a vector stands under its key, only under its lease, and is found by its angle."""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import replace

import pytest

from controlplane.domain.lease import Fence
from controlplane.domain.memory import Place
from controlplane.domain.vector import NEGLIGIBLE, NORM_MAX, NORM_MIN, Forget, Keep, Vector, measure, unit
from controlplane.errors import LeaseLost
from controlplane.postgres.pool import Connection
from controlplane.reads import vectors
from controlplane.stages import embed
from tests.make import Made, all_rows, make_execution, queue_row, queued, race, report, run_place

KEYS = "select key from memory_vectors order by scope_id, key"


def keep(key: str, *values: float, run: str = "r", metadata: bytes | None = None, fence: Fence | None = None) -> Keep:
    embedding = measure(values, where="embedding")
    return Keep(place=run_place(run, key), embedding=embedding, metadata=metadata, fence=fence)


def forget(key: str, *, run: str = "r", fence: Fence | None = None) -> Forget:
    return Forget(place=run_place(run, key), fence=fence)


async def write(conn: Connection, *batch: Keep | Forget) -> None:
    assert await embed.write(conn, batch) == [None] * len(batch)


async def stored(conn: Connection, key: str = "k") -> Vector:
    found = await vectors.read(conn, run_place("r", key))
    assert found is not None
    return found


async def search(conn: Connection, *values: float, top_k: int = 10, **wanted: object) -> list[tuple[str, float]]:
    query = measure(values, where="query")
    found = await vectors.search(conn, run_place("r"), query, wanted=wanted, top_k=top_k)
    return [(hit.key, hit.score) for hit in found.hits]


async def keys(conn: Connection) -> list[str]:
    return [key for (key,) in await all_rows(conn, KEYS)]


@pytest.fixture
async def made(conn: Connection) -> Made:
    """A running execution."""
    return await make_execution(conn, "running")


async def test_a_vector_is_kept(conn: Connection) -> None:
    """Its numbers and the bytes of its metadata come back."""
    raw = b'{ "b": 1.0,\n"a": "\\u0000" , "a": 2}'

    await write(conn, keep("k", 0.1, -2.5e-7, 3, metadata=raw))
    found = await stored(conn)

    assert (found.embedding, found.metadata) == ((0.1, -2.5e-7, 3.0), raw)
    assert found.created_at == found.updated_at


async def test_a_vector_is_replaced(conn: Connection) -> None:
    """By one of any dimension; the moment of creation stays. Said twice, the same stands."""
    await write(conn, keep("k", 1, 2, metadata=b"{}"))
    first = await stored(conn)

    await write(conn, keep("k", 4, 5, 6))
    await write(conn, keep("k", 4, 5, 6))
    second = await stored(conn)

    assert (second.embedding, second.metadata) == ((4.0, 5.0, 6.0), None)
    assert second.created_at == first.created_at < second.updated_at


async def test_a_vector_is_forgotten(conn: Connection) -> None:
    """It need not be there; others stay."""
    await write(conn, keep("k", 1), keep("other", 1), keep("k", 1, run="r2"))

    await write(conn, forget("k"), forget("never was"))
    await write(conn, forget("k"))

    assert await keys(conn) == ["other", "k"]


async def test_a_batch(conn: Connection) -> None:
    """Vectors of several lengths; the last word on a key stands."""
    await write(conn, keep("c", 1), keep("d", 1))

    await write(
        conn, keep("b", 1, 2, 3), keep("a", 4), forget("c"), keep("e", 5), forget("e"), forget("d"), keep("d", 6, 7)
    )

    assert await keys(conn) == ["a", "b", "d"]
    assert [(await stored(conn, key)).embedding for key in "abd"] == [(4.0,), (1.0, 2.0, 3.0), (6.0, 7.0)]


async def test_several_buckets_in_one_batch(conn: Connection) -> None:
    """Each vector goes to its own."""
    far = replace(keep("far", 1), place=run_place("r", "far", bucket=3))

    await write(conn, far, keep("near", 2))

    assert await all_rows(conn, "select bucket, key from memory_vectors order by bucket") == [(0, "near"), (3, "far")]


async def test_only_under_its_lease(conn: Connection, made: Made) -> None:
    """A stale change changes nothing, and does not keep its neighbours from theirs."""
    stale = Fence(made.id, made.attempt + 1)
    await write(conn, keep("old", 1))

    answers = await embed.write(
        conn, [keep("a", 1, fence=made.fence), keep("b", 1, fence=stale), forget("old", fence=stale), keep("c", 1)]
    )

    assert [type(one) for one in answers] == [type(None), LeaseLost, LeaseLost, type(None)]
    assert await keys(conn) == ["a", "c", "old"]


async def test_not_after_the_result(conn: Connection, made: Made) -> None:
    """Who has finished writes nothing and clears nothing."""
    await write(conn, keep("k", 1, fence=made.fence))
    await report(conn, made.fence)

    [kept] = await embed.write(conn, [keep("k", 2, fence=made.fence)])
    with pytest.raises(LeaseLost):
        await embed.clear(conn, run_place("r", "k"), fence=made.fence)

    assert isinstance(kept, LeaseLost)
    assert (await stored(conn)).embedding == (1.0,)


async def test_a_vector_is_progress(conn: Connection, made: Made) -> None:
    """As a checkpoint is: it clears the count of crashes; a stale one does not."""
    await conn.execute("update queue set crashes = 9")

    await embed.write(conn, [keep("k", 1, fence=Fence(made.id, made.attempt + 1))])
    stale = (await queue_row(conn, made.id))["crashes"]
    await write(conn, keep("k", 1, fence=made.fence))

    assert (stale, (await queue_row(conn, made.id))["crashes"]) == (9, 0)


async def test_a_result_waits_for_the_vector(
    conn: Connection, other: Connection, observer: Connection, made: Made
) -> None:
    """The lease is held until the vector is committed."""
    answers, _ = await race(
        conn,
        other,
        observer,
        first=lambda first: embed.write(first, [keep("k", 1, fence=made.fence)]),
        second=lambda second: report(second, made.fence),
    )

    assert answers == [None]
    assert await keys(conn) == ["k"]
    assert not await queued(conn, made.id)


async def test_batches_at_once(conn: Connection, other: Connection) -> None:
    """In opposite orders, storing and forgetting: neither waits for the other for ever."""
    places = [f"k{n}" for n in range(20)]
    await write(conn, *(keep(key, 1) for key in places))

    for turn in range(10):
        forth = [keep(key, turn + 1) if n % 2 else forget(key) for n, key in enumerate(places)]
        back = [forget(key) if n % 3 else keep(key, 1, 1) for n, key in reversed(list(enumerate(places)))]
        await asyncio.gather(embed.write(conn, forth), embed.write(other, back))

    await write(conn, *(forget(key) for key in places))
    assert await keys(conn) == []


async def test_what_begins_so_is_cleared(conn: Connection) -> None:
    """Of one scope, a batch at a time; the letters of patterns mean themselves."""
    await write(conn, *(keep(f"a%{n}", 1) for n in range(5)), keep("ab", 1), keep("a%", 1, run="r2"), keep("b", 1))
    start = run_place("r", "a%")

    deleted = [await embed.clear(conn, start, limit=3) for _ in range(3)]

    assert deleted == [3, 2, 0]
    assert await keys(conn) == ["ab", "b", "a%"]


async def test_the_nearest_come_first(conn: Connection) -> None:
    """By the cosine, whatever their length; equals in the order of their keys."""
    await write(
        conn,
        keep("opposite", -2, 0),
        keep("same b", 3, 0),
        keep("across", 0, 5),
        keep("same a", 1e50, 0),
        keep("near", 1, 1),
        keep("elsewhere", 1, 0, run="r2"),
    )

    found = await search(conn, 7, 0)

    assert [key for key, _ in found] == ["same a", "same b", "near", "across", "opposite"]
    assert [score for _, score in found] == pytest.approx([1, 1, math.sqrt(0.5), 0, -1])
    assert await search(conn, 7, 0, top_k=2) == found[:2]


async def test_as_computed_elsewhere(conn: Connection) -> None:
    """A hundred at random, in the order and with the scores that Python finds."""
    chance = random.Random(7)
    made = {f"k{n}": [chance.uniform(-1, 1) for _ in range(50)] for n in range(100)}
    query = [chance.uniform(-1, 1) for _ in range(50)]
    await write(conn, *(keep(key, *values) for key, values in made.items()))

    def score(values: list[float]) -> float:
        pairs = zip(unit(measure(values, where="")), unit(measure(query, where="")), strict=True)
        return math.fsum(a * b for a, b in pairs)

    expected = sorted(((key, score(values)) for key, values in made.items()), key=lambda pair: -pair[1])
    found = await search(conn, *query, top_k=100)

    assert [key for key, _ in found] == [key for key, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected])


async def test_a_score_is_never_beyond_one(conn: Connection) -> None:
    """Rounding would lead there."""
    chance = random.Random(3)
    made = [[chance.uniform(-1, 1) for _ in range(9)] for _ in range(50)]
    await write(conn, *(keep(f"k{n}", *values) for n, values in enumerate(made)))

    best = [(await search(conn, *values))[0] for values in made]

    assert [key for key, _ in best] == [f"k{n}" for n in range(50)]
    assert {score for _, score in best} != {1.0}
    assert all(1 - 1e-12 < score <= 1 for _, score in best)


@pytest.mark.parametrize("size", [NORM_MIN, NORM_MAX])
@pytest.mark.parametrize("other", [NORM_MIN, NORM_MAX])
async def test_the_largest_and_the_smallest(conn: Connection, size: float, other: float) -> None:
    """No product leaves what the database computes with."""
    least = 2 * NEGLIGIBLE
    await write(conn, keep("a", size, size * least), keep("b", size * least, size), keep("c", -size * least, size))

    found = await search(conn, other, other * least)

    assert found[0] == ("a", pytest.approx(1))
    assert {key for key, _ in found[1:]} == {"b", "c"}


async def test_only_the_dimension_of_the_query(conn: Connection) -> None:
    """Others are not compared, and take nobody's place."""
    await write(conn, keep("a", 1), keep("b", 1, 0), keep("c", 1, 0, 0), keep("d", 0, 1))

    assert [key for key, _ in await search(conn, 1, 0, top_k=2)] == ["b", "d"]
    assert await search(conn, 1, 0, 0, 0) == []


async def test_filters_come_before_the_best(conn: Connection) -> None:
    """The wanted ones are found however many nearer ones there are."""
    near = [keep(f"near {n}", 1, n / 1000, metadata=b'{"lang": "en", "n": %d}' % n) for n in range(450)]
    far = [keep(f"far {n}", -1, n / 10, metadata=b'{"lang": "de", "n": %d}' % n) for n in range(3)]
    await write(conn, *near, *far, keep("bare", 1, 0))

    assert [key for key, _ in await search(conn, 1, 0, lang="de")] == ["far 2", "far 1", "far 0"]
    assert [key for key, _ in await search(conn, 1, 0, top_k=2, lang="de")] == ["far 2", "far 1"]
    assert [key for key, _ in await search(conn, 1, 0, lang="en", n=449)] == ["near 449"]
    assert len(await search(conn, 1, 0, top_k=1_000, lang="en")) == 450
    assert await search(conn, 1, 0, lang="fr") == []


async def test_a_scope_that_is_too_large(conn: Connection) -> None:
    """The first by key are looked at, and the answer says that there are more."""
    await write(conn, keep("a", 0, 1), keep("b", 1, 1), keep("c", 1, 0))
    query, place = measure([1, 0], where=""), run_place("r")

    async def found(looked_at_max: int) -> tuple[list[str], bool]:
        said = await vectors.search(conn, place, query, wanted={}, top_k=5, looked_at_max=looked_at_max)
        return [hit.key for hit in said.hits], said.complete

    assert await found(2) == (["b", "a"], False)
    assert await found(3) == (["c", "b", "a"], True)


async def test_nothing_is_there(conn: Connection) -> None:
    """An empty scope is searched, and a key that is not there is read."""
    assert await search(conn, 1, 0) == []
    assert await vectors.read(conn, Place(0, 1, run_place("r").scope, "r", "k")) is None
