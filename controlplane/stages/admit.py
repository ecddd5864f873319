"""Admit: whom a limit has held back becomes ready when there is room.

submit, promote, retry, resume ──► blocked ──► *admit* ──► ready ──► lease

Nobody else turns blocked into ready. What a limit holds is counted in the queue itself, with the limit locked: nobody
can let in more meanwhile, and whatever ends, fails, pauses or waits gives its place back by no longer being counted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from controlplane.domain.ids import ExecutionId
from controlplane.domain.limit import KEY, READY_MAX, TURN, Candidate, Held, Limit, bucket_of_key, decide, range_of
from controlplane.domain.placement import Placement, by_place
from controlplane.postgres.pool import Connection
from controlplane.stages import submit

LINES_MAX = 256
"""Lines that one pass looks at; the next pass goes on after them."""
BATCH = 256
"""Rows of one line that one pass lets in."""
TURNS_MAX = 64
"""Fairness keys of a target of which one look lets in more."""
PAGES_MAX = 16
"""Looks of one pass, as long as none of them finds anybody to let in."""
LOOK_LEAST = 16
"""Rows that are looked at where fewer may be let in: some of them may have to wait for another limit."""
FIRST = UUID(int=0)
ADOPT_ROWS = 5_000
"""Rows of the queue among which one step looks for those that a new limit counts."""
SETTLE_SECONDS = 5.0
"""After how long every replica knows of a limit; what they had accepted until then is taken in after that."""

# One index probe for each line, however many rows stand in it.
LINES = """
with recursive lines(namespace, line) as (
  (
    select namespace, line
    from queue
    where bucket = $1
      and state = 'blocked'
      and (namespace, line) > ($2::smallint, $3::text)
    order by namespace, line
    limit 1
  )
  union all
  select next.namespace, next.line
  from lines
  cross join lateral (
    select q.namespace, q.line
    from queue q
    where q.bucket = $1
      and q.state = 'blocked'
      and (q.namespace, q.line) > (lines.namespace, lines.line)
    order by q.namespace, q.line
    limit 1
  ) next
)
select namespace, line
from lines
limit $4
"""

TOP = """
select priority
from queue
where bucket = $1
  and namespace = $2
  and line = $3
  and state = 'blocked'
order by priority desc
limit 1
"""

# The fairness keys that stand in a line with this priority, one index probe for each.
TURNS = """
with recursive turns(turn) as (
  (
    select coalesce(fairness_key, '') collate "C"
    from queue
    where bucket = $1
      and namespace = $2
      and line = $3
      and state = 'blocked'
      and priority = $4
      and coalesce(fairness_key, '') collate "C" >= $5
    order by coalesce(fairness_key, '') collate "C"
    limit 1
  )
  union all
  select next.turn
  from turns
  cross join lateral (
    select coalesce(q.fairness_key, '') collate "C" as turn
    from queue q
    where q.bucket = $1
      and q.namespace = $2
      and q.line = $3
      and q.state = 'blocked'
      and q.priority = $4
      and coalesce(q.fairness_key, '') collate "C" > turns.turn
    order by coalesce(q.fairness_key, '') collate "C"
    limit 1
  ) next
)
select turn
from turns
limit $6
"""

# One of each fairness key, then the second of each, and so on: within a key the oldest first.
CANDIDATES = """
select q.id, q.target, q.concurrency_key, q.fairness_key, q.limited
from unnest($5::text[]) with ordinality as t(turn, n)
cross join lateral (
  select o.*, row_number() over () as nth
  from (
    select id, target, concurrency_key, fairness_key, limited
    from queue
    where bucket = $1
      and namespace = $2
      and line = $3
      and state = 'blocked'
      and priority = $4
      and coalesce(fairness_key, '') collate "C" = t.turn
    order by available_at, id
    limit $6
  ) o
) q
order by q.nth, t.n
limit $7
"""

# A look without a lock, so that a line that is full costs no more: whether it has room is decided again below.
PEEK = """
select namespace, key, concurrency_max, declared_max, rate_max, rate_seconds, spent_at, spent, turn, updated_at,
  extract(epoch from clock())::float8 as now
from limits
where bucket = $1
  and namespace = $2
  and key = $3
"""

LOCK = """
select namespace, key, concurrency_max, declared_max, rate_max, rate_seconds, spent_at, spent, turn, updated_at,
  extract(epoch from clock())::float8 as now
