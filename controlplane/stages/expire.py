"""Expire: the clock speaks. What a dead process held becomes available again; what ran out of time ends.

leased ──► *expire* ──► ready        the session died: a crash is a delay, not a failure
              └───────► finish       cancelled in the meantime, out of time, or crashing again and again
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from controlplane.domain.event import Event, EventType
from controlplane.domain.execution import Held, Overdue, Settlement, Status
from controlplane.domain.ids import bucket_of
from controlplane.domain.lease import CRASHED, NODE_SILENT, SILENT, Fence, Report, Verdict, crash_loops
from controlplane.domain.notice import text
from controlplane.domain.placement import by_bucket
from controlplane.postgres.pool import Connection
from controlplane.stages import complete, finish, hold, record, suspend

TIMED_OUT = {
    Overdue.SCHEDULE_TO_START: "Nobody began it within the time that it may wait for that.",
    Overdue.START_TO_CLOSE: "The attempt ran longer than its timeout allows.",
    Overdue.HEARTBEAT: "Nothing was heard of the attempt for longer than it may be silent.",
    Overdue.TOTAL: "It did not end within the time that it has altogether.",
}
HEARTBEAT_MISSED = "HeartbeatMissed"
"""The class of the error of an attempt that was silent for too long, for the policies that name it."""
BATCH = 256
LEAVE_MAX = 10_000

# `lease_seconds <= $2`: the seconds for which we and our database have been up. An outage of ours must not expire
# everybody: they could not have renewed. Functions that exist only while they are called are renewed by us and cannot
# register again: after a pause of ours this may run before that, and they would be gone for good. They end when they
# are told to drain.
CLOSE_EXPIRED = """
update sessions
set closed_at = clock(),
  closed_reason = case when transport = 'pull' then 'expired' when draining then 'drained' else 'silent' end
where bucket = $1
  and id = any(array(
    select id
    from sessions
    where bucket = $1
      and closed_at is null
      and expires_at < clock()
      and lease_seconds <= $2
      and (transport <> 'serverless' or draining)
    order by id
    limit $3
    for update skip locked
  ))
returning id, namespace, node_id
"""

CLOSE = """
update sessions
set closed_at = clock(), closed_reason = $3
where bucket = $1
  and id = $2
  and closed_at is null
"""

# Nobody listens at the address of a process that is called. Was one of its node about to leave, it may have been this
# one, which then finishes what it runs without listening any more. Whoever was heard of since we looked is not dead.
CLOSE_REFUSED = """
update sessions s
set closed_at = case when not n.leaving then clock() end,
  closed_reason = case when not n.leaving then 'refused' end,
  draining = n.leaving,
  expires_at = least(s.expires_at, clock() + make_interval(secs => $4))
from (
  select namespace, id, coalesce(left_at > clock() - make_interval(secs => $4), false) as leaving
  from nodes
  where bucket = $1
) n
where s.bucket = $1
  and s.id = $2
  and s.closed_at is null
  and not s.draining
  and s.renewed_at < clock() - make_interval(secs => $3)
  and n.namespace = s.namespace
  and n.id = s.node_id
returning s.closed_at is not null as closed
"""

# Whose leases lie in this bucket, one index probe for each: asked from the side of the work, so that none is left lying
# whatever became of its session. A claim may commit after its session was closed, and a session of another bucket may
# hold work here.
HOLDERS = """
with recursive holders(session_id) as (
  (
    select session_id
    from queue
    where bucket = $1
      and state in ('leased', 'waiting')
      and session_id is not null
    order by session_id
    limit 1
  )
  union all
  select (
    select q.session_id
    from queue q
    where q.bucket = $1
      and q.state in ('leased', 'waiting')
      and q.session_id > holders.session_id
    order by q.session_id
    limit 1
  )
  from holders
  where holders.session_id is not null
)
select session_id
from holders
where session_id is not null
"""

READ_SESSIONS = """
select id, closed_at is null as open, closed_reason
from sessions
where bucket = $1
  and id = any($2::uuid[])
"""

# All that are kept, for as long as somebody may still claim in their name: see `forget_sessions`.
CLOSED = """
select id, closed_reason
from sessions
where bucket = $1
  and closed_at is not null
