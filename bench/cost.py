"""What a submit, a claim, a report and a whole lifecycle cost: figures that mean something on a busy machine, too.

    python bench/cost.py [--requests 500] [--runs 24] [--connections 64] [--cpu-only] [--beside TREE]

Seconds depend on who else uses the machine; this counts instead. Per item of each phase: CPU of the server and of all
processes of PostgreSQL (user and system, read from the kernel to the nanosecond), and from one more pass in which the
database says every statement: round trips, WAL records and bytes by kind (heap rows, index entries, full pages),
buffers, rows, and updates that touched no index. Where statements are named, the name is the constant's in the code.
Phases run one after the other, so that each cost stands alone: submits with no node about, claims of 64, reports of 64;
`lifecycle` runs all of it at once with a real node. The last line is JSON.

CPU time, too, grows by half when neighbours fill the caches, so there are many short runs, and the lower quartile
counts. `--beside` takes a second checkout of this repository (`git worktree add`), starts its server and database as
well and lets the two take turns run by run: then it is also said how much this one costs of what that one does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import os
import pkgutil
import platform
import re
import statistics
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import asyncpg
import httpx
import uvloop
from http1 import Connection, load, post
from lifecycle import BODY, node, register, server
from proc import children

import controlplane
from controlplane import __version__
from controlplane.postgres.embedded import EmbeddedPostgres

SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "4GB", "checkpoint_timeout": "1h"}
SAY_ALL = {"log_min_duration_statement": "0", "log_parameter_max_length": "0", "log_line_prefix": "'@@%a@@ '"}
SAID = re.compile(r"@@controlplane@@ LOG:  duration: ([\d.]+) ms  (?:execute [^:]+|statement): (.*)", re.DOTALL)
BATCH = 64
WARM = 500
SAID_ITEMS = 2_000
STATS_SECONDS = 11.0
"""After so long an idle backend has told what it read and wrote."""
SERVER, POSTGRES, NODE = "server", "postgres", "node"
SUBMIT, CLAIM, REPORT, LIFECYCLE = "submit", "claim", "report", "lifecycle"
ALONE = (SUBMIT, CLAIM, REPORT)
HERE = Path(__file__).parent
Cpu = dict[str, list[dict[str, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--cpu-only", action="store_true", help="leave out the pass in which every statement is said")
    parser.add_argument("--beside", type=Path, help="another checkout, to compare with")
    options = parser.parse_args()
    print(f"controlplane {__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, {SETTINGS}")
    print(f"{options.runs} runs, {options.requests} items over {options.connections} connections each\n")
    trees = [HERE.parent] if options.beside is None else [HERE.parent, options.beside.absolute()]
    with contextlib.ExitStack() as stack:
        benches = [stack.enter_context(bench(tree, options)) for tree in trees]
        uvloop.run(measure(benches, options))


async def measure(benches: list[Bench], options: argparse.Namespace) -> None:
    cpu: list[Cpu] = [{} for _ in benches]
    said: dict[str, dict[str, float]] = {}
    for phases in (ALONE, (LIFECYCLE,)):
        for one in benches:
            await one.prepare(phases)
        for _ in range(options.runs):
            for phase in phases:
                for one, found in zip(benches, cpu, strict=True):
                    found.setdefault(phase, []).append(await one.cpu_of(phase))
        if phases is ALONE:
            said = {} if options.cpu_only else await benches[0].said()
            for one in benches:
                one.close()
    figures = {phase: figures_of([found[phase] for found in cpu]) | said.get(phase, {}) for phase in cpu[0]}
    for phase, found in figures.items():
        print(f"{phase}, per item: CPU in microseconds (lower quartile), then what the database said")
        for what, figure in found.items():
            print(f"  {what:<56} {figure:>9.3f}")
        print()
    print(json.dumps({phase: rounded(found) for phase, found in figures.items()}))


def figures_of(runs: list[list[dict[str, float]]]) -> dict[str, float]:
    """The lower quartile of each process group: neighbours only ever add. With two checkouts, the ratio as well."""
    low = [{who: statistics.quantiles([run[who] for run in one], n=4)[0] for who in one[0]} for one in runs]
    mine = dict(low[0])
    if len(low) > 1:
        mine |= {f"{who}, of the other": low[0][who] / low[1][who] for who in low[0]}
        both = [sum(one[who] for who in (SERVER, POSTGRES)) for one in low]
        mine["server and postgres, of the other"] = both[0] / both[1]
    return mine


@contextlib.contextmanager
def bench(tree: Path, options: argparse.Namespace) -> Iterator[Bench]:
    """A database and a server of this checkout."""
    with tempfile.TemporaryDirectory(prefix="controlplane-bench-") as folder, contextlib.ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(Path(folder) / "postgres", settings=SETTINGS))
        os.environ["PYTHONPATH"] = f"{tree}:{tree}/sdk/python/src"
        port = stack.enter_context(server(postgres.dsn, Path(folder)))
        register(port)
        yield Bench(postgres, port, Path(folder), options, stack)


class Bench:
    """One server with its database."""

    def __init__(
        self,
        postgres: EmbeddedPostgres,
        port: int,
        folder: Path,
        options: argparse.Namespace,
        stack: contextlib.ExitStack,
    ) -> None:
        self._postgres, self._port, self._folder, self._options = postgres, port, folder, options
        self._stack, self._path = stack, os.environ["PYTHONPATH"]
        self._held: list[tuple[str, int]] = []
        self._session = ""
        self._phases = {SUBMIT: self._submit, CLAIM: self._claim, REPORT: self._report, LIFECYCLE: self._live}

    async def prepare(self, phases: Iterable[str]) -> None:
        if LIFECYCLE in phases:
            os.environ["PYTHONPATH"] = self._path
            self._stack.enter_context(node(self._port, self._folder))
        else:
            self._open()
        for phase in phases:
            await self._phases[phase](WARM)

    async def cpu_of(self, phase: str) -> dict[str, float]:
        """Microseconds of each process group per item."""
        before = self._used()
        await self._phases[phase](self._options.requests)
        after = self._used()
        return {who: (after[who] - before[who]) / 1e3 / self._options.requests for who in before}

    def _used(self) -> dict[str, int]:
        names = {pid: command_of(pid) for pid in children(os.getpid())}
        first = int((self._postgres.data_dir / "postmaster.pid").read_text().split()[0])
        servers = [pid for pid, command in names.items() if f"\0--port\0{self._port}\0" in command]
        nodes = [pid for pid, command in names.items() if "node.py" in command and self._serves(pid)]
        groups = {SERVER: servers, POSTGRES: [first, *children(first)]} | ({NODE: nodes} if nodes else {})
        return {who: sum(map(nanoseconds, pids)) for who, pids in groups.items()}

    def _serves(self, node_pid: int) -> bool:
        return f"CONTROLPLANE_SERVER=http://localhost:{self._port}\0" in Path(f"/proc/{node_pid}/environ").read_text()

    # The phases.

    def _open(self) -> None:
        opened = httpx.post(
            f"http://127.0.0.1:{self._port}/api/v1/nodes/bench/sessions",
            json={"instance_id": "cost", "slots": 10_000, "heartbeat_seconds": 200},
        )
        self._session = f"/api/v1/sessions/{opened.raise_for_status().json()['session_id']}"

    def close(self) -> None:
        httpx.post(f"http://127.0.0.1:{self._port}{self._session}/close", json={}).raise_for_status()

    async def _submit(self, count: int) -> None:
        head = post("/api/v1/execute/async/bench.echo")
        connections = self._options.connections
        await load(self._port, head, lambda: BODY, connections=connections, requests=count, expect=202)

    async def _claim(self, count: int) -> None:
        connection = await Connection.open(self._port)
        self._held = []
        while len(self._held) < count:
            body = b'{"max":%d}' % min(BATCH, count - len(self._held))
            _, answer = await connection.request(post(f"{self._session}/lease"), body)
            self._held += [(one["execution_id"], one["attempt"]) for one in json.loads(answer)["leases"]]
        connection.close()

    async def _report(self, count: int) -> None:
        connection = await Connection.open(self._port)
        for at in range(0, count, BATCH):
            results = [
                {"execution_id": id_, "attempt": attempt, "status": "succeeded", "result": {"text": "x" * 180}}
                for id_, attempt in self._held[at : at + BATCH]
            ]
            status, answer = await connection.request(
                post(f"{self._session}/results"), json.dumps({"results": results}).encode()
            )
            if status != 200 or answer.count(b'"recorded"') != len(results):
                raise RuntimeError(f"{status}: {answer[:300]!r}")
        connection.close()

    async def _live(self, count: int) -> None:
        conn = await asyncpg.connect(self._postgres.dsn)
        await self._submit(count)
        while await conn.fetchval("select exists (select from queue)"):
            await asyncio.sleep(0.05)
        await conn.close()

    # What the database says.

    async def said(self) -> dict[str, dict[str, float]]:
        """Of each phase that stands alone, per item."""
        conn = await asyncpg.connect(self._postgres.dsn)
        for name, value in SAY_ALL.items():
            await conn.execute(f"alter system set {name} = {value}")
        await conn.execute("select pg_reload_conf()")
        await asyncio.sleep(0.5)
        count = SAID_ITEMS
        log = self._postgres.data_dir / "server.log"
        log = log if log.exists() else self._postgres.footing.cluster / "server.log"
        found = {}
        for name in ALONE:
            await asyncio.sleep(STATS_SECONDS)
            began = log.stat().st_size
            stats, lsn = await conn.fetchrow(STATS), await conn.fetchval("select pg_current_wal_lsn()::text")
            await self._phases[name](count)
            until = await conn.fetchval("select pg_current_wal_flush_lsn()::text")
            said = log.read_bytes()[began:].decode(errors="replace")
            await asyncio.sleep(STATS_SECONDS)
            later = await conn.fetchrow(STATS)
            changed = {key: (value - stats[key]) / count for key, value in later.items()}
            found[name] = changed | self._wal(lsn, until, count) | statements(said, count)
        await conn.execute("alter system reset all")
        await conn.execute("select pg_reload_conf()")
        await conn.close()
        return found

    def _wal(self, lsn: str, until: str, count: int) -> dict[str, float]:
        """What was logged, per item."""
        footing = self._postgres.footing
        command = [footing.binaries.folder / "pg_waldump", "-p", self._postgres.data_dir / "pg_wal"]
        command += ["-s", lsn, "-e", until, "--stats=record"]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        records: Counter[str] = Counter()
        total = pages = 0
        for line in done.stdout.splitlines():
            parts = re.sub(r"\([^)]*\)", "", line).split()
            if len(parts) == 5 and "/" in parts[0]:
                records[parts[0]] += int(parts[1])
                total += int(parts[4])
                pages += int(parts[3])
        figures = {"wal bytes": total / count, "wal bytes of full pages": pages / count}
        figures["index entries (wal)"] = (
            sum(n for kind, n in records.items() if kind.startswith("Btree/INSERT")) / count
        )
        return figures | {f"wal {kind}": n / count for kind, n in records.most_common(10) if n / count >= 0.05}


STATS = """
select d.blks_hit + d.blks_read as buffers, d.xact_commit as transactions,
  t.inserted as "rows inserted", t.updated as "rows updated", t.hot as "rows updated hot", t.deleted as "rows deleted"
