"""Batch: a thousand submits in one request, each answered by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from controlplane.api.batch import ITEMS_MAX
from controlplane.postgres.pool import Connection
from tests.integration.api.serving import Api, Receiver, fenced, the_problem
from tests.make import tasks_begun, until_blocks

Json = Any
KEY = {"Idempotency-Key": "k"}


async def ask(api: Api, *items: Json, headers: Mapping[str, str] | None = None, **body: Json) -> httpx.Response:
    return await api.post("/execute/batch", {"items": list(items), **body}, headers=headers)


async def submit(api: Api, *items: Json, headers: Mapping[str, str] | None = None, **body: Json) -> dict[str, Json]:
    answer = await ask(api, *items, headers=headers, **body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Json] = answer.json()
    return found


def echo(n: int = 0, **over: Json) -> dict[str, Json]:
    return {"target": "n.echo", "input": {"n": n}, **over}


def ids(answer: Mapping[str, Json]) -> list[str]:
    return [one["execution_id"] for one in answer["items"]]


async def accepted(api: Api) -> int:
    return len((await api.get("/executions", limit=200))["items"])


async def test_a_thousand_are_accepted_at_once(api: Api) -> None:
    """Each has an execution of its own, in the order of the items, and nodes that wait are woken."""
    session = await api.node()
    waiting = asyncio.create_task(api.lease(session, limit=100))

    answer = await submit(api, *(echo(n) for n in range(ITEMS_MAX)))
    inputs = [(await api.get(f"/executions/{id_}/input"))["input"]["n"] for id_ in (ids(answer)[0], ids(answer)[-1])]

    assert answer["counts"] == {"items": 1000, "accepted": 1000, "replayed": 0, "refused": 0}
    assert len(set(ids(answer))) == len({one["run_id"] for one in answer["items"]}) == 1000
    assert inputs == [0, 999]
    assert await waiting


async def test_a_batch_makes_no_task_for_each_item(api: Api) -> None:
    """Five hundred items cost a few tasks, as one does: those of the flushes, the client's and the daemons'."""
    await api.node()
    await submit(api, echo())
    with tasks_begun() as tasks:
        answer = await submit(api, *(echo(n) for n in range(500)))

    assert answer["counts"]["accepted"] == 500
    assert len(tasks) < 250


async def test_a_caller_that_hangs_up_leaves_a_server_that_answers(api: Api, conn: Connection) -> None:
    """What was on its way may be there or not, but each item at most once; the next batch is whole."""
    await api.node()
    items = [echo(n) for n in range(ITEMS_MAX)]
    asking = asyncio.create_task(ask(api, *items, headers=KEY))
    async with conn.transaction():
        await conn.execute("lock table queue")
        await until_blocks(conn)
        asking.cancel()
        await asyncio.wait([asking])
    answer = await submit(api, *items, headers=KEY)
    accepted = answer["counts"]["accepted"] + answer["counts"]["replayed"]

    assert accepted >= ITEMS_MAX
    assert len(set(ids(answer))) == ITEMS_MAX


async def test_an_item_is_answered_as_a_submit(api: Api) -> None:
    """With the same members, and the status that a submit by itself would have."""
    await api.node()

    single = await api.submit(input={"n": 1})
    [item] = (await submit(api, echo()))["items"]

    assert item.keys() == single.keys() | {"http_status"}
    assert (item["http_status"], item["status"], item["target"], item["type"]) == (202, "queued", "n.echo", "reasoner")


async def test_one_bad_item_fails_none_of_its_neighbours(api: Api) -> None:
    """Each refusal says which item it is about, and where in it."""
    await api.node()
    bad: dict[str, Json] = {
        "body.items[1]": 1,
        "body.items[2].target": {"target": "no dot"},
        "body.items[3].target": {"target": "n.ecko"},
        "body.items[4].input": echo(input=[1]),
        "body.items[5].retries": echo(retries=-1),
        "body.items[6].webhook.url": echo(webhook={"url": "ftp://a.example/"}),
        "body.items[7]": {"input": {}},
        "body.items[8].priorty": echo(priorty=1),
        "body.items[9].idempotency_key": echo(idempotency_key=""),
        "body.items[10].run_at": echo(delay_seconds=1, run_at="2030-01-01T00:00:00Z"),
    }

    answer = await submit(api, echo(0), *bad.values(), echo(1))
    refused = answer["items"][1:-1]

    assert answer["counts"] == {"items": 12, "accepted": 2, "replayed": 0, "refused": 10}
    assert [one["http_status"] for one in refused] == [422, 400, 404, 422, 422, 422, 422, 422, 422, 422]
    assert [one["where"] for one in refused] == [where.replace(".priorty", "") for where in bad]
    assert refused[2]["nearest"] == ["n.echo"]
    assert await accepted(api) == 2


async def test_items_may_differ_in_everything(api: Api, receiver: Receiver) -> None:
    """Target, webhook, priority, retries and delay are each item's own."""
    session = await api.node("echo", "other")

    answer = await submit(
        api,
        echo(webhook={"url": receiver.url}),
        {"target": "n.other", "priority": 5, "retries": 3, "timeout_seconds": 9},
        echo(delay_seconds=3600),
    )
    [first, second] = [await api.take(session) for _ in range(2)]
    for lease in (first, second):
        await api.finish(session, lease, 1)
    [told] = await receiver.wait_for(1)

    assert {first["target"], second["target"]} == {"n.echo", "n.other"}
    assert [one["webhook_registered"] for one in answer["items"]] == [True, False, False]
    assert [one.get("status_reason") for one in answer["items"]] == [None, None, "scheduled"]
    assert told.json["execution_id"] == ids(answer)[0]
    assert (await api.read(ids(answer)[1]))["priority"] == 5


