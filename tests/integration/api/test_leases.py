"""What a node does over HTTP: sessions, leases, heartbeats, results, logs; and everything it may not do any more."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time

import httpx
import pytest

from controlplane.api.upkeep import Kept
from tests.integration.api.serving import DEADLINE_SECONDS, LEASE_SECONDS, Api, Json, fence, fenced, the_problem, until

BY_HINT_AND_BY_POLLING = pytest.mark.parametrize("settings", [{}, {"notify": False}], ids=["notify", "polling"])
IDLE = {"idle_wait_seconds": 20.0}
NO_SESSION = "ses_00000000000000000000000000"


async def test_a_session_is_opened(api: Api) -> None:
    """201 says how long a lease lives without a heartbeat: three of them, and no less than the server's floor."""
    await api.register("n")

    answer = await api.post("/nodes/n/sessions", {"instance_id": "i", "slots": 4, "heartbeat_seconds": 2.0})
    short = await api.post("/nodes/n/sessions", {"instance_id": "i", "slots": 4, "heartbeat_seconds": 0.1})
    body = answer.json()

    assert answer.status_code == 201
    assert body["session_id"].startswith("ses_")
    assert body["node_id"] == "n"
    assert (body["lease_seconds"], body["expires_in_seconds"], body["heartbeat_seconds"]) == (6.0, 6.0, 2.0)
    assert short.json()["lease_seconds"] == 1.0


@pytest.mark.parametrize("node", ["nobody", "no%20body", "a" * 200])
async def test_a_session_needs_a_node(shared: Api, node: str) -> None:
    """404 tells the process to register first."""
    the_problem(await shared.post(f"/nodes/{node}/sessions", {"instance_id": "i", "slots": 1}), 404, "node_not_found")


@pytest.mark.parametrize(
    ("over", "where"),
    [
        ({"slots": 0}, "body.slots"),
        ({"slots": 10_001}, "body.slots"),
        ({"slots": 1.5}, "body.slots"),
        ({"heartbeat_seconds": 0}, "body.heartbeat_seconds"),
        ({"heartbeat_seconds": 301}, "body.heartbeat_seconds"),
        ({"instance_id": ""}, "body.instance_id"),
        ({"instance_id": "a\x00"}, "body.instance_id"),
    ],
    ids=str,
)
async def test_what_a_session_cannot_be(shared: Api, over: Json, where: str) -> None:
    """422 names the field."""
    await shared.register("n")

    answer = await shared.post("/nodes/n/sessions", {"instance_id": "i", "slots": 1} | over)

    assert the_problem(answer, 422, "invalid")["where"] == where


async def test_who_has_taken_all_there_is_waits_without_a_look(api: Api) -> None:
    """Nothing was said since: the poll after it asks nothing. What is submitted between two polls is looked for."""
    await api.register("n")
    session = await api.open_session("n")
    lane = api.app.state.doors.lanes.claim

    async def looks(wait_seconds: float) -> tuple[int, int]:
        """How often a poll asked the database, and how many leases it was handed."""
        before = lane.items
        leases = await api.lease(session, limit=5, wait_seconds=wait_seconds)
        return lane.items - before, len(leases)

    async def calm() -> bool:
        """The lookout may have seen the work a moment before it was taken, and say so afterwards."""
        await api.submit()
        await looks(DEADLINE_SECONDS)
        return await looks(0.1) == (0, 0)

    await until(calm)
    assert await looks(0.1) == (1, 0)  # it is believed once
    await api.submit()
    assert await looks(DEADLINE_SECONDS) == (1, 1)
    assert await looks(0) == (1, 0)  # who does not wait is answered by a look
    await api.submit()
    assert await looks(DEADLINE_SECONDS) == (1, 1)
    await api.submit()
    assert await looks(DEADLINE_SECONDS) == (1, 1)


