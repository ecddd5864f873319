"""Matching: who waits is handed what is submitted by the commit that accepts it, and nobody else ever gets it too."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from controlplane.domain.ids import read
from controlplane.domain.limit import READY_MAX
from tests.integration.api.serving import DEADLINE_SECONDS, Api, Json, serving, until, watched
from tests.make import until_blocks

LATER = (datetime.now(UTC) + timedelta(days=1)).isoformat()


async def _waiting(
    api: Api, *polls: str, limit: int = 1, wait_seconds: float = DEADLINE_SECONDS
) -> list[asyncio.Task[Any]]:
    """Polls of these sessions that have looked and found nothing, in this order."""
    tasks = []
    for session in polls:
        tasks.append(asyncio.create_task(api.lease(session, limit=limit, wait_seconds=wait_seconds)))
        await until(lambda: _are_waiting(api, len(tasks)))
    return tasks


async def _are_waiting(api: Api, polls: int) -> bool:
    return len(api.app.state.doors.matching) == polls


async def test_who_waits_is_handed_it_without_a_claim(api: Api, conn: asyncpg.Connection[asyncpg.Record]) -> None:
    """The lease is there as of the submit; nobody had to look for it, and the poll after it need not either."""
    session = await api.node()
    [poll] = await _waiting(api, session)
    claims = api.app.state.doors.lanes.claim
    before = claims.items
    accepted = await api.submit(input={"text": "x"})
    [lease] = await poll
    again = await api.lease(session, wait_seconds=0.1)
    at = await conn.fetch("select type, at from events order by seq")

    assert (lease["execution_id"], lease["attempt"], lease["input"]) == (accepted["execution_id"], 1, {"text": "x"})
    assert (await api.read(accepted["execution_id"]))["status"] == "running"
    assert [one["type"] for one in at] == ["execution.queued", "execution.started"]
    assert at[0]["at"] == at[1]["at"]
    assert again == []
    assert claims.items <= before + 1  # the last one only: the lookout may have spoken of it


async def test_who_waits_for_it_is_answered_without_a_look(api: Api) -> None:
    """That it has begun is known here, and how it has ended is told."""
    session = await api.node()
    [poll] = await _waiting(api, session)
    accepted = await api.submit(input={"text": "x"}, priority=7)
    [lease] = await poll
    reads = api.app.state.doors.lanes.read
    before = reads.items
    waits = asyncio.create_task(api.read(accepted["execution_id"], wait_seconds=DEADLINE_SECONDS))
    await until(lambda: watched(api))
    await api.finish(session, lease, 7)
    told = await waits
    asked_of_the_database = reads.items - before

    assert told == await api.read(accepted["execution_id"])
    assert (told["status"], told["result"], asked_of_the_database) == ("succeeded", 7, 0)


async def test_an_end_that_nobody_told_here_is_found(api: Api, database: str) -> None:
    """Another replica may have written it before anybody waited for it here."""
    session = await api.node()
    [poll] = await _waiting(api, session)
    accepted = await api.submit()
    [lease] = await poll
    async with serving(database, notify=False) as other:
        await other.finish(session, lease, 7)
    ended = await api.read(accepted["execution_id"], wait_seconds=DEADLINE_SECONDS)

    assert (ended["status"], ended["result"]) == ("succeeded", 7)


@pytest.mark.parametrize("status", ["succeeded", "failed"])
async def test_what_has_ended_is_known_no_more(api: Api, status: str) -> None:
    """However it went: whoever asks afterwards is answered at once."""
    session = await api.node()
    [poll] = await _waiting(api, session)
    id_ = (await api.submit())["execution_id"]
    [lease] = await poll
    begun = api.app.state.doors.begun
    known = len(begun)
    await api.finish(session, lease, status=status, **({"error": "x"} if status == "failed" else {}))

    assert (known, len(begun)) == (1, 0)
    assert (await api.read(id_, wait_seconds=DEADLINE_SECONDS))["status"] == status


async def test_it_goes_on_as_any_lease(api: Api) -> None:
    """Heartbeats name it, its result is recorded, and said again it was recorded already."""
    session = await api.node()
    [poll] = await _waiting(api, session)
    await api.submit()
    [lease] = await poll
    held = [{"execution_id": lease["execution_id"], "attempt": 1}]
    beat = (await api.heartbeat(session, executions=held, count=1)).json()
    first = (await api.finish(session, lease)).json()
    second = (await api.finish(session, lease)).json()

    assert beat["lost"] == []
    assert [one["results"][0]["code"] for one in (first, second)] == ["recorded", "already_recorded"]
    assert (await api.read(lease["execution_id"]))["status"] == "succeeded"


async def test_those_who_wait_have_their_turns(api: Api) -> None:
    """Of what comes together each gets some; what nobody has room for is ready for whoever comes."""
    await api.register("n")
    sessions = [await api.open_session("n") for _ in range(2)]
    polls = await _waiting(api, *sessions, limit=2)
    body = {"items": [{"target": "n.echo", "input": {"n": n}} for n in range(5)]}
    asked = [one["execution_id"] for one in (await api.post("/execute/batch", body)).json()["items"]]
    handed = [[one["execution_id"] for one in leases] for leases in await asyncio.gather(*polls)]
    rest = await api.lease(sessions[0], limit=5)

    assert handed == [[asked[0], asked[2]], [asked[1], asked[3]]]
    assert [one["execution_id"] for one in rest] == [asked[4]]


LIMITED = {"concurrency": {"key": "c", "max": 1}}


@pytest.mark.parametrize(
    "over", [{"delay_seconds": 0.2}, {"run_at": LATER}, LIMITED], ids=["delayed", "at a moment", "limited"]
)
async def test_what_has_to_wait_is_handed_to_nobody(
    api: Api, conn: asyncpg.Connection[asyncpg.Record], over: dict[str, Json]
) -> None:
    """It becomes ready like everything else, and is claimed then."""
    session = await api.node()
    claims = api.app.state.doors.lanes.claim
    [poll] = await _waiting(api, session, wait_seconds=1.0)
    before = claims.items
    answer = await api.post("/execute/async/n.echo", {"input": {}} | over)
    leases = await poll

    assert answer.status_code == 202, answer.text
    assert len(leases) == (0 if "run_at" in over else 1)
    assert claims.items - before >= len(leases)


async def test_of_a_fairness_key_those_whose_turn_it_is(api: Api) -> None:
    """What is beyond the window of its key has to be let in, though somebody waits for it."""
    session = await api.node()
    [poll] = await _waiting(api, session, limit=2 * READY_MAX)
    one = {"target": "n.echo", "input": {}, "fairness_key": "f"}
    await api.post("/execute/batch", {"items": [one] * (READY_MAX + 1)})
    handed = await poll
    [last] = await api.lease(session, limit=2)

    assert len(handed) == READY_MAX
    assert last["attempt"] == 1


async def test_a_process_that_drains_is_handed_nothing(api: Api, conn: asyncpg.Connection[asyncpg.Record]) -> None:
    """It had looked before it was told. The next one gets it."""
    await api.register("n")
    session, other = [await api.open_session("n") for _ in range(2)]
    [poll] = await _waiting(api, session)
    drains = "update sessions set drain_requested_at = clock() where id = $1"
    await conn.execute(drains, read("ses", session, where=""))
    accepted = await api.submit()
    [lease] = await api.lease(other)
    poll.cancel()

    assert (lease["execution_id"], lease["attempt"]) == (accepted["execution_id"], 1)


async def test_whose_time_is_over_hears_what_was_on_its_way(api: Api, conn: asyncpg.Connection[asyncpg.Record]) -> None:
    """A poll that is offered something answers when it is decided, or it would be handed to nobody."""
    session = await api.node()
    [poll] = await _waiting(api, session, wait_seconds=0.5)
    async with conn.transaction():
        await conn.execute("lock table executions in exclusive mode")
        submitting = asyncio.create_task(api.submit())
        await until_blocks(conn)
        done, _ = await asyncio.wait({poll}, timeout=1.0)
    accepted = await submitting
    [lease] = await poll

    assert not done
    assert lease["execution_id"] == accepted["execution_id"]


async def test_what_is_no_new_work_leaves_the_poll_waiting(api: Api) -> None:
    """A key that was used: who was offered it gets the next thing."""
    session = await api.node()
    await _keyed(api, "x")
    await api.take(session)
    [poll] = await _waiting(api, session)
    answers = [await _keyed(api, text) for text in ("x", "y")]
    still = not poll.done()
    accepted = await api.submit()
    [lease] = await poll

    assert answers == [202, 422]
    assert still
    assert lease["execution_id"] == accepted["execution_id"]


async def _keyed(api: Api, text: str) -> int:
    headers = {"Idempotency-Key": "k"}
    return (await api.post("/execute/async/n.echo", {"input": {"text": text}}, headers=headers)).status_code


async def test_what_a_process_never_heard_of_comes_back(api: Api) -> None:
    """What it does not name two heartbeats later goes to whoever comes next."""
    await api.register("n")
    session = await api.open_session("n", heartbeat_seconds=0.2)
    [poll] = await _waiting(api, session)
    accepted = await api.submit()
    await poll  # and forgets it

    async def back() -> list[Json]:
        await api.heartbeat(session, executions=[])
        return await api.lease(session, wait_seconds=0)

    [lease] = await until(back)

    assert (lease["execution_id"], lease["attempt"]) == (accepted["execution_id"], 2)


@pytest.mark.parametrize("settings", [{"notify": False}], ids=["no hints of others"])
async def test_many_at_once_begin_once_each(api: Api) -> None:
    """Processes that poll again and again while many submit: each execution has one attempt, of one session."""
    await api.register("n")
    sessions = [await api.open_session("n") for _ in range(4)]
    taken: list[tuple[str, int]] = []

    async def work(session: str) -> None:
        while len(taken) < 200:
            taken.extend(
                (one["execution_id"], one["attempt"]) for one in await api.lease(session, limit=7, wait_seconds=0.5)
            )

    async def ask(count: int) -> list[str]:
        return [(await api.submit())["execution_id"] for _ in range(count)]

    working = [asyncio.create_task(work(session)) for session in sessions]
    asked = [id_ for ids in await asyncio.gather(*(ask(20) for _ in range(10))) for id_ in ids]
    async with asyncio.timeout(DEADLINE_SECONDS):
        await asyncio.gather(*working)

    assert sorted(taken) == sorted((id_, 1) for id_ in asked)
