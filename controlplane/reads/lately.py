"""What has ended in the last 24 hours, by hour, target and status, and how long what succeeded had run.

Outcomes are found by when their execution was accepted, which is what their index holds: of each hour and status the
newest, and no more, so that the cost is the same with ten million rows as with ten thousand. They are counted where
they ended. Of what was accepted before the 24 hours the newest are looked at, too, a week back.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from controlplane.domain.execution import Status
from controlplane.domain.lately import ENDS, HOURS, Figures, Lately
from controlplane.postgres.pool import Connection

LOOK_MAX = 200
"""Outcomes of one hour and status that are looked at, in each bucket."""
BEFORE_HOURS = 144
"""How much longer ago something may have been accepted that is counted when it ends."""

# Hour 0 is the oldest; -1 stands for all before it. As in `reads/executions.py` status and id are compared as one, so
# that the index of the status is walked; the id alone is compared beside it, so that most partitions are left out.
# $7: where the hours begin, if another bucket was asked before.
READ = """
with hours as materialized (
  select h.n, t.begins_at,
    uuid_floor(t.begins_at + make_interval(hours => case when h.n < 0 then -$5::int else h.n end)) as low,
    uuid_floor(t.begins_at + make_interval(hours => h.n + 1)) as high
  from generate_series(-1, $4::int - 1) as h(n)
  cross join (
    select coalesce($7::timestamptz, date_trunc('hour', clock(), 'UTC') - make_interval(hours => $4 - 1)) as begins_at
  ) as t
),
looked as materialized (
  select h.n, h.begins_at, o.id, o.status, o.started_at, o.finished_at
  from hours h
  cross join unnest($3::text[]) as wanted(status)
  cross join lateral (
    select o.id, o.status, o.started_at, o.finished_at
    from outcomes o
    where o.bucket = $1
      and o.namespace = $2
      and (o.status, o.id) < (wanted.status, h.high)
      and (o.status, o.id) >= (wanted.status, h.low)
      and o.id < h.high
      and o.id >= h.low
    order by o.status desc, o.id desc
    limit $6
  ) as o
),
told as (
  select e.target, l.status, l.hour, l.run_milliseconds
  from (
    select l.id, l.status,
      least(floor(extract(epoch from l.finished_at - l.begins_at) / 3600), $4 - 1)::int as hour,
      extract(epoch from l.finished_at - l.started_at)::float8 * 1000 as run_milliseconds
    from looked l
    where l.finished_at >= l.begins_at
  ) as l
  cross join lateral (
    select e.target
    from executions e
    where e.bucket = $1
      and e.id = l.id
    limit 1
  ) as e
)
select first.begins_at, found.hour, found.target, found.status, found.count, found.run_milliseconds, found.more
from (select begins_at from hours limit 1) as first
left join (
  select hour, target, status, count(*) as count, false as more,
    array_agg(run_milliseconds) filter (where status = 'succeeded' and run_milliseconds >= 0) as run_milliseconds
  from told
  group by hour, target, status
  union all
  select n, '', status, count(*), true, null
  from looked
  where n >= 0
  group by n, status
  having count(*) = $6
) as found on true
"""


async def read(conn: Connection, *, namespace: int, buckets: Iterable[int], look_max: int = LOOK_MAX) -> Lately:
    """All that ended, or of hours with more the newest."""
    begins_at: datetime | None = None
    targets: dict[str, Figures] = {}
    run_milliseconds: dict[str, list[float]] = {}
    more: set[tuple[int, Status]] = set()
    statuses = [one.value for one in ENDS]
    for bucket in buckets:
        rows = await conn.fetch(READ, bucket, namespace, statuses, HOURS, BEFORE_HOURS, look_max, begins_at)
        begins_at = rows[0]["begins_at"]
        for row in rows:
            if row["hour"] is None:
                continue
            hour, target, status = row["hour"], row["target"], Status(row["status"])
            if row["more"]:
                more.add((hour, status))
                continue
            targets.setdefault(target, Figures()).hours[hour][status] += row["count"]
            run_milliseconds.setdefault(target, []).extend(row["run_milliseconds"] or ())
    for target, figures in targets.items():
        figures.run_milliseconds = sorted(run_milliseconds[target])
    assert begins_at is not None, "there is a bucket"
    return Lately(
        begins_at=[begins_at + timedelta(hours=n) for n in range(HOURS)],
        targets=targets,
        more=frozenset(more),
        looked_max=look_max,
    )
