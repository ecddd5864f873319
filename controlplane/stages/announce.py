"""Announce: what has happened becomes deliveries to everybody who subscribes to it.

    events ──► *announce* ──► deliver

What listeners hear is read from the events behind a cursor, one per bucket; who makes something happen writes not a
byte more for it. The deliveries of a page and the cursor behind it are one transaction: a crash repeats nothing, and
the unique number of an event says it again.

Nothing is lost that a listener shall hear. It hears of transactions with a number above the one that made it
(`since_xid`): all that begin to write after it was made. The horizon is read before the listeners are: `xmin` of an
earlier snapshot S. A listener that is not seen then was not committed in S, so its transaction, and every one that it
hears of, has a number of at least `xmin(S)`, and nothing from there on is passed over, neither by a page nor by a
cursor that is moved on because nobody listens. Events older than an hour are read beyond the horizon, as every reader
of the stream does (`reads/events.py`): no transaction of ours is open for so long, so whoever may hear them is seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from uuid import UUID

import asyncpg

from controlplane.domain.delivery import ENDPOINT
from controlplane.domain.endpoint import ENDS, EXECUTION_WIDE, Listener, types_of
from controlplane.domain.event import EventType
from controlplane.domain.execution import Status
from controlplane.domain.ids import DeliveryId, bucket_of, read, show, show_execution
from controlplane.domain.notice import End, end_body, fact_body, moment
from controlplane.domain.placement import by_place, span
from controlplane.postgres.pool import Connection

MakeId = Callable[[int], UUID]

PAGE_EVENTS = 200
PAGE_BYTES = 16 * 1024 * 1024
"""Bodies that one transaction writes: of more, the page is cut behind the event that passes it."""
RESULT_BYTES_MAX = 256 * 1024
"""A larger result, context or error is not told; `result_url` says where it is."""
FACTS_BYTES_MAX = 64 * 1024
"""What an event says beside its type, as far as it is told."""
REST_SECONDS = 1.0
"""While nobody listens the cursor moves on this often, and only past events."""
RELEASE_MAX = 1_000
PARKED_ENDPOINTS_MAX = 200

TYPES_OF_ENDS = frozenset(one.value for one in ENDS)
HIDDEN = frozenset({"traceback", "session_id"})
"""What an event says for people who look at the execution, or for nodes; it leaves the house in no body."""
UNTOLD = frozenset({EventType.DELIVERY_DEAD.value, EventType.ENDPOINT_DISABLED.value})
"""A delivery about one of these may die without a word, or two dead receivers would tell each other for ever."""

HORIZON = "select pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1"

LISTENERS = """
select id, namespace, url, host, events, targets, schedule, since_xid::text::bigint as since_xid
from endpoints
where bucket = $1
  and state = 'enabled'
order by id
"""

LISTENED = """
select exists (
  select 1
  from listeners
  where bucket = $1
)
"""

READ_CURSOR = """
select xid::text::bigint as xid, seq, moved_at < clock() - make_interval(secs => $2) as rested
from announced
where bucket = $1
"""

BEGIN = """
insert into announced (bucket, xid, seq, moved_at)
select $1, ($2::bigint)::text::xid8, $3, clock()
on conflict (bucket) do nothing
"""

# Ordered, so that an index finds it: to look for any at all was planned to read what lies before the cursor.
NEWS = """
select xid <= $4::text::xid8 or at < clock() - interval '1 hour' as certain
from events
where bucket = $1
  and (xid, seq) > ($2::text::xid8, $3::bigint)
order by events.xid, events.seq
limit 1
"""

TAKE = """
select xid::text::bigint as xid, seq
from announced
where bucket = $1
for update skip locked
"""

# Also what nobody hears, because the cursor moves past it; its facts stay where they are. The page ends before the
# first event that is not certain: one behind it may be old enough, and the cursor must not pass the one for the other.
PAGE = """
select execution_id, seq, xid::text::bigint as xid, namespace, run_id, target, type, attempt, at,
  case when type = any($5::text[]) and length(data) <= $7 then data end as data,
  xid <= $4::text::xid8 or at < clock() - interval '1 hour' as certain
