"""What receivers that hang cost those that answer: ratios of one run on one machine.

    python bench/webhooks.py [--rate 100] [--seconds 10] [--hosts 200] [--backlog 50000] [--hung 10000]

A server of its own process, its PostgreSQL (fsync and synchronous_commit on), and receivers on addresses of 127/8.
Deliveries to `--hosts` healthy hosts fall due at a steady `--rate`, with a body of 1 KB; measured is the
time from due to received, four times: alone; beside one hung receiver for which `--backlog` deliveries wait; beside
`--hung` hung receivers of whom nothing is known, with one delivery each; and the same after a restart of the server,
which has then forgotten who answers. In flight and resident memory are what `/metrics` and /proc say meanwhile. And
one claim by itself, taken back each time: with 200 hosts, with 100,000 deliveries of one host, with 10,000 hosts, and
with as many that are left alone. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import httpx
from lifecycle import free_port, running, until_ready
from record import p99

from controlplane import __version__
from controlplane.domain.ids import IdMaker
from controlplane.postgres.embedded import EmbeddedPostgres
from controlplane.postgres.schema import migrate
from controlplane.security.secrets import KeyRing
from controlplane.stages import deliver

make_id = IdMaker(lambda: time.time_ns() // 1_000_000, secrets.randbits).new
TICK_SECONDS = 0.05
LATE_SECONDS = 30.0
PADDING = "x" * 1_000

EXECUTIONS = """
insert into executions (
  bucket, id, namespace, run_id, root_id, target, type, input, priority, retries_max, retry_delay_seconds,
  retry_factor, retry_cap_seconds, webhooks, created_at
)
select 0, id, 1, 'run-' || id, id, 'n.echo', 'reasoner', '{}', 0, 0, 5, 2, 300, 1, clock()
from unnest($1::uuid[]) as id
"""
WEBHOOKS = """
insert into webhooks (bucket, execution_id, n, namespace, url, host, secret_sealed, attempts_max, created_at)
select 0, w.id, 1, 1, 'http://' || w.host || '/hook', w.host, null, 5, clock()
from unnest($1::uuid[], $2::text[]) as w(id, host)
"""
DELIVERIES = """
insert into deliveries (
  bucket, id, namespace, execution_id, webhook_n, event, host, url, body, state, attempts_max, next_at, created_at
)
select 0, d.id, 1, d.execution_id, 1, 'execution.completed', d.host, 'http://' || d.host || '/hook',
  convert_to(jsonb_build_object('due', extract(epoch from clock_timestamp()), 'padding', $4::text)::text, 'UTF8'),
  'pending', 5, clock(), clock()
from unnest($1::uuid[], $2::uuid[], $3::text[]) as d(id, execution_id, host)
"""
OPEN = """
insert into breakers (bucket, host, namespace, failures, windows, opened_at, open_until, changed_at)
select distinct 0, host, namespace, 5, 1, clock(), clock() + interval '1 hour', clock()
from deliveries
where bucket = 0
  and state = 'pending'
