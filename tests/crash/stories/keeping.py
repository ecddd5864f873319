"""Keeping: what attempts say while they run, what is counted, sealed anew, and forgotten when its time is over."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

from controlplane.daemons.statistician import Statistician
from controlplane.domain import delivery
from controlplane.domain.breaker import FAILURES_MAX
from controlplane.domain.delivery import DeliveryState
from controlplane.domain.execution import Webhook
from controlplane.domain.lease import Lease, Verdict
from controlplane.domain.memory import Append, Put
from controlplane.domain.step import Done
from controlplane.domain.vector import Forget, Keep, measure
from controlplane.errors import LeaseLost
from controlplane.postgres.pool import Connection
from controlplane.security.secrets import KeyRing
from controlplane.stages import count, embed, forget, local, log, prune, reseal, submit
from controlplane.stages.local import LocalCall
from controlplane.stages.log import Line, Note, Progress
from controlplane.stages.reseal import Cursor
from tests.crash import daemons
from tests.crash.node import Node, fence_of
from tests.crash.stories.clock import GONE_SECONDS
from tests.crash.stories.waits import child, running, steps, tell
from tests.crash.stories.work import REFUSED, TAKEN, deliver_all
from tests.crash.world import World
from tests.make import run_place, submission, webhook

DAY_SECONDS = 86_400.0
MONTH_SECONDS = 32 * DAY_SECONDS
OLD, NEW = KeyRing({"old": bytes(32)}), KeyRing({"new": bytes([1] * 32), "old": bytes(32)})


async def said(world: World, one: Lease, *entries: Any) -> None:
    await world.ask(log.append, entries)


async def what_it_says(world: World) -> None:
    """Lines, notes, progress, calls of its own and vectors; the crash before is forgiven; a last line after the end."""
    node, one = await running(world, heartbeat_seconds=12_000.0)
    world.time_passes(GONE_SECONDS)
    await daemons.until_quiet(world, daemons.reaper(world.pool).tick)
    node = await Node.start(world)
    one = await node.take()
    world.time_passes(2_000.0)
    fence, place = fence_of(one), run_place(one.run_id)
    line = Line(fence=fence, level="info", message="line")
    await said(world, one, line, Note(fence=fence, data=b"{}"), Progress(fence=fence, progress=b'{"done":1}'))
    call = LocalCall(fence=fence, local_id="a", parent_local_id=None, reasoner_id="child", status="running")
    await world.one(local.keep, call)
    await world.one(embed.write, Keep(place=place, embedding=measure((1.0,), where=""), metadata=None, fence=fence))
    await world.one(embed.write, Forget(place=place, fence=fence))
    await world.ask(embed.clear, place, fence=fence)
    await node.report(one)
    await said(world, one, line)
    with suppress(LeaseLost):
        await world.ask(embed.clear, place, fence=fence)


async def counted(world: World) -> None:
    """The count of what there is begins, is made, and rests; the planner hears of what has grown."""
    node, one = await running(world)
    census = daemons.census(world.pool)
    await world.tick(census.tick)
    await world.tick(Statistician(world.pool).tick)
    await node.report(one)
    world.time_passes(3_600.0)
    await world.tick(census.tick)
    world.time_passes(3_600.0)
    await world.ask(count.stored, 0, older_than_seconds=60.0, limit=1)
    await world.ask(count.stored, 0, older_than_seconds=60.0, limit=1)


async def sealed_anew(world: World) -> None:
    """Secrets are sealed with another key, a batch at a time; a server looks whether it can open them."""
    id_ = world.execution_id("one")
    secret, headers = (OLD.seal(b"s", bound_to=delivery.sealed_for(id_, 1, what)) for what in ("secret", "headers"))
    hook = Webhook(url="https://h/", host="h", secret_sealed=secret, headers_sealed=headers, attempts_max=5)
    await world.one(submit.accept, submission(id=id_, webhooks=(hook,)))
    for place in reseal.PLACES[:2]:
        await world.ask(reseal.batch, 0, place, NEW, after=Cursor())
    found: Counter[str] = await world.ask(reseal.counts, 0, reseal.PLACES[0], NEW)
    await world.tick(daemons.inspector(world.pool, NEW).tick)

    assert found == {"new": 1}


async def forgotten(world: World) -> None:
    """A run that is over leaves with all that belongs to it; one that is not, and what refers to it, stays."""
    await world.tick(daemons.announcer(world.pool).tick)
    node, one = await running(world, webhooks=(webhook(),))
    await world.one(submit.accept, child(world, one, "a"))
    await node.report(await node.take())
    await node.write(one, Put(place=run_place(one.run_id), value=b"1", length=None))
    await node.write(one, Append(place=run_place(one.run_id, "l"), items=(b"1",), expected_length=0))
    await steps(world, one, Done(name="done", value=b"1"))
    await tell(world, one.execution_id, "e", "signal")
    await said(world, one, Line(fence=fence_of(one), level="info", message="line"))
    await node.report(one)
    await deliver_all(world, TAKEN, DeliveryState.DELIVERED)
    await world.one(submit.accept, submission(id=world.new_id("young")))
    world.time_passes(2 * daemons.KEPT_SECONDS)
    await daemons.announced(world)
    would = await world.ask(_preview)
    await world.ask(forget.rouse, 0)
    await daemons.until_quiet(world, daemons.archivist(world.pool).tick)
    await world.ask(forget.under_way, 0, keep=daemons.KEEP)

    assert sum(part.why[None] for part in would) == 2


async def _preview(conn: Connection) -> list[forget.Preview]:
    return [part async for part in forget.preview(conn, 0, keep=daemons.KEEP)]


async def forgotten_whole(world: World) -> None:
    """As before, of a policy that trims nothing first: the run itself takes its events and lines with it."""
    await world.tick(daemons.announcer(world.pool).tick)
    node, one = await running(world, webhooks=(webhook(),))
    await said(world, one, Line(fence=fence_of(one), level="info", message="line"))
    await node.write(one, Put(place=run_place(one.run_id), value=b"1", length=None))
    await node.report(one, Verdict.FAILED, retryable=False)
    await deliver_all(world, REFUSED, DeliveryState.DEAD)
    world.time_passes(2 * daemons.KEPT_SECONDS)
    await daemons.announced(world)
    await world.ask(forget.step, 0, keep=daemons.KEEP)
    for _ in range(4):
        world.time_passes(forget.REST_SECONDS + 1.0)
        await world.ask(forget.step, 0, keep=daemons.KEEP)


async def swept(world: World) -> None:
    """The janitor's month: partitions ahead, keys, secrets, changes, and a host that has not answered for long."""
    hooks = (webhook(),) * FAILURES_MAX
    node, one = await running(world, webhooks=hooks, idempotency_key="k", request_hash=b"x")
    await node.write(one, Put(place=run_place(one.run_id), value=b"1", length=None))
    await node.report(one)
    await deliver_all(world, REFUSED, DeliveryState.PENDING, 60.0)
    for _ in range(2):
        world.time_passes(MONTH_SECONDS)
        await daemons.until_quiet(world, daemons.janitor(world.pool).tick)
    await world.ask(prune.strays)


STORIES = (what_it_says, counted, sealed_anew, forgotten, forgotten_whole, swept)
