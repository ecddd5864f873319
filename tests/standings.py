"""A standing for every cause: what the sentences are tested with, and what the page about them is made from."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from controlplane.domain.approval import WAITING_FOR_APPROVAL, Approval, Decision
from controlplane.domain.execution import State, Status
from controlplane.domain.ids import ExecutionId, SessionId
from controlplane.domain.lease import WITHDRAWING, Transport
from controlplane.domain.limit import Held, Limit
from controlplane.domain.pause import Pause, Paused
from controlplane.domain.standing import (
    AHEAD_MAX,
    Awaited,
    Child,
    Failure,
    Hold,
    Line,
    Node,
    Process,
    Standing,
    Waits,
    Word,
)
from controlplane.domain.step import StepKind, Until

NOW = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)
ID = ExecutionId(UUID(int=1))
CHILD_ID = ExecutionId(UUID(int=2))
SESSION_ID = SessionId(UUID(int=3))


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def process(**over: Any) -> Process:
    """A process that was heard of a moment ago, with one of its eight slots taken."""
    made = Process(
        id=SESSION_ID,
        transport=Transport.PULL,
        slots=8,
        heartbeat_seconds=10.0,
        renewed_at=ago(1),
        expires_at=ago(-29),
        held=1,
    )
    return replace(made, **over)


def called(**over: Any) -> Process:
    """A process that is called."""
    made: dict[str, Any] = {"transport": Transport.PUSH, "acknowledges": True, "heartbeat_seconds": 2.0}
    return process(**made | over)


def ready(*processes: Process, line: Line | None = None, **over: Any) -> Standing:
    """Work that waits for one of these processes of the node `n`."""
    node = Node(id="n", registered_at=ago(86_400), processes=processes)
    made: dict[str, Any] = {"node": node, "line": line or Line(ahead=0), "available_at": ago(60)}
    return standing(State.READY, **made | over)


def limit(**over: Any) -> Limit:
    return Limit(namespace=1, key="key:tools", **over)


def blocked(**over: Any) -> Standing:
    """Work of the run `run-a` that stands in the line of a limit."""
    hold = Hold(**{"line": "key:tools"} | over)
    return standing(State.BLOCKED, hold=hold, fairness_key="run-a", available_at=ago(60))


def leased(**over: Any) -> Standing:
    """The first attempt runs, since a minute ago."""
    made: dict[str, Any] = {"attempt": 1, "leased_at": ago(60), "holder": process()}
    return standing(State.LEASED, **made | over)


def waiting(reason: str | None, **over: Any) -> Standing:
    """The first attempt waits, since half a minute ago."""
    made: dict[str, Any] = {"attempt": 1, "leased_at": ago(60), "waiting_at": ago(30), "holder": process()}
    return standing(State.WAITING, status_reason=reason, **made | over)


def suspended(reason: str, *first: Awaited, steps: int = 1, done: int = 0, any_: bool = False, **over: Any) -> Standing:
    """The first attempt has given its lease back half a minute ago."""
    calls = steps if reason == "awaiting_child" else 0
    until = Until.ANY if any_ else Until.ALL
    waits = Waits(until=until, steps=steps, done=done, calls=calls, calls_done=done if calls else 0, first=first)
    made: dict[str, Any] = {"attempt": 1, "waiting_at": ago(30), "waits": waits}
    return standing(State.WAITING, status_reason=reason, **made | over)


def delayed(reason: str | None, **over: Any) -> Standing:
    """The second attempt is over, and the third is due in twenty seconds."""
    made: dict[str, Any] = {"attempt": 2, "failures": 2, "retries_max": 3, "available_at": ago(-20)}
    return standing(State.DELAYED, status_reason=reason, **made | over)


def ended(status: Status, **over: Any) -> Standing:
    made: dict[str, Any] = {"status": status, "attempt": 2, "ended_at": ago(5)}
    return standing(None, **made | over)


def standing(state: State | None, **over: Any) -> Standing:
    made = Standing(
        id=ID,
        now=NOW,
        target="n.echo",
        type="reasoner",
        status=Status.QUEUED,
        state=state,
        status_reason=None,
        attempt=0,
        failures=0,
        retries_max=0,
        created_at=ago(120),
        cancel_grace_seconds=10.0,
        dispatch_seconds=30.0,
    )
    return replace(made, **over)


def question(**over: Any) -> Approval:
    """A question to people that is open for another hour."""
    made = Approval(
        execution_id=ID,
        request_id="r-1",
        attempt=1,
        node_id="n",
        status=Decision.PENDING,
        url="https://people.example/r-1",
        callback_url=None,
        feedback=None,
        response=None,
        requested_at=ago(30),
        expires_at=ago(-3_600),
        decided_at=None,
    )
    return replace(made, **over)


def children(n: int) -> dict[str, Any]:
    """So many unfinished children, of which the first is named."""
    return {"children": (Child(id=CHILD_ID, target="n.child", state=State.READY),), "children_count": n}


FULL = process(held=8)
LATE = process(renewed_at=ago(45), expires_at=ago(-5))
SILENT = called(renewed_at=ago(45), expires_at=ago(-75))
LINE = Line(ahead=12, finishes=65, seconds=650.0)


def held_back(what: Paused, **over: Any) -> Pause:
    """Paused by a person, a quarter of an hour ago."""
    return replace(Pause(what=what, paused_at=ago(900), paused_by="ops", reason="the upstream is down"), **over)


ALL_PAUSED = held_back(Paused.all())
NODE_PAUSED = held_back(Paused.node("n"), reason=None)
REASONER_PAUSED = held_back(Paused.reasoner("n", "n.echo"), paused_by=None)

NAP = Awaited(name="nap", kind=StepKind.SLEEP, due_at=ago(-3_600))
GO = Awaited(name="go", kind=StepKind.EVENT, event="deploy.approved")
ASK = Awaited(name="ask", kind=StepKind.APPROVAL)
CALL = Awaited(name="child", kind=StepKind.CALL, child_id=CHILD_ID)

SAMPLES: dict[str, Standing] = {
    "all paused": ready(pauses=(ALL_PAUSED, NODE_PAUSED)),
    "node paused": ready(pauses=(NODE_PAUSED,)),
    "reasoner paused": ready(process(), pauses=(REASONER_PAUSED,)),
    "no node": ready(node=Node(id="n", registered_at=ago(86_400), left_at=ago(3_600))),
    "no node, nobody knows since when": ready(node=Node(id="n", registered_at=ago(86_400))),
    "draining": ready(process(draining=True)),
    "drained": ready(process(draining=True, drain=Word(at=ago(60), reason="update", by="ops"))),
    "late": ready(LATE),
    "unreachable": ready(SILENT),
    "full": ready(FULL, FULL, line=LINE),
    "full, and next": ready(FULL),
    "behind": ready(process(), line=LINE),
    "behind one": ready(process(), line=Line(ahead=1)),
    "behind many": ready(process(), line=Line(ahead=AHEAD_MAX + 1, finishes=65, seconds=650.0)),
    "next": ready(process()),
    "retrying": delayed("retrying", failure=Failure(attempt=2, at=ago(3), error=b'"no\\nway"', error_class="Boom")),
    "not reached": delayed("node_unreachable", failures=0),
    "no room": delayed("node_full", failures=0),
    "taken back": delayed("server_unreachable", failures=0),
    "scheduled": delayed("scheduled", attempt=0, failures=0),
    "paused": standing(State.PAUSED, pause=Word(at=ago(10), reason="hold on"), status_reason="paused"),
    "pausing": leased(pause_requested=True, pause=Word(at=ago(10))),
    "blocked": blocked(ahead=4, limit=limit(concurrency_max=2), held=Held(held=2), holders=(CHILD_ID,)),
    "blocked, and next": blocked(limit=limit(concurrency_max=0)),
    "rate": blocked(limit=limit(rate_max=10, rate_seconds=60.0, spent=((NOW.timestamp() - 20, 10),))),
    "turn": blocked(line="turn:n.echo", ahead=12, finishes=100, seconds=600.0),
    "let in": blocked(limit=limit(concurrency_max=2)),
    "approval": waiting(WAITING_FOR_APPROVAL, approval=question()),
    "child": waiting("awaiting_child", **children(1)),
    "children": waiting("awaiting_child", **children(3)),
    "something": waiting("something"),
    "sleeping": suspended("sleeping", NAP),
    "sleeping, or woken": suspended("sleeping", NAP, steps=3, any_=True),
    "event": suspended("waiting_for_event", GO),
    "event, and more": suspended("waiting_for_event", NAP, replace(GO, due_at=ago(-60)), steps=3, done=1),
    "approval, without a lease": suspended(
        WAITING_FOR_APPROVAL, ASK, approval=question(durable=True, title="Deploy 1.2?")
    ),
    "children, without a lease": suspended("awaiting_child", CALL, steps=5, done=2, **children(3)),
    "any child, without a lease": suspended("awaiting_child", CALL, steps=2, any_=True, **children(2)),
    "cancelling": leased(cancel=Word(at=ago(4), reason="enough")),
    "withdrawing": leased(holder=called(), accepted=True, status_reason=WITHDRAWING),
    "process gone": leased(holder=process(closed_at=ago(2), closed_reason="expired")),
    "holder late": leased(holder=LATE),
    "holder silent": leased(holder=SILENT, accepted=True),
    "not acknowledged": leased(holder=called()),
    "running": leased(),
    "running with children": leased(deadline_at=ago(-600), **children(2)),
    "succeeded": ended(Status.SUCCEEDED),
    "failed": ended(Status.FAILED, error=b'"no way"', status_reason="user_error"),
    "cancelled": ended(Status.CANCELLED, error=b'"enough"'),
    "timeout": ended(Status.TIMEOUT, status_reason="start_to_close"),
}
