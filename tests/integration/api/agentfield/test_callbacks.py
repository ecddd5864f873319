"""The status callback: every way in which an agent says how an attempt went, once, twice, too late or wrongly."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.postgres.pool import Connection
from tests.integration.api.agentfield.agent import HANGS, AgentDouble, raw_of
from tests.integration.api.serving import DEADLINE_SECONDS, Api, Json, Receiver, the_problem, until

RETRIED: Json = [{"id": "echo", "retries": 3, "retry_delay_seconds": 0.05}]
ANY_JSON = [
    b'{"x" : 1.50, "y":"\\u0041"}',
    b"[1,\t[],{}]",
    b'"s"',
    b'""',
    b"null",
    b"false",
    b"1e2",
    b'"\\u0000"',
    b"-0.0",
]
SHUTDOWN: Json = {
    "status": "cancelled",
    "error": "cancelled during graceful shutdown",
    "status_reason": "shutdown timeout exceeded",
    "error_details": {"reason": "shutdown"},
}


async def ended(api: Api, execution_id: str) -> dict[str, Json]:
    return await api.read(execution_id, wait_seconds=DEADLINE_SECONDS)


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"status": "succeeded", "result": {"x": 1}}, {"status": "succeeded", "result": {"x": 1}}),
        ({"status": "succeeded"}, {"status": "succeeded", "result": None}),
        ({"status": " Completed "}, {"status": "succeeded"}),
        ({"status": "ok", "usage": {"tokens": 3}, "progress": "?"}, {"status": "succeeded"}),
        ({"status": "failed", "error": "boom", "error_details": None}, {"status": "failed", "error": "boom"}),
        (
            {"status": "failed", "error": "half done", "error_details": {"why": "test"}, "result": {"partial": 1}},
            {"status": "failed", "error": "half done", "error_details": {"why": "test"}, "result": {"partial": 1}},
        ),
        (
            {"status": "failed", "error": "slow", "error_details": {"reason": "reasoner_timeout"}},
            {"status": "failed", "error_class": "reasoner_timeout"},
        ),
        ({"status": "errored", "error": {"code": 7}}, {"status": "failed", "error_message": '{"code":7}'}),
        ({"status": "failed", "error": None}, {"status": "failed", "error": "failed"}),
        ({"status": "failed", "error": "x", "error_status_code": "?"}, {"status": "failed", "error": "x"}),
        ({"status": "timeout", "error": "late"}, {"status": "failed", "error": "late"}),
        (
            {"status": "cancelled", "error": "cancelled_by_control_plane", "error_details": {"reason": "cancelled"}},
            {"status": "cancelled", "status_reason": "cancelled_by_node"},
        ),
        ({"status": "canceled"}, {"status": "cancelled"}),
    ],
)
async def test_how_an_attempt_went(api: Api, agent: AgentDouble, body: Json, shown: Json) -> None:
    """In the words of every SDK, with the error as it was said; the answer shows the execution."""
    id_ = (await api.submit())["execution_id"]

    said = await agent.call_back(await agent.take(), **body)
    found = await ended(api, id_)

    assert said.status_code == 200, said.text
    assert said.json()["status"] == found["status"]
    assert {name: found[name] for name in shown} == shown


async def test_any_result_comes_back_as_it_was(api: Api, agent: AgentDouble) -> None:
    """Byte for byte: lists and texts, too, which AgentField itself refuses."""
    for raw in ANY_JSON:
        id_ = (await api.submit())["execution_id"]
        call = await agent.take()
        said = await _post(api, call.id, b'{"status":"succeeded","result":%b}' % raw)

        assert said.status_code == 200
        assert raw_of(said, "result") == raw
        assert raw_of(await api.client.get(f"/api/v1/executions/{id_}"), "result") == raw


async def test_a_failure_is_tried_again(api: Api, agent: AgentDouble) -> None:
    """By the reasoner's policy; a callback of the first attempt then changes nothing."""
    await agent.register(reasoners=RETRIED)
    id_ = (await api.submit())["execution_id"]
    first = await agent.take()

    failed = await agent.call_back(first, status="failed", error="boom")
    again = await agent.call_back(first, status="failed", error="boom")
    second = await agent.take()
    stale = await agent.succeed(first, "stale")
    await agent.succeed(second, "fresh")
    found = await ended(api, id_)

    assert (failed.json()["status"], again.status_code) == ("queued", 200)
    the_problem(stale, 409, "lease_lost")
    assert (second.id, found["result"], found["failures"]) == (f"{id_}~2", "fresh", 1)


