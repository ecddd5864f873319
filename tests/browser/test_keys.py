"""Keys on the page: made, shown once, rotated and revoked; by button and by what can be copied of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Page, expect

from tests.browser.conftest import Watched, watch
from tests.browser.test_acts import XSS, run
from tests.browser.test_forms import WAYS, open_dialog
from tests.browser.test_looks import flaws
from tests.integration.api.conftest import house, shared
from tests.integration.api.serving import Apart, Api

Json = Any
HOUSE = {"api_key": "starter", "lease_seconds": 600.0}
__all__ = ["house", "shared"]


@pytest.fixture
async def inside(house: Apart, shared: Api, context: BrowserContext) -> AsyncIterator[Watched]:
    """The settings, for who came with the first key; and the API by the same."""
    shared.client.headers["X-API-Key"] = "starter"
    seen = watch(await context.new_page(), house.url)
    await seen.go("login?next=settings")
    await seen.page.get_by_label("API key").fill("starter")
    await seen.page.get_by_role("button", name="Sign in").click()
    await seen.page.wait_for_url("**/settings")
    yield seen
    assert seen.said == []
    assert seen.asked == []


async def key_of(api: Api, name: str) -> Json:
    return next(one for one in (await api.get("/keys", limit="200"))["items"] if one["name"] == name)


async def lets_in(api: Api, key: str) -> bool:
    return (await api.client.get("/api/v1/nodes", headers={"X-API-Key": key})).is_success


async def done(page: Page, dialog: Any, how: str, button: str) -> str:
    """In one of four ways; whatever key that shows."""
    if how == "button":
        await dialog.get_by_role("button", name=button, exact=True).click()
        await expect(dialog.locator("[data-says=once]")).to_contain_text("cp_")
        shown = await dialog.locator("[data-says=once]").text_content()
        await page.keyboard.press("Escape")
        await dialog.get_by_role("button", name="Copy", exact=True).click()
        assert await page.evaluate("navigator.clipboard.readText()") == shown
        async with page.expect_navigation():
            await dialog.get_by_role("button", name="It is kept").click()
        return str(shown)
    await dialog.locator("summary").click()
    await dialog.locator(f"[data-copies={how}]").click()
    said = run(how, await page.evaluate("navigator.clipboard.readText()"), api_key="starter")
    return next(word for word in said.replace('"', " ").split() if word.startswith("cp_") and len(word) > 40)


@pytest.mark.parametrize("how", WAYS)
async def test_a_key_is_made_rotated_and_revoked(inside: Watched, shared: Api, how: str) -> None:
    """What was chosen is what it may; it is shown once, and stands on no page and in no address after that."""
    page, name = inside.page, f'-it\'s "{how}"'
    dialog = await open_dialog(page, "", "New key")
    await dialog.get_by_label("Name").first.fill(name)
    for scope in ("read", "node"):
        await dialog.get_by_label(scope, exact=True).check()
    await dialog.get_by_label("With node").fill("w-1, x-*")
    await dialog.get_by_label("Ends after").fill("3600")
    await dialog.get_by_label("Namespace").fill("default")
    made = await done(page, dialog, how, "New key")
    found = await key_of(shared, name)

    assert (found["scopes"], found["node_ids"], found["hide_payloads"]) == (["read", "node"], ["w-1", "x-*"], False)
    assert "expires_at" in found
    assert await lets_in(shared, made)
    await inside.go("settings")
    second = await done(page, await open_dialog(page, name, "Rotate"), how, "Rotate")
    assert second != made
    await inside.go("settings")
    assert not {made, second} & set((await page.content() + page.url).split('"'))
    assert made not in await page.content()
    assert await lets_in(shared, second)
    row = page.locator("tbody tr", has_text=name).first  # the newest first
    await row.get_by_role("button", name="Revoke", exact=True).click()
    dialog = page.locator("dialog[open]")
    await expect(dialog).to_contain_text("Nobody comes in by it any more")
    if how == "button":
        async with page.expect_navigation():
            await dialog.get_by_role("button", name="Revoke", exact=True).click()
    else:
        await dialog.locator("summary").click()
        await dialog.locator(f"[data-copies={how}]").click()
        run(how, await page.evaluate("navigator.clipboard.readText()"), api_key="starter")
    assert not await lets_in(shared, second)


async def test_it_is_nowhere_afterwards(inside: Watched, shared: Api) -> None:
    """Not in the page, not in its storage, not one step back; and what is refused is said at its field."""
    page = inside.page
    dialog = await open_dialog(page, "", "New key")
    await dialog.get_by_label("Name").first.fill("nowhere")
    await dialog.get_by_label("read", exact=True).check()
    await dialog.get_by_label("With node").fill("w")
    await dialog.get_by_role("button", name="New key", exact=True).click()
    await expect(dialog.locator("label:has([aria-invalid]) + .said")).to_contain_text("belong together")
    await dialog.get_by_label("With node").fill("")
    await dialog.get_by_label("It is shown no payloads").check()
    made = await done(page, dialog, "button", "New key")
    await inside.go("nodes")
    await page.go_back()

    stored = await page.evaluate("JSON.stringify([localStorage, sessionStorage, history.state, document.cookie])")
    assert made not in await page.content() + stored
    assert (await key_of(shared, "nowhere"))["hide_payloads"]
    inside.said = [one for one in inside.said if "422" not in one]


async def test_a_name_becomes_no_code(inside: Watched, shared: Api) -> None:
    """In the list, in the dialogs and in the audit log."""
    for said in XSS:
        assert (await shared.post("/keys", {"name": said, "scopes": ["read"]})).is_success
    await inside.go("settings")
    for fold in await inside.page.locator("details.changed summary").all():
        await fold.click()

    assert await inside.page.evaluate("window.hit") is None
    assert await inside.page.locator("main iframe, main script, main img").count() == 0


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_settings_are_for_everybody(inside: Watched, shared: Api, scheme: Any, width: int) -> None:
    """Nothing serious for axe, with folds open, in the form and where a key is shown; nothing wider than the window."""
    page = inside.page
    await page.emulate_media(color_scheme=scheme)
    await page.set_viewport_size({"width": width, "height": 900})
    await shared.post("/keys", {"name": "a-name-of-some-length " * 4, "scopes": ["node"], "node_ids": ["w" * 128]})
    await inside.go("settings")
    await page.locator("details.changed summary").first.click()
    wrong = await flaws(page)
    dialog = await open_dialog(page, "", "New key")
    await dialog.get_by_label("Name").first.fill(f"seen-{scheme}-{width}")
    await dialog.get_by_label("read", exact=True).check()
    wrong += await flaws(page)
    await dialog.get_by_role("button", name="New key", exact=True).click()
    await expect(dialog.locator("[data-says=once]")).to_be_visible()
    wrong += await flaws(page)

    assert not wrong, "\n".join(wrong)
