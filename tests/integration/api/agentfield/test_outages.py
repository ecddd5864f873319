"""Outages of ours while agents work: the server stops and starts, the database goes, hints do not arrive."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from asyncpg.transaction import Transaction

from controlplane.domain.ids import read_execution
from controlplane.postgres.pool import Connection
from tests.integration.api.agentfield.agent import HANGS, AgentDouble, inline
from tests.integration.api.serving import DEADLINE_SECONDS, Api, Json, serving, the_problem, until

ACCEPTED = "select accepted_at is not null from queue where id = $1"
CLAIMS = """
select exists (
  select 1
  from pg_locks
  where relation = 'sessions'::regclass
    and mode = 'RowShareLock'
    and not granted
)
"""
QUICK: Json = {"push_dispatch_seconds": 0.5, "drain_seconds": 0.1}
KILL = """
select count(pg_terminate_backend(pid))
from pg_stat_activity
where datname = current_database()
  and pid <> pg_backend_pid()
"""


async def ended(api: Api, execution_id: str) -> dict[str, Json]:
    return await api.read(execution_id, wait_seconds=DEADLINE_SECONDS)


@pytest.fixture
async def agent(api: Api) -> AsyncIterator[AgentDouble]:
    """An agent that is there before and after the servers of a test."""
    async with AgentDouble(api) as one:
        yield one


@pytest.mark.parametrize("ending", ["callback", "log", "later"])
async def test_the_server_is_started_again(database: str, agent: AgentDouble, ending: str) -> None:
    """What an agent has taken runs on; its end counts, said to the next server or found in the agent's own log."""
    async with serving(database, **QUICK) as first:
        agent.api = first
        await agent.register()
        id_ = (await first.submit())["execution_id"]
        call = await agent.take()
        await until(lambda: _accepted(first, id_))
    if ending == "log":  # its callback came while nobody was there, and is not sent again
        agent.remember(call, result="unheard")
    async with serving(database, **QUICK) as second:
        agent.api = second
        if ending == "log":
            await agent.register()  # as it does when it finds us again
        else:
            if ending == "later":
                await agent.beat()
                await agent.register()
            said = await agent.succeed(call, "unheard")
            assert said.status_code == 200
        found = await ended(second, id_)

        assert (found["status"], found["result"], found["attempt"]) == ("succeeded", "unheard", 1)
        assert (len(agent.calls), agent.cancels) == (1, [])


@pytest.mark.parametrize("words", ["All connection attempts failed", ""])
@pytest.mark.parametrize("told", ["callback", "log"])
async def test_a_call_that_met_our_absence(database: str, agent: AgentDouble, told: str, words: str) -> None:
    """A reasoner whose call of another found nobody here has not failed: it begins again when we are back."""
    async with serving(database, **QUICK) as first:
        agent.api = first
        await agent.register()
        id_ = (await first.submit())["execution_id"]
        call = await agent.take()
        await until(lambda: _accepted(first, id_))
    if told == "log":
        agent.remember(call, "reasoner.failed", status="failed", error=words)
    async with serving(database, **QUICK) as second:
        agent.api = second
        if told == "callback":
            await agent.call_back(call, status="failed", error=words)
        again = await agent.take()
        await agent.succeed(again, "there")

        assert (again.attempt, (await ended(second, id_))["result"]) == (2, "there")


async def test_its_own_log_is_read_before_anything_is_sent(database: str, agent: AgentDouble) -> None:
    """The next server asks at once, without the agent saying anything."""
    async with serving(database, **QUICK) as first:
        agent.api = first
        await agent.register()
        ids = [(await first.submit())["execution_id"] for _ in range(3)]
        calls = [await agent.take() for _ in ids]
        await asyncio.gather(*(until(lambda id_=id_: _accepted(first, id_)) for id_ in ids))
    for call in calls:
        agent.remember(call, result=call.execution_id)
    async with serving(database, **QUICK) as second:
        found = [await ended(second, id_) for id_ in ids]

        assert [(one["status"], one["result"]) for one in found] == [("succeeded", id_) for id_ in ids]
        assert len(agent.calls) == 3


async def test_the_server_goes_before_it_is_answered(database: str, agent: AgentDouble) -> None:
    """The next one asks whether the agent has it; it has, and is told to stop, before it is sent again."""
    agent.queue.append(HANGS)
    async with serving(database, **QUICK) as first:
        agent.api = first
        await agent.register()
        id_ = (await first.submit())["execution_id"]
        await agent.take()
    async with serving(database, **QUICK) as second:
        agent.api = second
        call = await agent.take()
        await agent.succeed(call, "again")

        assert call.id == f"{id_}~2"
        assert {one.headers["x-execution-id"] for one in agent.cancels} == {f"{id_}~1"}
        assert (await ended(second, id_))["result"] == "again"