async def test_one_run_for_all(api: Api) -> None:
    """When the items are to share a run and none is given, there is a new one, whose executions they are."""
    await api.node()

    answer = await submit(api, echo(0), echo(1), same_run=True)
    page = await api.get("/executions", run_id=answer["run_id"])

    assert {one["run_id"] for one in answer["items"]} == {answer["run_id"]}
    assert sorted(one["execution_id"] for one in page["items"]) == sorted(ids(answer))


@pytest.mark.parametrize("same_run", [True, False])
async def test_the_headers_name_a_run_for_all(api: Api, same_run: bool) -> None:
    """With a session and an actor, whatever the body says of the run."""
    await api.node()
    headers = {"X-Run-ID": "mine", "X-Session-ID": "s", "X-Actor-ID": "a"}

    answer = await submit(api, echo(0), echo(1), headers=headers, same_run=same_run)
    seen = [await api.read(id_) for id_ in ids(answer)]

    assert answer["run_id"] == "mine"
    assert {(one["run_id"], one["session_key"], one["actor_key"]) for one in seen} == {("mine", "s", "a")}


async def test_children_of_one_parent(api: Api) -> None:
    """A parent that holds its lease fans out; one that has lost it is refused each of them."""
    session = await api.node("parent", "echo")
    await api.submit("n.parent")
    parent = await api.take(session)
    headers = {"X-Parent-Execution-ID": fenced(parent)}

    children = await submit(api, echo(0), echo(1), headers=headers)
    await api.finish(session, parent)
    late = await submit(api, echo(2), headers=headers)
    seen = [await api.read(id_) for id_ in ids(children)]

    assert {one["parent_execution_id"] for one in seen} == {parent["execution_id"]}
    assert {one["run_id"] for one in seen} == {parent["run_id"]}
    assert [(one["http_status"], one["code"]) for one in late["items"]] == [(409, "lease_lost")]


async def test_an_unknown_parent_refuses_all(api: Api) -> None:
    """The headers are those of the request."""
    await api.node()

    headers = {"X-Parent-Execution-ID": "exec_00000000000000000000000000"}

    the_problem(await ask(api, echo(), headers=headers), 404, "execution_not_found")


@pytest.mark.parametrize("settings", [{}, {"buckets": 8, "buckets_hashed": 4}])
async def test_a_lost_answer_may_be_asked_for_again(api: Api) -> None:
    """The same key and body name the same executions and the same run, and there are no others."""
    await api.node()
    items = [echo(0), {"target": "n.nobody"}, echo(1)]

    first = await ask(api, *items, headers=KEY, same_run=True)
    again = await ask(api, *items, headers=KEY, same_run=True)

    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
    assert again.json()["counts"] == {"items": 3, "accepted": 2, "replayed": 2, "refused": 1}
    assert [one.get("execution_id") for one in again.json()["items"]] == [
        one.get("execution_id") for one in first.json()["items"]
    ]
    assert again.json()["run_id"] == first.json()["run_id"]
    assert await accepted(api) == 2


