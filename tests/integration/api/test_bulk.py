"""Bulk over HTTP: counted, begun, looked at, stopped, and done by servers that are left alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.integration.api.serving import Answer, Api, Json, Receiver, serving, the_problem, until

UNKNOWN = "bulk_00000000000000000000000000"


@pytest.fixture
async def other(database: str) -> AsyncIterator[Api]:
    """A second server on this test's database."""
    async with serving(database) as running:
        yield running


async def ask(api: Api, action: str = "cancel", *, headers: dict[str, str] | None = None, **body: Json) -> Json:
    answer = await api.post("/bulk", {"action": action, **body}, headers=headers)
    assert answer.status_code == (200 if body.get("dry_run") else 202), answer.text
    return answer.json()


async def over(api: Api, bulk: Json) -> Json:
    """The bulk, when it is over."""

    async def look() -> Json:
        found = await api.get(f"/bulk/{bulk['bulk_id']}")
        return None if found["state"] == "running" else found

    return await until(look)


async def fill(api: Api, number: int, target: str = "n.echo") -> list[str]:
    """So many executions that wait."""
    answer = await api.post("/execute/batch", {"items": [{"target": target}] * number})
    assert answer.status_code == 200, answer.text
    return [one["execution_id"] for one in answer.json()["items"]]


async def test_a_dry_run_counts_and_the_bulk_does_so_many(api: Api) -> None:
    """And nothing was done by counting."""
    await api.node("echo", "other")
    ids = await fill(api, 120)
    await fill(api, 3, "n.other")
    asked = {"filter": {"status": "queued", "target": "n.echo"}}

    dry = await ask(api, dry_run=True, **asked)
    queued = await api.get("/executions", status="queued", limit=200)
    done = await over(api, await ask(api, reason="too many", **asked))

    assert (dry["matched"], dry["exact"], len(dry["sample"])) == (120, True, 10)
    assert set(dry["sample"]) <= set(ids)
    assert len(queued["items"]) == 123
    assert (done["state"], done["matched"], done["done"], done["skipped"], done["failed"]) == ("done", 120, 120, 0, 0)
    assert (done["filter"], done["reason"]) == ({"target": "n.echo", "status": ["queued"]}, "too many")
    assert len((await api.get("/executions", status="cancelled", limit=200))["items"]) == 120


async def test_two_replicas_retry_each_once(api: Api, other: Api) -> None:
    """Begun at one and done by both: as many new executions as had failed."""
    session = await api.node()
    ids = await fill(api, 60)
    for lease in await api.lease(session, limit=60):
        await api.finish(session, lease, status="failed", error="boom", error_class="Boom", retryable=False)

    begun = await ask(other, "retry", filter={"error_class": "Boom"}, reuse="none")
    done = await over(api, begun)
    again = await api.lease(session, limit=100)
    sources = [(await api.read(one["execution_id"]))["source_execution_id"] for one in again]

    assert (done["matched"], done["done"], done["reuse"]) == (60, 60, "none")
    assert sorted(sources) == sorted(ids)


async def test_a_retry_passes_the_limits_of_today(api: Api) -> None:
    """What failed when there was no limit is asked again under it: one at a time."""
    session = await api.node()
    await fill(api, 3)
    for lease in await api.lease(session, limit=3):
        await api.finish(session, lease, status="failed", error="boom", retryable=False)
    await api.client.put("/api/v1/limits/reasoner:n.echo", json={"concurrency_max": 1})

    done = await over(api, await ask(api, "retry", filter={"status": "failed"}))
    [one] = await api.lease(session, limit=3)
    blocked = (await api.get("/executions", status="queued"))["items"]

    assert (done["done"], len(blocked)) == (3, 2)
    assert await api.lease(session, limit=3, wait_seconds=0) == []
    await api.finish(session, one)
    assert len(await api.lease(session, limit=3)) == 1


async def test_dead_deliveries_are_sent_again(api: Api, receiver: Receiver) -> None:
    """The receiver is back and gets what it has missed."""
    session = await api.node()
    receiver.answer = Answer(status=410)  # gone: no second try
    id_ = await api.run(session, webhook={"url": receiver.url})

    async def dead() -> bool:
        return [one["state"] for one in await api.deliveries(id_)] == ["dead"]

    await until(dead)
    receiver.answer = Answer()
    dry = await ask(api, "redrive_deliveries", all=True, dry_run=True)
    done = await over(api, await ask(api, "redrive_deliveries", filter={"ids": dry["sample"]}))
    told = await receiver.wait_for(2)

    assert (dry["matched"], dry["sample"][0][:4], done["done"]) == (1, "dlv_", 1)
    assert told[0].body == told[1].body