async def test_a_lease_carries_all_that_was_asked(api: Api) -> None:
    """The shape that nodes are built on."""
    session = await api.node("echo", timeout_seconds=60)
    accepted = await api.submit(input={"a": 1}, context={"c": 2}, headers={"X-Session-ID": "s"})

    lease = await api.take(session)

    assert lease.pop("created_at") == accepted["created_at"]
    assert lease == {
        "execution_id": accepted["execution_id"],
        "attempt": 1,
        "failures": 0,
        "target": "n.echo",
        "reasoner": "echo",
        "type": "reasoner",
        "run_id": accepted["run_id"],
        "root_execution_id": accepted["execution_id"],
        "parent_execution_id": None,
        "session_key": "s",
        "actor_key": None,
        "input": {"a": 1},
        "context": {"c": 2},
        "timeout_seconds": 60.0,
        "deadline_in_seconds": 60.0,
        "heartbeat_seconds": None,
        "steps": 0,
    }


async def test_a_lease_takes_no_more_than_it_says(api: Api) -> None:
    """What is left is there for the next."""
    session = await api.node()
    for _ in range(5):
        await api.submit()

    first, second, third = [await api.lease(session, limit=limit, wait_seconds=0) for limit in (2, 10, 10)]

    assert (len(first), len(second), third) == (2, 3, [])


async def test_a_node_is_given_its_own_work(api: Api) -> None:
    """Another node's targets are none of its business."""
    mine = await api.node()
    await api.register("m")
    theirs = await api.open_session("m")
    await api.submit("m.echo")

    assert await api.lease(mine, wait_seconds=0) == []
    assert len(await api.lease(theirs, wait_seconds=0)) == 1


@pytest.mark.parametrize(
    "body", [{}, {"max": 0}, {"max": 257}, {"max": 1, "wait_seconds": 31}, {"max": 1, "wait_seconds": -1}, {"max": "1"}]
)
async def test_what_a_lease_cannot_ask(shared: Api, body: Json) -> None:
    """From 1 to 256, for at most half a minute."""
    session = await shared.node()

    the_problem(await shared.post(f"/sessions/{session}/lease", body), 422, "invalid")


@BY_HINT_AND_BY_POLLING
async def test_a_submit_wakes_a_waiting_node(api: Api) -> None:
    """The long poll answers when there is something, not when its time is over."""
    session = await api.node()

    waiting = asyncio.create_task(api.lease(session))
    await until(lambda: _polling(api))
    began = time.monotonic()
    accepted = await api.submit()
    [lease] = await waiting

    assert lease["execution_id"] == accepted["execution_id"]
    assert time.monotonic() - began < 5


async def _polling(api: Api) -> bool:
    return any(topic.startswith("queue:") for topic in api.app.state.doors.hints.waiters)


async def test_a_wait_without_work_ends_empty(api: Api) -> None:
    """An empty list after the time it asked for."""
    session = await api.node()

    began = time.monotonic()
    leases = await api.lease(session, wait_seconds=0.3)

    assert leases == []
    assert 0.3 <= time.monotonic() - began < DEADLINE_SECONDS


@BY_HINT_AND_BY_POLLING
async def test_a_wait_without_work_looks_once(api: Api) -> None:
    """Whoever waits in vain asks the database when it comes, and not again when it goes."""
    session = await api.node()
    claims = api.app.state.doors.lanes.claim
    before = claims.items
    await api.lease(session, wait_seconds=0.2)

    assert claims.items == before + 1


async def test_each_waiting_node_gets_some(api: Api) -> None:
    """Ten processes wait, ten executions come, each goes to exactly one."""
    await api.register("n")
    sessions = [await api.open_session("n", slots=1) for _ in range(10)]

    waiting = [asyncio.create_task(api.lease(session)) for session in sessions]
    await until(lambda: _polling(api))
    ids = {(await api.submit())["execution_id"] for _ in range(10)}
    leased = [one["execution_id"] for leases in await asyncio.gather(*waiting) for one in leases]

    assert sorted(leased) == sorted(ids)


