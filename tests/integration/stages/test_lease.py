"""Lease: ready work goes to one session, the most urgent and then the oldest first."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from controlplane.domain.fronts import LOOK_SECONDS, Front, Fronts
from controlplane.domain.ids import ExecutionId
from controlplane.domain.lease import Beat, Claim, Fence, Session, Verdict
from controlplane.domain.placement import Placement
from controlplane.errors import LeaseLost, SessionClosed
from controlplane.postgres.pool import SESSION_SETTINGS, Connection, Pool
from controlplane.stages import cancel, checkpoint, expire, register, renew, submit, wait
from controlplane.stages import lease as lease_stage
from tests.make import (
    NAMESPACE,
    STOCK,
    TARGET,
    accept,
    event_types,
    lease,
    make_execution,
    make_id,
    make_process,
    make_sent,
    make_session,
    move_clock,
    must,
    put,
    queue_row,
    race,
    report,
    submission,
)

PAUSED = """
insert into pauses (bucket, namespace, node_id, name, scope, paused_at)
values (0, 1, $1, $1, 'node', clock())
"""


async def test_leasing_takes_the_next_attempt(conn: Connection) -> None:
    """The row is the session's, at attempt + 1, and the start is an event."""
    made = await make_execution(conn, attempt=2)
    session = await make_session(conn)

    [got] = await lease(conn, session)
    row = await queue_row(conn, made.id)

    assert (got.execution_id, got.attempt) == (made.id, 3)
    assert (row["state"], row["session_id"], row["attempt"], row["deadline_at"]) == ("leased", session.id, 3, None)
    assert (await event_types(conn, made.id))[-1] == "execution.started"


async def test_nothing_is_leased_twice(conn: Connection) -> None:
    """A second claim finds nothing of what the first took."""
    await make_execution(conn)
    session = await make_session(conn)
    await lease(conn, session)

    assert await lease(conn, session) == []


async def test_the_urgent_first_then_the_oldest(conn: Connection) -> None:
    """Higher priority goes first; within one priority the longer waiting."""
    low, old, new = submission(), submission(priority=5), submission(priority=5)
    for wish in (low, old, new):
        await accept(conn, wish)
    session = await make_session(conn)

    taken = [got.execution_id for _ in range(3) for got in await lease(conn, session, limit=1)]

    assert taken == [old.id, new.id, low.id]


async def test_among_equals_the_first_that_was_asked_for(conn: Connection) -> None:
    """What one sweep has let go is of one moment: its ids decide, also where a small table was planned to be sorted."""
    made = await accept(conn, *(submission(priority=n % 2) for n in range(100)))
    await conn.execute("update queue set available_at = clock()")
    await conn.execute("drop index queue_ready")

    leases = await lease(conn, await make_session(conn), limit=10)

    assert [one.execution_id for one in leases] == sorted(one.id for one in made[1::2])[:10]


async def test_a_batch_is_handed_out_in_order(conn: Connection) -> None:
    """Within one answer, too, the urgent and the old stand in front."""
    wishes = [submission(priority=n % 4) for n in range(40)]
    for wish in wishes:
        await accept(conn, wish)

    got = await lease(conn, await make_session(conn))

    assert [one.execution_id for one in got] == [w.id for w in sorted(wishes, key=lambda wish: -wish.priority)]


async def test_only_the_asked_targets(conn: Connection) -> None:
    """Work for other targets stays where it is."""
    await make_execution(conn, target="n.other")

    assert await lease(conn, await make_session(conn), ["n.echo", "n.third"]) == []


async def test_not_of_another_namespace(conn: Connection) -> None:
    """A session never sees the work of another namespace."""
    await make_execution(conn, namespace=2)

    assert await lease(conn, await make_session(conn)) == []


@pytest.mark.parametrize("state", ["delayed", "blocked", "paused", "waiting"])
async def test_what_is_not_ready_is_not_leased(conn: Connection, state: str) -> None:
    """Only ready rows move."""
    await make_execution(conn, state)

    assert await lease(conn, await make_session(conn)) == []


async def test_no_more_than_asked(conn: Connection) -> None:
    """The limit holds over all targets together."""
    for target in ("n.a", "n.b", "n.a", "n.b"):
        await make_execution(conn, target=target)

    assert len(await lease(conn, await make_session(conn), ["n.a", "n.b"], limit=3)) == 3


