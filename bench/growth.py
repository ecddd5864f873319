"""What a step costs with years of work in the database, beside the same step in an empty one: ratios of one run.

    python bench/growth.py [--scale 0.05] [--rounds 3] [--calls 40]

Two databases of one PostgreSQL (fsync and synchronous_commit on). Into one of them go, at scale 1, ten million finished
executions over nine weeks with their outcomes, events and deliveries, a million that are ready, 100,000 that a limit
blocks, and 100,000 that run on 1,000 sessions. Then the stages and reads are called as the server calls them, in the
two in turns, from one core by two backends that share another: so many calls of each in a round, the median and the
99th percentile of the calls, buffers of each call, whole tables read, temporary files. A status is read of what has
ended just now, as a caller does, and of any of the nine weeks, these twice. A heartbeat is measured with 1, 16 and 256
leases. Last the full one is served, and the pages are asked for over HTTP. The last line is JSON. `--scale 1` needs
about 40 GB and at most an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import httpx
from backlog import ROWS, SIZE, Backlog, fill
from lifecycle import server
from record import Record, keeping, p99

from controlplane.domain.execution import Status, Submission, Webhook
from controlplane.domain.ids import ExecutionId, IdMaker, SessionId
from controlplane.domain.lease import Beat, Claim, Fence, Lease, Report, Session, Verdict
from controlplane.domain.placement import Placement
from controlplane.errors import ControlPlaneError
from controlplane.postgres.embedded import EmbeddedPostgres
from controlplane.postgres.pool import SESSION_SETTINGS
from controlplane.postgres.schema import migrate
from controlplane.reads import executions
from controlplane.reads.executions import Filter
from controlplane.stages import complete, deliver, expire, lease, register, renew, submit

SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "effective_cache_size": "8GB",
    "checkpoint_timeout": "15min",
}
BATCH = 16
PAGE_ROWS = 50
LEASES = (1, 16, 256)
HOSTS = 4
PAGES = 40
GIGABYTES_AT_ONE = 40
ROOM = 1.5
WARM = 8
STOCK = Placement()
TARGET, HOOKED, IDLE = "n.echo", "n.hook", "n.idle"
LARGE_ROWS = 5_000
"""A table of fewer rows may be read as a whole."""
EMPTY, FULL = "empty", "full"
OLD = "status read of any week"
"""Of ten million nobody has asked for lately: the first time their pages come from the disk, or the system's memory."""
LISTS = {
    "list page": Filter(),
    "list page of ended": Filter(statuses=(Status.FAILED, Status.SUCCEEDED)),
    "list page of a target": Filter(target=TARGET),
    "list page of waiting": Filter(statuses=(Status.QUEUED, Status.RUNNING)),
}

