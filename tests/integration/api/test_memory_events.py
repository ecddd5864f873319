"""Changes of memory, live and of the last hour: as AgentField's client hears them, in order, without a gap."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone

import asyncpg
import pytest
import websockets

from controlplane.api.changes import HISTORY_MAX, PATTERNS_MAX
from controlplane.api.streams import BUFFER_MAX, HEARTBEAT_SECONDS
from tests.integration.api.rawhttp import Ask, ask_all
from tests.integration.api.serving import (
    DEADLINE_SECONDS,
    Api,
    EventStream,
    Frame,
    Json,
    fenced,
    serving,
    the_problem,
    until,
)

BY_HINT_AND_BY_POLLING = pytest.mark.parametrize("settings", [{}, {"notify": False}], ids=["notify", "polling"])
RUN = {"X-Workflow-ID": "r"}
CONTEXT = RUN | {"X-Agent-Node-ID": "n", "X-Actor-ID": "a"}


@contextlib.asynccontextmanager
async def listening(api: Api, query: str = "", **headers: str) -> AsyncIterator[websockets.ClientConnection]:
    """A WebSocket as AgentField's client opens it. Once it is open nothing is missed."""
    url = f"ws://{api.host}:{api.port}/api/v1/memory/events/ws{query}"
    async with websockets.connect(url, proxy=None, additional_headers=headers) as connection:
        yield connection


async def heard(connection: websockets.ClientConnection, count: int = 1) -> list[Json]:
    async with asyncio.timeout(DEADLINE_SECONDS):
        messages = [await connection.recv() for _ in range(count)]
    assert all(isinstance(message, str) for message in messages)
    return [json.loads(message) for message in messages]


@contextlib.asynccontextmanager
async def streaming(api: Api, query: str = "", *, after: str | None = None) -> AsyncIterator[EventStream]:
    """SSE that is joined: its first `id:` has come."""
    headers = {} if after is None else {"Last-Event-ID": after}
    path = f"/api/v1/memory/events/sse{query}"
    async with api.client.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        stream = EventStream(response)
        async with asyncio.timeout(DEADLINE_SECONDS):
            async for line in stream._lines:
                name, _, stream.joined = line.partition("id: ")
                if not name and stream.joined:
                    break
        yield stream


async def frames(stream: EventStream, count: int) -> list[Frame]:
    found = [await stream.next() for _ in range(count)]
    return [frame for frame in found if frame is not None]


async def set_(api: Api, key: str, value: Json = None, *, headers: Json = RUN, **over: Json) -> None:
    answer = await api.post("/memory/set", {"key": key, "data": value, **over}, headers=headers)
    assert answer.status_code == 200, answer.text


async def history(api: Api, **query: Json) -> list[Json]:
    found: list[Json] = await api.get("/memory/events/history", **query)
    return found


@BY_HINT_AND_BY_POLLING
async def test_set_append_and_delete_are_heard(api: Api) -> None:
    """In AgentField's shape: what it is, what it was, and in whose name."""
    async with listening(api, **CONTEXT) as connection:
        await set_(api, "done", 2, headers=CONTEXT)
        await set_(api, "done", [3], headers=CONTEXT)
        await api.post("/memory/append", {"key": "done", "items": [4]}, headers=CONTEXT)
        await api.post("/memory/delete", {"key": "done"}, headers=CONTEXT)
        said = await heard(connection, 4)

    place = {"type": "memory_change", "scope": "workflow", "scope_id": "r", "key": "done"}
    who = {"metadata": {"agent_id": "n", "actor_id": "a", "workflow_id": "r"}}
    assert len({(one.pop("id"), one.pop("cursor")) for one in said}) == 4
    assert all(datetime.now(UTC) - datetime.fromisoformat(one.pop("timestamp")) < timedelta(minutes=1) for one in said)
    assert said == [
        place | who | {"action": "set", "data": 2},
        place | who | {"action": "set", "data": [3], "previous_data": 2},
        place | who | {"action": "set", "appended": True, "previous_data": [3]},
        place | who | {"action": "delete"},
    ]


async def test_null_is_a_value(api: Api) -> None:
    """Told as what it is; a value that is too large is not told."""
    async with listening(api) as connection:
        await set_(api, "k", None)
        await set_(api, "k", "x" * 70_000)
        first, second = await heard(connection, 2)

    assert (first["data"], "previous_data" in first) == (None, False)
    assert ("data" in second, second["previous_data"]) == (False, None)


