"""Every page in a real browser: in light and dark, on a desk and a phone, for everybody, and light enough."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Response

from controlplane.ui.execution import TABS
from tests.browser.conftest import PATIENCE_MILLISECONDS, Stage, watch

AXE = (Path(__file__).parent / "vendored" / "axe.js").read_text()
SERIOUS = {"serious", "critical"}
WEIGHT_BYTES_MAX = 120_000
PLAIN = ["", "executions", "reasoners", "nodes", "nodes/corpus", "limits", "schedules", "approvals", "webhooks"]
PLAIN += [
    "executions?status=failed&columns=run_id,session_key,started_at,completed_at,attempt",
    "settings",
    "login",
    "reasoners/corpus.process",
    "reasoners/nightly.report",
    "nodes/nightly",
]


def places(stage: Stage) -> list[str]:
    """Every page of the scene, and every tab."""
    ids = stage.scene.ids
    of = {"logs": "running", "steps": "running", "children": "parent", "webhooks": "told", "data": "failed"}
    tabs = [f"executions/{ids[of.get(tab, 'failed')]}?tab={tab}" for tab in TABS]
    return [*PLAIN, *tabs, f"executions/{ids['parent']}", f"executions/{ids['paused']}"]


async def flaws(page: Page) -> list[str]:
    """What is serious for axe in a page as it stands, and whether it is wider than the window."""
    await page.evaluate(AXE)
    found = await page.evaluate("axe.run({resultTypes: ['violations']})")
    wrong = [
        f"{one['id']} {one['nodes'][0]['html'][:200]} {one['nodes'][0]['failureSummary'][:300]}"
        for one in found["violations"]
        if one["impact"] in SERIOUS
    ]
    if await page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        wrong.append("wider than the window")
    return wrong


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.timeout(400)
async def test_every_page(browser: Browser, stage: Stage, scheme: Any, width: int) -> None:
    """Nothing serious for axe, no word in the console, no request to others, nothing wider than the window."""
    context = await browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(PATIENCE_MILLISECONDS)
    wrong: list[str] = []
    for path in places(stage):
        seen = watch(await context.new_page(), stage.apart.url)
        await seen.go(path)
        wrong += [f"{path}: {one}" for one in [*await flaws(seen.page), *seen.said, *seen.asked]]
        await seen.page.close()
    await context.close()

    assert not wrong, "\n".join(wrong)


async def weight(browser: Browser, url: str) -> int:
    """What a page and all that it brings along weigh, packed."""
    answers: list[Response] = []

    def came(answer: Response) -> None:
        answers.append(answer)

    context = await browser.new_context()
    page = await context.new_page()
    page.on("response", came)
    await page.goto(url, wait_until="load")
    kept = [one for one in answers if "text/event-stream" not in one.headers.get("content-type", "")]
    bodies = [await one.body() for one in kept]
    packed = {one.headers.get("content-encoding") for one in kept if one.url.endswith((".js", ".css"))}
    await context.close()
    assert packed == {"gzip"}
    return sum(len(gzip.compress(body)) for body in bodies)


async def test_pages_are_light(browser: Browser, stage: Stage) -> None:
    """With everything that they bring along, as it goes over the wire."""
    for path in ("", "executions", f"executions/{stage.scene.ids['running']}?tab=logs"):
        assert await weight(browser, f"{stage.apart.url}/{path}") <= WEIGHT_BYTES_MAX
