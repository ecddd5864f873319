"""The whole story, played on real processes and real input, and told while it happens.

A corpus is submitted with one POST. The node is killed with SIGKILL in the middle, then the control plane is; both come
back and the work goes on from its last checkpoint. A signed webhook tells the end. Exits 0 only if every promise held.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from corpus import documents
from summarise import OFFLINE

from controlplane.postgres.embedded import EmbeddedPostgres
from controlplane.security.secrets import KeyRing

HERE = Path(__file__).parent
SECRET = "whsec_your_signing_secret"
KILL_NODE_AT = 0.3
KILL_SERVER_AT = 0.65
PORT = 8080
PATIENCE_SECONDS = 300.0

began = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - began:6.1f} s] {text}", flush=True)


def free_port(first: int) -> int:
    """This port, or the next one that nobody has."""
    for port in range(first, first + 50):
        with contextlib.closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise SystemExit(f"no free port from {first}")


class Processes:
    """Everything that was started, so that nothing is left behind."""

    def __init__(self, folder: Path, port: int, server_env: dict[str, str]) -> None:
        self.folder = folder
        self.url = f"http://localhost:{port}"
        self._port = port
        self._server_env = server_env
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start_server(self) -> None:
        """Start the control plane and wait until it takes work."""
        self.start("server", "-m", "controlplane", "serve", "--port", str(self._port), **self._server_env)
        wait_for("the server", lambda: httpx.get(f"{self.url}/readyz").status_code == 200)

    def start(self, name: str, *command: str, **env: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, *command], env=os.environ | env, stdout=log, stderr=log, cwd=HERE
            )

    def kill(self, name: str) -> int:
        process = self._running[name]
        process.send_signal(signal.SIGKILL)
        process.wait()
        return process.pid

    def stop(self) -> None:
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(what: str, look: Callable[[], Any]) -> Any:
    """Look until something is there. Gives up, loudly, after five minutes."""
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(httpx.TransportError):
            found = look()
            if found:
                return found
        time.sleep(0.02)
    raise SystemExit(f"waited {PATIENCE_SECONDS:g} s in vain for {what}")


@contextlib.contextmanager
def stage() -> Iterator[Processes]:
    """A database and a server, each a process of its own; receiver and node come with the story."""
    with tempfile.TemporaryDirectory(prefix="controlplane-demo-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres"))
        say(f"PostgreSQL is up (pid {postgres.pid}), in a folder of its own")
        env = {
            "DATABASE_URL": postgres.dsn,
            "CONTROLPLANE_SECRET_KEY": KeyRing.generate(),
            "CONTROLPLANE_EGRESS_ALLOW_LOOPBACK": "true",
            "CONTROLPLANE_LEASE_SECONDS": "3",
        }
        subprocess.run([sys.executable, "-m", "controlplane", "migrate"], env=os.environ | env, check=True)
        port = free_port(PORT)
        if port != PORT:
            say(f"port {PORT} is taken, so this is {port}")
        processes = Processes(folder, port, env)
        stack.callback(processes.stop)
        processes.start_server()
        say(f"the control plane is up on {processes.url}")
        yield processes


def main() -> int:
    with stage() as processes:
        return play(processes)


def play(processes: Processes) -> int:
    api = httpx.Client(base_url=f"{processes.url}/api/v1", timeout=5)
    told, calls = processes.folder / "told.jsonl", processes.folder / "calls.txt"
    receiver_port = free_port(9400)
    processes.start("receiver", "receiver.py", str(receiver_port), str(told), WEBHOOK_SECRET=SECRET)
    node_env = {"AGENTFIELD_SERVER": processes.url, "DEMO_CALLS_FILE": str(calls)} | (
        {"DEMO_PACE_SECONDS": "0.05"} if OFFLINE else {}
    )
    processes.start("node", "agent.py", **node_env)
    wait_for("the node", lambda: api.get("/nodes").json()["count"])
    say("the node `batch` is connected: it dials the control plane and needs no address of its own")
    if OFFLINE:
        say("no OPENAI_API_KEY: summaries come from a small offline, extractive summariser (50 ms each)")

    items = documents()
    accepted = api.post(
        "/execute/async/batch.process_corpus",
        json={
            "input": {"items": items},
            "webhook": {"url": f"http://127.0.0.1:{receiver_port}/hooks/agentfield", "secret": SECRET},
        },
    )
    assert accepted.status_code == 202, accepted.text
    id_ = accepted.json()["execution_id"]
    say(f"POST /api/v1/execute/async/batch.process_corpus with {len(items)} docstrings of Python's standard library")
    say(f"  => 202 {json.dumps({k: accepted.json()[k] for k in ('execution_id', 'status', 'webhook_registered')})}")

    def look() -> dict[str, Any]:
        shown: dict[str, Any] = api.get(f"/executions/{id_}").json()
        return shown

    def done() -> int:
        return int(look().get("progress", {}).get("done", 0))

    kills = 0
    wait_for("some progress", lambda: done() >= KILL_NODE_AT * len(items))
    say(f"{done()} of {len(items)} done; kill -9 {processes.kill('node')} (the node)")
    kills += 1
    processes.start("node", "agent.py", **node_env)
    say(f"  a new node process starts; status is {look()['status']!r} until the dead one's lease runs out")
    wait_for("the second attempt", lambda: look()["attempt"] == 2)
    say(f"  attempt 2 has begun at {done()} of {len(items)}: a crash is a delay, not a lost job")

    wait_for("more progress", lambda: done() >= KILL_SERVER_AT * len(items))
    say(f"{done()} of {len(items)} done; kill -9 {processes.kill('server')} (the control plane)")
    kills += 1
    processes.start_server()
    say(f"  the control plane is back; the node kept its place: attempt {look()['attempt']}, {done()} done")

    ended = wait_for("the end", lambda: (shown := look())["status"] in ("succeeded", "failed", "cancelled") and shown)
    say(f"polled: {json.dumps({k: ended[k] for k in ('status', 'attempt', 'duration_ms')})}")
    messages = wait_for("the webhook", lambda: told.exists() and [json.loads(line) for line in told.open()])
    message = messages[0]["body"]
    say(f"the receiver was told {message['event']!r} and verified the signature over the raw body")

    def settled() -> list[dict[str, Any]] | None:
        shown: list[dict[str, Any]] = api.get(f"/executions/{id_}/deliveries").json()["items"]
        return shown if shown and all(one["state"] != "leased" for one in shown) else None

    deliveries = wait_for("the delivery to be written down", settled)

    counted = Counter(calls.read_text().split())
    repeated = sum(counted.values()) - len(counted)
    webhook_attempts = sum(len(delivery["attempts"]) for delivery in deliveries)
    processed = ended.get("result", {}).get("results", [])
    print()
    for name, value in (
        ("documents done", f"{len(processed)} of {len(items)}"),
        ("items repeated", f"{repeated} (at most 1 for each of {kills} kills)"),
        ("attempts", ended["attempt"]),
        ("webhook attempts", webhook_attempts),
        ("seconds", f"{time.monotonic() - began:.1f}"),
    ):
        print(f"  {name:<18} {value}")
    sample = next((n for n, item in enumerate(items) if item.startswith("asyncio.queues\n") or n == 40), 0)
    print(f"\n  one summary: {processed[sample]['summary'][:110]}…\n" if processed else "")
    promises = {
        "the execution succeeded": ended["status"] == "succeeded",
        "every document was done, in order": [one["item"] for one in processed] == list(range(len(items))),
        "at most one item was repeated per kill": repeated <= kills,
        "the webhook was told once, with a good signature": [one["word"] for one in messages] == ["ok"],
        "the webhook brought the same result": message.get("result") == ended.get("result"),
        "the delivery is settled": [delivery["state"] for delivery in deliveries] == ["delivered"],
    }
    for promise, held in promises.items():
        print(f"  {'✓' if held else '✗'} {promise}")
    return 0 if all(promises.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
