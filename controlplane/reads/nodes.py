"""Nodes, their live processes, and what they serve."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import asyncpg

from controlplane.domain.execution import ParentEnd
from controlplane.domain.ids import ExecutionId, SessionId
from controlplane.domain.lease import Fence, Session
from controlplane.domain.retry import RetryPolicy
from controlplane.domain.schedule import Served
from controlplane.postgres.pool import Connection

SESSION = """
select id, namespace, node_id, instance_id, slots, heartbeat_seconds, lease_seconds, transport, base_url, acknowledges,
  start_to_close_seconds, closed_at
from sessions
where bucket = $1
  and id = $2
"""

CATALOGUE = """
select r.namespace, r.target, r.node_id, r.reasoner_id, r.type, r.description, r.tags, r.retries_max,
  r.retry_delay_seconds, r.retry_factor, r.retry_cap_seconds, r.retry_jitter, r.fatal_errors, r.retry_errors,
  r.timeout_seconds, r.schedule_to_start_seconds, r.total_seconds, r.heartbeat_seconds, r.on_parent_end,
  r.concurrency_key,
  coalesce(n.version, '') as version,
  exists (
    select 1
    from sessions s
    where s.bucket = $1
      and s.namespace = r.namespace
      and s.node_id = r.node_id
      and s.closed_at is null
      and s.expires_at > clock()
      and not s.draining
      and s.drain_requested_at is null
  ) as up,
  exists (
    select 1
    from pauses p
    where p.bucket = $1
      and p.namespace = r.namespace
      and p.node_id in ('', r.node_id)
      and p.name in ('', r.node_id, r.target)
  ) as paused
from reasoners r
left join nodes n on n.bucket = $1 and n.namespace = r.namespace and n.id = r.node_id
where r.bucket = $1
order by r.target
"""

# What moves whenever somebody registers, whoever commits first: a sum, where the newest time alone would pass over one
# that began earlier and committed later.
REGISTRATIONS = """
select count(*) as targets, coalesce(sum(extract(epoch from updated_at)), 0) as moved
from reasoners
where bucket = $1
"""

NODES = """
select n.id, n.transport, n.version, n.base_url, n.metadata, n.registered_at, n.updated_at,
  count(s.id) as sessions,
  coalesce(sum(s.slots), 0)::int as slots,
  coalesce(sum(
    case
      when s.base_url is null then s.running
      else (
        select count(*)
        from queue q
        where q.bucket = $1
          and q.session_id = s.id
          and q.state in ('leased', 'waiting')
      )
    end
  ), 0)::int as running,
  max(s.renewed_at) as renewed_at,
  exists (
    select 1
    from pauses p
    where p.bucket = $1
      and p.namespace = n.namespace
      and p.node_id in ('', n.id)
      and p.name in ('', n.id)
  ) as paused
from nodes n
left join sessions s
  on s.bucket = $1 and s.namespace = n.namespace and s.node_id = n.id and s.closed_at is null and s.expires_at > clock()
where n.bucket = $1
  and n.namespace = $2
  and ($3::text is null or n.id = $3)
group by n.bucket, n.namespace, n.id
order by n.id
"""

PROCESSES = """
select id
from sessions
where bucket = $1
  and namespace = $2
  and node_id = $3
  and closed_at is null
  and base_url is not null
order by id
"""

SCHEMAS = """
select target, input_schema, output_schema
from reasoners
where bucket = $1
  and namespace = $2
  and ($3::text is null or node_id = $3)
"""

# Which of the targets that somebody waits for have work: the cheap look that stands between two hints.
READY_TARGETS = """
select w.namespace, w.target
from unnest($2::smallint[], $3::text[]) as w(namespace, target)
where exists (
  select 1
  from queue q
  where q.bucket = $1
    and q.namespace = w.namespace
    and q.target = w.target
    and q.state = 'ready'
)
"""

CANCELLING = """
select id, attempt, session_id, cancel_reason
from queue
where bucket = $1
  and cancel_requested_at is not null
  and session_id is not null