async def test_a_node_that_hangs_up_takes_nothing_with_it(api: Api) -> None:
    """A long poll whose client has gone leaves the work to the next process."""
    await api.register("n")
    session, other = await api.open_session("n"), await api.open_session("n")

    gone = asyncio.create_task(api.lease(session))
    await until(lambda: _polling(api))
    gone.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await gone
    waiting = asyncio.create_task(api.lease(other))
    accepted = await api.submit()
    [lease] = await waiting

    assert lease["execution_id"] == accepted["execution_id"]


async def test_results_are_recorded(api: Api) -> None:
    """In the order of the request, each with the status it led to."""
    await api.register("n", "echo", retries=1)
    session = await api.open_session("n")
    for _ in range(4):
        await api.submit()
    a, b, c, d = await api.lease(session, limit=4)

    reports = [
        {**fence(a), "status": "succeeded", "result": 1},
        {**fence(b), "status": "failed", "error": "x", "retryable": False},
        {**fence(c), "status": "failed", "error": "x"},
        {**fence(d), "status": "released"},
    ]
    answer = await api.post(f"/sessions/{session}/results", {"results": reports})

    assert answer.status_code == 200
    assert answer.json()["results"] == [
        {**fence(a), "http_status": 200, "code": "recorded", "status": "succeeded"},
        {**fence(b), "http_status": 200, "code": "recorded", "status": "failed"},
        {**fence(c), "http_status": 200, "code": "recorded", "status": "queued"},
        {**fence(d), "http_status": 200, "code": "recorded", "status": "queued"},
    ]


async def test_a_result_may_be_said_again(api: Api) -> None:
    """After a lost answer the node repeats itself; the first word stands."""
    session = await api.node()
    await api.submit()
    lease = await api.take(session)

    first = await api.finish(session, lease, "first")
    again = await api.finish(session, lease, "second")

    assert (first.json()["results"][0]["code"], again.json()["results"][0]["code"]) == ("recorded", "already_recorded")
    assert again.json()["results"][0]["status"] == "succeeded"
    assert (await api.read(lease["execution_id"]))["result"] == "first"


async def test_the_same_result_twice_in_one_request(api: Api) -> None:
    """One is recorded, the other has been."""
    session = await api.node()
    await api.submit()
    one = {**fence(await api.take(session)), "status": "succeeded", "result": 1}

    answer = await api.post(f"/sessions/{session}/results", {"results": [one, one]})

    assert [each["code"] for each in answer.json()["results"]] == ["recorded", "already_recorded"]


async def test_a_released_attempt_is_there_again(api: Api) -> None:
    """At once, with a new attempt and no failure."""
    session = await api.node()
    await api.submit()
    first = await api.take(session)

    await api.finish(session, first, status="released")
    second = await api.take(session)

    assert (second["attempt"], second["failures"]) == (2, 0)


async def test_a_wait_before_a_retry(api: Api) -> None:
    """The node may say how long; until then the execution is not handed out."""
    session = await api.node("echo", retries=3)
    id_ = (await api.submit())["execution_id"]

    await api.finish(session, await api.take(session), status="failed", error="x", retry_after_seconds=3_600)
    read = await api.read(id_)

    assert (read["status"], read["state"], read["status_reason"]) == ("queued", "delayed", "retrying")
    assert await api.lease(session, wait_seconds=0) == []


async def test_a_hundred_retries_are_a_hundred_retries(api: Api) -> None:
    """However steep the growth of the delay, it is a number; and the node may say that there is none."""
    session = await api.node("echo", retries=100, retry_factor=1e8)
    id_ = (await api.submit())["execution_id"]

    for _ in range(101):
        done = await api.finish(session, await api.take(session), status="failed", error="x", retry_after_seconds=0)
        assert done.status_code == 200, done.text

    assert (await api.read(id_))["failures"] == 101


