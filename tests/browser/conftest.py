"""A real browser, Debian's Chromium, and a server with a day's work in it that all tests of a module look at."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, async_playwright

from tests.browser.scene import Scene, play
from tests.debian import install
from tests.integration.api.serving import DEADLINE_SECONDS, Apart, Api, Receiver

PACKAGES = ("chromium", "fonts-dejavu-core")
CHROMIUM = Path("/usr/bin/chromium")
PATIENCE_MILLISECONDS = DEADLINE_SECONDS * 2 * 1_000


@dataclass(slots=True)
class Stage:
    """A server that runs apart from the tests, and what was played on it."""

    apart: Apart
    scene: Scene

    def api(self, client: httpx.AsyncClient) -> Api:
        return Api(self.apart.app, self.apart.host, self.apart.port, client)


@dataclass
class Watched:
    """A page, and whatever it should not have said or asked for."""

    page: Page
    base: str
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.said.append(message.text)

    def request(self, request: Request) -> None:
        if not request.url.startswith((self.base, "data:", "blob:")):
            self.asked.append(request.url)

    async def go(self, path: str) -> None:
        await self.page.goto(f"{self.base}/{path}", wait_until="load")


@pytest.fixture(scope="session")
def chromium() -> Path:
    """Debian's; the tests skip where there is none and nobody may install it."""
    if not CHROMIUM.exists() or shutil.which("fc-list") is None:
        install(*PACKAGES)
    return CHROMIUM


@pytest.fixture(scope="module")
def stage(server: str, template: str, chromium: Path) -> Iterator[Stage]:
    """Several hundred executions in every state. Its receiver is gone by the time that tests look."""
    name = f"test_{uuid.uuid4().hex}"
    with asyncio.Runner() as runner:
        runner.run(_execute(server, f"create database {name} template {template} strategy file_copy"))
        apart = Apart(urlsplit(server)._replace(path=f"/{name}").geturl(), lease_seconds=600.0)
        try:
            yield Stage(apart, runner.run(_play(apart)))
        finally:
            apart.stop()
            runner.run(_execute(server, f"drop database {name} with (force)"))


@pytest.fixture
async def api(stage: Stage) -> AsyncIterator[Api]:
    async with _client(stage.apart) as client:
        yield stage.api(client)


@pytest.fixture
async def browser(chromium: Path) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """Of one person, in light, on a desk."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    context.set_default_timeout(PATIENCE_MILLISECONDS)
    await context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield context
    await context.close()


@pytest.fixture
async def watched(context: BrowserContext, stage: Stage) -> AsyncIterator[Watched]:
    """A page whose console stays empty and which asks nobody but us."""
    seen = watch(await context.new_page(), stage.apart.url)
    yield seen
    assert seen.said == []
    assert seen.asked == []


def watch(page: Page, base: str) -> Watched:
    seen = Watched(page, base)
    page.on("console", seen.console)
    page.on("pageerror", lambda error: seen.said.append(str(error)))
    page.on("request", seen.request)
    return seen


async def _play(apart: Apart) -> Scene:
    async with _client(apart) as client, Receiver() as receiver:
        return await play(Api(apart.app, apart.host, apart.port, client), receiver, rows=120)


def _client(apart: Apart) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=apart.url, timeout=DEADLINE_SECONDS * 2, trust_env=False)


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
