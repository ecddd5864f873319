"""Health: alive, ready, and how it says that it is not."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import asyncpg
import pytest

from controlplane.app import release_waiters
from tests.integration.api.serving import Api, until

ALLOW = "alter database {} with allow_connections {}"


@pytest.mark.parametrize("path", ["/health", "/api/v1/health"])
async def test_health_is_what_agentfield_shows(api: Api, path: str) -> None:
    """Status, time, version and checks."""
    answer = await api.client.get(path)

    assert answer.status_code == 200
    assert answer.json().keys() == {"status", "timestamp", "version", "checks", "secrets"}
    assert answer.json()["status"] == "healthy"


async def test_alive_and_ready(api: Api) -> None:
    """Two questions of an orchestrator."""
    alive, ready = await api.client.get("/livez"), await api.client.get("/readyz")

    assert (alive.status_code, alive.json()) == (200, {"status": "ok"})
    assert (ready.status_code, ready.json()) == (
        200,
        {"status": "ready", "checks": {"database": True, "serving": True}},
    )


async def test_metrics_are_prometheus_text(api: Api) -> None:
    """For a scraper."""
    answer = await api.client.get("/metrics")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")


async def test_without_a_database(api: Api, server: str, database: str) -> None:
    """Alive, not ready, and every call says 503 with when to come again; afterwards all is as before."""
    await api.register("n")
    name = urlsplit(database).path.removeprefix("/")
    admin = await asyncpg.connect(server)
    try:
        await admin.execute(ALLOW.format(name, "false"))
        await admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name)
        ready, alive = await api.client.get("/readyz"), await api.client.get("/livez")
        submitting = asyncio.create_task(api.post("/execute/async/n.echo", {}))
        refused = await api.client.get("/api/v1/executions/exec_00000000000000000000000000")
        await admin.execute(ALLOW.format(name, "true"))
        submitted = await submitting
    finally:
        await admin.close()

    assert alive.status_code == 200
    assert (ready.status_code, ready.json()["checks"]["database"]) == (503, False)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["code"] == "database_unavailable"
    assert submitted.status_code == 202  # it waited: the outage was short
    assert (await until(lambda: _ready(api))) is True


async def _ready(api: Api) -> bool:
    return (await api.client.get("/readyz")).status_code == 200


async def test_a_server_that_is_about_to_stop(api: Api) -> None:
    """Is not ready, lets its long polls go with what is true, and still answers."""
    session = await api.node()
    id_ = (await api.submit("n.echo"))["execution_id"]
    await api.take(session)

    waiting = [
        asyncio.create_task(api.lease(session)),
        asyncio.create_task(api.heartbeat(session, wait_seconds=20)),
        asyncio.create_task(api.read(id_, wait_seconds=20)),
    ]
    await until(lambda: _all_wait(api))
    release_waiters(api.app)
    leases, beat, read = await asyncio.gather(*waiting)

    assert (leases, beat.json()["cancel"], read["status"]) == ([], [], "running")
    assert (await api.client.get("/readyz")).json()["checks"]["serving"] is False


async def _all_wait(api: Api) -> bool:
    doors = api.app.state.doors
    return any(topic.startswith("queue:") for topic in doors.hints.waiters) and bool(
        any(topic.startswith("session:") for topic in doors.hints.waiters) and doors.waiting._waiters
    )
