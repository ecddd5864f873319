"""Who holds a snapshot is named, with the statement that ends it."""

from __future__ import annotations

import asyncio
import os

from controlplane.cli.doctor import State, pinned
from controlplane.postgres.pins import Kind, Pin, Pins, ends, pins, says
from controlplane.postgres.pool import Connection
from tests.make import DEADLINE_SECONDS


async def pid_of(conn: Connection) -> int:
    return int(await conn.fetchval("select pg_backend_pid()"))


async def look(conn: Connection) -> dict[int | None, Pin]:
    return {pin.pid: pin for pin in (await pins(conn, longer_than_seconds=0)).found}


async def test_one_that_has_written_and_is_idle(conn: Connection, other: Connection) -> None:
    """Its pid, what it calls itself, its state and how to end it are said; ended so, it pins no more."""
    pid = await pid_of(other)
    await other.execute("set application_name = 'forgotten'")
    await other.execute("begin; select pg_current_xact_id()")

    pin = (await look(conn))[pid]
    await conn.execute(ends(pin).removeprefix("run "))

    assert (pin.kind, pin.application, pin.state) == (Kind.SESSION, "forgotten", "idle in transaction")
    assert f"pid {pin.pid} (application 'forgotten'" in says(pin)
    async with asyncio.timeout(DEADLINE_SECONDS):
        while pin.pid in await look(conn):  # noqa: ASYNC110 - the end of a backend has no event
            await asyncio.sleep(0.01)


async def test_one_that_only_reads(conn: Connection, other: Connection) -> None:
    """A REPEATABLE READ reader holds its first snapshot to the end; one that has none yet holds nothing."""
    pid = await pid_of(other)
    await other.execute("begin isolation level repeatable read")
    before = await look(conn)
    await other.execute("select 1 from pg_class limit 1")

    assert (pid in before, pid in await look(conn)) == (False, True)


async def test_a_transaction_that_holds_nothing(conn: Connection, other: Connection) -> None:
    """Open and idle at READ COMMITTED, with nothing written, it is nobody's trouble."""
    pid = await pid_of(other)
    await other.execute("begin")
    await other.execute("select 1 from pg_class limit 1")

    assert pid not in await look(conn)


async def test_not_before_its_time(conn: Connection, other: Connection) -> None:
    """Whoever has been open for a moment only is not named."""
    await other.execute("begin; select pg_current_xact_id()")

    assert (await pins(conn, longer_than_seconds=3_600)).found == ()


async def test_a_role_that_sees_only_itself(conn: Connection, other: Connection) -> None:
    """It learns how many sessions it may not look at."""
    role = f"sees_little_{os.getpid()}"
    await other.execute("begin; select pg_current_xact_id()")
    await conn.execute(f"create role {role}")
    try:
        await conn.execute(f"set role {role}")
        found = await pins(conn, longer_than_seconds=0)
    finally:
        await conn.execute("reset role")
        await conn.execute(f"drop role {role}")

    assert found.found == ()
    assert found.unseen >= 1
    assert "pg_read_all_stats" in pinned(found).detail


def test_doctor_names_the_oldest_and_how_to_end_it() -> None:
    """It is advice and no failure: the server goes on."""
    old = Pin(kind=Kind.SESSION, pid=7, application="psql", state="idle in transaction", transactions=9, seconds=75.2)
    slot = Pin(kind=Kind.SLOT, name="o'slot", state="nobody reads it", transactions=200_000)

    check = pinned(Pins(found=(slot, old), unseen=0))

    assert (check.name, check.state) == ("snapshots", State.ADVICE)
    assert "pid 7 (application 'psql', idle in transaction) holds back what is dead since 75 s" in check.detail
    assert check.fix == "run select pg_drop_replication_slot('o''slot'); run select pg_terminate_backend(7)"


def test_a_prepared_transaction_is_rolled_back() -> None:
    """It has no session that could be ended."""
    pin = Pin(kind=Kind.PREPARED, name="two-phase", role="app", transactions=3, seconds=90.0)

    assert ends(pin) == "run rollback prepared 'two-phase'"
    assert says(pin) == "prepared transaction 'two-phase' (role app) holds back what is dead since 90 s"
