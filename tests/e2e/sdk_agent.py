"""A node with one reasoner for each promise of the SDK. What callers cannot see it leaves as files beside it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from controlplane_sdk import Agent, Context, Fatal, Retryable

app = Agent("sdk", slots=64, heartbeat_seconds=0.5)
together = asyncio.Barrier(50)
at_work: set[int] = set()


@app.reasoner
async def number(n: int) -> int:
    at_work.add(n)
    await asyncio.sleep(0.01)
    leave("most", max(int(left("most") or 0), len(at_work)))
    at_work.remove(n)
    return n


@app.reasoner
async def remember(n: int) -> list[int]:
    """Fifty of these write and read the same key at the same time."""
    seen = []
    for _ in range(3):
        await together.wait()
        await app.memory.set("n", n)
        await together.wait()
        seen.append(await app.memory.get("n"))
    return seen


@app.reasoner
def block_a_thread(seconds: float) -> str:
    time.sleep(seconds)
    return "awake"


@app.reasoner
async def block_the_loop(seconds: float) -> str:
    time.sleep(seconds)  # noqa: ASYNC251 - what a beginner's reasoner does
    return "awake"


@app.reasoner
async def parent(context: Context, n: int) -> dict[str, Any]:
    await app.memory.set("from parent", n)
    return {"child": await app.call("sdk.child", n=n), "answer": await app.memory.get("from child")}


@app.reasoner
async def child(context: Context, n: int) -> dict[str, Any]:
    await app.memory.set("from child", await app.memory.get("from parent") + 1)
    return {"parent": context.parent_execution_id, "root": context.root_execution_id, "run": context.run_id, "n": n}


@app.reasoner
async def ask_in_vain() -> None:
    await app.call("sdk.hopeless")


@app.reasoner(retries=2, retry_delay=0.1)
async def flaky(context: Context, failures: int) -> int:
    if context.failures < failures:
        raise ValueError(f"failure {context.failures + 1}")
    return context.attempt


@app.reasoner(retries=2, retry_delay=0.1)
async def hopeless() -> None:
    raise Fatal("no use", details={"why": "it never works"})


@app.reasoner(retries=1, retry_delay=60)
async def patient(context: Context) -> int:
    if context.failures == 0:
        raise Retryable("busy", after_seconds=0.5)
    return context.attempt


@app.reasoner(retries=2)
async def typed(items: list[str], limit: int = 3) -> int:
    return len(items[:limit])


@app.reasoner(retries=2)
async def unwritable() -> float:
    return float("nan")


@app.reasoner(timeout=1.0)
async def endless(context: Context) -> None:
    await sleep_until_told(context)


@app.reasoner(heartbeat=1.0)
async def quiet(context: Context, says: int) -> str:
    for n in range(says):
        app.progress(n, says)
        await asyncio.sleep(0.5)
    if says:
        return "said"
    await sleep_until_told(context)
    return "never"


@app.reasoner
async def long(context: Context) -> None:
    await sleep_until_told(context)


@app.reasoner
def long_thread(context: Context) -> None:
    leave(f"{context.execution_id}.begun")
    while not context.cancelled:
        time.sleep(0.02)
    leave(f"{context.execution_id}.told")


async def sleep_until_told(context: Context) -> None:
    leave(f"{context.execution_id}.begun")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        leave(f"{context.execution_id}.told")
        raise


@app.reasoner
async def speak() -> str:
    app.note("a remark", ["people", "test"])
    app.progress(3, 10, "a third or so")
    return "said"


@app.reasoner
async def scopes(value: int) -> None:
    await app.memory.set("value", value, scope="session")
    await app.memory.set("value", value + 1, scope="actor")
    await app.memory.global_scope.set("sdk.value", value + 2)


@app.reasoner
async def both_or_none(key: str) -> None:
    await app.memory.set_many({"first": 1, key: 2})


@app.reasoner
async def add(n: int) -> int:
    return await app.memory.session("a list").append("numbers", n)


def leave(name: str, number: int = 1) -> None:
    Path(name).write_text(str(number))


def left(name: str) -> str:
    return Path(name).read_text() if Path(name).exists() else ""


if __name__ == "__main__":
    app.run()
