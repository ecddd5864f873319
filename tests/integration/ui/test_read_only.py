"""A dashboard that only shows: for everybody by a setting, for one key by its scopes."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.integration.api.serving import Api, the_problem
from tests.integration.api.test_veil import ON, Planted, keyed, planted
from tests.integration.ui.test_sight import addresses
from tests.integration.ui.test_signin import HTML, OURS, browser, sign_in

HOUSE = {"api_key": "starter", "ui_read_only": True}
WAYS_TO_ACT = re.compile(r'data-opens="[^"]*"|<dialog id="do-[^"]*"|<button type="submit"[^>]*>')
OFF = re.compile(r'data-off="([^"]+)"')
REASON = "This dashboard is read-only: use the API, the command line or an SDK."
__all__ = ["browser", "planted"]


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> dict[str, object]:
    return ON | getattr(request, "param", {})


async def off(reader: Api, planted: Planted) -> set[str]:
    """Why the buttons of all pages and tabs are off, of which none may be on."""
    said: set[str] = set()
    for path in addresses(planted):
        answer = await reader.client.get(path, headers=HTML)
        assert answer.status_code in (200, 303), path
        assert path.startswith("/login") or WAYS_TO_ACT.findall(answer.text) == [], path
        said |= set(OFF.findall(answer.text))
    return said


@pytest.mark.parametrize("settings", [{"ui_read_only": True}], indirect=True, ids=["flag"])
async def test_no_page_has_a_way_to_act(api: Api, planted: Planted) -> None:
    """Whoever looks: every button is off, and all give the same reason."""
    assert await off(api, planted) == {REASON}


async def test_a_key_that_reads_has_no_way_to_act(api: Api, planted: Planted) -> None:
    """Each button says what the key lacks or why it is off for everybody, and the top of each page says it all."""
    async with keyed(api, hide_payloads=False, scopes=["read"]) as one:
        said = await off(one, planted)
        front = (await one.client.get("/", headers=HTML)).text

    assert "Your key may not: this needs the scope operate." in said
    assert "Your key may look and change nothing" in front
    assert "read-only" not in (await api.client.get("/", headers=HTML)).text


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/bulk"), ("POST", "/executions/nonsense/cancel"), ("PUT", "/limits/key:k"), ("DELETE", "/limits/key:k")],
)
async def test_what_a_page_sends_is_refused(shared: Api, browser: httpx.AsyncClient, method: str, path: str) -> None:
    """Before it is looked at, with the reason, whatever the key may do."""
    await sign_in(browser, "starter")
    problem = the_problem(
        await browser.request(method, f"/api/v1{path}", json={}, headers=OURS), 403, "pages_read_only"
    )

    assert "CONTROLPLANE_UI_READ_ONLY" in problem["fix"]
    assert (await browser.get("/limits")).status_code == 200


async def test_other_clients_are_not_meant(shared: Api, browser: httpx.AsyncClient) -> None:
    """Signing in and out goes on, and the API changes what a page may not."""
    assert (await sign_in(browser, "starter")).status_code == 204
    assert (await browser.post("/logout", headers=OURS)).status_code == 204
    key = {"X-API-Key": "starter"}

    assert (await browser.put("/api/v1/limits/key:k", json={"concurrency_max": 1}, headers=key)).is_success
