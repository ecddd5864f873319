"""Explain and attempts over HTTP: the shape, the page, and what is refused."""

from __future__ import annotations

import pytest

from tests.integration.api.serving import Api, the_problem

UNKNOWN = "exec_00000000000000000000000000"


async def test_explain_answers_one_sentence(api: Api) -> None:
    """With its cause, its moment, the next step and the facts; a fenced id asks of the execution."""
    await api.register()
    id_ = (await api.submit())["execution_id"]

    said = await api.get(f"/executions/{id_}~1/explain")

    assert said.keys() == {"execution_id", "status", "code", "sentence", "since", "fix", "facts"}
    assert (said["execution_id"], said["status"], said["code"]) == (id_, "queued", "no_node")
    assert said["fix"] == "Start node n; the work waits for it."
    assert said["facts"].items() >= {"target": "n.echo", "node_id": "n", "attempt": 0, "processes": 0}.items()


async def test_explain_follows_the_execution(api: Api) -> None:
    """Next, running, paused, cancelling, ended: each look tells of that moment."""
    session = await api.node()
    id_ = (await api.submit())["execution_id"]
    seen = [await api.get(f"/executions/{id_}/explain")]
    lease = await api.take(session)
    seen.append(await api.get(f"/executions/{id_}/explain"))
    await api.post(f"/executions/{id_}/pause", {"reason": "hold on"})
    seen.append(await api.get(f"/executions/{id_}/explain"))
    await api.post(f"/executions/{id_}/cancel", {"reason": "enough"})
    seen.append(await api.get(f"/executions/{id_}/explain"))
    await api.finish(session, lease)
    seen.append(await api.get(f"/executions/{id_}/explain"))

    assert [(one["code"], one["status"]) for one in seen] == [
        ("next", "queued"),
        ("running", "running"),
        ("pausing", "waiting"),
        ("cancelling", "waiting"),
        ("cancelled", "cancelled"),
    ]
    assert (await api.read(id_))["status"] == "cancelled"


async def test_attempts_are_paged_the_newest_last(api: Api) -> None:
    """Where each ran, how it ended, and what was said of it."""
    session = await api.node(retries=1, retry_delay_seconds=0)
    id_ = (await api.submit())["execution_id"]
    await api.finish(session, await api.take(session), status="failed", error="no", error_class="E", traceback="t")
    await api.finish(session, await api.take(session), 1)

    first = await api.get(f"/executions/{id_}/attempts", limit=1)
    second = await api.get(f"/executions/{id_}/attempts", cursor=first["next_cursor"])
    [failed], [succeeded] = first["items"], second["items"]

    assert first["next_cursor"] == "1"
    assert second["next_cursor"] is None
    assert failed.items() >= {"attempt": 1, "node_id": "n", "session_id": session, "ended": "retried"}.items()
    assert (failed["error"], failed["error_class"], failed["traceback"]) == ("no", "E", "t")
    assert succeeded.items() >= {"attempt": 2, "node_id": "n", "ended": "succeeded"}.items()
    assert {"started_at", "ended_at", "duration_ms"} <= failed.keys() & succeeded.keys()


async def test_one_that_has_not_begun_has_no_attempts(api: Api) -> None:
    """An empty page, and not an error."""
    await api.register()
    id_ = (await api.submit())["execution_id"]

    assert await api.get(f"/executions/{id_}/attempts") == {"items": [], "next_cursor": None}


@pytest.mark.parametrize("name", ["explain", "attempts"])
async def test_an_unknown_execution_is_refused(api: Api, name: str) -> None:
    """And something that is no id is told so."""
    the_problem(await api.client.get(f"/api/v1/executions/{UNKNOWN}/{name}"), 404, "execution_not_found")
    the_problem(await api.client.get(f"/api/v1/executions/x/{name}"), 422, "invalid")


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "cursor=-1", "cursor=x", "cursor=2147483648"])
async def test_a_page_has_bounds(api: Api, query: str) -> None:
    """Numbers outside of them are named."""
    await api.register()
    id_ = (await api.submit())["execution_id"]

    problem = the_problem(await api.client.get(f"/api/v1/executions/{id_}/attempts?{query}"), 422, "invalid")

    assert problem["where"].startswith("query/")
