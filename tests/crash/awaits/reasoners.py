"""An agent that does with its SDK whatever an agent can, and leaves a line of every piece of work that it really did.

Each reasoner is written as its users are told to: what is done is checkpointed, what is waited for has a name. So
whatever dies, its result is the one that is expected, and at most one piece of work is done again for each death.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextvars import Context as Empty
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from controlplane_sdk import Agent, Client, Context

HEARTBEAT_SECONDS = 0.3
DRAIN_SECONDS = 0.5
PACE_SECONDS = 0.03
LINGER_SECONDS = 3 * HEARTBEAT_SECONDS
SLOW_SECONDS = 1.2
"""Longer than a wait is that an attempt is not given up for."""

RESULT_BYTES = 100_000


Did = Callable[[Context, str], None]


def make(node_id: str) -> Agent:
    """The node. Its lines go into the file that CRASH_WORK names."""
    app = Agent(node_id, slots=64, heartbeat_seconds=HEARTBEAT_SECONDS, drain_seconds=DRAIN_SECONDS)
    work = os.open(Path(os.environ["CRASH_WORK"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def did(context: Context, what: str) -> None:
        os.write(work, f"{context.execution_id} {what}\n".encode())

    _simple(app)
    for add in (_remembering, _blocking, _stepping, _waiting):
        add(app, did)
    _calling(app)
    return app


def elsewhere(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Do it as somebody who is no execution."""
    return asyncio.create_task(work, context=Empty())


def _simple(app: Agent) -> None:
    @app.reasoner
    async def quick(n: int) -> int:
        return n

    @app.reasoner
    async def slow(n: int) -> int:
        await asyncio.sleep(SLOW_SECONDS)
        return n

    @app.reasoner
    async def hold(context: Context) -> None:
        """Until somebody stops it."""
        await asyncio.sleep(600)

    @app.reasoner
    async def lingers(context: Context) -> None:
        """Has itself stopped, and takes longer to go than two beats, which say it again."""
        try:
            async with Client() as program:
                await elsewhere(program.execution(context.execution_id).cancel())
                await asyncio.sleep(600)
        finally:
            await asyncio.sleep(LINGER_SECONDS)

    @app.reasoner(retries=3, retry_delay=0.05)
    async def flaky(context: Context) -> int:
        if context.failures == 0:
            raise ValueError("the first time")
        return context.failures

    @app.reasoner
    async def large() -> str:
        """More than the server keeps."""
        return "x" * RESULT_BYTES


def _remembering(app: Agent, did: Did) -> None:
    program = Client()

    @app.reasoner
    async def corpus(context: Context, items: list[str]) -> dict[str, Any]:
        """The main job: a checkpoint after each item."""
        done = await app.memory.get("done", default=[])
        for n, item in enumerate(items[len(done) :], len(done)):
            await asyncio.sleep(PACE_SECONDS)
            did(context, item)
            app.progress(n + 1, len(items))
            done.append(item.upper())
            await app.memory.set("done", done)
        app.note("all items are done")
        return {"results": done}

    @app.reasoner
    async def memories(context: Context, session: str) -> dict[str, Any]:
        """Every way to use memory."""
        memory = app.memory
        if not await memory.exists("begun"):
            did(context, "begun")
            await memory.set_many({"begun": True, "other": 1})
        ours = memory.session(session)
        other = program.memory.session(session)  # which writes to the same lists, and is no execution
        for n in range(3):
            if len(await ours.get("list", [])) == n:
                did(context, f"append {n}")
                await ours.append("list", n)
        if await ours.get("list") == [0, 1, 2]:
            await elsewhere(other.append("list", 3))
        if await ours.get("list") == [0, 1, 2, 3]:
            await ours.append("list", 4)
        await ours.set("grown", [1])
        await elsewhere(other.set("grown", [1, 9]))
        await ours.set("grown", [1, 2])
        await memory.delete("other")
        keys = [entry.key for entry in await memory.list()]
        return {"keys": keys, "list": await ours.get("list"), "grown": await ours.get("grown")}


def _blocking(app: Agent, did: Did) -> None:
    @app.reasoner
    def blocking(context: Context, n: int) -> int:
        """A function that blocks its thread."""
        found: int = app.wait(app.memory.get("n", 0))
        if not found:
            did(context, "blocking")
            app.wait(app.memory.set("n", n))
        asyncio.run(app.memory.set("from another loop", n))
        return n


def _stepping(app: Agent, did: Did) -> None:
    @app.reasoner
    async def stepwise(context: Context, n: int) -> list[int]:
        """Steps of both kinds, and one within another."""

        async def outer(m: int) -> int:
            inner: int = await context.step(plain, m, name="inner")
            did(context, "outer")
            return inner + 1

        def plain(m: int) -> int:
            did(context, f"plain {m}")
            return m + 1

        first: int = await context.step(outer, n)
        second: int = await context.step(plain, first, name="second")
        await context.step(lambda: asyncio.sleep(0), name="third")
        await context.sleep(0.05)
        await context.sleep_until(datetime.now(UTC))
        return [first, second]


def _waiting(app: Agent, did: Did) -> None:
    @app.reasoner
    async def waits(context: Context) -> dict[str, Any]:
        """A sleep that gives the attempt up, a signal, and a question that nobody answers."""
        await context.sleep(SLOW_SECONDS)
        word = await context.wait_for_event("go", timeout=60)

        async def tell(url: str) -> None:
            did(context, "tell")

        decision = await context.approve("May I?", expires=0.3, tell=tell)
        return {"word": word, "decision": decision.decision}

    @app.reasoner
    async def asks(context: Context) -> str:
        """A question that somebody answers."""
        decision = await context.approve("May I?")
        return decision.decision

    @app.reasoner
    async def stays(context: Context) -> dict[str, Any]:
        """Waits that stay in the process: they are not in the attempt's own task."""

        async def both() -> Any:
            return await asyncio.gather(
                context.sleep(SLOW_SECONDS),
                context.wait_for_event("go", timeout=60),
                app.map(f"{app.node_id}.slow", [1]),
            )

        _, word, found = await both()
        return {"word": word, "found": found}


def _calling(app: Agent) -> None:
    @app.reasoner
    async def second_time(context: Context, n: int) -> int:
        """Fails, the first time in its run."""
        if await app.memory.get(f"failed {n}"):
            return n
        await app.memory.set(f"failed {n}", True)
        raise ValueError("the first time")

    @app.reasoner(retries=3, retry_delay=0.05)
    async def again(context: Context) -> list[int]:
        """Calls others that fail, and fails with them; its next attempt calls them anew."""
        one = await app.call(f"{app.node_id}.second_time", n=1)
        return [one, *await app.map(f"{app.node_id}.second_time", [2])]

    @app.reasoner(retries=3, retry_delay=0.05)
    async def parent(context: Context, n: int) -> dict[str, Any]:
        """Children one by one, in a window, and all at once, for which it gives its attempt up; it fails once."""
        one = await app.call(f"{app.node_id}.quick", n=n)
        few = await app.map(f"{app.node_id}.quick", [1, 2, 3], at_once=2)
        if context.failures == 0:
            raise ValueError("the first time")
        all_ = await app.map(f"{app.node_id}.slow", [4, 5])
        return {"one": one, "few": few, "all": all_}
