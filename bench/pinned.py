"""What a snapshot that somebody holds for minutes costs a claim: ratios of one run on one machine.

    python bench/pinned.py [--seconds 60 | --minutes 10] [--rounds 3] [--load 0.5]

As long as a transaction is open, no row that died after it began can be removed: a queue keeps all that was ever
claimed in front of what is ready. A real server, PostgreSQL with fsync and synchronous_commit on, submits and claims
over HTTP at `--load` of what the machine can do. Three times: calm; with one idle transaction that has written and four
REPEATABLE READ readers; and after they have gone. Dead rows of the hot tables are what `pg_stat_user_tables` says; the
operator is told who pins by `controlplane doctor`. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import httpx
import uvloop
from http1 import Connection, post
from lifecycle import BODY, POSTGRES, register, server
from record import Record, keeping, p99

from controlplane.postgres.embedded import EmbeddedPostgres

READERS = 4
CLAIMERS = 2
SUBMITTERS = 16
BATCH = 64
IDLE_POLL_SECONDS = 0.01
CAPACITY_SECONDS = 6.0
READ_EVERY_SECONDS = 5.0
RECOVER_MAX_SECONDS = 120.0
HOT = ("queue", "sessions", "deliveries", "memory", "steps")
RESULT = b'{"text":"' + b"x" * 180 + b'"}'

DEAD = """
select relname, n_dead_tup, pg_relation_size(relid) as bytes
from pg_stat_user_tables
where relname = any($1::text[])
"""


@dataclass
class Seen:
    """What the claimers saw in one round."""

    claims: list[float] = field(default_factory=list)
    finished: int = 0
    seconds: float = 0.0

    @property
    def p50(self) -> float:
        return 1e3 * statistics.median(self.claims)

    @property
    def p99(self) -> float:
        return 1e3 * p99(self.claims)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="for which the snapshots are held")
    parser.add_argument("--minutes", type=float, help="the same, in minutes: the long form has 10")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", type=float, default=0.5, help="the share of what the machine can do")
    keeping(parser)
    options = parser.parse_args()
    if options.minutes is not None:
        options.seconds = 60.0 * options.minutes
    with tempfile.TemporaryDirectory(prefix="controlplane-bench-") as folder, contextlib.ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(Path(folder) / "postgres", settings=POSTGRES))
        port = stack.enter_context(server(postgres.dsn, Path(folder)))
        register(port)
        record = Record(
            bench="pinned",
            title="Claims while somebody holds a snapshot",
            what="The time of a claim over HTTP in calm, and while an idle transaction and four readers hold theirs.",
            command=f"make bench-pinned ARGS='--seconds {options.seconds:g} --rounds {options.rounds}'",
            settings=POSTGRES | {"seconds": options.seconds, "load": options.load, "readers": READERS},
        )
        uvloop.run(measure(postgres.dsn, port, options, record))
    record.tell(options.json)


async def measure(dsn: str, port: int, options: argparse.Namespace, record: Record) -> None:
    record.settings["server"] = await _version(dsn)
    top = await run(port, rate=None, seconds=CAPACITY_SECONDS)
    rate = options.load * top.finished / top.seconds
    record.add("lifecycles per second, flat out", "per s", top.finished / top.seconds)
    each = options.seconds / options.rounds
    calm = [await run(port, rate=rate, seconds=min(each, 20.0)) for _ in range(options.rounds)]
    _add(record, "calm", calm)
    before = await dead(dsn)
    async with pinning(dsn):
        held = [await run(port, rate=rate, seconds=each) for _ in range(options.rounds)]
        left = await dead(dsn)
        named = doctor(dsn)
    _add(record, "pinned", held)
    began = time.monotonic()
    after = [await run(port, rate=rate, seconds=5.0)]
    while (await dead(dsn))["queue"][0] > max(2_000, 4 * before["queue"][0]):
        if time.monotonic() - began > RECOVER_MAX_SECONDS:
            break
        after.append(await run(port, rate=rate, seconds=5.0))
    recovered = time.monotonic() - began
    _add(record, "afterwards", after)
    done = sum(one.finished for one in held)
    for table in HOT:
        record.add(f"dead rows of {table}, calm", "rows", before[table][0])
        record.add(f"dead rows of {table}, pinned", "rows", left[table][0])
    record.add("bytes of queue, pinned", "bytes", left["queue"][1])
    record.add("lifecycles while pinned", "lifecycles", done)
    record.add("until dead rows are gone again", "s", recovered)
    record.bar("claim p99 while pinned, of calm", record.ratio("claim p99, pinned", "claim p99, calm"), at_most=3.0)
    record.bar(
        "dead rows of queue for each lifecycle under the pin",
        (left["queue"][0] - before["queue"][0]) / max(done, 1),
        at_most=2.5,
    )
    record.bar("seconds until the dead rows are gone, once it has ended", recovered, at_most=60.0)
    record.bar("those who pin, named by doctor", float(len(named)), at_least=1.0)
    record.notes += [f"doctor says: {one}" for one in named]


def _add(record: Record, phase: str, rounds: list[Seen]) -> None:
    record.add(f"claim p50, {phase}", "ms", *[one.p50 for one in rounds])
    record.add(f"claim p99, {phase}", "ms", *[one.p99 for one in rounds])
    record.add(f"lifecycles per second, {phase}", "per s", *[one.finished / one.seconds for one in rounds])


async def run(port: int, *, rate: float | None, seconds: float) -> Seen:
    """Submit at this rate (None: as quickly as it goes) and finish what is there, until the time is over."""
    seen = Seen()
    until = time.perf_counter() + seconds
    sessions = [open_session(port, n) for n in range(CLAIMERS)]
    began = time.perf_counter()
    await asyncio.gather(
        *[submit(port, until, None if rate is None else rate / SUBMITTERS) for _ in range(SUBMITTERS)],
        *[claim(port, session, until, seen) for session in sessions],
    )
    seen.seconds = time.perf_counter() - began
    for session in sessions:
        close_session(port, session)
    return seen


def open_session(port: int, n: int) -> str:
    body = {"instance_id": f"pinned-{n}", "slots": 10_000, "heartbeat_seconds": 200}
    opened = httpx.post(f"http://127.0.0.1:{port}/api/v1/nodes/bench/sessions", json=body).raise_for_status()
    return f"/api/v1/sessions/{opened.json()['session_id']}"


def close_session(port: int, session: str) -> None:
    httpx.post(f"http://127.0.0.1:{port}{session}/close", json={}).raise_for_status()


async def submit(port: int, until: float, rate: float | None) -> None:
    head = post("/api/v1/execute/async/bench.echo")
    connection = await Connection.open(port)
    due = time.perf_counter()
    while due < until and time.perf_counter() < until:
        status, answer = await connection.request(head, BODY)
        if status != 202:
            raise RuntimeError(f"{status}: {answer[:300]!r}")
        if rate is not None:
            due += 1 / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
    connection.close()


async def claim(port: int, session: str, until: float, seen: Seen) -> None:
    """Take and finish without a pause while there is something, and look again soon when there is nothing."""
    connection = await Connection.open(port)
    body = b'{"max":%d}' % BATCH
    while time.perf_counter() < until:
        began = time.perf_counter()
        status, answer = await connection.request(post(f"{session}/lease"), body)
        seen.claims.append(time.perf_counter() - began)
        if status != 200:
            raise RuntimeError(f"{status}: {answer[:300]!r}")
        leases = json.loads(answer)["leases"]
        if not leases:
            await asyncio.sleep(IDLE_POLL_SECONDS)
            continue
        results = b",".join(
            b'{"execution_id":"%b","attempt":%d,"status":"succeeded","result":%b}'
            % (one["execution_id"].encode(), one["attempt"], RESULT)
            for one in leases
        )
        status, answer = await connection.request(post(f"{session}/results"), b'{"results":[%b]}' % results)
        if status != 200:
            raise RuntimeError(f"{status}: {answer[:300]!r}")
        seen.finished += len(leases)
    connection.close()


@contextlib.asynccontextmanager
async def pinning(dsn: str) -> AsyncIterator[None]:
    """One transaction that has written and now does nothing, and four that read what was there when they began."""
    idle = await asyncpg.connect(dsn, server_settings={"application_name": "bench-idle"})
    readers = [
        await asyncpg.connect(dsn, server_settings={"application_name": f"bench-reader-{n}"}) for n in range(READERS)
    ]
    await idle.execute("begin")
    await idle.execute("select pg_current_xact_id()")
    for reader in readers:
        await reader.execute("begin isolation level repeatable read")
    reading = [asyncio.create_task(_read(reader)) for reader in readers]
    try:
        yield
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        for conn in (idle, *readers):
            conn.terminate()


async def _read(reader: asyncpg.Connection) -> None:
    while True:
        await reader.fetchval("select count(*) from queue where state = 'ready'")
        await asyncio.sleep(READ_EVERY_SECONDS)


async def dead(dsn: str) -> dict[str, tuple[int, int]]:
    conn = await asyncpg.connect(dsn)
    rows = await conn.fetch(DEAD, list(HOT))
    await conn.close()
    return {row["relname"]: (row["n_dead_tup"], row["bytes"]) for row in rows}


async def _version(dsn: str) -> str:
    conn = await asyncpg.connect(dsn)
    version = await conn.fetchval("show server_version")
    await conn.close()
    return f"PostgreSQL {version}"


def doctor(dsn: str) -> list[str]:
    """What the operator is told of those who pin."""
    command = [sys.executable, "-m", "controlplane", "doctor", "--json"]
    done = subprocess.run(command, env=os.environ | {"DATABASE_URL": dsn}, capture_output=True, text=True, check=False)
    checks = json.loads(done.stdout)["checks"]
    return [one["detail"] for one in checks if one["name"] == "snapshots" and one["state"] != "ok"]


if __name__ == "__main__":
    main()