@BY_HINT_AND_BY_POLLING
async def test_sse_says_the_same(api: Api) -> None:
    """The same messages; the cursor is the `id:` of the event."""
    async with listening(api) as connection, streaming(api) as stream:
        for n in range(3):
            await set_(api, "k", n)
        said, seen = await heard(connection, 3), await frames(stream, 3)

    assert [frame.data | {"cursor": frame.id} for frame in seen] == said


async def test_a_checkpoint_is_heard(api: Api) -> None:
    """What an attempt writes in one go comes in its order; what a stale one writes is not heard."""
    session = await api.node()
    await api.submit()
    lease = await api.take(session)
    ops = [{"op": "set", "key": "b", "value": 1}, {"op": "append", "key": "a", "items": [1]}]
    own, stale = {"X-Execution-ID": fenced(lease)}, {"X-Execution-ID": lease["execution_id"] + "~9"}
    async with listening(api) as connection:
        refused = await api.post("/memory/set", {"key": "stale", "data": 1}, headers=RUN | stale)
        written = await api.post("/memory/write", {"writes": [{"ops": ops}]}, headers=own)
        said = await heard(connection, 2)

    the_problem(refused, 409, "lease_lost")
    assert written.status_code == 200
    assert [(one["key"], one["scope_id"]) for one in said] == [("b", lease["run_id"]), ("a", lease["run_id"])]
    assert {one["metadata"]["workflow_id"] for one in said} == {lease["run_id"]}


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ("", ["done", "done.a", "other", "s", "g"]),
        ("?patterns=done", ["done"]),
        ("?patterns=done*", ["done", "done.a"]),
        ("?patterns=done.*,%20oth*r", ["done.a", "other"]),
        ("?patterns=,", ["done", "done.a", "other", "s", "g"]),
        ("?scope=session", ["s"]),
        ("?scope=workflow", ["done", "done.a", "other"]),
        ("?scope=run&patterns=*e*&scope_id=r", ["done", "other"]),
        ("?scope_id=r2", ["done.a"]),
        ("?scope=global&scope_id=global", ["g"]),
    ],
)
async def test_what_is_meant(shared: Api, query: str, keys: list[str]) -> None:
    """Patterns and scopes narrow what is heard, live and afterwards."""
    async with listening(shared, query) as connection, listening(shared) as everything:
        await set_(shared, "done")
        await set_(shared, "done.a", headers={"X-Run-ID": "r2"})
        await set_(shared, "other")
        await set_(shared, "s", headers={"X-Session-ID": "r"}, scope="session")
        await set_(shared, "g", scope="global", headers={})
        await heard(everything, 5)
        said = await heard(connection, len(keys))
    told = await history(shared, **dict(part.split("=") for part in query[1:].replace("%20", " ").split("&") if part))

    assert [one["key"] for one in said] == keys
    assert told[-len(keys) :] == [{name: value for name, value in one.items() if name != "cursor"} for one in said]


@pytest.mark.parametrize(
    "query",
    [
        "scope=tenant",
        "scope_id=%00",
        "patterns=a%0Ab",
        "patterns=" + "x" * 513,
        "patterns=" + ",".join("x" * (PATTERNS_MAX + 1)),
        "after=garbage",
    ],
)
async def test_what_cannot_be_meant(shared: Api, query: str) -> None:
    """A problem for SSE, a refused handshake for a WebSocket."""
    answer = await shared.client.get(f"/api/v1/memory/events/sse?{query}")
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with listening(shared, f"?{query}"):
            pass

    the_problem(answer, 422, "invalid")
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("settings", [{"api_key": "k"}])
async def test_a_key_is_needed(api: Api) -> None:
    """As a header, as AgentField's client sends it."""
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with listening(api):
            pass
    async with listening(api, **{"X-API-Key": "k"}) as connection:
        await set_(api, "k", 1)

        assert (await heard(connection))[0]["data"] == 1
    assert refused.value.response.status_code == 403


