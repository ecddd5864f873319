"""Log lines and notes of agents: taken along at once, fenced, and the first to be left behind."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.api.agentfield.agent import AgentDouble, Asked
from tests.integration.api.serving import Api, Json, the_problem, until


def entry(call: Asked, message: str = "hm", **over: Json) -> Json:
    """A line as the Python SDK says it."""
    return {
        "ts": "2026-11-23T02:24:40.649989+00:00",
        "execution_id": call.id,
        "workflow_id": call.headers["x-run-id"],
        "run_id": call.headers["x-run-id"],
        "root_workflow_id": call.headers["x-run-id"],
        "parent_execution_id": None,
        "agent_node_id": "n",
        "reasoner_id": "echo",
        "level": "info",
        "source": "sdk.python.agent_workflow",
        "event_type": "log.info",
        "message": message,
        "attributes": {},
        "system_generated": False,
        **over,
    }


async def lines_of(api: Api, execution_id: str, count: int) -> list[dict[str, Json]]:
    """The lines of an execution, as soon as there are so many: they are written behind their answers."""

    async def enough() -> list[dict[str, Json]] | None:
        items: list[dict[str, Json]] = (await api.get(f"/executions/{execution_id}/logs"))["items"]
        return items if len(items) >= count else None

    return await until(enough)


@pytest.fixture
async def call(api: Api, agent: AgentDouble) -> Asked:
    """Something that the agent runs."""
    await api.submit()
    return await agent.take()


@pytest.mark.parametrize("form", ["entries", "bare"])
async def test_a_line(api: Api, call: Asked, form: str) -> None:
    """Alone or in a list, with everything that is said of it."""
    said = entry(call, "Reasoner echo started", event_type="reasoner.started", attributes={"a": [1, {"b": None}]})

    answer = await api.post(f"/executions/{call.id}/logs", {"entries": [said]} if form == "entries" else said)
    [line] = await lines_of(api, call.execution_id, 1)

    assert (answer.status_code, answer.json()["success"], answer.json()["accepted"]) == (202, True, 1)
    assert answer.json()["execution_id"] == call.id
    assert (line["message"], line["level"], line["attempt"]) == ("Reasoner echo started", "info", 1)
    assert (line["event_type"], line["source"]) == ("reasoner.started", "sdk.python.agent_workflow")
    assert line["attributes"] == {"a": [1, {"b": None}]}
    assert line["at"].startswith("2026-11-23T02:24:40.649989")


async def test_many_lines_keep_their_order(api: Api, call: Asked) -> None:
    """In one request as they stand there."""
    answer = await api.post(f"/executions/{call.id}/logs", {"entries": [entry(call, f"line {n}") for n in range(100)]})
    lines = await lines_of(api, call.execution_id, 100)

    assert answer.json()["accepted"] == 100
    assert [line["message"] for line in lines] == [f"line {n}" for n in range(100)]


async def test_levels(api: Api, call: Asked) -> None:
    """In four words, whatever a logger calls them."""
    words = ["DEBUG", "warn", "Warning", "critical", "error", "loud", None]

    await api.post(f"/executions/{call.id}/logs", {"entries": [entry(call, level=word) for word in words]})
    levels = [line["level"] for line in await lines_of(api, call.execution_id, len(words))]

    assert levels == ["debug", "warning", "warning", "error", "error", "info", "info"]


@pytest.mark.parametrize(
    "raw", [b"1e400", b"[" * 500 + b"]" * 500, b'"%b"' % (b"x" * 70_000)], ids=["number", "deep", "long"]
)
async def test_attributes_that_cannot_be_kept(api: Api, call: Asked, raw: bytes) -> None:
    """The line is kept without them."""
    answer = await api.client.post(
        f"/api/v1/executions/{call.id}/logs", content=b'{"message":"m","attributes":%b}' % raw
    )
    [line] = await lines_of(api, call.execution_id, 1)

    assert answer.status_code == 202
    assert (line["message"], "attributes" in line) == ("m", False)


@pytest.mark.parametrize("raw", [b'{"message":"m","attributes":{"a":NaN}}', b'{"message":"\\ud800"}', b"{", b"\xff"])
async def test_lines_that_are_no_json(api: Api, call: Asked, raw: bytes) -> None:
    """400, as everywhere."""
    answer = await api.client.post(f"/api/v1/executions/{call.id}/logs", content=raw)

    the_problem(answer, 400, "malformed_json")


@pytest.mark.parametrize(
    "over", [{"execution_id": "exec_other"}, {"message": ""}, {"message": None}, {"message": 5}, {"ts": 5}]
)
async def test_a_line_that_is_not_valid(api: Api, call: Asked, over: Json) -> None:
    """422, and none of the others is kept."""
    body = {"entries": [entry(call), entry(call, **over)]}

    problem = the_problem(await api.post(f"/executions/{call.id}/logs", body), 422, "invalid")
    await api.post(f"/executions/{call.id}/logs", entry(call, "last"))

    assert "entries[1]" in str(problem)
    assert [line["message"] for line in await lines_of(api, call.execution_id, 1)] == ["last"]


@pytest.mark.parametrize("settings", [{"body_bytes_max": 10_000, "payload_bytes_max": 5_000}])
async def test_too_much_at_once(api: Api, call: Asked) -> None:
    """413 by its size, 422 by the number of its lines."""
    the_problem(await api.post(f"/executions/{call.id}/logs", entry(call, "x" * 20_000)), 413, "too_large")
    many = {"entries": [{"message": "m"}] * 1_001}
    assert (await api.post(f"/executions/{call.id}/logs", many)).status_code in (413, 422)


async def test_a_stale_attempt_is_not_heard(api: Api, agent: AgentDouble, call: Asked) -> None:
    """Nor one that never was; they are told nothing of it, because no SDK would listen."""
    await agent.restart()
    second = await agent.take()

    said = [
        await api.post(f"/executions/{call.id}/logs", entry(call, "stale")),
        await api.post(f"/executions/{call.execution_id}~7/logs", {"message": "never was"}),
        await api.post(f"/executions/{call.execution_id}/logs", {"message": "without an attempt"}),
        await api.post(f"/executions/{second.id}/logs", entry(second, "fresh")),
    ]
    lines = await lines_of(api, call.execution_id, 1)

    assert {one.status_code for one in said} == {202}
    assert [(line["message"], line["attempt"]) for line in lines] == [("fresh", 2)]


@pytest.mark.parametrize(
    ("message", "progress"),
    [
        ("processed 3/10", {"done": 3, "total": 10, "fraction": 0.3}),
        ("step 1/2, item 4 / 5", {"done": 4, "total": 5, "fraction": 0.8}),
        ("7/7 done", {"done": 7, "total": 7, "fraction": 1.0}),
        ("12/5 of 2026/11/23 at 3/4.5, 1/4", {"done": 1, "total": 4, "fraction": 0.25}),
    ],
)
async def test_a_line_that_counts(api: Api, call: Asked, message: str, progress: Json) -> None:
    """Is the execution's progress, too."""
    await api.post(f"/executions/{call.id}/logs", entry(call, message))
    found = await until(lambda: _progress(api, call.execution_id))

    assert {name: found[name] for name in progress} == progress


