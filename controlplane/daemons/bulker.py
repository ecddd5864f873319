"""Bulker: does the next batch of every bulk that is not over, and tells those whom it concerns.

Every replica runs one; a batch is done once all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from uuid import UUID

from controlplane.domain.ids import show
from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Pool
from controlplane.stages import bulk
from controlplane.stages.bulk import Advanced, Find, MakeId, ReadAsked

log = logging.getLogger(__name__)


class Bulker:
    """`find` and `read_asked` say what is meant and what was asked. The others are told what a batch has brought."""

    def __init__(
        self,
        pool: Pool,
        placement: Placement,
        *,
        find: Find,
        read_asked: ReadAsked,
        make_id: MakeId,
        ready: Callable[[int, str, int], None],
        ended: Callable[[Sequence[UUID]], None],
        cancelling: Callable[[], None],
        due: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._placement = placement
        self._find = find
        self._read_asked = read_asked
        self._make_id = make_id
        self._ready = ready
        self._ended = ended
        self._cancelling = cancelling
        self._due = due

    async def tick(self) -> int:
        """One batch in every bucket. Says how many there were to do; one that waits for room goes on later."""
        did = 0
        for bucket in self._placement.all():
            async with self._pool.acquire() as conn:
                advanced = await bulk.advance(
                    conn, bucket, find=self._find, read_asked=self._read_asked, make_id=self._make_id
                )
            if advanced is not None:
                did += not advanced.waits
                self._tell(bucket, advanced)
        return did

    def _tell(self, bucket: int, did: Advanced) -> None:
        log.info(
            "bulk.over" if did.over else "bulk.advanced",
            extra={
                "bulk_id": show("bulk", did.id),
                "bucket": bucket,
                "action": did.action.value,
                "done": did.tally.done,
                "skipped": did.tally.skipped.total(),
                "failed": did.tally.failed.total(),
            },
        )
        for target, rows in did.ready.items():
            self._ready(did.namespace, target, rows)
        self._ended(did.ended)
        if did.cancelling:
            self._cancelling()
        if did.due:
            self._due()
