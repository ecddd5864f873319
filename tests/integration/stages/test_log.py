"""Log: a live attempt's lines, notes and progress are kept; a stale one's change nothing."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from controlplane.domain.lease import Fence
from controlplane.errors import LeaseLost
from controlplane.postgres.pool import Connection
from controlplane.stages import log
from controlplane.stages.log import Line, Note, Progress
from tests.make import all_rows, counts, make_execution, only_row, outcome_row, queue_row, race, report


async def test_keeps_lines_in_order(conn: Connection) -> None:
    """Lines stand in the order in which they were said."""
    made = await make_execution(conn, "running")
    said = [Line(fence=made.fence, level="info", message=f"line {n}") for n in range(20)]

    answers = await log.append(conn, said)
    rows = await conn.fetch("select message, attempt from logs order by seq")

    assert answers == [None] * 20
    assert [row["message"] for row in rows] == [f"line {n}" for n in range(20)]
    assert {row["attempt"] for row in rows} == {1}


async def test_keeps_what_a_line_carries(conn: Connection) -> None:
    """The node's time, its attributes byte for byte, type and source."""
    made = await make_execution(conn, "running")
    at = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    line = Line(
        fence=made.fence, level="error", message="m", at=at, event_type="t", source="s", attributes=b'{ "a":1 }'
    )

    await log.append(conn, [line])
    row = await only_row(conn, "select at, level, event_type, source, attributes from logs")

    assert tuple(row) == (at, "error", "t", "s", b'{ "a":1 }')


async def test_the_newest_progress_stands(conn: Connection) -> None:
    """Of several in one batch the last is the state, and one event tells of it."""
    made = await make_execution(conn, "running")

    await log.append(conn, [Progress(fence=made.fence, progress=b'{"done":%d}' % n) for n in range(3)])
    events = await conn.fetch("select data from events where type = 'execution.progress'")

    assert (await queue_row(conn, made.id))["progress"] == b'{"done":2}'
    assert [row["data"] for row in events] == [b'{"done":2}']


async def test_progress_outlives_the_end(conn: Connection) -> None:
    """The last progress is kept with the outcome."""
    made = await make_execution(conn, "running")
    await log.append(conn, [Progress(fence=made.fence, progress=b'{"done":9}')])

    await report(conn, made.fence)

    assert (await outcome_row(conn, made.id))["progress"] == b'{"done":9}'


async def test_notes_are_events(conn: Connection) -> None:
    """A note stands among the events of its execution."""
    made = await make_execution(conn, "running")

    await log.append(conn, [Note(fence=made.fence, data=b'{"message":"hi"}')])

    assert await conn.fetchval("select data from events where type = 'note.added'") == b'{"message":"hi"}'


@pytest.mark.parametrize("kind", ["line", "progress", "note"])
async def test_a_stale_attempt_says_nothing(conn: Connection, kind: str) -> None:
    """A stale entry is refused and changes nothing; its live neighbours are kept."""
    made = await make_execution(conn, "running", attempt=2)
    before = await counts(conn, "events")
    fence = Fence(made.id, 1)
    said: dict[str, log.Entry] = {
        "line": Line(fence=fence, level="info", message="m"),
        "progress": Progress(fence=fence, progress=b"{}"),
        "note": Note(fence=fence, data=b"{}"),
    }

    stale, live = await log.append(conn, [said[kind], Line(fence=made.fence, level="info", message="live")])

    assert (type(stale), live) == (LeaseLost, None)
    assert await all_rows(conn, "select message from logs") == [("live",)]
    assert (await queue_row(conn, made.id))["progress"] is None
    assert await counts(conn, "events") == before


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
async def test_the_last_words_may_come_after_the_end(conn: Connection, status: str) -> None:
    """Lines and notes of the attempt that ended an execution are kept when they come a moment later; its end stays."""
    made = await make_execution(conn, status)
    said = [
        Line(fence=made.fence, level="info", message="late"),
        Note(fence=made.fence, data=b'{"message":"late"}'),
        Progress(fence=made.fence, progress=b'{"fraction":1.0}'),
    ]

    answers = await log.append(conn, said)

    assert answers == [None] * 3
    assert await all_rows(conn, "select message, attempt from logs") == [("late", made.fence.attempt)]
    assert await conn.fetchval("select data from events where type = 'note.added'") == b'{"message":"late"}'
    assert (await outcome_row(conn, made.id))["progress"] is None


@pytest.mark.parametrize("kind", ["an attempt before", "too late"])
async def test_who_did_not_end_it_just_now_says_nothing_more(conn: Connection, kind: str) -> None:
    """An earlier attempt, and one whose execution ended long ago, are refused."""
    made = await make_execution(conn, "succeeded", attempt=2)
    late = kind == "too late"
    if late:
        await conn.execute("update outcomes set finished_at = finished_at - interval '1 hour'")
    fence = Fence(made.id, 2 if late else 1)

    answers = await log.append(
        conn, [Line(fence=fence, level="info", message="m"), Progress(fence=fence, progress=b"{}")]
    )

    assert [type(answer) for answer in answers] == [LeaseLost, LeaseLost]
    assert await counts(conn, "logs") == {"logs": 0}
    assert (await outcome_row(conn, made.id))["progress"] is None


async def test_a_line_that_waits_for_the_end_is_kept(conn: Connection, other: Connection, observer: Connection) -> None:
    """A line and progress that met the end of their attempt are its last words."""
    made = await make_execution(conn, "running")
    line = Line(fence=made.fence, level="info", message="m")
    entries: list[log.Entry] = [Progress(fence=made.fence, progress=b"{}"), line]

    _, answers = await race(
        conn, other, observer, first=lambda c: report(c, made.fence), second=lambda c: log.append(c, entries)
    )

    assert answers == [None, None]
    assert await counts(conn, "logs") == {"logs": 1}


async def test_an_empty_batch_is_nothing(conn: Connection) -> None:
    """Nothing said, nothing done."""
    assert await log.append(conn, []) == []