from limits
where bucket = $1
  and namespace = $2
  and key = any($3::text[])
order by key
for update
"""

# Whoever waits for its children holds nothing, or a parent would keep its own children out. `offset 0` keeps the look
# for children a look for each row (see `lease.COUNT_HELD`).
HELD_BY_TARGET = """
select count(*) as held, count(*) filter (where state = 'ready') as ready
from queue q
where q.bucket = $1
  and q.namespace = $2
  and q.limited
  and q.state in ('ready', 'leased')
  and q.target collate "C" >= $3
  and q.target collate "C" < $4
  and not exists (
    select 1
    from queue c
    where c.bucket = $1
      and c.parent_id = q.id
    offset 0
  )
"""

HELD_BY_KEY = """
select count(*) as held, count(*) filter (where state = 'ready') as ready
from queue q
where q.bucket = $1
  and q.namespace = $2
  and q.concurrency_key = $3
  and q.state in ('ready', 'leased')
  and not exists (
    select 1
    from queue c
    where c.bucket = $1
      and c.parent_id = q.id
    offset 0
  )
"""

# Available from now on, so that whoever came while these were held back goes before them. `skip locked`: somebody
# cancels or pauses that one; with a limit in our hands we wait for nobody. By primary key, and looked at when held:
# with state and line beside the ids it was planned along the line.
LET_IN = """
with own as materialized (
  select id, state, line
  from queue
  where bucket = $1
    and id = any($2::uuid[])
  order by id
  for update skip locked
)
update queue
set state = 'ready', available_at = clock()
where bucket = $1
  and id = any(array(select id from own where state = 'blocked' and line = $3))
returning id, namespace, target
"""

MOVE = """
with own as materialized (
  select id, state, line
  from queue
  where bucket = $1
    and id = any($2::uuid[])
  order by id
  for update skip locked
)
update queue q
set line = m.line
from unnest($2::uuid[], $3::text[]) as m(id, line)
where q.bucket = $1
  and q.id = m.id
  and q.id = any(array(select id from own where state = 'blocked' and line = $4))
"""

# A line where no limit is: of each of these fairness keys as many as are missing in its window, in one statement. (With
# the nine statements that a limit needs, a run of short children came to a third as many a second.)
REFILL = """
with picked as materialized (
  select q.id
  from unnest($5::text[]) as t(turn)
  cross join lateral (
    select count(*) as ready
    from (
      select 1
      from queue
      where bucket = $1
        and namespace = $2
        and target = $6
        and fairness_key = t.turn
        and state = 'ready'
      limit $7
    ) one
  ) r
  cross join lateral (
    select id
    from queue
    where bucket = $1
      and namespace = $2
      and line = $3
      and state = 'blocked'
      and priority = $4
      and coalesce(fairness_key, '') collate "C" = t.turn
    order by available_at, id
    limit greatest($7 - r.ready, 0)
    for update skip locked
  ) q
)
update queue
set state = 'ready', available_at = clock()
where bucket = $1
  and id = any(array(select id from picked))
returning namespace, target
"""

SPEND = """
update limits
set turn = $4, spent_at = $5, spent = $6
where bucket = $1
  and namespace = $2
  and key = $3
"""

ADOPTING = """
select namespace, key, adopt_after, adopt_passes, updated_at < clock() - make_interval(secs => $2) as settled
from limits
where bucket = $1
  and adopt_passes > 0
order by namespace, key
limit $3
"""

# The rows that were there before the limit: those that run are counted, those that are ready stand in line.
ADOPT = """
with looked_at as materialized (
  select id, namespace, target, limited
  from queue
  where bucket = $1
    and id > $4
  order by id
  limit $7
),
adopted as (
  update queue
  set limited = true, line = $3, state = case when state = 'ready' then 'blocked' else state end
  where bucket = $1
    and id = any(array(
      select id
      from looked_at
      where namespace = $2
        and not limited
        and target collate "C" >= $5
        and target collate "C" < $6
      order by id
    ))
    and not limited
  returning id
)
select count(*) as looked_at, (select count(*) from adopted) as adopted,
  (array_agg(id order by id desc))[1] as last_id
from looked_at
"""

ADOPTED = """
update limits
set adopt_after = $4, adopt_passes = $5
where bucket = $1
  and namespace = $2
  and key = $3
  and adopt_passes = $6
