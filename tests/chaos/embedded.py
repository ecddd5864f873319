"""The plainest ground: one durable PostgreSQL that can be killed at any moment, and is started again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from controlplane.postgres.embedded import EmbeddedPostgres
from controlplane.postgres.schema import migrate
from tests.chaos.stage import Fault, Stage

DOWN_MAX_SECONDS = 1.0
# After a crash PostgreSQL syncs each of its files, which takes 10 s on a busy machine.
SETTINGS = {"recovery_init_sync_method": "syncfs", "max_wal_size": "256MB"}


class Embedded:
    """Its folder has room for the socket, so that its address survives a restart."""

    def __init__(self, folder: Path) -> None:
        self.postgres = EmbeddedPostgres(folder / "postgres", durable=True, settings=SETTINGS)
        self.env: Mapping[str, str] = {}
        self.faults: Sequence[Fault] = (KillPostgres(self.postgres),)

    @property
    def dsn(self) -> str:
        return self._dsn

    async def start(self) -> None:
        await asyncio.to_thread(self.postgres.start)
        self._dsn = self.postgres.dsn  # kept, because a server that is down cannot be asked
        await asyncio.to_thread(migrate, self._dsn)

    async def stop(self) -> None:
        await asyncio.to_thread(self.postgres.stop)


@dataclass(frozen=True)
class KillPostgres:
    """SIGKILL to the postmaster, and a recovery after a moment."""

    postgres: EmbeddedPostgres
    name: str = "postgres killed"

    async def strike(self, stage: Stage, rng: random.Random) -> None:
        await asyncio.to_thread(self.postgres.kill)
        await asyncio.sleep(rng.uniform(0.0, DOWN_MAX_SECONDS))
        await asyncio.to_thread(self.postgres.start)
