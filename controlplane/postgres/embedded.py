"""A real PostgreSQL for development and tests, started from the binaries of a wheel and supervised by us.

    .controlplane/postgres             the data folder; server.log, and the socket where the path is short enough
    .controlplane/postgres.password    mode 0600, made once
    .controlplane/postgres.lock        open and locked in every process of the server: no stale postmaster.pid and no
                                       reused pid can fool a start, and it waits for backends that a crash left behind
    .controlplane/postgres.socket      the name of the short folder that has the socket, if the data folder cannot

`footing.py` decides who runs it and from where; `launch.py` is what the server is before it is PostgreSQL.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote

import asyncpg

from controlplane.postgres.footing import EmbeddedPostgresError, Footing, environment, find_footing
from controlplane.postgres.initdb import initdb, write_private
from controlplane.postgres.leftovers import end_leftovers

if sys.platform != "win32":
    import fcntl

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError"]

log = logging.getLogger(__name__)

NAME = "controlplane"  # of the superuser and of the database
CREATE_DATABASE = "create database controlplane"
SETTINGS = {"max_connections": "200", "shared_buffers": "128MB", "jit": "off", "timezone": "UTC", "log_timezone": "UTC"}
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
SERVER_LOG_BYTES = 16 * 1024 * 1024
SERVER_LOG_TAIL_LINES = 20
CONNECT_SECONDS = 5.0
LEFTOVER_SECONDS = 2.0  # backends without a postmaster leave within milliseconds, unless deep in a query
FAST_STOP_SECONDS, IMMEDIATE_STOP_SECONDS = 60.0, 10.0
LOOK_EVERY_SECONDS, TELL_EVERY_SECONDS = 0.02, 2.0


class EmbeddedPostgres:
    """One PostgreSQL server that lives as long as this object; on Linux it never outlives our process.

    start() attaches instead where another process already runs the folder's server; stop() then leaves that alone.
    Both block: a coroutine calls them through asyncio.to_thread.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        bin_dir: Path | None = None,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
        system_dir: Path = Path("/var/lib/controlplane"),
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.attached = False
        self.footing: Footing | None = None
        self._bin_dir, self._durable, self._system_dir = bin_dir, durable, system_dir
        self._settings = SETTINGS | ({} if durable else NOT_DURABLE) | dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._socket_dir: Path | None = None
        # PDEATHSIG comes when the *thread* that started the child ends. So that is a thread of our own, which waits
        # until this object or the process ends, and start() may be called from any other. It also runs asyncpg.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedded-postgres")

    def start(self) -> None:
        """Return once the server lets us in, however long it recovers; raise EmbeddedPostgresError if it ends."""
        if self._process is not None and self._process.poll() is None:
            return
        self._process = None
        try:
            self.data_dir.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._beside(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                self.attached = not self._enter(lock)
                if not self.attached:
                    self._start(lock)
            finally:
                os.close(lock)  # the server has it open too, and so keeps it
        except OSError as error:
            raise EmbeddedPostgresError(
                f"The data folder {self.data_dir} cannot be used: {error}",
                fix="choose a data folder of your own on a local disk, or set DATABASE_URL.",
            ) from error
        log.info("postgres.attached" if self.attached else "postgres.ready", extra=self._facts())

    def stop(self) -> None:
        """End the server if it is ours, by a fast shutdown, else harder. Harmless when repeated."""
        process, self._process = self._process, None
        if process is None:
            return
        for mode, patience in (("fast", FAST_STOP_SECONDS), ("immediate", IMMEDIATE_STOP_SECONDS)):
            self._ask_to_end(process, mode)
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
                break
            log.warning("postgres.stop_is_slow", extra=self._facts() | {"mode": mode, "waited_seconds": patience})
        else:
            process.kill()
            process.wait()
        self._drop_socket_dir()
        log.info("postgres.stopped", extra=self._facts())

    def kill(self) -> None:
        """Crash the server (SIGKILL to the postmaster); for tests. The next start recovers."""
        os.kill(self.pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    @property
    def pid(self) -> int:
        """The process id of the running postmaster."""
        return int(self._postmaster()[0])

    @property
    def dsn(self) -> str:
        """The URL of our database for asyncpg, libpq and, with the scheme changed, SQLAlchemy."""
        return self._dsn(NAME)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _enter(self, lock: int) -> bool:
        """Wait until the folder is ours alone (True), or until a server that lives in it lets us in (False)."""
        patience = _Patience("postgres.folder_in_use", self._facts())
        while not self._free(lock):
            if self._accepts():
                return False
            if patience.pause() > LEFTOVER_SECONDS:
                for pid in end_leftovers(self.data_dir.resolve()):
                    log.warning("postgres.leftover_ended", extra=self._facts() | {"leftover_pid": pid})
        return True

    def _free(self, lock: int) -> bool:
        """Whether no process of a server is left in the folder; if so the lock is now ours."""
        if sys.platform == "win32":
            return not self._accepts()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _start(self, lock: int) -> None:
        """Start a server in a folder that we hold the lock of."""
        self.footing = footing = find_footing(self.data_dir, bin_dir=self._bin_dir, system_dir=self._system_dir)
        log.info("postgres.found", extra=self._facts())
        if not (footing.cluster / "PG_VERSION").exists():
            password = self._password_file()
            initdb(footing, superuser=NAME, password=password.read_text(), durable=self._durable, pass_fds=_fds(lock))
        footing.require_same_major()
        footing.give(footing.cluster)
        self._process = self._spawn(footing, lock)
        try:
            self._await_ready(self._process)
        except BaseException:
            self.stop()
            raise

    def _spawn(self, footing: Footing, lock: int) -> subprocess.Popen[bytes]:
        """Start the postmaster, with the lock handed down and a log of its own."""
        # We hold the lock: a pid file is a dead server's, though by now another process may have that pid.
        (footing.cluster / "postmaster.pid").unlink(missing_ok=True)
        settings = self._settings | self._where_to_listen(footing)
        server_log = footing.cluster / "server.log"
        if server_log.exists() and server_log.stat().st_size > SERVER_LOG_BYTES:
            server_log.replace(server_log.with_suffix(".log.1"))
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with open(server_log, "ab", opener=_no_link) as output:
            footing.give(server_log)  # the server's tools read all of its folder
            return self._thread.submit(
                subprocess.Popen,
                footing.command("postgres", "-D", str(footing.cluster), *options),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment(),
                pass_fds=_fds(lock),
                start_new_session=True,  # Ctrl-C in our terminal is for us: our own shutdown still needs the database
            ).result()

    def _where_to_listen(self, footing: Footing) -> dict[str, str]:
        """The settings of a socket that only the server's uid and root can open (on Windows: a free port)."""
        if sys.platform == "win32":
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = str(free.getsockname()[1])
            return {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": ""}
        folder = self._socket_dir
        if folder is None or not folder.is_dir():  # a restart keeps its socket, or open pools would look in vain
            self._drop_socket_dir()
            folder = footing.socket_dir()
            if folder != footing.cluster:
                self._beside(".socket").write_text(str(folder))
            self._socket_dir = folder
        for stale in folder.glob(".s.PGSQL.*"):
            stale.unlink()
        private = {"unix_socket_directories": str(folder), "unix_socket_permissions": "0700"}
        return {"listen_addresses": "", "port": "5432"} | private

    def _drop_socket_dir(self) -> None:
        self._socket_dir = None
        note = self._beside(".socket")
        with suppress(OSError):
            shutil.rmtree(note.read_text())
        note.unlink(missing_ok=True)

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Wait as long as the server lives: recovery after a crash has no upper bound."""
        patience = _Patience("postgres.starting", self._facts())
        while not self._accepts():
            if process.poll() is not None:
                server_log = self.data_dir / "server.log"
                tail = server_log.read_text(errors="replace").splitlines()[-SERVER_LOG_TAIL_LINES:]
                said = "\n".join(["PostgreSQL ended while starting; its last words:", *tail])
                raise EmbeddedPostgresError(said, fix=f"mend what {server_log} names.")
            patience.pause()

    def _accepts(self) -> bool:
        """Whether the server that postmaster.pid names lets us into our database, which is made if it is missing."""
        try:
            dsn, maintenance_dsn = self.dsn, self._dsn("postgres")
        except EmbeddedPostgresError:
            return False
        try:
            return self._thread.submit(asyncio.run, _lets_in(dsn, maintenance_dsn)).result()
        except asyncpg.InvalidAuthorizationSpecificationError as error:
            raise EmbeddedPostgresError(
                f"The server in {self.data_dir} refuses the password in {self._beside('.password')}.",
                fix="put the right file back, or move the data folder away to begin with an empty one.",
            ) from error

    def _ask_to_end(self, process: subprocess.Popen[bytes], mode: str) -> None:
        if sys.platform == "win32":
            assert self.footing is not None
            stop = self.footing.command("pg_ctl", "stop", "--no-wait", "-m", mode, "-D", str(self.data_dir))
            subprocess.run(stop, check=False)  # noqa: S603
        else:
            process.send_signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)

    def _password_file(self) -> Path:
        """The superuser's password, made once; it outlives the data folder, which may come back."""
        file = self._beside(".password")
        if not file.exists():
            write_private(file, secrets.token_hex(24))
        return file

    def _postmaster(self) -> list[str]:
        """The lines of postmaster.pid: pid, folder, start, port, socket folder, address, …"""
        with suppress(FileNotFoundError):
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
            if any(lines[4:6]):
                return lines
        raise EmbeddedPostgresError(f"No server runs in {self.data_dir}.", fix="call start().")

    def _dsn(self, database: str) -> str:
        _, _, _, port, socket_dir, *address = self._postmaster()
        host = quote(socket_dir or address[0], safe="/")
        return f"postgresql://{NAME}:{self._beside('.password').read_text()}@/{database}?host={host}&port={port}"

    def _beside(self, suffix: str) -> Path:
        return self.data_dir.with_name(self.data_dir.name + suffix)

    def _facts(self) -> dict[str, object]:
        return {"data_dir": str(self.data_dir)} | (self.footing.facts() if self.footing else {})


class _Patience:
    """A wait without end that says every 2 s that it still goes on."""

    def __init__(self, event: str, facts: dict[str, object]) -> None:
        self._event, self._facts = event, facts
        self._begun = self._told = time.monotonic()

    def pause(self) -> float:
        """Wait a moment; returns the seconds waited in all."""
        time.sleep(LOOK_EVERY_SECONDS)
        now = time.monotonic()
        if now - self._told >= TELL_EVERY_SECONDS:
            self._told = now
            log.info(self._event, extra=self._facts | {"waited_seconds": round(now - self._begun)})
        return now - self._begun


async def _lets_in(dsn: str, maintenance_dsn: str) -> bool:
    try:
        conn = await asyncpg.connect(dsn, timeout=CONNECT_SECONDS)
    except asyncpg.InvalidCatalogNameError:
        conn = await asyncpg.connect(maintenance_dsn, timeout=CONNECT_SECONDS)
        with suppress(asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):  # somebody else was faster
            await conn.execute(CREATE_DATABASE)
    except asyncpg.InvalidAuthorizationSpecificationError:
        raise
    except (OSError, asyncpg.PostgresError):  # nobody listens yet, or it is recovering, full, or shutting down
        return False
    await conn.close()
    return True


def _no_link(path: str, flags: int) -> int:
    """Open for us alone; as root, in a folder of the server's, never through a link that the server may have made."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def _fds(lock: int) -> tuple[int, ...]:
    return () if sys.platform == "win32" else (lock,)
