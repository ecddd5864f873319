"""Admitter: lets in what limits hold back, as soon as there is room.

Every replica runs one. A hint wakes it when something has ended or begins to wait; its own interval heals a lost hint,
and finds the moment when a rate has room again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Pool
from controlplane.stages import admit


class Admission(Protocol):
    waits: bool


class Admitter:
    """`ready` is told the targets that have work, and how much; `admission.waits` whether anybody stands in a line."""

    def __init__(
        self, pool: Pool, placement: Placement, *, ready: Callable[[int, str, int], None], admission: Admission
    ) -> None:
        self._pool = pool
        self._placement = placement
        self._ready = ready
        self._after: dict[int, tuple[int, str]] = {}
        self._admission = admission
        self._first = 0
        self._turns: dict[admit.Line, str] = {}

    async def tick(self) -> int:
        """One bounded pass over every bucket. Says how many rows it moved or looked through."""
        did, waits = 0, False
        turns: dict[admit.Line, str] = {}
        buckets = self._placement.all()
        self._first = (self._first + 1) % len(buckets)  # else the lowest would always find the room first
        for bucket in (*buckets[self._first :], *buckets[: self._first]):
            async with self._pool.acquire() as conn:
                did += await admit.adopt(conn, bucket, self._placement)
                after = self._after.get(bucket, (0, ""))
                lines = await admit.lines(conn, bucket, after=after)
                if len(lines) < admit.LINES_MAX:
                    self._after.pop(bucket, None)
                else:
                    self._after[bucket] = (lines[-1].namespace, lines[-1].name)
                waits = waits or bool(lines) or after != (0, "")
                ready: Counter[tuple[int, str]] = Counter()
                for line in lines:
                    admitted = await admit.advance(conn, line, self._placement, turn=self._turns.get(line, ""))
                    if admitted.turn:
                        turns[line] = admitted.turn
                    did += admitted.moved
                    ready.update(admitted.ready)
            for (namespace, target), rows in ready.items():
                self._ready(namespace, target, rows)
        self._turns = turns  # of the lines that there still are
        self._admission.waits = waits
        return did