from events
where bucket = $1
  and (xid, seq) > ($2::text::xid8, $3::bigint)
order by events.xid, events.seq
limit $6
"""

MOVE = """
update announced
set xid = $2::text::xid8, seq = $3, moved_at = clock()
where bucket = $1
  and (xid, seq) < ($2::text::xid8, $3::bigint)
"""

HEARD = """
select w.execution_id, w.n, w.namespace, w.url, w.host, w.events, w.attempts_max
from listeners l
join webhooks w on w.bucket = $1 and w.execution_id = l.execution_id
where l.bucket = $1
  and l.execution_id = any($2::uuid[])
  and w.execution_id = any($2::uuid[])
  and w.events is not null
order by w.execution_id, w.n
"""

READ_ENDS = """
select e.id, e.type, e.session_key, e.actor_key, e.created_at, o.status, o.status_reason, o.failures, o.started_at,
  o.finished_at,
  case when length(e.context) <= $3 then e.context end as context,
  case when length(o.result) <= $3 then o.result end as result,
  case when length(o.error) <= $3 then o.error end as error,
  case when length(o.error_details) <= $3 then o.error_details end as error_details,
  greatest(length(e.context), length(o.result), length(o.error), length(o.error_details)) > $3 as large
from executions e
join outcomes o on o.bucket = $1 and o.id = e.id
where e.bucket = $1
  and e.id = any($2::uuid[])
  and e.id between $4 and $5
  and o.id = any($2::uuid[])
  and o.id between $4 and $5
"""

# Not the link that decides: whoever has it may, and a body passes through many hands.
READ_ASKED = """
select execution_id, request_id, title, expires_at
from approvals
where bucket = $1
  and execution_id = any($2::uuid[])
"""

READ_DEAD = """
select id, endpoint_id, webhook_n, event, host
from deliveries
where bucket = $1
  and id = any($2::uuid[])
"""

PLAN = """
insert into deliveries (
  bucket, id, namespace, execution_id, endpoint_id, heard_n, event_seq, event, host, url, body, state, attempts_max,
  next_at, created_at
)
select $1, d.id, d.namespace, d.execution_id, d.endpoint_id, d.heard_n, d.event_seq, d.event, d.host, d.url, d.body,
  'pending', d.attempts_max, clock() + make_interval(secs => d.first_seconds), clock()
from unnest(
  $2::uuid[], $3::smallint[], $4::uuid[], $5::uuid[], $6::smallint[], $7::bigint[], $8::text[], $9::text[], $10::text[],
  $11::bytea[], $12::smallint[], $13::float8[]
) as d(
  id, namespace, execution_id, endpoint_id, heard_n, event_seq, event, host, url, body, attempts_max, first_seconds
)
on conflict do nothing
returning id
"""

DISMISS = """
delete from listeners
where bucket = $1
  and execution_id = any($2::uuid[])
"""

# From endpoint to endpoint that has something parked, however much that is.
PARKED = """
with recursive found(id, n) as (
  (
    select endpoint_id, 1
    from deliveries
    where bucket = $1
      and state = 'pending'
      and next_at = 'infinity'
      and endpoint_id is not null
    order by endpoint_id
    limit 1
  )
  union all
  select (
    select d.endpoint_id
    from deliveries d
    where d.bucket = $1
      and d.state = 'pending'
      and d.next_at = 'infinity'
      and d.endpoint_id is not null
      and d.endpoint_id > found.id
    order by d.endpoint_id
    limit 1
  ), found.n + 1
  from found
  where found.id is not null
    and found.n < $2
)
select id from found where id is not null
"""

DISABLED = """
select id
from endpoints
where bucket = $1
  and id = any($2::uuid[])
  and state = 'disabled'
