"""What is begun from the pages: running a reasoner, limits, schedules; by button and by what can be copied of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import Stage, Watched
from tests.browser.test_acts import run
from tests.browser.test_looks import flaws
from tests.integration.api.serving import Api, until

Json = Any
WAYS = ["button", "curl", "cli", "python"]
BIG = 12345678901234567890123
SCHEMA = {
    "type": "object",
    "required": ["city", "days"],
    "properties": {
        "city": {"type": "string", "description": "Where it rains."},
        "days": {"type": "integer", "minimum": 1},
        "scale": {"enum": ["celsius", "kelvin"], "default": "celsius"},
        "fast": {"type": "boolean"},
        "length": {"type": "array"},
    },
}


async def served(api: Api, name: str) -> str:
    """A session of a node of this name, whose `echo` says what it takes."""
    await api.register(name, input_schema=SCHEMA)
    return await api.open_session(name)


async def act(page: Page, form: Any, how: str, button: str) -> None:
    """In one of four ways; the button's is over when the page that follows is there."""
    if how == "button":
        async with page.expect_navigation():
            await form.get_by_role("button", name=button, exact=True).click()
        return
    copy = form.locator(f"[data-copies={how}]")
    if not await copy.is_visible():
        await form.locator("summary").click()
    await copy.click()
    run(how, await page.evaluate("navigator.clipboard.readText()"))


async def open_dialog(page: Page, row: str, button: str) -> Any:
    """Of the row that says this; without one, of the head of the page."""
    part = page.locator("tbody tr", has_text=row) if row else page.locator(".title")
    await part.get_by_role("button", name=button, exact=True).click()
    return page.locator("dialog[open]")


@pytest.mark.parametrize("how", WAYS)
async def test_a_reasoner_is_run_by_fields(watched: Watched, api: Api, how: str) -> None:
    """What was typed arrives as what it is, to the last digit; the button leads to the execution."""
    session = await served(api, f"fields-{how}")
    await watched.go(f"reasoners/fields-{how}.echo")
    page, form = watched.page, watched.page.locator("form.run")
    await form.get_by_label("city").fill('it\'s "wet"\nthere')
    await form.get_by_label("days").fill(str(BIG))
    await form.get_by_label("scale").select_option("kelvin")
    await form.get_by_label("fast").select_option("true")
    await form.get_by_label("length").fill(f"[{BIG}]")
    await act(page, form, how, "Run")
    if how == "button":
        await page.wait_for_url("**/executions/exec_*")
    lease = await api.take(session)

    assert lease["input"] == {
        "city": 'it\'s "wet"\nthere',
        "days": BIG,
        "scale": "kelvin",
        "fast": True,
        "length": [BIG],
    }


async def test_a_flaw_stands_beside_its_field(watched: Watched, api: Api) -> None:
    """Nothing is sent, nothing that was typed is lost, and put right it runs."""
    session = await served(api, "flaws")
    await watched.go("reasoners/flaws.echo")
    page, form = watched.page, watched.page.locator("form.run")
    await form.get_by_label("days").fill("0.5")
    await form.get_by_label("length").fill("[1,")
    await form.get_by_role("button", name="Run", exact=True).click()
    await expect(form.locator("#flaw-1")).to_have_text("This is required.")
    await expect(form.locator("#flaw-2")).to_have_text("This takes a whole number.")
    await expect(form.locator("#flaw-5")).to_contain_text("This is no JSON")
    assert await form.get_by_label("length").input_value() == "[1,"
    await form.get_by_label("city").fill("Ulm")
    await form.get_by_label("days").fill("2")
    await form.get_by_label("length").fill("[1]")
    await form.get_by_role("button", name="Run", exact=True).click()
    await page.wait_for_url("**/executions/exec_*")

    assert (await api.take(session))["input"] == {"city": "Ulm", "days": 2, "length": [1]}


