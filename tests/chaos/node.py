"""A node of the run: an agent that writes down what it begins and ends, under which attempt, before it goes on."""

from __future__ import annotations

import asyncio
import os
import uuid
from pathlib import Path
from typing import Any

from controlplane_sdk import Agent, Context, LeaseLost
from tests.chaos.journal import Journal
from tests.chaos.work import NODE, ROOM, SIGNAL

ME = uuid.uuid4().hex[:12]
"""This process: no two results that it and another give for one attempt are alike."""
FOREVER_SECONDS = 3600.0
app = Agent(NODE, slots=60, heartbeat_seconds=1.0, drain_seconds=5)
journal = Journal(Path(os.environ["CHAOS_JOURNAL"]))


async def begin(context: Context) -> None:
    await journal.write("begin", context.execution_id, context.attempt, ME)


async def end(context: Context, name: str, value: Any = None) -> dict[str, Any]:
    """The result, which says who found it."""
    await journal.write("end", context.execution_id, context.attempt, ME)
    return {"name": name, "attempt": context.attempt, "by": ME, "value": value}


@app.reasoner
async def quick(context: Context, name: str) -> dict[str, Any]:
    await begin(context)
    return await end(context, name)


@app.reasoner
async def slow(context: Context, name: str, seconds: float) -> dict[str, Any]:
    await begin(context)
    await asyncio.sleep(seconds)
    return await end(context, name)


@app.reasoner
async def items(context: Context, name: str, count: int, pause: float) -> dict[str, Any]:
    """One checkpoint per item: what is in memory is not done again."""
    await begin(context)
    done = len(await app.memory.get(ROOM, default=[]))
    for n in range(done, count):
        await journal.write("item", context.execution_id, context.attempt, ME, n)
        await asyncio.sleep(pause)
        try:
            await app.memory.append(ROOM, {"item": n, "attempt": context.attempt, "by": ME})
        except LeaseLost:
            await journal.write("refused", context.execution_id, context.attempt, ME, n)
            raise
        await journal.write("kept", context.execution_id, context.attempt, ME, n)
    return await end(context, name, count)


@app.reasoner
async def family(context: Context, name: str, count: int) -> dict[str, Any]:
    """Children that are asked for once, however often this is begun anew."""
    await begin(context)
    children = [app.call(f"{NODE}.quick", name=f"{name}/{n}") for n in range(count)]
    return await end(context, name, [child["name"] for child in await asyncio.gather(*children)])


@app.reasoner
async def asks(context: Context, name: str) -> dict[str, Any]:
    await begin(context)
    return await end(context, name, await context.wait_for_event(SIGNAL))


@app.reasoner
async def sleeps(context: Context, name: str, seconds: float) -> dict[str, Any]:
    """A step that is done once, and a sleep without a process between it and its end."""
    await begin(context)

    async def step() -> str:
        await journal.write("step", context.execution_id, context.attempt, ME)
        return f"{context.attempt} {ME}"

    value = await context.step(step)
    await context.sleep(seconds)
    return await end(context, name, value)


@app.reasoner
async def endless(context: Context, name: str) -> None:
    await begin(context)
    await asyncio.sleep(FOREVER_SECONDS)


@app.reasoner(retries=1, retry_delay=0.2)
async def fails(context: Context, name: str) -> None:
    await begin(context)
    raise ValueError(name)


if __name__ == "__main__":
    app.run()
