"""The targets that submits are checked against, and which of them are limited: a copy that is at most a second old.

Nodes that only wait read nothing for it: what they serve moves when somebody registers, which is told, and looked for
all the same every few seconds, at the price of one row.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial

from controlplane.domain.limit import first_line
from controlplane.domain.placement import Placement
from controlplane.domain.schedule import Served
from controlplane.domain.target import nearest
from controlplane.errors import TargetNotFound
from controlplane.postgres.listen import Waiter
from controlplane.postgres.pool import Pool, persist
from controlplane.reads import limits, nodes
from controlplane.reads.nodes import Entry

FRESH_SECONDS = 1.0
LOOK_SECONDS = 5.0
"""How often somebody who waits looks whether a node has registered elsewhere without being heard."""
PATIENCE_SECONDS = 10.0
"""How long a look waits for a database that is away, unless it is said otherwise."""
NEAREST_MAX = 10
"""Unknown targets of one request for which the nearest known names are looked up."""


class Catalogue:
    """An old copy lacks the newest targets, which are looked up before a 404, and knows some that were just forgotten.

    What is submitted to those waits, as for any node that is away.
    `told`: hears of what registers on other replicas.
    """

    def __init__(
        self,
        pool: Pool,
        placement: Placement,
        told: Waiter,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._pool = pool
        self._placement = placement
        self._told = told
        self._patience_seconds = patience_seconds
        self._look_seconds = look_seconds
        self._entries: dict[tuple[int, str], Entry] = {}
        self._targets: dict[tuple[int, str], tuple[str, ...]] = {}
        self._limits: dict[int, set[str]] = {}
        self._registrations: list[tuple[int, Decimal]] = []
        self._read_at = self._looked_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    @property
    def _fresh(self) -> bool:
        return time.monotonic() - self._read_at <= FRESH_SECONDS

    def known(self, namespace: int, target: str) -> Entry | None:
        """The entry of this target, if it has been read a moment ago."""
        return self._entries.get((namespace, target)) if self._fresh else None

    async def find(self, namespace: int, target: str) -> Entry:
        """The entry of this target. Raises TargetNotFound with the nearest names."""
        if known := self.known(namespace, target):
            return known
        entry = (await self.find_each(namespace, [target]))[target]
        if isinstance(entry, TargetNotFound):
            raise entry
        return entry

    async def find_each(self, namespace: int, wanted: Collection[str]) -> dict[str, Entry | TargetNotFound]:
        """The entries of many; the nearest names of the first few that are unknown (to look for them is slow)."""
        if not self._fresh:
            await self.refresh()
        if any((namespace, target) not in self._entries for target in wanted):
            await self.refresh()
        found: dict[str, Entry | TargetNotFound] = {}
        unknown = 0
        for target in wanted:
            entry = self._entries.get((namespace, target))
            unknown += entry is None
            found[target] = entry or self._unknown(namespace, target, look=unknown <= NEAREST_MAX)
        return found

    def _unknown(self, namespace: int, target: str, *, look: bool) -> TargetNotFound:
        known = (known for space, known in self._entries if space == namespace) if look else ()
        near = nearest(target, known)
        return TargetNotFound(
            "No registered node has this target.",
            where="path",
            fix=f"Did you mean {' or '.join(near)}?" if near else "Start a node that serves it; GET /api/v1/reasoners.",
            nearest=near,
        )

    async def targets_of(self, namespace: int, node_id: str) -> tuple[str, ...]:
        """What this node serves: as of a second ago when that was told, else of LOOK_SECONDS ago."""
        if (namespace, node_id) not in self._targets:
            await self.refresh()
        elif time.monotonic() - self._looked_at > (FRESH_SECONDS if self._told.woken else self._look_seconds):
            await self._look()
        return self._targets.get((namespace, node_id), ())

    def doubt(self) -> None:
        """Somebody has come who may have registered elsewhere: look again before what nodes serve is believed."""
        self._told.wake()

    async def entries(self, namespace: int) -> list[Entry]:
        await self.refresh()
        return [entry for (space, _), entry in self._entries.items() if space == namespace]

    def served(self, entry: Entry) -> Served:
        """What a schedule that submits this has to know of it."""
        line = self.line(entry.namespace, entry.target, entry.concurrency_key)
        return replace(entry.served, line=line)

    def line(self, namespace: int, target: str, concurrency_key: str | None) -> str | None:
        """The limit by which work for this target has to be let in first; None when no limit counts it.

        From the copy that the target was found in: a limit that is newer takes in what was accepted without it.
        """
        if not self._limits and concurrency_key is None:
            return None
        return first_line(target, concurrency_key, self._limits.get(namespace, frozenset()))

    async def line_now(self, namespace: int, target: str, concurrency_key: str | None) -> str | None:
        """As `line`, for who has not looked for the target: this server may have read nothing for hours."""
        if not self._fresh:
            await self.refresh()
        return self.line(namespace, target, concurrency_key)

    async def refresh(self) -> None:
        """Read again; callers that come meanwhile share one read, begun after they came."""
        if self._reading is not None and not self._reading.done():
            await asyncio.wait({self._reading})
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(), name="catalogue.read")
        await asyncio.shield(self._reading)

    async def _look(self) -> None:
        """Read again if something was registered since."""
        looked_at = time.monotonic()
        await self._told.wait(0)
        if await self._read_registrations() == self._registrations:
            self._looked_at = looked_at
        else:
            await self.refresh()

    async def _read_registrations(self) -> list[tuple[int, Decimal]]:
        return [
            await persist(self._pool, partial(nodes.registrations, bucket=bucket), seconds=self._patience_seconds)
            for bucket in self._placement.all()
        ]

    async def _read(self) -> None:
        looked_at = time.monotonic()
        await self._told.wait(0)
        registrations = await self._read_registrations()  # first: what comes in between is then read twice, not never
        entries: list[Entry] = []
        limited: list[tuple[int, str]] = []
        for bucket in self._placement.all():
            limited += await persist(self._pool, partial(limits.known, bucket=bucket), seconds=self._patience_seconds)
            found: Sequence[Entry] = await persist(
                self._pool, partial(nodes.catalogue, bucket=bucket), seconds=self._patience_seconds
            )
            entries += found
        targets: dict[tuple[int, str], list[str]] = {}
        for entry in entries:
            targets.setdefault((entry.namespace, entry.node_id), []).append(entry.target)
        self._entries = {(entry.namespace, entry.target): entry for entry in entries}
        self._targets = {key: tuple(names) for key, names in targets.items()}
        self._limits = {}
        for space, key in limited:
            self._limits.setdefault(space, set()).add(key)
        self._registrations, self._looked_at = registrations, looked_at
        self._read_at = time.monotonic()