"""


@dataclass(frozen=True, slots=True)
class Line:
    """Where rows of one bucket wait for the same limit, or for their turn at the same target."""

    bucket: int
    namespace: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """What one look at a line came to: the targets that have work now, and how many rows moved at all.

    `turn`: where the next look at a line without a limit of its own begins.
    """

    ready: tuple[tuple[int, str], ...] = ()
    moved: int = 0
    turn: str = ""


async def lines(conn: Connection, bucket: int, *, after: tuple[int, str] = (0, "")) -> list[Line]:
    """The lines of this bucket in which anybody stands, from `after` on; at most LINES_MAX."""
    rows = await conn.fetch(LINES, bucket, *after, LINES_MAX)
    return [Line(bucket, row["namespace"], row["line"]) for row in rows]


async def advance(conn: Connection, line: Line, placement: Placement, *, turn: str = "") -> Admitted:
    """Let in whom the limits have room for, the most urgent first, among equals each fairness key in turn.

    `turn`: where the last look at a line without a limit of its own has ended.

    Moves: blocked → ready, or to the line of another limit that is full. Guard: the limits of all that may be let in
    are locked in the order of their keys before what they hold is counted, and the row must still stand in this line.
    """
    if line.name.startswith(TURN):
        return await _refill(conn, line, turn)
    own, room = await _peek(conn, line, placement)
    if room == 0:
        return Admitted()
    turn = turn if own is None else own.turn
    most = BATCH if room is None else min(BATCH, max(room, LOOK_LEAST))
    async with conn.transaction():
        seen = await _candidates(conn, line, turn=turn, most=most)
        if not seen:
            return Admitted()
        wanted = {key for one in seen for key in one.keys} | {line.name}
        limits, now = await _lock(conn, line.namespace, wanted, placement)
        looked = await _candidates(conn, line, turn=turn, most=most)  # who is still there, now that nobody else decides
        known = [one for one in looked if wanted.issuperset(one.keys)]
        rooms = {key: one.room(await _held(conn, one, placement), now) for key, one in limits.items()}
        return await _let_in(conn, line, known, limits, rooms, now, placement)


async def adopt(conn: Connection, bucket: int, placement: Placement) -> int:
    """Take in what was in the queue before its limit: what runs is counted, what is ready has to be let in.

    Moves: ready → blocked. Guard: the row is not yet limited. A replica may not know a new limit for a moment, so all
    is looked through once more after SETTLE_SECONDS. Says how many rows were looked at.
    """
    did = 0
    for row in await conn.fetch(ADOPTING, bucket, SETTLE_SECONDS, LINES_MAX):
        key, last_pass = row["key"], row["adopt_passes"] == 1
        if last_pass and not row["settled"]:
            continue
        ends: list[UUID] = []
        for place in placement.all():
            found = await conn.fetchrow(
                ADOPT, place, row["namespace"], key, row["adopt_after"] or FIRST, *range_of(key), ADOPT_ROWS
            )
            assert found is not None
            did += found["looked_at"]
            if found["looked_at"] == ADOPT_ROWS:
                ends.append(found["last_id"])
        passes = row["adopt_passes"]
        await conn.execute(
            ADOPTED,
            bucket,
            row["namespace"],
            key,
            min(ends) if ends else FIRST,
            passes if ends else passes - 1,
            passes,
        )
    return did


async def _candidates(conn: Connection, line: Line, *, turn: str, most: int) -> list[Candidate]:
    """Who stands first in this line: of the highest priority, each fairness key in turn, beginning after `turn`."""
    place = (line.bucket, line.namespace, line.name)
    top = await conn.fetchval(TOP, *place)
    if top is None:
        return []
    turns = [row["turn"] for row in await conn.fetch(TURNS, *place, top, turn + "\x01", most)]
    if len(turns) < most:  # and round again
        more = [row["turn"] for row in await conn.fetch(TURNS, *place, top, "", most - len(turns))]
        turns += [one for one in more if one <= turn]
    each = max(1, most // max(1, len(turns)))
    rows = await conn.fetch(CANDIDATES, *place, top, turns, each, most)
    return [_candidate(row) for row in rows]


async def _lock(
    conn: Connection, namespace: int, keys: Collection[str], placement: Placement
) -> tuple[dict[str, Limit], float]:
    """Those of these limits that there are, held until we are done, and the time."""
    limits: dict[str, Limit] = {}
    now = 0.0
    for bucket, part in by_place(keys, lambda key: bucket_of_key(placement, namespace, key)):
        for row in await conn.fetch(LOCK, bucket, namespace, part):
            limits[row["key"]], now = Limit.from_row(row), row["now"]
    return limits, now


async def _held(conn: Connection, limit: Limit, placement: Placement) -> Held:
    held = ready = 0
    for bucket in placement.all():
        row = await (
            conn.fetchrow(HELD_BY_KEY, bucket, limit.namespace, limit.key.removeprefix(KEY))
            if limit.key.startswith(KEY)
            else conn.fetchrow(HELD_BY_TARGET, bucket, limit.namespace, *range_of(limit.key))
        )
        assert row is not None
        held, ready = held + row["held"], ready + row["ready"]
    return Held(held=held, ready=ready)


async def _peek(conn: Connection, line: Line, placement: Placement) -> tuple[Limit | None, int | None]:
    """This line's own limit and how many more it may let in, before it is locked. None: any number."""
    bucket = bucket_of_key(placement, line.namespace, line.name)
    row = await conn.fetchrow(PEEK, bucket, line.namespace, line.name)
    if row is None:
        return None, None
    limit = Limit.from_row(row)
    return limit, limit.room(await _held(conn, limit, placement), row["now"])


