"""An execution with much in it: 20,000 events, 20,000 log lines, 1,000 children. Its pages are as large as any."""

from __future__ import annotations

import pytest

from controlplane.domain.ids import bucket_of, read_execution
from controlplane.postgres.pool import Connection
from controlplane.reads import events, explain, logs
from controlplane.ui.execution import EVENTS_PAGE, LOGS_PAGE, SEQ_MAX, TIMELINE_ROWS_MAX
from tests.integration.api.serving import Api, fence, fenced
from tests.integration.test_plans import case, looked_at, plan, walk

HTML = {"Accept": "text/html", "Accept-Encoding": "gzip"}
MANY = 20_000
CHILDREN = 1_000
PAGE_BYTES_MAX = 700_000
"""A page of 1,000 children has so many, one of 500 lines 150,000; packed, a tenth."""
LOOKED_MAX = 2_500

MORE_EVENTS = """
insert into events (bucket, execution_id, namespace, run_id, target, type, attempt, at, data)
select $1, $2, 1, 'a-run', 'n.echo', 'note.added', 1, clock(), '{"message": "one of many", "tags": []}'
from generate_series(1, $3::int)
"""

MORE_LINES = """
insert into logs (bucket, execution_id, namespace, attempt, at, level, message)
select $1, $2, 1, 1, clock(), 'info', 'line ' || n
from generate_series(1, $3::int) as n
"""


@pytest.fixture
async def large(api: Api, conn: Connection) -> str:
    """One that runs, and its children, which wait."""
    session = await api.node()
    id_ = str((await api.submit(headers={"X-Run-ID": "a-run"}))["execution_id"])
    lease = await api.take(session)
    items = [{"target": "n.echo", "input": {}} for _ in range(CHILDREN)]
    made = await api.post("/execute/batch", {"items": items}, headers={"X-Parent-Execution-ID": fenced(lease)})
    assert made.is_success, made.text
    parts = (bucket_of(read_execution(id_)), read_execution(id_), MANY)
    await conn.execute(MORE_EVENTS, *parts)
    await conn.execute(MORE_LINES, *parts)
    await conn.execute("analyze")
    return id_


@pytest.mark.timeout(300)
async def test_every_tab_is_bounded(api: Api, large: str) -> None:
    """However much there is; what is left out is a link away."""
    text: dict[str, str] = {}
    for tab in ("timeline", "logs", "children", "events", "steps", "attempts"):
        answer = await api.client.get(f"/executions/{large}?tab={tab}", headers=HTML)
        assert answer.status_code == 200
        assert len(answer.content) < PAGE_BYTES_MAX, tab
        text[tab] = answer.text

    assert text["logs"].count('class="line ') == LOGS_PAGE
    assert f"line {MANY}<" in text["logs"]
    assert "Earlier lines" in text["logs"]
    assert text["events"].count('id="event-') == EVENTS_PAGE
    assert text["children"].count('<tr id="exec_') == CHILDREN - 1  # the first thousand of the run, with its root
    assert text["timeline"].count('<rect class="rail"') <= TIMELINE_ROWS_MAX


async def test_every_read_is_bounded(api: Api, conn: Connection, large: str) -> None:
    """A page of events or lines, from either end, is found without a look at the others."""
    parts = (bucket_of(read_execution(large)), read_execution(large))
    asked = {
        "events.TRACE": case(events.TRACE, *parts, 1, 0, EVENTS_PAGE + 1),
        "events.TRACE_BEFORE": case(events.TRACE_BEFORE, *parts, 1, SEQ_MAX, EVENTS_PAGE + 1),
        "logs.LIST": case(logs.LIST, *parts, 1, 0, None, LOGS_PAGE + 1),
        "logs.LIST_BEFORE": case(logs.LIST_BEFORE, *parts, 1, SEQ_MAX, None, LOGS_PAGE + 1),
        "explain.LAST_LINE": case(explain.LAST_LINE, *parts, 1),
    }
    found = {
        name: max(looked_at(node) for node in walk(await plan(conn, one, run=True))) for name, one in asked.items()
    }

    assert {name: rows for name, rows in found.items() if rows > LOOKED_MAX} == {}


@pytest.mark.parametrize("what", ["logs", "events"])
async def test_backwards_nothing_is_left_out(api: Api, what: str) -> None:
    """From the newest page by page to the first, each once."""
    session = await api.node()
    id_ = (await api.submit())["execution_id"]
    lease = await api.take(session)
    await api.post(f"/sessions/{session}/logs", {"entries": [fence(lease) | {"message": f"{n}"} for n in range(7)]})
    path = f"/executions/{id_}/{what}"
    found: list[int] = []
    before: str | None = str(SEQ_MAX)
    while before:
        page = await api.get(path, before=before, limit=2)
        found = [one["id"] for one in page["items"]] + found
        before = page["previous_cursor"]

    assert found == [one["id"] for one in (await api.get(path))["items"]]
    assert (await api.client.get(f"/api/v1{path}?before=-1")).status_code == 422
