"""Pauses and drains as they stand, and how much they hold back: counted by index, and only so far."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from controlplane.domain.pause import Pause
from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Connection

COUNT_MAX = 10_000
"""Executions that are counted in one bucket, and processes that are looked at; what is more is only said to be more."""

PAGE = """
select scope, node_id, name, reason, paused_by, paused_at
from pauses
where bucket = $1
  and namespace = $2
  and ($3::text is null or (node_id, name) > ($3, $4))
order by node_id, name
limit $5
"""

ABOUT = """
select scope, node_id, name, reason, paused_by, paused_at
from pauses
where bucket = $1
  and namespace = $2
  and node_id in ('', $3)
  and (name in ('', $3) or name = $4)
order by node_id, name
"""

# Of the few that have ready work somebody waits for: which of it is held back.
HELD_BACK = """
select w.namespace, w.target
from unnest($2::smallint[], $3::text[], $4::text[]) as w(namespace, node_id, target)
where exists (
  select 1
  from pauses p
  where p.bucket = $1
    and p.namespace = w.namespace
    and p.node_id in ('', w.node_id)
    and p.name in ('', w.node_id, w.target)
)
"""

QUEUED = """
select count(*)
from (
  select 1
  from unnest($3::text[]) as t(target)
  cross join lateral (
    select id
    from queue
    where bucket = $1
      and namespace = $2
      and target = t.target
      and state = 'ready'
    order by priority desc, available_at
    limit $4
  ) q
  limit $4
) counted
"""

PROCESSES = """
select id, node_id, drain_requested_at is not null as draining
from sessions
where bucket = $1
  and namespace = $2
  and ($3::text is null or node_id = $3)
  and closed_at is null
limit $4
"""

RUNNING = """
select s.id, count(*) as running
from unnest($2::uuid[]) as s(id)
cross join lateral (
  select q.id
  from queue q
  where q.bucket = $1
    and q.session_id = s.id
    and q.state in ('leased', 'waiting')
    and ($3::text is null or q.target = $3)
  order by q.session_id
  limit $4
) q
group by s.id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What is ready and waits (`queued_is_more` than was counted), and what runs, of a reasoner, a node or all."""

    queued: int
    queued_is_more: bool
    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """The processes of a node that were told to drain, and what they still run."""

    processes: int = 0
    running: int = 0


async def page(
    conn: Connection, *, namespace: int, after: tuple[str, str] | None, limit: int, placement: Placement
) -> list[Pause]:
    """Pauses by node and name; that of everything comes first, once, however many buckets it lies in."""
    found: dict[tuple[str, str], Pause] = {}
    node_id, name = after or (None, None)
    for bucket in placement.all():
        rows = await conn.fetch(PAGE, bucket, namespace, node_id, name, limit)
        found |= {(row["node_id"], row["name"]): Pause.from_row(row) for row in rows}
    return [found[key] for key in sorted(found)][:limit]


async def about(conn: Connection, bucket: int, *, namespace: int, node_id: str, target: str) -> list[Pause]:
    """The pauses that hold back this target: of everything, of its node, of itself; the widest first."""
    return [Pause.from_row(row) for row in await conn.fetch(ABOUT, bucket, namespace, node_id, target)]


async def held_back(conn: Connection, bucket: int, wanted: Collection[tuple[int, str, str]]) -> set[tuple[int, str]]:
    """Which of these targets (namespace, node, target) are paused."""
    rows = await conn.fetch(
        HELD_BACK,
        bucket,
        [namespace for namespace, _, _ in wanted],
        [node_id for _, node_id, _ in wanted],
        [target for _, _, target in wanted],
    )
    return {(row["namespace"], row["target"]) for row in rows}


async def backlog(
    conn: Connection,
    *,
    namespace: int,
    node_id: str | None,
    target: str | None,
    targets: Collection[str],
    placement: Placement,
) -> Backlog:
    """What waits and what runs of `targets`: of one reasoner (`target`), of a node, or of all (no `node_id`)."""
    queued, more = 0, False
    for bucket in placement.all():
        n = await conn.fetchval(QUEUED, bucket, namespace, list(targets), COUNT_MAX + 1)
        queued, more = queued + min(n, COUNT_MAX), more or n > COUNT_MAX
    sessions: list[UUID] = []
    for bucket in placement.all():
        rows = await conn.fetch(PROCESSES, bucket, namespace, node_id, COUNT_MAX)
        sessions += [row["id"] for row in rows]
    running = sum((await _running(conn, sessions, target, placement)).values())
    return Backlog(queued=queued, queued_is_more=more, running=running)


async def drained(conn: Connection, *, namespace: int, node_id: str | None, placement: Placement) -> dict[str, Drained]:
    """The nodes that have processes that drain, and what those still run; with `node_id` only that node."""
    node_of: dict[UUID, str] = {}
    for bucket in placement.all():
        rows = await conn.fetch(PROCESSES, bucket, namespace, node_id, COUNT_MAX)
        node_of |= {row["id"]: row["node_id"] for row in rows if row["draining"]}
    running = await _running(conn, list(node_of), None, placement)
    found: dict[str, Drained] = {}
    for id_, name in node_of.items():
        so_far = found.get(name, Drained())
        found[name] = Drained(processes=so_far.processes + 1, running=so_far.running + running.get(id_, 0))
    return found


async def _running(conn: Connection, sessions: list[UUID], target: str | None, placement: Placement) -> dict[UUID, int]:
    found: dict[UUID, int] = {}
    for bucket in placement.all() if sessions else ():
        for row in await conn.fetch(RUNNING, bucket, sessions, target, COUNT_MAX):
            found[row["id"]] = found.get(row["id"], 0) + row["running"]
    return found
