"""Register: a node says what it serves, and its processes come and go.

*register* ──► open ──► (lease, renew, complete …) ──► close
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from controlplane.domain.cap import Ceiling
from controlplane.domain.execution import ParentEnd
from controlplane.domain.ids import SessionId, bucket_of
from controlplane.domain.lease import Session, Transport, lease_seconds
from controlplane.domain.limit import REASONER
from controlplane.domain.retry import RetryPolicy
from controlplane.errors import NodeNotFound
from controlplane.postgres.pool import Connection
from controlplane.stages import hold, limit, room

REGISTER_NODE = """
insert into nodes (bucket, namespace, id, transport, version, base_url, metadata, registered_at, updated_at)
values ($1, $2, $3, $4, $5, $6, $7, clock(), clock())
on conflict (bucket, namespace, id) do update
set transport = excluded.transport,
  version = excluded.version,
  base_url = excluded.base_url,
  metadata = excluded.metadata,
  updated_at = excluded.updated_at
"""

# A reasoner that a newer version no longer names stays known: what was accepted for it must still find its name.
REGISTER_REASONERS = """
insert into reasoners (
  bucket, namespace, target, node_id, reasoner_id, type, description, tags, input_schema, output_schema,
  retries_max, retry_delay_seconds, retry_factor, retry_cap_seconds, retry_jitter, fatal_errors, retry_errors,
  timeout_seconds, schedule_to_start_seconds, total_seconds, heartbeat_seconds, on_parent_end, concurrency_key,
  registered_at, updated_at
)
select $1, $2, r.target, $3, r.reasoner_id, r.type, r.description,
  coalesce(string_to_array(nullif(r.tags, ''), chr(31)), '{}'), r.input_schema, r.output_schema, r.retries_max,
  r.retry_delay_seconds, r.retry_factor, r.retry_cap_seconds, r.retry_jitter, string_to_array(r.fatal_errors, chr(31)),
  string_to_array(r.retry_errors, chr(31)), r.timeout_seconds, r.schedule_to_start_seconds, r.total_seconds,
  r.heartbeat_seconds, r.on_parent_end, r.concurrency_key, clock(), clock()
from unnest(
  $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bytea[], $10::bytea[], $11::smallint[],
  $12::float8[], $13::float8[], $14::float8[], $15::float8[], $16::float8[], $17::text[], $18::text[],
  $19::float8[], $20::float8[], $21::float8[], $22::text[], $23::text[]
) as r(
  target, reasoner_id, type, description, tags, input_schema, output_schema, retries_max, retry_delay_seconds,
  retry_factor, retry_cap_seconds, timeout_seconds, retry_jitter, fatal_errors, retry_errors,
  schedule_to_start_seconds, total_seconds, heartbeat_seconds, on_parent_end, concurrency_key
)
order by r.target
on conflict (bucket, namespace, target) do update
set node_id = excluded.node_id,
  reasoner_id = excluded.reasoner_id,
  type = excluded.type,
  description = excluded.description,
  tags = excluded.tags,
  input_schema = excluded.input_schema,
  output_schema = excluded.output_schema,
  retries_max = excluded.retries_max,
  retry_delay_seconds = excluded.retry_delay_seconds,
  retry_factor = excluded.retry_factor,
  retry_cap_seconds = excluded.retry_cap_seconds,
  retry_jitter = excluded.retry_jitter,
  fatal_errors = excluded.fatal_errors,
  retry_errors = excluded.retry_errors,
  timeout_seconds = excluded.timeout_seconds,
  schedule_to_start_seconds = excluded.schedule_to_start_seconds,
  total_seconds = excluded.total_seconds,
  heartbeat_seconds = excluded.heartbeat_seconds,
  on_parent_end = excluded.on_parent_end,
  concurrency_key = excluded.concurrency_key,
  updated_at = excluded.updated_at
"""

NODE_KNOWN = "select 1 from nodes where bucket = $1 and namespace = $2 and id = $3"

# A process that was not heard of for a while opens another session: it was told to drain, if it was told so lately.
OPEN = """
insert into sessions (
  bucket, id, namespace, node_id, instance_id, slots, heartbeat_seconds, lease_seconds,
  opened_at, renewed_at, expires_at, drain_requested_at, drain_requested_by, drain_reason
)
select $1, $2, $3, $4, $5, $6, $7, $8, clock(), clock(), clock() + make_interval(secs => $8),
  last.drain_requested_at, last.drain_requested_by, last.drain_reason
