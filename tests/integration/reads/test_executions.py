"""Lists of executions: bounded, however many there are and however few of them match."""

from __future__ import annotations

from uuid import UUID

import pytest

from controlplane.domain.execution import Status
from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Connection
from controlplane.reads import executions
from controlplane.reads.executions import HELD_MAX, Filter
from controlplane.reads.windows import LOOKED_MAX, WINDOW_MAX
from controlplane.stages import deliver
from tests.integration import plan_rows
from tests.integration.stages.test_deliver import sent, walk
from tests.make import NAMESPACE, STOCK, accept, make_execution, submission, webhook

BACKLOG = """
insert into queue (
  bucket, id, namespace, target, run_id, state, priority, available_at, attempt, retries_max, webhooks, session_id,
  leased_at
)
select 0, made_id('e', n), 1, 'n.other', 'r', $2, 0, clock(), $3, 0, 1, case when $3 > 0 then made_id('s', n) end,
  case when $3 > 0 then clock() end
from generate_series(1, $1::int) as n
"""


async def pages(conn: Connection, limit: int, placement: Placement = STOCK, **wanted: object) -> list[list[UUID]]:
    """Every page of a list, as a caller goes through them."""
    found: list[list[UUID]] = []
    before: UUID | None = None
    while True:
        page = await executions.search(
            conn,
            Filter(before=before, **wanted),  # type: ignore[arg-type]
            namespace=NAMESPACE,
            limit=limit,
            placement=placement,
        )
        found.append([view.id for view in page.views])
        if len(page.views) < limit and page.reached is None:
            return found
        before = page.reached if len(page.views) < limit else page.views[-1].id


async def test_one_among_many_is_found_and_no_page_looks_at_all(conn: Connection) -> None:
    """A page that came to the end of its patience says how far it came, and the next goes on there."""
    old = await make_execution(conn, session_key="s", id=UUID("01800000-0000-7000-8000-000000000000"))
    await plan_rows.prepare(conn)
    await conn.execute(plan_rows.EXECUTIONS, 1, LOOKED_MAX // 2 + 5_000)  # two for each number

    found = await pages(conn, 10, session_key="s")

    assert found == [[], [old.id]]


@pytest.mark.parametrize("statuses", [(), (Status.QUEUED, Status.SUCCEEDED, Status.FAILED)])
async def test_pages_of_several_buckets_and_statuses_leave_nothing_out(
    conn: Connection, statuses: tuple[Status, ...]
) -> None:
    """Newest first, each once."""
    made = [
        (await make_execution(conn, status, bucket=n % 3)).id
        for n, status in enumerate(["queued", "succeeded", "failed"] * 4)
    ]

    found = await pages(conn, 5, Placement(buckets=3, hashed=3), statuses=statuses)

    assert [id_ for page in found for id_ in page] == made[::-1]


async def test_what_is_looked_for_may_lie_behind_much_else(conn: Connection) -> None:
    """Windows grow until the page is full."""
    wanted = await accept(conn, *[submission(target="m.echo") for _ in range(3)])
    for _ in range(3):
        await accept(conn, *[submission() for _ in range(500)])

    [found] = await pages(conn, 10, target="m.echo")

    assert found == [one.id for one in wanted][::-1]


async def test_what_runs_is_found_behind_all_that_waits(conn: Connection) -> None:
    """On the first page, by who holds it; what waits there is found where the walk comes to it."""
    old = await make_execution(conn, "running", id=UUID("01800000-0000-7000-8000-000000000000"))
    await plan_rows.prepare(conn)
    await conn.execute(BACKLOG, LOOKED_MAX + WINDOW_MAX, "ready", 0)

    assert await pages(conn, 10, statuses=(Status.RUNNING,)) == [[old.id]]
    assert await pages(conn, 10, statuses=(Status.RUNNING, Status.QUEUED), target=old.submission.target) == [
        [],
        [old.id],
    ]


async def test_so_much_runs_that_it_is_found_on_the_way(conn: Connection) -> None:
    """Of more than is looked at by who holds it, the newest come first all the same."""
    old = await make_execution(conn, "running", id=UUID("01800000-0000-7000-8000-000000000000"))
    new = await make_execution(conn, "running", id=UUID("01ffffff-0000-7000-8000-000000000000"))
    await plan_rows.prepare(conn)
    await conn.execute(BACKLOG, HELD_MAX, "leased", 1)

    assert await pages(conn, 10, statuses=(Status.RUNNING,), target=old.submission.target) == [[new.id, old.id]]


async def test_an_end_says_whether_anybody_was_told(conn: Connection) -> None:
    """Who reads it looks for attempts only where there are some."""
    told = await make_execution(conn, "succeeded", webhooks=(webhook(),))
    [due] = (await walk(conn)).due
    await deliver.settle(conn, [sent(due)])
    untold = await make_execution(conn, "succeeded", webhooks=(webhook(),))
    unasked = await make_execution(conn, "succeeded")
    unfinished = await make_execution(conn, "running", webhooks=(webhook(),))

    views = await executions.read(conn, [told.id, untold.id, unasked.id, unfinished.id], namespace=NAMESPACE)

    assert [id_ for id_, view in views.items() if view.told] == [told.id]
