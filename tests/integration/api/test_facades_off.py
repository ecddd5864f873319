"""The façades are off unless a setting names who serves them, and keep to the rules of the house."""

from __future__ import annotations

import asyncpg
import pytest
import websockets
from pydantic import ValidationError

from controlplane.api.facades import jobs
from controlplane.settings import Settings
from tests.integration.api.serving import Api, serving, the_problem

PATHS = ("/jobs", "/jobs/x", "/jobs/x/stream", "/agent/status/x")


async def test_without_their_settings_there_are_no_such_paths(shared: Api) -> None:
    """Neither to call, nor to connect to, nor in the description."""
    answers = [(await shared.client.get(path)).status_code for path in PATHS]
    described = (await shared.client.get("/openapi.json")).json()["paths"]
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(f"ws://{shared.host}:{shared.port}/ws/s", proxy=None)

    assert set(answers) == {404}
    assert refused.value.response.status_code == 403
    assert not [
        path
        for path in described
        if not path.startswith(("/api/", "/approvals/", "/hooks/", "/livez", "/readyz", "/health", "/metrics"))
    ]


@pytest.mark.parametrize("settings", [{"jobs_target": "late.comer", "api_key": "k"}])
async def test_each_is_on_by_itself_and_behind_the_key(api: Api) -> None:
    """`/jobs` without `/agent`; a request or a socket without the key is refused."""
    bare = {"X-API-Key": ""}
    refused = [await api.client.request(one.method, one.path.replace("{", ""), headers=bare) for one in jobs.OPERATIONS]
    with pytest.raises(websockets.InvalidStatus):
        await websockets.connect(f"ws://{api.host}:{api.port}/ws/s", proxy=None)
    async with websockets.connect(f"ws://{api.host}:{api.port}/ws/s?api_key=k", proxy=None) as socket:
        assert (await socket.ping()) is not None

    for answer in refused:
        the_problem(answer, 401, "unauthorized")
    assert (await api.client.get("/agent/status/x")).status_code == 404


async def test_a_job_waits_for_the_first_node_of_its_target(database: str) -> None:
    """Who submits need not wait until somebody serves it; a key in a header decides who may."""
    async with serving(database, jobs_target="late.comer") as api:
        accepted = await api.client.post("/jobs", json={"type": "t"})
        await api.register("late", "comer")
        process = await api.open_session("late")
        lease = await api.take(process)
        await api.finish(process, lease, "done")
        ended = (await api.client.get(f"/jobs/{accepted.json()['job_id']}")).json()

    assert accepted.status_code == 200
    assert ended["status"] == "completed"


@pytest.mark.parametrize("target", ["worker", "a.b.c", "", "a.", "a b.c"])
def test_a_target_that_can_be_none_is_refused_at_the_start(target: str) -> None:
    """And not by every request."""
    with pytest.raises(ValidationError):
        Settings(jobs_target=target)


async def test_the_sessions_mark_is_made_once(database: str) -> None:
    """Two jobs at once, and a third: the socket begins at the first of them."""
    async with serving(database, jobs_target="late.comer") as api:
        for _ in range(3):
            await api.client.post("/jobs", json={"type": "t", "session_id": "s"})
        conn = await asyncpg.connect(database)
        versions = await conn.fetch("select version, length from memory where scope = 'session' and scope_id = 's'")
        await conn.close()

    assert [tuple(row) for row in versions] == [(1, 1)]
