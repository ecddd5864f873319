"""Reseal: what is stored sealed is sealed anew with the key in front of the ring, so that an old one may go.

Beside the thread: no execution moves, and no secret changes. Whoever adds a column `…_sealed` adds a place below.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from controlplane.domain import delivery, endpoint, trigger
from controlplane.domain.ids import ExecutionId
from controlplane.postgres.pool import Connection
from controlplane.security.secrets import KeyRing, SealBroken

BATCH_MAX = 500
"""Values that are looked at, and perhaps sealed anew, in one transaction."""
NEWEST_MAX = 1_000
"""Values of one place and bucket that a server looks at when it starts."""
FIRST = UUID(int=0)

WEBHOOK_SECRETS_PAGE = """
select execution_id as id, n, secret_sealed as sealed
from webhooks
where bucket = $1
  and (execution_id, n) > ($2::uuid, $3::smallint)
order by execution_id, n
limit $4
"""

# Who holds a row changes it right now: it is met again in the next round.
WEBHOOK_SECRETS_PUT = """
with held as (
  select w.execution_id, w.n, new.sealed
  from webhooks w
  join unnest($2::uuid[], $3::smallint[], $4::bytea[], $5::bytea[]) as new(id, n, was, sealed)
    on w.execution_id = new.id
    and w.n = new.n
    and w.secret_sealed = new.was
  where w.bucket = $1
  order by w.execution_id, w.n
  for update of w skip locked
)
update webhooks w
set secret_sealed = held.sealed
from held
where w.bucket = $1
  and w.execution_id = held.execution_id
  and w.n = held.n
returning w.n
"""

WEBHOOK_SECRETS_COUNT = """
select substring(secret_sealed from 1 for 2 + get_byte(secret_sealed, 1)) as head, count(*) as rows
from webhooks
where bucket = $1
  and length(secret_sealed) > 1
group by head
"""

WEBHOOK_SECRETS_NEWEST = """
select execution_id as id, n, secret_sealed as sealed
from webhooks
where bucket = $1
  and (length(secret_sealed) > 0 or length(headers_sealed) > 0)
order by created_at desc
limit $2
"""

WEBHOOK_HEADERS_PAGE = """
select execution_id as id, n, headers_sealed as sealed
from webhooks
where bucket = $1
  and (execution_id, n) > ($2::uuid, $3::smallint)
order by execution_id, n
limit $4
"""

WEBHOOK_HEADERS_PUT = """
with held as (
  select w.execution_id, w.n, new.sealed
  from webhooks w
  join unnest($2::uuid[], $3::smallint[], $4::bytea[], $5::bytea[]) as new(id, n, was, sealed)
    on w.execution_id = new.id
    and w.n = new.n
    and w.headers_sealed = new.was
  where w.bucket = $1
  order by w.execution_id, w.n
  for update of w skip locked
)
update webhooks w
set headers_sealed = held.sealed
from held
where w.bucket = $1
  and w.execution_id = held.execution_id
  and w.n = held.n
returning w.n
"""

WEBHOOK_HEADERS_COUNT = """
select substring(headers_sealed from 1 for 2 + get_byte(headers_sealed, 1)) as head, count(*) as rows
from webhooks
where bucket = $1
  and length(headers_sealed) > 1
group by head
"""

WEBHOOK_HEADERS_NEWEST = """
select execution_id as id, n, headers_sealed as sealed
from webhooks
where bucket = $1
  and (length(secret_sealed) > 0 or length(headers_sealed) > 0)
order by created_at desc
limit $2
"""

TRIGGER_SECRETS_PAGE = """
select id, 0::smallint as n, secret_sealed as sealed
from triggers
where bucket = $1
  and (id, 0::smallint) > ($2::uuid, $3::smallint)
