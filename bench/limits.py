"""What limits cost those that have none, and those that wait: ratios of one run on one machine.

    python bench/limits.py [--blocked 100000] [--rounds 200]

The stages themselves against a PostgreSQL of its own (fsync and synchronous_commit on), one connection: a claim of 16
and a pass of admit, with nobody and with `--blocked` rows held back in front, most of them in the line of the claim's
own target; and how many of 10,000 children of one run begin before a single submit of the same reasoner, with 8 slots.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import asyncpg

from controlplane import __version__
from controlplane.domain.execution import Submission
from controlplane.domain.ids import ExecutionId, IdMaker, SessionId
from controlplane.domain.lease import Claim, Fence, Report, Session, Verdict
from controlplane.domain.limit import Rule
from controlplane.domain.placement import Placement
from controlplane.errors import ControlPlaneError
from controlplane.postgres.embedded import EmbeddedPostgres
from controlplane.postgres.pool import SESSION_SETTINGS, Connection
from controlplane.postgres.schema import migrate
from controlplane.stages import admit, complete, lease, limit, register, submit

PLACEMENT = Placement()
make_id = IdMaker(lambda: time.time_ns() // 1_000_000, random.getrandbits).new
TARGET = "n.echo"
KEY = "reasoner:n.other"
CHILDREN = 10_000
SLOTS = 8

HOLD_BACK = """
with made as (
  select n, ('0192' || substr(md5(n::text), 1, 25) || '000')::uuid as id,
    case when n % 5 = 0 then 'n.other' else 'n.echo' end as target
  from generate_series(1, $1::int) as n
),
asked as (
  insert into executions (
    bucket, id, namespace, run_id, root_id, target, type, input, priority, retries_max, retry_delay_seconds,
    retry_factor, retry_cap_seconds, webhooks, created_at
  )
  select 0, id, 1, 'run', id, target, 'reasoner', '{}', 0, 0, 5, 2, 300, 0, clock()
  from made
)
insert into queue (
  bucket, id, namespace, target, run_id, state, priority, available_at, retries_max, webhooks, line, limited,
  fairness_key
)
select 0, id, 1, target, 'run', 'blocked', 0, clock() - interval '1 hour', 0, 0,
  case when n % 5 = 0 then 'reasoner:n.other' else 'turn:n.echo' end, n % 5 = 0, 'f' || n % 100
from made
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocked", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="controlplane-bench-") as folder,
        EmbeddedPostgres(Path(folder) / "postgres", settings={"shared_buffers": "512MB"}) as postgres,
    ):
        print(f"controlplane {__version__}, Python {platform.python_version()}, {os.cpu_count()} cores")
        migrate(postgres.dsn)
        asyncio.run(measure(postgres.dsn, options))


async def measure(dsn: str, options: argparse.Namespace) -> None:
    conn = await asyncpg.connect(dsn, server_settings=SESSION_SETTINGS)
    session = await open_session(conn)
    await limit.put(conn, 0, Rule(concurrency_max=1), namespace=1, key=KEY)
    await accept(conn, [wish("n.other", line=KEY) for _ in range(2)])  # one is let in and stays, the other waits
    await let_in(conn)
    figures: dict[str, float] = {}
    for name, rows in (("nobody", 0), (f"{options.blocked:,}", options.blocked)):
        if rows:
            await conn.execute(HOLD_BACK, rows)
            await let_in(conn, passes=1)
            await conn.execute("delete from queue where state = 'ready' and target = $1", TARGET)
        await conn.execute("vacuum analyze queue")
        figures[f"claim of 16, ms, {name} held back"] = await claims(conn, session, options.rounds)
        figures[f"admit of a full line, ms, {name} held back"] = await passes(conn, options.rounds)
        figures[f"end of one and admit of the next, ms, {name} held back"] = await successions(
            conn, session, options.rounds
        )
    await conn.execute("truncate queue, limits")
    figures["children begun before a single submit"] = float(await crowd(conn, session))
    await conn.close()
    for name, value in figures.items():
        print(f"{name:<64} {value:10.2f}")
    print(json.dumps(figures))


