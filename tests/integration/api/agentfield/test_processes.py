"""Processes of agents: they register, send heartbeats, say goodbye, crash, and are replaced."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from controlplane.postgres.pool import Connection
from tests.integration.api.agentfield.agent import AgentDouble, Asked, inline
from tests.integration.api.serving import DEADLINE_SECONDS, Api, Json, serving, the_problem, until

OTHER = "other"
IMPATIENT = pytest.mark.parametrize("settings", [{"push_lease_seconds": 1.0}])
OPEN = "select count(*) from sessions where closed_at is null"
REASON = "select closed_reason from sessions where closed_at is not null"


async def ended(api: Api, execution_id: str) -> dict[str, Json]:
    return await api.read(execution_id, wait_seconds=DEADLINE_SECONDS)


async def started(api: Api, agent: AgentDouble) -> Asked:
    """The agent runs something."""
    await api.submit()
    return await agent.take()


async def test_everything_an_agent_says(api: Api, agent: AgentDouble) -> None:
    """Every field of the SDK and some that nobody knows: what it serves is kept, and it is told where it is."""
    reasoner = {
        "id": "summarize",
        "description": "Makes it short",
        "tags": ["text"],
        "proposed_tags": ["text"],
        "input_schema": {"type": "object", "properties": {"x": {"type": "string"}}},
        "output_schema": {"type": "string"},
        "memory_config": {"auto_inject": [], "memory_retention": "session", "cache_results": False},
        "return_type_hint": "str",
        "accepts_webhook": "warn",
        "triggers": [{"source": "stripe", "event_types": ["*"]}],
        "vc_enabled": None,
    }
    more: Json = {"callback_discovery": {"mode": "python-sdk:auto", "preferred": agent.base_url}, "from_the_future": 1}

    said = await agent.register(reasoners=[reasoner], skills=[{"id": "add", "tags": None}], **more)
    node = await api.get("/nodes/n")

    assert (said["id"], said["success"], said["resolved_base_url"]) == ("n", True, agent.base_url)
    assert "pending_approval" not in said.values()
    assert (node["id"], node["base_url"], node["version"]) == ("n", agent.base_url, "1.0.0")
    assert (node["lifecycle_status"], node["health_status"], node["transport"]) == ("ready", "healthy", "push")
    assert datetime.fromisoformat(node["last_heartbeat"]) > datetime.now(UTC) - timedelta(minutes=1)
    described = next(one for one in node["reasoners"] if one["id"] == "summarize")
    assert {name: described[name] for name in ("description", "tags", "input_schema", "output_schema")} == {
        name: reasoner[name] for name in ("description", "tags", "input_schema", "output_schema")
    }
    assert [one["id"] for one in node["skills"]] == ["add"]


async def test_the_older_path(api: Api) -> None:
    """Go's SDK registers there; without an instance of its own, and with a heartbeat every 30 s."""
    async with AgentDouble(api, python=False) as agent:
        body = {"id": "n", "version": "2", "base_url": agent.base_url, "reasoners": [{"id": "echo"}], "skills": []}
        answer = await api.post("/nodes", body)
        await api.submit()

        assert (answer.status_code, answer.json()["resolved_base_url"]) == (201, agent.base_url)
        assert (await agent.take()).path == "/reasoners/echo"


@pytest.mark.parametrize(
    ("said", "resolved"),
    [
        ("http://LOCALHOST:8001/", "http://localhost:8001"),
        ("http://127.0.0.1:8001", "http://127.0.0.1:8001"),
        ("http://[::1]:8001/agent/", "http://[::1]:8001/agent"),
        ("http://0x7f.1:8001", "http://127.0.0.1:8001"),
    ],
)
async def test_where_it_is(api: Api, said: str, resolved: str) -> None:
    """In one spelling, which it is told."""
    answer = await api.post("/nodes/register", AgentDouble(api).described(base_url=said))

    assert (answer.status_code, answer.json()["resolved_base_url"]) == (201, resolved)