"""
CLEAR = "delete from deliveries where state = 'pending'"
HINT = "select pg_notify('controlplane', 'bench' || chr(10) || 'deliveries')"
DUE = re.compile(rb'"due": ?([0-9.]+)')


class Healthy(asyncio.Protocol):
    """Takes everything at once, and keeps how long each was under way."""

    def __init__(self, seconds: list[float]) -> None:
        self._seconds = seconds
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, found, body = self._seen.partition(b"\r\n\r\n")
        if not found or len(body) < int(re.search(rb"(?i)content-length: (\d+)", head)[1]):  # type: ignore[index]
            return
        self._seconds.append(time.time() - float(DUE.search(body)[1]))  # type: ignore[index]
        self._seen = b""
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")  # type: ignore[attr-defined]


@dataclass
class Phase:
    """What one of the four came to."""

    name: str
    sent: int = 0
    seconds: list[float] = field(default_factory=list)
    took_seconds: float = 0.0
    in_flight_max: float = 0.0
    resident_before: int = 0
    resident_max: int = 0
    processor_seconds: float = 0.0

    @property
    def p50(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p99(self) -> float:
        return p99(self.seconds)

    @property
    def rate(self) -> float:
        return len(self.seconds) / self.took_seconds


class Bench:
    def __init__(self, options: argparse.Namespace, conn: asyncpg.Connection, seconds: list[float]) -> None:
        self._options = options
        self._conn = conn
        self._seconds = seconds
        self._healthy: list[str] = []
        self._hung_port = 0
        self._turn = 0

    def listen_on(self, healthy_port: int, hung_port: int) -> None:
        self._healthy = [f"127.1.{n // 250}.{n % 250 + 1}:{healthy_port}" for n in range(self._options.hosts)]
        self._hung_port = hung_port

    async def wait_at_one(self) -> None:
        for _ in range(self._options.backlog // 5_000):
            await self._insert([f"127.2.0.1:{self._hung_port}"] * 5_000)

    async def wait_at_many(self) -> None:
        hosts = [f"127.{3 + n // 62_500}.{n // 250 % 250}.{n % 250 + 1}" for n in range(self._options.hung)]
        for n in range(0, len(hosts), 5_000):
            await self._insert([f"{host}:{self._hung_port}" for host in hosts[n : n + 5_000]])

    async def clear(self) -> None:
        await self._conn.execute(CLEAR)
        await self._conn.execute("vacuum analyze deliveries")

    async def measure(self, name: str, port: int, pid: int) -> Phase:
        """A steady load on the healthy hosts until the last of it has arrived, or is given up."""
        phase = Phase(name, resident_before=resident(pid), processor_seconds=-processor(pid))
        self._seconds.clear()
        watching = asyncio.create_task(watch(phase, port, pid))
        began = time.monotonic()
        each = max(1, round(self._options.rate * TICK_SECONDS))
        for turn in range(round(self._options.seconds / TICK_SECONDS)):
            await asyncio.sleep(began + turn * TICK_SECONDS - time.monotonic())
            await self._insert([self._next() for _ in range(each)])
            phase.sent += each
        while len(self._seconds) < phase.sent and time.monotonic() < began + self._options.seconds + LATE_SECONDS:
            await asyncio.sleep(0.01)
        phase.took_seconds = time.monotonic() - began
        phase.processor_seconds += processor(pid)
        watching.cancel()
        phase.seconds = list(self._seconds)
        # What has not arrived counts as late as it could be.
        phase.seconds += [self._options.seconds + LATE_SECONDS] * (phase.sent - len(phase.seconds))
        return phase

    def _next(self) -> str:
        """The healthy hosts in turn, so that each has been told something when it has been warmed up."""
        self._turn += 1
        return self._healthy[self._turn % len(self._healthy)]

    async def _insert(self, hosts: list[str]) -> None:
        ids, executions = [make_id(0) for _ in hosts], [make_id(0) for _ in hosts]
        async with self._conn.transaction():
            await self._conn.execute(EXECUTIONS, executions)
            await self._conn.execute(WEBHOOKS, executions, hosts)
            await self._conn.execute(DELIVERIES, ids, executions, hosts, PADDING)
        await self._conn.execute(HINT)


async def time_claims(conn: asyncpg.Connection) -> dict[str, float]:
    """The median milliseconds of a claim."""
    figures: dict[str, float] = {}
    for name, hosts in {
        "200 hosts": [f"h{n}:1" for n in range(200)],
        "100,000 of one host": ["h:1"] * 100_000,
        "10,000 hosts": [f"h{n}:1" for n in range(10_000)],
        "10,000 hosts left alone": [],
    }.items():
        if hosts:
            await conn.execute("truncate deliveries")
            ids = [make_id(0) for _ in hosts]
            await conn.execute(DELIVERIES, ids, ids, hosts, "")
        else:
            await conn.execute(OPEN)
        await conn.execute("vacuum analyze deliveries, breakers")
        took = []
        for _ in range(50):
            transaction = conn.transaction()
            await transaction.start()
            began = time.perf_counter()
            await deliver.claim_due(
                conn, 0, after=deliver.BEGINNING, full_hosts=(), per_host=4, limit=64, lease_seconds=60.0
            )
            took.append(time.perf_counter() - began)
            await transaction.rollback()
        figures[name] = round(statistics.median(took) * 1_000, 2)
    return figures


async def watch(phase: Phase, port: int, pid: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        while True:
            text = (await client.get("/metrics")).text
            found = re.search(r"^controlplane_webhooks_in_flight ([0-9.]+)", text, re.MULTILINE)
            phase.in_flight_max = max(phase.in_flight_max, float(found[1]) if found else 0.0)
            phase.resident_max = max(phase.resident_max, resident(pid))
            await asyncio.sleep(0.1)


def resident(pid: int) -> int:
    """Resident bytes of this process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def processor(pid: int) -> float:
    """Seconds of a core that this process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()


@contextlib.contextmanager
def server(dsn: str, key: str, folder: Path) -> Iterator[tuple[int, int]]:
    """A server of its own: its port and its process."""
    port = free_port()
    env = os.environ | {"DATABASE_URL": dsn, "CONTROLPLANE_SECRET_KEY": key, "CONTROLPLANE_LOG_LEVEL": "ERROR"}
    env["CONTROLPLANE_EGRESS_ALLOW_LOOPBACK"] = "true"
    with running([sys.executable, "-m", "controlplane", "serve", "--port", str(port)], env, folder / "server.log") as p:
        until_ready(port, "/readyz", lambda answer: answer.status_code == 200)
        yield port, p.pid


async def run(options: argparse.Namespace, dsn: str, folder: Path) -> tuple[list[Phase], dict[str, float]]:
    loop, key = asyncio.get_running_loop(), KeyRing.generate()
    seconds: list[float] = []
    conn = await asyncpg.connect(dsn)
    bench = Bench(options, conn, seconds)
    healthy = await loop.create_server(lambda: Healthy(seconds), "0.0.0.0", 0, backlog=1_024)
    hung = await asyncio.start_server(hang, "0.0.0.0", 0, backlog=1_024)
    bench.listen_on(healthy.sockets[0].getsockname()[1], hung.sockets[0].getsockname()[1])
    phases: list[Phase] = []
    with server(dsn, key, folder) as (port, pid):
        await bench.measure("to warm up", port, pid)
        phases.append(await bench.measure("alone", port, pid))
        await bench.wait_at_one()
        phases.append(await bench.measure(f"1 hung, {options.backlog:,} waiting", port, pid))
        await bench.clear()
        await bench.wait_at_many()
        phases.append(await bench.measure(f"{options.hung:,} hung", port, pid))
    with server(dsn, key, folder) as (port, pid):
        phases.append(await bench.measure(f"{options.hung:,} hung, restarted", port, pid))
    healthy.close()
    hung.close()
    claims = await time_claims(conn)
    await conn.close()
    return phases, claims


def report(phases: list[Phase], claims: dict[str, float]) -> None:
    alone = phases[0]
    figures: dict[str, dict[str, float]] = {}
    for one in phases:
        figures[one.name] = {
            "p50_ms": round(one.p50 * 1_000, 1),
            "p99_ms": round(one.p99 * 1_000, 1),
            "p99_of_alone": round(one.p99 / alone.p99, 2),
            "throughput_of_alone": round(one.rate / alone.rate, 3),
            "in_flight_max": one.in_flight_max,
            "resident_growth_mb": round((one.resident_max - one.resident_before) / 1e6, 1),
            "cores": round(one.processor_seconds / one.took_seconds, 2),
        }
        print(f"  {one.name:<28}", "  ".join(f"{name} {value:g}" for name, value in figures[one.name].items()))
    for name, milliseconds in claims.items():
        print(f"  {'claim, ' + name:<32} {milliseconds:g} ms")
    print(json.dumps(figures | {"claim_ms": claims}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=100, help="deliveries that fall due per second")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of the four")
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--backlog", type=int, default=50_000)
    parser.add_argument("--hung", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="controlplane-bench-") as folder:
        settings = {"shared_buffers": "512MB", "max_wal_size": "4GB"}
        with EmbeddedPostgres(Path(folder) / "postgres", settings=settings) as postgres:
            print(f"controlplane {__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, {settings}")
            migrate(postgres.dsn)
            report(*asyncio.run(run(options, postgres.dsn, Path(folder))))


if __name__ == "__main__":
    main()