async def test_sets_the_deadline_of_the_attempt(conn: Connection) -> None:
    """A timeout counts from the moment of the lease."""
    made = await make_execution(conn, timeout_seconds=90.0)

    await lease(conn, await make_session(conn))
    row = await queue_row(conn, made.id)

    assert (row["deadline_at"] - row["leased_at"]).total_seconds() == 90


async def test_the_first_start_is_kept(conn: Connection) -> None:
    """started_at tells when the first attempt began, leased_at when this one did."""
    made = await make_execution(conn)
    session = await make_session(conn)
    [first] = await lease(conn, session)
    await report(conn, Fence(made.id, first.attempt), Verdict.RELEASED)
    before = await queue_row(conn, made.id)
    await move_clock(conn, "10 seconds")

    await lease(conn, session)
    after = await queue_row(conn, made.id)

    assert after["started_at"] == before["started_at"]
    assert after["leased_at"] > after["started_at"]


async def test_a_closed_session_gets_nothing(conn: Connection) -> None:
    """A session that said goodbye is told to open a new one."""
    await make_execution(conn)
    session = await make_session(conn)
    await expire.leave(conn, session.id, 0, reason="bye", make_id=make_id)

    with pytest.raises(SessionClosed):
        await lease(conn, session)


async def test_an_expired_session_gets_nothing(conn: Connection) -> None:
    """A session that ran out gets no work, but while nobody closed it, it may still renew."""
    await make_execution(conn)
    session = await make_session(conn)
    await move_clock(conn, "31 seconds")

    assert await lease(conn, session) == []
    await renew.extend(conn, [Beat(session_id=session.id, held=None, count=0)])
    assert len(await lease(conn, session)) == 1


async def test_two_sessions_of_one_batch(conn: Connection) -> None:
    """Each gets its own, and a closed one among them spoils nothing."""
    for _ in range(4):
        await make_execution(conn)
    sessions = [await make_session(conn) for _ in range(3)]
    await expire.leave(conn, sessions[1].id, 0, reason="bye", make_id=make_id)

    claims = [Claim(session=session, targets=(TARGET,), limit=2) for session in sessions]
    first, second, third = await lease_stage.claim(conn, claims, STOCK)

    assert isinstance(second, SessionClosed)
    assert len({one.execution_id for one in must(first) + must(third)}) == 4


async def test_concurrent_claims_share_nothing(conn: Connection, pool: Pool) -> None:
    """Four sessions that claim at once hand out every row exactly once."""
    wishes = [submission() for _ in range(100)]
    await accept(conn, *wishes)
    sessions = [await make_session(conn) for _ in range(4)]

    async def drain(session: Session) -> list[ExecutionId]:
        taken: list[ExecutionId] = []
        async with pool.acquire() as own:
            while got := await lease(own, session, limit=7):
                taken += [one.execution_id for one in got]
        return taken

    taken = [id_ for part in await asyncio.gather(*map(drain, sessions)) for id_ in part]

    assert sorted(taken) == sorted(wish.id for wish in wishes)


async def test_a_claim_steps_over_locked_rows(conn: Connection, other: Connection) -> None:
    """A row that another transaction is taking is left out, without waiting."""
    first, second = await make_execution(conn), await make_execution(conn)
    session = await make_session(conn)

    async with other.transaction():
        [theirs] = await lease(other, session, limit=1)
        [ours] = await lease(conn, session)

    assert [theirs.execution_id, ours.execution_id] == [first.id, second.id]


async def test_a_stale_attempt_writes_nothing_after_a_take_over(conn: Connection) -> None:
    """Once attempt 2 is leased, attempt 1 can no longer write."""
    made = await make_execution(conn, "running")
    await report(conn, made.fence, Verdict.RELEASED)
    await lease(conn, made.session)

    [answer] = await checkpoint.write(conn, [put(made, b"1")])

    assert isinstance(answer, LeaseLost)


async def test_work_of_every_bucket_is_found(conn: Connection) -> None:
    """A claim looks into all buckets until it has enough."""
    for bucket in range(4):
        await accept(conn, submission(bucket=bucket))
    session = await make_session(conn, bucket=3)

    [got] = await lease_stage.claim(
        conn, [Claim(session=session, targets=(TARGET,), limit=3)], Placement(buckets=4, hashed=4)
    )

    assert len(must(got)) == 3


async def ready(conn: Connection, number: int) -> None:
    await accept(conn, *(submission() for _ in range(number)))


