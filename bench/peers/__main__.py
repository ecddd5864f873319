"""Ours beside what people would take instead, in turns, in one run on one machine.

    python bench/peers [--rounds 3] [--seconds 5] [--only dbos,taskiq] [--minutes 12]

Two measures of each: submits per second by 64 producers, and whole lifecycles per second (submitted, run by a trivial
function, result kept and readable) with producers and workers at once, from the first submit to the last result. Ours
goes over HTTP, the peers talk to their store directly; a FastAPI route with one INSERT stands beside our submits, with
and without its database. Everybody does it with one process of what does the work and with two (ours: workers of the
server, with one node; the route: workers of uvicorn; a peer: producers, and workers), and counts with what is better
for it. Each subject begins every round on an empty database of the same PostgreSQL (fsync and
synchronous_commit on), or an empty Redis (appendonly yes, appendfsync everysec: up to a second is lost with the
machine, which is what its documentation recommends). Who fails twice is left out, and whoever failed is named with the
last words; the run ends within `--minutes`. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

import asyncpg  # noqa: E402
import uvloop  # noqa: E402
from http1 import for_seconds, load, post  # noqa: E402
from installs import PEERS, Absent, Peer, environment, last_words, redis_server  # noqa: E402
from lifecycle import BODY, POSTGRES, free_port, node, register, running, server, until_ready  # noqa: E402
from proc import cpu_seconds  # noqa: E402
from record import Record, keeping  # noqa: E402
from tally import LIVES, NAIVE, NO_DATABASE, OURS, SUBMITS, Tally, alone  # noqa: E402

from controlplane import __version__  # noqa: E402
from controlplane.postgres.embedded import EmbeddedPostgres  # noqa: E402

PRODUCERS = 64
PROCESSES = (1, 2)
REDIS = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--bind", "127.0.0.1"]
REDIS_SETTINGS = "appendonly yes, appendfsync everysec (up to a second is lost with the machine)"
SETUP_SECONDS = 60.0
START_SECONDS = 90.0  # of a worker, until its first result is there
SLACK_SECONDS = 20.0  # of a client: imports, connections, the requests that are under way at the end
STOP_SECONDS = 5.0
QUIET_CORES = 0.15
QUIET_SECONDS_MAX = 15.0
"""Some poll so often that they never rest."""
LOOK_SECONDS = 0.5
FAILURES_MAX = 2  # rounds, then a subject is left out
DRAIN = 2.0  # times the seconds of producing: what is not finished then is left out of the rate


@dataclass
class Ground:
    """What all subjects share."""

    postgres: EmbeddedPostgres
    folder: Path
    seconds: float
    until: float
    tally: Tally
    latencies: list[float] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    pythons: dict[str, Path] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    redis_url: str | None = None

    def patience(self, seconds: float) -> float:
        """So long, and never longer than the run has left. Raises Absent when it has nothing left."""
        left = self.until - time.monotonic()
        if left <= 1.0:
            raise Absent("the time of the run was over")
        return min(seconds, left)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of producing, for each measure in each round")
    parser.add_argument("--only", default="", help="these peers alone, by name")
    parser.add_argument("--minutes", type=float, default=24.0, help="of the whole run; rounds that do not fit are cut")
    keeping(parser)
    options = parser.parse_args()
    only = [name for name in options.only.split(",") if name]
    if unknown := set(only) - {peer.name for peer in PEERS}:
        parser.error(f"no such peers: {', '.join(sorted(unknown))}")
    peers = [peer for peer in PEERS if not only or peer.name in only]
    until = time.monotonic() + options.minutes * 60
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    with tempfile.TemporaryDirectory(prefix="controlplane-bench-") as folder, contextlib.ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(Path(folder) / "postgres", settings=POSTGRES))
        ground = Ground(postgres, Path(folder), options.seconds, until, Tally())
        prepare(ground, peers, stack)
        print(f"controlplane {__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, {POSTGRES}")
        print(f"{options.rounds} rounds of {options.seconds:g} s for each measure, {PRODUCERS} producers\n")
        try:
            rounds(ground, peers, options.rounds)
        finally:
            report(ground, peers, options)


def prepare(ground: Ground, peers: list[Peer], stack: contextlib.ExitStack) -> None:
    """All that is installed or started once, before anything is measured."""
    for peer in peers:
        with missing(ground, peer.name):
            ground.pythons[peer.name] = environment(peer)
            if peer.store == "redis" and ground.redis_url is None:
                ground.redis_url = stack.enter_context(redis(ground))


def rounds(ground: Ground, peers: list[Peer], count: int) -> None:
    subjects: list[tuple[str, Callable[[], None]]] = []
    for processes in PROCESSES:
        subjects += [(alone(OURS, processes), partial(ours, ground, processes))]
        subjects += [(alone(NAIVE, processes), partial(naive, ground, processes))]
    for peer in peers:
        subjects += [(alone(peer.name, processes), partial(beside, ground, peer, processes)) for processes in PROCESSES]
    for number in range(count):
        for name, measure in subjects if number % 2 == 0 else subjects[::-1]:
            if ground.failures[name] < FAILURES_MAX:
                with missing(ground, name):
                    ground.patience(0.0)
                    print(f"round {number + 1}: {name}", file=sys.stderr, flush=True)
                    measure()


@contextlib.contextmanager
def missing(ground: Ground, name: str) -> Iterator[None]:
    """Whatever a subject does wrong is written down and does not end the run."""
    try:
        yield
    except Absent as error:
        ground.failures[name] = FAILURES_MAX
        ground.tally.absent[name] = str(error)
    except Exception as error:  # noqa: BLE001 - the others are measured all the same
        ground.failures[name] += 1
        ground.tally.absent[name] = f"failed: {last_words(str(error)) if str(error) else type(error).__name__}"


def ours(ground: Ground, processes: int) -> None:
    """Workers of the server, and a node of the SDK; submits over HTTP."""
    settings = {"CONTROLPLANE_WORKERS": str(processes)}
    with database(ground) as dsn, server(dsn, ground.folder, settings) as port:
        register(port)
        rate = uvloop.run(submits(ground, port, "/api/v1/execute/async/bench.echo"))
        ground.tally.add(OURS, SUBMITS, rate, processes=processes)
        asyncio.run(execute(dsn, "truncate queue"))
        with node(port, ground.folder):
            until_quiet()
            ground.tally.add(OURS, LIVES, uvloop.run(lives(ground, port, dsn)), processes=processes)


def naive(ground: Ground, processes: int) -> None:
    with database(ground) as dsn:
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "naive:app", "--app-dir", str(HERE), "--port", str(port)]
        command += ["--no-access-log", "--log-level", "warning", "--workers", str(processes)]
        with running(command, os.environ | {"DATABASE_URL": dsn}, ground.folder / "naive.log"):
            until_ready(port, "/readyz", lambda answer: answer.status_code == 200)
            for name, path in ((NAIVE, "/kept/bench.echo"), (NO_DATABASE, "/unkept/bench.echo")):
                rate = uvloop.run(submits(ground, port, path))
                ground.tally.add(name, SUBMITS, rate, processes=processes)


async def submits(ground: Ground, port: int, path: str) -> float:
    """Accepted per second."""
    head, turns, began = post(path), for_seconds(ground.seconds), time.perf_counter()
    sent = load(port, head, lambda: BODY, connections=PRODUCERS, requests=turns, expect=202)
    took = await asyncio.wait_for(sent, ground.patience(ground.seconds + SLACK_SECONDS))
    if "/api/" in path:
        ground.latencies += took
    return len(took) / (time.perf_counter() - began)


async def lives(ground: Ground, port: int, dsn: str) -> float:
    head = post("/api/v1/execute/async/bench.echo")
    conn = await asyncpg.connect(dsn)

    async def finish(turns: int | Iterator[object], patience: float) -> int:
        sent = await load(port, head, lambda: BODY, connections=PRODUCERS, requests=turns, expect=202)
        until = time.monotonic() + ground.patience(patience)
        while await conn.fetchval("select exists (select from queue)") and time.monotonic() < until:
            await asyncio.sleep(0.02)
        return len(sent)

    await finish(1, START_SECONDS)
    before = await conn.fetchval("select count(*) from outcomes")
    began = time.perf_counter()
    sent = await finish(for_seconds(ground.seconds), DRAIN * ground.seconds)
    took = time.perf_counter() - began
    finished = await conn.fetchval("select count(*) from outcomes") - before
    left = await conn.fetchval("select count(*) from queue")
    await conn.close()
    if before != 1 or finished + left != sent:
        raise RuntimeError(f"{finished} outcomes and {left} unfinished of {sent}")
    return float(finished / took)


def beside(ground: Ground, peer: Peer, processes: int) -> None:
    """A peer: so many who submit without any of its workers, then whole lives with so many of these."""
    for measure in (SUBMITS, LIVES):
        with contextlib.ExitStack() as stack:
            url = ground.redis_url if peer.store == "redis" else stack.enter_context(database(ground))
            if url is None:
                raise Absent("no Redis to talk to")
            drive = Driver(ground, peer, url)
            ground.versions |= drive.ask("setup", patience=SETUP_SECONDS)["versions"]
            if measure == SUBMITS:
                ask = partial(drive.ask, "submit", ground.seconds, PRODUCERS // processes)
                with ThreadPoolExecutor(processes) as threads:
                    asked = [threads.submit(ask, patience=ground.seconds + SLACK_SECONDS) for _ in range(processes)]
                each = [one.result() for one in asked]
            else:
                for _ in range(processes):
                    stack.enter_context(drive.working())
                until_quiet()
                wait = DRAIN * ground.seconds
                patience = START_SECONDS + ground.seconds + wait
                each = [drive.ask("lives", ground.seconds, PRODUCERS, wait, patience=patience)]
            rate = sum(done["count"] / done["seconds"] for done in each)
            ground.tally.add(peer.name, measure, rate, processes=processes)


def until_quiet() -> None:
    """Return when all that was started rests: what it takes to begin is not measured, of one worker or of two."""
    until, busy = time.monotonic() + QUIET_SECONDS_MAX, 1.0
    while busy > QUIET_CORES and time.monotonic() < until:
        before = cpu_seconds(os.getpid())
        time.sleep(LOOK_SECONDS)
        busy = (cpu_seconds(os.getpid()) - before) / LOOK_SECONDS


class Driver:
    """The script of a peer in the peer's own environment."""

    def __init__(self, ground: Ground, peer: Peer, url: str) -> None:
        self._ground = ground
        self._command = [str(ground.pythons[peer.name]), str(HERE / "drivers" / f"drive_{peer.name}.py")]
        ours = ("PYTHONPATH", "VIRTUAL_ENV")
        self._env = {name: value for name, value in os.environ.items() if name not in ours} | {"PEER_URL": url}
        self._log = ground.folder / f"{peer.name}.log"

    def ask(self, command: str, *numbers: float, patience: float) -> dict[str, Any]:
        """Its answer. Raises RuntimeError with its last words, or those of its workers."""
        with self._started([command, *map(str, numbers)], subprocess.PIPE) as process:
            try:
                said, _ = process.communicate(timeout=self._ground.patience(patience))
            except subprocess.TimeoutExpired:
                raise RuntimeError(f"{command} took too long; its log ends: {self._last_words()}") from None
        if process.returncode:
            raise RuntimeError(f"{command}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(said.splitlines()[-1])
        return answer

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        with self._started(["work"], subprocess.DEVNULL):
            yield

    @contextlib.contextmanager
    def _started(self, arguments: list[str], stdout: int) -> Iterator[subprocess.Popen[bytes]]:
        """It and its children, in a group of their own that is gone at the end."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [*self._command, *arguments],
                env=self._env,
                cwd=HERE / "drivers",
                stdout=stdout,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _last_words(self) -> str:
        return last_words(self._log.read_text(errors="replace"))


@contextlib.contextmanager
def database(ground: Ground) -> Iterator[str]:
    """An empty database, dropped afterwards."""
    name = f"bench_{time.monotonic_ns()}"
    asyncio.run(execute(ground.postgres.dsn, f"create database {name}"))
    try:
        yield urlsplit(ground.postgres.dsn)._replace(path=f"/{name}").geturl()
    finally:
        asyncio.run(execute(ground.postgres.dsn, f"drop database {name} with (force)"))
        asyncio.run(execute(ground.postgres.dsn, "checkpoint"))  # its pages are nobody else's burden


@contextlib.contextmanager
def redis(ground: Ground) -> Iterator[str]:
    folder, port = ground.folder / "redis", free_port()
    folder.mkdir()
    command = [redis_server(), *REDIS, "--port", str(port), "--dir", str(folder)]
    with running(command, dict(os.environ), ground.folder / "redis.log"):
        until = time.monotonic() + SETUP_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.05)
        version = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=True).stdout
        ground.versions["redis-server"] = version.split("v=")[1].split()[0]
        yield f"redis://127.0.0.1:{port}"


async def execute(dsn: str, sql: str) -> Any:
    conn = await asyncpg.connect(dsn)
    try:
        return await conn.fetchval(sql)
    finally:
        await conn.close()


def report(ground: Ground, peers: list[Peer], options: argparse.Namespace) -> None:
    with contextlib.suppress(OSError, asyncpg.PostgresError):
        ground.versions["postgresql"] = asyncio.run(execute(ground.postgres.dsn, "show server_version"))
    print("\n".join(ground.tally.lines()))
    print()
    record = Record(
        bench="peers",
        title="Beside the peers",
        what="Submits and whole lifecycles per second, ours over HTTP beside what people would take instead.",
        command="make bench-peers",
        settings={
            "rounds": options.rounds, "seconds": options.seconds, "producers": PRODUCERS, "postgres": POSTGRES,
            **{peer.name: peer.settings for peer in peers}, "redis": REDIS_SETTINGS,
        },
        versions=ground.versions,
    )  # fmt: skip
    ground.tally.fill(record)
    if len(ground.latencies) > 1:
        cuts = statistics.quantiles(ground.latencies, n=100)
        for name, cut in (("p50", cuts[49]), ("p99", cuts[98])):
            record.add(f"our submit latency, {name} of all rounds", "ms", cut * 1000)
    record.tell(options.json)


if __name__ == "__main__":
    main()