order by id
limit $4
"""

TRIGGER_SECRETS_PUT = """
with held as (
  select t.id, new.sealed
  from triggers t
  join unnest($2::uuid[], $3::smallint[], $4::bytea[], $5::bytea[]) as new(id, n, was, sealed)
    on t.id = new.id
    and t.secret_sealed = new.was
  where t.bucket = $1
  order by t.id
  for update of t skip locked
)
update triggers t
set secret_sealed = held.sealed
from held
where t.bucket = $1
  and t.id = held.id
returning t.id
"""

TRIGGER_SECRETS_COUNT = """
select substring(secret_sealed from 1 for 2 + get_byte(secret_sealed, 1)) as head, count(*) as rows
from triggers
where bucket = $1
  and length(secret_sealed) > 1
group by head
"""

TRIGGER_SECRETS_NEWEST = """
select id, 0::smallint as n, secret_sealed as sealed
from triggers
where bucket = $1
order by id desc
limit $2
"""

TRIGGER_PREVIOUS_PAGE = """
select id, 0::smallint as n, previous_sealed as sealed
from triggers
where bucket = $1
  and (id, 0::smallint) > ($2::uuid, $3::smallint)
order by id
limit $4
"""

TRIGGER_PREVIOUS_PUT = """
with held as (
  select t.id, new.sealed
  from triggers t
  join unnest($2::uuid[], $3::smallint[], $4::bytea[], $5::bytea[]) as new(id, n, was, sealed)
    on t.id = new.id
    and t.previous_sealed = new.was
  where t.bucket = $1
  order by t.id
  for update of t skip locked
)
update triggers t
set previous_sealed = held.sealed
from held
where t.bucket = $1
  and t.id = held.id
returning t.id
"""

TRIGGER_PREVIOUS_COUNT = """
select substring(previous_sealed from 1 for 2 + get_byte(previous_sealed, 1)) as head, count(*) as rows
from triggers
where bucket = $1
  and length(previous_sealed) > 1
group by head
"""

TRIGGER_PREVIOUS_NEWEST = """
select id, 0::smallint as n, previous_sealed as sealed
from triggers
where bucket = $1
order by id desc
limit $2
"""

ENDPOINT_SECRETS_PAGE = """
select id, 0::smallint as n, secret_sealed as sealed
from endpoints
where bucket = $1
  and (id, 0::smallint) > ($2::uuid, $3::smallint)
order by id
limit $4
"""

ENDPOINT_SECRETS_PUT = """
with held as (
  select e.id, new.sealed
  from endpoints e
  join unnest($2::uuid[], $3::smallint[], $4::bytea[], $5::bytea[]) as new(id, n, was, sealed)
    on e.id = new.id
    and e.secret_sealed = new.was
  where e.bucket = $1
  order by e.id
  for update of e skip locked
)
update endpoints e
set secret_sealed = held.sealed
from held
where e.bucket = $1
  and e.id = held.id
returning e.id
"""

ENDPOINT_SECRETS_COUNT = """
select substring(secret_sealed from 1 for 2 + get_byte(secret_sealed, 1)) as head, count(*) as rows
from endpoints
where bucket = $1
  and length(secret_sealed) > 1
group by head
"""

ENDPOINT_SECRETS_NEWEST = """
select id, 0::smallint as n, secret_sealed as sealed
from endpoints
where bucket = $1
order by id desc
limit $2
"""

ENDPOINT_PREVIOUS_PAGE = """
select id, 0::smallint as n, previous_sealed as sealed
from endpoints
where bucket = $1
  and (id, 0::smallint) > ($2::uuid, $3::smallint)
order by id
limit $4
"""

ENDPOINT_PREVIOUS_PUT = """
with held as (
  select e.id, new.sealed
  from endpoints e
  join unnest($2::uuid[], $3::smallint[], $4::bytea[], $5::bytea[]) as new(id, n, was, sealed)
    on e.id = new.id
    and e.previous_sealed = new.was
  where e.bucket = $1
  order by e.id
  for update of e skip locked
)
update endpoints e
set previous_sealed = held.sealed
from held
where e.bucket = $1
  and e.id = held.id
