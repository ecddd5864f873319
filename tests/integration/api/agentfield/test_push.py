"""Work that is sent: what the agent gets, what its answers mean, and what happens when there is none."""

from __future__ import annotations

import pytest

from controlplane.postgres.pool import Connection
from tests.integration.api.agentfield.agent import (
    HANGS,
    LOST,
    NO_SUCH_PATH,
    NOT_ACTIVE,
    STOPPED,
    AgentDouble,
    Asked,
    Reply,
    inline,
    raw_of,
)
from tests.integration.api.serving import DEADLINE_SECONDS, Api, Json, until

RETRIED: Json = [{"id": "echo", "retries": 3, "retry_delay_seconds": 0.05}]
QUICK = pytest.mark.parametrize("settings", [{"push_dispatch_seconds": 0.5}])
ANY_JSON = [
    b'{"x": 1.50, "y": "\\u0041"}',
    b"[1, [], {}]",
    b'"s"',
    b'""',
    b"null",
    b"true",
    b"1e2",
    b"12345678901234567",
]

READ_QUEUED = "select crashes, failures, attempt from queue"


async def ended(api: Api, execution_id: str) -> dict[str, Json]:
    found = await api.read(execution_id, wait_seconds=DEADLINE_SECONDS)
    assert found["status"] not in ("queued", "running", "waiting"), found
    return found


async def events_of(api: Api, execution_id: str) -> list[str]:
    items = (await api.get(f"/executions/{execution_id}/events"))["items"]
    return [one["type"] for one in items]


async def test_what_an_agent_is_sent(api: Api, agent: AgentDouble) -> None:
    """The input as it came, and the context in headers; the execution's id carries the attempt."""
    raw = b'{"items" : [1.0, "\\u0041"],"u":"\xc3\xbc"}'
    headers = {"X-Session-ID": "s-1", "X-Actor-ID": "a-1", "X-Run-ID": "my run"}
    accepted = await api.client.post("/api/v1/execute/async/n.echo", content=b'{"input":%b}' % raw, headers=headers)
    id_ = accepted.json()["execution_id"]

    call = await agent.take()

    assert (call.method, call.path, call.body) == ("POST", "/reasoners/echo", raw)
    assert call.headers["content-type"] == "application/json"
    assert call.headers["x-execution-id"] == f"{id_}~1"
    assert (call.headers["x-run-id"], call.headers["x-workflow-id"]) == ("my run", "my run")
    assert (call.headers["x-session-id"], call.headers["x-actor-id"]) == ("s-1", "a-1")
    assert call.headers.keys().isdisjoint({"x-parent-execution-id", "authorization"})
    assert not any(name.startswith("x-agentfield-replay") for name in call.headers)


async def test_nothing_to_say(api: Api, agent: AgentDouble) -> None:
    """An empty object, for a reasoner without arguments."""
    await api.submit()

    assert (await agent.take()).body == b"{}"


async def test_a_child_is_sent_with_its_parent(api: Api, agent: AgentDouble) -> None:
    """By its public id, in the parent's run."""
    await api.submit(headers={"X-Session-ID": "s-1"})
    parent = await agent.take()

    headers = {"X-Execution-ID": parent.id, "X-Parent-Execution-ID": parent.id, "X-Run-ID": parent.headers["x-run-id"]}
    await api.submit(headers=headers)
    child = await agent.take()

    assert child.headers["x-parent-execution-id"] == parent.execution_id
    assert child.headers["x-run-id"] == parent.headers["x-run-id"]
    assert child.headers["x-session-id"] == "s-1"


@pytest.mark.parametrize("settings", [{"node_token": "letmein"}])
async def test_who_calls(api: Api, agent: AgentDouble) -> None:
    """The operator's token, for agents that check it; on everything that is asked of them."""
    await api.submit()
    await agent.take()

    assert {one.headers.get("authorization") for one in agent.asked} == {"Bearer letmein"}


async def test_taken_and_called_back(api: Api, agent: AgentDouble) -> None:
    """It runs from the 202 on, and ends with the callback."""
    id_ = (await api.submit(input={"x": 1}))["execution_id"]
    call = await agent.take()
    running = await api.read(id_)

    said = await agent.succeed(call, {"double": 2})
    found = await ended(api, id_)

    assert (running["status"], running["attempt"]) == ("running", 1)
    assert (said.status_code, said.json()["execution_id"], said.json()["status"]) == (200, id_, "succeeded")
    assert (found["status"], found["result"], found["failures"]) == ("succeeded", {"double": 2}, 0)
    assert await events_of(api, id_) == ["execution.queued", "execution.started", "execution.completed"]


