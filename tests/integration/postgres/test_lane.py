"""Lane: concurrent single calls leave as batches, and each gets its own answer after its own commit."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import asyncpg
import pytest

from controlplane.errors import ControlPlaneError, DatabaseUnavailable, Invalid, LeaseLost, ShuttingDown
from controlplane.postgres import lane as lanes
from controlplane.postgres.lane import Lane, Raced
from controlplane.postgres.pool import Connection, Pool
from tests.make import tasks_begun

DEADLINE_SECONDS = 20

Answer = TypeVar("Answer")
Kept = Callable[[], Awaitable[list[int]]]

STORE = "insert into kept (value) select v from unnest($1::smallint[]) as v"


@pytest.fixture
async def kept(conn: Connection) -> Kept:
    """A table that takes small positive numbers, each once, and what it holds."""
    await conn.execute("create table kept (value smallint primary key check (value > 0))")

    async def read() -> list[int]:
        return [row["value"] for row in await conn.fetch("select value from kept order by value")]

    return read


@pytest.fixture
async def own_pool(database: str) -> AsyncIterator[Pool]:
    async with asyncpg.create_pool(database, min_size=1, max_size=4) as connections:
        yield connections


class Gate:
    """A flush that stores its items, remembers the batches, and waits at a gate that a test opens."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = asyncio.Event()
        self.open = asyncio.Event()
        self.pids: list[int] = []

    async def flush(self, conn: Connection, items: Sequence[int]) -> list[int | ControlPlaneError]:
        self.batches.append(list(items))
        self.pids.append(conn.get_server_pid())
        self.entered.set()
        await self.open.wait()
        await conn.execute(STORE, items)
        return [-item for item in items]


async def wait_for(task: asyncio.Future[Answer]) -> Answer:
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await task


async def settle_down() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_gathers_during_a_flush_leaves_together(own_pool: Pool, kept: Kept) -> None:
    """The first call leaves at once; the next ones wait for it and share the flush after it."""
    gate = Gate()
    lane = Lane(own_pool, gate.flush, name="test", flushers=1)
    calls = [asyncio.ensure_future(lane.put(1))]
    await gate.entered.wait()
    calls += [asyncio.ensure_future(lane.put(n)) for n in range(2, 6)]
    await settle_down()
    gate.open.set()

    assert await wait_for(asyncio.gather(*calls)) == [-1, -2, -3, -4, -5]
    assert gate.batches == [[1], [2, 3, 4, 5]]
    assert await kept() == [1, 2, 3, 4, 5]


async def test_no_batch_is_larger_than_its_limit(own_pool: Pool, kept: Kept) -> None:
    """What is left over takes the next flush, in order."""
    gate = Gate()
    gate.open.set()
    lane = Lane(own_pool, gate.flush, name="test", flushers=1, batch_max=4)

    await wait_for(asyncio.gather(*(lane.put(n) for n in range(1, 11))))

    assert gate.batches == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


async def test_a_batch_stops_growing_by_weight(own_pool: Pool, kept: Kept) -> None:
    """Heavy items travel in smaller batches; one that is too heavy for any travels alone."""
    gate = Gate()
    gate.open.set()
    lane = Lane(own_pool, gate.flush, name="test", flushers=1, weigh=lambda n: n, bytes_max=10)

    await wait_for(asyncio.gather(*(lane.put(n) for n in (30, 4, 5, 6, 7))))

    assert gate.batches == [[30], [4, 5, 6], [7]]


async def test_a_key_is_never_twice_in_a_batch(own_pool: Pool, kept: Kept) -> None:
    """The second item on a key takes a later flush, and nothing on that key overtakes it."""
    gate = Gate()
    gate.open.set()
    lane = Lane(own_pool, gate.flush, name="test", flushers=1, keys=lambda n: {n % 10})

    await wait_for(asyncio.gather(*(lane.put(n) for n in (1, 11, 2, 21, 12, 3))))

    assert gate.batches == [[1, 2, 3], [11, 12], [21]]


