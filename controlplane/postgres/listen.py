"""Waking up: hints inside this process at once, and to the other replicas by a coalesced NOTIFY.

A hint is never the truth. Everybody who waits for one also polls; with NOTIFY off everything works, a little later.
NOTIFY takes a lock of the whole database at commit, so it is sent outside of business transactions and at most once per
process and 20 ms (a NOTIFY in each inserting transaction brought 12-18 k inserts/s down to 4 k). Replicas say every few
seconds that they are there; who has heard of no other for a while is alone and sends nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from types import TracebackType

import asyncpg

from controlplane.postgres.pool import PASSING, Pool

log = logging.getLogger(__name__)

CHANNEL = "controlplane"
# Heard when it is committed, flushed or not: with a flush of its own the claim that it leads to waits for two.
NOTIFY = "select set_config('synchronous_commit', 'off', true), pg_notify($1, $2)"
NOTIFY_EVERY_SECONDS = 0.02
PAYLOAD_MAX = 7_900
EVERYTHING = "*"
PRESENT = "present"
"""What a replica tells that has nothing else to say."""
SEPARATOR = "\n"
OF = ":"
"""Stands between the kind of a topic and what it is about."""
QUEUE = "queue"
"""The kind of hints that there is work: one of them wakes one process."""
SESSION = "session"
"""The kind of hints that something of a session has changed."""
PRESENT_SECONDS = 3.0
GONE_SECONDS = 10.0
RECONNECT_SECONDS = 0.5


class Waiter:
    """Somebody who wants to hear about some topics. Made before the first look, so that no hint falls between."""

    def __init__(self, hints: Hints, topics: tuple[str, ...]) -> None:
        self._hints = hints
        self._topics = topics
        self._event = asyncio.Event()

    @property
    def woken(self) -> bool:
        return self._event.is_set()

    def wake(self) -> None:
        self._event.set()

    async def wait(self, seconds: float) -> bool:
        """True when woken, False when the time is over. Clears the hint."""
        if not self._event.is_set() and seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._event.wait()
        woken = self._event.is_set()
        self._event.clear()
        return woken

    def __enter__(self) -> Waiter:
        for topic in self._topics:
            self._hints.waiters.setdefault(topic, {})[self] = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for topic in self._topics:
            waiters = self._hints.waiters.get(topic, {})
            waiters.pop(self, None)
            if not waiters:
                self._hints.waiters.pop(topic, None)


class Hints:
    """The bulletin board of one process, joined to those of the other replicas by one LISTEN connection.

    `dsn`: where it listens; None where nothing can be heard, behind a transaction pooler. It tells others all the same.
    `present_seconds`: how often it says that it is there; `gone_seconds`: after which silence it counts as gone.
    """

    def __init__(
        self,
        pool: Pool,
        dsn: str | None,
        *,
        notify: bool = True,
        present_seconds: float = PRESENT_SECONDS,
        gone_seconds: float = GONE_SECONDS,
    ) -> None:
        self.waiters: dict[str, dict[Waiter, None]] = {}
        self._pool = pool
        self._dsn = dsn
        self._notify = notify
        self._origin = secrets.token_hex(4)
        self._unsent: set[str] = set()
        self.hearing = False
        """Whether other replicas' hints come in; this one's own do in any case."""
        self._present_seconds = present_seconds
        self._gone_seconds = gone_seconds
        self._said: Counter[str] = Counter()
        self._others: dict[str, float] = {}
        """When each of the other replicas was heard last."""
        self._listens_since = time.monotonic()
        self._pending = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def waiter(self, *topics: str) -> Waiter:
        return Waiter(self, topics)

    def tell(self, topic: str, *, most: int | None = None) -> None:
        """Wake those who wait here (at most `most` of them, in turn) and let the other replicas know."""
        self.wake(topic, most=most)
        if self._notify and not self.alone:
            self._send_soon(topic)

    @property
    def alone(self) -> bool:
        """Whether there is no other replica to tell. Not known before one would have been heard."""
        since = time.monotonic() - self._gone_seconds
        return self.hearing and self._listens_since < since and all(at < since for at in self._others.values())

    def wake(self, topic: str, *, most: int | None = None) -> None:
        """Wake those who wait in this process. A woken one goes to the end of the line."""
        self._said[topic.partition(OF)[0]] += 1
        waiters = self.waiters.get(topic)
        if not waiters:
            return
        if most is None:
            for waiter in waiters:
                waiter.wake()
            return
        for waiter in [waiter for waiter in waiters if not waiter.woken][:most]:
            waiter.wake()
            del waiters[waiter]
            waiters[waiter] = None

    def said(self, kind: str) -> int:
        """A number that grows with every hint of this kind: who has looked at one need not look again at the same."""
        return self._said[kind] + self._said[EVERYTHING]

    def wake_all(self) -> None:
        self._said[EVERYTHING] += 1
        for topic in list(self.waiters):
            self.wake(topic)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        if self._notify:
            self._tasks = [asyncio.create_task(self._send(), name="hints.send")]
            if self._dsn is not None:
                self._tasks.append(asyncio.create_task(self._listen(self._dsn), name="hints.listen"))
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _send_soon(self, topic: str) -> None:
        self._unsent.add(topic)
        self._pending.set()

    async def _send(self) -> None:
        while True:
            await self._pending.wait()
            self._pending.clear()
            topics, self._unsent = self._unsent, set()
            payload = SEPARATOR.join((self._origin, *topics))
            if len(payload.encode()) > PAYLOAD_MAX:
                payload = SEPARATOR.join((self._origin, EVERYTHING))
            with contextlib.suppress(asyncpg.PostgresError, *PASSING):  # a hint that is lost costs one poll
                async with self._pool.acquire() as conn:
                    await conn.execute(NOTIFY, CHANNEL, payload)
            await asyncio.sleep(NOTIFY_EVERY_SECONDS)

    async def _listen(self, dsn: str) -> None:
        """Keep one connection listening; after every reconnect wake everybody, hints may have been missed."""
        said = False
        while True:
            try:
                conn = await asyncpg.connect(dsn, timeout=5, command_timeout=3)
                try:
                    await conn.add_listener(CHANNEL, self._heard)
                    self._listens_since = time.monotonic()
                    self.hearing = True
                    self.wake_all()
                    said = False
                    while not conn.is_closed():
                        # On this connection: it also notices a half-open one, which would stay silent for ever.
                        await conn.execute(NOTIFY, CHANNEL, SEPARATOR.join((self._origin, PRESENT)))
                        self._forget()
                        await asyncio.sleep(self._present_seconds)
                finally:
                    self.hearing = False
                    conn.terminate()
            except (asyncpg.PostgresError, *PASSING) as error:
                if not said:
                    log.warning("listen.lost", extra={"error": str(error)})
                    said = True
            await asyncio.sleep(RECONNECT_SECONDS)

    def _heard(self, _conn: object, _pid: int, _channel: str, payload: object) -> None:
        origin, *topics = str(payload).split(SEPARATOR)
        if origin == self._origin:  # we have woken our own already
            return
        if origin not in self._others:  # it may not know of us either
            self._send_soon(PRESENT)
        self._others[origin] = time.monotonic()
        if EVERYTHING in topics:
            self.wake_all()
        for topic in topics:
            self.wake(topic, most=1 if topic.startswith(QUEUE + OF) else None)

    def _forget(self) -> None:
        since = time.monotonic() - self._gone_seconds
        self._others = {origin: at for origin, at in self._others.items() if at >= since}
