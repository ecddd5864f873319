"""The clock: leases that run out, times that are over, and schedules."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from controlplane.domain.ids import SessionId
from controlplane.domain.lease import Recorded, Verdict
from controlplane.domain.memory import Put
from controlplane.domain.retry import RetryPolicy
from controlplane.domain.schedule import CatchUp, Definition, Overlap, Rule, Schedule, ScheduleId
from controlplane.errors import ScheduleExists, ScheduleNotFound
from controlplane.stages import cancel, expire, register, schedule, submit
from tests.crash import daemons
from tests.crash.node import LEASE_SECONDS, Node
from tests.crash.stories.waits import child, running
from tests.crash.world import World
from tests.make import NAMESPACE, TARGET, a_process, make_id, run_place, submission, webhook

GONE_SECONDS = LEASE_SECONDS + 1.0
"""Longer than the lease of a node that says nothing."""
HOURLY = Definition(target=TARGET, input=b"{}", rule=Rule(interval_seconds=3_600.0))


async def a_node_dies(world: World) -> None:
    """What it held runs elsewhere, with the memory that it has left; who is cancelled meanwhile ends."""
    node, one = await running(world, webhooks=(webhook(),))
    await node.write(one, Put(place=run_place(one.run_id), value=b"1", length=None))
    await world.one(submit.accept, submission(id=world.new_id("two")))
    two = await node.take()
    await world.ask(cancel.request, [two.execution_id], reason=None, make_id=make_id)
    world.time_passes(GONE_SECONDS)
    await daemons.until_quiet(world, daemons.reaper(world.pool).tick)
    other = await Node.start(world)
    again = await other.take()
    await other.write(again, Put(place=run_place(one.run_id), value=b"2", length=None))
    await other.report(again)

    assert (again.execution_id, again.attempt) > (one.execution_id, one.attempt)


async def a_node_dies_later(world: World) -> None:
    """The reaper has looked at the whole before, and looks at closed sessions alone by now."""
    reaper = daemons.reaper(world.pool, whole_seconds=daemons.FOREVER_SECONDS)
    _, one = await running(world)
    await daemons.until_quiet(world, reaper.tick)
    world.time_passes(GONE_SECONDS)
    await daemons.until_quiet(world, reaper.tick)
    other = await Node.start(world)
    again = await other.take()
    await other.report(again)

    assert (again.execution_id, again.attempt) > (one.execution_id, one.attempt)


async def nodes_go(world: World) -> None:
    """One dies, one leaves, one is replaced: their work comes back in one pass, each in its own way."""
    await running(world)
    await world.one(submit.accept, submission(id=world.new_id("two"), target="m.echo"))
    pushed = await join(world, "first", node_id="m")
    old = Node(world, pushed)
    await old.take("m.echo")
    await world.one(submit.accept, submission(id=world.new_id("three")))
    leaving = await Node.start(world)
    await leaving.take()
    await world.ask(expire.leave, leaving.session.id, 0, reason="left", make_id=make_id)
    new = Node(world, await join(world, "second", node_id="m"))
    world.time_passes(GONE_SECONDS)
    await daemons.until_quiet(world, daemons.reaper(world.pool).tick)
    new = Node(world, await join(world, "third", node_id="m"))
    await new.report(await new.take("m.echo"))
    node = await Node.start(world)
    for again in await node.claim(limit=2):
        await node.report(again)


async def join(world: World, instance: str, *, node_id: str, **over: Any) -> Any:
    process = a_process(
        node_id=node_id, instance_id=instance, heartbeat_seconds=1_000.0, lease_seconds=LEASE_SECONDS, **over
    )
    node = register.Node(
        namespace=NAMESPACE, id=node_id, transport=process.transport.value, version="1", base_url=process.base_url
    )
    return await world.ask(_join, node, process)


async def _join(conn: Any, node: register.Node, process: register.Process) -> Any:
    return await register.join(conn, node, process, SessionId(make_id(0)))


async def out_of_time(world: World) -> None:
    """One runs too long, one never begins, one is silent and tried again, one only seems silent."""
    quiet: dict[str, Any] = {"heartbeat_seconds": 100.0, "retry": RetryPolicy(retries_max=1, delay_seconds=0.0)}
    node, one = await running(world, timeout_seconds=50.0, webhooks=(webhook(),))
    await world.one(submit.accept, submission(id=world.new_id("silent"), **quiet))
    silent = await node.take()
    await world.one(submit.accept, submission(id=world.new_id("parent"), heartbeat_seconds=100.0))
    parent = await node.take()
    await world.one(submit.accept, child(world, parent, "a", target="m.other"))
    never = submission(id=world.new_id("never"), target="m.other", schedule_to_start_seconds=50.0)
    await world.one(submit.accept, never)
    world.time_passes(101.0)
    await daemons.until_quiet(world, daemons.reaper(world.pool).tick)
    late: Recorded = await node.report(one)
    stale: Recorded = await node.report(silent)
    await node.report(await node.take())
    await node.report(parent)
    other = await Node.start(world, "m")
    await other.report(await other.take("m.other"))

    assert (late.status, stale.code) == ("timeout", "lease_lost")


async def heard_of(world: World) -> None:
    """A checkpoint is a sign of life, and forgives the crash before it."""
    node, one = await running(world, heartbeat_seconds=12_000.0)
    world.time_passes(GONE_SECONDS)
    await daemons.until_quiet(world, daemons.reaper(world.pool).tick)
    node = await Node.start(world)
    again = await node.take()
    world.time_passes(2_000.0)
    await node.write(again, Put(place=run_place(one.run_id), value=b"1", length=None))
    await node.report(again)


async def a_node_does_not_stop(world: World) -> None:
    """What was cancelled ends after the grace, whatever its node does."""
    node, one = await running(world)
    await world.ask(cancel.request, [one.execution_id], reason=None, make_id=make_id)
    world.time_passes(daemons.GRACE_SECONDS + 1.0)
    await daemons.until_quiet(world, daemons.reaper(world.pool).tick)
    said: Recorded = await node.report(one)

    assert said.status == "cancelled"


async def put(world: World, definition: Definition = HOURLY, name: str = "s", **over: Any) -> tuple[Schedule, bool]:
    said: dict[str, Any] = {"namespace": NAMESPACE, "name": name, "paused": None, "replacing": False} | over
    return await world.ask(schedule.put, 0, ScheduleId(world.new_id("schedule")), definition, **said)


async def a_schedule(world: World) -> None:
    """Made, replaced, fired, caught up with after an outage, run by hand, removed; what ran goes on."""
    node = await Node.start(world)
    await put(world)
    try:
        await put(world, Definition(target="n.other", input=b"{}", rule=HOURLY.rule))
    except ScheduleExists:
        waits = Definition(target=TARGET, input=b"{}", rule=HOURLY.rule, overlap=Overlap.QUEUE, catch_up=CatchUp.ALL)
        await put(world, waits, replacing=True)
    for _ in range(2):
        world.time_passes(3_600.0)
        await node.beat()
        await daemons.until_quiet(world, daemons.scheduler(world.pool).tick)
    for _ in range(2):
        await node.report(await node.take())
        await daemons.until_quiet(world, daemons.scheduler(world.pool).tick)
    await run_now(world)
    await node.report(await node.take())
    await world.ask(schedule.pause, 0, namespace=NAMESPACE, name="s")
    await world.ask(schedule.resume, 0, namespace=NAMESPACE, name="s")
    found = await world.transaction(_lock)
    await remove(world)

    assert found.name == "s"


async def remove(world: World) -> None:
    with suppress(ScheduleNotFound):  # by an earlier try, whose answer was lost
        await world.ask(schedule.remove, 0, namespace=NAMESPACE, name="s")


async def _lock(conn: Any) -> Any:
    return await schedule.lock(conn, 0, namespace=NAMESPACE, name="s")


async def run_now(world: World) -> Any:
    return await world.ask(
        schedule.run_now,
        0,
        world.execution_id("by hand"),
        "run",
        namespace=NAMESPACE,
        name="s",
        served=await daemons.serves(NAMESPACE, TARGET),
        target=TARGET,
        idempotency_key="key",
    )


async def one_after_the_other(world: World) -> None:
    """The next tick cancels what still runs; a namespace without room is looked at later, a broken rule, too."""
    node = await Node.start(world)
    await put(world, Definition(target=TARGET, input=b"{}", rule=HOURLY.rule, overlap=Overlap.CANCEL_OTHER))
    world.time_passes(3_600.0)
    await node.beat()
    full = daemons.scheduler(world.pool)
    full._full = lambda _: True
    await world.tick(full.tick)
    world.time_passes(schedule.FULL_SECONDS + 1.0)
    await daemons.until_quiet(world, daemons.scheduler(world.pool).tick)
    first = await node.take()
    world.time_passes(3_600.0)
    await daemons.until_quiet(world, daemons.scheduler(world.pool).tick)
    await node.report(first, Verdict.CANCELLED)
    await world.ask(_break_the_rule)
    world.time_passes(3_600.0)
    await world.tick(daemons.scheduler(world.pool).tick)
    await remove(world)
    await node.report(await node.take())


async def _break_the_rule(conn: Any) -> None:
    """As if another replica knew a time zone that this one does not."""
    await conn.execute("update schedules set cron = '0 * * * *', interval_seconds = null, time_zone = 'No/Where'")


STORIES = (
    a_node_dies,
    nodes_go,
    out_of_time,
    heard_of,
    a_node_does_not_stop,
    a_schedule,
    one_after_the_other,
)
