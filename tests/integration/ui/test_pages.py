"""Pages as text: what stands in them, for whom, and what does not."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest

from controlplane.app import OPERATIONS
from controlplane.ui.executions import USUAL
from controlplane.ui.pages import pages
from tests.integration.api.corpus import WORDS
from tests.integration.api.serving import Api, Receiver, fence
from tests.integration.api.test_veil import keyed

PAGES = [one for one in pages(OPERATIONS) if one.page]
HTML = {"Accept": "text/html"}
BIG = b"12345678901234567890123"
XSS = [
    '"><script>alert(1)</script>',
    "<img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "{{7*7}}",
    "' autofocus x='",
]
LONG = 1_000


@pytest.mark.parametrize("path", [one.path for one in PAGES if "{" not in one.path])
async def test_a_page_of_nothing(shared: Api, path: str) -> None:
    """Each is there before anything has happened."""
    answer = await shared.client.get(path, headers=HTML)

    assert answer.status_code in (200, 303), answer.text
    assert answer.is_redirect or "script-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("name", ["executions", "find", "webhooks", "limits", "schedules", "login", "executions/x"])
async def test_hostile_addresses(shared: Api, name: str) -> None:
    """They are refused in words, or mean nothing; nothing breaks, and nothing becomes a tag."""
    fields = ["q", "status", "target", "cursor", "since", "created_after", "run_id", "next", "tab", "ids", "above"]
    fields += ["columns", "before", "newest"]
    for text in [*(one for one in WORDS if len(one) < LONG), *XSS]:
        answer = await shared.client.get(f"/{name}", params=dict.fromkeys(fields, text), headers=HTML)
        assert answer.status_code < 500, (name, text)
        assert "<script>alert" not in answer.text
        assert "<img" not in answer.text


async def test_numbers_are_exact(api: Api) -> None:
    """Through submit, run and page."""
    session = await api.node()
    sent = await api.client.post("/api/v1/execute/async/n.echo", content=b'{"input":{"id":' + BIG + b',"x":1.10}}')
    lease = await api.take(session)
    body = b'{"results":[{"execution_id":"%b","attempt":1,"status":"succeeded","result":%b}]}'
    await api.client.post(f"/api/v1/sessions/{session}/results", content=body % (lease["execution_id"].encode(), BIG))
    answer = await api.client.get(f"/executions/{sent.json()['execution_id']}?tab=data", headers=HTML)

    assert answer.text.count(BIG.decode()) >= 2
    assert ">1.10<" in answer.text


async def test_a_page_that_is_not_there(shared: Api) -> None:
    """For people a page, for programs a problem."""
    page = await shared.client.get("/no/such/page", headers=HTML)
    problem = await shared.client.get("/no/such/page")

    assert (page.status_code, problem.status_code) == (404, 404)
    assert "<h1>Not found</h1>" in page.text
    assert 'href="../../"' in page.text
    assert problem.headers["content-type"] == "application/problem+json"


async def test_an_unknown_execution_says_so(shared: Api) -> None:
    """With the shell around it, from which other pages are one click away."""
    answer = await shared.client.get(f"/executions/exec_{'0' * 26}", headers=HTML)

    assert answer.status_code == 404
    assert "There is no such execution" in unescape(answer.text) or "Not found" in answer.text


async def test_a_filter_that_cannot_be_stays_in_its_form(shared: Api) -> None:
    """With what was typed, and what is wrong with it."""
    answer = await shared.client.get("/executions?created_after=yesterday&target=n.echo", headers=HTML)

    assert answer.status_code == 422
    assert 'value="yesterday"' in answer.text
    assert "Not an instant" in answer.text


async def test_files_are_kept_for_good(shared: Api) -> None:
    """By what is in them; asked for by an old mark they are not."""
    page = await shared.client.get("/", headers=HTML)
    name = re.search(r"static/\w+/pages\.css", page.text)[0]
    kept, other = await shared.client.get(f"/{name}"), await shared.client.get("/static/0/pages.css")

    assert kept.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert other.headers["cache-control"] == "no-store"
    assert kept.headers["x-content-type-options"] == "nosniff"
    for wrong in ("vendored.json", "htmx.LICENSE", "..%2Fpaint.py", "nothing.js"):
        assert (await shared.client.get(f"/static/0/{wrong}")).status_code == 404


async def test_rows_are_what_was_asked_for(api: Api) -> None:
    """In the order of the page, without what is not there."""
    await api.node()
    ids = [(await api.submit())["execution_id"] for _ in range(3)]
    text = (await api.client.get(f"/ui/x/executions/rows?ids={ids[2]},nonsense,{ids[0]}", headers=HTML)).text

    assert re.findall(r'<tr id="(\w+)"', text) == [ids[2], ids[0]]


async def test_columns_are_in_the_address(api: Api) -> None:
    """The list, its rows as they stand later, and every link that goes on from it keep the columns that were chosen."""
    await api.node()
    id_ = (await api.submit(headers={"X-Session-ID": "a session"}))["execution_id"]
    page = (
        await api.client.get("/executions?columns=session_key&columns=run_id&columns=x&since=1h", headers=HTML)
    ).text
    rows = (await api.client.get(f"/ui/x/executions/rows?columns=session_key&ids={id_}", headers=HTML)).text

    assert re.findall(r'<th class="(?:num|text)">([^<]+)</th>', page) == ["Run", "Session"]
    assert 'data-query="since=1h&amp;columns=run_id,session_key"' in page
    assert 'name="columns" value="run_id,session_key"' in page
    assert 'data-says="Session"' in rows
    assert "session_key=a%20session" in rows
    assert (
        "data-says" not in (await api.client.get(f"/ui/x/executions/rows?columns=target&ids={id_}", headers=HTML)).text
    )


@pytest.mark.parametrize("said", ["", "columns=", "columns=x", "columns=status", "columns=x,'%22%3E"])
async def test_columns_that_are_none_are_the_usual_ones(shared: Api, said: str) -> None:
    """And no word of them gets into an address that we make."""
    text = (await shared.client.get(f"/executions?{said}", headers=HTML)).text

    assert re.findall(r'name="columns" value="(\w+)" checked', text) == list(USUAL)
    assert "As usual" not in text


async def test_how_many_are_newer(api: Api) -> None:
    """Of those that match."""
    await api.node()
    first = (await api.submit())["execution_id"]
    await api.submit()
    await api.submit()
    text = (await api.client.get(f"/ui/x/executions/new?above={first}&status=queued", headers=HTML)).text
    none = (await api.client.get(f"/ui/x/executions/new?above={first}&status=failed", headers=HTML)).text

    assert "2 new" in text
    assert "new" not in none


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (f"exec_{'0' * 26}", f"executions/exec_{'0' * 26}"),
        ("run_abc", "executions?run_id=run_abc"),
        ("n.echo", "executions?target=n.echo"),
        ("corpus", "executions?node_id=corpus"),
        ("//evil.example", "executions?target=%2F%2Fevil.example"),
        ("", "executions"),
    ],
)
async def test_the_search_box_leads_somewhere(shared: Api, text: str, where: str) -> None:
    """Never out of the house."""
    answer = await shared.client.get("/find", params={"q": text}, headers=HTML)

    assert answer.headers["location"] == f"./{where}"


async def test_a_button_says_why_it_is_off(api: Api) -> None:
    """What has ended is not cancelled; a key that may not is told."""
    session = await api.node()
    ended = await api.run(session, {})
    answer = await api.client.get(f"/executions/{ended}", headers=HTML)
    async with keyed(api, hide_payloads=False, scopes=["read"]) as one:
        for_reader = await one.client.get(f"/executions/{ended}", headers=HTML)

    assert 'data-off="It has ended: succeeded."' in answer.text
    assert "Your key may not: this needs the scope execute." in for_reader.text


async def test_a_webhook_can_be_sent_again(api: Api, receiver: Receiver) -> None:
    """Its page has every try, and the button for one more."""
    session = await api.node()
    ended = await api.run(session, {}, webhook={"url": receiver.url})
    await receiver.wait_for(1)
    answer = await api.client.get(f"/executions/{ended}?tab=webhooks", headers=HTML)

    assert "execution.completed" in answer.text
    assert "Send again" in answer.text


SCHEMA = {
    "type": "object",
    "required": ["city", "days"],
    "properties": {
        "city": {"type": "string", "description": "Where it <b>rains</b>", "maxLength": 20},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "scale": {"enum": ["celsius", "kelvin"], "default": "celsius"},
        "fast": {"type": "boolean"},
        "share": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
}


async def test_a_form_is_made_from_the_schema(api: Api) -> None:
    """A field for each member, with what its author says of it, and the editor beside them."""
    await api.node(input_schema=SCHEMA)
    text = (await api.client.get("/reasoners/n.echo", headers=HTML)).text

    assert len(re.findall(r"data-field=", text)) == len(SCHEMA["properties"])
    assert text.count("(required)") == 2
    assert "Where it &lt;b&gt;rains&lt;/b&gt;" in text
    assert '<option value="&#34;kelvin&#34;">kelvin</option>' in text
    assert re.search(r'<textarea id="run-input" name="input"', text)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        [],
        "x",
        True,
        {"properties": []},
        {"properties": {"a": 1e999}},
        {"properties": {str(n): {} for n in range(99)}},
        {"properties": {"a": {"enum": [{"x": 1}], "$ref": 4, "anyOf": 7, "type": ["string"], "description": {}}}},
    ],
    ids=range(8),
)
async def test_whatever_a_node_says_of_its_input(api: Api, schema: object) -> None:
    """There is a page with an editor: a schema is the word of a node, and may be nonsense."""
    body = {"id": "n", "reasoners": [{"id": "echo", "input_schema": schema}]}
    await api.client.post("/api/v1/nodes/register", content=json.dumps(body).replace("Infinity", "1e999"))
    answer = await api.client.get("/reasoners/n.echo", headers=HTML)

    assert answer.status_code in (200, 404)
    assert answer.status_code == 404 or 'name="input"' in answer.text


@pytest.mark.parametrize("target", ["n.other", "nobody.echo", "n", "n.", "%00", "n.echo.echo"])
async def test_a_reasoner_that_nobody_registered(api: Api, target: str) -> None:
    """Has no page."""
    await api.node()

    assert (await api.client.get(f"/reasoners/{target}", headers=HTML)).status_code in (404, 422)


async def test_why_a_reasoner_is_not_run_now(api: Api) -> None:
    """Nobody serves it, it is paused, the key may not: each is said."""
    await api.register("n")
    gone = (await api.client.get("/reasoners/n.echo", headers=HTML)).text
    await api.open_session("n")
    await api.post("/reasoners/n.echo/pause", {})
    paused = (await api.client.get("/reasoners/n.echo", headers=HTML)).text
    await api.post("/reasoners/n.echo/resume", {})
    async with keyed(api, hide_payloads=False, scopes=["read"]) as one:
        reader = (await one.client.get("/reasoners/n.echo", headers=HTML)).text

    assert 'data-off="No node serves it just now."' in gone
    assert 'data-off="It is paused: resume it first."' in paused
    assert 'data-off="Your key may not: this needs the scope execute."' in reader


async def test_limits_and_schedules_say_what_a_reader_may_not(api: Api) -> None:
    """Every button of both is off for a key that reads, and none is for one that operates."""
    await api.node()
    await api.client.put("/api/v1/limits/key:openai", json={"concurrency_max": 3})
    await api.post("/schedules", {"name": "s", "target": "n.echo", "cron": "0 2 * * *"})
    paths = ("/limits", "/schedules")
    full = [(await api.client.get(path, headers=HTML)).text for path in paths]
    async with keyed(api, hide_payloads=False, scopes=["read"]) as one:
        reader = [(await one.client.get(path, headers=HTML)).text for path in paths]

    assert not any("data-off" in text for text in full)
    assert not any('<dialog id="do-' in text for text in reader)
    assert all(text.count("this needs the scope operate") >= len(paths) for text in reader)


async def test_what_a_node_declares_is_not_deleted(api: Api) -> None:
    """There is nothing that the delete would take away."""
    await api.node(concurrency=2)
    text = (await api.client.get("/limits", headers=HTML)).text

    assert 'data-off="It is what its node declares: there is nothing to delete."' in text


async def test_a_schedule_says_what_comes(api: Api) -> None:
    """When in its zone, what became of its ticks, and who declares it; also under a name with a colon."""
    await api.node()
    body = {"target": "n.echo", "cron": "30 2 * * *", "time_zone": "Asia/Tokyo", "input": {"n": 1}}
    await api.client.put("/api/v1/schedules/code:n:x", json=body)
    ran = (await api.post("/schedules/code:n:x/run", {})).json()["execution_id"]
    text = unescape((await api.client.get("/schedules/code:n:x", headers=HTML)).text)

    assert len(re.findall(r"<time>\S+ 02:30:00</time>", text)) == len(re.findall(r">\S+ 17:30:00</time>", text)) == 5
    assert f'href="../executions/{ran}"' in text
    assert "submitted" in text
    assert "declares it: what is changed here holds until" in text
    assert '<textarea name="input" rows="4" spellcheck="false">{"n":1}</textarea>' in text


async def test_a_key_that_sees_no_input_cannot_change_it(api: Api) -> None:
    """A form without the input, or with what stands in its place, would replace it."""
    await api.node()
    await api.post("/schedules", {"name": "s", "target": "n.echo", "cron": "0 2 * * *", "input": {"n": 1}})
    async with keyed(api, hide_payloads=True, scopes=["read", "operate"]) as one:
        text = (await one.client.get("/schedules/s", headers=HTML)).text

    assert "Your key hides payloads" in text
    assert 'name="cron"' not in text


async def test_a_node_says_what_drains(api: Api) -> None:
    """Of how many processes, what is free, and that one which is gone is waited for; a colon is a letter."""
    await api.register("n:1")
    for _ in range(2):
        await api.open_session("n:1", slots=4)
    text = unescape((await api.client.get("/nodes/n:1", headers=HTML)).text)
    await api.post("/nodes/n:1/drain", {})
    drains = unescape((await api.client.get("/nodes/n:1", headers=HTML)).text)

    assert "<dt>Free</dt><dd>8</dd>" in text
    assert "Draining, 2 of 2 processes: nothing still runs there" in drains
    assert "/undrain" in drains


async def test_settings_say_how_it_goes_and_what_is_kept(shared: Api) -> None:
    """What the server checks, and how long what is over stays."""
    text = (await shared.client.get("/settings", headers=HTML)).text

    assert re.search(r"<dt>Database</dt><dd>yes</dd>", text)
    assert re.search(r"<dt>Succeeded</dt><dd>(for ever|\d+ days?)</dd>", text)


@pytest.mark.parametrize(
    ("told", "left"), [({"done": 1, "total": 4}, True), ({"fraction": 0.5}, True), ({"done": 3}, False)]
)
async def test_what_is_left_is_estimated(api: Api, told: dict[str, float], left: bool) -> None:
    """By the pace so far, where the end is known."""
    session = await api.node()
    await api.submit()
    lease = await api.take(session)
    await api.post(f"/sessions/{session}/logs", {"entries": [], "progress": [fence(lease) | told]})
    text = (await api.client.get(f"/executions/{lease['execution_id']}", headers=HTML)).text

    assert bool(re.search(r"about [^<]+ left", text)) == left