@pytest.mark.parametrize("first", ["succeeded", "failed", "cancelled"])
async def test_an_end_never_changes(api: Api, agent: AgentDouble, receiver: Receiver, first: str) -> None:
    """Said again or contradicted, it stays, nobody is told twice, and the answer makes no SDK try again."""
    id_ = (await api.submit(webhook={"url": receiver.url}))["execution_id"]
    call = await agent.take()
    await agent.call_back(call, status=first, **_words(first, "first"))
    before = await ended(api, id_)

    words = ["succeeded", "failed", "cancelled", "running"] * 2
    again = [await agent.call_back(call, status=word, **_words(word, "last")) for word in words]
    await until(lambda: _delivered(api, id_))
    after = await api.read(id_)

    assert {one.status_code for one in again} <= {200, 409}
    assert before["status"] == first
    assert {**after, "webhook_events": []} == {**before, "webhook_events": []}
    assert len(await api.deliveries(id_)) == len(receiver.received) == 1


async def test_two_contradict_each_other_at_once(api: Api, agent: AgentDouble, receiver: Receiver) -> None:
    """One of them is the end, and it is told once."""
    id_ = (await api.submit(webhook={"url": receiver.url}))["execution_id"]
    call = await agent.take()

    words = ["succeeded", "failed", "cancelled"] * 5
    said = await asyncio.gather(*(agent.call_back(call, status=word, **_words(word, word)) for word in words))
    await until(lambda: _delivered(api, id_))

    assert {one.status_code for one in said} == {200}
    assert len({one.json()["status"] for one in said}) == 1
    assert len(receiver.received) == 1


async def test_a_callback_without_its_attempt(api: Api, agent: AgentDouble) -> None:
    """Whoever does not send back what it was given may be anybody."""
    id_ = (await api.submit())["execution_id"]
    call = await agent.take()

    bare = the_problem(await _post(api, id_, b'{"status":"succeeded"}'), 422, "invalid")

    assert "X-Execution-ID" in bare["fix"]
    the_problem(await _post(api, f"{id_}~2", b'{"status":"succeeded"}'), 409, "lease_lost")
    the_problem(await _post(api, f"{id_}~x", b'{"status":"succeeded"}'), 422, "invalid")
    the_problem(await _post(api, f"exec_{'0' * 26}~1", b'{"status":"succeeded"}'), 404, "execution_not_found")
    assert (await agent.succeed(call)).status_code == 200


@pytest.mark.parametrize("body", [{"status": "sleeping"}, {}, {"status": 5}, {"status": None}, {"status": "paused"}])
async def test_a_word_that_nobody_knows(api: Api, agent: AgentDouble, body: Json) -> None:
    """422, and the attempt goes on: its real callback still counts."""
    id_ = (await api.submit())["execution_id"]
    call = await agent.take()

    problem = the_problem(await api.post(f"/executions/{call.id}/status", body), 422, "invalid")
    await agent.succeed(call, 1)

    assert problem["where"] if "where" in problem else problem["detail"]
    assert (await ended(api, id_))["status"] == "succeeded"


@pytest.mark.parametrize("settings", [{"payload_bytes_max": 2_048, "body_bytes_max": 8_192}])
@pytest.mark.parametrize(
    "raw",
    [
        b'{"status":"succeeded","result":NaN}',
        b'{"status":"succeeded","result":1e400}',
        b'{"status":"succeeded","result":"\\ud800"}',
        b'{"status":"succeeded","result":"\xff"}',
        b'{"status":"succeeded","result":',
        b"hello",
        b"\xff\xfe",
        b'{"status":"succeeded","result":"%b"}' % (b"x" * 3_000),
        b'{"status":"succeeded","result":"%b"}' % (b"x" * 10_000),
        b'{"status":"succeeded","result":%b}' % (b"[" * 300 + b"]" * 300),
        b'{"status":"succeeded","result":%b}' % (b"[" * 3_000 + b"]" * 3_000),
        b'{"status":"failed","error":"x","error_details":{"a":Infinity}}',
    ],
    ids=lambda raw: raw[:45].decode(errors="replace") if isinstance(raw, bytes) else None,
)
async def test_a_result_that_cannot_be_kept(api: Api, agent: AgentDouble, raw: bytes) -> None:
    """The agent would never be asked again, so the execution fails at once and says why."""
    await agent.register(reasoners=RETRIED)
    id_ = (await api.submit())["execution_id"]
    call = await agent.take()

    said = await _post(api, call.id, raw)
    found = await ended(api, id_)

    assert said.status_code in (200, 413), said.text
    assert (found["status"], found["error_class"], found["attempt"]) == ("failed", "ResultInvalid", 1)
    assert "cannot be kept" in found["error_message"]


async def test_a_result_that_is_far_too_large(api: Api, agent: AgentDouble) -> None:
    """The agent is answered whole, though nobody reads to the end of what it says: it does not try again."""
    id_ = (await api.submit())["execution_id"]
    call = await agent.take()

    said = await agent.succeed(call, "x" * 40_000_000)
    found = await ended(api, id_)

    assert said.status_code == 200
    assert (found["status"], found["error_class"]) == ("failed", "ResultInvalid")