async def test_called_back_before_it_is_taken(api: Api, agent: AgentDouble) -> None:
    """The callback overtakes the 202: it counts, and the 202 changes nothing."""
    agent.queue.append(HANGS)
    first = (await api.submit())["execution_id"]
    call = await agent.take()

    said = await agent.succeed(call, "early")
    agent.let_go()
    second = (await api.submit())["execution_id"]
    await agent.succeed(await agent.take(), "second")

    assert said.status_code == 200
    assert (await ended(api, second))["result"] == "second"
    assert (await ended(api, first))["result"] == "early"
    assert [one.id for one in agent.calls] == [f"{first}~1", f"{second}~1"]


@pytest.mark.parametrize("target", ["n.echo", "n.add"])
async def test_the_answer_is_the_result(api: Api, agent: AgentDouble, target: str) -> None:
    """A 200 ends the attempt, whether a reasoner or a skill answers it: any JSON, byte for byte."""
    for raw in ANY_JSON:
        agent.answer = Reply(200, raw)
        id_ = (await api.submit(target))["execution_id"]
        await ended(api, id_)

        assert raw_of(await api.client.get(f"/api/v1/executions/{id_}"), "result") == raw

    kind = {"n.echo": "/reasoners/echo", "n.add": "/skills/add"}[target]
    assert {one.path for one in agent.calls} == {kind}
    assert {one.attempt for one in agent.calls} == {1}


async def test_an_empty_answer_is_null(api: Api, agent: AgentDouble) -> None:
    """A result there is, whatever was said."""
    agent.answer = Reply(204, b"")

    found = await ended(api, (await api.submit())["execution_id"])

    assert (found["status"], found["result"]) == ("succeeded", None)


async def test_tokens_used_are_no_result(api: Api, agent: AgentDouble) -> None:
    """What the SDK adds to an answer about its model is taken away."""
    agent.answer = inline({"x": 1, "__agentfield_usage__": {"tokens": 5}})

    assert (await ended(api, (await api.submit())["execution_id"]))["result"] == {"x": 1}


async def test_an_answer_that_drips(api: Api, agent: AgentDouble) -> None:
    """However slowly it comes, it is read to its end."""
    agent.answer = Reply(200, b'{"text":"%b"}' % (b"x" * 500), drip=True)

    assert (await ended(api, (await api.submit())["execution_id"]))["result"] == {"text": "x" * 500}


@pytest.mark.parametrize("settings", [{"payload_bytes_max": 1024}])
@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b'"%b"' % (b"x" * 2_000), "larger"),
        (b'"%b"' % (b"x" * 100_000), "larger"),
        (b"hello", "JSON"),
        (b"NaN", "JSON"),
        (b"[" * 300 + b"]" * 300, "deep"),
    ],
)
async def test_an_answer_that_cannot_be_kept(api: Api, agent: AgentDouble, raw: bytes, why: str) -> None:
    """The execution fails and says why; asking again would bring the same."""
    await agent.register(reasoners=RETRIED)
    agent.answer = Reply(200, raw)

    found = await ended(api, (await api.submit())["execution_id"])

    assert (found["status"], found["error_class"], found["attempt"]) == ("failed", "ResultInvalid", 1)
    assert why in found["error_message"]


@QUICK
@pytest.mark.parametrize(("python", "target"), [(True, "n.add"), (False, "n.echo")], ids=["skill", "typescript"])
async def test_a_long_call_is_waited_for(api: Api, conn: Connection, python: bool, target: str) -> None:
    """A skill, and a reasoner of an SDK that does not acknowledge, may take longer than one may to acknowledge."""
    async with AgentDouble(api, python=python) as agent:
        await agent.register()
        agent.queue.append(Reply(200, b'"at last"', hang=True))
        id_ = (await api.submit(target))["execution_id"]
        await agent.take()

        long_since = "select sent_at > leased_at + interval '1.5 seconds' from queue"  # by whoever holds its request
        await until(lambda: conn.fetchval(long_since))
        agent.let_go()
        found = await ended(api, id_)

        assert (found["status"], found["result"], found["attempt"]) == ("succeeded", "at last", 1)
        assert (len(agent.calls), agent.cancels) == (1, [])


@pytest.mark.parametrize(
    ("status", "said", "words"),
    [
        (422, {"detail": "Missing required field: items"}, "Missing required field: items"),
        (400, {"error": "bad"}, "bad"),
        (404, {"detail": "Not Found"}, "Not Found"),
        (418, {"error": {"code": 7}}, '{"error": {"code": 7}}'),
        (413, [1], "The node answered 413."),
        (301, {"message": "elsewhere"}, "elsewhere"),
    ],
)
async def test_a_refusal_is_final(api: Api, agent: AgentDouble, status: int, said: Json, words: str) -> None:
    """It would be refused again: no retry, and the agent's own words."""
    await agent.register(reasoners=RETRIED)
    agent.answer = Reply(status, inline(said).body)

    found = await ended(api, (await api.submit())["execution_id"])

    assert (found["status"], found["error_message"], found["attempt"]) == ("failed", words, 1)
    assert found.get("error_status_code") == (status if status >= 400 else None)


