"""A tiny control plane of dictionaries: what the stages promise, without a database, a race or a clock of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from controlplane.domain.execution import CRASHES_MAX, ParentEnd, Submission
from controlplane.domain.ids import ExecutionId, SessionId
from controlplane.domain.lease import Fence, Verdict
from controlplane.domain.limit import KEY, keys_of
from controlplane.domain.step import AwaitEvent, Done, Sleep, StepOp

TARGET = "n.echo"
CRASHED = ("expired", "silent", "replaced", "refused")
LEASE_SECONDS = 10_000
RETRY_SECONDS = 5_000
GRACE_SECONDS = 3_000
DELIVERY_LEASE_SECONDS = 3_000
DELIVERY_WAIT_SECONDS = 5_000
DELIVERY_ATTEMPTS_MAX = 2
KEY_SECONDS = 24 * 3600
DRAIN_SECONDS = 3_000
SILENT_SECONDS = 3_000
UNANSWERED_SECONDS = 3_000
FULL_SECONDS = 5_000
APPROVAL_SECONDS = 9_000
HELD_SECONDS = 3_600
INTERVAL_SECONDS = 6_000
SLOTS = 2
# Moves of the clock: no sum of them is one of the spans above, so the seconds that a test really takes do not matter.
MOVES = (4_000, 11_000)

Moment = tuple[int, int]
"""Seconds that the clock was moved, and a count of what happened at that time."""


@dataclass(slots=True)
class Session:
    """One that is called has an address, and is told apart from others there by its instance."""

    id: SessionId
    renewed: int
    expires: int
    closed: str | None = None
    address: str | None = None
    instance: str = ""
    draining: bool = False
    told_to_drain: bool = False

    @property
    def is_open(self) -> bool:
        return self.closed is None


@dataclass(slots=True)
class Outcome:
    status: str
    attempt: int
    failures: int
    at: int


@dataclass(slots=True)
class Step:
    """What an execution has done or waits for; `began` decides whose turn it is to take a signal."""

    kind: str
    began: tuple[int, int, str]
    attempt: int
    status: str = "pending"
    value: bytes | None = None
    due: int | None = None
    event: str | None = None
    child: ExecutionId | None = None
    timed_out: bool = False
    awaited: bool = False
    news: bool = False

    def is_due(self, now: int) -> bool:
        return self.status == "pending" and self.due is not None and self.due <= now


@dataclass(slots=True)
class Signal:
    event: str
    payload: bytes
    key: str | None
    step: str | None = None


@dataclass(slots=True)
class Approval:
    """What people were asked by an attempt, and what they have said."""

    question: str
    attempt: int
    asked: Moment
    expires: int
    status: str = "pending"


@dataclass(slots=True)
class Execution:
    asked: Submission
    state: str = "ready"
    available: Moment = (0, 0)
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    session: SessionId | None = None
    leased: int = 0
    cancelling: int | None = None
    sent: int | None = None
    accepted: bool = False
    withdrawing: bool = False
    pausing: bool = False
    silent: bool = False
    outcome: Outcome | None = None
    given_back: dict[tuple[int, Verdict], str] = field(default_factory=dict)
    steps: dict[str, Step] = field(default_factory=dict)
    signals: list[Signal] = field(default_factory=list)
    approvals: dict[str, Approval] = field(default_factory=dict)
    reason: str | None = None
    waits_until: str | None = None
    line: str | None = None
    limited: bool = False
    deadline: float | None = None
    attempt_deadline: float | None = None
    total_deadline: float | None = None
    remaining: float | None = None

    @property
    def id(self) -> ExecutionId:
        return self.asked.id

    @property
    def keys(self) -> tuple[str, ...]:
        """The limits that count it."""
        return keys_of(self.asked.target, self.asked.concurrency_key) if self.limited else ()

    @property
    def next(self) -> str:
        """What it becomes when it may be leased again and has to be let in for that."""
        return "ready" if self.line is None else "blocked"


@dataclass(slots=True)
class Delivery:
    state: str = "pending"
    attempt: int = 0
    charged: int = 0
    due: int = 0
    lease_until: int | None = None
    settled: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Value:
    """`put` of its elements were set as a whole, the others appended; `appended` is the last append."""

    items: list[bytes]
    is_list: bool
    version: int
    writer: Fence
    put: int = 0
    appended: tuple[int, tuple[bytes, ...]] | None = None

    @property
    def raw(self) -> bytes:
        """As it is read: JSON."""
        return b"[" + b",".join(self.items) + b"]" if self.is_list else self.items[0]


@dataclass(slots=True)
class Key:
    id: ExecutionId
    request_hash: bytes
    expires: int


@dataclass(slots=True)
class Limit:
    """`passes`: how often what was there before it is still to be looked through."""

    most: int
    passes: int
    since: int


@dataclass(slots=True)
class Planned:
    """A schedule: when it is next, and what became of each tick that has been."""

    next: int
    ticks: dict[int, tuple[str, ExecutionId | None]] = field(default_factory=dict)

    @property
    def waiting(self) -> list[int]:
        return [planned for planned, (outcome, _) in self.ticks.items() if outcome == "waiting"]


@dataclass(slots=True)
class Model:
    now: int = 0
    happened: int = 0
    executions: dict[ExecutionId, Execution] = field(default_factory=dict)
    sessions: dict[SessionId, Session] = field(default_factory=dict)
    goodbye: int | None = None
    deliveries: dict[ExecutionId, Delivery] = field(default_factory=dict)
    memory: dict[tuple[str, str], Value] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    limits: dict[str, Limit] = field(default_factory=dict)
    placed: set[ExecutionId] = field(default_factory=set)
    """Who has a place rightly: had it when somebody last looked, or came to it since, and has not given it back."""
    paused: set[str] = field(default_factory=set)
    schedules: dict[str, Planned] = field(default_factory=dict)
    host_failures: int = 0
    host_held: int = 0

    # submit

    def accept(self, asked: Submission, at: Moment | None = None) -> tuple[str, ExecutionId]:
        """`accepted`, `replayed`, `conflict`, `lease_lost` or `invalid`, and which execution it is."""
        if asked.id in self.executions:
            return "accepted", asked.id
        parent = None if asked.parent_id is None else self.executions[ExecutionId(asked.parent_id)]
        if parent is not None and not self.holds(Fence(parent.id, asked.parent_attempt or 0)):
            return "lease_lost", asked.id
        if asked.idempotency_key is not None:
            key = self.keys.get(asked.idempotency_key)
            if key is not None and key.expires > self.now:
                return ("replayed" if key.request_hash == asked.request_hash else "conflict"), key.id
            self.keys[asked.idempotency_key] = Key(asked.id, asked.request_hash, self.now + KEY_SECONDS)
        at = at or self.moment()
        if parent is not None and asked.step is not None:
            step = parent.steps.get(asked.step)
            again = step is not None and step.status == "failed" and step.attempt < parent.attempt
            if step is not None and not (step.kind == "call" and again):
                return ("invalid", asked.id) if step.child is None else ("replayed", step.child)
            parent.steps[asked.step] = Step("call", (*at, asked.step), parent.attempt, child=asked.id)
        one = Execution(asked=asked, available=at, line=asked.line, limited=asked.line is not None)
        one.state = one.next
        one.deadline = one.total_deadline = self.after(asked.total_seconds)
        self.executions[asked.id] = one
        return "accepted", asked.id

    # lease

    def claim(self, session: Session, limit: int) -> list[ExecutionId] | None:
        """None: the session is closed."""
        if session.closed is not None:
            return None
        if session.expires < self.now or session.draining or self.paused & {"", "n", TARGET}:
            return []
        if session.address is not None:
            held = sum(one.state == "leased" and not self.has_children(one) for one in self.held_by(session.id))
            limit = min(limit, max(0, SLOTS - held))
        ready = sorted(
            (one for one in self.executions.values() if one.state == "ready"),
            key=lambda one: (-one.asked.priority, one.available, one.id),
        )
        for one in ready[:limit]:
            self.hand(one, session)
        return [one.id for one in ready[:limit]]

    def match(self, session: Session, id_: ExecutionId) -> bool:
        """Whether it has what was just accepted, which it waited for: where a claim would have given it."""
        one = self.executions[id_]
        closed = session.closed is not None or session.expires < self.now
        barred = closed or session.draining or session.told_to_drain or bool(self.paused & {"", "n", TARGET})
        if barred or one.state != "ready":
            return False
        self.hand(one, session)
        return True

    def hand(self, one: Execution, session: Session) -> None:
        one.state, one.session, one.leased = "leased", session.id, self.now
        one.attempt += 1
        one.silent = False
        self.begin_attempt(one, one.asked.timeout_seconds)
        one.sent = None if session.address is None else self.now

    def renew(self, session: Session, held: list[Fence]) -> list[Fence] | None:
        if session.closed is not None:
            return None
        session.renewed, session.expires = self.now, self.now + LEASE_SECONDS
        return [fence for fence in held if not self.holds(fence) or self.executions[fence[0]].session != session.id]

    def take_back(self, session: Session, named: list[Fence]) -> None:
        """What was leased before the clock last moved and is not named."""
        at = self.moment()
        for one in self.held_by(session.id):
            if one.leased < self.now and Fence(one.id, one.attempt) not in named:
                self.free(one, at, crash=False)

    # processes that are called

    def called(self) -> list[Session]:
        return [one for one in self.sessions.values() if one.closed is None and one.address is not None]

    def join(self, new: Session) -> Session:
        """The session that whoever registers has: its own that is open, or this new one."""
        for one in self.called():
            if one.address == new.address and one.instance != new.instance and not one.draining:
                one.closed = "replaced"
        for one in self.called():
            if (one.address, one.instance) == (new.address, new.instance):
                one.draining, one.renewed, one.expires = False, self.now, self.now + LEASE_SECONDS
                return one
        self.open_session(new)
        return new

    def revive(self, new: Session) -> Session:
        """The session that whoever is heard of has: an open one, a closed one that stays so, or this new one."""
        [*_, last] = [one for one in self.sessions.values() if one.instance == new.instance]
        taken = any(one.address == last.address and not one.draining for one in self.called())
        if last.closed is None or last.closed == "replaced" or taken:
            return last
        new.address = last.address
        self.open_session(new)
        return new

    def drain(self) -> None:
        self.goodbye = self.now
        here = [one for one in self.called() if not one.draining]
        replaced = any(one.closed == "replaced" and not one.draining for one in self.sessions.values())
        if len(here) == 1 and not replaced:
            here[0].draining, here[0].expires = True, min(here[0].expires, self.now + DRAIN_SECONDS)

    def refuse(self, session: Session) -> bool:
        if session.closed is not None or session.draining or session.renewed >= self.now - SILENT_SECONDS:
            return False
        session.expires = min(session.expires, self.now + DRAIN_SECONDS)
        session.draining = self.goodbye is not None and self.goodbye > self.now - DRAIN_SECONDS
        session.closed = None if session.draining else "refused"
        return not session.draining

    def is_sent(self, fence: Fence) -> bool:
        return self.holds(fence) and self.executions[fence.execution_id].sent is not None

    def accept_call(self, fence: Fence) -> bool:
        stands = self.is_sent(fence)
        if stands:
            self.executions[fence.execution_id].accepted = True
        return stands

    def withdraw(self, fence: Fence) -> bool:
        one = self.executions[fence.execution_id]
        stands = self.is_sent(fence) and one.state == "leased"
        if stands:
            one.withdrawing = True
        return stands

    def call_back(self, fence: Fence, *, crash: bool, delay: int) -> bool:
        """Take back what was sent."""
        stands = self.is_sent(fence)
        if stands:
            self.free(self.executions[fence.execution_id], self.moment(), crash=crash, delay=delay)
        return stands

    def unanswered(self) -> set[Fence]:
        return {
            Fence(one.id, one.attempt)
            for one in self.executions.values()
            if one.sent is not None and not one.accepted and one.sent < self.now - UNANSWERED_SECONDS
        }

    # wait and pause

    def begin_wait(self, fence: Fence, reason: str = "anything") -> bool:
        one = self.executions[fence.execution_id]
        if not self.holds(fence) or one.state != "leased" or one.cancelling is not None or one.withdrawing:
            return False
        one.state, one.reason, one.accepted = "waiting", reason, one.sent is not None
        self.placed.discard(one.id)
        until = one.deadline if one.asked.heartbeat_seconds is None else one.attempt_deadline
        one.remaining = None if until is None else until - self.now
        one.deadline, one.attempt_deadline = one.total_deadline, None
        return True

    def end_wait(self, fence: Fence, reason: str = "anything") -> bool:
        one = self.executions[fence.execution_id]
        if not self.holds(fence) or (one.state, one.reason) != ("waiting", reason) or one.cancelling is not None:
            return False
        one.state = "leased"
        self.placed.add(one.id)
        self.begin_attempt(one, one.remaining)
        return True

    def pause(self, one: Execution) -> str:
        """`already_finished`, `invalid_state` or `turned`."""
        if one.outcome is not None:
            return "already_finished"
        if one.cancelling is not None or one.pausing or one.state == "paused":
            return "invalid_state"
        if one.session is None:
            one.state, one.silent = "paused", False
            self.placed.discard(one.id)
        else:
            one.pausing = True
        return "turned"

    def resume(self, one: Execution) -> str:
        if one.outcome is not None:
            return "already_finished"
        if one.cancelling is not None or not (one.pausing or one.state == "paused"):
            return "invalid_state"
        if one.session is None:
            one.state = "delayed" if one.available[0] > self.now else one.next
            one.state = "waiting" if one.waits_until is not None else one.state
        one.pausing = False
        return "turned"

    # people

    def approvals(self) -> list[tuple[ExecutionId, Approval]]:
        return [(id_, asked) for id_, one in self.executions.items() for asked in one.approvals.values()]

    def ask(self, fence: Fence, question: str) -> str:
        """How the question stands, or why it may not be asked."""
        one = self.executions[fence.execution_id]
        if one.outcome is not None:
            return "already_finished"
        if not self.holds(fence):
            return "lease_lost"
        if one.cancelling is not None:
            return "invalid_state"
        own = one.approvals.get(question)
        if own is not None and own.status != "pending":
            return own.status
        for other in one.approvals.values():
            if other.status == "pending" and other is not own:
                if other.attempt == fence.attempt:
                    return "approval_already_requested"
                other.status = "expired"
        if own is None:
            own = Approval(question, fence.attempt, self.moment(), self.now + APPROVAL_SECONDS)
            one.approvals[question] = own
        own.attempt = fence.attempt
        self.begin_wait(fence, "approval")
        return "pending"

    def decide(self, one: Execution, question: str | None, decision: str) -> tuple[str, bool]:
        """How it is decided, or why not, and whether this word has decided it."""
        known = [asked for asked in one.approvals.values() if question in (None, asked.question)]
        if not known:
            return "no_approval_request", False
        found = max(known, key=lambda asked: (asked.status == "pending", asked.asked))
        if found.status != "pending":
            return found.status, False
        if one.cancelling is not None:
            return "invalid_state", False
        found.status = decision
        self.end_wait(Fence(one.id, found.attempt), "approval")
        return decision, True

    def expire_approvals(self) -> None:
        for one in self.unfinished():
            for asked in one.approvals.values():
                if asked.status == "pending" and asked.expires < self.now and one.cancelling is None:
                    asked.status = "expired"
                    self.end_wait(Fence(one.id, asked.attempt), "approval")

    # schedules

    def plan(self, name: str) -> bool:
        new = name not in self.schedules
        if new:
            self.schedules[name] = Planned(self.now + INTERVAL_SECONDS)
        return new

    def runs(self, one: Planned) -> list[Execution]:
        mine = [self.executions[id_] for _, id_ in one.ticks.values() if id_ is not None]
        return [execution for execution in mine if execution.outcome is None]

    def fire(self) -> set[tuple[str, int]]:
        """Which tick of which schedule is to be submitted; the others wait."""
        begin = set()
        for name, one in self.schedules.items():
            if one.next > self.now:
                continue
            if not self.runs(one) and not one.waiting:
                begin.add((name, one.next))
            while one.next <= self.now:
                one.ticks[one.next] = ("waiting", None)
                one.next += INTERVAL_SECONDS
        return begin

    def advance(self) -> set[tuple[str, int]]:
        return {(name, min(one.waiting)) for name, one in self.schedules.items() if one.waiting and not self.runs(one)}

    def begin(self, name: str, planned: int, asked: Submission, at: Moment) -> None:
        self.schedules[name].ticks[planned] = ("submitted", asked.id)
        self.accept(asked, at)

    # steps, signals and waits without a lease

    def write_steps(self, fence: Fence, ops: list[StepOp]) -> bool:
        if not self.holds(fence):
            return False
        one, at = self.executions[fence.execution_id], self.moment()
        self.hear(one)
        for op in ops:
            if op.name in one.steps:
                continue
            step = one.steps[op.name] = Step("step", (*at, op.name), fence.attempt)
            if isinstance(op, Done):
                step.status, step.value = "done", op.value
            elif isinstance(op, Sleep):
                step.kind, step.due = "sleep", self.now + int(op.seconds)
            elif isinstance(op, AwaitEvent):
                step.kind, step.event = "event", op.event
                step.due = None if op.timeout_seconds is None else self.now + int(op.timeout_seconds)
                kept = next((one for one in one.signals if one.event == op.event and one.step is None), None)
                if kept is not None:
                    kept.step, step.status, step.value = op.name, "done", kept.payload
        return True

    def park(self, one: Execution, waits: tuple[str, ...], *, any_: bool) -> tuple[str, str | None]:
        steps = {name: one.steps[name] for name in waits if name in one.steps}
        self.fulfil_due(step for step in steps.values())
        if len(steps) < len(waits):
            return "step_not_found", None
        open_ = [step for step in steps.values() if step.status == "pending"]
        enough = not open_ or (any_ and len(open_) < len(steps))
        one.crashes, one.available = 0, self.moment()
        one.given_back[one.attempt, Verdict.WAITING] = status = "queued" if enough else "waiting"
        self.rest(one, self.back(one) if enough else "waiting")
        if not enough:
            one.waits_until = "any" if any_ else "all"
            for step in open_:
                step.awaited = True
        return "recorded", status

    def fulfil_due(self, steps: Iterable[Step]) -> bool:
        due = [step for step in steps if step.kind in ("sleep", "event") and step.is_due(self.now)]
        for step in due:
            step.status, step.timed_out = "done", step.kind == "event"
        return bool(due)

    def wake(self, one: Execution, at: Moment) -> None:
        """Heed the news of one that is not over, and let it go on when enough of what it waits for has come."""
        awaited = [step for step in one.steps.values() if step.awaited]
        for step in awaited:
            step.news = False
        came = [step for step in awaited if step.status != "pending"]
        if one.waits_until is None or not (came if one.waits_until == "any" else len(came) == len(awaited)):
            return
        one.state = "paused" if one.state == "paused" else one.next
        one.waits_until, one.available = None, at
        for step in awaited:
            step.awaited = False

    def wake_due(self) -> None:
        at = self.moment()
        for one in self.unfinished():
            if self.fulfil_due(one.steps.values()):
                self.wake(one, at)

    def fan_in(self) -> None:
        at = self.moment()
        for one in self.unfinished():
            if any(step.news for step in one.steps.values()):
                self.wake(one, at)

    def signal(self, one: Execution, event: str, payload: bytes, key: str | None) -> str:
        """`already_finished`, `idempotency_conflict`, `invalid_state`, `delivered` or `kept`."""
        before = next((sent for sent in one.signals if key is not None and sent.key == key), None)
        if before is not None:
            if (before.event, before.payload) != (event, payload):
                return "idempotency_conflict"
            return "kept" if before.step is None else "delivered"
        if one.outcome is not None:
            return "already_finished"
        if one.cancelling is not None:
            return "invalid_state"
        sent = Signal(event, payload, key)
        one.signals.append(sent)
        open_ = [
            (step.began, name) for name, step in one.steps.items() if step.status == "pending" and step.event == event
        ]
        if not open_:
            return "kept"
        _, sent.step = min(open_)
        step = one.steps[sent.step]
        step.status, step.value = "done", payload
        self.wake(one, self.moment())
        return "delivered"

    # complete

    def report(
        self, fence: Fence, verdict: Verdict, *, retryable: bool, waits: tuple[str, ...] = (), any_: bool = False
    ) -> tuple[str, str | None]:
        """The code and the status of the answer."""
        one = self.executions[fence.execution_id]
        late = one.silent and one.attempt == fence.attempt and verdict in (Verdict.SUCCEEDED, Verdict.FAILED)
        if not self.holds(fence) and not late:
            if one.outcome is not None and one.outcome.attempt == fence.attempt:
                return "already_recorded", one.outcome.status
            known = one.given_back.get((fence.attempt, verdict))
            return ("lease_lost", None) if known is None else ("already_recorded", known)
        if one.cancelling is not None:
            self.end(one, "cancelled")
            done = verdict in (Verdict.SUCCEEDED, Verdict.FAILED)
            return "discarded" if done else "recorded", "cancelled"
        if verdict is Verdict.CANCELLED and one.withdrawing:
            verdict = Verdict.RELEASED
        if verdict is Verdict.WAITING:
            return self.park(one, waits, any_=any_)
        if verdict is Verdict.RELEASED:
            self.free(one, self.moment(), crash=False)
            one.crashes = 0
        elif verdict is Verdict.FAILED and retryable and one.failures < one.asked.retry.retries_max:
            self.retry(one, self.moment())
        else:
            one.failures += verdict is Verdict.FAILED
            self.end(one, verdict.value)
            return "recorded", verdict.value
        return "recorded", "queued"

    # cancel

    def cancel(self, one: Execution) -> str:
        if one.outcome is not None:
            return "already_finished"
        if one.session is None:
            self.end(one, "cancelled")
            return "settled"
        if one.cancelling is None:
            one.cancelling, one.withdrawing = self.now, False
        return "asked"

    def force_cancel(self) -> None:
        for one in list(self.executions.values()):
            if one.outcome is None and one.cancelling is not None and one.cancelling + GRACE_SECONDS < self.now:
                self.end(one, "cancelled")

    # expire

    def close_expired(self) -> None:
        for session in self.sessions.values():
            if session.closed is None and session.expires < self.now:
                quiet = "expired" if session.address is None else "silent"
                session.closed = "drained" if session.draining else quiet

    def sweep(self) -> None:
        at = self.moment()
        for session in self.sessions.values():
            if session.closed is not None:
                for one in self.held_by(session.id):
                    self.free(one, at, crash=session.closed in CRASHED)
                    one.silent = session.closed == "silent" and one.state in ("ready", "blocked")

    def leave(self, session: Session) -> None:
        session.closed = session.closed or "left"
        at = self.moment()
        for one in self.held_by(session.id):
            self.free(one, at, crash=False)

    def promote(self) -> None:
        for one in self.executions.values():
            if one.state == "delayed" and one.available[0] <= self.now:
                one.state = one.next

    # limits

    def put_limit(self, key: str, most: int) -> bool:
        new = key not in self.limits
        self.limits[key] = Limit(most, 0 if key.startswith(KEY) else 2, self.now)
        return new

    def held(self, key: str) -> set[ExecutionId]:
        """Who has a place under this limit: whoever waits for its children has none."""
        return {
            one.id
            for one in self.unfinished()
            if one.state in ("ready", "leased") and key in one.keys and not self.has_children(one)
        }

    def adopt(self) -> None:
        for key, limit in sorted(self.limits.items()):
            if limit.passes == 0 or (limit.passes == 1 and limit.since == self.now):
                continue
            limit.passes -= 1
            for one in self.unfinished():
                if not one.limited:
                    one.limited, one.line = True, key
                    one.state = "blocked" if one.state == "ready" else one.state
                    self.placed -= {one.id} if one.state == "blocked" else set()

    # pauses, drains and the children of what has ended

    def open_session(self, new: Session) -> None:
        """A process that opens one again was told to drain if it was told so before."""
        same = [one for one in self.sessions.values() if (one.address, one.instance) == (new.address, new.instance)]
        new.told_to_drain = bool(same) and same[-1].told_to_drain
        self.sessions[new.id] = new

    def tell_to_drain(self) -> set[SessionId]:
        told = [one for one in self.sessions.values() if one.is_open and not one.told_to_drain]
        for one in told:
            one.told_to_drain = True
        return {one.id for one in told}

    def undrain(self) -> set[SessionId]:
        told = [one for one in self.sessions.values() if one.told_to_drain]
        for one in told:
            one.told_to_drain = False
        return {one.id for one in told}

    def follow(self) -> None:
        """Children whose parents have ended without a result are cancelled, down the tree, unless they shall go on."""
        while todo := [one for one in self.unfinished() if one.cancelling is None and self.is_left_behind(one)]:
            for one in todo:
                self.cancel(one)

    def is_left_behind(self, one: Execution) -> bool:
        if one.asked.parent_id is None or one.asked.on_parent_end is ParentEnd.KEEP:
            return False
        ended = self.executions[ExecutionId(one.asked.parent_id)].outcome
        return ended is not None and ended.status != "succeeded"

    # deadlines

    def hear(self, one: Execution) -> None:
        """A sign of life: it has progressed, and may be silent for a while again."""
        one.crashes = 0
        if one.asked.heartbeat_seconds is not None and one.state == "leased":
            one.deadline = self.nearest(one.attempt_deadline, one.total_deadline, one.asked.heartbeat_seconds)

    def begin_attempt(self, one: Execution, seconds: float | None) -> None:
        """So long it may still be active."""
        beats = one.asked.heartbeat_seconds
        one.deadline = self.nearest(self.after(seconds), one.total_deadline, beats)
        one.attempt_deadline = None if beats is None else self.after(seconds)

    def after(self, seconds: float | None) -> float | None:
        return None if seconds is None else self.now + seconds

    def nearest(self, attempt: float | None, total: float | None, beats: float | None) -> float | None:
        return min((at for at in (attempt, total, self.after(beats)) if at is not None), default=None)

    def time_out(self) -> None:
        over = [one for one in self.unfinished() if one.deadline is not None and one.deadline < self.now]
        silent = [one for one in over if self.is_silent(one)]
        excused = [one for one in silent if self.is_excused(one)]
        for one in over:
            if one not in silent:
                self.end(one, "timeout" if one.cancelling is None else "cancelled")
        for one in excused:
            one.deadline = self.nearest(one.attempt_deadline, one.total_deadline, one.asked.heartbeat_seconds)
        at = self.moment()
        for one in silent:
            if one in excused:
                continue
            if one.cancelling is not None:
                self.end(one, "cancelled")
            elif one.failures < one.asked.retry.retries_max:
                self.retry(one, at)
            else:
                one.failures += 1
                self.end(one, "timeout")

    def is_silent(self, one: Execution) -> bool:
        """Whether it is only its sign of life that is missing."""
        if one.total_deadline is not None and one.total_deadline < self.now:
            return False
        within = one.attempt_deadline is None or one.attempt_deadline > self.now
        return one.session is not None and one.asked.heartbeat_seconds is not None and within

    def is_excused(self, one: Execution) -> bool:
        """Whoever waits for a child says nothing meanwhile."""
        since = self.now - (one.asked.heartbeat_seconds or 0.0)
        children = [child for child in self.executions.values() if child.asked.parent_id == one.id]
        return any(child.outcome is None or child.outcome.at > since for child in children)

    def retry(self, one: Execution, at: Moment) -> None:
        one.given_back[one.attempt, Verdict.FAILED] = "queued"
        one.failures, one.crashes = one.failures + 1, 0
        self.rest(one, "delayed")
        one.available = (self.now + RETRY_SECONDS, at[1])

    def let_in(self, one: Execution, at: Moment) -> None:
        self.placed.add(one.id)
        one.state, one.available = "ready", at

    # checkpoint

    def put(self, fence: Fence, key: tuple[str, str], value: Value) -> bool:
        if not self.holds(fence):
            return False
        before = self.memory.get(key)
        value.version = before.version + 1 if before else 1
        self.memory[key] = value
        self.hear(self.executions[fence.execution_id])
        return True

    def append(self, fence: Fence, key: tuple[str, str], items: tuple[bytes, ...], expected: int) -> str:
        """`lease_lost`, `not_a_list`, `length_mismatch`, `repeated` or `added`."""
        if not self.holds(fence):
            return "lease_lost"
        value = self.memory.get(key)
        if value is None:
            value = self.memory[key] = Value([], is_list=True, version=0, writer=fence)
            if expected != 0:
                del self.memory[key]
                return "length_mismatch"
        if not value.is_list:
            return "not_a_list"
        if expected != len(value.items):
            there = tuple(value.items[expected : expected + len(items)])
            repeat = value.writer == fence and expected >= value.put and there == items
            if repeat:
                self.hear(self.executions[fence.execution_id])
            return "repeated" if repeat else "length_mismatch"
        value.items += items
        value.version, value.writer, value.appended = value.version + 1, fence, (expected, items)
        self.hear(self.executions[fence.execution_id])
        return "added"

    # deliver

    def due(self) -> dict[ExecutionId, Delivery]:
        if self.host_held > self.now:
            return {}
        return {id_: one for id_, one in self.deliveries.items() if one.state == "pending" and one.due <= self.now}

    def claim_due(self) -> set[ExecutionId]:
        due = self.due()
        for one in due.values():
            one.state, one.lease_until = "leased", self.now + DELIVERY_LEASE_SECONDS
            one.attempt += 1
        return set(due)

    def settle(self, id_: ExecutionId, attempt: int, state: str, *, failing: bool, held: bool) -> bool:
        """Whether this attempt counts: now, or it has counted before and is said again."""
        one = self.deliveries[id_]
        if one.state != "leased" or one.attempt != attempt:
            return attempt in one.settled
        one.state, one.lease_until = state, None
        one.settled.add(attempt)
        one.charged += 1
        self.host_failures = self.host_failures + 1 if failing else 0
        self.host_held = max(self.host_held, self.now + HELD_SECONDS) if held else self.host_held
        if state == "pending":
            one.due = self.now + DELIVERY_WAIT_SECONDS
        return True

    def reclaim(self) -> None:
        for one in self.deliveries.values():
            if one.lease_until is not None and one.lease_until < self.now:
                one.state, one.lease_until, one.due = "pending", None, self.now

    def retry_delivery(self, id_: ExecutionId) -> None:
        one = self.deliveries[id_]
        if one.state in ("delivered", "dead"):
            one.state, one.charged = "pending", 0
        if one.state == "pending":
            one.due = self.now

    # what they share

    def moment(self) -> Moment:
        self.happened += 1
        return self.now, self.happened

    def holds(self, fence: Fence) -> bool:
        one = self.executions[fence.execution_id]
        return one.session is not None and one.attempt == fence.attempt

    def unfinished(self) -> list[Execution]:
        return [one for one in self.executions.values() if one.outcome is None]

    def has_children(self, one: Execution) -> bool:
        return any(child.asked.parent_id == one.id for child in self.unfinished())

    def held_by(self, id_: UUID) -> list[Execution]:
        return [one for one in self.executions.values() if one.session == id_]

    def free(self, one: Execution, at: Moment, *, crash: bool, delay: int = 0) -> None:
        if not crash:
            one.given_back[one.attempt, Verdict.RELEASED] = "queued"
        if one.cancelling is not None:
            self.end(one, "cancelled")
        elif crash and one.crashes + 1 >= CRASHES_MAX:
            self.end(one, "failed")
        else:
            self.rest(one, "delayed" if delay else self.back(one))
            one.available = (at[0] + delay, at[1])
            one.crashes += crash

    def back(self, one: Execution) -> str:
        """Where one goes that only its process has lost: it keeps its place, if it has not given it back to wait."""
        return one.next if one.state == "waiting" else "ready"

    def rest(self, one: Execution, state: str) -> None:
        """Nobody holds it any more; what was to be paused is."""
        one.state = "paused" if one.pausing else state
        self.placed -= set() if one.state == "ready" else {one.id}
        one.session = one.sent = None
        one.deadline = one.total_deadline
        one.accepted = one.withdrawing = one.pausing = one.silent = False

    def end(self, one: Execution, status: str) -> None:
        self.rest(one, status)
        one.state = status
        one.outcome = Outcome(status=status, attempt=one.attempt, failures=one.failures, at=self.now)
        self.end_steps(one)
        for asked in one.approvals.values():
            asked.status = "expired" if asked.status == "pending" else asked.status
        if one.asked.webhooks:
            self.deliveries[one.id] = Delivery(due=self.now)

    def end_steps(self, one: Execution) -> None:
        """Nothing is awaited by what has ended, and the call that it was of its parent has ended so."""
        one.waits_until = None
        for step in one.steps.values():
            step.awaited = step.news = False
            if step.status == "pending" and step.kind != "call":
                step.status = "failed"
        parent = None if one.asked.parent_id is None else self.executions[ExecutionId(one.asked.parent_id)]
        for step in parent.steps.values() if parent is not None else ():
            if step.child == one.id and step.status == "pending":
                step.status = "done" if one.state == "succeeded" else "failed"
                step.news = step.awaited
