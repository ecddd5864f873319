"""Bulk: one action on everything that a filter matches.

    *bulk* ──► cancel, pause, submit (a retry), redrive: batch by batch

A bulk has a row in every bucket. Whoever locks it does its next batch, and in the same transaction moves its cursor
past it: a server that dies in the middle has done nothing of that batch, and the next one begins where the last commit
ended. What is done to one item is done by the stage that does it to a single one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol, assert_never
from uuid import UUID

import asyncpg

from controlplane.domain.bulk import (
    ERROR_CHARS_MAX,
    Action,
    Asked,
    BulkId,
    BulkState,
    Count,
    Match,
    Page,
    Tally,
    dump,
    load,
    prefix_of,
)
from controlplane.domain.execution import Accepted, Held, Submission
from controlplane.domain.ids import ExecutionId, show
from controlplane.domain.replay import Reuse, retry_of
from controlplane.errors import BulkNotFound, ControlPlaneError, InvalidState, Unavailable
from controlplane.postgres.lane import Raced
from controlplane.postgres.pool import PASSING, Connection
from controlplane.stages import cancel, hold, pause, redrive, submit

log = logging.getLogger(__name__)

MakeId = Callable[[int], UUID]

BATCH_MAX = 100
"""Items of one transaction: so long their rows are locked, and so soon a stop takes effect."""
LOOK_MAX = 400
"""Rows that are looked at for one batch: where all match, those behind its end are looked at again for the next."""
ACCEPT_BYTES_MAX = 4 * 1024 * 1024
"""Inputs and contexts of retries that are in memory together."""
DUE_MAX = 40
"""Deliveries that are due at one receiver when a bulk adds more: what is fresh waits behind no more than these. After
so many it goes on a second later (BULKER_SECONDS), so this is also the most that it sends there in a second."""
STUCK_SECONDS = 900.0
"""How long a receiver may leave what is due before a bulk that waits for it leaves out what else there is for it."""
NOT_TAKING = "receiver_not_taking"
"""Its receiver has taken nothing for so long."""
SCOPE = f"bulk{submit.APART}"
"""What idempotency keys of bulks are unique within: no run is called so."""
MOVED_ON = "moved_on"
"""It matched a moment ago and does no more."""
RETRIED = "already_retried"
"""Its run holds a retry of it: that one is what may be retried again."""
POISON = (asyncpg.PostgresError, ControlPlaneError, ValueError, LookupError, TypeError)
"""What one item can fail with, whatever the database is like just now."""

INSERT = """
insert into bulks (
  bucket, id, namespace, action, filter, reason, reuse, state, matched, exact, created_at, moved_at, created_by
)
values ($1, $2, $3, $4, $5, $6, $7, 'running', $8, $9, clock(), clock(), $10)
on conflict (bucket, id) do nothing
"""

NEXT = """
select id, namespace, action, filter, reason, reuse, cursor, done, reasons, created_at
from bulks
where bucket = $1
  and state = 'running'
order by moved_at
limit 1
for update skip locked
"""

# At its end the count is what was found. Not `state = 'running'`: that was planned through the index of those, all of
# which it then read.
MOVE_ON = """
update bulks
set cursor = $3,
  done = $4,
  skipped = $5,
  failed = $6,
  reasons = $7,
  state = case when $8 then 'running' else 'done' end,
  matched = greatest(case when $8 then matched end, $4::int + $5::int + $6::int),
  exact = exact or not $8,
  began_at = coalesce(began_at, clock()),
  moved_at = clock(),
  ended_at = case when not $8 then clock() end
where bucket = $1
  and id = $2
  and ended_at is null
"""

GIVE_UP = """
update bulks
set state = 'failed', error = $3, moved_at = clock(), ended_at = clock()
where bucket = $1
  and id = $2
  and ended_at is null
"""

STOP = """
update bulks
set state = 'stopped', moved_at = clock(), ended_at = clock()
where bucket = $1
  and id = $2
  and namespace = $3
  and ended_at is null
returning id
"""

READ_STATE = """
select state
from bulks
where bucket = $1
  and id = $2
  and namespace = $3
"""

READ_RETRIED = """
select source_execution_id
from executions
where bucket = $1
  and run_id = any($2::text[])
  and source_execution_id = any($3::uuid[])