async def _refill(conn: Connection, line: Line, turn: str) -> Admitted:
    """Let in what is missing of each fairness key from `turn` on, until any is. Two at once take different rows."""
    place = (line.bucket, line.namespace, line.name)
    top = await conn.fetchval(TOP, *place)
    for _ in range(PAGES_MAX if top is not None else 0):
        turns = [row["turn"] for row in await conn.fetch(TURNS, *place, top, turn, TURNS_MAX)]
        rows = await conn.fetch(REFILL, *place, top, turns, line.name.removeprefix(TURN), READY_MAX)
        turn = "" if len(turns) < TURNS_MAX else turns[-1] + "\x01"
        if rows or not turn:
            return Admitted(ready=tuple((row["namespace"], row["target"]) for row in rows), moved=len(rows), turn=turn)
    return Admitted(turn=turn)


async def _let_in(
    conn: Connection,
    line: Line,
    candidates: Sequence[Candidate],
    limits: Mapping[str, Limit],
    rooms: Mapping[str, int | None],
    now: float,
    placement: Placement,
) -> Admitted:
    pairs = {one.pair for one in candidates if one.pair is not None}
    ready = await submit.ready_of(conn, line.bucket, line.namespace, pairs) if pairs else {}
    decision = decide(line.name, candidates, rooms, ready)
    rows = []
    if decision.ready:
        rows = await conn.fetch(LET_IN, line.bucket, [one.id for one in decision.ready], line.name)
    if decision.moved:
        ids = [one.id for one, _ in decision.moved]
        await conn.execute(MOVE, line.bucket, ids, [name for _, name in decision.moved], line.name)
    let_in = {row["id"] for row in rows}
    admitted = [one for one in decision.ready if one.id in let_in]
    await _spend(conn, line, admitted, decision.turn, limits, now, placement)
    return Admitted(
        ready=tuple((row["namespace"], row["target"]) for row in rows),
        moved=len(rows) + len(decision.moved),
        turn=decision.turn or "",
    )


async def _spend(
    conn: Connection,
    line: Line,
    admitted: Sequence[Candidate],
    turn: str | None,
    limits: Mapping[str, Limit],
    now: float,
    placement: Placement,
) -> None:
    """Keep what a rate has let go, and whose turn it was."""
    for key, limit in limits.items():
        spent = limit.spend(sum(key in one.keys for one in admitted), now)
        last = turn if turn is not None and key == line.name else limit.turn
        if spent.spent == limit.spent and last == limit.turn:
            continue
        await conn.execute(
            SPEND,
            bucket_of_key(placement, line.namespace, key),
            line.namespace,
            key,
            last,
            [at for at, _ in spent.spent],
            [count for _, count in spent.spent],
        )


def _candidate(row: asyncpg.Record) -> Candidate:
    return Candidate(
        id=ExecutionId(row["id"]),
        target=row["target"],
        concurrency_key=row["concurrency_key"],
        fairness_key=row["fairness_key"],
        limited=row["limited"],
    )
