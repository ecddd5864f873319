"""Submit: the first step. A caller's request becomes an execution that cannot be lost.

*submit* ──► lease ──► complete ──► finish ──► deliver
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any
from uuid import UUID

import asyncpg

from controlplane.domain.begun import Begun
from controlplane.domain.execution import Accepted, Submission
from controlplane.domain.ids import ExecutionId, bucket_of
from controlplane.domain.lease import Fence, Lease, Session
from controlplane.domain.limit import KEY, READY_MAX, TURN
from controlplane.domain.placement import by_bucket, by_place, span
from controlplane.errors import (
    ControlPlaneError,
    DatabaseUnavailable,
    ExecutionNotFound,
    IdempotencyConflict,
    Invalid,
    LeaseLost,
)
from controlplane.postgres.lane import Raced
from controlplane.postgres.pool import Connection, confirm
from controlplane.stages import hold

IDEMPOTENCY_SECONDS = 24 * 3600
APART = "\x1f"
"""Parts the names in a list of them: an array of arrays would have to be rectangular. No name holds it."""
Key = tuple[int, str, str | None]
"""An idempotency key as it is unique: of a namespace, within a scope."""
Offers = Mapping[UUID, Session]
"""Of submissions that may begin at once: the session that waits for this one."""
NO_OFFERS: Offers = MappingProxyType({})
RESERVE_TRIES = 3
"""How often a key is looked at that expires between the look that finds it taken and the one that reads it."""

# Keys are taken in one order, so that two flushes wait for each other and never in a circle.
TAKE_KEYS = """
insert into idempotency_keys (bucket, namespace, scope, key, execution_id, request_hash, expires_at)
select $1, k.namespace, k.scope, k.key, k.execution_id, k.request_hash, clock() + make_interval(secs => $7)
from unnest($2::smallint[], $3::text[], $4::text[], $5::uuid[], $6::bytea[])
  as k(namespace, scope, key, execution_id, request_hash)
order by k.namespace, k.scope, k.key
on conflict (bucket, namespace, scope, key) do update
set execution_id = excluded.execution_id, request_hash = excluded.request_hash, expires_at = excluded.expires_at
where idempotency_keys.expires_at <= clock()
returning execution_id
"""

READ_KEYS = """
select k.namespace, k.scope, k.key, k.execution_id, k.request_hash
from unnest($2::smallint[], $3::text[], $4::text[]) as w(namespace, scope, key)
join idempotency_keys k on k.bucket = $1 and k.namespace = w.namespace and k.scope = w.scope and k.key = w.key
"""

# A call that has failed is asked for once more by a later attempt of its parent, which else could only fail with it.
TAKE_STEPS = """
insert into steps (bucket, execution_id, name, namespace, kind, status, attempt, child_id, created_at)
select $1, c.execution_id, c.name, c.namespace, 'call', 'pending', c.attempt, c.child_id, clock()
from unnest($2::uuid[], $3::text[], $4::smallint[], $5::int[], $6::uuid[])
  as c(execution_id, name, namespace, attempt, child_id)
order by c.execution_id, c.name
on conflict (bucket, execution_id, name) do update
set status = 'pending',
  attempt = excluded.attempt,
  child_id = excluded.child_id,
  awaited = false,
  news = false,
  created_at = excluded.created_at,
  done_at = null
where steps.kind = 'call'
  and steps.status = 'failed'
  and steps.attempt < excluded.attempt
returning child_id
"""

READ_STEPS = """
select s.execution_id, s.name, s.kind, s.child_id
from unnest($2::uuid[], $3::text[]) as w(execution_id, name)
join steps s on s.bucket = $1 and s.execution_id = w.execution_id and s.name = w.name
"""

READ_ACCEPTED = """
select e.id, e.run_id, e.created_at, case when q.status_reason = 'scheduled' then q.available_at end as scheduled_at,
  case when q.state = 'blocked' then q.line end as blocked_by
from executions e
left join queue q on q.bucket = $1 and q.id = e.id and q.id = any($2::uuid[])
where e.bucket = $1
  and e.id = any($2::uuid[])
  and e.id between $3 and $4
