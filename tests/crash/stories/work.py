"""The thread: submit, lease, renew, checkpoint, complete, finish, deliver."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from controlplane.domain.delivery import Attempt, AttemptOutcome, DeliveryState
from controlplane.domain.execution import Status
from controlplane.domain.lease import ReportCode, Verdict
from controlplane.domain.memory import Append, Put, Remove
from controlplane.domain.retry import RetryPolicy
from controlplane.errors import AlreadyFinished, IdempotencyConflict, LengthMismatch
from controlplane.stages import cancel, deliver, log, submit
from controlplane.stages.deliver import BEGINNING, Claimed, Sent
from tests.crash import daemons
from tests.crash.node import Node, fence_of
from tests.crash.world import World
from tests.make import make_id, must, run_place, submission, webhook

RETRY = RetryPolicy(retries_max=1, delay_seconds=60.0, factor=1.0, cap_seconds=60.0)
DELIVERY_LEASE_SECONDS = 90.0
TAKEN = Attempt(
    outcome=AttemptOutcome.DELIVERED,
    http_status=200,
    latency_ms=1,
    error=None,
    response_body=b"",
    retry_after_seconds=None,
    final=False,
)
REFUSED = replace(TAKEN, outcome=AttemptOutcome.FAILED, http_status=502)


async def a_success(world: World) -> None:
    """Submitted alone, leased, renewed, done; a lease that nobody heard of comes back with the next heartbeat.

    Before and after it its process holds nothing, and is kept alive while it waits.
    """
    node = await Node.start(world)
    idle = await node.wait_idle()
    await world.one(submit.accept, submission(id=world.new_id("one")))
    await node.take()
    node.held.clear()
    await node.beat(older_than_seconds=0.0)
    one = await node.take()
    busy = not await node.wait_idle()
    await node.beat()
    said = await node.report(one)

    assert said.status is Status.SUCCEEDED
    assert (idle, busy) == (True, True)
    assert await node.wait_idle()


async def waited_for(world: World) -> None:
    """Submitted while a process waits for it; what it does not hear of comes back with its next heartbeat.

    How one stood as it began is known when it ends, unless it has changed since.
    """
    node = await Node.start(world)
    wishes = [submission(id=world.new_id(name)) for name in ("one", "two", "three")]
    offers = {one.id: node.session for one in wishes[:2]}
    answers = await world.ask(submit.accept, wishes, offers, world.begun)
    leases = [lease for one in answers if (lease := must(one).lease) is not None]
    node.held += map(fence_of, leases)
    await node.beat(older_than_seconds=0.0)
    leases += await node.claim(limit=3 - len(leases))
    [changed] = [one for one in leases if one.execution_id == wishes[1].id]
    await world.one(log.append, log.Progress(fence=fence_of(changed), progress=b"{}"))
    said = [await node.report(one) for one in leases]

    assert [one.status for one in said] == [Status.SUCCEEDED] * 3


async def asked_by_key(world: World) -> None:
    """Two requests with one key are one execution; another one with that key is refused."""
    wish = submission(id=world.execution_id("one"), idempotency_key="key", request_hash=b"x")
    await world.one(submit.accept, wish)
    again = await world.one(submit.accept, replace(wish, id=world.execution_id("again")))
    batch = [replace(wish, id=world.execution_id("other"), request_hash=b"y"), submission(id=world.new_id("two"))]
    conflict, two = await world.ask(submit.accept, batch)
    looked = await world.ask(submit.before, [wish, batch[0], batch[1], submission(id=world.new_id("three"))])

    assert (again.id, again.replayed) == (wish.id, True)
    assert isinstance(conflict, IdempotencyConflict)
    assert must(looked[wish.id]).id == wish.id
    assert must(two).id == batch[1].id


async def told_by_webhook(world: World) -> None:
    """Fails, is tried again, succeeds; who was to tell it dies; its receiver refuses, then takes it."""
    node = await Node.start(world)
    hook = webhook(events=("execution.retrying", "approval.requested"))
    one = submission(id=world.new_id("one"), webhooks=(hook, webhook()), retry=RETRY)
    await world.one(submit.accept, one)
    first = await node.take()
    await node.report(first, Verdict.FAILED, retryable=True)
    world.time_passes(61.0)
    await world.tick(daemons.reaper(world.pool).tick)
    said = await node.report(await node.take())
    await claim_due(world)
    world.time_passes(DELIVERY_LEASE_SECONDS + 1.0)
    await world.tick(daemons.reaper(world.pool).tick)
    await deliver_all(world, REFUSED, DeliveryState.PENDING, 60.0)
    world.time_passes(61.0)
    await deliver_all(world, TAKEN, DeliveryState.DELIVERED)

    assert said.status is Status.SUCCEEDED


async def deliver_all(world: World, attempt: Attempt, state: DeliveryState, wait_seconds: float = 0.0) -> None:
    """What a dispatcher does that settles after the answer; what a dead one has claimed is claimed again."""
    told: set[object] = set()
    for _ in range(6):
        claimed = await claim_due(world)
        sent = [Sent(due=one, attempt=attempt, state=state, wait_seconds=wait_seconds) for one in claimed.due]
        if sent:
            await world.ask(deliver.settle, sent)
        told |= {one.id for one in claimed.due}
        if not claimed.due and told:
            return
        if not told:
            world.time_passes(DELIVERY_LEASE_SECONDS + 1.0)
            await world.tick(daemons.reaper(world.pool).tick)


async def claim_due(world: World) -> Claimed:
    return await world.ask(
        deliver.claim_due,
        0,
        after=BEGINNING,
        full_hosts=(),
        per_host=10,
        limit=10,
        lease_seconds=DELIVERY_LEASE_SECONDS,
    )


async def memory(world: World) -> None:
    """A run keeps values and lists; what was appended is not appended twice, what is stale changes nothing."""
    node = await Node.start(world)
    await world.one(submit.accept, submission(id=world.new_id("one"), run_id="run"))
    one = await node.take()
    a, b = run_place("run", "a"), run_place("run", "b")
    await node.write(one, Put(place=a, value=b"1", length=None), Append(place=b, items=(b"1", b"2"), expected_length=0))
    await node.write(one, Append(place=b, items=(b"3",), expected_length=2))
    await node.write(one, Append(place=b, items=(b"3",), expected_length=2))
    with suppress(LengthMismatch):
        await node.write(one, Append(place=b, items=(b"4",), expected_length=9))
    await node.write(one, Remove(place=a), Append(place=b, items=(b"4",), expected_length=3))
    await node.write(one, Put(place=b, value=b"[1]", length=1))
    await node.report(one)


async def cancelled(world: World) -> None:
    """One that waits ends at once, one that runs when its node says so; who ended before is not cancelled."""
    node = await Node.start(world)
    run = submission(id=world.new_id("runs"), webhooks=(webhook(),))
    await world.one(submit.accept, run)
    one = await node.take()
    rest = submission(id=world.new_id("rests"))
    await world.one(submit.accept, rest)
    await world.ask(cancel.request, [run.id, rest.id, world.execution_id("unknown")], reason="enough", make_id=make_id)
    said = await node.report(one)
    [late] = await world.ask(cancel.request, [run.id], reason=None, make_id=make_id)

    assert (said.code, said.status) == (ReportCode.DISCARDED, Status.CANCELLED)
    assert isinstance(late, AlreadyFinished)


STORIES = (a_success, waited_for, asked_by_key, told_by_webhook, memory, cancelled)
