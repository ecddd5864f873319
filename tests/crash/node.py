"""A node that fetches its work, as its SDK does it: it remembers what it holds, and takes what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from controlplane.domain.begun import Begun
from controlplane.domain.ids import SessionId
from controlplane.domain.lease import Beat, Claim, Fence, Lease, Recorded, Report, Session, Verdict
from controlplane.domain.memory import Write
from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Connection
from controlplane.stages import admit, checkpoint, complete, expire, lease, register, renew
from tests.crash.world import World
from tests.make import NAMESPACE, TARGET, a_report, make_id, no_jitter

STOCK = Placement()
BUCKET = 0
CLAIMS_MAX = 6
LEASE_SECONDS = 9_000.0
"""Longer than a story lets pass between two signs of life, or a reaper that is back would take the node for dead."""


class Node:
    def __init__(self, world: World, session: Session) -> None:
        self.world = world
        self.session = session
        self.held: list[Fence] = []

    @classmethod
    async def start(cls, world: World, node_id: str = "n", *, slots: int = 8, reasoners: Any = ()) -> Node:
        """A process of this node registers it and opens its session; after a lost answer it opens another one."""
        node = register.Node(namespace=NAMESPACE, id=node_id, transport="pull", version="1", reasoners=reasoners)
        await world.ask(register.register, node, bucket=BUCKET)
        return cls(world, await world.ask(_open, node_id, slots))

    async def claim(self, *targets: str, limit: int = 1) -> list[Lease]:
        """As many as there must be. What a lost answer has handed out is not among what it holds, and comes back."""
        leases: list[Lease] = []
        wish = Claim(session=self.session, targets=targets or (TARGET,), limit=limit)
        for _ in range(CLAIMS_MAX):
            new = await self.world.one(lease.claim, wish, STOCK)
            leases += new
            self.held += [fence_of(one) for one in new]
            if len(leases) >= limit:
                return leases
            await self.beat(older_than_seconds=0.0)
            await self.world.ask(_let_in)
        raise AssertionError(f"there is no work: {len(leases)} of {limit}")

    async def take(self, *targets: str) -> Lease:
        [one] = await self.claim(*targets)
        return one

    async def offered(self, *targets: str) -> list[Lease]:
        """What one claim answers; nothing is not waited for."""
        wish = Claim(session=self.session, targets=targets or (TARGET,), limit=1)
        leases: list[Lease] = await self.world.one(lease.claim, wish, STOCK)
        self.held += [fence_of(one) for one in leases]
        return leases

    async def beat(self, *, older_than_seconds: float = 60.0) -> None:
        beat = Beat(session_id=self.session.id, held=tuple(self.held), count=len(self.held))
        await self.world.one(renew.extend, beat)
        await self.world.ask(
            expire.release_unnamed,
            BUCKET,
            self.session.id,
            tuple(self.held),
            older_than_seconds=older_than_seconds,
            make_id=make_id,
        )

    async def wait_idle(self) -> bool:
        """Whether it was kept while it waits in a long heartbeat; its work may lie in a second bucket, too."""
        kept = await self.world.ask(renew.keep, [self.session.id], Placement(buckets=2, hashed=2))
        return self.session.id in kept

    async def report(self, one: Lease, verdict: Verdict = Verdict.SUCCEEDED, **over: Any) -> Recorded:
        said = a_report(fence_of(one), verdict, **over)
        recorded: Recorded = await self.world.one(report, said, self.world.begun)
        self.held = [fence for fence in self.held if fence != said.fence]
        return recorded

    async def write(self, one: Lease, *ops: Any) -> Any:
        """A checkpoint in the memory of its run."""
        return await self.world.one(checkpoint.write, Write(ops=ops, fence=fence_of(one), writer=one.execution_id))


def fence_of(one: Lease) -> Fence:
    return Fence(one.execution_id, one.attempt)


async def report(conn: Connection, batch: Sequence[Report], begun: Begun, /) -> Any:
    return await complete.report(conn, batch, make_id=make_id, jitter=no_jitter, begun=begun)


async def _open(conn: Connection, node_id: str, slots: int) -> Session:
    return await register.open_session(
        conn,
        SessionId(make_id(BUCKET)),
        namespace=NAMESPACE,
        node_id=node_id,
        node_bucket=BUCKET,
        instance_id="instance",
        slots=slots,
        heartbeat_seconds=LEASE_SECONDS / 3,
        lease_floor_seconds=LEASE_SECONDS,
    )


async def _let_in(conn: Connection) -> None:
    """Whom a limit holds back: the work that came back may stand in line again."""
    for line in await admit.lines(conn, BUCKET):
        await admit.advance(conn, line, STOCK)
