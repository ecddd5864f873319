"""Lists of executions: bounded, however many there are and however few of them match."""

from __future__ import annotations

from uuid import UUID

import pytest

from controlplane.domain.execution import Status
from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Connection
from controlplane.reads import executions
from controlplane.reads.executions import LOOKED_MAX, Filter
from tests.integration import plan_rows
from tests.make import NAMESPACE, STOCK, accept, make_execution, submission


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
