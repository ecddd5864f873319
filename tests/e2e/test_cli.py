"""The command line against a real server: `controlplane dev` is started once, the node is played over plain HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import msgspec
import pytest

from controlplane.domain.ids import show_execution
from controlplane.reads.verify import INVARIANTS
from controlplane.security.secrets import KeyRing
from controlplane_sdk import Client, RequestRefused
from tests.e2e.processes import until
from tests.make import counts, make_execution

pytestmark = pytest.mark.e2e

DEADLINE_SECONDS = 30.0
COMMAND = [sys.executable, "-m", "controlplane"]
INPUT = '{"rate": 1.10, "big": 123456789012345678901234567890}'
RESULT = '{"sum": 1.50, "items": [ ]}'
SETTINGS = ("CONTROLPLANE_", "AGENTFIELD_", "DATABASE_URL", "FORCE_COLOR")

AGENT = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("drained")))
print("serving for", os.environ["CONTROLPLANE_SERVER"], os.environ["AGENTFIELD_SERVER"])
signal.pause()
"""


@dataclass(frozen=True)
class Ended:
    code: int
    out: bytes
    err: str


@dataclass(frozen=True)
class Dev:
    url: str
    folder: Path
    process: subprocess.Popen[str]


def environment(**given: str) -> dict[str, str]:
    """Ours without what steers the command line, and with what is given."""
    return {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)} | given


