"""The gate: a key where there is one, and otherwise only this machine, by its own name."""

from __future__ import annotations

import pytest

from controlplane.app import OPERATIONS
from tests.integration.api.serving import Api, the_problem

OPEN = {"/livez", "/readyz", "/health", "/api/v1/health"}
KEYED = pytest.mark.parametrize("settings", [{"api_key": "k-1"}], ids=["with a key"])


@KEYED
@pytest.mark.parametrize(
    "wrong", [{}, {"X-API-Key": "k-2"}, {"Authorization": "Bearer k-2"}], ids=["none", "key", "bearer"]
)
async def test_every_route_wants_the_key(api: Api, wrong: dict[str, str]) -> None:
    """Without the right key every route but health answers 401."""
    del api.client.headers["X-API-Key"]
    for one in OPERATIONS:
        if one.path not in OPEN:
            answer = await api.client.request(one.method, one.path.replace("{", "").replace("}", ""), headers=wrong)
            the_problem(answer, 401, "unauthorized")


@KEYED
@pytest.mark.parametrize("headers", [{"X-API-Key": "k-1"}, {"Authorization": "Bearer k-1"}], ids=["key", "bearer"])
async def test_the_key_opens(api: Api, headers: dict[str, str]) -> None:
    """Either header will do, and for browsers' streams the query."""
    del api.client.headers["X-API-Key"]

    assert (await api.client.get("/api/v1/nodes", headers=headers)).status_code == 200
    assert (await api.client.get("/api/v1/nodes", params={"api_key": "k-1"})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.test"}, {"Origin": "http://evil.test"}, {"Origin": "null"}],
    ids=["host", "origin", "null"],
)
async def test_without_a_key_only_this_machine(api: Api, headers: dict[str, str]) -> None:
    """A foreign page cannot reach a developer's server through the developer's browser."""
    the_problem(await api.client.get("/api/v1/nodes", headers=headers), 401, "unauthorized")
    assert (await api.client.get("/livez", headers=headers)).status_code == 200
