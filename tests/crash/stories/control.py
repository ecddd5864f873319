"""People at the control: pauses, drains, limits, bulks, restarts."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from controlplane.domain.bulk import Action, Asked, BulkId, Filter
from controlplane.domain.delivery import DeliveryState
from controlplane.domain.execution import Replay, ReplayMode
from controlplane.domain.ids import ExecutionId
from controlplane.domain.lease import Verdict
from controlplane.domain.limit import KEY, NODE, READY_MAX, REASONER, Rule
from controlplane.domain.pause import Paused
from controlplane.domain.placement import Placement
from controlplane.domain.replay import Reuse
from controlplane.errors import (
    AlreadyFinished,
    InvalidState,
    LimitNotFound,
    NodeInUse,
    NodeNotFound,
    SessionDraining,
)
from controlplane.reads import bulks
from controlplane.stages import admit, bulk, forget_node, limit, pause, replay, submit, withhold
from controlplane.stages.bulk import Keyed
from controlplane.stages.follow import CHILDREN_MAX
from controlplane.stages.register import Reasoner
from tests.crash import daemons
from tests.crash.node import LEASE_SECONDS, Node
from tests.crash.stories.waits import child, running
from tests.crash.stories.work import REFUSED, TAKEN, deliver_all
from tests.crash.world import World
from tests.make import NAMESPACE, TARGET, make_id, must, submission, webhook

STOCK = Placement()


async def unless_done(turn: Awaitable[Any]) -> None:
    """Who asks again after a lost answer is told that it is so already."""
    with suppress(InvalidState, AlreadyFinished):
        await turn


async def pauses(world: World) -> None:
    """One that waits for a node is held back and goes on; one that runs is parked by its failure; what ended is not."""
    node = await Node.start(world)
    one = submission(id=world.new_id("one"), retry=replace(submission().retry, retries_max=1, delay_seconds=0.0))
    await world.one(submit.accept, one)
    await unless_done(world.ask(pause.request, one.id, reason="wait"))
    await unless_done(world.ask(pause.resume, one.id))
    first = await node.take()
    await unless_done(world.ask(pause.request, one.id, reason=None))
    await unless_done(world.ask(pause.resume, one.id))
    await unless_done(world.ask(pause.request, one.id, reason=None))
    await node.report(first, Verdict.FAILED, retryable=True)
    await unless_done(world.ask(pause.resume, one.id))
    await node.report(await node.take())
    await unless_done(world.ask(pause.request, one.id, reason=None))


async def withheld(world: World) -> None:
    """Nothing is handed out of what is paused; a node that drains gets nothing; then all goes on."""
    node = await Node.start(world)
    await world.one(submit.accept, submission(id=world.new_id("one")))
    for what in (Paused.node("n"), Paused.reasoner("n", TARGET)):
        for _ in range(2):
            said: dict[str, Any] = {"namespace": NAMESPACE, "reason": "because", "paused_by": None}
            await world.ask(withhold.pause, [0], what, **said)
        await world.ask(withhold.resume, [0], what, namespace=NAMESPACE)
    await world.ask(withhold.drain, 0, namespace=NAMESPACE, node_id="n", reason=None, asked_by=None)
    try:
        await node.take()
    except SessionDraining:
        await world.ask(withhold.undrain, 0, namespace=NAMESPACE, node_id="n")
    await node.report(await node.take())


async def forgotten(world: World) -> None:
    """A node that has nothing to do any more is forgotten, one that has is not, and it comes back as a new one."""
    declares = Reasoner(target=TARGET, reasoner_id="echo", type="reasoner", concurrency=2)
    await Node.start(world, reasoners=(declares,))
    asked: dict[str, Any] = {"buckets": [0], "namespace": NAMESPACE, "node_id": "n"}
    with suppress(NodeInUse):
        await world.ask(forget_node.forget, 0, **asked)
    world.time_passes(LEASE_SECONDS + 1.0)
    await daemons.until_quiet(world, daemons.reaper(world.pool).tick)
    with suppress(NodeNotFound):  # by an earlier try, whose answer was lost
        await world.ask(forget_node.forget, 0, **asked)
    back = await Node.start(world, reasoners=(declares,))
    await world.one(submit.accept, submission(id=world.new_id("one")))
    await back.report(await back.take())


async def limits(world: World) -> None:
    """Two of a key at most, one of a node at most by what it declares; who came before a limit is counted by it."""
    node = await Node.start(world)
    await world.ask(submit.accept, [submission(id=world.new_id(f"before {n}")) for n in range(2)])
    await world.ask(limit.put, 0, Rule(concurrency_max=1), namespace=NAMESPACE, key=REASONER + TARGET)
    await world.ask(limit.put, 0, Rule(rate_max=9, rate_seconds=60.0), namespace=NAMESPACE, key=NODE + "n")
    keyed = [
        submission(
            id=world.new_id(f"keyed {n}"),
            concurrency_key="tools",
            concurrency_max=1,
            line=KEY + "tools",
            fairness_key=f"user {n}",
        )
        for n in range(3)
    ]
    await world.ask(submit.accept, keyed)
    admitter = daemons.admitter(world.pool)
    await daemons.until_quiet(world, admitter.tick)
    world.time_passes(admit.SETTLE_SECONDS + 1.0)
    await daemons.until_quiet(world, admitter.tick)
    for _ in range(5):
        await node.report(await node.take())
        await daemons.until_quiet(world, daemons.admitter(world.pool).tick)
    found = await world.transaction(_lock)
    await remove(world, NODE + "n")
    declares = Reasoner(target=TARGET, reasoner_id="echo", type="reasoner", concurrency=2)
    await Node.start(world, reasoners=(declares,))
    await remove(world, REASONER + TARGET)
    await Node.start(world, reasoners=(replace(declares, concurrency=None),))

    assert found is not None


async def _lock(conn: Any) -> Any:
    return await limit.lock(conn, 0, namespace=NAMESPACE, key=NODE + "n")


async def remove(world: World, key: str) -> None:
    with suppress(LimitNotFound):  # by an earlier try, whose answer was lost
        await world.ask(limit.remove, 0, namespace=NAMESPACE, key=key)


async def turns(world: World) -> None:
    """Of one user's many only a window is ready; the rest is let in as it empties."""
    node = await Node.start(world)
    many = [submission(id=world.new_id(f"{n}"), fairness_key="user") for n in range(READY_MAX + 1)]
    await world.ask(submit.accept, many)
    await node.report(await node.take())
    await daemons.until_quiet(world, daemons.admitter(world.pool).tick)
    for one in await node.claim(limit=READY_MAX):
        await node.report(one)


