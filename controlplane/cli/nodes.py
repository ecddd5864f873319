"""`controlplane nodes`: who is there to work, and who shall take no more of it."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

import msgspec

from controlplane.cli import output
from controlplane.cli.client import PREFIX, Client
from controlplane.cli.failure import ExitCode, Failure


class Node(msgspec.Struct):
    id: str
    lifecycle_status: str
    sessions: int
    slots: int
    running: int
    version: str | None = None
    last_heartbeat: str | None = None
    paused: bool = False
    draining: int = 0

    @property
    def status(self) -> str:
        """What matters most of it."""
        if self.paused:
            return "paused"
        if not self.draining:
            return self.lifecycle_status
        return "draining" if self.draining >= self.sessions else f"{self.draining} draining"


class Nodes(msgspec.Struct):
    nodes: list[Node]


class Drained(msgspec.Struct):
    draining: int
    draining_running: int


def before(given: Iterable[str]) -> None:
    """Options in front of a command would be lost, and another server be asked than was meant."""
    if any(given):
        raise Failure("Options stand behind the command: controlplane nodes drain NODE …", code=ExitCode.USAGE)


def listing(client: Client, *, show_all: bool, as_json: bool) -> None:
    """Print the nodes that are connected; with `show_all` every one that ever was."""
    body = client.get(f"{PREFIX}/nodes", {"show_all": "true" if show_all else None})
    if as_json:
        output.data(body)
        return
    found = msgspec.json.decode(body, type=Nodes).nodes
    if not found:
        output.say("No nodes." if show_all else "No node is connected. --all shows those that were.")
        return
    output.table(
        ("NODE", "STATUS", "PROCESSES", "RUNNING", "SLOTS", "VERSION", "LAST HEARTBEAT"),
        (
            (
                one.id,
                one.status,
                one.sessions,
                one.running,
                one.slots,
                one.version,
                output.moment(one.last_heartbeat),
            )
            for one in found
        ),
    )


def drain(client: Client, node_id: str, verb: str, *, reason: str | None, as_json: bool) -> None:
    """Drain or undrain the processes of a node, and print how many drain and what they still run."""
    said = {} if reason is None else {"reason": reason}
    body = client.post(f"{PREFIX}/nodes/{quote(node_id, safe='')}/{verb}", msgspec.json.encode(said), about=node_id)
    if as_json:
        output.data(body)
        return
    now = msgspec.json.decode(body, type=Drained)
    processes = "1 process drains" if now.draining == 1 else f"{now.draining} processes drain"
    output.data(f"{node_id}: {processes}, {now.draining_running} running")
    if verb == "drain" and now.draining and not now.draining_running:
        output.say("Nothing runs in what drains: it can be stopped.")


def forget(client: Client, node_id: str, *, as_json: bool) -> None:
    """Let a node that is gone for good not be known any more."""
    body = client.delete(f"{PREFIX}/nodes/{quote(node_id, safe='')}", about=node_id)
    output.data(body if as_json else f"{node_id} forgotten")
