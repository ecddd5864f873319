"""Trip: a host that fails is left alone by everybody, asked once per window, and told everything when it is back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import asyncpg
import pytest

from controlplane.domain.breaker import Said
from controlplane.domain.delivery import Attempt, AttemptOutcome, DeliveryState
from controlplane.postgres.pool import Connection, Pool
from controlplane.stages import deliver, prune, redrive, trip
from controlplane.stages.deliver import BEGINNING, Due, Sent
from tests.make import counts, make_execution, move_clock, until_blocked

HOST = "a.example:443"
INSERT = """
insert into deliveries (
  bucket, id, namespace, execution_id, webhook_n, event, host, url, body, state, attempts_max, next_at, created_at
)
select 0, ('0192' || substr(md5(random()::text), 1, 25) || '000')::uuid, $2, $4, 1, gen_random_uuid()::text, $1,
  'https://' || $1, '{}', 'pending', 50, clock() - interval '1 second' * n, clock()
from generate_series(1, $3::int) as n
"""
DOWN = Attempt(
    outcome=AttemptOutcome.FAILED,
    http_status=None,
    latency_ms=12,
    error="timeout: no answer in time",
    response_body=b"",
    retry_after_seconds=None,
    final=False,
)
OK = replace(DOWN, outcome=AttemptOutcome.DELIVERED, http_status=200, error=None)


async def pending(conn: Connection, count: int = 1, *, host: str = HOST, namespace: int = 1) -> None:
    made = await conn.fetchval("select id from executions") or (await make_execution(conn, "succeeded")).id
    await conn.execute(INSERT, host, namespace, count, made)


async def claim(conn: Connection, limit: int = 100, **over: object) -> list[Due]:
    asked = {"after": BEGINNING, "full_hosts": (), "per_host": 16, "limit": limit, "lease_seconds": 40.0} | over
    return list((await deliver.claim_due(conn, 0, **asked)).due)  # type: ignore[arg-type]


async def settle(conn: Connection, due: list[Due], attempt: Attempt = DOWN) -> None:
    """Written down; what failed is due again at once, so that only the breaker holds it back."""
    state = DeliveryState.DELIVERED if attempt.outcome is AttemptOutcome.DELIVERED else DeliveryState.PENDING
    answers = await deliver.settle(conn, [Sent(due=one, attempt=attempt, state=state, wait_seconds=0.0) for one in due])
    assert answers == [None] * len(due)


async def breaker(conn: Connection, host: str = HOST, namespace: int = 1) -> asyncpg.Record | None:
    return await conn.fetchrow(
        "select *, extract(epoch from open_until - changed_at)::float8 as seconds,"
        " extract(epoch from held_until - changed_at)::float8 as held_seconds from breakers"
        " where host = $1 and namespace = $2",
        host,
        namespace,
    )


async def opened(conn: Connection, waiting: int = 20) -> None:
    """A host with so many waiting deliveries whose breaker has just opened."""
    await pending(conn, waiting)
    await settle(conn, await claim(conn, 5))


async def test_a_host_that_answers_has_no_row(conn: Connection) -> None:
    """Nor has one that says no to a path of its own."""
    await pending(conn, 12)
    for status in (200, 404, 500):
        outcome = AttemptOutcome.DELIVERED if status == 200 else AttemptOutcome.FAILED
        await settle(conn, await claim(conn, 6), replace(OK, outcome=outcome, http_status=status))

    assert await counts(conn, "breakers") == {"breakers": 0}


async def test_five_failures_leave_it_alone(conn: Connection) -> None:
    """Four do not. While it is open nothing is claimed there, nothing is charged, and others are not held up."""
    await pending(conn, 20)
    await settle(conn, await claim(conn, 4))
    [fifth] = await claim(conn, 1)
    await settle(conn, [fifth])
    await pending(conn, 1, host="b.example:443")
    before = await conn.fetchval("select sum(charged) from deliveries")

    others = await claim(conn)
    row = await breaker(conn)

    assert [one.host for one in others] == ["b.example:443"]
    assert (before, await conn.fetchval("select sum(charged) from deliveries")) == (5, 5)
    assert row is not None
    assert (row["failures"], row["windows"], row["seconds"]) == (5, 1, 5)


async def test_an_answer_between_them_counts_from_the_beginning(conn: Connection) -> None:
    """Only straight failures open it."""
    await pending(conn, 20)
    await settle(conn, await claim(conn, 4))
    await settle(conn, await claim(conn, 1), OK)
    await settle(conn, await claim(conn, 4))

    assert len(await claim(conn)) == 16


async def test_an_answer_among_them_outweighs_them(conn: Connection) -> None:
    """What comes at the same time is heard together: whoever answers one of six is there."""
    await pending(conn, 20)
    fails, answers = (DOWN, DeliveryState.PENDING), (OK, DeliveryState.DELIVERED)
    under_way = zip(await claim(conn, 6), (answers, *[fails] * 5), strict=True)
    await deliver.settle(
        conn, [Sent(due=due, attempt=said, state=state, wait_seconds=0.0) for due, (said, state) in under_way]
    )
    row = await breaker(conn)

    assert row is not None
    assert (row["failures"], row["windows"]) == (0, 0)


async def test_whoever_may_be_sent_to_again_is_told_of(conn: Connection) -> None:
    """Once, when the breaker closes: not for the failures before it, nor for what is delivered after it."""
    await pending(conn, 20)
    freed: list[int] = []
    for n, attempt in enumerate((*[DOWN] * 5, OK, OK)):
        state = DeliveryState.DELIVERED if attempt is OK else DeliveryState.PENDING
        await move_clock(conn, f"{10 * n} seconds")
        [due] = await claim(conn, 1)
        sent = Sent(due=due, attempt=attempt, state=state, wait_seconds=0.0)
        await deliver.settle(conn, [sent], freed=partial(freed.append, n))

    assert freed == [5]


async def test_what_was_under_way_does_not_prolong_it(conn: Connection) -> None:
    """Sixteen were sent when it opened; the first window is five seconds all the same."""
    await pending(conn, 20)
    under_way = await claim(conn, 16)
    await settle(conn, under_way[:5])
    first = await breaker(conn)
    await settle(conn, under_way[5:])
    row = await breaker(conn)

    assert first is not None
    assert row is not None
    assert (row["failures"], row["windows"], row["open_until"]) == (16, 1, first["open_until"])


async def test_one_probe_per_window(conn: Connection, pool: Pool) -> None:
    """However many replicas ask, and however often: one delivery goes out to each host when the window is over."""
    hosts = [f"h{n:02}:1" for n in range(40)]
    for host in hosts:
        await pending(conn, 12, host=host)
    await settle(conn, await claim(conn, 200, per_host=5))

    async def ask() -> list[Due]:
        async with pool.acquire() as own:
            await move_clock(own, "6 seconds")
            return [due for _ in range(5) for due in await claim(own)]

    probes = [due for part in await asyncio.gather(*[ask() for _ in range(4)]) for due in part]

    assert sorted(one.host for one in probes) == hosts
    assert all(one.probe for one in probes)


async def test_a_probe_that_fails_doubles_the_window(conn: Connection) -> None:
    """5, 10, 20, 40, 80, 160 seconds, then 300 again and again; each costs one attempt."""
    await opened(conn)
    seconds, clock = [], 0.0
    for _ in range(8):
        row = await breaker(conn)
        assert row is not None
        seconds.append(row["seconds"])
        await move_clock(conn, f"{clock + row['seconds'] - 0.5} seconds")
        assert await claim(conn) == []
        clock += row["seconds"] + 0.5
        await move_clock(conn, f"{clock} seconds")
        [probe] = await claim(conn)
        await settle(conn, [probe])

    assert [round(one) for one in seconds] == [5, 10, 20, 40, 80, 160, 300, 300]
    assert await conn.fetchval("select sum(charged) from deliveries") == 5 + 8


async def test_one_answer_opens_the_doors(conn: Connection) -> None:
    """After a probe that succeeded everything that waits may go, and failures are counted from nothing."""
    await opened(conn, 40)
    await move_clock(conn, "6 seconds")
    await settle(conn, await claim(conn), OK)
    row = await breaker(conn)

    assert len(await claim(conn)) == 16
    assert row is not None
    assert (row["failures"], row["windows"], row["open_until"], row["opened_at"]) == (0, 0, None, None)


async def test_a_probe_whose_dispatcher_died_is_repeated(conn: Connection) -> None:
    """Not before its lease is over, and then by one again."""
    await opened(conn)
    await move_clock(conn, "6 seconds")
    assert len(await claim(conn)) == 1
    await move_clock(conn, "45 seconds")
    early = await claim(conn)
    await move_clock(conn, "47 seconds")
    await deliver.reclaim(conn, 0)
    [again] = await claim(conn)
    await settle(conn, [again])
    row = await breaker(conn)

    assert early == []
    assert again.probe
    assert row is not None
    assert (row["windows"], row["seconds"]) == (2, 10)


async def test_a_zombie_says_nothing(conn: Connection) -> None:
    """Who comes back after its lease neither opens nor closes anything, nor does who settles twice."""
    await opened(conn)
    await move_clock(conn, "6 seconds")
    [lost] = await claim(conn)
    await move_clock(conn, "47 seconds")
    await deliver.reclaim(conn, 0)
    [again] = await claim(conn)
    before = await breaker(conn)
    await deliver.settle(conn, [Sent(due=lost, attempt=OK, state=DeliveryState.DELIVERED, wait_seconds=0.0)])
    zombie = await breaker(conn)
    await settle(conn, [again])
    once = await breaker(conn)
    await settle(conn, [again])

    assert zombie == before
    assert await breaker(conn) == once


async def test_a_probe_that_sent_nothing_makes_room_for_another(conn: Connection) -> None:
    """Its webhook was refused by ourselves: the host has not been asked."""
    await opened(conn)
    await move_clock(conn, "6 seconds")
    [refused] = await claim(conn)
    await settle(conn, [refused], replace(DOWN, outcome=AttemptOutcome.REFUSED, error="seal: x"))
    [next_one] = await claim(conn)

    assert next_one.probe


async def test_a_person_may_say_that_it_is_back(conn: Connection) -> None:
    """Sent again by hand, the host is asked once, now; when it fails, for longer than before."""
    await opened(conn)
    one = await conn.fetchval("select id from deliveries limit 1")
    await redrive.retry(conn, one, namespace=1)
    probes = await claim(conn)
    await settle(conn, probes)
    row = await breaker(conn)

    assert [due.probe for due in probes] == [True]
    assert row is not None
    assert (row["windows"], await claim(conn)) == (2, [])


@pytest.mark.parametrize(("status", "held"), [(429, True), (503, True), (500, False)])
async def test_retry_after_holds_the_whole_host(conn: Connection, status: int, held: bool) -> None:
    """Nothing else is sent there before the time that it asked for, an hour at most; others go on."""
    await pending(conn, 3)
    [one] = await claim(conn, 1)
    asked = replace(DOWN, http_status=status, error="http", retry_after_seconds=120.0)
    await deliver.settle(conn, [Sent(due=one, attempt=asked, state=DeliveryState.PENDING, wait_seconds=120.0)])

    await move_clock(conn, "119 seconds")
    assert len(await claim(conn)) == (0 if held else 2)
    await move_clock(conn, "121 seconds")
    assert len(await claim(conn)) == (3 if held else 1)


async def test_a_shorter_hold_takes_nothing_away(conn: Connection) -> None:
    """Of two words of one host the later moment holds, and it outlives an answer to somebody who was faster."""
    await pending(conn, 3)
    due = await claim(conn, 3)
    for one, seconds in zip(due[:2], (300.0, 2.0), strict=True):
        await settle(conn, [one], replace(DOWN, http_status=429, retry_after_seconds=seconds))
    await settle(conn, due[2:], OK)
    row = await breaker(conn)

    assert row is not None
    assert (row["failures"], row["held_seconds"]) == (0, pytest.approx(300, abs=30))
    assert await claim(conn) == []


async def test_namespaces_learn_for_themselves(conn: Connection) -> None:
    """What one of them is answered holds back nothing of another."""
    await opened(conn)
    await pending(conn, 20, namespace=2)

    assert {one.namespace for one in await claim(conn)} == {2}


async def test_callbacks_are_neither_heard_nor_held(conn: Connection) -> None:
    """A process of a node that waits for a decision is told by its own schedule, however often it was away."""
    await pending(conn, 6, host="node:n:1")
    await conn.execute("update deliveries set webhook_n = 0, event = event || ':1'")
    await settle(conn, await claim(conn))

    assert len(await claim(conn)) == 6
    assert await counts(conn, "breakers") == {"breakers": 0}


async def test_those_that_fail_can_be_left_out(conn: Connection) -> None:
    """Of a host with one failure nothing is taken when only others are asked for; and named ones are found."""
    await pending(conn, 2)
    await pending(conn, 1, host="b.example:443")
    [one] = await claim(conn, 1)
    await settle(conn, [one])

    assert [due.host for due in await claim(conn, failing=False)] == ["b.example:443"]
    assert {due.failing for due in await claim(conn, only=[(HOST, 1)])} == {True}


async def test_hosts_are_locked_in_order(conn: Connection, other: Connection, observer: Connection) -> None:
    """Whatever order they are named in: two that settle the same hosts never wait for each other in a ring."""
    said = [Said(host=host, namespace=1, answered=False) for host in ("h3:1", "h1:1", "h2:1")]
    await trip.hear(conn, 0, said)
    blocker, hearer = other.transaction(), conn.transaction()
    await blocker.start()
    await other.execute("select from breakers where host = 'h2:1' for update")
    await hearer.start()
    hearing = asyncio.create_task(trip.hear(conn, 0, said))
    await until_blocked(observer, conn.get_server_pid())
    free = await observer.fetch("select host from breakers order by host for update skip locked")
    await blocker.rollback()
    await hearing
    await hearer.commit()

    assert [row["host"] for row in free] == ["h3:1"]


async def test_a_host_that_is_gone_is_given_up(conn: Connection) -> None:
    """After a week what has been due for as long is dead, an event and its record say why; what is newer waits on."""
    await opened(conn, 6)
    await pending(conn, 3, host="b.example:443")
    early = await deliver.give_up(conn, 0)
    await move_clock(conn, "8 days")
    await pending(conn, 1)  # has just become due
    gone = await deliver.give_up(conn, 0)
    told = await conn.fetch("select error from delivery_attempts where outcome = 'refused'")

    assert (early, gone, await deliver.give_up(conn, 0)) == (0, 6, 0)
    assert {row["error"] for row in told} == {"breaker: the host has not answered for 7 days"}
    assert await conn.fetchval("select count(*) from events where type = 'delivery.dead'") == 6
    assert await conn.fetchval("select count(*) from deliveries where state = 'pending'") == 4


async def test_old_rows_go(conn: Connection) -> None:
    """A host of which nothing was heard for a day is forgotten; one that is just now left alone is not."""
    await opened(conn)
    kept = await prune.drop_breakers(conn, 0, after_seconds=86_400.0)
    open_now = await trip.count_open(conn, 0)
    await move_clock(conn, "25 hours")

    assert (kept, open_now) == (0, 1)
    assert await prune.drop_breakers(conn, 0, after_seconds=86_400.0) == 1
