"""The page of a question: open to who has the link, decided once by a button, never by looking."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx
import pytest

from tests.integration.api.serving import Api, Json, fence, the_problem

HOUSE = {"public_url": "https://plane.example/base/", "api_key": "k-1"}
YES = {"decision": "approved", "feedback": "  go <ahead> "}


@pytest.fixture
async def api(shared: Api) -> Api:
    """With a key, which the link does without."""
    shared.client.headers["X-API-Key"] = "k-1"
    return shared


async def taken(api: Api) -> tuple[str, Json]:
    """A session of a node of its own, and an attempt of an execution of its own."""
    node = f"n-{uuid.uuid4().hex[:8]}"
    await api.register(node)
    session = await api.open_session(node)
    await api.submit(f"{node}.echo")
    return session, await api.take(session)


async def ask(api: Api, **over: Json) -> tuple[str, Json, Json]:
    """A session, an execution that waits for people, and its step."""
    session, lease = await taken(api)
    op = {"op": "approval", "name": "ask", "title": "Ship <b>it</b>?"} | over
    answer = await api.post("/steps/write", {"writes": [{**fence(lease), "ops": [op]}]})
    [step] = answer.json()["results"][0]["steps"]
    done = await api.finish(session, lease, status="waiting", waits=["ask"])
    assert done.json()["results"][0]["status"] == "waiting"
    return session, lease, step


def path_of(step: Json) -> str:
    return "/approvals/" + urlsplit(step["approval_request_url"]).path.rpartition("/")[2]


@pytest.fixture
async def stranger(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody without a key, from elsewhere."""
    headers = {"Host": "plane.example", "Origin": "https://evil.example"}
    async with httpx.AsyncClient(base_url=api.url, headers=headers, trust_env=False, timeout=40) as client:
        yield client


async def test_a_question_is_decided_by_its_link(api: Api, stranger: httpx.AsyncClient) -> None:
    """Read, approved with a comment, and the execution goes on with the answer."""
    session, lease, step = await ask(api)

    page = await stranger.get(path_of(step))
    told = await stranger.post(path_of(step), data=YES)
    second = await api.take(session)
    [found] = (await api.get(f"/executions/{lease['execution_id']}/steps"))["steps"]

    assert step["approval_request_url"].startswith("https://plane.example/base/approvals/")
    assert (page.status_code, told.status_code) == (200, 200)
    assert "Ship &lt;b&gt;it&lt;/b&gt;?" in page.text
    assert "<b>" not in page.text
    assert "Approve" in page.text
    assert "Approved." in told.text
    assert "go &lt;ahead&gt;" in told.text
    assert second["attempt"] == 2
    assert found["value"] == {"decision": "approved", "feedback": "go <ahead>", "response": None}


async def test_looking_decides_nothing(api: Api, stranger: httpx.AsyncClient) -> None:
    """However often, and with whatever in the query; and the page says nothing to others."""
    _, lease, step = await ask(api)

    pages = [await stranger.get(path_of(step), params={"decision": "approved"}) for _ in range(3)]
    head = await stranger.head(path_of(step))

    assert [page.status_code for page in (*pages, head)] == [200] * 4
    assert (await api.read(lease["execution_id"]))["status_reason"] == "waiting_for_approval"
    assert pages[0].headers["referrer-policy"] == "no-referrer"
    assert pages[0].headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in pages[0].headers["content-security-policy"]


async def test_a_link_works_once(api: Api, stranger: httpx.AsyncClient) -> None:
    """Of many at once one decides; the others hear what was decided."""
    _, _, step = await ask(api)
    words = ["approved", "rejected"] * 4

    told = await asyncio.gather(*(stranger.post(path_of(step), data={"decision": word}) for word in words))
    page = await stranger.get(path_of(step))

    assert sorted(one.status_code for one in told) == [200] + [409] * 7
    assert "<form" not in page.text
    assert len({"Approved." in one.text for one in told}) == 1


async def test_a_link_of_what_has_ended(api: Api, stranger: httpx.AsyncClient) -> None:
    """It says so, and decides nothing."""
    _, lease, step = await ask(api)
    await api.post(f"/executions/{lease['execution_id']}/cancel", {})

    told = await stranger.post(path_of(step), data=YES)

    assert told.status_code == 409
    assert "Over" in told.text


@pytest.mark.parametrize("token", ["hostile", "A" * 120])
async def test_a_link_that_nobody_gave(api: Api, stranger: httpx.AsyncClient, token: str) -> None:
    """404, and nothing is said of what there is."""
    the_problem(await stranger.get(f"/approvals/{token}"), 404, "no_approval_request")
    the_problem(await stranger.post(f"/approvals/{token}", data=YES), 404, "no_approval_request")


@pytest.mark.parametrize(
    "form",
    [
        b"",
        b"decision=expired",
        b"decision=perhaps",
        b"\xff",
        b"a=1&" * 50,
        b"decision=approved&feedback=" + b"x" * 10_001,
    ],
    ids=lambda form: form[:20].decode("latin-1"),
)
async def test_a_form_that_decides_nothing(api: Api, stranger: httpx.AsyncClient, form: bytes) -> None:
    """Refused, and the question is still open."""
    _, lease, step = await ask(api)

    answer = await stranger.post(path_of(step), content=form)

    assert answer.status_code in (400, 422), answer.text
    assert (await api.read(lease["execution_id"]))["approval_status"] == "pending"


async def test_the_asker_may_have_a_page_of_its_own(api: Api) -> None:
    """Then that one is given."""
    _, lease, step = await ask(api, url="https://forms.example/7")

    assert step["approval_request_url"] == "https://forms.example/7"
    assert (await api.read(lease["execution_id"]))["approval_request_url"] == "https://forms.example/7"


async def test_whoever_looks_is_given_the_link(api: Api) -> None:
    """In the execution and in the sentence that says why it waits."""
    _, lease, step = await ask(api)

    why = await api.get(f"/executions/{lease['execution_id']}/explain")

    assert (await api.read(lease["execution_id"]))["approval_request_url"] == step["approval_request_url"]
    assert why["facts"]["approval_request_url"] == step["approval_request_url"]
    assert step["approval_request_url"] in why["fix"]


async def test_a_decision_by_the_api_wakes_too(api: Api) -> None:
    """The routes that there were decide what a step asks."""
    session, lease, _ = await ask(api)

    answer = await api.post(
        f"/executions/{lease['execution_id']}/approval-response",
        {"decision": "rejected", "feedback": "no", "response": {"a": 1}},
    )

    assert (answer.json()["status"], answer.json()["new_status"]) == ("processed", "queued")
    assert (await api.take(session))["attempt"] == 2
    [found] = (await api.get(f"/executions/{lease['execution_id']}/steps"))["steps"]
    assert found["value"] == {"decision": "rejected", "feedback": "no", "response": {"a": 1}}


async def test_two_questions_at_once(api: Api) -> None:
    """Several steps may ask; each is decided by itself."""
    session, lease = await taken(api)
    ops = [{"op": "approval", "name": name} for name in ("a", "b")]
    await api.post("/steps/write", {"writes": [{**fence(lease), "ops": ops}]})
    await api.finish(session, lease, status="waiting", waits=["a", "b"])
    path = f"/executions/{lease['execution_id']}/approval-response"

    first = await api.post(path, {"decision": "approved", "approval_request_id": "a"})
    second = await api.post(path, {"decision": "rejected", "approval_request_id": "b"})

    assert (first.json()["new_status"], second.json()["new_status"]) == ("waiting", "queued")
