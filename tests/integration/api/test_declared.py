"""What a node's code declares: by its own key, for its own reasoners, and nothing of anybody else's."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest

from controlplane_sdk.declared import schedule_name
from controlplane_sdk.triggers import Cron
from tests.integration.api.serving import Api, Json, the_problem

HOUSE = {"api_key": "the-first-key"}
YEARLY = {"cron": "0 0 29 2 *"}
LONG = "n" * 60


@pytest.fixture
async def house(shared: Api) -> Api:
    """By the key that it was started with; with a node `own` and a node `other`."""
    shared.client.headers["X-API-Key"] = "the-first-key"
    for node in ("own", "other", LONG):
        await shared.register(node, "echo")
    return shared


@contextlib.asynccontextmanager
async def node(api: Api, *node_ids: str, scopes: tuple[str, ...] = ("node",)) -> AsyncIterator[Api]:
    """Who comes with a key of a node."""
    wish = {"name": "k", "scopes": list(scopes), "node_ids": list(node_ids)}
    headers = {"X-API-Key": (await api.post("/keys", wish)).json()["key"]}
    async with httpx.AsyncClient(base_url=api.url, headers=headers, timeout=30, trust_env=False) as client:
        yield Api(api.app, api.host, api.port, client)


def hook(name: str, node_id: str | None = "own", target: str = "own.echo") -> Json:
    said = {"name": name, "target": target, "preset": "hmac", "secret": "s"}
    return said if node_id is None else said | {"managed_by": node_id}


async def test_a_node_declares_its_webhooks(house: Api) -> None:
    """Creates, changes, pauses, resumes, reads and lists those that it manages, with the scope node alone."""
    async with node(house, "own") as own:
        made = await own.post("/triggers", hook("mine"))
        changed = await own.client.patch("/api/v1/triggers/mine", json={"tolerance_seconds": 60})
        paused = await own.post("/triggers/mine/pause", {"reason": "removed"})
        resumed = await own.post("/triggers/mine/resume")
        read = await own.get("/triggers/mine")
        listed = await own.get("/triggers", managed_by="own")

    assert [one.status_code for one in (made, changed, paused, resumed)] == [201, 200, 200, 200]
    assert (read["tolerance_seconds"], read["managed_by"], read["paused"]) == (60, "own", False)
    assert [one["name"] for one in listed["items"]] == ["mine"]


@pytest.mark.parametrize("others", [hook("theirs", "other", "other.echo"), hook("hand", None)], ids=["node", "hand"])
async def test_it_touches_no_other_webhook(house: Api, others: Json) -> None:
    """Neither another node's nor one that an operator made, also of its own reasoner: nothing of it changes."""
    assert (await house.post("/triggers", others)).is_success
    path = f"/triggers/{others['name']}"
    before = await house.get(path)
    async with node(house, "own") as own:
        refused = [
            await own.post("/triggers", others),
            await own.client.patch(f"/api/v1{path}", json={"target": "own.echo", "managed_by": "own"}),
            await own.post(f"{path}/pause", {}),
            await own.post(f"{path}/resume"),
            await own.client.get(f"/api/v1{path}"),
        ]
        taken = await own.post("/triggers", hook(others["name"]))

    for one in refused:
        the_problem(one, 403, "node_not_allowed")
    the_problem(taken, 409, "trigger_exists")
    assert await house.get(path) == before


async def test_its_webhooks_start_its_own_reasoners(house: Api) -> None:
    """Not another node's, neither from the beginning nor by a change; and it gives none away."""
    async with node(house, "own") as own:
        the_problem(await own.post("/triggers", hook("a", target="other.echo")), 403, "node_not_allowed")
        the_problem(await own.post("/triggers", hook("a", "other", "other.echo")), 403, "node_not_allowed")
        the_problem(await own.post("/triggers", hook("a", None)), 403, "node_not_allowed")
        assert (await own.post("/triggers", hook("kept"))).status_code == 201
        for change in ({"target": "other.echo"}, {"managed_by": "other"}):
            the_problem(await own.client.patch("/api/v1/triggers/kept", json=change), 403, "node_not_allowed")

    assert (await house.get("/triggers/kept"))["target"] == "own.echo"


async def test_the_rest_is_not_a_nodes(house: Api) -> None:
    """It deletes none, sees no event and lists no others."""
    async with node(house, "own") as own:
        await own.post("/triggers", hook("rest"))
        the_problem(await own.client.delete("/api/v1/triggers/rest"), 403, "scope_missing")
        the_problem(await own.client.get("/api/v1/triggers/rest/events"), 403, "scope_missing")
        the_problem(await own.client.get("/api/v1/triggers"), 403, "node_not_allowed")
        the_problem(await own.client.get("/api/v1/triggers?managed_by=other"), 403, "node_not_allowed")


@pytest.mark.parametrize("node_id", ["own", LONG], ids=["short", "long"])
async def test_a_node_declares_its_crons(house: Api, node_id: str) -> None:
    """Puts, pauses and lists those of its code, by the names that the SDK gives them."""
    name = schedule_name(node_id, "echo", Cron(expression="0 0 29 2 *"))
    rule = YEARLY | {"target": f"{node_id}.echo"}
    assert (await house.post("/schedules", YEARLY | {"name": f"hand-{node_id}", "target": "own.echo"})).is_success
    async with node(house, node_id) as own:
        made = await own.client.put(f"/api/v1/schedules/{name}", json=rule)
        again = await own.client.put(f"/api/v1/schedules/{name}", json=rule | {"overlap": "queue"})
        paused = await own.post(f"/schedules/{name}/pause")
        listed = [one["name"] for one in (await own.get("/schedules"))["items"]]

    assert [one.status_code for one in (made, again, paused)] == [201, 200, 200]
    assert listed == [name]


async def test_it_touches_no_other_cron(house: Api) -> None:
    """None of another node's, none of an operator's, none of its own name that starts somebody else's reasoner."""
    there = {"code:other:echo:x": "other.echo", "by-hand": "own.echo", "code:own:echo:odd": "other.echo"}
    for name, target in there.items():
        assert (await house.post("/schedules", YEARLY | {"name": name, "target": target})).is_success
    async with node(house, "own") as own:
        for name, target in there.items():
            before = await house.get(f"/schedules/{name}")
            for aim in (target, "own.echo"):
                put = await own.client.put(f"/api/v1/schedules/{name}", json={"target": aim, "interval_seconds": 5e6})
                the_problem(put, 403, "node_not_allowed")
            the_problem(await own.post(f"/schedules/{name}/pause"), 403, "node_not_allowed")
            assert await house.get(f"/schedules/{name}") == before


async def test_who_operates_is_not_bound(house: Api) -> None:
    """A key with both scopes, as nodes needed one before, does as before."""
    async with node(house, "own", scopes=("node", "operate", "read")) as own:
        assert (await own.post("/triggers", hook("both", None, "other.echo"))).status_code == 201
        assert (await own.client.get("/api/v1/triggers")).status_code == 200