"""

# What is asked later of a node that is not there is when its last process was: so much is kept, with the node. Nodes
# are taken before their sessions, as everybody takes them: `owners` is counted before the first session is looked at.
FORGET = """
with old as (
  select namespace, node_id
  from sessions
  where bucket = $1
    and closed_at < clock() - make_interval(secs => $2)
  group by namespace, node_id
),
owners as (
  select n.id
  from nodes n
  join old o on o.namespace = n.namespace and o.node_id = n.id
  where n.bucket = $1
  order by n.namespace, n.id
  for no key update of n
),
forgotten as (
  delete from sessions
  where bucket = $1
    and closed_at < clock() - make_interval(secs => $2)
    and (select count(*) from owners) >= 0
  returning namespace, node_id, closed_at
),
gone as (
  select namespace, node_id, max(closed_at) as at
  from forgotten
  group by namespace, node_id
)
update nodes n
set left_at = greatest(n.left_at, gone.at)
from gone
where n.bucket = $1
  and n.namespace = gone.namespace
  and n.id = gone.node_id
"""

# Ordered by the session, as the index is: ordered by id it was planned along the primary key and read the whole queue.
ORPHANED = """
select id
from queue
where bucket = $1
  and session_id = any($2::uuid[])
  and state in ('leased', 'waiting')
order by session_id
limit $3
for update skip locked
"""

LEASED_LONG = """
select id, attempt
from queue
where bucket = $1
  and session_id = any($2::uuid[])
  and state in ('leased', 'waiting')
  and leased_at < clock() - make_interval(secs => $3)
order by session_id
"""

# An attempt that was sent and is not to be waited for any longer. Not `skip locked`: nobody looks at it again, and a
# line that is being logged in its name holds the row for a moment.
SENT = """
select id
from queue
where bucket = $1
  and id = any($2::uuid[])
  and session_id is not null
  and sent_at is not null
order by id
for update
"""

# The attempt that was not named: since then the same session may have taken the work anew, and name that.
UNNAMED = """
select q.id
from unnest($2::uuid[], $3::int[]) as u(id, attempt)
join queue q on q.bucket = $1 and q.id = u.id and q.attempt = u.attempt
where q.session_id = $4
  and q.leased_at < clock() - make_interval(secs => $5)
order by q.id
for update of q skip locked
"""

OVERDUE = """
select id
from queue
where bucket = $1
  and deadline_at < clock()
order by deadline_at
limit $2
for update skip locked
"""

# Whoever waits for a child says nothing meanwhile. Looked at when it seems silent and not written with every end of a
# child, of which there are many more.
EXCUSED = """
select p.id
from unnest($2::uuid[]) as p(id)
where exists (
  select 1
  from queue c
  where c.bucket = $1
    and c.parent_id = p.id
  offset 0
)
or exists (
  select 1
  from executions c
  join queue q on q.bucket = $1 and q.id = p.id
  join outcomes o on o.bucket = $1 and o.id = c.id
  where c.bucket = $1
    and c.parent_id = p.id
    and o.finished_at > clock() - make_interval(secs => q.heartbeat_seconds)
)
"""

EXCUSE = """
update queue
set deadline_at = least(attempt_deadline_at, total_deadline_at, clock() + make_interval(secs => heartbeat_seconds))
where bucket = $1
  and id = any($2::uuid[])
"""

UNHEEDED = """
select id
from queue
where bucket = $1
  and cancel_requested_at < clock() - make_interval(secs => $2)
order by cancel_requested_at
limit $3
for update skip locked
"""

# What is ready again at once keeps its place under its limits: only its process was lost. Who waited had none.
RELEASE = """
update queue q
set state = case
    when q.pause_requested then 'paused'
    when $6::float8 > 0 then 'delayed'
    when q.state = 'waiting' and q.line is not null then 'blocked'
    else 'ready'
  end,
  session_id = null,
  leased_at = null,
  deadline_at = q.total_deadline_at,
  sent_at = null,
  accepted_at = null,
  waiting_at = null,
  available_at = clock() + make_interval(secs => $6),
  crashes = r.crashes,
  pause_requested = false,
  status_reason = case when q.pause_requested then 'paused' else $5 end
from unnest($2::uuid[], $3::int[], $4::smallint[]) as r(id, attempt, crashes)
where q.bucket = $1
  and q.id = r.id
  and q.attempt = r.attempt
returning q.namespace, q.target, q.state
"""

PROMOTE = """
update queue
set state = case when line is null then 'ready' else 'blocked' end, status_reason = nullif(status_reason, 'scheduled')
where bucket = $1
  and id = any(array(
    select id
    from queue
    where bucket = $1
      and state = 'delayed'
      and available_at <= clock()
    order by available_at
    limit $2
    for update skip locked
  ))
