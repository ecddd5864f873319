"""Admit: never more than a limit allows, nobody starves, and whatever ends or waits gives its place back."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import asyncpg
import pytest

from controlplane.domain.lease import Fence, Lease, Ready, Verdict
from controlplane.domain.limit import READY_MAX, Rule
from controlplane.domain.retry import RetryPolicy
from controlplane.domain.step import Done
from controlplane.postgres.pool import Connection
from controlplane.stages import admit, cancel, expire, limit, pause, wait
from tests.make import (
    NAMESPACE,
    STOCK,
    TARGET,
    Made,
    accept,
    lease,
    make_execution,
    make_id,
    make_session,
    move_clock,
    queue_row,
    report,
    steps,
    submission,
    suspend,
)

KEY = "key:tools"
RUNNING = "select count(*) from queue where bucket = 0 and state in ('ready', 'leased') and concurrency_key = 'tools'"


async def put(conn: Connection, key: str = KEY, **rule: Any) -> None:
    await limit.put(conn, 0, Rule(**rule), namespace=NAMESPACE, key=key)


async def let_in(conn: Connection) -> int:
    """Admit until nothing moves any more. Says how many became ready."""
    did = 0
    while True:
        moved = 0
        for line in await admit.lines(conn, 0):
            admitted = await admit.advance(conn, line, STOCK)
            moved += admitted.moved
            did += len(admitted.ready)
        if not moved:
            return did


async def adopt(conn: Connection) -> None:
    while await conn.fetchval("select count(*) from limits where adopt_passes = 2"):
        await admit.adopt(conn, 0, STOCK)


async def keyed(conn: Connection, count: int = 1, **over: Any) -> list[Made]:
    """Executions under the key, submitted and waiting in its line."""
    wishes = [submission(concurrency_key="tools", line=KEY, **over) for _ in range(count)]
    await accept(conn, *wishes)
    return [Made(submission=wish, attempt=1) for wish in wishes]


def of(one: Lease) -> Fence:
    return Fence(one.execution_id, one.attempt)


async def state(conn: Connection, made: Made) -> str:
    return str((await queue_row(conn, made.id))["state"])


async def test_lets_in_as_many_as_the_limit_allows(conn: Connection) -> None:
    """Of three with one key, two become ready; the third stays in the line of the key."""
    await put(conn, concurrency_max=2)
    made = await keyed(conn, 3)

    assert await let_in(conn) == 2
    assert [await state(conn, one) for one in made] == ["ready", "ready", "blocked"]
    assert (await queue_row(conn, made[2].id))["line"] == KEY


async def test_a_key_without_a_limit_holds_nobody_back(conn: Connection) -> None:
    """A key says that something may be limited, not that it is."""
    await keyed(conn, 3)

    assert await let_in(conn) == 3


async def _succeeds(conn: Connection, made: Made) -> None:
    await report(conn, made.fence)


async def _fails(conn: Connection, made: Made) -> None:
    await report(conn, made.fence, Verdict.FAILED, retryable=False)


async def _fails_with_a_retry_left(conn: Connection, made: Made) -> None:
    await report(conn, made.fence, Verdict.FAILED)


async def _is_cancelled(conn: Connection, made: Made) -> None:
    await cancel.request(conn, [made.id], reason=None, make_id=make_id)
    await report(conn, made.fence, Verdict.CANCELLED)


async def _times_out(conn: Connection, made: Made) -> None:
    await conn.execute("update queue set deadline_at = clock() - interval '1 s' where id = $1", made.id)
    await expire.time_out(conn, 0, make_id=make_id)


async def _crashes_while_paused(conn: Connection, made: Made) -> None:
    await pause.request(conn, made.id, reason=None)
    await conn.execute("update sessions set closed_at = clock(), closed_reason = 'expired'")
    await expire.sweep(conn, 0, make_id=make_id)


async def _waits_for_a_person(conn: Connection, made: Made) -> None:
    await conn.execute(wait.BEGIN, 0, made.id, 1, "waiting_for_approval")


async def _awaits_a_child(conn: Connection, made: Made) -> None:
    await make_execution(conn, parent_id=made.id, target="other.child")


@pytest.mark.parametrize(
    "leaves",
    [
        _succeeds,
        _fails,
        _fails_with_a_retry_left,
        _is_cancelled,
        _times_out,
        _crashes_while_paused,
        _waits_for_a_person,
        _awaits_a_child,
    ],
)
async def test_a_place_is_given_back_once(conn: Connection, leaves: Any) -> None:
    """However an attempt ends or begins to wait, exactly one of those that wait is let in."""
    await put(conn, concurrency_max=1)
    retry = {"retry": RetryPolicy(retries_max=3)}
    [first] = await keyed(conn, **retry)
    await let_in(conn)
    await lease(conn, await make_session(conn))
    waiting = await keyed(conn, 3)
    before = await let_in(conn)

    await leaves(conn, first)

    assert (before, await let_in(conn), await let_in(conn)) == (0, 1, 0)
    assert await state(conn, waiting[0]) == "ready"


async def test_a_crash_keeps_its_place(conn: Connection) -> None:
    """What a dead process held goes on before those that wait."""
    await put(conn, concurrency_max=1)
    [first] = await keyed(conn)
    await let_in(conn)
    await lease(conn, await make_session(conn))
    await keyed(conn)
    await conn.execute("update sessions set closed_at = clock(), closed_reason = 'expired'")

    await expire.sweep(conn, 0, make_id=make_id)

    assert await let_in(conn) == 0
    assert await state(conn, first) == "ready"


async def _its_process_dies(conn: Connection, made: Made) -> None:
    await conn.execute("update sessions set closed_at = clock(), closed_reason = 'expired'")
    assert (await expire.sweep(conn, 0, make_id=make_id)).blocked == 1


async def _is_handed_back(conn: Connection, made: Made) -> None:
    await report(conn, made.fence, Verdict.RELEASED)


async def _has_nothing_to_wait_for(conn: Connection, made: Made) -> None:
    await steps(conn, made, Done(name="a", value=b"1"))
    assert (await suspend(conn, made.fence, "a")).ready == Ready(NAMESPACE, TARGET, blocked=True)


@pytest.mark.parametrize("loses", [_its_process_dies, _is_handed_back, _has_nothing_to_wait_for])
async def test_who_gave_its_place_away_to_wait_has_none_to_keep(conn: Connection, loses: Any) -> None:
    """Another was let in while it waited in its process; when that loses it, it stands in line (I-27)."""
    await put(conn, concurrency_max=1)
    [first] = await keyed(conn)
    await let_in(conn)
    await lease(conn, await make_session(conn))
    await wait.begin(conn, 0, first.fence, reason="waiting_for_approval")
    await keyed(conn)
    assert await let_in(conn) == 1

    await loses(conn, first)

    assert (await state(conn, first), await let_in(conn)) == ("blocked", 0)


async def test_what_wakes_stands_in_line_again(conn: Connection) -> None:
    """A retry that is due and what is resumed hold no place until they are let in."""
    await put(conn, concurrency_max=1)
    delayed, paused = [
        await make_execution(conn, to, concurrency_key="tools", line=KEY) for to in ("delayed", "paused")
    ]
    await conn.execute("update queue set available_at = clock() - interval '1 s'")

    await expire.promote(conn, 0)
    await pause.resume(conn, paused.id)

    assert [await state(conn, one) for one in (delayed, paused)] == ["blocked", "blocked"]
    assert await let_in(conn) == 1


async def test_all_limits_must_have_room(conn: Connection) -> None:
    """A row waits in the line of the first full limit, and goes on when that one has room."""
    await put(conn, concurrency_max=5)
    await put(conn, f"reasoner:{TARGET}", concurrency_max=1)
    await put(conn, "node:n", concurrency_max=2)
    made = await keyed(conn, 2) + await keyed(conn, 2, target="n.other")
    await let_in(conn)

    lines = [(row["state"], row["line"]) for row in [await queue_row(conn, one.id) for one in made]]

    assert lines == [("ready", KEY), ("blocked", f"reasoner:{TARGET}"), ("ready", KEY), ("blocked", "node:n")]


async def test_a_lower_limit_lets_running_ones_finish(conn: Connection) -> None:
    """Three run; at most one from now on: the next comes when all three have ended."""
    await put(conn, concurrency_max=3)
    made = await keyed(conn, 4)
    await let_in(conn)
    await lease(conn, await make_session(conn))
    await put(conn, concurrency_max=1)

    came = []
    for one in made[:3]:
        await report(conn, one.fence)
        came.append(await let_in(conn))

    assert came == [0, 0, 1]


async def test_a_limit_that_is_gone_holds_nobody_back(conn: Connection) -> None:
    """Whoever waited for it is let in."""
    await put(conn, concurrency_max=1)
    await keyed(conn, 3)
    await let_in(conn)

    assert await limit.remove(conn, 0, namespace=NAMESPACE, key=KEY)
    assert await let_in(conn) == 2


async def test_a_new_limit_takes_in_what_was_there(conn: Connection) -> None:
    """What runs is counted, what is ready stands in line."""
    running = await make_execution(conn, "running")
    ready = await make_execution(conn)
    other = await make_execution(conn, target="n.echo2")
    await put(conn, f"reasoner:{TARGET}", concurrency_max=1)

    await adopt(conn)

    assert await let_in(conn) == 0
    assert [await state(conn, one) for one in (running, ready, other)] == ["leased", "blocked", "ready"]


async def test_a_new_limit_looks_twice(conn: Connection) -> None:
    """A replica that did not know of it yet may have accepted something meanwhile."""
    await put(conn, f"reasoner:{TARGET}", concurrency_max=1)
    await adopt(conn)
    late = await make_execution(conn)
    await admit.adopt(conn, 0, STOCK)
    early = await state(conn, late)

    await move_clock(conn, "10 seconds")
    await admit.adopt(conn, 0, STOCK)

    assert (early, await state(conn, late)) == ("ready", "blocked")
    assert await admit.adopt(conn, 0, STOCK) == 0


async def test_the_most_urgent_of_a_line_comes_first(conn: Connection) -> None:
    """Priority decides within a line, whatever the fairness keys are."""
    await put(conn, concurrency_max=1)
    await keyed(conn, 3, fairness_key="a")
    [urgent] = await keyed(conn, priority=5, fairness_key="z")

    await let_in(conn)

    assert await state(conn, urgent) == "ready"


async def test_a_limit_goes_round_the_fairness_keys(conn: Connection) -> None:
    """With one place and three keys, each gets a third of the starts, however many it has waiting."""
    await put(conn, concurrency_max=1)
    await keyed(conn, 50, fairness_key="many")
    await keyed(conn, 20, fairness_key="few")
    await keyed(conn, 20)
    session = await make_session(conn)
    began = []
    for _ in range(15):
        await let_in(conn)
        [one] = await lease(conn, session)
        began.append((await queue_row(conn, one.execution_id))["fairness_key"])
        await report(conn, of(one))

    assert Counter(began) == {"many": 5, "few": 5, None: 5}


async def test_a_line_of_many_targets_comes_to_its_end(conn: Connection) -> None:
    """Whatever keys stand first in a line, those after them have their turn: 60 reasoners, one place on the node."""
    await put(conn, "node:n", concurrency_max=1)
    targets = tuple(f"n.r{n}" for n in range(60))
    await accept(conn, *[submission(target=to, line="node:n", fairness_key=f"f{n}") for n, to in enumerate(targets)])
    session = await make_session(conn)
    began = 0
    while await let_in(conn):
        [one] = await lease(conn, session, targets)
        await report(conn, of(one))
        began += 1

    assert began == 60


async def test_a_crowd_leaves_room_for_a_single_one(conn: Connection) -> None:
    """Of 300 children of one run few are ready at once, and a single submit waits for no more than those."""
    await accept(conn, *[submission(fairness_key="run-a") for _ in range(300)])
    [single] = await accept(conn, submission())
    session = await make_session(conn)
    began = 0
    while single.id not in {one.execution_id for one in await lease(conn, session, limit=8)}:
        began += 8
        await let_in(conn)

    assert await conn.fetchval("select count(*) from queue where state = 'ready'") <= READY_MAX
    assert began <= READY_MAX


async def test_of_many_crowds_none_is_forgotten(conn: Connection) -> None:
    """Each of more runs than one look sees has its window filled, whatever the others have waiting."""
    runs = admit.TURNS_MAX + 10
    wishes = [submission(fairness_key=f"run-{n}") for n in range(runs) for _ in range(READY_MAX + 1)]
    for n in range(0, len(wishes), 500):
        await accept(conn, *wishes[n : n + 500])
    await conn.execute("delete from queue where state = 'ready'")

    await let_in(conn)

    assert await conn.fetchval("select count(distinct fairness_key) from queue where state = 'ready'") == runs


async def test_a_rate_lets_so_many_begin_in_any_window(conn: Connection) -> None:
    """Two per minute: the third is let in when the first has been in for a minute, not when one has ended."""
    await put(conn, rate_max=2, rate_seconds=60.0)
    await keyed(conn, 5)
    session = await make_session(conn)
    came = [await let_in(conn)]
    for one in await lease(conn, session):
        await report(conn, of(one))
    for offset in ("0", "50 seconds", "63 seconds", "70 seconds"):
        await move_clock(conn, offset)
        came.append(await let_in(conn))

    assert came == [2, 0, 0, 2, 0]


async def test_a_rate_piles_up_nothing_that_nobody_takes(conn: Connection) -> None:
    """While no node is there, no more than one window's worth becomes ready."""
    await put(conn, rate_max=2, rate_seconds=60.0)
    await keyed(conn, 9)
    came = []
    for offset in ("0", "2 minutes", "4 minutes"):
        await move_clock(conn, offset)
        came.append(await let_in(conn))

    assert came == [2, 0, 0]


