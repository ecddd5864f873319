"""Two replicas on one database are one control plane: whatever is begun at one may go on at the other."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from tests.integration.api.serving import (
    DEADLINE_SECONDS,
    Api,
    Receiver,
    fence,
    serving,
    streaming,
    the_problem,
    until,
)

BY_HINT_AND_BY_POLLING = pytest.mark.parametrize("settings", [{}, {"notify": False}], ids=["notify", "polling"])


@pytest.fixture
async def other(database: str, settings: dict[str, object]) -> AsyncIterator[Api]:
    """A second server on this test's database."""
    async with serving(database, **settings) as running:
        yield running


@BY_HINT_AND_BY_POLLING
async def test_work_crosses_replicas(api: Api, other: Api) -> None:
    """Asked and waited for at one, leased and finished at the other, seen by listeners of both."""
    await api.register()
    session = await other.open_session()
    async with streaming(api) as here, streaming(other) as there:
        leasing = asyncio.create_task(other.take(session))
        await until(lambda: _waits(other, "queue:"))
        calling = asyncio.create_task(api.post("/execute/n.echo", {}))
        began = time.monotonic()
        await other.finish(session, await leasing, {"from": "the other"})
        answer = await calling
        took = time.monotonic() - began
        frames = [await stream.until("execution_completed") for stream in (here, there)]

    assert answer.json()["result"] == {"from": "the other"}
    assert frames[0] == frames[1]
    assert frames[0][-1].data["execution_id"] == answer.json()["execution_id"]
    assert took < 5


async def _waits(api: Api, prefix: str) -> bool:
    return any(topic.startswith(prefix) for topic in api.app.state.doors.hints.waiters)


@BY_HINT_AND_BY_POLLING
async def test_a_cancel_crosses_replicas(api: Api, other: Api) -> None:
    """The heartbeat that is held at the other answers within a second or so."""
    await api.register()
    session = await other.open_session()
    id_ = (await api.submit())["execution_id"]
    lease = await other.take(session)

    beat = asyncio.create_task(other.heartbeat(session, executions=[fence(lease)], wait_seconds=DEADLINE_SECONDS))
    await until(lambda: _waits(other, "session:"))
    began = time.monotonic()
    await api.post(f"/executions/{id_}/cancel")
    told = (await beat).json()

    assert told["cancel"] == [{**fence(lease), "reason": None}]
    assert time.monotonic() - began < 5


@BY_HINT_AND_BY_POLLING
async def test_a_claim_at_one_ends_the_long_beat_at_the_other(api: Api, other: Api) -> None:
    """By the database alone, within a heartbeat: whoever keeps the session sees there that it holds something."""
    await api.register()
    session = await api.open_session(heartbeat_seconds=0.3)
    beat = asyncio.create_task(api.heartbeat(session, wait_seconds=DEADLINE_SECONDS))
    await until(lambda: _waits(api, "session:"))
    await other.submit()
    await other.take(session)

    began = time.monotonic()
    told = (await beat).json()

    assert told["tell_all"] is True
    assert time.monotonic() - began < 5


async def test_a_session_lives_at_both(api: Api, other: Api) -> None:
    """Opened here, used there; closed there, closed here; closed twice, closed once."""
    await api.register()
    session = await api.open_session()
    await api.submit()

    lease = await other.take(session)
    beat = await api.heartbeat(session, executions=[fence(lease)])
    closed = await other.post(f"/sessions/{session}/close")
    again = await api.post(f"/sessions/{session}/close")

    assert beat.json()["lost"] == []
    assert (closed.json(), again.json()) == ({"released": 1}, {"released": 0})
    the_problem(await api.post(f"/sessions/{session}/lease", {"max": 1}), 409, "session_closed")
    the_problem(await other.heartbeat(session), 409, "session_closed")


async def test_closing_is_said_again_to_a_stranger(api: Api, other: Api) -> None:
    """The answer was lost and the process asks the other replica, which has never met the session."""
    await api.register()
    session = await api.open_session()

    assert (await api.post(f"/sessions/{session}/close")).status_code == 200
    assert (await other.post(f"/sessions/{session}/close")).json() == {"released": 0}


async def test_a_target_is_known_at_both(api: Api, other: Api) -> None:
    """As soon as one has answered the registration."""
    the_problem(await other.post("/execute/async/n.echo", {}), 404, "target_not_found")

    await api.register()

    assert (await other.submit())["status"] == "queued"


async def test_an_idempotency_key_is_one_at_both(api: Api, other: Api) -> None:
    """The same request at the same time, one execution."""
    await api.register()

    answers = await asyncio.gather(
        *(replica.post("/execute/async/n.echo", {"idempotency_key": "k"}) for replica in (api, other) * 5)
    )

    assert len({answer.json()["execution_id"] for answer in answers}) == 1


async def test_each_execution_is_leased_once(api: Api, other: Api) -> None:
    """Ten processes, half of them at either replica, take a hundred executions between them."""
    await api.register()
    accepted = await asyncio.gather(*((api, other)[n % 2].submit() for n in range(100)))

    async def drain(replica: Api) -> list[str]:
        session = await replica.open_session()
        taken = []
        while leases := await replica.lease(session, limit=7, wait_seconds=0.1):
            taken += [one["execution_id"] for one in leases]
        return taken

    taken = await asyncio.gather(*(drain(replica) for replica in (api, other) * 5))

    assert Counter(id_ for ids in taken for id_ in ids) == Counter(one["execution_id"] for one in accepted)


async def test_each_webhook_is_sent_once(api: Api, other: Api, receiver: Receiver) -> None:
    """Two dispatchers see the same deliveries due and never send one twice."""
    session = await api.node()
    webhook = {"url": receiver.url}
    accepted = await asyncio.gather(*((api, other)[n % 2].submit(webhook=webhook) for n in range(50)))
    leases = await api.lease(session, limit=50)
    await asyncio.gather(*((api, other)[n % 2].finish(session, lease, n) for n, lease in enumerate(leases)))

    await receiver.wait_for(50)
    ids = [one["execution_id"] for one in accepted]
    await asyncio.gather(*(until(lambda id_=id_: _delivered(other, id_)) for id_ in ids))

    assert sorted(one.json["execution_id"] for one in receiver.received) == sorted(ids)


async def _delivered(api: Api, execution_id: str) -> bool:
    return [one["state"] for one in await api.deliveries(execution_id)] == ["delivered"]


async def test_a_cursor_of_one_is_good_at_the_other(api: Api, other: Api) -> None:
    """A stream that is cut here goes on there."""
    session = await api.node()
    async with streaming(api) as stream:
        first = await api.run(session)
        seen = await stream.until("execution_started")
    second = await api.run(session)

    async with streaming(other, after=seen[-1].id) as stream:
        rest = [*await stream.until("execution_completed"), *await stream.until("execution_completed")]

    assert [frame.data["execution_id"] for frame in rest] == [first, second, second, second]


async def test_one_goes_and_the_other_stays(database: str, other: Api, receiver: Receiver) -> None:
    """A replica that stops leaves nothing undone: what was accepted there is done here."""
    async with serving(database) as leaving:
        session = await leaving.node()
        first = (await leaving.submit(webhook={"url": receiver.url}))["execution_id"]
        lease = await leaving.take(session)
        second = (await leaving.submit())["execution_id"]

    done = await other.finish(session, lease, 1)
    next_ = await other.take(session)
    [told] = await receiver.wait_for(1)

    assert done.json()["results"][0]["code"] == "recorded"
    assert told.json["execution_id"] == first
    assert next_["execution_id"] == second
