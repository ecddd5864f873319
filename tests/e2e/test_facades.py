"""The clients of the two founding texts run as printed, against a server and nodes that are real processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from tests.e2e.conftest import NewDatabase
from tests.e2e.facade_texts import AGENT_WITH_BACKGROUND_JOBS, POLLING_CLIENT, PROGRESS, WORKER
from tests.e2e.processes import Node, Plane, Stage, until
from tests.e2e.receiver import Outside

PRINTED = "http://localhost:8000"
WORKER_NODE = f"""
import textwrap
from controlplane_sdk import Agent

class JobQueue: ...
{WORKER}

class Tracker:
    def update(self, progress: int, message: str):
        app.progress(progress, 100, message)

app = Agent("worker", slots=8, heartbeat_seconds=0.5)
worker, tracker = Worker(JobQueue()), Tracker()

@app.reasoner(retries=0)
def process_job(type: str, params: dict):
    handler = worker.handlers.get(type)
    if not handler:
        raise ValueError(f"Unknown task type: {{type}}")
{"".join(f"    {line}" for line in PROGRESS.strip().splitlines(keepends=True))}
    return handler(params)

app.run()
"""
ASSISTANT = """
import asyncio
from controlplane_sdk import Agent

app = Agent("assistant", slots=8, heartbeat_seconds=0.5)

@app.reasoner(retries=0)
async def answer(prompt: str) -> str:
    if prompt == "fail":
        raise ValueError("out of tokens")
    for i in range(10):
        await asyncio.sleep(0.05)
        app.progress((i + 1) * 10, 100)
    return f"Agent completed: {prompt}"

app.run()
"""


class JobQueue:
    """The text's queue, by the routes of its own API."""

    def __init__(self, url: str) -> None:
        self._url = url

    def enqueue(self, task_type: str, params: dict[str, Any]) -> str:
        answer = httpx.post(f"{self._url}/jobs", json={"type": task_type, "params": params})
        assert answer.json() == {"job_id": answer.json()["job_id"], "status": "pending"}
        return str(answer.json()["job_id"])

    def get_status(self, job_id: str) -> dict[str, Any] | None:
        answer = httpx.get(f"{self._url}/jobs/{job_id}")
        return None if answer.status_code == 404 else dict(answer.json())


class Callbacks(Outside):
    """Whoever gets the POST to `callback_url`; the first one is answered with a 500."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[dict[str, Any]] = []

    def answer(self, raw_body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        self.heard.append(json.loads(raw_body))
        return (500 if len(self.heard) == 1 else 200), b"{}"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One stage for the module: each of its tests leaves a server that takes work."""
    with Stage(tmp_path_factory.mktemp("facades")) as stage:
        yield stage


@pytest.fixture(scope="module")
def plane(stage: Stage, new_database: NewDatabase) -> Plane:
    """A server with both façades on."""
    targets = {"CONTROLPLANE_JOBS_TARGET": "worker.process_job", "CONTROLPLANE_AGENT_TARGET": "assistant.answer"}
    return stage.plane(new_database(), **targets)


@pytest.fixture(scope="module")
def worker(stage: Stage, plane: Plane) -> Node:
    """The text's worker, as a node."""
    return stage.node(plane, WORKER_NODE, name="worker")


@pytest.fixture(scope="module")
def assistant(stage: Stage, plane: Plane) -> Node:
    """The text's agent, as a node."""
    return stage.node(plane, ASSISTANT, name="assistant")


@pytest.fixture
def agent(plane: Plane) -> Any:
    """The text's agent with its two tools."""
    names: dict[str, Any] = {"JobQueue": JobQueue}
    exec(AGENT_WITH_BACKGROUND_JOBS, names)
    return names["AgentWithBackgroundJobs"](llm=None, queue=JobQueue(plane.url))