async def test_from_fields_to_json_and_back(watched: Watched, api: Api) -> None:
    """The same text to the letter; where no field can show it, it stays JSON and says why."""
    session = await served(api, "both")
    await watched.go("reasoners/both.echo")
    page, form = watched.page, watched.page.locator("form.run")
    await form.get_by_label("days").fill(str(BIG))
    await form.get_by_label("JSON", exact=True).check()
    editor = form.locator("#run-input")
    assert await editor.input_value() == f'{{"days": {BIG}}}'
    await editor.fill(f'{{"days": {BIG}, "city": "Ulm", "more": 1.50}}')
    await form.get_by_text("Fields").click()
    await expect(form.locator("#way-said")).to_contain_text("no field can show more")
    await editor.fill('{"days": "x", "city": "Ulm"')
    await form.get_by_role("button", name="Run", exact=True).click()
    await expect(form.locator("#flaw-input")).to_contain_text("this is none")
    await editor.fill('{"days": "x", "city": "Ulm"}')
    await form.get_by_role("button", name="Run", exact=True).click()
    await expect(form.locator("#flaw-input")).to_have_text("days: This takes a number, such as 4.")
    await editor.fill(f'{{"days": {BIG}, "city": "U\\u006cm"}}')
    await form.get_by_text("Fields").click()
    await expect(form.get_by_label("city")).to_have_value("Ulm")
    await form.get_by_role("button", name="Run", exact=True).click()
    await page.wait_for_url("**/executions/exec_*")

    assert (await api.take(session))["input"] == {"days": BIG, "city": "Ulm"}


async def test_a_refused_run_keeps_what_was_typed(watched: Watched, api: Api) -> None:
    """The server's word stands at the form."""
    await served(api, "refused")
    await watched.go("reasoners/refused.echo")
    page, form = watched.page, watched.page.locator("form.run")
    await form.get_by_label("city").fill("Ulm")
    await form.get_by_label("days").fill("3")
    too_large = '{"title": "Too large", "detail": "Larger than the limit."}'
    await page.route("**/execute/async/*", lambda route: route.fulfill(status=413, body=too_large))
    await form.get_by_role("button", name="Run", exact=True).click()
    await expect(form.locator("[data-refused]")).to_have_text("Larger than the limit.")

    assert await form.get_by_label("city").input_value() == "Ulm"
    watched.said = [one for one in watched.said if "413" not in one]


@pytest.mark.parametrize("how", WAYS)
async def test_a_limit_is_set_and_deleted(watched: Watched, api: Api, how: str) -> None:
    """By its key, with its numbers; changed from what it is; and gone."""
    key = f"key:a/b {how}"
    page = watched.page
    await watched.go("limits")
    dialog = await open_dialog(page, "", "Set a limit")
    await dialog.get_by_label("Of").fill(key)
    await dialog.get_by_label("Under way").fill("x")
    await dialog.get_by_role("button", name="Set a limit", exact=True).click()
    await expect(dialog.locator("[data-refused]")).to_contain_text("a number")
    await dialog.get_by_label("Under way").fill("4")
    await dialog.get_by_label("Begin").fill("10")
    await dialog.get_by_label("seconds").fill("0.5")
    await act(page, dialog, how, "Set a limit")
    await until(lambda: limit_is(api, key, {"concurrency_max": 4, "rate_max": 10, "rate_seconds": 0.5}))
    await watched.go("limits")
    dialog = await open_dialog(page, key, "Change")
    await dialog.get_by_label("Under way").fill("5")
    await act(page, dialog, how, "Change")
    await until(lambda: limit_is(api, key, {"concurrency_max": 5, "rate_max": 10, "rate_seconds": 0.5}))
    await watched.go("limits")
    await act(page, await open_dialog(page, key, "Delete"), how, "Delete")
    await until(lambda: limit_is(api, key, None))


async def limit_is(api: Api, key: str, said: Mapping[str, Json] | None) -> bool:
    found = {one["key"]: one for one in (await api.client.get("/api/v1/limits?limit=200")).json()["items"]}.get(key)
    return found is None if said is None else found is not None and said.items() <= found.items()


