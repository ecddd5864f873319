"""Figures of the overview: how much stands where, and what went wrong lately. Bounded looks, however much there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from controlplane.domain.execution import STATUS_OF_STATE, State, Status
from controlplane.domain.ids import within
from controlplane.postgres.pool import Connection
from controlplane.reads.windows import AFTER_ALL, BEFORE_ALL

LOOK_MAX = 2_000
"""Rows of one bucket, and of one status of what has ended, that are looked at; what failed the newest first by when it
was accepted. Where more is unfinished it is said what the last census found."""
BEFORE = timedelta(days=7)
"""How long before the moment asked about something may have been accepted that is counted when it ends."""
UNHAPPY_STATUSES = [Status.FAILED.value, Status.TIMEOUT.value]

STANDING = """
select state, count(*) filter (where namespace = $2) as count, count(*) as looked
from (
  select state, namespace
  from queue
  where bucket = $1
  limit $3
) q
group by state
"""

COUNTED = """
select substr(name, length('standing.') + 1) as state, count
from census
where bucket = $1
  and namespace = $2
  and starts_with(name, 'standing.')
"""

# As in `lately.py` status and id are compared as one, and the id alone beside it.
UNHAPPY = """
select count(*) filter (where o.finished_at >= $4) as count
from unnest($3::text[]) as wanted(status)
cross join lateral (
  select o.finished_at
  from outcomes o
  where o.bucket = $1
    and o.namespace = $2
    and (o.status, o.id) > (wanted.status, $5)
    and (o.status, o.id) < (wanted.status, $6)
    and o.id > $5
  order by o.status desc, o.id desc
  limit $7
) as o
group by wanted.status
"""

DEAD = """
select count(*) filter (where namespace = $2 and webhook_n is distinct from 0) as count, count(*) as looked
from (
  select namespace, webhook_n
  from deliveries
  where bucket = $1
    and state = 'dead'
    and settled_at >= $3
  order by settled_at desc
  limit $4
) d
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number. `sign`: "" exactly so many now, "+" at least so many, "≈" so many a moment ago."""

    count: int
    sign: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """`stands`: unfinished executions. `unhappy`: what failed or ran out of time lately, `dead`: webhooks given up."""

    stands: Mapping[Status, Figure]
    unhappy: Figure
    dead: Figure


async def read(conn: Connection, *, namespace: int, since: datetime, buckets: Collection[int]) -> Figures:
    """The figures of a namespace; "lately" is since then."""
    return Figures(
        stands=await _stands(conn, namespace, buckets),
        unhappy=await _unhappy(conn, namespace, since, buckets),
        dead=await _dead(conn, namespace, since, buckets),
    )


async def _stands(conn: Connection, namespace: int, buckets: Collection[int]) -> dict[Status, Figure]:
    """Now, or where very much is unfinished as it was at the last census."""
    found: Counter[Status] = Counter()
    sign = ""
    for bucket in buckets:
        rows = await conn.fetch(STANDING, bucket, namespace, LOOK_MAX)
        if sum(row["looked"] for row in rows) >= LOOK_MAX:
            rows, sign = await conn.fetch(COUNTED, bucket, namespace), "≈"
        for row in rows:
            found[STATUS_OF_STATE[State(row["state"])]] += row["count"]
    return {status: Figure(count=found[status], sign=sign) for status in set(STATUS_OF_STATE.values())}


async def _unhappy(conn: Connection, namespace: int, since: datetime, buckets: Collection[int]) -> Figure:
    """Of the newest that were accepted: one is not seen that ran for long while very many others failed."""
    low, _ = within(since - BEFORE)
    asked = (namespace, UNHAPPY_STATUSES, since, low or BEFORE_ALL, AFTER_ALL, LOOK_MAX)
    counts = [row["count"] for bucket in buckets for row in await conn.fetch(UNHAPPY, bucket, *asked)]
    return Figure(count=sum(counts), sign="+" if LOOK_MAX in counts else "")


async def _dead(conn: Connection, namespace: int, since: datetime, buckets: Collection[int]) -> Figure:
    rows = [row for bucket in buckets for row in await conn.fetch(DEAD, bucket, namespace, since, LOOK_MAX)]
    more = any(row["looked"] >= LOOK_MAX for row in rows)
    return Figure(count=sum(row["count"] for row in rows), sign="+" if more else "")
