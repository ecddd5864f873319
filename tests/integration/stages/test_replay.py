"""Replay: what the source run has an answer to is over at once, everything else is queued as ever."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from controlplane.domain.execution import Accepted, Replay, ReplayMode, Submission
from controlplane.errors import ControlPlaneError, IdempotencyConflict, LeaseLost
from controlplane.postgres.lane import Raced
from controlplane.postgres.pool import Connection
from controlplane.stages import replay, submit
from controlplane.stages.replay import CANDIDATE_BYTES_MAX
from tests.make import (
    Made,
    accept,
    all_rows,
    counts,
    ended,
    event_types,
    lease,
    make_execution,
    make_id,
    make_session,
    move_clock,
    must,
    only_row,
    outcome_row,
    queue_row,
    queued,
    race,
    report,
    submission,
    webhook,
)

BOTH = "select id from queue intersect select id from outcomes"
NEITHER = "select id from executions except (select id from queue union select id from outcomes)"


async def take_over(conn: Connection, *wishes: Submission) -> list[Accepted]:
    return [must(answer) for answer in await answers(conn, *wishes)]


async def answers(conn: Connection, *wishes: Submission) -> list[Accepted | ControlPlaneError]:
    return await replay.accept(conn, wishes, make_id=make_id)


@dataclass(frozen=True)
class Restarted:
    """A run that had calls, and the root of the one that was started anew from it."""

    source: Made
    root: Made
    mode: ReplayMode = ReplayMode.ALL_SUCCEEDED
    before: UUID | None = None

    def ask(self, **over: Any) -> Submission:
        """A child of the new root."""
        asked = {
            "run_id": self.root.run_id,
            "root_id": self.root.id,
            "parent_id": self.root.id,
            "parent_attempt": 1,
            "replay": Replay(source_run_id=self.source.run_id, mode=self.mode, before_id=self.before),
        }
        return submission(**(asked | over))


async def restarted(
    conn: Connection, *, mode: ReplayMode = ReplayMode.ALL_SUCCEEDED, before: UUID | None = None
) -> Restarted:
    return Restarted(await make_execution(conn, "failed"), await make_execution(conn, "running"), mode, before)


async def had(conn: Connection, run: Restarted, status: str = "succeeded", result: bytes = b"1", **over: Any) -> Made:
    """A call that the source run has made."""
    asked = {"run_id": run.source.run_id, "root_id": run.source.id, "parent_id": run.source.id} | over
    made = await make_execution(conn, "running" if status == "succeeded" else status, **asked)
    if status == "succeeded":
        await report(conn, made.fence, result=result)
    return made


async def test_an_answered_question_is_over_at_once(conn: Connection) -> None:
    """The child ends with the source's result at attempt 0, was never to be leased, and says where it is from."""
    run = await restarted(conn)
    source = await had(conn, run, result=b'{"n": 1}')
    child = run.ask()

    [accepted] = await take_over(conn, child)
    outcome = await outcome_row(conn, child.id)
    row = await only_row(conn, "select * from executions where id = $1", child.id)

    assert (accepted.id, accepted.run_id, accepted.source_id) == (child.id, run.root.run_id, source.id)
    assert (outcome["status"], outcome["result"], outcome["attempt"]) == ("succeeded", b'{"n": 1}', 0)
    assert outcome["status_reason"].startswith("replayed_from_execution:exec_")
    assert (row["source_execution_id"], row["parent_id"], row["replay_mode"]) == (source.id, run.root.id, None)
    assert not await queued(conn, child.id)
    assert await event_types(conn, child.id) == ["execution.queued", "execution.completed"]
    assert await lease(conn, await make_session(conn)) == []


async def test_a_new_question_is_queued_and_carries_the_replay_on(conn: Connection) -> None:
    """What the source run never asked goes to a node, which learns what its own children may take over."""
    run = await restarted(conn, before=make_id(0), mode=ReplayMode.SUCCEEDED_BEFORE)
    await had(conn, run)
    child = run.ask(input=b'{"x": 2}')

    [accepted] = await take_over(conn, child)
    [leased] = await lease(conn, await make_session(conn))

    assert accepted.source_id is None
    assert (leased.execution_id, leased.replay) == (child.id, child.replay)


