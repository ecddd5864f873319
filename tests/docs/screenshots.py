"""The pictures of the README, made anew: `make screenshots` plays a day, and looks at it in light and dark.

    python -m tests.docs.screenshots docs/images

The work of the day before is done under a clock of the database that is behind; then comes the scene that the tests of
the pages look at, and the pages are opened in Debian's Chromium.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import asyncpg
from playwright.async_api import Browser, async_playwright

from controlplane.postgres.embedded import EmbeddedPostgres
from controlplane.postgres.schema import migrate
from tests.browser.conftest import CHROMIUM, PATIENCE_MILLISECONDS
from tests.browser.scene import ERRORS, TARGETS, Scene, play
from tests.integration.api.serving import Api, Receiver, serving

HOURS_BACK = (22, 19, 17, 14, 12, 9, 7, 5, 3, 2)
ROWS = (20, 90)
"""Executions of one of these hours, at least and at most."""
NAME = "pictures"
BEAT = """
update sessions
set slots = 16, running = (
  select count(*)
  from queue
  where session_id = sessions.id
    and state = 'leased'
)
where closed_at is null
"""
LOOK = {"width": 1280, "height": 800}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
SAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "process": (
        "Reads every document of a corpus and summarises it.",
        {"items": {"type": "array", "title": "Documents"}},
    ),
    "summarize": (
        "Says in a few sentences what a document is about.",
        {
            "document": {"type": "string", "title": "Document", "description": "Its name in the archive."},
            "sentences": {"type": "integer", "title": "Sentences, at most", "default": 3},
            "tone": {"type": "string", "title": "Tone", "enum": ["plain", "formal", "friendly"]},
        },
    ),
}


async def main(folder: Path) -> None:
    """One picture of each page and scheme."""
    with tempfile.TemporaryDirectory(prefix="pictures-") as data:
        postgres = EmbeddedPostgres(Path(data) / "postgres", durable=False, settings={"max_connections": "100"})
        postgres.start()
        try:
            database = await a_database(postgres.dsn)
            dice = random.Random(8)
            for hours in HOURS_BACK:
                await set_clock(postgres.dsn, hours)
                async with serving(database) as api:
                    await an_hour(api, dice)
                    if hours == HOURS_BACK[-1]:
                        await nobody_comes(api)
            await set_clock(postgres.dsn, 0)
            async with serving(database, lease_seconds=600.0) as api, Receiver() as receiver:
                scene = await play(api, receiver, rows=160)
                await introduce(api)
                await beat(database)
                async with a_browser() as browser:
                    await look(browser, api.url, scene, folder)
        finally:
            postgres.stop()


async def a_database(server: str) -> str:
    connection = await asyncpg.connect(server)
    await connection.execute(f"create database {NAME}")
    await connection.close()
    database = urlsplit(server)._replace(path=f"/{NAME}").geturl()
    await asyncio.to_thread(migrate, database)
    return database


async def set_clock(server: str, hours: int) -> None:
    """So many hours ago it is now, for whoever connects from here on."""
    connection = await asyncpg.connect(server)
    await connection.execute(f"alter database {NAME} set controlplane.clock_offset = '-{hours} hours'")
    await connection.close()


async def an_hour(api: Api, dice: random.Random) -> None:
    """What ended in it: most of it well."""
    for node in ("corpus", "release", "mail"):
        names = [one.partition(".")[2] for one in TARGETS if one.startswith(f"{node}.")]
        await api.register(node, *names)
        session = await api.open_session(node, slots=400)
        for n in range(dice.randrange(*ROWS) // 3):
            await api.submit(f"{node}.{dice.choice(names)}", input={"document": f"doc-{n}"})
        for lease in await api.lease(session, limit=100):
            name, said = dice.choice(ERRORS)
            if dice.random() < 0.9:
                await api.finish(session, lease, {"summary": "ok"})
            else:
                await api.finish(session, lease, status="failed", error=said, error_class=name)
        await api.post(f"/sessions/{session}/close", {})


async def nobody_comes(api: Api) -> None:
    """Work that waits for a node that has gone."""
    await api.register("nightly", "report")
    for day in range(3):
        await api.submit("nightly.report", input={"day": day})


async def beat(database: str) -> None:
    """The processes say what they run, as their heartbeats would, and how much they can."""
    connection = await asyncpg.connect(database)
    await connection.execute(BEAT)
    await connection.close()


async def introduce(api: Api) -> None:
    """A node that says what its reasoners are for and what they take."""
    reasoners = [
        {"id": name, "description": says, "tags": ["text"], "input_schema": {"type": "object", "properties": takes}}
        for name, (says, takes) in SAYS.items()
    ]
    answer = await api.post("/nodes/register", {"id": "corpus", "version": "2.4.1", "reasoners": reasoners})
    assert answer.is_success, answer.text


@asynccontextmanager
async def a_browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


async def look(browser: Browser, url: str, scene: Scene, folder: Path) -> None:
    pages = {
        "overview": "",
        "execution": f"executions/{scene.ids['parent']}",
        "reasoner": "reasoners/corpus.summarize",
    }
    for scheme in SCHEMES:
        context = await browser.new_context(viewport=LOOK, color_scheme=scheme)  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE_MILLISECONDS)
        for name, path in pages.items():
            page = await context.new_page()
            await page.goto(f"{url}/{path}", wait_until="load")
            await page.screenshot(path=folder / f"{name}-{scheme}.png")
            await page.close()
        await context.close()


if __name__ == "__main__":
    assert shutil.which(str(CHROMIUM)), "the tests of the pages install Chromium: pytest tests/browser"
    asyncio.run(main(Path(sys.argv[1])))
