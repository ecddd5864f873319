"""Submits and whole lifecycles per second over HTTP, beside the machine's own limit, in one run on one machine.

    python bench/lifecycle.py [--requests 5000] [--runs 3] [--connections 64]

Everything shares the machine: load generator, server, node, PostgreSQL (fsync and synchronous_commit on). The limit is
pgbench with prepared statements on the same server: insert, claim with SKIP LOCKED and finish of one plain row, one per
transaction and in batches of 50. Prints settings, medians and spread; the last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
from http1 import load, post

from controlplane import __version__
from controlplane.postgres.embedded import EmbeddedPostgres
from controlplane.security.secrets import KeyRing

HERE = Path(__file__).parent
BODY = json.dumps({"input": {"text": "x" * 180}}).encode()

SCHEMA = """
drop table if exists plain;
create table plain (
  id bigint generated always as identity primary key,
  state smallint not null default 0,
  attempt int not null default 0,
  input text not null,
  result text
);
create index plain_ready on plain (id) where state = 0;
"""
CYCLE = """
insert into plain (input) values (:payload);
update plain set state = 1, attempt = attempt + 1
where id = (select id from plain where state = 0 order by id limit 1 for update skip locked)
returning id as claimed \\gset
update plain set state = 2, result = :payload where id = :claimed and state = 1;
"""
CYCLE_OF_50 = """
insert into plain (input) select :payload from generate_series(1, 50);
with pick as materialized (select id from plain where state = 0 order by id limit 50 for update skip locked),
 took as (update plain p set state = 1, attempt = attempt + 1 from pick where p.id = pick.id returning p.id)
select coalesce(array_agg(id), '{}') as claimed from took \\gset
update plain set state = 2, result = :payload where id = any(:claimed::bigint[]) and state = 1;
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=5, help="of each pgbench run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="controlplane-bench-") as folder, contextlib.ExitStack() as stack:
        settings = {"shared_buffers": "512MB", "max_wal_size": "4GB"}
        postgres = stack.enter_context(EmbeddedPostgres(Path(folder) / "postgres", settings=settings))
        print(f"controlplane {__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, {settings}")
        print(f"{options.runs} runs, {options.requests} requests over {options.connections} connections each\n")
        figures: dict[str, list[float]] = {
            "pgbench lifecycles/s, one per transaction": pgbench(postgres, CYCLE, 1, 16, options),
            "pgbench lifecycles/s, batches of 50": pgbench(postgres, CYCLE_OF_50, 50, 4, options),
        }
        port = stack.enter_context(server(postgres, Path(folder)))
        register(port)
        submits, latencies = asyncio.run(measure_submits(postgres.dsn, port, options))
        figures["submits/s"] = submits
        with node(port, Path(folder)):
            figures["lifecycles/s, submitting meanwhile"] = asyncio.run(measure_lifecycles(postgres.dsn, port, options))
        report(figures, latencies)


def pgbench(
    postgres: EmbeddedPostgres, script: str, each: int, clients: int, options: argparse.Namespace
) -> list[float]:
    """Lifecycles per second of a plain table, run by run."""
    rates = []
    for _ in range(options.runs):
        asyncio.run(execute(postgres.dsn, SCHEMA))
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
            file.write(script)
            file.flush()
            command = [postgres.footing.binaries.folder / "pgbench", "-n", "-M", "prepared", "-c", clients, "-j", 2]
            command += ["-T", options.seconds, "-D", f"payload={'x' * 200}", "-f", file.name, postgres.dsn]
            done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        found = re.search(r"tps = ([\d.]+)", done.stdout)
        if found is None:
            raise RuntimeError(done.stderr[-2000:])
        rates.append(float(found.group(1)) * each)
    return rates


@contextlib.contextmanager
def server(postgres: EmbeddedPostgres, folder: Path) -> Iterator[int]:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {"DATABASE_URL": postgres.dsn, "CONTROLPLANE_SECRET_KEY": KeyRing.generate()}
    env["CONTROLPLANE_LOG_LEVEL"] = "WARNING"
    subprocess.run([sys.executable, "-m", "controlplane", "migrate"], env=env, check=True)
    command = [sys.executable, "-m", "controlplane", "serve", "--port", str(port)]
    with running(command, env, folder / "server.log"):
        until_ready(port, "/readyz", lambda answer: answer.status_code == 200)
        yield port