async def test_two_flushers_do_not_overtake_each_other_on_a_key(own_pool: Pool, kept: Kept) -> None:
    """While a key is under way its next item waits, and other keys go on."""
    gate = Gate()
    lane = Lane(own_pool, gate.flush, name="test", flushers=2, keys=lambda n: {n % 10})
    calls = [asyncio.ensure_future(lane.put(1))]
    await gate.entered.wait()
    gate.entered.clear()
    calls += [asyncio.ensure_future(lane.put(n)) for n in (11, 2)]
    await gate.entered.wait()
    before = list(gate.batches)
    gate.open.set()
    await wait_for(asyncio.gather(*calls))

    assert before == [[1], [2]]
    assert gate.batches == [[1], [2], [11]]


async def test_one_flush_at_a_time(own_pool: Pool, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes while a flush is under way leaves after it, together, also where another could begin beside it."""
    monkeypatch.setattr(lanes, "HELP_SECONDS", 10.0 * DEADLINE_SECONDS)
    gate = Gate()
    lane = Lane(own_pool, gate.flush, name="test", flushers=2)
    calls = [asyncio.ensure_future(lane.put(1))]
    await gate.entered.wait()
    calls += [asyncio.ensure_future(lane.put(n)) for n in (2, 3)]
    await settle_down()
    gate.open.set()
    await wait_for(asyncio.gather(*calls))

    assert gate.batches == [[1], [2, 3]]


async def test_what_is_held_up_holds_up_nothing_else(
    own_pool: Pool, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a flush that has taken long already the next one begins when it comes, one after the other."""
    monkeypatch.setattr(lanes, "HELP_SECONDS", 0.0)
    held, free = Gate(), Gate()
    free.open.set()

    async def flush(conn: Connection, items: Sequence[int]) -> list[int | ControlPlaneError]:
        return await (held if 1 in items else free).flush(conn, items)

    lane = Lane(own_pool, flush, name="test", flushers=2)
    first = asyncio.ensure_future(lane.put(1))
    await held.entered.wait()
    others = [await wait_for(asyncio.ensure_future(lane.put(n))) for n in (2, 3)]
    before = first.done()
    held.open.set()

    assert (others, before) == ([-2, -3], False)
    assert await wait_for(first) == -1
    assert await kept() == [1, 2, 3]


async def test_an_item_without_keys_breaks_nothing_else(own_pool: Pool, kept: Kept) -> None:
    """Whoever comes after an item whose keys cannot be told is flushed."""
    gate = Gate()
    gate.open.set()
    lane = Lane(own_pool, gate.flush, name="test", flushers=1, keys=lambda n: {1 // n})
    with tasks_begun() as tasks:
        broken = asyncio.ensure_future(lane.put(0))
        await settle_down()
    [flush] = [task for task in tasks if task.get_name() == "lane.test"]

    assert isinstance(flush.exception(), ZeroDivisionError)
    assert await wait_for(asyncio.ensure_future(lane.put(1))) == -1
    broken.cancel()


async def test_an_item_with_two_keys_waits_for_both(own_pool: Pool, kept: Kept) -> None:
    """An item that shares one key with the batch waits, and keeps its other key from those behind it."""
    keys = {1: {"a"}, 2: {"a", "b"}, 3: {"b"}}
    gate = Gate()
    gate.open.set()
    lane = Lane(own_pool, gate.flush, name="test", flushers=1, keys=lambda n: keys[n])

    await wait_for(asyncio.gather(*(lane.put(n) for n in (1, 2, 3))))

    assert gate.batches == [[1], [2], [3]]


async def test_a_caller_that_puts_again_at_once_is_served(own_pool: Pool, kept: Kept) -> None:
    """One who calls again the moment it is answered is not left waiting for a flusher that has just gone."""
    gate = Gate()
    gate.open.set()
    lane = Lane(own_pool, gate.flush, name="test", flushers=1)

    async def call(n: int) -> None:
        await lane.put(n)
        await lane.put(n + 100)

    await wait_for(asyncio.gather(*(call(n) for n in range(1, 9))))

    assert len(await kept()) == 16


@pytest.mark.parametrize("bad", [-5, 70_000, 3])
async def test_one_bad_item_fails_alone(own_pool: Pool, kept: Kept, bad: int) -> None:
    """A check, a number out of range or a key in use refuses its own call and no other."""
    gate = Gate()
    lane = Lane(own_pool, gate.flush, name="test", flushers=1)
    first = asyncio.ensure_future(lane.put(3))
    await gate.entered.wait()
    calls = [asyncio.ensure_future(lane.put(n)) for n in (10, 11, bad, 12, 13)]
    await settle_down()
    gate.open.set()

    await first
    answers = await wait_for(asyncio.gather(*calls, return_exceptions=True))

    assert [answer if isinstance(answer, int) else type(answer) for answer in answers] == [
        -10, -11, Invalid, -12, -13,
    ]  # fmt: skip
    assert await kept() == [3, 10, 11, 12, 13]


async def test_a_refusal_reaches_its_caller_alone(own_pool: Pool) -> None:
    """A stage that refuses one item of a batch answers the others."""

    async def flush(conn: Connection, items: Sequence[int]) -> list[int | ControlPlaneError]:
        return [LeaseLost() if item == 2 else item for item in items]

    lane = Lane(own_pool, flush, name="test")
    one, two, three = await asyncio.gather(*(lane.put(n) for n in (1, 2, 3)), return_exceptions=True)

    assert (one, type(two), three) == (1, LeaseLost, 3)


async def test_many_are_asked_for_without_a_task_each(own_pool: Pool, kept: Kept) -> None:
    """Whoever asks for a hundred waits for their answers, and nothing else is begun for each of them."""
    gate = Gate()
    gate.open.set()
    lane = Lane(own_pool, gate.flush, name="test", flushers=1)
    with tasks_begun() as tasks:
        answers = await wait_for(asyncio.ensure_future(lane.put_each(range(1, 101))))

    assert answers == [-n for n in range(1, 101)]
    assert [task.get_name() for task in tasks].count("lane.test") == 1
    assert len(tasks) < 10


async def test_who_asked_for_many_leaves_with_all_of_them(own_pool: Pool, kept: Kept) -> None:
    """What is under way is committed, what waited never reaches the database, and others go on."""
    gate = Gate()
    lane = Lane(own_pool, gate.flush, name="test", flushers=1, batch_max=2)
    leaving = asyncio.ensure_future(lane.put_each((1, 2, 3, 4)))
    staying = asyncio.ensure_future(lane.put(5))
    await gate.entered.wait()
    leaving.cancel()
    gate.open.set()

    with pytest.raises(asyncio.CancelledError):
        await wait_for(leaving)
    assert await wait_for(staying) == -5
    assert await kept() == [1, 2, 5]


async def test_who_asks_for_too_many_is_answered_for_each(own_pool: Pool, kept: Kept) -> None:
    """Those for which there is room are stored; the others are refused in their answer, and so is all after a close."""
    gate = Gate()
    gate.open.set()
    lane = Lane(own_pool, gate.flush, name="test", flushers=1, waiting_max=2)
    answers = await lane.put_each((1, 2, 3))
    await lane.close()
    [late] = await lane.put_each([4])

    assert [type(answer) for answer in answers] == [int, int, DatabaseUnavailable]
    assert type(late) is ShuttingDown
    assert await kept() == [1, 2]


async def test_who_asks_for_many_hears_what_is_no_answer_of_a_stage(own_pool: Pool) -> None:
    """What a stage never says is raised, as it is for who asks for one."""

    async def flush(conn: Connection, items: Sequence[int]) -> list[int | ControlPlaneError]:
        raise ArithmeticError

    lane = Lane(own_pool, flush, name="test")

    with pytest.raises(ArithmeticError):
        await lane.put_each((1, 2))


async def test_a_raced_flush_is_run_again(own_pool: Pool) -> None:
    """Raced is not an answer; the flush is repeated until it says something."""
    tries: list[int] = []

    async def flush(conn: Connection, items: Sequence[int]) -> list[int | ControlPlaneError]:
        tries.append(1)
        if len(tries) < 3:
            raise Raced
        return list(items)

    assert await Lane(own_pool, flush, name="test").put(7) == 7
    assert len(tries) == 3


async def test_a_flush_that_only_races_gives_up(own_pool: Pool) -> None:
    """A flush that never gets through refuses its callers after a while instead of spinning for ever."""

    async def flush(conn: Connection, items: Sequence[int]) -> list[int | ControlPlaneError]:
        raise Raced

    lane = Lane(own_pool, flush, name="test", retry_seconds=0)

    with pytest.raises(DatabaseUnavailable):
        await wait_for(asyncio.ensure_future(lane.put(1)))


async def test_a_lost_connection_is_replaced(own_pool: Pool, conn: Connection, kept: Kept) -> None:
    """A backend that dies in the middle of a flush costs its callers nothing but time."""
    gate = Gate()
    lane = Lane(own_pool, gate.flush, name="test")
    calls = [asyncio.ensure_future(lane.put(n)) for n in (1, 2)]
    await gate.entered.wait()
    await conn.fetch("select pg_terminate_backend(pid) from unnest($1::int[]) as pid", gate.pids)
    gate.open.set()

    assert await wait_for(asyncio.gather(*calls)) == [-1, -2]
    assert await kept() == [1, 2]


async def test_a_connection_lost_after_the_commit_is_answered(own_pool: Pool, conn: Connection, kept: Kept) -> None:
    """When the commit stood and only its answer was lost, a stage that says the same twice answers it."""
    tries: list[int] = []

    async def flush(own: Connection, items: Sequence[int]) -> list[int | ControlPlaneError]:
        await own.execute(STORE + " on conflict do nothing", items)
        tries.append(own.get_server_pid())
        if len(tries) == 1:
            await conn.execute("select pg_terminate_backend($1)", tries[0])
            await own.execute("select 1")
        return list(items)

    assert await wait_for(asyncio.ensure_future(Lane(own_pool, flush, name="test").put(5))) == 5
    assert (len(tries), await kept()) == (2, [5])


async def test_a_database_that_stays_away_is_an_answer(own_pool: Pool, conn: Connection, kept: Kept) -> None:
    """After the time for retries the callers are told to try again."""

    async def flush(own: Connection, items: Sequence[int]) -> list[int | ControlPlaneError]:
        await conn.execute("select pg_terminate_backend($1)", own.get_server_pid())
        await own.execute(STORE, items)
        return list(items)

    lane = Lane(own_pool, flush, name="test", retry_seconds=0)

    with pytest.raises(DatabaseUnavailable):
        await wait_for(asyncio.ensure_future(lane.put(1)))


async def test_a_stage_that_breaks_answers_its_callers(own_pool: Pool) -> None:
    """A bug in a stage is raised to the caller, and the lane goes on."""

    async def flush(conn: Connection, items: Sequence[int]) -> list[int | ControlPlaneError]:
        if 0 in items:
            raise ZeroDivisionError
        return list(items)

    lane = Lane(own_pool, flush, name="test", flushers=1)

    with pytest.raises(ZeroDivisionError):
        await lane.put(0)
    assert await lane.put(1) == 1


async def test_who_has_left_before_its_turn_is_not_flushed(own_pool: Pool, kept: Kept) -> None:
    """A call cancelled while it waited never reaches the database."""
    gate = Gate()
    lane = Lane(own_pool, gate.flush, name="test", flushers=1)
    first = asyncio.ensure_future(lane.put(1))
    await gate.entered.wait()
    leaving, staying = asyncio.ensure_future(lane.put(2)), asyncio.ensure_future(lane.put(3))
    await settle_down()
    leaving.cancel()
    gate.open.set()
    await wait_for(asyncio.gather(first, staying))

    assert leaving.cancelled()
    assert await kept() == [1, 3]


async def test_who_leaves_during_the_flush_spoils_nothing(own_pool: Pool, kept: Kept) -> None:
    """The batch commits for the others, whoever stopped waiting."""
    gate = Gate()
    lane = Lane(own_pool, gate.flush, name="test", flushers=1)
    leaving = asyncio.ensure_future(lane.put(1))
    await gate.entered.wait()
    leaving.cancel()
    staying = asyncio.ensure_future(lane.put(2))
    await settle_down()
    gate.open.set()

    assert await wait_for(staying) == -2
    assert await kept() == [1, 2]


async def test_closing_answers_everybody_who_waits(own_pool: Pool, kept: Kept) -> None:
    """close() returns when the last one is answered; whoever comes later is refused."""
    gate = Gate()
    lane = Lane(own_pool, gate.flush, name="test", flushers=1, batch_max=2)
    calls = [asyncio.ensure_future(lane.put(n)) for n in range(1, 6)]
    await gate.entered.wait()
    closing = asyncio.ensure_future(lane.close())
    await settle_down()
    with pytest.raises(ShuttingDown):
        await lane.put(9)
    gate.open.set()
    await wait_for(closing)

    assert [call.done() for call in calls] == [True] * 5
    assert await kept() == [1, 2, 3, 4, 5]


async def test_closing_an_idle_lane(own_pool: Pool) -> None:
    """A lane that nobody used closes at once."""
    lane = Lane(own_pool, Gate().flush, name="test")

    await wait_for(asyncio.ensure_future(lane.close()))


async def test_too_many_waiting_are_refused(own_pool: Pool, kept: Kept) -> None:
    """A queue in memory has an end, and says so."""
    gate = Gate()
    lane = Lane(own_pool, gate.flush, name="test", flushers=1, waiting_max=2)
    calls = [asyncio.ensure_future(lane.put(1))]
    await gate.entered.wait()
    calls += [asyncio.ensure_future(lane.put(n)) for n in (2, 3)]
    await settle_down()
    with pytest.raises(DatabaseUnavailable):
        await lane.put(4)
    gate.open.set()

    await wait_for(asyncio.gather(*calls))


async def test_a_hot_key_does_not_make_every_flush_look_at_everything(own_pool: Pool) -> None:
    """Thousands that wait for one key are not all looked at for every flush."""
    looked: list[int] = []

    async def flush(conn: Connection, items: Sequence[int]) -> list[int | ControlPlaneError]:
        return list(items)

    def keys(item: int) -> tuple[str]:
        looked.append(item)
        return ("hot",)

    lane = Lane(own_pool, flush, name="test", flushers=1, batch_max=4, keys=keys)
    await wait_for(asyncio.gather(*(lane.put(n) for n in range(400))))

    assert len(looked) <= 400 * (4 * 4 + 1)


async def test_what_is_offered_is_taken_along(own_pool: Pool, kept: Kept) -> None:
    """It leaves with the next flush, in its place in the line, and nobody waits for an answer."""
    gate = Gate()
    lane = Lane(own_pool, gate.flush, name="test", flushers=1)

    taken = lane.offer(1)
    await gate.entered.wait()
    taken_too = lane.offer(2)
    answer = asyncio.ensure_future(lane.put(3))
    await settle_down()
    gate.open.set()

    assert (taken, taken_too, await wait_for(answer)) == (True, True, -3)
    assert gate.batches == [[1], [2, 3]]
    assert await kept() == [1, 2, 3]


async def test_what_is_offered_gathers(own_pool: Pool, kept: Kept) -> None:
    """It leaves together, not each as it comes; with what is asked for behind it, it leaves at once."""
    gate = Gate()
    gate.open.set()
    lane = Lane(own_pool, gate.flush, name="test", flushers=2)

    for n in (1, 2, 3):
        assert lane.offer(n)
        await settle_down()
    assert (lane.waiting, gate.batches) == (3, [])
    answer = await wait_for(asyncio.ensure_future(lane.put(4)))
    lane.offer(5)
    await wait_for(asyncio.ensure_future(lane.close()))

    assert answer == -4
    assert gate.batches == [[1, 2, 3, 4], [5]]
    assert await kept() == [1, 2, 3, 4, 5]


async def test_an_offer_that_does_not_gather(own_pool: Pool) -> None:
    """It leaves at once, and takes along what was offered before it."""
    gate = Gate()
    lane = Lane(own_pool, gate.flush, name="test", flushers=1)
    lane.offer(1)

    assert lane.offer(2, gathers=False)
    await settle_down()
    assert (lane.waiting, gate.entered.is_set()) == (0, True)
    gate.open.set()
    await wait_for(asyncio.ensure_future(lane.close()))
    assert gate.batches == [[1, 2]]


async def test_a_full_batch_waits_for_no_more(own_pool: Pool) -> None:
    """As many as a flush takes are enough, however soon they came."""
    gate = Gate()
    lane = Lane(own_pool, gate.flush, name="test", flushers=1, batch_max=4)

    for n in range(4):
        lane.offer(n)

    assert lane.waiting == 4
    await settle_down()
    assert (lane.waiting, gate.entered.is_set()) == (0, True)
    gate.open.set()
    await wait_for(asyncio.ensure_future(lane.close()))


async def test_what_is_offered_gives_way_first(own_pool: Pool, kept: Kept) -> None:
    """At half of what makes a put refuse it is left behind, and whoever waits for an answer still gets in."""
    gate = Gate()
    lane = Lane(own_pool, gate.flush, name="test", flushers=1, waiting_max=4)
    calls = [asyncio.ensure_future(lane.put(1))]
    await gate.entered.wait()

    offers = [lane.offer(n) for n in (2, 3, 4)]
    calls += [asyncio.ensure_future(lane.put(n)) for n in (5, 6)]
    await settle_down()
    with pytest.raises(DatabaseUnavailable):
        await lane.put(7)
    gate.open.set()

    assert offers == [True, True, False]
    assert await wait_for(asyncio.gather(*calls)) == [-1, -5, -6]
    assert await kept() == [1, 2, 3, 5, 6]


@pytest.mark.parametrize("bad", [-5, 70_000, 1])
async def test_a_bad_offer_disturbs_nobody(own_pool: Pool, kept: Kept, bad: int) -> None:
    """Its error is swallowed, and the calls that it travelled with are answered."""
    gate = Gate()
    lane = Lane(own_pool, gate.flush, name="test", flushers=1)
    calls = [asyncio.ensure_future(lane.put(1))]
    await gate.entered.wait()
    assert lane.offer(bad)
    calls.append(asyncio.ensure_future(lane.put(2)))
    await settle_down()
    gate.open.set()

    assert await wait_for(asyncio.gather(*calls)) == [-1, -2]
    assert await kept() == [1, 2]


@pytest.mark.parametrize("error", [ZeroDivisionError, LeaseLost, DatabaseUnavailable, asyncpg.DataError])
async def test_an_offer_that_fails_is_forgotten(own_pool: Pool, error: type[Exception]) -> None:
    """Whatever became of it: no exception is left that nobody looked at, and the lane goes on."""
    unseen: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))

    async def flush(conn: Connection, items: Sequence[int]) -> list[int | ControlPlaneError]:
        if 0 in items:
            raise error("x")
        return list(items)

    lane = Lane(own_pool, flush, name="test", flushers=1, retry_seconds=0)
    assert lane.offer(0)
    await wait_for(asyncio.ensure_future(lane.close()))
    gc.collect()
    await settle_down()

    assert unseen == []
    assert await Lane(own_pool, flush, name="test").put(1) == 1


async def test_a_refused_offer_is_forgotten(own_pool: Pool) -> None:
    """Nor where the stage refuses this item alone."""
    unseen: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))

    async def flush(conn: Connection, items: Sequence[int]) -> list[int | ControlPlaneError]:
        return [LeaseLost() for _ in items]

    lane = Lane(own_pool, flush, name="test")
    assert lane.offer(0)
    await wait_for(asyncio.ensure_future(lane.close()))
    gc.collect()
    await settle_down()

    assert unseen == []


async def test_offers_are_flushed_at_the_close(own_pool: Pool, kept: Kept) -> None:
    """What was taken along is not left behind; what comes later is."""
    gate = Gate()
    lane = Lane(own_pool, gate.flush, name="test", flushers=1)
    assert lane.offer(1)
    await gate.entered.wait()
    assert lane.offer(2)
    closing = asyncio.ensure_future(lane.close())
    await settle_down()
    late = lane.offer(3)
    gate.open.set()
    await wait_for(closing)

    assert not late
    assert await kept() == [1, 2]
