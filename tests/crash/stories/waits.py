"""Waiting: for a signal, for people, for time, for children; and what becomes of children whose parent has ended."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from controlplane.domain.approval import Approval, Decision
from controlplane.domain.delivery import DeliveryState
from controlplane.domain.execution import ParentEnd, Status, Submission
from controlplane.domain.ids import ExecutionId
from controlplane.domain.lease import Lease, Recorded, Verdict
from controlplane.domain.step import AskApproval, AwaitEvent, Done, Sleep, StepOp, StepStatus, StepWrite
from controlplane.errors import (
    AlreadyFinished,
    ApprovalAlreadyRequested,
    ExecutionNotFound,
    Invalid,
    LeaseLost,
    NoApprovalRequest,
    StepNotFound,
)
from controlplane.postgres.pool import Connection
from controlplane.stages import approve, cancel, signal, step, submit, wait
from controlplane.stages.approve import Question
from controlplane.stages.signal import Signal
from tests.crash import daemons
from tests.crash.node import LEASE_SECONDS, Node, fence_of, report
from tests.crash.stories.work import TAKEN, deliver_all
from tests.crash.world import World
from tests.make import NAMESPACE, a_report, make_id, must, submission, webhook

DAY_SECONDS = 86_400.0
CALLBACK = "http://agent.example:8001/webhooks/approval"


async def running(world: World, name: str = "one", **over: Any) -> tuple[Node, Lease]:
    node = await Node.start(world)
    await world.one(submit.accept, submission(id=world.new_id(name), **over))
    return node, await node.take()


async def steps(world: World, one: Lease, *ops: StepOp) -> Any:
    return await world.one(step.write, StepWrite(fence=fence_of(one), ops=ops))


async def suspend(node: Node, one: Lease, *waits: str, any_: bool = False) -> Recorded:
    return await node.report(one, Verdict.WAITING, waits=waits, waits_any=any_)


async def tell(world: World, id_: ExecutionId, event: str, name: str, key: str | None = None) -> Any:
    told = Signal(
        id=world.new_id(name),
        execution_id=id_,
        namespace=NAMESPACE,
        event=event,
        payload=b"1",
        idempotency_key=key,
    )
    return await world.ask(signal.send, told)


async def signals(world: World) -> None:
    """One comes before it is waited for, one after, one twice; after the end there is nobody to tell."""
    node, one = await running(world)
    await tell(world, one.execution_id, "early", "first")
    await steps(world, one, Done(name="done", value=b"1"), AwaitEvent(name="a", event="early"))
    [b] = await steps(world, one, AwaitEvent(name="b", event="late"))
    await suspend(node, one, "a", "b")
    sent = await tell(world, one.execution_id, "late", "second", key="key")
    again = await tell(world, one.execution_id, "late", "third", key="key")
    await node.report(await node.take())
    with suppress(AlreadyFinished):
        await tell(world, one.execution_id, "late", "fourth")

    assert b.status is StepStatus.PENDING
    assert (sent.delivered, again.id, again.delivered) == (True, sent.id, True)


async def naps(world: World) -> None:
    """One sleeps without a lease, one has slept enough when it says so, one waits for what is not there."""
    node, one = await running(world)
    await steps(world, one, Sleep(name="nap", seconds=60.0), AwaitEvent(name="late", event="e", timeout_seconds=90.0))
    try:
        await suspend(node, one, "nothing")
    except StepNotFound:
        await suspend(node, one, "nap")
    world.time_passes(61.0)
    await world.tick(daemons.waker(world.pool).tick)
    two = await node.take()
    world.time_passes(61.0)
    again = await suspend(node, two, "nap", "late")
    await node.report(await node.take())

    assert again.status is Status.QUEUED


async def children(world: World) -> None:
    """A parent waits for two calls, one of which fails; asked again they are the same; another step is no call."""
    node, one = await running(world)
    await steps(world, one, Done(name="done", value=b"1"))
    calls = [child(world, one, name) for name in ("a", "b")]
    await world.ask(submit.accept, calls)
    again, wrong = await world.ask(submit.accept, [child(world, one, "a", "a2"), child(world, one, "done", "c")])
    before = await world.ask(submit.before, [child(world, one, "b", "b2")])
    await suspend(node, one, "a", "b")
    await node.report(await node.take())
    await node.report(await node.take(), Verdict.FAILED, retryable=False)
    await daemons.until_quiet(world, daemons.waker(world.pool).tick)
    await node.report(await node.take())
    [late] = await world.ask(submit.accept, [child(world, one, "e")])

    assert (must(again).id, must(again).replayed) == (calls[0].id, True)
    assert [must(answer).id for answer in before.values()] == [calls[1].id]
    assert isinstance(wrong, Invalid)
    assert isinstance(late, LeaseLost)


def child(world: World, parent: Lease, step: str | None, name: str = "", **over: Any) -> Submission:
    asked = submission(
        id=world.new_id(name or f"child {step}"),
        parent_id=parent.execution_id,
        parent_attempt=parent.attempt,
        step=step,
        run_id=parent.run_id,
        root_id=parent.root_id,
        priority=1,
    )
    return replace(asked, **over)


async def orphans(world: World) -> None:
    """A parent ends before its children: one that runs, with a child of its own, one that rests, and one that stays."""
    node, one = await running(world)
    await world.ask(submit.accept, [child(world, one, None, "runs"), child(world, one, "a")])
    first = await node.take()
    await world.one(submit.accept, child(world, first, None, "grandchild"))
    await world.one(submit.accept, child(world, one, None, "kept", on_parent_end=ParentEnd.KEEP, priority=0))
    await node.report(one, Verdict.FAILED, retryable=False)
    await daemons.until_quiet(world, daemons.reaper(world.pool).tick)
    said = await node.report(first)
    await daemons.until_quiet(world, daemons.reaper(world.pool).tick)
    await node.report(await node.take())

    assert said.status is Status.CANCELLED


async def both_at_once(world: World) -> None:
    """One flush brings the wait of one and the end of another, whose parent waits, too."""
    node, parent = await running(world, "parent")
    await world.one(submit.accept, child(world, parent, "a"))
    await suspend(node, parent, "a")
    await world.one(submit.accept, submission(id=world.new_id("sleeper")))
    first, second = await node.claim(limit=2)
    a, sleeper = (first, second) if first.parent_id else (second, first)
    await steps(world, sleeper, Sleep(name="nap", seconds=60.0))
    reports = [a_report(fence_of(a)), a_report(fence_of(sleeper), Verdict.WAITING, waits=("nap",))]
    await world.ask(report, reports, world.begun)
    node.held.clear()
    world.time_passes(61.0)
    await daemons.until_quiet(world, daemons.waker(world.pool).tick)
    for one in await node.claim(limit=2):
        await node.report(one)


def question(world: World, one: Lease, request_id: str, **over: Any) -> Question:
    asked = Question(
        execution_id=one.execution_id,
        attempt=one.attempt,
        namespace=NAMESPACE,
        node_id="n",
        request_id=request_id,
        url="https://people.example/",
        callback_url=CALLBACK,
        expires_seconds=3_600.0,
    )
    return replace(asked, **over)


async def ask(world: World, one: Lease, request_id: str, **over: Any) -> Approval:
    return await world.ask(approve.ask, question(world, one, request_id, **over), make_id=make_id)


async def decide(world: World, id_: ExecutionId, decision: Decision = Decision.APPROVED, **over: Any) -> Any:
    said: dict[str, Any] = {"namespace": NAMESPACE, "request_id": None, "feedback": "yes", "response": None} | over
    return await world.ask(approve.decide, id_, decision=decision, make_id=make_id, **said)


async def people(world: World) -> None:
    """Three attempts ask: the same twice, then another thing, then one that nobody decides in time."""
    node, one = await running(world, webhooks=(webhook(events=("approval.requested",)),))
    await ask(world, one, "dropped", expires_seconds=DAY_SECONDS)
    node, two = await taken_over(world)
    await ask(world, two, "dropped", expires_seconds=DAY_SECONDS)
    node, three = await taken_over(world)
    await ask(world, three, "kept")
    with suppress(ApprovalAlreadyRequested):
        await ask(world, three, "too many")
    await decide(world, three.execution_id)
    await decide(world, three.execution_id)
    told = await ask(world, three, "kept")
    await ask(world, three, "late", expires_seconds=100.0)
    world.time_passes(101.0)
    await world.tick(daemons.reaper(world.pool).tick)
    await deliver_all(world, TAKEN, DeliveryState.DELIVERED)
    await node.report(three)
    ended = await decide(world, three.execution_id, request_id="late")
    with suppress(NoApprovalRequest):
        await decide(world, three.execution_id, request_id="none")
    with suppress(ExecutionNotFound):
        await decide(world, world.execution_id("unknown"), request_id="none")
    with suppress(AlreadyFinished):
        await ask(world, three, "after the end")

    assert told.status is Decision.APPROVED
    assert (ended.processed, ended.approval.status) == (False, Decision.EXPIRED)


async def taken_over(world: World) -> tuple[Node, Lease]:
    """The process that ran it is dead, and another takes it up."""
    world.time_passes(LEASE_SECONDS + 1.0)
    await daemons.until_quiet(world, daemons.reaper(world.pool).tick)
    node = await Node.start(world)
    return node, await node.take()


async def people_by_step(world: World) -> None:
    """A step asks and its execution waits without a lease; another step finds what was decided."""
    node, one = await running(world)
    asked = AskApproval(name="a", request_id="r", title="Really?", url=None, expires_seconds=3_600.0)
    await steps(world, one, asked)
    await suspend(node, one, "a")
    await daemons.until_quiet(world, daemons.waker(world.pool).tick)
    await decide(world, one.execution_id)
    two = await node.take()
    [again] = await steps(world, two, replace(asked, name="b"))
    await steps(world, two, replace(asked, name="c", request_id="late", expires_seconds=100.0))
    await suspend(node, two, "c")
    world.time_passes(101.0)
    await world.tick(daemons.reaper(world.pool).tick)
    three = await node.take()
    await steps(world, three, replace(asked, name="d", request_id="by another version"))
    await suspend(node, three, "d")
    await world.ask(_decided_by_another_version)
    await daemons.until_quiet(world, daemons.waker(world.pool).tick)
    await node.report(await node.take())

    assert again.status is StepStatus.DONE


async def _decided_by_another_version(conn: Connection) -> None:
    """As servers did that knew nothing of steps: without a word to who waits."""
    await conn.execute("update approvals set status = 'approved', decided_at = clock() where status = 'pending'")


async def in_its_process(world: World) -> None:
    """A process says that it awaits a child, asks people meanwhile, goes on; after its end that is no news."""
    node, one = await running(world)
    for waits in (True, False, True):
        await hear(world, one.execution_id, waits=waits)
    await ask(world, one, "r", callback_url=None)
    await decide(world, one.execution_id)
    await node.report(one)
    late = await hear(world, one.execution_id, waits=True)

    assert (late.status, late.applied) == (Status.SUCCEEDED, False)


async def hear(world: World, id_: ExecutionId, *, waits: bool) -> Any:
    said: dict[str, Any] = {"namespace": NAMESPACE, "node_id": "n", "attempt": None, "message": "waiting"}
    return await world.ask(wait.hear, id_, waits=waits, **said)


async def cancelled_while_it_waits(world: World) -> None:
    """Who waits without a lease ends at once, and what it waits for ends with it."""
    node, one = await running(world)
    await steps(world, one, Sleep(name="nap", seconds=60.0), AwaitEvent(name="e", event="e"))
    await world.one(submit.accept, child(world, one, "a"))
    await suspend(node, one, "nap", "e", "a")
    await world.ask(cancel.request, [one.execution_id], reason=None, make_id=make_id)
    await daemons.until_quiet(world, daemons.reaper(world.pool).tick)


STORIES = (
    signals,
    naps,
    children,
    orphans,
    both_at_once,
    people,
    people_by_step,
    in_its_process,
    cancelled_while_it_waits,
)