@contextlib.contextmanager
def node(port: int, folder: Path) -> Iterator[None]:
    env = os.environ | {"CONTROLPLANE_SERVER": f"http://localhost:{port}"}
    with running([sys.executable, str(HERE / "node.py")], env, folder / "node.log"):
        until_ready(port, "/api/v1/nodes", lambda answer: answer.json()["count"] == 1)
        yield


@contextlib.contextmanager
def running(command: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=env, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


def until_ready(port: int, path: str, ready: object) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with contextlib.suppress(httpx.TransportError):
            if ready(httpx.get(f"http://127.0.0.1:{port}{path}")):  # type: ignore[operator]
                return
        time.sleep(0.05)
    raise RuntimeError(f"{path} was not ready within a minute")


def register(port: int) -> None:
    """Make the target known, so that submits are measured without a node taking part."""
    body = {"id": "bench", "transport": "pull", "reasoners": [{"id": "echo"}]}
    httpx.post(f"http://127.0.0.1:{port}/api/v1/nodes/register", json=body).raise_for_status()


async def measure_submits(dsn: str, port: int, options: argparse.Namespace) -> tuple[list[float], list[float]]:
    rates: list[float] = []
    latencies: list[float] = []
    for _ in range(options.runs):
        began = time.perf_counter()
        latencies += await submit(port, options)
        rates.append(options.requests / (time.perf_counter() - began))
        await execute(dsn, "truncate queue")
    return rates, latencies


async def measure_lifecycles(dsn: str, port: int, options: argparse.Namespace) -> list[float]:
    """From the first submit to the last outcome, with the submits, the node and the results all under way at once."""
    rates: list[float] = []
    conn = await asyncpg.connect(dsn)
    for _ in range(options.runs):
        before = await conn.fetchval("select count(*) from outcomes")
        began = time.perf_counter()
        await submit(port, options)
        while await conn.fetchval("select exists (select from queue)"):
            await asyncio.sleep(0.02)
        rates.append(options.requests / (time.perf_counter() - began))
        finished = await conn.fetchval("select count(*) from outcomes") - before
        if finished != options.requests:
            raise RuntimeError(f"{finished} outcomes of {options.requests}")
    await conn.close()
    return rates


async def submit(port: int, options: argparse.Namespace) -> list[float]:
    head = post("/api/v1/execute/async/bench.echo")
    return await load(port, head, lambda: BODY, connections=options.connections, requests=options.requests, expect=202)


async def execute(dsn: str, sql: str) -> None:
    conn = await asyncpg.connect(dsn)
    await conn.execute(sql)
    await conn.close()


def report(figures: dict[str, list[float]], latencies: list[float]) -> None:
    medians = {name: statistics.median(rates) for name, rates in figures.items()}
    for name, rates in figures.items():
        print(f"  {name:<44} {medians[name]:>9,.0f}   ({min(rates):,.0f} to {max(rates):,.0f})")
    cuts = statistics.quantiles(latencies, n=100)
    limit = medians["pgbench lifecycles/s, one per transaction"]
    batched = medians["pgbench lifecycles/s, batches of 50"]
    ours = medians["lifecycles/s, submitting meanwhile"]
    print(f"  {'submit latency, ms':<44} {cuts[49] * 1000:>9.1f}   (p99 {cuts[98] * 1000:.1f})")
    print(
        f"\n  lifecycles over HTTP are {ours / limit:.2f} of the raw limit, {ours / batched:.2f} of the batched one\n"
    )
    ratios = {"to_raw": round(ours / limit, 3), "to_raw_of_50": round(ours / batched, 3)}
    print(json.dumps({name: round(value, 1) for name, value in medians.items()} | ratios))


if __name__ == "__main__":
    main()