@pytest.mark.parametrize(
    "results",
    [
        [],
        [{}],
        "x",
        [{"execution_id": "exec_00000000000000000000000000", "attempt": 1, "status": "great"}],
        [{"execution_id": "exec_00000000000000000000000000", "attempt": "1", "status": "failed"}],
        [{"execution_id": "x", "attempt": 1, "status": "failed"}],
        [{"execution_id": "exec_00000000000000000000000000", "attempt": 0, "status": "failed"}],
        [{"execution_id": "exec_00000000000000000000000000", "attempt": 2**31, "status": "failed"}],
    ],
    ids=str,
)
async def test_what_is_no_result(shared: Api, results: Json) -> None:
    """422, and nothing has happened."""
    session = await shared.node()

    the_problem(await shared.post(f"/sessions/{session}/results", {"results": results}), 422, "invalid")


async def test_a_heartbeat_renews_the_lease(api: Api) -> None:
    """A process that is heard of keeps its work for as long as it is."""
    await api.register("n")
    await api.submit()
    session = await api.open_session("n", heartbeat_seconds=0.2)
    lease = await api.take(session)

    began = time.monotonic()
    while time.monotonic() - began < 2.5:  # two leases and a half
        beat = await api.heartbeat(session, executions=[fence(lease)], count=1, wait_seconds=0.2)
        assert beat.json() == {"expires_in_seconds": 1.0, "cancel": [], "lost": [], "draining": False} | IDLE

    assert (await api.finish(session, lease, 1)).status_code == 200


async def test_silence_loses_the_lease(api: Api) -> None:
    """The work runs elsewhere within the lease and a moment, and no retry is spent."""
    await api.register("n")
    other = await api.open_session("n")
    await api.submit()
    silent = await api.open_session("n", heartbeat_seconds=0.1)
    first = await api.take(silent)

    began = time.monotonic()
    second = await api.take(other)

    assert time.monotonic() - began < LEASE_SECONDS + 5
    assert (second["execution_id"], second["attempt"], second["failures"]) == (first["execution_id"], 2, 0)


async def test_who_holds_nothing_is_held_for_longer(api: Api) -> None:
    """Its session lives on through several leases, in one beat."""
    await api.register("n")
    session = await api.open_session("n", heartbeat_seconds=0.2)

    began = time.monotonic()
    beat = await api.heartbeat(session, executions=[], wait_seconds=3.5 * LEASE_SECONDS)
    took = time.monotonic() - began

    assert beat.json() == {"expires_in_seconds": 1.0, "cancel": [], "lost": [], "draining": False} | IDLE
    assert took > 3 * LEASE_SECONDS
    assert (await api.heartbeat(session)).status_code == 200


async def test_who_says_that_it_holds_something_is_not(api: Api) -> None:
    """Nobody speaks in the name of a process that does, if only by its own word."""
    await api.register("n")
    session = await api.open_session("n", heartbeat_seconds=0.2)

    beat = asyncio.create_task(api.heartbeat(session, count=1, wait_seconds=DEADLINE_SECONDS))
    await until(lambda: _closed(api, session))

    beat.cancel()


async def _closed(api: Api, session: str) -> bool:
    return (await api.lease_answer(session)).status_code == 409


async def test_a_claim_ends_the_long_beat(api: Api) -> None:
    """Within a heartbeat, and it shall name all. A process that dies there loses its work as soon as ever."""
    await api.register("n")
    session, other = await api.open_session("n", heartbeat_seconds=0.3), await api.open_session("n")
    beat = asyncio.create_task(api.heartbeat(session, wait_seconds=DEADLINE_SECONDS))
    await until(lambda: _kept(api))
    await api.submit()
    first = await api.take(session)
    began = time.monotonic()
    told = (await beat).json()
    ended = time.monotonic() - began
    second = await api.take(other)
    took = time.monotonic() - began

    assert told["tell_all"] is True
    assert ended < 5
    assert (second["execution_id"], second["attempt"]) == (first["execution_id"], 2)
    assert took < LEASE_SECONDS + 5


async def _kept(api: Api, sessions: int = 1) -> bool:
    return len(api.app.state.doors.upkeep) == sessions