async def test_a_called_process_gets_no_more_than_its_slots(conn: Connection) -> None:
    """It does not ask for work, so its room is counted for it."""
    await ready(conn, 5)
    session = await make_process(conn, slots=3)

    assert [len(await lease(conn, session, limit=n)) for n in (2, 5, 5)] == [2, 1, 0]


async def test_a_request_that_goes_out_is_written_down(conn: Connection) -> None:
    """Between the claim and the answer it is known that a request is under way; nobody asks so of who fetches."""
    called, fetched = await make_execution(conn), await make_execution(conn)
    await lease(conn, await make_process(conn), limit=1)
    await lease(conn, await make_session(conn), limit=1)

    first, second = await queue_row(conn, called.id), await queue_row(conn, fetched.id)

    assert (first["sent_at"], first["accepted_at"]) == (first["leased_at"], None)
    assert (second["sent_at"], second["accepted_at"]) == (None, None)


async def test_an_end_leaves_a_slot(conn: Connection) -> None:
    """However an attempt ends, its slot is free at once."""
    await ready(conn, 4)
    session = await make_process(conn, slots=1)
    for verdict in (Verdict.SUCCEEDED, Verdict.RELEASED, Verdict.FAILED):
        [one] = await lease(conn, session)
        assert await lease(conn, session) == []
        await report(conn, Fence(one.execution_id, one.attempt), verdict)

    assert len(await lease(conn, session)) == 1


async def test_what_is_being_cancelled_holds_its_slot(conn: Connection) -> None:
    """The process still runs it."""
    session = await make_process(conn, slots=1)
    made = await make_sent(conn, session=session)
    await ready(conn, 1)
    await cancel.request(conn, [made.id], reason=None, make_id=make_id)

    assert await lease(conn, session) == []


async def test_a_parent_of_an_unfinished_child_holds_no_slot(conn: Connection) -> None:
    """Else parents would keep their own children out for ever; when the child has ended it counts again."""
    session = await make_process(conn, slots=1)
    parent = await make_sent(conn, session=session)
    child = submission(parent_id=parent.id, parent_attempt=1)
    await accept(conn, child)

    [got] = await lease(conn, session)
    await ready(conn, 1)
    during = await lease(conn, session)
    await report(conn, Fence(child.id, got.attempt))
    after = await lease(conn, session)

    assert (got.execution_id, during, after) == (child.id, [], [])


async def test_a_family_of_any_depth_goes_on(conn: Connection) -> None:
    """In a process with one slot a chain of calls reaches its end: only the last of it holds the slot."""
    session = await make_process(conn, slots=1)
    parent = await make_sent(conn, session=session)
    for _ in range(4):
        child = submission(parent_id=parent.id, parent_attempt=parent.attempt)
        await accept(conn, child)
        [got] = await lease(conn, session)
        assert got.execution_id == child.id
        parent = replace(parent, submission=child)

    await ready(conn, 1)
    assert await lease(conn, session) == []


async def test_who_waits_holds_no_slot(conn: Connection) -> None:
    """An attempt that waits for people leaves its slot; when it goes on it counts again, and nobody is turned out."""
    session = await make_process(conn, slots=1)
    made = await make_sent(conn, session=session, accepted=True)
    await ready(conn, 2)
    await wait.begin(conn, 0, made.fence, reason="approval")

    during = await lease(conn, session)
    await wait.resume(conn, 0, made.fence, reason="approval")

    assert len(during) == 1
    assert await lease(conn, session) == []


async def test_who_says_goodbye_gets_nothing_more(conn: Connection) -> None:
    """A process that drains is no closed one: it may finish."""
    await ready(conn, 1)
    session = await make_process(conn)
    await register.drain(conn, 0, namespace=NAMESPACE, node_id="n", seconds=35)

    assert await lease(conn, session) == []


async def test_who_was_replaced_is_told_so(conn: Connection) -> None:
    """A claim in the name of a process that is gone is refused."""
    await ready(conn, 1)
    session = await make_process(conn, instance_id="old")
    await make_process(conn, instance_id="new")

    with pytest.raises(SessionClosed):
        await lease(conn, session)


async def test_who_fetches_has_asked_for_so_many(conn: Connection) -> None:
    """The slots of a process that fetches are counted by itself: it gets what it asks for."""
    await ready(conn, 5)
    session = await make_session(conn, slots=1)

    assert len(await lease(conn, session, limit=5)) == 5


