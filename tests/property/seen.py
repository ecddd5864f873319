"""The machine, as it is seen from outside: what a caller is shown is what the model has, after every step."""

from __future__ import annotations

import sys
from typing import Any

from hypothesis.stateful import invariant

from controlplane.api import shapes
from controlplane.domain.execution import STATUS_OF_STATE, State
from controlplane.domain.ids import show, show_execution
from controlplane.domain.memory import Place, Scope
from controlplane.reads import deliveries, events, executions, memory
from controlplane.reads.executions import Filter
from tests.make import NAMESPACE
from tests.property import model as tiny
from tests.property.schedules import Schedules

RESULT = b'{"ok": true}'
PAGE_MAX = 500


class Seen(Schedules):
    @invariant()
    def the_list_shows_it(self) -> None:
        """GET /executions: all that were ever accepted, the newest first, each as it stands."""
        found = self.read(
            executions.page(self.conn, Filter(), namespace=NAMESPACE, limit=PAGE_MAX, placement=self.placement)
        )
        newest = sorted(self.model.executions.values(), key=lambda one: one.id, reverse=True)
        assert [view.id for view in found] == [one.id for one in newest]
        for view, one in zip(found, newest, strict=True):
            expected, shape = shown(one), shapes.execution(view)
            assert {name: shape.get(name) for name in expected} == expected
            assert view.result == (RESULT if expected["status"] == "succeeded" else None)

    def teardown(self) -> None:
        """What is shown of one alone is looked at in the end: it is a page each."""
        if sys.exc_info()[0] is None:
            for one in self.model.executions.values():
                self.its_story_is_told(one)
                self.its_deliveries_are_shown(one)
            self.memory_is_shown()

    def its_story_is_told(self, one: tiny.Execution) -> None:
        """Its events: one lease for each attempt, and nothing after its end but deliveries."""
        where = {"namespace": NAMESPACE, "after_seq": 0, "limit": PAGE_MAX}
        told = [view.type for view in self.read(events.trace(self.conn, self.bucket, one.id, **where))]
        assert told[0] == "execution.queued"
        assert told.count("execution.started") == one.attempt
        ends = {"succeeded": "execution.completed"}
        if one.outcome is not None:
            last = [type_ for type_ in told if type_ in shapes.STATUS_AFTER][-1]
            assert last == ends.get(one.outcome.status, f"execution.{one.outcome.status}")

    def its_deliveries_are_shown(self, one: tiny.Execution) -> None:
        found = self.read(deliveries.of_execution(self.conn, self.bucket, one.id, namespace=NAMESPACE))
        known = self.model.deliveries.get(one.id)
        assert [(view.state, view.attempt, view.charged) for view in found] == (
            [] if known is None else [(known.state, known.attempt, known.charged)]
        )
        for view in found:
            numbers = [tried.attempt for tried in view.attempts]
            assert numbers == list(range(1, view.attempt + (view.state != "leased")))

    def memory_is_shown(self) -> None:
        """Page by page, each scope with its keys."""
        for scope_id in {scope_id for scope_id, _ in self.model.memory}:
            start = Place(self.bucket, NAMESPACE, Scope.RUN, scope_id, "")
            found = self.read(memory.page(self.conn, start, prefix="", limit=PAGE_MAX))
            assert {value.key: (value.value, value.version) for value in found} == {
                key: (value.raw, value.version)
                for (scope, key), value in self.model.memory.items()
                if scope == scope_id
            }


def shown(one: tiny.Execution) -> dict[str, Any]:
    """What an answer about it must hold."""
    ended = one.outcome is not None
    status = one.state if ended else STATUS_OF_STATE[State(one.state)].value
    return {
        "execution_id": show_execution(one.id),
        "run_id": one.asked.run_id,
        "parent_execution_id": None if one.asked.parent_id is None else show("exec", one.asked.parent_id),
        "status": "waiting" if one.pausing else status,
        "state": None if ended else one.state,
        "attempt": one.attempt,
        "failures": one.failures,
        "retries_used": min(one.failures, one.asked.retry.retries_max),
        "priority": one.asked.priority,
        "blocked_by": one.line if one.state == "blocked" else None,
        "webhook_registered": bool(one.asked.webhooks),
    }
