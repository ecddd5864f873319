"""The machine, with schedules: what is planned is submitted once, or is not, and it is written down which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from controlplane.domain.retry import RetryPolicy
from controlplane.domain.schedule import CatchUp, Definition, Overlap, Rule, ScheduleId
from controlplane.stages import schedule
from controlplane.stages.schedule import Fired, Served
from tests.make import NAMESPACE, TARGET, make_id, submission
from tests.property import model as tiny
from tests.property.people import People

SCHEDULES = """
select name, waiting, floor(extract(epoch from next_at - $2) / 1000 + 0.01)::int * 1000 as next
from schedules
where bucket = $1
"""
TICKS = """
select s.name, floor(extract(epoch from t.planned_at - $2) / 1000 + 0.01)::int * 1000 as planned, t.outcome,
  t.execution_id
from schedule_ticks t
join schedules s on s.bucket = $1 and s.id = t.schedule_id
where t.bucket = $1
"""
RUN = "select run_id from executions where bucket = $1 and id = $2"
names = st.sampled_from(["d1", "d2"])


class Schedules(People):
    looks: ClassVar[Mapping[str, str]] = {**People.looks, "schedules": SCHEDULES, "ticks": TICKS}

    @rule(name=names, twice=st.booleans())
    def plan(self, name: str, twice: bool) -> None:
        """A schedule whose ticks wait for each other, so that none is lost; said again it stays as it is."""
        definition = Definition(
            target=TARGET,
            input=b"1",
            rule=Rule(interval_seconds=float(tiny.INTERVAL_SECONDS)),
            overlap=Overlap.QUEUE,
            catch_up=CatchUp.ALL,
        )
        for _ in range(1 + twice):
            new = self.model.plan(name)
            made = schedule.put(
                self.conn,
                self.bucket,
                ScheduleId(make_id(self.bucket)),
                definition,
                namespace=NAMESPACE,
                name=name,
                paused=None,
                replacing=True,
            )
            assert self.do(made)[1] == new

    @precondition(lambda self: self.model.schedules)
    @rule(seconds=st.sampled_from([0, *tiny.MOVES]))
    def fire(self, seconds: int) -> None:
        """What is due is decided on, and what waits may be submitted."""
        self.time_passes(seconds)
        for stage, expected in ((schedule.fire, self.model.fire), (schedule.advance, self.model.advance)):
            served = self.served()
            fired = self.do(stage(self.conn, self.bucket, serves={(NAMESPACE, TARGET): served}, make_id=make_id))
            self.take_over([fired], expected(), served)

    def served(self) -> Served:
        """How the reasoner is served now."""
        return Served(type="reasoner", retry=RetryPolicy(retries_max=0), timeout_seconds=None, line=self.line(None))

    def take_over(self, fired: list[Fired], expected: set[tuple[str, int]], served: Served) -> None:
        """The executions of the ticks that were to be submitted; their ids and runs are the scheduler's."""
        started = {one.schedule.name: one.execution_id for part in fired for one in part.started}
        assert sum(len(part.started) for part in fired) == len(started)
        assert started.keys() == {name for name, _ in expected}
        at = self.model.moment()
        for name, planned in expected:
            run_id = self.read(self.conn.fetchval(RUN, self.bucket, started[name]))
            asked = submission(id=started[name], run_id=run_id, input=b"1", retry=served.retry, line=served.line)
            self.model.begin(name, planned, asked, at)
            self.submissions.append(asked.id)

    @invariant()
    def what_was_planned_is_told(self) -> None:
        """Each tick once, with what became of it."""
        assert {row[0]: row[1:] for row in self.look("schedules")} == {
            name: (len(one.waiting), one.next) for name, one in self.model.schedules.items()
        }
        rows = self.look("ticks")
        assert {row[:2]: row[2:] for row in rows} == {
            (name, planned): tick for name, one in self.model.schedules.items() for planned, tick in one.ticks.items()
        }
        assert len(rows) == sum(len(one.ticks) for one in self.model.schedules.values())