async def test_an_idle_process_that_is_cut_off_is_not_kept(api: Api) -> None:
    """Nobody is at the other end of its beat: its session ends long before that would have."""
    await api.register("n")
    session = await api.open_session("n", heartbeat_seconds=0.2)
    beat = asyncio.create_task(api.heartbeat(session, wait_seconds=30))
    await until(lambda: _kept(api))

    began = time.monotonic()
    beat.cancel()
    await until(lambda: _closed(api, session))

    assert time.monotonic() - began < 10
    assert await _kept(api, 0)


async def test_a_beat_ends_the_one_before(api: Api) -> None:
    """Who asks anew has given that one up."""
    await api.register("n")
    session = await api.open_session("n", heartbeat_seconds=1.0)
    first = asyncio.create_task(api.heartbeat(session, wait_seconds=DEADLINE_SECONDS))
    await until(lambda: _kept(api))
    second = asyncio.create_task(api.heartbeat(session, wait_seconds=DEADLINE_SECONDS))

    began = time.monotonic()
    assert (await first).status_code == 200
    took = time.monotonic() - began
    assert await _kept(api)
    await api.post(f"/sessions/{session}/close")

    assert (await second).status_code == 200
    assert took < 5
    assert time.monotonic() - began < 10


async def test_a_long_beat_goes_on_where_the_last_one_ended(api: Api) -> None:
    """What was renewed a moment ago is not again, unless there was news of a session, or the beat names all."""
    await api.register("n")
    session = await api.open_session("n", heartbeat_seconds=1.0)
    lane = api.app.state.doors.lanes.renew

    async def renewals(**body: Json) -> int:
        before = lane.items
        assert (await api.heartbeat(session, wait_seconds=1.5, **body)).status_code == 200
        return int(lane.items - before)

    assert await renewals() == 1
    assert await renewals() == 0
    assert await renewals(executions=[]) == 1
    assert await renewals() == 0
    await api.post("/nodes/n/drain", {})
    told = (await api.heartbeat(session, wait_seconds=1.5)).json()

    assert told["draining"] is True


async def test_after_news_a_beat_asks_anew(api: Api) -> None:
    """What a held beat was told of its session is true of the next one, too: it drains, and then it is closed."""
    await api.register("n")
    session = await api.open_session("n", heartbeat_seconds=5.0)

    async def held() -> asyncio.Task[httpx.Response]:
        beat = asyncio.create_task(api.heartbeat(session, executions=[], wait_seconds=DEADLINE_SECONDS))
        await until(lambda: _kept(api))
        return beat

    drained = await held()
    await api.post("/nodes/n/drain", {})
    told = [(await drained).json(), (await api.heartbeat(session, wait_seconds=6.0)).json()]
    closed = await held()
    await api.post(f"/sessions/{session}/close")
    said = [await closed, await api.heartbeat(session, wait_seconds=6.0)]

    assert [one["draining"] for one in told] == [True, True]
    assert [one.status_code for one in said] == [409, 409]


async def test_of_a_beat_that_is_over_nothing_is_kept(api: Api) -> None:
    """When its session was renewed is known; the request and its connection are let go."""
    await api.register("n")
    session = await api.open_session("n", heartbeat_seconds=0.2)
    await api.heartbeat(session, wait_seconds=1.5)
    await until(lambda: _kept(api, 0))
    gc.collect()

    assert [one for one in gc.get_objects() if isinstance(one, Kept)] == []


async def test_while_its_session_is_kept_a_poll_asks_nothing(api: Api) -> None:
    """That it is open is known from there, and that there is work from the lookout; a hint makes it look again."""
    await api.register("n")
    session = await api.open_session("n", heartbeat_seconds=5.0)
    beat = asyncio.create_task(api.heartbeat(session, wait_seconds=DEADLINE_SECONDS))
    await until(lambda: _kept(api))
    lane = api.app.state.doors.lanes.claim
    await api.lease(session, wait_seconds=0.1)

    before = lane.items
    for _ in range(3):
        assert await api.lease(session, wait_seconds=0.1) == []
    looks = lane.items - before
    await api.submit()

    assert looks == 0
    assert len(await api.lease(session, wait_seconds=0.1)) == 1
    beat.cancel()


