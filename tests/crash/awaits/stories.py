"""Stories: what is going on while a server dies. Each can be told again and again in one place, under new keys.

Callers try again as their SDK does, under the same key, until they are answered; a story returns when all that it asked
was acknowledged. What has to come of it stands in what it returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from tests.crash.awaits.agents import AGAIN_CHILDREN, MEMORIES
from tests.crash.awaits.outside import CALLED, FUNCTIONS, SECRET, Called, unique
from tests.crash.awaits.place import KEEPER, OUTAGE_SECONDS, PARKED, Broken, Place, Told

LOOK_SECONDS = 0.1
DISPATCHED_SECONDS = 30.0
TIMEOUT_SECONDS = 0.3
DRAINS_SECONDS = 1.5
GONE_SECONDS = 2.5
"""Longer than a node that is called may be silent."""
ITEMS = ["a", "b", "c"]

Story = Callable[[Place], Awaitable[Told]]


async def callers(place: Place) -> Told:
    """Everything that a server is asked by callers, and by an agent on our SDK."""
    told = Told(key=unique("callers"))
    await asyncio.gather(
        _async(place, told, f"{KEEPER}.corpus", {"items": ITEMS}, {"results": ["A", "B", "C"]}, repeats=True),
        _async(place, told, f"{KEEPER}.flaky", {}, 1),
        _async(place, told, f"{KEEPER}.stepwise", {"n": 1}, [3, 4], repeats=True),
        _async(place, told, f"{KEEPER}.memories", {"session": told.key}, MEMORIES),
        _batch(place, told),
        _sync(place, told),
        _cancelled(place, told, f"{KEEPER}.hold"),
        _remembered(place, told),
        _forgotten(place, told),
    )
    return told


async def called(place: Place) -> Told:
    """Work for a node that is called, which answers, calls back, asks people, and is stopped."""
    told = Told(key=unique("called"))
    await asyncio.gather(
        _async(place, told, f"{CALLED}.echo", {"n": 5}, {"echo": 5}),
        _async(place, told, f"{CALLED}.add", {"x": 2, "y": 3}, {"sum": 5}),
        _async(place, told, f"{FUNCTIONS}.double", {"n": 4}, {"doubled": 8}),
        _asking(place, told),
        _cancelled(place, told, f"{CALLED}.hang"),
        _cancelled(place, told, f"{CALLED}.mute"),
        _timed_out(place, told, f"{CALLED}.hang"),
    )
    return told


async def hearing(place: Place) -> Told:
    """Those who hear of more than the end, one who is gone, and an endpoint that is disabled for a while."""
    told = Told(key=unique("hearing"), dead=1)
    hears = {**place.receiver.webhook, "events": ["execution.started", "execution.completed"]}
    gone = {"url": place.receiver.gone_url, "secret": SECRET}
    await _ok(place, "POST", f"/endpoints/{PARKED}/disable")
    said = [
        await _submit(place, told, f"/execute/async/{KEEPER}.{name}", {"input": {"n": 1}, "webhook": webhook})
        for name, webhook in (("slow", hears), ("quick", gone))
    ]
    told.ends |= {one["execution_id"]: ("succeeded", 1) for one in said}
    told.deliveries_least += 3  # the beginning of the one, that nobody wanted to hear of the other, and what was parked
    for one in said:
        await place.end_of(one["execution_id"])
    await _again(place, said[1]["execution_id"])
    await _ok(place, "POST", f"/endpoints/{PARKED}/enable")
    return told


async def joining(place: Place) -> Told:
    """Nodes that come and go: one that works and drains, one that vanishes, one that says goodbye and stays."""
    told = Told(key=unique("joining"))
    await asyncio.gather(
        _comes_and_goes(place, told), _vanishes(place, told), _stays(place, told), _function(place, told)
    )
    return told


async def overrun(place: Place) -> Told:
    """Calls of which nobody hears again: one that is stuck, one that is done and does not say so."""
    told = Told(key=unique("overrun"))
    ids = await asyncio.gather(
        _async(place, told, f"{CALLED}.stuck", {"n": 7}, {"echo": 7}),
        _async(place, told, f"{CALLED}.mute", {"n": 8}, {"echo": 8}),
    )
    for id_ in ids:
        await _under_way(place, id_)
    await place.move_clock(2 * OUTAGE_SECONDS)
    await place.break_off()  # who connects anew sees the new time
    return told


async def lost(place: Place) -> Told:
    """Calls whose answers are lost or refused: nobody knows whether they arrived, or they must come again."""
    told = Told(key=unique("lost"))
    names = ("lose", "cut", "late", "full", "away")
    await asyncio.gather(
        *(_async(place, told, f"{CALLED}.{name}", {"n": n}, {"echo": n}) for n, name in enumerate(names)),
        _async(place, told, f"{CALLED}.far", {"x": 1}, {"sum": 1}),
        _async(place, told, f"{FUNCTIONS}.double", {"n": 11}, {"doubled": 22}),
        _parent(place, told),
    )
    return told


async def looking(place: Place) -> Told:
    """Everything that may be asked about what was done."""
    told = Told(key=unique("looking"))
    ids = [
        await _async(place, told, f"{KEEPER}.stepwise", {"n": 1}, [3, 4], repeats=True),
        await _async(place, told, f"{KEEPER}.quick", {"n": 1}, 1),
    ]
    for id_ in ids:
        await place.end_of(id_)
    paths = (
        *("/nodes", "/nodes?show_all=true", f"/nodes/{KEEPER}", "/reasoners", "/executions?limit=1"),
        *(f"/executions/{id_}{what}" for id_ in ids for what in ("", "/input", "/steps", "/deliveries")),
    )
    for path in (*paths, f"{place.url}/openapi.json", f"{place.url}/docs/none"):
        await place.ask("GET", path)
    await place.ask("POST", "/executions/batch-status", {"execution_ids": ids})
    ops = [{"op": "set", "key": "from outside", "value": 1}]
    await _ok(place, "POST", "/memory/write", {"writes": [{"execution_id": ids[0], "ops": ops}]})
    return told


STORIES: dict[str, Story] = {one.__name__: one for one in (callers, called, looking, lost, hearing, joining, overrun)}
"""The short ones first: a point is died at in the first that comes there."""


async def _submit(place: Place, told: Told, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """What a submit is answered with, in the end."""
    wanted = 1 if "items" not in body else len(body["items"])
    told.started += wanted
    told.deliveries_least += 2 * wanted  # to the webhook of each, and to the endpoint
    headers = {"Idempotency-Key": f"{told.key}-{told.started}", "X-Session-ID": told.key}
    answer = await place.ask("POST", path, body, headers=headers)
    if answer.status_code not in {200, 202}:
        raise Broken(f"{path} was answered {answer.status_code}: {answer.text}")
    said: dict[str, Any] = answer.json()
    return said


async def _async(
    place: Place, told: Told, target: str, input_: dict[str, Any], result: Any, *, repeats: bool = False
) -> str:
    said = await _submit(place, told, f"/execute/async/{target}", {"input": input_, "webhook": place.receiver.webhook})
    id_: str = said["execution_id"]
    told.ends[id_] = ("succeeded", result)
    if repeats:
        told.repeats_of.append(id_)
    return id_


async def _batch(place: Place, told: Told) -> None:
    items = [{"target": f"{KEEPER}.quick", "input": {"n": n}, "webhook": place.receiver.webhook} for n in range(3)]
    said = await _submit(place, told, "/execute/batch", {"items": items})
    for n, one in enumerate(said["items"]):
        told.ends[one["execution_id"]] = ("succeeded", n)


async def _sync(place: Place, told: Told) -> None:
    """Its caller waits for the end, and asks again if nobody answers."""
    said = await _submit(
        place, told, f"/execute/{KEEPER}.quick", {"input": {"n": 9}, "webhook": place.receiver.webhook}
    )
    told.ends[said["execution_id"]] = ("succeeded", 9)


async def _asking(place: Place, told: Told) -> None:
    """An attempt asks, people decide, and its process is told."""
    id_ = await _async(place, told, f"{CALLED}.ask", {}, {"decision": "approved"})

    async def asked() -> bool:
        answer = await place.wire.client.get(f"/agents/{CALLED}/executions/{id_}/approval-status")
        return answer.status_code == 200

    await place.until("the question", asked, seconds=DISPATCHED_SECONDS)
    answer = await place.ask("POST", f"/executions/{id_}/approval-response", {"decision": "approved"})
    if answer.status_code != 200:
        raise Broken(f"the decision was answered {answer.status_code}: {answer.text}")


async def _cancelled(place: Place, told: Told, target: str) -> None:
    """Called off once it is under way."""
    id_ = await _async(place, told, target, {}, None)
    told.ends[id_] = ("cancelled", None)

    await _under_way(place, id_)
    answer = await place.ask("POST", f"/executions/{id_}/cancel", {"reason": "enough"})
    if answer.status_code == 409 and target.endswith(".mute"):
        ended = await place.end_of(id_)
        if ended["status"] == "succeeded":  # a server that is new has found its end before; else this was a repeat
            told.ends[id_] = ("succeeded", {"echo": None})
    elif answer.status_code not in {200, 409}:
        raise Broken(f"the cancel was answered {answer.status_code}: {answer.text}")


async def _timed_out(place: Place, told: Told, target: str) -> None:
    body = {"input": {}, "webhook": place.receiver.webhook, "timeout_seconds": TIMEOUT_SECONDS}
    said = await _submit(place, told, f"/execute/async/{target}", body)
    told.ends[said["execution_id"]] = ("timeout", None)


async def _again(place: Place, id_: str) -> None:
    """Somebody has the delivery that is dead sent once more."""

    async def dead() -> str | None:
        found = (await place.ask("GET", f"/executions/{id_}/deliveries")).json()["items"]
        return next((one["delivery_id"] for one in found if one["state"] == "dead"), None)

    delivery_id = await place.until("the delivery to be dead", dead, seconds=DISPATCHED_SECONDS)
    await _ok(place, "POST", f"/deliveries/{delivery_id}/retry")


async def _comes_and_goes(place: Place, told: Told) -> None:
    node_id = unique("comes")
    agent = await place.agent(node_id)
    await place.serving(node_id)
    id_ = await _async(place, told, f"{node_id}.corpus", {"items": ITEMS}, {"results": ["A", "B", "C"]}, repeats=True)
    await _under_way(place, id_)  # else it is what nobody takes any more
    await _ok(place, "POST", f"/nodes/{node_id}/drain", {})
    await place.end_of(id_)
    await asyncio.sleep(DRAINS_SECONDS)
    await _ok(place, "POST", f"/nodes/{node_id}/undrain", {})
    agent.terminate()
    if (code := await agent.ended()) != 0:
        raise Broken(f"the agent has ended with {code}")


async def _vanishes(place: Place, told: Told) -> None:
    """It registers before it listens; later it is away when work comes, and in the end for longer than it may be."""
    async with Called(place.wire, unique("vanishes")) as node:
        await node.vanish()
        await place.until("it to be registered", lambda: _registers(node), seconds=DISPATCHED_SECONDS)
        id_ = await _async(place, told, f"{node.node}.echo", {"n": 1}, {"echo": 1})
        await asyncio.sleep(LOOK_SECONDS)
        await node.listen()
        await place.end_of(id_)
        await node.vanish()
        id_ = await _async(place, told, f"{node.node}.echo", {"n": 2}, {"echo": 2})
        await asyncio.sleep(LOOK_SECONDS)
        await node.listen()
        await place.end_of(id_)
        await node.vanish()
        node.silent = True
        await asyncio.sleep(GONE_SECONDS)


async def _stays(place: Place, told: Told) -> None:
    """It says goodbye, and that it is there all the same, in each of the ways to say so."""
    async with Called(place.wire, unique("stays")) as node:
        await place.until("it to be registered", lambda: _registers(node), seconds=DISPATCHED_SECONDS)
        id_ = await _async(place, told, f"{node.node}.hang", {}, None)
        told.ends[id_] = ("cancelled", None)
        await _under_way(place, id_)
        await _ok(place, "POST", f"/nodes/{node.node}/shutdown", {"reason": "signal", "timeout_seconds": 30})
        await _ok(place, "PATCH", f"/nodes/{node.node}/status", {"status": "ready"})
        await _ok(place, "POST", f"/nodes/{node.node}/heartbeat", {"status": "ready"})
        await asyncio.sleep(DRAINS_SECONDS)
        await _ok(place, "POST", f"/executions/{id_}/cancel", {})
        await place.end_of(id_)


async def _function(place: Place, told: Told) -> None:
    """A function that is registered, and called."""
    async with Called(place.wire, unique("home")) as home:
        home.silent = True
        node_id = unique("function")
        home.functions(node_id)
        await _ok(place, "POST", "/nodes/register-serverless", {"invocation_url": home.base_url})
        id_ = await _async(place, told, f"{node_id}.double", {"n": 2}, {"doubled": 4})
        await place.end_of(id_)


async def _forgotten(place: Place, _: Told) -> None:
    """A node that never came is not known any more."""
    node_id = unique("gone")
    await _ok(place, "POST", "/nodes/register", {"id": node_id, "reasoners": [{"id": "a"}]})
    answer = await place.ask("DELETE", f"/nodes/{node_id}")
    if answer.status_code not in {200, 404}:  # 404: it had been forgotten before, and the answer was lost
        raise Broken(f"a node could not be forgotten: {answer.status_code} {answer.text}")
    if (await place.ask("GET", f"/nodes/{node_id}")).status_code != 404:
        raise Broken(f"{node_id} was forgotten, and is there")


async def _parent(place: Place, told: Told) -> None:
    """Calls others, and fails with two of them."""
    await _async(place, told, f"{KEEPER}.again", {}, [1, 2], repeats=True)
    told.started += AGAIN_CHILDREN
    told.deliveries_least += AGAIN_CHILDREN  # children tell the endpoint alone


async def _registers(node: Called) -> bool:
    try:
        await node.register()
    except AssertionError:
        return False
    return True


async def _under_way(place: Place, id_: str) -> None:
    async def begun() -> bool:
        answer = await place.wire.client.get(f"/executions/{id_}")
        return answer.status_code == 200 and answer.json()["status"] not in {"queued", "waiting"}

    await place.until(f"{id_} to begin", begun, seconds=DISPATCHED_SECONDS)


async def _ok(place: Place, method: str, path: str, body: Any = None) -> None:
    answer = await place.ask(method, path, body)
    if answer.status_code >= 300 and answer.status_code != 409:
        raise Broken(f"{path} was answered {answer.status_code}: {answer.text}")


async def _remembered(place: Place, told: Told) -> None:
    """What a program keeps in memory stands there once it was acknowledged."""
    place_ = {"scope": "session", "scope_id": told.key}
    calls: list[Coroutine[Any, Any, Any]] = [
        place.ask("POST", "/memory/set", {**place_, "key": f"k{n}", "data": n}) for n in range(3)
    ]
    await asyncio.gather(*calls)
    await place.ask("POST", "/memory/append", {**place_, "key": "many", "items": [1], "expected_length": 0})
    await place.ask("POST", "/memory/delete", {**place_, "key": "k0"})
    for key, kept in (("k1", 1), ("k2", 2), ("many", [1])):
        found = (await place.ask("POST", "/memory/get", {**place_, "key": key})).json()
        if found.get("data") != kept:
            raise Broken(f"{key} was kept as {kept}, and is {found}")
    if (await place.ask("POST", "/memory/get", {**place_, "key": "k0"})).status_code != 404:
        raise Broken("k0 was deleted, and is there")
