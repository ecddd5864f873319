"""The doors: keys, namespaces, tickets, triggers; endpoints and what they hear."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID

from asyncpg import UniqueViolationError

from controlplane.domain import endpoint as endpoints
from controlplane.domain import trigger as triggers
from controlplane.domain.audit import Actor, ActorKind, AuditId, Entry
from controlplane.domain.cap import Cap, Ceiling
from controlplane.domain.delivery import DeliveryState
from controlplane.domain.endpoint import EndpointId
from controlplane.domain.ids import DeliveryId
from controlplane.domain.key import KeyId, KeyScope
from controlplane.domain.trigger import PRESETS, Incoming, Outcome, Preset, TriggerEventId, TriggerId
from controlplane.errors import (
    DeliveryNotFound,
    EndpointExists,
    EndpointNotFound,
    EndpointsFull,
    KeyReplaced,
    NamespaceExists,
    TriggerExists,
    TriggerNotFound,
)
from controlplane.postgres.pool import Connection
from controlplane.security.keys import digest, prefix_of
from controlplane.stages import audit, cap, deliver, endpoint, issue_key, redrive, register, ticket, trigger
from controlplane.stages.endpoint import Patience, Ref
from controlplane.stages.issue_key import Wish
from controlplane.stages.open_namespace import open_namespace
from tests.crash import daemons
from tests.crash.node import Node
from tests.crash.stories.waits import ask, decide, running
from tests.crash.stories.work import REFUSED, TAKEN, claim_due, deliver_all
from tests.crash.world import World
from tests.make import NAMESPACE, TARGET, make_id, submission, webhook

DAY_SECONDS = 86_400.0


def entry(id_: UUID, action: str, object_id: str) -> Entry:
    return Entry(
        id=AuditId(id_),
        bucket=0,
        namespace=NAMESPACE,
        actor=Actor(kind=ActorKind.ENVIRONMENT),
        action=action,
        object_kind="key",
        object_id=object_id,
        before=None,
        after=b"{}",
    )


async def keys(world: World) -> None:
    """A key is made, used, replaced once, revoked; who repeats a request after a lost answer has another key."""
    id_ = KeyId(world.new_id("key"))
    wish = Wish(
        id=id_,
        namespace=NAMESPACE,
        name="k",
        prefix=prefix_of(id_),
        hash=digest(b"key"),
        scopes=[KeyScope.READ],
        node_ids=[],
        created_by="boss",
        expires_in_seconds=None,
    )
    await make_key(world, wish)
    await world.ask(issue_key.touch, 0, [id_], older_than_seconds=0.0)
    await world.transaction(lambda conn: issue_key.lock(conn, id_, namespace=NAMESPACE))
    second = KeyId(world.new_id("second"))
    with suppress(KeyReplaced):  # by ourselves, when the answer was lost
        await world.ask(
            issue_key.rotate,
            id_,
            second,
            prefix=prefix_of(second),
            key_hash=digest(b"second"),
            namespace=NAMESPACE,
            overlap_seconds=60.0,
            expires_in_seconds=None,
            created_by="boss",
        )
    await world.ask(issue_key.revoke, id_, namespace=NAMESPACE, revoked_by="boss")
    await world.ask(cap.put, {Cap.KEYS: 5}, namespace=NAMESPACE)
    world.time_passes(32 * DAY_SECONDS)
    await world.tick(daemons.janitor(world.pool).tick)


async def make_key(world: World, wish: Wish) -> None:
    """As the API does it: the key, and in the same transaction the row that says so."""
    row = entry(world.new_id("audit"), "key.created", "key")

    async def both(conn: Connection) -> None:
        await issue_key.issue(conn, wish)
        await audit.append(conn, [row])

    with suppress(UniqueViolationError):  # made by an earlier try of ours, whose answer was lost
        await world.transaction(both)


async def namespaces(world: World) -> None:
    """A namespace gets its number once, and there is no room for more nodes in it than there may be."""
    for _ in range(2):
        with suppress(NamespaceExists):
            await world.ask(open_namespace, "team")
    ceiling = Ceiling(cap=Cap.NODES, most=1, buckets=(0,))
    node = register.Node(namespace=NAMESPACE, id="n", transport="pull", version="1")
    await world.ask(register.register, node, bucket=0, ceiling=ceiling)
    hash_ = await world.ask(_issue)
    await world.ask(ticket.redeem, hash_, path="/")


async def _issue(conn: Connection) -> bytes:
    """A ticket; whoever did not hear of it asks for another."""
    hash_ = digest(make_id(0).bytes)
    await ticket.issue(conn, hash_, namespace=NAMESPACE, path="/", key_id=None, seconds=ticket.TICKET_SECONDS)
    return hash_


TRIGGER = triggers.Definition(target=TARGET, scheme=PRESETS[Preset.GITHUB])


class Door(NamedTuple):
    id: TriggerId
    name: str


async def make_trigger(world: World, name: str = "t", **over: Any) -> Any:
    said: dict[str, Any] = {"secret_sealed": b"sealed", "same_secret": yes, "paused": False}
    definition = replace(TRIGGER, **over)
    id_ = TriggerId(world.new_id("trigger"))
    made, _ = await world.ask(trigger.create, 0, id_, definition, namespace=NAMESPACE, name=name, **said)
    return made


def yes(_: object) -> bool:
    return True


def came(world: World, key: str, name: str) -> Incoming:
    return Incoming(id=TriggerEventId(world.new_id(name)), key=key, type="push", body=b"{}", headers={})


async def an_event_comes_in(world: World) -> None:
    """Each event is one execution, however often it is sent; what is held is replayed by hand, once for each key."""
    node = await Node.start(world)
    made = await make_trigger(world)
    try:
        await make_trigger(world, event_types=("push",))
    except TriggerExists:
        await take(world, made.id, came(world, "first", "first"))
    await take(world, made.id, came(world, "first", "again"))
    await world.ask(_change)
    await world.ask(trigger.pause, 0, namespace=NAMESPACE, name="t", reason=None)
    held = came(world, "second", "second")
    await take(world, made.id, held)
    await world.ask(trigger.resume, 0, namespace=NAMESPACE, name="t")
    wish = submission(id=world.new_id("replayed"), idempotency_key="k", idempotency_scope="s", request_hash=b"1")
    await world.ask(trigger.replay, 0, made.id, held.id, wish)
    await world.transaction(_lock)
    with suppress(TriggerNotFound):
        await world.ask(_remove, "t")
    for one in await node.claim(limit=2):
        await node.report(one)


async def take(world: World, id_: TriggerId, event: Incoming) -> Any:
    said: dict[str, Any] = {"namespace": NAMESPACE, "outcome": Outcome.SUBMITTED, "reason": None}
    return await world.ask(trigger.take, 0, id_, event, submission(id=world.new_id(f"of {event.key}")), **said)


async def _change(conn: Connection) -> Any:
    return await trigger.change(
        conn, 0, lambda there: (there.definition, b"other"), namespace=NAMESPACE, name="t", overlap_seconds=60.0
    )


async def _lock(conn: Connection) -> Any:
    return await trigger.lock(conn, 0, namespace=NAMESPACE, name="t")


async def _remove(conn: Connection, name: str) -> None:
    await trigger.remove(conn, 0, namespace=NAMESPACE, name=name)


ENDPOINT = endpoints.Definition(url="https://h.example/", host="h.example:443", events=("*",))
GONE = replace(REFUSED, http_status=deliver.GONE_STATUS)
IMPATIENT = Patience(dead_max=1, failing_seconds=0.0)


async def listen(world: World, name: str, *, most: int = 20, **over: Any) -> endpoints.Endpoint:
    definition, id_ = replace(ENDPOINT, **over), EndpointId(world.new_id(f"endpoint {name}"))
    said: dict[str, Any] = {"secret_sealed": b"s", "headers_sealed": None, "same": yes, "most": most}
    made, _ = await world.ask(endpoint.create, 0, id_, definition, namespace=NAMESPACE, name=name, **said)
    return made


async def a_listener(world: World) -> None:
    """It is told of each event once; disabled it is told nothing, enabled again what waited; then it is removed."""
    await world.tick(_begin(world))
    made = await listen(world, "e")
    for name, over in (("e", {"targets": ("n.other",)}), ("f", {"most": 1})):
        with suppress(EndpointExists, EndpointsFull):
            await listen(world, name, **over)
    ref = Ref(made.id, None)
    node, one = await running(world, webhooks=(webhook(events=("execution.started",)),))
    await ask(world, one, "r", callback_url=None)
    await decide(world, one.execution_id)
    await node.report(one)
    await daemons.announced(world)
    await world.ask(endpoint.disable, 0, ref, namespace=NAMESPACE, by="boss", reason=None)
    await deliver_all(world, TAKEN, DeliveryState.DELIVERED)
    await world.ask(_revise, ref)
    await world.ask(_rotate, ref)
    await world.ask(endpoint.enable, 0, ref, namespace=NAMESPACE)
    await world.transaction(lambda conn: endpoint.lock(conn, 0, ref, namespace=NAMESPACE))
    await daemons.announced(world)
    await deliver_all(world, TAKEN, DeliveryState.DELIVERED)
    await daemons.announced(world)
    with suppress(EndpointNotFound):
        await world.ask(endpoint.remove, 0, ref, namespace=NAMESPACE)


def _begin(world: World) -> daemons.Tick:
    async def begin() -> int:
        await daemons.announcer(world.pool).begin()
        return 0

    return begin


async def _revise(conn: Connection, ref: Ref) -> Any:
    return await endpoint.change(
        conn, 0, ref, lambda there: (replace(there.definition, description="d"), None), namespace=NAMESPACE
    )


async def _rotate(conn: Connection, ref: Ref) -> Any:
    return await endpoint.rotate(conn, 0, ref, lambda _: b"other", namespace=NAMESPACE, overlap_seconds=60.0)


async def a_listener_fails(world: World) -> None:
    """Its deliveries die, it is disabled for that, another hears of it; a person sends one of them again."""
    await world.tick(_begin(world))
    await listen(world, "dying", url="https://d.example/", host="d.example:443", events=("execution.completed",))
    await listen(world, "other", events=("delivery.dead", "endpoint.disabled", "approval.requested"))
    node, one = await running(world)
    await node.report(one)
    await daemons.announced(world)
    [due] = await due_once(world)
    dead = deliver.Sent(due=due, attempt=GONE, state=DeliveryState.DEAD, wait_seconds=0.0)
    await world.ask(_settle, [dead])
    await world.ask(_settle, [dead])
    await daemons.announced(world)
    await deliver_all(world, TAKEN, DeliveryState.DELIVERED)
    await world.ask(redrive.retry, due.id, namespace=NAMESPACE)
    await world.ask(redrive.retry, due.id, namespace=NAMESPACE)
    await world.transaction(lambda conn: redrive.lock_state(conn, due.id, namespace=NAMESPACE))
    with suppress(DeliveryNotFound):
        await world.ask(redrive.retry, DeliveryId(world.new_id("unknown")), namespace=NAMESPACE)
    await world.ask(deliver.answered, 0, within_seconds=DAY_SECONDS, limit=10)
    await world.ask(endpoint.remove, 0, Ref(None, "other"), namespace=NAMESPACE)


async def due_once(world: World) -> list[deliver.Due]:
    """What is due, and what a dispatcher that has died had claimed."""
    while not (claimed := await claim_due(world)).due:
        world.time_passes(200.0)
        await world.tick(daemons.reaper(world.pool).tick)
    return list(claimed.due)


async def _settle(conn: Connection, sent: list[deliver.Sent]) -> Any:
    return await deliver.settle(conn, sent, IMPATIENT)


STORIES = (keys, namespaces, an_event_comes_in, a_listener, a_listener_fails)
