"""Complete: a node says how an attempt went.

submit ──► lease ──► *complete* ──► finish ──► deliver
             ▲            │
             └── retry ───┘
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from controlplane.domain.begun import Begun, Seen
from controlplane.domain.call import counts_late
from controlplane.domain.event import Event, EventType
from controlplane.domain.execution import Conclusion, Held, Settled, Settlement, Status
from controlplane.domain.ids import ExecutionId
from controlplane.domain.lease import NODE_SILENT, WITHDRAWING, Fence, Ready, Recorded, Report, ReportCode, Verdict
from controlplane.domain.notice import text
from controlplane.domain.placement import by_bucket, span
from controlplane.domain.retry import RetryPolicy, after_error, delay_seconds
from controlplane.domain.step import Until
from controlplane.errors import ControlPlaneError, StepNotFound
from controlplane.postgres.pool import Connection, confirm
from controlplane.stages import finish, hold, record, suspend

Ended = tuple[Report, Held]
"""How an attempt went, and the row of its execution."""

RETURNED = {
    Verdict.FAILED: EventType.RETRYING,
    Verdict.RELEASED: EventType.RELEASED,
    Verdict.WAITING: EventType.SUSPENDED,
}

READ_POLICIES = """
select id, retries_max, retry_delay_seconds, retry_factor, retry_cap_seconds, retry_jitter, fatal_errors, retry_errors
from executions
where bucket = $1
  and id = any($2::uuid[])
  and id between $3 and $4
"""

# What is handed back keeps its place under its limits; what has failed, or waited and had none, stands in line again.
RETRY = """
update queue q
set state = case
    when q.pause_requested then 'paused'
    when r.delay_seconds > 0 then 'delayed'
    when q.line is not null and (r.reason = 'retrying' or q.state = 'waiting') then 'blocked'
    else 'ready'
  end,
  available_at = clock() + make_interval(secs => r.delay_seconds),
  failures = r.failures,
  crashes = 0,
  session_id = null,
  leased_at = null,
  deadline_at = q.total_deadline_at,
  sent_at = null,
  accepted_at = null,
  waiting_at = null,
  pause_requested = false,
  status_reason = case when q.pause_requested then 'paused' else r.reason end
from unnest($2::uuid[], $3::int[], $4::float8[], $5::smallint[], $6::text[])
  as r(id, attempt, delay_seconds, failures, reason)
where q.bucket = $1
  and q.id = r.id
  and q.attempt = r.attempt
"""

READ_OUTCOMES = """
select id, attempt, status
from outcomes
where bucket = $1
  and id = any($2::uuid[])
  and id between $3 and $4
"""

# What was suspended and says no reason had nothing to wait for any more.
READ_RETRIED = """
select distinct execution_id, attempt, type,
  type = 'execution.suspended' and substring(data from 1 for 9) = '{"reason"' as waits
from events
where bucket = $1
  and execution_id = any($2::uuid[])
  and attempt = any($3::int[])
  and type in ('execution.retrying', 'lease.released', 'execution.suspended')
