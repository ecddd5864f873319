"""The reader behind live streams: how often it reads the table, and that it passes over nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import pytest

from controlplane.api import events as live
from controlplane.api.streams import LOOK_IDLE_SECONDS, Listener, Streams
from controlplane.domain.event import Event, EventType
from controlplane.domain.ids import ExecutionId
from controlplane.postgres.listen import Hints
from controlplane.postgres.pool import Connection
from controlplane.reads import events
from controlplane.reads.events import EventView
from controlplane.stages import record
from tests.integration.api.counting import counted
from tests.integration.api.serving import DEADLINE_SECONDS, until
from tests.make import NAMESPACE, STOCK, TARGET, make_id

QUIET_SECONDS = 0.35
"""Long enough for a reader that looks again without a reason to do so more than once."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A process with one listener."""

    hints: Hints
    listener: Listener[EventView]
    said: list[str]
    held: list[bool]
    """Of each page that was read, whether it said that there is something which is not certain yet."""

    @property
    def reads(self) -> int:
        return self.said.count(events.STREAM)

    @property
    def free_reads(self) -> int:
        """Those that held nothing back: a transaction of anybody on this server makes a reader look again."""
        return self.held.count(False)

    async def hears(self) -> EventView:
        async with asyncio.timeout(DEADLINE_SECONDS):
            got = await self.listener.queue.get()
        assert got is not None
        return got[0]

    async def hears_nothing(self) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(self.listener.queue.get(), QUIET_SECONDS)


@pytest.fixture
async def reader(database: str) -> AsyncIterator[Reader]:
    """It hears hints, and has read up to now."""
    held: list[bool] = []

    async def page(conn: Connection, bucket: int, after: events.Position, /, *, limit: int) -> events.Next[EventView]:
        found = await events.stream(conn, bucket, after, limit=limit)
        held.append(found.held)
        return found

    async with counted(database) as (pool, said):
        hints = Hints(pool, database)
        streams = Streams(pool, hints, STOCK, topic="events", page=page)
        async with hints.running(), streams.listen(lambda _: True) as (listener, _):
            await until(lambda: _is(hints.hearing))
            running = asyncio.create_task(streams.run())
            one = Reader(hints, listener, said, held)
            await until(lambda: _is(one.reads > 0))
            await one.hears_nothing()
            said.clear()
            held.clear()
            yield one
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


async def _is(fact: bool) -> bool:
    return fact


async def happens(conn: Connection) -> UUID:
    """Something happens to an execution of its own."""
    id_ = ExecutionId(make_id(0))
    event = Event(execution_id=id_, namespace=NAMESPACE, run_id="r", target=TARGET, type=EventType.QUEUED, attempt=0)
    await record.append(conn, 0, [event])
    return id_


async def test_an_event_is_read_once(conn: Connection, reader: Reader) -> None:
    """Also when events are rare: one read for each, and none between them but the idle look of every two seconds."""
    began = time.monotonic()
    for _ in range(3):
        id_ = await happens(conn)
        reader.hints.wake("events")
        assert (await reader.hears()).execution_id == id_
        await reader.hears_nothing()

    assert 3 <= reader.free_reads <= 3 + (time.monotonic() - began) // LOOK_IDLE_SECONDS


async def test_what_comes_at_once_is_read_together(conn: Connection, reader: Reader) -> None:
    """A burst of hints costs what its first and its last do."""
    for _ in range(20):
        await happens(conn)
        reader.hints.wake("events")
    for _ in range(20):
        await reader.hears()

    assert reader.free_reads < 20


async def test_a_hint_that_was_lost(conn: Connection, reader: Reader) -> None:
    """Whoever should have given it died: the next look finds what happened."""
    id_ = await happens(conn)

    assert (await reader.hears()).execution_id == id_


async def test_a_late_commit_is_not_passed_over(conn: Connection, other: Connection, reader: Reader) -> None:
    """What a running transaction may still precede is held back, and told behind it, without another hint."""
    async with other.transaction():
        late = await happens(other)
        early = await happens(conn)
        reader.hints.wake("events")
        await reader.hears_nothing()
        during = reader.reads

    assert [(await reader.hears()).execution_id for _ in range(2)] == [late, early]
    assert during > 1


async def test_an_event_is_encoded_once(conn: Connection, reader: Reader) -> None:
    """However many listen, it is put into words for the first of them."""
    await happens(conn)
    reader.hints.wake("events")
    event = await reader.hears()
    before = live.encoded.cache_info().misses
    said = [live.encoded(event) for _ in range(3)]

    assert said[0] is said[1] is said[2]
    assert live.encoded.cache_info().misses == before + 1