async def a_large_family(world: World) -> None:
    """More children than one pass cancels."""
    node, one = await running(world)
    many = [child(world, one, None, f"{n}") for n in range(CHILDREN_MAX + 1)]
    await world.ask(submit.accept, many)
    await node.report(one, Verdict.FAILED, retryable=False)
    await daemons.until_quiet(world, daemons.reaper(world.pool).tick)


async def begin(world: World, action: Action, name: str, **filter_: Any) -> BulkId:
    reuse = Reuse.SUCCEEDED_BEFORE if action is Action.RETRY else None
    asked = Asked(namespace=NAMESPACE, action=action, filter=Filter(**filter_), reuse=reuse, reason="because")
    counted = await world.ask(bulks.count, asked, placement=STOCK)
    keyed = Keyed(key=name, request_hash=b"x")
    id_, _ = await world.ask(bulk.begin, BulkId(world.new_id(name)), asked, counted=counted, keyed=keyed)
    world.call(id_, name)
    return id_


async def bulks_of_all_kinds(world: World) -> None:
    """What waits is paused, resumed, cancelled; what has failed is retried; what nobody took is sent again."""
    node = await Node.start(world)
    await world.ask(submit.accept, [submission(id=world.new_id(f"{n}"), webhooks=(webhook(),)) for n in range(2)])
    for action in (Action.PAUSE, Action.RESUME):
        await begin(world, action, action.value, target=TARGET)
        await daemons.until_quiet(world, daemons.bulker(world.pool).tick)
    await node.report(await node.take(), Verdict.FAILED, retryable=False)
    for action in (Action.CANCEL, Action.RETRY, Action.RETRY):
        await begin(world, action, f"{action.value} {len(world.names)}", target=TARGET)
        await daemons.until_quiet(world, daemons.bulker(world.pool).tick)
    await node.report(await node.take())
    await deliver_all(world, REFUSED, DeliveryState.DEAD)
    await begin(world, Action.REDRIVE_DELIVERIES, "redrive")
    await daemons.until_quiet(world, daemons.bulker(world.pool).tick)
    await deliver_all(world, TAKEN, DeliveryState.DELIVERED)
    id_ = await begin(world, Action.CANCEL, "stopped", target=TARGET)
    await begin(world, Action.CANCEL, "stopped", target=TARGET)
    await unless_done(world.ask(bulk.stop, id_, [0], namespace=NAMESPACE))
    await unless_done(world.ask(bulk.stop, id_, [0], namespace=NAMESPACE))


