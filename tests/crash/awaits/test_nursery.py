"""The nursery keeps its children apart."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.crash.awaits.nursery import Nursery

NOBODY = ("no story", "", "", "")
"""A caller that has nothing to do, and ends with 1."""


async def test_a_start_that_is_called_off_is_nobody_elses(tmp_path: Path) -> None:
    async with Nursery((), tmp_path) as nursery:
        called_off = asyncio.create_task(nursery.start("call", "first", {}, arguments=NOBODY))
        await asyncio.sleep(0)
        called_off.cancel()
        child = await nursery.start("call", "second", {}, arguments=NOBODY)

        assert await child.ended() == 1
        assert "KeyError: 'no story'" in child.log()
    assert called_off.cancelled()