from (select) here
left join lateral (
  select drain_requested_at, drain_requested_by, drain_reason
  from sessions
  where bucket = $1
    and namespace = $3
    and node_id = $4
    and instance_id = $5
  order by opened_at desc
  limit 1
) last on true
on conflict (bucket, id) do nothing
"""

# Held from the registration of the node on, so two that say the same at once come one after the other.
PROCESSES_AT = """
select id, namespace, node_id, instance_id, slots, heartbeat_seconds, lease_seconds, transport, base_url, acknowledges,
  start_to_close_seconds, draining
from sessions
where bucket = $1
  and namespace = $2
  and node_id = $3
  and base_url = $4
  and closed_at is null
order by id
for update
"""

REPLACE = """
update sessions
set closed_at = clock(), closed_reason = 'replaced'
where bucket = $1
  and id = any($2::uuid[])
"""

# Functions that exist only while they are called are at one address. What runs at the old one may end there.
MOVED = """
update sessions
set draining = true
where bucket = $1
  and id = any(array(
    select id
    from sessions
    where bucket = $1
      and namespace = $2
      and node_id = $3
      and base_url <> $4
      and transport = 'serverless'
      and closed_at is null
      and not draining
    order by id
    for update
  ))
"""

REJOIN = """
update sessions
set slots = $3,
  heartbeat_seconds = $4,
  lease_seconds = $5,
  acknowledges = $6,
  start_to_close_seconds = $7,
  draining = false,
  renewed_at = clock(),
  expires_at = clock() + make_interval(secs => $5)
where bucket = $1
  and id = $2
"""

JOIN = """
insert into sessions (
  bucket, id, namespace, node_id, instance_id, slots, heartbeat_seconds, lease_seconds, transport, base_url,
  acknowledges, start_to_close_seconds, opened_at, renewed_at, expires_at, drain_requested_at, drain_requested_by,
  drain_reason
)
select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, clock(), clock(), clock() + make_interval(secs => $8),
  last.drain_requested_at, last.drain_requested_by, last.drain_reason
from (select) here
left join lateral (
  select drain_requested_at, drain_requested_by, drain_reason
  from sessions
  where bucket = $1
    and namespace = $3
    and node_id = $4
    and instance_id = $5
    and base_url = $10
  order by opened_at desc
  limit 1
) last on true
"""

LAST_OF_INSTANCE = """
select id, namespace, node_id, instance_id, slots, heartbeat_seconds, lease_seconds, transport, base_url, acknowledges,
  start_to_close_seconds, closed_at is null as open, closed_reason
from sessions
where bucket = $1
  and namespace = $2
  and node_id = $3
  and instance_id = $4
  and base_url is not null
order by opened_at desc
limit 1
"""

LOCK_NODE = """
select id
from nodes
where bucket = $1
  and namespace = $2
  and id = $3
for no key update
"""

LEAVING = """
update nodes
set left_at = clock()
where bucket = $1
  and namespace = $2
  and id = $3
returning id
"""

# Whoever was replaced a moment ago may be the one that goes: its successor has registered at the same address before it
# was told to stop, as behind the name of a service.
DRAIN_ONLY = """
update sessions
set draining = true, expires_at = least(expires_at, clock() + make_interval(secs => $4))
where bucket = $1
  and namespace = $2
  and node_id = $3
  and base_url is not null
  and closed_at is null
  and not draining
  and not exists (
    select 1
    from sessions o
    where o.bucket = $1
      and o.namespace = $2
      and o.node_id = $3
      and o.id <> sessions.id
      and o.base_url is not null
      and (o.closed_at is null or o.closed_reason = 'replaced')
      and not o.draining
  )
returning id
"""

STAY = """
update sessions s
set draining = false
from nodes n
where s.bucket = $1
  and s.id = $2
  and s.draining
  and s.transport = 'push'
  and s.closed_at is null
  and n.bucket = $1
  and n.namespace = s.namespace
  and n.id = s.node_id
  and s.renewed_at > n.left_at + make_interval(secs => $3)
