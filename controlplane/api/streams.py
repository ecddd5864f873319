"""Live streams: one reader of a table per process, and any number of listeners behind it.

A listener has a bounded buffer. One that does not keep up is closed with a hint to come back where it was, which misses
nothing: what is streamed are rows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from enum import Enum
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from controlplane.domain.ids import bucket_of
from controlplane.domain.placement import Placement
from controlplane.errors import DatabaseUnavailable, Invalid
from controlplane.postgres.listen import Hints
from controlplane.postgres.pool import Connection, Pool, persist
from controlplane.reads.events import BEGINNING, Next, Position, horizon

BUFFER_MAX = 1_000
PAGE = 500
LOOK_FIRST_SECONDS = 0.05
LOOK_CAP_SECONDS = 1.0
LOOK_IDLE_SECONDS = 2.0
"""How often it is looked while hints are heard and nothing is held back: a hint may be lost with who should give it."""
RETRY_SECONDS = 60.0
HEARTBEAT_SECONDS = 30.0


class Placed(Protocol):
    """Whatever has its place in the stream of its bucket."""

    @property
    def position(self) -> Position: ...


Row = TypeVar("Row", bound=Placed)
Wants = Callable[[Row], bool]


class Page(Protocol[Row]):
    """The next rows of a bucket, behind a place, in order."""

    def __call__(self, conn: Connection, bucket: int, after: Position, /, *, limit: int) -> Awaitable[Next[Row]]: ...


class Said(Enum):
    """What a follower hears besides rows: that nothing can be missed any more, and that nothing happened for long."""

    JOINED = "joined"
    QUIET = "quiet"


class Overflown(Exception):
    """The follower was too slow: what it did not hear it gets by coming back with its last cursor."""


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


class Listener(Generic[Row]):
    """One stream's end: a bounded queue of rows with the cursor that stands after each."""

    def __init__(self, wants: Wants[Row]) -> None:
        self._wants = wants
        # None: nothing happened, look around (the server stops).
        self.queue: asyncio.Queue[tuple[Row, str] | None] = asyncio.Queue(BUFFER_MAX)
        self.overflown = asyncio.Event()

    def stop(self) -> None:
        with contextlib.suppress(asyncio.QueueFull):  # one that is full does not sleep
            self.queue.put_nowait(None)

    def offer(self, row: Row, cursor: str) -> None:
        if not self._wants(row):
            return
        try:
            self.queue.put_nowait((row, cursor))
        except asyncio.QueueFull:
            self.overflown.set()

    async def next(self) -> tuple[Row, str] | None:
        try:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                return await self.queue.get()
        except TimeoutError:
            return None


class Streams(Generic[Row]):
    """`page` reads the table, at most `rows` at a time; a hint on `topic` says that there is more."""

    def __init__(
        self, pool: Pool, hints: Hints, placement: Placement, *, topic: str, page: Page[Row], rows: int = PAGE
    ) -> None:
        self._pool = pool
        self._hints = hints
        self._placement = placement
        self._topic = topic
        self._page = page
        self._rows = rows
        self._listeners: set[Listener[Row]] = set()
        self._position = Cursor()
        self._some = asyncio.Event()
        self._lock = asyncio.Lock()
        self._stopping = False

    async def follow(
        self,
        after: Cursor | None,
        *,
        wants: Wants[Row],
        page: Page[Row] | None = None,
        buckets: Iterable[int] | None = None,
    ) -> AsyncGenerator[tuple[Row | Said, str]]:
        """What was missed since `after`, then what happens, each with the cursor that stands after it.

        `page` and `buckets`: a shorter way to what was missed. Ends when the server stops. Raises Overflown.
        """
        async with self.listen(wants) as (listener, start):
            # Said once nothing can be missed any more, and with a cursor: who is cut off now misses nothing either.
            yield Said.JOINED, str(start if after is None else after)
            if after is not None:
                missed = self.between(after, start, wants=wants, page=page, buckets=buckets)
                async with contextlib.aclosing(missed):
                    async for row, cursor in missed:
                        yield row, cursor
            while not self._stopping:
                if listener.overflown.is_set():
                    raise Overflown
                got = await listener.next()
                if self._stopping:
                    return
                if got is None and not listener.queue.empty():
                    continue  # something came in the very moment that it was given up
                yield (Said.QUIET, str(self._position)) if got is None else got

    @contextlib.asynccontextmanager
    async def listen(self, wants: Wants[Row]) -> AsyncGenerator[tuple[Listener[Row], Cursor]]:
        """A listener of all that it wants of what comes after the returned cursor."""
        listener = Listener(wants)
        async with self._lock:  # the reader stands still while somebody joins, so that no row falls between
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
        self._stopping = True
        for listener in self._listeners:
            listener.stop()

    async def between(
        self,
        after: Cursor,
        until: Cursor,
        *,
        wants: Wants[Row],
        page: Page[Row] | None = None,
        buckets: Iterable[int] | None = None,
    ) -> AsyncGenerator[tuple[Row, str]]:
        """What happened between two cursors, each row with the cursor that stands after it."""
        place = Cursor({bucket: after.get(bucket, BEGINNING) for bucket in self._placement.all()})
        for bucket in self._placement.all() if buckets is None else buckets:
            while True:
                found, _ = await self._read(page or self._page, bucket, place[bucket])
                for row in found:
                    if row.position > until[bucket]:
                        break
                    place[bucket] = row.position
                    if wants(row):
                        yield row, str(place)
                if len(found) < self._rows or found[-1].position >= until[bucket]:
                    break

    async def run(self) -> None:
        """Read on for as long as somebody listens: once for all that a hint tells of.

        Again soon, and less and less often, only for what a transaction still running holds back, and where no hints
        are heard.
        """
        pause, held = LOOK_FIRST_SECONDS, False
        with self._hints.waiter(self._topic) as hint:
            while True:
                if not self._listeners:
                    self._some.clear()
                    await self._some.wait()
                found, before = 0, held
                with contextlib.suppress(DatabaseUnavailable):  # said by `persist`; who listens goes on waiting
                    found, held = await self._read_on()
                pause = LOOK_FIRST_SECONDS if found or held > before else min(pause * 2, LOOK_CAP_SECONDS)
                if found < self._rows:
                    await asyncio.sleep(LOOK_FIRST_SECONDS)
                    await hint.wait(pause if held or not self._hints.hearing else LOOK_IDLE_SECONDS)

    async def now(self) -> Cursor:
        """The end of what has certainly happened."""
        place = await persist(self._pool, horizon, seconds=RETRY_SECONDS)
        return Cursor(dict.fromkeys(self._placement.all(), place))

    async def _read_on(self) -> tuple[int, bool]:
        """How many rows there were, and whether more are held back."""
        found, held = 0, False
        async with self._lock:
            for bucket in self._placement.all():
                rows, more = await self._read(self._page, bucket, self._position.get(bucket, BEGINNING))
                held |= more
                for row in rows:
                    self._position[bucket] = row.position
                    cursor = str(self._position)
                    for listener in self._listeners:
                        listener.offer(row, cursor)
                found += len(rows)
        return found, held

    async def _read(self, page: Page[Row], bucket: int, after: Position) -> Next[Row]:
        return await persist(
            self._pool, lambda conn: page(conn, bucket, after, limit=self._rows), seconds=RETRY_SECONDS
        )