async def test_an_agent_that_goes_has_not_been_cancelled(api: Api, agent: AgentDouble) -> None:
    """What it could not finish runs again, in the same run, without a failure and without a crash."""
    id_ = (await api.submit(headers={"X-Run-ID": "r-1"}))["execution_id"]
    first = await agent.take()

    said = await agent.call_back(first, **SHUTDOWN)
    second = await agent.take()
    await agent.succeed(second, "again")
    found = await ended(api, id_)

    assert (said.status_code, said.json()["status"]) == (200, "queued")
    assert (second.id, second.headers["x-run-id"]) == (f"{id_}~2", "r-1")
    assert (found["status"], found["failures"], found["result"]) == ("succeeded", 0, "again")


async def test_an_agent_that_goes_with_what_was_cancelled(api: Api, agent: AgentDouble) -> None:
    """Then it was cancelled after all."""
    id_ = (await api.submit())["execution_id"]
    call = await agent.take()
    await api.post(f"/executions/{id_}/cancel", {})

    await agent.call_back(call, **SHUTDOWN)

    assert (await ended(api, id_))["status"] == "cancelled"
    assert len(agent.calls) == 1


async def test_how_far_it_is(api: Api, agent: AgentDouble) -> None:
    """An agent that is still at it may say how far (0 to 100)."""
    for percent, fraction in ((0, 0.0), (40, 0.4), (12.5, 0.125), (100, 1.0)):
        id_ = (await api.submit())["execution_id"]
        said = await agent.call_back(await agent.take(), status="running", progress=percent)
        found = await until(lambda id_=id_: _with_progress(api, id_))

        assert (said.status_code, said.json()["status"]) == (200, "running")
        assert (found["status"], found["progress"]["fraction"]) == ("running", fraction)


async def test_how_far_makes_no_sense(api: Api, agent: AgentDouble) -> None:
    """Left alone: it runs, and nothing is known of how far."""
    id_ = (await api.submit())["execution_id"]
    call = await agent.take()

    said = [await agent.call_back(call, status="in_progress", progress=one) for one in (-1, 101, "half", None, True)]
    await agent.call_back(call, status="running", progress=50)  # so what came before it was seen, too
    await until(lambda: _with_progress(api, id_))
    trace = (await api.get(f"/executions/{id_}/events"))["items"]

    assert {one.status_code for one in said} == {200}
    assert [one["data"]["fraction"] for one in trace if one["type"] == "execution.progress"] == [0.5]


async def test_running_says_that_it_was_taken(api: Api, agent: AgentDouble, conn: Connection) -> None:
    """However the answer to the dispatch gets lost afterwards."""
    agent.queue.append(HANGS)
    id_ = (await api.submit())["execution_id"]
    call = await agent.take()

    await agent.call_back(call, status="running")

    assert await conn.fetchval("select accepted_at is not null from queue")
    await agent.succeed(call, 1)
    assert (await ended(api, id_))["status"] == "succeeded"


@pytest.mark.parametrize(("code", "answered"), [(418, 418), (404, 404), (503, 502), (200, 502), (None, 502)])
async def test_a_status_of_the_reasoner(api: Api, agent: AgentDouble, code: int | None, answered: int) -> None:
    """An exception that carries a status: a synchronous caller gets it."""
    calling = asyncio.create_task(api.post("/execute/n.echo", {}))
    said = {} if code is None else {"error_status_code": code}
    await agent.call_back(await agent.take(), status="failed", error="no", error_details=None, **said)
    answer = await calling

    assert answer.status_code == answered
    assert answer.json()["error_message"] == "no"
    assert answer.json().get("error_status_code") == (code if code and code >= 400 else None)


async def test_a_result_after_a_cancel(api: Api, agent: AgentDouble, receiver: Receiver) -> None:
    """It was cancelled: the result is kept where a person can see it, and the end is told once."""
    id_ = (await api.submit(webhook={"url": receiver.url}))["execution_id"]
    call = await agent.take()
    await api.post(f"/executions/{id_}/cancel", {"reason": "enough"})

    said = await agent.succeed(call, {"late": 1})
    again = await agent.succeed(call, {"late": 1})
    await until(lambda: _delivered(api, id_))
    items = (await api.get(f"/executions/{id_}/events"))["items"]
    found = await ended(api, id_)

    assert (said.status_code, again.status_code) == (200, 200)
    assert (found["status"], found["error_message"], found.get("result")) == ("cancelled", "enough", None)
    assert [one["data"]["result"] for one in items if one["type"] == "result.discarded"] == [{"late": 1}]
    assert [(one.json["event"], one.json["status"]) for one in receiver.received] == [("execution.failed", "cancelled")]


async def _post(api: Api, id_: str, raw: bytes) -> Json:
    return await api.client.post(f"/api/v1/executions/{id_}/status", content=raw)


def _words(status: str, word: str) -> dict[str, Json]:
    return {"result": word} if status == "succeeded" else {"error": word}


async def _delivered(api: Api, execution_id: str) -> bool:
    return [one["state"] for one in await api.deliveries(execution_id)] == ["delivered"]


async def _with_progress(api: Api, execution_id: str) -> dict[str, Json] | None:
    found = await api.read(execution_id)
    return found if "progress" in found else None
