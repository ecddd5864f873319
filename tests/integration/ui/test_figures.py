"""What ended in the last 24 hours, on the pages: in words, as bars, and only one's own."""

from __future__ import annotations

import re
from html import unescape

from tests.integration.api.serving import Api

HTML = {"Accept": "text/html"}


async def ended(api: Api, *statuses: str) -> None:
    """One execution each that ended so."""
    session = await api.node()
    for status in statuses:
        await api.submit("n.echo")
        lease = await api.take(session)
        over = {"error": "no", "retryable": False} if status == "failed" else {}
        assert (await api.finish(session, lease, {}, status=status, **over)).status_code == 200


async def text(api: Api, path: str) -> str:
    answer = await api.client.get(path, headers=HTML)
    assert answer.status_code == 200, answer.text
    return unescape(answer.text)


async def test_the_overview_counts_what_ended(api: Api) -> None:
    """In a bar, in the legend and in the table; each leads to a list of just so many."""
    await ended(api, "succeeded", "failed", "succeeded")
    page = await text(api, "/")
    links = re.findall(r'<td class="num"><a href="\./([^"]+)">(\d+)</a>', page)

    assert [count for _, count in links] == ["2", "1"]
    for link, count in links:
        assert (await text(api, f"/{link}")).count('class="age"') == int(count)
    assert len(re.findall(r'<rect class="piece"', page)) == 2
    assert re.search(r'succeeded <b class="num">2</b>', page)
    assert 'style="' not in page


async def test_a_reasoner_says_how_it_goes(api: Api) -> None:
    """Its row and its page: how many, which share failed, who serves it, what it did last, what begins it."""
    await ended(api, "succeeded", "failed", "succeeded", "failed")
    await api.post("/schedules", {"name": "nightly", "target": "n.echo", "cron": "0 2 * * *"})
    rows, page = await text(api, "/reasoners"), await text(api, "/reasoners/n.echo")

    assert "50.0 %" in rows
    assert 'href="./reasoners/n.echo#figures"' in rows
    assert "50.0 %" in page
    assert "1 process, 0 of" in page
    assert page.count('class="age"') == 4
    assert 'href="../executions?target=n.echo&status=failed' in page
    assert 'href="../schedules/nightly"' in page


async def test_a_day_without_an_end(api: Api) -> None:
    """The pages say so, and draw nothing."""
    await api.node()

    for path in ("/", "/reasoners/n.echo"):
        page = await text(api, path)
        assert "Nothing has ended in the last 24 hours" in page
        assert 'class="piece"' not in page


async def test_no_other_namespace_is_counted(api: Api) -> None:
    """A key of another one sees a day in which nothing ended."""
    await ended(api, "succeeded")
    await api.post("/namespaces", {"name": "other"})
    made = (await api.post("/keys", {"name": "k", "scopes": ["read"], "namespace": "other"})).json()
    answer = await api.client.get("/", headers=HTML | {"X-API-Key": made["key"]})

    assert "Nothing has ended in the last 24 hours" in answer.text