"""


class Find(Protocol):
    """The next ones that are meant (`reads.bulks.find`): the same that a dry run counts."""

    def __call__(
        self,
        conn: Connection,
        bucket: int,
        asked: Asked,
        *,
        began_at: datetime,
        after: UUID | None,
        limit: int,
        look: int,
    ) -> Awaitable[Page]: ...


class ReadAsked(Protocol):
    """What was asked of an execution (`reads.executions.read_asked`)."""

    def __call__(self, conn: Connection, bucket: int, id_: UUID, *, namespace: int) -> Awaitable[Submission | None]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyed:
    """The idempotency key of the request that asks for a bulk, and the hash of what was asked with it."""

    key: str
    request_hash: bytes


@dataclass(slots=True, kw_only=True)
class Advanced:
    """A batch of a bulk, and whom it concerns: targets with new work, executions that ended, what has to be told.

    `waits`: it did less than a batch, because there is no room for more yet.
    """

    id: BulkId
    namespace: int
    action: Action
    over: bool = False
    tally: Tally = field(default_factory=Tally)
    ready: Counter[str] = field(default_factory=Counter)
    ended: list[UUID] = field(default_factory=list)
    cancelling: bool = False
    due: bool = False
    waits: bool = False

    def take(self, other: Advanced) -> None:
        self.tally.add(other.tally)
        self.ready.update(other.ready)
        self.ended += other.ended
        self.cancelling = self.cancelling or other.cancelling
        self.due = self.due or other.due


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The bulk whose turn it is, locked."""

    id: BulkId
    bucket: int
    asked: Asked
    cursor: UUID | None
    tally: Tally
    began_at: datetime
    make_id: MakeId
    read_asked: ReadAsked

    def nothing(self) -> Advanced:
        return Advanced(id=self.id, namespace=self.asked.namespace, action=self.asked.action)


async def begin(
    conn: Connection,
    id_: BulkId,
    asked: Asked,
    *,
    counted: Count,
    created_by: str | None = None,
    keyed: Keyed | None = None,
) -> tuple[BulkId, bool]:
    """From here on it goes on by itself. Says its id, and whether an earlier request with this key has begun it.

    Moves: nothing → running, in every bucket that was counted. Guard: the idempotency key and the id are unique.
    Raises: IdempotencyConflict.
    """
    async with conn.transaction():
        kept: UUID = id_
        if keyed is not None:
            kept = await submit.reserve(
                conn,
                id_,
                namespace=asked.namespace,
                scope=f"bulk{submit.APART}",
                key=keyed.key,
                request_hash=keyed.request_hash,
            )
        for bucket in sorted(counted.matched):
            await conn.execute(
                INSERT,
                bucket,
                kept,
                asked.namespace,
                asked.action.value,
                dump(asked.filter, asked.action),
                asked.reason,
                None if asked.reuse is None else asked.reuse.value,
                counted.matched[bucket],
                counted.exact[bucket],
                created_by,
            )
    return BulkId(kept), kept != id_


async def stop(conn: Connection, id_: BulkId, buckets: Sequence[int], *, namespace: int) -> None:
    """No further batch of it begins; what was done stays done. Asking again changes nothing.

    Moves: running → stopped. Guard: the state; it waits for a batch that is under way.
    Raises: BulkNotFound, InvalidState when it has come to its end by itself.
    """
    async with conn.transaction():
        stopped = [await conn.fetchval(STOP, bucket, id_, namespace) for bucket in buckets]
        if any(stopped):
            return
        states = [await conn.fetchval(READ_STATE, bucket, id_, namespace) for bucket in buckets]
    there = [state for state in states if state is not None]
    if not there:
        raise BulkNotFound
    if BulkState.STOPPED not in there:
        raise InvalidState(f"The bulk has ended already: {there[0]}.", status=there[0])


async def advance(
    conn: Connection, bucket: int, *, find: Find, read_asked: ReadAsked, make_id: MakeId
) -> Advanced | None:
    """Do the next batch of the bulk in this bucket whose turn was longest ago; None when there is none to do.

    Moves: what the action moves; running → done after the last. Guard: the row of the bulk is locked, and its cursor
    moves in the transaction of its batch. What was found is looked at once more under the lock of its own row.
    Raises: Unavailable when two met on a row; the batch is done at the next turn.
    """
    try:
        async with conn.transaction():
            row = await conn.fetchrow(NEXT, bucket)
            return None if row is None else await _advance(conn, bucket, row, find, read_asked, make_id)
    except Raced:
        raise Unavailable("Two met on a row; it goes on at the next turn.") from None


