"""Who plays in a run: how each process is started, and when it does its work."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path

import orjson

from controlplane.security.secrets import KeyRing
from tests.chaos.faults import LEASE_SECONDS
from tests.chaos.stage import Actor, Stage
from tests.e2e.processes import Process, free_port, until

ROOT = Path(__file__).parents[2]
PATH = {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))}
START_SECONDS = 90.0
"""Long, because its database may be down meanwhile, and a chaos run is often one of several things a machine does."""
CONNECT_SECONDS = 0.5
ANSWER_SECONDS = 5.0
CONNECTED = " serves "
"""What a node says when it is connected."""


class Cast:
    """Makes the processes of a stage. Servers share a key ring, as replicas do."""

    def __init__(self, stage: Stage, *, seed: int) -> None:
        self._stage = stage
        self._seed = seed
        self._ring = KeyRing.generate()

    def server(self) -> Actor:
        port = free_port()
        env = {
            "DATABASE_URL": self._stage.ground.dsn,
            "CONTROLPLANE_PORT": str(port),
            "CONTROLPLANE_SECRET_KEY": self._ring,
            "CONTROLPLANE_EGRESS_ALLOW_LOOPBACK": "true",
            "CONTROLPLANE_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
            "CONTROLPLANE_CANCEL_GRACE_SECONDS": "2",
            "CONTROLPLANE_DRAIN_SECONDS": "2",
            "CONTROLPLANE_WEBHOOK_SECONDS": "2",
            "CONTROLPLANE_WEBHOOK_ATTEMPTS_MAX": "50",
            "CONTROLPLANE_LOG_LEVEL": "WARNING",
        }
        process = self._process("server", len(self._stage.servers), "-m", "controlplane", "serve", env=env)
        return self._add(self._stage.servers, process, port, partial(_until, process, partial(_ready, port)))

    def receiver(self) -> Actor:
        port, n = free_port(), len(self._stage.receivers)
        env = {"CHAOS_PORT": str(port), "CHAOS_SEED": str(self._seed + n)}
        process = self._process("receiver", n, "-m", "tests.chaos.receiver", env=env)
        return self._add(self._stage.receivers, process, port, partial(_until, process, partial(_listens, port)))

    def node(self) -> Actor:
        env = {"CONTROLPLANE_SERVER": self._stage.front.url}
        process = self._process("node", len(self._stage.nodes), "-m", "tests.chaos.node", env=env)
        return self._add(self._stage.nodes, process, 0, partial(_until, process, partial(_connected, process)))

    def stale(self) -> Actor:
        process = self._process("stale", len(self._stage.callers), "-m", "tests.chaos.stale", env={})
        return self._add(self._stage.callers, process, 0, lambda _: None)

    def callers(self, *, rate: float) -> Actor:
        hooks = [f"{receiver.url}/hook" for receiver in self._stage.receivers]
        env = {
            "CHAOS_SEED": str(self._seed),
            "CHAOS_RATE": f"{rate:g}",
            "CHAOS_RECEIVERS": orjson.dumps(hooks).decode(),
        }
        process = self._process("callers", len(self._stage.callers), "-m", "tests.chaos.callers", env=env)
        return self._add(self._stage.callers, process, 0, lambda _: None)

    def _process(self, kind: str, n: int, *command: str, env: dict[str, str]) -> Process:
        name, folder = f"{kind}-{n}", self._stage.folder
        ours = {"CHAOS_JOURNAL": str(folder / f"{name}.journal"), "CHAOS_URL": self._stage.front.url}
        all_ = PATH | ours | env | dict(self._stage.ground.env if kind == "server" else {})
        return Process(name, *command, folder=folder, env=all_, python=sys.executable)

    def _add(self, among: list[Actor], process: Process, port: int, ready: Callable[[int], None]) -> Actor:
        actor = Actor(process, port=port, ready=ready)
        among.append(actor)
        return actor


def _until(process: Process, works: Callable[[int], bool], said_bytes: int) -> None:
    def look() -> bool:
        assert process.alive, f"{process.name} has ended by itself:\n{process.log(after_bytes=said_bytes)}"
        return works(said_bytes)

    until(f"{process.name} to do its work", look, seconds=START_SECONDS)


def _ready(port: int, _: int) -> bool:
    """Asked as cheaply as it can be: it is asked often, of a machine that is busy with starting it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("GET", "/readyz")
        return connection.getresponse().status == HTTPStatus.OK
    return False


def _listens(port: int, _: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS):
        return True
    return False


def _connected(process: Process, said_bytes: int) -> bool:
    return CONNECTED in process.log(after_bytes=said_bytes)
