"""The stages beside the model: every answer must be the model's, and after every step the database looks like it.

Here is the way of an execution from submit to deliver; `waits.py` and those after it add what may happen on the way.
"""

from __future__ import annotations

import itertools
from asyncio import AbstractEventLoop
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from controlplane.domain.begun import Begun
from controlplane.domain.breaker import FAILURES_MAX
from controlplane.domain.delivery import Attempt, AttemptOutcome, DeliveryState
from controlplane.domain.execution import CRASHES_MAX, Accepted, Status, Submission
from controlplane.domain.ids import BUCKETS_MAX, ExecutionId, SessionId, bucket_of
from controlplane.domain.lease import Beat, Claim, Fence, ReportCode, Verdict
from controlplane.domain.lease import Session as SessionOf
from controlplane.domain.limit import first_line
from controlplane.domain.memory import Append, Place, Put, Scope, Write, assemble
from controlplane.domain.placement import Placement
from controlplane.domain.retry import RetryPolicy
from controlplane.errors import (
    AlreadyFinished,
    ControlPlaneError,
    IdempotencyConflict,
    Invalid,
    InvalidState,
    LeaseLost,
    LengthMismatch,
    NotAList,
    SessionClosed,
    SessionDraining,
)
from controlplane.postgres.pool import Connection
from controlplane.reads.verify import INVARIANTS
from controlplane.stages import (
    cancel,
    checkpoint,
    deliver,
    expire,
    lease,
    pause,
    redrive,
    register,
    renew,
    send,
    submit,
    wait,
)
from controlplane.stages.deliver import Due, Sent
from tests.make import NAMESPACE, TARGET, a_process, make_id, move_clock, must, report, submission, webhook
from tests.property import model as tiny
from tests.property.model import Model, Value
from tests.property.tally import Tally, counted

Answer = TypeVar("Answer")

# Moments are seconds since the example began, in steps of a thousand: all moves of the clock are such, and what an
# example really takes is less.
QUEUE = """
select id, state, attempt, failures, crashes, session_id, cancel_requested_at is not null as cancelling,
  sent_at is not null as sent, accepted_at is not null as accepted, pause_requested, waits_until,
  line, limited, floor(extract(epoch from available_at - $2) / 1000)::int * 1000 as available,
  floor(extract(epoch from deadline_at - $2) / 1000)::int * 1000 as deadline
from queue
where bucket = $1
"""
SESSIONS = """
select id, closed_reason, draining, drain_requested_at is not null as told,
  floor(extract(epoch from renewed_at - $2) / 1000)::int * 1000 as renewed,
  floor(extract(epoch from expires_at - $2) / 1000)::int * 1000 as expires
from sessions
where bucket = $1
"""
DELIVERIES = """
select execution_id, state, attempt, charged,
  case when state = 'pending' then floor(extract(epoch from next_at - $2) / 1000)::int * 1000 end as due,
  floor(extract(epoch from lease_until - $2) / 1000)::int * 1000 as leased
from deliveries
where bucket = $1
"""
HOSTS = "select failures, windows from breakers where bucket = $1"
KEYS = """
select key, execution_id, floor(extract(epoch from expires_at - $2) / 1000)::int * 1000 as expires
from idempotency_keys
where bucket = $1
"""
MEMORY = """
select m.scope_id, m.key, m.version, m.value, m.length,
  array(
    select i.value
    from memory_items i
    where (i.bucket, i.namespace, i.scope, i.scope_id, i.key) = (m.bucket, m.namespace, m.scope, m.scope_id, m.key)
    order by i.position
  ) as items
from memory m
where m.bucket = $1
"""
BROKEN = "\nunion all\n".join(f"select '{one.name}' as name, id from ({one.query}) {one.name}" for one in INVARIANTS)
ATTEMPTS = (
    "select id, attempt from queue where bucket = $1 union all select id, attempt from outcomes where bucket = $1"
)
OUTCOMES = "select id, status, attempt, failures, xmin::text, finished_at from outcomes where bucket = $1"
# A bucket that an earlier example used is emptied; there are more examples than buckets only in long runs.
TABLES = """
queue executions outcomes events logs memory memory_items nodes sessions webhooks deliveries idempotency_keys
steps signals ended_parents limits pauses approvals delivery_attempts breakers
schedules schedule_ticks
"""

SENT = Attempt(
    outcome=AttemptOutcome.DELIVERED,
    http_status=200,
    latency_ms=1,
    error=None,
    response_body=b"",
    retry_after_seconds=None,
    final=False,
)
FAILED = replace(SENT, outcome=AttemptOutcome.FAILED, http_status=500)
ANSWERS: Mapping[str, Attempt] = {
    "taken": SENT,
    "fails": FAILED,
    "is gone": replace(FAILED, http_status=410, final=True),
    "asks for time": replace(FAILED, http_status=503, retry_after_seconds=5_000.0),
    "hangs": replace(FAILED, http_status=None, error="timeout: no answer"),
}
pick = st.integers(0, 7)
keys = st.sampled_from(["a", "b"])
NO_TIMES: Mapping[str, float] = {}
# What it may take: silent, active, altogether. None is a sum of moves of the clock.
times = st.sampled_from(
    [
        NO_TIMES,
        {"heartbeat_seconds": 5_000.0},
        {"heartbeat_seconds": 5_000.0, "timeout_seconds": 9_000.0},
        {"timeout_seconds": 9_000.0},
        {"heartbeat_seconds": 5_000.0, "total_seconds": 18_000.0},
    ]
)
# Whoever says `waiting` has to say for what: see `waits.py`.
verdicts = st.sampled_from([one for one in Verdict if one is not Verdict.WAITING])


