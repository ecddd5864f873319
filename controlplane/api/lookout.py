"""Two looks that stand between hints, one for all long polls of this process: who has work, who shall stop."""

from __future__ import annotations

import asyncio
import time
from functools import lru_cache, partial
from uuid import UUID

from controlplane.api.doors import CANCEL_TOPIC
from controlplane.domain import topic
from controlplane.domain.placement import Placement, by_place
from controlplane.domain.target import parse
from controlplane.postgres.listen import OF, QUEUE, SESSION, Hints
from controlplane.postgres.pool import Pool, persist
from controlplane.reads import nodes, pauses
from controlplane.reads.nodes import Cancelling

LOOK_FIRST_SECONDS = 0.05
LOOK_CAP_SECONDS = 1.0
RETRY_SECONDS = 60.0
TOPICS_KEPT = 20_000
"""Read once and not every second: those of ten thousand processes that wait."""


class Lookout:
    def __init__(self, pool: Pool, hints: Hints, placement: Placement) -> None:
        self._pool = pool
        self._hints = hints
        self._placement = placement
        self._cancelling: dict[UUID, list[Cancelling]] = {}
        self._cancelling_at = float("-inf")

    async def cancelling(self, session_id: UUID) -> list[Cancelling]:
        """What this session shall stop, at most a second old."""
        if time.monotonic() - self._cancelling_at > LOOK_CAP_SECONDS:
            await self._look_for_cancels()
        return self._cancelling.get(session_id, [])

    async def watch_work(self) -> None:
        """Wake one node for each target that has work and is waited for. Adapts between 50 ms and a second."""
        pause = LOOK_FIRST_SECONDS
        while True:
            wanted = [one for waited in self._hints.waiters if (one := _target(waited)) is not None]
            found: list[tuple[int, str]] = []
            if wanted:
                for bucket in self._placement.all():
                    found += await persist(
                        self._pool,
                        partial(nodes.ready_targets, bucket=bucket, wanted=wanted),
                        seconds=RETRY_SECONDS,
                    )
            # Of what is paused nobody is handed anything: to wake one for it again and again would only be noise.
            for namespace, target in await self._unpaused(found):
                self._hints.wake(topic.queue(namespace, target), most=1)
            pause = LOOK_FIRST_SECONDS if found else min(pause * 2, LOOK_CAP_SECONDS)
            await asyncio.sleep(pause)

    async def _unpaused(self, found: list[tuple[int, str]]) -> list[tuple[int, str]]:
        asked = [(namespace, parse(target).node_id, target) for namespace, target in found]
        held: set[tuple[int, str]] = set()
        for bucket, part in by_place(asked, lambda one: self._placement.of_key(one[0], one[1])):
            look = partial(pauses.held_back, bucket=bucket, wanted=part)
            held |= await persist(self._pool, look, seconds=RETRY_SECONDS)
        return [one for one in found if one not in held]

    async def watch_cancels(self) -> None:
        """Wake the heartbeats of sessions that hold something cancelled."""
        with self._hints.waiter(CANCEL_TOPIC) as hint:
            while True:
                if any(waited.startswith(SESSION + OF) for waited in self._hints.waiters):
                    await self._look_for_cancels()
                    for session_id in self._cancelling:
                        self._hints.wake(topic.session(session_id))
                await hint.wait(LOOK_CAP_SECONDS)

    async def _look_for_cancels(self) -> None:
        found: dict[UUID, list[Cancelling]] = {}
        for bucket in self._placement.all():
            rows = await persist(self._pool, partial(nodes.cancelling, bucket=bucket), seconds=RETRY_SECONDS)
            for one in rows:
                found.setdefault(one.session_id, []).append(one)
        self._cancelling = found
        self._cancelling_at = time.monotonic()


@lru_cache(TOPICS_KEPT)
def _target(waited: str) -> tuple[int, str] | None:
    """The namespace and the target whose work is waited for under this topic."""
    if not waited.startswith(QUEUE + OF):
        return None
    _, namespace, target = waited.split(OF, 2)
    return int(namespace), target
