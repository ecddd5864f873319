"""Pusher: leases for the nodes that are called, and hands them their work.

It is to each of their processes what a node's own long poll is to a node that fetches: the same claim, the same fence,
the same report. Claim, give the connection back, call, write down what came of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from uuid import UUID

import orjson

from controlplane.domain import call, topic
from controlplane.domain.call import Stop, Taken
from controlplane.domain.execution import Status
from controlplane.domain.ids import bucket_of, show, show_execution
from controlplane.domain.lease import Claim, Fence, Lease, Recorded, Report, ReportCode, Session, Transport
from controlplane.domain.payload import shallow
from controlplane.domain.placement import Placement, by_bucket
from controlplane.errors import ControlPlaneError, LeaseLost, SessionClosed, SessionDraining
from controlplane.outbound.node import NodeCaller
from controlplane.postgres.lane import Lane
from controlplane.postgres.listen import Hints
from controlplane.postgres.pool import PASSING, Pool, persist
from controlplane.stages import expire, send
from controlplane.stages.expire import Swept
from controlplane.stages.finish import MakeId
from controlplane.stages.lease import LEASES_MAX

log = logging.getLogger(__name__)

IDLE_SECONDS = 5.0
FULL_FIRST_SECONDS = 0.05
FULL_CAP_SECONDS = 1.0
KNOCK_FIRST_SECONDS = 0.05
KNOCK_CAP_SECONDS = 2.0
SETTLE_SECONDS = 0.5
RETRY_SECONDS = 15.0
ACCEPT_TRIES = 20
FOREVER_SECONDS = 10 * 365 * 86_400.0

Memories = Mapping[Fence, Report | None]


class Pusher:
    """`targets_of`: what a node serves. `ready` and `ended` are told what became ready and what has ended.

    `dispatch_seconds`: how long a node that acknowledges may take to do so.
    """

    def __init__(
        self,
        pool: Pool,
        placement: Placement,
        nodes: NodeCaller,
        hints: Hints,
        *,
        claim: Lane[Claim, list[Lease]],
        complete: Lane[Report, Recorded],
        make_id: MakeId,
        targets_of: Callable[[int, str], Awaitable[tuple[str, ...]]],
        ready: Callable[[int, str], None],
        ended: Callable[[Sequence[UUID]], None],
        dispatch_seconds: float,
        result_bytes_max: int,
    ) -> None:
        self.holding: dict[Fence, asyncio.Task[None]] = {}
        """The calls that this process of ours is making right now."""
        self._pool = pool
        self._placement = placement
        self._nodes = nodes
        self._hints = hints
        self._claim = claim
        self._complete = complete
        self._accept: Lane[Fence, None] = Lane(pool, send.accept, name="accept", retry_seconds=RETRY_SECONDS)
        self._make_id = make_id
        self._targets_of = targets_of
        self._ready = ready
        self._ended = ended
        self._dispatch_seconds = dispatch_seconds
        self._result_bytes_max = result_bytes_max
        self._serving: dict[UUID, asyncio.Task[None]] = {}
        self._live: dict[UUID, Session] = {}
        self._unreached: set[UUID] = set()
        self._stopping = False
        self._hold_on_at = 0.0
        self._began = time.monotonic()

    async def tick(self) -> int:
        """See to it that each live process that is called is served, and that calls under way are not taken for lost.

        Says how many processes were not served yet.
        """
        found: list[send.Called] = []
        for bucket in self._placement.all():
            found += await persist(self._pool, partial(send.called, bucket=bucket), seconds=RETRY_SECONDS)
        live: dict[UUID, Session] = {one.session.id: one.session for one in found if not one.draining}
        before, self._live = self._live, live
        for id_, session in before.items():
            # Registered anew with other words it is served by those; gone, it ends after the claim that it may be in:
            # what was claimed is still handed over.
            if live.get(id_) != session:
                self._hints.wake(topic.process(id_))
        self._serving = {id_: task for id_, task in self._serving.items() if not task.done()}
        self._unreached &= live.keys() | self._serving.keys()
        new = [session for id_, session in live.items() if id_ not in self._serving and not self._stopping]
        for session in new:
            self._serving[session.id] = asyncio.create_task(self._guard(session), name="pusher.serve")
        await self._hold_on()
        return len(new)

    async def drain(self, seconds: float) -> None:
        """Claim no more; let calls under way be answered and written down. The others are found by their leases."""
        self._stopping = True
        for id_ in self._serving:
            self._hints.wake(topic.process(id_))
        until = time.monotonic() + seconds
        for _ in range(2):  # who was in a claim has begun calls of its own when it ends
            if tasks := [*self._serving.values(), *self.holding.values()]:
                await asyncio.wait(tasks, timeout=max(0.0, until - time.monotonic()))
        late = [task for task in (*self._serving.values(), *self.holding.values()) if not task.done()]
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        await self._accept.close()

    async def _hold_on(self) -> None:
        """What is being called is under way; calls whose attempt has ended or was taken away are hung up."""
        if time.monotonic() < self._hold_on_at:
            return
        self._hold_on_at = time.monotonic() + self._dispatch_seconds / 4
        calls = dict(self.holding)
        for bucket, fences in by_bucket(calls, lambda fence: fence.execution_id):
            look = partial(send.prolong, bucket=bucket, fences=fences)
            still = await persist(self._pool, look, seconds=RETRY_SECONDS)
            for fence in fences:
                if fence not in still:
                    calls[fence].cancel()

    async def _guard(self, session: Session) -> None:
        try:
            await self._serve(session)
        except SessionClosed:
            return
        except Exception:  # said loudly, and begun again by the next tick
            log.exception("pusher.broken", extra={"node_id": session.node_id, "session_id": show("ses", session.id)})
            await asyncio.sleep(FULL_CAP_SECONDS)

    async def _serve(self, session: Session) -> None:
        """Hand this process whatever there is for it, for as long as its session is open. Raises SessionClosed."""
        mine, slots = topic.process(session.id), topic.slots(session.namespace, session.node_id)
        self._unreached.add(session.id)
        recollected, empty, turn = False, 0, 0
        with self._hints.waiter(mine) as rejoined, self._hints.waiter(slots) as freed:
            while not self._stopping and (now := self._live.get(session.id)) is not None:
                session = now
                try:
                    if session.id in self._unreached and not await self._knock(session):
                        continue
                    if rejoined.woken or not recollected:
                        await rejoined.wait(0)
                        await self.recollect(session)
                        recollected = True
                    targets = await self._targets_of(session.namespace, session.node_id)
                    topics = [topic.queue(session.namespace, target) for target in targets]
                    with self._hints.waiter(*topics, mine) as hint:  # before the look, so that nothing is missed
                        turned = targets[turn % len(targets) :] + targets[: turn % len(targets)] if targets else ()
                        leases = await self._claim.put(Claim(session=session, targets=turned, limit=LEASES_MAX))
                        turn += 1
                        for lease in leases:
                            self._call(session, lease)
                        empty = 0 if leases else empty + 1
                        # Woken for nothing: another took it, or there is no slot for it, and one may become free.
                        if empty > 1 and await freed.wait(
                            min(FULL_FIRST_SECONDS * 2 ** min(empty, 10), FULL_CAP_SECONDS)
                        ):
                            continue
                        if empty and not await hint.wait(IDLE_SECONDS):
                            empty = 0
                except SessionClosed:
                    raise
                except SessionDraining:  # still served: what it holds may end without our hearing of it
                    with self._hints.waiter(mine) as word:
                        await word.wait(IDLE_SECONDS)
                except (ControlPlaneError, *PASSING) as error:
                    log.warning("pusher.waiting", extra={"node_id": session.node_id, "error": repr(error)})
                    recollected = False  # who finished meanwhile could not tell us
                    await asyncio.sleep(FULL_CAP_SECONDS)

    async def _knock(self, session: Session) -> bool:
        """Return once somebody answers: nodes register before they listen, and no attempt must be spent on that.

        False: nobody has, and there is nothing to wait for any more.
        """
        pause = KNOCK_FIRST_SECONDS
        with self._hints.waiter(topic.process(session.id)) as hint:  # it may be back, or be gone, or we may stop
            while session.transport is Transport.PUSH and not await self._nodes.listens(session):
                await hint.wait(pause)
                if pause < KNOCK_CAP_SECONDS <= pause * 2:  # once: its work waits until it answers
                    log.warning(
                        "node.unreached", extra={"node_id": session.node_id, "session_id": show("ses", session.id)}
                    )
                pause = min(pause * 2, KNOCK_CAP_SECONDS)
                if self._stopping or session.id not in self._live:
                    return False
        self._unreached.discard(session.id)
        return True

    def _call(self, session: Session, lease: Lease) -> None:
        fence = Fence(lease.execution_id, lease.attempt)
        task = asyncio.create_task(self._hand_over(session, lease, fence), name="pusher.call")
        self.holding[fence] = task
        task.add_done_callback(lambda _: self.holding.pop(fence, None))

    async def _hand_over(self, session: Session, lease: Lease, fence: Fence) -> None:
        """Make one call and write down what came of it."""
        began = time.monotonic()
        quick = lease.acknowledges and lease.type == "reasoner"
        seconds = self._dispatch_seconds if quick else FOREVER_SECONDS
        said: Report | Taken = Taken.UNKNOWN
        try:
            answer = await self._nodes.hand_over(session, lease, total_seconds=seconds)
            said = call.judge(fence, answer, transport=session.transport)
            if said is Taken.UNSENT:
                self._unreached.add(session.id)
            await self._write_down(session, fence, said, answer.retry_after_seconds)
        except (ControlPlaneError, *PASSING) as error:  # nobody holds its request any more: the overseer looks into it
            log.warning(
                "call.unsettled", extra={"execution_id": show_execution(lease.execution_id), "error": repr(error)}
            )
        finally:
            self._hints.wake(topic.slots(session.namespace, session.node_id))
        log.info(
            "execution.sent",
            extra={
                "execution_id": show_execution(lease.execution_id),
                "run_id": lease.run_id,
                "node_id": session.node_id,
                "attempt": lease.attempt,
                "came_to": said.value if isinstance(said, Taken) else said.verdict.value,
                "latency_ms": round((time.monotonic() - began) * 1000),
            },
        )

    async def _write_down(self, session: Session, fence: Fence, said: Report | Taken, after: float | None) -> None:
        match said:
            case Report():
                await self.report(said)
            case Taken.TAKEN:
                await self._accepted(fence)
            case Taken.FULL:
                await self.take_back(fence, reason="node_full", crash=False, delay_seconds=after or call.AGAIN_SECONDS)
            case Taken.UNSENT:
                await self.take_back(fence, reason="node_unreachable", crash=False, delay_seconds=call.AGAIN_SECONDS)
            case Taken.UNKNOWN:
                await asyncio.sleep(SETTLE_SECONDS)  # what the process has read of it, it has begun by then
                await self.find_out(session, fence, await self.memories(session))

    async def _accepted(self, fence: Fence) -> None:
        """Written down for sure, however long the database is away: else the attempt would be taken for lost."""
        for left in reversed(range(ACCEPT_TRIES)):
            try:
                await self._accept.put(fence)
            except LeaseLost:  # it has ended already
                return
            except (ControlPlaneError, *PASSING):
                if not left or self._stopping:
                    raise
                continue
            return

    async def memories(self, session: Session) -> Memories:
        """What this process remembers having finished."""
        return await self._nodes.remembers(session) if session.transport is Transport.PUSH else {}

    async def find_out(self, session: Session, fence: Fence, memories: Memories) -> None:
        """Nobody knows whether this process got that attempt: ask it, and stop it there before it runs elsewhere."""
        if (report := memories.get(fence)) is not None:
            await self.report(report)
            return
        withdraw = partial(send.withdraw, bucket=bucket_of(fence.execution_id), fence=fence)
        if not await persist(self._pool, withdraw, seconds=RETRY_SECONDS):
            return
        match await self._nodes.stop(session, fence, run_id="", reason="withdrawn"):
            case Stop.STOPPED:
                await self.take_back(fence, reason="withdrawn", crash=True)
            case Stop.IDLE:
                again = call.AGAIN_SECONDS
                await self.take_back(fence, reason="not_started", crash=fence in memories, delay_seconds=again)
            case Stop.UNABLE:
                await self.take_back(fence, reason="answer_lost", crash=True)
            case Stop.GONE | Stop.UNKNOWN:  # if it is dead, its silence will show it
                return

    async def recollect(self, session: Session) -> None:
        """Take from a process's own log the ends that it could not tell us, before anything of it is run again."""
        held: list[Fence] = []
        for bucket in self._placement.all():
            look = partial(send.held, bucket=bucket, session_id=session.id)
            held += await persist(self._pool, look, seconds=RETRY_SECONDS)
        held = [fence for fence in held if fence not in self.holding]
        memories = await self.memories(session) if held else {}
        for fence in held:
            if (report := memories.get(fence)) is not None:
                recorded = await self.report(report)
                log.info(
                    "result.recollected",
                    extra={"execution_id": show_execution(fence.execution_id), "came_to": recorded.code.value},
                )

    async def report(self, report: Report) -> Recorded:
        """What the process says of an attempt, said in its name."""
        if call.away(report, up_seconds=time.monotonic() - self._began):
            await self.take_back(report.fence, reason=call.AWAY_REASON, crash=True, delay_seconds=call.AGAIN_SECONDS)
            return Recorded(code=ReportCode.RECORDED, status=Status.QUEUED)
        recorded = await self._complete.put(self._checked(call.worded(report)))
        fresh = recorded.code in (ReportCode.RECORDED, ReportCode.DISCARDED)
        if fresh and recorded.status is not None and recorded.status.final:
            self._ended([report.fence.execution_id])
        return recorded

    async def take_back(self, fence: Fence, *, reason: str, crash: bool, delay_seconds: float = 0.0) -> None:
        """Withdraw this attempt."""
        withdraw = partial(
            expire.take_back,
            bucket=bucket_of(fence.execution_id),
            fences=[fence],
            reason=reason,
            crash=crash,
            make_id=self._make_id,
            delay_seconds=delay_seconds,
        )
        self._tell(await persist(self._pool, withdraw, seconds=RETRY_SECONDS))

    def _tell(self, swept: Swept) -> None:
        for namespace, target in swept.ready:
            self._ready(namespace, target)
        self._ended(swept.ended)

    def _checked(self, report: Report) -> Report:
        """A result that could not be given back as it is must not be taken."""
        if report.result is None:
            return report
        if len(report.result) > self._result_bytes_max:
            return call.refused(report.fence, f"The result is larger than {self._result_bytes_max} bytes.")
        try:
            orjson.loads(report.result)
        except orjson.JSONDecodeError:
            return call.refused(report.fence, "The result is not JSON.")
        return report if shallow(report.result) else call.refused(report.fence, "The result is nested too deeply.")
