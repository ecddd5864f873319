"""What runs for ever goes on after whatever ended it."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

from controlplane.daemons import loop
from controlplane.errors import DatabaseUnavailable


async def test_what_ends_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    """After an outage that was longer than its patience, after a bug, and when it has simply ended."""
    ends: list[Exception | None] = [DatabaseUnavailable(), ArithmeticError(), None]
    runs = asyncio.Event()

    async def watch() -> None:
        if not ends:
            runs.set()
            await asyncio.Event().wait()
        if (end := ends.pop(0)) is not None:
            raise end

    with caplog.at_level(logging.WARNING):
        task = asyncio.create_task(loop.keep(watch, name="watch"))
        await asyncio.wait_for(runs.wait(), 30)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task

    assert [record.message for record in caplog.records] == ["daemon.waiting", "daemon.broken"]
    assert task.cancelled()
