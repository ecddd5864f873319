"""Real processes that can be killed, stopped and started again, and a way to await what they do."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from controlplane.security.secrets import KeyRing

LEASE_SECONDS = 2.0
DRAIN_SECONDS = 1.0
START_SECONDS = 20.0
ENDED = frozenset({"succeeded", "failed", "cancelled", "timeout"})
LOG_LINES_SHOWN = 60

Found = TypeVar("Found")


def until(what: str, look: Callable[[], Found], *, seconds: float) -> Found:
    """What `look` finds, as soon as it finds something. Fails when nothing came within so many seconds.

    A server that is away just now has not answered yet.
    """
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        with contextlib.suppress(httpx.TransportError):
            if found := look():
                return found
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds:g} s in vain for {what}")


def free_port() -> int:
    """A port that stays ours while its server is down.

    Below the range of outgoing connections: there another process may get it meanwhile, and a client that keeps trying
    a closed port of that range connects to itself in the end.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Process:
    """One process, and everything that it ever said."""

    def __init__(
        self, name: str, *command: str, folder: Path, env: dict[str, str], python: Path | str = sys.executable
    ) -> None:
        self.name = name
        self._command = [str(python), *command]
        self._folder = folder
        self._env = env
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, env=kept | self._env, stdout=log, stderr=log, start_new_session=True
            )

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL: no word of goodbye."""
        self.signal(signal.SIGKILL)
        self.ended(within=10)

    def terminate(self) -> None:
        """SIGTERM; `ended` waits for it."""
        self.signal(signal.SIGTERM)

    def ended(self, *, within: float) -> int:
        """The exit code, once there is one."""
        assert self._process is not None
        try:
            return self._process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {within:g} s") from None

    def log(self, *, after_bytes: int = 0) -> str:
        if not self._log.exists():
            return ""
        with self._log.open("rb") as log:
            log.seek(after_bytes)
            return log.read().decode(errors="replace")

    @property
    def said_bytes(self) -> int:
        """The length of its log."""
        return self._log.stat().st_size if self._log.exists() else 0

    def close(self) -> None:
        if self.alive:
            self.kill()


class Plane(Process):
    """A server process. Its address survives its death."""

    def __init__(self, dsn: str, *, folder: Path, env: dict[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://localhost:{self.port}"
        super().__init__(
            "plane",
            "-m",
            "controlplane",
            "serve",
            folder=folder,
            env={
                "DATABASE_URL": dsn,
                "CONTROLPLANE_PORT": str(self.port),
                "CONTROLPLANE_SECRET_KEY": KeyRing.generate(),
                "CONTROLPLANE_EGRESS_ALLOW_LOOPBACK": "true",
                "CONTROLPLANE_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
                # How long a recovery takes is up to the disk of a loaded machine, and not what is tested.
                "CONTROLPLANE_DATABASE_PATIENCE_SECONDS": "60",
                "CONTROLPLANE_DRAIN_SECONDS": f"{DRAIN_SECONDS:g}",
            }
            | env,
        )
        self.api = httpx.Client(base_url=f"{self.url}/api/v1", timeout=90)

    def ready(self) -> None:
        """Return once work is taken."""
        until(
            f"{self.name} to be ready",
            lambda: self._living() and httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200,
            seconds=START_SECONDS,
        )

    def restart(self) -> float:
        """A new process at the same address; the seconds until it was ready."""
        self.close()
        began = time.monotonic()
        self.start()
        self.ready()
        return time.monotonic() - began

    def submit(self, target: str, /, *, webhook: dict[str, str] | None = None, **input_: Any) -> str:
        """The id of an accepted execution."""
        body = {"input": input_} | ({"webhook": webhook} if webhook else {})
        answer = self.api.post(f"/execute/async/{target}", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["execution_id"])

    def look(self, id_: str, *, wait_seconds: float = 0.0) -> dict[str, Any]:
        """The execution as it is now, or as soon as it has ended."""
        answer = self.api.get(f"/executions/{id_}", params={"wait_seconds": wait_seconds})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def end_of(self, id_: str, *, within: float) -> dict[str, Any]:
        """The execution when it has ended."""

        def look() -> dict[str, Any] | None:
            shown = self.look(id_, wait_seconds=1.0)
            return shown if shown["status"] in ENDED else None

        return until(f"the end of {id_}", look, seconds=within)  # type: ignore[return-value]

    def events_of(self, id_: str) -> list[dict[str, Any]]:
        return list(self.api.get(f"/executions/{id_}/events", params={"limit": 1000}).json()["items"])

    def event_types_of(self, id_: str) -> list[str]:
        return [event["type"] for event in self.events_of(id_) if event["type"] != "execution.progress"]

    def memory_of(self, run_id: str, key: str) -> Any:
        answer = self.api.post("/memory/get", json={"scope": "run", "scope_id": run_id, "key": key})
        return answer.json()["data"] if answer.status_code == 200 else None

    def close(self) -> None:
        super().close()

    def _living(self) -> bool:
        assert self.alive, f"{self.name} has ended:\n{self.log()}"
        return True


class Node(Process):
    """An agent's process. `says`: what is in its log as often as it was started and is connected."""

    def __init__(
        self, name: str, *command: str, folder: Path, env: dict[str, str], python: Path | str, says: str
    ) -> None:
        super().__init__(name, *command, folder=folder, env=env, python=python)
        self._says = says
        self._starts = 0

    def start(self) -> None:
        self._starts += 1
        super().start()

    def ready(self) -> None:
        """Return once it is connected."""

        def connected() -> bool:
            assert self.alive, f"{self.name} has ended:\n{self.log()}"
            return self.log().count(self._says) >= self._starts

        until(f"{self.name} to be connected", connected, seconds=START_SECONDS)

    def stop(self) -> None:
        """SIGSTOP: alive, and silent."""
        self.signal(signal.SIGSTOP)

    def cont(self) -> None:
        self.signal(signal.SIGCONT)


class Stage:
    """Everything that one test started: nothing of it is left behind, and all of it is shown when the test fails."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: list[Process] = []

    def plane(self, dsn: str, **env: str) -> Plane:
        """A server that takes work."""
        plane = Plane(dsn, folder=self.folder, env=env)
        self._processes.append(plane)
        plane.start()
        plane.ready()
        return plane

    def node(
        self,
        plane: Plane,
        script: str,
        *,
        name: str | None = None,
        python: Path | str = sys.executable,
        says: str = " serves ",
        **env: str,
    ) -> Node:
        """A node that runs this script and is connected, as it says in its log."""
        name = name or f"node-{len(self._processes)}"
        (self.folder / f"{name}.py").write_text(script)
        env = {"AGENTFIELD_SERVER": plane.url} | env
        node = Node(name, f"{name}.py", folder=self.folder, env=env, python=python, says=says)
        self._processes.append(node)
        node.start()
        node.ready()
        return node

    def logs(self) -> list[tuple[str, str]]:
        """The last lines of every process."""
        return [(one.name, "\n".join(one.log().splitlines()[-LOG_LINES_SHOWN:])) for one in self._processes]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._processes):
            process.close()
            if isinstance(process, Plane):
                process.api.close()


# What a test's own environment says of servers and models is not meant for these processes.
OURS = ("CONTROLPLANE_", "AGENTFIELD_", "OPENAI_", "DATABASE_URL")
