"""Behind a proxy that shows us under a path of its own, with keys: signing in, looking, acting."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from playwright.async_api import BrowserContext, expect

from tests.browser.conftest import watch
from tests.integration.api.serving import Api, serving

PREFIX = "/ops/controlplane"


@contextlib.asynccontextmanager
async def proxied(api: Api) -> AsyncIterator[str]:
    """An address whose path is taken away before we are asked, one request per connection."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            line, _, rest = head.partition(b"\r\n")
            method, path, version = line.split(b" ")
            assert path.startswith(PREFIX.encode()), path
            inside, outside = await asyncio.open_connection(api.host, api.port)
            said = b" ".join((method, path[len(PREFIX) :] or b"/", version))
            outside.write(said + b"\r\nConnection: close\r\n" + rest.replace(b"Connection: keep-alive\r\n", b""))
            await asyncio.wait(
                [asyncio.ensure_future(pass_on(reader, outside)), asyncio.ensure_future(pass_on(inside, writer))],
                return_when=asyncio.FIRST_COMPLETED,
            )
            outside.close()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{PREFIX}"


async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await source.read(65_536):
            sink.write(piece)
            await sink.drain()


async def test_under_a_path(database: str, context: BrowserContext) -> None:
    """From the link in a message through signing in to an action, and out again."""
    async with serving(database, api_key="starter", lease_seconds=600.0) as api, proxied(api) as base:
        await api.register()
        id_ = (await api.submit())["execution_id"]
        reader = (await api.post("/keys", {"name": "night-shift", "scopes": ["read", "operate"]})).json()["key"]
        seen = watch(await context.new_page(), base)
        page = seen.page
        await seen.go(f"executions/{id_}?tab=events")
        await page.wait_for_url("**/login?next=*")
        await page.get_by_label("API key").fill("cp_wrong")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.locator(".said")).to_be_visible()
        await page.get_by_label("API key").fill(reader)
        await page.get_by_role("button", name="Sign in").click()
        await page.wait_for_url(f"{base}/executions/{id_}?tab=events")
        await expect(page.locator(".who")).to_have_text("night-shift")
        await expect(page.locator("#live .word")).to_have_text("live")
        off = page.get_by_role("button", name="Run again")
        assert await off.get_attribute("title") == "Your key may not: this needs the scope execute."
        await page.locator("#head").get_by_role("button", name="Cancel", exact=True).click()
        await page.locator("dialog[open]").get_by_role("button", name="Cancel", exact=True).click()
        await expect(page.locator("#head .badge")).to_contain_text("cancelled")
        await page.get_by_role("link", name="Nodes").click()
        await page.wait_for_url(f"{base}/nodes")
        await page.get_by_role("button", name="Sign out").click()
        await page.wait_for_url(f"{base}/login")
        await page.close()

        assert [one for one in seen.said if "401" not in one] == []  # the wrong key
        assert seen.asked == []
        assert (await api.get("/audit", action="execution.cancelled"))["items"][0]["actor"] == "night-shift"