async def test_a_heartbeat_says_what_is_lost(api: Api) -> None:
    """Everything in the full list that is no longer its own."""
    await api.register("n")
    session = await api.open_session("n")
    await api.submit()
    lease = await api.take(session)
    await api.finish(session, lease, status="released")

    beat = await api.heartbeat(session, executions=[fence(lease)], wait_seconds=DEADLINE_SECONDS)

    assert beat.json()["lost"] == [fence(lease)]


async def test_what_a_full_list_does_not_name_is_taken_back(api: Api) -> None:
    """The claim's answer was lost on the wire: after two beats the work is handed out again."""
    await api.register("n")
    await api.submit()
    session = await api.open_session("n", heartbeat_seconds=0.1)
    lost = await api.take(session)

    async def beat() -> Json:
        assert (await api.heartbeat(session, executions=[])).status_code == 200
        return await api.lease(session, wait_seconds=0)

    [found] = await until(beat)

    assert (found["execution_id"], found["attempt"]) == (lost["execution_id"], 2)


async def test_a_cancel_is_repeated_until_it_is_reported(api: Api) -> None:
    """A lost answer to a heartbeat loses nothing."""
    session = await api.node()
    id_ = (await api.submit())["execution_id"]
    lease = await api.take(session)
    await api.post(f"/executions/{id_}/cancel")

    async def told() -> Json:
        return (await api.heartbeat(session)).json()["cancel"]

    first, second = await until(told), await until(told)
    await api.finish(session, lease, status="cancelled")
    await until(lambda: _untold(api, session))

    assert first == second == [{**fence(lease), "reason": None}]
    assert (await api.read(id_))["status"] == "cancelled"


async def _untold(api: Api, session: str) -> bool:
    return (await api.heartbeat(session)).json()["cancel"] == []


async def test_closing_hands_everything_back(api: Api) -> None:
    """At once, without a retry spent; closing twice is closing once."""
    await api.register("n")
    session, other = await api.open_session("n"), await api.open_session("n")
    for _ in range(3):
        await api.submit()
    await api.lease(session, limit=3)

    waiting = asyncio.create_task(api.lease(other, limit=3))
    closed = await api.post(f"/sessions/{session}/close", {"reason": "drain"})
    again = await api.post(f"/sessions/{session}/close")
    leases = await waiting

    assert (closed.json(), again.json()) == ({"released": 3}, {"released": 0})
    assert {(one["attempt"], one["failures"]) for one in leases} == {(2, 0)}


@pytest.mark.parametrize(
    ("path", "body"),
    [("lease", {"max": 1}), ("heartbeat", {}), ("lease", {"max": 1, "wait_seconds": 20})],
)
async def test_a_closed_session_is_told(api: Api, path: str, body: Json) -> None:
    """409 tells the process to open a new one."""
    session = await api.node()
    await api.post(f"/sessions/{session}/close")

    the_problem(await api.post(f"/sessions/{session}/{path}", body), 409, "session_closed")


@pytest.mark.parametrize("path", ["lease", "heartbeat", "results", "logs", "close"])
async def test_an_unknown_session_is_told(shared: Api, path: str) -> None:
    """404 for an id that nobody has, 422 for what is none."""
    body = {"max": 1} if path == "lease" else {"results": []} if path == "results" else {}

    the_problem(await shared.post(f"/sessions/{NO_SESSION}/{path}", body), 404, "session_not_found")
    the_problem(await shared.post(f"/sessions/garbage/{path}", body), 422, "invalid")


async def test_progress_is_seen(api: Api) -> None:
    """By whoever reads the execution; a fraction is worked out."""
    session = await api.node()
    id_ = (await api.submit())["execution_id"]
    lease = await api.take(session)

    said = {**fence(lease), "done": 3, "total": 4, "message": "three of four"}
    answer = await api.post(f"/sessions/{session}/logs", {"progress": [said]})
    progress = (await api.read(id_))["progress"]

    assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "dropped": 0, "lost": []})
    assert progress.pop("updated_at") > lease["created_at"]
    assert progress == {"done": 3, "total": 4, "fraction": 0.75, "message": "three of four"}


