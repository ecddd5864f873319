"""A program that has work done: it may die anywhere and is begun anew with the same keys, as its user is told to."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from controlplane_sdk import Client, ExecutionCancelled, NotFound, RequestRefused

PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 0.1


def run(story: str, node_id: str, key: str, says: str) -> None:
    """Play the story and leave what it came to in the file `says`."""
    result = asyncio.run(STORIES[story](node_id, key))
    part = Path(f"{says}.part")
    with part.open("w") as file:
        json.dump(result, file)
        file.flush()
        os.fsync(file.fileno())
    part.rename(says)


async def one(node_id: str, key: str) -> Any:
    """Start one, look at it, wait for its result."""
    async with Client(patience_seconds=PATIENCE_SECONDS) as client:
        handle = await client.start(f"{node_id}.corpus", items=["a", "b"], idempotency_key=key, session_id=key)
        await handle.status()
        return await handle.result(timeout=PATIENCE_SECONDS)


async def many(node_id: str, key: str) -> Any:
    """Start some at once, and wait for each."""
    async with Client(patience_seconds=PATIENCE_SECONDS) as client:
        items = [{"target": f"{node_id}.quick", "input": {"n": n}} for n in range(3)]
        handles = await client.submit_many(items, idempotency_key=key, session_id=key, same_run=True)
        return [await handle.result(timeout=PATIENCE_SECONDS) for handle in handles]  # type: ignore[union-attr]


async def follow(node_id: str, key: str) -> Any:
    """Call one and follow what happens to another, which is told something."""
    async with Client(patience_seconds=PATIENCE_SECONDS) as client:
        called = await client.call(f"{node_id}.quick", n=7, idempotency_key=f"{key}-called", session_id=key)
        handle = await client.start(f"{node_id}.stays", idempotency_key=key, session_id=key)
        await client.signal(handle.execution_id, "go", {"n": 1}, idempotency_key=key)
        last = [event.type async for event in handle.events()][-1]
        return [called, last, await handle.result(timeout=PATIENCE_SECONDS)]


async def stop(node_id: str, key: str) -> Any:
    """Start one that does not end, hold it back, let it go, cancel it."""
    async with Client(patience_seconds=PATIENCE_SECONDS) as client:
        handle = await client.start(f"{node_id}.hold", idempotency_key=key, session_id=key, delay_seconds=600)
        if not (await handle.status()).finished:
            await client.pause(handle.execution_id)
            await handle.pause("once more")
            await client.resume(handle.execution_id)
            await handle.resume()
        await handle.cancel("enough")
        again = await client.retry(handle.execution_id, delay_seconds=600, idempotency_key=f"{key}-again")
        await again.cancel()
        try:
            await handle.result(timeout=PATIENCE_SECONDS)
        except ExecutionCancelled:
            return "cancelled"


async def look(node_id: str, key: str) -> Any:
    """Everything that may be asked about one that was done, and what may be said to one that waits for it."""
    async with Client(patience_seconds=PATIENCE_SECONDS) as client:
        first = await client.start(f"{node_id}.again", idempotency_key=key, session_id=key)
        value = await first.result(timeout=PATIENCE_SECONDS)
        id_ = first.execution_id
        await client.get(id_)
        await client.explain(id_)
        await client.attempts(id_)
        await client.system()
        await client.steps(id_)
        await client.list(limit=1)
        await client.retention()
        again = await client.restart(id_, idempotency_key=f"{key}-again")
        asks = await client.start(f"{node_id}.asks", idempotency_key=f"{key}-asks", session_id=key)
        while not await asked(client, asks.execution_id):  # noqa: ASYNC110 - a question has no event
            await asyncio.sleep(LOOK_SECONDS)
        for decide in (client.approve, client.reject):
            try:
                await decide(asks.execution_id)
            except RequestRefused as error:  # it was decided, and goes on already
                if error.status != 409:
                    raise
        return [value, await again.result(timeout=PATIENCE_SECONDS), await asks.result(timeout=PATIENCE_SECONDS)]


async def asked(client: Client, execution_id: str) -> bool:
    try:
        await client.approval(execution_id)
    except NotFound:
        return False
    return True


STORIES = {"one": one, "many": many, "follow": follow, "stop": stop, "look": look}
ENDS = {
    "one": {"results": ["A", "B"]},
    "many": [0, 1, 2],
    "follow": [7, "execution_completed", {"word": {"n": 1}, "found": [1]}],
    "stop": "cancelled",
    "look": [[1, 2], [1, 2], "approved"],
}
"""What each comes to, however often it died."""

STARTED = {"one": 1, "many": 3, "follow": 3, "stop": 2, "look": 9}
"""How many executions each starts."""
