"""Executions over HTTP: submit, wait, read, list, cancel, in AgentField's shapes."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime

import httpx
import pytest

from tests.integration.api.serving import DEADLINE_SECONDS, Api, Receiver, fence, fenced, the_problem, until, watched

BY_HINT_AND_BY_POLLING = pytest.mark.parametrize("settings", [{}, {"notify": False}], ids=["notify", "polling"])


async def test_a_submit_answers_as_agentfield(api: Api) -> None:
    """202 with the fields its SDK reads, and the ids as headers."""
    await api.node()

    answer = await api.post("/execute/async/n.echo", {"input": {"a": 1}})
    body = answer.json()

    assert answer.status_code == 202
    assert body["execution_id"].startswith("exec_")
    assert body["run_id"] == body["workflow_id"]
    assert body["run_id"].startswith("run_")
    assert (body["status"], body["target"], body["type"]) == ("queued", "n.echo", "reasoner")
    assert body["created_at"] == body["enqueued_at"]
    assert datetime.fromisoformat(body["created_at"]).tzinfo is not None
    assert body["webhook_registered"] is False
    assert "warnings" not in body
    assert answer.headers["location"] == f"/api/v1/executions/{body['execution_id']}"
    assert answer.headers["x-execution-id"] == body["execution_id"]
    assert answer.headers["x-run-id"] == body["run_id"]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"input":null}', b'{"input":{}}'])
async def test_input_may_be_left_out(api: Api, body: bytes) -> None:
    """A reasoner without arguments needs no body."""
    session = await api.node()

    answer = await api.client.post("/api/v1/execute/async/n.echo", content=body)
    lease = await api.take(session)

    assert answer.status_code == 202
    assert lease["input"] == {}


async def test_work_for_a_node_that_is_away_is_accepted(api: Api) -> None:
    """It waits for the node, and the caller is told so."""
    await api.register("n")

    accepted = await api.submit()
    session = await api.open_session("n")
    lease = await api.take(session)

    assert [one["code"] for one in accepted["warnings"]] == ["no_node"]
    assert lease["execution_id"] == accepted["execution_id"]


async def test_an_unknown_target_names_the_nearest(api: Api) -> None:
    """A slip of the keyboard is answered with what may have been meant."""
    await api.register("batch", "process_corpus", "summarise")

    refused = the_problem(await api.post("/execute/async/batch.proces_corpus", {}), 404, "target_not_found")

    assert refused["nearest"][0] == "batch.process_corpus"
    assert "batch.process_corpus" in refused["fix"]


@pytest.mark.parametrize("target", ["n", "n.", ".echo", "n.echo.x", "n echo.x", "a" * 300])
async def test_a_target_has_one_dot(shared: Api, target: str) -> None:
    """What cannot be a target is malformed, whatever is registered."""
    the_problem(await shared.post(f"/execute/async/{target}", {}), 400, "target_malformed")


async def test_a_target_is_known_as_soon_as_it_is_registered(api: Api) -> None:
    """No copy of the catalogue is so old that it hides a new node."""
    the_problem(await api.post("/execute/async/n.echo", {}), 404, "target_not_found")

    await api.register("n")

    assert (await api.submit())["status"] == "queued"


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"input": []}, "body.input"),
        ({"input": "x"}, "body.input"),
        ({"priority": 1_001}, "body.priority"),
        ({"priority": "1"}, "body.priority"),
        ({"retries": -1}, "body.retries"),
        ({"timeout_seconds": 0}, "body.timeout_seconds"),
        ({"timeout_seconds": 1e12}, "body.timeout_seconds"),
        ({"idempotency_key": ""}, "Idempotency-Key"),
        ({"idempotency_key": "a\nb"}, "Idempotency-Key"),
        ({"webhook": {"url": "ftp://x"}}, "body.webhook.url"),
        ({"webhook": {"url": "http://10.0.0.1/"}}, "body.webhook.url"),
        ({"webhook": {"url": "https://x.example/", "headers": {"Host": "evil"}}}, "body.webhook.headers/Host"),
        ({"webhook": {"url": "https://x.example/", "headers": {"X": "a\nb"}}}, "body.webhook.headers/X"),
        ({"webhook": {"url": "https://x.example/", "secret": ""}}, "body.webhook.secret"),
        ({"webhook": {}}, "body.webhook"),
    ],
    ids=str,
)
async def test_what_cannot_be_is_refused(shared: Api, body: dict[str, object], where: str) -> None:
    """422 names the place; nothing is accepted, least of all work whose caller cannot be told."""
    await shared.node()

    answer = await shared.post("/execute/async/n.echo", body)

    assert answer.status_code == 422, answer.text
    assert answer.json()["where"] == where
    assert (await shared.get("/executions"))["items"] == []


async def test_a_misspelled_field_is_not_lost(api: Api) -> None:
    """A webhook under another name would never be called: the submit is refused, with the name."""
    await api.node()

    refused = the_problem(await api.post("/execute/async/n.echo", {"webhok": {"url": "x"}}), 422, "invalid")

    assert refused["fix"] == "Did you mean `webhook`?"
    assert "input" in refused["fields"]


async def test_the_same_key_is_the_same_execution(api: Api) -> None:
    """A submit may be repeated after a lost answer."""
    await api.node()
    headers = {"Idempotency-Key": "k1"}

    first = await api.post("/execute/async/n.echo", {"input": {"a": 1}}, headers=headers)
    again = await api.post("/execute/async/n.echo", {"input": {"a": 1}}, headers=headers)
    other = await api.post("/execute/async/n.echo", {"input": {"a": 2}}, headers=headers)

    assert first.json()["execution_id"] == again.json()["execution_id"]
    assert first.json()["run_id"] == again.json()["run_id"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    the_problem(other, 422, "idempotency_conflict")
    assert len((await api.get("/executions"))["items"]) == 1


async def test_the_same_key_at_once_is_one_execution(api: Api) -> None:
    """Twenty callers, one execution, twenty answers."""
    await api.node()

    answers = await asyncio.gather(*(api.post("/execute/async/n.echo", {"idempotency_key": "k"}) for _ in range(20)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["execution_id"] for answer in answers}) == 1


async def test_headers_say_where_it_belongs(api: Api) -> None:
    """Run, session and actor travel to the node and back to the caller."""
    session = await api.node()
    headers = {"X-Run-ID": "my run", "X-Session-ID": "s 1", "X-Actor-ID": "a:1"}

    accepted = await api.submit(headers=headers)
    lease = await api.take(session)
    read = await api.read(accepted["execution_id"])

    assert accepted["run_id"] == lease["run_id"] == read["run_id"] == "my run"
    assert (lease["session_key"], lease["actor_key"]) == (read["session_key"], read["actor_key"]) == ("s 1", "a:1")


@pytest.mark.parametrize("run_id", ["run_7zzzzzzzzzzzzzzzzzzzzzzzzz", "run_00000000000000000000000000", "exec_x", "ё"])
async def test_a_run_id_that_a_caller_made_up_leads_nowhere_else(api: Api, run_id: str) -> None:
    """Even one that looks like an id of ours does not put work where nobody looks for it."""
    session = await api.node()

    accepted = await api.client.post(
        "/api/v1/execute/async/n.echo", json={}, headers=[(b"X-Run-ID", run_id.encode("latin-1", "replace"))]
    )
    lease = await api.take(session)

    assert lease["execution_id"] == accepted.json()["execution_id"]


async def test_a_child_joins_its_parent(api: Api) -> None:
    """Run, root, session and actor are the parent's."""
    session = await api.node()
    parent = await api.submit(headers={"X-Session-ID": "s", "X-Actor-ID": "a"})
    lease = await api.take(session)

    child = await api.submit(headers={"X-Parent-Execution-ID": fenced(lease)})
    grandchild = await api.submit(headers={"X-Parent-Execution-ID": child["execution_id"]})
    read = await api.read(grandchild["execution_id"])

    assert child["run_id"] == grandchild["run_id"] == parent["run_id"]
    assert read["parent_execution_id"] == child["execution_id"]
    assert read["root_execution_id"] == parent["execution_id"]
    assert (read["session_key"], read["actor_key"]) == ("s", "a")


