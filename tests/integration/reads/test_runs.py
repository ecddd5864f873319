"""Lists of runs: bounded, however many executions there are and however few of them begin a run that matches."""

from __future__ import annotations

from uuid import UUID

from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Connection
from controlplane.reads import runs
from controlplane.reads.windows import LOOKED_MAX
from tests.integration import plan_rows
from tests.make import NAMESPACE, STOCK, make_execution

SAME_RUN = "update executions set run_id = 'nightly', root_id = id where bucket = 0 and namespace = 1"


async def pages(
    conn: Connection, limit: int, placement: Placement = STOCK, target: str | None = None
) -> list[list[UUID]]:
    """The first executions of all runs, page by page, as a caller goes through them."""
    found: list[list[UUID]] = []
    before: UUID | None = None
    while True:
        page = await runs.page(
            conn, namespace=NAMESPACE, target=target, before=before, limit=limit, placement=placement
        )
        found.append([view.root.id for view in page.views])
        if len(page.views) < limit and page.reached is None:
            return found
        before = page.reached if len(page.views) < limit else page.views[-1].root.id


async def test_a_run_of_many_roots_stands_there_once_and_no_page_looks_at_all(conn: Connection) -> None:
    """Somebody submits every night under the same name: its first execution is the last that is come to."""
    old = await make_execution(conn, id=UUID("01800000-0000-7000-8000-000000000000"))
    await plan_rows.prepare(conn)
    await conn.execute(plan_rows.EXECUTIONS, 1, LOOKED_MAX // 2 + 5_000)  # two for each number
    await conn.execute(SAME_RUN)

    assert await pages(conn, 10) == [[], [old.id]]
    assert await pages(conn, 10, target="n.nobody") == [[], []]


async def test_pages_of_several_buckets_leave_nothing_out(conn: Connection) -> None:
    """The newest first, each once."""
    made = [(await make_execution(conn, bucket=n % 3)).id for n in range(12)]

    found = await pages(conn, 5, Placement(buckets=3, hashed=3))

    assert [id_ for page in found for id_ in page] == made[::-1]
