"""The machine, with steps: what an execution has done, what it waits for without a lease, and who wakes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from controlplane.domain.execution import ParentEnd, Submission
from controlplane.domain.ids import ExecutionId
from controlplane.domain.lease import Fence, Verdict
from controlplane.domain.retry import RetryPolicy
from controlplane.domain.step import AwaitEvent, Done, Sleep, StepOp, StepWrite
from controlplane.errors import (
    AlreadyFinished,
    ControlPlaneError,
    IdempotencyConflict,
    InvalidState,
    LeaseLost,
    StepNotFound,
)
from controlplane.stages import signal, step, suspend
from controlplane.stages.signal import Sent, Signal
from tests.make import NAMESPACE, make_id, report, submission, webhook
from tests.property import model as tiny
from tests.property.machine import Machine, choose, pick

STEPS = """
select execution_id, name, kind, status, value, attempt, event, child_id, timed_out, awaited, news,
  floor(extract(epoch from due_at - $2) / 1000)::int * 1000 as due
from steps
where bucket = $1
"""
SIGNALS = """
select execution_id, event, payload, step
from signals
where bucket = $1
order by execution_id, seq
"""
SLEEP_SECONDS = 5_000
names = st.sampled_from(["s1", "s2", "s3"])
events = st.sampled_from(["go", "stop"])
operations = st.one_of(
    st.builds(Done, name=names, value=st.sampled_from([b"1", b"2"])),
    st.builds(Sleep, name=names, seconds=st.just(SLEEP_SECONDS)),
    st.builds(AwaitEvent, name=names, event=events, timeout_seconds=st.sampled_from([None, SLEEP_SECONDS])),
)
waiting = st.builds(
    lambda ops: list({op.name: op for op in ops if not isinstance(op, Done)}.values()),
    st.lists(operations, min_size=1, max_size=3),
).filter(bool)
ends = st.sampled_from(ParentEnd)


class Waits(Machine):
    looks: ClassVar[Mapping[str, str]] = {**Machine.looks, "steps": STEPS, "signals": SIGNALS}

    # steps

    @precondition(lambda self: self.fences)
    @rule(n=pick, ops=st.lists(operations, min_size=1, max_size=3))
    def write_steps(self, n: int, ops: list[StepOp]) -> None:
        """New ones, ones that are there, and both at once; by whoever ever held a lease."""
        self.write_ops(self.fence(n), ops)

    def write_ops(self, fence: Fence, ops: list[StepOp]) -> None:
        stands = self.model.write_steps(fence, ops)
        [answer] = self.do(step.write(self.conn, [StepWrite(fence=fence, ops=tuple(ops))]))
        assert isinstance(answer, LeaseLost) != stands
        if isinstance(answer, ControlPlaneError):
            return
        known = self.model.executions[fence.execution_id].steps
        assert [(one.name, one.kind, one.status, one.value) for one in answer] == [
            (op.name, known[op.name].kind, known[op.name].status, known[op.name].value) for op in ops
        ]

    # children

    @precondition(lambda self: self.fences)
    @rule(n=pick, name=st.one_of(st.none(), names), end=ends, retries=st.integers(0, 1), webhooks=st.booleans())
    def call(self, n: int, name: str | None, end: ParentEnd, retries: int, webhooks: bool) -> None:
        """A child is asked for, under the name of a step or without one."""
        fence = self.fence(n)
        self.ask(self.same(lambda: self.child(fence, name, end, retries=retries, webhooks=webhooks)))

    def child(self, fence: Fence, name: str | None, end: ParentEnd, **over: Any) -> Submission:
        parent = self.model.executions[fence.execution_id].asked
        return submission(
            bucket=self.bucket,
            parent_id=parent.id,
            parent_attempt=fence.attempt,
            step=name,
            run_id=parent.run_id,
            root_id=parent.root_id,
            on_parent_end=end,
            line=self.line(None),
            priority=1,
            retry=RetryPolicy(
                retries_max=over.get("retries", 0), delay_seconds=tiny.RETRY_SECONDS, factor=1.0, cap_seconds=1e6
            ),
            webhooks=(webhook(attempts_max=tiny.DELIVERY_ATTEMPTS_MAX),) if over.get("webhooks") else (),
        )

    # suspend

    @precondition(lambda self: self.fences)
    @rule(n=pick, steps=st.integers(0, 8), any_=st.booleans(), twice=st.booleans())
    def suspend(self, n: int, steps: int, any_: bool, twice: bool) -> None:
        """Also for steps that are done, or not there; by whoever ever held a lease; said again after a lost answer."""
        fence = self.fence(n)
        known = self.model.executions[fence.execution_id].steps
        chosen = tuple(name for number, name in enumerate(known) if not steps & 1 << number) or ("nothing",)
        waits = self.same(lambda: chosen)
        for _ in range(1 + twice):
            self.wait_for(fence, waits, any_=any_)

    def wait_for(self, fence: Fence, waits: tuple[str, ...], *, any_: bool) -> None:
        expected = self.model.report(fence, Verdict.WAITING, retryable=True, waits=waits, any_=any_)
        try:
            answer = self.do(report(self.conn, fence, Verdict.WAITING, waits=waits, waits_any=any_))
        except StepNotFound:
            assert expected[0] == "step_not_found"
            return
        assert (answer.code.value, answer.status and answer.status.value) == expected

    @precondition(lambda self: self.fences)
    @rule(n=pick, ops=waiting, any_=st.booleans())
    def begin_and_suspend(self, n: int, ops: list[StepOp], any_: bool) -> None:
        """What an attempt does that has nothing to do but wait."""
        fence = self.fence(n)
        self.write_ops(fence, ops)
        self.wait_for(fence, tuple(op.name for op in ops), any_=any_)

    @rule(any_=st.booleans(), end=ends, verdict=st.sampled_from([Verdict.SUCCEEDED, Verdict.FAILED]))
    def fan_out(self, any_: bool, end: ParentEnd, verdict: Verdict) -> None:
        """A parent waits for two children, of which one begins and ends."""
        self.begin_work(webhooks=False, retries=1)
        fence = self.fence(0)
        for name in ("s1", "s2"):
            self.ask(self.child(fence, name, end))
        self.wait_for(fence, ("s1", "s2"), any_=any_)
        self.admit()
        self.claim(n=0, limit=1)
        self.report(0, verdict, retryable=False)

    @rule(
        event=events, any_=st.booleans(), before=st.booleans(), held=st.booleans(), seconds=st.sampled_from([0, 4_000])
    )
    def wait_for_signal(self, event: str, any_: bool, before: bool, held: bool, seconds: int) -> None:
        """A signal comes before its execution waits for it, or after; while it is held back or not, in time or late."""
        self.begin_work(webhooks=False, retries=0)
        if before:
            self.signal(0, event, b"1", None)
        ops = [AwaitEvent(name="s1", event=event, timeout_seconds=SLEEP_SECONDS), AwaitEvent(name="s2", event=event)]
        self.begin_and_suspend(0, [*ops], any_)
        if held:
            self.pause(0, on=True)
        self.time_passes(seconds)
        self.signal(0, event, b"2", None)
        self.go_on(0, seconds=4_000)

    @precondition(lambda self: any(one.waits_until for one in self.model.executions.values()))
    @rule(n=pick, seconds=st.sampled_from(tiny.MOVES))
    def go_on(self, n: int, seconds: int) -> None:
        """Time passes, who waited for that is woken, and somebody is there to go on."""
        self.time_passes(seconds)
        self.wake_due()
        self.fan_in()
        self.admit()
        self.claim(n=n, limit=2)

    # signals

    @precondition(lambda self: self.submissions)
    @rule(n=pick, event=events, payload=st.sampled_from([b"1", b"2"]), key=st.sampled_from([None, None, "k"]))
    def signal(self, n: int, event: str, payload: bytes, key: str | None) -> None:
        """To one that waits for it, if there is one, or to any."""
        id_ = self.same(lambda: choose(self.submissions, n, first=lambda id_: event in self.open_events(id_)))
        one = self.model.executions[id_]
        expected = self.model.signal(one, event, payload, key)
        assert self.do(self.send_signal(one, event, payload, key)) == expected

    def open_events(self, id_: ExecutionId) -> set[str | None]:
        return {step.event for step in self.model.executions[id_].steps.values() if step.status == "pending"}

    async def send_signal(self, one: tiny.Execution, event: str, payload: bytes, key: str | None) -> str:
        told = Signal(
            id=make_id(self.bucket),
            execution_id=one.id,
            namespace=NAMESPACE,
            event=event,
            payload=payload,
            idempotency_key=key,
        )
        try:
            sent: Sent = await signal.send(self.conn, told)
        except (AlreadyFinished, InvalidState, IdempotencyConflict) as refused:
            return refused.code
        return "delivered" if sent.delivered else "kept"

    # the waker

    @rule()
    def wake_due(self) -> None:
        self.model.wake_due()
        self.do(suspend.wake_due(self.conn, self.bucket))

    @rule()
    def fan_in(self) -> None:
        self.model.fan_in()
        self.do(suspend.fan_in(self.conn, self.bucket))

    @rule()
    def catch_up(self) -> None:
        """There is no end of a child that its parent was not told of."""
        late, _, _ = self.do(suspend.catch_up(self.conn, self.bucket, suspend.FIRST))
        assert late == 0

    # what must always be true

    @invariant()
    def steps_are_kept(self) -> None:
        """What an attempt has done or has begun to wait for is there for the next one, as it was written."""
        rows = {row[:2]: row[2:] for row in self.look("steps")}
        assert rows == {
            (id_, name): (
                s.kind, s.status, s.value, s.attempt, s.event, s.child, s.timed_out, s.awaited, s.news,
                s.due,
            )
            for id_, one in self.model.executions.items()
            for name, s in one.steps.items()
        }  # fmt: skip

    @invariant()
    def signals_are_kept(self) -> None:
        """Until a step takes them, in the order in which they came."""
        assert self.look("signals") == [
            (id_, sent.event, sent.payload, sent.step)
            for id_, one in sorted(self.model.executions.items())
            for sent in one.signals
        ]
