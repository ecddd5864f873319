"""Retry: what has failed is asked once more, in its run and with its memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.integration.api.serving import Api, Receiver, fence, fenced, the_problem

Json = Any


async def retry(
    api: Api, execution_id: str, *, headers: Mapping[str, str] | None = None, **body: Json
) -> dict[str, Json]:
    answer = await api.post(f"/executions/{execution_id}/retry", body, headers=headers)
    assert answer.status_code == 202, answer.text
    found: dict[str, Json] = answer.json()
    return found


async def fail(api: Api, session: str, **body: Json) -> str:
    """An execution that has failed for good."""
    accepted = await api.submit(**body)
    await api.finish(session, await api.take(session), status="failed", error="boom", retryable=False)
    return str(accepted["execution_id"])


async def test_asks_the_same_in_the_same_run(api: Api) -> None:
    """Input, context, priority, retries and timeout are those of the old one, which stays as it is."""
    session = await api.node()
    asked = {"input": {"n": 1}, "context": [2], "priority": 3, "retries": 4, "timeout_seconds": 60}
    old = await fail(api, session, **asked)

    new = await retry(api, old)
    lease = await api.take(session)
    [was, is_] = [await api.read(one) for one in (old, new["execution_id"])]

    assert (lease["execution_id"], lease["input"], lease["context"]) == (new["execution_id"], {"n": 1}, [2])
    assert (lease["timeout_seconds"], is_["priority"], lease["failures"]) == (60, 3, 0)
    assert (new["run_id"], new["kind"], is_["source_execution_id"]) == (was["run_id"], "retry", old)
    assert was["status"] == "failed"


async def test_finds_the_memory_of_its_run(api: Api) -> None:
    """What the old one had committed before it failed is there."""
    session = await api.node()
    old = await api.submit()
    lease = await api.take(session)
    write = {**fence(lease), "ops": [{"op": "set", "key": "done", "value": 7}]}
    assert (await api.post("/memory/write", {"writes": [write]})).status_code == 200
    await api.finish(session, lease, status="failed", error="boom", retryable=False)

    await retry(api, old["execution_id"])
    again = await api.take(session)
    found = await api.post("/memory/get", {"key": "done"}, headers={"X-Run-ID": again["run_id"]})

    assert found.json()["data"] == 7


@pytest.mark.parametrize(("reuse", "status"), [("succeeded-before", "succeeded"), ("none", "queued")])
async def test_calls_that_had_succeeded(api: Api, reuse: str, status: str) -> None:
    """Are answered with what they had found, or made again; what is asked twice now is not answered by its first."""
    session = await api.node("parent", "child")
    old = await api.submit("n.parent")
    parent = await api.take(session)
    await api.submit("n.child", input={"n": 1}, headers={"X-Parent-Execution-ID": fenced(parent)})
    await api.finish(session, await api.take(session), "found")
    await api.finish(session, parent, status="failed", error="boom", retryable=False)

    await retry(api, old["execution_id"], reuse=reuse)
    parent = await api.take(session)
    children = [
        await api.submit("n.child", input={"n": 1}, headers={"X-Parent-Execution-ID": fenced(parent)}) for _ in range(2)
    ]

    assert [one["status"] for one in children] == [status, "queued"]


async def test_a_child_is_retried_as_a_child(api: Api) -> None:
    """Beside the old one, below their parent, whatever has become of that."""
    session = await api.node("parent", "child")
    root = await api.submit("n.parent")
    parent = await api.take(session)
    child = await api.submit("n.child", headers={"X-Parent-Execution-ID": fenced(parent)})
    await api.finish(session, await api.take(session), status="failed", error="boom", retryable=False)
    await api.finish(session, parent, status="failed", error="child failed", retryable=False)

    new = await api.read((await retry(api, child["execution_id"]))["execution_id"])

    assert new["parent_execution_id"] == new["root_execution_id"] == root["execution_id"]


async def test_what_was_cancelled_can_be_retried(api: Api) -> None:
    """Somebody changed their mind."""
    await api.node()
    old = (await api.submit())["execution_id"]
    await api.post(f"/executions/{old}/cancel", {})

    assert (await retry(api, old))["status"] == "queued"


async def test_what_goes_on_or_has_succeeded_is_not_retried(api: Api) -> None:
    """The answer says what to do instead, and nothing is accepted."""
    session = await api.node()
    succeeded, unfinished = await api.run(session), (await api.submit())["execution_id"]

    done = the_problem(await api.post(f"/executions/{succeeded}/retry", {}), 409, "invalid_state")
    early = the_problem(await api.post(f"/executions/{unfinished}/retry", {}), 409, "invalid_state")

    assert "restart" in done["fix"]
    assert (done["execution_status"], early["execution_status"]) == ("succeeded", "queued")
    assert len((await api.get("/executions"))["items"]) == 2


async def test_with_a_key_it_is_retried_once(api: Api) -> None:
    """The same key and body again answer with the first retry; another body is refused."""
    session = await api.node()
    old, key = await fail(api, session), {"Idempotency-Key": "k"}

    first = await retry(api, old, headers=key)
    again = await retry(api, old, headers=key)
    other = await api.post(f"/executions/{old}/retry", {"reuse": "none"}, headers=key)

    assert again == first
    the_problem(other, 422, "idempotency_conflict")
    assert len((await api.get("/executions"))["items"]) == 2


async def test_its_end_is_told(api: Api, receiver: Receiver) -> None:
    """A webhook given with the retry gets the end of the new one; the old one's is not asked again."""
    session = await api.node()
    old = await fail(api, session, webhook={"url": receiver.url})
    await receiver.wait_for(1)

    new = await retry(api, old, webhook={"url": receiver.url})
    await api.finish(session, await api.take(session), 2)
    told = (await receiver.wait_for(2))[1]

    assert (told.json["execution_id"], told.json["result"]) == (new["execution_id"], 2)


async def test_it_may_begin_later(api: Api) -> None:
    """And says in its first event why it was begun."""
    session = await api.node()
    old = await fail(api, session)

    new = await retry(api, old, delay_seconds=3600, reason="when the provider is back")
    [queued] = (await api.get(f"/executions/{new['execution_id']}/events"))["items"]

    assert new["status_reason"] == "scheduled"
    assert queued["data"] == {
        "kind": "retry",
        "source_execution_id": old,
        "reason": "when the provider is back",
    }


@pytest.mark.parametrize(
    "body",
    [
        {"reuse": "all-succeeded"},
        {"input": {}},
        {"reason": "\x00"},
        {"reason": "a" * 1_001},
        {"delay_seconds": -1},
        {"webhook": {"url": "ftp://a.example/"}},
        {"idempotency_key": ""},
    ],
)
async def test_what_cannot_be_is_refused(api: Api, body: Json) -> None:
    """Nothing is accepted then."""
    session = await api.node()
    old = await fail(api, session)

    the_problem(await api.post(f"/executions/{old}/retry", body), 422, "invalid")
    assert len((await api.get("/executions"))["items"]) == 1


async def test_an_unknown_execution(api: Api) -> None:
    """There is nothing to ask once more."""
    answer = await api.post("/executions/exec_00000000000000000000000000/retry", {})

    the_problem(answer, 404, "execution_not_found")
