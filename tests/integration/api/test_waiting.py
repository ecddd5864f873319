"""Waiting for an end: one look for everybody, and none for what ends before it is time for one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from controlplane.api.waiting import LOOK_FIRST_SECONDS, Waiting
from controlplane.postgres.listen import Hints
from controlplane.reads.executions import FINISHED
from tests.integration.api.counting import counted
from tests.integration.api.serving import until
from tests.make import make_id

SOON = LOOK_FIRST_SECONDS / 5


@pytest.fixture
async def waiting(database: str) -> AsyncIterator[tuple[Waiting, list[str]]]:
    """It runs; and what it has asked of the database."""
    async with counted(database) as (pool, said):
        made = Waiting(pool, Hints(pool, None, notify=False))
        running = asyncio.create_task(made.run())
        yield made, said
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_an_end_that_comes_at_once_costs_no_look(waiting: tuple[Waiting, list[str]]) -> None:
    """Whoever begins to wait has just looked."""
    made, said = waiting
    for _ in range(20):
        id_ = make_id(0)
        with made.watch(id_) as wait:
            asyncio.get_running_loop().call_later(SOON, made.tell, {id_: None})
            await wait(10)

    assert said == []


async def test_who_waits_on_is_looked_for(waiting: tuple[Waiting, list[str]]) -> None:
    """Another replica may have written the end without a word."""
    made, said = waiting
    with made.watch(make_id(0)) as wait:
        task = asyncio.create_task(wait(30))
        await until(lambda: _is(FINISHED in said))
        task.cancel()


async def _is(fact: bool) -> bool:
    return fact
