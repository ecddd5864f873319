"""A campaign of Schemathesis against a running server: a small world to talk about, its settings, and what came out.

The document is the server's own, with every answer closed as `tests/integration/api/witness.py` closes it. All phases
run and all checks but those that `SETTINGS` turns off, each with its reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).parent
PHASES = ("examples", "coverage", "fuzzing", "stateful")
TARGET = "n.echo"
Json = Any

SETTINGS = """
[auth.openapi.key]
api_key = "${{FUZZ_KEY}}"

[checks.not_a_server_error]
# A server that is full or has lost its database says so; here it is neither.
expected-statuses = ["2xx", "3xx", "4xx"]

[checks.negative_data_rejection]
expected-statuses = ["4xx"]

[checks.positive_data_acceptance]
# 404: what was drawn is well formed and is not there. 409: it is there, and not in a state for that.
expected-statuses = ["2xx", "404", "409"]

[checks.object_level_authorization]
# It needs two identities; tests/integration/api/test_namespaces.py asks every route as two of them.
enabled = false

# It waits for the work, which may fail (502) or take longer than it waits (504): both are declared.
[[operations]]
include-path = ["/api/v1/execute/{{target}}", "/api/v1/reasoners/{{target}}", "/api/v1/skills/{{target}}"]
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "502", "504"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "502", "504"]

# Streams without an end: what has come after a moment is the answer.
[[operations]]
include-path = [
  "/api/v1/memory/events/sse",
  "/api/ui/v1/executions/events",
  "/api/ui/v1/executions/{{execution_id}}/events",
  "/api/v1/executions/{{execution_id}}/events",
  "/jobs/{{job_id}}/stream",
]
max-stream-events = 1
request-timeout = 0.3