"""

# What belongs to an endpoint that is not there any more is due, too: to be dead.
RELEASE = """
update deliveries
set next_at = clock()
where bucket = $1
  and id = any(array(
    select id
    from deliveries
    where bucket = $1
      and state = 'pending'
      and next_at = 'infinity'
      and endpoint_id is not null
      and endpoint_id = any($2::uuid[])
    order by endpoint_id, id
    limit $3
    for update skip locked
  ))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """`events` were passed by, and `planned` deliveries came of them."""

    events: int = 0
    planned: int = 0


async def horizon(conn: Connection) -> int:
    """All transactions up to this number are over. Read it before the listeners."""
    found: int = await conn.fetchval(HORIZON)
    return found


async def listeners(conn: Connection, buckets: Iterable[int]) -> list[Listener]:
    """The endpoints that hear, of all namespaces."""
    return [_endpoint(row) for bucket in buckets for row in await conn.fetch(LISTENERS, bucket)]


async def begin(conn: Connection, bucket: int, endpoints: Sequence[Listener], *, horizon: int) -> None:
    """Put the cursor of a bucket where everybody who listens now can hear all that is for him.

    A server does it before it takes anything: nobody's webhook wants to hear something yet.
    """
    first = min((horizon, *(one.since_xid for one in endpoints)))
    await conn.execute(BEGIN, bucket, first, 2**62)


async def announce(
    conn: Connection,
    bucket: int,
    endpoints: Sequence[Listener],
    *,
    horizon: int,
    make_id: MakeId,
    public_url: str,
    limit: int = PAGE_EVENTS,
) -> Announced:
    """Plan the deliveries of the next page of events, or pass them by where nobody listens.

    `endpoints` were read after `horizon`. Moves: nothing → pending. Guard: one replica at a time holds the cursor, the
    others pass; the unique number of the event for each who hears it.
    """
    cursor = await conn.fetchrow(READ_CURSOR, bucket, REST_SECONDS)
    if cursor is None:
        await begin(conn, bucket, endpoints, horizon=horizon)
        return Announced(events=1)
    heard: bool = await conn.fetchval(LISTENED, bucket)
    if not endpoints and not heard:
        if cursor["rested"] and await _news(conn, bucket, cursor, horizon):
            await conn.execute(MOVE, bucket, str(horizon), 2**62)
        return Announced()
    if not await _news(conn, bucket, cursor, horizon):
        return Announced()
    types = sorted(set(types_of(endpoints)) | {one.value for one in EXECUTION_WIDE if heard})
    async with conn.transaction():
        cursor = await conn.fetchrow(TAKE, bucket)
        if cursor is None:
            return Announced()
        place = (str(cursor["xid"]), cursor["seq"])
        found = await conn.fetch(PAGE, bucket, *place, str(horizon), types, limit, FACTS_BYTES_MAX)
        rows = list(takewhile(lambda row: row["certain"], found))
        if not rows:
            return Announced()
        dead = await _dead(conn, bucket, [row for row in rows if row["type"] == EventType.DELIVERY_DEAD])
        wanted = await _wanted(conn, bucket, rows, endpoints, heard, dead)
        bodies = await _bodies(conn, bucket, [row for row, _ in wanted], dead, public_url)
        wanted, last = _within(wanted, bodies, rows)
        planned = await _plan(conn, bucket, wanted, bodies, make_id)
        passed = [row for row in rows if (row["xid"], row["seq"]) <= last]
        if heard and (over := [row["execution_id"] for row in passed if row["type"] in TYPES_OF_ENDS]):
            await conn.execute(DISMISS, bucket, over)
        await conn.execute(MOVE, bucket, str(last[0]), last[1])
    return Announced(events=len(passed), planned=planned)


