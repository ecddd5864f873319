"""Overseer: looks after work that is with nodes that are called, for none of them says what it holds.

Who is silent and does not listen is dead. What was sent and never taken is asked for and withdrawn. What shall stop is
told so. What runs longer than its process lets anything run is lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

from controlplane.daemons.pusher import Memories, Pusher
from controlplane.domain import topic
from controlplane.domain.call import Stop
from controlplane.domain.ids import bucket_of
from controlplane.domain.lease import Fence, Report, Session, Transport, Verdict
from controlplane.domain.placement import Placement
from controlplane.errors import ControlPlaneError
from controlplane.outbound.node import NodeCaller
from controlplane.postgres.listen import Hints
from controlplane.postgres.pool import PASSING, Pool, persist
from controlplane.stages import expire, register, send
from controlplane.stages.expire import Stopped
from controlplane.stages.send import Called, Sent

log = logging.getLogger(__name__)

RETRY_SECONDS = 15.0
SILENT_BEATS = 2.5
SILENT_LEAST_SECONDS = 1.0
TELL_AGAIN_SECONDS = 3.0
DRAIN_SECONDS = 35.0
"""How long a process that has said goodbye may take to finish: its SDK's 30 s, and the way."""


@dataclass(slots=True)
class Cares:
    """What there is to do about one process."""

    cancels: list[Sent] = field(default_factory=list)
    unanswered: list[Sent] = field(default_factory=list)
    overrun: list[Sent] = field(default_factory=list)
    late: list[Stopped] = field(default_factory=list)