async def test_a_failure_is_tried_again(api: Api, agent: AgentDouble) -> None:
    """As often as the reasoner's policy says; every attempt has its own id and the same run."""
    await agent.register(reasoners=RETRIED)
    agent.queue.extend([Reply(500, b'{"error":"boom"}'), Reply(502, b"<html>"), inline("third time")])

    found = await ended(api, (await api.submit())["execution_id"])

    assert (found["status"], found["result"], found["failures"]) == ("succeeded", "third time", 2)
    assert [one.attempt for one in agent.calls] == [1, 2, 3]
    assert len({one.headers["x-run-id"] for one in agent.calls}) == 1


async def test_a_failure_that_is_not_tried_again(api: Api, agent: AgentDouble) -> None:
    """Without a policy the first one is the last."""
    agent.answer = Reply(500, b'{"error":"boom"}')

    found = await ended(api, (await api.submit())["execution_id"])

    assert (found["status"], found["error_message"], found["error_status_code"]) == ("failed", "boom", 500)


@pytest.mark.parametrize("busy", [Reply(503, b"full"), Reply(429, b"", {"Retry-After": "1"})])
async def test_an_agent_that_is_full(api: Api, agent: AgentDouble, busy: Reply) -> None:
    """It is asked again a moment later; that is neither a failure nor a crash."""
    agent.queue.extend([busy, busy, inline("room")])
    id_ = (await api.submit())["execution_id"]

    found = await ended(api, id_)

    assert (found["status"], found["result"], found["failures"], found["attempt"]) == ("succeeded", "room", 0, 3)
    assert (await events_of(api, id_)).count("lease.released") == 2


@pytest.mark.parametrize("status", [500, 503])
async def test_an_agent_that_wants_to_be_left_alone(
    api: Api, agent: AgentDouble, conn: Connection, status: int
) -> None:
    """For as long as it likes, within an hour: the work is not lost to a number."""
    await agent.register(reasoners=RETRIED)
    agent.answer = Reply(status, b"", {"Retry-After": "9" * 9})
    await api.submit()

    waits = "select available_at < clock() + interval '1 hour' from queue where state = 'delayed'"

    assert await until(lambda: conn.fetchval(waits))
    assert len(agent.calls) == 1


async def test_nobody_listens(api: Api, agent: AgentDouble, conn: Connection) -> None:
    """The work waits without a failure, and runs as soon as somebody listens again."""
    await agent.succeed(await _sent(api, agent))
    await agent.vanish()
    id_ = (await api.submit())["execution_id"]
    await until(lambda: _released(api, id_))
    waiting = await conn.fetchrow(READ_QUEUED)

    await agent.listen()
    call = await agent.take()
    await agent.succeed(call, "back")
    found = await ended(api, id_)

    assert (waiting["failures"], waiting["crashes"], waiting["attempt"]) == (0, 0, 1)
    assert (found["status"], found["failures"], call.attempt) == ("succeeded", 0, 2)


async def test_registered_before_it_listens(api: Api) -> None:
    """As every agent of AgentField is: not one attempt is spent on that."""
    early, other = AgentDouble(api, "early"), AgentDouble(api, "other")
    await early.register()
    await api.submit("early.echo")
    async with other:
        await other.register()
        await api.submit("other.echo")
        await other.take()  # so the other was found and served, and the first one has been for longer
    async with early:
        assert (await early.take()).attempt == 1


@pytest.mark.parametrize(
    ("cancel", "crashes"), [(NOT_ACTIVE, 0), (STOPPED, 1), (NO_SUCH_PATH, 1)], ids=["idle", "stopped", "404"]
)
@pytest.mark.parametrize("lost", [LOST, Reply(200, b'{"x":1}', cut=True)], ids=["reset", "cut"])
async def test_an_answer_is_lost(
    api: Api, agent: AgentDouble, conn: Connection, lost: Reply, cancel: Reply, crashes: int
) -> None:
    """Nobody knows whether it runs: it is stopped there first, and then runs again, in the same run."""
    agent.queue.append(lost)
    agent.cancel = cancel
    id_ = (await api.submit())["execution_id"]

    first, second = await agent.wait_for("calls", 2)
    counted = await conn.fetchval("select crashes from queue")
    await agent.succeed(second, "again")

    assert [one.id for one in (first, second)] == [f"{id_}~1", f"{id_}~2"]
    assert first.headers["x-run-id"] == second.headers["x-run-id"]
    assert [one.path for one in agent.cancels] == [f"/_internal/executions/{id_}~1/cancel"]
    assert agent.asked.index(agent.cancels[0]) < agent.asked.index(second)
    assert counted == crashes
    assert (await ended(api, id_))["failures"] == 0


