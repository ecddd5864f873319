"""The steps of an execution: what it has done, and what it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from controlplane.domain.placement import span
from controlplane.domain.step import Step, StepKind, StepStatus
from controlplane.postgres.pool import Connection

PAGE_BYTES_MAX = 8 * 1024 * 1024
"""Values together that one page holds; the first of it may be larger."""

PAGE = """
select execution_id, name, kind, status, value, attempt, due_at, due_in_seconds, timed_out, event, request_id, child_id,
  created_at, done_at
from (
  select s.execution_id, s.name, s.kind, s.status, s.value, s.attempt, s.due_at,
    case when s.status = 'pending' and s.due_at is not null then greatest(0, extract(epoch from s.due_at - clock()))
    end::float8 as due_in_seconds,
    s.timed_out, s.event, s.request_id, s.child_id, s.created_at, s.done_at,
    row_number() over (order by s.name) as n,
    sum(octet_length(s.value)) over (order by s.name) as bytes
  from (
    select execution_id, name, kind, status, value, attempt, due_at, timed_out, event, request_id, child_id, created_at,
      done_at
    from steps
    where bucket = $1
      and execution_id = $2
      and namespace = $3
      and name > $4
    order by name
    limit $5
  ) s
) p
where n = 1 or bytes is null or bytes <= $6
order by name
"""

# `octet_length` knows the size without reading the value.
MEASURE_RESULTS = """
select id, coalesce(octet_length(result), 0) + coalesce(octet_length(error), 0) as bytes
from outcomes
where bucket = $1
  and id = any($2::uuid[])
  and id between $3 and $4
"""

READ_RESULTS = """
select id, status, result, error, error_class
from outcomes
where bucket = $1
  and id = any($2::uuid[])
  and id between $3 and $4
"""


async def page(
    conn: Connection, bucket: int, execution_id: UUID, *, namespace: int, after: str, limit: int
) -> tuple[list[Step], bool]:
    """The steps after this name, in the order of their names, and whether there may be more; a call has its result."""
    rows = await conn.fetch(PAGE, bucket, execution_id, namespace, after, limit, PAGE_BYTES_MAX)
    found = [Step.from_row(row) for row in rows]
    told = await with_results(conn, bucket, found)
    if not told:
        return told, False  # whatever is written while we look
    return told, bool(await conn.fetch(PAGE, bucket, execution_id, namespace, told[-1].name, 1, PAGE_BYTES_MAX))


async def with_results(conn: Connection, bucket: int, steps: Sequence[Step]) -> list[Step]:
    """These with the results of the calls among them: all, or as many of the first as fit into a page."""
    calls = [step for step in steps if step.kind is StepKind.CALL and step.status is not StepStatus.PENDING]
    ended = [step.child_id for step in calls if step.child_id is not None]
    if not ended:
        return list(steps)
    bytes_of = {row["id"]: row["bytes"] for row in await conn.fetch(MEASURE_RESULTS, bucket, ended, *span(ended))}
    room, kept = PAGE_BYTES_MAX, 0
    for step in steps:
        room -= bytes_of.get(step.child_id, len(step.value or b""))
        if room < 0 and kept:
            break
        kept += 1
    wanted = [step.child_id for step in steps[:kept] if step.child_id is not None and step.child_id in bytes_of]
    outcomes = {row["id"]: row for row in await conn.fetch(READ_RESULTS, bucket, wanted, *span(wanted))}
    return [
        replace(
            step,
            value=row["result"],
            error=row["error"],
            error_class=row["error_class"],
            child_status=row["status"],
        )
        if (row := outcomes.get(step.child_id))
        else step
        for step in steps[:kept]
    ]