def polling(plane: Plane, prompt: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The polling client, run to its end."""
    script = POLLING_CLIENT.replace(PRINTED, plane.url).replace("Analyze this document", prompt)
    return subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_polling_client(plane: Plane, assistant: Node, tmp_path: Path) -> None:
    """It submits, prints each status with its progress, and returns the result."""
    done = polling(plane, "Analyze this document", tmp_path)
    first, *polled, last = done.stdout.splitlines()

    assert done.returncode == 0, done.stderr
    assert first.startswith("Task submitted: exec_")
    assert last == "Result: Agent completed: Analyze this document"
    assert polled[-1] == "Status: completed, Progress: 100%"
    assert {line.split(",")[0] for line in polled[:-1]} <= {"Status: pending", "Status: running"}


def test_the_polling_client_of_a_task_that_fails(plane: Plane, assistant: Node, tmp_path: Path) -> None:
    """It raises what the agent raised."""
    done = polling(plane, "fail", tmp_path)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "Exception: out of tokens"


def test_the_agents_tools(plane: Plane, worker: Node, agent: Any) -> None:
    """It starts tests in the background and is told what they said; of a job that there is not, that there is none."""
    started = agent.execute_tool("run_tests_background", {"command": "echo 47 passed; exit 3"})
    job_id = started.split("Job ID: ")[1].split("\n")[0]
    plane.end_of(job_id, within=20)
    checked = agent.execute_tool("check_job_status", {"job_id": job_id})

    assert checked == "Status: completed\n\nResult:\nExit code: 3\n\nOutput:\n47 passed\n\n\nErrors:\n"
    assert agent.execute_tool("check_job_status", {"job_id": "a1b2c3d4-e5f6-7890-abcd-ef1234567890"}) == "Job not found"


def test_a_type_that_no_handler_has(plane: Plane, worker: Node, agent: Any) -> None:
    """The worker's own words are the job's result."""
    job_id = agent.queue.enqueue("tidy_up", {})
    plane.end_of(job_id, within=20)

    assert agent.execute_tool("check_job_status", {"job_id": job_id}) == (
        "Status: failed\n\nResult:\nUnknown task type: tidy_up"
    )


def test_the_stream_of_a_job(plane: Plane, worker: Node, agent: Any) -> None:
    """`data:` lines that hold the status, with the progress that the worker tells, until it has completed."""
    released = plane_folder(worker) / "streamed"
    job_id = agent.queue.enqueue("build", {"command": f"until test -e {released}; do sleep 0.05; done; echo built"})
    seen = []
    with httpx.stream("GET", f"{plane.url}/jobs/{job_id}/stream", timeout=30) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line.removeprefix("data: ")))
                if seen[-1].get("progress") == 50:
                    released.touch()

    assert response.headers["content-type"].startswith("text/event-stream")
    assert {one["status"] for one in seen[:-1]} <= {"pending", "running"}
    assert seen[-2]["progress_message"] == "Running tests... 23/47"
    assert (seen[-1]["status"], seen[-1]["result"], seen[-1]["type"]) == ("completed", "built\n", "build")


def test_a_job_is_cancelled_while_it_runs(plane: Plane, worker: Node, agent: Any) -> None:
    """The answer is the printed one, and the job is listed among the cancelled."""
    job_id = agent.queue.enqueue("build", {"command": "sleep 1"})
    until("the job to run", lambda: agent.queue.get_status(job_id)["status"] == "running", seconds=20)
    answer = httpx.post(f"{plane.url}/jobs/{job_id}/cancel")
    listed = httpx.get(f"{plane.url}/jobs", params={"status": "cancelled"}).json()

    assert answer.json() == {"status": "cancelled"}
    assert [one["job_id"] for one in listed] == [job_id]
    assert plane.end_of(job_id, within=30)["status"] == "cancelled"


def test_the_callback(plane: Plane, assistant: Node) -> None:
    """The end is POSTed as printed, again after a receiver that failed."""
    with Callbacks() as receiver:
        body = {"prompt": "p", "callback_url": f"{receiver.url}/done"}
        submitted = httpx.post(f"{plane.url}/agent/submit-with-callback", json=body).json()
        until("the second try", lambda: len(receiver.heard) > 1, seconds=40)

    id_ = submitted["task_id"]
    assert submitted == {"task_id": id_, "status": "submitted"}
    assert receiver.heard == [{"task_id": id_, "status": "completed", "result": "Agent completed: p"}] * 2


def test_a_server_that_is_killed_between_submit_and_status(plane: Plane, stage: Stage, tmp_path: Path) -> None:
    """What was answered with an id is still there, waits for its node, and flips from pending to completed."""
    submitted = httpx.post(f"{plane.url}/agent/start", json={"prompt": "survive"}).json()
    queued = httpx.post(f"{plane.url}/jobs", json={"type": "build", "params": {"command": "echo b"}}).json()
    plane.kill()
    plane.restart()
    status = f"{plane.url}/agent/status/{submitted['task_id']}"
    after = httpx.get(status).json()
    for name, script in (("assistant-2", ASSISTANT), ("worker-2", WORKER_NODE)):
        stage.node(plane, script, name=name)
    done = until("the end", lambda: (one := httpx.get(status).json())["status"] == "completed" and one, seconds=20)

    assert submitted["status"] == "pending"
    assert after["status"] in ("pending", "running", "completed")
    assert done["result"] == "Agent completed: survive"
    assert plane.end_of(queued["job_id"], within=20)["result"] == "b\n"


class Listener(threading.Thread):
    """A client of `/ws/{session_id}` that connects again whenever it is cut off, as browsers' clients do."""

    def __init__(self, plane: Plane, session: str) -> None:
        super().__init__(daemon=True)
        self.heard: list[dict[str, Any]] = []
        self.connected = 0
        self._url = f"ws://localhost:{plane.port}/ws/{session}"
        self._leave = threading.Event()

    def run(self) -> None:
        asyncio.run(self._listen())

    def stop(self) -> None:
        self._leave.set()
        self.join(20)

    async def _listen(self) -> None:
        while not self._leave.is_set():
            try:
                async with websockets.connect(self._url, proxy=None) as socket:
                    self.connected += 1
                    while not self._leave.is_set():
                        try:
                            self.heard.append(json.loads(await asyncio.wait_for(socket.recv(), 0.1)))
                        except TimeoutError:
                            continue
            except (OSError, websockets.WebSocketException):
                await asyncio.sleep(0.05)


def test_a_socket_that_connects_again(plane: Plane, worker: Node) -> None:
    """Killed between two jobs of a session, the server tells the end of both, to a client that knows of no cursor."""
    released = plane_folder(worker) / "released"
    waits = {"command": f"until test -e {released}; do sleep 0.05; done; echo two"}
    listener = Listener(plane, "conversation-1")
    listener.start()
    try:
        until("the socket", lambda: listener.connected, seconds=20)
        one, two = (
            httpx.post(f"{plane.url}/jobs", json={"type": "build", "params": params, "session_id": "conversation-1"})
            for params in ({"command": "echo one"}, waits)
        )
        until("the first end", lambda: listener.heard, seconds=20)
        until("the second to run", lambda: plane.look(two.json()["job_id"])["status"] == "running", seconds=20)
        plane.kill()
        released.touch()
        plane.restart()
        until("the second end", lambda: "two\n" in [one["result"] for one in listener.heard], seconds=40)
    finally:
        listener.stop()

    said = {one["job_id"]: (one["type"], one["result"]) for one in listener.heard}
    assert said == {
        one.json()["job_id"]: ("job_complete", "one\n"),
        two.json()["job_id"]: ("job_complete", "two\n"),
    }


def plane_folder(node: Node) -> Path:
    return node._folder
