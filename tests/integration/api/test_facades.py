"""`/jobs`, `/ws` and `/agent` in front of executions of ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Mapping

import httpx
import pytest
import websockets

from controlplane.api.facades.sockets import KEY, PASSED_MAX
from tests.integration.api.serving import Apart, Api, EventStream, Json, Receiver, fence, the_problem, until

HOUSE = {"jobs_target": "worker.process", "agent_target": "assistant.answer"}
FORMS = ("/agent/start", "/agent/submit", "/agent/submit-with-callback")


@pytest.fixture
async def api(shared: Api) -> Api:
    """The house, whose façades' targets are served by whoever opens a session."""
    await shared.register("worker", "process")
    await shared.register("assistant", "answer")
    return shared


@contextlib.asynccontextmanager
async def session(api: Api, node: str = "worker") -> AsyncIterator[str]:
    """A process of the node; whatever is left is cancelled."""
    id_ = await api.open_session(node)
    yield id_
    for one in (await api.get("/executions", node_id=node, status="queued,running,waiting"))["items"]:
        await api.post(f"/executions/{one['execution_id']}/cancel", {})
    await api.post(f"/sessions/{id_}/close", {})


async def post(api: Api, path: str, body: Json = None, **headers: str) -> httpx.Response:
    return await api.client.post(path, json=body, headers=headers)


async def job(api: Api, **more: Json) -> str:
    """The id of a job that was accepted."""
    answer = await post(api, "/jobs", {"type": "run_tests", "params": {"command": "npm test"}} | more)
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"job_id", "status"}
    assert answer.json()["status"] == "pending"
    return str(answer.json()["job_id"])


