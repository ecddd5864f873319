"""The database of the tests: one server per session, one migrated template in it, a private copy for each test.

The server is the one of DATABASE_URL (whose role must be allowed to create databases), else an embedded one that all
xdist workers share: the first to need it starts it, the others attach, and the first waits for them before it stops it.
It keeps its files in memory where there is room: a copy of the template is some 500 files, 16 ms there, 250 on a disk.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from controlplane.postgres.embedded import EmbeddedPostgres
from controlplane.postgres.pool import SESSION_SETTINGS
from controlplane.postgres.schema import migrate

# Autovacuum would now and then sit in the template while it is copied, and change plans between two runs.
SERVER_SETTINGS = {"autovacuum": "off", "max_connections": "300"}
# The database of a test lives for a second: a plan that is made for good, for every partition, costs more than all that
# it is then used for (129 tests took 58 s instead of 36). Processes that tests start keep theirs, and so do the tests
# that are about plans.
SESSION_SETTINGS["plan_cache_mode"] = "auto"
MEMORY = Path("/dev/shm")
MEMORY_BYTES = 2 * 1024**3
LEFT_BEHIND_SECONDS = 3600
RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID", uuid.uuid4().hex)
TEMPLATE_EXISTS = "select exists (select from pg_database where datname = $1 and datistemplate)"


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this session alone that all its workers see."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_BYTES
    base = MEMORY if roomy else tmp_path_factory.getbasetemp().parent
    folder = base / f"controlplane-tests-{RUN}"
    folder.mkdir(exist_ok=True)
    _sweep(base)
    return folder


@pytest.fixture(scope="session")
def server(shared_folder: Path, pytestconfig: pytest.Config) -> str:
    """The DSN of the session's server, which lives until the last worker is done."""
    cleanup = ExitStack()
    # Not in the teardown of a fixture: waiting there counts as the time of the last test.
    pytestconfig.add_cleanup(cleanup.close)
    users = cleanup.enter_context((shared_folder / "users").open("w"))
    # Before the start: whoever holds this share can rely on the server that it finds.
    fcntl.flock(users, fcntl.LOCK_SH)
    if external := os.environ.get("DATABASE_URL"):
        cleanup.callback(_clear_if_last, external, users.fileno(), shared_folder)
        return external
    postgres = EmbeddedPostgres(shared_folder / "postgres", durable=False, settings=SERVER_SETTINGS)
    postgres.start()
    if not postgres.attached:
        cleanup.callback(shutil.rmtree, shared_folder)
        cleanup.callback(postgres.stop)
        cleanup.callback(fcntl.flock, users, fcntl.LOCK_EX)  # called first: wait for the other workers
    return postgres.dsn


@pytest.fixture(scope="session")
def template(server: str, shared_folder: Path) -> str:
    """The name of a database with the newest schema, made by the first worker that needs it."""
    name = f"template_{RUN}"
    with (shared_folder / "template.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _run(_value(server, TEMPLATE_EXISTS, name)):
            _run(_execute(server, f"create database {name}"))
            migrate(_other_database(server, name))
            _run(_execute(server, f"alter database {name} with is_template true allow_connections false"))
    return name


@pytest.fixture
async def database(server: str, template: str) -> AsyncIterator[str]:
    """The DSN of a migrated database that nobody else uses."""
    name = f"test_{uuid.uuid4().hex}"
    await _execute(server, f"create database {name} template {template} strategy file_copy")
    yield _other_database(server, name)
    await _execute(server, f"drop database {name} with (force)")


@pytest.fixture
async def conn(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to this test's database."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    """A few connections to this test's database."""
    async with asyncpg.create_pool(database, min_size=1, max_size=4) as connections:
        yield connections


@pytest.fixture
def durable_postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server of this test's own that promises what a real one promises, to be killed."""
    with EmbeddedPostgres(tmp_path / "postgres") as postgres:
        yield postgres


def _other_database(dsn: str, name: str) -> str:
    return urlsplit(dsn)._replace(path=f"/{name}").geturl()


def _sweep(base: Path) -> None:
    """Remove what killed sessions left."""
    for folder in base.glob("controlplane-tests-*"):
        with suppress(OSError):  # somebody else's, in use, or gone meanwhile
            if time.time() - folder.stat().st_mtime > LEFT_BEHIND_SECONDS:
                with (folder / "users").open() as users:
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)


def _clear_if_last(external: str, users: int, shared_folder: Path) -> None:
    """Leave no trace on a server that is not ours."""
    with suppress(BlockingIOError):
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _run(_value(external, TEMPLATE_EXISTS, f"template_{RUN}")):
            _run(_execute(external, f"alter database template_{RUN} with is_template false"))
            _run(_execute(external, f"drop database template_{RUN}"))
        shutil.rmtree(shared_folder)


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner() as runner:
        return runner.run(coroutine)


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _value(dsn: str, query: str, *arguments: object) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query, *arguments)
    finally:
        await connection.close()
