"""Log lines per second as AgentField's SDK posts them, one per request, and what they do to submits beside them.

    python bench/logs.py [--rounds 3] [--requests 20000] [--connections 64] [--workers 2] [--pace 5000] [--submits 100]

Everything shares the machine: load generators, server, PostgreSQL (fsync and synchronous_commit on). A line is answered
before it is written; how many of those that were answered stand in the database afterwards is counted, of a server with
one process and of one with `--workers`, in turns. Submits are measured with the latter, alone and beside `--pace` lines
per second, which another process sends so that the one that measures is not slowed down by them itself:
`--submits` per second at a steady pace, and 8 callers who submit again as soon as they are answered. The latter take
all that the server has, so that whatever runs beside them costs them time. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import httpx
import uvloop
from http1 import Connection, load, post
from lifecycle import BODY, POSTGRES, register, running, server
from record import Record, keeping, p99

from controlplane.postgres.embedded import EmbeddedPostgres

LINES_PER_SECOND_MIN = 5_000
P99_RATIO_MAX = 1.2
CLOSED_SUBMITS = 2_000
CLOSED_CONNECTIONS = 8
PACED_SECONDS = 10.0
LINE_CONNECTIONS = 16
START_SECONDS = 60.0
"""Until the first line of the other process is there."""
SETTLE_SECONDS = 1.0
"""And then until it is at its pace."""
PACE_SHARE_MIN = 0.95

COUNT = "select count(*) from logs"
BESIDE = "lines written beside submits"

PACED, CLOSED = "submits at a pace", "8 who submit again at once"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=20_000, help="lines of each round of as many as there can be")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="of the server that has several")
    parser.add_argument("--pace", type=float, default=5_000.0, help="lines per second beside the submits")
    parser.add_argument("--submits", type=float, default=100.0, help="per second, of those at a pace")
    parser.add_argument("--seconds", type=float, default=PACED_SECONDS, help="of submits at a pace, in each round")
    parser.add_argument("--closed", type=int, default=CLOSED_SUBMITS, help="submits of the 8, in each round")
    parser.add_argument("--steady", nargs=2, metavar=("PORT", "FENCE"), help=argparse.SUPPRESS)
    keeping(parser)
    options = parser.parse_args()
    if options.steady is not None:
        uvloop.run(steady_lines(int(options.steady[0]), options.steady[1], per_second=options.pace))
        return
    names = ("rounds", "requests", "connections", "workers", "pace", "submits", "seconds", "closed")
    record = Record(
        bench="logs",
        title="Log lines, one per request",
        what="Log lines as AgentField's SDK posts them, and the p99 of submits beside them.",
        command="make bench-logs",
        settings={name: getattr(options, name) for name in names} | POSTGRES,
    )
    with tempfile.TemporaryDirectory(prefix="controlplane-bench-") as folder, contextlib.ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(Path(folder) / "postgres", settings=POSTGRES))
        for _ in range(options.rounds):
            for workers in (1, options.workers):
                with server(postgres.dsn, Path(folder), {"CONTROLPLANE_WORKERS": str(workers)}) as port:
                    register(port)
                    uvloop.run(measure_lines(record, postgres.dsn, port, workers, options))
        port = stack.enter_context(server(postgres.dsn, Path(folder), {"CONTROLPLANE_WORKERS": str(options.workers)}))
        uvloop.run(measure_submits(record, postgres.dsn, port, Path(folder), options))
    says = f"lines per second, {options.workers} workers"
    record.bar(says, record.median(_answered(options.workers)), at_least=LINES_PER_SECOND_MIN)
    # Without this one a server that took fewer lines would look as if they cost nothing.
    record.bar(BESIDE, record.median(BESIDE), at_least=PACE_SHARE_MIN * options.pace)
    for what in (PACED, CLOSED):
        says = f"{what}: p99 beside the lines to p99 alone"
        record.bar(says, record.ratio(_beside(what), _alone(what)), at_most=P99_RATIO_MAX)
    record.tell(options.json)


async def measure_lines(record: Record, dsn: str, port: int, workers: int, options: argparse.Namespace) -> None:
    """As many as there can be."""
    fence = await asyncio.to_thread(running_attempt, port)
    conn = await asyncpg.connect(dsn)
    await lines(port, fence, options.connections, options.requests // 10)  # until it has begun everywhere
    before = await settled(conn)
    began = time.perf_counter()
    await lines(port, fence, options.connections, options.requests)
    record.add(_answered(workers), "per second", options.requests / (time.perf_counter() - began))
    record.add(f"of them kept, {_workers(workers)}", "", (await settled(conn) - before) / options.requests)
    await conn.close()


async def measure_submits(record: Record, dsn: str, port: int, folder: Path, options: argparse.Namespace) -> None:
    """Alone, and beside lines at a pace."""
    fence = await asyncio.to_thread(running_attempt, port)
    conn = await asyncpg.connect(dsn)
    submits: dict[str, Callable[[], Awaitable[list[float]]]] = {
        PACED: lambda: paced_submits(port, options.submits, options.seconds),
        CLOSED: lambda: closed_submits(port, options.closed),
    }
    command = [sys.executable, __file__, "--steady", str(port), fence, "--pace", str(options.pace)]
    for _ in range(options.rounds):
        for what, submit in submits.items():
            record.add(_alone(what), "ms", p99(await submit()) * 1000)
            with running(command, dict(os.environ), folder / "lines.log"):
                await until_they_come(conn)
                before, began = await conn.fetchval(COUNT), time.perf_counter()
                record.add(_beside(what), "ms", p99(await submit()) * 1000)
                written = await conn.fetchval(COUNT) - before
            record.add(BESIDE, "per second", written / (time.perf_counter() - began))
            await settled(conn)
    await conn.close()


def _workers(count: int) -> str:
    return "one worker" if count == 1 else f"{count} workers"


def _answered(workers: int) -> str:
    return f"lines answered, {_workers(workers)}"


def _alone(what: str) -> str:
    return f"{what}: p99 alone"


def _beside(what: str) -> str:
    return f"{what}: p99 beside lines"


def running_attempt(port: int) -> str:
    """An execution that runs, as its node knows it."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", headers={"Host": "localhost"}) as api:
        form = {"instance_id": "bench", "slots": 1, "heartbeat_seconds": 300}
        session = api.post("/nodes/bench/sessions", json=form).raise_for_status().json()["session_id"]
        api.post("/execute/async/bench.echo", json={"input": {}}).raise_for_status()
        [lease] = api.post(f"/sessions/{session}/lease", json={"max": 1, "wait_seconds": 5}).json()["leases"]
    return f"{lease['execution_id']}~{lease['attempt']}"


def line(fence: str) -> bytes:
    entry = {
        "ts": "2026-01-01T00:00:00.000Z",
        "execution_id": fence,
        "workflow_id": "run",
        "agent_node_id": "bench",
        "reasoner_id": "echo",
        "level": "debug",
        "source": "sdk.python.memory",
        "event_type": "log.debug",
        "message": "Memory set completed for key results in the scope of the workflow",
        "attributes": {"key": "results", "scope": "workflow", "bytes": 512},
        "system_generated": True,
    }
    return json.dumps({"entries": [entry]}).encode()


async def lines(port: int, fence: str, connections: int, requests: int) -> None:
    body = line(fence)
    head = post(f"/api/v1/executions/{fence}/logs")
    await load(port, head, lambda: body, connections=connections, requests=requests, expect=202)


async def steady_lines(port: int, fence: str, *, per_second: float) -> None:
    """Lines at a steady pace, until the process is ended."""
    body, head = line(fence), post(f"/api/v1/executions/{fence}/logs")

    async def one() -> None:
        connection = await Connection.open(port)
        due = time.perf_counter()
        while True:
            due += LINE_CONNECTIONS / per_second
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await connection.request(head, body)

    await asyncio.gather(*[one() for _ in range(LINE_CONNECTIONS)])


async def closed_submits(port: int, count: int) -> list[float]:
    head = post("/api/v1/execute/async/bench.echo")
    return await load(port, head, lambda: BODY, connections=CLOSED_CONNECTIONS, requests=count, expect=202)


async def paced_submits(port: int, per_second: float, seconds: float) -> list[float]:
    """Whether those before are answered or not."""
    head = post("/api/v1/execute/async/bench.echo")
    free: list[Connection] = []
    took: list[float] = []
    tasks: list[asyncio.Task[None]] = []

    async def submit() -> None:
        connection = free.pop() if free else await Connection.open(port)
        began = time.perf_counter()
        status, answer = await connection.request(head, BODY)
        took.append(time.perf_counter() - began)
        free.append(connection)
        if status != 202:
            raise RuntimeError(f"{status}: {answer[:300]!r}")

    began = time.perf_counter()
    for turn in range(max(2, round(per_second * seconds))):
        await asyncio.sleep(max(0.0, began + turn / per_second - time.perf_counter()))
        tasks.append(asyncio.create_task(submit()))
    await asyncio.gather(*tasks)
    for connection in free:
        connection.close()
    return took


async def until_they_come(conn: asyncpg.Connection) -> None:
    """Return when the other process sends. Raises TimeoutError."""
    before = await conn.fetchval(COUNT)
    async with asyncio.timeout(START_SECONDS):
        while await conn.fetchval(COUNT) == before:
            await asyncio.sleep(0.05)
    await asyncio.sleep(SETTLE_SECONDS)


async def settled(conn: asyncpg.Connection) -> int:
    """How many lines there are once no more are being written."""
    last = -1
    while True:
        count: int = await conn.fetchval(COUNT)
        if count == last:
            return count
        last = count
        await asyncio.sleep(0.3)


if __name__ == "__main__":
    main()