async def test_a_child_of_nobody_is_refused(api: Api) -> None:
    """A parent that does not exist cannot have asked; one that is not ours is left out, and that is said."""
    await api.node()
    unknown = {"X-Parent-Execution-ID": "exec_00000000000000000000000000"}

    the_problem(await api.post("/execute/async/n.echo", {}, headers=unknown), 404, "execution_not_found")
    foreign = await api.submit(headers={"X-Parent-Execution-ID": "exec_20260101_120000_abcdefgh"})

    assert [one["code"] for one in foreign["warnings"]] == ["parent_unknown"]


async def test_an_execution_is_read_from_its_beginning_to_its_end(api: Api) -> None:
    """Absent values are omitted; what AgentField's SDK reads is there."""
    session = await api.node()
    id_ = (await api.submit())["execution_id"]

    queued = await api.read(id_)
    lease = await api.take(session)
    running = await api.read(id_)
    await api.finish(session, lease, {"ok": [1, 2]})
    ended = await api.read(id_)

    assert (queued["status"], queued["attempt"], queued["attempts"]) == ("queued", 0, 0)
    assert not {"started_at", "completed_at", "duration_ms", "result", "error", "progress"} & queued.keys()
    assert (running["status"], running["attempt"]) == ("running", 1)
    assert running["duration_ms"] >= 0
    assert "completed_at" not in running
    assert (ended["status"], ended["result"], ended["node_id"]) == ("succeeded", {"ok": [1, 2]}, "n")
    assert ended["started_at"] <= ended["completed_at"]
    assert not {"error", "error_message", "error_details", "status_reason"} & ended.keys()
    assert None not in ended.values()