def cli(*arguments: str, stdin: str = "", **given: str) -> Ended:
    """Run one command to its end. Nothing that is piped has colours or a traceback."""
    ended = subprocess.run(
        [*COMMAND, *arguments],
        input=stdin.encode(),
        env=environment(**given),
        capture_output=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    err = ended.stderr.decode()
    assert b"\x1b" not in ended.stdout + ended.stderr
    assert "Traceback" not in err
    return Ended(ended.returncode, ended.stdout, err)


@contextmanager
def started(*arguments: str, **given: str) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on, ended by SIGTERM unless the test has ended it, and killed when it takes too long."""
    with subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(**given),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        watchdog = threading.Timer(DEADLINE_SECONDS, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            process.terminate()
            process.communicate()
            watchdog.cancel()


def line_of(process: subprocess.Popen[str], stream: str, containing: str) -> str:
    """The next line with this in it."""
    seen = []
    for line in getattr(process, stream):
        if containing in line:
            return str(line).strip()
        seen.append(line)
    raise AssertionError(f"no {containing!r} on {stream}: {''.join(seen)}")


@pytest.fixture(scope="module", autouse=True)
def ctrl_c_is_heard() -> Iterator[None]:
    """A shell that runs us in the background makes us and our children deaf to SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """A control plane of this module's own, on a database of its own."""
    folder = tmp_path_factory.mktemp("dev") / "data"
    said = folder.with_name("err.txt")
    with (
        said.open("w") as err,
        subprocess.Popen(
            [*COMMAND, "dev", "--port", "0", "--data-dir", str(folder)],
            env=environment(CONTROLPLANE_LEASE_SECONDS="5"),
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, said.read_text()
        yield Dev(url, folder, process)
        process.send_signal(signal.SIGINT)
        process.wait(DEADLINE_SECONDS)


class Node:
    """A node that does what a test says, over plain HTTP."""

    def __init__(self, url: str, node_id: str) -> None:
        self.target = f"{node_id}.work"
        self._http = httpx.Client(base_url=f"{url}/api/v1", timeout=DEADLINE_SECONDS)
        node = {"id": node_id, "version": "1", "transport": "pull", "reasoners": [{"id": "work"}]}
        self._post("/nodes/register", node)
        session = self._post(f"/nodes/{node_id}/sessions", {"instance_id": "test", "slots": 4})
        self._session = msgspec.json.decode(session)["session_id"]

    def close(self) -> None:
        self._post(f"/sessions/{self._session}/close", {})
        self._http.close()

    def lease(self) -> dict[str, msgspec.Raw]:
        """The next execution, each member as the bytes it came in."""
        body = self._post(f"/sessions/{self._session}/lease", {"max": 1, "wait_seconds": 20})
        [lease] = msgspec.json.decode(body, type=dict[str, list[dict[str, msgspec.Raw]]])["leases"]
        return lease

    def report(self, lease: dict[str, msgspec.Raw], status: str, **more: object) -> None:
        one = {name: lease[name] for name in ("execution_id", "attempt")} | {"status": status} | more
        self._post(f"/sessions/{self._session}/results", {"results": [one]})

    def log(self, lease: dict[str, msgspec.Raw], message: str) -> None:
        entry = {name: lease[name] for name in ("execution_id", "attempt")} | {"level": "info", "message": message}
        self._post(f"/sessions/{self._session}/logs", {"entries": [entry], "progress": []})

    def step(self, lease: dict[str, msgspec.Raw], **op: object) -> None:
        group = {name: lease[name] for name in ("execution_id", "attempt")} | {"ops": [op]}
        self._post("/steps/write", {"writes": [group]})

    def _post(self, path: str, body: object) -> bytes:
        answer = self._http.post(path, content=msgspec.json.encode(body))
        answer.raise_for_status()
        return answer.content


@pytest.fixture
def node(dev: Dev, request: pytest.FixtureRequest) -> Iterator[Node]:
    made = Node(dev.url, request.node.name[:60])
    yield made
    made.close()


def submitted(dev: Dev, node: Node, body: str = "{}", **headers: str) -> str:
    """The id of an execution that nobody waits for."""
    answer = httpx.post(f"{dev.url}/api/v1/execute/async/{node.target}", content=body, headers=headers)
    return str(answer.json()["execution_id"])


def test_call_prints_the_result(dev: Dev, node: Node) -> None:
    """Input and result pass byte for byte, and only the result is on stdout."""
    with started("call", node.target, "--input", INPUT, "--server", dev.url) as process:
        lease = node.lease()
        node.report(lease, "succeeded", result=msgspec.Raw(RESULT.encode()))
        out, err = process.communicate(timeout=DEADLINE_SECONDS)

    assert bytes(lease["input"]) == INPUT.encode()
    assert (process.returncode, out) == (0, RESULT + "\n")
    assert "exec_" in err


def test_call_reads_stdin_and_prints_json(dev: Dev, node: Node) -> None:
    """--json prints the execution as the server shows it."""
    execution_id = json.loads(
        cli("call", node.target, "--input", "-", "--no-wait", "--json", "--server", dev.url, stdin='{"a": 1}').out
    )["execution_id"]
    node.report(node.lease(), "succeeded", result=3)
    ended = cli("executions", "wait", execution_id, "--json", "--server", dev.url)

    assert ended.code == 0
    assert json.loads(ended.out)["result"] == 3


def test_a_failed_execution_is_exit_code_6(dev: Dev, node: Node) -> None:
    """The reason stands on stderr, nothing on stdout."""
    execution_id = submitted(dev, node)
    node.report(node.lease(), "failed", error="boom", retryable=False)
    ended = cli("executions", "wait", execution_id, "--server", dev.url)

    assert (ended.code, ended.out) == (6, b"")
    assert "boom" in ended.err


def test_too_short_a_wait_is_exit_code_7(dev: Dev, node: Node) -> None:
    """The execution goes on, and the line says how to wait again."""
    ended = cli("call", node.target, "--timeout", "0.2", "--server", dev.url)

    assert ended.code == 7
    assert f"controlplane executions wait --server {dev.url} exec_" in ended.err


def test_a_cancelled_execution_is_exit_code_8(dev: Dev, node: Node) -> None:
    """Who waits for it hears of the cancel; a second cancel is a conflict."""
    execution_id = submitted(dev, node)
    cancelled, again = (
        cli("executions", "cancel", execution_id, "--reason", "enough", "--server", dev.url) for _ in range(2)
    )
    waited = cli("executions", "wait", execution_id, "--server", dev.url)

    assert (cancelled.code, again.code, waited.code) == (0, 5, 8)
    assert "enough" in waited.err


def test_explain_says_why_it_waits(dev: Dev, node: Node) -> None:
    """One sentence on stdout with its facts below, the next step on stderr; --json is what the server says."""
    execution_id = submitted(dev, node)
    lease = node.lease()
    cli("executions", "pause", execution_id, "--reason", "hold on", "--server", dev.url)
    said = cli("executions", "explain", execution_id, "--server", dev.url)
    found = json.loads(cli("executions", "explain", execution_id, "--json", "--server", dev.url).out)
    node.report(lease, "succeeded", result=1)
    ended = cli("executions", "explain", execution_id, "--server", dev.url)

    assert (said.code, said.out.decode().splitlines()[0]) == (0, found["sentence"])
    assert "(hold on); attempt 1 still goes on to its end" in found["sentence"]
    assert f"Next: Let it go on: `controlplane executions resume {execution_id} --server {dev.url}`." in said.err
    assert ended.out.startswith(b"It succeeded in attempt 1 at ")


def test_pause_and_resume(dev: Dev, node: Node) -> None:
    """What is paused is not leased until it is resumed; a second resume is a conflict."""
    execution_id = submitted(dev, node)
    paused = cli("executions", "pause", execution_id, "--json", "--server", dev.url)
    resumed, again = (cli("executions", "resume", execution_id, "--server", dev.url) for _ in range(2))
    node.report(node.lease(), "succeeded", result=1)

    assert (paused.code, json.loads(paused.out)["status"]) == (0, "paused")
    assert (resumed.code, resumed.out.decode()) == (0, f"{execution_id} resumed\n")
    assert again.code == 5


def test_attempts_are_listed(dev: Dev, node: Node) -> None:
    """One line each, the newest last; tracebacks when asked for."""
    execution_id = submitted(dev, node)
    none = cli("executions", "attempts", execution_id, "--server", dev.url)
    node.report(node.lease(), "failed", error="boom", error_class="E", traceback="line 1", retryable=False)
    shown = cli("executions", "attempts", execution_id, "--tracebacks", "--server", dev.url)
    [found] = json.loads(cli("executions", "attempts", execution_id, "--json", "--server", dev.url).out)["items"]

    assert (none.code, none.out) == (0, b"")
    assert all(word in shown.out.decode() for word in ("failed", "boom", "user_error", "\nline 1\n"))
    assert (found["attempt"], found["ended"], found["traceback"]) == (1, "failed", "line 1")


def test_restart_prints_the_new_id(dev: Dev, node: Node) -> None:
    """The new execution asks what is given, else what the old one asked; where to wait for it stands on stderr."""
    execution_id = submitted(dev, node, '{"input": {"a": 1}}')
    node.report(node.lease(), "succeeded", result=1)
    again, other = (
        cli("executions", "restart", execution_id, "--scope", "execution", *more, "--server", dev.url)
        for more in ((), ("--fork", "--input", INPUT, "--json"))
    )
    wrong = cli("executions", "restart", execution_id, "--reuse", "some", "--server", dev.url)

    assert (again.code, other.code, wrong.code) == (0, 0, 2)
    assert f"controlplane executions wait --server {dev.url} {again.out.decode().strip()}" in again.err
    assert json.loads(other.out)["kind"] == "fork"
    assert [bytes(node.lease()["input"]) for _ in range(2)] == [b'{"a": 1}', INPUT.encode()]


def test_a_batch_is_submitted_line_by_line(dev: Dev, node: Node, tmp_path: Path) -> None:
    """Ids in order on stdout; a wrong line is named, and put right it is the only one that is submitted again."""
    file = tmp_path / "items.jsonl"
    good, other, wrong = (json.dumps({"target": one}) for one in (node.target, node.target, "nobody.work"))
    file.write_text(f"{good}\n{wrong}\n\n{other}\n")
    command = ("batch", str(file), "--same-run", "--idempotency-key", node.target, "--server", dev.url)

    first = cli(*command)
    file.write_text(f"{good}\n{good}\n\n{other}\n")
    again = cli(*command, "--json")
    items = [json.loads(line) for line in again.out.splitlines()]

    assert (first.code, again.code) == (3, 0)
    assert "line 2: body.target: No registered node has this target." in first.err
    assert "2 of 3 lines are accepted" in first.err
    assert [one["execution_id"] for one in items[::2]] == first.out.decode().split()
    assert [one.get("replayed") for one in items] == [True, None, True]
    assert len({one["run_id"] for one in items}) == 1
    assert f"controlplane runs show --server {dev.url} {items[0]['run_id']}" in again.err


def test_a_mistake_in_every_line_of_a_batch(dev: Dev, node: Node, tmp_path: Path) -> None:
    """The first ten are shown, the others counted; a session belongs to the command, not to a line."""
    file = tmp_path / "items.jsonl"
    file.write_text(f"{json.dumps({'target': node.target, 'session_id': 's'})}\n" * 50)
    refused = cli("batch", str(file), "--server", dev.url)
    file.write_text(json.dumps({"target": node.target, "delay_seconds": 3600}))
    taken = cli("batch", str(file), "--session-id", node.target, "--server", dev.url)
    listed = cli("executions", "list", "--session-id", node.target, "--server", dev.url)
    cli("executions", "cancel", taken.out.decode().strip(), "--server", dev.url)

    assert refused.code == 2
    assert refused.err.count("There is no such field. The header X-Session-ID says it.") == 10
    assert "… and 40 more lines were refused" in refused.err
    assert taken.out.decode().strip() in listed.out.decode()
    assert "scheduled" in listed.out.decode()


def test_a_call_may_begin_later(dev: Dev, node: Node) -> None:
    """After a delay or at a moment, which is said; both are too much."""
    later, both = ("--delay", "3600"), ("--delay", "1", "--at", "2030-01-01T00:00:00Z")
    call = ("call", node.target, "--no-wait", "--server", dev.url)
    scheduled, refused = cli(*call, *later, "--json"), cli(*call, *both)

    assert json.loads(scheduled.out)["status_reason"] == "scheduled"
    assert "It begins at " in scheduled.err
    assert (refused.code, refused.out) == (2, b"")
    cli("executions", "cancel", json.loads(scheduled.out)["execution_id"], "--server", dev.url)


def test_retry_prints_the_new_id(dev: Dev, node: Node) -> None:
    """It asks the same in the same run; what has not failed is a conflict."""
    execution_id = submitted(dev, node, '{"input": {"a": 1}}', **{"X-Run-ID": node.target})
    node.report(node.lease(), "failed", error="boom", retryable=False)
    again = cli("executions", "retry", execution_id, "--reason", "once more", "--server", dev.url)
    lease = node.lease()
    early = cli("executions", "retry", again.out.decode().strip(), "--server", dev.url)

    assert (again.code, early.code) == (0, 5)
    assert again.out.decode().strip() == msgspec.json.decode(lease["execution_id"])
    assert [bytes(lease[name]) for name in ("input", "run_id")] == [b'{"a": 1}', json.dumps(node.target).encode()]
    assert f"controlplane executions wait --server {dev.url}" in again.err


def test_every_option_of_a_call_arrives(dev: Dev, node: Node) -> None:
    """Deadlines, the retry object, context and scopes; `show` prints what holds, and what came of it."""
    at = ("--server", dev.url)
    policy = '{"max": 2, "backoff": "fixed", "delay_seconds": 100, "fatal_errors": ["ValueError"]}'
    times = ("--timeout-seconds", "60", "--heartbeat-seconds", "30", "--total-seconds", "600")
    more = ("--context", '{"c": 1.10}', "--session-id", "s", "--actor-id", "a", "--schedule-to-start-seconds", "300")
    called = cli("call", node.target, "--no-wait", "--retry", policy, *times, *more, *at)
    lease = node.lease()
    node.report(lease, "failed", error="busy", retry_after_seconds=500)
    shown = cli("executions", "show", called.out.decode().strip(), *at)
    facts = dict(line.split(maxsplit=1) for line in shown.out.decode().splitlines())
    broken = cli("call", node.target, "--retry", "{", *at)

    assert bytes(lease["context"]) == b'{"c": 1.10}'
    assert [bytes(lease[name]) for name in ("session_key", "actor_key")] == [b'"s"', b'"a"']
    assert facts["retries_used"] == "1 of 2, after 100 s"
    assert (facts["fatal_errors"], facts["next_retry_at"]) == ("ValueError", facts["available_at"])
    assert [float(facts[name + "_seconds"]) for name in ("timeout", "heartbeat", "total")] == [60, 30, 600]
    assert (broken.code, "--retry is not JSON" in broken.err) == (2, True)


def test_a_run_is_listed_shown_and_cancelled(dev: Dev, node: Node) -> None:
    """The tree has its children under their parent."""
    at = ("--server", dev.url)
    root_id = submitted(dev, node, '{"input": {}}', **{"X-Run-ID": node.target})
    parent = node.lease()
    child_id = submitted(dev, node, '{"input": {}}', **{"X-Parent-Execution-ID": f"{root_id}~1"})
    listed = cli("runs", "list", "--target", node.target, *at)
    shown = cli("runs", "show", node.target, *at).out.decode()
    one = json.loads(cli("runs", "show", node.target, "--limit", "1", "--json", *at).out)
    cancelled = cli("runs", "cancel", node.target, "--reason", "enough", *at)
    node.report(parent, "cancelled")
    unknown = cli("runs", "show", "nothing", *at)

    assert (listed.code, "1 queued, 1 running" in listed.out.decode()) == (0, True)
    assert [line.index("exec_") for line in shown.splitlines() if line.lstrip(" └─").startswith("exec_")] == [0, 4]
    assert shown.index(root_id) < shown.index(child_id)
    assert (len(one["items"]), one["next_cursor"], one["executions"]) == (1, root_id, 2)
    assert (cancelled.code, cancelled.out) == (0, f"{node.target} cancelled: 2 executions\n".encode())
    assert unknown.code == 3


def test_signal_and_steps(dev: Dev, node: Node) -> None:
    """A signal that nobody waits for is kept; a payload that is no JSON is exit code 2; steps are one line each."""
    at = ("--server", dev.url)
    execution_id = submitted(dev, node)
    none = cli("executions", "steps", execution_id, *at)
    kept = cli("executions", "signal", execution_id, "deploy window", "--payload", '{"by": 1.10}', *at)
    wrong = cli("executions", "signal", execution_id, "go", "--payload", "{", *at)
    lease = node.lease()
    node.step(lease, op="done", name="build", value="x" * 100)
    node.step(lease, op="event", name="window", event="deploy window")
    node.step(lease, op="event", name="go", event="go")
    sent = [json.loads(cli("executions", "signal", execution_id, "go", "--json", *at).out) for _ in range(2)]
    shown = cli("executions", "steps", execution_id, *at).out.decode()
    steps = json.loads(cli("executions", "steps", execution_id, "--json", *at).out)["steps"]

    assert (none.out, kept.out.decode()) == (b"", f"{execution_id} deploy window kept\n")
    assert (wrong.code, "not JSON" in wrong.err) == (2, True)
    assert [one["delivered"] for one in sent] == [True, False]
    assert [(one["name"], one["status"]) for one in steps] == [("build", "done"), ("window", "done"), ("go", "done")]
    assert '{"by": 1.10}' in shown
    assert "x" * 61 not in shown


def test_approvals_are_shown_and_decided(dev: Dev, node: Node) -> None:
    """The question with its title; the first decision stands, and another one is a conflict."""
    at = ("--server", dev.url)
    execution_id = submitted(dev, node)
    before = cli("approvals", "show", execution_id, *at)
    lease = node.lease()
    node.step(lease, op="approval", name="approval", title="Deploy 1.2?")
    node.report(lease, "waiting", waits=["approval"], until="any")
    shown = cli("approvals", "show", execution_id, *at)
    listed = cli("approvals", "list", *at)
    [item] = json.loads(cli("approvals", "list", "--json", *at).out)["items"]
    said = [
        cli("approvals", verb, execution_id, "--feedback", "ok", "--response", '{"n": 1}', *at)
        for verb in ("approve", "approve", "reject")
    ]

    assert (before.code, shown.code) == (3, 0)
    assert {"pending", "Deploy"} <= set(shown.out.decode().split())
    assert f"{dev.url}/approvals/".encode().replace(b"localhost", b"127.0.0.1") in shown.out
    assert "Deploy 1.2?" in listed.out.decode()
    assert (execution_id in listed.out.decode(), item["execution_id"]) == (True, execution_id)
    assert [one.code for one in said] == [0, 0, 5]
    assert said[0].out.decode() == f"{execution_id} approved\n"


def test_a_schedule_from_its_creation_to_its_end(dev: Dev, node: Node) -> None:
    """Created, shown, listed, run now and deleted; an id or a moment is a line on stdout, talk is on stderr."""
    at = ("--server", dev.url)
    made = cli("schedules", "create", "nightly", node.target, "--cron", "30 2 * * *", "--input", INPUT, *at)
    taken = cli("schedules", "create", "nightly", node.target, "--interval", "60", *at)
    coming = cli("schedules", "next", "nightly", "--count", "2", *at)
    shown = cli("schedules", "show", "nightly", "--ticks", *at)
    listed = cli("schedules", "list", *at)
    ran = cli("schedules", "run", "nightly", *at)
    lease = node.lease()
    node.report(lease, "succeeded", result=1)
    ticks = json.loads(cli("schedules", "show", "nightly", "--ticks", "--json", *at).out)["ticks"]
    gone, unknown = (cli("schedules", "delete", "nightly", *at) for _ in range(2))

    assert (made.code, taken.code, unknown.code) == (0, 5, 3)
    assert (made.out, "Next: " in made.err) == (b"nightly active\n", True)
    assert [line[10:] for line in coming.out.decode().split()] == ["T02:30:00Z"] * 2
    assert INPUT in shown.out.decode()
    assert node.target in listed.out.decode()
    assert bytes(lease["input"]) == INPUT.encode()
    assert [(one["execution_id"], one["by_hand"]) for one in ticks] == [(ran.out.decode().strip(), True)]
    assert gone.out == b"nightly deleted\n"


def test_a_schedule_is_paused_and_replaced(dev: Dev, node: Node) -> None:
    """Each says where it stands; a rule that is none is exit code 2 with the part that is wrong."""
    at = ("--server", dev.url)
    made = cli("schedules", "create", "every", node.target, "--interval", "3600", "--paused", *at)
    turned = [cli("schedules", verb, "every", *at).out for verb in ("resume", "pause")]
    replaced = cli("schedules", "create", "every", node.target, "--cron", "@never", "--replace", *at)
    nothing = cli("schedules", "create", "other", node.target, *at)
    cli("schedules", "delete", "every", *at)

    assert made.out == b"every paused\n"
    assert turned == [b"every active\n", b"every paused\n"]
    assert (replaced.code, "body.cron" in replaced.err) == (2, True)
    assert (nothing.code, "Exactly one of cron, interval_seconds and run_at" in nothing.err) == (2, True)


def test_a_trigger_from_its_creation_to_its_end(dev: Dev, node: Node) -> None:
    """Created with a secret from stdin, tried by its own sample, looked at, replayed and deleted."""
    at = ("--server", dev.url)
    made = cli(
        "triggers", "create", "gh", node.target, "--preset", "github", "--argument", "x=/x", *at, stdin="a secret\n"
    )
    sample = cli("triggers", "test", "gh", "--body", '{"x": 1}', "--event-type", "push", *at)
    said = json.loads(subprocess.run(["bash", "-c", sample.out.decode()], check=True, capture_output=True).stdout)
    lease = node.lease()
    node.report(lease, "succeeded", result=1)
    came = cli("triggers", "events", "gh", *at)
    whole = json.loads(cli("triggers", "events", "gh", said["trigger_event_id"], *at).out)
    again = cli("triggers", "replay", "gh", said["trigger_event_id"], *at)
    node.report(node.lease(), "succeeded", result=1)
    shown, listed = cli("triggers", "show", "gh", *at), cli("triggers", "list", *at)
    gone, unknown = (cli("triggers", "delete", "gh", *at) for _ in range(2))

    assert made.out.decode() == f"{dev.url}/hooks/gh\n"
    assert (bytes(lease["input"]), whole["body"]) == (b'{"x":1}', {"x": 1})
    assert said["execution_id"] in came.out.decode()
    assert again.out.decode().strip() not in ("", said["execution_id"])
    assert b"a secret" not in shown.out + listed.out + made.out + sample.out
    assert (gone.out, unknown.code) == (b"gh deleted\n", 3)


def test_an_endpoint_from_its_creation_to_its_end(dev: Dev, node: Node) -> None:
    """Its secret is printed once; a test fails loudly where nobody takes it."""
    at = ("--server", dev.url)
    made = cli("endpoints", "create", "e", "http://127.0.0.1:1024/x", "--event", "*", "--header", "X-K=hidden", *at)
    tried = cli("endpoints", "test", "e", *at)
    turned = [cli("endpoints", verb, "e", *at).out for verb in ("disable", "enable")]
    changed = cli("endpoints", "update", "e", "--target", node.target, "--wait", "0", "--wait", "5", *at)
    rotated = cli("endpoints", "rotate", "e", "--overlap", "60", *at)
    given = cli("endpoints", "rotate", "e", "--secret-env", "HOOK", *at, HOOK="mine")
    shown, listed = json.loads(cli("endpoints", "show", "e", "--json", *at).out), cli("endpoints", "list", *at)
    gone, unknown = (cli("endpoints", "delete", "e", *at) for _ in range(2))

    assert made.out.startswith(b"whsec_")
    assert rotated.out.startswith(b"whsec_")
    assert made.out != rotated.out
    assert (tried.code, "did not take it" in tried.err, b"hidden" in tried.out) == (1, True, False)
    assert (turned, changed.out, given.out) == ([b"e disabled\n", b"e enabled\n"], b"e enabled\n", b"e\n")
    assert (shown["targets"], shown["schedule"], shown["headers"]) == ([node.target], [0, 5], ["X-K"])
    assert (b"enabled" in listed.out, gone.out, unknown.code) == (True, b"e deleted\n", 3)


def test_a_trigger_is_changed_and_paused(dev: Dev, node: Node) -> None:
    """A secret may come from the environment, never from the command line; without one nothing is made."""
    at = ("--server", dev.url)
    asked = ("triggers", "create", "t", node.target, "--preset", "hmac", "--header", "X-S", *at)
    nothing, odd = cli(*asked), cli(*asked, "--argument", "x", stdin="s\n")
    made = cli(*asked, "--secret-env", "HOOK", HOOK="s")
    changed = cli("triggers", "change", "t", "--argument", "y=/y", "--secret", *at, stdin="s2\n")
    turned = [cli("triggers", verb, "t", *at).out for verb in ("pause", "resume")]
    shown = json.loads(cli("triggers", "show", "t", "--json", *at).out)
    cli("triggers", "delete", "t", *at)

    assert (nothing.code, odd.code, made.code, changed.code) == (2, 2, 0, 0)
    assert turned == [b"t paused\n", b"t active\n"]
    assert (shown["arguments"], shown["header"]) == ({"y": "/y"}, "X-S")
    assert "previous_secret_until" in shown


def test_a_bulk_from_its_count_to_its_end(dev: Dev, node: Node) -> None:
    """Counted, begun and waited for, shown and listed; what is not there or over already has its exit code."""
    at = ("--server", dev.url)
    ids = [submitted(dev, node, "{}") for _ in range(3)]
    asked = ("--status", "queued", "--target", node.target)
    dry = cli("bulk", "cancel", *asked, "--dry-run", *at)
    done = cli("bulk", "cancel", *asked, "--reason", "enough", "--wait", "--json", *at)
    bulk_id = json.loads(done.out)["bulk_id"]
    shown, listed = cli("bulk", "show", bulk_id, *at), cli("bulk", "list", "--state", "done", *at)
    over, nothing = cli("bulk", "stop", bulk_id, *at), cli("bulk", "pause", *at)
    odd = cli("bulk", "cancel", "--target", node.target, "--error-class", "X", *at)

    assert (dry.out, sorted(dry.err.split())) == (b"3\n", sorted(ids))
    assert [json.loads(done.out)[name] for name in ("state", "matched", "done")] == ["done", 3, 3]
    assert "enough" in shown.out.decode()
    assert bulk_id in listed.out.decode()
    assert (over.code, nothing.code, odd.code) == (5, 2, 2)
    assert "body.filter.error_class" in odd.err


def test_a_limit_from_its_setting_to_its_end(dev: Dev, node: Node) -> None:
    """Set, listed with what it holds and blocks, kept to, and deleted, which lets all in."""
    at = ("--server", dev.url)
    made = cli("limits", "set", "key:a/b", "--concurrency-max", "0", *at)
    held_back = cli("call", node.target, "--no-wait", "--concurrency-key", "a/b", "--fairness-key", "f", *at)
    why = cli("executions", "explain", held_back.out.decode().strip(), *at)
    listed = cli("limits", "list", *at)
    shown = cli("limits", "show", "key:a/b", *at)
    gone, unknown = (cli("limits", "delete", "key:a/b", *at) for _ in range(2))
    lease = node.lease()
    node.report(lease, "succeeded", result=1)
    nothing = cli("limits", "set", "key:a/b", *at)

    assert (made.code, made.out) == (0, b"key:a/b holds 0, blocks 0\n")
    assert "key:a/b allows 0 at once" in why.out.decode()
    assert f"limits set key:a/b --concurrency-max N --server {dev.url}`" in why.err
    assert "key:a/b" in listed.out.decode()
    assert dict(line.split() for line in shown.out.decode().splitlines())["blocked"] == "1"
    assert (gone.out, unknown.code, nothing.code) == (b"key:a/b deleted\n", 3, 2)
    assert msgspec.json.decode(lease["execution_id"]) == held_back.out.decode().strip()


def test_ctrl_c_leaves_the_execution_running(dev: Dev, node: Node) -> None:
    """Exit 130, and the line that waits again."""
    with started("call", node.target, "--server", dev.url) as process:
        line_of(process, "stderr", "is accepted")
        node.lease()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE_SECONDS)

    assert process.returncode == 130
    assert f"controlplane executions wait --server {dev.url} exec_" in err


def test_one_idempotency_key_is_one_execution(dev: Dev, node: Node) -> None:
    """The second call gets the first one's id; another input with that key is a conflict."""
    call = ("call", node.target, "--no-wait", "--idempotency-key", "k", "--server", dev.url)
    first, second, third = (cli(*call, pair) for pair in ("a=1", "a=1", "a=2"))

    assert (first.code, first.out) == (0, second.out)
    assert third.code == 5


def test_an_unknown_target_names_the_nearest(dev: Dev, node: Node) -> None:
    """A slip of the fingers is answered with what was meant."""
    ended = cli("call", node.target + "s", "--server", dev.url)

    assert ended.code == 3
    assert node.target in ended.err.replace(node.target + "s", "")


def test_list_shows_what_is_asked_for(dev: Dev, node: Node) -> None:
    """Filters and pages; ids are whole in a pipe."""
    ids = [submitted(dev, node, **{"X-Run-ID": node.target}) for _ in range(2)]
    page = cli("executions", "list", "--run", node.target, "--limit", "1", "--server", dev.url)
    rest = cli("executions", "list", "--run", node.target, "--cursor", ids[1], "--json", "--server", dev.url)
    none = cli("executions", "list", "--run", node.target, "--status", "failed", "--server", dev.url)

    assert ids[1] in page.out.decode()
    assert f"--cursor {ids[1]}" in page.err
    assert [one["execution_id"] for one in json.loads(rest.out)["items"]] == ids[:1]
    assert (none.code, none.out) == (0, b"")


def test_show_has_events_logs_and_deliveries(dev: Dev, node: Node) -> None:
    """Everything that is known about one execution, for people and for programs."""
    hook = ("--webhook", f"{dev.url}/nobody", "--webhook-secret", "s")
    execution_id = cli("call", node.target, "--no-wait", *hook, "--server", dev.url).out.decode().strip()
    lease = node.lease()
    node.log(lease, "reading \x1b[31mred")
    node.report(lease, "succeeded", result=msgspec.Raw(RESULT.encode()))
    parts = ("executions", "show", execution_id, "--events", "--logs", "--deliveries", "--server", dev.url)
    shown = cli(*parts)
    found: dict[str, Any] = json.loads(cli(*parts, "--json").out)

    assert all(word in shown.out.decode() for word in (RESULT, "execution.completed", r"\x1b[31mred", "dlv_"))
    assert [one["message"] for one in found["logs"]] == ["reading \x1b[31mred"]
    assert (found["status"], len(found["deliveries"])) == ("succeeded", 1)


def test_an_unknown_execution_is_exit_code_3(dev: Dev) -> None:
    """The line names it."""
    ended = cli("executions", "show", "exec_00000000000000000000000000", "--server", dev.url)

    assert ended.code == 3
    assert "exec_00000000000000000000000000" in ended.err


def test_nodes_are_listed(dev: Dev, node: Node) -> None:
    """A connected node, by name."""
    shown = cli("nodes", CONTROLPLANE_SERVER=dev.url)

    assert node.target.partition(".")[0] in shown.out.decode()


def test_a_reasoner_is_paused_and_resumed(dev: Dev, node: Node) -> None:
    """Paused, listed, explained, resumed; what waits is said, and an unknown one is exit code 3."""
    at = ("--server", dev.url)
    paused = cli("pause", "--reasoner", node.target, "--reason", "upstream is down", *at)
    execution_id = submitted(dev, node)
    why = cli("executions", "explain", execution_id, *at)
    listed = cli("pauses", "list", *at)
    resumed, again = (cli("resume", "--reasoner", node.target, *at) for _ in range(2))
    node.report(node.lease(), "succeeded", result=1)
    unknown, nothing = cli("pause", "--node", "nobody", *at), cli("pause", *at)

    assert (paused.out.decode(), paused.err) == (f"{node.target} paused\n", "0 queued, 0 running\n")
    assert (resumed.out.decode(), resumed.err) == (f"{node.target} resumed\n", "1 queued, 0 running\n")
    assert again.out.decode() == f"{node.target} was not paused\n"
    assert f"Reasoner {node.target} is paused since" in why.out.decode()
    assert "upstream is down" in listed.out.decode()
    assert (unknown.code, nothing.code) == (3, 2)


def test_a_node_drains(dev: Dev, node: Node) -> None:
    """What runs is counted down to nothing, then it can be stopped."""
    at, name = ("--server", dev.url), node.target.partition(".")[0]
    execution_id = submitted(dev, node)
    lease = node.lease()
    drained = cli("nodes", "drain", name, "--reason", "update", *at)
    seen = cli("nodes", *at)
    node.report(lease, "succeeded", result=1)
    again, undrained = cli("nodes", "drain", name, *at), cli("nodes", "undrain", name, *at)
    misplaced = cli("nodes", *at, "drain", name)

    assert execution_id
    assert drained.out.decode() == f"{name}: 1 process drains, 1 running\n"
    assert "draining" in next(line for line in seen.out.decode().splitlines() if line.startswith(name))
    assert again.out.decode() == f"{name}: 1 process drains, 0 running\n"
    assert "it can be stopped" in again.err
    assert undrained.out.decode() == f"{name}: 0 processes drain, 0 running\n"
    assert misplaced.code == 2


def test_nobody_there_is_exit_code_9(dev: Dev) -> None:
    """Where no server is, the line says how to start one; where something else is, it says so."""
    nobody = cli("nodes", CONTROLPLANE_SERVER="http://127.0.0.1:1")
    prefix = cli("nodes", "--server", f"{dev.url}/elsewhere")

    assert (nobody.code, prefix.code) == (9, 3)
    assert "controlplane dev" in nobody.err


def test_doctor_finds_everything_in_order(dev: Dev, database: str) -> None:
    """Exit 0 beside a running server and a migrated database."""
    ended = cli(
        "doctor",
        *("--json", "--server", dev.url, "--database-url", database),
        CONTROLPLANE_PORT="0",
        CONTROLPLANE_DATA_DIR=str(dev.folder),
    )
    checks = {check["name"]: check["state"] for check in json.loads(ended.out)["checks"]}

    assert ended.code == 0, ended.out
    assert checks.pop("database role") == "advice"  # the role of the tests is a superuser
    assert set(checks.values()) == {"ok"}
    assert {"database", "schema", "clock", "secret key", "server"} <= set(checks)


def test_doctor_names_the_next_step() -> None:
    """Exit 1 where something that was asked for is missing."""
    ended = cli("doctor", "--server", "http://127.0.0.1:1", "--database-url", "postgresql://127.0.0.1:1/x")

    assert ended.code == 1
    assert "✗ database" in ended.out.decode()
    assert "→" in ended.out.decode()


def test_dev_survives_the_death_of_its_database(dev: Dev, node: Node) -> None:
    """The postmaster is killed; it comes back, with everything in it."""
    execution_id = submitted(dev, node)
    pid = int((dev.folder / "postgres" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGKILL)
    ended = cli("executions", "wait", execution_id, "--timeout", "0.5", "--server", dev.url)
    node.report(node.lease(), "succeeded", result=1)
    back = cli("executions", "wait", execution_id, "--server", dev.url)

    assert ended.code == 7
    assert (back.code, back.out) == (0, b"1\n")


def test_dev_leaves_nothing_running(tmp_path: Path) -> None:
    """Ctrl-C ends server and database, exit 0; what was noted for programs is withdrawn."""
    folder = tmp_path / "data"
    with started("dev", "--port", "0", "--data-dir", str(folder)) as process:
        url = line_of(process, "stdout", "http")
        noted = json.loads((folder / "dev.json").read_text())
        assert (folder / "dev.json").stat().st_mode & 0o077 == 0
        pasted = line_of(process, "stderr", "curl")
        postmaster = int((folder / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE_SECONDS)

    assert process.returncode == 0
    assert (noted["url"], noted["pid"]) == (url, process.pid)
    assert noted["database_url"].startswith("postgresql://")
    assert url.rpartition(":")[2] in pasted
    assert not (folder / "dev.json").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(postmaster, 0)


def test_dev_runs_an_agent(dev: Dev, database: str, tmp_path: Path) -> None:
    """The agent is told the real address, its output is shown, and it may drain before the server stops."""
    agent = tmp_path / "agent.py"
    agent.write_text(AGENT)
    port = dev.url.rpartition(":")[2]
    with started("dev", "--port", port, "--data-dir", str(tmp_path), str(agent), DATABASE_URL=database) as process:
        url = line_of(process, "stdout", "http")
        passed_over = line_of(process, "stderr", "is taken")
        serving = line_of(process, "stderr", "agent | serving")
        process.terminate()
        _, err = process.communicate(timeout=DEADLINE_SECONDS)

    assert port in passed_over
    assert url != dev.url
    assert serving == f"agent | serving for {url} {url}"
    assert "agent | drained" in err
    assert process.returncode == 0


def serve_settings(database: str) -> dict[str, str]:
    return {"DATABASE_URL": database, "CONTROLPLANE_SECRET_KEY": KeyRing.generate(), "CONTROLPLANE_API_KEY": "right"}


def test_serve_lets_in_who_has_the_key(database: str) -> None:
    """JSON lines, exit 4 for a wrong key or none, exit 0 after SIGTERM."""
    with started("serve", "--port", "0", **serve_settings(database)) as process:
        url = json.loads(line_of(process, "stderr", "server.ready"))["url"]
        codes = [cli("nodes", "--server", url, *key).code for key in ([], ["--api-key", "wrong"])]
        right = cli("nodes", CONTROLPLANE_SERVER=url, CONTROLPLANE_API_KEY="right")
        process.terminate()
        process.communicate(timeout=DEADLINE_SECONDS)

    assert codes == [4, 4]
    assert right.code == 0
    assert process.returncode == 0


def made(*arguments: str, **given: str) -> str:
    """The key that a command has made and printed."""
    ended = cli("keys", *arguments, **given)
    assert ended.code == 0, ended.err
    assert "not shown again" in ended.err
    return ended.out.decode().strip()


async def test_keys_from_the_first_to_the_last(database: str) -> None:
    """The first is made in the database; it makes others, rotates and revokes them, and none is in the log."""
    settings = {name: value for name, value in serve_settings(database).items() if name != "CONTROLPLANE_API_KEY"}
    with started("serve", "--port", "0", **settings) as process:
        opened = line_of(process, "stderr", "server.open")
        url = json.loads(line_of(process, "stderr", "server.ready"))["url"]
        first = made("create", "boss", "--scope", "admin,read", "--database-url", database)
        there = {"CONTROLPLANE_SERVER": url, "CONTROLPLANE_API_KEY": first}
        until(
            "the first key closes the server", lambda: httpx.get(f"{url}/api/v1/nodes").status_code == 401, seconds=20
        )
        node = made("create", "worker", "--scope", "node", "--node", "worker-*", "--expires-in", "600", **there)
        id_ = node.rpartition("_")[0].replace("cp_", "key_")
        turned = made("rotate", id_, "--overlap", "60", **there)
        assert cli("keys", "revoke", id_, **there).code == 0
        listed = cli("keys", "list", **there).out.decode()
        refused = cli("namespaces", "create", "tenant", "--server", url, "--api-key", node)
        process.terminate()
        _, log = process.communicate(timeout=DEADLINE_SECONDS)

    assert "controlplane keys create" in opened
    assert (refused.code, "revoked" in refused.err) == (4, True)
    assert "revoked" in listed
    assert "key.revoked" in log
    assert not [key for key in (first, node, turned) if key.rpartition("_")[2] in opened + log + listed]


async def test_keys_by_sdk(database: str) -> None:
    """The same words for programs; a new key does not show itself by accident."""
    with started("serve", "--port", "0", **serve_settings(database)) as process:
        url = json.loads(line_of(process, "stderr", "server.ready"))["url"]
        async with Client(url, api_key="right") as client:
            space = await client.keys.create_namespace("tenant")
            made = await client.keys.create("w", ["node"], node_ids=["w*"], expires_in_seconds=60, namespace="tenant")
            new = await client.keys.rotate(made.key_id, overlap_seconds=0, namespace="tenant")
            gone = await client.keys.revoke(new.key_id, namespace="tenant")
            page = await client.keys.list(namespace="tenant", limit=1)
            rest = await client.keys.list(namespace="tenant", cursor=page.next_cursor)
            spaces = await client.keys.list_namespaces()
            said = await client.keys.set_caps("tenant", {"executions": 7, "keys": None})
            seen = await client.keys.caps("tenant")
            with pytest.raises(RequestRefused):
                await client.keys.create("w", ["node"])

    assert [one.name for one in spaces.items] == ["default", space.name]
    assert (gone.state, gone.revoked_by) == ("revoked", "environment")
    assert [one.state for one in (*page.items, *rest.items)] == ["revoked", "expired"]
    assert rest.items[0].replaced_by == new.key_id
    assert made.key.get_secret_value() not in repr(made)
    assert said == seen
    assert [(one.cap, one.most, one.said) for one in seen if one.said] == [
        ("executions", 7, True),
        ("keys", None, True),
    ]


def test_caps_of_a_namespace(dev: Dev) -> None:
    """What is said holds, what is not is as the server says of all; what is no cap is refused and changes nothing."""
    there = {"CONTROLPLANE_SERVER": dev.url}
    assert cli("namespaces", "create", "capped", **there).code == 0
    done = cli("namespaces", "set-caps", "capped", "executions=7", "keys=unlimited", "--json", **there)
    refused = [cli("namespaces", "set-caps", "capped", word, **there).code for word in ("executions=x", "nothing=1")]
    shown = cli("namespaces", "caps", "capped", **there).out.decode()
    unknown = cli("namespaces", "caps", "none", **there)

    assert {one["cap"]: one["most"] for one in json.loads(done.out)["caps"] if one["said"]} == {
        "executions": 7,
        "keys": None,
    }
    assert refused == [2, 2]
    assert [line.split()[:2] for line in shown.splitlines() if "of it" in line] == [
        ["executions", "7"],
        ["keys", "unlimited"],
    ]
    assert unknown.code == 3


def test_an_open_address_takes_a_key_of_the_database(database: str) -> None:
    """Without any key nobody may listen for the network; with one that was made, without CONTROLPLANE_API_KEY."""
    settings = {name: value for name, value in serve_settings(database).items() if name != "CONTROLPLANE_API_KEY"}
    refused = cli("serve", "--host", "0.0.0.0", "--port", "0", **settings)
    made("create", "first", "--scope", "admin", "--database-url", database)
    with started("serve", "--host", "0.0.0.0", "--port", "0", **settings) as process:
        ready = line_of(process, "stderr", "server.ready")

    assert refused.code == 2
    assert "no API key" in refused.err
    assert ready


async def test_the_server_gets_a_role_of_its_own(database: str, conn: asyncpg.Connection) -> None:
    """Made once, safe to say again; with it doctor has nothing to advise. The one that migrates is refused."""
    role = f"cli_app_{os.getpid()}"
    owner = await conn.fetchval("select current_user")
    try:
        made = [cli("database", "roles", "--role", role, "--json", DATABASE_URL=database) for _ in range(2)]
        refused = cli("database", "roles", "--role", owner, DATABASE_URL=database)
        await conn.execute(f"alter role {role} password 'p'")
        where = urlsplit(database)
        dsn = where._replace(netloc=f"{role}:p@{where.netloc.rpartition('@')[2]}").geturl()
        looked = cli("doctor", "--json", "--server", "http://127.0.0.1:1", "--database-url", dsn)
    finally:
        await conn.execute(f"drop owned by {role}")
        await conn.execute(f"drop role {role}")
    checks = {check["name"]: check["state"] for check in json.loads(looked.out)["checks"]}

    assert [(one.code, json.loads(one.out)) for one in made] == [(0, {"role": role})] * 2, made
    assert (refused.code, "a role of its own" in refused.err) == (5, True)
    assert (checks["database role"], checks["schema"]) == ("ok", "ok")


async def test_serve_wants_a_migrated_database(database: str) -> None:
    """An empty database is refused with the next step, which is safe to repeat."""
    name = f"cli_{os.getpid()}"
    dsn = urlsplit(database)._replace(path=f"/{name}").geturl()
    admin = await asyncpg.connect(database)
    try:
        await admin.execute(f"create database {name}")
        refused = cli("serve", "--port", "0", **serve_settings(dsn))
        migrated = [json.loads(cli("migrate", "--json", DATABASE_URL=dsn).out) for _ in range(2)]
    finally:
        await admin.execute(f"drop database if exists {name} with (force)")
        await admin.close()

    assert refused.code == 5
    assert "controlplane migrate" in refused.err
    assert (migrated[0]["before"], migrated[1]["before"]) == (None, migrated[0]["revision"])


KEEP = {"CONTROLPLANE_KEEP_SUCCEEDED_DAYS": "30", "CONTROLPLANE_KEEP_FAILED_DAYS": "forever"}


async def test_prune_says_what_it_would_do_and_does_it(database: str, conn: asyncpg.Connection) -> None:
    """By status, with what is held by what; then the empty weeks go too, and a second time there is nothing to do."""
    await make_execution(conn, "succeeded")
    await make_execution(conn, "failed")
    held = await make_execution(conn, "succeeded")
    await make_execution(conn, run_id=held.run_id)
    name = urlsplit(database).path[1:]
    await conn.execute(f"alter database {name} set controlplane.clock_offset = '40 days'")

    seen = json.loads(cli("prune", "--dry-run", "--json", DATABASE_URL=database, **KEEP).out)
    first, second = (json.loads(cli("prune", "--json", DATABASE_URL=database, **KEEP).out) for _ in range(2))

    assert seen["executions"] == {"succeeded": {"removed": 1, "held": {"unfinished": 1}}}
    assert (seen["keep_days"]["succeeded"], seen["keep_days"]["failed"]) == (30, None)
    assert (first["executions"], first["rows"]["events"]) == ({"succeeded": 1}, 2)
    assert second == {"executions": {}, "rows": {}, "partitions": [], "default_not_empty": []}
    assert await counts(conn, "executions") == {"executions": 3}


async def test_prune_for_people(database: str, conn: asyncpg.Connection) -> None:
    """The policy, and a line for each status that it bounds; without a policy there is nothing to remove."""
    await make_execution(conn, "succeeded")

    seen = cli("prune", "--dry-run", DATABASE_URL=database, **KEEP)
    done = cli("prune", DATABASE_URL=database)

    assert "keep_failed_days     forever" in seen.out.decode()
    assert "keep_succeeded_days  30" in seen.out.decode()
    assert (done.code, done.out.decode().splitlines()[0]) == (0, "There was nothing to remove.")


async def broken_execution(conn: asyncpg.Connection) -> str:
    """One that was accepted and is nowhere now."""
    made = await make_execution(conn)
    await conn.execute("delete from queue where id = $1", made.id)
    return show_execution(made.id)


async def test_verify_says_that_every_promise_is_kept(database: str, conn: asyncpg.Connection) -> None:
    """Exit 0, and how many were asked for."""
    await make_execution(conn)

    seen = cli("verify", "--json", DATABASE_URL=database)

    assert (seen.code, json.loads(seen.out)) == (0, {"ok": True, "invariants": len(INVARIANTS), "violations": []})


async def test_verify_names_what_is_lost(database: str, conn: asyncpg.Connection) -> None:
    """Exit 1, the promise and the id."""
    lost = await broken_execution(conn)

    seen, told = cli("verify", "--json", DATABASE_URL=database), cli("verify", DATABASE_URL=database)

    assert (seen.code, told.code) == (1, 1)
    assert [(one["invariant"], one["ids"]) for one in json.loads(seen.out)["violations"]] == [("in_one_place", [lost])]
    assert told.out.decode().startswith("✗ in_one_place: ")
    assert lost in told.out.decode()


async def test_verify_watches(database: str, conn: asyncpg.Connection) -> None:
    """It asks again; what was broken once is exit 1, even if it is mended before the watching ends."""
    with started("verify", "--watch", "0.1", DATABASE_URL=database) as process:
        line_of(process, "stdout", "invariants hold")
        await broken_execution(conn)
        line_of(process, "stdout", "in_one_place")
        await conn.execute("delete from executions")
        line_of(process, "stdout", "invariants hold")
        process.send_signal(signal.SIGINT)

        assert process.wait(timeout=10) == 1