async def release(conn: Connection, bucket: int, *, limit: int = RELEASE_MAX) -> int:
    """Make due what was parked for endpoints that are enabled again, or gone. Says how much.

    Moves: pending for ever → pending now. Guard: `skip locked`; what is of one disabled meanwhile is parked again when
    it is claimed.
    """
    parked = [row["id"] for row in await conn.fetch(PARKED, bucket, PARKED_ENDPOINTS_MAX)]
    if not parked:
        return 0
    waiting: set[UUID] = set()
    for place, part in by_place(parked, bucket_of):
        waiting |= {row["id"] for row in await conn.fetch(DISABLED, place, part)}
    free = [id_ for id_ in parked if id_ not in waiting]
    return int((await conn.execute(RELEASE, bucket, free, limit)).rpartition(" ")[2]) if free else 0


Wanted = tuple[asyncpg.Record, list[Listener]]


async def _news(conn: Connection, bucket: int, cursor: asyncpg.Record, horizon: int) -> bool:
    return bool(await conn.fetchval(NEWS, bucket, str(cursor["xid"]), cursor["seq"], str(horizon)))


async def _wanted(
    conn: Connection,
    bucket: int,
    rows: Sequence[asyncpg.Record],
    endpoints: Sequence[Listener],
    heard: bool,
    dead: Mapping[int, asyncpg.Record],
) -> list[Wanted]:
    """The events that somebody hears, each with who does."""
    of_namespace: dict[int, list[Listener]] = {}
    for one in endpoints:
        of_namespace.setdefault(one.namespace, []).append(one)
    own: dict[UUID, list[Listener]] = {}
    if heard:
        ids = list({row["execution_id"] for row in rows})
        for row in await conn.fetch(HEARD, bucket, ids):
            own.setdefault(row["execution_id"], []).append(_webhook(row))
    wanted: list[Wanted] = []
    for row in rows:
        candidates = [*of_namespace.get(row["namespace"], ()), *own.get(row["execution_id"], ())]
        hearing = [one for one in candidates if one.hears(row["type"], row["target"], xid=row["xid"])]
        if row["type"] == EventType.DELIVERY_DEAD:
            told = dead.get(row["seq"])
            silent = told is None or told["webhook_n"] == 0 or told["event"] in UNTOLD
            hearing = [one for one in hearing if not silent and told and one.endpoint_id != told["endpoint_id"]]
        if hearing:
            wanted.append((row, hearing))
    return wanted


async def _dead(conn: Connection, bucket: int, rows: Sequence[asyncpg.Record]) -> dict[int, asyncpg.Record]:
    """The delivery that each of these events is about, by the number of the event."""
    about = {row["seq"]: _delivery_of(row["data"]) for row in rows if row["data"] is not None}
    found = await conn.fetch(READ_DEAD, bucket, list(about.values())) if about else []
    by_id = {row["id"]: row for row in found}
    return {seq: by_id[id_] for seq, id_ in about.items() if id_ in by_id}


def _delivery_of(data: bytes) -> DeliveryId:
    return DeliveryId(read("dlv", json.loads(data)["delivery_id"], where="data"))


async def _bodies(
    conn: Connection,
    bucket: int,
    rows: Sequence[asyncpg.Record],
    dead: Mapping[int, asyncpg.Record],
    public_url: str,
) -> dict[int, bytes]:
    """What is told of each event, by its number."""
    ended = [row["execution_id"] for row in rows if row["type"] in TYPES_OF_ENDS]
    asked = [row["execution_id"] for row in rows if row["type"] == EventType.APPROVAL_REQUESTED]
    found = await conn.fetch(READ_ENDS, bucket, ended, RESULT_BYTES_MAX, *span(ended)) if ended else []
    ends = {row["id"]: row for row in found}
    questions = await conn.fetch(READ_ASKED, bucket, asked) if asked else []
    approvals = {(row["execution_id"], row["request_id"]): row for row in questions}
    bodies: dict[int, bytes] = {}
    for row in rows:
        if row["type"] in TYPES_OF_ENDS and row["execution_id"] in ends:
            bodies[row["seq"]] = end_body(_end(row, ends[row["execution_id"]], public_url))
            continue
        facts = _facts(row["data"])
        if row["type"] == EventType.APPROVAL_REQUESTED:
            facts |= _question(approvals.get((row["execution_id"], facts.get("approval_request_id"))))
        if row["seq"] in dead:
            facts |= _death(dead[row["seq"]])
        bodies[row["seq"]] = fact_body(
            row["type"],
            id_=row["execution_id"],
            run_id=row["run_id"],
            target=row["target"],
            attempt=row["attempt"],
            at=row["at"],
            data=json.dumps(facts).encode(),
        )
    return bodies