async def claims(conn: Connection, session: Session, rounds: int) -> float:
    """The typical time of a claim that finds 16 rows."""
    times = []
    for _ in range(rounds):
        await accept(conn, [wish() for _ in range(16)])
        times.append(await timed(lambda: take(conn, session, TARGET, 16)))
        await conn.execute("delete from queue where state = 'leased' and target = $1", TARGET)
    return typical(times)


async def passes(conn: Connection, rounds: int) -> float:
    """The typical time of a look at a line that has no room."""
    line = admit.Line(0, 1, KEY)
    return typical([await timed(lambda: admit.advance(conn, line, PLACEMENT)) for _ in range(rounds)])


async def successions(conn: Connection, session: Session, rounds: int) -> float:
    """The typical time from an end to the next of its line being ready: report and admit together."""
    line = admit.Line(0, 1, KEY)
    times = []
    for _ in range(rounds):
        await accept(conn, [wish("n.other", line=KEY)])
        [taken] = await take(conn, session, "n.other", 1)

        async def succeed(fence: Fence = taken) -> None:
            await report(conn, fence)
            await admit.advance(conn, line, PLACEMENT)

        times.append(await timed(succeed))
    return typical(times)


async def crowd(conn: Connection, session: Session) -> int:
    """How many of a run's 10,000 children begin before a single submit that came after all of them."""
    for _ in range(CHILDREN // 250):
        await accept(conn, [wish(fairness_key="run") for _ in range(250)])
    single = wish()
    await accept(conn, [single])
    begun = 0
    while True:
        taken = await take(conn, session, TARGET, SLOTS)
        if single.id in {fence.execution_id for fence in taken}:
            return begun
        begun += len(taken)
        for fence in taken:
            await report(conn, fence)
        await let_in(conn, passes=1)


def typical(times: list[float]) -> float:
    """The time that one in ten stays below: what the machine needs when nobody else wants it."""
    return statistics.quantiles(times, n=10)[0]


async def timed(call: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await call()
    return (time.perf_counter() - began) * 1_000


async def let_in(conn: Connection, *, passes: int = 10) -> None:
    for _ in range(passes):
        for line in await admit.lines(conn, 0):
            await admit.advance(conn, line, PLACEMENT)


async def open_session(conn: Connection) -> Session:
    node = register.Node(namespace=1, id="n", transport="pull", version="1")
    await register.register(conn, node, bucket=0)
    return await register.open_session(
        conn,
        SessionId(make_id(0)),
        namespace=1,
        node_id="n",
        node_bucket=0,
        instance_id="i",
        slots=1_000,
        heartbeat_seconds=3_600.0,
        lease_floor_seconds=30.0,
    )


def wish(target: str = TARGET, *, line: str | None = None, fairness_key: str | None = None) -> Submission:
    id_ = ExecutionId(make_id(0))
    return Submission(
        id=id_,
        namespace=1,
        run_id="run",
        root_id=UUID(int=id_.int),
        target=target,
        type="reasoner",
        input=b"{}",
        line=line,
        fairness_key=fairness_key,
    )


async def accept(conn: Connection, wishes: list[Submission]) -> None:
    for answer in await submit.accept(conn, wishes):
        if isinstance(answer, ControlPlaneError):
            raise answer


async def take(conn: Connection, session: Session, target: str, most: int) -> list[Fence]:
    [answer] = await lease.claim(conn, [Claim(session=session, targets=(target,), limit=most)], PLACEMENT)
    if isinstance(answer, ControlPlaneError):
        raise answer
    return [Fence(one.execution_id, one.attempt) for one in answer]


async def report(conn: Connection, fence: Fence) -> None:
    item = Report(fence=fence, verdict=Verdict.SUCCEEDED, result=b"null")
    await complete.report(conn, [item], make_id=make_id, jitter=lambda: 0.0)


if __name__ == "__main__":
    main()