"""


async def report(
    conn: Connection,
    batch: Sequence[Report],
    *,
    make_id: finish.MakeId,
    jitter: Callable[[], float],
    begun: Begun | None = None,
) -> list[Recorded | ControlPlaneError]:
    """Record how these attempts went; saying it twice is saying it once.

    Moves: leased → (outcome) through finish; leased → delayed or ready when a failure has a retry left or the work is
    handed back; leased → waiting when it only waits. Guard: the row is locked, and the attempt must still hold its
    lease. A report without a lease gets what was recorded for this very attempt (a repeat after a lost answer), else
    `lease_lost`; nothing changes. `begun`: what this process knows of attempts that have just begun.
    Raises: per item StepNotFound, when it waits for a step that is not there.
    """
    begun = Begun() if begun is None else begun
    answers: dict[Fence, Recorded | ControlPlaneError] = {}
    for bucket, part in by_bucket(batch, lambda item: item.fence.execution_id):
        successes = [item for item in part if item.verdict is Verdict.SUCCEEDED]
        answers |= await _succeed(conn, bucket, successes, begun, make_id)
    rest = [item for item in batch if item.fence not in answers]
    if rest:
        async with conn.transaction():
            for bucket, part in by_bucket(rest, lambda item: item.fence.execution_id):
                answers |= await _report(conn, bucket, part, make_id, jitter)
    return [answers[item.fence] for item in batch]


async def _succeed(
    conn: Connection, bucket: int, part: list[Report], begun: Begun, make_id: finish.MakeId
) -> dict[Fence, Recorded | ControlPlaneError]:
    """What most reports come to: a success that nothing stands in the way of ends in one round trip when it began here
    a moment ago, else in two, and no lock is held between them. Whatever is not so plain, or has become otherwise
    meanwhile, is left to `_report`."""
    if not part:
        return {}
    now = time.monotonic()
    known = {item.fence: seen for item in part if (seen := begun.take(item.fence, now=now)) is not None}
    ended = await _end_plain(conn, bucket, part, known, make_id)
    changed = [item for item in part if item.fence in known.keys() - ended.keys()]
    if changed:
        ended |= await _end_plain(conn, bucket, changed, {}, make_id)
    return {fence: Recorded(code=ReportCode.RECORDED, status=Status.SUCCEEDED, end=end) for fence, end in ended.items()}


async def _end_plain(
    conn: Connection, bucket: int, part: list[Report], known: Mapping[Fence, Seen], make_id: finish.MakeId
) -> dict[Fence, Conclusion | None]:
    """End those of these successes that nothing stands in the way of. Who is not known is looked at before."""
    unknown = [item.fence.execution_id for item in part if item.fence not in known]
    looked = await finish.look(conn, bucket, unknown) if unknown else {}
    plain = [
        (item, one)
        for item in part
        if (one := known.get(item.fence) or looked.get(item.fence.execution_id))
        and _holds(item, one.held)
        and not one.held.cancel_requested
        and one.held.parent_id is None
        and not one.open
    ]
    ends = [(_settlement(item, one.held), one) for item, one in plain]
    return await finish.settle_seen(conn, bucket, ends, make_id=make_id)


async def _report(
    conn: Connection, bucket: int, part: list[Report], make_id: finish.MakeId, jitter: Callable[[], float]
) -> dict[Fence, Recorded | ControlPlaneError]:
    locked = await hold.lock(conn, bucket, [item.fence.execution_id for item in part])
    live = [
        (_withdrawn(item, held), held)
        for item in part
        if (held := locked.get(item.fence.execution_id)) and _holds(item, held)
    ]
    wishes = {item.fence: _wish(item, held) for item, held in live if _only_waits(item, held)}
    over = [(item, held) for item, held in live if item.fence not in wishes]
    if wishes and over:
        await suspend.reserve(conn, bucket, [held for _, held in over], list(wishes.values()))
    settled, ending, returning = await conclude(conn, bucket, over, make_id=make_id, jitter=jitter)
    parked = await suspend.park(conn, bucket, list(wishes.values()))
    await record.append(conn, bucket, [_discarded(item, held) for item, held in ending if _comes_too_late(item, held)])
    answers: dict[Fence, Recorded | ControlPlaneError] = {
        item.fence: Recorded(
            code=ReportCode.DISCARDED if _comes_too_late(item, held) else ReportCode.RECORDED,
            status=one.status,
            child=held.parent_id is not None,
        )
        for (item, held), one in zip(ending, settled, strict=True)
    }
    answers |= {item.fence: Recorded(code=ReportCode.RECORDED, status=Status.QUEUED) for item, _ in returning}
    answers |= {fence: _parked(parked[wish.held.id]) for fence, wish in wishes.items()}
    stale = [item for item in part if item.fence not in answers]
    return answers | await _recorded_before(conn, bucket, stale)


async def conclude(
    conn: Connection,
    bucket: int,
    live: Sequence[Ended],
    *,
    make_id: finish.MakeId,
    jitter: Callable[[], float],
) -> tuple[list[Settled], list[Ended], list[Ended]]:
    """End these attempts, whose rows the caller holds: what was settled, of which ones, and which are tried again.

    Moves: leased → (outcome), or → delayed or ready while there are retries left.
    """
    policies = await _policies(conn, bucket, [held for item, held in live if _has_retry(item, held)])
    ending = [(item, held) for item, held in live if _ends(item, held, policies)]
    returning = [(item, held) for item, held in live if not _ends(item, held, policies)]
    settled = await finish.settle(conn, bucket, [_settlement(item, held) for item, held in ending], make_id=make_id)
    await _retry(conn, bucket, returning, policies, jitter)
    return settled, ending, returning


def _holds(item: Report, held: Held) -> bool:
    """Whether this attempt still speaks for its execution.

    A process that is called may be silent because its reasoner keeps it busy, for longer than any lease. What it says
    then counts until another attempt has begun; else the same reasoner would run again and again, and be refused. What
    fails only because we refuse it meanwhile says nothing of the work.
    """
    if held.attempt != item.fence.attempt:
        return False
    late = held.status_reason == NODE_SILENT and counts_late(item)
    return held.session_id is not None or late


def _withdrawn(item: Report, held: Held) -> Report:
    """A process that says it was cancelled, when it was us who withdrew the attempt, hands it back."""
    if item.verdict is Verdict.CANCELLED and held.status_reason == WITHDRAWING and not held.cancel_requested:
        return replace(item, verdict=Verdict.RELEASED)
    return item


def _only_waits(item: Report, held: Held) -> bool:
    return item.verdict is Verdict.WAITING and not held.cancel_requested


def _wish(item: Report, held: Held) -> suspend.Wish:
    return suspend.Wish(held=held, waits=item.waits, until=Until.ANY if item.waits_any else Until.ALL)


def _parked(ready: Ready | StepNotFound | None) -> Recorded | ControlPlaneError:
    if isinstance(ready, StepNotFound):
        return ready
    status = Status.WAITING if ready is None else Status.QUEUED
    return Recorded(code=ReportCode.RECORDED, status=status, ready=ready)


async def _policies(conn: Connection, bucket: int, failed: list[Held]) -> dict[UUID, RetryPolicy]:
    if not failed:
        return {}
    ids = [held.id for held in failed]
    rows = await conn.fetch(READ_POLICIES, bucket, ids, *span(ids))
    return {row["id"]: RetryPolicy.from_row(row) for row in rows}


def _has_retry(item: Report, held: Held) -> bool:
    """Whether this is a failure that may be tried again, if its class may."""
    failed = item.verdict is Verdict.FAILED and not held.cancel_requested
    return failed and item.retryable and held.failures < held.retries_max


def _ends(item: Report, held: Held, policies: dict[UUID, RetryPolicy]) -> bool:
    """Whether this report is the last word on the execution, or it goes back to the queue."""
    if held.cancel_requested or item.verdict in (Verdict.SUCCEEDED, Verdict.CANCELLED):
        return True
    if item.verdict is Verdict.RELEASED:
        return False
    return not _has_retry(item, held) or not policies[held.id].retries(item.error_class)


def _comes_too_late(item: Report, held: Held) -> bool:
    """Whether there is something to throw away: a node that stopped when it was told has no result."""
    return held.cancel_requested and item.verdict in (Verdict.SUCCEEDED, Verdict.FAILED)


def _settlement(item: Report, held: Held) -> Settlement:
    if held.cancel_requested:  # the flag decides, whatever the node says now
        return finish.cancelled(held, held.cancel_reason)
    if item.verdict is Verdict.SUCCEEDED:
        return Settlement(
            held=held,
            status=Status.SUCCEEDED,
            result=b"null" if item.result is None else item.result,
            failures=held.failures,
        )
    if item.overdue is not None:
        return Settlement(
            held=held,
            status=Status.TIMEOUT,
            status_reason=item.overdue.value,
            error=item.error,
            error_class=item.error_class,
            failures=held.failures + 1,
        )
    cancelled = item.verdict is Verdict.CANCELLED
    return Settlement(
        held=held,
        status=Status.CANCELLED if cancelled else Status.FAILED,
        status_reason="cancelled_by_node" if cancelled else "user_error",
        result=item.result,
        error=item.error,
        error_class=item.error_class,
        error_details=item.error_details,
        traceback=item.traceback,
        http_status=item.http_status,
        failures=held.failures + (0 if cancelled else 1),
    )


async def _retry(
    conn: Connection,
    bucket: int,
    returning: list[tuple[Report, Held]],
    policies: dict[UUID, RetryPolicy],
    jitter: Callable[[], float],
) -> None:
    if not returning:
        return
    delays = [_delay(item, held, policies.get(held.id), jitter) for item, held in returning]
    await conn.execute(
        RETRY,
        bucket,
        [held.id for _, held in returning],
        [held.attempt for _, held in returning],
        delays,
        [held.failures + (item.verdict is Verdict.FAILED) for item, held in returning],
        ["retrying" if item.verdict is Verdict.FAILED else "released" for item, _ in returning],
    )
    await record.append(
        conn, bucket, [_returned(item, held, delay) for (item, held), delay in zip(returning, delays, strict=True)]
    )


def _delay(item: Report, held: Held, policy: RetryPolicy | None, jitter: Callable[[], float]) -> float:
    if policy is None:  # handed back: at once
        return 0.0
    own = delay_seconds(policy, failures=held.failures + 1, jitter=jitter())
    return own if item.retry_after_seconds is None else after_error(item.retry_after_seconds)


def _returned(item: Report, held: Held, delay: float) -> Event:
    facts = [b'"retry_in_seconds":%.3f' % delay]
    if item.verdict is Verdict.FAILED and item.retry_after_seconds is not None:
        facts.append(b'"retry_after_seconds":%.3f' % after_error(item.retry_after_seconds))
    for name, raw in (
        (b"error", item.error),
        (b"error_class", None if item.error_class is None else text(item.error_class)),
        (b"traceback", None if item.traceback is None else text(item.traceback)),
    ):
        if raw is not None:
            facts.append(b'"%b":%b' % (name, raw))
    return record.about(held, RETURNED[item.verdict], b"{" + b",".join(facts) + b"}")


def _discarded(item: Report, held: Held) -> Event:
    """A result that came after the cancel: kept where a person can see it, never the execution's result."""
    return record.about(
        held,
        EventType.DISCARDED,
        b'{"status":"%b","result":%b}' % (item.verdict.value.encode(), item.result or b"null"),
    )