from pg_stat_database d, (
  select sum(n_tup_ins)::bigint as inserted, sum(n_tup_upd)::bigint as updated, sum(n_tup_hot_upd)::bigint as hot,
    sum(n_tup_del)::bigint as deleted
  from pg_stat_user_tables
) t
where d.datname = current_database()
"""


def statements(said: str, count: int) -> dict[str, float]:
    """Round trips per item, and how many items shared each statement, with its milliseconds per call."""
    names = constants()
    calls: Counter[str] = Counter()
    took: Counter[str] = Counter()
    for line in re.split(r"(?=@@[^@\n]*@@ )", said):
        match = SAID.match(line)
        if match:
            sql = " ".join(match.group(2).split())
            name = names.get(sql, sql[:40])
            calls[name] += 1
            took[name] += float(match.group(1))
    figures = {"round trips": sum(calls.values()) / count}
    for name, n in calls.most_common(24):
        figures[f"  {name}, calls"] = n / count
        figures[f"  {name}, µs"] = 1000 * took[name] / count
    return figures


def constants() -> dict[str, str]:
    """The statements of the code by their text."""
    found = {}
    for module in pkgutil.walk_packages(controlplane.__path__, "controlplane."):
        if module.name.split(".")[1] in ("stages", "reads", "postgres") and not module.ispkg:
            for name, value in vars(importlib.import_module(module.name)).items():
                if name.isupper() and isinstance(value, str):
                    found[" ".join(value.split())] = f"{module.name.removeprefix('controlplane.')}.{name}"
    return found


def rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in figures.items() if not name.startswith("  ")}


def command_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def nanoseconds(pid: int) -> int:
    """What the threads of this process have run."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            total += int(path.read_text().split()[0])
    return total


if __name__ == "__main__":
    main()
