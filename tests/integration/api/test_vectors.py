"""Vector memory over HTTP, as AgentField's clients ask for it."""

from __future__ import annotations

import asyncio
from datetime import datetime

import httpx
import pytest

from tests.integration.api.serving import Api, Json, fenced, pieces, the_problem

RUN = {"X-Workflow-ID": "w", "X-Run-ID": "w"}
AROUND = RUN | {"X-Session-ID": "s", "X-Actor-ID": "a"}


async def keep(api: Api, key: str, *embedding: float, headers: Json = RUN, **more: Json) -> None:
    body = {"key": key, "embedding": embedding} | more
    answer = await api.post("/memory/vector/set", body, headers=headers)
    assert answer.status_code == 200, answer.text


async def search(api: Api, *query: float, headers: Json = RUN, **more: Json) -> list[Json]:
    answer = await api.post("/memory/vector/search", {"query_embedding": query} | more, headers=headers)
    assert answer.status_code == 200, answer.text
    assert "x-search-incomplete" not in answer.headers
    found: list[Json] = answer.json()
    return found


async def keys(api: Api, *query: float, headers: Json = RUN, **more: Json) -> list[str]:
    return [one["key"] for one in await search(api, *query, headers=headers, **more)]


async def named(api: Api, method: str, key: str, *, headers: Json = RUN, **query: str) -> httpx.Response:
    return await api.client.request(method, f"/api/v1/memory/vector/{key}", params=query, headers=headers)


async def test_a_vector_is_stored_and_found(api: Api) -> None:
    """The shapes that AgentField's clients read."""
    body = {"key": "k", "embedding": [3, 4], "metadata": {"lang": "en"}}

    stored = await api.post("/memory/vector/set", body, headers=RUN)
    [found] = await search(api, 4, 3)

    assert stored.json() == {"key": "k", "scope": "workflow", "scope_id": "w", "metadata": {"lang": "en"}}
    assert datetime.fromisoformat(found.pop("created_at")) == datetime.fromisoformat(found.pop("updated_at"))
    assert (found.pop("score"), found.pop("distance")) == (pytest.approx(0.96), pytest.approx(0.04))
    assert found == stored.json()


async def test_metadata_comes_back_byte_for_byte(api: Api) -> None:
    """From every route that shows it."""
    raw = b'{ "b": 1.0,  "a": "\\u0000\\ud83d\\ude00", "a": 1E2 }'

    stored = await api.client.post(
        "/api/v1/memory/vector/set", content=b'{"key":"k","embedding":[1],"metadata":%b}' % raw
    )
    read = await named(api, "GET", "k", headers={})
    found = await api.post("/memory/vector/search", {"query_embedding": [1], "filters": {"a": 100}})

    assert pieces(stored.content)["metadata"] == raw
    assert pieces(read.content)["metadata"] == raw
    assert pieces(found.content[1:-1])["metadata"] == raw


@pytest.mark.parametrize("metadata", [{}, {"metadata": None}, {"metadata": {}}], ids=str)
async def test_a_vector_without_metadata(shared: Api, metadata: Json) -> None:
    """An empty object is shown, which no client trips over."""
    stored = await shared.post("/memory/vector/set", {"key": "bare", "embedding": [1, 2, 3]} | metadata)

    assert stored.json()["metadata"] == {}
    assert (await search(shared, 1, 2, 3, headers={}))[0]["metadata"] == {}


async def test_one_vector_is_read(api: Api) -> None:
    """As the Go client does it, which stores at another path, too."""
    body = {"key": "a:b c", "embedding": [0.1, 2, -3e-5], "metadata": None, "scope": "workflow"}
    stored = await api.post("/memory/vector", body, headers=RUN)
    read = await named(api, "GET", "a:b%20c", scope="workflow")
    row = read.json()

    assert (stored.status_code, read.status_code) == (200, 200)
    assert row.pop("created_at") == row.pop("updated_at")
    assert row.pop("embedding") == [0.1, 2.0, -3e-5]
    assert row == stored.json()
    assert the_problem(await named(api, "GET", "nobody"), 404, "memory_not_found")["error"] == "not_found"


async def test_a_vector_is_forgotten(api: Api) -> None:
    """By either route; it need not be there."""
    await keep(api, "a", 1)
    await keep(api, "b", 1)

    for _ in range(2):
        by_body = await api.post("/memory/vector/delete", {"key": "a", "scope": "workflow"}, headers=RUN)
        by_path = await named(api, "DELETE", "b", scope="workflow")
        assert (by_body.status_code, by_body.content) == (204, b"")
        assert (by_path.status_code, by_path.content) == (204, b"")

    assert await keys(api, 1) == []