async def test_a_failure_is_read(api: Api) -> None:
    """`error` is what the node said, `error_message` says it to people."""
    session = await api.node()
    id_ = (await api.submit())["execution_id"]

    over = {"error": "no\nway", "error_class": "ValueError", "error_details": {"at": 3}, "traceback": "line 1"}
    await api.finish(session, await api.take(session), status="failed", **over)
    ended = await api.read(id_)

    assert (ended["status"], ended["status_reason"]) == ("failed", "user_error")
    assert (ended["error"], ended["error_message"], ended["error_class"]) == ("no\nway", "no\nway", "ValueError")
    assert ended["error_details"] == {"at": 3}
    assert "result" not in ended


async def test_a_null_result_is_a_result(api: Api) -> None:
    """A reasoner that returns nothing has succeeded with null."""
    session = await api.node()

    id_ = await api.run(session, None)

    assert (await api.read(id_))["result"] is None


async def test_an_unknown_execution(api: Api) -> None:
    """An id that is none is not valid, one that is nobody's is not found."""
    answer = await api.client.get("/api/v1/executions/exec_00000000000000000000000000")
    the_problem(answer, 404, "execution_not_found")
    the_problem(await api.client.get("/api/v1/executions/garbage"), 422, "invalid")
    the_problem(
        await api.client.get("/api/v1/executions/exec_00000000000000000000000000/input"), 404, "execution_not_found"
    )


@BY_HINT_AND_BY_POLLING
async def test_a_read_waits_for_the_end(api: Api) -> None:
    """It is held until the execution has ended, not longer."""
    session = await api.node()
    id_ = (await api.submit())["execution_id"]
    lease = await api.take(session)

    waiting = asyncio.create_task(api.read(id_, wait_seconds=DEADLINE_SECONDS))
    await until(lambda: watched(api))
    began = time.monotonic()
    await api.finish(session, lease, 7)
    ended = await waiting

    assert (ended["status"], ended["result"]) == ("succeeded", 7)
    assert time.monotonic() - began < 5


async def test_a_wait_is_over_when_its_time_is(api: Api) -> None:
    """Then the answer is what is true now."""
    await api.node()
    id_ = (await api.submit())["execution_id"]

    began = time.monotonic()
    read = await api.read(id_, wait_seconds=0.2)

    assert read["status"] == "queued"
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("text", ["-1", "61", "x", "", "nan", "inf", "1e1", "1_0", "+1", "%201"])
async def test_a_wait_has_bounds(shared: Api, text: str) -> None:
    """Seconds in plain digits, at most a minute."""
    answer = await shared.client.get(f"/api/v1/executions/exec_00000000000000000000000000?wait_seconds={text}")

    assert the_problem(answer, 422, "invalid")["where"] == "query/wait_seconds"


