"""A file that outlives whoever writes it: what a process saw is on the disk before the process goes on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson


class Journal:
    """Lines of JSON, one per record. Records that come while others are being synced share the next fsync."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._syncing: asyncio.Task[None] | None = None

    async def write(self, *record: Any) -> None:
        """Return once the record is on the disk."""
        on_disk: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((orjson.dumps(record) + b"\n", on_disk))
        if self._syncing is None or self._syncing.done():
            self._syncing = asyncio.create_task(self._sync())
        await on_disk

    async def _sync(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            await asyncio.to_thread(self._append, b"".join(line for line, _ in batch))
            for _, on_disk in batch:
                if not on_disk.cancelled():
                    on_disk.set_result(None)

    def _append(self, lines: bytes) -> None:
        os.write(self._file, lines)
        os.fsync(self._file)


def records(folder: Path, pattern: str) -> Iterator[list[Any]]:
    """Every record of the files that match. A line that a kill has torn was not acknowledged to anybody."""
    for path in sorted(folder.glob(pattern)):
        with path.open("rb") as lines:
            for line in lines:
                try:
                    yield orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue
