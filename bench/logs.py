"""Log lines per second as AgentField's SDK posts them, one per request, and what they do to submits beside them.

    python bench/logs.py [--requests 20000] [--runs 3] [--connections 64]

Everything shares the machine: load generator, server, PostgreSQL (fsync and synchronous_commit on). A line is answered
before it is written; how many of those that were answered stand in the database afterwards is counted. Submits are
measured alone, and beside a load of lines at half of what was sustained. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import asyncpg
import httpx
from http1 import Connection, load, post
from lifecycle import BODY, register, server

from controlplane import __version__
from controlplane.postgres.embedded import EmbeddedPostgres

SUBMITS = 2_000
SUBMIT_CONNECTIONS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="controlplane-bench-") as folder, contextlib.ExitStack() as stack:
        settings = {"shared_buffers": "512MB", "max_wal_size": "4GB"}
        postgres = stack.enter_context(EmbeddedPostgres(Path(folder) / "postgres", settings=settings))
        print(f"controlplane {__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, {settings}")
        print(f"{options.runs} runs, {options.requests} requests over {options.connections} connections each\n")
        port = stack.enter_context(server(postgres, Path(folder)))
        register(port)
        asyncio.run(measure(postgres.dsn, port, options))


async def measure(dsn: str, port: int, options: argparse.Namespace) -> None:
    fence = await asyncio.to_thread(running_attempt, port)
    conn = await asyncpg.connect(dsn)
    rates, kept, alone, beside = [], [], [], []
    for _ in range(options.runs):
        before = await conn.fetchval("select count(*) from logs")
        began = time.perf_counter()
        await lines(port, fence, options.connections, options.requests)
        rates.append(options.requests / (time.perf_counter() - began))
        kept.append((await settled(conn) - before) / options.requests)
    half = statistics.median(rates) / 2
    for _ in range(options.runs):
        alone.append(p99(await submits(port)))
        steady = asyncio.create_task(steady_lines(port, fence, per_second=half))
        await asyncio.sleep(0.5)
        beside.append(p99(await submits(port)))
        steady.cancel()
        await asyncio.gather(steady, return_exceptions=True)
    await conn.close()
    figures = {
        "lines_per_second": statistics.median(rates),
        "kept": statistics.median(kept),
        "submit_p99_ms": statistics.median(alone) * 1000,
        "submit_p99_ms_beside": statistics.median(beside) * 1000,
    }
    print(
        f"  lines answered per second   {figures['lines_per_second']:>9,.0f}   ({min(rates):,.0f} to {max(rates):,.0f})"
    )
    print(f"  of them in the database     {figures['kept']:>9.3f}")
    print(f"  submit p99, ms              {figures['submit_p99_ms']:>9.1f}")
    print(f"  beside {half:,.0f} lines/s         {figures['submit_p99_ms_beside']:>9.1f}\n")
    ratio = figures["submit_p99_ms_beside"] / figures["submit_p99_ms"]
    print(
        json.dumps({name: round(value, 3) for name, value in figures.items()} | {"submit_p99_ratio": round(ratio, 3)})
    )


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
    """Lines at a steady pace over 16 connections, until cancelled."""
    body, head = line(fence), post(f"/api/v1/executions/{fence}/logs")

    async def one() -> None:
        connection = await Connection.open(port)
        due = time.perf_counter()
        while True:
            due += 16 / per_second
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await connection.request(head, body)

    await asyncio.gather(*[one() for _ in range(16)])


async def submits(port: int) -> list[float]:
    head = post("/api/v1/execute/async/bench.echo")
    return await load(port, head, lambda: BODY, connections=SUBMIT_CONNECTIONS, requests=SUBMITS, expect=202)


async def settled(conn: asyncpg.Connection) -> int:
    """How many lines there are once no more are being written."""
    last = -1
    while True:
        count: int = await conn.fetchval("select count(*) from logs")
        if count == last:
            return count
        last = count
        await asyncio.sleep(0.3)


def p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


if __name__ == "__main__":
    main()
