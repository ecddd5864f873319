"""Live events: one reader of the event table per process, and any number of listeners behind it.

A listener has a bounded buffer. One that does not keep up is closed with a hint to come back with `Last-Event-ID`,
which misses nothing: events are rows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from uuid import UUID

from controlplane.api.doors import EVENTS_TOPIC
from controlplane.domain.ids import bucket_of
from controlplane.domain.placement import Placement
from controlplane.errors import Invalid
from controlplane.postgres.listen import Hints
from controlplane.postgres.pool import Pool, persist
from controlplane.reads import events
from controlplane.reads.events import BEGINNING, EventView, Position

BUFFER_MAX = 1_000
PAGE = 500
LOOK_FIRST_SECONDS = 0.05
LOOK_CAP_SECONDS = 1.0
RETRY_SECONDS = 60.0


class Cursor(dict[int, Position]):
    """A place in the stream of every bucket; on the wire an opaque text."""

    def __str__(self) -> str:
        return "_".join(f"{bucket}.{place.xid}.{place.seq}" for bucket, place in sorted(self.items()))

    @classmethod
    def far(cls, execution_id: UUID) -> Cursor:
        """Behind everything that can ever happen to this execution."""
        return cls({bucket_of(execution_id): Position(2**63 - 1, 2**63 - 1)})

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises Invalid for anything we did not make."""
        cursor = cls()
        for part in text.split("_"):
            numbers = part.split(".")
            if len(numbers) != 3 or not all(one.isascii() and one.isdigit() and len(one) < 20 for one in numbers):
                raise Invalid("This is not a cursor of this stream.", where="Last-Event-ID")
            bucket, xid, seq = map(int, numbers)
            if xid >= 2**63 or seq >= 2**63 or bucket >= 2**15:
                raise Invalid("This is not a cursor of this stream.", where="Last-Event-ID")
            cursor[bucket] = Position(xid, seq)
        return cursor


class Listener:
    """One stream's end: a bounded queue of events with the cursor that stands after each."""

    def __init__(self, execution_id: UUID | None, namespace: int) -> None:
        self.execution_id = execution_id
        self.namespace = namespace
        # None: nothing happened, look around (the server stops).
        self.queue: asyncio.Queue[tuple[EventView, str] | None] = asyncio.Queue(BUFFER_MAX)
        self.overflown = asyncio.Event()

    def stop(self) -> None:
        with contextlib.suppress(asyncio.QueueFull):  # one that is full does not sleep
            self.queue.put_nowait(None)

    def offer(self, event: EventView, cursor: str) -> None:
        if event.namespace != self.namespace or self.execution_id not in (None, event.execution_id):
            return
        try:
            self.queue.put_nowait((event, cursor))
        except asyncio.QueueFull:
            self.overflown.set()


class Streams:
    def __init__(self, pool: Pool, hints: Hints, placement: Placement) -> None:
        self._pool = pool
        self._hints = hints
        self._placement = placement
        self._listeners: set[Listener] = set()
        self._position = Cursor()
        self._some = asyncio.Event()
        self._lock = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def listen(self, execution_id: UUID | None, namespace: int) -> AsyncGenerator[tuple[Listener, Cursor]]:
        """A listener of all that comes after the returned cursor, of one execution or of every one."""
        listener = Listener(execution_id, namespace)
        async with self._lock:  # the reader stands still while somebody joins, so that no event falls between
            if not self._listeners:
                self._position = await self.now()
            start = Cursor(self._position)
            self._listeners.add(listener)
        self._some.set()
        try:
            yield listener, start
        finally:
            self._listeners.discard(listener)

    def release(self) -> None:
        """Let every listener go: the server is shutting down."""
        for listener in self._listeners:
            listener.stop()

    async def now(self) -> Cursor:
        """The end of what has certainly happened."""
        place = await persist(self._pool, events.horizon, seconds=RETRY_SECONDS)
        return Cursor(dict.fromkeys(self._placement.all(), place))

    async def between(
        self, after: Cursor, until: Cursor, *, execution_id: UUID | None, namespace: int
    ) -> AsyncGenerator[tuple[EventView, str]]:
        """What happened between two cursors, each event with the cursor that stands after it."""
        buckets = self._placement.all() if execution_id is None else (bucket_of(execution_id),)
        place = Cursor({bucket: after.get(bucket, BEGINNING) for bucket in self._placement.all()})
        for bucket in buckets:
            while True:
                page = await self._page(bucket, place[bucket], until[bucket], execution_id)
                for event in page:
                    if event.position > until[bucket]:
                        break
                    place[bucket] = event.position
                    if event.namespace == namespace:
                        yield event, str(place)
                if len(page) < PAGE or page[-1].position >= until[bucket]:
                    break

    async def _page(self, bucket: int, after: Position, until: Position, execution_id: UUID | None) -> list[EventView]:
        if execution_id is None:
            return await persist(
                self._pool, lambda conn: events.stream(conn, bucket, after, limit=PAGE), seconds=RETRY_SECONDS
            )
        return await persist(
            self._pool,
            lambda conn: events.trace_between(conn, bucket, execution_id, after, until, limit=PAGE),
            seconds=RETRY_SECONDS,
        )

    async def run(self) -> None:
        """Read on for as long as somebody listens."""
        pause = LOOK_FIRST_SECONDS
        with self._hints.waiter(EVENTS_TOPIC) as hint:
            while True:
                if not self._listeners:
                    self._some.clear()
                    await self._some.wait()
                found = await self._read_on()
                pause = LOOK_FIRST_SECONDS if found else min(pause * 2, LOOK_CAP_SECONDS)
                if found < PAGE:
                    await asyncio.sleep(LOOK_FIRST_SECONDS)
                    await hint.wait(pause)

    async def _read_on(self) -> int:
        found = 0
        async with self._lock:
            for bucket in self._placement.all():
                after = self._position.get(bucket, BEGINNING)
                page = await self._page(bucket, after, after, None)
                for event in page:
                    self._position[bucket] = event.position
                    cursor = str(self._position)
                    for listener in self._listeners:
                        listener.offer(event, cursor)
                found += len(page)
        return found
