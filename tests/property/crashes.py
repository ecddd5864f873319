"""The machine, with servers that die in the middle: what they were asked for is done or is not, and is asked again."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Rule, rule

from controlplane.postgres.pool import PASSING
from tests.make import move_clock
from tests.property.faults import Death, Frail, bury, frail
from tests.property.machine import Answer
from tests.property.model import Model
from tests.property.seen import Seen

# What is one call of a stage, or a few one after the other, and can be said again.
FRAGILE = """
submit submit_some submit_again open_session claim heartbeat join join_again revive refuse accept_call withdraw
call_back begin_wait end_wait pause report report_twice put append append_again cancel close_expired sweep promote
force_cancel leave deliver reclaim retry_delivery write_steps call suspend signal wake_due fan_in time_out
ask_people decide nobody_decides plan
"""
AT_WORK = """
heartbeat report report_twice put append write_steps call suspend begin_wait cancel leave pause submit_again signal
ask_people
"""
# Most stages say few statements, of which the first and the last are BEGIN and COMMIT.
nths = st.sampled_from([1, 2, 2, 3, 3, 3, 4, 4, 5, 6, 7, 8, 10, 12])


class Crashes(Seen):
    told: list[Any] | None = None
    repeats: tuple[Any, ...] = ()
    answered: Model | None = None

    def do(self, step: Any) -> Any:
        answer = super().do(step)
        if self.answered is not None:
            self.answered = deepcopy(self.model)
        return answer

    def same(self, said: Callable[[], Answer]) -> Answer:
        if self.repeats:
            first, *self.repeats = self.repeats
            return first
        answer = said()
        if self.told is not None:
            self.told.append(answer)
        return answer

    @rule(data=st.data(), nth=nths, death=st.sampled_from(Death))
    def a_server_dies(self, data: st.DataObject, nth: int, death: Death) -> None:
        """It was asked for something; whoever asked hears nothing, and asks another one for the same."""
        self.die(data, nth, death, FRAGILE)

    @rule(data=st.data(), nth=nths, death=st.sampled_from(Death), webhooks=st.booleans(), retries=st.integers(0, 1))
    def a_server_dies_at_work(self, data: st.DataObject, nth: int, death: Death, webhooks: bool, retries: int) -> None:
        """While an attempt runs: what it says, and what is said to it, is what is easiest to lose."""
        self.begin_work(webhooks=webhooks, retries=retries)
        self.die(data, nth, death, AT_WORK)

    def die(self, data: st.DataObject, nth: int, death: Death, within: str) -> None:
        able = {
            one.function.__name__: one
            for one in self.rules
            if one.function.__name__ in within.split() and all(holds(self) for holds in one.preconditions)
        }
        asked = able[data.draw(st.sampled_from(sorted(able)), label="in")]
        arguments = data.draw(st.fixed_dictionaries(asked.arguments), label="asked for")
        told = self.dies(asked, arguments, nth, death)
        if told is None:
            self.tally.happened["lived on"] += 1
            return
        self.tally.happened[f"died in {asked.function.__name__}"] += 1
        self.repeats = tuple(told)
        try:
            asked.function.__wrapped__(self, **arguments)
        finally:
            self.repeats = ()

    def dies(self, asked: Rule, arguments: dict[str, Any], nth: int, death: Death) -> list[Any] | None:
        """What was said to a server that has died, None if it has not; the model is what the database says it is."""
        whole, conn = self.conn, self.do(self.begin_to_die(nth, death))
        self.conn, self.told, self.answered = conn, [], deepcopy(self.model)
        try:
            asked.function.__wrapped__(self, **arguments)
        except PASSING:
            if not conn.dead:
                raise
        finally:
            before, told = self.answered, self.told
            self.conn, self.told, self.answered = whole, None, None
            died = self.do(bury(conn))
        if not died:
            return None
        fitting = [one for one in (before, unforgiven(before, self.model), self.model) if self.looks_like(one)]
        assert fitting, "it is half done"
        done = fitting[-1] is not before
        self.tally.happened["died, was done" if done else "died, was not done"] += 1
        self.model = fitting[-1]
        return told

    async def begin_to_die(self, nth: int, death: Death) -> Frail:
        conn = await frail(self.dsn, self.conn, nth=-1, death=death)
        await move_clock(conn, f"{self.model.now} seconds")
        conn.said, conn.nth = 0, nth
        return conn

    def looks_like(self, model: Model) -> bool:
        """Whether the database is as this model has it."""
        now, self.model = self.model, model
        try:
            self.every_execution_is_in_one_place()
            self.every_process_is_known()
            self.every_key_is_kept()
            self.whoever_asked_is_told_once()
            self.memory_is_kept()
            self.steps_are_kept()
            self.signals_are_kept()
            self.what_was_asked_is_kept()
            self.what_was_planned_is_told()
        except AssertionError:
            return False
        finally:
            self.model = now
        return True


def unforgiven(before: Model, after: Model) -> Model:
    """All was done, but for the counts of crashes: a progress clears them behind its commit, and the next one, too."""
    made = deepcopy(after)
    for id_, one in made.executions.items():
        if id_ in before.executions:
            one.crashes = before.executions[id_].crashes
    return made
