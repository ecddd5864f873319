"""The machine, with two servers at once: one is in the middle of something while the other does the same, or more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from controlplane.domain.lease import Claim, Verdict
from controlplane.postgres.pool import Connection
from controlplane.stages import approve, cancel, deliver, expire, lease, schedule, suspend
from tests.make import BLOCKED, NAMESPACE, TARGET, make_id, move_clock, report
from tests.property import model as tiny
from tests.property.crashes import Crashes
from tests.property.faults import connect
from tests.property.machine import pick, verdicts

Act: TypeAlias = Callable[[Connection], Coroutine[Any, Any, Any]]
LOOK_SECONDS = 0.002
ORDER = "select id, rank() over (order by available_at) from queue where bucket = $1"
ticks = st.sampled_from(
    [
        "close_expired",
        "expire_approvals",
        "fan_in",
        "force_cancel",
        "promote",
        "reclaim",
        "sweep",
        "time_out",
        "wake_due",
    ]
)


class Together(Crashes):
    def tick(self, name: str) -> Act:
        """One pass of a daemon over the bucket of this example."""
        bucket = self.bucket
        acts: dict[str, Act] = {
            "close_expired": lambda conn: expire.close_expired(conn, bucket, up_seconds=1e9),
            "expire_approvals": lambda conn: approve.expire_due(conn, bucket, make_id=make_id),
            "fan_in": lambda conn: suspend.fan_in(conn, bucket),
            "force_cancel": lambda conn: expire.force_cancel(
                conn, bucket, grace_seconds=tiny.GRACE_SECONDS, make_id=make_id
            ),
            "promote": lambda conn: expire.promote(conn, bucket),
            "reclaim": lambda conn: deliver.reclaim(conn, bucket),
            "sweep": lambda conn: expire.sweep(conn, bucket, make_id=make_id),
            "time_out": lambda conn: expire.time_out(conn, bucket, make_id=make_id),
            "wake_due": lambda conn: suspend.wake_due(conn, bucket),
        }
        return acts[name]

    @rule(first=ticks, second=ticks, seconds=st.sampled_from([0, *tiny.MOVES]))
    def two_ticks(self, first: str, second: str, seconds: int) -> None:
        """The second passes over what the first has in its hands, and a later pass finds what that has left."""
        self.time_passes(seconds)
        self.at_once(self.tick(first), self.tick(second))
        for name in (first, second):
            self.do(self.tick(name)(self.conn))
        for name in (first, second, first, second):
            getattr(self.model, name)()
        self.take_the_order_over()

    @precondition(lambda self: self.sessions)
    @rule(n=pick, m=pick, limits=st.tuples(st.integers(1, 2), st.integers(1, 2)))
    def two_claims(self, n: int, m: int, limits: tuple[int, int]) -> None:
        """What one server hands out the other does not; of a process that is called, only one claims at a time."""
        sessions = [self.session(n), self.session(m)]
        if sessions[0].called and sessions[0] == sessions[1]:
            limits = (limits[0], 0)
        expected = [self.expected_leases(one, limit) for one, limit in zip(sessions, limits, strict=True)]
        wishes = [
            Claim(session=one, targets=(TARGET,), limit=limit or 1) for one, limit in zip(sessions, limits, strict=True)
        ]
        answers = self.at_once(*(lambda conn, wish=wish: lease.claim(conn, [wish], self.placement) for wish in wishes))
        for session, leases, [answer] in zip(sessions, expected, answers, strict=True):
            self.take_leases(session, leases, answer)

    @precondition(lambda self: self.model.schedules)
    @rule(seconds=st.sampled_from(tiny.MOVES))
    def two_schedulers(self, seconds: int) -> None:
        """What is due is submitted by one of them."""
        self.time_passes(seconds)
        served = self.served()
        serves = {(NAMESPACE, TARGET): served}
        fired = self.at_once(
            *[lambda conn: schedule.fire(conn, self.bucket, serves=serves, make_id=make_id) for _ in range(2)]
        )
        self.take_over(list(fired), self.model.fire(), served)

    @precondition(lambda self: self.fences)
    @rule(n=pick, name=ticks, verdict=verdicts)
    def a_report_meets_a_tick(self, n: int, name: str, verdict: Verdict) -> None:
        """Whoever has the row first is heard."""
        fence = self.fence(n)
        getattr(self.model, name)()
        expected = self.model.report(fence, verdict, retryable=True)
        _, answer = self.at_once(self.tick(name), lambda conn: report(conn, fence, verdict, begun=self.begun))
        assert (answer.code.value, answer.status and answer.status.value) == expected
        self.take_the_order_over()

    @precondition(lambda self: self.fences)
    @rule(n=pick, said=st.tuples(verdicts, verdicts))
    def two_reports(self, n: int, said: tuple[Verdict, Verdict]) -> None:
        """Of the same attempt, in other words."""
        fence = self.fence(n)
        expected = [self.model.report(fence, verdict, retryable=True) for verdict in said]
        answers = self.at_once(
            *(lambda conn, verdict=verdict: report(conn, fence, verdict, begun=self.begun) for verdict in said)
        )
        assert [(one.code.value, one.status and one.status.value) for one in answers] == expected

    @precondition(lambda self: self.fences)
    @rule(n=pick, verdict=verdicts, first=st.booleans())
    def a_report_meets_a_cancel(self, n: int, verdict: Verdict, first: bool) -> None:
        """The first is heard, and the second is told so."""
        fence = self.fence(n)
        one = self.model.executions[fence.execution_id]
        acts: list[Act] = [
            lambda conn: report(conn, fence, verdict, begun=self.begun),
            lambda conn: cancel.request(conn, [fence.execution_id], reason=None, make_id=make_id),
        ]
        for act in ("report", "cancel") if first else ("cancel", "report"):
            self.model.report(fence, verdict, retryable=True) if act == "report" else self.model.cancel(one)
        self.at_once(*(acts if first else acts[::-1]))

    def at_once(self, first: Act, second: Act) -> tuple[Any, Any]:
        """The first has done all but its commit when the second begins, and waits until that is done or must wait."""
        answers = self.do(self.overlap(first, second))
        self.tally.happened["two servers at once"] += 1
        return answers

    async def overlap(self, first: Act, second: Act) -> tuple[Any, Any]:
        other = await connect(self.dsn)
        try:
            await move_clock(other, f"{self.model.now} seconds")
            held = other.transaction()
            await held.start()
            began = await first(other)
            late = asyncio.ensure_future(second(self.conn))
            while not late.done():
                await asyncio.sleep(LOOK_SECONDS)
                if await other.fetchval(BLOCKED, self.conn.get_server_pid()):
                    self.tally.happened["one waited for the other"] += 1
                    break
            await held.commit()
            return began, await late
        finally:
            await other.close()

    def take_the_order_over(self) -> None:
        """In which order both have let executions go is theirs; the model only follows."""
        ranks = dict(self.read(self.conn.fetch(ORDER, self.bucket)))
        _, last = self.model.moment()
        for one in self.model.unfinished():
            one.available = (one.available[0], last + ranks[one.id])
        self.model.happened = last + len(ranks) + 1
