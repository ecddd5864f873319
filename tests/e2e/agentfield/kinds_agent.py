"""An agent with one reasoner for each thing that AgentField's SDK lets a reasoner do."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from agentfield import Agent
from agentfield.exceptions import MemoryAccessError, ReasonerFailed
from agentfield.execution_context import ExecutionContext
from fastapi import HTTPException

app = Agent(node_id="kinds", agentfield_server=os.getenv("AGENTFIELD_SERVER"))
heard: list[dict[str, Any]] = []


@app.reasoner(tags=["echo"])
async def give(value: Any = None) -> Any:
    return value


@app.reasoner()
async def boom() -> None:
    raise RuntimeError("boom")


@app.reasoner()
async def half() -> None:
    raise ReasonerFailed("half done", result={"partial": 1}, error_details={"why": "test"})


@app.reasoner()
async def teapot() -> None:
    raise HTTPException(418, "I am a teapot")


@app.reasoner()
async def needs(items: list[str]) -> int:
    return len(items)


@app.skill()
def add(a: int, b: int) -> int:
    return a + b


@app.reasoner()
async def speak() -> str:
    app.note("a remark", ["people", "test"])
    return "said"


@app.reasoner()
async def look_around(tag: str) -> list[str]:
    found = await asyncio.to_thread(app.discover, tags=[tag])
    return [reasoner.invocation_target for one in found.json.capabilities for reasoner in one.reasoners]


@app.reasoner()
async def begin_again(execution_id: str) -> dict[str, Any]:
    return await app.client.restart_execution(execution_id, scope="execution", reuse="none", reason="once more")


@app.reasoner()
async def endless(name: str) -> None:
    """Leaves as files that it began, and that it was told to stop."""
    leave(f"{name}.begun")
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        leave(f"{name}.told")
        raise


@app.reasoner()
async def scopes(value: int) -> dict[str, Any]:
    """Each scope gets a value of its own; what is read without one is the nearest."""
    memory = app.memory
    places = {
        "workflow": memory.workflow("another run"),
        "session": memory.session("s-1"),
        "actor": memory.actor("a-1"),
        "global": memory.global_scope,
    }
    for name, place in places.items():
        await place.set("where", f"{name} {value}")
    seen = {name: await place.get("where") for name, place in places.items()}
    farthest = await memory.get("where")
    await memory.set("where", f"run {value}")
    seen |= {"farthest": farthest, "nearest": await memory.get("where")}
    return seen | {"keys": await memory.global_scope.list_keys(), "exists": await memory.exists("nowhere")}


@app.reasoner()
async def keep(value: Any = None) -> list[Any]:
    """What is stored, read, forgotten, and read again."""
    memory = app.memory
    await memory.set("kept", value)
    seen = [await memory.get("kept"), await memory.exists("kept")]
    await memory.delete("kept")
    return [*seen, await memory.exists("kept"), await memory.get("kept", default="gone")]


@app.reasoner()
async def forget_nothing() -> str:
    try:
        await app.memory.delete("never stored")
    except MemoryAccessError as error:
        return str(error)
    return "forgotten"


@app.reasoner()
async def vectors() -> dict[str, Any]:
    memory = app.memory
    await memory.set_vector("north", [0.0, 1.0], {"kind": "axis"})
    await memory.set_vector("east", [1.0, 0.0], {"kind": "axis"})
    await memory.set_vector("north-east", [0.7, 0.7], {"kind": "between"})
    near = await memory.similarity_search([0.1, 1.0], top_k=2)
    axes = await memory.similarity_search([0.7, 0.7], filters={"kind": "axis"})
    await memory.delete_vector("north")
    left = await memory.similarity_search([0.1, 1.0])
    return {name: [one["key"] for one in found] for name, found in {"near": near, "axes": axes, "left": left}.items()}


@app.reasoner()
async def listen() -> None:
    """Not `@app.on_change`, which SDK 0.1.144 takes notice of in subclasses of Agent only."""

    @app.memory.on_change("watched.*")
    async def changed(event: Any) -> None:
        heard.append({"key": event.key, "action": event.action, "data": event.data, "previous": event.previous_data})


@app.reasoner()
async def change(values: list[int]) -> None:
    memory = app.memory
    for value in values:
        await memory.set("watched.number", value)
    await memory.set("unwatched", 0)
    await memory.delete("watched.number")


@app.reasoner()
async def what_changed() -> list[dict[str, Any]]:
    return heard


@app.reasoner()
async def child(n: int, seconds: float = 0.0) -> dict[str, int]:
    await asyncio.sleep(seconds)
    return {"doubled": 2 * n}


@app.reasoner()
async def one_by_one(target: str, count: int) -> list[int]:
    return [(await app.call(target, n=n))["doubled"] for n in range(count)]


@app.reasoner()
async def all_at_once(target: str, count: int) -> list[int]:
    answers = await asyncio.gather(*(app.call(target, n=n) for n in range(count)))
    return [answer["doubled"] for answer in answers]


@app.reasoner()
async def mine(name: str, rounds: int, execution_context: ExecutionContext) -> list[str]:
    """Writes and reads the scope of its own run, by its name: `app.memory` is whose turn it is."""
    memory = app.memory.workflow(execution_context.workflow_id)
    seen = []
    for n in range(rounds):
        await memory.set("mine", f"{name} {n}")
        await asyncio.sleep(0.01)
        seen.append(await memory.get("mine"))
    return seen


def leave(name: str) -> None:
    Path(name).touch()


if __name__ == "__main__":
    app.run()