async def test_a_namespace_is_forgotten(api: Api) -> None:
    """Whatever begins so in this scope, and how many they were."""
    for key in ("doc:1", "doc:2", "docs", "other"):
        await keep(api, key, 1)
    await keep(api, "doc:1", 1, headers={})

    async def forget() -> Json:
        body = {"namespace": "doc:", "scope": "workflow"}
        answer = await api.client.request("DELETE", "/api/v1/memory/vector/namespace", json=body, headers=RUN)
        assert answer.status_code == 200
        return answer.json()

    first, again = await forget(), await forget()

    about = {"namespace": "doc:", "scope": "workflow", "scope_id": "w", "status": "deleted"}
    assert (first, again) == (about | {"deleted": 2}, about | {"deleted": 0})
    assert await keys(api, 1) == ["docs", "other"]
    assert await keys(api, 1, headers={}) == ["doc:1"]


@pytest.mark.parametrize(
    ("scope", "scope_id", "headers"),
    [
        ("workflow", "w", {"X-Workflow-ID": "w"}),
        ("run", "w", {"X-Run-ID": "w"}),
        ("session", "s", {"X-Session-ID": "s"}),
        ("actor", "a", {"X-Actor-ID": "a"}),
        ("global", "global", {}),
    ],
)
async def test_every_scope(shared: Api, scope: str, scope_id: str, headers: Json) -> None:
    """Named in the request or by the headers alone; none sees another's."""
    embedding, key = [1, 2, 3, 4, 5], f"scope {scope}"
    for said, said_headers in (({"scope": scope}, AROUND), ({}, headers), ({"scope": scope, "scope_id": scope_id}, {})):
        await keep(shared, key, *embedding, headers=said_headers, **said)
        found = await search(shared, *embedding, headers=said_headers, **said)
        read = await named(shared, "GET", key, headers=said_headers, **said)
        gone = await named(shared, "DELETE", key, headers=said_headers, **said)

        assert [(one["key"], one["scope"], one["scope_id"]) for one in found] == [(key, scope, scope_id)]
        assert (read.json()["scope"], read.json()["scope_id"]) == (scope, scope_id)
        assert gone.status_code == 204
        assert await keys(shared, *embedding, headers=said_headers, **said) == []


async def test_as_many_as_are_asked_for(api: Api) -> None:
    """Ten unless said; the Go client's 0 is nothing said."""
    await asyncio.gather(*(keep(api, f"k{n:02}", 1, n / 100) for n in range(15)))

    everything = [f"k{n:02}" for n in range(15)]
    assert await keys(api, 1, 0) == everything[:10]
    assert await keys(api, 1, 0, top_k=0, filters=None, threshold=0.5) == everything[:10]
    assert await keys(api, 1, 0, top_k=3) == everything[:3]
    assert await keys(api, 1, 0, top_k=1_000) == everything