make_id = IdMaker(lambda: time.time_ns() // 1_000_000, secrets.randbits).new

NEW_DATABASE = "create database bench_{name}"
FLUSH = "select pg_stat_force_next_flush()"
STATS = """
select blks_hit + blks_read as buffers, temp_files
from pg_stat_database
where datname = current_database()
"""
SCANNED = """
select relname, seq_scan
from pg_stat_user_tables
where relid in (select oid from pg_class where reltuples > $1)
  and seq_scan > 0
"""
SETTLED = "update deliveries set state = 'delivered', lease_until = null, settled_at = clock() where state = 'leased'"

Call = Callable[[], Awaitable[object]]


@dataclass
class Cost:
    """Of one step in one database: what each call took, round by round, and the buffers of all."""

    rounds: list[list[float]] = field(default_factory=list)
    buffers: list[float] = field(default_factory=list)

    @property
    def p50(self) -> list[float]:
        return [1e3 * statistics.median(one) for one in self.rounds]

    @property
    def p99(self) -> list[float]:
        return [1e3 * p99(one) for one in self.rounds]


class Place:
    """One of the two databases, with what is needed to call the stages there."""

    def __init__(self, name: str, dsn: str, conn: asyncpg.Connection, watch: asyncpg.Connection, calls: int) -> None:
        self.name, self.dsn, self.conn, self.calls = name, dsn, conn, calls
        self._watch = watch
        self.costs: dict[str, Cost] = {}
        self.ids: list[UUID] = []
        self.temp_files = 0
        self.scanned: dict[str, int] = {}
        self._counting = False

    @classmethod
    async def open(cls, name: str, dsn: str, calls: int) -> Place:
        conn = await asyncpg.connect(dsn, server_settings=SESSION_SETTINGS, command_timeout=600)
        place = cls(name, dsn, conn, await asyncpg.connect(dsn), calls)
        await register.register(conn, register.Node(namespace=1, id="n", transport="pull", version="1"), bucket=0)
        place.session = await place.open_session()
        return place

    async def open_session(self) -> Session:
        return await register.open_session(
            self.conn, SessionId(make_id(0)), namespace=1, node_id="n", node_bucket=0, instance_id="bench",
            slots=10_000, heartbeat_seconds=1_000.0, lease_floor_seconds=86_400.0,
        )  # fmt: skip

    async def close(self) -> None:
        await self.conn.close()
        await self._watch.close()

    async def begin(self) -> None:
        """From here on it counts."""
        self._counting = True
        self.costs.clear()
        self._before = await self._watch.fetchrow(STATS), dict(await self._watch.fetch(SCANNED, LARGE_ROWS))

    async def end(self) -> None:
        await self.conn.execute(FLUSH)
        stats, scanned = self._before
        self.temp_files = (await self._watch.fetchrow(STATS))["temp_files"] - stats["temp_files"]
        for table, count in await self._watch.fetch(SCANNED, LARGE_ROWS):
            if count > scanned.get(table, 0):
                self.scanned[table] = count - scanned.get(table, 0)

    async def buffers(self) -> int:
        await self.conn.execute(FLUSH)
        return int((await self._watch.fetchrow(STATS))["buffers"])


async def timed(name: str, places: list[Place], calls: list[list[Call]]) -> list[list[object]]:
    """What each of the calls answers, place by place; what it took is kept.

    Call by call in turns, so that a machine that is slow for a moment is slow for both.
    """
    before = [await place.buffers() for place in places]
    took: list[list[float]] = [[] for _ in places]
    answers: list[list[object]] = [[] for _ in places]
    for n in range(len(calls[0])):
        for k in (range(len(places)), reversed(range(len(places))))[n % 2]:
            began = time.perf_counter()
            answers[k].append(await calls[k][n]())
            took[k].append(time.perf_counter() - began)
    for k, place in enumerate(places):
        cost = place.costs.setdefault(name, Cost())
        cost.rounds.append(took[k])
        cost.buffers.append((await place.buffers() - before[k]) / len(took[k]))
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=0.05, help="of ten million finished executions")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=40, help="of each step in a round")
    parser.add_argument("--folder", type=Path, help="where the databases go; the system's own for temporary files")
    keeping(parser)
    options = parser.parse_args()
    wanted = Backlog.of(options.scale)
    record = Record(
        bench="growth",
        title=f"With {wanted.finished:,} finished executions beside an empty database",
        what="The same calls in both, in turns: what they take, and the buffers that they touch.",
        command=f"make bench-growth ARGS='--scale {options.scale:g}'",
        settings=SETTINGS | {"scale": options.scale, "calls": options.calls, "batch": BATCH},
    )
    with tempfile.TemporaryDirectory(prefix="controlplane-bench-", dir=options.folder) as folder:
        free = shutil.disk_usage(folder).free
        if free < 1.2e9 + GIGABYTES_AT_ONE * 1e9 * options.scale:
            parser.error(f"{free / 1e9:.0f} GB are free at {folder}, {GIGABYTES_AT_ONE * options.scale:.0f} are needed")
        with EmbeddedPostgres(Path(folder) / "postgres", settings=SETTINGS) as postgres:
            asyncio.run(measure(postgres.dsn, wanted, options, record))
            serve(full_of(postgres.dsn, FULL), Path(folder), record)
    record.tell(options.json)


def full_of(dsn: str, name: str) -> str:
    """The same server's other database."""
    return urlsplit(dsn)._replace(path=f"/bench_{name}").geturl()


async def measure(dsn: str, wanted: Backlog, options: argparse.Namespace, record: Record) -> None:
    admin = await asyncpg.connect(dsn)
    record.settings["server"] = f"PostgreSQL {await admin.fetchval('show server_version')}"
    for name in (EMPTY, FULL):
        await admin.execute(NEW_DATABASE.format(name=name))
        migrate(full_of(dsn, name))
    await admin.close()
    began = time.monotonic()
    filling = await asyncpg.connect(full_of(dsn, FULL))
    await fill(filling, wanted, lambda text: print(text, file=sys.stderr, flush=True))
    record.add("filling", "s", time.monotonic() - began)
    record.add("bytes of the database", "bytes", await filling.fetchval(SIZE))
    for name, rows, held in await filling.fetch(ROWS):
        print(f"{name}: {rows:,} rows, {held / 1e6:,.0f} MB", file=sys.stderr)
    await filling.close()
    places = [await Place.open(name, full_of(dsn, name), options.calls) for name in (EMPTY, FULL)]
    for place in places:
        await submit.accept(place.conn, [submission(IDLE) for _ in range(2 * PAGE_ROWS)])
    await go(places, WARM)  # a statement is planned for good with its sixth call
    for place in places:
        await place.conn.execute("analyze")
        await place.begin()
    with apart(places):
        for _ in range(options.rounds):
            await go(places, options.calls)
    for place in places:
        await place.end()
        await place.close()
    tell(record, *places)