async def look(api: Api, job_id: str) -> dict[str, Json]:
    answer = await api.client.get(f"/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def task(api: Api, task_id: str) -> dict[str, Json]:
    answer = await api.client.get(f"/agent/status/{task_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def say(api: Api, process: str, lease: Mapping[str, Json], done: int, message: str) -> None:
    """Progress of an attempt, once it can be seen."""
    said = {**fence(lease), "done": done, "total": 100, "message": message}
    answer = await api.post(f"/sessions/{process}/logs", {"progress": [said]})
    assert answer.status_code == 202, answer.text

    async def seen() -> bool:
        return "progress" in await api.read(lease["execution_id"])

    await until(seen)


async def test_a_job_from_its_beginning_to_its_end(api: Api) -> None:
    """It is pending, running with its progress, and completed with its result; its input is type and params."""
    async with session(api) as process:
        job_id = await job(api)
        pending = await look(api, job_id)
        lease = await api.take(process)
        running = await look(api, job_id)
        await api.finish(process, lease, "47 passed")
        ended = await look(api, job_id)

    assert lease["input"] == {"type": "run_tests", "params": {"command": "npm test"}}
    assert pending == {"status": "pending", "type": "run_tests", "created_at": pending["created_at"]}
    assert running["status"] == "running"
    assert (ended["status"], ended["result"], ended["type"]) == ("completed", "47 passed", "run_tests")
    assert ended["updated_at"] >= running["updated_at"] >= ended["created_at"]


async def test_a_job_that_fails_says_why_in_its_result(api: Api) -> None:
    """As the text's own worker does."""
    async with session(api) as process:
        job_id = await job(api)
        await api.finish(process, await api.take(process), status="failed", error="Unknown task type: x")

    ended = await look(api, job_id)
    assert (ended["status"], ended["result"]) == ("failed", "Unknown task type: x")


async def test_a_job_that_is_tried_again_is_retrying(api: Api) -> None:
    """With the error of the attempt that failed; it stays in the list of those."""
    await api.register("worker", "process", retries=1, retry_delay=600)
    async with session(api) as process:
        job_id = await job(api)
        await api.finish(process, await api.take(process), status="failed", error="connection reset")
        shown = await look(api, job_id)
        [listed] = (await api.client.get("/jobs", params={"status": "retrying"})).json()
        pending = (await api.client.get("/jobs", params={"status": "pending"})).json()

    assert (shown["status"], shown["result"]) == ("retrying", "connection reset")
    assert listed["job_id"] == job_id
    assert pending == []


async def test_the_newest_jobs_are_listed_first(api: Api) -> None:
    """Ten unless a limit is said, each with its type, those of a status when it is named."""
    ids = [await job(api, type=f"type-{n}") for n in range(12)]
    listed = (await api.client.get("/jobs")).json()
    async with session(api):
        two = (await api.client.get("/jobs", params={"status": "pending", "limit": 2})).json()

    assert [one["job_id"] for one in listed] == ids[:1:-1]
    assert [one["type"] for one in two] == ["type-11", "type-10"]


async def test_what_is_not_a_job_of_the_target_is_not_listed(api: Api) -> None:
    """Other executions of the server are none of the façade's."""
    await api.register("n", "echo")
    execution_id = (await api.submit())["execution_id"]
    listed = (await api.client.get("/jobs", params={"limit": 200})).json()
    await api.post(f"/executions/{execution_id}/cancel", {})

    assert execution_id not in {one["job_id"] for one in listed}


async def test_cancel(api: Api) -> None:
    """A running job is cancelled at once, in the job's words, and stays so whatever its worker says; twice is once."""
    async with session(api) as process:
        job_id = await job(api)
        lease = await api.take(process)
        answers = [(await post(api, f"/jobs/{job_id}/cancel")).json() for _ in range(2)]
        asked = await look(api, job_id)
        await api.finish(process, lease, "too late")
        answers.append((await post(api, f"/jobs/{job_id}/cancel")).json())

    assert answers == [{"status": "cancelled"}] * 3
    assert asked["status"] == "cancelled"
    assert (await look(api, job_id))["status"] == "cancelled"


async def test_what_has_ended_is_not_cancelled(api: Api) -> None:
    """A result is never taken back."""
    async with session(api) as process:
        job_id = await job(api)
        await api.finish(process, await api.take(process), "done")
        refused = await post(api, f"/jobs/{job_id}/cancel")

    the_problem(refused, 409, "already_finished")
    assert (await look(api, job_id))["status"] == "completed"


@pytest.mark.parametrize("job_id", ["a1b2c3d4-e5f6-7890-abcd-ef1234567890", "exec_00000000000000000000000000"])
async def test_an_unknown_job(api: Api, job_id: str) -> None:
    """404 with the text's own words, on every path."""
    answers = [
        await api.client.get(f"/jobs/{job_id}"),
        await api.client.get(f"/jobs/{job_id}/stream"),
        await post(api, f"/jobs/{job_id}/cancel"),
    ]

    for answer in answers:
        assert the_problem(answer, 404, "execution_not_found")["detail"] == "Job not found"


async def test_the_stream_of_a_job(api: Api) -> None:
    """Its standing at once and at each change, until its end; who comes back after that is told to stop."""
    async with session(api) as process:
        job_id = await job(api)
        async with api.client.stream("GET", f"/jobs/{job_id}/stream") as response:
            stream = EventStream(response)
            seen = [await frame(stream)]
            lease = await api.take(process)
            seen.append(await frame(stream))
            await say(api, process, lease, 50, "Running tests... 23/47")
            seen.append(await frame(stream))
            await api.finish(process, lease, "done")
            rest = await stream.rest()
    again = await api.client.get(f"/jobs/{job_id}/stream")
    over = await api.client.get(f"/jobs/{job_id}/stream", headers={"Last-Event-ID": rest[-1].id or ""})

    assert [one["status"] for one in seen] == ["pending", "running", "running"]
    assert (seen[2]["progress"], seen[2]["progress_message"]) == (50, "Running tests... 23/47")
    assert rest[-1].data["result"] == "done"
    assert json.loads(again.text.split("data: ")[1].splitlines()[0]) == rest[-1].data
    assert over.status_code == 204


async def frame(stream: EventStream) -> dict[str, Json]:
    found = await stream.next()
    assert found is not None
    return dict(found.data)


async def test_the_end_of_a_job_is_posted_in_the_words_of_the_text(api: Api, receiver: Receiver) -> None:
    """`job_id`, `status`, `result`; nothing else, and as a webhook of ours."""
    async with session(api) as process:
        done, failed = await job(api, webhook_url=receiver.url), await job(api, webhook_url=receiver.url)
        await api.finish(process, await api.take(process), {"passed": 47})
        await api.finish(process, await api.take(process), status="failed", error="no")
        told = {one.json["job_id"]: one for one in await receiver.wait_for(2)}

    assert told[done].json == {"job_id": done, "status": "completed", "result": {"passed": 47}}
    assert told[failed].json == {"job_id": failed, "status": "failed", "result": "no"}
    assert told[done].headers["webhook-id"].startswith("dlv_")


async def test_a_session_hears_of_its_own_jobs(api: Api) -> None:
    """In the words of the text, for every end; of nobody else's."""
    name = uuid.uuid4().hex
    async with session(api) as process, listening(api, name) as socket:
        other = await job(api, session_id="somebody else")
        mine = [await job(api, session_id=name), await job(api, session_id=name)]
        for lease in await api.lease(process, limit=2):
            await api.finish(process, lease, "done")
        await api.finish(process, await api.take(process), status="failed", error="no")
        heard = [json.loads(await socket.recv()) for _ in mine]

    assert [one.pop("id") is not None for one in heard] == [True, True]
    assert heard == [
        {"type": "job_complete", "job_id": mine[0], "result": "done", "status": "completed"},
        {"type": "job_complete", "job_id": mine[1], "result": "no", "status": "failed"},
    ]
    assert other not in mine


async def test_a_session_that_comes_back_hears_what_it_missed(api: Api) -> None:
    """What ended before it came for the first time, what ended while it was away, and nothing twice."""
    name = uuid.uuid4().hex
    async with session(api) as process:
        first = await ended_job(api, process, name)
        async with listening(api, name) as socket:
            heard = [json.loads(await socket.recv())]
        await until(lambda: kept(api, name, heard[0]["id"]))
        second = await ended_job(api, process, name)
        async with listening(api, name) as socket:
            heard.append(json.loads(await socket.recv()))
        async with listening(api, name, f"?after={heard[0]['id']}") as socket:
            heard.append(json.loads(await socket.recv()))

    assert [one["job_id"] for one in heard] == [first, second, second]


async def test_what_others_do_moves_a_session_on(api: Api) -> None:
    """Or whoever comes back would read all of it again; a session that never had a job leaves nothing behind."""
    mine, none = uuid.uuid4().hex, uuid.uuid4().hex
    async with session(api) as process, listening(api, none):
        await ended_job(api, process, mine)
        async with listening(api, mine) as socket:
            heard = json.loads(await socket.recv())
            await until(lambda: kept(api, mine, heard["id"]))
            for _ in range(PASSED_MAX):
                await job(api, session_id="somebody else")
            for lease in await api.lease(process, limit=PASSED_MAX):
                await api.finish(process, lease, "done")

            async def moved() -> bool:
                return not await kept(api, mine, heard["id"])

            await until(moved)
    absent = await api.post("/memory/get", {"scope": "session", "scope_id": none, "key": KEY})

    assert absent.status_code == 404


async def ended_job(api: Api, process: str, name: str) -> str:
    job_id = await job(api, session_id=name)
    await api.finish(process, await api.take(process), "done")
    return job_id


async def kept(api: Api, name: str, cursor: str) -> bool:
    """Whether the session's memory says that this has been heard."""
    body = {"scope": "session", "scope_id": name, "key": KEY}
    return bool((await api.post("/memory/get", body)).json()["data"] == [cursor])


@contextlib.asynccontextmanager
async def listening(api: Api, name: str, query: str = "") -> AsyncIterator[websockets.ClientConnection]:
    url = f"ws://{api.host}:{api.port}/ws/{name}{query}"
    async with asyncio.timeout(20), websockets.connect(url, proxy=None) as socket:
        yield socket


@pytest.mark.parametrize("path", ["x" * 201, "%00", "a%0ab", "s?after=nonsense"])
async def test_a_socket_for_what_can_be_no_session_is_refused(api: Api, path: str) -> None:
    """Before it is opened."""
    with pytest.raises(websockets.InvalidStatus):
        await websockets.connect(f"ws://{api.host}:{api.port}/ws/{path}", proxy=None)


@pytest.mark.parametrize("held", [1, [], ["nonsense"], {"a": 1}, [7]])
async def test_a_session_whose_memory_holds_something_else_listens_from_now_on(api: Api, held: Json) -> None:
    """A key that somebody overwrote keeps nobody from listening or from submitting."""
    name = uuid.uuid4().hex
    await api.post("/memory/set", {"scope": "session", "scope_id": name, "key": KEY, "data": held})
    async with session(api) as process, listening(api, name) as socket:
        job_id = await ended_job(api, process, name)
        heard = json.loads(await socket.recv())

    assert heard["job_id"] == job_id


async def test_a_task_from_its_beginning_to_its_end(api: Api) -> None:
    """The three ways to submit answer as printed; the status has the five printed fields."""
    async with session(api, "assistant") as process:
        started = (await post(api, "/agent/start", {"prompt": "Analyze this document"})).json()
        pending = await task(api, started["task_id"])
        lease = await api.take(process)
        await say(api, process, lease, 40, "half")
        running = await task(api, started["task_id"])
        await api.finish(process, lease, "Completed")

    id_ = started["task_id"]
    assert started == {"task_id": id_, "status": "pending"}
    assert lease["input"] == {"prompt": "Analyze this document"}
    assert pending == {"id": id_, "status": "pending", "progress": 0, "result": None, "error": None}
    assert running == pending | {"status": "running", "progress": 40}
    assert await task(api, id_) == pending | {"status": "completed", "progress": 100, "result": "Completed"}


async def test_submit_answers_with_an_id_alone(api: Api) -> None:
    """`/agent/submit` says `task_id`, and nothing else."""
    async with session(api, "assistant"):
        submitted = await post(api, "/agent/submit", {"prompt": "p"})

    assert submitted.status_code == 200
    assert submitted.json().keys() == {"task_id"}


async def test_a_task_that_did_not_complete_has_failed(api: Api) -> None:
    """The text has no other word: neither for a failure, nor for what was cancelled."""
    async with session(api, "assistant") as process:
        ids = [(await post(api, "/agent/submit", {"prompt": "p"})).json()["task_id"] for _ in range(2)]
        await api.finish(process, await api.take(process), status="failed", error="out of tokens")
        await api.post(f"/executions/{ids[1]}/cancel", {})
        shown = [await task(api, id_) for id_ in ids]

    assert [one["status"] for one in shown] == ["failed", "failed"]
    assert [one["error"] for one in shown] == ["out of tokens", "cancelled"]


@pytest.mark.parametrize("task_id", ["abc123", "exec_00000000000000000000000000", "exec_x~1"])
async def test_an_unknown_task(api: Api, task_id: str) -> None:
    """As the text prints it: a 200 that holds an error."""
    assert await task(api, task_id) == {"error": "Task not found"}


async def test_the_callback_of_a_task(api: Api, receiver: Receiver) -> None:
    """`task_id`, `status` and `result`, or `error`; tried again until it is taken, as any webhook of ours."""
    async with session(api, "assistant") as process:
        body = {"prompt": "p", "callback_url": receiver.url}
        answers = [(await post(api, "/agent/submit-with-callback", body)).json() for _ in range(2)]
        await api.finish(process, await api.take(process), {"n": 1.0})
        await api.finish(process, await api.take(process), status="failed", error="no")
        told = {one.json["task_id"]: one.json for one in await receiver.wait_for(2)}
    done, failed = (one["task_id"] for one in answers)
    [delivery] = await until(lambda: api.deliveries(done))

    assert [one["status"] for one in answers] == ["submitted", "submitted"]
    assert told[done] == {"task_id": done, "status": "completed", "result": {"n": 1.0}}
    assert told[failed] == {"task_id": failed, "status": "failed", "error": "no"}
    assert delivery["url"] == receiver.url


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/agent/submit-with-callback", {"prompt": "p", "callback_url": "http://10.0.0.1/"}, "body.callback_url"),
        ("/agent/submit-with-callback", {"prompt": "p", "callback_url": "ftp://a.example/"}, "body.callback_url"),
        ("/agent/submit-with-callback", {"prompt": "p"}, "body"),
        ("/agent/submit", {}, "body"),
        ("/agent/start", {"prompt": 7}, "body.prompt"),
        ("/agent/start", {"prompt": "p", "prio": 1}, "body"),
        ("/jobs", {"params": {}}, "body"),
        ("/jobs", {"type": "", "params": {}}, "body.type"),
        ("/jobs", {"type": "t", "params": []}, "body.params"),
        ("/jobs", {"type": "t", "session_id": ""}, "body.session_id"),
        ("/jobs", {"type": "t", "webhook_url": "http://169.254.169.254/"}, "body.webhook_url"),
    ],
)
async def test_what_cannot_be_is_refused_and_nothing_is_kept(api: Api, path: str, body: Json, where: str) -> None:
    """A problem says where; no job and no task has begun."""
    before = await api.get("/executions", limit=1)
    refused = await post(api, path, body)

    assert refused.status_code == 422, refused.text
    assert refused.json()["where"] == where
    assert await api.get("/executions", limit=1) == before


