"""One chunk of the long form, in a process of its own."""

from __future__ import annotations

import asyncio
import time
import traceback
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from tests.property.course import Length, live
from tests.property.faults import connect
from tests.property.tally import Tally
from tests.property.whole import Whole

SEEDS_APART = 1_000_000
TEMPLATE = "controlplane"


def chunk(dsn: str, seed: int, number: int, length: Length, hasty: bool) -> dict[str, Any]:
    """Live so many lives in a database of their own."""
    name = f"chunk_{number}"
    with asyncio.Runner() as runner:
        server = runner.run(asyncpg.connect(dsn))
        runner.run(server.execute(f"create database {name} template {TEMPLATE} strategy file_copy"))
        try:
            lived = lives(urlsplit(dsn)._replace(path=f"/{name}").geturl(), seed * SEEDS_APART + number, length, hasty)
        finally:
            runner.run(server.execute(f"drop database {name} with (force)"))
            runner.run(server.close())
    return {"number": number, **lived}


def lives(dsn: str, seed: int, length: Length, hasty: bool) -> dict[str, Any]:
    """What was lived through in this database, and what was found.

    For a process of its own: Hypothesis draws from the constants of all modules that are loaded, so that elsewhere the
    same seed is another course.
    """
    began = time.monotonic()
    tally = Tally(seed=seed)
    failure = None
    with asyncio.Runner() as runner:
        conn = runner.run(connect(dsn))
        try:
            live(runner.get_loop(), conn, dsn, length, tally, hasty=hasty)
        except Exception as error:  # noqa: BLE001 - whatever it is, it was found
            failure = "\n".join([*traceback.format_tb(error.__traceback__)[-4:], repr(error), *_steps(error)])
        finally:
            runner.run(conn.close())
    return {"seconds": time.monotonic() - began, "failure": failure, **tally.facts()}


def _steps(error: Exception) -> list[str]:
    """The way to it, without what was looked at after each step."""
    looked = {f"state.{one.function.__name__}()" for one in Whole.setup_state().invariants}
    lines = "\n".join(getattr(error, "__notes__", ())).splitlines()
    return [line for line in lines if line.strip() not in looked]
