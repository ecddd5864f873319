"""Announcer: plans the deliveries of what has happened, for everybody who subscribes to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from uuid import UUID

from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Pool
from controlplane.stages import announce

RELEASE_SECONDS = 1.0
"""How often it looks for what was parked for endpoints that are enabled again."""


class Announcer:
    """`planned` is called when there is something to deliver.

    Every event hints at it, and thousands may come in a second: `spacing_seconds` lies before every pass, and
    `idle_seconds` while nobody listens.
    """

    def __init__(
        self,
        pool: Pool,
        placement: Placement,
        *,
        make_id: Callable[[int], UUID],
        public_url: str,
        planned: Callable[[], None],
        spacing_seconds: float = 0.0,
        idle_seconds: float = 0.0,
    ) -> None:
        self._pool = pool
        self._placement = placement
        self._make_id = make_id
        self._public_url = public_url
        self._planned = planned
        self._spacing_seconds = spacing_seconds
        self._idle_seconds = idle_seconds
        self._heard = False
        self._release_at = time.monotonic()

    async def begin(self) -> None:
        """Before anything is taken: what happens from here on can be heard."""
        async with self._pool.acquire() as conn:
            horizon = await announce.horizon(conn)
            endpoints = await announce.listeners(conn, self._placement.all())
            for bucket in self._placement.all():
                await announce.begin(conn, bucket, endpoints, horizon=horizon)

    async def tick(self) -> int:
        """One bounded pass over every bucket. Says how many events and parked deliveries it dealt with."""
        await asyncio.sleep(self._spacing_seconds if self._heard else self._idle_seconds)
        did = planned = 0
        releases = time.monotonic() >= self._release_at
        async with self._pool.acquire() as conn:
            horizon = await announce.horizon(conn)
            endpoints = await announce.listeners(conn, self._placement.all())
            for bucket in self._placement.all():
                one = await announce.announce(
                    conn,
                    bucket,
                    endpoints,
                    horizon=horizon,
                    make_id=self._make_id,
                    public_url=self._public_url,
                )
                did += one.events
                planned += one.planned
                if releases:
                    released = await announce.release(conn, bucket)
                    did += released
                    planned += released
        self._heard = bool(endpoints) or did > 0
        if releases:
            self._release_at = time.monotonic() + RELEASE_SECONDS
        if planned:
            self._planned()
        return did
