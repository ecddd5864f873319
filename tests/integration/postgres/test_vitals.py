"""What the database says of itself: dead rows, and who takes what is written."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from controlplane.postgres.footing import find_binaries
from controlplane.postgres.pool import Connection
from controlplane.postgres.vitals import standbys, tables, version
from tests.make import DEADLINE_SECONDS


async def test_only_those_that_are_asked_for(conn: Connection) -> None:
    """What there is not is left out."""
    assert [one.name for one in await tables(conn, ["queue", "no_such_table"])] == ["queue"]


async def test_when_it_was_vacuumed(conn: Connection) -> None:
    """None until it was."""
    before = (await tables(conn, ["queue"]))[0].vacuumed_at
    await conn.execute("vacuum queue")
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (found := (await tables(conn, ["queue"]))[0].vacuumed_at) is None:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)

    assert before is None
    assert found is not None


async def test_the_version_is_the_server_s(conn: Connection) -> None:
    """In its own words."""
    assert str(await conn.fetchval("show server_version")).startswith(await version(conn))


async def test_who_takes_what_is_written(conn: Connection, database: str, tmp_path: Path) -> None:
    """It is there while it is connected; a role that may not look learns that it is, and no more."""
    program = find_binaries().folder / "pg_receivewal"
    taking = await asyncio.create_subprocess_exec(program, "-D", tmp_path, "-d", database, "--no-loop")
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not (found := await standbys(conn)):  # noqa: ASYNC110 - who connects has no event
                await asyncio.sleep(0.01)
        role = f"sees_no_standby_{os.getpid()}"
        await conn.execute(f"create role {role}; set role {role}")
        hidden = await standbys(conn)
        await conn.execute(f"reset role; drop role {role}")
    finally:
        taking.terminate()
        await taking.wait()

    assert found[0].name == "pg_receivewal"
    assert [(one.state, one.lag_bytes) for one in hidden] == [(None, None)]
