"""The settings page as text: keys, never themselves, and who changed what."""

from __future__ import annotations

import re
from html import unescape

import pytest

from tests.integration.api.serving import Api
from tests.integration.api.test_veil import keyed

HTML = {"Accept": "text/html"}
HOSTILE = "\"><script>window.hit=1</script>'{{7*7}}"


@pytest.fixture
def settings() -> dict[str, object]:
    return {"api_key": "starter"}


@pytest.fixture
async def admin(api: Api) -> Api:
    """Who came with the key that the server was started with."""
    api.client.headers["X-API-Key"] = "starter"
    return api


async def page(api: Api, **query: str) -> str:
    answer = await api.client.get("/settings", params=query, headers=HTML)
    assert answer.status_code == 200, answer.text
    return unescape(answer.text)


async def test_a_key_is_listed_and_not_shown(admin: Api) -> None:
    """With all that is known of it, but for itself; so in the audit log."""
    asked = {"name": "ci", "scopes": ["node"], "node_ids": ["w-*"], "expires_in_seconds": 60}
    made = (await admin.post("/keys", asked)).json()
    text = await page(admin)

    assert "node as w-*" in text
    assert made["prefix"] in text
    assert made["expires_at"] in text
    assert made["key"] not in text
    assert made["key"].removeprefix(made["prefix"]) not in text
    assert f"api/v1/keys/{made['key_id']}/revoke" in text


async def test_what_is_over_is_not_ended_again(admin: Api) -> None:
    """Each button says why it is off, and by whom it ended stands there."""
    made = (await admin.post("/keys", {"name": "old", "scopes": ["read"]})).json()
    await admin.post(f"/keys/{made['key_id']}/rotate", {})
    rotated = await page(admin)
    await admin.post(f"/keys/{made['key_id']}/revoke", {})
    revoked = await page(admin)

    assert 'data-off="Another has taken its place."' in rotated
    assert revoked.count('data-off="It is revoked."') == 2
    assert f"do-rotate-{made['key_id']}" not in rotated
    assert "by environment" in revoked


async def test_keys_are_for_admins(admin: Api) -> None:
    """Anybody else is told what it takes, and sees neither keys nor who did what."""
    await admin.post("/keys", {"name": "not-for-all", "scopes": ["read"]})
    async with keyed(admin, hide_payloads=False, scopes=["read", "operate"]) as one:
        text = await page(one)

    assert 'data-off="Your key may not: this needs the scope admin."' in text
    assert "not-for-all" not in text
    assert "do-new" not in text


async def test_of_one_namespace(admin: Api) -> None:
    """An admin of `default` looks at another by its name; what is done there is done there. One of another does not."""
    await admin.post("/namespaces", {"name": "other"})
    made = (await admin.post("/keys", {"name": "theirs", "scopes": ["admin", "read"], "namespace": "other"})).json()
    own, theirs = await page(admin), await page(admin, namespace="other")
    admin.client.headers["X-API-Key"] = made["key"]
    inside = await page(admin)

    assert (made["prefix"] in own, made["prefix"] in theirs) == (False, True)
    assert f"keys/{made['key_id']}/revoke?namespace=other" in theirs
    assert "--namespace other" in theirs
    assert 'name="namespace"' not in inside
    assert (await admin.client.get("/settings?namespace=default", headers=HTML)).status_code == 403


async def test_your_own_key(admin: Api) -> None:
    """Whoever is about to lock themselves out is told."""
    made = (await admin.post("/keys", {"name": "mine", "scopes": ["admin", "read"]})).json()
    admin.client.headers["X-API-Key"] = made["key"]

    assert (await page(admin)).count("You came in by this very key") == 1


async def test_the_audit_log_says_what_changed(admin: Api) -> None:
    """Before and after, folded; the older ones are one link away."""
    for most in (3, 4):
        await admin.client.put("/api/v1/limits/key:k", json={"concurrency_max": most})
    text = await page(admin)
    older = await page(admin, before="2")

    assert re.search(r"<dt>concurrency_max</dt><dd><del>3</del> <ins>4</ins></dd>", text)
    assert "<details open" not in text
    assert ("<ins>4</ins>" in older, "<ins>3</ins>" in older) == (False, True)


async def test_a_name_is_no_tag(admin: Api) -> None:
    """Of a key, wherever it stands."""
    await admin.post("/keys", {"name": HOSTILE, "scopes": ["read"]})
    raw = (await admin.client.get("/settings", headers=HTML)).text

    assert "<script>window" not in raw
    assert unescape(raw).count(HOSTILE) >= 3


@pytest.mark.parametrize("query", ["namespace=%00", "cursor=x", "before=x", "namespace=nobody", "before=-1"])
async def test_addresses_that_cannot_be(admin: Api, query: str) -> None:
    """Are refused in words."""
    answer = await admin.client.get(f"/settings?{query}", headers=HTML)

    assert answer.status_code in (404, 422)
