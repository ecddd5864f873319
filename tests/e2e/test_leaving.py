"""A server that is told to leave while many wait for it: gone in time, nobody cut off, nothing lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from tests.e2e.processes import DRAIN_SECONDS, Plane

STREAMS = 200
POLLS = 50
CALLERS = 4
LEAVES_SECONDS = 3.0
THERE_SECONDS = 30.0
WAIT_SECONDS = 30.0
"""How long a poll asks to wait, which is as long as it may: whoever comes back in time was let go."""
NODES = ({"id": "busy", "reasoners": [{"id": "work"}]}, {"id": "idle", "reasoners": [{"id": "rest"}]})


class Crowd:
    """Who waits for a server, and what they were told. A stream or a poll that breaks off is an exception."""

    def __init__(self, plane: Plane, client: httpx.AsyncClient) -> None:
        self._plane = plane
        self._client = client
        self._missing = STREAMS + POLLS + CALLERS
        self._full = asyncio.Event()
        self.answers: list[dict[str, Any]] = []
        self.accepted: list[str] = []

    async def stream(self) -> None:
        """Follow the events of everything to the last byte: one that is cut off has no end."""
        async with self._client.stream("GET", "/api/ui/v1/executions/events") as answer:
            assert answer.status_code == 200
            lines = answer.aiter_lines()
            await anext(lines)
            self._came()
            async for _ in lines:
                pass

    async def poll(self, method: str, path: str, **body: Any) -> None:
        """Ask for what does not come. It is there once it has said what it wants."""
        answer = await self._client.request(method, f"/api/v1{path}", extensions={"trace": self._said}, **body)
        assert answer.status_code == 200, answer.text
        self.answers.append(answer.json())

    async def call(self) -> None:
        """Submit until nobody listens, and remember what was accepted. Who gets no answer was promised nothing."""
        accepted = 0
        while True:
            try:
                answer = await self._client.post("/api/v1/execute/async/busy.work", json={"input": {}})
            except httpx.TransportError:
                return
            assert answer.status_code in {202, 503}, answer.text
            if answer.status_code == 503:
                return
            self.accepted.append(answer.json()["execution_id"])
            if not accepted:
                self._came()
            accepted += 1

    async def all_there(self) -> None:
        """Return once every stream flows, every poll waits, and of each caller something was accepted."""
        async with asyncio.timeout(THERE_SECONDS):
            await self._full.wait()

    async def _said(self, event: str, _: object) -> None:
        if event == "http11.send_request_body.complete":
            self._came()

    def _came(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._full.set()


@pytest.fixture
async def crowd(plane: Plane) -> AsyncIterator[Crowd]:
    """On as many connections as there are people in it."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=plane.url, timeout=2 * WAIT_SECONDS, limits=limits) as client:
        yield Crowd(plane, client)


def polls(plane: Plane, execution_id: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Of nodes that look for work, of nodes that send heartbeats, and of callers: in turn."""
    body = {"instance_id": "i", "slots": 1, "heartbeat_seconds": WAIT_SECONDS}
    session = f"/sessions/{plane.api.post('/nodes/idle/sessions', json=body).json()['session_id']}"
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", f"{session}/lease", {"json": {"max": 1, "wait_seconds": WAIT_SECONDS}}),
        ("POST", f"{session}/heartbeat", {"json": {"wait_seconds": WAIT_SECONDS}}),
        ("GET", f"/executions/{execution_id}", {"params": {"wait_seconds": WAIT_SECONDS}}),
    ]
    return [kinds[n % len(kinds)] for n in range(POLLS)]


async def test_two_hundred_streams_and_fifty_polls_are_let_go(
    plane: Plane, crowd: Crowd, measured: Callable[[str, float], None]
) -> None:
    """SIGTERM: gone within 3 s and the drain; streams end whole, polls are answered, what was accepted is there."""
    for node in NODES:
        assert plane.api.post("/nodes/register", json=node).status_code == 201
    waits_for = plane.submit("busy.work")
    async with asyncio.TaskGroup() as people:
        for _ in range(STREAMS):
            people.create_task(crowd.stream())
        for method, path, body in polls(plane, waits_for):
            people.create_task(crowd.poll(method, path, **body))
        for _ in range(CALLERS):
            people.create_task(crowd.call())
        await crowd.all_there()
        plane.terminate()
        told_at = time.monotonic()
        code = await asyncio.to_thread(plane.ended, within=LEAVES_SECONDS + DRAIN_SECONDS)
        measured(f"server with {STREAMS} streams and {POLLS} polls told until gone", time.monotonic() - told_at)
    await asyncio.to_thread(plane.restart)

    assert code == 0
    assert len(crowd.answers) == POLLS
    assert {answer["status"] for answer in crowd.answers if "status" in answer} == {"queued"}
    assert {plane.look(id_)["status"] for id_ in crowd.accepted} == {"queued"}