@pytest.mark.parametrize(
    "url", ["http://10.0.0.5:8001", "http://192.168.1.1", "http://[fd00::1]:8001", "http://3232235777"]
)
async def test_a_private_address(shared: Api, url: str) -> None:
    """Refused, with what to do about it, and nothing is registered."""
    problem = the_problem(
        await shared.post("/nodes/register", AgentDouble(shared).described(base_url=url)), 422, "egress_refused"
    )

    assert "CONTROLPLANE_NODES_ALLOW" in problem["fix"]
    the_problem(await shared.client.get("/api/v1/nodes/n"), 404, "node_not_found")


@pytest.mark.parametrize("settings", [{"egress_allow_loopback": False}])
async def test_loopback_is_private_too(api: Api) -> None:
    """Unless the operator allows it."""
    answer = await api.post("/nodes/register", AgentDouble(api).described(base_url="http://127.0.0.1:8001"))

    the_problem(answer, 422, "egress_refused")


@pytest.mark.parametrize("settings", [{"egress_allow_loopback": False, "nodes_allow": ["127.0.0.0/8"]}])
async def test_a_private_address_that_is_allowed(api: Api, agent: AgentDouble) -> None:
    """By the operator's list of networks: it is called there."""
    call = await started(api, agent)

    assert (await agent.succeed(call)).status_code == 200


@pytest.mark.parametrize("settings", [{"nodes_allow": ["169.254.0.0/16", "100.64.0.0/10", "fd00::/8"]}])
@pytest.mark.parametrize("host", ["169.254.169.254", "100.100.100.200", "[fd00:ec2::254]", "2852039166"])
async def test_metadata_addresses(api: Api, host: str) -> None:
    """Never, also not inside a network that is allowed: they hand out credentials."""
    answer = await api.post("/nodes/register", AgentDouble(api).described(base_url=f"http://{host}/latest"))

    the_problem(answer, 422, "egress_refused")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com",
        "http://u:p@example.com",
        "http://",
        "x",
        "http://example.com:22",
        "http://a b",
        "http://[::1",
        "http://127.0.0.1:8001/?x=",
        5,
    ],
)
async def test_what_is_no_address(shared: Api, url: Json) -> None:
    """422, and it says where."""
    answer = await shared.post("/nodes/register", AgentDouble(shared).described(base_url=url))

    assert answer.status_code == 422, answer.text
    assert "base_url" in answer.text


async def test_a_heartbeat(api: Api, agent: AgentDouble, conn: Connection) -> None:
    """Prolongs the lease of the process; a naive local time is nothing to be strict about."""
    await conn.execute(
        "update sessions set renewed_at = renewed_at - interval '1 hour', expires_at = clock() + interval '5 s'"
    )

    said = await agent.beat(timestamp="2026-11-23T02:24:40.6")

    assert (said.status_code, said.json()["success"]) == (200, True)
    assert await conn.fetchval("select expires_at > clock() + interval '50 seconds' from sessions")
    assert await conn.fetchval("select renewed_at > clock() - interval '1 minute' from sessions")


async def test_a_heartbeat_without_an_instance(api: Api, agent: AgentDouble, conn: Connection) -> None:
    """Older SDKs: it is of every process of the node."""
    await conn.execute("update sessions set expires_at = clock() + interval '5 seconds'")

    said = await api.post("/nodes/n/heartbeat", {"status": "ready"})

    assert said.status_code == 200
    assert await conn.fetchval("select expires_at > clock() + interval '50 seconds' from sessions")