async def test_two_claims_at_once_do_not_both_find_the_slot(conn: Connection, other: Connection) -> None:
    """Two replicas serve one process: while one claims for it the other gets nothing, and waits for nothing."""
    await ready(conn, 4)
    session = await make_process(conn, slots=2)

    async with other.transaction():
        first = await lease(other, session)
        during = await lease(conn, session)
    after = await lease(conn, session)

    assert (len(first), during, after) == (2, [], [])


async def test_many_claims_at_once_never_fill_it_over(conn: Connection, pool: Pool) -> None:
    """However many replicas claim for one process, what it holds is never more than its slots."""
    await ready(conn, 40)
    session = await make_process(conn, slots=3)
    held: list[int] = []

    async def serve() -> int:
        done = 0
        async with pool.acquire() as own:
            while await own.fetchval("select count(*) from queue") > 0:
                for one in await lease(own, session, limit=2):
                    held.append(await own.fetchval("select count(*) from queue where session_id = $1", session.id))
                    await report(own, Fence(one.execution_id, one.attempt))
                    done += 1
        return done

    async with asyncio.timeout(60):
        done = await asyncio.gather(*(serve() for _ in range(4)))

    assert sum(done) == 40
    assert max(held) <= 3


async def test_two_claims_of_a_batch_share_the_slots(conn: Connection) -> None:
    """Within one transaction, too, the second sees what the first took."""
    await ready(conn, 8)
    session, free = await make_process(conn, slots=3), await make_session(conn)
    claims = [Claim(session=one, targets=(TARGET,), limit=2) for one in (session, session, free)]

    answers = [must(answer) for answer in await lease_stage.claim(conn, claims, STOCK)]

    assert [len(answer) for answer in answers] == [2, 1, 2]


async def test_slots_are_counted_over_all_buckets(conn: Connection) -> None:
    """A process holds work of every bucket, and its slots are one number."""
    for bucket in range(4):
        await accept(conn, submission(bucket=bucket))
    session = await make_process(conn, bucket=3, slots=3)
    claim = Claim(session=session, targets=(TARGET,), limit=2)
    placement = Placement(buckets=4, hashed=4)

    answers = [must(answer) for _ in range(3) for answer in await lease_stage.claim(conn, [claim], placement)]

    assert [len(answer) for answer in answers] == [2, 1, 0]


async def test_a_claim_and_a_goodbye_at_once(conn: Connection, other: Connection, observer: Connection) -> None:
    """The goodbye waits for the claim; what was claimed before it may finish."""
    await ready(conn, 3)
    session = await make_process(conn, slots=2)

    leases, _ = await race(
        conn,
        other,
        observer,
        first=lambda c: lease(c, session, limit=1),
        second=lambda c: register.drain(c, 0, namespace=NAMESPACE, node_id="n", seconds=35),
    )

    assert len(leases) == 1
    assert await lease(conn, session) == []


class Ahead(Fronts):
    """Of a process whose clock goes so far ahead."""

    ahead_seconds = 0.0

    def of(self, bucket: int, namespace: int, targets: Sequence[str], *, now: float) -> list[Front]:
        return super().of(bucket, namespace, targets, now=now + self.ahead_seconds)


def pinned() -> Ahead:
    """Of a process that knows that somebody holds an old snapshot."""
    made = Ahead()
    made.pin(True)
    return made


async def take(conn: Connection, session: Session, fronts: Fronts, *, limit: int = 1) -> list[ExecutionId]:
    """What a process is handed that remembers where it found work last."""
    asked = Claim(session=session, targets=(TARGET,), limit=limit)
    [leases] = await lease_stage.claim(conn, [asked], STOCK, fronts)
    assert isinstance(leases, list)
    return [one.execution_id for one in leases]


async def pages(conn: Connection, statement: str, *arguments: object) -> int:
    """How many pages this statement looks at; it changes nothing."""
    began = conn.transaction()
    await began.start()
    lines = [row[0] for row in await conn.fetch(f"explain (analyze, buffers) {statement}", *arguments)]
    await began.rollback()
    looked = next(line for line in lines if "Buffers: shared" in line)
    return sum(int(number) for number in re.findall(r"(?:hit|read)=(\d+)", looked))


