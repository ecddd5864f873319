"""A restarted run beside a tiny model of it: which call takes over which, whatever is asked, repeated or lost."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any
from uuid import UUID

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.domain.execution import Accepted, Replay, ReplayMode, Submission
from controlplane.domain.lease import Fence
from controlplane.postgres.pool import Connection
from controlplane.stages import replay, submit
from tests.make import all_rows, make_execution, make_id, must, report, submission, webhook

BOTH = "select id from queue intersect select id from outcomes"
NEITHER = "select id from executions except (select id from queue union select id from outcomes)"
# Ended at attempt 0: taken over. Such a one owes its webhook a delivery as any end does.
TOLD = """
select e.id from executions e
where e.webhooks <> (select count(*) from deliveries d where d.execution_id = e.id)
  and exists (select from outcomes o where o.id = e.id and o.attempt = 0)
"""
FORMS = [b'{"x":%d}', b'{"x": %d}', b'{"x":%d.0}']

question = st.integers(0, 2)
form = st.sampled_from(FORMS)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("succeed"), question, form),
        st.tuples(st.just("ask"), st.lists(st.tuples(question, form), min_size=1, max_size=4)),
        st.tuples(st.just("repeat"), st.integers(0, 9)),
        st.tuples(st.just("crash")),
    ),
    max_size=12,
)


class Life:
    """One restarted run. `taken`: what this attempt of its root has taken over."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.sources: dict[int, list[UUID]] = defaultdict(list)
        self.taken: set[UUID] = set()
        self.asked: list[tuple[Submission, Accepted]] = []
        self.attempt = 1

    async def live(self, course: list[Any]) -> None:
        self.old = await make_execution(self.conn, "failed")
        self.root = await make_execution(self.conn, "running")
        for name, *arguments in course:
            await getattr(self, name)(*arguments)
            assert await all_rows(self.conn, BOTH) == await all_rows(self.conn, NEITHER) == []
            assert await all_rows(self.conn, TOLD) == []

    async def succeed(self, x: int, written: bytes) -> None:
        wish = submission(run_id=self.old.run_id, root_id=self.old.id, parent_id=self.old.id, input=written % x)
        await submit.accept(self.conn, [wish])
        await self.conn.execute(
            "update queue set state = 'leased', attempt = 1, session_id = $2, leased_at = clock() where id = $1",
            wish.id,
            make_id(0),
        )
        await report(self.conn, Fence(wish.id, 1), result=b"%d" % x)
        self.sources[x].append(wish.id)

    async def ask(self, questions: list[tuple[int, bytes]]) -> None:
        source = Replay(source_run_id=self.old.run_id, mode=ReplayMode.ALL_SUCCEEDED)
        wishes = [
            submission(
                run_id=self.root.run_id,
                parent_id=self.root.id,
                parent_attempt=self.attempt,
                input=written % x,
                replay=source,
                webhooks=(webhook(),),
            )
            for x, written in questions
        ]
        answers = [must(one) for one in await replay.accept(self.conn, wishes, make_id=make_id)]
        for x in {x for x, _ in questions}:
            free = [one for one in self.sources[x] if one not in self.taken]
            got = [one.source_id for one, (y, _) in zip(answers, questions, strict=True) if x == y]
            assert sorted(one for one in got if one is not None) == free[: len(got)]
        self.taken |= {one.source_id for one in answers if one.source_id is not None}
        self.asked += zip(wishes, answers, strict=True)

    async def repeat(self, n: int) -> None:
        """A flush whose answer was lost: from another attempt, too, it is answered as before."""
        if self.asked:
            wish, answer = self.asked[n % len(self.asked)]
            assert await replay.accept(self.conn, [wish], make_id=make_id) == [answer]

    async def crash(self) -> None:
        """The root goes to another process, which asks all over again."""
        self.attempt += 1
        await self.conn.execute(
            "update queue set attempt = $2, leased_at = clock() where id = $1", self.root.id, self.attempt
        )
        self.taken = set()


@settings(
    deadline=None,
    database=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(course=steps)
def test_a_restarted_run_takes_over_what_the_model_says(database: str, course: list[Any]) -> None:
    """Each call its own source, in order; repeats change nothing; each execution is in exactly one place."""

    async def run() -> None:
        conn = await asyncpg.connect(database)
        try:
            await Life(conn).live(course)
        finally:
            await conn.close()

    asyncio.run(run())