async def test_never_more_than_the_limit_at_any_commit(database: str, conn: Connection) -> None:
    """Four admitters, two nodes and a watcher at once: the key is never over its limit, and all 60 come to an end."""
    await put(conn, concurrency_max=3)
    await keyed(conn, 30, fairness_key="a", retry=RetryPolicy(retries_max=1, delay_seconds=0.0))
    await keyed(conn, 30)
    left = asyncio.Event()
    most = 0

    async def admits(own: Connection) -> None:
        while not left.is_set():
            await let_in(own)

    async def works(own: Connection) -> None:
        session = await make_session(own)
        while await own.fetchval("select count(*) from queue"):
            for n, one in enumerate(await lease(own, session, limit=2)):
                failed = one.attempt == 1 and n == 0
                await report(own, of(one), Verdict.FAILED if failed else Verdict.SUCCEEDED)
        left.set()

    async def watches(own: Connection) -> None:
        nonlocal most
        while not left.is_set():
            most = max(most, await own.fetchval(RUNNING))

    tasks = [admits] * 4 + [works] * 2 + [watches]
    connections = [await asyncpg.connect(database) for _ in tasks]
    async with asyncio.timeout(60):
        await asyncio.gather(*(task(own) for task, own in zip(tasks, connections, strict=True)))
    for one in connections:
        await one.close()

    assert most == 3
    assert await conn.fetchval("select count(*) from outcomes") == 60