async def test_what_was_refused_may_be_accepted_later(api: Api) -> None:
    """A repeat accepts what had not been: here the target has been registered since. It joins the others' run."""
    await api.node()
    items = [{"target": "n.late"}, echo(1)]
    first = await submit(api, *items, headers=KEY, same_run=True)

    await api.register("n", "echo", "late")
    again = await submit(api, *items, headers=KEY, same_run=True)

    assert [one["http_status"] for one in first["items"]] == [404, 202]
    assert again["counts"] == {"items": 2, "accepted": 2, "replayed": 1, "refused": 0}
    assert again["items"][1]["execution_id"] == first["items"][1]["execution_id"]
    assert {one["run_id"] for one in again["items"]} == {first["run_id"]}


@pytest.mark.parametrize("items", [[echo(0), echo(1), echo(2)], [echo(1)], [{"target": "n.nobody"}, echo(5)]])
async def test_another_body_with_the_key_is_refused(api: Api, items: list[Json]) -> None:
    """As a whole: also of the items that the first request did not have, none is accepted."""
    await api.node()
    await submit(api, echo(0), echo(1), headers=KEY)

    the_problem(await ask(api, *items, headers=KEY), 422, "idempotency_conflict")
    assert await accepted(api) == 2


async def test_two_at_once_with_one_key(api: Api) -> None:
    """They name the same executions."""
    await api.node()
    items = [echo(n) for n in range(50)]

    answers = await asyncio.gather(*(submit(api, *items, idempotency_key="k") for _ in range(4)))

    assert len({tuple(ids(one)) for one in answers}) == 1
    assert await accepted(api) == 50


async def test_a_key_of_an_item(api: Api) -> None:
    """Counts for that item, in whatever batch it comes; twice in one batch it is one execution."""
    await api.node()

    first = await submit(api, echo(0), echo(1, idempotency_key="mine"), echo(1, idempotency_key="mine"))
    again = await submit(api, echo(1, idempotency_key="mine"), echo(2, idempotency_key="mine"))

    assert ids(first)[1] == ids(first)[2] == again["items"][0]["execution_id"]
    assert [one.get("replayed") for one in first["items"]] == [None, None, True]
    assert (again["items"][1]["http_status"], again["items"][1]["code"]) == (422, "idempotency_conflict")


async def test_the_key_of_a_batch_is_not_that_of_a_submit(api: Api) -> None:
    """Neither is a repeat of the other."""
    await api.node()

    single = await api.submit(headers=KEY)
    [item] = (await submit(api, echo(), headers=KEY))["items"]

    assert item["execution_id"] != single["execution_id"]


async def test_a_warning_is_said_once(api: Api) -> None:
    """However many items of a target there are that nobody serves right now."""
    await api.register("n", "echo")

    answer = await submit(api, echo(0), echo(1), headers={"X-Parent-Execution-ID": "somebody's"})

    assert [one["code"] for one in answer["warnings"]] == ["parent_unknown", "no_node"]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"items": []}, "body.items"),
        ({"items": [echo()] * (ITEMS_MAX + 1)}, "body.items"),
        ({}, "body"),
        ({"items": {}}, "body.items"),
        ({"items": [echo()], "same_run": 1}, "body.same_run"),
        ({"items": [echo()], "run": "r"}, "body"),
        ({"items": [echo()], "idempotency_key": ""}, "Idempotency-Key"),
    ],
)
async def test_what_is_no_batch_is_refused(api: Api, body: Json, where: str) -> None:
    """As a whole, and nothing is accepted."""
    await api.node()

    assert the_problem(await api.post("/execute/batch", body), 422, "invalid")["where"] == where
    assert await accepted(api) == 0


async def test_restarted_runs_take_over_what_a_batch_found(api: Api) -> None:
    """Children asked for together are replayed as those asked for one by one."""
    session = await api.node("parent", "echo")
    old = await api.submit("n.parent")
    parent = await api.take(session)
    await submit(api, echo(0), headers={"X-Parent-Execution-ID": fenced(parent)})
    await api.finish(session, await api.take(session), "found")
    await api.finish(session, parent, status="failed", error="boom", retryable=False)

    await api.post(f"/executions/{old['execution_id']}/restart", {})
    parent = await api.take(session)
    children = await submit(api, echo(0), echo(1), headers={"X-Parent-Execution-ID": fenced(parent)})

    assert [one["status"] for one in children["items"]] == ["succeeded", "queued"]
    assert (await api.read(ids(children)[0]))["result"] == "found"


async def test_what_a_header_says_is_no_field(api: Api) -> None:
    """Session, actor and run are those of all items: the header is named."""
    await api.node()

    answer = await submit(api, echo(session_id="s"), echo(run_id="r"), echo(colour="red"))

    assert [one.get("fix") for one in answer["items"]] == [
        "The header X-Session-ID says it.",
        "The header X-Run-ID says it.",
        None,
    ]
