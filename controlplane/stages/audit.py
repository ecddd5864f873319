"""Audit: who changed what is written down with the change, in one transaction, and nothing of it is taken back.

Beside the thread: no execution moves. Each namespace has a chain, whose head is locked last of all and until the
commit: the numbers have no gap, and whoever holds it waits for nobody.
"""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.domain.audit import VERSION, Entry
from controlplane.postgres.pool import Connection

CHAINS_MAX = 64
"""Chains of one pass of retention, and how many rows it takes from each."""
FORGET_MAX = 1_000

# The database hashes: between the lock and the commit nobody waits for the network more often than he has to.
APPEND = """
with head as (
  select seq + 1 as seq, hash as previous
  from audit_heads
  where bucket = $1
    and namespace = $2::smallint
  for update
),
added as (
  insert into audit (
    bucket, namespace, seq, id, at, actor_kind, actor, key_id, actor_namespace, request_id, address, user_agent, action,
    object_kind, object_id, before, after, previous, hash
  )
  select $1, $2::smallint, h.seq, $3::uuid, clock(), $4::text, $5::text, $6::uuid, $7::text, $8::text, $9::text,
    $10::text, $11::text, $12::text, $13::text, $14::bytea, $15::bytea, h.previous,
    audit_hash(
      h.previous,
      array[
        $16::text, $2::smallint::text, h.seq::text, $3::uuid::text,
        to_char(clock() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        $4::text, $5::text, $6::uuid::text, $7::text, $8::text, $9::text, $10::text, $11::text, $12::text, $13::text,
        convert_from($14::bytea, 'UTF8'), convert_from($15::bytea, 'UTF8')
      ]
    )
  from head h
  on conflict on constraint audit_once do nothing
  returning seq, hash
)
update audit_heads h
set seq = added.seq, hash = added.hash
from added
where h.bucket = $1
  and h.namespace = $2::smallint
returning h.seq
"""

OPEN = "insert into audit_heads (bucket, namespace) values ($1, $2) on conflict do nothing"

# Whose first row is old enough. Those that somebody appends to right now have their turn at the next pass.
LOCK_OLD = """
select h.namespace, h.removed_seq
from audit_heads h
join audit a on a.bucket = $1 and a.namespace = h.namespace and a.seq = h.removed_seq + 1
where h.bucket = $1
  and a.at < clock() - make_interval(secs => $2)
order by h.namespace
limit $3
for update of h skip locked
"""

# Up to the first that is to stay: only a beginning is ever taken away.
MOVE_ANCHOR = """
with page as materialized (
  select seq, hash, at < clock() - make_interval(secs => $4) as old
  from audit
  where bucket = $1
    and namespace = $2
    and seq > $3
  order by seq
  limit $5
),
last as (
  select seq, hash
  from page
  where seq < coalesce((select min(seq) from page where not old), 9223372036854775807)
  order by seq desc
  limit 1
)
update audit_heads h
set removed_seq = last.seq, removed_hash = last.hash
from last
where h.bucket = $1
  and h.namespace = $2
returning h.removed_seq
"""

FORGET = """
delete from audit
where bucket = $1
  and namespace = $2
  and seq <= $3
"""


async def append(conn: Connection, entries: Sequence[Entry]) -> None:
    """Write down what this transaction has done. The caller is inside it, and locks nothing more after this.

    Guard: the locked head numbers the rows; the unique id makes a row that is written again, after an answer that was
    lost, the one that is there.
    """
    for one in sorted(entries, key=lambda entry: (entry.bucket, entry.namespace)):
        if not await _append(conn, one):
            await conn.execute(OPEN, one.bucket, one.namespace)
            await _append(conn, one)  # else it is there already


async def forget(conn: Connection, bucket: int, *, after_seconds: float) -> int:
    """Take away the oldest rows of some chains, and keep the last hash of them. Says how many rows.

    Guard: the locked head. The database itself refuses to lose anything but a beginning that has left its hash there.
    """
    gone = 0
    async with conn.transaction():
        for head in await conn.fetch(LOCK_OLD, bucket, after_seconds, CHAINS_MAX):
            namespace, removed = head["namespace"], head["removed_seq"]
            last: int | None = await conn.fetchval(MOVE_ANCHOR, bucket, namespace, removed, after_seconds, FORGET_MAX)
            if last is not None:
                await conn.execute(FORGET, bucket, namespace, last)
                gone += last - removed
    return gone


async def _append(conn: Connection, one: Entry) -> bool:
    actor = one.actor
    seq: int | None = await conn.fetchval(
        APPEND,
        one.bucket,
        one.namespace,
        one.id,
        actor.kind.value,
        actor.name,
        actor.key_id,
        actor.namespace,
        actor.request_id,
        actor.address,
        actor.user_agent,
        one.action,
        one.object_kind,
        one.object_id,
        one.before,
        one.after,
        VERSION,
    )
    return seq is not None
