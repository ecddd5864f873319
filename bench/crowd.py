"""Thousands who wait, in a process of their own: nodes without work, or readers of the live events.

    python bench/crowd.py nodes 1000 --port 8080
    python bench/crowd.py readers 1000 --port 8080

A node does what the SDK's does: it registers, opens a session, and then always has two requests under way, a long poll
for work (25 s) and a heartbeat that is held as well (10 s, or as long as the server says to one that holds nothing;
every sixth is full). They begin at moments of their own, so nothing comes in waves. Says `ready` when all of them wait;
every line that it reads asks what has happened so far.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import uvloop
from http1 import Connection, post
from proc import open_files

LEASE_SECONDS = 25.0
BEAT_SECONDS = 10.0
WAIT_MAX_SECONDS = 30.0
FULL_EVERY = 6
JOINING = 64
"""At once; it is the waiting that is measured."""
SPARE_FILES = 200
JOIN_SECONDS = 300.0
MARK = b"data: "
BUSY = 503
AGAIN_SECONDS = 1.0


class Crowd:
    """The other end of it: a process with so many of them."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log
        self._wait_for_ready()

    def counts(self) -> dict[str, int]:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        said: dict[str, int] = json.loads(self._line())
        return said

    def _wait_for_ready(self) -> None:
        if self._line().strip() != "ready":
            raise RuntimeError(self._last_words())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(self._last_words())
        return line

    def _last_words(self) -> str:
        return f"the crowd ended: {self._log.read_text()[-2000:]}"


@contextlib.contextmanager
def crowd(kind: str, count: int, port: int, folder: Path) -> Iterator[Crowd]:
    log = folder / f"{kind}.log"
    command = [sys.executable, __file__, kind, str(count), "--port", str(port)]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True)
    try:
        yield Crowd(process, log)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


class Nodes:
    """Nodes that wait for work that never comes."""

    def __init__(self, count: int, port: int) -> None:
        self._count, self._port = count, port
        self.counts: Counter[str] = Counter()
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self) -> None:
        left = iter(range(self._count))

        async def some() -> None:
            for n in left:
                await self._join_one(n)

        await asyncio.gather(*[some() for _ in range(JOINING)])

    async def stay(self) -> None:
        await asyncio.gather(*self._tasks)

    async def _join_one(self, n: int) -> None:
        polls, beats = await Connection.open(self._port), await Connection.open(self._port)
        node_id = f"idle-{n}"
        body = {"id": node_id, "transport": "pull", "reasoners": [{"id": "echo"}]}
        await _asked(polls, "/api/v1/nodes/register", body)
        wish = {"instance_id": f"{node_id}-{time.time_ns()}", "slots": 16, "heartbeat_seconds": BEAT_SECONDS}
        opened = await _asked(polls, f"/api/v1/nodes/{node_id}/sessions", wish)
        session = f"/api/v1/sessions/{opened['session_id']}"
        self._tasks += [
            asyncio.create_task(self._poll(polls, session)),
            asyncio.create_task(self._beat(beats, session)),
        ]
        self.counts["nodes"] += 1

    async def _poll(self, connection: Connection, session: str) -> None:
        seconds = random.uniform(1.0, LEASE_SECONDS)
        while True:
            answer = await _asked(connection, f"{session}/lease", {"max": 16, "wait_seconds": seconds})
            if answer["leases"]:
                raise RuntimeError(f"work for an idle node: {answer}")
            self.counts["polls"] += 1
            seconds = LEASE_SECONDS

    async def _beat(self, connection: Connection, session: str) -> None:
        seconds, beats, spread = random.uniform(1.0, BEAT_SECONDS), random.randrange(FULL_EVERY), False
        while True:
            held = [] if beats % FULL_EVERY == 0 else None
            wish = {"executions": held, "count": 0, "wait_seconds": seconds}
            answer = await _asked(connection, f"{session}/heartbeat", wish)
            self.counts["beats"] += 1
            beats += 1
            longest = max(BEAT_SECONDS, min(answer.get("idle_wait_seconds", 0.0), WAIT_MAX_SECONDS))
            seconds = longest if spread else random.uniform(1.0, longest)
            spread = True


class Readers:
    """Readers of every execution's live events, who do nothing but count."""

    def __init__(self, count: int, port: int) -> None:
        self._count, self._port = count, port
        self.counts: Counter[str] = Counter()

    async def join(self) -> None:
        loop, left = asyncio.get_running_loop(), iter(range(self._count))

        async def some() -> None:
            for _ in left:
                joined: asyncio.Future[None] = loop.create_future()
                await loop.create_connection(lambda joined=joined: Reader(self.counts, joined), "127.0.0.1", self._port)
                await joined

        await asyncio.gather(*[some() for _ in range(JOINING)])

    async def stay(self) -> None:
        await asyncio.Event().wait()


class Reader(asyncio.Protocol):
    """One stream. `joined` when its first frame says that nothing is missed from here on."""

    def __init__(self, counts: Counter[str], joined: asyncio.Future[None]) -> None:
        self._counts, self._joined = counts, joined
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        out = cast("asyncio.Transport", transport)  # uvloop's are none by their class
        out.write(b"GET /api/ui/v1/executions/events HTTP/1.1\r\nHost: localhost\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        seen = self._rest + data
        self._counts["frames"] += seen.count(MARK)
        self._rest = seen[1 - len(MARK) :]  # a mark may come in two parts, never twice
        if not self._joined.done() and b'"connected"' in seen:
            self._joined.set_result(None)
            self._counts["readers"] += 1

    def connection_lost(self, _: Exception | None) -> None:
        self._counts["lost"] += 1
        if not self._joined.done():
            self._joined.set_exception(RuntimeError("cut off before it was joined"))


async def _asked(connection: Connection, path: str, body: dict[str, object]) -> dict[str, Any]:
    status, answer = await connection.request(post(path), json.dumps(body).encode())
    while status == BUSY:  # as an SDK, which asks again
        await asyncio.sleep(random.uniform(0, 2 * AGAIN_SECONDS))
        status, answer = await connection.request(post(path), json.dumps(body).encode())
    if status not in (200, 201):
        raise RuntimeError(f"{path}: {status} {answer[:300]!r}")
    said: dict[str, Any] = json.loads(answer)
    return said


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("nodes", "readers"))
    parser.add_argument("count", type=int)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    people: Nodes | Readers = (Nodes if options.kind == "nodes" else Readers)(options.count, options.port)
    wanted = options.count * (2 if options.kind == "nodes" else 1) + SPARE_FILES
    if (files := open_files(wanted)) < wanted:
        raise RuntimeError(f"{wanted} files are needed, {files} can be had: raise `ulimit -n`")
    async with asyncio.timeout(JOIN_SECONDS):
        await people.join()
    print("ready", flush=True)
    staying = asyncio.create_task(people.stay())
    answering = asyncio.create_task(asyncio.to_thread(_answer, sys.stdin, people.counts))
    await asyncio.wait({staying, answering}, return_when=asyncio.FIRST_COMPLETED)
    for task in (staying, answering):
        if task.done():
            task.result()


def _answer(asked: IO[str], counts: Counter[str]) -> None:
    for _ in asked:
        print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
