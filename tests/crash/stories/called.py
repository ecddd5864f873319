"""Nodes that are called: they register, are handed work, are asked what became of it, fall silent and come back."""

from __future__ import annotations

from typing import Any

from controlplane.domain.ids import SessionId
from controlplane.domain.lease import Lease, Transport
from controlplane.errors import LeaseLost
from controlplane.stages import expire, register, send, submit
from tests.crash import daemons
from tests.crash.node import Node, fence_of
from tests.crash.stories.clock import GONE_SECONDS, join
from tests.crash.world import World
from tests.make import NAMESPACE, make_id, submission

WHERE: dict[str, Any] = {"namespace": NAMESPACE, "node_id": "n"}


async def called(world: World) -> None:
    """Taken, prolonged, looked at, done."""
    node = Node(world, await join(world, "one", node_id="n"))
    await join(world, "one", node_id="n")
    await world.ask(submit.accept, [submission(id=world.new_id("one")), submission(id=world.new_id("two"))])
    one, two = await claim(world, node), await claim(world, node)
    await world.ask(send.prolong, 0, [fence_of(one)])
    await world.one(send.accept, fence_of(one))
    await world.ask(send.called, 0)
    await world.ask(send.held, 0, node.session.id)
    world.time_passes(600.0)
    unanswered = await world.ask(send.unanswered, 0, after_seconds=500.0)
    overrun = await world.ask(send.overrun, 0, after_seconds=500.0)
    await world.ask(send.cancelling, 0)
    await node.report(one)
    await world.ask(send.withdraw, 0, fence_of(two))
    await take_back(world, two)
    node.held.clear()
    try:
        await world.one(send.accept, fence_of(two))
    except LeaseLost:
        await node.report(await claim(world, node))

    assert [sent.fence for sent in unanswered] == [fence_of(two)]
    assert [sent.fence for sent in overrun] == [fence_of(one)]


async def claim(world: World, node: Node) -> Lease:
    """As the pusher does: what a lost claim has taken is found by nobody, and withdrawn as unanswered."""
    while True:
        held = await world.ask(send.held, 0, node.session.id)
        for fence in held:
            if fence not in node.held:
                await world.ask(expire.take_back, 0, [fence], reason="lost", crash=False, make_id=make_id)
        leases = await node.offered()
        if leases:
            return leases[0]


async def take_back(world: World, one: Lease) -> None:
    await world.ask(expire.take_back, 0, [fence_of(one)], reason="withdrawn", crash=True, make_id=make_id)


async def silent(world: World) -> None:
    """Nothing is heard of one, whose word counts all the same; it comes back, until somebody else has its address."""
    first = Node(world, await join(world, "one", node_id="n", base_url="http://a"))
    await world.one(submit.accept, submission(id=world.new_id("one")))
    one = await claim(world, first)
    world.time_passes(GONE_SECONDS)
    await daemons.until_quiet(world, daemons.reaper(world.pool).tick)
    said = await first.report(one)
    revived = await revive(world, "one")
    await revive(world, "one")
    nobody = await revive(world, "never seen")
    world.time_passes(GONE_SECONDS)
    await daemons.until_quiet(world, daemons.reaper(world.pool).tick)
    await join(world, "two", node_id="n", base_url="http://a")
    late = await revive(world, "one")

    assert said.status == "succeeded"
    assert nobody is None
    assert late.id == revived.id


async def revive(world: World, instance: str) -> Any:
    return await world.ask(_revive, instance)


async def _revive(conn: Any, instance: str) -> Any:
    return await register.revive(conn, 0, **WHERE, instance_id=instance, session_id=SessionId(make_id(0)))


async def goodbye(world: World) -> None:
    """One says that it goes, is still there, and then nobody listens; a function moves to another address."""
    node = Node(world, await join(world, "one", node_id="n"))
    await world.ask(register.drain, 0, **WHERE, seconds=35.0)
    world.time_passes(100.0)
    await node.beat()
    await world.ask(register.stay, 0, node.session.id, after_seconds=35.0)
    world.time_passes(600.0)
    await world.ask(expire.refuse, node.session.id, silent_seconds=500.0, drain_seconds=35.0)
    for n in range(2):
        await join(world, "f", node_id="f", transport=Transport.SERVERLESS, base_url=f"http://f{n}")
    await world.ask(_renew_serverless)


async def _renew_serverless(conn: Any) -> None:
    await send.renew_serverless(conn, 0)


async def together(world: World) -> None:
    """One is replaced, one silent, one at its end: a single pass frees what all of them held."""
    nodes = [Node(world, await join(world, f"{n}", node_id="n", base_url=f"http://{n}", slots=1)) for n in range(2)]
    pull = await Node.start(world, "m")
    await world.ask(submit.accept, [submission(id=world.new_id(f"{n}")) for n in range(2)])
    await world.one(submit.accept, submission(id=world.new_id("pulled"), target="m.echo"))
    for node in nodes:
        await claim(world, node)
    await pull.take("m.echo")
    world.time_passes(GONE_SECONDS)
    await join(world, "new", node_id="n", base_url="http://1")
    await daemons.until_quiet(world, daemons.reaper(world.pool).tick)
    pull = await Node.start(world, "m")
    await pull.report(await pull.take("m.echo"))
    last = Node(world, await join(world, "last", node_id="n", base_url="http://2"))
    for _ in range(2):
        await last.report(await claim(world, last))


STORIES = (called, silent, goodbye, together)
