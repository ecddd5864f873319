"""Waiting for an end without holding a connection: one look for everybody who waits in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from uuid import UUID

from controlplane.api.doors import ENDED_TOPIC
from controlplane.domain.execution import Conclusion
from controlplane.postgres.listen import Hints
from controlplane.postgres.pool import Pool, persist
from controlplane.reads import executions

LOOK_FIRST_SECONDS = 0.05
LOOK_CAP_SECONDS = 0.5
RETRY_SECONDS = 60.0


class Waiting:
    """An end in this process wakes its waiters at once; an end elsewhere is seen by the next look."""

    def __init__(self, pool: Pool, hints: Hints) -> None:
        self._pool = pool
        self._hints = hints
        self._waiters: dict[UUID, set[asyncio.Future[Conclusion | None]]] = {}
        self._some = asyncio.Event()
        self._seen: set[UUID] = set()

    def tell(self, ended: Mapping[UUID, Conclusion | None]) -> None:
        """These executions have ended; how, where that is known."""
        for id_, end in ended.items():
            for future in self._waiters.pop(id_, ()):
                _wake(future, end)

    def release(self) -> None:
        """Let everybody go: the server is shutting down."""
        self.tell(dict.fromkeys(self._waiters))

    @contextlib.contextmanager
    def watch(self, id_: UUID) -> Iterator[Callable[[float], Awaitable[Conclusion | None]]]:
        """Listen before looking, so that no end falls between.

        The wait returns at an end or when time is over; how it ended, where that was told.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Conclusion | None] = loop.create_future()
        self._waiters.setdefault(id_, set()).add(future)
        self._some.set()

        async def wait(seconds: float) -> Conclusion | None:
            over = loop.call_later(seconds, _wake, future)
            try:
                return await future
            finally:
                over.cancel()

        try:
            yield wait
        finally:
            future.cancel()
            left = self._waiters.get(id_)
            if left is not None:
                left.discard(future)
                if not left:
                    del self._waiters[id_]

    async def run(self) -> None:
        """Look for ends that other replicas wrote, for as long as somebody waits."""
        pause = LOOK_FIRST_SECONDS
        with self._hints.waiter(ENDED_TOPIC) as hint:
            while True:
                if not self._waiters:
                    self._some.clear()
                    await self._some.wait()
                    pause = LOOK_FIRST_SECONDS
                # Who begins to wait has just looked, or has no need to; many ends are here before it is time to look.
                ids = [id_ for id_ in self._waiters if id_ in self._seen]
                looks_soon = len(ids) < len(self._waiters)
                self._seen = set(self._waiters)
                if ids:
                    look = partial(executions.finished, ids=ids)
                    ended = await persist(self._pool, look, seconds=RETRY_SECONDS)
                    self.tell(dict.fromkeys(ended))
                    looks_soon = looks_soon or bool(ended)
                pause = LOOK_FIRST_SECONDS if looks_soon else min(pause * 2, LOOK_CAP_SECONDS)
                await asyncio.sleep(LOOK_FIRST_SECONDS)
                await hint.wait(pause)


def _wake(future: asyncio.Future[Conclusion | None], end: Conclusion | None = None) -> None:
    if not future.done():
        future.set_result(end)
