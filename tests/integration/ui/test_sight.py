"""What pages show of what there is: to who may see payloads, to who may not, and to others."""

from __future__ import annotations

import re

from controlplane.api.operation import Operation
from controlplane.app import OPERATIONS
from controlplane.ui.execution import TABS
from controlplane.ui.pages import pages
from tests.integration.api.serving import Api
from tests.integration.api.test_veil import CANARY, Planted, blind, planted, seeing, settings

PAGES = [one for one in pages(OPERATIONS) if one.page]
HTML = {"Accept": "text/html"}
__all__ = ["blind", "planted", "seeing", "settings"]


def paths(one: Operation, own: Planted) -> list[str]:
    """The addresses of a page, with every tab of it."""
    found = own.paths_of(one.path)
    tabs = TABS if "{tab}" in one.path or one.path == "/executions/{execution_id}" else [""]
    return [f"{path.replace('{tab}', tab)}?tab={tab}&ids={own.executions[0]}" for path in found for tab in tabs]


def addresses(own: Planted) -> list[str]:
    own.path["tab"] = "{tab}"
    return [path for one in PAGES for path in paths(one, own)]


async def test_every_page_shows_what_its_reader_may_see(api: Api, seeing: Api, blind: Api, planted: Planted) -> None:
    """A key that hides payloads finds them in none; another finds them in those that show some."""
    shown = set()
    for path in addresses(planted):
        hidden, seen = [await one.client.get(path, headers=HTML) for one in (blind, seeing)]
        assert seen.status_code in (200, 303), (path, seen.text[:500])
        assert hidden.status_code in (200, 303), (path, hidden.text[:500])
        assert CANARY not in hidden.text, path
        shown |= {path.partition("tab=")[2].partition("&")[0]} if CANARY in seen.text else set()

    assert {"logs", "data", "steps", "events", "webhooks"} <= shown


async def test_pages_of_others_are_not_there(api: Api, planted: Planted) -> None:
    """What is in another namespace is found on no page."""
    await api.post("/namespaces", {"name": "other"})
    made = (await api.post("/keys", {"name": "o", "scopes": ["read", "admin"], "namespace": "other"})).json()
    api.client.headers["X-API-Key"] = made["key"]
    for path in addresses(planted):
        answer = await api.client.get(path, headers=HTML)
        assert CANARY not in answer.text, path
        assert "n.echo" not in answer.text, path


async def test_a_page_leads_nowhere_else(api: Api, planted: Planted) -> None:
    """Every address in it is relative: under whichever path a proxy shows it, it holds."""
    api.client.headers["X-API-Key"] = (await api.post("/keys", {"name": "r", "scopes": ["read", "admin"]})).json()[
        "key"
    ]
    for path in addresses(planted):
        text = (await api.client.get(path, headers=HTML)).text
        found = re.findall(r'(?:href|src|action)="([^"]*)"', text)
        assert [one for one in found if re.match(r"/|\w+:", one) and "/approvals/" not in one] == [], path
