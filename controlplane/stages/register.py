"""Register: a node says what it serves, and its processes come and go.

*register* ──► open ──► (lease, renew, complete …) ──► close
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from controlplane.domain.ids import SessionId, bucket_of
from controlplane.domain.lease import Session, lease_seconds
from controlplane.domain.retry import RetryPolicy
from controlplane.errors import NodeNotFound
from controlplane.postgres.pool import Connection

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
  retries_max, retry_delay_seconds, retry_factor, retry_cap_seconds, timeout_seconds, registered_at, updated_at
)
select $1, $2, r.target, $3, r.reasoner_id, r.type, r.description,
  coalesce(string_to_array(nullif(r.tags, ''), chr(31)), '{}'), r.input_schema, r.output_schema, r.retries_max,
  r.retry_delay_seconds, r.retry_factor, r.retry_cap_seconds, r.timeout_seconds, clock(), clock()
from unnest(
  $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bytea[], $10::bytea[], $11::smallint[],
  $12::float8[], $13::float8[], $14::float8[], $15::float8[]
) as r(
  target, reasoner_id, type, description, tags, input_schema, output_schema, retries_max, retry_delay_seconds,
  retry_factor, retry_cap_seconds, timeout_seconds
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
  timeout_seconds = excluded.timeout_seconds,
  updated_at = excluded.updated_at
"""

NODE_KNOWN = "select 1 from nodes where bucket = $1 and namespace = $2 and id = $3"

OPEN = """
insert into sessions (
  bucket, id, namespace, node_id, instance_id, slots, heartbeat_seconds, lease_seconds,
  opened_at, renewed_at, expires_at
)
values ($1, $2, $3, $4, $5, $6, $7, $8, clock(), clock(), clock() + make_interval(secs => $8))
on conflict (bucket, id) do nothing
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoner:
    """A function that a node serves. Schemas are JSON bytes."""

    target: str
    reasoner_id: str
    type: str
    description: str | None = None
    tags: tuple[str, ...] = ()
    input_schema: bytes | None = None
    output_schema: bytes | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout_seconds: float | None = None


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


TAG_SEPARATOR = "\x1f"


async def register(conn: Connection, node: Node, *, bucket: int) -> None:
    """From here on this node's targets are known, and work for them is accepted even while the node is away.

    Guard: one row per node and target; registering again replaces what was said before, the last of two with one name
    the first.
    """
    reasoners = list({one.target: one for one in node.reasoners}.values())
    async with conn.transaction():
        await conn.execute(
            REGISTER_NODE, bucket, node.namespace, node.id, node.transport, node.version, node.base_url, node.metadata
        )
        await conn.execute(
            REGISTER_REASONERS,
            bucket,
            node.namespace,
            node.id,
            [one.target for one in reasoners],
            [one.reasoner_id for one in reasoners],
            [one.type for one in reasoners],
            [one.description for one in reasoners],
            [TAG_SEPARATOR.join(one.tags) for one in reasoners],
            [one.input_schema for one in reasoners],
            [one.output_schema for one in reasoners],
            [one.retry.retries_max for one in reasoners],
            [one.retry.delay_seconds for one in reasoners],
            [one.retry.factor for one in reasoners],
            [one.retry.cap_seconds for one in reasoners],
            [one.timeout_seconds for one in reasoners],
        )


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
) -> Session:
    """A process of this node may take work for as long as it keeps renewing.

    Raises: NodeNotFound; register first.
    """
    if await conn.fetchval(NODE_KNOWN, node_bucket, namespace, node_id) is None:
        raise NodeNotFound(fix="POST /api/v1/nodes/register first.")
    lease = lease_seconds(heartbeat_seconds=heartbeat_seconds, floor_seconds=lease_floor_seconds)
    await conn.execute(
        OPEN, bucket_of(session_id), session_id, namespace, node_id, instance_id, slots, heartbeat_seconds, lease
    )
    return Session(
        id=session_id,
        namespace=namespace,
        node_id=node_id,
        instance_id=instance_id,
        slots=slots,
        heartbeat_seconds=heartbeat_seconds,
        lease_seconds=lease,
    )