returning s.id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoner:
    """A function that a node serves. Schemas are JSON bytes.

    `concurrency`: how many of it may be under way. `concurrency_key`: of those that are submitted without a key.
    """

    target: str
    reasoner_id: str
    type: str
    description: str | None = None
    tags: tuple[str, ...] = ()
    input_schema: bytes | None = None
    output_schema: bytes | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout_seconds: float | None = None
    schedule_to_start_seconds: float | None = None
    total_seconds: float | None = None
    heartbeat_seconds: float | None = None
    on_parent_end: ParentEnd | None = None
    concurrency: int | None = None
    concurrency_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node as it describes itself."""

    namespace: int
    id: str
    transport: str
    version: str
    base_url: str | None = None
    metadata: bytes | None = None
    reasoners: Sequence[Reasoner] = ()


APART = "\x1f"


async def register(conn: Connection, node: Node, *, bucket: int, ceiling: Ceiling | None = None) -> None:
    """From here on this node's targets are known, and work for them is accepted even while the node is away.

    Guard: one row per node and target; registering again replaces what was said before, the last of two with one name
    the first. Raises: CapReached for a node that is new.
    """
    reasoners = list({one.target: one for one in node.reasoners}.values())
    async with conn.transaction():
        known = ceiling is None or await conn.fetchval(NODE_KNOWN, bucket, node.namespace, node.id)
        await conn.execute(
            REGISTER_NODE, bucket, node.namespace, node.id, node.transport, node.version, node.base_url, node.metadata
        )
        if not known:
            await room.require(conn, ceiling, node.namespace)
        await conn.execute(
            REGISTER_REASONERS,
            bucket,
            node.namespace,
            node.id,
            [one.target for one in reasoners],
            [one.reasoner_id for one in reasoners],
            [one.type for one in reasoners],
            [one.description for one in reasoners],
            [APART.join(one.tags) for one in reasoners],
            [one.input_schema for one in reasoners],
            [one.output_schema for one in reasoners],
            [one.retry.retries_max for one in reasoners],
            [one.retry.delay_seconds for one in reasoners],
            [one.retry.factor for one in reasoners],
            [one.retry.cap_seconds for one in reasoners],
            [one.timeout_seconds for one in reasoners],
            [one.retry.jitter for one in reasoners],
            [APART.join(one.retry.fatal_errors) or None for one in reasoners],
            [APART.join(one.retry.retry_errors) or None for one in reasoners],
            [one.schedule_to_start_seconds for one in reasoners],
            [one.total_seconds for one in reasoners],
            [one.heartbeat_seconds for one in reasoners],
            [one.on_parent_end and one.on_parent_end.value for one in reasoners],
            [one.concurrency_key for one in reasoners],
        )
        declared = {REASONER + one.target: one.concurrency for one in reasoners}
        await limit.declare(conn, bucket, declared, namespace=node.namespace)


async def open_session(
    conn: Connection,
    session_id: SessionId,
    *,
    namespace: int,
    node_id: str,
    node_bucket: int,
    instance_id: str,
    slots: int,
    heartbeat_seconds: float,
    lease_floor_seconds: float,
    ceiling: Ceiling | None = None,
) -> Session:
    """A process of this node may take work for as long as it keeps renewing.

    Raises: NodeNotFound; register first. NamespaceFull when the node has as many processes as it may have.
    """
    lease = lease_seconds(heartbeat_seconds=heartbeat_seconds, floor_seconds=lease_floor_seconds)
    async with conn.transaction():
        if not await hold.keep_node(conn, node_bucket, namespace, node_id):
            raise NodeNotFound(fix="POST /api/v1/nodes/register first.")
        await conn.execute(
            OPEN, bucket_of(session_id), session_id, namespace, node_id, instance_id, slots, heartbeat_seconds, lease
        )
        await room.require(conn, ceiling, namespace, node_id)
    return Session(
        id=session_id,
        namespace=namespace,
        node_id=node_id,
        instance_id=instance_id,
        slots=slots,
        heartbeat_seconds=heartbeat_seconds,
        lease_seconds=lease,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A live process of a node that is called, as it was registered. `instance_id` is new with every start of it."""

    namespace: int
    node_id: str
    transport: Transport
    base_url: str
    instance_id: str
    slots: int
    heartbeat_seconds: float
    lease_seconds: float
    acknowledges: bool
    start_to_close_seconds: float | None


