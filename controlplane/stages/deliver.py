"""Deliver: somebody is told. Claim what is due, give the connection back, send, settle.

submit ──► lease ──► complete ──► finish ──► *deliver*
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from controlplane.domain.approval import CALLBACK_N, callback_attempt
from controlplane.domain.breaker import GIVE_UP_SECONDS, Said, said_by
from controlplane.domain.delivery import ENDPOINT, Attempt, AttemptOutcome, DeliveryState
from controlplane.domain.endpoint import Endpoint, EndpointState
from controlplane.domain.event import Event, EventType
from controlplane.domain.ids import DeliveryId, bucket_of, show
from controlplane.domain.placement import by_bucket, by_place, span
from controlplane.errors import ControlPlaneError, LeaseLost
from controlplane.postgres.pool import Connection
from controlplane.stages import endpoint, record, trip
from controlplane.stages.endpoint import PATIENCE, Disabled, Noted, Patience
from controlplane.stages.trip import Turned

log = logging.getLogger(__name__)

UNKNOWN_MAX = 20
GONE_STATUS = 410

Place = tuple[str, int]
"""A host, and a namespace that sends to it."""

BEGINNING: Place = ("", 0)

EVENT_OF = {DeliveryState.DELIVERED: EventType.DELIVERED, DeliveryState.DEAD: EventType.DELIVERY_DEAD}

# From host to host: one index probe finds the next host with something pending, a second whether its breaker lets it
# pass, a third takes what is due of it. A receiver with 50,000 waiting deliveries costs as much as one with a single
# one and delays nobody else. The walk starts after the last host that was visited and is cut after 200, so that 10,000
# hosts cost no more than 200. Where it was cut is said even when nothing was due, or hosts that wait would hide those
# behind them. $9 and $10 name the hosts to look at instead. Of a host whose window is over one delivery is taken, by
# whoever is the first to move the window on: of two claims at once the second finds the row locked, or moved.
CLAIM_DUE = """
with recursive hosts(host, namespace, n) as (
  (
    select host, namespace, 1
    from deliveries
    where bucket = $1
      and state = 'pending'
      and (host, namespace) > ($2::text, $3::smallint)
      and $9::text[] is null
    order by host, namespace
    limit 1
  )
  union all
  select next.host, next.namespace, hosts.n + 1
  from hosts
  cross join lateral (
    select d.host, d.namespace
    from deliveries d
    where d.bucket = $1
      and d.state = 'pending'
      and (d.host, d.namespace) > (hosts.host, hosts.namespace)
    order by d.host, d.namespace
    limit 1
  ) as next
  where hosts.n < 200
),
gate as materialized (
  select h.host, h.namespace, coalesce(b.failures, 0) > 0 as failing, b.open_until is not null as probe
  from (
    select host, namespace
    from hosts
    union all
    select host, namespace
    from unnest($9::text[], $10::smallint[]) as named(host, namespace)
  ) as h
  left join lateral (
    select failures, open_until, held_until
    from breakers
    where bucket = $1
      and host = h.host
      and namespace = h.namespace
    limit 1
  ) as b on true
  where h.host <> all($4::text[])
    and coalesce(greatest(b.open_until, b.held_until) <= clock(), true)
    and ($8 or coalesce(b.failures, 0) = 0)
),
pick as materialized (
  select d.id, gate.host, gate.namespace, gate.failing, gate.probe
  from gate
  cross join lateral (
    select id
    from deliveries
    where bucket = $1
      and state = 'pending'
      and host = gate.host
      and namespace = gate.namespace
      and next_at <= clock()
    order by next_at
    limit case when gate.probe then 1 else $5 end
    for update skip locked
  ) d
  limit $6
),
free as materialized (
  select b.ctid, b.host
  from pick
  cross join lateral (
    select ctid, host
    from breakers
    where bucket = $1
      and host = pick.host
      and namespace = pick.namespace
      and open_until <= clock()
    for update skip locked
  ) as b
  where pick.probe
),
probed as (
  update breakers
  set open_until = clock() + make_interval(secs => $7)
  where bucket = $1
    and host = any(array(select host from free))
    and ctid = any(array(select ctid from free))
  returning host, namespace
),
walked as (
  select case when (select count(*) from pick) >= $6 or (select max(n) from hosts) >= 200 then true end as cut
),
last as (
  select host, namespace
  from (
    select host, namespace
    from pick
    where (select count(*) from pick) >= $6
    union all
    select host, namespace
    from hosts
    where (select count(*) from pick) < $6
  ) as seen
  order by host desc, namespace desc
  limit 1
),
took as (
  update deliveries
  set state = 'leased',
    attempt = attempt + 1,
    lease_until = clock() + make_interval(secs => $7)
  where bucket = $1
    and id = any(array(
      select pick.id
      from pick
      where not pick.probe
        or (pick.host, pick.namespace) in (select host, namespace from probed)
    ))
  returning id, namespace, execution_id, coalesce(webhook_n, heard_n) as webhook_n, endpoint_id, event, host, url,
    body, attempt, charged, attempts_max, extract(epoch from clock())::float8 as now_seconds
)
select coalesce(last.host, '') as after_host, coalesce(last.namespace, 0) as after_namespace, took.id, took.namespace,
  took.execution_id, took.webhook_n, took.endpoint_id, took.event, took.host, took.url, took.body, took.attempt,
  took.charged, took.attempts_max, took.now_seconds, coalesce(pick.failing, false) as failing,
  coalesce(pick.probe, false) as probe, sealed.secret_sealed, sealed.headers_sealed