async def test_a_synchronous_call_answers_with_the_result(api: Api) -> None:
    """200 in AgentField's shape."""
    session = await api.node()

    calling = asyncio.create_task(api.post("/execute/n.echo", {"input": {"a": 1}}))
    await api.finish(session, await api.take(session), {"b": 2})
    answer = await calling
    body = answer.json()

    assert answer.status_code == 200
    assert (body["status"], body["result"], body["webhook_registered"]) == ("succeeded", {"b": 2}, False)
    assert body["duration_ms"] >= 0
    assert body["finished_at"] == body["completed_at"]
    assert answer.headers["x-execution-id"] == body["execution_id"]
    assert answer.headers["x-run-id"] == body["run_id"]


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_a_synchronous_call_of_what_fails(api: Api, status: str) -> None:
    """502 in the same shape, with what went wrong."""
    session = await api.node()

    calling = asyncio.create_task(api.post("/execute/n.echo", {}))
    await api.finish(session, await api.take(session), status=status, error="no way", error_details=[1])
    answer = await calling
    body = answer.json()

    assert answer.status_code == 502
    assert (body["status"], body["error_message"], body["error_details"]) == (status, "no way", [1])
    assert {"execution_id", "run_id", "finished_at", "duration_ms"} <= body.keys()


@pytest.mark.parametrize("settings", [{"sync_wait_seconds": 0.3}])
async def test_a_synchronous_call_that_takes_too_long_goes_on(api: Api) -> None:
    """504 with the id; the execution does not notice."""
    session = await api.node()

    late = the_problem(await api.post("/execute/n.echo", {}), 504, "waited_too_long")
    lease = await api.take(session)
    await api.finish(session, lease, "at last")

    assert late["execution_id"] == lease["execution_id"]
    assert (await api.read(late["execution_id"]))["result"] == "at last"


async def test_a_caller_that_hangs_up_does_not_stop_the_work(api: Api) -> None:
    """The execution is the server's from the moment it is accepted."""
    session = await api.node()

    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as impatient:
        with pytest.raises(httpx.ReadTimeout):
            await impatient.post("/api/v1/execute/n.echo", json={}, timeout=0.3)
    lease = await api.take(session)
    await api.finish(session, lease, 1)

    assert (await api.read(lease["execution_id"]))["status"] == "succeeded"


async def test_many_are_read_at_once(api: Api) -> None:
    """By id; an unknown one answers in its place."""
    session = await api.node()
    done = await api.run(session, 1)
    queued = (await api.submit())["execution_id"]
    nobody = "exec_00000000000000000000000000"

    answer = await api.post("/executions/batch-status", {"execution_ids": [done, queued, nobody, "garbage", done]})
    found = answer.json()

    assert answer.status_code == 200
    assert found.keys() == {done, queued, nobody, "garbage"}
    assert found[done] == await api.read(done)
    assert found[queued]["status"] == "queued"
    assert found[nobody] == {"execution_id": nobody, "status": "not_found"}
    assert found["garbage"] == {"execution_id": "garbage", "status": "not_found"}


@pytest.mark.parametrize("ids", [[], ["x"] * 1_001], ids=["none", "many"])
async def test_how_many_are_read_at_once(shared: Api, ids: object) -> None:
    """From 1 to 500, else a bad request, as AgentField has it."""
    refused = await shared.post("/executions/batch-status", {"execution_ids": ids})

    assert the_problem(refused, 400, "invalid_parameter")["where"] == "body.execution_ids"


@pytest.mark.parametrize("ids", [[1], "x", None], ids=["numbers", "text", "null"])
async def test_only_ids_are_read_at_once(shared: Api, ids: object) -> None:
    """A list of texts, and nothing else."""
    the_problem(await shared.post("/executions/batch-status", {"execution_ids": ids}), 422, "invalid")