async def test_resume_misses_nothing_and_repeats_nothing(api: Api) -> None:
    """Cut in the middle, by either door: the rest comes, in order, once."""
    async with listening(api) as connection:
        await asyncio.gather(*(set_(api, f"a{n}") for n in range(10)))
        before = await heard(connection, 7)
    await asyncio.gather(*(set_(api, f"b{n}") for n in range(200)))

    async with listening(api, f"?after={before[-1]['cursor']}") as connection:
        by_socket = await heard(connection, 203)
    async with streaming(api, after=before[-1]["cursor"]) as stream:
        by_sse = await frames(stream, 203)

    ids = [one["id"] for one in before + by_socket]
    assert len(set(ids)) == 210
    assert [frame.data["id"] for frame in by_sse] == ids[7:]
    assert by_sse[-1].id == by_socket[-1]["cursor"]


async def test_who_joined_and_heard_nothing_yet_may_resume(api: Api) -> None:
    """SSE's first line is a cursor, and it is no message."""
    async with streaming(api) as stream:
        await set_(api, "before")
        await frames(stream, 1)  # only then has the horizon passed it, whoever holds that back
    async with streaming(api) as stream:
        joined = stream.joined
    await set_(api, "after")

    async with streaming(api, after=joined) as stream:
        [frame] = await frames(stream, 1)

    assert frame.data["key"] == "after"


@pytest.mark.parametrize("settings", [{"buckets": 3, "buckets_hashed": 3}])
async def test_several_buckets_are_one_stream(api: Api) -> None:
    """A cursor knows the place in each."""
    keys = [f"k{n}" for n in range(30)]
    async with listening(api) as connection:
        for n, key in enumerate(keys[:15]):
            await set_(api, key, headers={"X-Run-ID": f"r{n}"})
        before = await heard(connection, 5)
    for n, key in enumerate(keys[15:]):
        await set_(api, key, headers={"X-Run-ID": f"r{n}"})

    async with listening(api, f"?after={before[-1]['cursor']}") as connection:
        rest = await heard(connection, 25)

    assert sorted(one["key"] for one in before + rest) == sorted(keys)
    assert len({one["id"].partition(".")[0] for one in rest}) == 3
    assert [one["key"] for one in await history(api, limit=4)] == keys[-4:]


async def test_history(api: Api) -> None:
    """The last so many, oldest first; since an instant, whatever its zone."""
    for n in range(5):
        await set_(api, f"k{n}", n)
    everything = await history(api)
    instant = datetime.fromisoformat(everything[3]["timestamp"])
    zones = (instant, instant.replace(tzinfo=None), instant.astimezone(timezone(timedelta(hours=-7))))

    assert [one["data"] for one in everything] == [0, 1, 2, 3, 4]
    assert await history(api, limit=2) == everything[3:]
    for at in zones:
        assert await history(api, since=at.isoformat()) == everything[3:]
    assert await history(api, since=(instant + timedelta(hours=1)).isoformat()) == []
    assert await history(api, since="0001-01-01T00:00:00Z", patterns="k1,k2") == everything[1:3]


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": HISTORY_MAX + 1},
        {"since": "yesterday"},
        {"since": "0001-01-01T00:00:00+14:00"},
        {"since": "9999-12-31T23:59:59-14:00"},
        {"scope": "tenant"},
        {"patterns": "a\x00"},
    ],
    ids=str,
)
async def test_history_of_nonsense(shared: Api, query: Json) -> None:
    """Refused, never guessed."""
    the_problem(await shared.client.get("/api/v1/memory/events/history", params=query), 422, "invalid")


async def test_a_pattern_is_not_sql(api: Api) -> None:
    """What means something to `like` means itself."""
    for key in ("a_b", "axb", "a%b", "a\\b"):
        await set_(api, key)

    for pattern in ("a_b", "a%b", "a\\b"):
        assert [one["key"] for one in await history(api, patterns=pattern)] == [pattern]


@BY_HINT_AND_BY_POLLING
async def test_two_replicas_tell_the_same(database: str, api: Api, settings: dict[str, object]) -> None:
    """Written at either, heard at both; a cursor of one is good at the other."""
    async with (
        serving(database, **settings) as other,
        listening(api) as here,
        listening(other) as there,
    ):
        await set_(api, "a", 1)
        await set_(other, "b", 2)
        said = await heard(here, 2)
        assert await heard(there, 2) == said
        async with listening(other, f"?after={said[0]['cursor']}") as again:
            assert await heard(again) == said[1:]

    assert [one["key"] for one in said] == ["a", "b"]


