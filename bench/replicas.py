"""What a second replica gains or costs, what nodes without work cost, and what readers of live events cost.

    python bench/replicas.py [--rounds 3] [--seconds 5] [--nodes 1000] [--readers 1000] [--rate 2] [--only idle]

A PostgreSQL of its own (fsync and synchronous_commit on), and three parts:

lives    whole lifecycles per second with one server and one node, and with two servers and two nodes on the same
         database; started anew for every round and in turns, every second round backwards
idle     CPU of server and PostgreSQL while `--nodes` registered nodes wait in their long polls and heartbeats
readers  `--rate` executions per second end, first without and then with `--readers` readers of the live events (SSE):
         CPU, and statements that the database logs, of which those that read events

The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import uvloop
from crowd import Crowd, crowd
from http1 import Connection, for_seconds, load, post
from lifecycle import BODY, POSTGRES, execute, node, register, server
from proc import cpu_seconds, family, open_files
from record import Record, keeping

from controlplane.postgres.embedded import EmbeddedPostgres
from controlplane.reads.events import STREAM

PARTS = ("lives", "idle", "readers")
CONNECTIONS = 64
WARM_REQUESTS = 500
DRAIN_SECONDS = 60.0
SETTLE_SECONDS = 12.0
NODES_SETTLE_SECONDS = 40.0
"""Longer than the first two heartbeats, so that every node waits at its own moment as it will go on to."""
LATE_SECONDS = 20.0
FILES = 8_000
SUBMIT = post("/api/v1/execute/async/bench.echo")
SAID = re.compile(r"LOG:  duration: [\d.]+ ms  (?:execute|statement)")
EVENT_READ = re.compile(r"LOG: duration: [\d.]+ ms execute [^:]+: " + re.escape(" ".join(STREAM.split())))
"""Not the line before it, by which the same statement is bound."""
ONE, TWO = "lifecycles/s, one server and one node", "lifecycles/s, two servers and two nodes"
EMPTY, WAITING = "cores, server alone", "cores, {:,} nodes that wait"
READS = "reads of events per event, {:,} readers"
MORE = "statements per event more than without readers"
UNREAD_CORES, READ_CORES = "cores, events that nobody reads", "cores, {:,} readers"


@dataclass
class Place:
    """A database and a folder."""

    postgres: EmbeddedPostgres
    folder: Path

    @property
    def postmaster(self) -> int:
        return int((self.postgres.data_dir / "postmaster.pid").read_text().split()[0])

    @property
    def log(self) -> Path:
        own = self.postgres.data_dir / "server.log"
        return own if own.exists() else self.postgres.footing.cluster / "server.log"

    def sub(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of submitting, in each round of lives")
    parser.add_argument("--watch-seconds", type=float, default=15.0, help="of each round of idle and readers")
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--readers", type=int, default=1_000)
    parser.add_argument("--rate", type=float, default=2.0, help="executions per second that readers hear of")
    parser.add_argument("--only", choices=PARTS, help="this part alone")
    keeping(parser)
    options = parser.parse_args()
    open_files(FILES + 2 * options.nodes + options.readers)
    record = Record(
        bench="replicas",
        title="Replicas, idle nodes and readers",
        what="A second server and node beside the first on the same cores and database; nodes that wait for work; "
        "and readers of the live events.",
        command="make bench-replicas",
        settings={
            "rounds": options.rounds, "seconds": options.seconds, "watch_seconds": options.watch_seconds,
            "nodes": options.nodes, "readers": options.readers, "executions_per_second": options.rate,
            "connections": CONNECTIONS, "postgres": POSTGRES,
        },
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="controlplane-bench-")))
        place = Place(stack.enter_context(EmbeddedPostgres(folder / "postgres", settings=POSTGRES)), folder)
        record.versions["postgresql"] = str(asyncio.run(_ask(place.postgres.dsn, "show server_version")))
        for part, measure in (("lives", measure_lives), ("idle", measure_idle), ("readers", measure_readers)):
            if options.only in (None, part):
                measure(place, options, record)
    record.tell(options.json)


# Lives.


def measure_lives(place: Place, options: argparse.Namespace, record: Record) -> None:
    for number in range(options.rounds):
        for name, count in ((ONE, 1), (TWO, 2)) if number % 2 == 0 else ((TWO, 2), (ONE, 1)):
            with contextlib.ExitStack() as stack:
                ports = [stack.enter_context(pair(place, f"{n}")) for n in range(count)]
                asyncio.run(_until_processes(place.postgres.dsn, count))
                uvloop.run(lives(place.postgres.dsn, ports, WARM_REQUESTS))
                record.add(name, "per second", uvloop.run(lives(place.postgres.dsn, ports, options.seconds)))
    record.bar("two servers and two nodes to one of each", record.ratio(TWO, ONE), at_least=0.95)


@contextlib.contextmanager
def pair(place: Place, name: str) -> Iterator[int]:
    """A server, and a process of the node `bench` that takes its work there."""
    folder = place.sub(name)
    with server(place.postgres.dsn, folder) as port, node(port, folder):
        yield port


async def lives(dsn: str, ports: list[int], amount: float) -> float:
    """Lifecycles per second, for so many seconds of submitting or, given an int, so many submits."""
    conn = await asyncpg.connect(dsn)
    before = await conn.fetchval("select count(*) from outcomes")
    began = time.perf_counter()
    turns = iter(range(amount)) if isinstance(amount, int) else for_seconds(amount)
    each = CONNECTIONS // len(ports)
    sent = await asyncio.gather(
        *[load(port, SUBMIT, lambda: BODY, connections=each, requests=turns, expect=202) for port in ports]
    )
    async with asyncio.timeout(DRAIN_SECONDS):
        while await conn.fetchval("select exists (select from queue)"):
            await asyncio.sleep(0.02)
    took = time.perf_counter() - began
    finished = await conn.fetchval("select count(*) from outcomes") - before
    await conn.close()
    if finished != sum(map(len, sent)):
        raise RuntimeError(f"{finished} outcomes of {sum(map(len, sent))}")
    return float(finished / took)


async def _until_processes(dsn: str, count: int) -> None:
    """Until so many processes of nodes have a session."""
    conn = await asyncpg.connect(dsn)
    async with asyncio.timeout(DRAIN_SECONDS):
        while await conn.fetchval("select count(*) from sessions where closed_at is null") < count:
            await asyncio.sleep(0.05)
    await conn.close()


# Idle nodes.


def measure_idle(place: Place, options: argparse.Namespace, record: Record) -> None:
    waiting = WAITING.format(options.nodes)
    folder = place.sub("idle")
    with server(place.postgres.dsn, folder) as port:
        time.sleep(SETTLE_SECONDS)
        watch(place, port, EMPTY, options, record)
        with crowd("nodes", options.nodes, port, folder) as nodes:
            time.sleep(NODES_SETTLE_SECONDS)
            before = nodes.counts()
            seconds = watch(place, port, waiting, options, record)
            asked = nodes.counts()
        record.add("requests/s of the nodes", "per second", _grown(before, asked, "polls", "beats") / seconds)
    record.bar(f"cores for {options.nodes:,} nodes that wait, all of the server and PostgreSQL",
               record.median(waiting), at_most=0.1)  # fmt: skip


def watch(place: Place, port: int, name: str, options: argparse.Namespace, record: Record) -> float:
    """Cores of server and PostgreSQL, round by round; how long that took."""
    pid, began = server_pid(port), time.perf_counter()
    for _ in range(options.rounds):
        of_server, of_postgres, start = cpu_seconds(pid), cpu_seconds(place.postmaster), time.perf_counter()
        time.sleep(options.watch_seconds)
        took = time.perf_counter() - start
        of_server, of_postgres = cpu_seconds(pid) - of_server, cpu_seconds(place.postmaster) - of_postgres
        record.add(name, "cores", (of_server + of_postgres) / took)
        record.add(f"{name}: of it PostgreSQL", "cores", of_postgres / took)
    return time.perf_counter() - began


def server_pid(port: int) -> int:
    """The process of ours that serves this port."""
    for pid in family(os.getpid()):
        with contextlib.suppress(OSError):
            if f"\0--port\0{port}\0" in Path(f"/proc/{pid}/cmdline").read_text() and pid != os.getpid():
                return pid
    raise RuntimeError(f"nobody of ours serves port {port}")


# Readers.


@dataclass
class Told:
    """Of all rounds together."""

    events: int = 0
    reads: int = 0
    statements: int = 0


def measure_readers(place: Place, options: argparse.Namespace, record: Record) -> None:
    folder, dsn = place.sub("readers"), place.postgres.dsn
    asyncio.run(execute(dsn, "alter system set log_min_duration_statement = 0"))
    asyncio.run(execute(dsn, "select pg_reload_conf()"))
    with server(place.postgres.dsn, folder) as port:
        register(port)
        with node(port, folder):
            uvloop.run(steady(port, 2.0, options.rate))
            alone = follow(place, port, None, options, record)
            with crowd("readers", options.readers, port, folder) as readers:
                read = follow(place, port, readers, options, record)
    asyncio.run(execute(dsn, "alter system reset log_min_duration_statement"))
    asyncio.run(execute(dsn, "select pg_reload_conf()"))
    more = read.statements / read.events - alone.statements / alone.events
    record.add(MORE, "statements", more)
    record.bar(f"reads of the database per event and process, {options.readers:,} readers",
               record.median(READS.format(options.readers)), at_most=1.0)  # fmt: skip


def follow(place: Place, port: int, readers: Crowd | None, options: argparse.Namespace, record: Record) -> Told:
    told, pid, dsn = Told(), server_pid(port), place.postgres.dsn
    name = UNREAD_CORES if readers is None else READ_CORES.format(options.readers)
    for _ in range(options.rounds):
        frames = 0 if readers is None else readers.counts()["frames"]
        events, read_to = asyncio.run(_ask(dsn, "select count(*) from events")), place.log.stat().st_size
        cpu, began = cpu_seconds(pid) + cpu_seconds(place.postmaster), time.perf_counter()
        uvloop.run(steady(port, options.watch_seconds, options.rate))
        asyncio.run(_until_empty(dsn))
        events = asyncio.run(_ask(dsn, "select count(*) from events")) - events
        if readers is not None:
            _until_heard(readers, frames + events * options.readers)
        took = time.perf_counter() - began
        record.add(name, "cores", (cpu_seconds(pid) + cpu_seconds(place.postmaster) - cpu) / took)
        said = place.log.read_bytes()[read_to:].decode(errors="replace")
        reads = len(EVENT_READ.findall(" ".join(said.split())))
        told.events += events
        told.reads += reads
        told.statements += len(SAID.findall(said))
        if readers is not None:
            record.add(READS.format(options.readers), "reads", reads / events)
            record.add("frames/s", "per second", events * options.readers / took)
    return told


async def steady(port: int, seconds: float, rate: float) -> None:
    """Submits at this rate, evenly."""
    connection, began = await Connection.open(port), time.perf_counter()
    for n in range(round(seconds * rate)):
        await asyncio.sleep(began + n / rate - time.perf_counter())
        status, answer = await connection.request(SUBMIT, BODY)
        if status != 202:
            raise RuntimeError(f"{status}: {answer[:300]!r}")
    await asyncio.sleep(began + seconds - time.perf_counter())
    connection.close()


def _until_heard(readers: Crowd, frames: int) -> None:
    """Every reader has heard of every event."""
    until = time.monotonic() + LATE_SECONDS
    while (heard := readers.counts())["frames"] < frames:
        if time.monotonic() > until or heard.get("lost"):
            raise RuntimeError(f"the readers heard {heard} of {frames} frames; ask for a lower --rate")
        time.sleep(0.05)


async def _until_empty(dsn: str) -> None:
    async with asyncio.timeout(DRAIN_SECONDS):
        while await _ask(dsn, "select exists (select from queue)"):
            await asyncio.sleep(0.05)


async def _ask(dsn: str, sql: str) -> int:
    conn = await asyncpg.connect(dsn)
    found: int = await conn.fetchval(sql)
    await conn.close()
    return found


def _grown(before: dict[str, int], after: dict[str, int], *names: str) -> int:
    return sum(after.get(name, 0) - before.get(name, 0) for name in names)


if __name__ == "__main__":
    main()
