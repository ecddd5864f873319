"""The callers of a run: they submit until they are told that it was accepted, and write that down before they go on."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from tests.chaos.journal import Journal
from tests.chaos.work import SIGNAL, Piece, piece

GROUP = 20
"""Pieces that are drawn at once: the trivial ones among them travel in one request."""
GROUPS_AT_ONCE = 40
ASK_SECONDS = 30.0
AGAIN_SECONDS = 0.2
COME_BACK = frozenset({429, 502, 503, 504})
BEHIND_MAX_SECONDS = 20.0
"""After an outage they catch up with as much as this, not with all that they would have asked for."""


class Callers:
    def __init__(self, url: str, *, seed: int, rate: float, receivers: list[str], journal: Journal) -> None:
        self._url = url
        self._seed = seed
        self._rate = rate
        self._receivers = receivers
        self._journal = journal
        self._stopping = asyncio.Event()
        self._http: aiohttp.ClientSession
        self._rng = random.Random(seed)

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """Ask for `rate` pieces a second until told to stop, and end when the last one is acknowledged."""
        room = asyncio.Semaphore(GROUPS_AT_ONCE)
        connector = aiohttp.TCPConnector(limit=100)
        timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as self._http,
            asyncio.TaskGroup() as all_,
        ):
            due, first = time.monotonic(), 0
            while not self._stopping.is_set():
                await room.acquire()
                task = all_.create_task(self._group(range(first, first + GROUP)))
                task.add_done_callback(lambda _: room.release())
                first += GROUP
                due = max(due + GROUP / self._rate, time.monotonic() - BEHIND_MAX_SECONDS)
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _group(self, numbers: Sequence[int]) -> None:
        pieces = [piece(self._seed, n, len(self._receivers)) for n in numbers]
        batch = [one for one in pieces if one.kind == "quick"]
        rest = [self._single(one) for one in pieces if one.kind != "quick"]
        await asyncio.gather(self._batch(f"batch-{self._seed}-{numbers[0]}", batch), *rest)

    async def _batch(self, key: str, pieces: list[Piece]) -> None:
        if not pieces:
            return
        items = [one.body(self._receivers) | {"target": one.target} for one in pieces]
        while True:
            _, answer = await self._post("/execute/batch", {"items": items, "idempotency_key": key})
            shown = answer["items"]
            if all(one["http_status"] == 202 for one in shown):
                break
            if any(one["http_status"] not in COME_BACK | {202} for one in shown):
                await self._journal.write("odd", "batch", key, shown)
                return
            await asyncio.sleep(AGAIN_SECONDS)
        acknowledged = zip(pieces, shown, strict=True)
        await asyncio.gather(*(self._acknowledge(one, said["execution_id"]) for one, said in acknowledged))

    async def _single(self, one: Piece) -> None:
        id_ = await self._submit(one)
        if id_ is None:
            return
        await self._acknowledge(one, id_)
        await asyncio.sleep(self._rng.uniform(0.0, 1.0))
        if one.kind == "asks":
            await self._act(one, id_, f"signals/{SIGNAL}", one.name)
        if one.act == "cancel":
            await self._act(one, id_, "cancel", {"reason": "chaos"})
        if one.act == "pause":
            await self._act(one, id_, "pause", {})
            await asyncio.sleep(self._rng.uniform(0.0, 2.0))
            await self._act(one, id_, "resume", {})
        if one.act == "repeat" and (again := await self._submit(one)) != id_:
            await self._journal.write("odd", "one key named two", one.name, id_, again)

    async def _submit(self, one: Piece) -> str | None:
        status, answer = await self._post(f"/execute/async/{one.target}", one.body(self._receivers))
        if status == 202:
            return str(answer["execution_id"])
        await self._journal.write("odd", "submit", one.name, status, answer)
        return None

    async def _acknowledge(self, one: Piece, id_: str) -> None:
        await self._journal.write("accepted", one.name, id_, time.time())

    async def _act(self, one: Piece, id_: str, verb: str, body: Any) -> None:
        """409: it has ended meanwhile, or the first try was heard and only its answer lost."""
        status, answer = await self._post(f"/executions/{id_}/{verb}", body, key=f"{one.name}:{verb}")
        if status in {200, 202, 409}:
            await self._journal.write("acted", verb, id_, status)
        else:
            await self._journal.write("odd", verb, id_, status, answer)

    async def _post(self, path: str, body: Any, *, key: str | None = None) -> tuple[int, Any]:
        """The first answer that is one. A lost connection and "try again" are none, so it is said again."""
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
        while True:
            try:
                async with self._http.post(
                    f"{self._url}/api/v1{path}", data=orjson.dumps(body), headers=headers
                ) as got:
                    answer = orjson.loads(await got.read())
                    if got.status not in COME_BACK:
                        return got.status, answer
            except (aiohttp.ClientError, TimeoutError, OSError, orjson.JSONDecodeError):
                pass
            await asyncio.sleep(AGAIN_SECONDS)


async def main() -> None:
    callers = Callers(
        os.environ["CHAOS_URL"],
        seed=int(os.environ["CHAOS_SEED"]),
        rate=float(os.environ["CHAOS_RATE"]),
        receivers=orjson.loads(os.environ["CHAOS_RECEIVERS"]),
        journal=Journal(Path(os.environ["CHAOS_JOURNAL"])),
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, callers.stop)
    await callers.run()


if __name__ == "__main__":
    asyncio.run(main())
