"""`serve --workers`: several processes behind one address, whichever of them dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import NewDatabase
from tests.e2e.processes import Plane, Process, Stage, free_port, until

WORKERS = 3
SECONDS = 20.0


@pytest.fixture
def own_port() -> int:
    """The first worker's own."""
    return free_port()


@pytest.fixture
def plane(stage: Stage, new_database: NewDatabase, own_port: int) -> Plane:
    """Each of its workers is ready."""
    env = {"CONTROLPLANE_WORKERS": str(WORKERS), "CONTROLPLANE_WORKER_PORT": str(own_port)}
    plane = stage.plane(new_database(), **env)
    until("all of them", lambda: plane.log().count("server.ready") == WORKERS, seconds=SECONDS)
    return plane


def workers(plane: Plane) -> list[int]:
    """The process ids of those that live, the oldest first."""
    found = Path(f"/proc/{plane.pid}/task/{plane.pid}/children").read_text().split()
    return sorted(int(pid) for pid in found)


def is_there(pid: int) -> bool:
    """Also while nobody has asked how it ended."""
    return Path(f"/proc/{pid}").exists() and ") Z " not in Path(f"/proc/{pid}/stat").read_text()


def register(plane: Plane) -> None:
    body = {"id": "n", "transport": "pull", "reasoners": [{"id": "echo"}]}
    assert plane.api.post("/nodes/register", json=body).status_code == 201


def test_each_of_them_serves_at_the_address_of_all(plane: Plane, own_port: int) -> None:
    """Connections are spread over them, and each is reached alone at its own port, too."""
    register(plane)
    for _ in range(200):  # each a connection of its own: that one of three gets none of them is no accident
        answer = httpx.post(f"{plane.url}/api/v1/execute/async/n.echo", json={})
        assert answer.status_code == 202
    said = [httpx.get(f"http://localhost:{own_port + n}/metrics").text for n in range(WORKERS)]
    line = 'controlplane_lane_items_total{lane="submit"} '
    served = [float(one.split(line)[1].split()[0]) for one in said]

    assert sum(served) == 200
    assert all(served)


def test_a_worker_that_is_killed_is_begun_anew(plane: Plane, own_port: int) -> None:
    """kill -9 of one: the others go on, nothing that was accepted is missing, and another takes its place."""
    register(plane)
    before = [plane.submit("n.echo") for _ in range(10)]
    plane.api.close()  # its connection would die with the worker that has it
    first, *others = workers(plane)
    os.kill(first, signal.SIGKILL)
    # Each over a connection of its own: one that the dead worker would have taken waits for the next.
    after = [httpx.post(f"{plane.url}/api/v1/execute/async/n.echo", json={}, timeout=SECONDS) for _ in range(20)]
    until("it to be gone", lambda: first not in workers(plane), seconds=SECONDS)
    until("another in its place", lambda: len(workers(plane)) == WORKERS, seconds=SECONDS)

    assert first not in workers(plane)
    assert set(others) < set(workers(plane))
    assert httpx.get(f"http://localhost:{own_port}/readyz").status_code == 200
    assert {one.status_code for one in after} == {202}
    plane.api = httpx.Client(base_url=f"{plane.url}/api/v1", timeout=90)
    ids = before + [one.json()["execution_id"] for one in after]
    assert {plane.look(id_)["status"] for id_ in ids} == {"queued"}


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_all_leave_when_the_one_is_told_to(plane: Plane, told: signal.Signals) -> None:
    """SIGTERM, and Ctrl-C, which a terminal tells to the whole group."""
    pids = workers(plane)
    os.killpg(plane.pid, told)

    assert plane.ended(within=SECONDS) == 0
    assert not any(map(is_there, pids))
    assert plane.log().count("server.stopped") == WORKERS


def test_all_die_with_the_one_that_minds_them(plane: Plane) -> None:
    """kill -9 of it: the address is free for the next one, which begins where all of them were."""
    register(plane)
    pids = workers(plane)
    id_ = plane.submit("n.echo")
    plane.kill()
    until("all to be gone", lambda: not any(map(is_there, pids)), seconds=SECONDS)
    plane.start()
    plane.ready()

    assert plane.look(id_)["status"] == "queued"


def test_one_that_fails_ends_all(tmp_path: Path) -> None:
    """What a worker complains of the others would, too: its exit code is that of all."""
    script = "import sys, time; from controlplane.cli.workers import spread; "
    script += "sys.exit(7) if spread([[], []]) else time.sleep(600)"
    crew = Process("crew", "-c", script, folder=tmp_path, env={})
    crew.start()

    assert crew.ended(within=SECONDS) == 7
