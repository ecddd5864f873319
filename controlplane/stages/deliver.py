"""Deliver: somebody is told. Claim what is due, give the connection back, send, settle.

submit ──► lease ──► complete ──► finish ──► *deliver*
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from controlplane.domain.approval import CALLBACK_N, callback_attempt
from controlplane.domain.delivery import Attempt, AttemptOutcome, DeliveryState
from controlplane.domain.endpoint import Endpoint, EndpointState
from controlplane.domain.event import Event, EventType
from controlplane.domain.ids import DeliveryId, bucket_of, show
from controlplane.domain.placement import by_bucket, by_place
from controlplane.errors import ControlPlaneError, DeliveryNotFound, LeaseLost
from controlplane.postgres.pool import Connection
from controlplane.stages import endpoint, record
from controlplane.stages.endpoint import PATIENCE, Disabled, Noted, Patience

log = logging.getLogger(__name__)

UNKNOWN_MAX = 20
GONE_STATUS = 410

EVENT_OF = {DeliveryState.DELIVERED: EventType.DELIVERED, DeliveryState.DEAD: EventType.DELIVERY_DEAD}

# From host to host: one index probe finds the next host with something pending, a second takes what is due of it. A
# receiver with 50,000 waiting deliveries costs as much as one with a single one and delays nobody else. The walk starts
# after the last host that was visited and is cut after 200, so that 10,000 hosts cost no more than 200. Where it was
# cut is said even when nothing was due, or hosts that wait would hide those behind them.
CLAIM_DUE = """
with recursive hosts(host, n) as (
  (
    select host, 1
    from deliveries
    where bucket = $1
      and state = 'pending'
      and host > $2
    order by host
    limit 1
  )
  union all
  select (
    select d.host
    from deliveries d
    where d.bucket = $1
      and d.state = 'pending'
      and d.host > hosts.host
    order by d.host
    limit 1
  ), hosts.n + 1
  from hosts
  where hosts.host is not null
    and hosts.n < 200
),
pick as materialized (
  select d.id, hosts.host
  from hosts
  cross join lateral (
    select id
    from deliveries
    where bucket = $1
      and state = 'pending'
      and host = hosts.host
      and next_at <= clock()
    order by next_at
    limit $4
    for update skip locked
  ) d
  where hosts.host is not null
    and hosts.host <> all($3::text[])
  limit $5
),
walked as (
  select case
    when (select count(*) from pick) >= $5 then (select max(host) from pick)
    when (select max(n) from hosts where host is not null) >= 200 then (select max(host) from hosts)
    else ''
  end as after_host
),
took as (
  update deliveries
  set state = 'leased',
    attempt = attempt + 1,
    lease_until = clock() + make_interval(secs => $6)
  where bucket = $1
    and id = any(array(select id from pick))
  returning id, execution_id, coalesce(webhook_n, heard_n) as webhook_n, endpoint_id, event, host, url, body, attempt,
    charged, attempts_max, extract(epoch from clock())::float8 as now_seconds
)
select walked.after_host, took.id, took.execution_id, took.webhook_n, took.endpoint_id, took.event, took.host, took.url,
  took.body, took.attempt, took.charged, took.attempts_max, took.now_seconds
from walked
left join took on true
"""

READ_SEALED = """
select execution_id, n, secret_sealed, headers_sealed
from webhooks
where bucket = $1
  and execution_id = any($2::uuid[])
"""

# As it is now: its secrets sign, and what is pending goes where it is, wherever it was when it was told of.
READ_ENDPOINTS = """
select id, namespace, name, description, url, host, events, targets, schedule, secret_sealed, previous_sealed,
  previous_until, headers_sealed, state, disabled_at, disabled_by, disabled_reason, dead_streak, failing_since,
  created_at, updated_at, clock() as now
from endpoints
where bucket = $1
  and id = any($2::uuid[])
