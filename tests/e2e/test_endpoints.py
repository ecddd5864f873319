"""Whatever dies, an endpoint is told of each event by one delivery."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.e2e.conftest import StartNode
from tests.e2e.processes import Plane, until
from tests.e2e.receiver import Receiver

QUICK = """
from controlplane_sdk import Agent

app = Agent("batch", heartbeat_seconds=0.5)

@app.reasoner
async def quick(n: int) -> int:
    return n

app.run()
"""
EVENTS = ["execution.started", "execution.completed"]


def deliveries(plane: Plane, id_: str) -> list[dict[str, Any]]:
    return list(plane.api.get(f"/executions/{id_}/deliveries").json()["items"])


@pytest.mark.timeout(300)  # what was being sent is sent again when its lease is over
def test_a_server_killed_while_it_announces(plane: Plane, node: StartNode, receiver: Receiver) -> None:
    """Killed again and again in the middle: each event of each execution is one delivery with one id, and arrives."""
    node(QUICK)
    asked = {"name": "all", "url": receiver.webhook["url"], "secret": receiver.webhook["secret"], "events": EVENTS}
    assert plane.api.post("/endpoints", json=asked).status_code == 201
    ids: list[str] = []
    for turn in range(1, 3):
        ids += [plane.submit("batch.quick", n=n) for n in range(15)]
        until("some to arrive", lambda n=turn: len(receiver.heard) >= 12 * n, seconds=30)
        plane.kill()
        plane.restart()
    for id_ in ids:
        plane.end_of(id_, within=60)

    def all_told() -> bool:
        return all(
            Counter(one["event"] for one in found) == Counter(t for t in plane.event_types_of(id_) if t in EVENTS)
            and all(one["state"] == "delivered" for one in found)
            for id_ in ids
            if (found := deliveries(plane, id_)) is not None
        )

    until("everything to be told", all_told, seconds=90)
    planned = {one["webhook_id"] for id_ in ids for one in deliveries(plane, id_)}
    assert {heard.webhook_id for heard in receiver.heard} == planned
    assert {heard.status for heard in receiver.heard} == {200}