async def test_the_last_of_many_counts(api: Api, call: Asked) -> None:
    """Not every line becomes a write, but the end is never missed."""
    for n in range(50):
        await api.post(f"/executions/{call.id}/logs", entry(call, f"processed {n + 1}/50"))

    async def all_done() -> bool:
        return (await _progress(api, call.execution_id) or {}).get("fraction") == 1

    await until(all_done)
    trace = (await api.get(f"/executions/{call.execution_id}/events"))["items"]

    assert sum(one["type"] == "execution.progress" for one in trace) <= 10


async def test_under_pressure_lines_are_left_behind(api: Api, agent: AgentDouble, call: Asked) -> None:
    """Still 202, which says how many: the work goes on, and nobody waits for a log."""
    lane = api.app.state.doors.lanes.log
    lane._waiting_max = 0

    said = await api.post(f"/executions/{call.id}/logs", {"entries": [entry(call)] * 3})
    done = await agent.succeed(call, 1)

    assert (said.status_code, said.json()["accepted"], said.json()["dropped"]) == (202, 0, 3)
    assert done.status_code == 200


async def test_lines_of_a_call_inside_the_process(api: Api, call: Asked) -> None:
    """Belong to the execution that made it: by the line itself, or by what was said of the call before."""
    local = "exec_1764123456789_0a1b2c3d"
    event = {"execution_id": local, "parent_execution_id": call.id, "status": "running", "reasoner_id": "inner"}

    by_itself = entry(call, "by itself", execution_id=local, parent_execution_id=call.id)
    await api.post(f"/executions/{local}/logs", {"entries": [by_itself]})
    await api.post("/workflow/executions/events", event)
    await api.post(f"/executions/{local}/logs", entry(call, "by the event", execution_id=local))
    lines = await lines_of(api, call.execution_id, 2)

    assert {line["message"] for line in lines} == {"by itself", "by the event"}  # in any order: nobody waits for them


