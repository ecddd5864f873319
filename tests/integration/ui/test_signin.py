"""Signing in: a key once, then a cookie that can do what the key can, and no more."""

from __future__ import annotations

import re
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest

from controlplane.security.keys import digest
from tests.integration.api.serving import KEYRING, Api, the_problem
from tests.integration.api.test_veil import keyed

OURS = {"X-Controlplane-Page": "1"}
HTML = {"Accept": "text/html"}
HOUSE = {"api_key": "starter"}


@pytest.fixture
async def browser(shared: Api) -> AsyncIterator[httpx.AsyncClient]:
    """One that keeps cookies."""
    async with httpx.AsyncClient(base_url=shared.url, headers=HTML, trust_env=False, timeout=30) as client:
        yield client


async def sign_in(browser: httpx.AsyncClient, key: str, **headers: str) -> httpx.Response:
    return await browser.post("/login", data={"key": key}, headers=OURS | headers)


async def test_who_is_not_known_is_asked_to_sign_in(browser: httpx.AsyncClient) -> None:
    """And comes to the page that was wanted afterwards."""
    answer = await browser.get("/executions?status=failed")

    assert answer.status_code == 303
    assert answer.headers["location"] == "./login?next=executions%3Fstatus%3Dfailed"


async def test_a_key_opens_the_pages(browser: httpx.AsyncClient) -> None:
    """Until somebody signs out."""
    assert (await sign_in(browser, "starter")).status_code == 204
    assert (await browser.get("/executions")).status_code == 200
    await browser.post("/logout", headers=OURS)

    assert (await browser.get("/executions")).status_code == 303


async def test_the_cookie_is_kept_from_scripts_and_others(browser: httpx.AsyncClient) -> None:
    """HttpOnly, SameSite, for no other folder than ours, and Secure where the page came by https."""
    plain = (await sign_in(browser, "starter")).headers["set-cookie"]
    secure = (await sign_in(browser, "starter", Origin="https://ops.example")).headers["set-cookie"]

    assert re.fullmatch(r"controlplane_signin=[\w-]+; HttpOnly; Max-Age=43200; SameSite=lax", plain)
    assert secure.endswith("; Secure")
    assert "starter" not in plain


@pytest.mark.parametrize("key", ["", "wrong", "cp_01j00000000000000000000000_", "é"])
async def test_a_wrong_key_opens_nothing(browser: httpx.AsyncClient, key: str) -> None:
    """It is said, and no cookie is set."""
    answer = await sign_in(browser, key)

    the_problem(answer, 401, "unauthorized")
    assert "set-cookie" not in answer.headers


async def test_a_form_of_another_page_signs_nobody_in(browser: httpx.AsyncClient) -> None:
    """It cannot send our header."""
    answer = await browser.post("/login", data={"key": "starter"})

    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


async def test_a_cookie_alone_changes_nothing(browser: httpx.AsyncClient) -> None:
    """A form on a foreign page would bring it along."""
    await sign_in(browser, "starter")

    the_problem(await browser.post("/api/v1/namespaces", json={"name": "forged"}), 401, "unauthorized")
    assert (await browser.post("/api/v1/namespaces", json={"name": "made"}, headers=OURS)).status_code == 201


async def test_a_cookie_can_what_its_key_can(shared: Api, browser: httpx.AsyncClient) -> None:
    """Its scopes, and its name in the audit log."""
    shared.client.headers["X-API-Key"] = "starter"
    made = (await shared.post("/keys", {"name": "watcher", "scopes": ["read"]})).json()
    await sign_in(browser, made["key"])

    assert "watcher" in (await browser.get("/")).text
    the_problem(await browser.post("/api/v1/bulk", json={}, headers=OURS), 403, "scope_missing")


async def test_a_revoked_key_ends_its_cookies(shared: Api, browser: httpx.AsyncClient) -> None:
    """At once, as it ends everything else."""
    shared.client.headers["X-API-Key"] = "starter"
    made = (await shared.post("/keys", {"name": "leaver", "scopes": ["read"]})).json()
    await sign_in(browser, made["key"])
    assert (await browser.get("/nodes")).status_code == 200
    await shared.post(f"/keys/{made['key_id']}/revoke")

    assert (await browser.get("/nodes")).status_code == 303


@pytest.mark.parametrize("change", [lambda v: v[:-2] + "AA", lambda v: "A" * len(v), lambda _: "%00", lambda v: v * 9])
async def test_a_forged_cookie_is_none(browser: httpx.AsyncClient, change) -> None:
    """Whoever changes a letter of it has not signed in."""
    value = re.match(r"controlplane_signin=([\w-]+)", (await sign_in(browser, "starter")).headers["set-cookie"])[1]
    browser.cookies.clear()
    answer = await browser.get("/", headers={"Cookie": f"controlplane_signin={change(value)}"})

    assert answer.status_code == 303


@pytest.mark.parametrize(("hours", "status"), [(11, 200), (13, 303)])
async def test_a_cookie_gets_too_old(browser: httpx.AsyncClient, hours: int, status: int) -> None:
    """After twelve hours, whatever the browser says."""
    begun = UUID(int=int((time.time() - hours * 3600) * 1000) << 80)
    sealed = KEYRING.seal(begun.bytes + UUID(int=0).bytes + digest(b"starter"), bound_to=b"cookie.signin")
    value = urlsafe_b64encode(sealed).decode().rstrip("=")
    answer = await browser.get("/nodes", headers={"Cookie": f"controlplane_signin={value}"})

    assert answer.status_code == status


async def test_a_header_comes_before_a_cookie(shared: Api, browser: httpx.AsyncClient) -> None:
    """Who sends both is who the header says."""
    await sign_in(browser, "starter")

    the_problem(await browser.get("/api/v1/nodes", headers={"X-API-Key": "wrong"}), 401, "unauthorized")


async def test_without_keys_there_is_nothing_to_sign_in_to(api: Api) -> None:
    """Every page is open to this machine, by a name that is surely this one."""
    assert (await api.client.get("/", headers=HTML)).status_code == 200
    refused = await api.client.get("/", headers=HTML | {"Host": "rebound.example"})

    assert refused.status_code == 401
    assert "localhost" in refused.text


async def test_a_page_says_which_scope_is_missing(api: Api) -> None:
    """A key that may only execute sees no page, and reads why."""
    async with keyed(api, hide_payloads=False, scopes=["execute"]) as one:
        answer = await one.client.get("/executions", headers=HTML)

    assert answer.status_code == 403
    assert "scope read" in answer.text


async def test_parts_and_programs_are_told_in_their_own_way(shared: Api, browser: httpx.AsyncClient) -> None:
    """A part of a page leads the whole page to signing in; a program hears a problem."""
    part = await browser.get("/ui/x/overview", headers={"HX-Request": "true"})
    program = await shared.client.get("/executions")

    assert (part.status_code, part.headers["hx-redirect"]) == (401, "../../login?next=ui%2Fx%2Foverview")
    the_problem(program, 401, "unauthorized")
