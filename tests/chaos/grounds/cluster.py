"""One PostgreSQL of a ground: on a TCP port of its own, to be killed, promoted and made anew from another."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import asyncpg

from controlplane.postgres.footing import Footing, environment, find_footing
from controlplane.postgres.initdb import initdb
from tests.chaos.patience import until
from tests.e2e.processes import free_port

USER = "controlplane"
PASSWORD = "of-a-test"
DATABASE = "controlplane"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "wal_keep_size": "256MB",
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "200ms",
    "recovery_init_sync_method": "syncfs",
    "hot_standby": "on",
    "jit": "off",
}
START_SECONDS = 60.0
STOP_SECONDS = 30.0
GONE_SECONDS = 20.0
"""Backends whose postmaster was killed leave by themselves, most of them at once."""


class Cluster:
    """A data folder and whatever server runs in it. Its address is the same for ever. `wal`: where its log goes."""

    def __init__(
        self, folder: Path, *, name: str, settings: Mapping[str, str] | None = None, wal: Path | None = None
    ) -> None:
        self.name = name
        self.port = free_port()
        self.folder = folder / name
        self._wal = wal
        self._settings = SETTINGS | dict(settings or {})
        self._footing: Footing | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def dsn(self) -> str:
        return f"postgresql://{USER}:{quote(PASSWORD)}@{self.host}/{DATABASE}"

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def footing(self) -> Footing:
        """Which PostgreSQL, as whom, in which folder."""
        if self._footing is None:
            self._footing = find_footing(self.folder, bin_dir=None, system_dir=Path("/var/lib/controlplane"))
        return self._footing

    async def make(self) -> None:
        """An empty cluster with our database in it, running."""
        await asyncio.to_thread(initdb, self.footing, superuser=USER, password=PASSWORD, durable=True, pass_fds=())
        if self._wal is not None:
            shutil.move(self.footing.cluster / "pg_wal", self._wal)
            (self.footing.cluster / "pg_wal").symlink_to(self._wal)
            self.footing.give(self._wal)
        await self.start(database="postgres")
        await self.execute(f"create database {DATABASE}", database="postgres")

    async def copy(self, primary: Cluster) -> None:
        """Throw away what is here and become a standby of this one, under our own name; return when it streams."""
        await self.gone()
        shutil.rmtree(self.footing.cluster, ignore_errors=True)
        way = f"host=127.0.0.1 port={primary.port} user={USER} password={PASSWORD} application_name={self.name}"
        command = self.footing.command(
            "pg_basebackup", "-D", str(self.footing.cluster), "-d", way, "-R", "-X", "stream", "-c", "fast", "--no-sync"
        )
        # The folder above must be theirs for a moment: it is they who make the new one.
        self.footing.give(self.footing.cluster.parent)
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, check=False, env=environment()
        )
        assert done.returncode == 0, done.stderr
        await self.start()
        await until(f"{self.name} to stream from {primary.name}", lambda: self._streams_from(primary), seconds=60)

    async def start(self, *, database: str = DATABASE) -> None:
        """Return once it lets us in, as a primary or as a standby."""
        await self.gone()
        self._spawn()
        await until(f"{self.name} to start", lambda: self._lets_in(database), seconds=START_SECONDS)

    def kill(self) -> None:
        """kill -9 of the postmaster. Its children find out by themselves; nobody can connect from now on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(STOP_SECONDS)

    async def stop(self) -> None:
        """A fast shutdown, and harder if that takes too long. Harmless when repeated."""
        if not self.alive:
            return
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        try:
            await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGQUIT)
            await asyncio.to_thread(self._process.wait, STOP_SECONDS)

    async def promote(self) -> None:
        """Return once it takes writes by itself."""
        assert await self.value("select pg_promote(true, 60)")

    async def execute(self, statement: str, *, database: str = DATABASE) -> None:
        conn = await self._connect(database)
        try:
            await conn.execute(statement)
        finally:
            conn.terminate()

    async def value(self, query: str) -> object:
        conn = await self._connect(DATABASE)
        try:
            return await conn.fetchval(query)
        finally:
            conn.terminate()

    async def set(self, name: str, value: str | None) -> None:
        """Change a setting of the running server, or forget it. Writes nothing that a standby would have to have."""
        await self.execute(f"alter system reset {name}" if value is None else f"alter system set {name} = '{value}'")
        await self.execute("select pg_reload_conf()")

    async def gone(self) -> None:
        """Return when no process of a server is left in the folder: each has inherited the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        lock = os.open(self.folder.with_name(f"{self.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)

        async def free() -> bool:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        await until(f"the processes of {self.name} to be gone", free, seconds=GONE_SECONDS)
        self._lock = lock

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def _log(self) -> Path:
        return self.folder.with_name(f"{self.name}.log")

    def _spawn(self) -> None:
        assert self._lock is not None
        (self.footing.cluster / "postmaster.pid").unlink(missing_ok=True)
        settings = self._settings | {"port": str(self.port), "cluster_name": self.name}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            # From this thread, not from one of a pool: the server is told to end when the thread does that started it.
            self._process = subprocess.Popen(
                self.footing.command("postgres", "-D", str(self.footing.cluster), *options),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                pass_fds=(self._lock,),
                start_new_session=True,
            )
        os.close(self._lock)  # theirs alone from here on
        self._lock = None

    async def _connect(self, database: str) -> asyncpg.Connection[asyncpg.Record]:
        dsn = self.dsn.removesuffix(DATABASE) + database
        return await asyncpg.connect(dsn, timeout=5, command_timeout=90, statement_cache_size=0)

    async def _lets_in(self, database: str) -> bool:
        assert self.alive, f"{self.name} has ended:\n{self.log()[-3000:]}"
        (await self._connect(database)).terminate()
        return True

    async def _streams_from(self, primary: Cluster) -> bool:
        sender = f"select true from pg_stat_replication where application_name = '{self.name}' and state = 'streaming'"
        return bool(await primary.value(sender))
