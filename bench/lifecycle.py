"""Submits and whole lifecycles per second over HTTP, beside the machine's own limit, in one run on one machine.

    python bench/lifecycle.py [--requests 5000] [--runs 3] [--connections 64] [--batched 30000] [--batch 500]

Everything shares the machine: load generator, server, node, PostgreSQL (fsync and synchronous_commit on). The limit is
pgbench with prepared statements on the same server: insert, claim with SKIP LOCKED and finish of one plain row, one per
transaction and in batches of 50. Submits are measured one per request and `--batch` per request. Prints settings,
medians and spread; the last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import asyncpg
import httpx
import uvloop
from http1 import load, post
from record import Record, keeping, p99

from controlplane.postgres.embedded import EmbeddedPostgres
from controlplane.security.secrets import KeyRing

HERE = Path(__file__).parent
POSTGRES = {"shared_buffers": "512MB", "max_wal_size": "4GB"}
INPUT = {"text": "x" * 180}
BODY = json.dumps({"input": INPUT}).encode()
BATCH_CONNECTIONS = 4
BATCHED_PER_SECOND_MIN = 15_000

RAW = "pgbench: lifecycles, one per transaction"
RAW_OF_50 = "pgbench: lifecycles, in batches of 50"
SUBMITS = "submits, one per request"
BATCHED = "submits, many per request"
LIVES = "lifecycles, submitting meanwhile"

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
    parser.add_argument("--batched", type=int, default=30_000, help="executions of each run that come in batches")
    parser.add_argument("--batch", type=int, default=500, help="executions of one request")
    keeping(parser)
    options = parser.parse_args()
    record = Record(
        bench="lifecycle",
        title="Submits and lifecycles over HTTP",
        what="Durable submits and whole lifecycles per second, beside what this PostgreSQL does with a plain row.",
        command="make bench-lifecycle",
        settings={name: getattr(options, name) for name in ("requests", "runs", "connections", "batched", "batch")}
        | POSTGRES,
    )
    with tempfile.TemporaryDirectory(prefix="controlplane-bench-") as folder, contextlib.ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(Path(folder) / "postgres", settings=POSTGRES))
        record.add(RAW, "per second", *pgbench(postgres, CYCLE, 1, 16, options))
        record.add(RAW_OF_50, "per second", *pgbench(postgres, CYCLE_OF_50, 50, 4, options))
        port = stack.enter_context(server(postgres.dsn, Path(folder)))
        register(port)
        rates, latencies = uvloop.run(measure_submits(postgres.dsn, port, options))
        record.add(SUBMITS, "per second", *rates)
        record.add("submits: p50", "ms", *[statistics.median(took) * 1000 for took in latencies])
        record.add("submits: p99", "ms", *[p99(took) * 1000 for took in latencies])
        record.add(BATCHED, "per second", *uvloop.run(measure_batches(postgres.dsn, port, options)))
        with node(port, Path(folder)):
            record.add(LIVES, "per second", *uvloop.run(measure_lifecycles(postgres.dsn, port, options)))
    raw, of_50 = record.ratio(LIVES, RAW), record.ratio(LIVES, RAW_OF_50)
    record.notes.append(f"Lifecycles over HTTP are {raw:.2f} of the raw limit and {of_50:.2f} of the batched one.")
    record.bar("executions per second in batches", record.median(BATCHED), at_least=BATCHED_PER_SECOND_MIN)
    record.tell(options.json)


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
def server(dsn: str, folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[int]:
    """The port of a server with these settings, by the names of their environment variables."""
    port = free_port()
    env = os.environ | {"DATABASE_URL": dsn, "CONTROLPLANE_SECRET_KEY": KeyRing.generate()}
    env |= {"CONTROLPLANE_LOG_LEVEL": "WARNING", **(settings or {})}
    subprocess.run([sys.executable, "-m", "controlplane", "migrate"], env=env, check=True)
    command = [sys.executable, "-m", "controlplane", "serve", "--port", str(port)]
    with running(command, env, folder / "server.log"):
        until_ready(port, "/readyz", lambda answer: answer.status_code == 200)
        yield port


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:  # nothing is left behind, and what went wrong before it is still told
            process.kill()
            process.wait()


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


async def measure_submits(dsn: str, port: int, options: argparse.Namespace) -> tuple[list[float], list[list[float]]]:
    """Accepted per second, and how long each took, run by run."""
    rates: list[float] = []
    latencies: list[list[float]] = []
    for _ in range(options.runs):
        began = time.perf_counter()
        latencies.append(await submit(port, options))
        rates.append(options.requests / (time.perf_counter() - began))
        await execute(dsn, "truncate queue")
    return rates, latencies


async def measure_batches(dsn: str, port: int, options: argparse.Namespace) -> list[float]:
    """Executions accepted per second, many of them with one request."""
    rates: list[float] = []
    body = json.dumps({"items": [{"target": "bench.echo", "input": INPUT}] * options.batch}).encode()
    requests = max(1, options.batched // options.batch)
    conn = await asyncpg.connect(dsn)
    for _ in range(options.runs):
        began = time.perf_counter()
        head = post("/api/v1/execute/batch")
        await load(port, head, lambda: body, connections=BATCH_CONNECTIONS, requests=requests, expect=200)
        rates.append(requests * options.batch / (time.perf_counter() - began))
        accepted = await conn.fetchval("select count(*) from queue")
        if accepted != requests * options.batch:  # each item is answered by itself, whatever the request is answered
            raise RuntimeError(f"{accepted} of {requests * options.batch} were accepted")
        await conn.execute("truncate queue")
    await conn.close()
    return rates


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


if __name__ == "__main__":
    main()