async def join(
    conn: Connection, node: Node, process: Process, session_id: SessionId, *, ceiling: Ceiling | None = None
) -> Session:
    """A process that is called may be given work; the one that was at its address before is gone.

    Guard: the node's row is held, so of two registrations at once one comes after the other; one open session per
    address and instance is a unique index. The leases of a process that was replaced are freed by `expire.sweep`,
    those of one that said goodbye when it has finished or its time is over.
    """
    bucket = bucket_of(session_id)
    async with conn.transaction():
        await register(conn, node, bucket=bucket, ceiling=ceiling)
        there = await conn.fetch(PROCESSES_AT, bucket, process.namespace, process.node_id, process.base_url)
        same = [row for row in there if row["instance_id"] == process.instance_id]
        others = [row["id"] for row in there if row["instance_id"] != process.instance_id and not row["draining"]]
        if others:
            await conn.execute(REPLACE, bucket, others)
        if process.transport is Transport.SERVERLESS:
            await conn.execute(MOVED, bucket, process.namespace, process.node_id, process.base_url)
        if not same:
            return await _join(conn, process, session_id)
        await conn.execute(
            REJOIN,
            bucket,
            same[0]["id"],
            process.slots,
            process.heartbeat_seconds,
            process.lease_seconds,
            process.acknowledges,
            process.start_to_close_seconds,
        )
        return _session(process, SessionId(same[0]["id"]))


async def revive(
    conn: Connection, bucket: int, *, namespace: int, node_id: str, instance_id: str, session_id: SessionId
) -> Session | None:
    """A process that was given up is heard of again: a session for it, with nothing of what it held before.

    One whose place another process has taken stays closed and gets that closed session back. None: nothing is known of
    it any more, and it has to register. Guard: as for `join`.
    """
    async with conn.transaction():
        await conn.fetch(LOCK_NODE, bucket, namespace, node_id)
        row = await conn.fetchrow(LAST_OF_INSTANCE, bucket, namespace, node_id, instance_id)
        if row is None:
            return None
        if row["open"] or row["closed_reason"] == "replaced":
            return Session.from_row(row)
        process = Process(
            namespace=namespace,
            node_id=node_id,
            transport=Transport(row["transport"]),
            base_url=row["base_url"],
            instance_id=instance_id,
            slots=row["slots"],
            heartbeat_seconds=row["heartbeat_seconds"],
            lease_seconds=row["lease_seconds"],
            acknowledges=row["acknowledges"],
            start_to_close_seconds=row["start_to_close_seconds"],
        )
        there = await conn.fetch(PROCESSES_AT, bucket, namespace, node_id, process.base_url)
        if any(not other["draining"] for other in there):  # somebody newer answers at its address
            return Session.from_row(row)
        return await _join(conn, process, session_id)


async def drain(conn: Connection, bucket: int, *, namespace: int, node_id: str, seconds: float) -> None:
    """A process of this node says goodbye: it is given nothing more, and has so long to finish what it holds.

    It does not say which one it is. Is there only one, and was none replaced lately, it is that; else whoever does not
    listen any more.
    Raises: NodeNotFound.
    """
    async with conn.transaction():
        if await conn.fetchval(LEAVING, bucket, namespace, node_id) is None:
            raise NodeNotFound
        await conn.execute(DRAIN_ONLY, bucket, namespace, node_id, seconds)


async def stay(conn: Connection, bucket: int, session_id: SessionId, *, after_seconds: float) -> bool:
    """A process that was taken for the one that goes is still there, and listens: it is given work again.

    Guard: it was heard of this long after the last goodbye of its node. Says whether it was draining until now.
    """
    return await conn.fetchval(STAY, bucket, session_id, after_seconds) is not None


async def _join(conn: Connection, process: Process, session_id: SessionId) -> Session:
    await conn.execute(
        JOIN,
        bucket_of(session_id),
        session_id,
        process.namespace,
        process.node_id,
        process.instance_id,
        process.slots,
        process.heartbeat_seconds,
        process.lease_seconds,
        process.transport.value,
        process.base_url,
        process.acknowledges,
        process.start_to_close_seconds,
    )
    return _session(process, session_id)


def _session(process: Process, session_id: SessionId) -> Session:
    return Session(
        id=session_id,
        namespace=process.namespace,
        node_id=process.node_id,
        instance_id=process.instance_id,
        slots=process.slots,
        heartbeat_seconds=process.heartbeat_seconds,
        lease_seconds=process.lease_seconds,
        transport=process.transport,
        base_url=process.base_url,
        acknowledges=process.acknowledges,
        start_to_close_seconds=process.start_to_close_seconds,
    )
