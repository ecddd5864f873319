"""What can happen to processes: killed, stopped, restarted one after the other."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from tests.chaos.stage import Actor, Stage

LEASE_SECONDS = 4.0
"""Twice what a busy machine needs for four heartbeats; else leases would be lost without any fault."""
DOWN_MAX_SECONDS = 0.5


@dataclass(frozen=True)
class KillServer:
    """SIGKILL of one of the replicas, which comes back after a moment."""

    name: str = "server killed"

    async def strike(self, stage: Stage, rng: random.Random) -> None:
        await _kill(rng.choice(stage.servers), rng.uniform(0.0, DOWN_MAX_SECONDS))


@dataclass(frozen=True)
class KillNode:
    """SIGKILL of a node's process, with everything that it runs."""

    name: str = "node killed"

    async def strike(self, stage: Stage, rng: random.Random) -> None:
        await _kill(rng.choice(stage.nodes), rng.uniform(0.0, DOWN_MAX_SECONDS))


@dataclass(frozen=True)
class KillReceiver:
    """SIGKILL of a receiver: nobody listens at its address for a while."""

    name: str = "receiver killed"

    async def strike(self, stage: Stage, rng: random.Random) -> None:
        await _kill(rng.choice(stage.receivers), rng.uniform(0.0, 2 * DOWN_MAX_SECONDS))


@dataclass(frozen=True)
class RollServers:
    """SIGTERM of each replica, the next one when the one before it is back: nobody must notice."""

    name: str = "servers rolled"

    async def strike(self, stage: Stage, rng: random.Random) -> None:
        for server in stage.servers:
            async with server.alone:
                code = await server.terminate()
                assert code == 0, f"{server.name} ended with {code} when it was asked to"
                await server.start()


@dataclass(frozen=True)
class StopNode:
    """SIGSTOP for two leases: everything it has is given to others, and it goes on as if nothing had been."""

    name: str = "node stopped"

    async def strike(self, stage: Stage, rng: random.Random) -> None:
        await _stop(rng.choice(stage.nodes), LEASE_SECONDS * rng.uniform(2.0, 2.5))


@dataclass(frozen=True)
class StopServer:
    """SIGSTOP of a replica for more than a lease: what it had in hand it finishes late."""

    name: str = "server stopped"

    async def strike(self, stage: Stage, rng: random.Random) -> None:
        await _stop(rng.choice(stage.servers), LEASE_SECONDS * rng.uniform(1.0, 2.0))


async def _kill(actor: Actor, down_seconds: float) -> None:
    async with actor.alone:
        await actor.kill()
        await asyncio.sleep(down_seconds)
        await actor.start()


async def _stop(actor: Actor, seconds: float) -> None:
    async with actor.alone:
        actor.stop()
        await asyncio.sleep(seconds)
        actor.cont()