@pytest.mark.parametrize("how", WAYS)
async def test_a_schedule_is_made_turned_run_and_deleted(watched: Watched, api: Api, how: str) -> None:
    """All that its page can do, with the same effect in each way."""
    name, page = f"nightly-{how}", watched.page
    session = await served(api, f"planned-{how}")
    await watched.go("schedules")
    dialog = await open_dialog(page, "", "New schedule")
    await dialog.get_by_label("Name").fill(name)
    await dialog.get_by_label("Target").fill(f"planned-{how}.echo")
    await dialog.get_by_label("Cron").fill("0 2 1 1 *")
    await dialog.get_by_label("Input").fill(f'{{"n": {BIG}}}')
    await act(page, dialog, how, "New schedule")
    for button, paused in (("Pause", True), ("Resume", False)):
        await until(lambda paused=not paused: schedule_is(api, name, {"paused": paused}))
        await watched.go("schedules")
        await act(page, await open_dialog(page, name, button), how, button)
        await until(lambda paused=paused: schedule_is(api, name, {"paused": paused}))
    await watched.go("schedules")
    await act(page, await open_dialog(page, name, "Run now"), how, "Run now")
    assert (await api.take(session))["input"] == {"n": BIG}
    await watched.go("schedules")
    await act(page, await open_dialog(page, name, "Delete"), how, "Delete")
    await until(lambda: schedule_is(api, name, None))


@pytest.mark.parametrize("how", WAYS)
async def test_a_schedule_is_changed(watched: Watched, api: Api, how: str) -> None:
    """A flaw that the server finds stands at its field; put right, only what was changed is another."""
    name, page = f"changed-{how}", watched.page
    await served(api, f"again-{how}")
    before = {"input": {"n": BIG}, "overlap": "queue", "context": {"by": "it's"}, "retries": 2}
    asked = {"name": name, "target": f"again-{how}.echo", "cron": "0 2 1 1 *", "time_zone": "Asia/Tokyo"} | before
    assert (await api.post("/schedules", asked)).status_code == 201
    await watched.go(f"schedules/{name}")
    form = page.locator("form.act.open")
    await form.get_by_label("Cron").fill("0 2 31 2 *")
    await form.get_by_role("button", name="Save").click()
    await expect(form.locator("label:has([aria-invalid]) + .said")).to_contain_text("Bad day-of-month")
    await form.get_by_label("Cron").fill("")
    await form.get_by_label("Time zone").fill("")
    await form.get_by_label("Once").fill("2100-01-31T09:00:00Z")
    await act(page, form, how, "Save")
    await until(lambda: schedule_is(api, name, before | {"run_at": "2100-01-31T09:00:00Z", "time_zone": None}))
    await watched.go(f"schedules/{name}")
    await expect(page.locator(".coming tr")).to_have_count(1)
    watched.said = [one for one in watched.said if "422" not in one]


async def schedule_is(api: Api, name: str, said: Mapping[str, Json] | None) -> bool:
    answer = await api.client.get(f"/api/v1/schedules/{name}")
    if said is None or answer.is_error:
        return said is None and answer.status_code == 404
    found = answer.json()
    return all(found.get(word) == value for word, value in said.items())


@pytest.mark.parametrize("width", [1280, 390])
async def test_forms_are_for_everybody(watched: Watched, api: Api, stage: Stage, width: int) -> None:
    """Nothing serious for axe in the forms as they stand open, with a flaw shown; nothing wider than the window."""
    await served(api, "seen")
    await watched.page.set_viewport_size({"width": width, "height": 900})
    wrong: list[str] = []
    body = {"name": f"seen-{width}", "target": "seen.echo", "interval_seconds": 86_400}
    await api.post("/schedules", body)
    forms = (("reasoners/seen.echo", "Run"), ("limits", "Set a limit"), ("schedules", "New schedule"))
    for path, button in (*forms, (f"schedules/seen-{width}", "Save")):
        await watched.go(path)
        if button == "Save":
            await watched.page.get_by_label("Interval").fill("x")
        await watched.page.locator("main").get_by_role("button", name=button, exact=True).first.click()
        wrong += [f"{path}: {one}" for one in await flaws(watched.page)]

    assert not wrong, "\n".join(wrong)