@pytest.mark.parametrize("settings", [{"push_lease_seconds": 77.0}])
async def test_a_lease_is_renewed(api: Api, conn: Connection) -> None:
    """As Go's and TypeScript's SDKs do it, with the lease in the answer."""
    async with AgentDouble(api, heartbeat="1s") as agent:
        await agent.register()
        await conn.execute("update sessions set expires_at = clock() + interval '5 seconds'")
        answer = await api.client.patch("/api/v1/nodes/n/status", json={"phase": "ready", "health_score": 95})

        assert (answer.status_code, answer.json()["lease_seconds"]) == (200, 77.0)
        assert datetime.fromisoformat(answer.json()["next_lease_renewal"]) > datetime.now(UTC)
        assert await conn.fetchval("select expires_at > clock() + interval '50 seconds' from sessions")


async def test_a_process_that_nobody_knows(api: Api, agent: AgentDouble) -> None:
    """404, with which every SDK registers again."""
    the_problem(await agent.beat(instance_id="somebody else"), 404, "node_not_found")
    the_problem(await api.post("/nodes/nobody/heartbeat", {"instance_id": "i"}), 404, "node_not_found")
    the_problem(await api.post("/nodes/nobody/heartbeat", {}), 404, "node_not_found")
    the_problem(await api.client.patch("/api/v1/nodes/nobody/status", json={}), 404, "node_not_found")
    the_problem(await api.post("/nodes/nobody/shutdown", {}), 404, "node_not_found")


@pytest.mark.parametrize("seconds", [-1, 1e9, "x"])
async def test_a_goodbye_that_makes_no_sense(api: Api, agent: AgentDouble, seconds: Json) -> None:
    """422, and it goes on."""
    the_problem(await api.post("/nodes/n/shutdown", {"timeout_seconds": seconds}), 422, "invalid")

    assert (await started(api, agent)).attempt == 1


@IMPATIENT
async def test_it_was_given_up_and_is_heard_of(api: Api, conn: Connection) -> None:
    """After its lease a heartbeat makes it a process again, which is given work."""
    async with AgentDouble(api, heartbeat="200ms") as agent:
        await agent.register()
        await until(lambda: _none_open(conn))

        said = await agent.beat()
        call = await _served(api, agent)

        assert said.status_code == 200
        assert (await agent.succeed(call)).status_code == 200


async def test_it_was_cut_off_when_it_finished(api: Api) -> None:
    """Its callback did not get through and is not sent again: when it is heard of again, its own log is asked."""
    async with AgentDouble(api, heartbeat="1s") as agent:
        await agent.register()
        call = await started(api, agent)
        agent.remember(call, result="unheard")
        await agent.wait_for_path("/health", agent.count("/health") + 1)  # it is silent, and asked for that
        await agent.beat()
        found = await ended(api, call.execution_id)

        assert (found["status"], found["result"], found["attempt"]) == ("succeeded", "unheard", 1)


async def test_a_replaced_process_is_told_nothing(api: Api, agent: AgentDouble, conn: Connection) -> None:
    """Its heartbeats are answered, and it gets nothing: another one answers at its address."""
    old = agent.instance_id
    await agent.restart()

    said = await agent.beat(instance_id=old)

    assert said.status_code == 200
    assert await conn.fetchval(OPEN) == 1
    assert await conn.fetchval("select instance_id from sessions where closed_at is null") == agent.instance_id


async def test_it_registers_again(api: Api, agent: AgentDouble, conn: Connection) -> None:
    """The same process, as after every loss of contact: it keeps what it runs, and is one process."""
    call = await started(api, agent)

    await agent.register()
    said = await agent.succeed(call)

    assert said.status_code == 200
    assert await conn.fetchval("select count(*) from sessions") == 1
    assert len(agent.calls) == 1


async def test_a_new_process_at_the_same_address(api: Api, agent: AgentDouble) -> None:
    """The old one is gone: what it ran runs again at once, though its lease would have been long."""
    first = await started(api, agent)

    await agent.restart()
    second = await agent.take()
    stale = await agent.succeed(first, "stale")
    await agent.succeed(second, "fresh")

    assert second.id == f"{first.execution_id}~2"
    assert second.headers["x-run-id"] == first.headers["x-run-id"]
    the_problem(stale, 409, "lease_lost")
    assert (await ended(api, first.execution_id))["result"] == "fresh"


