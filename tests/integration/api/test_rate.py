"""How many requests one caller may make."""

from __future__ import annotations

import pytest
import websockets

from tests.integration.api.serving import Api, the_problem

BURST = 5
SLOW = {"rate_per_second": 0.01, "rate_burst": BURST}
LIMITED = pytest.mark.parametrize("settings", [SLOW], ids=["limited"])


@LIMITED
async def test_who_asks_too_often_is_told_when_to_come_again(api: Api) -> None:
    """429 with the standard headers behind the burst; what is left is said on every answer before it."""
    answers = [await api.client.get("/api/v1/nodes") for _ in range(BURST + 1)]
    left = [one.headers["ratelimit"].split(";")[1] for one in answers]
    refused = answers[-1]

    assert [one.status_code for one in answers] == [200] * BURST + [429]
    assert left == ["r=4", "r=3", "r=2", "r=1", "r=0", "r=0"]
    assert {one.headers["ratelimit-policy"] for one in answers} == {'"default";q=5;w=500'}
    assert the_problem(refused, 429, "rate_limited")["fix"]
    assert 0 < int(refused.headers["retry-after"]) <= 100


@LIMITED
async def test_health_is_never_limited(api: Api) -> None:
    """Nor does asking for it use anything up."""
    for path in ("/livez", "/readyz", "/health", "/api/v1/health") * BURST:
        answer = await api.client.get(path)
        assert answer.status_code == 200
        assert "ratelimit" not in answer.headers
    assert (await api.client.get("/api/v1/nodes")).headers["ratelimit"].startswith('"default";r=4;')


@LIMITED
async def test_sockets_count_too(api: Api) -> None:
    """A handshake is a request."""
    for _ in range(BURST):
        await api.client.get("/api/v1/nodes")

    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(f"ws://{api.host}:{api.port}/api/ui/v1/executions/ws", proxy=None):
            pass
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("settings", [SLOW | {"api_key": "k"}], ids=["limited"])
async def test_who_has_no_key_uses_nothing_up(api: Api) -> None:
    """The gate comes first."""
    for _ in range(BURST * 2):
        the_problem(await api.client.get("/api/v1/nodes", headers={"X-API-Key": "wrong"}), 401, "unauthorized")

    assert (await api.client.get("/api/v1/nodes")).status_code == 200


async def test_nobody_is_limited_unless_it_is_wished(api: Api) -> None:
    """A limit that nobody has set would be an outage that nobody expects."""
    answer = await api.client.get("/api/v1/nodes")

    assert "ratelimit" not in answer.headers
    assert "ratelimit-policy" not in answer.headers
