"""The dispatcher looks once for what is due, and again whenever something may have been left.

Its interval lasts an hour here: whatever would wait for it is never sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from controlplane.daemons import loop
from controlplane.daemons.dispatcher import Dispatcher
from controlplane.domain.endpoint import CONTROLPLANE, Definition, EndpointId
from controlplane.postgres.listen import Hints, Waiter
from controlplane.postgres.pool import Connection, Pool
from controlplane.stages import endpoint
from controlplane.stages.endpoint import Ref
from tests.integration.daemons.test_dispatcher import DEADLINE_SECONDS, dispatching, until
from tests.integration.outbound.test_webhook import OK, Reader, Receiver, Writer, listening, read_request
from tests.make import NAMESPACE, make_execution, make_id, make_session, no_jitter, until_blocks, webhook

TOPIC = "deliveries"
HOUR_SECONDS = 3_600.0
FAILED = """
insert into breakers (bucket, host, namespace, failures, windows, changed_at)
select 0, host, 1, 1, 0, clock()
from unnest($1::text[]) as host
"""
OPEN = """
insert into breakers (bucket, host, namespace, failures, windows, opened_at, open_until, changed_at)
values (0, $1, 1, 5, 1, clock(), clock() + make_interval(secs => $2), clock())
"""
# The first four go to an endpoint instead.
REDIRECT = """
update deliveries d
set endpoint_id = $1, webhook_n = null, event_seq = first.n
from (select id, row_number() over (order by next_at) as n from deliveries limit 4) as first
where d.id = first.id
"""


@dataclass
class Scene:
    """A dispatcher whose receiver answers when it is let."""

    dispatcher: Dispatcher
    hints: Hints
    hint: Waiter
    receiver: Receiver
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def turns(self, count: int) -> list[int]:
        return [await self.dispatcher.turn() for _ in range(count)]

    async def ended(self) -> bool:
        """What is under way ends; whether the dispatcher is woken by it."""
        self.hint.wake()
        await self.hint.wait(0)
        self.go.set()
        await self.dispatcher.drain(DEADLINE_SECONDS)
        return self.hint.woken


@asynccontextmanager
async def scene(pool: Pool, database: str, **over: int) -> AsyncIterator[Scene]:
    async def answer(reader: Reader, writer: Writer) -> None:
        receiver.requests.append(await read_request(reader))
        await made.go.wait()
        writer.write(OK)

    hints = Hints(pool, database, notify=False)
    async with listening(answer) as receiver, dispatching(pool, database, hints=hints, **over) as dispatcher:  # type: ignore[arg-type]
        with hints.waiter(TOPIC) as hint:
            made = Scene(dispatcher, hints, hint, receiver)
            try:
                yield made
            finally:
                made.go.set()


@asynccontextmanager
async def running(one: Scene) -> AsyncIterator[None]:
    """Its loop."""
    task = asyncio.create_task(
        loop.run(one.dispatcher.turn, name="dispatcher", interval_seconds=HOUR_SECONDS, jitter=no_jitter, hint=one.hint)
    )
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def owed(conn: Connection, to: Scene, hosts: Sequence[str], *, secret_sealed: bytes | None = None) -> None:
    """Deliveries that are due, at hosts of these names; all of them go to the one receiver."""
    session = await make_session(conn)
    for host in hosts:
        hook = webhook(to.receiver.url, host=host, secret_sealed=secret_sealed)
        await make_execution(conn, "succeeded", session=session, webhooks=(hook,))


def delivered(count: int) -> str:
    return f"select count(*) = {count} from deliveries where state = 'delivered'"


async def test_a_calm_delivery_costs_one_look(conn: Connection, pool: Pool, database: str) -> None:
    """Nothing was left, so nobody looks again at once, nor when it has ended."""
    async with scene(pool, database) as one:
        await owed(conn, one, ["a"])
        looked = await one.turns(1)

        assert (looked, await one.ended()) == ([0], False)
        assert await conn.fetchval(delivered(1))


@pytest.mark.parametrize(
    ("hosts", "over", "turns", "woken"),
    [
        pytest.param(["a"] * 9, {}, [4, 4, 0], False, id="a host gave all that it might"),
        pytest.param(["a"] * 9, {"per_host_max": 4}, [4, 0], True, id="a host is full"),
        pytest.param([*"abcde"], {"in_flight_max": 4}, [2, 1, 0], True, id="no room for more"),
        pytest.param([*"aaaaabc"], {"in_flight_max": 10}, [5, 1, 1, 0], True, id="begun in the middle of the hosts"),
    ],
)
async def test_what_was_left_is_looked_for_again(
    conn: Connection, pool: Pool, database: str, hosts: list[str], over: dict[str, int], turns: list[int], woken: bool
) -> None:
    """At once where there is room for it, and otherwise when something ends."""
    async with scene(pool, database, **over) as one:
        await owed(conn, one, hosts)

        assert await one.turns(len(turns)) == turns
        assert await one.ended() == woken


async def test_one_that_fails_waits_for_a_place_of_its_kind(conn: Connection, pool: Pool, database: str) -> None:
    """There is room, but not for hosts that have not answered lately: it is given when one of these has ended."""
    async with scene(pool, database, in_flight_max=4) as one:
        await conn.execute(FAILED, ["f1", "f2", "f3"])
        await owed(conn, one, ["f1", "f2", "f3"])

        assert await one.turns(3) == [2, 0, 0]
        assert await one.ended()


@pytest.mark.parametrize(
    ("hosts", "over"),
    [
        (["a"] * 30, {}),
        (["a"] * 9, {"per_host_max": 4}),
        (["a"] * 9, {"per_host_max": 1}),
        ([f"h{n:02}" for n in range(30)], {"in_flight_max": 4}),
        ([f"h{n % 7}" for n in range(40)], {"in_flight_max": 10, "per_host_max": 5}),
        ([f"h{n:03}" for n in range(210)], {"in_flight_max": 1_000}),
    ],
    ids=["one host", "a small host", "one by one", "few places", "all of it", "more hosts than one look takes"],
)
async def test_nothing_waits_for_the_interval(
    conn: Connection, pool: Pool, database: str, hosts: list[str], over: dict[str, int]
) -> None:
    """However much of it there is, and however little room."""
    async with scene(pool, database, **over) as one:
        one.go.set()
        await owed(conn, one, hosts)
        async with running(one):
            await until(conn, delivered(len(hosts)))

    assert len(one.receiver.requests) == len(hosts)


async def test_what_ends_while_it_looks(conn: Connection, other: Connection, pool: Pool, database: str) -> None:
    """The look had begun with a host that was full; when its places are free it is over for that host."""
    async with scene(pool, database, per_host_max=5) as one:
        await owed(conn, one, ["a", "a"])
        calm = await one.turns(1)
        await owed(conn, one, ["a"])
        async with other.transaction():
            await other.execute("lock table webhooks in access exclusive mode")
            looking = asyncio.create_task(one.dispatcher.turn())
            await until_blocks(other)
            one.go.set()
            woken = await one.hint.wait(DEADLINE_SECONDS)
        missed = await looking
        await until(conn, delivered(2))
        found = await one.turns(1)

        assert (calm, woken, missed, found) == ([0], True, 0, [0])
        await until(conn, delivered(3))


async def test_a_hint_that_comes_while_it_looks(pool: Pool) -> None:
    """It is for the next look, which comes at once."""
    hints, done, looks = Hints(pool, None, notify=False), asyncio.Event(), iter(range(1_000))

    async def look() -> int:
        if next(looks):
            done.set()
        else:
            hints.wake(TOPIC)
        return 0

    with hints.waiter(TOPIC) as hint:
        task = asyncio.create_task(
            loop.run(look, name="look", interval_seconds=HOUR_SECONDS, jitter=no_jitter, hint=hint)
        )
        try:
            assert await asyncio.wait_for(done.wait(), DEADLINE_SECONDS)
        finally:
            task.cancel()


async def test_a_probe_that_asked_nobody(conn: Connection, pool: Pool, database: str) -> None:
    """Its secret could not be opened, and the host has still to be asked: the next one goes out at once."""
    async with scene(pool, database) as one:
        await conn.execute(OPEN, "a", -1.0)
        await owed(conn, one, ["a", "a"], secret_sealed=b"of another key ring")
        async with running(one):
            await until(conn, "select count(*) = 2 from delivery_attempts where outcome = 'refused'")

    assert one.receiver.requests == []


async def test_a_host_that_is_there_again(conn: Connection, pool: Pool, database: str) -> None:
    """The probe is answered: everything else goes out at once."""
    async with scene(pool, database) as one:
        one.go.set()
        await conn.execute(OPEN, "a", -1.0)
        await owed(conn, one, ["a"] * 12)
        async with running(one):
            await until(conn, delivered(12))

    assert len(one.receiver.requests) == 12


async def test_an_answer_that_comes_late(conn: Connection, pool: Pool, database: str) -> None:
    """It was under way when others opened the breaker of its host: it closes it, and what is held back goes out."""
    async with scene(pool, database) as one:
        await owed(conn, one, ["a"])
        async with running(one):
            await until(conn, "select count(*) = 1 from deliveries where state = 'leased'")
            await conn.execute(OPEN, "a", HOUR_SECONDS)
            await owed(conn, one, ["a"])
            one.go.set()
            await until(conn, delivered(2))

    assert await conn.fetchval("select failures + windows from breakers") == 0


async def test_what_is_parked_hides_nothing(conn: Connection, pool: Pool, database: str) -> None:
    """Of a host as much as it might give was for an endpoint that is disabled; behind it there is a webhook."""
    async with scene(pool, database) as one:
        one.go.set()
        await owed(conn, one, ["a"] * 5)
        await conn.execute(REDIRECT, await disabled(conn))
        async with running(one):
            await until(conn, delivered(1))

    assert len(one.receiver.requests) == 1


async def disabled(conn: Connection) -> UUID:
    """An endpoint that somebody has disabled."""
    made, _ = await endpoint.create(
        conn,
        0,
        EndpointId(make_id(0)),
        Definition(url="http://a/", host="a", events=("*",)),
        namespace=NAMESPACE,
        name="e",
        secret_sealed=b"s",
        headers_sealed=None,
        same=lambda _: True,
        most=20,
    )
    await endpoint.disable(conn, 0, Ref(made.id, None), namespace=NAMESPACE, by=CONTROLPLANE, reason=None)
    return made.id
