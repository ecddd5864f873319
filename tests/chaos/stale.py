"""A process that lost its leases and will not hear of it.

It leases work like any process of the node, is silent until another attempt is made of it, and then says again and
again under its old fence how it went, and what to remember: each time it must be told that the lease is lost.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from tests.chaos.journal import Journal
from tests.chaos.work import NODE, ROOM

LEASES = 8
HEARTBEAT_SECONDS = 1.0
WAIT_SECONDS = 2.0
SAYS_MIN, SAYS_MAX = 2, 10
"""How often it says each thing: a refusal must hold."""
LOOK_SECONDS = 0.5
ASK_SECONDS = 20.0
LOST = (aiohttp.ClientError, TimeoutError, OSError, orjson.JSONDecodeError)
"""How an answer can get lost."""
COME_BACK = frozenset({429, 502, 503, 504})
ENDED = frozenset({"succeeded", "failed", "cancelled", "timeout"})
STALE = "stale"
"""What stands in each of its results and values, and must be found nowhere."""


class Stale:
    def __init__(self, url: str, journal: Journal) -> None:
        self._url = url
        self._journal = journal
        self._stopping = False
        self._speaker = ""
        self._opening = asyncio.Lock()
        self._http: aiohttp.ClientSession

    def stop(self) -> None:
        self._stopping = True

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as self._http:
            while not self._stopping:
                leases = await self._lease(await self._open())
                await asyncio.gather(*(self._haunt(*lease) for lease in leases))

    async def _open(self) -> str:
        while True:
            body = {"instance_id": uuid.uuid4().hex, "slots": LEASES, "heartbeat_seconds": HEARTBEAT_SECONDS}
            status, answer = await self._ask("POST", f"/nodes/{NODE}/sessions", body)
            if status == 201:
                return str(answer["session_id"])
            await asyncio.sleep(LOOK_SECONDS)

    async def _lease(self, session: str) -> list[tuple[str, int]]:
        """Asked once: an answer that is lost is work that nobody has, until the lease ends."""
        body = {"max": LEASES, "wait_seconds": WAIT_SECONDS}
        try:
            status, answer = await self._once("POST", f"/sessions/{session}/lease", body)
        except LOST:
            return []
        return [(one["execution_id"], one["attempt"]) for one in answer["leases"]] if status == 200 else []

    async def _haunt(self, execution_id: str, attempt: int) -> None:
        """From when another attempt was made until that has ended, and a little longer."""
        said, ended = 0, False
        while said < SAYS_MIN or (not ended and said < SAYS_MAX):
            _, shown = await self._ask("GET", f"/executions/{execution_id}", None)
            ended = shown.get("status") in ENDED
            if shown.get("attempt", 0) > attempt or ended:
                await self._insist(execution_id, attempt)
                said += 1
            await asyncio.sleep(LOOK_SECONDS)

    async def _insist(self, execution_id: str, attempt: int) -> None:
        fence = {"execution_id": execution_id, "attempt": attempt}
        result = fence | {"status": "succeeded", "result": {STALE: True}}
        append = {"op": "append", "scope": "run", "key": ROOM, "items": [STALE]}
        put = {"op": "set", "scope": "run", "key": STALE, "value": STALE}
        async with self._opening:
            speaker = self._speaker = self._speaker or await self._open()
        await self._say("completion", f"/sessions/{speaker}/results", {"results": [result]}, fence)
        await self._say("append", "/memory/write", {"writes": [fence | {"ops": [append]}]}, fence)
        await self._say("set", "/memory/write", {"writes": [fence | {"ops": [put]}]}, fence)

    async def _say(self, what: str, path: str, body: Any, fence: dict[str, Any]) -> None:
        status, answer = await self._ask("POST", path, body)
        code = answer.get("code") if status != 200 else answer["results"][0].get("code")
        if code in {"session_closed", "session_not_found"}:  # the one that speaks was silent for too long, too
            self._speaker = ""
            return
        # A cancel may have ended this very attempt: then it is told what was recorded, and changes nothing.
        word = {"lease_lost": "refused", "already_recorded": "recorded"}.get(code, "accepted")
        await self._journal.write(word, what, fence["execution_id"], fence["attempt"], status, answer, time.time())

    async def _ask(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """The first answer that is one, however often it has to be asked for."""
        while True:
            try:
                status, answer = await self._once(method, path, body)
                if status not in COME_BACK:
                    return status, answer
            except LOST:
                pass
            await asyncio.sleep(LOOK_SECONDS)

    async def _once(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        data = None if body is None else orjson.dumps(body)
        headers = {"Content-Type": "application/json"}
        async with self._http.request(method, f"{self._url}/api/v1{path}", data=data, headers=headers) as got:
            return got.status, orjson.loads(await got.read())


async def main() -> None:
    stale = Stale(os.environ["CHAOS_URL"], Journal(Path(os.environ["CHAOS_JOURNAL"])))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stale.stop)
    await stale.run()


if __name__ == "__main__":
    asyncio.run(main())