class Overseer:
    """`dispatch_seconds`: after so long a request that nobody holds and no process has taken is looked into."""

    def __init__(
        self,
        pool: Pool,
        placement: Placement,
        nodes: NodeCaller,
        hints: Hints,
        pusher: Pusher,
        *,
        dispatch_seconds: float,
    ) -> None:
        self._pool = pool
        self._placement = placement
        self._nodes = nodes
        self._hints = hints
        self._pusher = pusher
        self._dispatch_seconds = dispatch_seconds
        self._told: dict[Fence, float] = {}
        self._silent: set[UUID] = set()
        self._busy: dict[UUID, asyncio.Task[None]] = {}
        self._trust_at = 0.0
        self._late: list[Stopped] = []

    def late(self, stopped: Sequence[Stopped]) -> None:
        """These attempts have run out of time and ended; with the next tick their processes are told to stop.

        Told once: a process that does not hear it goes on for nothing, and what it says is stale.
        """
        self._late += stopped

    async def tick(self) -> int:
        """Look at everything that is called; what there is to do is done for each process by itself, so that one that
        hangs holds up nobody else. What is found is settled by fences: two of us at once do no harm.
        """
        try:
            return await self._look()
        except (ControlPlaneError, *PASSING):
            # Nobody could say meanwhile that it still holds a request: what looks unanswered now may not be.
            self._trust_at = time.monotonic() + self._dispatch_seconds
            raise

    async def _look(self) -> int:
        called: dict[UUID, Called] = {}
        for bucket in self._placement.all():
            await persist(self._pool, partial(send.renew_serverless, bucket=bucket), seconds=RETRY_SECONDS)
            found = await persist(self._pool, partial(send.called, bucket=bucket), seconds=RETRY_SECONDS)
            called |= {one.session.id: one for one in found}
        silent = {id_ for id_, one in called.items() if _is_silent(one)}
        for id_ in self._silent - silent:  # heard of again: what it could not tell us meanwhile is in its own log
            self._hints.wake(topic.process(id_))
        self._silent = silent
        cares = {id_: Cares() for id_, one in called.items() if id_ in silent or _may_stay(one)}
        for bucket in self._placement.all() if called else ():
            for sent in await self._wanted(bucket):
                cares.setdefault(sent.session_id, Cares()).cancels.append(sent)
            for sent in await self._unanswered(bucket):
                cares.setdefault(sent.session_id, Cares()).unanswered.append(sent)
            for sent in await self._overrun(bucket, called):
                cares.setdefault(sent.session_id, Cares()).overrun.append(sent)
        self._busy = {id_: task for id_, task in self._busy.items() if not task.done()}
        for stopped in self._take_late(called):
            cares.setdefault(stopped.session_id, Cares()).late.append(stopped)
        for id_, care in cares.items():
            if id_ in called and id_ not in self._busy:
                self._busy[id_] = asyncio.create_task(self._care_for(called[id_], care), name="overseer.care")
        return 0

    def _take_late(self, called: Mapping[UUID, Called]) -> list[Stopped]:
        """Those whose process can be told now. Processes that fetch their work hear it from their heartbeats."""
        known = [one for one in self._late if one.session_id in called]
        self._late = [one for one in known if one.session_id in self._busy]
        return [one for one in known if one.session_id not in self._busy]

    async def drain(self) -> None:
        """Leave what is under way; whoever looks next finds the same."""
        for task in self._busy.values():
            task.cancel()
        await asyncio.gather(*self._busy.values(), return_exceptions=True)

    async def _wanted(self, bucket: int) -> list[Sent]:
        """What is to be stopped and has not been told so a moment ago."""
        now = time.monotonic()
        self._told = {fence: at for fence, at in self._told.items() if now - at < TELL_AGAIN_SECONDS}
        wanted = await persist(self._pool, partial(send.cancelling, bucket=bucket), seconds=RETRY_SECONDS)
        return [sent for sent in wanted if sent.fence not in self._told]

    async def _unanswered(self, bucket: int) -> list[Sent]:
        if time.monotonic() < self._trust_at:
            return []
        look = partial(send.unanswered, bucket=bucket, after_seconds=self._dispatch_seconds)
        found = await persist(self._pool, look, seconds=RETRY_SECONDS)
        return [sent for sent in found if sent.fence not in self._pusher.holding]

    async def _overrun(self, bucket: int, called: Mapping[UUID, Called]) -> list[Sent]:
        """Past its SDK's own limit an attempt cannot be running any more, or its process is broken."""
        limits = {id_: one.session.start_to_close_seconds for id_, one in called.items()}
        least = min((limit for limit in limits.values() if limit is not None), default=None)
        if least is None:
            return []
        look = partial(send.overrun, bucket=bucket, after_seconds=least)
        found = await persist(self._pool, look, seconds=RETRY_SECONDS)
        return [sent for sent in found if sent.active_seconds > (limits.get(sent.session_id) or float("inf"))]

    async def _care_for(self, one: Called, care: Cares) -> None:
        try:
            if _is_silent(one) and not await self._hear(one):
                return
            if _may_stay(one):
                await self._keep(one.session)
            for sent in care.cancels:
                await self._cancel(one.session, sent)
            for stopped in care.late:
                await self._nodes.stop(one.session, stopped.fence, run_id=stopped.run_id, reason=stopped.reason)
            memories = await self._pusher.memories(one.session) if care.unanswered or care.overrun else {}
            for sent in care.unanswered:
                await self._pusher.find_out(one.session, sent.fence, memories)
            for sent in care.overrun:
                await self._end(one.session, sent, memories)
        except (ControlPlaneError, *PASSING) as error:
            log.warning("overseer.waiting", extra={"node_id": one.session.node_id, "error": repr(error)})
        except Exception:
            log.exception("overseer.broken", extra={"node_id": one.session.node_id})

    async def _hear(self, one: Called) -> bool:
        """Close the session of a process that is silent and whose address nobody answers at. Says if it is alive."""
        if await self._nodes.listens(one.session) is not False:
            return True
        refuse = partial(
            expire.refuse,
            session_id=one.session.id,
            silent_seconds=_silent_seconds(one.session),
            drain_seconds=DRAIN_SECONDS,
        )
        closed = await persist(self._pool, refuse, seconds=RETRY_SECONDS)
        log.warning("node.refused", extra={"node_id": one.session.node_id, "closed": closed})
        self._hints.tell(topic.NODES)
        return False

    async def _keep(self, session: Session) -> None:
        """A goodbye does not say whose it is: who sends heartbeats and listens long after it was somebody else's."""
        if not await self._nodes.listens(session):
            return
        stay = partial(register.stay, bucket=bucket_of(session.id), session_id=session.id, after_seconds=DRAIN_SECONDS)
        if await persist(self._pool, stay, seconds=RETRY_SECONDS):
            log.warning("node.stayed", extra={"node_id": session.node_id})
            self._hints.tell(topic.NODES)

    async def _cancel(self, session: Session, sent: Sent) -> None:
        self._told[sent.fence] = time.monotonic()
        stop = await self._nodes.stop(session, sent.fence, run_id=sent.run_id, reason=sent.reason)
        if stop is Stop.IDLE and sent.accepted:  # it has stopped, and what it says of it is lost or on its way
            await self._pusher.report(Report(fence=sent.fence, verdict=Verdict.CANCELLED))

    async def _end(self, session: Session, sent: Sent, memories: Memories) -> None:
        if (report := memories.get(sent.fence)) is not None:
            await self._pusher.report(report)
            return
        withdraw = partial(send.withdraw, bucket=bucket_of(sent.fence.execution_id), fence=sent.fence)
        if not await persist(self._pool, withdraw, seconds=RETRY_SECONDS):
            return
        await self._nodes.stop(session, sent.fence, run_id=sent.run_id, reason="start_to_close")
        await self._pusher.take_back(sent.fence, reason="start_to_close", crash=True)


def _is_silent(one: Called) -> bool:
    listening = one.session.transport is Transport.PUSH and not one.draining
    return listening and one.silent_seconds > _silent_seconds(one.session)


def _may_stay(one: Called) -> bool:
    """Whether it drains, and is heard of all the same."""
    heard = one.session.transport is Transport.PUSH and one.draining
    return heard and one.silent_seconds <= _silent_seconds(one.session)


def _silent_seconds(session: Session) -> float:
    return max(SILENT_BEATS * session.heartbeat_seconds, SILENT_LEAST_SECONDS)