async def test_while_a_snapshot_is_held_a_claim_does_not_step_over_what_is_dead(
    conn: Connection, other: Connection
) -> None:
    """It begins where work was found last: a few pages, where from the beginning it is one for every row claimed."""
    session, fronts = await make_session(conn, slots=10_000), pinned()
    for setting, value in SESSION_SETTINGS.items():
        await conn.execute(f"set {setting} = '{value}'")
    async with other.transaction(isolation="repeatable_read"):
        await other.fetchval("select count(*) from queue")
        await submit.accept(conn, [submission() for _ in range(1_000)])
        await conn.execute("update queue set available_at = clock() - random() * interval '1 hour'")
        while len(await take(conn, session, Fronts(), limit=256)) == 256:
            pass
        first, second = await make_execution(conn), await make_execution(conn)
        assert await take(conn, session, fronts) == [first.id]
        asked = (0, NAMESPACE, [TARGET], 1, session.id, False, None, True, session.node_id)
        [place] = fronts.of(0, NAMESPACE, [TARGET], now=0.0)
        beginning = await pages(conn, lease_stage.CLAIM, *asked, [], [], [])
        further = await pages(conn, lease_stage.CLAIM, *asked, [place.target], [place.priority], [place.at])
        assert await take(conn, session, fronts) == [second.id]

    assert beginning > 500
    assert further < 100


async def test_what_stands_before_the_place_is_found_by_the_next_look(conn: Connection) -> None:
    """From the beginning: an older place, and a priority that was not seen before."""
    session, fronts = await make_session(conn), pinned()
    await make_execution(conn)
    assert len(await take(conn, session, fronts)) == 1
    old, urgent, new = await make_execution(conn), await make_execution(conn, priority=7), await make_execution(conn)
    await conn.execute("update queue set available_at = clock() - interval '1 hour' where id = $1", old.id)

    assert await take(conn, session, fronts, limit=5) == [new.id]
    fronts.ahead_seconds = LOOK_SECONDS
    assert await take(conn, session, fronts, limit=5) == [urgent.id, old.id]


async def test_much_in_an_old_place_is_handed_out_one_claim_after_the_other(conn: Connection) -> None:
    """As after a bulk resume: the look that found it sets the place back, and not each waits for a look of its own."""
    session, fronts = await make_session(conn), pinned()
    await make_execution(conn)
    assert len(await take(conn, session, fronts)) == 1
    old = [await make_execution(conn) for _ in range(4)]
    await conn.execute("update queue set available_at = clock() - interval '1 hour' where state = 'ready'")
    new = await make_execution(conn)

    assert await take(conn, session, fronts) == [new.id]
    fronts.ahead_seconds = LOOK_SECONDS
    handed = [id_ for _ in old for id_ in await take(conn, session, fronts)]
    assert sorted(handed) == sorted(one.id for one in old)
    assert await take(conn, session, fronts) == []


async def test_a_line_without_a_place_is_looked_at_as_ever(conn: Connection) -> None:
    """Beside one that has a place: a node serves reasoners that are seldom asked for, too."""
    session, fronts = await make_session(conn), pinned()
    asked = Claim(session=session, targets=(TARGET, "n.seldom"), limit=5)
    await make_execution(conn)
    assert len(await take(conn, session, fronts)) == 1
    seldom, often = await make_execution(conn, target="n.seldom"), await make_execution(conn)

    [leases] = await lease_stage.claim(conn, [asked], STOCK, fronts)
    assert isinstance(leases, list)
    assert {one.execution_id for one in leases} == {seldom.id, often.id}
    assert await take(conn, session, fronts) == []


async def test_behind_the_place_the_same_holds_as_from_the_beginning(conn: Connection) -> None:
    """The most urgent first, nothing that is paused, and nothing for a session that is closed."""
    session, fronts = await make_session(conn), pinned()
    await make_execution(conn)
    await make_execution(conn, priority=7)
    assert len(await take(conn, session, fronts, limit=2)) == 2
    low, high = await make_execution(conn), await make_execution(conn, priority=7)

    await conn.execute(PAUSED, session.node_id)
    assert await take(conn, session, fronts, limit=5) == []
    await conn.execute("delete from pauses")

    assert await take(conn, session, fronts, limit=1) == [high.id]
    assert await take(conn, session, fronts, limit=1) == [low.id]
    await make_execution(conn)
    await expire.leave(conn, session.id, 0, reason="bye", make_id=make_id)
    [refused] = await lease_stage.claim(conn, [Claim(session=session, targets=(TARGET,), limit=1)], STOCK, fronts)
    assert isinstance(refused, SessionClosed)