"""

# Nothing was sent. It waits for the day that never comes, until somebody enables its endpoint (`announce.release`).
PARK = """
update deliveries d
set state = 'pending',
  next_at = 'infinity',
  lease_until = null
from unnest($2::uuid[], $3::int[]) as s(id, attempt)
where d.bucket = $1
  and d.id = s.id
  and d.attempt = s.attempt
  and d.state = 'leased'
"""

READ_HELD = """
select id, attempt
from queue
where bucket = $1
  and id = any($2::uuid[])
  and session_id is not null
"""

SETTLE = """
update deliveries d
set state = s.state,
  charged = d.charged + s.charge,
  unknown = 0,
  next_at = clock() + make_interval(secs => s.wait_seconds),
  lease_until = null,
  settled_at = case when s.state in ('delivered', 'dead') then clock() end
from unnest($2::uuid[], $3::int[], $4::text[], $5::smallint[], $6::float8[])
  as s(id, attempt, state, charge, wait_seconds)
where d.bucket = $1
  and d.id = s.id
  and d.attempt = s.attempt
  and d.state = 'leased'
returning d.id, d.attempt, d.namespace
"""

RECORD_ATTEMPTS = """
insert into delivery_attempts (
  bucket, delivery_id, attempt, namespace, outcome, http_status, latency_ms, error, response_body, at
)
select $1, a.delivery_id, a.attempt, a.namespace, a.outcome, a.http_status, a.latency_ms, a.error, a.response_body,
  clock()
from unnest(
  $2::uuid[], $3::int[], $4::smallint[], $5::text[], $6::smallint[], $7::int[], $8::text[], $9::bytea[]
) as a(delivery_id, attempt, namespace, outcome, http_status, latency_ms, error, response_body)
on conflict (bucket, delivery_id, attempt) do nothing
"""

READ_ATTEMPTS = """
select delivery_id, attempt
from delivery_attempts
where bucket = $1
  and delivery_id = any($2::uuid[])
  and attempt = any($3::int[])
  and outcome <> 'unknown'
"""

READ_RUNS = """
select id, namespace, run_id, target
from executions
where bucket = $1
  and id = any($2::uuid[])
"""

RECLAIM = """
update deliveries
set state = case when unknown >= $3 then 'dead' else 'pending' end,
  unknown = unknown + 1,
  next_at = clock(),
  lease_until = null,
  settled_at = case when unknown >= $3 then clock() end
where bucket = $1
  and id = any(array(
    select id
    from deliveries
    where bucket = $1
      and state = 'leased'
      and lease_until < clock()
    order by lease_until
    limit $2
    for update skip locked
  ))
returning id, attempt, namespace, execution_id, state
"""

RETRY = """
update deliveries
set state = 'pending',
  next_at = clock(),
  charged = 0,
  unknown = 0,
  settled_at = null
where bucket = $1
  and id = $2
  and namespace = $3
  and state in ('delivered', 'dead')
returning execution_id, namespace
"""

# Only what is dead still: whoever was first has sent it again, and it may have been delivered since.
REDRIVE = """
update deliveries
set state = 'pending',
  next_at = clock(),
  charged = 0,
  unknown = 0,
  settled_at = null
where bucket = $1
  and id = any(array(
    select id
    from deliveries
    where bucket = $1
      and id = any($2::uuid[])
      and namespace = $3
      and state = 'dead'
      and settled_at <= $4
    order by id
    for update
  ))
returning id, execution_id
"""

HURRY = """
update deliveries
set next_at = clock()
where bucket = $1
  and id = $2
  and namespace = $3
  and state = 'pending'
