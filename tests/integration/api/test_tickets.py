"""Tickets: one stream, once, for a minute, with what the key may that asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest
import websockets

from controlplane_sdk import Client
from tests.integration.api.serving import Api, serving, the_problem

EVENTS = "/api/ui/v1/executions/events"
SOCKET = "/api/ui/v1/executions/ws"
KEYED = pytest.mark.parametrize("settings", [{"api_key": "the-first-key"}], ids=["keyed"])


@contextlib.asynccontextmanager
async def stranger(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    """A browser: it sends no header of its own."""
    async with httpx.AsyncClient(base_url=api.url, timeout=30, trust_env=False) as client:
        yield client


async def made(api: Api, path: str = EVENTS, *, key: str | None = None) -> str:
    headers = {} if key is None else {"X-API-Key": key}
    answer = await api.post("/tickets", {"path": path}, headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["ticket"])


async def opened(api: Api, ticket: str, path: str = EVENTS) -> int:
    """The status of a stream that is opened with it."""
    async with stranger(api) as browser, browser.stream("GET", path, params={"ticket": ticket}) as stream:
        return stream.status_code


@KEYED
async def test_a_ticket_opens_once(api: Api) -> None:
    """The second who comes with it is refused, also when both come at once."""
    ticket = await made(api)
    statuses = await asyncio.gather(*(opened(api, ticket) for _ in range(5)))

    assert sorted(statuses) == [200, 401, 401, 401, 401]
    assert await opened(api, ticket) == 401


@KEYED
async def test_a_ticket_is_for_one_path(api: Api) -> None:
    """On another it is used up; nothing but streams takes one."""
    first, second = await made(api, SOCKET), await made(api, "/api/v1/nodes")
    async with stranger(api) as browser:
        elsewhere = await opened(api, first)
        no_stream = await browser.get("/api/v1/nodes", params={"ticket": second})

    assert elsewhere == 401
    the_problem(no_stream, 401, "unauthorized")
    with pytest.raises(websockets.InvalidStatus):
        await websockets.connect(f"ws://{api.host}:{api.port}{SOCKET}?ticket={first}", proxy=None)


@KEYED
async def test_a_ticket_opens_a_socket_at_any_replica(api: Api, database: str) -> None:
    """It is no matter which one has given it."""
    ticket = await made(api, SOCKET)
    async with serving(database, api_key="the-first-key") as other:
        url = f"ws://{other.host}:{other.port}{SOCKET}?ticket={ticket}"
        async with websockets.connect(url, proxy=None) as socket:
            assert "connected" in str(await socket.recv())


@KEYED
async def test_a_ticket_is_over_after_a_minute(api: Api, conn: asyncpg.Connection) -> None:
    """And goes with the next one that is made."""
    late = await made(api)
    await conn.execute("update tickets set expires_at = clock()")
    assert await opened(api, late) == 401
    await made(api)
    await conn.execute("update tickets set expires_at = clock() - interval '1 second'")
    await made(api)

    assert await conn.fetchval("select count(*) from tickets") == 1


@KEYED
async def test_a_ticket_is_worth_its_key(api: Api) -> None:
    """Nothing is heard by it where the key has not the scope, and nothing when the key is over."""
    reads = (await api.post("/keys", {"name": "r", "scopes": ["read"]})).json()
    speaks = (await api.post("/keys", {"name": "n", "scopes": ["node"], "node_ids": ["n"]})).json()
    ticket = await made(api, key=reads["key"])
    by_node = await made(api, key=speaks["key"])
    await api.post(f"/keys/{reads['key_id']}/revoke")

    assert await opened(api, ticket) == 401
    assert await opened(api, by_node) == 403


@KEYED
async def test_a_ticket_of_a_key_that_hides_payloads(api: Api) -> None:
    """Hides them, too."""
    wish = {"name": "b", "scopes": ["read"], "hide_payloads": True}
    ticket = await made(api, "/api/v1/memory/events/sse", key=(await api.post("/keys", wish)).json()["key"])
    text = ""
    async with (
        stranger(api) as browser,
        browser.stream("GET", "/api/v1/memory/events/sse", params={"ticket": ticket}) as stream,
    ):
        await api.post("/memory/set", {"key": "k", "data": "canary", "scope": "global"})
        async with asyncio.timeout(20):
            async for part in stream.aiter_text():
                text += part
                if '"key":"k"' in text:
                    break

    assert "hidden: 8 bytes" in text
    assert "canary" not in text


@KEYED
async def test_only_a_hash_is_kept(api: Api, conn: asyncpg.Connection) -> None:
    """The ticket is in the answer and nowhere else."""
    ticket = await made(api)
    row = await conn.fetchval("select t::text from tickets t")

    assert ticket not in row
    assert ticket.rpartition("_")[2] not in row


@KEYED
@pytest.mark.parametrize("path", ["", "nodes", "/a?b=c", "/" + "x" * 500, "/\n"])
async def test_what_is_no_path(api: Api, path: str) -> None:
    """Is refused."""
    the_problem(await api.post("/tickets", {"path": path}), 422, "invalid")


@KEYED
async def test_by_the_sdk(api: Api) -> None:
    """The same in Python."""
    async with Client(api.url, api_key="the-first-key") as client:
        made = await client.keys.create_ticket(EVENTS)

    assert "ticket_" not in repr(made)
    assert await opened(api, made.ticket.get_secret_value()) == 200


async def test_where_nobody_needs_a_key(api: Api) -> None:
    """A page that always asks for a ticket works there, too."""
    assert await opened(api, await made(api)) == 200