from walked
left join last on walked.cut
left join took on true
left join pick on pick.id = took.id
left join lateral (
  select secret_sealed, headers_sealed
  from webhooks
  where bucket = $1
    and execution_id = took.execution_id
    and n = took.webhook_n
  limit 1
) as sealed on true
"""

# Of the newest that were delivered, along an index.
READ_ANSWERED = """
select distinct host, namespace
from (
  select host, namespace
  from deliveries
  where bucket = $1
    and state = 'delivered'
    and settled_at > clock() - make_interval(secs => $2)
  order by settled_at desc
  limit $3
) as newest
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

# Where it stands, what was tried and what is told of it, at once. With $18 only where nothing speaks against the host:
# an answer then leaves its breaker as it is, and nothing has to be written beside it. A failure that is being written
# at this moment counts as one that came after the answer. Rows are found by the list of their ids: joined to what was
# sent alone, a plan made while the table was empty read all of the bucket.
SETTLE = """
with item as materialized (
  select *
  from unnest(
    $2::uuid[], $3::int[], $4::text[], $5::float8[], $6::text[], $7::smallint[], $8::int[], $9::text[], $10::bytea[],
    $11::text[], $12::bytea[], $13::text[], $14::smallint[]
  ) as i(
    id, attempt, state, wait_seconds, outcome, http_status, latency_ms, error, response_body, event, facts, host,
    namespace
  )
  where not $18 or not exists (
    select 1
    from breakers b
    where b.bucket = $1
      and b.host = i.host
      and b.namespace = i.namespace
      and (b.failures > 0 or b.windows > 0)
    offset 0
  )
),
owner as materialized (
  select id, namespace, run_id, target
  from executions
  where bucket = $1
    and id = any($15::uuid[])
    and id between $16 and $17
),
settled as (
  update deliveries d
  set state = s.state,
    charged = d.charged + 1,
    unknown = 0,
    next_at = clock() + make_interval(secs => s.wait_seconds),
    lease_until = null,
    settled_at = case when s.state in ('delivered', 'dead') then clock() end
  from item s
  where d.bucket = $1
    and d.id = any($2::uuid[])
    and d.id = s.id
    and d.attempt = s.attempt
    and d.state = 'leased'
  returning d.id, d.attempt, d.namespace, d.execution_id, s.outcome, s.http_status, s.latency_ms, s.error,
    s.response_body, s.event, s.facts
),
recorded as (
  insert into delivery_attempts (
    bucket, delivery_id, attempt, namespace, outcome, http_status, latency_ms, error, response_body, at
  )
  select $1, id, attempt, namespace, outcome, http_status, latency_ms, error, response_body, clock()
  from settled
  on conflict (bucket, delivery_id, attempt) do nothing
),
told as (
  insert into events (bucket, execution_id, namespace, run_id, target, type, attempt, at, data)
  select $1, o.id, o.namespace, o.run_id, o.target, s.event, 0, clock(), s.facts
  from settled s
  join owner o on o.id = s.execution_id
  where s.event is not null
)
select id, attempt
from settled
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
  and id between $3 and $4
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

# Of the hosts that have failed for longest, and there the ones that have been due for longest: both along an index.
GIVE_UP = """
update deliveries
set state = 'dead',
  attempt = attempt + 1,
  settled_at = clock()