@pytest.mark.parametrize(
    "differs",
    [{"target": "n.other"}, {"context": b"{}"}, {"input": b'{"x": true}'}, {"input": b'{"x": 1, "y": null}'}],
)
async def test_another_question_is_none_of_the_source(conn: Connection, differs: dict[str, Any]) -> None:
    """Target, input and context must all be equal."""
    run = await restarted(conn)
    await had(conn, run)

    [accepted] = await take_over(conn, run.ask(**differs))

    assert accepted.source_id is None


async def test_the_same_json_written_otherwise_is_the_same_question(conn: Connection) -> None:
    """Order, blanks, escapes and the form of a number do not matter, in the input and in the context."""
    run = await restarted(conn)
    source = await had(conn, run, input=b'{"a": 1, "b": "\xc3\xa9"}', context=b"[10]")

    [accepted] = await take_over(conn, run.ask(input=b'{"b":"\\u00e9","a":1.0}', context=b"[1e1]"))

    assert accepted.source_id == source.id


@pytest.mark.parametrize("status", ["failed", "cancelled", "running", "queued"])
async def test_only_what_succeeded_is_taken_over(conn: Connection, status: str) -> None:
    """A call that failed, or that is not over, is made again."""
    run = await restarted(conn)
    await had(conn, run, status)

    [accepted] = await take_over(conn, run.ask())

    assert accepted.source_id is None


async def test_none_takes_over_nothing(conn: Connection) -> None:
    """With the mode `none` everything runs again."""
    run = await restarted(conn, mode=ReplayMode.NONE)
    await had(conn, run)

    [accepted] = await take_over(conn, run.ask())

    assert accepted.source_id is None


async def test_before_is_before(conn: Connection) -> None:
    """Only what was accepted before the restarted execution counts, unless all that succeeded does."""
    run = await restarted(conn)
    first = await had(conn, run, input=b'{"x": 1}')
    third = await had(conn, run, "failed", input=b'{"x": 3}')
    await had(conn, run, input=b'{"x": 4}')
    bounded = Restarted(run.source, run.root, ReplayMode.SUCCEEDED_BEFORE, third.id)

    taken = await take_over(conn, bounded.ask(input=b'{"x": 1}'), bounded.ask(input=b'{"x": 4}'))
    [all_] = await take_over(conn, run.ask(input=b'{"x": 4}'))

    assert [one.source_id for one in taken] == [first.id, None]
    assert all_.source_id is not None


async def test_who_called_the_restarted_one_is_called_again(conn: Connection) -> None:
    """A caller that got over its child's failure has succeeded, but taken over it would never call the child again."""
    run = await restarted(conn)
    caller = await had(conn, run, input=b'{"caller": 1}')
    beside = await had(conn, run, input=b'{"beside": 1}')
    failed = await had(conn, run, "failed", parent_id=caller.id)
    bounded = Restarted(run.source, run.root, ReplayMode.SUCCEEDED_BEFORE, failed.id)

    taken = await take_over(conn, bounded.ask(input=b'{"caller": 1}'), bounded.ask(input=b'{"beside": 1}'))

    assert [one.source_id for one in taken] == [None, beside.id]


@pytest.mark.parametrize("at_once", [True, False])
async def test_the_kth_equal_call_takes_the_kth_source(conn: Connection, at_once: bool) -> None:
    """Equal calls get the answers in the order in which they were asked for, then run; in one flush or in several."""
    run = await restarted(conn)
    sources = [await had(conn, run, result=b"%d" % n) for n in range(2)]
    wishes = [run.ask() for _ in range(3)]

    taken = await take_over(conn, *wishes) if at_once else [(await take_over(conn, wish))[0] for wish in wishes]

    assert [one.source_id for one in taken] == [sources[0].id, sources[1].id, None]


async def test_the_kth_equal_call_may_be_written_otherwise(conn: Connection) -> None:
    """Those found by their bytes and those found as JSON never share a source."""
    run = await restarted(conn)
    sources = [await had(conn, run), await had(conn, run)]

    taken = await take_over(conn, run.ask(input=b'{"x":1.0}'), run.ask())

    assert sorted(one.source_id for one in taken if one.source_id) == [one.id for one in sources]


async def test_equal_calls_of_two_parents_take_two_sources(conn: Connection) -> None:
    """The count goes over the whole new run, in one flush, too."""
    run = await restarted(conn)
    sources = [await had(conn, run), await had(conn, run)]
    other = await make_execution(conn, "running", run_id=run.root.run_id)

    taken = await take_over(conn, run.ask(), run.ask(parent_id=other.id))

    assert [one.source_id for one in taken] == [one.id for one in sources]


