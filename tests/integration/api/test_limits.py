"""Limits over HTTP: set, seen, kept to by a server that is left alone, and gone again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.integration.api.serving import Api, Json, serving, the_problem, until


@pytest.fixture
async def other(database: str) -> AsyncIterator[Api]:
    """A second server on this test's database."""
    async with serving(database) as running:
        yield running


async def put(api: Api, key: str, **body: Json) -> httpx.Response:
    return await api.client.put(f"/api/v1/limits/{key}", json=body)


async def counts(api: Api, key: str) -> tuple[int, int]:
    one = await api.get(f"/limits/{key}")
    return one["held"], one["blocked"]


async def stands(api: Api, key: str, held: int, blocked: int) -> None:
    """Returns once the limit holds and blocks so many."""

    async def so() -> bool:
        return await counts(api, key) == (held, blocked)

    await until(so)


async def test_set_read_listed_and_deleted(api: Api) -> None:
    """A limit says what was asked, what it holds and how many wait; keys may hold slashes."""
    made = await put(api, "key:openai/gpt", concurrency_max=3, rate_max=10, rate_seconds=60)
    changed = await put(api, "key:openai/gpt", concurrency_max=2)
    listed = await api.get("/limits")
    gone = await api.client.delete("/api/v1/limits/key:openai/gpt")
    again = await api.client.delete("/api/v1/limits/key:openai/gpt")

    assert (made.status_code, changed.status_code, gone.status_code) == (201, 200, 200)
    assert made.json().items() >= {"concurrency_max": 3, "rate_max": 10, "rate_seconds": 60.0, "held": 0}.items()
    assert [(one["key"], one["concurrency_max"]) for one in listed["items"]] == [("key:openai/gpt", 2)]
    assert the_problem(again, 404, "limit_not_found")


@pytest.mark.parametrize(
    ("key", "body", "where"),
    [
        ("echo", {"concurrency_max": 1}, "path/key"),
        ("reasoner:n", {"concurrency_max": 1}, "path/key"),
        ("node:n.echo", {"concurrency_max": 1}, "path/key"),
        ("key:" + "k" * 201, {"concurrency_max": 1}, "path/key"),
        ("key:k", {}, "body"),
        ("key:k", {"concurrency_max": -1}, "body.concurrency_max"),
        ("key:k", {"rate_max": 1}, "body.rate_seconds"),
        ("key:k", {"rate_max": 1, "rate_seconds": 0}, "body.rate_seconds"),
    ],
)
async def test_what_cannot_be_a_limit_changes_nothing(api: Api, key: str, body: Json, where: str) -> None:
    """It is refused with the place that is wrong."""
    refused = await put(api, key, **body)

    assert the_problem(refused, 422, "invalid")["where"] == where
    assert (await api.get("/limits"))["items"] == []


async def test_a_key_is_kept_to(api: Api) -> None:
    """Two of a key run; the third is let in by the end of one of them, at once."""
    await put(api, "key:k", concurrency_max=2)
    session = await api.node()
    accepted = [await api.submit(concurrency_key="k") for _ in range(3)]
    await stands(api, "key:k", 2, 1)
    [first, _] = await api.lease(session, limit=10) + await api.lease(session, limit=10, wait_seconds=0.3)

    await api.finish(session, first)
    [third] = await api.lease(session)

    assert {one["blocked_by"] for one in accepted} == {"key:k"}
    assert third["execution_id"] in {one["execution_id"] for one in accepted}
    assert await counts(api, "key:k") == (2, 0)


async def test_a_submit_may_bring_its_limit(api: Api) -> None:
    """The last word counts."""
    await api.node()
    for most in (5, 1):
        await api.submit(concurrency={"key": "k", "max": most})

    await stands(api, "key:k", 1, 1)
    assert (await api.get("/limits/key:k"))["concurrency_max"] == 1


async def test_a_node_says_how_many_of_a_reasoner_may_run(api: Api) -> None:
    """Its word is a limit; a person's overrules it until it is deleted, and a node that says nothing takes it back."""
    await api.register(concurrency=1, concurrency_key="fixed")
    declared = await api.get("/limits/reasoner:n.echo")
    await put(api, "reasoner:n.echo", concurrency_max=4)
    overruled = await api.get("/limits/reasoner:n.echo")
    kept = await api.client.delete("/api/v1/limits/reasoner:n.echo")
    accepted = await api.submit()
    await api.register()

    assert (declared["concurrency_max"], overruled["concurrency_max"], kept.json()["deleted"]) == (1, 4, False)
    assert accepted["blocked_by"] == "reasoner:n.echo"
    assert (await api.read(accepted["execution_id"]))["concurrency_key"] == "fixed"
    assert (await api.get("/limits"))["items"] == []


async def test_a_limit_of_a_node_counts_all_its_reasoners(api: Api) -> None:
    """Also what it had accepted before."""
    await api.register("n", "a", "b")
    await api.submit("n.a")
    await put(api, "node:n", concurrency_max=1)
    await api.submit("n.b")

    await stands(api, "node:n", 1, 1)


async def test_a_higher_limit_lets_more_in_and_a_deleted_one_all(api: Api) -> None:
    """At once, without an end that would make room."""
    await put(api, "key:k", concurrency_max=0)
    session = await api.node()
    for _ in range(3):
        await api.submit(concurrency_key="k")
    await stands(api, "key:k", 0, 3)

    await put(api, "key:k", concurrency_max=1)
    await stands(api, "key:k", 1, 2)
    await api.client.delete("/api/v1/limits/key:k")

    taken = [await api.take(session) for _ in range(3)]
    assert len({one["execution_id"] for one in taken}) == 3


async def test_two_servers_keep_to_one_limit(api: Api, other: Api) -> None:
    """What one lets go the other lets in."""
    await put(api, "reasoner:n.echo", concurrency_max=1)
    session = await api.node()
    await asyncio.gather(*(where.submit() for where in (api, other) * 5))
    most = 0
    for _ in range(10):
        lease = await api.take(session)
        most = max(most, (await counts(other, "reasoner:n.echo"))[0])
        await other.finish(session, lease)

    assert most == 1


async def test_children_take_turns_with_a_single_submit(api: Api) -> None:
    """While a run has 200 children waiting, a single submit of the same reasoner is among the next few."""
    session = await api.node("echo", "parent")
    await api.submit("n.parent")
    parent = await api.take(session)
    headers = {"X-Parent-Execution-ID": f"{parent['execution_id']}~{parent['attempt']}"}
    items = [{"target": "n.echo"} for _ in range(200)]
    await api.post("/execute/batch", {"items": items}, headers=headers)
    single = (await api.submit())["execution_id"]
    passed = 0
    while (lease := await api.take(session))["execution_id"] != single:
        passed += 1
        await api.finish(session, lease)

    assert passed <= 64