@pytest.mark.parametrize("id_", ["exec_1764123456789_0a1b2c3d", "8c6f6d0e-8a39-4f0e-a3d5-0c3a0f4a2f00", "x"])
async def test_lines_of_nobody(api: Api, agent: AgentDouble, id_: str) -> None:
    """202, and none of them is kept."""
    answer = await api.post(f"/executions/{id_}/logs", {"message": "hm"})

    assert (answer.status_code, answer.json()["accepted"], answer.json()["dropped"]) == (202, 0, 1)


@pytest.mark.parametrize("prefix", ["v1", "ui/v1"])
async def test_a_note(api: Api, call: Asked, prefix: str) -> None:
    """Kept with the execution, as the SDK sends it."""
    body = {"message": "half way", "tags": ["milestone"], "timestamp": 1795400680.648, "agent_node_id": "n"}

    answer = await api.client.post(
        f"/api/{prefix}/executions/note", json=body, headers={"X-Execution-ID": call.id, "X-Agent-Node-ID": "n"}
    )
    found = await api.get(f"/executions/{call.execution_id}/notes", tags="milestone")

    assert (answer.status_code, answer.json()["success"]) == (200, True)
    assert (answer.json()["note"]["message"], answer.json()["note"]["tags"]) == ("half way", ["milestone"])
    assert (found["total"], found["notes"][0]["message"]) == (1, "half way")


async def test_a_note_of_a_call_inside_the_process(api: Api, call: Asked) -> None:
    """Is a note of the execution that made it; of an unknown one it is taken and not kept."""
    local = "exec_1764123456789_0a1b2c3d"
    event = {"execution_id": local, "parent_execution_id": call.id, "status": "running", "reasoner_id": "inner"}
    await api.post("/workflow/executions/events", event)

    said = await api.post("/executions/note", {"message": "inside"}, headers={"X-Execution-ID": local})
    unknown = await api.post("/executions/note", {"message": "lost"}, headers={"X-Execution-ID": "exec_1_2"})
    found = await api.get(f"/executions/{call.execution_id}/notes")

    assert (said.status_code, unknown.status_code) == (200, 200)
    assert [note["message"] for note in found["notes"]] == ["inside"]


async def test_a_stale_note(api: Api, agent: AgentDouble, call: Asked) -> None:
    """Is refused, and a note without an attempt as well."""
    await agent.restart()
    await agent.take()

    stale = await api.post("/executions/note", {"message": "stale"}, headers={"X-Execution-ID": call.id})
    bare = await api.post("/executions/note", {"message": "bare"}, headers={"X-Execution-ID": call.execution_id})

    the_problem(stale, 409, "lease_lost")
    the_problem(bare, 422, "invalid")
    assert (await api.get(f"/executions/{call.execution_id}/notes"))["total"] == 0


async def test_lines_of_many_at_once(api: Api, agent: AgentDouble) -> None:
    """Every line ends with its own execution."""
    ids = [(await api.submit())["execution_id"] for _ in range(10)]
    calls = [await agent.take() for _ in ids]

    await asyncio.gather(
        *(
            api.post(f"/executions/{call.id}/logs", entry(call, f"{call.execution_id} {n}"))
            for call in calls
            for n in range(10)
        )
    )

    for id_ in ids:
        assert {line["message"] for line in await lines_of(api, id_, 10)} == {f"{id_} {n}" for n in range(10)}


async def _progress(api: Api, execution_id: str) -> dict[str, Json] | None:
    found = await api.read(execution_id)
    return found.get("progress")
