"""What has ended lately in each namespace: a copy that is some seconds old, read again when somebody looks."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial

from controlplane.domain.lately import Lately
from controlplane.domain.placement import Placement
from controlplane.errors import ControlPlaneError
from controlplane.postgres.pool import Pool, persist
from controlplane.reads import lately

FRESH_SECONDS = 10.0
PATIENCE_SECONDS = 2.0
"""How long a page waits for figures; without them it is a page all the same."""
READ_RETRY_SECONDS = 5.0
NAMESPACES_MAX = 256
"""Copies that are kept at once; the one that was asked for first goes first."""


@dataclass(slots=True)
class Kept:
    """The last copy of a namespace, and the read that makes the next."""

    copy: Lately | None = None
    read_at: float = field(default=float("-inf"))
    reading: asyncio.Task[None] | None = None


class LatelyKept:
    """All pages of a namespace share one read, however many look and however often they refresh."""

    def __init__(self, pool: Pool, placement: Placement) -> None:
        self._pool = pool
        self._placement = placement
        self._kept: dict[int, Kept] = {}

    async def of(self, namespace: int) -> Lately | None:
        """The figures, an older copy where the database is slow; None where there is none yet."""
        kept = self._kept.setdefault(namespace, Kept())
        if len(self._kept) > NAMESPACES_MAX:
            self._kept.pop(next(iter(self._kept)))
        if kept.reading is None and time.monotonic() - kept.read_at > FRESH_SECONDS:
            kept.reading = asyncio.create_task(self._read(namespace, kept), name="lately.read")
        if kept.reading is not None:
            await asyncio.wait({kept.reading}, timeout=PATIENCE_SECONDS)
        return kept.copy

    async def _read(self, namespace: int, kept: Kept) -> None:
        try:
            read = partial(lately.read, namespace=namespace, buckets=self._placement.all())
            kept.copy = await persist(self._pool, read, seconds=READ_RETRY_SECONDS)
            kept.read_at = time.monotonic()
        except ControlPlaneError:
            return  # whoever looks is told by the rest of the page, which asks the same database
        finally:
            kept.reading = None