async def test_a_later_attempt_of_the_parent_is_answered_as_the_first(conn: Connection) -> None:
    """A parent that crashed asks again, and what its lost attempt took over does not count as taken."""
    run = await restarted(conn)
    source = await had(conn, run)
    await take_over(conn, run.ask())
    await move_clock(conn, "1 second")
    await conn.execute("update queue set attempt = 2, leased_at = clock() where id = $1", run.root.id)

    taken = await take_over(conn, run.ask(parent_attempt=2), run.ask(parent_attempt=2))

    assert [one.source_id for one in taken] == [source.id, None]


async def test_what_was_taken_over_can_be_taken_over(conn: Connection) -> None:
    """A restart of a restart finds what the first one has taken over."""
    first = await restarted(conn)
    await had(conn, first, result=b'"kept"')
    [child] = await take_over(conn, first.ask())
    second = Restarted(first.root, await make_execution(conn, "running"))

    [again] = await take_over(conn, second.ask())

    assert again.source_id == child.id
    assert (await outcome_row(conn, again.id))["result"] == b'"kept"'


async def test_the_caller_of_a_child_taken_over_is_told(conn: Connection) -> None:
    """A webhook of such a child has its one delivery."""
    run = await restarted(conn)
    await had(conn, run, result=b'"told"')
    child = run.ask(webhooks=(webhook(),))

    await take_over(conn, child)
    delivery = await only_row(conn, "select * from deliveries where execution_id = $1", child.id)

    assert delivery["state"] == "pending"
    assert b'"result":"told"' in delivery["body"]
    assert b"error_category" not in delivery["body"]


async def test_a_child_of_a_stale_attempt_is_refused(conn: Connection) -> None:
    """A parent that has lost its lease gets nothing; its neighbours in the batch do."""
    run = await restarted(conn)
    await had(conn, run)
    stale, live = run.ask(parent_attempt=2), run.ask()

    refused, taken = await answers(conn, stale, live)

    assert isinstance(refused, LeaseLost)
    assert must(taken).source_id is not None
    assert not await ended(conn, stale.id)
    assert not await queued(conn, stale.id)


async def test_a_child_waits_for_a_take_over_and_is_refused(
    conn: Connection, other: Connection, observer: Connection
) -> None:
    """A child whose parent is being completed at this very moment is refused when that commits."""
    run = await restarted(conn)
    await had(conn, run)

    _, [answer] = await race(
        conn,
        other,
        observer,
        first=lambda c: report(c, run.root.fence),
        second=lambda c: answers(c, run.ask()),
    )

    assert isinstance(answer, LeaseLost)


@pytest.mark.parametrize("hit", [True, False])
async def test_a_flush_repeated_says_the_same(conn: Connection, hit: bool) -> None:
    """Nothing is written twice, and the next source is left to the next call."""
    run = await restarted(conn)
    for _ in range(2 * hit):
        await had(conn, run)
    child = run.ask(webhooks=(webhook(),))
    first = await take_over(conn, child)
    before = await counts(conn, "executions", "queue", "outcomes", "webhooks", "deliveries", "events")

    assert await take_over(conn, child) == first
    assert (first[0].source_id is not None) == hit
    assert await counts(conn, *before) == before


async def test_a_miss_stays_a_miss(conn: Connection) -> None:
    """A flush that is repeated after the source has succeeded does not end what it had queued."""
    run = await restarted(conn)
    child = run.ask()
    await take_over(conn, child)
    await had(conn, run)

    [again] = await take_over(conn, child)

    assert again.source_id is None
    assert (await queue_row(conn, child.id))["state"] == "ready"


async def test_a_used_key_replays(conn: Connection) -> None:
    """The same key again gets the same child with its source, and takes no other source."""
    run = await restarted(conn)
    source = await had(conn, run)
    await had(conn, run)
    key = {"idempotency_key": "k", "idempotency_scope": run.root.run_id, "request_hash": b"hash"}
    [first] = await take_over(conn, run.ask(**key))

    [again] = await take_over(conn, run.ask(**key))
    [refused] = await answers(conn, run.ask(**(key | {"request_hash": b"other"})))

    assert (again.id, again.replayed, again.source_id) == (first.id, True, source.id)
    assert isinstance(refused, IdempotencyConflict)