async def test_log_lines_are_kept_in_order(api: Api) -> None:
    """With their level, time and attributes, page by page."""
    session = await api.node()
    id_ = (await api.submit())["execution_id"]
    lease = await api.take(session)
    entries = [{**fence(lease), "message": f"line {n}", "attributes": {"n": n}} for n in range(7)]
    entries[0] |= {"level": "ERROR", "ts": "2026-01-02T03:04:05+01:00", "event_type": "log.error", "source": "sdk"}
    entries[1] |= {"level": "shout", "ts": "yesterday"}

    answer = await api.post(f"/sessions/{session}/logs", {"entries": entries})
    first = await api.get(f"/executions/{id_}/logs", limit=4)
    rest = await api.get(f"/executions/{id_}/logs", limit=4, after=first["next_cursor"])
    lines = first["items"] + rest["items"]

    assert answer.json() == {"accepted": 7, "dropped": 0, "lost": []}
    assert [line["message"] for line in lines] == [f"line {n}" for n in range(7)]
    assert [line["attributes"] for line in lines] == [{"n": n} for n in range(7)]
    assert (lines[0]["level"], lines[0]["at"]) == ("error", "2026-01-02T02:04:05Z")
    assert (lines[0]["event_type"], lines[0]["source"]) == ("log.error", "sdk")
    assert lines[1]["level"] == "info"
    assert rest["next_cursor"] is None
    assert (await api.get(f"/executions/{id_}/logs", attempt=2))["items"] == []
    assert len((await api.get(f"/executions/{id_}/logs", attempt=1))["items"]) == 7


async def test_notes_are_kept(api: Api) -> None:
    """And found by their tags."""
    session = await api.node()
    id_ = (await api.submit())["execution_id"]
    headers = {"X-Execution-ID": fenced(await api.take(session))}

    first = await api.post("/executions/note", {"message": "one\n", "tags": ["a", "b"]}, headers=headers)
    second = await api.client.post("/api/ui/v1/executions/note", json={"message": "two"}, headers=headers)
    found = await api.get(f"/executions/{id_}/notes")
    tagged = await api.get(f"/executions/{id_}/notes", tags="x,b")

    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json()["success"] is True
    assert first.json()["note"] | {"timestamp": 0} == {"message": "one\n", "tags": ["a", "b"], "timestamp": 0}
    assert (found["execution_id"], found["total"]) == (id_, 2)
    assert [note["message"] for note in found["notes"]] == ["one\n", "two"]
    assert [note["message"] for note in tagged["notes"]] == ["one\n"]


@pytest.fixture
async def taken_over(api: Api) -> tuple[str, Json, Json]:
    """A process that was silent for too long, with its old lease, and the new lease of somebody else."""
    await api.register("n")
    other = await api.open_session("n")
    await api.submit(headers={"X-Run-ID": "r"})
    silent = await api.open_session("n", heartbeat_seconds=0.1)
    old = await api.take(silent)
    new = await api.take(other)
    assert (new["execution_id"], new["attempt"]) == (old["execution_id"], 2)
    return other, old, new


