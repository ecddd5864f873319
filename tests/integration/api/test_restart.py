"""Restart: a new run from an old one, over HTTP, with what had succeeded taken over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from tests.integration.api.serving import Api, Receiver, fenced, the_problem

Json = Any
HIT = "X-AgentField-Replay-Hit"
SOURCE = "X-AgentField-Replay-Source-Run-ID"
BEFORE = "X-AgentField-Replay-Before-Execution-ID"
MODE = "X-AgentField-Replay-Mode"


async def restart(
    api: Api, execution_id: str, *, headers: Mapping[str, str] | None = None, **body: Json
) -> dict[str, Json]:
    answer = await api.post(f"/executions/{execution_id}/restart", body, headers=headers)
    assert answer.status_code == 202, answer.text
    found: dict[str, Json] = answer.json()
    return found


async def ask(api: Api, parent: Mapping[str, Json], n: int, **headers: str) -> httpx.Response:
    """The n-th child of this leased parent, as an SDK asks for it."""
    said = {"X-Parent-Execution-ID": fenced(parent), "X-Run-ID": parent["run_id"], **headers}
    return await api.post("/execute/async/n.child", {"input": {"n": n}}, headers=said)


async def failed_run(api: Api, session: str) -> dict[str, Json]:
    """A parent that had two of its three children succeed, and failed with the third."""
    parent = await api.submit("n.parent", input={"all": True}, context={"c": 1})
    root = await api.take(session)
    children = []
    for n in range(3):
        children.append((await ask(api, root, n)).json()["execution_id"])
        child = await api.take(session)
        done = await (
            api.finish(session, child, {"n": n})
            if n < 2
            else api.finish(session, child, status="failed", error="boom", retryable=False)
        )
        assert done.status_code == 200, done.text
    await api.finish(session, root, status="failed", error="child failed", retryable=False)
    return parent | {"children": children}


@pytest.mark.parametrize("from_child", [True, False])
async def test_what_had_succeeded_is_not_run_again(api: Api, from_child: bool) -> None:
    """Restarted from the child that failed or from its root: two children are taken over, the third one runs."""
    session = await api.node("parent", "child", retries=0)
    old = await failed_run(api, session)

    new = await restart(api, old["children"][2] if from_child else old["execution_id"])
    root = await api.take(session)
    asked = [await ask(api, root, n) for n in range(3)]
    child = await api.take(session)
    await api.finish(session, child, {"n": 2})
    results = [(await api.read(one.json()["execution_id"])) for one in asked]

    assert (root["execution_id"], root["input"], root["context"]) == (new["execution_id"], {"all": True}, {"c": 1})
    assert [one.json()["status"] for one in asked] == ["succeeded", "succeeded", "queued"]
    assert [one.headers.get(HIT) for one in asked] == [*old["children"][:2], None]
    assert child["execution_id"] == asked[2].json()["execution_id"]
    assert [one["result"] for one in results] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert [one.get("source_execution_id") for one in results] == [*old["children"][:2], None]
    assert results[0]["status_reason"] == f"replayed_from_execution:{old['children'][0]}"


async def test_says_what_it_began_and_from_what(api: Api) -> None:
    """The answer names the new execution, its run, and what it comes from; the old execution stays as it was."""
    session = await api.node("parent", "child", retries=0)
    old = await failed_run(api, session)
    third = old["children"][2]
    before = await api.read(third)

    new = await restart(api, third)
    made = await api.read(new["execution_id"])

    assert new["run_id"] != old["run_id"]
    assert (
        new
        | {
            "workflow_id": new["run_id"],
            "status": "queued",
            "target": "n.parent",
            "type": "reasoner",
            "source_execution_id": third,
            "source_run_id": old["run_id"],
            "restarted_execution_id": old["execution_id"],
            "replay_before_execution_id": third,
            "replay_mode": "succeeded-before",
            "scope": "workflow",
            "kind": "restart",
            "webhook_registered": False,
        }
        == new
    )
    assert (made["source_execution_id"], made["run_id"]) == (old["execution_id"], new["run_id"])
    assert await api.read(third) == before


async def test_one_execution_by_itself(api: Api) -> None:
    """With the scope `execution` the child is the root of the new run, with another input if one is given."""
    session = await api.node("parent", "child", retries=0)
    old = await failed_run(api, session)

    new = await restart(api, old["children"][2], scope="execution", fork=True, input={"n": 7})
    leased = await api.take(session)

    assert (new["target"], new["kind"], new["scope"], new["replay_mode"]) == (
        "n.child", "fork", "execution", "all-succeeded",
    )  # fmt: skip
    assert "replay_before_execution_id" not in new
    assert (leased["execution_id"], leased["input"], leased["parent_execution_id"]) == (
        new["execution_id"], {"n": 7}, None,
    )  # fmt: skip


async def test_none_runs_everything_again(api: Api) -> None:
    """With `reuse: none` no child is taken over."""
    session = await api.node("parent", "child", retries=0)
    old = await failed_run(api, session)

    await restart(api, old["execution_id"], reuse="none")
    root = await api.take(session)
    asked = await ask(api, root, 0)

    assert (asked.json()["status"], asked.headers.get(HIT)) == ("queued", None)


async def test_a_child_that_runs_again_can_take_over_its_own_children(api: Api) -> None:
    """What is to be taken over is known two levels below the restarted root, too."""
    session = await api.node("parent", "child", retries=0)
    old = await api.submit("n.parent")
    root = await api.take(session)
    await ask(api, root, 1)
    middle = await api.take(session)
    leaf = (await ask(api, middle, 2)).json()["execution_id"]
    await api.finish(session, await api.take(session), "leaf")
    await api.finish(session, middle, status="failed", error="boom", retryable=False)
    await api.finish(session, root, status="failed", error="boom", retryable=False)

    await restart(api, old["execution_id"])
    await ask(api, await api.take(session), 1)
    hit = await ask(api, await api.take(session), 2)

    assert hit.headers[HIT] == leaf


@pytest.mark.parametrize("status", ["queued", "running", "succeeded", "cancelled"])
async def test_from_any_status(api: Api, status: str) -> None:
    """What has not ended goes on beside its restart."""
    session = await api.node()
    old = (await api.submit(input={"x": 1}))["execution_id"]
    if status == "cancelled":
        await api.post(f"/executions/{old}/cancel", {})
    elif status != "queued":
        leased = await api.take(session)
        if status == "succeeded":
            await api.finish(session, leased, 1)

    new = await restart(api, old)

    assert (await api.read(old))["status"] == status
    assert (await api.read(new["execution_id"]))["status"] == "queued"


async def test_headers_name_the_source(api: Api) -> None:
    """A caller without a parent of ours says by headers what it takes over, and waits for it as for any other."""
    session = await api.node("child")
    first = await api.run(session, {"n": 1}, target="n.child", input={"n": 1}, headers={"X-Run-ID": "old"})

    headers = {SOURCE: "old", MODE: "all-succeeded"}
    hit = await api.post("/execute/n.child", {"input": {"n": 1}}, headers=headers)
    before = await api.post("/execute/async/n.child", {"input": {"n": 1}}, headers={SOURCE: "old", BEFORE: first})

    assert (hit.status_code, hit.json()["result"], hit.headers[HIT]) == (200, {"n": 1}, first)
    assert (before.json()["status"], before.headers.get(HIT)) == ("queued", None)


@pytest.mark.parametrize(
    "headers",
    [
        {SOURCE: "nobody's"},
        {SOURCE: "old", MODE: "some"},
        {SOURCE: "old", BEFORE: "exec_of_another"},
        {SOURCE: "a" * 201},
        {SOURCE: "old", "X-Run-ID": "old"},
    ],
)
async def test_headers_that_name_nothing_are_ignored(api: Api, headers: dict[str, str]) -> None:
    """The child is accepted and runs; a warning says why nothing was taken over."""
    session = await api.node("child")
    await api.run(session, target="n.child", headers={"X-Run-ID": "old"})

    accepted = await api.submit("n.child", headers=headers)

    assert (accepted["status"], [one["code"] for one in accepted["warnings"]]) == ("queued", ["replay_ignored"])


async def test_with_a_key_it_is_restarted_once(api: Api) -> None:
    """The same key and body again answer with the first restart; another body is refused."""
    session = await api.node()
    old = await api.run(session)
    key = {"Idempotency-Key": "k"}

    first = await restart(api, old, headers=key)
    again = await restart(api, old, headers=key)
    other = await api.post(f"/executions/{old}/restart", {"reuse": "none"}, headers=key)

    assert again == first
    the_problem(other, 422, "idempotency_conflict")
    assert len((await api.get("/executions"))["items"]) == 2


async def test_its_end_is_told(api: Api, receiver: Receiver) -> None:
    """A webhook given with the restart gets the end of the new execution; the old one's is not asked again."""
    session = await api.node()
    old = await api.run(session, webhook={"url": receiver.url})
    await receiver.wait_for(1)

    new = await restart(api, old, webhook={"url": receiver.url, "secret": "s"})
    await api.finish(session, await api.take(session), 2)
    told = (await receiver.wait_for(2))[1]

    assert new["webhook_registered"] is True
    assert (told.json["execution_id"], told.json["result"]) == (new["execution_id"], 2)


