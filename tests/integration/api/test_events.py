"""Live events: what happens is streamed in order, and a cut stream resumes without a gap or a repeat."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import pytest
import websockets

from controlplane.api.streams import BUFFER_MAX, HEARTBEAT_SECONDS
from controlplane.server import STALLED_SECONDS, bind
from controlplane.settings import Settings
from tests.integration.api.rawhttp import Ask, ask_all
from tests.integration.api.serving import (
    DEADLINE_SECONDS,
    Api,
    EventStream,
    Frame,
    Json,
    fence,
    fenced,
    pieces,
    streaming,
    the_problem,
    until,
)

BY_HINT_AND_BY_POLLING = pytest.mark.parametrize("settings", [{}, {"notify": False}], ids=["notify", "polling"])
LIFE = ["execution_created", "execution_started", "execution_completed"]
NOBODY = "exec_00000000000000000000000000"


@BY_HINT_AND_BY_POLLING
async def test_stream_shows_a_life(api: Api) -> None:
    """Created, started, completed: each frame with the cursor to resume after, in AgentField's shape."""
    session = await api.node()
    async with streaming(api) as stream:
        id_ = await api.run(session, {"x": 1})
        frames = await stream.until("execution_completed")

    assert [frame.type for frame in frames] == LIFE
    assert [frame.data["status"] for frame in frames] == ["queued", "running", "succeeded"]
    assert {frame.data["execution_id"] for frame in frames} == {id_}
    assert all(frame.id for frame in frames)
    assert frames[0].data["workflow_id"] == frames[0].data["run_id"]
    assert (frames[0].data["agent_node_id"], frames[0].data["reasoner_id"]) == ("n", "echo")
    assert {"timestamp"} <= frames[0].data.keys()
    assert stream.retry_ms == 2_000


async def test_every_turn_of_a_life_has_its_word(api: Api) -> None:
    """AgentField's types; our own name of the event stands beside."""
    session = await api.node("echo", retries=1)
    async with streaming(api) as stream:
        id_ = (await api.submit())["execution_id"]
        first = await api.take(session)
        await api.post(f"/sessions/{session}/logs", {"progress": [{**fence(first), "fraction": 0.5}]})
        await api.post("/executions/note", {"message": "hm"}, headers={"X-Execution-ID": fenced(first)})
        await api.finish(session, first, status="failed", error="x", retry_after_seconds=0)
        second = await api.take(session)
        await api.finish(session, second, status="released")
        third = await api.take(session)
        await api.post(f"/executions/{id_}/cancel")
        await api.finish(session, third, status="cancelled")
        frames = await stream.until("execution_cancelled")

    assert [(frame.type, frame.data["event"]) for frame in frames] == [
        ("execution_created", "execution.queued"),
        ("execution_started", "execution.started"),
        ("execution_updated", "execution.progress"),
        ("workflow_note_added", "note.added"),
        ("execution_retried", "execution.retrying"),
        ("execution_started", "execution.started"),
        ("execution_retried", "lease.released"),
        ("execution_started", "execution.started"),
        ("execution_updated", "execution.cancelling"),
        ("execution_cancelled", "execution.cancelled"),
    ]
    assert [frame.data.get("attempt") for frame in frames] == [None, 1, 1, 1, 1, 2, 2, 3, 3, 3]


@pytest.mark.parametrize(("over", "event"), [({}, "execution.failed"), ({"timeout_seconds": 0.1}, "execution.timeout")])
async def test_what_failed_and_what_took_too_long(api: Api, over: Json, event: str) -> None:
    """Both are `execution_failed` for AgentField; ours says which."""
    session = await api.node()
    async with streaming(api) as stream:
        await api.submit(**over)
        lease = await api.take(session)
        if not over:
            await api.finish(session, lease, status="failed", error="no")
        frames = await stream.until("execution_failed")

    assert frames[-1].data["event"] == event