async def test_a_new_process_at_another_address(api: Api, agent: AgentDouble, conn: Connection) -> None:
    """There are two then: the first keeps what it runs."""
    first = await started(api, agent)
    async with AgentDouble(api) as second:
        await second.register()

        assert await conn.fetchval(OPEN) == 2
        assert (await agent.succeed(first, 1)).status_code == 200


@pytest.mark.parametrize("settings", [{"push_slots": 1}])
async def test_two_processes_share_the_work(api: Api, agent: AgentDouble) -> None:
    """Each as much as it has room for."""
    async with AgentDouble(api) as second:
        await second.register()
        ids = {(await api.submit())["execution_id"] for _ in range(2)}
        calls = [await agent.take(), await second.take()]

        assert {call.execution_id for call in calls} == ids
        for call in calls:
            await agent.succeed(call)


async def test_a_goodbye(api: Api, agent: AgentDouble) -> None:
    """Nothing more is given to it, and what it finishes in time counts; then the next process is given the rest."""
    call = await started(api, agent)
    said = await agent.say_goodbye()
    waiting = (await api.submit())["execution_id"]

    done = await agent.succeed(call, "in time")
    async with AgentDouble(api) as next_:
        await next_.register()
        assert (await next_.take()).execution_id == waiting

    assert (said.status_code, said.json()["lease_seconds"]) == (202, 0)
    assert (done.status_code, len(agent.calls)) == (200, 1)
    assert (await ended(api, call.execution_id))["result"] == "in time"


@pytest.mark.parametrize("settings", [{"push_dispatch_seconds": 0.5}])
async def test_registered_again_with_other_words(api: Api, agent: AgentDouble) -> None:
    """The same process says now that it answers with the result itself: its answer is waited for from then on."""
    await agent.succeed(await started(api, agent))
    agent.metadata = {}
    await agent.register()
    agent.answer = replace(inline("slow"), hang=True)

    id_ = (await api.submit())["execution_id"]
    await agent.take()
    await asyncio.sleep(2.0)  # four times as long as one that acknowledges may take
    agent.let_go()

    assert (await ended(api, id_))["attempt"] == 1


async def test_the_goodbye_of_who_was_replaced(api: Api, agent: AgentDouble) -> None:
    """It comes after its successor has registered at the same address, which goes on being given work."""
    await agent.restart()
    await agent.say_goodbye()

    assert (await started(api, agent)).attempt == 1


async def test_a_goodbye_that_was_somebody_elses(api: Api, conn: Connection) -> None:
    """Who still sends heartbeats and listens long afterwards has not gone."""
    async with AgentDouble(api, heartbeat="5s") as agent:
        await agent.register()
        await agent.say_goodbye()
        await api.submit()
        await conn.execute("update nodes set left_at = left_at - interval '1 minute'")
        await agent.beat()

        assert (await agent.take()).attempt == 1


@IMPATIENT
async def test_a_goodbye_without_an_end(api: Api, conn: Connection) -> None:
    """What was not finished in time runs elsewhere, and nobody calls that a crash."""
    async with AgentDouble(api, heartbeat="200ms") as agent, AgentDouble(api) as next_:
        await agent.register()
        call = await started(api, agent)
        await agent.say_goodbye(seconds=0)
        await next_.register()
        again = await next_.take()

        assert again.id == f"{call.execution_id}~2"
        assert await conn.fetchval("select crashes from queue") == 0
        assert await conn.fetchval(REASON) == "drained"


async def test_one_of_two_says_goodbye(api: Api, agent: AgentDouble, conn: Connection) -> None:
    """It does not say which: the one that does not listen any more is it, and has its time to finish."""
    async with AgentDouble(api, heartbeat="200ms") as leaving:
        await leaving.register()
        await leaving.say_goodbye()
        await leaving.vanish()
        await until(lambda: conn.fetchval("select true from sessions where draining"))
        call = await started(api, agent)

        assert await conn.fetchval(OPEN) == 2
        assert (await agent.succeed(call)).status_code == 200


