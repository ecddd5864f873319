"""Real processes over HTTP: a database that can be killed, a server, nodes, and the outside world."""

from __future__ import annotations

import asyncio
import itertools
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest

from controlplane.postgres.embedded import EmbeddedPostgres
from controlplane.postgres.schema import migrate
from controlplane.reads import verify
from tests.e2e.processes import Node, Plane, Stage
from tests.e2e.receiver import Model, Receiver

HERE = Path(__file__).parent
NewDatabase = Callable[[], str]
StartNode = Callable[..., Node]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what its processes said."""
    report = yield
    stage = getattr(item, "funcargs", {}).get("stage")
    if report.failed and isinstance(stage, Stage):
        report.sections += [(f"log of {name}", text) for name, text in stage.logs()]
    return report


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A durable server that may be killed. Its folder has room for the socket, so its address survives that."""
    # After a crash PostgreSQL syncs each of its files, here thousands, which takes 10 s on a busy machine.
    settings = {"recovery_init_sync_method": "syncfs"} if sys.platform == "linux" else {}
    with (
        tempfile.TemporaryDirectory(prefix="e2e-", dir="/tmp") as folder,
        EmbeddedPostgres(Path(folder) / "postgres", settings=settings) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def new_database(postgres: EmbeddedPostgres) -> NewDatabase:
    """Makes a migrated database that nobody else uses, on a server that runs."""
    numbers = itertools.count()
    asyncio.run(execute(postgres.dsn, "create database template"))
    migrate(named(postgres.dsn, "template"))

    def make() -> str:
        postgres.start()
        name = f"e2e_{next(numbers)}"
        asyncio.run(execute(postgres.dsn, f"create database {name} template template"))
        asyncio.run(execute(postgres.dsn, "checkpoint"))  # a recovery begins here, not with the copying of files
        return named(postgres.dsn, name)

    return make


@pytest.fixture
def database(new_database: NewDatabase) -> str:
    """The DSN of this test's database."""
    return new_database()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Where the processes of a test stand."""
    with Stage(tmp_path) as stage:
        yield stage


@pytest.fixture
def plane(stage: Stage, database: str, request: pytest.FixtureRequest) -> Iterator[Plane]:
    """A server that takes work. Whatever was done to it, killed or not, no promise is broken in the end.

    But for those that the test breaks on purpose: `breaks`.
    """
    yield stage.plane(database)
    marker = request.node.get_closest_marker("breaks")
    found = asyncio.run(broken(database))
    assert found.keys() == set(() if marker is None else marker.args), found


async def broken(database: str) -> dict[str, list[UUID]]:
    """By invariant, what breaks it; a database that was killed may be on its way up still."""
    conn = await asyncpg.connect(database)
    try:
        return {one.name: ids for one, ids in (await verify.broken(conn, [0])).items()}
    finally:
        await conn.close()


@pytest.fixture
def node(stage: Stage, plane: Plane) -> StartNode:
    """Starts a node from the text of its script."""
    return partial(stage.node, plane)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A webhook receiver."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def model() -> Iterator[Model]:
    """A language model."""
    with Model() as model:
        yield model


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str, float], None]:
    """Says how long something took."""

    def say(what: str, seconds: float) -> None:
        request.node.user_properties.append((what, round(seconds, 2)))
        print(f"measured: {what}: {seconds:.2f} s")

    return say


def named(dsn: str, database: str) -> str:
    return urlsplit(dsn)._replace(path=f"/{database}").geturl()


async def execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
