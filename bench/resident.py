"""Whether a server grows with what it has done, and what those who wait cost it: its memory, from /proc.

    python bench/resident.py [--lifecycles 100000] [--polls 10000] [--readers 10000] [--rounds 3]

One server and one node on a PostgreSQL of its own (fsync and synchronous_commit on). Whole lifecycles over HTTP, and
every second the proportional set size of the server (what it shares is divided by those who share it). The first
`--warm` share of the lifecycles is left out: caches fill up to their limits. Through the rest goes a straight line; its
slope, per million lifecycles and per hour, is what the server keeps. Then, each on a server of its own, `--polls` long
polls of idle nodes and `--readers` readers of the live events wait. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import uvloop
from crowd import crowd
from http1 import load
from lifecycle import BODY, POSTGRES, node, register, server
from proc import open_files, pss_mb, slope
from record import Record, keeping
from replicas import CONNECTIONS, SUBMIT, Place, server_pid

from controlplane.postgres.embedded import EmbeddedPostgres

POLLS_PER_NODE = 2
"""A long poll for work, and a heartbeat that is held as well."""
SPARE_FILES = 500
EVERY_SECONDS = 1.0
SETTLE_SECONDS = 5.0
POINTS_MIN = 5
AHEAD_MAX = 2_000
"""Submits that wait for the node; more would measure a backlog."""
IDLE_SECONDS = 600.0
"""Without a single outcome, then something hangs."""
HOUR = 3_600.0
MILLION = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lifecycles", type=int, default=100_000, help="1000000 is the long form")
    parser.add_argument("--warm", type=float, default=0.4, help="the share of them before the slope is looked at")
    parser.add_argument("--polls", type=int, default=10_000, help="long polls of idle nodes, two of each")
    parser.add_argument("--readers", type=int, default=10_000, help="of the live events")
    parser.add_argument("--rounds", type=int, default=3, help="looks at the memory of who waits")
    keeping(parser)
    options = parser.parse_args()
    record = Record(
        bench="resident",
        title="Memory of the server",
        what="The proportional set size of one server over many lifecycles, and with many who wait.",
        command="make bench-resident",
        settings={
            "lifecycles": options.lifecycles, "warm": options.warm, "polls": options.polls,
            "readers": options.readers, "connections": CONNECTIONS, "postgres": POSTGRES,
        },
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="controlplane-bench-")))
        place = Place(stack.enter_context(EmbeddedPostgres(folder / "postgres", settings=POSTGRES)), folder)
        measure_growth(place, options, record)
        for kind, count, each in (("nodes", options.polls, POLLS_PER_NODE), ("readers", options.readers, 1)):
            if count:
                measure_waiting(place, kind, count // each, each, options, record)
    record.tell(options.json)


def measure_growth(place: Place, options: argparse.Namespace, record: Record) -> None:
    folder = place.sub("growth")
    with server(place.postgres.dsn, folder) as port:
        register(port)
        pid = server_pid(port)
        record.add("server without work", "MB", pss_mb(pid))
        with node(port, folder):
            points = uvloop.run(grow(place.postgres.dsn, port, pid, options.lifecycles))
    warm = [point for point in points if point[1] >= options.warm * options.lifecycles]
    record.add("lifecycles/s", "per second", points[-1][1] / points[-1][0])
    record.add("server over the lifecycles", "MB", *[size for _, _, size in points])
    says = "MB per hour that the server grows by, after it is warm"
    if len(warm) < POINTS_MIN:
        record.notes.append(f"{len(warm)} looks at the memory after it was warm are too few: ask for more lifecycles.")
        record.bar(says, None, at_most=1.0)
        return
    per_second, error = slope([(seconds, size) for seconds, _, size in warm])
    per_life, _ = slope([(float(done), size) for _, done, size in warm])
    record.add("grown per million lifecycles, after it is warm", "MB", per_life * MILLION)
    record.add("grown per hour, after it is warm", "MB", per_second * HOUR)
    took = warm[-1][0] - warm[0][0]
    record.notes.append(
        f"The slope is of {took / 60:.1f} minutes and {warm[-1][1] - warm[0][1]:,} lifecycles; its standard error is "
        f"{error * HOUR:.2g} MB per hour, and less than that this run cannot tell."
    )
    record.bar(says, per_second * HOUR, at_most=1.0)


async def grow(dsn: str, port: int, pid: int, lifecycles: int) -> list[tuple[float, int, float]]:
    """Seconds, lifecycles and megabytes, every second until all of them have ended."""
    conn = await asyncpg.connect(dsn)
    points: list[tuple[float, int, float]] = []
    ended, began, moved = 0, time.monotonic(), time.monotonic()
    sending = asyncio.create_task(_send(port, lifecycles, lambda: ended))
    while ended < lifecycles:
        await asyncio.sleep(EVERY_SECONDS)
        if sending.done():
            sending.result()
        before, ended = ended, await conn.fetchval("select count(*) from outcomes")
        moved = time.monotonic() if ended > before else moved
        if time.monotonic() - moved > IDLE_SECONDS:
            raise RuntimeError(f"{ended} of {lifecycles} have ended, and nothing moves")
        points.append((time.monotonic() - began, ended, pss_mb(pid)))
    await sending
    await conn.close()
    return points


async def _send(port: int, lifecycles: int, ended: Callable[[], int]) -> None:
    """Submit them in portions, so that the queue stays short."""
    sent = 0
    while sent < lifecycles:
        while sent - ended() >= AHEAD_MAX:
            await asyncio.sleep(0.05)
        portion = min(AHEAD_MAX, lifecycles - sent)
        await load(port, SUBMIT, lambda: BODY, connections=CONNECTIONS, requests=portion, expect=202)
        sent += portion


def measure_waiting(
    place: Place, kind: str, count: int, each: int, options: argparse.Namespace, record: Record
) -> None:
    """Memory with nobody and with all of them there."""
    connections, waiting = count * each, "long polls" if kind == "nodes" else "readers of events"
    name = f"{connections:,} {waiting}"
    wanted = connections + SPARE_FILES
    if (files := open_files(wanted)) < wanted:
        record.notes.append(f"{name} were not measured: {wanted:,} files are needed, {files:,} can be had (ulimit -n).")
        return
    folder = place.sub(kind)
    with roomy(wanted), server(place.postgres.dsn, folder) as port:
        pid = server_pid(port)
        time.sleep(SETTLE_SECONDS)
        empty = pss_mb(pid)
        with crowd(kind, count, port, folder):
            for _ in range(options.rounds):
                time.sleep(SETTLE_SECONDS)
                size = pss_mb(pid)
                record.add(f"server with {name}", "MB", size)
                record.add(f"each of {name}", "kB", (size - empty) * 1024 / connections)


@contextlib.contextmanager
def roomy(connections: int) -> Iterator[None]:
    """Servers that are started meanwhile take so many connections, and nodes."""
    more = {"CONTROLPLANE_CONNECTIONS_MAX": str(connections), "CONTROLPLANE_CAP_NODES": "unlimited"}
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        for name in more:
            os.environ.pop(name)
        os.environ.update({name: before[name] for name in more if name in before})


if __name__ == "__main__":
    main()