async def test_a_stale_result_is_refused(api: Api, taken_over: tuple[str, Json, Json]) -> None:
    """409 lease_lost, by itself or among others; the execution goes on where it is."""
    session, old, new = taken_over

    alone = await api.finish(session, old, "stale")
    reports = [{**fence(old), "status": "succeeded", "result": "stale"}, {**fence(new), "status": "succeeded"}]
    together = await api.post(f"/sessions/{session}/results", {"results": reports})

    the_problem(alone, 409, "lease_lost")
    assert [(one["http_status"], one["code"]) for one in together.json()["results"]] == [
        (409, "lease_lost"),
        (200, "recorded"),
    ]
    assert (await api.read(new["execution_id"]))["result"] is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/memory/set", {"key": "k", "data": "stale"}),
        ("/memory/delete", {"key": "k"}),
        ("/memory/append", {"key": "list", "items": ["stale"]}),
        ("/memory/write", None),
        ("/executions/note", {"message": "stale"}),
        ("/execute/async/n.echo", None),
        ("/execute/n.echo", None),
        ("logs", None),
        ("progress", None),
    ],
)
async def test_a_stale_writer_changes_nothing(
    api: Api, taken_over: tuple[str, Json, Json], path: str, body: Json
) -> None:
    """Memory, notes, children, lines and progress of a lost lease are refused."""
    session, old, _ = taken_over
    run = {"X-Run-ID": "r"}
    await api.post("/memory/set", {"key": "k", "data": "good"}, headers=run)
    await api.post("/memory/set", {"key": "list", "data": ["good"]}, headers=run)
    before = await _all_there_is(api, old["execution_id"])
    headers = run | {"X-Execution-ID": fenced(old)}
    if path == "/memory/write":
        body = {"writes": [{**fence(old), "ops": [{"op": "set", "key": "k", "value": "stale"}]}]}
        headers = {}
    elif path.startswith("/execute"):
        body, headers = {}, {"X-Parent-Execution-ID": fenced(old)}
    elif path == "logs":
        path, body = f"/sessions/{session}/logs", {"entries": [{**fence(old), "message": "stale"}]}
    elif path == "progress":
        path, body = f"/sessions/{session}/logs", {"progress": [{**fence(old), "fraction": 0.5}]}

    refused = await api.post(path, body, headers=headers)

    the_problem(refused, 409, "lease_lost")
    assert await _all_there_is(api, old["execution_id"]) == before


async def _all_there_is(api: Api, execution_id: str) -> Json:
    memory = await api.client.get("/api/v1/memory/list", headers={"X-Run-ID": "r"})
    read = await api.read(execution_id)
    read.pop("duration_ms")
    return {
        "memory": memory.json(),
        "executions": [one["execution_id"] for one in (await api.get("/executions"))["items"]],
        "execution": read,
        "events": await api.get(f"/executions/{execution_id}/events"),
        "logs": await api.get(f"/executions/{execution_id}/logs"),
        "notes": await api.get(f"/executions/{execution_id}/notes"),
    }


async def test_the_others_in_a_batch_of_lines_are_kept(api: Api, taken_over: tuple[str, Json, Json]) -> None:
    """202 says which attempts have lost their lease."""
    session, old, new = taken_over
    entries = [{**fence(old), "message": "stale"}, {**fence(new), "message": "good"}]
    entries += [{**fence(new), "message": "bad", "attributes": "x" * 100_000}]

    answer = await api.post(f"/sessions/{session}/logs", {"entries": entries})
    lines = (await api.get(f"/executions/{new['execution_id']}/logs"))["items"]

    assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "dropped": 2, "lost": [fence(old)]})
    assert [line["message"] for line in lines] == ["good"]


async def test_too_many_lines(api: Api) -> None:
    """At most 500 in one request."""
    session = await api.node()
    await api.submit()
    line = {**fence(await api.take(session)), "message": "x"}

    the_problem(await api.post(f"/sessions/{session}/logs", {"entries": [line] * 501}), 422, "invalid")
    assert (await api.post(f"/sessions/{session}/logs", {"entries": [line] * 500})).status_code == 202


async def test_any_session_may_repeat_what_another_could_not_say(api: Api) -> None:
    """A process whose session closed while its answer was lost says it again through its new one."""
    await api.register("n")
    old, new = await api.open_session("n"), await api.open_session("n")
    await api.submit()
    lease = await api.take(old)
    await api.finish(old, lease, 1)
    await api.post(f"/sessions/{old}/close")

    again = await api.finish(new, lease, 1)

    assert again.json()["results"][0]["code"] == "already_recorded"
