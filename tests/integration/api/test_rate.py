"""How many requests one caller may make."""

from __future__ import annotations

import httpx
import pytest
import websockets

from controlplane.domain.key import KeyId, KeyScope
from controlplane.reads import keys
from controlplane.security import keys as security
from controlplane.stages.issue_key import Wish, issue
from controlplane.stages.open_namespace import open_namespace
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


NAMESPACED = SLOW | {"api_key": "k", "rate_burst": 4, "namespace_rate_per_second": 0.01, "namespace_rate_burst": 6}


@pytest.mark.parametrize("settings", [NAMESPACED | {"rate_burst": 20}], ids=["namespaces"])
async def test_the_keys_of_a_namespace_share_its_rate(api: Api) -> None:
    """Two keys of one have together what one has; another namespace has all of its own meanwhile."""
    one, other, else_ = await key_of(api, "busy"), await key_of(api, "busy", make=False), await key_of(api, "quiet")
    busy = [await asked(api, key) for key in [one, other] * 6]
    quiet = [await asked(api, else_) for _ in range(6)]

    assert [one.status_code for one in busy] == [200] * 6 + [429] * 6
    assert [one.status_code for one in quiet] == [200] * 6
    assert busy[0].headers["ratelimit-policy"] == '"default";q=20;w=2000, "namespace";q=6;w=600'
    assert busy[0].headers["ratelimit"].startswith('"default";r=19;t=')
    assert ', "namespace";r=5;t=' in busy[0].headers["ratelimit"]
    assert the_problem(busy[-1], 429, "rate_limited")["fix"]


@pytest.mark.parametrize("settings", [NAMESPACED | {"namespace_rate_burst": 40}], ids=["both"])
async def test_what_one_policy_refuses_uses_nothing_up_of_the_other(api: Api) -> None:
    """A key that hammers past its own rate takes nothing from its namespace."""
    one, other = await key_of(api, "n"), await key_of(api, "n", make=False)
    hammered = [await asked(api, one) for _ in range(30)]

    assert [answer.status_code for answer in hammered] == [200] * 4 + [429] * 26
    assert ', "namespace";r=35;t=' in (await asked(api, other)).headers["ratelimit"]


async def key_of(api: Api, namespace: str, *, make: bool = True) -> str:
    """A key of a namespace, made past the server so that it uses nothing up."""
    doors = api.app.state.doors
    if make:
        await doors.run(open_namespace, namespace)
    place = await doors.run(keys.namespace, namespace)
    id_ = KeyId(doors.ids.new(doors.placement.of_key(place.id, "api_keys")))
    text = security.make(id_)
    wish = Wish(
        id=id_,
        namespace=place.id,
        name=str(id_),
        prefix=security.prefix_of(id_),
        hash=security.digest(text.encode()),
        scopes=[KeyScope.READ],
        node_ids=[],
        created_by=None,
        expires_in_seconds=None,
    )
    await doors.run(issue, wish)
    return text


async def asked(api: Api, key: str) -> httpx.Response:
    return await api.client.get("/api/v1/nodes", headers={"X-API-Key": key})


async def test_nobody_is_limited_unless_it_is_wished(api: Api) -> None:
    """A limit that nobody has set would be an outage that nobody expects."""
    answer = await api.client.get("/api/v1/nodes")

    assert "ratelimit" not in answer.headers
    assert "ratelimit-policy" not in answer.headers