returning e.id
"""

ENDPOINT_PREVIOUS_COUNT = """
select substring(previous_sealed from 1 for 2 + get_byte(previous_sealed, 1)) as head, count(*) as rows
from endpoints
where bucket = $1
  and length(previous_sealed) > 1
group by head
"""

ENDPOINT_PREVIOUS_NEWEST = """
select id, 0::smallint as n, previous_sealed as sealed
from endpoints
where bucket = $1
order by id desc
limit $2
"""

ENDPOINT_HEADERS_PAGE = """
select id, 0::smallint as n, headers_sealed as sealed
from endpoints
where bucket = $1
  and (id, 0::smallint) > ($2::uuid, $3::smallint)
order by id
limit $4
"""

ENDPOINT_HEADERS_PUT = """
with held as (
  select e.id, new.sealed
  from endpoints e
  join unnest($2::uuid[], $3::smallint[], $4::bytea[], $5::bytea[]) as new(id, n, was, sealed)
    on e.id = new.id
    and e.headers_sealed = new.was
  where e.bucket = $1
  order by e.id
  for update of e skip locked
)
update endpoints e
set headers_sealed = held.sealed
from held
where e.bucket = $1
  and e.id = held.id
returning e.id
"""

ENDPOINT_HEADERS_COUNT = """
select substring(headers_sealed from 1 for 2 + get_byte(headers_sealed, 1)) as head, count(*) as rows
from endpoints
where bucket = $1
  and length(headers_sealed) > 1
