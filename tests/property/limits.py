"""The machine, with limits: what they hold back, whom they let in, and that nobody is let in beyond them."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from controlplane.domain.lease import Verdict
from controlplane.domain.limit import KEY, NODE, REASONER, Rule
from controlplane.domain.step import Done
from controlplane.stages import admit, limit
from controlplane.stages.admit import Line
from tests.make import NAMESPACE, TARGET
from tests.property.waits import Waits

STANDING = "select id, state, line from queue where bucket = $1"
PASSES_MAX = 20
limit_keys = st.sampled_from([REASONER + TARGET, NODE + "n", KEY + "a"])


class Limits(Waits):
    @rule(key=limit_keys, most=st.sampled_from([0, 1, 1, 2]))
    def put_limit(self, key: str, most: int) -> None:
        """A new one, a higher or a lower one."""
        new = self.model.put_limit(key, most)
        word = Rule(concurrency_max=most)
        assert self.do(limit.put(self.conn, self.bucket, word, namespace=NAMESPACE, key=key))[1] == new

    @precondition(lambda self: self.model.limits)
    @rule(key=limit_keys)
    def remove_limit(self, key: str) -> None:
        if self.model.limits.pop(key, None) is not None:
            self.do(limit.remove(self.conn, self.bucket, namespace=NAMESPACE, key=key))

    @precondition(lambda self: any(one.passes for one in self.model.limits.values()))
    @rule()
    def adopt(self) -> None:
        """What was there before its limit is taken in, and later what a replica accepted that did not know it."""
        if any(one.passes == 1 and one.since == self.model.now for one in self.model.limits.values()):
            self.time_passes(4_000)  # no test is so slow that it would really be so late
        self.model.adopt()
        self.do(admit.adopt(self.conn, self.bucket, self.placement))

    @rule()
    def admit(self) -> None:
        """Let in whom there is room for, until nobody is left of whom that is true."""
        if not any(one.state == "blocked" for one in self.model.executions.values()):
            return
        for _ in range(PASSES_MAX):
            lines = self.do(admit.lines(self.conn, self.bucket))
            if not sum(self.advance(line) for line in lines):
                break
        else:
            raise AssertionError("admit does not come to rest")
        for one in self.model.executions.values():
            if one.state == "blocked":
                full = self.model.limits.get(one.line or "")
                assert full is not None, "nothing holds it back"
                assert len(self.model.held(one.line or "")) >= full.most, "there is room in its line"

    def advance(self, line: Line) -> int:
        """One look at a line, and what it may have done: the model only follows."""
        admitted = self.do(admit.advance(self.conn, line, self.placement))
        rows = {row["id"]: row for row in self.do(self.conn.fetch(STANDING, self.bucket))}
        stood = [one for one in self.model.executions.values() if one.state == "blocked"]
        let_in = [one for one in stood if rows[one.id]["state"] == "ready"]
        left = [one for one in stood if one not in let_in and rows[one.id]["line"] == line.name]
        assert {one.line for one in let_in} <= {line.name}
        assert len(let_in) == len(admitted.ready)
        for first in let_in:
            for later in left:
                assert (-first.asked.priority, first.available) <= (-later.asked.priority, later.available)
        at = self.model.moment()
        for one in stood:
            one.line = rows[one.id]["line"]
        for one in let_in:
            self.model.let_in(one, at)
        for key in {key for one in let_in for key in one.keys} & self.model.limits.keys():
            assert len(self.model.held(key)) <= self.model.limits[key].most, "more were let in than the limit allows"
        return admitted.moved

    @rule(count=st.integers(1, 3), most=st.integers(1, 2))
    def contend(self, count: int, most: int) -> None:
        """Some want the same place, and it is given away."""
        self.put_limit(KEY + "a", most)
        for _ in range(count):
            self.submit(webhooks=False, retries=1, priority=0, key=None, request=b"", lock="a")
        self.begin_work(webhooks=False, retries=0)

    @rule(ends=st.sampled_from(["died", "released", "suspended", "went on"]), paused=st.booleans())
    def give_the_place_away(self, ends: str, paused: bool) -> None:
        """Who waits in its process lets another one in, and may have to wait for it when its own process is lost."""
        self.contend(count=1, most=1)
        self.begin_wait(0)
        self.submit(webhooks=False, retries=1, priority=1, key=None, request=b"", lock="a")
        self.admit()
        if paused:
            self.pause(0, on=True)
        self.nobody_is_let_in_beyond_a_limit()
        if ends == "died":
            self.a_process_dies()
        elif ends == "released":
            self.report(0, Verdict.RELEASED, retryable=True)
        elif ends == "suspended":
            fence = self.fence(0)
            self.write_ops(fence, [Done(name="s1", value=b"1")])
            self.wait_for(fence, ("s1",), any_=False)
        else:
            self.end_wait(0)

    @invariant()
    def nobody_is_let_in_beyond_a_limit(self) -> None:
        """Whoever is beyond a limit has found room when it came, or went on, and has had its place ever since (I-27).

        Others may have come beside it: one that was let in and only waited, for its children or in its process, goes
        on in any case, and so does what ran before its limit; a limit may be lowered. That there is room for whom
        `advance` lets in is asked there: a step is many moves.
        """
        for key, one in self.model.limits.items():
            held = self.model.held(key)
            assert len(held) <= one.most or held <= self.model.placed, "let in beyond the limit"
        self.model.placed = {one.id for one in self.model.unfinished() if one.state in ("ready", "leased")}