async def test_with_a_key_it_is_begun_once(api: Api) -> None:
    """The same key and body again answer with the same bulk; another body is refused."""
    await api.node()
    key, body = {"Idempotency-Key": "k"}, {"action": "cancel", "filter": {"target": "n.echo"}}
    answers = [await api.post("/bulk", body, headers=key) for _ in range(2)]
    other = await api.post("/bulk", body | {"reason": "x"}, headers=key)

    assert [one.status_code for one in answers] == [202, 202]
    assert answers[0].json()["bulk_id"] == answers[1].json()["bulk_id"]
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    assert answers[0].headers["Location"] == f"/api/v1/bulk/{answers[0].json()['bulk_id']}"
    the_problem(other, 422, "idempotency_conflict")
    assert len((await api.get("/bulk"))["items"]) == 1


async def test_listed_newest_first(api: Api) -> None:
    """By state, page by page."""
    begun = [await over(api, await ask(api, all=True)) for _ in range(3)]
    first = await api.get("/bulk", limit=2)
    rest = await api.get("/bulk", limit=2, cursor=first["next_cursor"])

    assert [*first["items"], *rest["items"]] == begun[::-1]
    assert rest["next_cursor"] is None
    assert (await api.get("/bulk", state="running"))["items"] == []
    assert len((await api.get("/bulk", state="done"))["items"]) == 3


async def test_stopped(api: Api) -> None:
    """A bulk that is over cannot be; one that does not run any more says so."""
    done = await over(api, await ask(api, all=True))

    the_problem(await api.post(f"/bulk/{done['bulk_id']}/stop"), 409, "invalid_state")
    the_problem(await api.post(f"/bulk/{UNKNOWN}/stop"), 404, "bulk_not_found")
    the_problem(await api.client.get(f"/api/v1/bulk/{UNKNOWN}"), 404, "bulk_not_found")


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"action": "cancel"}, "body.filter"),
        ({"action": "cancel", "filter": {}}, "body.filter"),
        ({"action": "cancel", "filter": {"target": "n.echo"}, "all": True}, "body.all"),
        ({"action": "explode", "all": True}, "body.action"),
        ({"action": "cancel", "filter": {"status": "failed"}}, "body.filter.status"),
        ({"action": "retry", "filter": {"status": ["succeeded"]}}, "body.filter.status"),
        ({"action": "redrive_deliveries", "filter": {"status": "failed"}}, "body.filter.status"),
        ({"action": "cancel", "filter": {"status": "odd"}}, "body.filter.status"),
        ({"action": "cancel", "filter": {"error_class": "Boom"}}, "body.filter.error_class"),
        ({"action": "retry", "filter": {"host": "h"}}, "body.filter.host"),
        ({"action": "pause", "filter": {"ended_after": "2030-01-31T09:00:00Z"}}, "body.filter.ended_after"),
        ({"action": "retry", "filter": {"ended_after": "yesterday"}}, "body.filter.ended_after"),
        ({"action": "cancel", "filter": {"created_after": "2030-01-31T09:00:00"}}, "body.filter.created_after"),
        ({"action": "cancel", "filter": {"ids": []}}, "body.filter.ids"),
        ({"action": "cancel", "filter": {"ids": ["dlv_00000000000000000000000000"]}}, "body.filter.ids"),
        ({"action": "cancel", "filter": {"ids": ["exec_0000000000000000000000000z"]}}, "body.filter.ids"),
        ({"action": "cancel", "filter": {"target": "n.echo", "ids": ["exec_" + "0" * 26]}}, "body.filter.ids"),
        ({"action": "cancel", "filter": {"node_id": "a b"}}, "body.filter.node_id"),
        ({"action": "cancel", "filter": {"moon": 1}}, "body.filter"),
        ({"action": "cancel", "all": True, "reuse": "none"}, "body.reuse"),
        ({"action": "cancel", "all": True, "reason": "a\u0000"}, "body.reason"),
    ],
)
async def test_what_cannot_be_is_refused(shared: Api, body: dict[str, Any], where: str) -> None:
    """Nothing is begun then, and the answer says what is wrong where."""
    answer: httpx.Response = await shared.post("/bulk", body)

    assert the_problem(answer, 422, "invalid")["where"] == where
    assert (await shared.get("/bulk"))["items"] == []


async def test_a_target_that_is_none_says_where_it_stands(shared: Api) -> None:
    """It is a part of the filter, not of the path."""
    answer = await shared.post("/bulk", {"action": "cancel", "filter": {"target": "n"}})

    assert the_problem(answer, 400, "target_malformed")["where"] == "body.filter.target"
