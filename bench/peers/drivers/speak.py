"""How a peer's driver is spoken to: one command, and one line of JSON as its answer.

    setup                   make what it needs; the versions of its packages
    submit S P              P producers submit for S seconds; how many, in how many seconds
    lives S P W             the same while its workers run, then at most W seconds for the rest
    work                    run what was submitted, until SIGTERM

Runs in the virtual environment of the peer, so it knows nothing of ours. PEER_URL says where the database is.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

URL = os.environ.get("PEER_URL", "")
INPUT = {"text": "x" * 180}
"""The same that ours is given; the function answers it."""
FIRST_SECONDS = 60.0
LOOK_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Client:
    """Plain functions are called from threads, coroutine functions from one loop."""

    put: Callable[[dict[str, Any]], Any]
    """Submits one; returns what `result` wants to know."""
    result: Callable[[Any], Any]
    """The kept result of one, waited for."""
    finished: Callable[[], Any]
    """How many results are kept."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    packages: tuple[str, ...]
    setup: Callable[[], Awaitable[None] | None]
    client: Callable[[], AbstractAsyncContextManager[Client]]
    work: Callable[[], Awaitable[None] | None]


def main(peer: Peer) -> None:
    command, *numbers = sys.argv[1:]
    seconds, producers, wait = (*map(float, numbers), 0.0, 0.0, 0.0)[:3]
    if command == "work":
        _here(peer.work)
        return
    if command == "setup":
        _here(peer.setup)
        said = {"versions": {name: version(name) for name in peer.packages}}
    else:
        said = _run(answer(peer, command, seconds, int(producers), wait))
    print(json.dumps(said), flush=True)
    os._exit(0)  # threads of the peer may linger


async def answer(peer: Peer, command: str, seconds: float, producers: int, wait: float) -> dict[str, Any]:
    """Of `submit` and `lives`."""
    async with peer.client() as client:
        if command == "lives":
            return await _lives(client, seconds, producers, wait)
        await _call(client.put, INPUT)  # what is imported and opened by the first call is not measured
        began = time.perf_counter()
        count = await _produce(client, seconds, producers)
        return {"count": count, "seconds": time.perf_counter() - began}


async def _lives(client: Client, seconds: float, producers: int, wait: float) -> dict[str, Any]:
    first = await _call(client.put, INPUT)
    kept = await asyncio.wait_for(_call(client.result, first), FIRST_SECONDS)
    if kept != INPUT:
        raise RuntimeError(f"the result of the first is {kept!r}")
    while not await _call(client.finished):
        await asyncio.sleep(LOOK_SECONDS)
    began = time.perf_counter()
    count = await _produce(client, seconds, producers)
    until = time.perf_counter() + wait
    while (finished := await _call(client.finished) - 1) < count and time.perf_counter() < until:
        await asyncio.sleep(LOOK_SECONDS)
    return {"count": finished, "seconds": time.perf_counter() - began, "left": count - finished}


async def _produce(client: Client, seconds: float, producers: int) -> int:
    until = time.perf_counter() + seconds
    if inspect.iscoroutinefunction(client.put):
        return sum(await asyncio.gather(*[_produce_here(client, until) for _ in range(producers)]))
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(producers) as threads:
        each = [loop.run_in_executor(threads, _produce_in_thread, client, until) for _ in range(producers)]
        return sum(await asyncio.gather(*each))


async def _produce_here(client: Client, until: float) -> int:
    count = 0
    while time.perf_counter() < until:
        await client.put(INPUT)
        count += 1
    return count


def _produce_in_thread(client: Client, until: float) -> int:
    count = 0
    while time.perf_counter() < until:
        client.put(INPUT)
        count += 1
    return count


async def _call(function: Callable[..., Any], *args: Any) -> Any:
    """Plain functions never run where a loop runs: some peers refuse that."""
    if inspect.iscoroutinefunction(function):
        return await function(*args)
    return await asyncio.to_thread(function, *args)


def _here(function: Callable[[], Any]) -> None:
    if inspect.iscoroutinefunction(function):
        _run(function())
    else:
        function()


def _run(coro: Any) -> Any:
    try:
        import uvloop  # noqa: PLC0415 - where the peer's environment has it
    except ImportError:
        return asyncio.run(coro)
    return uvloop.run(coro)