async def test_the_server_stops_before_an_agent_listens(database: str) -> None:
    """On its way out it does not send to nobody what the next one can send to somebody."""
    async with serving(database) as first:
        early = AgentDouble(first, "early")
        await early.register()
        await first.submit("early.echo")
        async with AgentDouble(first, "other") as other:
            await other.register()
            await first.submit("other.echo")
            await other.succeed(await other.take())  # so the first was found, too, and has been for longer
    async with serving(database), early:
        assert (await early.take()).attempt == 1


async def test_what_it_claims_on_its_way_out_is_handed_over(database: str, conn: Connection) -> None:
    """The claim was under way when the server was told to stop: its work is sent, and the answer is written down."""
    async with contextlib.AsyncExitStack() as longer:
        async with serving(database, **QUICK | {"drain_seconds": 5.0}) as api:
            agent = await longer.enter_async_context(AgentDouble(api))
            agent.answer = inline("sent")
            await agent.register()
            await ended(api, (await api.submit())["execution_id"])
            transaction = conn.transaction()
            await transaction.start()
            await conn.execute("lock table sessions in exclusive mode")
            id_ = read_execution((await api.submit())["execution_id"])
            await until(lambda: _is_true(conn, CLAIMS))
            committing = asyncio.create_task(_commit_when_it_drains(transaction))
        await committing

        assert await conn.fetchval("select status from outcomes where id = $1", id_) == "succeeded"


async def test_it_registers_with_a_server_that_forgot_it(database: str, agent: AgentDouble) -> None:
    """A server on an empty database answers 404 to its heartbeat, and knows it after it has registered."""
    async with serving(database) as api:
        agent.api = api
        the_problem(await agent.beat(), 404, "node_not_found")
        await agent.register()

        assert (await agent.beat()).status_code == 200


async def test_the_database_is_gone_for_a_moment(database: str, conn: Connection, agent: AgentDouble) -> None:
    """Every connection is cut again and again while work is sent: each execution ends once, as itself."""
    async with serving(database, **QUICK | {"push_dispatch_seconds": 2.0}) as api:
        agent.api = api
        await agent.register()
        answering = asyncio.create_task(_answer(agent))
        ids = []
        for n in range(30):
            ids.append((await api.submit(input={"n": n}))["execution_id"])
            if n % 6 == 3:
                await conn.execute(KILL)
        found = [await ended(api, id_) for id_ in ids]
        answering.cancel()

        assert [(one["status"], one["result"]) for one in found] == [("succeeded", {"n": n}) for n in range(30)]


async def test_nobody_hints(database: str, agent: AgentDouble) -> None:
    """Without NOTIFY two replicas find everything by looking."""
    async with serving(database, notify=False) as here, serving(database, notify=False) as there:
        agent.api = here
        await agent.register()
        answering = asyncio.create_task(_answer(agent))
        ids = [(await (here, there)[n % 2].submit(input={"n": n}))["execution_id"] for n in range(20)]
        found = [await ended((there, here)[n % 2], id_) for n, id_ in enumerate(ids)]
        answering.cancel()

        assert [(one["status"], one["result"]) for one in found] == [("succeeded", {"n": n}) for n in range(20)]
        assert len(agent.calls) == 20


async def test_the_callback_comes_to_the_other_replica(database: str, agent: AgentDouble) -> None:
    """Whoever sent it, each of them takes the callback, the lines and the cancel."""
    async with serving(database) as here, serving(database) as there:
        agent.api = here
        await agent.register()
        first = (await here.submit())["execution_id"]
        call = await agent.take()
        agent.api = there
        said = await agent.succeed(call, "there")
        second = (await there.submit())["execution_id"]
        await agent.take()
        await there.post(f"/executions/{second}/cancel", {})
        [told] = await agent.wait_for("cancels", 1)

        assert said.status_code == 200
        assert (await ended(here, first))["result"] == "there"
        assert told.headers["x-execution-id"].startswith(second)


async def _is_true(conn: Connection, question: str) -> bool:
    return bool(await conn.fetchval(question))


async def _commit_when_it_drains(transaction: Transaction) -> None:
    await until(_it_drains)
    await transaction.commit()


async def _it_drains() -> bool:
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return "Pusher.drain" in names


async def _answer(agent: AgentDouble) -> None:
    """Call back for everything, with what was asked, until the server has heard it."""
    while True:
        call = await agent.take(seconds=DEADLINE_SECONDS * 5)
        while (await agent.succeed(call, call.json)).status_code >= 500:
            pass


async def _accepted(api: Api, execution_id: str) -> bool:
    """Whether it is written down that the agent has taken it."""
    async with api.app.state.doors.pool.acquire() as conn:
        return bool(await conn.fetchval(ACCEPTED, read_execution(execution_id)))
