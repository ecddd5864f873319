"""The founding example runs as it was published: its agent, its curl lines, its receiver."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import seed
from tests.e2e.conftest import StartNode
from tests.e2e.processes import Node, Plane, until
from tests.e2e.receiver import Model, Receiver
from tests.e2e.seed import addressed, shell, summaries, written

HERE = Path(__file__).parent
AGENT = HERE / "seed_agent.py"
NEW_IMPORTS = {
    "from agentfield import Agent": "from controlplane_sdk import Agent",
    "from agentfield.logger import log_info": "from controlplane_sdk.logger import log_info",
}


@pytest.fixture
def agent(node: StartNode, model: Model) -> Node:
    """The example's agent, connected, with a model behind `app.ai`."""
    return node(AGENT.read_text(), name="main", **model.env)


def test_the_agent_differs_in_two_import_lines_only() -> None:
    """What runs here is what was published, but for the name of the package in two lines."""
    assert written(AGENT.read_text()) == [NEW_IMPORTS.get(line, line) for line in written(seed.AGENT)]


def test_the_receiver_is_the_published_one() -> None:
    """The receiver of these tests is the example's, line by line."""
    assert written((HERE / "seed_receiver.py").read_text()) == written(seed.RECEIVER)


def test_fire_and_forget(plane: Plane, agent: Node, model: Model, receiver: Receiver) -> None:
    """One POST is answered with the three published fields; the signed webhook brings the result."""
    fired = shell(seed.FIRE, plane, receiver.webhook["url"])
    [heard] = until("the webhook", lambda: receiver.about(fired["execution_id"]), seconds=10)

    assert (fired["status"], fired["webhook_registered"]) == ("queued", True)
    assert (heard.status, heard.word) == (200, "ok")
    assert heard.body["event"] == "execution.completed"
    assert heard.body["status"] == "succeeded"
    assert heard.body["result"] == summaries("doc one text", "doc two text", "...")
    assert model.asked.total() == 3


def test_poll_it_while_it_runs(plane: Plane, agent: Node, model: Model) -> None:
    """Polling shows it running with its time growing, then its result."""
    model.hold()
    with Receiver("whsec_x") as receiver:
        id_ = shell(seed.VERIFY_FIRE, plane, receiver.webhook["url"])["execution_id"]
        until("the model to be asked", lambda: model.asked, seconds=10)
        running = shell(seed.VERIFY_POLL.replace("exec_7b21...", id_), plane)
        model.let_go()
        plane.end_of(id_, within=10)
        ended = shell(seed.VERIFY_POLL.replace("exec_7b21...", id_), plane)
        [heard] = until("the webhook", lambda: receiver.about(id_), seconds=10)

    assert running["status"] == "running"
    assert running["started_at"]
    assert running["duration_ms"] >= 0
    assert ended["status"] == "succeeded"
    assert ended["result"] == summaries("a", "b", "c")
    assert ended["completed_at"]
    assert heard.word == "ok"


def test_every_log_line_is_in_the_trace(plane: Plane, agent: Node) -> None:
    """`log_info` lands in the execution's trace, and its "n/m" is the progress."""
    id_ = plane.submit("batch.process_corpus", items=["a", "b"])
    ended = plane.end_of(id_, within=10)
    lines = plane.api.get(f"/executions/{id_}/logs").json()["items"]

    assert [line["message"] for line in lines] == ["processed 1/2", "processed 2/2"]
    assert (ended["progress"]["done"], ended["progress"]["total"]) == (2, 2)


def test_watch_it_live(plane: Plane, agent: Node, receiver: Receiver, tmp_path: Path) -> None:
    """The stream says connected, then the execution's start and its end, in frames without a name."""
    lines = tmp_path / "stream"
    with watching(addressed(seed.WATCH, plane, ""), lines):
        until("the stream to begin", lambda: frames(lines), seconds=10)
        id_ = shell(seed.FIRE, plane, receiver.webhook["url"])["execution_id"]
        until("its end", lambda: "execution_completed" in types(lines), seconds=10)
    mine = [frame["type"] for frame in frames(lines) if frame.get("execution_id") == id_]

    assert frames(lines)[0]["type"] == "connected"
    assert mine.index("execution_started") < mine.index("execution_completed")
    assert not any(line.startswith("event:") for line in lines.read_text().splitlines())


def test_a_node_that_is_not_there_yet_is_waited_for(
    plane: Plane, agent: Node, node: StartNode, model: Model, receiver: Receiver
) -> None:
    """The work lives in the queue, not in a process: fired while no node runs, it is done by the next one."""
    agent.terminate()
    agent.ended(within=10)
    fired = shell(seed.FIRE, plane, receiver.webhook["url"])
    assert plane.look(fired["execution_id"])["status"] == "queued"
    node(AGENT.read_text(), **model.env)

    assert plane.end_of(fired["execution_id"], within=10)["attempt"] == 1


@contextmanager
def watching(script: str, printed: Path) -> Iterator[None]:
    """These lines run for as long as the test looks on, and print into a file."""
    with printed.open("wb") as out:
        process = subprocess.Popen(["bash", "-c", f"exec {script.strip()}"], stdout=out, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def frames(lines: Path) -> list[dict[str, Any]]:
    """The frames that came so far; a last one that is not whole yet is left out."""
    whole = lines.read_text().rpartition("\n\n")[0]
    return [json.loads(line.removeprefix("data: ")) for line in whole.splitlines() if line.startswith("data: ")]


def types(lines: Path) -> list[str]:
    return [frame["type"] for frame in frames(lines)]
