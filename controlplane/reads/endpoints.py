"""Endpoints as they stand."""

from __future__ import annotations

from collections.abc import Iterable

from controlplane.domain.endpoint import CONTROLPLANE, Endpoint, EndpointId
from controlplane.postgres.pool import Connection

READ = """
select id, namespace, name, description, url, host, events, targets, schedule, secret_sealed, previous_sealed,
  previous_until, headers_sealed, state, disabled_at, disabled_by, disabled_reason, dead_streak, failing_since,
  created_at, updated_at, clock() as now
from endpoints
where bucket = $1
  and namespace = $2
  and (id = $3 or name = $4)
"""

PAGE = """
select id, namespace, name, description, url, host, events, targets, schedule, secret_sealed, previous_sealed,
  previous_until, headers_sealed, state, disabled_at, disabled_by, disabled_reason, dead_streak, failing_since,
  created_at, updated_at, clock() as now
from endpoints
where bucket = $1
  and namespace = $2
  and name > $3
  and ($4::text is null or state = $4)
order by name
limit $5
"""

COUNT_GIVEN_UP = """
select count(*)
from endpoints
where bucket = $1
  and state = 'disabled'
  and disabled_by = $2
"""


async def read(
    conn: Connection, bucket: int, *, namespace: int, id_: EndpointId | None, name: str | None
) -> Endpoint | None:
    row = await conn.fetchrow(READ, bucket, namespace, id_, name)
    return None if row is None else Endpoint.from_row(row)


async def page(
    conn: Connection, bucket: int, *, namespace: int, after: str, state: str | None, limit: int
) -> list[Endpoint]:
    """The next endpoints by name."""
    return [Endpoint.from_row(row) for row in await conn.fetch(PAGE, bucket, namespace, after, state, limit)]


async def count_given_up(conn: Connection, buckets: Iterable[int]) -> int:
    """How many were disabled because their receivers fail, in all namespaces."""
    counts: list[int] = [await conn.fetchval(COUNT_GIVEN_UP, bucket, CONTROLPLANE) for bucket in buckets]
    return sum(counts)