def _facts(data: bytes | None) -> dict[str, object]:
    """What an event says, as far as it is told. What Python cannot read (an error may be any JSON) is left out."""
    try:
        said = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return {name: value for name, value in said.items() if name not in HIDDEN} if isinstance(said, dict) else {}


def _question(row: asyncpg.Record | None) -> dict[str, object]:
    if row is None:
        return {}
    title = {} if row["title"] is None else {"title": row["title"]}
    return title | {"expires_at": moment(row["expires_at"])}


def _death(row: asyncpg.Record) -> dict[str, object]:
    endpoint = {} if row["endpoint_id"] is None else {"endpoint_id": show(ENDPOINT, row["endpoint_id"])}
    return {"event": row["event"], "host": row["host"]} | endpoint


def _end(event: asyncpg.Record, row: asyncpg.Record, public_url: str) -> End:
    id_ = event["execution_id"]
    return End(
        event=event["type"],
        id=id_,
        run_id=event["run_id"],
        target=event["target"],
        type=row["type"],
        status=Status(row["status"]),
        status_reason=row["status_reason"],
        result=row["result"],
        error=row["error"],
        error_details=row["error_details"],
        failures=row["failures"],
        context=row["context"],
        session_key=row["session_key"],
        actor_key=row["actor_key"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        result_url=f"{public_url}/api/v1/executions/{show_execution(id_)}" if row["large"] else None,
    )


def _within(
    wanted: list[Wanted], bodies: Mapping[int, bytes], rows: Sequence[asyncpg.Record]
) -> tuple[list[Wanted], tuple[int, int]]:
    """As many of these as one transaction may write, and the place behind the last event that is dealt with."""
    size = 0
    for n, (row, hearing) in enumerate(wanted, 1):
        size += len(bodies[row["seq"]]) * len(hearing)
        if size > PAGE_BYTES:
            return wanted[:n], (row["xid"], row["seq"])
    return wanted, (rows[-1]["xid"], rows[-1]["seq"])


async def _plan(
    conn: Connection, bucket: int, wanted: Sequence[Wanted], bodies: Mapping[int, bytes], make_id: MakeId
) -> int:
    told = [(row, one) for row, hearing in wanted for one in hearing]
    if not told:
        return 0
    made = await conn.fetch(
        PLAN,
        bucket,
        [make_id(bucket) for _ in told],
        [row["namespace"] for row, _ in told],
        [row["execution_id"] for row, _ in told],
        [one.endpoint_id for _, one in told],
        [one.heard_n for _, one in told],
        [row["seq"] for row, _ in told],
        [row["type"] for row, _ in told],
        [one.host for _, one in told],
        [one.url for _, one in told],
        [bodies[row["seq"]] for row, _ in told],
        [one.attempts_max for _, one in told],
        [one.first_seconds for _, one in told],
    )
    return len(made)


def _endpoint(row: asyncpg.Record) -> Listener:
    return Listener(
        namespace=row["namespace"],
        url=row["url"],
        host=row["host"],
        events=frozenset(row["events"]),
        targets=frozenset(row["targets"]),
        attempts_max=len(row["schedule"]),
        first_seconds=row["schedule"][0],
        endpoint_id=row["id"],
        since_xid=row["since_xid"],
    )


def _webhook(row: asyncpg.Record) -> Listener:
    return Listener(
        namespace=row["namespace"],
        url=row["url"],
        host=row["host"],
        events=frozenset(row["events"]),
        targets=frozenset(),
        attempts_max=row["attempts_max"],
        heard_n=row["n"],
    )