@QUICK
@pytest.mark.parametrize("cancel", [NOT_ACTIVE, STOPPED, NO_SUCH_PATH], ids=["idle", "stopped", "404"])
async def test_no_answer_in_time(api: Api, agent: AgentDouble, cancel: Reply) -> None:
    """An agent that acknowledges and does not is asked, and told to stop, before it is sent again."""
    agent.queue.append(HANGS)
    agent.cancel = cancel
    id_ = (await api.submit())["execution_id"]

    _, second = await agent.wait_for("calls", 2)
    await agent.succeed(second, "again")

    assert second.id == f"{id_}~2"
    assert [one.path for one in agent.cancels] == [f"/_internal/executions/{id_}~1/cancel"]
    assert (await ended(api, id_))["result"] == "again"


async def test_the_stopped_one_says_it_was_cancelled(api: Api, agent: AgentDouble) -> None:
    """What an agent says of being stopped by us is not a person's cancel: the work runs again."""
    agent.queue.append(LOST)
    agent.cancel = Reply(200, b'{"cancelled":true}', hang=True)
    id_ = (await api.submit())["execution_id"]
    call = await agent.take()
    await agent.wait_for("cancels", 1)

    said = await agent.call_back(call, status="cancelled", error="cancelled_by_control_plane")
    agent.let_go()
    second = await agent.take()
    await agent.succeed(second, "again")

    assert said.status_code == 200
    assert second.id == f"{id_}~2"
    assert (await ended(api, id_))["result"] == "again"


async def test_only_its_own_log_knows(api: Api, agent: AgentDouble) -> None:
    """It had finished and could not say so: the result is taken from there, and nothing runs twice."""
    agent.queue.append(Reply(reset=True, hang=True))
    id_ = (await api.submit())["execution_id"]
    call = await agent.take()

    agent.remember(call, result={"kept": [1, "ü"]})
    agent.let_go()
    found = await ended(api, id_)

    assert (found["status"], found["result"], found["attempt"]) == ("succeeded", {"kept": [1, "ü"]}, 1)
    assert (len(agent.calls), agent.cancels) == (1, [])


async def test_its_own_log_knows_of_a_failure(api: Api, agent: AgentDouble) -> None:
    """As with a callback: it counts as one, and is tried again by its policy."""
    await agent.register(reasoners=RETRIED)
    agent.queue.append(Reply(reset=True, hang=True))
    id_ = (await api.submit())["execution_id"]
    call = await agent.take()

    agent.remember(call, "reasoner.failed", error="boom")
    agent.let_go()
    await agent.succeed(await agent.take(), "again")
    found = await ended(api, id_)

    assert (found["status"], found["failures"], found["attempt"]) == ("succeeded", 1, 2)
    assert agent.cancels == []


@pytest.mark.parametrize("attributes", [{"_elided": True}, {"result": "<20480 bytes elided>"}])
async def test_a_result_too_long_for_its_own_log(api: Api, agent: AgentDouble, attributes: Json) -> None:
    """It is over, and its result is lost: it runs again."""
    agent.queue.append(Reply(reset=True, hang=True))
    id_ = (await api.submit())["execution_id"]
    call = await agent.take()

    agent.remember(call, **attributes)
    agent.let_go()
    second = await agent.take()
    await agent.succeed(second, "again")

    assert second.id == f"{id_}~2"
    assert (await ended(api, id_))["result"] == "again"


@pytest.mark.parametrize("settings", [{"notify": False}])
async def test_many_at_once(api: Api, agent: AgentDouble) -> None:
    """Each is sent once and ends as itself, also when nobody hints at anything."""
    accepted = [(await api.submit(input={"n": n}))["execution_id"] for n in range(60)]
    calls = [await agent.take() for _ in accepted]
    for call in calls:
        await agent.succeed(call, call.json)

    assert sorted(call.execution_id for call in calls) == sorted(accepted)
    assert [(await ended(api, id_))["result"] for id_ in accepted] == [{"n": n} for n in range(60)]


async def _sent(api: Api, agent: AgentDouble) -> Asked:
    await api.submit()
    return await agent.take()


async def _released(api: Api, execution_id: str) -> bool:
    return "lease.released" in await events_of(api, execution_id)


async def test_an_address_where_nobody_is(api: Api, agent: AgentDouble, caplog: pytest.LogCaptureFixture) -> None:
    """Its work waits, and the log says why."""

    async def said() -> bool:
        return any(one.message == "node.unreached" and vars(one)["node_id"] == "n" for one in caplog.records)

    await agent.vanish()
    await agent.restart()

    assert await until(said)
