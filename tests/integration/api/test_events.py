"""Live events: what happens is streamed in order, and a cut stream resumes without a gap or a repeat."""

from __future__ import annotations

import asyncio
import json

import websockets

from tests.integration.api.serving import Api, serving, streaming, the_problem


async def test_stream_shows_a_life(api: Api) -> None:
    """Created, started, completed: each frame with the cursor to resume after."""
    session = await api.node()
    async with streaming(api) as stream:
        id_ = await api.run(session, {"x": 1})
        frames = await stream.until("execution_completed")

    assert [frame.type for frame in frames] == ["execution_created", "execution_started", "execution_completed"]
    assert {frame.data["execution_id"] for frame in frames} == {id_}
    assert all(frame.id for frame in frames)


async def test_resume_misses_nothing_and_repeats_nothing(api: Api) -> None:
    """Cut in the middle of many events, by `Last-Event-ID` the rest comes, in order, once."""
    session = await api.node()
    async with streaming(api) as stream:
        first = await api.run(session)
        seen = await stream.until("execution_completed")
        cut = seen[1]
    ids = [first, *[await api.run(session) for _ in range(40)]]

    async with streaming(api, after=cut.id) as stream:
        rest = [frame for _ in ids for frame in await stream.until("execution_completed")]

    marks = [frame.id for frame in (*seen[:2], *rest)]
    assert len(marks) == len(set(marks)) == 3 * len(ids)
    assert [frame.data["execution_id"] for frame in rest if frame.type == "execution_completed"] == ids


async def test_stream_of_one_execution_ends_with_it(api: Api) -> None:
    """A late listener gets the whole trace, and the stream ends at the end."""
    session = await api.node()
    id_ = await api.run(session)
    await api.run(session)

    async with streaming(api, f"/api/v1/executions/{id_}/events") as stream:
        frames = await stream.rest()

    assert [frame.type for frame in frames] == ["execution_created", "execution_started", "execution_completed"]


async def test_websocket_sends_the_same_frames(api: Api) -> None:
    """What SSE says, a WebSocket says, too."""
    session = await api.node()
    async with websockets.connect(f"ws://{api.host}:{api.port}/api/ui/v1/executions/ws") as socket:
        assert json.loads(await socket.recv())["type"] == "connected"
        id_ = await api.run(session)
        async with asyncio.timeout(10):
            frames = [json.loads(await socket.recv()) for _ in range(3)]

    assert [frame["type"] for frame in frames] == ["execution_created", "execution_started", "execution_completed"]
    assert {frame["execution_id"] for frame in frames} == {id_}


async def test_events_cross_replicas(api: Api, database: str) -> None:
    """Work of one replica is leased on the other, waited for on the first and streamed by the second."""
    await api.register()
    async with serving(database) as other, streaming(other) as stream:
        session = await other.open_session()
        waiting = asyncio.create_task(api.post("/execute/n.echo", {}))
        await other.finish(session, await other.take(session), {"from": "the other"})
        answer = await waiting
        frames = await stream.until("execution_completed")

    assert answer.json()["result"] == {"from": "the other"}
    assert frames[-1].data["execution_id"] == answer.json()["execution_id"]


async def test_trace_and_logs_are_paged(api: Api) -> None:
    """Events and lines of an execution come in order, page by page."""
    session = await api.node()
    await api.submit()
    lease = await api.take(session)
    entry = {"execution_id": lease["execution_id"], "attempt": 1, "level": "info"}
    body = {"entries": [{**entry, "message": str(n)} for n in range(5)], "progress": []}
    assert (await api.post(f"/sessions/{session}/logs", body)).status_code == 202
    await api.finish(session, lease)

    first = await api.get(f"/executions/{lease['execution_id']}/logs", limit=3)
    second = await api.get(f"/executions/{lease['execution_id']}/logs", limit=3, after=first["next_cursor"])
    trace = await api.get(f"/executions/{lease['execution_id']}/events")

    assert [line["message"] for line in first["items"] + second["items"]] == ["0", "1", "2", "3", "4"]
    assert [one["type"] for one in trace["items"]] == ["execution.queued", "execution.started", "execution.completed"]


async def test_a_cursor_of_somebody_else_is_refused(api: Api) -> None:
    """A made-up Last-Event-ID is a 422, not a stream from anywhere."""
    answer = await api.client.get("/api/ui/v1/executions/events", headers={"Last-Event-ID": "x"})

    the_problem(answer, 422, "invalid")