"""

# The id is made before the transaction begins: a flush that is repeated after a lost answer inserts nothing twice, not
# even into the queue that the execution may have left in between. The event is written here and not by `record`, and
# who shall be told with it: most submits need nothing else, and this one statement is then the whole transaction. Whom
# a webhook tells of more than the end, it has a row in `listeners`. Most columns say the same of all items, or nothing:
# they come as their first value (`_once`) or empty (`_said`), and `unnest` fills them up with nulls. `$47`: a session
# that waits for just this, and gets it as a claim would give it (`lease.CLAIM`), under the same guards; where these say
# no it is ready like everything else. `offset 0` keeps each look a look for one row.
INSERT = """
with item as (
  select i.n, i.id, i.run_id, i.parent_id, i.source_execution_id, i.input, i.context, i.session_key, i.actor_key,
    i.timeout_seconds, i.replay_source_run_id, i.replay_before_id, i.replay_mode, i.run_at, i.fatal_errors,
    i.retry_errors, i.schedule_to_start_seconds, i.total_seconds, i.heartbeat_seconds, i.concurrency_key,
    i.fairness_key, i.line, i.origin, i.session_id,
    coalesce(i.namespace, ($3::smallint[])[1]) as namespace,
    coalesce(i.root_id, i.id) as root_id,
    coalesce(i.target, ($8::text[])[1]) as target,
    coalesce(i.type, ($9::text[])[1]) as type,
    coalesce(i.priority, ($14::smallint[])[1]) as priority,
    coalesce(i.retries_max, ($15::smallint[])[1]) as retries_max,
    coalesce(i.retry_delay_seconds, ($16::float8[])[1]) as retry_delay_seconds,
    coalesce(i.retry_factor, ($17::float8[])[1]) as retry_factor,
    coalesce(i.retry_cap_seconds, ($18::float8[])[1]) as retry_cap_seconds,
    coalesce(i.webhooks, ($20::smallint[])[1]) as webhooks,
    coalesce(i.delay_seconds, ($24::float8[])[1]) as delay_seconds,
    coalesce(i.retry_jitter, ($26::float8[])[1]) as retry_jitter,
    coalesce(i.on_parent_end, ($32::text[])[1]) as on_parent_end,
    coalesce(i.held_back, ($36::boolean[])[1]) as held_back
  from unnest(
    $2::uuid[], $3::smallint[], $4::text[], $5::uuid[], $6::uuid[], $7::uuid[], $8::text[], $9::text[], $10::bytea[],
    $11::bytea[], $12::text[], $13::text[], $14::smallint[], $15::smallint[], $16::float8[], $17::float8[],
    $18::float8[], $19::float8[], $20::smallint[], $21::text[], $22::uuid[], $23::text[], $24::float8[],
    $25::timestamptz[], $26::float8[], $27::text[], $28::text[], $29::float8[], $30::float8[], $31::float8[],
    $32::text[], $33::text[], $34::text[], $35::text[], $36::boolean[], $37::bytea[], $47::uuid[]
  ) with ordinality as i(
    id, namespace, run_id, root_id, parent_id, source_execution_id, target, type, input,
    context, session_key, actor_key, priority, retries_max, retry_delay_seconds, retry_factor,
    retry_cap_seconds, timeout_seconds, webhooks, replay_source_run_id, replay_before_id, replay_mode, delay_seconds,
    run_at, retry_jitter, fatal_errors, retry_errors, schedule_to_start_seconds, total_seconds, heartbeat_seconds,
    on_parent_end, concurrency_key, fairness_key, line, held_back, origin, session_id, n
  )
),
taker as materialized (
  select i.n, i.session_id, t.started
  from unnest($48::uuid[], $49::text[], $50::bytea[]) as t(session_id, node_id, started)
  join item i on i.session_id = t.session_id
  where cardinality($48::uuid[]) > 0
    and not i.held_back
    and exists (
      select 1
      from (select * from sessions where bucket = $1 and id = t.session_id offset 0) s
      where s.closed_at is null
        and s.drain_requested_at is null
        and s.expires_at > clock()
    )
    and not exists (
      select 1
      from pauses
      where bucket = $1
        and namespace = i.namespace
        and node_id in ('', t.node_id)
        and name in ('', t.node_id, i.target)
      offset 0
    )
),
accepted as (
  insert into executions (
    bucket, id, namespace, run_id, root_id, parent_id, source_execution_id, target, type, input,
    context, session_key, actor_key, priority, retries_max, retry_delay_seconds, retry_factor,
    retry_cap_seconds, timeout_seconds, webhooks, replay_source_run_id, replay_before_id, replay_mode, retry_jitter,
    fatal_errors, retry_errors, schedule_to_start_seconds, total_seconds, heartbeat_seconds, on_parent_end,
    concurrency_key, fairness_key, created_at
  )
  select $1, i.id, i.namespace, i.run_id, i.root_id, i.parent_id, i.source_execution_id, i.target, i.type, i.input,
    i.context, i.session_key, i.actor_key, i.priority, i.retries_max, i.retry_delay_seconds, i.retry_factor,
    i.retry_cap_seconds, i.timeout_seconds, i.webhooks, i.replay_source_run_id, i.replay_before_id, i.replay_mode,
    i.retry_jitter, string_to_array(i.fatal_errors, chr(31)), string_to_array(i.retry_errors, chr(31)),
    i.schedule_to_start_seconds, i.total_seconds, i.heartbeat_seconds, i.on_parent_end, i.concurrency_key,
    i.fairness_key, clock()
  from item i
  on conflict (bucket, id) do nothing
  returning id, created_at
),
queued as (
  insert into queue (
    bucket, id, namespace, target, run_id, parent_id, state, status_reason, priority, available_at, retries_max,
    webhooks, timeout_seconds, deadline_at, total_deadline_at, heartbeat_seconds, on_parent_end, line, limited,
    concurrency_key, fairness_key, session_id, attempt, leased_at, started_at, attempt_deadline_at
  )
  select $1, i.id, i.namespace, i.target, i.run_id, i.parent_id,
    case
      when start.begun is not null then 'leased'
      when start.at > a.created_at then 'delayed'
      when i.held_back then 'blocked'
      else 'ready'
    end,
    case when start.at > a.created_at then 'scheduled' end,
    i.priority, start.at, i.retries_max, i.webhooks, i.timeout_seconds,
    case
      when start.begun is not null
        then start.begun + make_interval(secs => least(i.timeout_seconds, i.total_seconds, i.heartbeat_seconds))
      else start.at + make_interval(secs => least(i.schedule_to_start_seconds, i.total_seconds))
    end,
    start.at + make_interval(secs => i.total_seconds), i.heartbeat_seconds, i.on_parent_end,
    i.line, i.line is not null and i.line not like 'turn:%', i.concurrency_key, i.fairness_key,
    t.session_id, (start.begun is not null)::int, start.begun, start.begun,
    case when i.heartbeat_seconds is not null then start.begun + make_interval(secs => i.timeout_seconds) end
  from item i
  join accepted a on a.id = i.id
  left join taker t on t.n = i.n
  cross join lateral (
    select greatest(a.created_at + make_interval(secs => i.delay_seconds), i.run_at) as at,
      case when t.n is not null then a.created_at end as begun
  ) start
  returning id, status_reason, available_at, state, line, attempt, xmin as version,
    extract(
      epoch from least(available_at + make_interval(secs => timeout_seconds), total_deadline_at) - available_at
    )::float8 as deadline_in_seconds
),
told as (
  insert into events (bucket, execution_id, namespace, run_id, target, type, attempt, at, data)
  select $1, i.id, i.namespace, i.run_id, i.target, e.type, e.attempt, a.created_at, e.data
  from item i
  join accepted a on a.id = i.id
  left join taker t on t.n = i.n
  cross join lateral (
    values ('execution.queued', 0, i.origin), ('execution.started', 1, t.started)
  ) as e(type, attempt, data)
  where e.attempt = 0
    or t.n is not null
  order by e.attempt, i.n
),
hook as (
  select w.*
  from unnest(
    $38::uuid[], $39::smallint[], $40::smallint[], $41::text[], $42::text[], $43::bytea[], $44::bytea[],
    $45::smallint[], $46::text[]
  ) as w(execution_id, n, namespace, url, host, secret_sealed, headers_sealed, attempts_max, events)
  join accepted a on a.id = w.execution_id
  where cardinality($38::uuid[]) > 0
),
hooked as (
  insert into webhooks (
    bucket, execution_id, n, namespace, url, host, secret_sealed, headers_sealed, attempts_max, events, created_at
  )
  select $1, h.execution_id, h.n, h.namespace, h.url, h.host, h.secret_sealed, h.headers_sealed, h.attempts_max,
    string_to_array(h.events, chr(31)), clock()
  from hook h
),
listening as (
  insert into listeners (bucket, execution_id, namespace)
  select $1, h.execution_id, h.namespace
  from hook h
  where h.events is not null
  group by h.execution_id, h.namespace
)
select i.n, clock() as created_at, case when q.status_reason = 'scheduled' then q.available_at end as scheduled_at,
  case when q.state = 'blocked' then q.line end as blocked_by, q.attempt, q.version, q.deadline_in_seconds
