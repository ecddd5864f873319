"""The machine, with people and clocks: pauses and drains, deadlines, and the children of what has ended."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from controlplane.domain.execution import ParentEnd
from controlplane.domain.ids import SessionId
from controlplane.domain.lease import Verdict
from controlplane.domain.pause import Paused
from controlplane.domain.step import Done
from controlplane.stages import expire, follow, withhold
from tests.make import NAMESPACE, TARGET, make_id
from tests.property import model as tiny
from tests.property.limits import Limits
from tests.property.machine import pick, times

paused = st.sampled_from(
    [Paused.all(), Paused.node("n"), Paused.reasoner("n", TARGET), Paused.reasoner("n", "n.other")]
)
LEFT_BEHIND = "select count(*) from ended_parents where bucket = $1"


class Control(Limits):
    # pauses and drains

    @rule(what=paused, twice=st.booleans())
    def withhold(self, what: Paused, twice: bool) -> None:
        """From here on no claim takes any of it."""
        for _ in range(1 + twice):
            new = what.name not in self.model.paused
            self.model.paused.add(what.name)
            said = withhold.pause(self.conn, [self.bucket], what, namespace=NAMESPACE, reason=None, paused_by=None)
            assert self.do(said)[1] == new

    @precondition(lambda self: self.model.paused)
    @rule(n=pick)
    def let_go(self, n: int) -> None:
        """One pause is taken back, mostly all of them, and somebody claims."""
        names = sorted(self.model.paused)
        for what in (Paused.all(), Paused.node("n"), Paused.reasoner("n", TARGET), Paused.reasoner("n", "n.other")):
            if what.name in (names if n < 6 else names[:1]):
                self.model.paused.remove(what.name)
                gone = self.do(withhold.resume(self.conn, [self.bucket], what, namespace=NAMESPACE))
                assert gone is not None
        self.claim(n=0, limit=2)

    @rule()
    def drain(self) -> None:
        expected = self.model.tell_to_drain()
        told = withhold.drain(self.conn, self.bucket, namespace=NAMESPACE, node_id="n", reason=None, asked_by=None)
        assert set(self.do(told)) == expected

    @precondition(lambda self: any(one.told_to_drain for one in self.model.sessions.values()))
    @rule()
    def undrain(self) -> None:
        expected: set[SessionId] = self.model.undrain()
        assert set(self.do(withhold.undrain(self.conn, self.bucket, namespace=NAMESPACE, node_id="n"))) == expected

    # deadlines

    @rule()
    def time_out(self) -> None:
        self.model.time_out()
        self.do(expire.time_out(self.conn, self.bucket, make_id=make_id))

    @rule(
        times=times,
        retries=st.integers(0, 1),
        child=st.booleans(),
        by_step=st.booleans(),
        seconds=st.sampled_from(tiny.MOVES),
    )
    def run_late(self, times: Mapping[str, float], retries: int, child: bool, by_step: bool, seconds: int) -> None:
        """An attempt has times to keep; perhaps it speaks in between, perhaps it waits for a child."""
        self.begin_work(webhooks=True, retries=retries, times=times)
        if child and self.model.holds(self.fence(0)):
            self.ask(self.child(self.fence(0), "s1", ParentEnd.CANCEL))
        self.time_passes(4_000)
        if by_step:
            self.write_steps(0, [Done(name="s2", value=b"1")])
        else:
            self.put(0, "a", None, 1)
        self.time_passes(seconds)
        self.time_out()

    # the children of what has ended

    @rule()
    def follow(self) -> None:
        """Down the tree, until nobody is left to be told."""
        self.model.follow()
        while self.do(follow.sweep(self.conn, self.bucket, make_id=make_id)).rows:
            pass
        assert self.do(self.conn.fetchval(LEFT_BEHIND, self.bucket)) == 0

    @rule(end=st.sampled_from(ParentEnd), verdict=st.sampled_from([Verdict.FAILED, Verdict.SUCCEEDED]))
    def orphan(self, end: ParentEnd, verdict: Verdict) -> None:
        """A parent ends before its children: one that runs, with a child of its own, and one that does not."""
        self.begin_work(webhooks=False, retries=0)
        parent = self.fence(0)
        self.ask(self.child(parent, "s1", end))
        self.admit()
        self.claim(n=0, limit=1)
        self.ask(self.child(self.fence(0), None, end))
        self.ask(self.child(parent, "s2", ParentEnd.KEEP))
        self.report(self.fences[::-1].index(parent), verdict, retryable=False)
        self.follow()