async def test_filters(api: Api) -> None:
    """The nearest among those that have these values."""
    await keep(api, "a", 1, 0, metadata={"lang": "en", "n": 1})
    await keep(api, "b", 1, 1, metadata={"lang": "de", "n": 1})
    await keep(api, "c", 0, 1, metadata={"lang": "de", "n": 2, "more": [1]})
    await keep(api, "d", 0, 1)

    assert await keys(api, 1, 0, top_k=1, filters={"lang": "de"}) == ["b"]
    assert await keys(api, 1, 0, filters={"lang": "de", "n": 2}) == ["c"]
    assert await keys(api, 1, 0, filters={"more": [1]}) == ["c"]
    assert await keys(api, 1, 0, filters={"n": 1}) == ["a", "b"]
    assert await keys(api, 1, 0, filters={"n": True}) == []


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"embedding": [0, 0]}, "body.embedding"),
        ({"embedding": []}, "body.embedding"),
        ({"embedding": [1] * 4_097}, "body.embedding"),
        ({"embedding": [1e308, 1e308]}, "body.embedding"),
        ({"embedding": [5e-324]}, "body.embedding"),
        ({"embedding": ["1"]}, "body.embedding[0]"),
        ({"embedding": [True]}, "body.embedding[0]"),
        ({"embedding": [None]}, "body.embedding[0]"),
        ({"embedding": "1"}, "body.embedding"),
        ({}, "body"),
        ({"embedding": [1], "metadata": []}, "body.metadata"),
        ({"embedding": [1], "metadata": "x"}, "body.metadata"),
        ({"embedding": [1], "key": ""}, "body.key"),
        ({"embedding": [1], "key": "a\x00"}, "body.key"),
        ({"embedding": [1], "scope": "galaxy"}, "body.scope"),
        ({"embedding": [1], "scope": "actor"}, "body.scope_id"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_what_cannot_be_stored(shared: Api, body: Json, where: str) -> None:
    """422 names the field, and nothing is stored."""
    answer = await shared.post("/memory/vector/set", {"key": "refused"} | body)

    assert the_problem(answer, 422, "invalid")["where"] == where
    assert (await named(shared, "GET", "refused", headers={})).status_code == 404


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e400"])
async def test_numbers_that_are_none(shared: Api, number: bytes) -> None:
    """Neither stored nor searched for."""
    for path, name in (("set", b"embedding"), ("search", b"query_embedding")):
        body = b'{"key":"refused","%b":[1,%b]}' % (name, number)
        answer = await shared.client.post(f"/api/v1/memory/vector/{path}", content=body)

        assert answer.status_code in (400, 422)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"query_embedding": [0]}, "body.query_embedding"),
        ({"query_embedding": []}, "body.query_embedding"),
        ({"top_k": 1_001}, "body.top_k"),
        ({"top_k": -1}, "body.top_k"),
        ({"filters": []}, "body.filters"),
        ({"filters": 1}, "body.filters"),
        ({"scope": "session"}, "body.scope_id"),
    ],
    ids=str,
)
async def test_what_cannot_be_searched(shared: Api, body: Json, where: str) -> None:
    """422 names the field."""
    answer = await shared.post("/memory/vector/search", {"query_embedding": [1]} | body)

    assert the_problem(answer, 422, "invalid")["where"] == where


async def test_metadata_has_a_limit(shared: Api) -> None:
    """413 names it."""
    fits = {"key": "large", "embedding": [1], "metadata": {"x": "y" * (65_536 - 8)}}
    stored = await shared.post("/memory/vector/set", fits)
    refused = await shared.post("/memory/vector/set", fits | {"metadata": {"x": "y" * (65_536 - 7)}})

    assert stored.status_code == 200
    assert (the_problem(refused, 413, "too_large")["where"], refused.json()["limit_bytes"]) == ("body.metadata", 65_536)


async def test_the_largest_vector(shared: Api) -> None:
    """4,096 numbers are stored, read and found."""
    embedding = [n - 2_047.5 for n in range(4_096)]
    await keep(shared, "wide", *embedding)

    assert (await named(shared, "GET", "wide")).json()["embedding"] == embedding
    assert [one["score"] for one in await search(shared, *embedding)] == [pytest.approx(1)]


async def test_a_node_writes_while_it_holds_its_lease(api: Api) -> None:
    """With the fence in the header; after its result it stores, deletes and clears nothing."""
    session = await api.node()
    await api.submit(headers={"X-Run-ID": "w"})
    lease = await api.take(session)
    headers = RUN | {"X-Execution-ID": fenced(lease)}

    await keep(api, "k", 1, headers=headers)
    await api.finish(session, lease, 1)
    refused = [
        await api.post("/memory/vector/set", {"key": "k", "embedding": [2]}, headers=headers),
        await api.post("/memory/vector", {"key": "new", "embedding": [2]}, headers=headers),
        await api.post("/memory/vector/delete", {"key": "k"}, headers=headers),
        await named(api, "DELETE", "k", headers=headers),
        await api.client.request("DELETE", "/api/v1/memory/vector/namespace", json={"namespace": "k"}, headers=headers),
    ]

    for answer in refused:
        the_problem(answer, 409, "lease_lost")
    assert (await named(api, "GET", "k", headers=headers)).json()["embedding"] == [1.0]
    assert await keys(api, 1) == ["k"]


async def test_writes_of_one_key_at_once(api: Api) -> None:
    """One of them stands, whole."""
    await asyncio.gather(*(keep(api, "k", n, 2 * n, metadata={"n": n}) for n in range(1, 31)))

    row = (await named(api, "GET", "k")).json()

    assert row["embedding"] == [row["metadata"]["n"], 2 * row["metadata"]["n"]]