async def test_what_waits_is_cancelled_at_once(api: Api) -> None:
    """Nobody runs it, so it has ended with the answer."""
    await api.node()
    id_ = (await api.submit())["execution_id"]

    answer = await api.post(f"/executions/{id_}/cancel", {"reason": "changed my mind"})
    read = await api.read(id_)

    assert answer.status_code == 200
    body = answer.json()
    assert (body["previous_status"], body["status"], body["settled"]) == ("queued", "cancelled", True)
    assert (body["execution_id"], body["reason"]) == (id_, "changed my mind")
    assert datetime.fromisoformat(body["cancelled_at"]).tzinfo is not None
    assert (read["status"], read["error"], read["status_reason"]) == ("cancelled", "changed my mind", "cancelled")


@pytest.mark.parametrize("prefix", ["/api/v1", "/api/ui/v1"])
async def test_what_runs_is_cancelled_by_its_node(api: Api, prefix: str) -> None:
    """Until the node has stopped it runs, and can only end as cancelled."""
    session = await api.node()
    id_ = (await api.submit())["execution_id"]
    lease = await api.take(session)

    answer = await api.client.post(f"{prefix}/executions/{id_}/cancel")
    running = await api.read(id_)
    reported = await api.finish(session, lease, "too late")
    ended = await api.read(id_)

    assert (answer.status_code, answer.json()["settled"]) == (200, False)
    assert (running["status"], running["status_reason"]) == ("running", "cancelling")
    assert reported.json()["results"][0]["code"] == "discarded"
    assert (ended["status"], ended.get("result")) == ("cancelled", None)


async def test_what_has_ended_is_not_cancelled(api: Api) -> None:
    """409, with how it ended; what never was is not found."""
    session = await api.node()
    id_ = await api.run(session, 1)

    refused = the_problem(await api.post(f"/executions/{id_}/cancel"), 409, "already_finished")

    assert refused["execution_status"] == "succeeded"
    the_problem(await api.post("/executions/exec_00000000000000000000000000/cancel"), 404, "execution_not_found")


@BY_HINT_AND_BY_POLLING
async def test_a_cancel_reaches_the_node_within_a_second(api: Api) -> None:
    """The heartbeat that is being held answers."""
    session = await api.node()
    id_ = (await api.submit())["execution_id"]
    lease = await api.take(session)

    beat = asyncio.create_task(api.heartbeat(session, executions=[fence(lease)], wait_seconds=DEADLINE_SECONDS))
    await until(lambda: _beating(api))
    began = time.monotonic()
    await api.post(f"/executions/{id_}/cancel", {"reason": "stop"})
    told = (await beat).json()

    assert told["cancel"] == [{**fence(lease), "reason": "stop"}]
    assert time.monotonic() - began < 5  # about one, on a machine that is not busy


async def _beating(api: Api) -> bool:
    return any(topic.startswith("session:") for topic in api.app.state.doors.hints.waiters)


@pytest.mark.parametrize("settings", [{"cancel_grace_seconds": 0.2}])
async def test_a_node_that_does_not_stop_is_not_waited_for(api: Api) -> None:
    """After the grace the execution is cancelled, and the late result is refused."""
    session = await api.node()
    id_ = (await api.submit())["execution_id"]
    lease = await api.take(session)

    await api.post(f"/executions/{id_}/cancel")
    ended = await api.read(id_, wait_seconds=DEADLINE_SECONDS)
    late = await api.finish(session, lease, 1)

    assert ended["status"] == "cancelled"
    assert late.status_code in (200, 409)
    assert (await api.read(id_))["status"] == "cancelled"


async def test_an_attempt_that_takes_too_long_times_out(api: Api) -> None:
    """The caller's limit counts from the start of the attempt."""
    session = await api.node()
    id_ = (await api.submit(timeout_seconds=0.1))["execution_id"]
    lease = await api.take(session)

    ended = await api.read(id_, wait_seconds=DEADLINE_SECONDS)

    assert lease["timeout_seconds"] == 0.1
    assert (ended["status"], ended["status_reason"]) == ("timeout", "start_to_close")


async def test_a_failure_is_tried_again(api: Api) -> None:
    """By the caller's number of retries and the reasoner's delay."""
    await api.register("n", "echo", retry_delay_seconds=0.0)
    session = await api.open_session("n")
    id_ = (await api.submit(retries=1))["execution_id"]

    first = await api.take(session)
    again = await api.finish(session, first, status="failed", error="once")
    second = await api.take(session)
    await api.finish(session, second, status="failed", error="twice")
    ended = await api.read(id_)

    assert again.json()["results"][0] == {**fence(first), "http_status": 200, "code": "recorded", "status": "queued"}
    assert (second["attempt"], second["failures"]) == (2, 1)
    assert (ended["status"], ended["error"], ended["attempt"], ended["failures"]) == ("failed", "twice", 2, 2)