async def test_two_flushes_of_one_child_make_one(conn: Connection, other: Connection, observer: Connection) -> None:
    """A repeat that overtakes its first try, still uncommitted, is raced, and after that says the same."""
    run = await restarted(conn)
    await had(conn, run)
    await had(conn, run)
    child = run.ask()

    async def second(conn: Connection) -> list[Accepted]:
        with pytest.raises(Raced):
            await take_over(conn, child)
        return await take_over(conn, child)

    first, again = await race(conn, other, observer, first=lambda c: take_over(c, child), second=second)

    assert again == first
    assert len(await all_rows(conn, "select id from executions where id = $1", child.id)) == 1


async def test_a_repeat_does_not_end_what_its_first_try_queues(
    conn: Connection, other: Connection, observer: Connection
) -> None:
    """The first try missed and is still to commit; the repeat would hit by now, but the first word counts."""
    run = await restarted(conn)
    await had(conn, run)
    child = run.ask()

    async def second(conn: Connection) -> list[Accepted]:
        with pytest.raises(Raced):
            await take_over(conn, child)
        return await take_over(conn, child)

    first, again = await race(conn, other, observer, first=lambda c: submit.accept(c, [child]), second=second)

    assert [must(one) for one in first] == again
    assert await queued(conn, child.id)
    assert not await ended(conn, child.id)


async def test_two_at_once_may_take_one_source(conn: Connection, other: Connection) -> None:
    """Neither of two open flushes sees the other's child: both get an answer to their question, nobody waits."""
    run = await restarted(conn)
    source = await had(conn, run)
    transaction = conn.transaction()
    await transaction.start()
    [first] = await take_over(conn, run.ask())

    [second] = await take_over(other, run.ask())
    await transaction.commit()

    assert first.source_id == second.source_id == source.id


async def test_a_cancelled_parent_still_asks(conn: Connection) -> None:
    """Until it has ended the parent holds its lease, as for any child."""
    run = await restarted(conn)
    await had(conn, run)
    await conn.execute("update queue set cancel_requested_at = clock() where id = $1", run.root.id)

    [taken] = await take_over(conn, run.ask())

    assert taken.source_id is not None


async def test_other_namespaces_and_runs_are_not_looked_at(conn: Connection) -> None:
    """An equal call elsewhere is no source."""
    run = await restarted(conn)
    await had(conn, run, namespace=2)
    await had(conn, run, run_id="another")

    [accepted] = await take_over(conn, run.ask())

    assert accepted.source_id is None


async def test_what_is_compared_as_json_is_bounded(conn: Connection) -> None:
    """Behind an input larger than a flush may parse nothing is found; by its bytes everything is."""
    run = await restarted(conn)
    large = b'{"x":"' + b"a" * CANDIDATE_BYTES_MAX + b'"}'
    await had(conn, run, input=large)
    small = await had(conn, run, input=b'{"x": 2}')

    taken = await take_over(conn, run.ask(input=b'{"x":2}'), run.ask(input=large), run.ask(input=b'{"x": 2}'))

    assert [one.source_id is None for one in taken] == [True, False, False]
    assert taken[2].source_id == small.id


@pytest.mark.parametrize("buckets", [1, 3])
async def test_every_execution_is_in_exactly_one_place(conn: Connection, buckets: int) -> None:
    """Hits, misses, refusals and repeats in one batch, twice: each is in the queue or has its outcome, never both."""
    wishes: list[Submission] = []
    for n in range(buckets):
        source = await make_execution(conn, "failed", bucket=n)
        run = Restarted(source, await make_execution(conn, "running", bucket=n))
        for x in range(3):
            await had(conn, run, "succeeded" if x else "failed", bucket=n, input=b'{"x": %d}' % x)
        wishes += [run.ask(bucket=n, input=b'{"x":%s%d}' % (b" " * (x % 2), x % 4)) for x in range(8)]
        wishes += [run.ask(bucket=n, parent_attempt=9)]
    await answers(conn, *wishes[::2])

    got = await answers(conn, *wishes)

    hits = [one for one in got if isinstance(one, Accepted) and one.source_id]
    assert len({one.id for one in hits}) == 2 * buckets
    assert await all_rows(conn, BOTH) == await all_rows(conn, NEITHER) == []


async def test_ordinary_submissions_pass(conn: Connection) -> None:
    """One without a source run is accepted here as in submit."""
    wish = submission()

    [accepted] = await take_over(conn, wish)

    assert [accepted] == await accept(conn, wish)