from queued q
join item i on i.id = q.id
"""

# Of each fairness key and target, how many are ready: no more than are asked for are counted.
READY_OF = """
select w.target, w.fairness_key, count(q.id) as ready
from unnest($3::text[], $4::text[]) as w(target, fairness_key)
cross join lateral (
  select id
  from queue
  where bucket = $1
    and namespace = $2
    and target = w.target
    and fairness_key = w.fairness_key
    and state = 'ready'
  limit $5
) q
group by w.target, w.fairness_key
"""

# In the order of their keys, as everybody takes limits. Nothing waits for these rows that we wait for: whoever holds a
# limit takes only such rows of the queue as are free.
DECLARE = """
insert into limits (bucket, namespace, key, concurrency_max, updated_at)
select $1, l.namespace, l.key, l.concurrency_max, clock()
from unnest($2::smallint[], $3::text[], $4::int[]) as l(namespace, key, concurrency_max)
order by l.namespace, l.key
on conflict (bucket, namespace, key) do update
set concurrency_max = excluded.concurrency_max, updated_at = excluded.updated_at
where limits.concurrency_max is distinct from excluded.concurrency_max
"""


async def accept(
    conn: Connection, batch: Sequence[Submission], offers: Offers = NO_OFFERS, begun: Begun | None = None
) -> list[Accepted | ControlPlaneError]:
    """Once this returns, the execution is in the database and will come to exactly one end.

    Moves: nothing → ready, or → delayed when it is asked for later, or → blocked when it has to be let in, or → leased
    by the session that it is offered to. Guard: the id is the caller's own, so the same submission twice is one
    execution; the idempotency key is unique; a child is accepted only while the attempt that asks holds its lease; a
    step has one child, which every later request for it is answered with; a session takes nothing that a claim would
    not give it.
    Raises: per item LeaseLost, IdempotencyConflict, Invalid when the step is no call.
    """
    answers: dict[UUID, Accepted | ControlPlaneError] = {}
    parts = list(by_bucket(batch, lambda item: item.id))
    if len(parts) == 1 and all(map(_stands_alone, batch)):
        answers.update(await _accept_alone(conn, *parts[0], offers, begun))
    else:
        async with conn.transaction():
            for bucket, part in parts:
                answers.update(await _accept(conn, bucket, part, offers, begun))
    return [answers[item.id] for item in batch]


def _stands_alone(item: Submission) -> bool:
    """Whether nothing has to be held for it, and nothing is written but rows of its own."""
    refers = item.parent_id is not None or item.source_execution_id is not None
    brings = item.idempotency_key is not None or item.step is not None or item.concurrency_max is not None
    return not (refers or brings)


async def _accept_alone(
    conn: Connection, bucket: int, part: list[Submission], offers: Offers, begun: Begun | None
) -> dict[UUID, Accepted]:
    """One statement that commits by itself: begin and commit would be two more round trips of three."""
    new = await _insert(conn, bucket, part, offers, begun)
    return new | await accepted_before(conn, bucket, [item for item in part if item.id not in new])


async def _accept(
    conn: Connection, bucket: int, part: list[Submission], offers: Offers, begun: Begun | None
) -> dict[UUID, Accepted | ControlPlaneError]:
    answers = await admit(conn, bucket, part)
    fresh = [item for item in part if item.id not in answers]
    new = await enqueue(conn, bucket, fresh, offers, begun)
    answers |= await accepted_before(conn, bucket, [item for item in fresh if item.id not in new])
    return answers | new


async def admit(conn: Connection, bucket: int, part: list[Submission]) -> dict[UUID, Accepted | ControlPlaneError]:
    """Answers for those that are not to be accepted now: children of a stale attempt, keys and steps of others.

    The parents of the others keep their leases until this transaction ends, and the keys and steps of the others are
    theirs. Nothing has both.
    """
    answers: dict[UUID, Accepted | ControlPlaneError] = {}
    fences = {item.id: fence for item in part if (fence := _parent_fence(item))}
    held = await hold.share(conn, bucket, fences.values())
    answers.update(
        await _refuse(conn, bucket, [one for one in part if one.id in fences and fences[one.id] not in held])
    )
    rest = [item for item in part if item.id not in answers]
    answers.update(await _forgotten(conn, bucket, rest))
    rest = [item for item in part if item.id not in answers]
    answers.update(await _used_keys(conn, bucket, [item for item in rest if item.idempotency_key is not None]))
    answers.update(await _recorded_calls(conn, bucket, [item for item in rest if item.step is not None]))
    return answers


def _parent_fence(item: Submission) -> Fence | None:
    if item.parent_id is None or item.parent_attempt is None:
        return None
    return Fence(ExecutionId(item.parent_id), item.parent_attempt)


async def _refuse(conn: Connection, bucket: int, stale: list[Submission]) -> dict[UUID, Accepted | ControlPlaneError]:
    """Children whose parent attempt is over, but for those that an earlier flush accepted while it was not."""
    before = await accepted_before(conn, bucket, stale)
    lost = "The parent attempt no longer holds its lease; the child was not accepted."
    return {item.id: before.get(item.id) or LeaseLost(lost) for item in stale}


async def _forgotten(conn: Connection, bucket: int, part: list[Submission]) -> dict[UUID, Accepted | ControlPlaneError]:
    """Those that refer to an execution which was there a moment ago and has been forgotten since."""
    referring = {item.id: ids for item in part if (ids := _referred(item))}
    kept = await hold.keep(conn, bucket, {id_ for ids in referring.values() for id_ in ids})
    gone = ExecutionNotFound("The execution that it refers to is not kept any more; nothing was accepted.")
    return {id_: gone for id_, ids in referring.items() if not ids <= kept}


def _referred(item: Submission) -> set[UUID]:
    """What must stay as long as this: its source, and a parent that no lease holds."""
    parent = None if item.parent_attempt is not None else item.parent_id
    return {id_ for id_ in (parent, item.source_execution_id) if id_ is not None}


async def _used_keys(
    conn: Connection, bucket: int, keyed: list[Submission]
) -> dict[UUID, Accepted | ControlPlaneError]:
    """Answers for those whose key was used before; the others own their key from here on."""
    if not keyed:
        return {}
    taken = await conn.fetch(
        TAKE_KEYS,
        bucket,
        [item.namespace for item in keyed],
        [item.idempotency_scope for item in keyed],
        [item.idempotency_key for item in keyed],
        [item.id for item in keyed],
        [item.request_hash for item in keyed],
        float(IDEMPOTENCY_SECONDS),
    )
    ours = {row["execution_id"] for row in taken}
    used = [item for item in keyed if item.id not in ours]
    if not used:
        return {}
    earlier, accepted = await _kept(conn, bucket, used)
    answers: dict[UUID, Accepted | ControlPlaneError] = {}
    for item in used:
        row = earlier.get(_key(item))
        if row is None:
            raise Raced  # the key expired between the two looks
        if row["execution_id"] == item.id:
            continue  # our own earlier try, whose answer was lost
        if row["request_hash"] != item.request_hash:
            answers[item.id] = _conflict()
            continue
        if row["execution_id"] not in accepted:
            raise Raced  # forgotten between the two looks, after its key
        answers[item.id] = _accepted(accepted[row["execution_id"]], replayed=True)
    return answers


async def _kept(
    conn: Connection, bucket: int, keyed: list[Submission]
) -> tuple[dict[Key, asyncpg.Record], dict[UUID, asyncpg.Record]]:
    """What is kept under the keys of these, and the executions that it names."""
    rows = await conn.fetch(
        READ_KEYS,
        bucket,
        [item.namespace for item in keyed],
        [item.idempotency_scope for item in keyed],
        [item.idempotency_key for item in keyed],
    )
    earlier = {(row["namespace"], row["scope"], row["key"]): row for row in rows}
    return earlier, await _read(conn, bucket, [row["execution_id"] for row in rows])


def _key(item: Submission) -> Key:
    return item.namespace, item.idempotency_scope, item.idempotency_key


async def _recorded_calls(
    conn: Connection, bucket: int, calls: list[Submission]
) -> dict[UUID, Accepted | ControlPlaneError]:
    """Answers for those whose step has a child already; the steps of the others are theirs from here on."""
    if not calls:
        return {}
    taken = await conn.fetch(
        TAKE_STEPS,
        bucket,
        [item.parent_id for item in calls],
        [item.step for item in calls],
        [item.namespace for item in calls],
        [item.parent_attempt for item in calls],
        [item.id for item in calls],
    )
    ours = {row["child_id"] for row in taken}
    used = [item for item in calls if item.id not in ours]
    if not used:
        return {}
    rows = await conn.fetch(READ_STEPS, bucket, [item.parent_id for item in used], [item.step for item in used])
    steps = {(row["execution_id"], row["name"]): row for row in rows}
    accepted = await _read(conn, bucket, [row["child_id"] for row in rows if row["child_id"] is not None])
    answers: dict[UUID, Accepted | ControlPlaneError] = {}
    for item in used:
        step = steps[item.parent_id, item.step]
        if step["child_id"] is None:
            answers[item.id] = Invalid(f"This step is no call but of the kind {step['kind']}.", where="body.step")
        elif step["child_id"] != item.id:  # else our own earlier try, whose answer was lost
            answers[item.id] = _accepted(accepted[step["child_id"]], replayed=True)
    return answers


async def reserve(conn: Connection, id_: UUID, *, namespace: int, scope: str, key: str, request_hash: bytes) -> UUID:
    """Keep this id under an idempotency key, for a request that asks for many executions at once.

    Answers the id that the first such request brought, for 24 hours. Guard: the key is unique.
    Raises: IdempotencyConflict when the key was used with another request.
    """
    bucket = bucket_of(id_)
    for _ in range(RESERVE_TRIES):
        if await conn.fetch(
            TAKE_KEYS, bucket, [namespace], [scope], [key], [id_], [request_hash], float(IDEMPOTENCY_SECONDS)
        ):
            return id_
        row = await conn.fetchrow(READ_KEYS, bucket, [namespace], [scope], [key])
        if row is not None:
            if row["request_hash"] != request_hash:
                raise _conflict()
            kept: UUID = row["execution_id"]
            return kept
    raise DatabaseUnavailable("The idempotency key expires again and again; try again.")


def _conflict() -> IdempotencyConflict:
    return IdempotencyConflict(
        "This idempotency key was used before with another request.",
        where="Idempotency-Key",
        fix="Use a new key for a new request, or send the very same body again.",
    )


async def enqueue(
    conn: Connection, bucket: int, fresh: list[Submission], offers: Offers = NO_OFFERS, begun: Begun | None = None
) -> dict[UUID, Accepted]:
    """Put these into the queue, with their webhooks; the answers of those that were not there before."""
    if not fresh:
        return {}
    accepted = await _insert(conn, bucket, fresh, offers, begun)
    await _declare(conn, [item for item in fresh if item.id in accepted])
    return accepted


async def _insert(
    conn: Connection, bucket: int, fresh: list[Submission], offers: Offers, begun: Begun | None
) -> dict[UUID, Accepted]:
    """All rows of their own of these; the answers of those that were not there before."""
    held_back = await _held_back(conn, bucket, fresh)
    takers = {session.id: session for item in fresh if (session := offers.get(item.id)) is not None}
    hooks = [(item, n, webhook) for item in fresh for n, webhook in item.hooks]
    now = time.monotonic()
    rows = await conn.fetch(
        INSERT,
        bucket,
        [item.id for item in fresh],
        _once([item.namespace for item in fresh]),
        [item.run_id for item in fresh],
        _said([None if item.root_id is item.id else item.root_id for item in fresh]),
        _said([item.parent_id for item in fresh]),
        _said([item.source_execution_id for item in fresh]),
        _once([item.target for item in fresh]),
        _once([item.type for item in fresh]),
        [item.input for item in fresh],
        _said([item.context for item in fresh]),
        _said([item.session_key for item in fresh]),
        _said([item.actor_key for item in fresh]),
        _once([item.priority for item in fresh]),
        _once([item.retry.retries_max for item in fresh]),
        _once([item.retry.delay_seconds for item in fresh]),
        _once([item.retry.factor for item in fresh]),
        _once([item.retry.cap_seconds for item in fresh]),
        _said([item.timeout_seconds for item in fresh]),
        _once([len(item.webhooks) for item in fresh]),
        _said([None if item.replay is None else item.replay.source_run_id for item in fresh]),
        _said([None if item.replay is None else item.replay.before_id for item in fresh]),
        _said([None if item.replay is None else item.replay.mode.value for item in fresh]),
        _once([item.delay_seconds for item in fresh]),
        _said([item.run_at for item in fresh]),
        _once([item.retry.jitter for item in fresh]),
        _said([APART.join(item.retry.fatal_errors) or None for item in fresh]),
        _said([APART.join(item.retry.retry_errors) or None for item in fresh]),
        _said([item.schedule_to_start_seconds for item in fresh]),
        _said([item.total_seconds for item in fresh]),
        _said([item.heartbeat_seconds for item in fresh]),
        _once([item.on_parent_end.value for item in fresh]),
        _said([item.concurrency_key for item in fresh]),
        _said([item.fairness_key for item in fresh]),
        _said([_line(item) for item in fresh]),
        _once([item.id in held_back for item in fresh]),
        _said([item.origin for item in fresh]),
        [item.id for item, _, _ in hooks],
        [n for _, n, _ in hooks],
        [item.namespace for item, _, _ in hooks],
        [webhook.url for _, _, webhook in hooks],
        [webhook.host for _, _, webhook in hooks],
        [webhook.secret_sealed for _, _, webhook in hooks],
        [webhook.headers_sealed for _, _, webhook in hooks],
        [webhook.attempts_max for _, _, webhook in hooks],
        [APART.join(webhook.events) or None for _, _, webhook in hooks],
        [offers[item.id].id if item.id in offers else None for item in fresh] if takers else [],
        list(takers),
        [session.node_id for session in takers.values()],
        [session.started for session in takers.values()],
    )
    accepted: dict[UUID, Accepted] = {}
    for row in rows:
        item = fresh[row["n"] - 1]
        accepted[item.id] = Accepted(
            id=item.id,
            run_id=item.run_id,
            created_at=rows[0]["created_at"],
            scheduled_at=row["scheduled_at"],
            blocked_by=row["blocked_by"],
            lease=_lease(item, row) if row["attempt"] else None,
        )
        if row["attempt"] and begun is not None:
            session = offers[item.id]
            begun.keep(item, session_id=session.id, version=row["version"], at=row["created_at"], now=now)
    return accepted


def _lease(item: Submission, row: asyncpg.Record) -> Lease:
    """What the session is handed: the first attempt, of which all is known that a claim would read."""
    return Lease(
        execution_id=item.id,
        attempt=row["attempt"],
        failures=0,
        namespace=item.namespace,
        target=item.target,
        type=item.type,
        run_id=item.run_id,
        root_id=item.root_id,
        parent_id=item.parent_id,
        session_key=item.session_key,
        actor_key=item.actor_key,
        input=item.input,
        context=item.context,
        timeout_seconds=item.timeout_seconds,
        deadline_in_seconds=row["deadline_in_seconds"],
        heartbeat_seconds=item.heartbeat_seconds,
        replay=item.replay,
        created_at=row["created_at"],
    )


def _said(column: list[Any]) -> list[Any]:
    """A column that says nothing is not sent: `unnest` fills up the shorter ones with nulls."""
    return column if column.count(None) < len(column) else []


def _once(column: list[Any]) -> list[Any]:
    """A column that says the same of all, and never nothing, is sent as its first value."""
    return column if column.count(column[0]) < len(column) else column[:1]


def _line(item: Submission) -> str | None:
    if item.line is None and item.fairness_key is not None:
        return TURN + item.target
    return item.line


async def _held_back(conn: Connection, bucket: int, fresh: list[Submission]) -> set[UUID]:
    """Those that have to be let in first: what a limit counts, and of each fairness key what is beyond its window.

    Two flushes that look at once may both fill the window; it is no limit, only a turn.
    """
    back: set[UUID] = {item.id for item in fresh if item.line is not None}
    turns = [item for item in fresh if item.line is None and item.fairness_key is not None]
    if not turns:
        return back
    pairs = {(item.namespace, item.target, item.fairness_key) for item in turns}
    ready: dict[tuple[int, str, str | None], int] = {}
    for namespace in {item.namespace for item in turns}:
        asked = [pair[1:] for pair in pairs if pair[0] == namespace]
        found = await ready_of(conn, bucket, namespace, [(target, key) for target, key in asked if key is not None])
        ready |= {(namespace, *pair): count for pair, count in found.items()}
    for item in turns:
        pair = (item.namespace, item.target, item.fairness_key)
        if ready.get(pair, 0) >= READY_MAX:
            back.add(item.id)
        elif not item.delay_seconds and item.run_at is None:
            ready[pair] = ready.get(pair, 0) + 1
    return back


async def ready_of(
    conn: Connection, bucket: int, namespace: int, pairs: Collection[tuple[str, str]]
) -> dict[tuple[str, str], int]:
    """How many of each target and fairness key are ready, counted up to the window; those without any are left out."""
    rows = await conn.fetch(
        READY_OF, bucket, namespace, [target for target, _ in pairs], [key for _, key in pairs], READY_MAX
    )
    return {(row["target"], row["fairness_key"]): row["ready"] for row in rows}


async def _declare(conn: Connection, fresh: list[Submission]) -> None:
    """The limits that come with their key: the last word counts."""
    said = {
        (item.limit_bucket, item.namespace, KEY + item.concurrency_key): item.concurrency_max
        for item in fresh
        if item.concurrency_key is not None and item.concurrency_max is not None
    }
    for place, part in by_place(said, lambda one: one[0]):
        await conn.execute(
            DECLARE, place, [one[1] for one in part], [one[2] for one in part], [said[one] for one in part]
        )


async def before(conn: Connection, batch: Sequence[Submission]) -> dict[UUID, Accepted | ControlPlaneError]:
    """The answers of those that were accepted before: by their own id, their idempotency key, or their step.

    Changes nothing. Raises nothing: a key that was used with another request is answered as `accept` does.
    """
    answers: dict[UUID, Accepted | ControlPlaneError] = {}
    for bucket, part in by_bucket(batch, lambda item: item.id):
        answers |= await accepted_before(conn, bucket, part)
        rest = [item for item in part if item.id not in answers]
        answers |= await _keyed_before(conn, bucket, [item for item in rest if item.idempotency_key is not None])
        calls = [item for item in rest if item.step is not None]
        rows = await conn.fetch(READ_STEPS, bucket, [item.parent_id for item in calls], [item.step for item in calls])
        steps = {(row["execution_id"], row["name"]): row["child_id"] for row in rows}
        accepted = await _read(conn, bucket, [id_ for id_ in steps.values() if id_ is not None])
        for item in calls:
            child_id = steps.get((item.parent_id, item.step))
            if child_id in accepted:
                answers[item.id] = _accepted(accepted[child_id], replayed=True)
    if answers:
        await confirm(conn)
    return answers


async def _keyed_before(
    conn: Connection, bucket: int, keyed: list[Submission]
) -> dict[UUID, Accepted | ControlPlaneError]:
    """Of those whose key is kept."""
    if not keyed:
        return {}
    earlier, accepted = await _kept(conn, bucket, keyed)
    answers: dict[UUID, Accepted | ControlPlaneError] = {}
    for item in keyed:
        row = earlier.get(_key(item))
        if row is None or row["execution_id"] not in accepted:
            continue  # never used, or forgotten since
        same = row["request_hash"] == item.request_hash
        answers[item.id] = _accepted(accepted[row["execution_id"]], replayed=True) if same else _conflict()
    return answers


async def accepted_before(conn: Connection, bucket: int, part: list[Submission]) -> dict[UUID, Accepted]:
    """The answers of those that an earlier flush of these very ids accepted, and whose answer was lost."""
    before = await _read(conn, bucket, [item.id for item in part]) if part else {}
    return {id_: _accepted(row) for id_, row in before.items()}


def _accepted(row: asyncpg.Record, *, replayed: bool = False) -> Accepted:
    return Accepted(
        id=ExecutionId(row["id"]),
        run_id=row["run_id"],
        created_at=row["created_at"],
        scheduled_at=row["scheduled_at"],
        blocked_by=row["blocked_by"],
        replayed=replayed,
    )


async def _read(conn: Connection, bucket: int, ids: list[UUID]) -> dict[UUID, asyncpg.Record]:
    return {row["id"]: row for row in await conn.fetch(READ_ACCEPTED, bucket, ids, *span(ids))}
