"""Pauses and drains over HTTP: what is answered, what waits, what goes on, and what wakes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import Request

from controlplane.api.doors import CALLER, caller_of
from controlplane.api.lookout import LOOK_CAP_SECONDS
from controlplane.domain import topic
from controlplane.domain.execution import DEFAULT_NAMESPACE
from controlplane.domain.key import STARTER
from tests.integration.api.serving import DEADLINE_SECONDS, Api, Json, fence, serving, the_problem, until

PAUSES = {"all": "", "node": "/nodes/n", "reasoner": "/reasoners/n.echo"}
NAMES = {"all": None, "node": "n", "reasoner": "n.echo"}
WIDE = pytest.mark.parametrize("scope", PAUSES)
SOON_SECONDS = 5.0
"""Far less than a poll is held, and long enough for a busy machine."""


@pytest.fixture
async def calm(shared: Api) -> AsyncIterator[Api]:
    """The shared server with a node `n`; what was paused or drained is taken back."""
    await shared.register("n", "echo", "other")
    yield shared
    for path in PAUSES.values():
        await said(shared, f"{path}/resume")
    await said(shared, "/nodes/n/undrain")
    for one in (await shared.get("/executions", status="queued,running", limit=200))["items"]:
        await shared.post(f"/executions/{one['execution_id']}/cancel", {})


async def said(api: Api, path: str, **body: Json) -> dict[str, Any]:
    """What is answered to this POST."""
    answer = await api.post(path, body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def close(api: Api, session: str) -> None:
    await api.post(f"/sessions/{session}/close", {})


@WIDE
async def test_what_is_answered(calm: Api, scope: str) -> None:
    """What was paused, why, since when, how much of it waits and how much still runs; said again, the same."""
    session = await calm.open_session()
    for _ in range(3):
        await calm.submit()
    lease = await calm.take(session)

    first = await said(calm, f"{PAUSES[scope]}/pause", reason="upstream is down")
    again = await said(calm, f"{PAUSES[scope]}/pause", reason="other words")
    resumed = await said(calm, f"{PAUSES[scope]}/resume")
    twice = await said(calm, f"{PAUSES[scope]}/resume")
    await calm.finish(session, lease)
    await close(calm, session)

    assert (first["scope"], first.get("name"), first["reason"]) == (scope, NAMES[scope], "upstream is down")
    assert (first["queued"], first["queued_is_more"], first["running"]) == (2, False, 1)
    assert (first["paused"], first["changed"]) == (True, True)
    assert again == first | {"changed": False}
    assert (resumed["paused"], resumed["changed"], twice["changed"]) == (False, True, False)
    assert resumed["still_paused_by"] == []


@WIDE
async def test_nothing_is_handed_out_and_a_resume_wakes_at_once(calm: Api, scope: str) -> None:
    """A poll that is held while it is paused gets the work in the moment of the resume, not at its next look."""
    session = await calm.open_session()
    await said(calm, f"{PAUSES[scope]}/pause")
    accepted = await calm.submit()
    assert await calm.lease(session, wait_seconds=0.2) == []

    held = asyncio.create_task(calm.take(session))
    await until(lambda: _waits(calm, "queue:"))
    began = time.monotonic()
    await said(calm, f"{PAUSES[scope]}/resume")
    lease = await held
    took = time.monotonic() - began
    await calm.finish(session, lease)
    await close(calm, session)

    assert lease["execution_id"] == accepted["execution_id"]
    assert took < SOON_SECONDS


async def test_no_claim_after_the_answer(calm: Api) -> None:
    """Of many polls and submits at once, none that begins after the pause was answered is handed anything."""
    sessions = [await calm.open_session() for _ in range(4)]
    taken: list[float] = []
    stop = asyncio.Event()

    async def work(session: str) -> None:
        while not stop.is_set():
            began = time.monotonic()
            for lease in await calm.lease(session, limit=5, wait_seconds=0.05):
                taken.append(began)
                await calm.finish(session, lease)

    async def feed() -> None:
        while not stop.is_set():
            await calm.submit()

    tasks = [asyncio.create_task(call) for call in (*map(work, sessions), feed())]
    await until(lambda: _more(taken, 5))
    await said(calm, "/reasoners/n.echo/pause")
    answered = time.monotonic()
    await asyncio.sleep(0.3)  # long enough for every poll to begin anew
    late = [began for began in taken if began > answered]
    await said(calm, "/reasoners/n.echo/resume")
    before = len(taken)
    await until(lambda: _more(taken, before + 5))
    stop.set()
    await asyncio.gather(*tasks)
    for session in sessions:
        await close(calm, session)

    assert late == []


async def test_the_list(calm: Api) -> None:
    """Everything first, then by node, page by page; nothing when nothing is paused."""
    empty = await calm.get("/pauses")
    for path in reversed(PAUSES.values()):
        await said(calm, f"{path}/pause", reason="why")

    first = await calm.get("/pauses", limit=2)
    rest = await calm.get("/pauses", limit=2, cursor=first["next_cursor"])
    one = await calm.get("/pauses", limit=1)
    two = await calm.get("/pauses", limit=1, cursor=one["next_cursor"])

    assert empty == {"items": [], "next_cursor": None}
    assert [(item["scope"], item.get("name")) for item in first["items"] + rest["items"]] == list(NAMES.items())
    assert (two["items"], rest["next_cursor"]) == (first["items"][1:], None)
    assert {item["reason"] for item in first["items"]} == {"why"}


async def test_a_resume_says_what_else_holds_it(calm: Api) -> None:
    """Who resumes a reasoner of a paused node is told that nothing will run yet."""
    for path in PAUSES.values():
        await said(calm, f"{path}/pause")

    resumed = await said(calm, "/reasoners/n.echo/resume")

    assert [one["scope"] for one in resumed["still_paused_by"]] == ["all", "node"]


@pytest.mark.parametrize("verb", ["pause", "resume", "drain", "undrain"])
async def test_what_nobody_has_registered(calm: Api, verb: str) -> None:
    """404 with the nearest names, for whatever is asked of it."""
    the_problem(await calm.post(f"/nodes/nobody/{verb}", {}), 404, "node_not_found")
    if "drain" not in verb:
        problem = the_problem(await calm.post(f"/reasoners/n.ecko/{verb}", {}), 404, "target_not_found")
        assert problem["nearest"] == ["n.echo"]
        the_problem(await calm.post(f"/reasoners/echo/{verb}", {}), 400, "target_malformed")


@pytest.mark.parametrize("body", [{"reason": "x" * 1_001}, {"reason": 1}, {"until": "tomorrow"}, []])
async def test_what_cannot_be_said(calm: Api, body: Json) -> None:
    """422, and nothing is paused."""
    the_problem(await calm.post("/pause", body), 422, "invalid")

    assert (await calm.get("/pauses"))["items"] == []


async def test_a_node_drains(calm: Api) -> None:
    """What runs goes on, nothing new is handed out, and everybody can see how much is left."""
    session = await calm.open_session()
    await calm.submit()
    lease = await calm.take(session)
    told = await said(calm, "/nodes/n/drain", reason="update")
    await calm.submit()

    beat = await calm.heartbeat(session, executions=[fence(lease)])
    polled = await calm.post(f"/sessions/{session}/lease", {"max": 1, "wait_seconds": 0.1})
    seen = await calm.get("/nodes/n")
    await calm.finish(session, lease)
    done = await calm.get("/nodes/n")
    await close(calm, session)

    assert told == {"node_id": "n", "changed": True, "draining": 1, "draining_running": 1}
    assert (beat.json()["draining"], beat.json()["lost"]) == (True, [])
    assert polled.json() == {"leases": [], "draining": True}
    assert (seen["draining"], seen["draining_running"]) == (1, 1)
    assert (done["draining"], done["draining_running"]) == (1, 0)


async def test_undrained_its_poll_gets_work_at_once(calm: Api) -> None:
    """Also the poll that is held meanwhile, and its heartbeat is answered."""
    session = await calm.open_session()
    await said(calm, "/nodes/n/drain")
    await calm.submit()
    held = asyncio.create_task(calm.take(session))
    beating = asyncio.create_task(calm.heartbeat(session, wait_seconds=DEADLINE_SECONDS))
    await until(lambda: _waits(calm, "session:"))
    began = time.monotonic()
    told = await said(calm, "/nodes/n/undrain")

    await calm.finish(session, await held)
    await beating
    took = time.monotonic() - began
    await close(calm, session)

    assert (told["changed"], told["draining"]) == (True, 0)
    assert took < SOON_SECONDS


async def test_a_process_that_drains_stands_in_nobodys_way(calm: Api) -> None:
    """Its poll is held, and the work goes at once to the process that came after the drain."""
    old = await calm.open_session()
    await said(calm, "/nodes/n/drain")
    held = asyncio.create_task(calm.lease(old, wait_seconds=2.0))
    opened = await calm.post("/nodes/n/sessions", {"instance_id": "restarted", "slots": 9, "heartbeat_seconds": 60})
    new = opened.json()["session_id"]
    began = time.monotonic()
    taking = asyncio.create_task(calm.take(new))
    await calm.submit()
    await calm.finish(new, await taking)
    took = time.monotonic() - began
    left_out = await held
    for session in (old, new):
        await close(calm, session)

    assert left_out == []
    assert took < SOON_SECONDS


async def test_a_paused_node_is_seen(calm: Api) -> None:
    """In the list of nodes, whether it or everything is paused."""
    seen = []
    for path in ("/nodes/n", "", "/reasoners/n.echo"):
        await said(calm, f"{path}/pause")
        seen.append((await calm.get("/nodes/n"))["paused"])
        await said(calm, f"{path}/resume")

    assert seen == [True, True, False]


@WIDE
async def test_a_submit_is_warned(calm: Api, scope: str) -> None:
    """What is accepted for a paused target says that it waits, and the list of targets shows it."""
    session = await calm.open_session()
    await said(calm, f"{PAUSES[scope]}/pause")
    accepted = await calm.submit()
    listed = {one["target"]: one["paused"] for one in (await calm.get("/reasoners"))["items"]}
    await said(calm, f"{PAUSES[scope]}/resume")
    await calm.finish(session, await calm.take(session))
    later = await calm.submit()
    await close(calm, session)

    assert [one["code"] for one in accepted["warnings"]] == ["paused"]
    assert listed == {"n.echo": True, "n.other": scope != "reasoner"}
    assert "warnings" not in later


async def test_who_paused_it_is_the_name_of_the_key(calm: Api) -> None:
    """Where the gate has left one; a key without a name is nobody."""
    named, nameless = Request({"type": "http", CALLER: STARTER}), Request({"type": "http"})
    paused = await said(calm, "/pause")

    assert (caller_of(named), caller_of(nameless)) == ("environment", None)
    assert "paused_by" not in paused


async def test_it_outlives_the_server(database: str) -> None:
    """Pauses and drains are rows: another server, and the same after a crash, knows them."""
    async with serving(database) as first:
        session = await first.node()
        await first.submit()
        await said(first, "/reasoners/n.echo/pause")
        async with serving(database) as second:
            held = await second.lease(session, wait_seconds=0.2)
    async with serving(database) as third:
        after = await third.lease(session, wait_seconds=0.2)
        waiting = asyncio.create_task(third.lease(session))
        await said(third, "/reasoners/n.echo/resume")

        assert (held, after) == ([], [])
        assert len(await waiting) == 1


async def test_a_resume_at_another_replica_wakes(database: str) -> None:
    """By its hint, or else by the next look."""
    async with serving(database) as here, serving(database) as there:
        session = await here.node()
        await said(there, "/pause")
        await here.submit()
        held = asyncio.create_task(here.take(session))
        await until(lambda: _waits(here, "queue:"))
        began = time.monotonic()
        await said(there, "/resume")
        await held

        assert time.monotonic() - began < SOON_SECONDS


async def _waits(api: Api, prefix: str) -> bool:
    return any(topic.startswith(prefix) for topic in api.app.state.doors.hints.waiters)


async def _more(found: list[float], count: int) -> bool:
    return len(found) > count


async def test_a_poll_is_woken_only_for_what_may_be_handed_out(api: Api) -> None:
    """The look between two hints leaves out what is paused, and a resume is a hint of its own."""
    await api.register()
    execution_id = (await api.submit())["execution_id"]
    with api.app.state.doors.hints.waiter(topic.queue(DEFAULT_NAMESPACE, "n.echo")) as poll:
        found = await poll.wait(DEADLINE_SECONDS)
        await said(api, "/nodes/n/pause")
        await poll.wait(LOOK_CAP_SECONDS)  # by a look that had begun
        held = not await poll.wait(LOOK_CAP_SECONDS * 1.2)
        await api.post(f"/executions/{execution_id}/cancel", {})
        await said(api, "/nodes/n/resume")
        woken = poll.woken

    assert (found, held, woken) == (True, True, True)