async def test_why_stands_in_its_first_event(api: Api) -> None:
    """Kind, origin and reason can be read afterwards."""
    session = await api.node()
    old = await api.run(session)

    new = await restart(api, old, reason="once more")
    [queued] = (await api.get(f"/executions/{new['execution_id']}/events"))["items"]

    assert queued["data"] == {
        "kind": "restart",
        "source_execution_id": old,
        "source_run_id": (await api.read(old))["run_id"],
        "reason": "once more",
    }


@pytest.mark.parametrize(
    "body",
    [
        {"scope": "branch"},
        {"reuse": "some"},
        {"fork": 1},
        {"input": [1]},
        {"reason": "\x00"},
        {"reason": "a" * 1_001},
        {"webhook": {"url": "ftp://a.example/"}},
        {"retries": 1},
    ],
)
async def test_what_cannot_be_is_refused(api: Api, body: Json) -> None:
    """Nothing is accepted then."""
    session = await api.node()
    old = await api.run(session)

    answer = await api.post(f"/executions/{old}/restart", body)

    assert answer.status_code == 422, answer.text
    assert len((await api.get("/executions"))["items"]) == 1


async def test_an_unknown_execution(api: Api) -> None:
    """There is nothing to begin again."""
    answer = await api.post("/executions/exec_00000000000000000000000000/restart", {})

    the_problem(answer, 404, "execution_not_found")