@contextlib.contextmanager
def apart(places: list[Place]) -> Iterator[None]:
    """Both databases' backends on one core and this process on another, where there are two.

    Else one of them may lie beside this process and the other not, which costs it a tenth of a millisecond each way.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        yield
        return
    for place in places:
        os.sched_setaffinity(place.conn.get_server_pid(), {cores[-1]})
    os.sched_setaffinity(0, {cores[0]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, set(cores))


async def go(places: list[Place], calls: int) -> None:
    """One round: what is claimed is what the round before, or the backlog, has left; as much is finished as begun."""
    await timed(
        "submit",
        places,
        [
            [partial(submit.accept, one.conn, [submission(TARGET) for _ in range(BATCH)]) for _ in range(calls)]
            for one in places
        ],
    )
    taken = await timed("claim", places, [[partial(_claim, one, TARGET)] * calls for one in places])
    leases = [[_leases(answer) for answer in answers] for answers in taken]
    for count in LEASES:
        await heartbeats(places, leases, count, calls)
    await timed(
        "complete",
        places,
        [[partial(_report, one.conn, some) for some in held] for one, held in zip(places, leases, strict=True)],
    )
    for one, held in zip(places, leases, strict=True):
        one.ids = one.ids[-1_000:] + [each.execution_id for some in held for each in some]
    fresh = [random.choices(one.ids, k=calls) for one in places]
    old = [
        wanted if one.name == EMPTY else await _some(one.conn, calls) for one, wanted in zip(places, fresh, strict=True)
    ]
    for name, ids in (("status read", fresh), (f"{OLD}, first time", old), (f"{OLD}, again", old)):
        await timed(
            name,
            places,
            [
                [partial(executions.read, one.conn, [id_], namespace=1) for id_ in wanted]
                for one, wanted in zip(places, ids, strict=True)
            ],
        )
    for name, wish in LISTS.items():
        await timed(
            name,
            places,
            [
                [partial(executions.search, one.conn, wish, namespace=1, limit=PAGE_ROWS, placement=STOCK)] * calls
                for one in places
            ],
        )
    await timed("expiry sweep", places, [[partial(_sweep, one.conn)] * calls for one in places])
    await deliveries(places, calls)


async def heartbeats(places: list[Place], leases: list[list[list[Lease]]], count: int, calls: int) -> None:
    """Of a session that holds so much: it tells its count with most beats, and what it holds with some."""
    few: list[list[Call]] = []
    whole: list[list[Call]] = []
    for one, held in zip(places, leases, strict=True):
        fences = tuple(Fence(each.execution_id, each.attempt) for some in held for each in some)[:count]
        for calls_of, named in ((few, None), (whole, fences)):
            beat = Beat(session_id=one.session.id, held=named, count=len(fences))
            calls_of.append([partial(renew.extend, one.conn, [beat])] * calls)
    await timed(f"heartbeat, {count} leases", places, few)
    await timed(f"full heartbeat, {count} leases", places, whole)


async def deliveries(places: list[Place], calls: int) -> None:
    """As many are planned as are claimed, and delivered in the end."""
    for one in places:
        for _ in range(calls):
            await submit.accept(one.conn, [submission(HOOKED, webhook(n % HOSTS)) for n in range(BATCH)])
            await _report(one.conn, _leases(await _claim(one, HOOKED)))
    claim = [
        partial(
            deliver.claim_due, one.conn, 0, after=deliver.BEGINNING, full_hosts=[], per_host=BATCH, limit=BATCH,
            lease_seconds=600.0,
        )
        for one in places
    ]  # fmt: skip
    await timed("delivery claim", places, [[one] * calls for one in claim])
    for one in places:
        await one.conn.execute(SETTLED)


def submission(target: str, *webhooks: Webhook) -> Submission:
    id_ = ExecutionId(make_id(0))
    return Submission(
        id=id_, namespace=1, run_id=f"run-{id_}", root_id=id_, target=target, type="reasoner",
        input=b'{"text":"' + b"x" * 180 + b'"}', webhooks=webhooks,
    )  # fmt: skip


def webhook(n: int) -> Webhook:
    host = f"new{n}.example"
    return Webhook(url=f"https://{host}/hook", host=host, secret_sealed=None, headers_sealed=None, attempts_max=5)


async def _claim(place: Place, target: str) -> list[list[Lease] | ControlPlaneError]:
    return await lease.claim(place.conn, [Claim(session=place.session, targets=(target,), limit=BATCH)], STOCK)


def _leases(answer: object) -> list[Lease]:
    assert isinstance(answer, list)
    [leases] = answer
    if isinstance(leases, ControlPlaneError):
        raise leases
    if len(leases) != BATCH:
        raise RuntimeError(f"{len(leases)} were claimed, not {BATCH}")
    return leases


async def _report(conn: asyncpg.Connection, leases: list[Lease]) -> None:
    reports = [
        Report(fence=Fence(one.execution_id, one.attempt), verdict=Verdict.SUCCEEDED, result=one.input)
        for one in leases
    ]
    await complete.report(conn, reports, make_id=make_id, jitter=float)


async def _sweep(conn: asyncpg.Connection) -> None:
    """What the reaper does every second; every five it asks all that hold something."""
    await expire.close_expired(conn, 0, up_seconds=3_600.0)
    await expire.sweep(conn, 0, make_id=make_id, closed=await expire.closed_sessions(conn, 0))
    await expire.time_out(conn, 0, make_id=make_id)
    await expire.force_cancel(conn, 0, grace_seconds=10.0, make_id=make_id)
    await expire.promote(conn, 0)


async def _some(conn: asyncpg.Connection, count: int) -> list[UUID]:
    """Finished ones of all weeks."""
    found = []
    for _ in range(count):
        at = UUID(int=await _random_id(conn))
        found.append(
            await conn.fetchval("select id from outcomes where bucket = 0 and id >= $1 order by id limit 1", at)
        )
    return found


async def _random_id(conn: asyncpg.Connection) -> int:
    low, high = [
        (await conn.fetchval(f"select id from outcomes where bucket = 0 order by id {way} limit 1")).int
        for way in ("asc", "desc")
    ]
    return random.randint(low, high)


def tell(record: Record, empty: Place, full: Place) -> None:
    for name in full.costs:
        for place in (empty, full):
            cost = place.costs[name]
            record.add(f"{name}, {place.name}", "ms", *cost.p50)
            record.add(f"{name} p99, {place.name}", "ms", *cost.p99)
            record.add(f"{name} buffers, {place.name}", "buffers", *cost.buffers)
    for name in full.costs:
        if "heartbeat" not in name:
            record.bar(f"{name}, of the empty one", record.ratio(f"{name}, full", f"{name}, empty"), at_most=ROOM)
    few, many = (f"heartbeat, {count} leases, full" for count in (LEASES[0], LEASES[-1]))
    record.bar(f"heartbeat with {LEASES[-1]} leases, of one with {LEASES[0]}", record.ratio(many, few), at_most=ROOM)
    record.bar("heartbeat, of the empty one", record.ratio(few, few.replace(FULL, EMPTY)), at_most=ROOM)
    record.bar("tables of more than 5,000 rows that were read as a whole", float(len(full.scanned)), at_most=0)
    record.bar("temporary files", float(full.temp_files), at_most=0)
    record.notes += [f"{table} was read as a whole {count} times" for table, count in full.scanned.items()]


def serve(dsn: str, folder: Path, record: Record) -> None:
    """The pages and lists of a server with all of it."""
    with server(dsn, folder) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        for name, path in (
            ("UI list", "/executions"),
            ("UI list of failed", "/executions?status=failed"),
            ("UI list of a target", f"/executions?target={TARGET}"),
            ("UI overview", "/"),
            ("API list", f"/api/v1/executions?limit={PAGE_ROWS}"),
            ("API list of runs", f"/api/v1/runs?limit={PAGE_ROWS}"),
            ("API list of a target that nobody knows", f"/api/v1/executions?limit={PAGE_ROWS}&target=n.nobody"),
        ):
            took = []
            for _ in range(PAGES):
                began = time.perf_counter()
                client.get(path, headers={"Accept": "text/html"} if name.startswith("UI") else {}).raise_for_status()
                took.append(1e3 * (time.perf_counter() - began))
            cuts = statistics.quantiles(took, n=20)
            record.add(f"{name} over HTTP, median", "ms", cuts[9])
            record.add(f"{name} over HTTP, p95", "ms", cuts[18])
    record.bar("UI list p95, ms", record.median("UI list over HTTP, p95"), at_most=150.0)


if __name__ == "__main__":
    main()