@dataclass(frozen=True)
class OneBucket(Placement):
    """Each example has a bucket of its own, so that none sees what another left."""

    bucket: int = 0

    def all(self) -> range:
        return range(self.bucket, self.bucket + 1)

    def of_key(self, namespace: int, *parts: str) -> int:
        return self.bucket


class Machine(RuleBasedStateMachine):
    """`loop` and `conn` belong to the test; the machine runs one step after the other on them."""

    examples: ClassVar[itertools.count[int]] = itertools.count()
    counted: ClassVar[dict[type, Any]] = {}
    looks: ClassVar[Mapping[str, str]] = {
        "queue": QUEUE,
        "outcomes": OUTCOMES,
        "attempts": ATTEMPTS,
        "sessions": SESSIONS,
        "deliveries": DELIVERIES,
        "hosts": HOSTS,
        "keys": KEYS,
        "memory": MEMORY,
        "broken": BROKEN,
    }

    @classmethod
    def setup_state(cls) -> Any:
        """Its rules, which are counted; made once, because an example must find the same rules as the one before."""
        if cls not in cls.counted:
            made = super().setup_state()
            cls.counted[cls] = replace(made, rules=[counted(one) for one in made.rules])
        return cls.counted[cls]

    def __init__(self, loop: AbstractEventLoop, conn: Connection, dsn: str, tally: Tally) -> None:
        super().__init__()
        self.loop = loop
        self.conn = conn
        self.dsn = dsn
        self.tally = tally
        self.begun = Begun()
        tally.examples += 1
        self.found: Mapping[str, list[Any]] | None = None
        self.question = "select " + ",\n".join(
            f"array(select {name} from ({query}) {name}) as {name}" for name, query in self.looks.items()
        )
        self.model = Model()
        self.sessions: list[SessionOf] = []
        self.submissions: list[ExecutionId] = []
        self.fences: list[Fence] = []
        self.sent: list[Sent] = []
        self.due: list[Due] = []
        self.attempts: dict[ExecutionId, int] = {}
        self.finals: dict[ExecutionId, tuple[Any, ...]] = {}
        number = next(self.examples)
        self.bucket = number % BUCKETS_MAX
        self.placement = OneBucket(bucket=self.bucket)
        self.do(self.begin(empty=number >= BUCKETS_MAX))

    def do(self, step: Coroutine[Any, Any, Answer]) -> Answer:
        self.found = None
        return self.read(step)

    def read(self, step: Coroutine[Any, Any, Answer]) -> Answer:
        """As `do`, of what changes nothing."""
        return self.loop.run_until_complete(step)

    def same(self, said: Callable[[], Answer]) -> Answer:
        """What is said; by who repeats something, what was said the first time: see `crashes.py`."""
        return said()

    async def begin(self, *, empty: bool) -> None:
        await move_clock(self.conn, "0")
        self.began = await self.conn.fetchval("select clock()")
        if empty:
            for table in TABLES.split():
                await self.conn.execute(f"delete from {table} where bucket = $1", self.bucket)
        node = register.Node(namespace=NAMESPACE, id="n", transport="pull", version="1")
        await register.register(self.conn, node, bucket=self.bucket)

    # submit

    @rule(
        webhooks=st.booleans(),
        retries=st.integers(0, 2),
        priority=st.integers(0, 1),
        key=st.one_of(st.none(), keys),
        request=st.sampled_from([b"x", b"y"]),
        lock=st.sampled_from([None, None, "a"]),
        times=times,
    )
    def submit(
        self,
        webhooks: bool,
        retries: int,
        priority: int,
        key: str | None,
        request: bytes,
        lock: str | None = None,
        times: Mapping[str, float] = NO_TIMES,
    ) -> None:
        retry = RetryPolicy(retries_max=retries, delay_seconds=tiny.RETRY_SECONDS, factor=1.0, cap_seconds=1e6)
        asked = self.same(
            lambda: submission(
                bucket=self.bucket,
                webhooks=(webhook(attempts_max=tiny.DELIVERY_ATTEMPTS_MAX),) if webhooks else (),
                retry=retry,
                priority=priority,
                idempotency_key=key,
                request_hash=request,
                concurrency_key=lock,
                line=self.line(lock),
                **times,
            )
        )
        self.ask(asked)

    def line(self, lock: str | None) -> str | None:
        """Where what is submitted with this concurrency key waits first: see `limits.py`."""
        return first_line(TARGET, lock, self.model.limits)

    def admit(self) -> None:
        """Let in whom the limits have room for, when there are any: see `limits.py`."""

    @precondition(lambda self: any(not one.called for one in self.sessions))
    @rule(n=pick, webhooks=st.booleans(), key=st.one_of(st.none(), keys), times=times)
    def submit_what_somebody_waits_for(
        self, n: int, webhooks: bool, key: str | None, times: Mapping[str, float] = NO_TIMES
    ) -> None:
        """It is offered to a process that may have died, been cut off or been told to drain since it asked."""
        fetching = [one for one in self.sessions if not one.called]
        hooks = (webhook(attempts_max=tiny.DELIVERY_ATTEMPTS_MAX),) if webhooks else ()
        asked = self.same(
            lambda: submission(bucket=self.bucket, webhooks=hooks, idempotency_key=key, request_hash=b"x", **times)
        )
        self.ask(asked, offered=fetching[n % len(fetching)])

    def ask(self, asked: Submission, *, offered: SessionOf | None = None) -> None:
        expected, id_ = self.model.accept(asked)
        offers = {} if offered is None else {asked.id: offered}
        [answer] = self.do(submit.accept(self.conn, [asked], offers, self.begun))
        refusals = {"conflict": IdempotencyConflict, "lease_lost": LeaseLost, "invalid": Invalid}
        if expected in refusals:
            assert isinstance(answer, refusals[expected])
            return
        assert isinstance(answer, Accepted)
        assert (answer.id, answer.replayed) == (id_, expected == "replayed")
        if not answer.replayed:
            self.submissions.append(id_)
            taken = offered is not None and self.model.match(self.model.sessions[offered.id], id_)
            assert (answer.lease is not None) == taken
            if answer.lease is not None:
                self.fences.append(Fence(answer.lease.execution_id, answer.lease.attempt))

    @rule(
        items=st.lists(st.tuples(st.one_of(st.none(), keys), st.sampled_from([b"x", b"y"])), min_size=2, max_size=4),
        webhooks=st.booleans(),
    )
    def submit_some(self, items: list[tuple[str | None, bytes]], webhooks: bool) -> None:
        """In one flush, in which no key is there twice (its lane sees to that); each is answered by itself."""
        single = [(key, request) for n, (key, request) in enumerate(items) if key not in [one for one, _ in items[:n]]]
        hooks = (webhook(attempts_max=tiny.DELIVERY_ATTEMPTS_MAX),) if webhooks else ()
        # They become ready at one moment, and their ids decide: in every run of an example in the same order.
        ids = sorted(make_id(self.bucket) for _ in single)
        batch = self.same(
            lambda: [
                submission(id=id_, idempotency_key=key, request_hash=request, webhooks=hooks, line=self.line(None))
                for id_, (key, request) in zip(ids, single, strict=True)
            ]
        )
        at = self.model.moment()
        expected = [self.model.accept(asked, at) for asked in batch]
        answers = self.do(submit.accept(self.conn, batch))
        for (said, id_), answer in zip(expected, answers, strict=True):
            if said == "conflict":
                assert isinstance(answer, IdempotencyConflict)
                continue
            assert (must(answer).id, must(answer).replayed) == (id_, said == "replayed")
            self.submissions += [] if said == "replayed" else [id_]

    @precondition(lambda self: self.submissions)
    @rule(n=pick)
    def submit_again(self, n: int) -> None:
        """The repeat of a flush whose answer was lost."""
        asked = self.execution(n).asked
        # After its time the key is nobody's; then it may have been used for another execution.
        key = self.model.keys.get(asked.idempotency_key or "")
        if key is not None and (key.id != asked.id or key.expires <= self.model.now):
            return
        [answer] = self.do(submit.accept(self.conn, [asked]))
        assert isinstance(answer, Accepted)
        assert (answer.id, answer.replayed) == (asked.id, False)

    # lease and renew

    @initialize(webhooks=st.booleans(), retries=st.integers(0, 2))
    def a_first_attempt(self, webhooks: bool, retries: int) -> None:
        self.begin_work(webhooks, retries)

    @rule(webhooks=st.booleans(), retries=st.integers(0, 2))
    def begin_work(self, webhooks: bool, retries: int, times: Mapping[str, float] = NO_TIMES) -> None:
        """Most of what can go wrong needs an attempt that runs."""
        self.submit(webhooks=webhooks, retries=retries, priority=1, key=None, request=b"", times=times)
        if not any(map(self.is_alive, self.sessions)):
            self.open_session()
        self.admit()
        self.claim(n=0, limit=2)

    @rule()
    def open_session(self) -> None:
        id_, now = SessionId(make_id(self.bucket)), self.model.now
        self.model.open_session(tiny.Session(id_, now, now + tiny.LEASE_SECONDS))
        session = self.do(
            register.open_session(
                self.conn,
                id_,
                namespace=NAMESPACE,
                node_id="n",
                node_bucket=self.bucket,
                instance_id="i",
                slots=8,
                heartbeat_seconds=100.0,
                lease_floor_seconds=tiny.LEASE_SECONDS,
            )
        )
        self.sessions.append(session)

    @rule(n=pick, limit=st.integers(1, 3))
    def claim(self, n: int, limit: int) -> None:
        session = self.session(n)
        expected = self.expected_leases(session, limit)
        wish = Claim(session=session, targets=(TARGET,), limit=limit)
        [answer] = self.do(lease.claim(self.conn, [wish], self.placement))
        self.take_leases(session, expected, answer)

    def expected_leases(self, session: SessionOf, limit: int) -> list[ExecutionId] | None:
        mine = self.model.sessions[session.id]
        return [] if mine.is_open and mine.told_to_drain else self.model.claim(mine, limit)

    def take_leases(self, session: SessionOf, expected: list[ExecutionId] | None, answer: Any) -> None:
        """They are the ones that the model hands out, in its order."""
        if expected is None:
            assert isinstance(answer, SessionClosed)
            return
        if self.model.sessions[session.id].told_to_drain:
            assert isinstance(answer, SessionDraining)
            return
        leases = must(answer)
        assert [one.execution_id for one in leases] == expected
        self.fences += [Fence(one.execution_id, one.attempt) for one in leases]

    @rule(n=pick, names=st.lists(pick, max_size=4))
    def heartbeat(self, n: int, names: list[int]) -> None:
        """With a list that may be incomplete, stale or of another session."""
        session = self.session(n)
        held = [self.fence(name) for name in names] if self.fences and not session.called else []
        expected = self.model.renew(self.model.sessions[session.id], held)
        [answer] = self.do(renew.extend(self.conn, [Beat(session_id=session.id, held=tuple(held), count=len(held))]))
        if expected is None:
            assert isinstance(answer, SessionClosed)
            return
        assert list(must(answer).lost) == expected
        if session.called:  # nobody asks it what it holds
            return
        self.model.take_back(self.model.sessions[session.id], held)
        self.do(
            expire.release_unnamed(self.conn, self.bucket, session.id, held, older_than_seconds=200.0, make_id=make_id)
        )

    # processes that are called

    def new_session(self, address: str | None, instance: str) -> tiny.Session:
        now, id_ = self.model.now, SessionId(make_id(self.bucket))
        return tiny.Session(id_, now, now + tiny.LEASE_SECONDS, address=address, instance=instance)

    def called(self, n: int) -> SessionOf:
        """A process that is called, the living first."""
        return self.same(lambda: choose([one for one in self.sessions if one.called], n, first=self.is_alive))

    @rule(address=st.sampled_from(["http://a", "http://b"]))
    def join(self, address: str) -> None:
        """A new process, in the place of the one that was there."""
        self.register(address, self.same(lambda: f"i{len(self.model.sessions)}"))

    @precondition(lambda self: any(one.called for one in self.sessions))
    @rule(n=pick)
    def join_again(self, n: int) -> None:
        """The repeat of a registration whose answer was lost, also of one that was replaced since."""
        session = self.called(n)
        assert session.base_url is not None
        self.register(session.base_url, session.instance_id)

    def register(self, address: str, instance: str) -> None:
        new = self.new_session(address, instance)
        expected = self.model.join(new)
        process = a_process(
            base_url=address, instance_id=instance, slots=tiny.SLOTS, lease_seconds=float(tiny.LEASE_SECONDS)
        )
        node = register.Node(namespace=NAMESPACE, id="n", transport="push", version="1", base_url=address)
        session = self.do(register.join(self.conn, node, process, new.id))
        assert session.id == expected.id
        if session.id not in {one.id for one in self.sessions}:
            self.sessions.append(session)

    @precondition(lambda self: any(one.called for one in self.sessions))
    @rule(n=pick)
    def revive(self, n: int) -> None:
        """A heartbeat of a process, which may have been given up or replaced."""
        instance = self.called(n).instance_id
        new = self.new_session(None, instance)
        expected = self.model.revive(new)
        where = {"namespace": NAMESPACE, "node_id": "n", "instance_id": instance, "session_id": new.id}
        session = self.do(register.revive(self.conn, self.bucket, **where))
        assert session is not None
        assert session.id == expected.id
        if session.id not in {one.id for one in self.sessions}:
            self.sessions.append(session)

    @rule()
    def say_goodbye(self) -> None:
        self.model.drain()
        self.do(register.drain(self.conn, self.bucket, namespace=NAMESPACE, node_id="n", seconds=tiny.DRAIN_SECONDS))

    @precondition(lambda self: any(one.called for one in self.sessions))
    @rule(n=pick)
    def refuse(self, n: int) -> None:
        """Nobody listens there."""
        session = self.called(n)
        closed = self.model.refuse(self.model.sessions[session.id])
        times = {"silent_seconds": tiny.SILENT_SECONDS, "drain_seconds": tiny.DRAIN_SECONDS}
        assert self.do(expire.refuse(self.conn, session.id, **times)) == closed

    @rule(address=st.sampled_from(["http://a", "http://b"]), webhooks=st.booleans(), retries=st.integers(0, 2))
    def send(self, address: str, webhooks: bool, retries: int) -> None:
        """Most of what can go wrong with calls needs one that is under way."""
        self.submit(webhooks=webhooks, retries=retries, priority=1, key=None, request=b"")
        self.join(address)
        self.admit()
        self.claim(n=0, limit=2)

    @precondition(lambda self: self.fences)
    @rule(n=pick)
    def accept_call(self, n: int) -> None:
        """The answer of a process, in time or late."""
        fence = self.fence(n)
        stands = self.model.accept_call(fence)
        [answer] = self.do(send.accept(self.conn, [fence]))
        assert isinstance(answer, LeaseLost) != stands

    @precondition(lambda self: self.fences)
    @rule(n=pick)
    def prolong(self, n: int) -> None:
        fence = self.fence(n)
        held = self.model.is_sent(fence)
        if held:
            self.model.executions[fence.execution_id].sent = self.model.now
        assert self.do(send.prolong(self.conn, self.bucket, [fence])) == ({fence} if held else set())

    @precondition(lambda self: self.fences)
    @rule(n=pick)
    def withdraw(self, n: int) -> None:
        fence = self.fence(n)
        assert self.do(send.withdraw(self.conn, self.bucket, fence)) == self.model.withdraw(fence)

    @precondition(lambda self: self.fences)
    @rule(n=pick, stopped=st.booleans())
    def withdraw_and_hear(self, n: int, stopped: bool) -> None:
        """Its process stops, and says so, or says how it went before."""
        self.withdraw(n)
        self.report(n, Verdict.CANCELLED if stopped else Verdict.SUCCEEDED, retryable=True)

    @precondition(lambda self: self.fences)
    @rule(n=pick, crash=st.booleans(), delay=st.sampled_from([0, tiny.FULL_SECONDS]))
    def call_back(self, n: int, crash: bool, delay: int) -> None:
        """Take back one attempt, twice: as if two of us did."""
        fence = self.fence(n)
        rows = [self.model.call_back(fence, crash=crash, delay=delay), False]
        how = {"reason": "r", "crash": crash, "delay_seconds": float(delay), "make_id": make_id}
        assert [self.do(expire.take_back(self.conn, self.bucket, [fence], **how)).rows for _ in range(2)] == rows

    @rule()
    def oversee(self) -> None:
        """What has to be looked into is what the model says."""
        found = self.do(send.unanswered(self.conn, self.bucket, after_seconds=tiny.UNANSWERED_SECONDS))
        assert {one.fence for one in found} == self.model.unanswered()
        sent = [one for one in self.model.executions.values() if one.sent is not None]
        stopping = self.do(send.cancelling(self.conn, self.bucket))
        assert {one.fence.execution_id for one in stopping} == {one.id for one in sent if one.cancelling is not None}
        for session in self.model.called():
            held = self.do(send.held(self.conn, self.bucket, session.id))
            assert {fence.execution_id for fence in held} == {one.id for one in sent if one.session == session.id}

    @rule(taken=st.booleans())
    def nobody_answers(self, taken: bool) -> None:
        """A request is out for longer than anybody takes to answer."""
        self.send("http://a", webhooks=False, retries=0)
        if taken:
            self.accept_call(0)
        self.time_passes(4_000)
        self.oversee()

    @rule(n=pick, goodbye=st.booleans())
    def a_process_goes(self, n: int, goodbye: bool) -> None:
        """It says so, or it does not; nobody listens there any more, and the reaper comes by."""
        self.send("http://b", webhooks=True, retries=0)
        if goodbye:
            self.say_goodbye()
        self.time_passes(4_000)
        self.refuse(n)
        self.close_expired()
        self.sweep()

    # wait and pause

    @precondition(lambda self: self.fences)
    @rule(n=pick)
    def begin_wait(self, n: int) -> None:
        fence = self.fence(n)
        stands = self.model.begin_wait(fence)
        assert self.do(wait.begin(self.conn, self.bucket, fence, reason="approval")) == stands

    @precondition(lambda self: self.fences)
    @rule(n=pick)
    def end_wait(self, n: int) -> None:
        fence = self.fence(n)
        stands = self.model.end_wait(fence)
        assert self.do(wait.resume(self.conn, self.bucket, fence, reason="approval")) == stands

    @precondition(lambda self: self.fences)
    @rule(n=pick, seconds=st.sampled_from(tiny.MOVES))
    def wait_a_while(self, n: int, seconds: int) -> None:
        """Meanwhile its slot may be given away."""
        self.begin_wait(n)
        self.claim(n=0, limit=1)
        self.time_passes(seconds)
        self.end_wait(n)

    @precondition(lambda self: self.submissions)
    @rule(n=pick, on=st.booleans())
    def pause(self, n: int, on: bool) -> None:
        """Hold it back, or let it go."""
        one = self.execution(n)
        expected = self.model.pause(one) if on else self.model.resume(one)
        turn = pause.request(self.conn, one.id, reason=None) if on else pause.resume(self.conn, one.id)
        assert self.do(answer_to(turn)) == expected

    # complete

    @precondition(lambda self: self.fences)
    @rule(n=pick, verdict=verdicts, retryable=st.booleans())
    def report(self, n: int, verdict: Verdict, retryable: bool) -> None:
        """By whoever ever held a lease: live, stale, or saying it again."""
        fence = self.fence(n)
        expected = self.model.report(fence, verdict, retryable=retryable)
        answer = self.do(report(self.conn, fence, verdict, retryable=retryable, begun=self.begun))
        assert (answer.code.value, answer.status and answer.status.value) == expected

    @precondition(lambda self: self.fences)
    @rule(n=pick, verdict=verdicts)
    def report_twice(self, n: int, verdict: Verdict) -> None:
        """The second says what the first has said, or that it was recorded before; who was withdrawn is nobody then."""
        fence = self.fence(n)
        one = self.model.executions[fence.execution_id]
        handed_back = verdict is Verdict.CANCELLED and self.model.holds(fence) and one.withdrawing
        self.model.report(fence, verdict, retryable=True)
        first = self.do(report(self.conn, fence, verdict, begun=self.begun))
        second = self.do(report(self.conn, fence, verdict, begun=self.begun))
        if handed_back and first.code is ReportCode.RECORDED and first.status is Status.QUEUED:
            assert second.code is ReportCode.LEASE_LOST
        else:
            assert second == first or (second.code.value, second.status) == ("already_recorded", first.status)

    # checkpoint

    @precondition(lambda self: self.fences)
    @rule(n=pick, key=keys, size=st.one_of(st.none(), st.integers(0, 2)), number=pick)
    def put(self, n: int, key: str, size: int | None, number: int) -> None:
        fence = self.fence(n)
        items = [b'"%d"' % number] if size is None else [b"%d" % number] * size
        raw = items[0] if size is None else b"[" + b",".join(items) + b"]"
        place = self.place(fence, key)
        value = Value(items, is_list=size is not None, version=0, writer=fence, put=len(items))
        stands = self.model.put(fence, (place.scope_id, key), value)
        answer = self.write(fence, Put(place=place, value=raw, length=size))
        assert isinstance(answer, LeaseLost) != stands

    @precondition(lambda self: self.fences)
    @rule(n=pick, key=keys, size=st.integers(1, 2), number=pick, off=st.sampled_from([0, 0, 0, -1, 1]))
    def append(self, n: int, key: str, size: int, number: int, off: int) -> None:
        fence = self.fence(n)
        place = self.place(fence, key)
        value = self.model.memory.get((place.scope_id, key))
        length = self.same(lambda: len(value.items) + off if value and value.is_list else abs(off))
        self.append_at(fence, key, (b"%d" % number,) * size, max(length, 0))

    @precondition(lambda self: any(value.appended for value in self.model.memory.values()))
    @rule(n=pick)
    def append_again(self, n: int) -> None:
        """The repeat of an append whose answer was lost."""
        grown = [(value.writer, key, value.appended) for (_, key), value in self.model.memory.items() if value.appended]
        writer, key, (expected, items) = self.same(lambda: grown[n % len(grown)])
        self.append_at(writer, key, items, expected)

    def append_at(self, fence: Fence, key: str, items: tuple[bytes, ...], expected_length: int) -> None:
        place = self.place(fence, key)
        expected = self.model.append(fence, (place.scope_id, key), items, expected_length)
        answer = self.write(fence, Append(place=place, items=items, expected_length=expected_length))
        refusals = {"lease_lost": LeaseLost, "not_a_list": NotAList, "length_mismatch": LengthMismatch}
        if expected in refusals:
            assert isinstance(answer, refusals[expected])
        else:
            assert not isinstance(answer, ControlPlaneError)
            value = self.model.memory[place.scope_id, key]
            assert (answer[0].length, answer[0].version) == (len(value.items), value.version)

    def write(self, fence: Fence, op: Put | Append) -> Any:
        [answer] = self.do(checkpoint.write(self.conn, [Write(ops=(op,), fence=fence, writer=fence.execution_id)]))
        return answer

    # cancel

    @precondition(lambda self: self.submissions)
    @rule(n=pick)
    def cancel(self, n: int) -> None:
        one = self.execution(n)
        expected = self.model.cancel(one)
        [answer] = self.do(cancel.request(self.conn, [one.id], reason=None, make_id=make_id))
        if expected == "already_finished":
            assert isinstance(answer, AlreadyFinished)
            assert one.outcome is not None
            assert answer.facts == {"status": one.outcome.status}
        else:
            assert must(answer).settled == (expected == "settled")

    # the clock and its daemons

    @rule(seconds=st.sampled_from(tiny.MOVES))
    def time_passes(self, seconds: int) -> None:
        self.model.now += seconds
        self.do(move_clock(self.conn, f"{self.model.now} seconds"))

    @rule()
    def close_expired(self) -> None:
        self.model.close_expired()
        self.do(expire.close_expired(self.conn, self.bucket, up_seconds=1e9))

    @rule(named=st.booleans())
    def sweep(self, named: bool = False) -> None:
        """Of the closed sessions, or of all that hold something: both free the same."""
        self.model.sweep()
        closed = self.read(expire.closed_sessions(self.conn, self.bucket)) if named else None
        self.do(expire.sweep(self.conn, self.bucket, make_id=make_id, closed=closed))

    @rule()
    def a_process_dies(self) -> None:
        """Time passes without a beat, and the reaper comes by."""
        self.time_passes(11_000)
        self.close_expired()
        self.sweep()

    @rule()
    def promote(self) -> None:
        self.model.promote()
        self.do(expire.promote(self.conn, self.bucket))

    @rule()
    def force_cancel(self) -> None:
        self.model.force_cancel()
        self.do(expire.force_cancel(self.conn, self.bucket, grace_seconds=tiny.GRACE_SECONDS, make_id=make_id))

    @rule(n=pick)
    def leave(self, n: int) -> None:
        session = self.session(n)
        self.model.leave(self.model.sessions[session.id])
        self.do(expire.leave(self.conn, session.id, self.bucket, reason="left", make_id=make_id))

    @precondition(lambda self: any(one.outcome is None for one in self.model.executions.values()))
    @rule(n=pick)
    def has_crashed_often(self, n: int) -> None:
        """As if it had lost lease after lease before."""
        open_ = [one for one in self.model.executions.values() if one.outcome is None]
        one = open_[n % len(open_)]
        one.crashes = CRASHES_MAX - 1
        self.do(
            self.conn.execute(
                "update queue set crashes = $3 where bucket = $1 and id = $2", self.bucket, one.id, one.crashes
            )
        )

    # deliver

    @precondition(lambda self: self.model.due() or self.sent)
    @rule(said=st.sampled_from([*ANSWERS, "nothing"]), late=st.booleans())
    def deliver(self, said: str, late: bool = False) -> None:
        """Claim what is due and send it; the receiver answers like this, or the dispatcher dies before it knows.

        `late`: one that was believed dead comes back first, with what it was told.
        """
        if late and self.sent:
            self.settle(self.same(lambda: self.sent.pop(0)))
        expected = self.model.claim_due()
        claimed = self.do(
            deliver.claim_due(
                self.conn,
                self.bucket,
                after=deliver.BEGINNING,
                full_hosts=(),
                per_host=100,
                limit=100,
                lease_seconds=tiny.DELIVERY_LEASE_SECONDS,
            )
        )
        assert {one.execution_id for one in claimed.due} == expected
        for one in claimed.due:
            if said == "nothing":
                self.sent.append(self.answered_with(one, "taken"))
            else:  # hosts that are left alone for seconds are not for a clock that moves by hours
                patient = self.model.host_failures < FAILURES_MAX - 1
                self.settle(self.answered_with(one, said if patient else "fails"))

    @rule(said=st.sampled_from([*ANSWERS, "nothing"]), seconds=st.sampled_from([0, *tiny.MOVES]), late=st.booleans())
    def end_and_tell(self, said: str, seconds: int, late: bool = False) -> None:
        """Most of what can go wrong with telling needs an end, and some time."""
        self.begin_work(webhooks=True, retries=0)
        self.report(0, Verdict.SUCCEEDED, retryable=False)
        self.deliver(said)
        self.time_passes(seconds)
        self.reclaim()
        self.deliver("taken", late)

    def answered_with(self, due: Due, said: str) -> Sent:
        """What follows from this answer is the dispatcher's to say; here it is said in its place."""
        attempt = ANSWERS[said]
        dead = attempt.final or due.charged + 1 >= due.attempts_max
        state = DeliveryState.DELIVERED if said == "taken" else DeliveryState.DEAD if dead else DeliveryState.PENDING
        return Sent(due=due, attempt=attempt, state=state, wait_seconds=tiny.DELIVERY_WAIT_SECONDS)

    def settle(self, sent: Sent) -> None:
        failing, held = sent.attempt.http_status in (None, 503), sent.attempt.retry_after_seconds is not None
        id_ = ExecutionId(sent.due.execution_id)
        counts = self.model.settle(id_, sent.due.attempt, sent.state.value, failing=failing, held=held)
        first = self.do(deliver.settle(self.conn, [sent]))
        again = self.do(deliver.settle(self.conn, [sent]))
        assert isinstance(first[0], LeaseLost) != counts
        assert type(again[0]) is type(first[0])

    @rule()
    def reclaim(self) -> None:
        self.model.reclaim()
        self.do(deliver.reclaim(self.conn, self.bucket))

    @precondition(lambda self: self.model.deliveries)
    @rule(n=pick)
    def retry_delivery(self, n: int) -> None:
        ids = list(self.model.deliveries)
        id_ = self.same(lambda: ids[n % len(ids)])
        found = "select id from deliveries where bucket = $1 and execution_id = $2"
        delivery = self.do(self.conn.fetchval(found, self.bucket, id_))
        self.model.retry_delivery(id_)
        self.do(redrive.retry(self.conn, delivery, namespace=NAMESPACE))

    # what must always be true

    @invariant()
    def every_promise_is_kept(self) -> None:
        """Those that a query can ask for, of whatever is in the database."""
        assert not self.look("broken")

    @invariant()
    def every_execution_is_in_one_place(self) -> None:
        """Nothing submitted is missing, nothing is in two places, and it stands as the model has it."""
        assert {id_: row for id_, *row in self.look("queue")} == {
            one.id: [
                one.state, one.attempt, one.failures, one.crashes, one.session, one.cancelling is not None,
                one.sent is not None, one.accepted, one.pausing, one.waits_until,
                one.line, one.limited, one.available[0], None if one.deadline is None else int(one.deadline),
            ]
            for one in self.model.unfinished()
        }  # fmt: skip
        assert {row[0]: row[1:4] for row in self.look("outcomes")} == {
            id_: (one.outcome.status, one.outcome.attempt, one.outcome.failures)
            for id_, one in self.model.executions.items()
            if one.outcome is not None
        }

    @invariant()
    def nothing_goes_back(self) -> None:
        """Attempts are counted up, and a final state never moves: not even the row is touched."""
        for id_, attempt in self.look("attempts"):
            assert attempt >= self.attempts.get(id_, 0), "an attempt number went back"
            self.attempts[id_] = attempt
        now = {row[0]: row for row in self.look("outcomes")}
        assert {id_: now.get(id_) for id_ in self.finals} == self.finals
        self.finals = now

    @invariant()
    def every_process_is_known(self) -> None:
        """It is open, drains or was closed for the reason that the model has, and never holds more than its slots."""
        assert {row[0]: row[1:] for row in self.look("sessions")} == {
            one.id: (one.closed, one.draining, one.told_to_drain, one.renewed, one.expires)
            for one in self.model.sessions.values()
        }

    @invariant()
    def every_key_is_kept(self) -> None:
        """Whoever repeats a key is answered with what it was used for."""
        assert {row[0]: row[1:] for row in self.look("keys")} == {
            key: (used.id, used.expires // 1_000 * 1_000) for key, used in self.model.keys.items()
        }

    @invariant()
    def whoever_asked_is_told_once(self) -> None:
        """A finished execution with a webhook has exactly one delivery, the others have none."""
        rows = self.look("deliveries")
        assert {row[0]: row[1:] for row in rows} == {
            id_: (one.state, one.attempt, one.charged, one.due if one.state == "pending" else None, one.lease_until)
            for id_, one in self.model.deliveries.items()
        }
        assert len(rows) == len(self.model.deliveries)
        assert self.look("hosts") in ([], [(self.model.host_failures, 0)])
        told = {one.id for one in self.model.executions.values() if one.outcome is not None and one.asked.webhooks}
        assert {row[0] for row in rows} == told

    @invariant()
    def memory_is_kept(self) -> None:
        """What any attempt wrote is there for the next one, with its version and its length."""
        found = {}
        for scope_id, key, version, value, length, items in self.look("memory"):
            found[scope_id, key] = (version, length, assemble(value, items))
        assert found == {
            key: (
                value.version,
                len(value.items) if value.is_list else None,
                value.raw,
            )
            for key, value in self.model.memory.items()
        }

    def look(self, name: str) -> list[Any]:
        """What the database holds, asked for all at once and once after each step; moments as the model counts them."""
        if self.found is None:
            self.found = self.read(self.conn.fetchrow(self.question, self.bucket, self.began))
        return self.found[name]

    # who is meant

    def session(self, n: int) -> SessionOf:
        """One of the living, if there are any and `n` does not insist."""
        return self.same(lambda: choose(self.sessions, n, first=self.is_alive))

    def execution(self, n: int) -> tiny.Execution:
        unfinished = {one.id for one in self.model.unfinished()}
        id_ = self.same(lambda: choose(self.submissions, n, first=lambda one: one in unfinished))
        return self.model.executions[id_]

    def fence(self, n: int) -> Fence:
        """One that holds its lease, or one that did once."""
        return self.same(lambda: choose(self.fences, n, first=self.model.holds))

    def is_alive(self, session: SessionOf) -> bool:
        one = self.model.sessions[session.id]
        return one.closed is None and one.expires >= self.model.now

    def place(self, fence: Fence, key: str) -> Place:
        run_id = self.model.executions[fence.execution_id].asked.run_id
        return Place(bucket_of(fence.execution_id), NAMESPACE, Scope.RUN, run_id, key)


async def answer_to(turn: Coroutine[Any, Any, pause.Turned]) -> str:
    try:
        await turn
    except (AlreadyFinished, InvalidState) as refused:
        return refused.code
    return "turned"


def choose(of: list[Answer], n: int, *, first: Callable[[Answer], bool]) -> Answer:
    """The newest that `first` likes for most numbers, any for the others."""
    liked = [one for one in of if first(one)]
    among = liked if liked and n < 6 else of
    return among[-1 - n % len(among)]
