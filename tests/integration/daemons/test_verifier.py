"""The verifier: what is broken is said, counted and shown; one replica looks for all of them."""

from __future__ import annotations

import asyncio
import logging

import asyncpg
import pytest

from controlplane.daemons.verifier import Look, Verifier
from controlplane.domain.ids import show_execution
from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Connection, Pool
from controlplane.reads import caps, verify
from tests.make import make_execution

PROMISES = {one.name: one.promise for one in verify.HOT.values()}
BREAK = "update queue set cancel_requested_at = clock() where id = $1"
MEND = "update queue set cancel_requested_at = null where id = $1"


def verifier(pool: Pool, *, every_seconds: float = 0.0, look: Look = verify.hot) -> Verifier:
    return Verifier(pool, Placement(), promises=PROMISES, look=look, every_seconds=every_seconds)


async def counted(conn: Connection) -> dict[str, int]:
    """By invariant, how much breaks it, as metrics show it."""
    totals = await caps.totals(conn, buckets=[0])
    return {key.removeprefix("invariants."): n for key, n in totals.items() if key.startswith("invariants.")}


async def test_what_is_broken_is_said_and_counted(
    conn: Connection, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    """One line at level error with the ids, a number for each hot invariant; when it is mended, nothing is left."""
    made = await make_execution(conn, "queued")
    await conn.execute(BREAK, made.id)
    await verifier(pool).tick()

    [said] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert (said.message, vars(said)["invariant"]) == ("invariant.violated", "cancel_is_the_end")
    assert vars(said)["ids"] == [show_execution(made.id)]
    assert await counted(conn) == dict.fromkeys(PROMISES, 0) | {"cancel_is_the_end": 1}
    assert await caps.violations(conn, buckets=[0]) == 1
    await conn.execute(MEND, made.id)
    await verifier(pool).tick()
    assert await caps.violations(conn, buckets=[0]) == 0


async def test_one_looks_for_all(pool: Pool) -> None:
    """Of replicas that tick together one looks; nobody looks again before the time is over."""
    looks: list[str] = []

    async def look(conn: Connection, name: str, bucket: int) -> list[str]:
        looks.append(name)
        return await verify.hot(conn, name, bucket)

    await asyncio.gather(*(verifier(pool, every_seconds=60, look=look).tick() for _ in range(4)))

    assert sorted(looks) == sorted(PROMISES)


async def test_what_takes_too_long_holds_up_nothing_else(conn: Connection, pool: Pool) -> None:
    """An invariant that cannot be asked in time keeps the number that it had; the others are asked."""
    made = await make_execution(conn, "queued")
    await conn.execute(BREAK, made.id)
    await verifier(pool).tick()

    async def look(conn: Connection, name: str, bucket: int) -> list[str]:
        if name == "cancel_is_the_end":
            raise asyncpg.QueryCanceledError
        return ["x"] if name == "stands_for_one_thing" else []

    await verifier(pool, look=look).tick()

    assert await counted(conn) == dict.fromkeys(PROMISES, 0) | {"cancel_is_the_end": 1, "stands_for_one_thing": 1}


async def test_an_invariant_that_nobody_asks_any_more_is_forgotten(conn: Connection, pool: Pool) -> None:
    """A number of an older version does not stay for ever."""
    await conn.execute(
        "insert into census (bucket, namespace, name, count, counted_at) values (0, 0, 'invariants.old', 3, clock())"
    )
    await verifier(pool).tick()

    assert "old" not in await counted(conn)
