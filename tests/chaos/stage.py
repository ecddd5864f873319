"""What a chaos run consists of: a ground (the database and what stands before it), processes on it, and faults.

    callers, nodes -> front -> servers -> ground.dsn
                               servers -> receivers

A fault does its damage and heals it before it returns; the run goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from tests.e2e.processes import Process

ENDS_SECONDS = 30.0
"""How long a process may take to heed SIGTERM; what takes longer is a finding."""


class Ground(Protocol):
    """The database of a run, whatever it consists of."""

    @property
    def dsn(self) -> str:
        """What servers get as DATABASE_URL; it stays valid through failovers."""

    @property
    def faults(self) -> Sequence[Fault]:
        """What can go wrong with this ground."""

    @property
    def env(self) -> Mapping[str, str]:
        """Environment that server processes need on this ground."""

    async def start(self) -> None:
        """Return once it takes connections and has our newest schema."""

    async def stop(self) -> None: ...


Ours = TypeVar("Ours", bound=Ground)


@contextmanager
def standing(ground: Ours) -> Iterator[Ours]:
    """A ground that has started, for tests without a stage; whatever of it came to be is stopped."""
    try:
        asyncio.run(ground.start())
        yield ground
    finally:
        asyncio.run(ground.stop())


class Front(Protocol):
    """What callers and nodes reach the servers through."""

    @property
    def url(self) -> str: ...

    async def start(self, ports: Sequence[int]) -> None:
        """Pass connections on to whichever of these ports of this machine takes them."""

    async def stop(self) -> None: ...


class Fault(Protocol):
    """Something that goes wrong, and is right again when `strike` returns."""

    @property
    def name(self) -> str: ...

    async def strike(self, stage: Stage, rng: random.Random) -> None:
        """Do it and heal it. Every choice comes from `rng`. Raises if it could not be done: nothing is skipped."""


class Actor:
    """A process on the stage. `alone` is held by whichever fault has it: no two strike one process at once."""

    def __init__(self, process: Process, *, port: int = 0, ready: Callable[[int], None] = lambda _: None) -> None:
        """`ready` returns once the process works; what it has said by then begins so many bytes into its log."""
        self.process = process
        self.port = port
        self.alone = asyncio.Lock()
        self._ready = ready

    @property
    def name(self) -> str:
        return self.process.name

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.alive

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Return once it does its work."""
        said_bytes = self.process.said_bytes
        await asyncio.to_thread(self.process.start)
        await asyncio.to_thread(self._ready, said_bytes)

    async def kill(self) -> None:
        """SIGKILL."""
        await asyncio.to_thread(self.process.kill)

    async def terminate(self) -> int:
        """SIGTERM; its exit code. Raises if it does not end in time."""
        self.process.terminate()
        return await asyncio.to_thread(self.process.ended, within=ENDS_SECONDS)

    def stop(self) -> None:
        """SIGSTOP: alive, and silent."""
        self.process.signal(signal.SIGSTOP)

    def cont(self) -> None:
        """SIGCONT: it goes on where it was, and does not know."""
        self.process.signal(signal.SIGCONT)

    async def restart(self) -> None:
        """SIGKILL if it still lives, and the same again at the same address."""
        if self.process.alive:
            await self.kill()
        await self.start()


class Stage:
    """All that a run started. Each list has its order from the beginning, so that a choice by number is replayable.

    `over`: once it is set no more faults begin.
    """

    def __init__(self, folder: Path, ground: Ground, front: Front) -> None:
        self.folder = folder
        self.ground = ground
        self.front = front
        self.over = asyncio.Event()
        self.servers: list[Actor] = []
        self.nodes: list[Actor] = []
        self.receivers: list[Actor] = []
        self.callers: list[Actor] = []

    @property
    def actors(self) -> list[Actor]:
        return [*self.servers, *self.nodes, *self.receivers, *self.callers]

    async def close(self) -> None:
        """End everything, those who ask first."""
        for actor in reversed(self.actors):
            await asyncio.to_thread(actor.process.close)
        await self.front.stop()
        await self.ground.stop()