async def test_silent_and_gone(api: Api, conn: Connection) -> None:
    """Nobody listens where it was: what it ran runs elsewhere long before its lease is over, as after a crash."""
    async with AgentDouble(api, heartbeat="200ms") as dead, AgentDouble(api) as alive:
        await dead.register()
        first = await started(api, dead)
        await alive.register()

        await dead.vanish()
        second = await alive.take()

        assert await conn.fetchval("select max(lease_seconds) from sessions") == 180  # the other's is 120
        assert (second.id, await conn.fetchval(REASON)) == (f"{first.execution_id}~2", "refused")
        assert await conn.fetchval("select crashes from queue") == 1


async def test_silent_and_there(api: Api, conn: Connection) -> None:
    """Whoever listens may be busy: it keeps what it runs until its lease is over."""
    async with AgentDouble(api, heartbeat="200ms") as agent:
        await agent.register()
        call = await started(api, agent)

        await agent.wait_for_path("/health", 4)  # it is asked again and again, because it is silent

        assert await conn.fetchval(OPEN) == 1
        assert (await agent.succeed(call)).status_code == 200


@IMPATIENT
async def test_silent_for_too_long(api: Api, conn: Connection) -> None:
    """When its lease is over, it has crashed, whether it listens or not."""
    async with AgentDouble(api, heartbeat="200ms") as agent, AgentDouble(api) as other:
        await agent.register()
        first = await started(api, agent)
        await other.register()

        second = await other.take()

        assert (second.id, await conn.fetchval(REASON)) == (f"{first.execution_id}~2", "silent")
        assert await conn.fetchval("select crashes from queue") == 1


@IMPATIENT
async def test_heartbeats_keep_it(api: Api, agent: AgentDouble, conn: Connection) -> None:
    """As long as they come, a lease of a second is for ever."""
    async with AgentDouble(api, OTHER, heartbeat="200ms") as beating:
        await beating.register()
        opened = "select clock() - opened_at > interval '2.5 seconds' from sessions where node_id = 'other'"

        async def long_since() -> bool:
            await beating.beat()
            return bool(await conn.fetchval(opened))

        await until(long_since)

        assert await conn.fetchval("select count(*) from sessions where node_id = 'other'") == 1
        assert await conn.fetchval(OPEN) == 2


@pytest.mark.parametrize("settings", [{"push_slots": 2}])
async def test_slots_are_counted_by_both_replicas(
    api: Api, agent: AgentDouble, database: str, settings: dict[str, Json]
) -> None:
    """However many of us send, a process never runs more at once than it has slots."""
    async with serving(database, **settings) as other:
        ids = [(await (api, other)[n % 2].submit())["execution_id"] for n in range(12)]
        most = 0
        for _ in ids:
            call = await agent.take()
            most = max(most, len(agent.running))
            await agent.succeed(call)

        assert sorted(call.execution_id for call in agent.calls) == sorted(ids)
        assert {call.attempt for call in agent.calls} == {1}
        assert most == 2


async def test_slots_of_parents_that_wait(api: Api, database: str) -> None:
    """An attempt whose child is unfinished holds none, or a parent would keep its own child out."""
    async with serving(database, push_slots=1) as tight, AgentDouble(tight) as agent:
        await agent.register()
        parent = (await tight.submit())["execution_id"]
        call = await agent.take()
        await tight.submit(headers={"X-Parent-Execution-ID": call.id})

        child = await agent.take()

        assert child.headers["x-parent-execution-id"] == parent


async def _none_open(conn: Connection) -> bool:
    return await conn.fetchval(OPEN) == 0


async def _served(api: Api, agent: AgentDouble) -> Asked:
    """Something that it is given while it sends heartbeats."""
    await api.submit()

    async def given() -> bool:
        await agent.beat()
        return bool(agent.calls)

    await until(given)
    return agent.calls[0]
