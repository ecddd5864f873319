"""The connections that die, and some lives that are worth living in every run: step by step, without Hypothesis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from controlplane.domain.approval import Decision
from controlplane.domain.execution import ParentEnd
from controlplane.domain.lease import Verdict
from controlplane.postgres.pool import PASSING, Connection
from controlplane.stages import cancel
from tests.make import make_execution, make_id, outcome_row, queued
from tests.property.faults import Death, bury, connect, frail
from tests.property.tally import Tally
from tests.property.whole import Whole

STATEMENTS_OF_A_CANCEL = 20
"""More than there are."""


async def cancel_and_die(conn: Connection, dsn: str, nth: int, death: Death) -> tuple[bool, bool]:
    """Whether the server died, and whether what it was asked for is done."""
    made = await make_execution(conn)
    dying = await frail(dsn, conn, nth=nth, death=death)
    try:
        await cancel.request(dying, [made.id], reason=None, make_id=make_id)
    except PASSING:
        assert dying.dead
    died = await bury(dying)
    done = not await queued(conn, made.id)
    if done:
        assert (await outcome_row(conn, made.id))["status"] == "cancelled"
    return died, done


@pytest.mark.parametrize("death", [Death.BEFORE, Death.ENDED])
async def test_what_dies_before_its_first_statement_has_done_nothing(
    conn: Connection, database: str, death: Death
) -> None:
    """Neither a connection that is cut nor a backend that is ended does anything more."""
    assert await cancel_and_die(conn, database, 1, death) == (True, False)


async def test_only_what_dies_after_its_commit_is_done(conn: Connection, database: str) -> None:
    """Of all the points at which a cancel can die, nothing is done before the last answer, and all of it then."""
    fates = [await cancel_and_die(conn, database, nth, Death.AFTER) for nth in range(1, STATEMENTS_OF_A_CANCEL)]

    deaths = [done for died, done in fates if died]
    assert len(deaths) > 3
    assert deaths == [False] * (len(deaths) - 1) + [True]


async def test_what_does_not_die_is_as_any_other(conn: Connection, database: str) -> None:
    """A connection that outlives what it is asked for has done it."""
    assert await cancel_and_die(conn, database, 1_000, Death.BEFORE) == (False, True)


@pytest.fixture
def machine(database: str) -> Iterator[Whole]:
    """A machine to be driven by hand."""
    loop = asyncio.new_event_loop()
    conn = loop.run_until_complete(connect(database))
    machine = Whole(loop, conn, database, Tally(seed=0))
    machine.begin_work(webhooks=True, retries=1)
    yield machine
    looked_at(machine)
    machine.teardown()
    loop.run_until_complete(conn.close())
    loop.close()


def looked_at(machine: Whole) -> None:
    """What the machine looks at after every step."""
    for one in machine.invariants:
        one.function(machine)


def test_a_question_outlives_who_asked_it(machine: Whole) -> None:
    """The process is lost while people think; the next one asks again, and is told what they have said meanwhile."""
    machine.ask_people(0, "q1")
    machine.a_process_dies()
    looked_at(machine)
    machine.decide(0, "q1", Decision.APPROVED)
    machine.begin_work(webhooks=False, retries=0)

    machine.ask_people(0, "q1")


def test_a_queue_of_ticks_is_worked_off_by_two_schedulers(machine: Whole) -> None:
    """Of what was missed each tick is submitted once, the next when the one before has ended."""
    machine.plan("d1", twice=True)
    machine.two_schedulers(11_000)
    looked_at(machine)
    machine.two_schedulers(4_000)
    machine.open_session()
    machine.claim(0, 3)
    machine.report(0, Verdict.SUCCEEDED, retryable=False)

    machine.fire(0)


def test_two_claims_of_one_process_that_is_called(machine: Whole) -> None:
    """Its slots are counted by one server at a time: the second hands out nothing, and nothing is handed out twice."""
    machine.send("http://a", webhooks=False, retries=0)
    machine.submit(webhooks=False, retries=0, priority=0, key=None, request=b"")

    machine.two_claims(0, 0, (1, 2))


def test_a_delivery_that_is_asked_for_time_waits_for_it(machine: Whole) -> None:
    """A receiver that answers 503 with Retry-After is left alone until then, also when somebody asks for a retry."""
    machine.end_and_tell("asks for time", 0)
    looked_at(machine)
    machine.retry_delivery(0)
    machine.time_passes(4_000)

    machine.deliver("taken")


def test_a_dispatcher_that_settles_again_is_told_the_same(machine: Whole) -> None:
    """Its answer was lost: what counted the first time has counted, and nothing is counted twice."""
    machine.end_and_tell("nothing", 0)

    for _ in range(2):
        machine.settle(machine.sent[0])


def test_who_goes_on_comes_beside_who_was_let_in_meanwhile(machine: Whole) -> None:
    """In one step: one is submitted and let in while a parent waits for its child, which ends then."""
    machine.contend(count=1, most=1)
    machine.call(0, None, ParentEnd.KEEP, 0, False)
    machine.claim(0, 1)
    looked_at(machine)

    machine.submit(webhooks=False, retries=0, priority=0, key=None, request=b"", lock="a")
    machine.admit()
    machine.report(0, Verdict.SUCCEEDED, retryable=False)

    assert len(machine.model.held("key:a")) == 2


def test_who_is_let_in_beyond_a_limit_is_found(machine: Whole) -> None:
    """Whoever has no place, and was not let in."""
    machine.contend(count=1, most=1)
    machine.contend(count=1, most=1)
    looked_at(machine)
    [blocked] = [one for one in machine.model.unfinished() if one.state == "blocked"]
    blocked.state = "ready"

    with pytest.raises(AssertionError, match="beyond the limit"):
        machine.nobody_is_let_in_beyond_a_limit()
    blocked.state = "blocked"


def test_who_gives_its_place_back_must_be_let_in_again(machine: Whole) -> None:
    """It has none while it waits in its process, is held back or is to be tried again later."""
    machine.contend(count=1, most=1)
    fence = machine.fence(0)
    looked_at(machine)

    assert fence.execution_id in machine.model.placed
    machine.begin_wait(0)
    assert fence.execution_id not in machine.model.placed
    machine.end_wait(0)
    assert fence.execution_id in machine.model.placed
    machine.report(0, Verdict.FAILED, retryable=True)
    assert fence.execution_id not in machine.model.placed
