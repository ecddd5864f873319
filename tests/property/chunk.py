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
    began = time.monotonic()
    tally = Tally(seed=seed * SEEDS_APART + number)
    name = f"chunk_{number}"
    failure = None
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        server = loop.run_until_complete(asyncpg.connect(dsn))
        loop.run_until_complete(server.execute(f"create database {name} template {TEMPLATE} strategy file_copy"))
        place = urlsplit(dsn)._replace(path=f"/{name}").geturl()
        conn = loop.run_until_complete(connect(place))
        try:
            live(loop, conn, place, length, tally, hasty=hasty)
        except Exception as error:  # noqa: BLE001 - whatever it is, it was found
            failure = "\n".join([*traceback.format_tb(error.__traceback__)[-4:], repr(error), *_steps(error)])
        finally:
            loop.run_until_complete(conn.close())
            loop.run_until_complete(server.execute(f"drop database {name} with (force)"))
            loop.run_until_complete(server.close())
    return {"number": number, "seconds": time.monotonic() - began, "failure": failure, **tally.facts()}


def _steps(error: Exception) -> list[str]:
    """The way to it, without what was looked at after each step."""
    looked = {f"state.{one.function.__name__}()" for one in Whole.setup_state().invariants}
    lines = "\n".join(getattr(error, "__notes__", ())).splitlines()
    return [line for line in lines if line.strip() not in looked]