async def test_a_late_commit_is_not_skipped(api: Api, database: str) -> None:
    """A change with an earlier number that becomes true later comes when it does, and what is behind it waits."""
    late = await asyncpg.connect(database)
    insert = """
        insert into memory_changes (bucket, namespace, scope, scope_id, key, action, at)
        values (0, 1, 'global', 'global', 'late', 'delete', clock())
    """
    async with listening(api) as connection:
        transaction = late.transaction()
        await transaction.start()
        await late.execute(insert)
        await set_(api, "early")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await connection.recv()
        await transaction.commit()
        said = await heard(connection, 2)
    await late.close()

    assert [one["key"] for one in said] == ["late", "early"]


async def test_who_is_too_slow_is_sent_away_and_misses_nothing(api: Api) -> None:
    """Closed with 1013; it comes back with its last cursor."""
    changes = BUFFER_MAX * 2
    body = json.dumps({"key": "k", "data": "x" * 16_000, "scope": "global"}).encode()
    url = f"ws://{api.host}:{api.port}/api/v1/memory/events/ws"

    async def write() -> None:
        one = Ask("POST", "/api/v1/memory/set", body, [])
        async for _, reply in ask_all(api.host, api.port, [one] * changes, deadline_seconds=DEADLINE_SECONDS):
            assert reply.status == 200

    async with websockets.connect(url, proxy=None, max_queue=1, compression=None) as slow:
        writing = asyncio.create_task(write())
        await until(lambda: _overflown(api))
        # At once, while others go on writing: who does not read for ten seconds more is cut off without a word.
        said = [json.loads(message) async for message in _until_closed(slow)]
        await writing
    async with listening(api, f"?after={said[-1]['cursor']}") as connection:
        rest = await heard(connection, changes - len(said))

    assert slow.close_code == 1013
    assert 0 < len(said) < changes
    assert len({one["id"] for one in said + rest}) == changes


async def _until_closed(connection: websockets.ClientConnection) -> AsyncIterator[websockets.Data]:
    with contextlib.suppress(websockets.ConnectionClosedError):
        async for message in connection:
            yield message


async def _overflown(api: Api) -> bool:
    return any(one.overflown.is_set() for one in api.app.state.doors.changes._listeners)


async def test_who_hangs_up_is_forgotten(api: Api) -> None:
    """At once: nothing has to change for it to be noticed."""
    async with listening(api):
        assert len(api.app.state.doors.changes._listeners) == 1

    assert await until(lambda: _nobody_listens(api), seconds=HEARTBEAT_SECONDS / 2)


@pytest.mark.parametrize("path", ["/api/v1/memory/events/ws", "/api/ui/v1/executions/ws"])
async def test_who_goes_before_the_door_is_open_is_no_error(api: Api, path: str) -> None:
    """Gone in the middle of the handshake; nothing is logged, nobody listens."""
    hello = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    hello += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    for _ in range(20):
        _, writer = await asyncio.open_connection(api.host, api.port)
        writer.write(hello.encode())
        await writer.drain()
        writer.transport.abort()

    async with listening(api):
        pass
    assert await until(lambda: _nobody_listens(api), seconds=HEARTBEAT_SECONDS / 2)


async def _nobody_listens(api: Api) -> bool:
    return not api.app.state.doors.changes._listeners


async def test_what_a_listener_says_changes_nothing(api: Api) -> None:
    """It is for listening; whatever comes in is left alone."""
    async with listening(api) as connection:
        for message in ("x", b"\x00\xff", "", '{"type":"subscribe"}'):
            await connection.send(message)
        await set_(api, "k", 1)

        assert (await heard(connection))[0]["key"] == "k"


async def test_streams_end_when_the_server_stops(database: str) -> None:
    """With a close of the WebSocket's own, so that a client comes back at once; SSE just ends."""
    async with contextlib.AsyncExitStack() as stack:
        api = await stack.enter_async_context(serving(database))
        connection = await stack.enter_async_context(listening(api))
        stream = await stack.enter_async_context(streaming(api))
        api.app.state.doors.changes.release()

        assert await stream.rest() == []
        with pytest.raises(websockets.ConnectionClosedOK) as closed:
            await heard(connection)

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001


async def test_a_server_that_stops_says_so(database: str) -> None:
    """SIGTERM with a listener: it is told by a frame of its protocol, not by a broken connection."""
    async with serving(database) as api:
        connection = await websockets.connect(f"ws://{api.host}:{api.port}/api/v1/memory/events/ws", proxy=None)

    with pytest.raises(websockets.ConnectionClosed) as closed:
        await heard(connection)

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code in (1001, 1012)
