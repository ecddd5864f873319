"""Lists of executions: bounded, however many there are and however few of them match."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from controlplane.domain.begun import PAYLOAD_MAX, Begun
from controlplane.domain.execution import ParentEnd, Status
from controlplane.domain.placement import Placement
from controlplane.domain.retry import RetryPolicy
from controlplane.postgres.pool import Connection
from controlplane.reads import executions
from controlplane.reads.executions import HELD_MAX, Filter, view_of
from controlplane.reads.windows import LOOKED_MAX, WINDOW_MAX
from controlplane.stages import complete, deliver
from tests.integration import plan_rows
from tests.integration.stages.test_deliver import sent, walk
from tests.make import (
    NAMESPACE,
    STOCK,
    a_report,
    accept,
    begin,
    make_execution,
    make_id,
    must,
    new_execution_id,
    no_jitter,
    submission,
    webhook,
)

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


RICH = {
    "type": "skill",
    "context": b"{}",
    "root_id": new_execution_id(),
    "session_key": "s",
    "actor_key": "a",
    "priority": 7,
    "retry": RetryPolicy(retries_max=3, delay_seconds=0.1, jitter=0.3, fatal_errors=("A",), retry_errors=("B", "C*")),
    "timeout_seconds": 1.5,
    "schedule_to_start_seconds": 2.5,
    "total_seconds": 3.5,
    "heartbeat_seconds": 4.5,
    "on_parent_end": ParentEnd.CANCEL,
    "concurrency_key": "c",
    "fairness_key": "f",
    "webhooks": (webhook(), webhook()),
}
ASKED = """
insert into approvals (bucket, execution_id, request_id, namespace, attempt, node_id, status, requested_at, decided_at)
values ($1, $2, 'r', 1, 1, 'n', 'approved', clock(), clock())
"""


@pytest.mark.parametrize("over", [{}, RICH, {"on_parent_end": ParentEnd.KEEP}], ids=["plain", "rich", "keep"])
@pytest.mark.parametrize("asked", [False, True], ids=["unasked", "asked"])
async def test_what_is_told_of_an_end_is_what_a_look_finds(
    conn: Connection, over: dict[str, object], asked: bool
) -> None:
    """Whoever waited for it is answered without one."""
    begun = Begun()
    made = await begin(conn, begun, **over)
    if asked:
        await conn.execute(ASKED, 0, made.id)

    [answer] = await complete.report(conn, [a_report(made.fence)], make_id=make_id, jitter=no_jitter, begun=begun)
    found = (await executions.read(conn, [made.id], namespace=NAMESPACE))[made.id]

    end = must(answer).end
    assert end is not None
    assert view_of(end) == replace(found, now=end.at)
    assert found.asked is asked


@pytest.mark.parametrize("fits", [True, False])
async def test_what_was_asked_is_told_only_where_it_is_small(conn: Connection, fits: bool) -> None:
    """A large input is not kept in memory."""
    begun = Begun()
    context = b'"%b"' % (b"x" * (PAYLOAD_MAX - 10 - 2 + (not fits)))
    made = await begin(conn, begun, input=b"1234567890", context=context)

    [answer] = await complete.report(conn, [a_report(made.fence)], make_id=make_id, jitter=no_jitter, begun=begun)

    assert (must(answer).end is not None) is fits


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
