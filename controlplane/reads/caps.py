"""Caps: what was said of single namespaces, and what the last census and a count of now have to say."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from uuid import UUID

from controlplane.domain.cap import Cap
from controlplane.postgres.pool import Connection

NAMESPACES_BUCKET = 0

SAID = """
select namespace, name, most
from caps
where bucket = $1
"""

# Of one kind, of every namespace; 0 stands for all of them.
COUNTED = """
select namespace, count
from census
where bucket = $1
  and name = $2
  and namespace > 0
"""

# Before 17 PostgreSQL subtracts no infinite instants.
AGE = """
select case when isfinite(counted_at) then extract(epoch from clock() - counted_at)::float8 else 'infinity' end
from census
where bucket = $1
  and namespace = 0
  and name = $2
"""

TOTALS = """
select name, count
from census
where bucket = $1
  and namespace = 0
"""

# No index holds them by namespace, which would cost every step of every execution a write. It ends at the cap. Those
# that are on their way are left out, whether they are there yet or not: whoever asks counts them itself.
UNFINISHED = """
select (
  select count(*)
  from (
    select 1
    from queue
    where bucket = $1
      and namespace = $2
    limit $3
  ) q
) - (
  select count(*)
  from queue
  where bucket = $1
    and namespace = $2
    and id = any($4::uuid[])
)
"""

SCHEDULES = """
select count(*)
from schedules
where bucket = $1
  and namespace = $2
"""

TRIGGERS = """
select count(*)
from triggers
where bucket = $1
  and namespace = $2
"""

KEYS = """
select count(*)
from api_keys
where bucket = $1
  and namespace = $2
  and revoked_at is null
  and (expires_at is null or expires_at > clock())
"""

NODES = """
select count(*)
from nodes
where bucket = $1
  and namespace = $2
"""

VIOLATIONS = """
select coalesce(sum(count), 0)::bigint
from census
where bucket = $1
  and namespace = 0
  and starts_with(name, 'invariants.')
"""

OF_NAMESPACE = """
select name, count
from census
where bucket = $1
  and namespace = $2
"""

EXACT = {Cap.SCHEDULES: SCHEDULES, Cap.TRIGGERS: TRIGGERS, Cap.KEYS: KEYS, Cap.NODES: NODES}


async def said(conn: Connection) -> dict[int, dict[Cap, int | None]]:
    """What was said of each namespace; what a newer version knows and we do not is left out."""
    found: dict[int, dict[Cap, int | None]] = {}
    for row in await conn.fetch(SAID, NAMESPACES_BUCKET):
        if row["name"] in set(Cap):
            found.setdefault(row["namespace"], {})[Cap(row["name"])] = row["most"]
    return found


async def counted(conn: Connection, cap: Cap, *, buckets: Collection[int]) -> tuple[float, dict[int, int]]:
    """How many every namespace had, and how many seconds ago at most: without end where nobody has counted yet."""
    age = await age_seconds(conn, cap, buckets=buckets)  # first: what is counted in between is younger, never older
    found: dict[int, int] = {}
    for bucket in buckets:
        for row in await conn.fetch(COUNTED, bucket, cap.value):
            found[row["namespace"]] = found.get(row["namespace"], 0) + row["count"]
    return age, found


async def age_seconds(conn: Connection, cap: Cap, *, buckets: Iterable[int]) -> float:
    """How many seconds ago it was counted how many there are: without end where nobody has counted yet."""
    ages = [await conn.fetchval(AGE, bucket, cap.value) for bucket in buckets]
    return max((math.inf if age is None else age for age in ages), default=0.0)


async def unfinished(
    conn: Connection, *, namespace: int, buckets: Iterable[int], limit: int, but: Sequence[UUID]
) -> int:
    """How many unfinished executions a namespace has now, but for these; of more than `limit` so many."""
    count = 0
    for bucket in buckets:
        count += await conn.fetchval(UNFINISHED, bucket, namespace, limit - count, but)
    return count


async def present(conn: Connection, *, namespace: int, buckets: Iterable[int]) -> dict[Cap, int]:
    """How much of everything a namespace has: now, or for what is many, when it was last counted."""
    found: dict[Cap, int] = {}
    for bucket in buckets:
        for row in await conn.fetch(OF_NAMESPACE, bucket, namespace):
            if row["name"] in set(Cap):
                found[Cap(row["name"])] = found.get(Cap(row["name"]), 0) + row["count"]
        for cap, statement in EXACT.items():
            found[cap] = found.get(cap, 0) + await conn.fetchval(statement, bucket, namespace)
    return found


async def totals(conn: Connection, *, buckets: Iterable[int]) -> Mapping[str, int]:
    """What there is of all namespaces together, by the words of the census; of ages the greatest."""
    found: dict[str, int] = {}
    for bucket in buckets:
        for row in await conn.fetch(TOTALS, bucket):
            name, count = row["name"], row["count"]
            before = found.get(name, 0)
            found[name] = max(before, count) if name.endswith("_seconds") else before + count
    return found


async def violations(conn: Connection, *, buckets: Iterable[int]) -> int:
    """How many things broke an invariant when it was last looked, of those that were named."""
    return sum([await conn.fetchval(VIOLATIONS, bucket) for bucket in buckets])
