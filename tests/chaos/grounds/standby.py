"""Two clusters, one of which follows the other: kill the primary, promote the standby, make the old one follow it.

What servers get names both; whoever connects takes the one that can be written to, as libpq's users do. Synchronous: a
commit is answered when the standby has it on its disk. Asynchronous: what it had not received is lost, and counted.

The trap: who is promoted inherits `synchronous_standby_names` with the copy, and there is no standby. Every commit
waits until there is one again, or until somebody takes the setting back. Both ways out are taken here.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from controlplane.postgres.schema import migrate
from tests.chaos.grounds.cluster import DATABASE, PASSWORD, USER, Cluster
from tests.chaos.patience import until
from tests.chaos.stage import Fault, Stage

NAMES = "synchronous_standby_names"
IN_STEP_SECONDS = 60.0
IN_STEP = "select exists (select from pg_stat_replication where sync_state in ('sync', 'quorum'))"
CAUGHT_UP = "select exists (select from pg_stat_replication where flush_lsn >= pg_current_wal_lsn())"
FOLLOWS = "select exists (select from pg_stat_replication where state = 'streaming')"


class Standby:
    """A primary and its standby. `primary` is the one that takes writes now."""

    def __init__(self, folder: Path | None = None, *, synchronous: bool = True) -> None:
        self._own = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="standby-", dir="/tmp"))
        self.folder.chmod(0o711)
        self.synchronous = synchronous
        self.primary, self.standby = (Cluster(self.folder, name=name) for name in ("north", "south"))
        both = sorted(one.host for one in (self.primary, self.standby))
        self._dsn = f"postgresql://{USER}:{PASSWORD}@{','.join(both)}/{DATABASE}?target_session_attrs=read-write"

    @property
    def dsn(self) -> str:
        return self._dsn

    @property
    def env(self) -> Mapping[str, str]:
        return {}

    @property
    def faults(self) -> Sequence[Fault]:
        return [Failover(self)]

    async def start(self) -> None:
        await self.primary.make()
        await asyncio.to_thread(migrate, self.primary.dsn)
        await self.follow()

    async def stop(self) -> None:
        await asyncio.gather(self.primary.stop(), self.standby.stop())
        await asyncio.gather(self.primary.gone(), self.standby.gone())
        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)

    async def follow(self) -> None:
        """Make the standby anew from the primary; in step with it when this returns."""
        await self.standby.copy(self.primary)
        if self.synchronous:
            await self.primary.set(NAMES, "*")
            await self.standby.set(NAMES, "*")  # configured alike, as they should be; it counts once it is promoted
        await self.in_step()

    async def in_step(self) -> None:
        """Return when nothing that is acknowledged from here on can be lost with the primary alone."""

        async def look() -> bool:
            return bool(await self.primary.value(IN_STEP if self.synchronous else FOLLOWS))

        await until("the standby to be in step", look, seconds=IN_STEP_SECONDS)

    async def fail_over(self, *, alone: bool) -> None:
        """The primary dies and the standby takes its place."""
        self.primary.kill()
        await self.take_over(alone=alone)

    async def caught_up(self) -> None:
        """Return when the standby has all that was committed until now."""

        async def look() -> bool:
            return bool(await self.primary.value(CAUGHT_UP))

        await until("the standby to catch up", look, seconds=IN_STEP_SECONDS)

    async def take_over(self, *, alone: bool) -> None:
        """The standby becomes the primary. `alone`: it is told to go on without a standby of its own."""
        self.primary, self.standby = self.standby, self.primary
        await self.primary.promote()
        if alone and self.synchronous:
            await self.primary.set(NAMES, None)


class Failover:
    """kill -9 of the primary; the standby is promoted, and the old primary made anew as its standby."""

    name = "failover"

    def __init__(self, ground: Standby) -> None:
        self._ground = ground

    async def strike(self, stage: Stage, rng: random.Random) -> None:
        await self._ground.in_step()
        await self._ground.fail_over(alone=rng.random() < 0.5)
        await self._ground.follow()


def asynchronous(folder: Path | None = None) -> Standby:
    """The same without the wait: a commit is answered when the primary has it."""
    return Standby(folder, synchronous=False)
