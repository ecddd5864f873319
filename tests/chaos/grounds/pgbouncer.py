"""PgBouncer of Debian in transaction mode before one cluster, set up as docs/howto/pgbouncer.md says.

Every transaction may run on another connection of the database's, so nothing may be prepared, set or listened to there.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import asyncpg

from controlplane.postgres.pool import SESSION_SETTINGS
from controlplane.postgres.schema import migrate
from tests import debian
from tests.chaos.grounds.cluster import DATABASE, PASSWORD, USER, Cluster
from tests.chaos.patience import until
from tests.chaos.stage import Fault, Stage
from tests.e2e.processes import free_port

CONNECTIONS = 6
"""Of the database's, for all servers together: fewer than they would open, so that they are truly shared."""
SET_FOR_ROLE = "alter role controlplane set {} = '{}'"
CONFIG = """
[databases]
{database} = host=127.0.0.1 port={to} dbname={database}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users.txt
admin_users = {user}
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 500
server_login_retry = 1
"""
AWAY_SECONDS = (0.2, 2.0)
START_SECONDS = 20.0


class PgBouncer:
    """A cluster, and the pooler that servers reach it through."""

    def __init__(self, folder: Path | None = None) -> None:
        debian.install("pgbouncer")
        self._own = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="pgbouncer-", dir="/tmp"))
        self.folder.chmod(0o711)
        self.cluster = Cluster(self.folder, name="only")
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        return self.cluster.dsn.replace(self.cluster.host, f"127.0.0.1:{self.port}")

    @property
    def env(self) -> Mapping[str, str]:
        return {"CONTROLPLANE_DATABASE_POOLER": "true", "CONTROLPLANE_DATABASE_DIRECT_URL": self.cluster.dsn}

    @property
    def faults(self) -> Sequence[Fault]:
        return [KillPooler(self), KillDatabase(self)]

    async def start(self) -> None:
        await self.cluster.make()
        await asyncio.to_thread(migrate, self.cluster.dsn)
        for name, value in SESSION_SETTINGS.items():
            await self.cluster.execute(SET_FOR_ROLE.format(name, value))
        await self.start_pooler()

    async def stop(self) -> None:
        await self.kill_pooler()
        await self.cluster.stop()
        await self.cluster.gone()
        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)

    async def start_pooler(self) -> None:
        """Return once it passes queries on."""
        config = self.folder / "pgbouncer.ini"
        config.write_text(
            CONFIG.format(
                database=DATABASE,
                to=self.cluster.port,
                port=self.port,
                folder=self.folder,
                user=USER,
                connections=CONNECTIONS,
            )
        )
        (self.folder / "users.txt").write_text(f'"{USER}" "{PASSWORD}"\n')
        self._spawn(config)
        await until("PgBouncer to take connections", self._passes_on, seconds=START_SECONDS)

    async def kill_pooler(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(self._process.wait)
            self._process = None

    def log(self) -> str:
        return (self.folder / "pgbouncer.log").read_text(errors="replace")

    def _spawn(self, config: Path) -> None:
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        with (self.folder / "pgbouncer.log").open("ab") as log:
            self._process = subprocess.Popen(["/usr/sbin/pgbouncer", *user, str(config)], stdout=log, stderr=log)

    async def _passes_on(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        conn = await asyncpg.connect(self.dsn, timeout=5, statement_cache_size=0)
        try:
            return bool(await conn.fetchval("select true"))
        finally:
            conn.terminate()


class KillPooler:
    """kill -9 of PgBouncer, which is started again after a while."""

    name = "pooler"

    def __init__(self, ground: PgBouncer) -> None:
        self._ground = ground

    async def strike(self, stage: Stage, rng: random.Random) -> None:
        await self._ground.kill_pooler()
        await asyncio.sleep(rng.uniform(*AWAY_SECONDS))
        await self._ground.start_pooler()


class KillDatabase:
    """kill -9 of PostgreSQL behind the pooler, which stays."""

    name = "database behind the pooler"

    def __init__(self, ground: PgBouncer) -> None:
        self._ground = ground

    async def strike(self, stage: Stage, rng: random.Random) -> None:
        self._ground.cluster.kill()
        await asyncio.sleep(rng.uniform(*AWAY_SECONDS))
        await self._ground.cluster.start()
