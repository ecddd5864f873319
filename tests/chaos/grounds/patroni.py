"""Patroni and etcd of Debian: two nodes that agree on who is the primary, without anybody's help.

The standby is synchronous while there is one (`synchronous_mode`); who is left alone goes on alone, and a fault is over
when there are two again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import asyncpg
import httpx
import orjson
import pytest

from controlplane.postgres.schema import migrate
from tests import debian
from tests.chaos.grounds.cluster import DATABASE, PASSWORD, USER
from tests.chaos.patience import until
from tests.chaos.stage import Fault, Stage
from tests.e2e.processes import free_port

MAJOR = 15
ACCOUNT = "postgres"
BINARIES = f"/usr/lib/postgresql/{MAJOR}/bin"
TTL_SECONDS, LOOP_SECONDS, RETRY_SECONDS = 20, 5, 5
START_SECONDS = 120.0
FAIL_OVER_SECONDS = 120.0
IN_STEP_SECONDS = 180.0


class Member:
    """One node: Patroni and the PostgreSQL that it runs."""

    def __init__(self, folder: Path, name: str, *, etcd: int) -> None:
        self.name = name
        self.port, self._api = free_port(), free_port()
        self._folder = folder / name
        self._etcd = etcd
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def dsn(self) -> str:
        return f"postgresql://{USER}:{PASSWORD}@{self.host}/{DATABASE}"

    def start(self) -> None:
        self._folder.mkdir(exist_ok=True)
        config = self._folder / "patroni.json"  # which is YAML as well
        config.write_bytes(orjson.dumps(self._config()))
        shutil.chown(self._folder, ACCOUNT)
        shutil.chown(config, ACCOUNT)
        self._process = _spawn("/usr/bin/patroni", str(config), log=self._folder / "log", account=ACCOUNT)

    def kill(self) -> None:
        """kill -9 of both, Patroni first, so that it starts nothing anew."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._kill_postgres()

    def stop(self) -> None:
        """Whatever is left of it ends."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._kill_postgres()

    async def leads(self) -> bool:
        """Whether Patroni says that this is the primary."""
        async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
            with contextlib.suppress(httpx.HTTPError):
                return (await http.get(f"http://127.0.0.1:{self._api}/leader")).status_code == 200
        return False

    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def _kill_postgres(self) -> None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, IndexError, ValueError):
            pid = int((self._folder / "data" / "postmaster.pid").read_text().splitlines()[0])
            os.kill(pid, signal.SIGKILL)

    def _config(self) -> dict[str, object]:
        return {
            "scope": "chaos",
            "name": self.name,
            "restapi": {"listen": f"127.0.0.1:{self._api}", "connect_address": f"127.0.0.1:{self._api}"},
            "etcd3": {"host": f"127.0.0.1:{self._etcd}"},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL_SECONDS,
                    "loop_wait": LOOP_SECONDS,
                    "retry_timeout": RETRY_SECONDS,
                    "synchronous_mode": True,
                    "postgresql": {"use_pg_rewind": True, "parameters": {"max_connections": 200, "jit": "off"}},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
                "pg_hba": ["host all all 127.0.0.1/32 md5", "host replication all 127.0.0.1/32 md5"],
            },
            "postgresql": {
                "listen": self.host,
                "connect_address": self.host,
                "data_dir": str(self._folder / "data"),
                "bin_dir": BINARIES,
                "authentication": {
                    "superuser": {"username": USER, "password": PASSWORD},
                    "replication": {"username": "standby", "password": PASSWORD},
                    "rewind": {"username": "rewind", "password": PASSWORD},
                },
                "parameters": {"unix_socket_directories": "", "shared_buffers": "64MB"},
            },
        }


class Patroni:
    """etcd and two members."""

    def __init__(self, folder: Path | None = None) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root to run PostgreSQL and Patroni as another user")
        debian.install("patroni", "etcd-server", f"postgresql-{MAJOR}")
        self._own = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="patroni-", dir="/tmp"))
        self.folder.chmod(0o711)
        self._port = free_port()
        self._etcd: subprocess.Popen[bytes] | None = None
        self.members = [Member(self.folder, name, etcd=self._port) for name in ("north", "south")]
        hosts = ",".join(one.host for one in self.members)
        self._dsn = f"postgresql://{USER}:{PASSWORD}@{hosts}/{DATABASE}?target_session_attrs=read-write"

    @property
    def dsn(self) -> str:
        return self._dsn

    @property
    def env(self) -> Mapping[str, str]:
        return {}

    @property
    def faults(self) -> Sequence[Fault]:
        return [KillLeader(self)]

    async def start(self) -> None:
        self._start_etcd()
        self.members[0].start()
        leader = await self.leader(seconds=START_SECONDS)
        await until("the database to be made", lambda: _make(leader), seconds=START_SECONDS)
        await asyncio.to_thread(migrate, leader.dsn)
        self.members[1].start()
        await self.in_step()

    async def stop(self) -> None:
        for one in self.members:
            one.stop()
        if self._etcd is not None:
            self._etcd.kill()
            self._etcd.wait()
        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)

    async def leader(self, *, seconds: float) -> Member:
        """Whoever leads, as soon as somebody does."""

        async def look() -> Member | None:
            for one in self.members:
                if await one.leads():
                    return one
            return None

        try:
            found = await until("a leader", look, seconds=seconds)
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *(one.log()[-2000:] for one in self.members[:1])])) from error
        assert found is not None
        return found

    async def in_step(self) -> None:
        """Return when there is a synchronous standby."""

        async def look() -> bool:
            conn = await asyncpg.connect(self.dsn, timeout=5)
            try:
                return bool(
                    await conn.fetchval("select exists (select from pg_stat_replication where sync_state = 'sync')")
                )
            finally:
                conn.terminate()

        await until("a synchronous standby", look, seconds=IN_STEP_SECONDS)

    def _start_etcd(self) -> None:
        peer = free_port()
        client = f"http://127.0.0.1:{self._port}"
        self._etcd = _spawn(
            "/usr/bin/etcd",
            *("--data-dir", str(self.folder / "etcd"), "--name", "only"),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-cluster", f"only=http://127.0.0.1:{peer}"),
            log=self.folder / "etcd.log",
        )


class KillLeader:
    """kill -9 of the leader, Patroni and PostgreSQL; the other one takes over by itself, and the dead comes back."""

    name = "leader killed"

    def __init__(self, ground: Patroni) -> None:
        self._ground = ground

    async def strike(self, stage: Stage | None, rng: random.Random) -> None:
        await self._ground.in_step()
        dead = await self._ground.leader(seconds=FAIL_OVER_SECONDS)
        dead.kill()
        other = await self._ground.leader(seconds=FAIL_OVER_SECONDS)
        assert other is not dead
        dead.start()
        await self._ground.in_step()


async def _make(leader: Member) -> bool:
    conn = await asyncpg.connect(leader.dsn.removesuffix(DATABASE) + "postgres", timeout=5)
    try:
        with contextlib.suppress(asyncpg.DuplicateDatabaseError):
            await conn.execute(f"create database {DATABASE}")
        return True
    finally:
        conn.terminate()


def _spawn(*command: str, log: Path, account: str | None = None) -> subprocess.Popen[bytes]:
    """A process that ends with us at the latest when its ground is stopped."""
    entry = pwd.getpwnam(account) if account else None
    with log.open("ab") as said:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            user=entry.pw_uid if entry else None,
            group=entry.pw_gid if entry else None,
            extra_groups=[] if entry else None,
            start_new_session=True,
        )
