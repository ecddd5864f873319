"""Upkeep: who waits in a long heartbeat and holds nothing is renewed here, all that are due by one statement.

Of 140 requests a second of a thousand nodes without work a hundred were beats that said nothing new. What a beat would
have found ends this: the process holds something now, shall drain, its session is closed, or nobody is at the other end
of the connection any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Iterator
from functools import partial
from uuid import UUID

from starlette.requests import Request

from controlplane.api.connection import has_left
from controlplane.domain.ids import SessionId
from controlplane.domain.lease import Session
from controlplane.domain.placement import Placement
from controlplane.errors import Unavailable
from controlplane.postgres.listen import SESSION, Hints, Waiter
from controlplane.postgres.pool import Pool, persist
from controlplane.stages import renew

IDLE_WAIT_SECONDS = 20.0
"""For so long a process that holds nothing may ask to be held. Some proxies give up an answer after 30 s; and where a
server vanishes without a word it is the end of this wait, and a margin, that makes the process speak to another one
before its lease of 30 s is over."""
EARLY = 0.1
"""This part of a heartbeat before it must be: those that are due at about the same time are renewed together."""
PATIENCE_SECONDS = 2.0
"""How long the database may be out of reach until they are left to speak for themselves."""
LATELY_MAX = 10_000


class Kept:
    """A heartbeat that is held. `over`: from here on its process has to speak for itself."""

    __slots__ = ("hint", "over", "renewed_at", "request", "session")

    def __init__(self, session: Session, request: Request, hint: Waiter, *, renewed_at: float) -> None:
        self.session = session
        self.request = request
        self.hint = hint
        self.over = False
        self.renewed_at = renewed_at

    @property
    def due_at(self) -> float:
        return self.renewed_at + self.session.heartbeat_seconds

    @property
    def soon_at(self) -> float:
        """From when on it is renewed along with those that must be."""
        return self.due_at - EARLY * self.session.heartbeat_seconds


class Upkeep:
    """Renews the sessions of the heartbeats that this process holds for longer than a heartbeat."""

    def __init__(self, pool: Pool, hints: Hints, placement: Placement) -> None:
        self._pool = pool
        self._hints = hints
        self._placement = placement
        self._kept: dict[SessionId, Kept] = {}
        self._lately: dict[SessionId, tuple[float, float, int]] = {}
        """When it was renewed, until when it need not be again, and what had been said of sessions by then."""
        self._sleeps_until = float("-inf")
        self._sooner = asyncio.Event()

    def __len__(self) -> int:
        return len(self._kept)

    @contextlib.contextmanager
    def keeping(self, session: Session, request: Request, hint: Waiter, *, renewed_at: float) -> Iterator[Kept]:
        """While this is open the session is renewed every heartbeat; `hint` wakes when that is over.

        `renewed_at`: when it was renewed last, by `time.monotonic`.
        """
        kept = Kept(session, request, hint, renewed_at=renewed_at)
        if (before := self._kept.get(session.id)) is not None:  # whoever asks anew hears no answer to that one
            self._end(before)
        self._kept[session.id] = kept
        if kept.due_at < self._sleeps_until:
            self._sooner.set()
        try:
            yield kept
        finally:
            self._forget(kept)
            if not kept.over:
                if len(self._lately) >= LATELY_MAX:
                    self._lately.clear()
                self._lately[session.id] = kept.renewed_at, kept.soon_at, self._hints.said(SESSION)

    def keeps(self, session_id: SessionId) -> bool:
        """Whether this session was open, and not to drain, a heartbeat ago, and will be looked at by then again."""
        return session_id in self._kept

    def renewed_at(self, session: Session) -> float | None:
        """When it was renewed here last, if it need not be again: its beat has only come to the end of its time.

        Said once. Nothing if there was news of any session since: it may be closed, or shall drain.
        """
        renewed_at, soon_at, said = self._lately.pop(session.id, (0.0, float("-inf"), 0))
        if said != self._hints.said(SESSION) or soon_at <= time.monotonic():
            return None
        return renewed_at

    async def watch(self) -> None:
        while True:
            self._sooner.clear()
            self._sleeps_until = min((kept.due_at for kept in self._kept.values()), default=math.inf)
            seconds = self._sleeps_until - time.monotonic()
            if seconds > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if math.isinf(seconds) else seconds):
                        await self._sooner.wait()
            else:
                await self.tick()

    async def tick(self) -> int:
        """Renew those that are due. Says how many that were."""
        now = time.monotonic()
        due: list[Kept] = []
        for kept in [one for one in self._kept.values() if one.soon_at <= now]:
            if has_left(kept.request):
                self._end(kept)
            else:
                due.append(kept)
        if not due:
            return 0
        ids = [kept.session.id for kept in due]
        renewed: frozenset[UUID] = frozenset()
        with contextlib.suppress(Unavailable):  # said by the pool; whoever speaks for itself is told so, too
            look = partial(renew.keep, ids=ids, placement=self._placement)
            renewed = await persist(self._pool, look, seconds=PATIENCE_SECONDS)
        for kept in due:
            if kept.session.id in renewed:
                kept.renewed_at = now
            else:
                self._end(kept)
        return len(due)

    def _end(self, kept: Kept) -> None:
        kept.over = True
        kept.hint.wake()
        self._forget(kept)

    def _forget(self, kept: Kept) -> None:
        if self._kept.get(kept.session.id) is kept:
            del self._kept[kept.session.id]
