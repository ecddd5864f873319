"""`controlplane nodes`: who is there to work."""

from __future__ import annotations

import msgspec

from controlplane.cli import output
from controlplane.cli.client import PREFIX, Client


class Node(msgspec.Struct):
    id: str
    lifecycle_status: str
    sessions: int
    slots: int
    running: int
    version: str | None = None
    last_heartbeat: str | None = None


class Nodes(msgspec.Struct):
    nodes: list[Node]


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
                one.lifecycle_status,
                one.sessions,
                one.running,
                one.slots,
                one.version,
                output.moment(one.last_heartbeat),
            )
            for one in found
        ),
    )