group by head
"""

ENDPOINT_HEADERS_NEWEST = """
select id, 0::smallint as n, headers_sealed as sealed
from endpoints
where bucket = $1
order by id desc
limit $2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A column that holds sealed values, and what each of them is bound to, by the id of its row and its number."""

    table: str
    column: str
    page: str
    put: str
    count: str
    newest: str
    bound_to: Callable[[UUID, int], bytes]

    @property
    def name(self) -> str:
        return f"{self.table}.{self.column}"


PLACES: Sequence[Place] = (
    Place(
        table="webhooks",
        column="secret_sealed",
        page=WEBHOOK_SECRETS_PAGE,
        put=WEBHOOK_SECRETS_PUT,
        count=WEBHOOK_SECRETS_COUNT,
        newest=WEBHOOK_SECRETS_NEWEST,
        bound_to=lambda id_, n: delivery.sealed_for(ExecutionId(id_), n, "secret"),
    ),
    Place(
        table="webhooks",
        column="headers_sealed",
        page=WEBHOOK_HEADERS_PAGE,
        put=WEBHOOK_HEADERS_PUT,
        count=WEBHOOK_HEADERS_COUNT,
        newest=WEBHOOK_HEADERS_NEWEST,
        bound_to=lambda id_, n: delivery.sealed_for(ExecutionId(id_), n, "headers"),
    ),
    Place(
        table="triggers",
        column="secret_sealed",
        page=TRIGGER_SECRETS_PAGE,
        put=TRIGGER_SECRETS_PUT,
        count=TRIGGER_SECRETS_COUNT,
        newest=TRIGGER_SECRETS_NEWEST,
        bound_to=lambda id_, _: trigger.sealed_for(id_),
    ),
    Place(
        table="triggers",
        column="previous_sealed",
        page=TRIGGER_PREVIOUS_PAGE,
        put=TRIGGER_PREVIOUS_PUT,
        count=TRIGGER_PREVIOUS_COUNT,
        newest=TRIGGER_PREVIOUS_NEWEST,
        bound_to=lambda id_, _: trigger.sealed_for(id_),
    ),
    Place(
        table="endpoints",
        column="secret_sealed",
        page=ENDPOINT_SECRETS_PAGE,
        put=ENDPOINT_SECRETS_PUT,
        count=ENDPOINT_SECRETS_COUNT,
        newest=ENDPOINT_SECRETS_NEWEST,
        bound_to=lambda id_, _: endpoint.sealed_for(id_, "secret"),
    ),
    Place(
        table="endpoints",
        column="previous_sealed",
        page=ENDPOINT_PREVIOUS_PAGE,
        put=ENDPOINT_PREVIOUS_PUT,
        count=ENDPOINT_PREVIOUS_COUNT,
        newest=ENDPOINT_PREVIOUS_NEWEST,
        bound_to=lambda id_, _: endpoint.sealed_for(id_, "secret"),
    ),
    Place(
        table="endpoints",
        column="headers_sealed",
        page=ENDPOINT_HEADERS_PAGE,
        put=ENDPOINT_HEADERS_PUT,
        count=ENDPOINT_HEADERS_COUNT,
        newest=ENDPOINT_HEADERS_NEWEST,
        bound_to=lambda id_, _: endpoint.sealed_for(id_, "headers"),
    ),
)


class Cursor(NamedTuple):
    """How far a place has been looked through."""

    id: UUID = FIRST
    n: int = -1


@dataclass(slots=True)
class Resealed:
    """What became of values: sealed `anew`, `left` to whoever changed them meanwhile, or `broken`: not to be opened."""

    anew: int = 0
    left: int = 0
    broken: int = 0

    def add(self, other: Resealed) -> None:
        self.anew += other.anew
        self.left += other.left
        self.broken += other.broken


@dataclass(frozen=True, slots=True)
class Batch:
    """`after`: where the next one begins; None at the end of the place."""

    done: Resealed
    after: Cursor | None


@dataclass(slots=True)
class _Renewed:
    ids: list[UUID] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    was: list[bytes] = field(default_factory=list)
    now: list[bytes] = field(default_factory=list)


async def batch(
    conn: Connection, bucket: int, place: Place, ring: KeyRing, *, after: Cursor, limit: int = BATCH_MAX
) -> Batch:
    """Seal anew what of the next `limit` rows is not under the ring's first key.

    Moves: a sealed value → the same secret under another key. Guard: the value that was read is still there, to the
    byte; what somebody holds or has changed in between is left to the next round. Stopped anywhere it goes on anywhere.
    """
    page, put = place.page, place.put
    rows = await conn.fetch(page, bucket, after.id, after.n, limit)
    done, new = Resealed(), _Renewed()
    for row in rows:
        sealed = row["sealed"]
        if not sealed:  # none, or it was erased
            continue
        try:
            now = ring.reseal(sealed, bound_to=place.bound_to(row["id"], row["n"]))
        except SealBroken:
            done.broken += 1
            continue
        if now is not None:
            new.ids.append(row["id"])
            new.numbers.append(row["n"])
            new.was.append(sealed)
            new.now.append(now)
    if new.ids:
        done.anew = len(await conn.fetch(put, bucket, new.ids, new.numbers, new.was, new.now))
        done.left = len(new.ids) - done.anew
    return Batch(done, Cursor(rows[-1]["id"], rows[-1]["n"]) if len(rows) == limit else None)


async def counts(conn: Connection, bucket: int, place: Place, ring: KeyRing) -> Counter[str]:
    """How many values lie under each key, by its id. Reads the whole bucket of its table."""
    found: Counter[str] = Counter()
    count = place.count
    for row in await conn.fetch(count, bucket):
        found[ring.kid_of(row["head"])] += row["rows"]
    return found


async def newest_broken(conn: Connection, bucket: int, place: Place, ring: KeyRing) -> int:
    """How many of the newest values this ring cannot open."""
    broken = 0
    newest = place.newest
    for row in await conn.fetch(newest, bucket, NEWEST_MAX):
        if row["sealed"]:
            try:
                ring.open(row["sealed"], bound_to=place.bound_to(row["id"], row["n"]))
            except SealBroken:
                broken += 1
    return broken
