"""Reaper: frees what dead processes hold, ends what ran out of time, wakes what was delayed.

What nobody waits for any more is stopped. What nobody decided in time counts as decided, too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from uuid import UUID

from controlplane.domain.placement import Placement
from controlplane.postgres.pool import PASSING, STATEMENT_SECONDS, Pool
from controlplane.stages import approve, deliver, expire, follow
from controlplane.stages.expire import Stopped, Swept
from controlplane.stages.finish import MakeId

FORGET_AFTER_SECONDS = STATEMENT_SECONDS + 60.0
STOOD_STILL_SECONDS = 5.0
"""A pause between two passes after which this process counts as having been away: stopped, or without a processor."""
WHOLE_SECONDS = 5.0
"""How often every session that holds work is looked at, whatever became of it; in between only those that are closed.
So late at most comes back what no closed session accounts for: a claim of a server that was stopped, which commits when
its session is long forgotten. With 1,000 sessions the whole look takes 3,000 buffers, and it steps over every lease
that ended under a held snapshot.
"""


class Reaper:
    """`ready` and `ended` are told what a pass made ready and what it ended, `due` that callbacks are to be sent.

    `stopped` is told of attempts that have run out of time, whose processes do not know it yet, `cancelling` that
    there are attempts to be stopped, `blocked` that some work has to be let in.
    """

    def __init__(
        self,
        pool: Pool,
        placement: Placement,
        *,
        make_id: MakeId,
        cancel_grace_seconds: float,
        ready: Callable[[int, str], None],
        ended: Callable[[Sequence[UUID]], None],
        due: Callable[[], None],
        stopped: Callable[[Sequence[Stopped]], None],
        cancelling: Callable[[], None],
        jitter: Callable[[], float],
        blocked: Callable[[], None],
        whole_seconds: float = WHOLE_SECONDS,
        still_seconds: float = STOOD_STILL_SECONDS,
    ) -> None:
        self._pool = pool
        self._placement = placement
        self._make_id = make_id
        self._cancel_grace_seconds = cancel_grace_seconds
        self._ready = ready
        self._ended = ended
        self._due = due
        self._stopped = stopped
        self._cancelling = cancelling
        self._jitter = jitter
        self._blocked = blocked
        self._whole_seconds = whole_seconds
        self._still_seconds = still_seconds
        self._up_since: float | None = None
        self._ticked_at = math.inf
        self._whole_at = 0.0

    async def tick(self) -> int:
        """One bounded pass over every bucket. Says how many rows moved."""
        if time.monotonic() - self._ticked_at > self._still_seconds:  # nobody could renew here meanwhile
            self._up_since = None
        try:
            return await self._pass()
        except PASSING:
            self._up_since = None  # nobody could renew while the database was away: begin to count again
            self._whole_at = 0.0
            raise
        finally:
            self._ticked_at = time.monotonic()

    async def _pass(self) -> int:
        moved = orphans = 0
        whole = time.monotonic() >= self._whole_at
        closed: dict[UUID | None, str] = {}
        async with self._pool.acquire() as conn:
            if self._up_since is None:
                self._up_since = time.monotonic()
            up_seconds = time.monotonic() - self._up_since
            for bucket in self._placement.all():
                moved += await expire.close_expired(conn, bucket, up_seconds=up_seconds)
                if not whole:
                    closed.update(await expire.closed_sessions(conn, bucket))
        for bucket in self._placement.all():
            async with self._pool.acquire() as conn:
                passes = [
                    await expire.sweep(conn, bucket, make_id=self._make_id, closed=None if whole else closed),
                    await expire.time_out(conn, bucket, make_id=self._make_id, jitter=self._jitter),
                    await expire.force_cancel(
                        conn, bucket, grace_seconds=self._cancel_grace_seconds, make_id=self._make_id
                    ),
                    await expire.promote(conn, bucket),
                ]
                decided = await approve.expire_due(conn, bucket, make_id=self._make_id)
                if whole:  # a look at every session that there is
                    await expire.forget_sessions(conn, bucket, after_seconds=FORGET_AFTER_SECONDS)
                moved += await deliver.reclaim(conn, bucket)
                followed = await follow.sweep(conn, bucket, make_id=self._make_id)
            orphans += passes[0].rows
            moved += decided + sum(self._tell(one) for one in passes)
            moved += followed.rows
            self._ended(followed.ended)
            if followed.cancelling:
                self._cancelling()
            if decided:
                self._due()
        if whole and not orphans:  # else there may be more of them than one pass frees, and their session is forgotten
            self._whole_at = time.monotonic() + self._whole_seconds
        return moved

    def _tell(self, swept: Swept) -> int:
        for namespace, target in swept.ready:
            self._ready(namespace, target)
        self._ended(swept.ended)
        self._stopped(swept.stopped)
        if swept.blocked:
            self._blocked()
        return swept.rows
