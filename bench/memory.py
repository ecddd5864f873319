"""What a durable checkpoint costs: awaited one by one, from many runs at once, and of a list that grows.

    python bench/memory.py [--rounds 3] [--sets 1000] [--runs 32] [--sets-each 500] [--items 1000,3000,10000]

Reasoners on a real node call `memory.set`, which returns when the value is committed. First one run that awaits each
before the next; then `--runs` at once, whose sets are counted from when the last of them began to when the first was
through, so that all of them are under way. Then the loop that keeps all results in one list and stores it after each:
the bytes that go to the server (counted on the way) and into the database's log must grow with the items, not with
their square. Everything shares the machine: server, node, PostgreSQL (fsync and synchronous_commit on). The last line
is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from lifecycle import POSTGRES, node, server
from record import Record, keeping, p99

from controlplane.postgres.embedded import EmbeddedPostgres

ONE_P50_MS_MAX = 3
MANY_PER_SECOND_MIN = 5_000
GROWTH_MAX = 1.3
PATIENCE_SECONDS = 600.0
WAIT_SECONDS = 60
WARM = 100
CHUNK_BYTES = 64 * 1024


class Counter:
    """What has passed to the server."""

    def __init__(self) -> None:
        self.bytes = 0


async def run(port: int, reasoner: str, count: int) -> dict[str, Any]:
    """The result of an execution."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=WAIT_SECONDS + 30) as api:
        asked = await api.post(f"/execute/async/bench.{reasoner}", json={"input": {"count": count}})
        id_ = asked.raise_for_status().json()["execution_id"]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                answer = await api.get(f"/executions/{id_}", params={"wait_seconds": WAIT_SECONDS})
                found = answer.raise_for_status().json()
                if found["status"] == "succeeded":
                    result: dict[str, Any] = found["result"]
                    return result
                if found["status"] in ("failed", "cancelled", "timeout"):
                    raise RuntimeError(str(found)[:500])


async def one_by_one(record: Record, port: int, count: int) -> None:
    moments = (await run(port, "sets", count))["moments"]
    took = [(after - before) * 1000 for before, after in pairwise(moments)]
    record.add("one by one: p50", "ms", statistics.median(took))
    record.add("one by one: p99", "ms", p99(took))


async def at_once(record: Record, port: int, runs: int, count: int) -> None:
    """Raises RuntimeError when the first is through before the last has begun."""
    found = await asyncio.gather(*[run(port, "sets", count) for _ in range(runs)])
    moments = [one["moments"] for one in found]
    begun, through = max(one[0] for one in moments), min(one[-1] for one in moments)
    if through <= begun:
        raise RuntimeError("the runs were never all under way at once; more --sets-each")
    sets = sum(bisect.bisect(one, through) - bisect.bisect(one, begun) for one in moments)
    record.add(f"{runs} runs at once", "per second", sets / (through - begun))


async def grow(record: Record, conn: asyncpg.Connection, port: int, sent: Counter, items: int) -> None:
    lsn = await conn.fetchval("select pg_current_wal_insert_lsn()")
    before, began = sent.bytes, time.perf_counter()
    result = await run(port, "grow", items)
    took = time.perf_counter() - began
    written = await conn.fetchval("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::pg_lsn)", lsn)
    record.add(_log_of(items), "bytes/item", float(written) / items)
    record.add(_sent_of(items), "bytes/item", (sent.bytes - before) / items)
    record.add(f"list of {items:,}: took", "ms/item", took * 1000 / items)
    record.add(f"list of {items:,}: processor of the node", "ms/item", result["processor_seconds"] * 1000 / items)


def _log_of(items: int) -> str:
    return f"list of {items:,}: database log"


def _sent_of(items: int) -> str:
    return f"list of {items:,}: sent"


@contextlib.asynccontextmanager
async def counted(port: int, counter: Counter) -> AsyncIterator[int]:
    """A port from which everything goes on to the server, and is counted."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, count: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(CHUNK_BYTES):
                counter.bytes += len(chunk) if count else 0
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        its_reader, its_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pass_on(reader, its_writer, count=True), pass_on(its_reader, writer, count=False))

    listening = await asyncio.start_server(both, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()


async def measure(record: Record, dsn: str, port: int, folder: Path, options: argparse.Namespace) -> None:
    with await asyncio.to_thread(_entered, node(port, folder)):
        await run(port, "sets", WARM)
        for _ in range(options.rounds):
            await one_by_one(record, port, options.sets)
            await at_once(record, port, options.runs, options.sets_each)
    conn, counter = await asyncpg.connect(dsn), Counter()
    async with counted(port, counter) as through:
        with await asyncio.to_thread(_entered, node(through, folder)):
            await run(port, "grow", WARM)
            for _ in range(options.rounds):
                for items in options.items:
                    await grow(record, conn, port, counter, items)
    await conn.close()


def _entered(context: contextlib.AbstractContextManager[None]) -> contextlib.ExitStack:
    """To be entered by a thread, for the node is waited for through this loop."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(context)
        return stack.pop_all()


def _items(text: str) -> list[int]:
    return sorted(int(one) for one in text.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sets", type=int, default=1_000, help="of the run that awaits them one by one")
    parser.add_argument("--runs", type=int, default=32, help="at once")
    parser.add_argument("--sets-each", type=int, default=500, help="of each of those")
    parser.add_argument("--items", type=_items, default=[1_000, 3_000, 10_000], help="lengths that the list grows to")
    keeping(parser)
    options = parser.parse_args()
    record = Record(
        bench="memory",
        title="Checkpoints",
        what="What `memory.set` costs, which returns when its value is committed.",
        command="make bench-memory",
        settings={name: getattr(options, name) for name in ("rounds", "sets", "runs", "sets_each", "items")} | POSTGRES,
    )
    with tempfile.TemporaryDirectory(prefix="controlplane-bench-") as folder, contextlib.ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(Path(folder) / "postgres", settings=POSTGRES))
        port = stack.enter_context(server(postgres.dsn, Path(folder)))
        asyncio.run(measure(record, postgres.dsn, port, Path(folder), options))
    record.bar("one by one, p50 (ms)", record.median("one by one: p50"), at_most=ONE_P50_MS_MAX)
    record.bar("sets per second at once", record.median(f"{options.runs} runs at once"), at_least=MANY_PER_SECOND_MIN)
    short, long = options.items[0], options.items[-1]
    for what, of in (("database log", _log_of), ("sent", _sent_of)):
        says = f"{what}, bytes per item of a list of {long:,} to those of one of {short:,}"
        record.bar(says, record.ratio(of(long), of(short)), at_most=GROWTH_MAX)
    record.tell(options.json)


if __name__ == "__main__":
    main()