async def _recorded_before(conn: Connection, bucket: int, stale: list[Report]) -> dict[Fence, Recorded]:
    if not stale:
        return {}
    ids: list[UUID] = [item.fence.execution_id for item in stale]
    answers = {item.fence: Recorded(code=ReportCode.LEASE_LOST, status=None) for item in stale}
    # The same verdict only: a success that comes after its work was handed back was recorded nowhere.
    returned = {(item.fence, RETURNED[item.verdict].value) for item in stale if item.verdict in RETURNED}
    for row in await conn.fetch(READ_RETRIED, bucket, ids, [item.fence.attempt for item in stale]):
        fence = Fence(ExecutionId(row["execution_id"]), row["attempt"])
        if (fence, row["type"]) in returned:
            status = Status.WAITING if row["waits"] else Status.QUEUED
            answers[fence] = Recorded(code=ReportCode.ALREADY_RECORDED, status=status)
    for row in await conn.fetch(READ_OUTCOMES, bucket, ids, *span(ids)):
        fence = Fence(ExecutionId(row["id"]), row["attempt"])
        if fence in answers:
            answers[fence] = Recorded(code=ReportCode.ALREADY_RECORDED, status=Status(row["status"]))
    if any(one.code is ReportCode.ALREADY_RECORDED for one in answers.values()):
        await confirm(conn)
    return answers