async def _advance(
    conn: Connection, bucket: int, row: asyncpg.Record, find: Find, read_asked: ReadAsked, make_id: MakeId
) -> Advanced:
    id_, action = BulkId(row["id"]), Action(row["action"])
    try:
        async with conn.transaction():
            turn = _turn_of(bucket, row, read_asked, make_id)
            page = await find(
                conn,
                bucket,
                turn.asked,
                began_at=turn.began_at,
                after=turn.cursor,
                limit=BATCH_MAX,
                look=LOOK_MAX,
            )
    except PASSING:
        raise
    except POISON as error:  # it would be so at every turn, and keep the others from theirs
        log.warning("bulk.failed", extra={"bulk_id": show("bulk", id_), "error": repr(error)})
        await conn.execute(GIVE_UP, bucket, id_, str(error)[:ERROR_CHARS_MAX])
        return Advanced(id=id_, namespace=row["namespace"], action=action, over=True)
    found = page
    if action is Action.REDRIVE_DELIVERIES:
        page = await _with_room(conn, turn, found)
    did = await _each(conn, turn, page.items)
    did.waits = len(page.items) < len(found.items)
    turn.tally.add(did.tally)
    await conn.execute(
        MOVE_ON,
        bucket,
        id_,
        page.cursor,
        turn.tally.done,
        turn.tally.skipped.total(),
        turn.tally.failed.total(),
        turn.tally.dump(),
        page.more,
    )
    did.over = not page.more
    return did


async def _with_room(conn: Connection, turn: Turn, page: Page) -> Page:
    """As much of the page as its receivers have room for: up to the first that has none, which is waited for.

    Whoever replays 10,000 at once would keep a receiver from what is new. So only a few of them are due there at a
    time, whatever the receiver's speed, and who takes nothing at all holds the others up for no more than a while.
    """
    hosts = sorted({one.host for one in page.items if one.skip is None})
    due = await redrive.due_at(conn, turn.bucket, hosts, namespace=turn.asked.namespace, most=DUE_MAX) if hosts else {}
    room = {host: DUE_MAX - one.waiting for host, one in due.items()}
    items: list[Match] = []
    for one in page.items:
        if one.skip is None and room[one.host] <= 0:
            if due[one.host].late_seconds < STUCK_SECONDS:
                return Page(items=tuple(items), cursor=items[-1].id if items else turn.cursor, more=True)
            items.append(replace(one, skip=NOT_TAKING))
            continue
        if one.skip is None:
            room[one.host] -= 1
        items.append(one)
    return replace(page, items=tuple(items))


def _turn_of(bucket: int, row: asyncpg.Record, read_asked: ReadAsked, make_id: MakeId) -> Turn:
    """Raises ValueError when the filter is of a newer server."""
    action = Action(row["action"])
    asked = Asked(
        namespace=row["namespace"],
        action=action,
        filter=load(row["filter"], action),
        reason=row["reason"],
        reuse=None if row["reuse"] is None else Reuse(row["reuse"]),
    )
    return Turn(
        id=BulkId(row["id"]),
        bucket=bucket,
        asked=asked,
        cursor=row["cursor"],
        tally=Tally.load(row["done"], row["reasons"]),
        began_at=row["created_at"],
        make_id=make_id,
        read_asked=read_asked,
    )


async def _each(conn: Connection, turn: Turn, items: Sequence[Match]) -> Advanced:
    """All at once; and one by one when that fails, so that what cannot be done keeps nothing else from being done."""
    did = turn.nothing()
    did.tally.skipped.update(one.skip for one in items if one.skip is not None)
    todo = [one for one in items if one.skip is None]
    if not todo:
        return did
    try:
        async with conn.transaction():
            did.take(await _act(conn, turn, todo))
    except PASSING:
        raise
    except POISON:
        for one in todo:
            did.take(await _alone(conn, turn, one))
    return did


async def _alone(conn: Connection, turn: Turn, one: Match) -> Advanced:
    try:
        async with conn.transaction():
            return await _act(conn, turn, [one])
    except PASSING:
        raise
    except POISON as error:
        did, shown = turn.nothing(), show(prefix_of(turn.asked.action), one.id)
        code = error.code if isinstance(error, ControlPlaneError) else type(error).__name__
        did.tally.fail(shown, code, str(error))
        log.warning("bulk.item_failed", extra={"bulk_id": show("bulk", turn.id), "id": shown, "error": repr(error)})
        return did