async def poison(world: World) -> None:
    """What cannot be done keeps nothing else from being done, and a filter that cannot be read ends its bulk."""
    await world.ask(submit.accept, [submission(id=world.new_id(f"{n}")) for n in range(2)])
    await begin(world, Action.CANCEL, "poisoned", target=TARGET)
    await world.ask(_poison)
    await daemons.until_quiet(world, daemons.bulker(world.pool).tick)
    await begin(world, Action.CANCEL, "unreadable", target=TARGET)
    await world.ask(_unreadable)
    await daemons.until_quiet(world, daemons.bulker(world.pool).tick)


async def _poison(conn: Any) -> None:
    await conn.execute(
        """
        create or replace function refuse() returns trigger language plpgsql as $$
        begin
          if old.id = (select min(id::text)::uuid from executions) then
            raise exception 'not this one' using errcode = '22023';
          end if;
          return old;
        end $$
        """
    )
    await conn.execute("create or replace trigger poison before delete on queue for each row execute function refuse()")


async def _unreadable(conn: Any) -> None:
    await conn.execute("update bulks set filter = '{\"from\": \"the future\"}' where state = 'running'")


async def a_restart(world: World) -> None:
    """A run is started anew: what its source had finished is taken over, the rest is asked again."""
    node, root = await running(world, "source")
    calls = [child(world, root, None, f"call {n}", input=b'{"n": %d}' % n, webhooks=(webhook(),)) for n in range(2)]
    await world.ask(submit.accept, calls)
    for one in await node.claim(limit=2):
        await node.report(one)
    await node.report(root, Verdict.FAILED, retryable=False)
    await world.one(submit.accept, submission(id=world.new_id("anew"), source_execution_id=root.execution_id))
    anew = await node.take()
    before = Replay(source_run_id=root.run_id, mode=ReplayMode.SUCCEEDED_BEFORE, before_id=make_last())
    asks = [
        child(world, anew, None, "same", input=calls[0].input, replay=before),
        child(world, anew, None, "same as JSON", input=b'{"n":1}', replay=before),
        child(world, anew, None, "new", input=b'{"n": 9}', replay=before),
    ]
    same, as_json, new = await world.ask(replay.accept, asks, make_id=make_id)
    again = await world.ask(replay.accept, asks[:1], make_id=make_id)
    await node.report(await node.take())
    await node.report(anew)

    assert [must(one).source_id for one in (same, as_json, new)] == [calls[0].id, calls[1].id, None]
    assert [must(one).source_id for one in again] == [calls[0].id]


def make_last() -> ExecutionId:
    """Behind everything that there is."""
    return ExecutionId(type(make_id(0))(int=2**128 - 1))


STORIES = (pauses, withheld, forgotten, limits, turns, a_large_family, bulks_of_all_kinds, poison, a_restart)