async def test_the_most_urgent_comes_first(api: Api) -> None:
    """Priority, then age."""
    session = await api.node()
    ids = [(await api.submit(priority=priority))["execution_id"] for priority in (0, 5, 0, 9, -3)]

    leased = [one["execution_id"] for one in await api.lease(session, limit=5)]

    assert leased == [ids[3], ids[1], ids[0], ids[2], ids[4]]


async def test_lists_are_filtered_and_paged(api: Api) -> None:
    """Newest first, every one once, whatever ends in between."""
    await api.register("n", "echo", "other")
    await api.register("m", "echo")
    session = await api.open_session("n")
    asked = [("n.echo", "r1"), ("n.other", "r1"), ("m.echo", "r2"), ("n.echo", "r2")] * 30
    ids = [(await api.submit(target, headers={"X-Run-ID": run_id}))["execution_id"] for target, run_id in asked]
    for lease in await api.lease(session, limit=20):
        await api.finish(session, lease, 1)
    newest = list(reversed(ids))
    by_target = {target: [id_ for id_, one in zip(ids, asked, strict=True) if one[0] == target] for target, _ in asked}
    of_m = list(reversed(by_target["m.echo"]))
    of_run = [id_ for id_, one in zip(ids, asked, strict=True) if one[1] == "r1"]

    assert await _all_pages(api, limit=50) == newest
    assert await _all_pages(api, limit=200) == newest
    assert await _all_pages(api, limit=7, node_id="m") == of_m
    assert await _all_pages(api, limit=7, target="m.echo") == of_m
    assert await _all_pages(api, limit=7, run_id="r1") == list(reversed(of_run))
    succeeded = await _all_pages(api, limit=7, status="succeeded")
    queued = await _all_pages(api, limit=7, status="queued")
    assert len(succeeded) == 20
    assert sorted(succeeded + queued) == sorted(ids)
    assert await _all_pages(api, limit=7, status="succeeded,queued") == newest
    assert set(await _all_pages(api, limit=7, status="succeeded", run_id="r1")) == set(succeeded) & set(of_run)
    assert await _all_pages(api, limit=7, status="failed") == []
    assert await _all_pages(api, limit=7, node_id="nobody") == []
    assert await _all_pages(api, limit=7, target="n.echo", node_id="m") == []


async def _all_pages(api: Api, **query: object) -> list[str]:
    ids: list[str] = []
    cursor = None
    while True:
        page = await api.get("/executions", **query, **({} if cursor is None else {"cursor": cursor}))
        assert all({"result", "input"}.isdisjoint(item) for item in page["items"])
        ids += [item["execution_id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return ids


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "status=paused", "cursor=x", "target=%00", "run_id=" + "a" * 300]
)
async def test_what_a_list_refuses(shared: Api, query: str) -> None:
    """422 names the parameter."""
    refused = the_problem(await shared.client.get(f"/api/v1/executions?{query}"), 422, "invalid")

    assert refused["where"] == f"query/{query.partition('=')[0]}"


async def test_what_was_asked_is_read(api: Api) -> None:
    """Input and context, apart from the execution, which is polled."""
    await api.node()
    id_ = (await api.submit(input={"a": [1.0]}, context={"who": "me"}))["execution_id"]

    read = await api.get(f"/executions/{id_}/input")

    assert read == {"execution_id": id_, "input": {"a": [1.0]}, "context": {"who": "me"}}


async def test_a_webhook_is_registered(api: Api, receiver: Receiver) -> None:
    """The submit says so, and so does every read."""
    session = await api.node()

    accepted = await api.submit(webhook={"url": receiver.url})
    await api.finish(session, await api.take(session), 1)
    await receiver.wait_for(1)

    assert accepted["webhook_registered"] is True
    assert (await api.read(accepted["execution_id"]))["webhook_registered"] is True
