"""Scheduler: fires schedules that are due, and lets waiting ticks go on.

Every replica runs one; a tick happens once all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from uuid import UUID

from controlplane.domain.ids import show, show_execution
from controlplane.domain.placement import Placement
from controlplane.domain.schedule import Served
from controlplane.postgres.pool import Pool
from controlplane.stages import schedule
from controlplane.stages.schedule import Fired, MakeId

log = logging.getLogger(__name__)


class Scheduler:
    """`serves` says what a target is, `full` whether a namespace has no room.

    `ready`, `ended` and `cancelling` are told what a pass has brought about.
    """

    def __init__(
        self,
        pool: Pool,
        placement: Placement,
        *,
        make_id: MakeId,
        serves: Callable[[int, str], Awaitable[Served]],
        ready: Callable[[int, str], None],
        ended: Callable[[Sequence[UUID]], None],
        cancelling: Callable[[], None],
        full: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self._pool = pool
        self._placement = placement
        self._make_id = make_id
        self._serves = serves
        self._ready = ready
        self._ended = ended
        self._cancelling = cancelling
        self._full = full

    async def tick(self) -> int:
        """One bounded pass over every bucket. Says how many schedules there was something to do for."""
        return sum([await self._pass(bucket) for bucket in self._placement.all()])

    async def _pass(self, bucket: int) -> int:
        async with self._pool.acquire() as conn:
            wanted = await schedule.wanted(conn, bucket)
        if not wanted:
            return 0
        serves = {key: await self._serves(*key) for key in wanted}  # without the connection: it may take one itself
        full = {namespace for namespace in {space for space, _ in serves} if self._full(namespace)}
        room = {key: served for key, served in serves.items() if key[0] not in full}
        async with self._pool.acquire() as conn:
            passes = [
                await schedule.advance(conn, bucket, serves=room, make_id=self._make_id),
                await schedule.fire(conn, bucket, serves=serves, make_id=self._make_id, full=full),
            ]
        self._tell(passes)
        return sum(one.looked_at for one in passes)

    def _tell(self, passes: Iterable[Fired]) -> None:
        for fired in passes:
            for one in fired.started:
                log.info(
                    "schedule.submitted",
                    extra={
                        "schedule": one.schedule.name,
                        "schedule_id": show("sch", one.schedule.id),
                        "execution_id": show_execution(one.execution_id),
                        "planned_at": one.planned_at.isoformat(),
                    },
                )
                self._ready(one.schedule.namespace, one.schedule.definition.target)
            for broken, why in fired.broken:
                log.warning("schedule.unreadable", extra={"schedule": broken.name, "error": why})
            self._ended(fired.ended)
            if fired.cancelling:
                self._cancelling()