{dictionaries}
[parameters]
{parameters}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a campaign has come to. `failures`: check → how often. `excused`: reason → how often."""

    cases: int
    failures: Counter[str]
    status: int
    seconds: float
    text: str
    folder: Path
    excused: Counter[str]


class World:
    """What there is when a campaign begins, and a node that goes on to do whatever is submitted to it."""

    def __init__(self, url: str, key: str) -> None:
        self.client = httpx.Client(base_url=f"{url}/api/v1", headers={"X-API-Key": key}, timeout=60, trust_env=False)
        self._leaving = threading.Event()
        self._node = threading.Thread(target=self._serve, name="fuzz-node", daemon=True)
        self.known: dict[str, list[str]] = {}

    def begin(self) -> None:
        self._register()
        session = self._open()
        executions = [self._post(f"execute/async/{TARGET}", {"input": {"n": n}}) for n in range(4)]
        delayed = self._post(f"execute/async/{TARGET}", {"input": {}, "delay_seconds": 3600})
        for name in ("nightly", "hourly"):
            self._post("schedules", {"name": name, "target": TARGET, "cron": "0 3 * * *"})
        self._post("triggers", {"name": "shop", "target": TARGET, "preset": "hmac", "secret": "whatever"})
        self.client.put("limits/key:fuzz", json={"concurrency_max": 5}).raise_for_status()
        bulk = self._post("bulk", {"action": "cancel", "filter": {"run_id": "none"}})
        name = f"fuzz-{secrets.token_hex(4)}"  # what another campaign has made may be changed by now
        endpoint = self._post("endpoints", {"name": name, "url": "https://receiver.invalid/"})
        self._post("namespaces", {"name": name})
        key = self._post("keys", {"name": "fuzz", "scopes": ["read"]})
        self._post("memory/set", {"key": "k", "data": [1], "scope": "global"})
        self.known = {
            "target": [TARGET, "n.add"],
            "node_id": ["n"],
            "execution_id": [one["execution_id"] for one in (*executions, delayed)],
            "run_id": [one["run_id"] for one in (*executions, delayed)],
            "session_id": [session],
            "name": ["nightly", "hourly", "shop"],
            "slug": ["shop"],
            "bulk_id": [bulk["bulk_id"]],
            "key_id": [key["key_id"]],
            "endpoint_id": [endpoint["endpoint_id"], name],
            "namespace": [name],
            "key": ["key:fuzz", "k", "node:n", f"reasoner:{TARGET}"],
        }
        self._node.start()

    def end(self) -> None:
        self._leaving.set()
        self._node.join(20)
        self.client.close()

    def _post(self, path: str, body: Json) -> Json:
        answer = self.client.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def _register(self) -> None:
        self._post("nodes/register", {"id": "n", "reasoners": [{"id": "echo"}], "skills": [{"id": "add"}]})

    def _open(self) -> str:
        body = {"instance_id": "fuzz", "slots": 100, "heartbeat_seconds": 60}
        return str(self._post("nodes/n/sessions", body)["session_id"])

    def _serve(self) -> None:
        """Answer what is asked, and come back when the campaign has closed the session or anything else."""
        session = ""
        while not self._leaving.is_set():
            with contextlib.suppress(httpx.HTTPError, AssertionError, ValueError, KeyError):
                if not session:
                    self._register()
                    session = self._open()
                answer = self.client.post(f"sessions/{session}/lease", json={"max": 20, "wait_seconds": 0.5})
                if answer.status_code != 200:
                    session = ""
                    continue
                done = [
                    {"execution_id": one["execution_id"], "attempt": one["attempt"], "status": "succeeded", "result": 1}
                    for one in answer.json()["leases"]
                ]
                if done:
                    self.client.post(f"sessions/{session}/results", json={"results": done})


@contextlib.contextmanager
def world(url: str, key: str) -> Iterator[World]:
    """There as long as the campaign lasts."""
    there = World(url, key)
    there.begin()
    try:
        yield there
    finally:
        there.end()


def run(
    url: str, key: str, document: Json, folder: Path, *, examples: int, seed: int, phases: tuple[str, ...] = PHASES
) -> Told:
    """Run Schemathesis to its end. `examples`: how many the fuzzing phase draws for each operation."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "openapi.json").write_text(json.dumps(document))
    (folder / "excused.txt").write_text("")
    with world(url, key) as there:
        (folder / "schemathesis.toml").write_text(_settings(there.known))
        began = time.monotonic()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(folder / "schemathesis.toml")),
                *("run", str(folder / "openapi.json"), "--url", url, "--phases", ",".join(phases)),
                *("--max-examples", str(examples), "--seed", str(seed), "--workers", "1", "--continue-on-failure"),
                *("--no-color", "--request-timeout", "20", "--warnings", "off", "--no-shrink"),
                *("--report", "ndjson", "--report-ndjson-path", str(folder / "events.ndjson")),
                *("--output-truncate", "false"),
            ],
            cwd=folder,
            env=os.environ
            | {"FUZZ_KEY": key, "FUZZ_EXCUSED": str(folder / "excused.txt"), "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks"},
            capture_output=True,
            text=True,
            check=False,
        )
    text = done.stdout + done.stderr
    (folder / "said.txt").write_text(text)
    return _told(done.returncode, time.monotonic() - began, text, folder)


def _settings(known: dict[str, list[str]]) -> str:
    """The settings as TOML, with what there is in the world as words to draw from."""
    words = [f"[dictionaries.{name}]\nvalues = {json.dumps(values)}\n" for name, values in known.items()]
    places = [f'"path.{name}" = {{ dictionary = "{name}", probability = 0.7 }}' for name in known]
    return SETTINGS.format(dictionaries="\n".join(words), parameters="\n".join(places))


def _told(status: int, seconds: float, text: str, folder: Path) -> Told:
    """What the report of a campaign holds, event by event."""
    cases, failures = 0, Counter[str]()
    with (folder / "events.ndjson").open() as events:
        for line in events:
            scenario = json.loads(line).get("ScenarioFinished")
            if scenario is None:
                continue
            told = scenario["recorder"]
            cases += len(told.get("cases", {}))
            for checks in told.get("checks", {}).values():
                for check in checks:
                    if check["status"] == "failure":
                        failures[check["name"]] += 1
    excused = Counter((folder / "excused.txt").read_text().splitlines())
    return Told(
        cases=cases, failures=failures, excused=excused, status=status, seconds=seconds, text=text, folder=folder
    )
