"""Two versions at once on one database that is migrated meanwhile: this one, and the one before from the history.

That is the version of the last commit whose schema was an older one.
"""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from controlplane.postgres.embedded import EmbeddedPostgres
from controlplane.postgres.schema import head
from controlplane.security.secrets import KeyRing
from tests.e2e.conftest import broken, execute, named
from tests.e2e.processes import Node, Plane, Stage, until
from tests.e2e.receiver import Receiver

ROOT = Path(__file__).parents[2]
EACH = 5
SHORT = 2
LONG = 60
PAUSE_SECONDS = 0.1
ENDS_SECONDS = 30.0

# Says which process of which version did it, and goes on where another one has stopped.
NODE = """
import asyncio, os
from controlplane_sdk import Agent

app = Agent("mixed", heartbeat_seconds=0.5, slots=4)

@app.reasoner
async def count(to: int) -> list:
    done = await app.memory.get("done", default=0)
    for n in range(done, to):
        await asyncio.sleep(0.05)
        await app.memory.set("done", n + 1)
    return [os.environ["ME"], await app.memory.get("done")]

app.run()
"""


def git(*command: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *command], check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole tree of the version before this one."""
    if git("rev-parse", "--is-shallow-repository").strip() == b"true":
        pytest.skip("the clone is shallow: the version before this one is not in it")
    for commit in git("rev-list", "--first-parent", "HEAD").decode().split():
        files = git("ls-tree", "--name-only", commit, "migrations/versions/").decode()
        if f"/{head()}_" not in files:
            folder = tmp_path_factory.mktemp("before")
            with tarfile.open(fileobj=io.BytesIO(git("archive", commit))) as tree:
                tree.extractall(folder, filter="data")
            return folder
    raise AssertionError("there is no version before this one")


@pytest.fixture
def empty(postgres: EmbeddedPostgres) -> str:
    """The DSN of a database in which there is nothing."""
    postgres.start()
    asyncio.run(execute(postgres.dsn, "create database versions"))
    return named(postgres.dsn, "versions")


class House:
    """One database, and processes of either version at it."""

    def __init__(self, stage: Stage, dsn: str, before: Path, receiver: Receiver) -> None:
        self._stage = stage
        self._dsn = dsn
        self._before = {"PYTHONPATH": f"{before}:{before / 'sdk/python/src'}"}
        self._key = {"CONTROLPLANE_SECRET_KEY": KeyRing.generate()}
        self._receiver = receiver
        self.ids: list[str] = []

    def command(self, *words: str, before: bool = False) -> subprocess.CompletedProcess[str]:
        """`controlplane` of this version, or of the one before."""
        env = os.environ | {"DATABASE_URL": self._dsn} | self._key | (self._before if before else {})
        command = [sys.executable, "-m", "controlplane", *words]
        return subprocess.run(command, env=env, cwd=self._stage.folder, capture_output=True, text=True, check=False)

    def plane(self, *, before: bool = False) -> Plane:
        return self._stage.plane(self._dsn, **self._key, **(self._before if before else {}))

    def node(self, plane: Plane, me: str, *, before: bool = False) -> Node:
        return self._stage.node(plane, NODE, ME=me, **(self._before if before else {}))

    def submit(self, plane: Plane, *, to: int = SHORT) -> str:
        id_ = plane.submit("mixed.count", webhook=self._receiver.webhook, to=to)
        self.ids.append(id_)
        return id_

    def begin(self, plane: Plane) -> None:
        """Submit a long one, and return in the middle of it."""
        id_ = self.submit(plane, to=LONG)
        run_id = plane.look(id_)["run_id"]
        until("it to begin", lambda: (plane.memory_of(run_id, "done") or 0) > SHORT, seconds=ENDS_SECONDS)

    def goes_on(self, plane: Plane, me: str) -> None:
        """The long one ends in the second attempt, in the process that calls itself so."""
        ended = plane.end_of(self.ids[-1], within=ENDS_SECONDS)
        assert (ended["attempt"], ended["result"]) == (2, [me, LONG])

    def told(self, plane: Plane) -> None:
        """Return when every end has been told, and each under one id."""
        for id_ in self.ids:
            plane.end_of(id_, within=ENDS_SECONDS)
            until(f"the webhook of {id_}", partial(self._receiver.about, id_), seconds=ENDS_SECONDS)
            assert len({heard.webhook_id for heard in self._receiver.about(id_)}) == 1
            until(f"{id_} to be settled", partial(_settled, plane, id_), seconds=ENDS_SECONDS)

    @contextmanager
    def busy(self, plane: Plane) -> Iterator[None]:
        """While somebody submits, one after the other, and every one is accepted."""
        over = threading.Event()
        failed: list[BaseException] = []

        def work() -> None:
            try:
                while not over.wait(PAUSE_SECONDS):
                    self.submit(plane)
            except BaseException as error:  # noqa: BLE001 - carried over to the test
                failed.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        assert not failed, failed


def _settled(plane: Plane, id_: str) -> bool:
    deliveries = plane.api.get(f"/executions/{id_}/deliveries").json()["items"]
    return [one["state"] for one in deliveries] == ["delivered"]


@pytest.fixture
def house(stage: Stage, empty: str, before: Path, receiver: Receiver) -> Iterator[House]:
    """In the end, as this version sees it, no promise is broken."""
    yield House(stage, empty, before, receiver)
    assert asyncio.run(broken(empty)) == {}


@pytest.mark.timeout(300)  # three servers, three nodes and three commands are started, one after the other
def test_the_version_before_and_this_one(house: House) -> None:
    """Migrated under the old server, beside it, and back to it: all that was accepted ends once, and is told."""
    house.command("migrate", before=True)
    old = house.plane(before=True)
    old_node = house.node(old, "old", before=True)
    refused = house.command("serve", "--port", "0")
    with house.busy(old):
        migrated = house.command("migrate")
    new = house.plane()

    assert refused.returncode != 0
    assert f"this version needs {head()}" in refused.stderr
    assert "controlplane migrate" in refused.stderr
    assert migrated.returncode == 0, migrated.stderr

    asked_here = [house.submit(new) for _ in range(EACH)]
    assert [new.end_of(id_, within=ENDS_SECONDS)["result"] for id_ in asked_here] == [["old", SHORT]] * EACH
    house.begin(old)
    old_node.kill()
    new_node = house.node(new, "new")
    house.goes_on(new, "new")

    asked_there = [house.submit(old) for _ in range(EACH)]
    assert [old.end_of(id_, within=ENDS_SECONDS)["result"] for id_ in asked_there] == [["new", SHORT]] * EACH
    house.begin(new)
    new.kill()
    new_node.kill()
    house.node(old, "old", before=True)
    house.goes_on(old, "old")
    house.told(old)