returning id
"""

EXISTS = "select 1 from deliveries where bucket = $1 and id = $2 and namespace = $3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A delivery whose time has come, leased to this process until it is settled or its lease runs out.

    `moot`: a callback to an attempt that no longer holds its lease. Whoever listens there now asks for itself.
    `webhook_n` None: it goes to an endpoint, `endpoint` as it is now, or None when it is not there any more.
    """

    id: DeliveryId
    execution_id: UUID
    webhook_n: int | None
    event: str
    host: str
    url: str
    body: bytes
    attempt: int
    charged: int
    attempts_max: int
    secret_sealed: bytes | None
    headers_sealed: bytes | None
    now_seconds: float
    moot: bool = False
    endpoint_id: UUID | None = None
    endpoint: Endpoint | None = None

    @property
    def callback(self) -> bool:
        """Whether it goes to a process of a node, and not to the receiver of a webhook."""
        return self.webhook_n == CALLBACK_N


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """What was due, and the host that the next walk begins behind; empty when this one came to the last."""

    due: tuple[Due, ...]
    after_host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of one attempt, and what follows from it."""

    due: Due
    attempt: Attempt
    state: DeliveryState
    wait_seconds: float


async def claim_due(
    conn: Connection,
    bucket: int,
    *,
    after_host: str,
    full_hosts: Sequence[str],
    per_host: int,
    limit: int,
    lease_seconds: float,
) -> Claimed:
    """Take due deliveries, a few of every host, none of the hosts that are full.

    What is due for an endpoint that is disabled is parked and not among them.
    Moves: pending → leased, attempt + 1. Guard: `for update skip locked`; the attempt fences what is written later.
    """
    found = await conn.fetch(CLAIM_DUE, bucket, after_host, full_hosts, per_host, limit, lease_seconds)
    rows = [row for row in found if row["id"] is not None]
    sealed = await conn.fetch(READ_SEALED, bucket, list({row["execution_id"] for row in rows})) if rows else []
    by_webhook = {(row["execution_id"], row["n"]): row for row in sealed}
    moot = await _moot(conn, bucket, [row for row in rows if row["webhook_n"] == CALLBACK_N])
    endpoints = await _endpoints(conn, {row["endpoint_id"] for row in rows if row["endpoint_id"] is not None})
    disabled = {id_ for id_, one in endpoints.items() if one.state is EndpointState.DISABLED}
    parked = [row for row in rows if row["endpoint_id"] in disabled]
    if parked:
        await conn.execute(PARK, bucket, [row["id"] for row in parked], [row["attempt"] for row in parked])
    return Claimed(
        due=tuple(
            _due(
                row,
                by_webhook.get((row["execution_id"], row["webhook_n"])),
                moot=row["id"] in moot,
                to=endpoints.get(row["endpoint_id"]),
            )
            for row in rows
            if row["endpoint_id"] not in disabled
        ),
        after_host=found[0]["after_host"],
    )


async def _endpoints(conn: Connection, ids: set[UUID]) -> dict[UUID, Endpoint]:
    """Those of these endpoints that there are."""
    found: dict[UUID, Endpoint] = {}
    for bucket, part in by_place(sorted(ids), bucket_of):
        rows = await conn.fetch(READ_ENDPOINTS, bucket, part)
        found |= {row["id"]: Endpoint.from_row(row) for row in rows}
    return found


async def _moot(conn: Connection, bucket: int, callbacks: Sequence[asyncpg.Record]) -> set[UUID]:
    """Those of these callbacks that nobody waits for any more."""
    if not callbacks:
        return set()
    held = await conn.fetch(READ_HELD, bucket, list({row["execution_id"] for row in callbacks}))
    live = {(row["id"], row["attempt"]) for row in held}
    return {row["id"] for row in callbacks if (row["execution_id"], callback_attempt(row["event"])) not in live}


async def settle(
    conn: Connection, batch: Sequence[Sent], patience: Patience = PATIENCE
) -> list[ControlPlaneError | None]:
    """Write down what the receiver answered, and when to try again if it must be.

    How an endpoint does is noted with it; one that has failed for longer than the `patience` is disabled.
    Moves: leased → delivered, dead, or pending after a wait. Guard: the attempt number; an attempt that outlived its
    lease changes nothing, one that was settled before is settled. Raises: per item LeaseLost.
    """
    written: set[tuple[UUID, int]] = set()
    news: list[Sent] = []
    async with conn.transaction():
        for bucket, part in by_bucket(batch, lambda item: item.due.id):
            written |= await _settle(conn, bucket, sorted(part, key=lambda item: item.due.id), news)
        disabled = await _note(conn, news, patience)
    for one in disabled:
        facts = {"endpoint_id": show("ep", one.id), "endpoint": one.name, "reason": one.reason}
        log.warning("endpoint.disabled", extra=facts | {"namespace": one.namespace})
    return [None if _attempt(item) in written else LeaseLost() for item in batch]


async def _note(conn: Connection, news: list[Sent], patience: Patience) -> list[Disabled]:
    """How the endpoints do that these went to. What was disabled is told with the execution that was the last straw."""
    theirs = [item for item in news if item.due.endpoint is not None]
    if not theirs:
        return []
    noted = [
        Noted(
            endpoint_id=item.due.endpoint.id,
            taken=item.state is DeliveryState.DELIVERED,
            dead=item.state is DeliveryState.DEAD,
            gone=item.attempt.http_status == GONE_STATUS,
        )
        for item in theirs
        if item.due.endpoint is not None
    ]
    disabled = await endpoint.note(conn, noted, patience)
    last = {item.due.endpoint_id: item.due.execution_id for item in theirs if item.state is DeliveryState.DEAD}
    for one in disabled:
        id_ = last[one.id]
        facts = {"endpoint_id": show("ep", one.id), "name": one.name, "reason": one.reason}
        await _tell(conn, bucket_of(id_), [(id_, json.dumps(facts).encode(), EventType.ENDPOINT_DISABLED)])
    return disabled


async def _settle(conn: Connection, bucket: int, part: list[Sent], news: list[Sent]) -> set[tuple[UUID, int]]:
    """Those that are settled now or were before; `news` gets the former."""
    rows = await conn.fetch(
        SETTLE,
        bucket,
        [item.due.id for item in part],
        [item.due.attempt for item in part],
        [item.state.value for item in part],
        [1] * len(part),
        [item.wait_seconds for item in part],
    )
    settled = {(row["id"], row["attempt"]): row for row in rows}
    mine = [item for item in part if _attempt(item) in settled]
    news += mine
    await conn.execute(
        RECORD_ATTEMPTS,
        bucket,
        [item.due.id for item in mine],
        [item.due.attempt for item in mine],
        [settled[_attempt(item)]["namespace"] for item in mine],
        [item.attempt.outcome.value for item in mine],
        [item.attempt.http_status for item in mine],
        [item.attempt.latency_ms for item in mine],
        [item.attempt.error for item in mine],
        [item.attempt.response_body for item in mine],
    )
    ended = [item for item in mine if item.state in (DeliveryState.DELIVERED, DeliveryState.DEAD)]
    await _tell(conn, bucket, [(item.due.execution_id, _fact(item.due.id), EVENT_OF[item.state]) for item in ended])
    return set(settled) | await _settled_before(conn, bucket, [item for item in part if _attempt(item) not in settled])


async def _settled_before(conn: Connection, bucket: int, stale: list[Sent]) -> set[tuple[UUID, int]]:
    """Those that an earlier try wrote down whose answer was lost."""
    if not stale:
        return set()
    ids, attempts = [item.due.id for item in stale], [item.due.attempt for item in stale]
    rows = await conn.fetch(READ_ATTEMPTS, bucket, ids, attempts)
    return {(row["delivery_id"], row["attempt"]) for row in rows}


def _attempt(item: Sent) -> tuple[UUID, int]:
    return item.due.id, item.due.attempt


async def reclaim(conn: Connection, bucket: int, *, limit: int = 256) -> int:
    """Take back deliveries whose dispatcher died in the middle; nobody knows whether the receiver was told.

    Moves: leased → pending at once, not charged (dead after too many in a row). Guard: `lease_until` by the database's
    clock, the attempt number against the dispatcher that comes back late.
    """
    async with conn.transaction():
        rows = await conn.fetch(RECLAIM, bucket, limit, UNKNOWN_MAX)
        if not rows:
            return 0
        await conn.execute(
            RECORD_ATTEMPTS,
            bucket,
            [row["id"] for row in rows],
            [row["attempt"] for row in rows],
            [row["namespace"] for row in rows],
            [AttemptOutcome.UNKNOWN.value] * len(rows),
            [None] * len(rows),
            [None] * len(rows),
            ["the dispatcher died before it knew the answer"] * len(rows),
            [None] * len(rows),
        )
        dead = [row for row in rows if row["state"] == DeliveryState.DEAD]
        await _tell(conn, bucket, [(row["execution_id"], _fact(row["id"]), EventType.DELIVERY_DEAD) for row in dead])
    return len(rows)


async def retry(conn: Connection, delivery_id: DeliveryId, *, namespace: int) -> None:
    """Send this delivery again, now, with the schedule from its beginning; the id and the bytes stay the same.

    Moves: delivered, dead → pending; a pending one is due at once. Raises: DeliveryNotFound.
    """
    bucket = bucket_of(delivery_id)
    async with conn.transaction():
        row = await conn.fetchrow(RETRY, bucket, delivery_id, namespace)
        if row is not None:
            await _tell(conn, bucket, [(row["execution_id"], _fact(delivery_id), EventType.DELIVERY_RETRIED)])
            return
        if await conn.fetchval(HURRY, bucket, delivery_id, namespace) is None and not await conn.fetchval(
            EXISTS, bucket, delivery_id, namespace
        ):
            raise DeliveryNotFound


async def redrive(
    conn: Connection, bucket: int, ids: Sequence[UUID], *, namespace: int, dead_before: datetime
) -> set[UUID]:
    """Send those of these deliveries again, now, that are dead and were so at that moment; says which.

    Moves: dead → pending, with the schedule from its beginning. Guard: the state in the locked row.
    """
    async with conn.transaction():
        rows = await conn.fetch(REDRIVE, bucket, ids, namespace, dead_before)
        await _tell(conn, bucket, [(row["execution_id"], _fact(row["id"]), EventType.DELIVERY_RETRIED) for row in rows])
    return {row["id"] for row in rows}


def _fact(delivery_id: UUID) -> bytes:
    return b'{"delivery_id":"%b"}' % show("dlv", delivery_id).encode()


async def _tell(conn: Connection, bucket: int, told: list[tuple[UUID, bytes, EventType]]) -> None:
    if not told:
        return
    rows = await conn.fetch(READ_RUNS, bucket, [execution_id for execution_id, _, _ in told])
    runs = {row["id"]: row for row in rows}
    await record.append(
        conn,
        bucket,
        [
            Event(
                execution_id=execution_id,
                namespace=runs[execution_id]["namespace"],
                run_id=runs[execution_id]["run_id"],
                target=runs[execution_id]["target"],
                type=type_,
                attempt=0,
                data=data,
            )
            for execution_id, data, type_ in told
        ],
    )


def _due(row: asyncpg.Record, sealed: asyncpg.Record | None, *, moot: bool, to: Endpoint | None) -> Due:
    return Due(
        id=DeliveryId(row["id"]),
        execution_id=row["execution_id"],
        webhook_n=row["webhook_n"],
        event=row["event"],
        host=row["host"],
        url=row["url"] if to is None else to.definition.url,
        body=row["body"],
        attempt=row["attempt"],
        charged=row["charged"],
        attempts_max=row["attempts_max"],
        secret_sealed=None if sealed is None else sealed["secret_sealed"],
        headers_sealed=None if sealed is None else sealed["headers_sealed"],
        now_seconds=row["now_seconds"],
        moot=moot,
        endpoint_id=row["endpoint_id"],
        endpoint=to,
    )
