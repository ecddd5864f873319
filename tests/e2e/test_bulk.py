"""A bulk survives the server that works on it: what it has done it does not do again, and the rest it does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.e2e.processes import Plane, until

NUMBER = 2_000


def begin(plane: Plane, action: str, **body: Any) -> str:
    answer = plane.api.post("/bulk", json={"action": action, **body})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["bulk_id"])


def look(plane: Plane, bulk_id: str) -> dict[str, Any]:
    return dict(plane.api.get(f"/bulk/{bulk_id}").json())


def over(plane: Plane, bulk_id: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        found = look(plane, bulk_id)
        return None if found["state"] == "running" else found

    return until("the end of the bulk", ended, seconds=60)  # type: ignore[return-value]


def sources(plane: Plane) -> list[str]:
    """What every execution that waits is a retry of."""
    found, cursor = [], None
    while True:
        query = {"status": "queued", "limit": 200} | ({"cursor": cursor} if cursor else {})
        page = plane.api.get("/executions", params=query).json()
        found += [one["source_execution_id"] for one in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            return found


def test_a_killed_server_retries_nothing_twice(plane: Plane, measured: Callable[[str, float], None]) -> None:
    """Killed in the middle, twice: every source has exactly one retry in the end, and the count is right."""
    plane.api.post("/nodes/register", json={"id": "n", "reasoners": [{"id": "echo"}]})
    for _ in range(NUMBER // 1_000):
        plane.api.post("/execute/batch", json={"items": [{"target": "n.echo"}] * 1_000})
    began = time.monotonic()
    cancelled = over(plane, begin(plane, "cancel", filter={"target": "n.echo"}))
    measured(f"bulk cancel of {NUMBER}", time.monotonic() - began)
    began = time.monotonic()
    bulk_id = begin(plane, "retry", filter={"target": "n.echo", "status": "cancelled"})
    for share in (0.1, 0.4):
        until("a part of it", lambda share=share: look(plane, bulk_id)["done"] >= share * NUMBER, seconds=60)  # type: ignore[misc]
        plane.restart()
    retried = over(plane, bulk_id)
    measured(f"bulk retry of {NUMBER}, the server killed twice", time.monotonic() - began)
    found = sources(plane)

    assert (cancelled["done"], retried["state"], retried["done"]) == (NUMBER, "done", NUMBER)
    assert (len(found), len(set(found))) == (NUMBER, NUMBER)