async def test_a_payload_stays_in_its_line(api: Api) -> None:
    """A result with lines of its own is not the end of a frame, and cannot forge one."""
    session = await api.node()
    pretty = b'{\n  "a": [\r\n\n    1\n  ],\r  "data": "x"\n}'
    async with streaming(api) as stream:
        id_ = (await api.submit())["execution_id"]
        lease = await api.take(session)
        await api.post(f"/executions/{id_}/cancel")
        report = b'{"results":[{"execution_id":"%b","attempt":1,"status":"succeeded","result":%b}]}'
        await api.client.post(f"/api/v1/sessions/{session}/results", content=report % (id_.encode(), pretty))
        frames = await stream.until("result_discarded")

    assert frames[-1].data["data"] == {"status": "succeeded", "result": {"a": [1], "data": "x"}}
    assert lease["execution_id"] == frames[-1].data["execution_id"]


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


async def test_a_stream_cut_again_and_again_is_one_stream(api: Api) -> None:
    """Two hundred events while they happen, the connection cut after every few: each is seen once."""
    session = await api.node()
    async with streaming(api) as stream:
        cursor = stream.joined
    working = asyncio.create_task(_live_at_once(api, session, 70))
    seen: list[Frame] = []
    while len(seen) < 210:
        async with streaming(api, after=cursor) as stream:
            for _ in range(min(len(seen) % 17 + 1, 210 - len(seen))):
                frame = await stream.next()
                assert frame is not None
                seen.append(frame)
        cursor = seen[-1].id
    ids = await working

    assert len({frame.id for frame in seen}) == 210
    for id_ in ids:
        assert [frame.type for frame in seen if frame.data["execution_id"] == id_] == LIFE


async def _live_at_once(api: Api, session: str, count: int) -> list[str]:
    """So many lives, begun and ended beside each other."""
    accepted = await asyncio.gather(*(api.submit() for _ in range(count)))
    leases = await api.lease(session, limit=count)
    while len(leases) < count:
        leases += await api.lease(session, limit=count)
    await asyncio.gather(*(api.finish(session, lease, 1) for lease in leases))
    return [one["execution_id"] for one in accepted]


async def test_who_joined_and_saw_nothing_yet_may_resume(api: Api) -> None:
    """The first frame has a cursor, too: a connection that breaks right after it has lost nothing."""
    session = await api.node()
    async with streaming(api) as stream:
        await api.run(session)
        await stream.until("execution_completed")  # only then has the horizon passed it, whoever holds that back
    async with streaming(api) as stream:
        joined = stream.joined
    id_ = await api.run(session)

    async with streaming(api, after=joined) as stream:
        frames = await stream.until("execution_completed")

    assert [frame.type for frame in frames] == LIFE
    assert {frame.data["execution_id"] for frame in frames} == {id_}


async def test_a_cursor_may_stand_in_the_query(api: Api) -> None:
    """For who cannot set a header."""
    session = await api.node()
    async with streaming(api) as stream:
        id_ = await api.run(session)
        cut = (await stream.until("execution_completed"))[0]

    async with streaming(api, f"/api/ui/v1/executions/events?after={cut.id}") as stream:
        rest = await stream.until("execution_completed")

    assert [frame.data["execution_id"] for frame in rest] == [id_, id_]


async def test_a_cursor_of_somebody_else_is_refused(shared: Api) -> None:
    """A made-up Last-Event-ID is a 422, not a stream from anywhere."""
    for text in ("x", "1", "0.1", "0.1.1_", "0.-1.1", "99999.1.1", "0.9223372036854775808.1", "0.1.²"):
        answer = await shared.client.get(
            "/api/ui/v1/executions/events", headers=[(b"Last-Event-ID", text.encode("latin-1"))]
        )

        the_problem(answer, 422, "invalid")


@pytest.mark.parametrize("path", ["/api/v1/executions/{}/events", "/api/ui/v1/executions/{}/events"])
async def test_stream_of_one_execution_ends_with_it(api: Api, path: str) -> None:
    """A late listener gets the whole life, and the stream ends at the end."""
    session = await api.node()
    id_ = await api.run(session)
    await api.run(session)

    async with streaming(api, path.format(id_)) as stream:
        frames = await stream.rest()

    assert [frame.type for frame in frames] == LIFE
    assert {frame.data["execution_id"] for frame in frames} == {id_}


@BY_HINT_AND_BY_POLLING
async def test_stream_of_one_execution_follows_it(api: Api) -> None:
    """What happened before comes first, then what happens, then nothing."""
    session = await api.node()
    id_ = (await api.submit())["execution_id"]
    async with streaming(api, f"/api/ui/v1/executions/{id_}/events") as stream:
        created = await stream.next()
        lease = await api.take(session)
        started = await stream.next()
        await api.finish(session, lease, 1)
        rest = await stream.rest()

    assert created is not None
    assert started is not None
    assert [created.type, started.type, *(frame.type for frame in rest)] == LIFE