order by cancel_requested_at
limit 10000
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A target in the catalogue: its policy, its node's version, whether a process that serves it is alive, and
    whether a person has paused it, its node or everything."""

    namespace: int
    target: str
    node_id: str
    reasoner_id: str
    type: str
    description: str | None
    tags: tuple[str, ...]
    retry: RetryPolicy
    timeout_seconds: float | None
    schedule_to_start_seconds: float | None
    total_seconds: float | None
    heartbeat_seconds: float | None
    on_parent_end: ParentEnd | None
    version: str
    up: bool
    paused: bool
    concurrency_key: str | None = None

    @property
    def served(self) -> Served:
        """What a schedule of this target submits with."""
        return Served(
            type=self.type,
            retry=self.retry,
            timeout_seconds=self.timeout_seconds,
            schedule_to_start_seconds=self.schedule_to_start_seconds,
            total_seconds=self.total_seconds,
            heartbeat_seconds=self.heartbeat_seconds,
            concurrency_key=self.concurrency_key,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node and what its live processes offer together. `paused`: it, or everything, by a person."""

    id: str
    transport: str
    version: str
    base_url: str | None
    metadata: bytes | None
    registered_at: datetime
    updated_at: datetime
    sessions: int
    slots: int
    running: int
    renewed_at: datetime | None
    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelling:
    """An attempt that its node shall stop."""

    fence: Fence
    session_id: SessionId
    reason: str | None


async def session(conn: Connection, bucket: int, session_id: UUID) -> tuple[Session, bool] | None:
    """A session and whether it is still open."""
    row = await conn.fetchrow(SESSION, bucket, session_id)
    if row is None:
        return None
    return Session.from_row(row), row["closed_at"] is None


async def catalogue(conn: Connection, bucket: int) -> list[Entry]:
    """Every target that is registered in this bucket."""
    return [_entry(row) for row in await conn.fetch(CATALOGUE, bucket)]


async def registrations(conn: Connection, bucket: int) -> tuple[int, Decimal]:
    """Another one than before when something was registered, or forgotten, in this bucket since."""
    row = await conn.fetchrow(REGISTRATIONS, bucket)
    assert row is not None
    return row["targets"], row["moved"]


async def nodes(conn: Connection, bucket: int, *, namespace: int, node_id: str | None = None) -> list[NodeView]:
    return [NodeView(**dict(row)) for row in await conn.fetch(NODES, bucket, namespace, node_id)]


async def processes(conn: Connection, bucket: int, *, namespace: int, node_id: str) -> list[SessionId]:
    """The sessions of a node's live processes that are called."""
    return [SessionId(row["id"]) for row in await conn.fetch(PROCESSES, bucket, namespace, node_id)]


async def schemas(
    conn: Connection, bucket: int, *, namespace: int, node_id: str | None = None
) -> dict[str, tuple[bytes | None, bytes | None]]:
    """Input and output schema (JSON bytes) of each target."""
    rows = await conn.fetch(SCHEMAS, bucket, namespace, node_id)
    return {row["target"]: (row["input_schema"], row["output_schema"]) for row in rows}


async def ready_targets(conn: Connection, bucket: int, wanted: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Those of these (namespace, target) that have ready work."""
    rows = await conn.fetch(
        READY_TARGETS, bucket, [namespace for namespace, _ in wanted], [target for _, target in wanted]
    )
    return [(row["namespace"], row["target"]) for row in rows]


async def cancelling(conn: Connection, bucket: int) -> list[Cancelling]:
    """Every attempt that shall stop; one small index read for all sessions of a replica."""
    return [
        Cancelling(
            fence=Fence(ExecutionId(row["id"]), row["attempt"]),
            session_id=SessionId(row["session_id"]),
            reason=row["cancel_reason"],
        )
        for row in await conn.fetch(CANCELLING, bucket)
    ]


def _entry(row: asyncpg.Record) -> Entry:
    return Entry(
        namespace=row["namespace"],
        target=row["target"],
        node_id=row["node_id"],
        reasoner_id=row["reasoner_id"],
        type=row["type"],
        description=row["description"],
        tags=tuple(row["tags"]),
        retry=RetryPolicy.from_row(row),
        timeout_seconds=row["timeout_seconds"],
        schedule_to_start_seconds=row["schedule_to_start_seconds"],
        total_seconds=row["total_seconds"],
        heartbeat_seconds=row["heartbeat_seconds"],
        on_parent_end=None if row["on_parent_end"] is None else ParentEnd(row["on_parent_end"]),
        version=row["version"],
        up=row["up"],
        paused=row["paused"],
        concurrency_key=row["concurrency_key"],
    )
