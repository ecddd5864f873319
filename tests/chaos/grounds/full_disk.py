"""A cluster on a disk of its own, which can be filled to the last byte.

The write-ahead log has another one, as it should have: PostgreSQL answers a full data disk with an error, and a full
log with the end of the whole server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from controlplane.postgres.schema import migrate
from tests.chaos.grounds.cluster import Cluster
from tests.chaos.stage import Fault, Stage

DISK_MEGABYTES = 160
BALLAST_BYTES = 1024 * 1024
LAST_BYTES = 4096
FULL_SECONDS = (1.0, 5.0)


class FullDisk:
    """A cluster whose data folder is in a small tmpfs. Needs root, who alone may mount one."""

    def __init__(self, folder: Path | None = None) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root to mount a small tmpfs")
        self._own = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="full-disk-", dir="/tmp"))
        self.folder.chmod(0o711)
        self.disk = self.folder / "disk"
        self.cluster = Cluster(self.disk, name="only", wal=self.folder / "wal")
        self._ballast = self.disk / "ballast"

    @property
    def dsn(self) -> str:
        return self.cluster.dsn

    @property
    def env(self) -> Mapping[str, str]:
        return {}

    @property
    def faults(self) -> Sequence[Fault]:
        return [FillDisk(self)]

    async def start(self) -> None:
        self.disk.mkdir()
        await _run("mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m,mode=0711", "tmpfs", str(self.disk))
        await self.cluster.make()
        await asyncio.to_thread(migrate, self.dsn)

    async def stop(self) -> None:
        self.free()
        await self.cluster.stop()
        await self.cluster.gone()
        await _run("umount", "--lazy", str(self.disk))
        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)

    def fill(self) -> None:
        """Not a byte is left."""
        with self._ballast.open("ab", buffering=0) as ballast:
            for size in (BALLAST_BYTES, LAST_BYTES):
                with contextlib.suppress(OSError):
                    while True:
                        ballast.write(bytes(size))

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


class FillDisk:
    """The disk is full for a while."""

    name = "full disk"

    def __init__(self, ground: FullDisk) -> None:
        self._ground = ground

    async def strike(self, stage: Stage, rng: random.Random) -> None:
        await asyncio.to_thread(self._ground.fill)
        await asyncio.sleep(rng.uniform(*FULL_SECONDS))
        self._ground.free()


async def _run(*command: str) -> None:
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