async def test_who_has_read_the_end_is_sent_away(api: Api) -> None:
    """204 keeps a browser from coming back for ever; who has not read it is told the rest."""
    session = await api.node()
    id_ = await api.run(session)
    path = f"/api/ui/v1/executions/{id_}/events"
    async with streaming(api, path) as stream:
        frames = await stream.rest()

    async with streaming(api, path, after=frames[0].id) as stream:
        rest = await stream.rest()
    over = await api.client.get(path, headers={"Last-Event-ID": str(frames[-1].id)})

    assert [frame.id for frame in rest] == [frame.id for frame in frames[1:]]
    assert (over.status_code, over.content) == (204, b"")


async def test_stream_of_nobody(shared: Api) -> None:
    """404 for an execution that never was, 422 for what is no id."""
    for path in ("/api/ui/v1/executions/{}/events", "/api/v1/executions/{}/events"):
        the_problem(await shared.client.get(path.format(NOBODY)), 404, "execution_not_found")
        the_problem(await shared.client.get(path.format("x")), 422, "invalid")


async def test_a_reader_that_is_too_slow_is_told_to_come_back(api: Api) -> None:
    """What waits for it is bounded; resuming where it was, it has missed nothing."""
    session = await api.node()
    await api.submit()
    lease = await api.take(session)
    notes = BUFFER_MAX * 2
    reader, writer = await asyncio.open_connection(api.host, api.port, limit=2**16)
    writer.write(b"GET /api/ui/v1/executions/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await reader.readuntil(b"connected")
    head = b"X-Execution-ID: " + fenced(lease).encode()
    body = json.dumps({"message": "x" * 16_000}).encode()  # large: the kernel keeps some MB for a socket
    note = Ask("POST", "/api/v1/executions/note", body, [head])
    async for _, reply in ask_all(api.host, api.port, [note] * notes, deadline_seconds=DEADLINE_SECONDS):
        assert reply.status == 200
    await until(lambda: _overflown(api))

    raw = bytearray()
    while b'"overflow"' not in raw:
        raw += await reader.read(2**20)
    writer.close()
    marks = [line[4:].decode() for line in raw.split(b"\n") if line.startswith(b"id: ")]
    async with streaming(api, after=marks[-1]) as stream:
        rest = [await stream.next() for _ in range(notes - len(marks))]

    assert 0 < len(marks) < notes
    assert len({*marks, *(frame.id for frame in rest if frame)}) == notes


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no such limit")
def test_a_reader_that_never_reads_is_cut_off() -> None:
    """By the kernel, half a minute after its buffers are full: nothing above the socket can close one that is."""
    with bind(Settings(port=0)) as listener:
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == STALLED_SECONDS * 1000


async def _overflown(api: Api) -> bool:
    return any(one.overflown.is_set() for one in api.app.state.doors.streams._listeners)


async def test_a_reader_that_hangs_up_is_forgotten(api: Api) -> None:
    """No listener outlives its connection by more than its next event."""
    session = await api.node()
    async with streaming(api), streaming(api):
        assert len(api.app.state.doors.streams._listeners) == 2

    async def forgotten() -> bool:
        await api.run(session)
        return not api.app.state.doors.streams._listeners

    assert await until(forgotten)


@contextlib.asynccontextmanager
async def web_socket(api: Api, path: str = "/api/ui/v1/executions/ws") -> AsyncIterator[websockets.ClientConnection]:
    """A WebSocket that is joined: its `connected` frame has been read."""
    async with websockets.connect(f"ws://{api.host}:{api.port}{path}", proxy=None) as connection:
        assert (await heard(connection))["type"] == "connected"
        yield connection


async def heard(connection: websockets.ClientConnection) -> Json:
    async with asyncio.timeout(DEADLINE_SECONDS):
        return json.loads(await connection.recv())


async def test_websocket_sends_the_same_frames(api: Api) -> None:
    """What SSE says, a WebSocket says, too; the cursor is a member of the frame."""
    session = await api.node()
    async with streaming(api) as stream, web_socket(api) as connection:
        await api.run(session)
        frames = await stream.until("execution_completed")
        said = [await heard(connection) for _ in frames]

    assert said == [frame.data | {"id": frame.id} for frame in frames]


async def test_websocket_of_one_execution_ends_with_it(api: Api) -> None:
    """Closed in order after the last frame; at once for who has read that before."""
    session = await api.node()
    id_ = await api.run(session)
    path = f"/api/ui/v1/executions/{id_}/ws"

    async with web_socket(api, path) as connection:
        said = [await heard(connection) for _ in range(3)]
        with pytest.raises(websockets.ConnectionClosedOK):
            await heard(connection)
    async with web_socket(api, f"{path}?after={said[0]['id']}") as connection:
        rest = [await heard(connection) for _ in range(2)]
    async with websockets.connect(f"ws://{api.host}:{api.port}{path}?after={said[-1]['id']}", proxy=None) as over:
        with pytest.raises(websockets.ConnectionClosedOK):
            await heard(over)

    assert [frame["type"] for frame in said] == LIFE
    assert rest == said[1:]


@pytest.mark.parametrize(
    "path",
    [
        f"/api/ui/v1/executions/{NOBODY}/ws",
        "/api/ui/v1/executions/garbage/ws",
        "/api/ui/v1/executions/ws?after=garbage",
        "/api/ui/v1/nothing/ws",
    ],
)
async def test_websocket_to_nowhere(shared: Api, path: str) -> None:
    """The handshake is refused."""
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with web_socket(shared, path):
            pass

    assert refused.value.response.status_code == 403


async def test_what_a_websocket_is_told_changes_nothing(api: Api) -> None:
    """It is for listening; whatever comes in is left alone."""
    session = await api.node()
    async with web_socket(api) as connection:
        for message in ("x", b"\x00\xff", "", "{" * 1_000):
            await connection.send(message)
        await api.run(session)

        assert [(await heard(connection))["type"] for _ in LIFE] == LIFE


async def test_a_websocket_that_hangs_up_is_forgotten(api: Api) -> None:
    """At once: nothing has to happen for it to be noticed."""
    async with web_socket(api):
        assert len(api.app.state.doors.streams._listeners) == 1

    assert await until(lambda: _nobody_listens(api), seconds=HEARTBEAT_SECONDS / 2)


async def _nobody_listens(api: Api) -> bool:
    return not api.app.state.doors.streams._listeners


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
    begun = await api.get(f"/executions/{lease['execution_id']}/events", limit=2)
    ended = await api.get(f"/executions/{lease['execution_id']}/events", limit=2, cursor=begun["next_cursor"])

    assert [line["message"] for line in first["items"] + second["items"]] == ["0", "1", "2", "3", "4"]
    assert [one["type"] for one in begun["items"] + ended["items"]] == [
        "execution.queued",
        "execution.started",
        "execution.completed",
    ]
    assert ended["next_cursor"] is None
    assert begun["items"][1]["attempt"] == 1


async def test_a_trace_tells_why(api: Api) -> None:
    """Which session took it, how long the retry waits, what the error was."""
    session = await api.node("echo", retries=1)
    id_ = (await api.submit())["execution_id"]
    report = {"status": "failed", "error": "no\nway", "error_class": "E", "traceback": "t", "retry_after_seconds": 9}
    await api.finish(session, await api.take(session), **report)

    answer = await api.client.get(f"/api/v1/executions/{id_}/events")
    _, started, retrying = answer.json()["items"]

    assert started["data"] == {"session_id": session, "node_id": "n"}
    known = {"retry_in_seconds": 9.0, "retry_after_seconds": 9.0}
    assert retrying["data"] == known | {"error": "no\nway", "error_class": "E", "traceback": "t"}
    assert pieces(answer.content).keys() == {"items", "next_cursor"}


async def test_streams_end_when_the_server_stops(api: Api) -> None:
    """At once: nobody waits for those who only listen."""
    async with streaming(api) as stream, web_socket(api) as connection:
        api.app.state.doors.stopping = True
        api.app.state.doors.streams.release()

        assert await _rest_of(stream) == []
        with pytest.raises(websockets.ConnectionClosedOK):
            await heard(connection)


async def _rest_of(stream: EventStream) -> list[Frame]:
    return await stream.rest()
