"""Functions that exist only while they are called: asked what they are, called with everything, answering with it."""

from __future__ import annotations

import json

import pytest

from controlplane.postgres.pool import Connection
from tests.integration.api.agentfield.agent import LOST, AgentDouble, Reply, inline
from tests.integration.api.serving import DEADLINE_SECONDS, Api, Json, serving, the_problem, until

DISCOVERED: Json = {
    "node_id": "fn",
    "version": "2.0.0",
    "deployment_type": "serverless",
    "reasoners": [{"id": "echo", "tags": ["a"], "input_schema": {"type": "object"}}],
    "skills": [{"id": "add"}],
    "from_the_future": True,
}


async def functions(api: Api) -> AgentDouble:
    """Functions of the node `fn`, which answer with null."""
    one = AgentDouble(api, "fn")
    one.discovered = inline(DISCOVERED)
    one.answer = inline(None)
    return one


async def register(api: Api, url: str) -> Json:
    answer = await api.post("/nodes/register-serverless", {"invocation_url": url})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def ended(api: Api, execution_id: str) -> dict[str, Json]:
    return await api.read(execution_id, wait_seconds=DEADLINE_SECONDS)


async def test_they_are_asked_what_they_are(api: Api) -> None:
    """And known from then on, without ever sending anything by themselves."""
    async with await functions(api) as fn:
        said = await register(api, fn.base_url + "/")
        node = await api.get("/nodes/fn")

        assert [(one.method, one.path) for one in fn.asked[:1]] == [("GET", "/discover")]
        assert (said["success"], said["reasoners"], said["skills"]) == (True, 1, 1)
        assert said["node"] == {
            "id": "fn",
            "version": "2.0.0",
            "deployment_type": "serverless",
            "invocation_url": fn.base_url,
        }
        assert (node["transport"], node["lifecycle_status"], node["base_url"]) == ("serverless", "ready", fn.base_url)
        assert (node["reasoners"][0]["id"], node["reasoners"][0]["input_schema"]) == ("echo", {"type": "object"})


async def test_they_are_called_with_everything(api: Api) -> None:
    """In one body, and the answer is the result."""
    async with await functions(api) as fn:
        await register(api, fn.base_url)
        fn.answer = inline({"sum": 3})
        accepted = await api.submit("fn.echo", input={"a": 1.0}, headers={"X-Session-ID": "s", "X-Actor-ID": "a"})
        found = await ended(api, accepted["execution_id"])
        [call] = fn.calls

        assert (call.method, call.path) == ("POST", "/execute")
        assert call.json == {
            "path": "/execute/echo",
            "target": "echo",
            "reasoner": "echo",
            "type": "reasoner",
            "input": {"a": 1.0},
            "execution_context": {
                "execution_id": f"{accepted['execution_id']}~1",
                "run_id": accepted["run_id"],
                "workflow_id": accepted["run_id"],
                "session_id": "s",
                "actor_id": "a",
            },
        }
        assert (found["status"], found["result"]) == ("succeeded", {"sum": 3})


async def test_a_skill_is_called(api: Api) -> None:
    """By its name."""
    async with await functions(api) as fn:
        await register(api, fn.base_url)
        await ended(api, (await api.submit("fn.add"))["execution_id"])

        assert (fn.calls[0].json["type"], fn.calls[0].json["skill"]) == ("skill", "add")


@pytest.mark.parametrize(
    ("said", "result"),
    [
        ({"statusCode": 200, "body": '{"x":1}'}, {"x": 1}),
        ({"statusCode": 200, "body": {"x": 1}, "headers": {}}, {"x": 1}),
        ({"statusCode": 201, "body": "plain words", "isBase64Encoded": False}, "plain words"),
        ({"statusCode": 200}, None),
        ({"statusCode": 200, "body": "1", "more": 1}, {"statusCode": 200, "body": "1", "more": 1}),
        ({"statusCode": "200", "body": "1"}, {"statusCode": "200", "body": "1"}),
        ([{"statusCode": 200}], [{"statusCode": 200}]),
    ],
)
async def test_an_answer_of_a_gateway(api: Api, said: Json, result: Json) -> None:
    """The body inside is the result, where it is one of a gateway."""
    async with await functions(api) as fn:
        await register(api, fn.base_url)
        fn.answer = inline(said)
        found = await ended(api, (await api.submit("fn.echo"))["execution_id"])

        assert (found["status"], found["result"]) == ("succeeded", result)


@pytest.mark.parametrize("said", [Reply(422, b'{"error":"no"}'), inline({"statusCode": 422, "body": '{"error":"no"}'})])
async def test_a_refusal(api: Api, said: Reply) -> None:
    """With and without a gateway in between."""
    async with await functions(api) as fn:
        await register(api, fn.base_url)
        fn.answer = said
        found = await ended(api, (await api.submit("fn.echo"))["execution_id"])

        assert (found["status"], found["error_message"], found["error_status_code"]) == ("failed", "no", 422)


