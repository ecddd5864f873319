"""What people do on the pages: look on while it happens, act, and take the same along for elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import PATIENCE_MILLISECONDS, Stage, Watched
from tests.integration.api.serving import Api, fence, until

XSS = [
    "<script>window.hit=1</script>",
    '"><img src=x onerror=window.hit=1>',
    "'><svg onload=window.hit=1>",
    "javascript:window.hit=1",
    "</textarea></pre></td><iframe srcdoc='<script>parent.hit=1</script>'>",
    "{{constructor.constructor('window.hit=1')()}}",
]


HIDE = (
    "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    "document.dispatchEvent(new Event('visibilitychange'))"
)


async def status_is(api: Api, id_: str, status: str) -> bool:
    return bool((await api.read(id_))["status"] == status)


async def work(api: Api, name: str) -> str:
    """A session of a node of this name that serves `echo`."""
    await api.register(name)
    return await api.open_session(name)


async def test_a_life_is_seen_as_it_happens(watched: Watched, api: Api) -> None:
    """Queued, running with progress and log lines, succeeded: without a reload, and with the focus where it was."""
    session = await work(api, "live")
    id_ = (await api.submit("live.echo", input={"n": 1}))["execution_id"]
    await watched.go(f"executions/{id_}?tab=logs")
    page = watched.page
    await page.evaluate("window.kept = true")
    await expect(page.locator("#head .badge")).to_contain_text("queued")
    await page.locator("#log-text").focus()
    lease = await api.take(session)
    await expect(page.locator("#head .badge")).to_contain_text("running")
    entries = {
        "entries": [fence(lease) | {"message": "half of it"}],
        "progress": [fence(lease) | {"done": 5, "total": 10}],
    }
    await api.post(f"/sessions/{session}/logs", entries)
    await expect(page.locator("#log")).to_contain_text("half of it")
    await expect(page.locator("#head .progress")).to_contain_text("5 / 10")
    await api.finish(session, lease, {"done": True})
    await expect(page.locator("#head .badge")).to_contain_text("succeeded")

    assert await page.evaluate("window.kept && document.activeElement.id") == "log-text"


async def test_rows_do_not_jump(watched: Watched, api: Api) -> None:
    """What is new is announced; the rows change where they are, and what was chosen stays chosen."""
    session = await work(api, "rows")
    first = (await api.submit("rows.echo"))["execution_id"]
    await watched.go("executions?target=rows.echo")
    page = watched.page
    await page.locator(f"#{first} input").check()
    for _ in range(3):
        await api.submit("rows.echo")
    await expect(page.locator("#new")).to_contain_text("3 new")
    await api.lease(session, limit=1)
    await expect(page.locator(f"#{first} .badge")).to_contain_text("running")

    assert await page.locator("#list tbody tr").count() == 1
    assert await page.locator(f"#{first} input").is_checked()
    await page.locator("#new a").click()
    await expect(page.locator("#list tbody tr")).to_have_count(4)


async def test_a_filter_is_the_address(watched: Watched, stage: Stage) -> None:
    """It survives a reload and the way back."""
    page = watched.page
    await watched.go("executions")
    await page.locator(".chip.is-failed").click()
    await page.get_by_label("Target", exact=True).fill("mail.classify")
    await page.get_by_role("button", name="Filter").click()
    await page.wait_for_url("**/executions?status=failed&target=mail.classify*")
    await page.reload()

    assert await page.get_by_label("Target", exact=True).input_value() == "mail.classify"
    assert set(await page.locator("#list tbody .badge").all_inner_texts()) <= {"failed · user error", "failed"}
    await page.locator("#list .opens").first.click()
    await page.go_back()
    assert await page.get_by_label("Target", exact=True).input_value() == "mail.classify"


async def open_action(page: Page, name: str) -> Any:
    await page.locator("#head").get_by_role("button", name=name, exact=True).click()
    return page.locator("dialog[open]")


@pytest.mark.parametrize("how", ["button", "curl", "cli", "python"])
async def test_cancel_in_four_ways(watched: Watched, api: Api, how: str) -> None:
    """The button, and what can be copied of it: the same end, for the same reason."""
    await api.register("four")
    id_ = (await api.submit("four.echo"))["execution_id"]
    await watched.go(f"executions/{id_}")
    dialog = await open_action(watched.page, "Cancel")
    await dialog.get_by_label("Why").fill('it\'s "wrong" $(id)')
    if how == "button":
        await dialog.get_by_role("button", name="Cancel", exact=True).click()
    else:
        await dialog.locator("summary").click()
        await dialog.locator(f"[data-copies={how}]").click()
        run(how, await watched.page.evaluate("navigator.clipboard.readText()"))
    await until(lambda: status_is(api, id_, "cancelled"))

    assert (await api.read(id_))["error"] == 'it\'s "wrong" $(id)'


@pytest.mark.parametrize("how", ["button", "curl", "cli", "python"])
async def test_run_again_with_other_input(watched: Watched, api: Api, stage: Stage, how: str) -> None:
    """A number that no browser can hold arrives as it was typed."""
    session = await work(api, f"again-{how}")
    id_ = await api.run(session, {}, target=f"again-{how}.echo")
    await watched.go(f"executions/{id_}")
    dialog = await open_action(watched.page, "Run again")
    await dialog.get_by_label("Other input").fill('{"id": 12345678901234567890123, "é": "\'"}')
    if how == "button":
        await dialog.get_by_role("button", name="Run again", exact=True).click()
        await watched.page.wait_for_url(lambda url: id_ not in url)
    else:
        await dialog.locator("summary").click()
        await dialog.locator(f"[data-copies={how}]").click()
        run(how, await watched.page.evaluate("navigator.clipboard.readText()"))
    lease = await api.take(session)

    assert lease["input"] == {"id": 12345678901234567890123, "é": "'"}


async def test_a_node_comes_and_goes_as_it_happens(watched: Watched, api: Api) -> None:
    """Its page and the list follow without a reload, but not while somebody is about to do something."""
    await api.register("comes")
    await watched.go("nodes/comes")
    page = watched.page
    await page.evaluate("window.kept = true")
    badge = page.locator(".head-line .badge")
    await expect(badge).to_contain_text("gone")
    session = await api.open_session("comes")
    await expect(badge).to_contain_text("serving", timeout=PATIENCE_MILLISECONDS)
    await page.locator("main .actions").get_by_role("button", name="Drain", exact=True).click()
    await api.post(f"/sessions/{session}/close", {})
    dialog = page.locator("dialog[open]")
    await expect(dialog).to_be_visible()
    await dialog.get_by_role("button", name="Not now").click()
    await expect(badge).to_contain_text("gone", timeout=PATIENCE_MILLISECONDS)

    assert await page.evaluate("window.kept")


@pytest.mark.parametrize("how", ["button", "curl", "cli", "python"])
async def test_a_node_is_forgotten_in_four_ways(watched: Watched, api: Api, how: str) -> None:
    """First it says why it cannot be; then the button, and what can be copied of it, have the same end."""
    name, page = f"gone-{how}", watched.page
    session = await work(api, name)
    await watched.go(f"nodes/{name}")
    button = page.locator("main .actions").get_by_role("button", name="Forget", exact=True)
    reason = await button.get_attribute("title")
    await api.post(f"/sessions/{session}/close", {})
    await page.reload()
    await button.click()
    dialog = page.locator("dialog[open]")
    if how == "button":
        await dialog.get_by_role("button", name="Forget", exact=True).click()
        await page.wait_for_url("**/nodes")
    else:
        await dialog.locator("summary").click()
        await dialog.locator(f"[data-copies={how}]").click()
        run(how, await page.evaluate("navigator.clipboard.readText()"))

    assert reason is not None
    assert reason.startswith("It cannot be forgotten: 1 process of it is connected.")
    assert name not in {one["id"] for one in (await api.get("/nodes", show_all="true"))["nodes"]}


def run(how: str, text: str, *, api_key: str = "") -> str:
    """What was copied, as somebody pastes it; what it says."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), "LC_ALL": "C.UTF-8"}
    environment |= {"CONTROLPLANE_API_KEY": api_key} if api_key else {}
    if how == "python":
        head, _, body = text.partition("async with")
        inner = body.replace("\n", "\n    ")
        script = f"import asyncio\n{head}\nasync def main():\n    async with{inner}\nasyncio.run(main())"
        command = [sys.executable, "-c", script]
    else:
        words = text.replace("controlplane ", f"{sys.executable} -m controlplane ", 1) if how == "cli" else text
        command = ["bash", "-ec", words.replace("curl ", "curl -sf ", 1)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    return done.stdout


async def test_a_refusal_is_said_where_it_was_asked(watched: Watched, api: Api) -> None:
    """What somebody else did meanwhile is no surprise: the dialog says so and stays."""
    session = await work(api, "late")
    id_ = (await api.submit("late.echo"))["execution_id"]
    await watched.go(f"executions/{id_}")
    await watched.page.locator("#live").click()  # this page looks on no more
    await api.finish(session, await api.take(session), {})
    dialog = await open_action(watched.page, "Cancel")
    await dialog.get_by_role("button", name="Cancel", exact=True).click()
    await expect(dialog.locator(".said")).to_contain_text("ended")
    watched.said = [one for one in watched.said if "409" not in one]


async def test_many_at_once(watched: Watched, api: Api) -> None:
    """All that match: counted first, typed to be sure, and looked at until it is over."""
    await api.register("many")
    ids = [(await api.submit("many.echo"))["execution_id"] for _ in range(60)]
    await watched.go("executions?target=many.echo")
    page = watched.page
    await page.locator("#bulk input[name=all]").check()
    await page.locator("[data-bulk=cancel]").click()
    dialog = page.locator("#bulk-do")
    await expect(dialog).to_contain_text("60 would be meant.")
    begin = dialog.get_by_role("button", name="Begin")
    await expect(begin).to_be_disabled()
    await dialog.get_by_label("Type").fill("cancel")
    await begin.click()
    await page.wait_for_url("**/bulk/bulk_*")
    await expect(page.locator(".head-line .badge")).to_contain_text("done", timeout=60_000)

    assert {(await api.read(id_))["status"] for id_ in ids} == {"cancelled"}


async def test_chosen_ones(watched: Watched, api: Api) -> None:
    """With keys alone: the next row, choose it; the rest stays as it is."""
    await api.register("few")
    ids = [(await api.submit("few.echo"))["execution_id"] for _ in range(3)]
    await watched.go("executions?target=few.echo")
    page = watched.page
    for key in ("j", "x", "j", "x"):
        await page.keyboard.press(key)
    await page.locator("[data-bulk=pause]").click()
    await page.locator("#bulk-do").get_by_role("button", name="Begin").click()
    await page.wait_for_url("**/bulk/bulk_*")
    await until(lambda: status_is(api, ids[1], "waiting"))

    assert [(await api.read(id_))["status"] for id_ in ids] == ["queued", "waiting", "waiting"]


async def test_nothing_that_is_told_becomes_code(watched: Watched, api: Api) -> None:
    """Through every field that callers and nodes control, on every page that shows it."""
    await api.register("evil", description=XSS[0], tags=XSS)
    session = await api.open_session("evil")
    for said in XSS:
        key = {"X-Session-ID": said, "X-Actor-ID": said, "X-Run-ID": said}
        sent = {"target": "evil.echo", "input": {said: said}, "headers": key, "concurrency_key": said}
        id_ = (await api.submit(**sent))["execution_id"]
        lease = await api.take(session)
        line = fence(lease) | {"message": said, "attributes": {said: said}, "level": "error"}
        told = {"entries": [line], "progress": [fence(lease) | {"fraction": 0.1, "message": said}]}
        await api.post(f"/sessions/{session}/logs", told)
        ops = [{"op": "set", "key": said, "value": said, "scope": "run", "scope_id": said}]
        await api.post("/memory/write", {"writes": [fence(lease) | {"ops": ops}]})
        steps = [{"op": "done", "name": said, "value": said}]
        await api.post("/steps/write", {"writes": [fence(lease) | {"ops": steps}]})
        over = {"error": said, "error_class": said, "error_details": {said: said}, "traceback": said}
        await api.finish(session, lease, status="failed", **over)
        for tab in ("timeline", "logs", "data", "attempts", "children", "steps", "webhooks", "events"):
            await watched.go(f"executions/{id_}?tab={tab}")
            assert await watched.page.evaluate("window.hit") is None, (tab, said)
    for path in ("", "executions?target=evil.echo", "reasoners", "nodes", "nodes/evil", "limits"):
        await watched.go(path)
        assert await watched.page.evaluate("window.hit") is None, path
        assert await watched.page.locator("main iframe, main script, main img").count() == 0


async def test_keys_lead_around(watched: Watched) -> None:
    """To the search box, to pages, and to what keys there are."""
    page = watched.page
    await watched.go("")
    await page.keyboard.press("Control+k")
    await page.keyboard.type("corpus.process")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/executions?target=corpus.process")
    await page.keyboard.press("?")
    await expect(page.locator("#keys")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator("#keys")).to_be_hidden()
    await page.keyboard.press("g")
    await page.keyboard.press("n")
    await page.wait_for_url("**/nodes")


async def test_the_theme_is_kept(watched: Watched) -> None:
    """From one page to the next, and back to what the system says."""
    page = watched.page
    await watched.go("")
    dark = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(dark)
    await page.locator("#theme").click()
    await watched.go("nodes")

    assert await page.evaluate(dark) != light
    await page.locator("#theme").click()
    await page.locator("#theme").click()
    await expect(page.locator("#theme .word")).to_have_text("auto")
    assert await page.evaluate(dark) == light


async def test_a_hidden_tab_asks_nothing(watched: Watched, api: Api) -> None:
    """The stream ends while nobody looks, and what was missed is there when somebody does."""
    await api.register("hidden")
    id_ = (await api.submit("hidden.echo"))["execution_id"]
    await watched.go(f"executions/{id_}")
    page = watched.page
    await page.evaluate(HIDE % "true")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await api.post(f"/executions/{id_}/cancel", {})

    assert asked == []
    await page.evaluate(HIDE % "false")
    await expect(page.locator("#head .badge")).to_contain_text("cancelled")


async def test_a_view_is_a_name_for_an_address(watched: Watched) -> None:
    """With its filter and its columns, kept by the browser until it is forgotten."""
    page = watched.page
    await watched.go("executions?status=failed&target=mail.classify")
    await page.locator("#columns summary").click()
    await page.locator("#columns [value=run_id]").check()
    await page.locator("#columns").get_by_role("button", name="Show").click()
    await page.locator("#views summary").click()
    await page.get_by_label("Name of this view").fill("<i>mail</i>")
    await page.get_by_role("button", name="Keep").click()
    await watched.go("executions")
    await expect(page.locator("#list thead")).not_to_contain_text("Run")
    await page.locator("#views summary").click()
    await page.get_by_role("link", name="<i>mail</i>").click()
    await expect(page.locator("#list thead")).to_contain_text("Run")

    assert await page.get_by_label("Target", exact=True).input_value() == "mail.classify"
    await page.locator("#views summary").click()
    await page.get_by_role("button", name="Forget the view").click()
    await page.reload()
    assert await page.locator("#views li").count() == 0


async def test_following_a_log_ends_where_somebody_reads(watched: Watched, api: Api) -> None:
    """Scrolled up it stays where it is, whatever comes; at its end it goes on."""
    session = await work(api, "tail")
    id_ = (await api.submit("tail.echo"))["execution_id"]
    lease = await api.take(session)
    for first in range(0, 600, 100):
        lines = [fence(lease) | {"message": f"line {n}"} for n in range(first, first + 100)]
        assert (await api.post(f"/sessions/{session}/logs", {"entries": lines})).is_success
    await watched.go(f"executions/{id_}?tab=logs")
    page = watched.page
    log, follow, last = page.locator("#log"), page.locator("#log-follow"), page.locator("#log .line").last
    await expect(last).to_contain_text("line 599")
    await expect(page.locator("#log .line")).to_have_count(500)
    await log.evaluate("it => it.scrollTop = 100")
    await expect(follow).not_to_be_checked()
    await api.post(f"/sessions/{session}/logs", {"entries": [fence(lease) | {"message": "the newest"}]})
    await page.locator("#log-newest").click()
    await expect(follow).to_be_checked()

    await expect(last).to_contain_text("the newest")
    await page.locator("#log-begin").click()
    await expect(page.locator("#log .line").first).to_contain_text("line 0")
    await expect(follow).not_to_be_checked()