returning namespace, target, state
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """An attempt that has ended while its process still worked on it."""

    fence: Fence
    session_id: UUID
    run_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What one pass did: the targets that have work again, the executions that ended, and how many rows it touched.

    `stopped`: the attempts that were running when they ended. `blocked`: how many have to be let in.
    """

    rows: int
    ready: tuple[tuple[int, str], ...] = ()
    ended: tuple[UUID, ...] = ()
    stopped: tuple[Stopped, ...] = ()
    blocked: int = 0


async def close_expired(conn: Connection, bucket: int, *, up_seconds: float) -> int:
    """Close the sessions that were not renewed in time; their leases are freed by `sweep`.

    Guard: `expires_at` by the database's clock; a heartbeat that comes later gets `session_closed`.
    """
    return len(await conn.fetch(CLOSE_EXPIRED, bucket, up_seconds, BATCH))


async def closed_sessions(conn: Connection, bucket: int) -> dict[UUID | None, str]:
    """The sessions that live in this bucket and are closed but not forgotten, and why. They may hold work in any."""
    return {row["id"]: row["closed_reason"] for row in await conn.fetch(CLOSED, bucket)}


async def sweep(
    conn: Connection, bucket: int, *, make_id: finish.MakeId, closed: Mapping[UUID | None, str] | None = None
) -> Swept:
    """Free what closed sessions still hold.

    `closed`: only what these hold, which is quick, however many others work. Without it every session that holds
    something here is asked for, so that nothing is left lying whatever became of its session.

    Moves: leased, waiting → ready (blocked when it waited under a limit), or → (outcome) when it was being cancelled or
    keeps crashing.
    Guard: rows are taken with `skip locked`; one that a report holds right now is seen again on the next pass.
    """
    if closed is None:
        closed = await _closed_holders(conn, bucket)
    if not closed:
        return Swept(rows=0)
    async with conn.transaction():
        rows = await _lock(conn, bucket, ORPHANED, list(closed), BATCH)
        silent = [held for held in rows if closed.get(held.session_id) == SILENT]
        crashed = [held for held in rows if closed.get(held.session_id) in CRASHED]
        handed_back = [held for held in rows if closed.get(held.session_id) not in CRASHED | {SILENT}]
        if len(rows) not in (len(silent), len(crashed), len(handed_back)):
            await suspend.reserve(conn, bucket, rows)
        quiet = await _free(conn, bucket, silent, reason=NODE_SILENT, crash=True, make_id=make_id)
        done = await _free(conn, bucket, crashed, reason="lease_expired", crash=True, make_id=make_id)
        also = await _free(conn, bucket, handed_back, reason="released", crash=False, make_id=make_id)
        return Swept(
            rows=quiet.rows + done.rows + also.rows,
            ready=quiet.ready + done.ready + also.ready,
            ended=quiet.ended + done.ended + also.ended,
            blocked=quiet.blocked + done.blocked + also.blocked,
        )


async def forget_sessions(conn: Connection, bucket: int, *, after_seconds: float) -> None:
    """Delete sessions that have been closed for so long that nothing can still be claimed in their name.

    Their nodes keep when the last of them was gone. That is long ago for `refuse`, which takes a node whose process
    left a moment ago for one about to leave.
    """
    await conn.execute(FORGET, bucket, after_seconds)


async def leave(conn: Connection, session_id: UUID, bucket: int, *, reason: str, make_id: finish.MakeId) -> Swept:
    """A process says goodbye: its session closes and its work in this bucket is available again at once.

    Moves: leased, waiting → ready. Guard: as in `sweep`. No retry and no crash is counted.
    """
    async with conn.transaction():
        await conn.execute(CLOSE, bucket_of(session_id), session_id, reason)
        rows = await _lock(conn, bucket, ORPHANED, [session_id], LEAVE_MAX)
        return await _free(conn, bucket, rows, reason="released", crash=False, make_id=make_id)


async def refuse(conn: Connection, session_id: UUID, *, silent_seconds: float, drain_seconds: float) -> bool:
    """Nobody listens where this process was: close its session, or let it drain when one of its node has said goodbye.

    Guard: it has not been heard of for `silent_seconds` by the database's clock. Says whether it is closed now.
    """
    closed: bool | None = await conn.fetchval(
        CLOSE_REFUSED, bucket_of(session_id), session_id, silent_seconds, drain_seconds
    )
    return bool(closed)


async def take_back(
    conn: Connection,
    bucket: int,
    fences: Sequence[Fence],
    *,
    reason: str,
    crash: bool,
    make_id: finish.MakeId,
    delay_seconds: float = 0.0,
) -> Swept:
    """Withdraw attempts from processes that are called: not taken, not answered, or running for too long.

    Moves: leased → ready (or delayed), or → (outcome) when it was being cancelled or keeps crashing. Guard: the attempt
    must still hold its lease; whatever its process says afterwards is stale.
    """
    wanted = set(fences)
    async with conn.transaction():
        rows = await _lock(conn, bucket, SENT, [fence.execution_id for fence in wanted])
        mine = [held for held in rows if held.session_id is not None and Fence(held.id, held.attempt) in wanted]
        return await _free(conn, bucket, mine, reason=reason, crash=crash, make_id=make_id, delay_seconds=delay_seconds)


async def release_unnamed(
    conn: Connection,
    bucket: int,
    session_id: UUID,
    named: Sequence[Fence],
    *,
    older_than_seconds: float,
    make_id: finish.MakeId,
) -> Swept:
    """Take back what a session was given but does not know of: the claim's answer was lost on the wire.

    Moves: leased → ready. Guard: only rows leased longer ago than any answer may take, at the attempt not named.
    """
    held = await conn.fetch(LEASED_LONG, bucket, [session_id], older_than_seconds)
    known = set(named)
    unknown = [row for row in held if Fence(row["id"], row["attempt"]) not in known]
    if not unknown:
        return Swept(rows=0)
    ids, attempts = [row["id"] for row in unknown], [row["attempt"] for row in unknown]
    async with conn.transaction():
        rows = await _lock(conn, bucket, UNNAMED, ids, attempts, session_id, older_than_seconds)
        return await _free(conn, bucket, rows, reason="claim_lost", crash=False, make_id=make_id)


async def time_out(
    conn: Connection, bucket: int, *, make_id: finish.MakeId, jitter: Callable[[], float] = float
) -> Swept:
    """End what was not begun in time, what ran longer than an attempt may, and what took too long altogether.

    An attempt that was silent for too long has failed: it is tried again as its policy says, and else ends as the
    others. One whose child runs, or ended a moment ago, is excused.
    Moves: any unfinished state → (outcome `timeout`, or `cancelled` when that was asked before); leased → delayed or
    ready. Guard: `deadline_at`, the nearest of the four, by the database's clock. A late result finds no lease.
    """
    async with conn.transaction():
        rows = await _lock(conn, bucket, OVERDUE, BATCH)
        silent = [held for held in rows if held.overdue is Overdue.HEARTBEAT]
        excused = await _excuse(conn, bucket, silent)
        missed = [(_missed(held), held) for held in silent if held.id not in excused]
        if missed and len(missed) < len(rows):
            await suspend.reserve(conn, bucket, rows)
        swept = await _end(conn, bucket, [held for held in rows if held not in silent], make_id=make_id)
        settled, _, again = await complete.conclude(conn, bucket, missed, make_id=make_id, jitter=jitter)
    return Swept(
        rows=len(rows),
        ready=tuple((held.namespace, held.target) for _, held in again),
        ended=swept.ended + tuple(one.id for one in settled),
        stopped=tuple(_stopped(held, held.session_id) for held in rows if held.session_id and held.id not in excused),
    )


async def _excuse(conn: Connection, bucket: int, silent: Sequence[Held]) -> set[UUID]:
    """Those that only seem silent, with a heartbeat more to go."""
    if not silent:
        return set()
    excused = {row["id"] for row in await conn.fetch(EXCUSED, bucket, [held.id for held in silent])}
    if excused:
        await conn.execute(EXCUSE, bucket, list(excused))
    return excused


def _missed(held: Held) -> Report:
    """What we say in the name of a node that says nothing."""
    return Report(
        fence=Fence(held.id, held.attempt),
        verdict=Verdict.FAILED,
        error=text(TIMED_OUT[Overdue.HEARTBEAT]),
        error_class=HEARTBEAT_MISSED,
        overdue=Overdue.HEARTBEAT,
    )


def _stopped(held: Held, session_id: UUID) -> Stopped:
    return Stopped(
        fence=Fence(held.id, held.attempt), session_id=session_id, run_id=held.run_id, reason=held.overdue.value
    )


async def force_cancel(conn: Connection, bucket: int, *, grace_seconds: float, make_id: finish.MakeId) -> Swept:
    """End what was cancelled and whose node has not answered within the grace.

    Moves: leased, flagged → (outcome `cancelled`).
    """
    async with conn.transaction():
        rows = await _lock(conn, bucket, UNHEEDED, grace_seconds, BATCH)
        return await _end(conn, bucket, rows, make_id=make_id)


async def promote(conn: Connection, bucket: int) -> Swept:
    """Make delayed work ready when its time has come. Moves: delayed → ready, or → blocked when it has to be let in."""
    rows = await conn.fetch(PROMOTE, bucket, BATCH)
    ready = tuple((row["namespace"], row["target"]) for row in rows if row["state"] == "ready")
    return Swept(rows=len(rows), ready=ready, blocked=len(rows) - len(ready))


async def _closed_holders(conn: Connection, bucket: int) -> dict[UUID | None, str]:
    """The sessions with work in this bucket that are closed, and why; a session that is forgotten was closed."""
    holders: list[UUID] = [row["session_id"] for row in await conn.fetch(HOLDERS, bucket)]
    closed: dict[UUID | None, str] = dict.fromkeys(holders, "forgotten")
    for place, ids in by_bucket(holders, lambda id_: id_):
        for row in await conn.fetch(READ_SESSIONS, place, ids):
            if row["open"]:
                del closed[row["id"]]
            else:
                closed[row["id"]] = row["closed_reason"]
    return closed


async def _lock(conn: Connection, bucket: int, pick: str, *arguments: object) -> list[Held]:
    """The rows that a pick found free, as they stand now that they are ours."""
    rows = await conn.fetch(pick, bucket, *arguments)
    return list((await hold.lock(conn, bucket, [row["id"] for row in rows])).values()) if rows else []


async def _end(conn: Connection, bucket: int, rows: list[Held], *, make_id: finish.MakeId) -> Swept:
    settled = await finish.settle(
        conn,
        bucket,
        [finish.cancelled(held, held.cancel_reason) if held.cancel_requested else _timed_out(held) for held in rows],
        make_id=make_id,
    )
    return Swept(rows=len(rows), ended=tuple(one.id for one in settled))


async def _free(
    conn: Connection,
    bucket: int,
    rows: list[Held],
    *,
    reason: str,
    crash: bool,
    make_id: finish.MakeId,
    delay_seconds: float = 0.0,
) -> Swept:
    if not rows:
        return Swept(rows=0)
    ending: list[Held] = []
    freed: list[Held] = []
    for held in rows:
        (ending if held.cancel_requested or (crash and crash_loops(held)) else freed).append(held)
    settled = await finish.settle(
        conn,
        bucket,
        [finish.cancelled(held, held.cancel_reason) if held.cancel_requested else _crash_loop(held) for held in ending],
        make_id=make_id,
    )
    back: list[asyncpg.Record] = []
    if freed:
        back = await conn.fetch(
            RELEASE,
            bucket,
            [held.id for held in freed],
            [held.attempt for held in freed],
            [held.crashes + crash for held in freed],
            reason,
            delay_seconds,
        )
        await record.append(conn, bucket, [_freed(held, reason, crash) for held in freed])
    return Swept(
        rows=len(rows),
        ready=tuple((row["namespace"], row["target"]) for row in back if row["state"] == "ready"),
        ended=tuple(one.id for one in settled),
        blocked=sum(row["state"] == "blocked" for row in back),
    )


def _freed(held: Held, reason: str, crash: bool) -> Event:
    return record.about(held, EventType.EXPIRED if crash else EventType.RELEASED, b'{"reason":%b}' % text(reason))


def _timed_out(held: Held) -> Settlement:
    return Settlement(
        held=held,
        status=Status.TIMEOUT,
        status_reason=held.overdue.value,
        error=text(TIMED_OUT[held.overdue]),
        failures=held.failures,
    )


def _crash_loop(held: Held) -> Settlement:
    return Settlement(
        held=held,
        status=Status.FAILED,
        status_reason="crash_loop",
        error=text(
            f"{held.crashes + 1} leases in a row were lost without a checkpoint: running this kills its process."
        ),
        error_class="CrashLoop",
        failures=held.failures,
    )