async def test_202_is_no_promise(api: Api) -> None:
    """Who exists only while it is called cannot call back: what it answers is the result."""
    async with await functions(api) as fn:
        await register(api, fn.base_url)
        fn.answer = Reply(202, b'{"later":true}')
        found = await ended(api, (await api.submit("fn.echo"))["execution_id"])

        assert (found["status"], found["result"]) == ("succeeded", {"later": True})


async def test_an_answer_is_lost(api: Api) -> None:
    """There is nobody to ask: it runs again."""
    async with await functions(api) as fn:
        await register(api, fn.base_url)
        fn.queue.append(LOST)
        found = await ended(api, (await api.submit("fn.echo"))["execution_id"])

        assert (found["status"], found["attempt"], found["failures"]) == ("succeeded", 2, 0)
        assert fn.cancels == []


@pytest.mark.parametrize(
    "discovered",
    [
        Reply(500, b"{}"),
        Reply(404, b"{}"),
        Reply(200, b"hello"),
        Reply(200, b"[]"),
        Reply(200, b"{}"),
        Reply(200, b'{"node_id":"no.name"}'),
        Reply(200, b'{"node_id":"fn","reasoners":[{"id":""}]}'),
        Reply(200, b'{"node_id":"fn","reasoners":5}'),
        Reply(200, json.dumps(DISCOVERED).encode(), cut=True),
        Reply(302, b"", {"Location": "http://169.254.169.254/"}),
        LOST,
    ],
)
async def test_they_do_not_say_what_they_are(shared: Api, discovered: Reply) -> None:
    """422 with what is wrong, and nothing is registered."""
    async with await functions(shared) as fn:
        fn.discovered = discovered
        answer = await shared.post("/nodes/register-serverless", {"invocation_url": fn.base_url})

        assert the_problem(answer, 422, "invalid")["detail"]
        assert (await shared.get("/nodes", show_all=True))["nodes"] == []


async def test_nobody_is_there(shared: Api) -> None:
    """422, and what to do."""
    one = AgentDouble(shared)
    url = one.base_url
    await one.__aexit__()

    problem = the_problem(await shared.post("/nodes/register-serverless", {"invocation_url": url}), 422, "invalid")

    assert "discover" in problem["fix"]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://10.0.0.5/fn", "egress_refused"),
        ("http://169.254.169.254/", "egress_refused"),
        ("ftp://x", "invalid"),
        ("http://u:p@x", "invalid"),
    ],
)
async def test_where_they_may_be(shared: Api, url: str, code: str) -> None:
    """The addresses of agents that register by themselves, and no others."""
    problem = the_problem(await shared.post("/nodes/register-serverless", {"invocation_url": url}), 422, code)

    assert problem["fix"]


async def test_a_name_inside_the_house(shared: Api) -> None:
    """Is refused when it is looked up, and not asked."""
    answer = await shared.post("/nodes/register-serverless", {"invocation_url": "http://ip6-allnodes:8001"})

    assert answer.status_code == 422


@pytest.mark.parametrize("settings", [{"push_lease_seconds": 1.0}])
async def test_they_live_without_heartbeats(api: Api, conn: Connection) -> None:
    """For as long as a server of ours does."""
    async with await functions(api) as fn:
        await register(api, fn.base_url)
        renewed = "select renewed_at > opened_at + interval '2 seconds' from sessions where closed_at is null"
        await until(lambda: conn.fetchval(renewed))
        found = await ended(api, (await api.submit("fn.echo"))["execution_id"])

        assert (found["status"], found["attempt"]) == ("succeeded", 1)
        assert await conn.fetchval("select count(*) from sessions") == 1


async def test_the_server_goes_in_the_middle_of_a_call(database: str) -> None:
    """Nobody hears the answer then: another server calls again, in the same run."""
    quick: Json = {"push_dispatch_seconds": 0.5, "drain_seconds": 0.1}
    async with serving(database, **quick) as first:
        fn = await functions(first)
        await fn.__aenter__()
        await register(first, fn.base_url)
        fn.queue.append(Reply(200, b'"unheard"', hang=True))
        id_ = (await first.submit("fn.echo"))["execution_id"]
        await fn.take()
    try:
        async with serving(database, **quick) as second:
            fn.answer = inline("heard")
            found = await ended(second, id_)

            assert (found["status"], found["result"], found["attempt"]) == ("succeeded", "heard", 2)
            assert len({one.json["execution_context"]["run_id"] for one in fn.calls}) == 1
    finally:
        await fn.__aexit__()