where bucket = $1
  and id = any(array(
    select d.id
    from (
      select host, namespace
      from breakers
      where bucket = $1
        and opened_at < clock() - make_interval(secs => $2)
      order by opened_at
      limit 200
    ) as b
    cross join lateral (
      select id
      from deliveries
      where bucket = $1
        and state = 'pending'
        and host = b.host
        and namespace = b.namespace
        and next_at < clock() - make_interval(secs => $2)
      order by next_at
      limit $3
      for update skip locked
    ) as d
    limit $3
  ))
returning id, attempt, namespace, execution_id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A delivery whose time has come, leased to this process until it is settled or its lease runs out.

    `moot`: a callback to an attempt that no longer holds its lease. Whoever listens there now asks for itself.
    `failing`: its host has not answered lately. `probe`: it is the one attempt that an open breaker lets through.
    `webhook_n` None: it goes to an endpoint, `endpoint` as it is now, or None when it is not there any more.
    """

    id: DeliveryId
    namespace: int
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
    failing: bool = False
    probe: bool = False
    endpoint_id: UUID | None = None
    endpoint: Endpoint | None = None

    @property
    def callback(self) -> bool:
        """Whether it goes to a process of a node, and not to the receiver of a webhook."""
        return self.webhook_n == CALLBACK_N


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """What was due, and where the next walk begins: behind this place, or at `BEGINNING` when there was no more.

    `more`: of some host there was as much as may be claimed at once, and may be more.
    """

    due: tuple[Due, ...]
    after: Place
    more: bool


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
    after: Place,
    full_hosts: Sequence[str],
    per_host: int,
    limit: int,
    lease_seconds: float,
    failing: bool = True,
    only: Sequence[Place] | None = None,
) -> Claimed:
    """Take due deliveries, a few of every host; none of hosts that are full, and of one whose window is over only one.

    Without `failing` none of the hosts that have not answered lately. `only` names the places to look at, 200 at most.
    What is due for an endpoint that is disabled is parked and not among them.
    Moves: pending → leased, attempt + 1. Guard: `for update skip locked`; the attempt fences what is written later.
    """
    named = (None, None) if only is None else ([host for host, _ in only], [namespace for _, namespace in only])
    found = await conn.fetch(CLAIM_DUE, bucket, *after, full_hosts, per_host, limit, lease_seconds, failing, *named)
    rows = [row for row in found if row["id"] is not None]
    moot = await _moot(conn, bucket, [row for row in rows if row["webhook_n"] == CALLBACK_N])
    endpoints = await _endpoints(conn, {row["endpoint_id"] for row in rows if row["endpoint_id"] is not None})
    disabled = {id_ for id_, one in endpoints.items() if one.state is EndpointState.DISABLED}
    parked = [row for row in rows if row["endpoint_id"] in disabled]
    if parked:
        await conn.execute(PARK, bucket, [row["id"] for row in parked], [row["attempt"] for row in parked])
    return Claimed(
        due=tuple(
            _due(row, moot=row["id"] in moot, to=endpoints.get(row["endpoint_id"]))
            for row in rows
            if row["endpoint_id"] not in disabled
        ),
        after=(found[0]["after_host"], found[0]["after_namespace"]),
        more=per_host in Counter((row["host"], row["namespace"]) for row in rows).values(),
    )


async def answered(conn: Connection, bucket: int, *, within_seconds: float, limit: int) -> list[Place]:
    """The places that took one of the newest deliveries."""
    rows = await conn.fetch(READ_ANSWERED, bucket, within_seconds, limit)
    return [(row["host"], row["namespace"]) for row in rows]


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
    conn: Connection, batch: Sequence[Sent], patience: Patience = PATIENCE, freed: Callable[[], None] = lambda: None
) -> list[ControlPlaneError | None]:
    """Write down what the receiver answered, and when to try again if it must be.

    How an endpoint does is noted with it; one that has failed for longer than the `patience` is disabled. `freed` is
    called when a host that was left alone may be sent to again.
    Moves: leased → delivered, dead, or pending after a wait. Guard: the attempt number; an attempt that outlived its
    lease changes nothing, one that was settled before is settled. Raises: per item LeaseLost.
    """
    written = await _settle_calm(conn, batch)
    rest = [item for item in batch if _attempt(item) not in written]
    if rest:
        written |= await _settle_all(conn, rest, patience, freed)
    return [None if _attempt(item) in written else LeaseLost() for item in batch]


async def _settle_calm(conn: Connection, batch: Sequence[Sent]) -> set[tuple[UUID, int]]:
    """Settle those that say nothing new, without a transaction around it: each bucket is one statement.

    Only where all was delivered: what comes at the same time is heard together, and an answer outweighs failures.
    """
    written: set[tuple[UUID, int]] = set()
    if all(item.state is DeliveryState.DELIVERED and item.due.endpoint is None for item in batch):
        for bucket, part in by_bucket(batch, lambda item: item.due.id):
            written |= await _write(conn, bucket, part, calm=True)
    return written


async def _settle_all(
    conn: Connection, batch: Sequence[Sent], patience: Patience, freed: Callable[[], None]
) -> set[tuple[UUID, int]]:
    written: set[tuple[UUID, int]] = set()
    turned: list[Turned] = []
    news: list[Sent] = []
    async with conn.transaction():
        for bucket, part in by_bucket(batch, lambda item: item.due.id):
            written |= await _settle(conn, bucket, part, turned, news)
        disabled = await _note(conn, news, patience)
    for turn in turned:  # not before it is so
        _say(turn)
    if any(turn.closed for turn in turned):
        freed()
    for one in disabled:
        facts = {"endpoint_id": show(ENDPOINT, one.id), "endpoint": one.name, "reason": one.reason}
        log.warning("endpoint.disabled", extra=facts | {"namespace": one.namespace})
    return written


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
        facts = {"endpoint_id": show(ENDPOINT, one.id), "name": one.name, "reason": one.reason}
        await tell(conn, bucket_of(id_), [(id_, json.dumps(facts).encode(), EventType.ENDPOINT_DISABLED)])
    return disabled


async def _settle(
    conn: Connection, bucket: int, part: list[Sent], turned: list[Turned], news: list[Sent]
) -> set[tuple[UUID, int]]:
    """Those that are settled now or were before; `news` gets the former."""
    settled = await _write(conn, bucket, part, calm=False)
    mine = [item for item in part if _attempt(item) in settled]
    news += mine
    turned += await trip.hear(conn, bucket, [_said(item) for item in mine if not item.due.callback])
    return settled | await _settled_before(conn, bucket, [item for item in part if _attempt(item) not in settled])


async def _write(conn: Connection, bucket: int, part: list[Sent], *, calm: bool) -> set[tuple[UUID, int]]:
    """Those that are settled now."""
    part = sorted(part, key=lambda item: item.due.id)
    executions = [item.due.execution_id for item in part]
    rows = await conn.fetch(
        SETTLE,
        bucket,
        [item.due.id for item in part],
        [item.due.attempt for item in part],
        [item.state.value for item in part],
        [item.wait_seconds for item in part],
        [item.attempt.outcome.value for item in part],
        [item.attempt.http_status for item in part],
        [item.attempt.latency_ms for item in part],
        [item.attempt.error for item in part],
        [item.attempt.response_body for item in part],
        [EVENT_OF[item.state].value if item.state in EVENT_OF else None for item in part],
        [fact(item.due.id) for item in part],
        [item.due.host for item in part],
        [item.due.namespace for item in part],
        executions,
        *span(executions),
        calm,
    )
    return {(row["id"], row["attempt"]) for row in rows}


async def _settled_before(conn: Connection, bucket: int, stale: list[Sent]) -> set[tuple[UUID, int]]:
    """Those that an earlier try wrote down whose answer was lost."""
    if not stale:
        return set()
    ids, attempts = [item.due.id for item in stale], [item.due.attempt for item in stale]
    rows = await conn.fetch(READ_ATTEMPTS, bucket, ids, attempts)
    return {(row["delivery_id"], row["attempt"]) for row in rows}


def _said(item: Sent) -> Said:
    """What it says about its host. Callbacks say nothing and are not held back: who waits for one is known to us."""
    return said_by(item.attempt, host=item.due.host, namespace=item.due.namespace, probe=item.due.probe)


def _say(one: Turned) -> None:
    known = {"host": one.host, "namespace": one.namespace}
    if one.hold_seconds:
        log.warning("breaker.held", extra=known | {"hold_seconds": one.hold_seconds})
    if one.open_seconds:  # again and again it is opened in silence, or a host that is gone would fill the log
        level = logging.WARNING if one.windows == 1 else logging.DEBUG
        opened = known | {"failures": one.failures, "open_seconds": one.open_seconds, "windows": one.windows}
        log.log(level, "breaker.opened", extra=opened)
    if one.closed:
        log.info("breaker.closed", extra=known)


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
        await _unsent(conn, bucket, rows, AttemptOutcome.UNKNOWN, "the dispatcher died before it knew the answer")
        dead = [row for row in rows if row["state"] == DeliveryState.DEAD]
        await tell(conn, bucket, [(row["execution_id"], fact(row["id"]), EventType.DELIVERY_DEAD) for row in dead])
    return len(rows)


async def give_up(conn: Connection, bucket: int, *, after_seconds: float = GIVE_UP_SECONDS, limit: int = 256) -> int:
    """End deliveries that were due for so long while their host failed all the time; their record says why.

    Moves: pending → dead. Guard: the state in the locked row.
    """
    async with conn.transaction():
        rows = await conn.fetch(GIVE_UP, bucket, after_seconds, limit)
        if rows:
            days = f"{after_seconds / 86_400:g}"
            why = f"breaker: the host has not answered for {days} days"
            await _unsent(conn, bucket, rows, AttemptOutcome.REFUSED, why)
            await tell(conn, bucket, [(row["execution_id"], fact(row["id"]), EventType.DELIVERY_DEAD) for row in rows])
    return len(rows)


async def _unsent(
    conn: Connection, bucket: int, rows: Sequence[asyncpg.Record], outcome: AttemptOutcome, error: str
) -> None:
    """Record attempts of which there is no answer."""
    nothing = [None] * len(rows)
    ids, attempts = [row["id"] for row in rows], [row["attempt"] for row in rows]
    namespaces, outcomes = [row["namespace"] for row in rows], [outcome.value] * len(rows)
    errors = [error] * len(rows)
    await conn.execute(RECORD_ATTEMPTS, bucket, ids, attempts, namespaces, outcomes, nothing, nothing, errors, nothing)


def fact(delivery_id: UUID) -> bytes:
    """What an event of a delivery says."""
    return b'{"delivery_id":"%b"}' % show("dlv", delivery_id).encode()


async def tell(conn: Connection, bucket: int, told: list[tuple[UUID, bytes, EventType]]) -> None:
    """Write into the history of these executions what became of their deliveries."""
    if not told:
        return
    ids = [execution_id for execution_id, _, _ in told]
    rows = await conn.fetch(READ_RUNS, bucket, ids, *span(ids))
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


def _due(row: asyncpg.Record, *, moot: bool, to: Endpoint | None) -> Due:
    return Due(
        id=DeliveryId(row["id"]),
        namespace=row["namespace"],
        execution_id=row["execution_id"],
        webhook_n=row["webhook_n"],
        event=row["event"],
        host=row["host"],
        url=row["url"] if to is None else to.definition.url,
        body=row["body"],
        attempt=row["attempt"],
        charged=row["charged"],
        attempts_max=row["attempts_max"],
        secret_sealed=row["secret_sealed"],
        headers_sealed=row["headers_sealed"],
        now_seconds=row["now_seconds"],
        moot=moot,
        failing=row["failing"],
        probe=row["probe"],
        endpoint_id=row["endpoint_id"],
        endpoint=to,
    )
