"""How long after a submit its reasoner starts, its result is read, and its webhook comes.

    python bench/latency.py [--rounds 3] [--seconds 15] [--rate 20] [--find 4]

Executions are submitted at a steady pace, whether those before are done or not, each with a webhook. Whoever submits
then asks for the result with `wait_seconds`, as the SDK's `wait` does; the receiver of the webhooks answers at once.
Everything shares the machine: submitter, receiver, server, node, PostgreSQL (fsync and synchronous_commit on), and with
it one clock. A time begins where the request is sent; how late the submitter itself was is said beside.

First `--rate` a second, in `--rounds` of `--seconds`. Then what the machine does at most is looked for, with 64 who
wait for result and webhook and then submit again, and the same is measured at half of that. The table of hops sets the
database's own moments between: when each transaction began that accepted, claimed and ended. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import uvloop
from http1 import Connection, get, post
from lifecycle import POSTGRES, node, server
from record import Record, keeping, p99

from controlplane.domain.ids import read_execution
from controlplane.postgres.embedded import EmbeddedPostgres

WARM_SECONDS = 2.0
LATE_SECONDS = 30.0
"""After the last submit; what has not come then counts as so late."""
CLOSED = 64
WAIT_SECONDS = 30
TEXT = "x" * 180
LOOPBACK = {"CONTROLPLANE_EGRESS_ALLOW_LOOPBACK": "true"}

START, RESULT, WEBHOOK = "reasoner starts", "result is read", "webhook comes"
BARS_MS = [(START, "p50", 5), (START, "p99", 20), (RESULT, "p50", 10), (WEBHOOK, "p50", 20)]

MOMENTS = """
select e.id, e.created_at as accepted, o.started_at as claimed, o.finished_at as ended
from executions e
join outcomes o on o.bucket = e.bucket and o.id = e.id
where e.id = any($1::uuid[])
"""


@dataclass
class Life:
    """One execution, by the clock of this machine. 0: not seen."""

    number: int
    due: float
    sent: float = 0.0
    answered: float = 0.0
    began: float = 0.0
    read: float = 0.0
    told: float = 0.0
    id: UUID | None = None
    accepted: float = 0.0
    claimed: float = 0.0
    ended: float = 0.0
    done: asyncio.Event = field(default_factory=asyncio.Event)
    """When both the result and the webhook are there."""

    def seen(self) -> None:
        if self.read and self.told:
            self.done.set()

    def after(self, what: str) -> float:
        """Milliseconds from the submit."""
        at = {START: self.began, RESULT: self.read, WEBHOOK: self.told}[what]
        return ((at or self.sent + LATE_SECONDS) - self.sent) * 1000


HOPS: list[tuple[str, Callable[[Life], float], Callable[[Life], float]]] = [
    ("sent, until its transaction begins", lambda one: one.sent, lambda one: one.accepted),
    ("until the submit is answered", lambda one: one.accepted, lambda one: one.answered),
    ("accepted, until it is claimed", lambda one: one.accepted, lambda one: one.claimed),
    ("claimed, until the reasoner runs", lambda one: one.claimed, lambda one: one.began),
    ("run, until the end is recorded", lambda one: one.began, lambda one: one.ended),
    ("ended, until the result is read", lambda one: one.ended, lambda one: one.read),
    ("ended, until the webhook comes", lambda one: one.ended, lambda one: one.told),
]


class Receiver(asyncio.Protocol):
    """Takes every webhook at once, and notes when it came."""

    def __init__(self, lives: dict[int, Life]) -> None:
        self._lives = lives
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        now = time.time()
        self._seen += data
        head, found, body = self._seen.partition(b"\r\n\r\n")
        at = head.lower().find(b"content-length:") + 15
        if not found or len(body) < int(head[at : head.find(b"\r", at)]):
            return
        self._seen = b""
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")  # type: ignore[attr-defined]
        one = self._lives[json.loads(body)["result"]["number"]]
        one.told = one.told or now
        one.seen()


class Bench:
    def __init__(self, port: int, receiver_port: int, lives: dict[int, Life]) -> None:
        self._port = port
        self._url = f"http://127.0.0.1:{receiver_port}/hook"
        self._lives = lives
        self._free: list[Connection] = []

    def life(self, due: float) -> Life:
        one = Life(number=len(self._lives), due=due)
        self._lives[one.number] = one
        return one

    async def live(self, one: Life) -> None:
        """Submit it and wait for its result, on connections that are open already wherever there is one."""
        body = {"input": {"number": one.number, "text": TEXT}, "webhook": {"url": self._url}}
        encoded = json.dumps(body).encode()
        async with self._connection() as connection:
            one.sent = time.time()
            status, answer = await connection.request(post("/api/v1/execute/async/bench.mark"), encoded)
            one.answered = connection.came
            if status != 202:
                raise RuntimeError(f"{status}: {answer[:300]!r}")
            id_ = json.loads(answer)["execution_id"]
            status, answer = await connection.request(get(f"/api/v1/executions/{id_}?wait_seconds={WAIT_SECONDS}"), b"")
            one.read = connection.came
        found = json.loads(answer)
        if found["status"] != "succeeded":
            raise RuntimeError(f"{status}: {answer[:300]!r}")
        one.id, one.began = read_execution(id_), found["result"]["began"]
        one.seen()

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        connection = self._free.pop() if self._free else await Connection.open(self._port)
        yield connection
        self._free.append(connection)

    async def pace(self, per_second: float, seconds: float) -> list[Life]:
        """Submit at this pace, and return when all has come or is too late."""
        began, lives, tasks = time.time(), [], []
        for turn in range(max(2, round(per_second * seconds))):
            due = began + turn / per_second
            await asyncio.sleep(max(0.0, due - time.time()))
            lives.append(self.life(due))
            tasks.append(asyncio.create_task(self.live(lives[-1])))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LATE_SECONDS):
                await asyncio.gather(*tasks, *[one.done.wait() for one in lives])
        return lives

    async def most(self, seconds: float) -> float:
        """Lifecycles per second, each with result and webhook, of 64 who submit again as soon as both are there."""
        until = time.monotonic() + seconds
        done = 0

        async def one() -> None:
            nonlocal done
            while time.monotonic() < until:
                life = self.life(time.time())
                await self.live(life)
                async with asyncio.timeout(LATE_SECONDS):
                    await life.done.wait()
                done += 1

        began = time.monotonic()
        await asyncio.gather(*[one() for _ in range(CLOSED)])
        return done / (time.monotonic() - began)


async def measure(record: Record, dsn: str, port: int, options: argparse.Namespace) -> None:
    lives: dict[int, Life] = {}
    receiver = await asyncio.get_running_loop().create_server(lambda: Receiver(lives), "127.0.0.1", 0)
    bench = Bench(port, receiver.sockets[0].getsockname()[1], lives)
    conn = await asyncpg.connect(dsn)
    await bench.pace(options.rate, WARM_SECONDS)
    hops = []
    for _ in range(options.rounds):
        paced = await bench.pace(options.rate, options.seconds)
        tell(record, f"{options.rate:g}/s", paced)
        hops += await with_moments(conn, paced)
    record.add("most", "per second", await bench.most(options.find))
    half = (record.median("most") or 0.0) / 2
    for _ in range(options.rounds):
        tell(record, "half of the most", await bench.pace(half, options.find))
    await conn.close()
    receiver.close()
    for name, start, end in HOPS:
        took = [(end(one) - start(one)) * 1000 for one in hops]
        record.add(f"hop: {name}, p50", "ms", statistics.median(took))
        record.add(f"hop: {name}, p99", "ms", p99(took))


def tell(record: Record, pace: str, lives: list[Life]) -> None:
    for what in (START, RESULT, WEBHOOK):
        took = [one.after(what) for one in lives]
        record.add(f"{pace}: {what}, p50", "ms", statistics.median(took))
        record.add(f"{pace}: {what}, p99", "ms", p99(took))
    record.add(f"{pace}: the submitter is late, p99", "ms", p99([(one.sent - one.due) * 1000 for one in lives]))


async def with_moments(conn: asyncpg.Connection, lives: list[Life]) -> list[Life]:
    """Those that have ended, with what the database knows of them."""
    of = {one.id: one for one in lives if one.id is not None and one.told}
    for row in await conn.fetch(MOMENTS, list(of)):
        one = of[row["id"]]
        one.accepted, one.claimed, one.ended = (_seconds(row[name]) for name in ("accepted", "claimed", "ended"))
    return [one for one in of.values() if one.ended]


def _seconds(at: datetime) -> float:
    return at.timestamp()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each round at --rate")
    parser.add_argument("--rate", type=float, default=20.0, help="submits per second")
    parser.add_argument("--find", type=float, default=5.0, help="seconds in which the most is looked for, and of half")
    keeping(parser)
    options = parser.parse_args()
    record = Record(
        bench="latency",
        title="From submit to start, result and webhook",
        what=f"Milliseconds from a submit on, at {options.rate:g} submits a second and at half of what can be done.",
        command="make bench-latency",
        settings={name: getattr(options, name) for name in ("rounds", "seconds", "rate", "find")} | POSTGRES,
    )
    with tempfile.TemporaryDirectory(prefix="controlplane-bench-") as folder, contextlib.ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(Path(folder) / "postgres", settings=POSTGRES))
        port = stack.enter_context(server(postgres.dsn, Path(folder), LOOPBACK))
        stack.enter_context(node(port, Path(folder)))
        uvloop.run(measure(record, postgres.dsn, port, options))
    for what, which, most in BARS_MS:
        name = f"{options.rate:g}/s: {what}, {which}"
        record.bar(f"{name} (ms)", record.median(name), at_most=most)
    record.tell(options.json)


if __name__ == "__main__":
    main()