async def _act(conn: Connection, turn: Turn, items: Sequence[Match]) -> Advanced:
    match turn.asked.action:
        case Action.CANCEL:
            return await _cancel(conn, turn, items)
        case Action.PAUSE | Action.RESUME:
            return await _turn(conn, turn, items)
        case Action.RETRY:
            return await _retry(conn, turn, items)
        case Action.REDRIVE_DELIVERIES:
            return await _redrive(conn, turn, items)
        case _:
            assert_never(turn.asked.action)


async def _still(conn: Connection, turn: Turn, items: Sequence[Match], did: Advanced) -> list[Held]:
    """Those that stand where they are looked for, locked; the others are left alone, but for those that were named."""
    held = await hold.lock(conn, turn.bucket, [one.id for one in items])
    wanted = set(turn.asked.wanted)
    still = [one for one in held.values() if one.state.value in wanted]
    did.tally.skipped.update({MOVED_ON: len(items) - len(still)} if len(still) < len(items) else {})
    return still


async def _cancel(conn: Connection, turn: Turn, items: Sequence[Match]) -> Advanced:
    did = turn.nothing()
    ids = [one.id for one in await _still(conn, turn, items, did)]
    for id_, said in zip(
        ids, await cancel.request(conn, ids, reason=turn.asked.reason, make_id=turn.make_id), strict=True
    ):
        if isinstance(said, ControlPlaneError):
            did.tally.skip(said.code)
            continue
        did.tally.done += 1
        if said.settled:
            did.ended.append(id_)
        else:
            did.cancelling = True
    return did


async def _turn(conn: Connection, turn: Turn, items: Sequence[Match]) -> Advanced:
    did = turn.nothing()
    for one in await _still(conn, turn, items, did):
        try:
            if turn.asked.action is Action.PAUSE:
                await pause.request(conn, one.id, reason=turn.asked.reason)
            else:
                turned = await pause.resume(conn, one.id)
                did.ready.update([turned.target] if turned.ready else [])
        except ControlPlaneError as error:
            did.tally.skip(error.code)
        else:
            did.tally.done += 1
    return did


async def _retry(conn: Connection, turn: Turn, items: Sequence[Match]) -> Advanced:
    did = turn.nothing()
    rows = await conn.fetch(READ_RETRIED, turn.bucket, list({one.run_id for one in items}), [one.id for one in items])
    retried = {row["source_execution_id"] for row in rows}
    did.tally.skipped.update({RETRIED: len(retried)} if retried else {})
    async for wishes in _wishes(conn, turn, [one.id for one in items if one.id not in retried], did):
        for wish, said in zip(wishes, await submit.accept(conn, wishes), strict=True):
            if not isinstance(said, Accepted):
                raise said
            did.tally.done += 1
            did.ready[wish.target] += 1
    return did


async def _wishes(conn: Connection, turn: Turn, ids: Sequence[UUID], did: Advanced) -> AsyncIterator[list[Submission]]:
    """What was asked of these, as retries of this bulk: a source has one, whoever asks how often."""
    wishes: list[Submission] = []
    for id_ in ids:
        old = await turn.read_asked(conn, turn.bucket, id_, namespace=turn.asked.namespace)
        if old is None:
            did.tally.skip("not_found")
            continue
        new = ExecutionId(turn.make_id(turn.bucket))
        wish = retry_of(
            old,
            new,
            reuse=turn.asked.reuse or Reuse.SUCCEEDED_BEFORE,
            reason=turn.asked.reason,
            bulk_id=show("bulk", turn.id),
        )
        wishes.append(replace(wish, idempotency_key=show("exec", id_), idempotency_scope=f"{SCOPE}{turn.id}"))
        if sum(len(one.input) + len(one.context or b"") for one in wishes) >= ACCEPT_BYTES_MAX:
            yield wishes
            wishes = []
    if wishes:
        yield wishes


async def _redrive(conn: Connection, turn: Turn, items: Sequence[Match]) -> Advanced:
    did = turn.nothing()
    ids = [one.id for one in items]
    sent = await redrive.redrive(
        conn,
        turn.bucket,
        ids,
        namespace=turn.asked.namespace,
        states=turn.asked.states,
        settled_before=turn.began_at,
    )
    did.tally.done += len(sent)
    did.tally.skipped.update({MOVED_ON: len(ids) - len(sent)} if len(sent) < len(ids) else {})
    did.due = bool(sent)
    return did