async def test_a_payload_over_the_limit_is_refused(api: Api) -> None:
    """The façades have no limits of their own."""
    large = "x" * 8_388_608
    answers = [
        await post(api, "/jobs", {"type": "t", "params": {"p": large}}),
        await post(api, "/agent/submit", {"prompt": large}),
    ]

    for answer in answers:
        the_problem(answer, 413, "too_large")


async def test_an_idempotency_key_is_honoured(api: Api) -> None:
    """The same key and body is the same job; another body is refused, and so is another path."""
    key = {"Idempotency-Key": uuid.uuid4().hex}
    prompt = {"Idempotency-Key": uuid.uuid4().hex}
    async with session(api), session(api, "assistant"):
        answers = [await post(api, "/jobs", {"type": "t"}, **key) for _ in range(2)]
        other = await post(api, "/jobs", {"type": "u"}, **key)
        tasks = [await post(api, path, {"prompt": "t"}, **prompt) for path in ("/agent/start", "/agent/submit")]

    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["idempotent-replayed"] == "true"
    the_problem(other, 422, "idempotency_conflict")
    assert tasks[0].status_code == 200
    the_problem(tasks[1], 422, "idempotency_conflict")


@pytest.mark.parametrize("query", ["status=done", "limit=0", "limit=201", "limit=x", "status="])
async def test_a_list_of_nonsense_is_refused(api: Api, query: str) -> None:
    """With the place and the way out."""
    the_problem(await api.client.get(f"/jobs?{query}"), 422, "invalid")


def test_the_paths_are_described(house: Apart) -> None:
    """OpenAPI names them while they are on."""
    paths = httpx.get(f"{house.url}/openapi.json", trust_env=False).json()["paths"]

    assert {"/jobs", "/jobs/{job_id}", "/jobs/{job_id}/stream", "/jobs/{job_id}/cancel", *FORMS} <= paths.keys()
