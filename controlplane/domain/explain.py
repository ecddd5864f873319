"""Explain: why an execution stands where it stands, in one sentence.

Facts go in; a cause, its sentence, its moment and the next step come out. The page `docs/howto/why-does-it-wait.md` is
made from the sentences below. Causes are tried from the most to the least certain: what a person has asked for, what
the row itself says, what is known of the process that holds it, and for ready work what hinders every process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import assert_never

from controlplane.domain.approval import WAITING_FOR_APPROVAL, Approval
from controlplane.domain.execution import REASON_OF, Overdue, State, Status
from controlplane.domain.ids import show_execution
from controlplane.domain.lease import WITHDRAWING
from controlplane.domain.limit import READY_MAX, TURN
from controlplane.domain.notice import error_text, moment
from controlplane.domain.pause import Pause, PauseScope
from controlplane.domain.standing import (
    AHEAD_MAX,
    CHILDREN_MAX,
    Failure,
    Hold,
    Json,
    Line,
    Node,
    Process,
    Standing,
    Waits,
    Word,
    attempt_facts,
    child_facts,
    facts,
    hold_facts,
    line_facts,
    maybe,
    pause_facts,
    process_facts,
    slot_facts,
    waits_facts,
    word_facts,
)
from controlplane.domain.step import AWAITING_CHILD, SLEEPING, WAITING_FOR_EVENT, WAITS_MAX, StepKind, Until

NAMED_MAX = 3
"""Executions that are named in a sentence; the facts name more."""
WORDS_MAX = 200
"""Characters of somebody else's words in a sentence."""

RETRYING = "retrying"
PARENT_HAD = {
    REASON_OF[Status.FAILED]: "failed",
    REASON_OF[Status.CANCELLED]: "been cancelled",
    REASON_OF[Status.TIMEOUT]: "run out of its time",
}
OVERDUE_WORDS: dict[str, str] = {
    Overdue.SCHEDULE_TO_START: "no attempt began within schedule_to_start_seconds",
    Overdue.START_TO_CLOSE: "the attempt took longer than timeout_seconds",
    Overdue.HEARTBEAT: "there was no sign of life for heartbeat_seconds",
    Overdue.TOTAL: "all of it took longer than total_seconds",
}
NODE_FULL = "node_full"
NODE_UNREACHABLE = "node_unreachable"


class Cause(StrEnum):
    """Why it stands where it stands: stable words, for programs."""

    ALL_PAUSED = "all_paused"
    NODE_PAUSED = "node_paused"
    REASONER_PAUSED = "reasoner_paused"
    NO_NODE = "no_node"
    NODE_DRAINING = "node_draining"
    NODE_LATE = "node_late"
    NODE_UNREACHABLE = "node_unreachable"
    NODE_FULL = "node_full"
    QUEUED_BEHIND = "queued_behind"
    NEXT = "next"
    RETRYING = "retrying"
    TAKEN_BACK = "taken_back"
    SCHEDULED = "scheduled"
    PAUSED = "paused"
    PAUSING = "pausing"
    BLOCKED = "blocked"
    RATE_LIMITED = "rate_limited"
    WAITING_FOR_TURN = "waiting_for_turn"
    LET_IN = "let_in"
    WAITING_FOR_APPROVAL = "waiting_for_approval"
    WAITING_FOR_CHILD = "waiting_for_child"
    WAITING_FOR_EVENT = "waiting_for_event"
    SLEEPING = "sleeping"
    WAITING = "waiting"
    CANCELLING = "cancelling"
    WITHDRAWING = "withdrawing"
    PROCESS_GONE = "process_gone"
    NOT_ACKNOWLEDGED = "not_acknowledged"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The answer. `since`: when the cause began; `fix`: the next step; `facts`: JSON values by name."""

    code: Cause
    sentence: str
    since: datetime | None = None
    fix: str | None = None
    facts: dict[str, Json] = field(default_factory=dict)


def explain(it: Standing) -> Explanation:
    """Why it stands where it stands."""
    match it.state:
        case None:
            return _ended(it)
        case State.READY:
            return _ready(it)
        case State.DELAYED:
            return _delayed(it)
        case State.PAUSED:
            return _paused(it)
        case State.BLOCKED:
            return _blocked(it)
        case State.WAITING | State.LEASED:
            return _held(it)
    assert_never(it.state)


def _ready(it: Standing) -> Explanation:
    if it.pauses:
        return _held_back(it, it.pauses[0])
    node = it.node or Node(id=it.node_id)
    unserved = _unserved(it, node)
    if unserved is not None:
        return unserved
    heard = _heard(it, node)
    if all(one.held >= one.slots for one in heard):
        return _full(it, node, heard)
    line = it.line or Line(ahead=0)
    if not line.ahead:
        return Explanation(
            code=Cause.NEXT,
            sentence=f"It is the next of {it.target}, and node {node.id} has a free slot.",
            since=it.available_at,
            facts=facts(it) | slot_facts(heard) | line_facts(line),
        )
    estimate = "" if line.estimate_seconds is None else f", which take about {duration(line.estimate_seconds)}"
    return Explanation(
        code=Cause.QUEUED_BEHIND,
        sentence=f"{_count(line.ahead, AHEAD_MAX, 'execution')} of {it.target} {_are(line.ahead)} before it{estimate}.",
        since=it.available_at,
        fix=f"Add processes or slots to node {node.id}, or wait.",
        facts=facts(it) | slot_facts(heard) | line_facts(line),
    )


def _unserved(it: Standing, node: Node) -> Explanation | None:
    """Why nobody would take it; None when somebody would."""
    there = [one for one in node.processes if not one.draining]
    if not node.processes:
        return _no_node(it, node)
    if not there:
        return _draining(it, node)
    if not _heard(it, node):
        return _late(it, node, max(there, key=lambda one: one.renewed_at))
    return None


def _heard(it: Standing, node: Node) -> list[Process]:
    """Those that take new work, as far as is known."""
    return [one for one in node.processes if not one.draining and not one.late(it.now) and one.expires_at > it.now]


def _held_back(it: Standing, one: Pause) -> Explanation:
    what, name, path = {
        PauseScope.ALL: (Cause.ALL_PAUSED, "Everything", ""),
        PauseScope.NODE: (Cause.NODE_PAUSED, f"Node {one.what.name}", f"/nodes/{one.what.name}"),
        PauseScope.REASONER: (Cause.REASONER_PAUSED, f"Reasoner {one.what.name}", f"/reasoners/{one.what.name}"),
    }[one.what.scope]
    by = f" by {_words(one.paused_by)}" if one.paused_by else ""
    why = f": {_words(one.reason)}" if one.reason else ""
    return Explanation(
        code=what,
        sentence=f"{name} is paused{by} since {_at(one.paused_at)}{why}.",
        since=one.paused_at,
        fix=f"Let it go on: POST /api/v1{path}/resume.",
        facts=facts(it) | pause_facts(one) | {"also_paused": [other.what.scope.value for other in it.pauses[1:]]},
    )


def _draining(it: Standing, node: Node) -> Explanation:
    known = facts(it) | slot_facts(node.processes)
    asked = max((one.drain for one in node.processes if one.drain is not None), key=lambda word: word.at, default=None)
    if asked is None:
        return Explanation(
            code=Cause.NODE_DRAINING,
            sentence=f"Node {node.id} is draining: it finishes what it runs and takes nothing new.",
            fix=f"Start another process of node {node.id}.",
            facts=known,
        )
    by = f" by {_words(asked.by)}" if asked.by else ""
    return Explanation(
        code=Cause.NODE_DRAINING,
        sentence=f"Node {node.id} was asked to drain{by} at {_at(asked.at)}{_because(asked.reason)}: it finishes what "
        f"it runs and takes nothing new.",
        since=asked.at,
        fix=f"Start another process of node {node.id}, or let it go on: POST /api/v1/nodes/{node.id}/undrain.",
        facts=known | word_facts("drain", asked),
    )


def _no_node(it: Standing, node: Node) -> Explanation:
    if node.left_at is not None:
        known = f"; the last one was gone at {_at(node.left_at)}"
    elif node.registered_at is not None:
        known = f"; the node registered at {_at(node.registered_at)}"
    else:
        known = ""
    return Explanation(
        code=Cause.NO_NODE,
        sentence=f"No process of node {node.id}, which serves {it.target}, is connected{known}.",
        since=node.left_at or node.registered_at,
        fix=f"Start node {node.id}; the work waits for it.",
        facts=facts(it)
        | {"node_registered_at": maybe(node.registered_at), "node_left_at": maybe(node.left_at), "processes": 0},
    )


def _late(it: Standing, node: Node, last: Process) -> Explanation:
    beat = _beat(it, last)
    known = facts(it) | process_facts(it, last)
    if last.called:
        return Explanation(
            code=Cause.NODE_UNREACHABLE,
            sentence=f"Node {node.id}, which is called, is silent: {beat}.",
            since=last.renewed_at,
            fix=f"See whether node {node.id} runs and can be reached from the control plane.",
            facts=known,
        )
    return Explanation(
        code=Cause.NODE_LATE,
        sentence=f"Node {node.id} is late: {beat}.",
        since=last.renewed_at,
        fix=f"See whether node {node.id} hangs or has lost the way to the control plane.",
        facts=known,
    )


def _full(it: Standing, node: Node, heard: Sequence[Process]) -> Explanation:
    line = it.line or Line(ahead=0)
    slots = sum(one.slots for one in heard)
    before = "it is the next"
    if line.ahead:
        before = f"{_count(line.ahead, AHEAD_MAX, 'execution').lower()} of {it.target} {_are(line.ahead)} before it"
    estimate = "" if line.estimate_seconds is None else f", about {duration(line.estimate_seconds)} away"
    return Explanation(
        code=Cause.NODE_FULL,
        sentence=f"Node {node.id} is full: {slots} of {slots} slots are taken; {before}{estimate}.",
        since=it.available_at,
        fix=f"Add processes or slots to node {node.id}, or wait.",
        facts=facts(it) | slot_facts(heard) | line_facts(line),
    )


def _delayed(it: Standing) -> Explanation:
    at = it.available_at or it.now
    known = facts(it)
    if it.status_reason == RETRYING:
        failed, asked = "It failed", ""
        if it.failure is not None:
            failed = f"Attempt {it.failure.attempt} failed{_of(it.failure)}"
            known |= {
                "retry_after_seconds": it.failure.retry_after_seconds,
                "failed_attempt": it.failure.attempt,
                "failed_at": moment(it.failure.at),
                "error_class": it.failure.error_class,
                "error": None if it.failure.error is None else _words(error_text(it.failure.error)),
            }
            if it.failure.retry_after_seconds is not None:
                asked = " as the error asks"
        return Explanation(
            code=Cause.RETRYING,
            sentence=f"{failed}; it is tried again{asked} at {_at(at)}, retry {it.failures} of {it.retries_max}.",
            since=None if it.failure is None else it.failure.at,
            fix=f"See why: {_route(it, 'attempts')}.",
            facts=known | {"retry_at": moment(at)},
        )
    if it.attempt == 0:
        return Explanation(
            code=Cause.SCHEDULED,
            sentence=f"It begins at {_at(at)}.",
            since=it.created_at,
            facts=known | {"begins_at": moment(at)},
        )
    if it.status_reason in (NODE_UNREACHABLE, NODE_FULL):
        word = "could not be reached for" if it.status_reason == NODE_UNREACHABLE else "had no room for"
        return Explanation(
            code=Cause(it.status_reason),
            sentence=f"Node {it.node_id} {word} attempt {it.attempt}; it is called again at {_at(at)}.",
            fix=f"See whether node {it.node_id} runs and can be reached from the control plane."
            if it.status_reason == NODE_UNREACHABLE
            else f"Add processes or slots to node {it.node_id}, or wait.",
            facts=known | {"retry_at": moment(at)},
        )
    return Explanation(
        code=Cause.TAKEN_BACK,
        sentence=f"Attempt {it.attempt} was taken back{_because(it.status_reason)}; it begins again at {_at(at)}.",
        fix=f"See why: {_route(it, 'attempts')}.",
        facts=known | {"retry_at": moment(at)},
    )


def _paused(it: Standing) -> Explanation:
    return Explanation(
        code=Cause.PAUSED,
        sentence=f"{_by_a_person('paused', it.pause)}.",
        since=None if it.pause is None else it.pause.at,
        fix=f"Let it go on: {_route(it, 'resume', 'POST')}.",
        facts=facts(it) | word_facts("pause", it.pause),
    )


def _blocked(it: Standing) -> Explanation:
    if it.pauses:
        return _held_back(it, it.pauses[0])
    unserved = None if it.node is None else _unserved(it, it.node)
    if unserved is not None:
        return unserved
    hold = it.hold or Hold(line=TURN + it.target)
    known = facts(it) | hold_facts(it, hold)
    estimate = hold.waiting.estimate_seconds
    away = "" if estimate is None else f", about {duration(estimate)} away"
    before = "it is the next"
    if hold.ahead:
        before = f"{_count(hold.ahead, AHEAD_MAX, 'execution').lower()} of that line {_are(hold.ahead)} before it"
    if hold.line.startswith(TURN):
        return Explanation(
            code=Cause.WAITING_FOR_TURN,
            sentence=f"{READY_MAX} of {_words(it.fairness_key or it.target)} are ready for {it.target} already, so "
            f"that others may pass; {before}{away}.",
            since=it.available_at,
            facts=known,
        )
    limit = hold.limit
    room = None if limit is None else limit.room(hold.held, it.now.timestamp())
    if limit is None or room is None or room > 0:
        return Explanation(
            code=Cause.LET_IN,
            sentence=f"{_words(hold.line)} has room for it; {before}, and it is about to be let in.",
            since=it.available_at,
            facts=known,
        )
    if limit.most is None or hold.held.held < limit.most:
        at = limit.next_at(it.now.timestamp())
        when = "" if at is None else f"; the next may begin at {_at(at)}"
        return Explanation(
            code=Cause.RATE_LIMITED,
            sentence=f"{_words(hold.line)} lets {limit.rate_max:,} begin in any {limit.rate_seconds:g} s{when}; "
            f"{before}.",
            since=it.available_at,
            fix=f"Wait, or raise it: PUT /api/v1/limits/{_words(hold.line)}.",
            facts=known,
        )
    return Explanation(
        code=Cause.BLOCKED,
        sentence=f"{_words(hold.line)} allows {limit.most:,} at once, held by {_holders(hold)}; {before}{away}.",
        since=it.available_at,
        fix=f"Wait, or raise it: PUT /api/v1/limits/{_words(hold.line)}.",
        facts=known,
    )


def _holders(hold: Hold) -> str:
    if not hold.holders:
        return "nobody"
    named = ", ".join(show_execution(id_) for id_ in hold.holders[:NAMED_MAX])
    more = hold.held.held - min(len(hold.holders), NAMED_MAX)
    return named + (f" and {more:,} more" if more > 0 else "")


def _held(it: Standing) -> Explanation:
    if it.cancel is not None:
        return _cancelling(it, it.cancel)
    if it.pause_requested:
        return Explanation(
            code=Cause.PAUSING,
            sentence=f"{_by_a_person('paused', it.pause)}; attempt {it.attempt} still goes on to its end "
            f"on node {it.node_id}, and what comes after it waits.",
            since=None if it.pause is None else it.pause.at,
            fix=f"Let it go on: {_route(it, 'resume', 'POST')}.",
            facts=facts(it) | word_facts("pause", it.pause) | attempt_facts(it),
        )
    holder = it.holder
    if holder is not None and holder.closed_at is not None:
        return Explanation(
            code=Cause.PROCESS_GONE,
            sentence=f"The process of node {it.node_id} that ran attempt {it.attempt} is gone since "
            f"{_at(holder.closed_at)}{_because(holder.closed_reason)}; the attempt is about to be taken back.",
            since=holder.closed_at,
            facts=facts(it) | attempt_facts(it),
        )
    if holder is not None and holder.late(it.now):
        return _holder_late(it, holder)
    return _waiting(it) if it.state is State.WAITING else _leased(it)


def _cancelling(it: Standing, cancel: Word) -> Explanation:
    ends = cancel.at + timedelta(seconds=it.cancel_grace_seconds)
    return Explanation(
        code=Cause.CANCELLING,
        sentence=f"{_cancelled_by(cancel)} while attempt {it.attempt} ran; it ends as soon as "
        f"node {it.node_id} has stopped it, at {_at(ends)} at the latest.",
        since=cancel.at,
        facts=facts(it) | word_facts("cancel", cancel) | {"ends_at": moment(ends)} | attempt_facts(it),
    )


def _holder_late(it: Standing, holder: Process) -> Explanation:
    beat = _beat(it, holder)
    known = facts(it) | attempt_facts(it)
    if holder.called:
        return Explanation(
            code=Cause.NODE_UNREACHABLE,
            sentence=f"Attempt {it.attempt} is with node {it.node_id}, which is silent: {beat}; if nobody answers "
            f"at its address, or by {_at(holder.expires_at)}, the attempt is taken back and begins again.",
            since=holder.renewed_at,
            fix=f"See whether node {it.node_id} runs and can be reached from the control plane.",
            facts=known,
        )
    return Explanation(
        code=Cause.NODE_LATE,
        sentence=f"Attempt {it.attempt} runs on node {it.node_id}, which is late: {beat}; if none comes by "
        f"{_at(holder.expires_at)}, the attempt is taken back and begins again.",
        since=holder.renewed_at,
        fix=f"See whether node {it.node_id} hangs or has lost the way to the control plane.",
        facts=known,
    )


def _waiting(it: Standing) -> Explanation:
    if it.waits is not None:
        return _suspended(it, it.waits)
    known = facts(it) | attempt_facts(it)
    who = f"Attempt {it.attempt} waits" if it.attempt else "It waits"
    since = "" if it.waiting_at is None else f" since {_at(it.waiting_at)}"
    if it.status_reason == WAITING_FOR_APPROVAL:
        return _unanswered(it, f"{who}{since}", known)
    if it.status_reason == AWAITING_CHILD:
        return Explanation(
            code=Cause.WAITING_FOR_CHILD,
            sentence=f"{who}{since} for {_of_children(it)}.",
            since=it.waiting_at,
            fix=f"Ask the child the same: GET /api/v1/executions/{show_execution(it.children[0].id)}/explain."
            if it.children
            else None,
            facts=known | child_facts(it),
        )
    return Explanation(
        code=Cause.WAITING,
        sentence=f"{who}{since}{_because(it.status_reason)}.",
        since=it.waiting_at,
        facts=known | child_facts(it),
    )


def _suspended(it: Standing, waits: Waits) -> Explanation:
    """It waits for steps and holds no lease: said is what `status_reason` names, and the rest is counted."""
    known = facts(it) | {"waiting_at": maybe(it.waiting_at)} | waits_facts(waits) | child_facts(it)
    who = "It waits" if it.waiting_at is None else f"It waits since {_at(it.waiting_at)}"
    others = _others(waits)
    if it.status_reason == WAITING_FOR_APPROVAL:
        return _unanswered(it, f"{who}, without a lease,", known)
    if it.status_reason == WAITING_FOR_EVENT:
        event = next((one for one in waits.first if one.kind is StepKind.EVENT), None)
        name = "an event" if event is None else f"the event {_words(event.event or event.name)}"
        until = "" if event is None or event.due_at is None else f"; without it it goes on at {_at(event.due_at)}"
        return Explanation(
            code=Cause.WAITING_FOR_EVENT,
            sentence=f"{who} for {name}{others}{until}.",
            since=it.waiting_at,
            fix=None if event is None else f"Send it: {_route(it, f'signals/{event.event}', 'POST')}.",
            facts=known | ({} if event is None else {"event": event.event, "goes_on_at": maybe(event.due_at)}),
        )
    if it.status_reason == AWAITING_CHILD:
        named = f", first {_child(it)}" if it.children else ""
        count = f"{waits.calls - waits.calls_done:,} of {waits.calls:,}"
        others = _others(waits, besides=waits.calls - waits.calls_done)
        return Explanation(
            code=Cause.WAITING_FOR_CHILD,
            sentence=f"{who} for {waits.until.value} of its children{others}: {count} have not ended{named}.",
            since=it.waiting_at,
            fix=f"Ask the child the same: GET /api/v1/executions/{show_execution(it.children[0].id)}/explain."
            if it.children
            else None,
            facts=known,
        )
    sleep = next((one for one in waits.first if one.due_at is not None), None)
    until = "" if sleep is None or sleep.due_at is None else f" until {_at(sleep.due_at)}"
    return Explanation(
        code=Cause.SLEEPING if it.status_reason == SLEEPING else Cause.WAITING,
        sentence=f"It sleeps{until}{others}; then attempt {it.attempt + 1} goes on where it stopped.",
        since=it.waiting_at,
        facts=known | ({} if sleep is None else {"goes_on_at": maybe(sleep.due_at)}),
    )


def _others(waits: Waits, besides: int = 1) -> str:
    """What else it waits for."""
    others = waits.steps - waits.done - besides
    if others <= 0:
        return ""
    word = "or" if waits.until is Until.ANY else "and"
    return f" ({word} {_count(others, WAITS_MAX, 'more step')})"


def _unanswered(it: Standing, who: str, known: dict[str, Json]) -> Explanation:
    asked = it.approval
    if asked is None:
        return Explanation(
            code=Cause.WAITING_FOR_APPROVAL, sentence=f"{who} for people to decide.", since=it.waiting_at, facts=known
        )
    until = "" if asked.expires_at is None else f"; without an answer it goes on as expired at {_at(asked.expires_at)}"
    return Explanation(
        code=Cause.WAITING_FOR_APPROVAL,
        sentence=f"{who} for people to decide {_question(asked)}{until}.",
        since=it.waiting_at or asked.requested_at,
        fix=f"Decide it: {asked.url}" if asked.url else f"Decide it: {_route(it, 'approval-response', 'POST')}.",
        facts=known
        | {
            "approval_request_id": asked.request_id,
            "title": asked.title,
            "approval_request_url": asked.url,
            "requested_at": moment(asked.requested_at),
            "expires_at": maybe(asked.expires_at),
        },
    )


def _question(asked: Approval) -> str:
    """What is asked, in the words that people are shown."""
    return _words(asked.request_id) if asked.title is None else f'"{_words(asked.title)}"'


def _leased(it: Standing) -> Explanation:
    known = facts(it) | attempt_facts(it) | child_facts(it)
    at = it.leased_at or it.now
    if it.status_reason == WITHDRAWING:
        return Explanation(
            code=Cause.WITHDRAWING,
            sentence=f"Attempt {it.attempt} is being taken back from node {it.node_id}.",
            facts=known,
        )
    if it.holder is not None and it.holder.acknowledges and it.type == "reasoner" and not it.accepted:
        return Explanation(
            code=Cause.NOT_ACKNOWLEDGED,
            sentence=f"Attempt {it.attempt} was sent to node {it.node_id} at {_at(at)}, which has not acknowledged it "
            f"yet; after {duration(it.dispatch_seconds)} the node is asked what became of it.",
            since=at,
            facts=known,
        )
    more = f", with {_of_children(it)}" if it.children_count else ""
    until = "" if it.deadline_at is None else f"; it times out at {_at(it.deadline_at)}"
    if it.deadline_at is not None and it.heartbeat_seconds is not None:
        until = f"; it is stopped at {_at(it.deadline_at)} if it gives no sign of life by then"
    return Explanation(
        code=Cause.RUNNING,
        sentence=f"Attempt {it.attempt} runs on node {it.node_id} since {_at(at)}{more}{until}.",
        since=at,
        facts=known,
    )


def _ended(it: Standing) -> Explanation:
    at = it.ended_at or it.now
    words = _because(None if it.error is None else error_text(it.error))
    how = f" in attempt {it.attempt}" if it.attempt else " without an attempt"
    known = facts(it) | {"ended_at": moment(at)}
    match it.status:
        case Status.SUCCEEDED:
            why = _because(it.status_reason)
            return Explanation(
                code=Cause.SUCCEEDED, sentence=f"It succeeded{how} at {_at(at)}{why}.", since=at, facts=known
            )
        case Status.CANCELLED:
            words = "" if words == _because(it.status.value) else words  # nobody has said why
            return Explanation(
                code=Cause.CANCELLED, sentence=f"It was cancelled at {_at(at)}{words}.", since=at, facts=known
            )
        case Status.TIMEOUT:
            return Explanation(
                code=Cause.TIMEOUT,
                sentence=f"It ran out of its time{how} at {_at(at)}{_overdue(it.status_reason)}.",
                since=at,
                fix=f"See how it went: {_route(it, 'attempts')}; once more: {_route(it, 'retry', 'POST')}.",
                facts=known,
            )
    return Explanation(
        code=Cause.FAILED,
        sentence=f"It failed{how} at {_at(at)}{words}.",
        since=at,
        fix=f"See how it went: {_route(it, 'attempts')}; once more: {_route(it, 'retry', 'POST')}.",
        facts=known,
    )


def _overdue(reason: str | None) -> str:
    """Which of its times was over."""
    return "" if reason not in OVERDUE_WORDS else f": {OVERDUE_WORDS[reason]}"


def duration(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    if seconds < 7_200:
        return f"{round(seconds / 60)} min"
    return f"{round(seconds / 3_600)} h" if seconds < 172_800 else f"{round(seconds / 86_400)} days"


def _of_children(it: Standing) -> str:
    if not it.children:
        return "a child, of which nothing is unfinished"
    named = _child(it)
    if it.children_count == 1:
        return f"its unfinished child {named}"
    return (
        f"{_count(it.children_count, CHILDREN_MAX, 'unfinished child', 'unfinished children').lower()}, first {named}"
    )


def _child(it: Standing) -> str:
    first = it.children[0]
    return f"{show_execution(first.id)} ({first.target}, {first.state.value})"


def _beat(it: Standing, one: Process) -> str:
    silent = duration(one.silent_seconds(it.now))
    return f"its last heartbeat came {silent} ago, one is due every {one.heartbeat_seconds:g} s"


def _by_a_person(done: str, word: Word | None) -> str:
    return f"A person {done} it" + ("" if word is None else f" at {_at(word.at)}{_because(word.reason)}")


def _cancelled_by(word: Word) -> str:
    """A person, or the end of its parent."""
    if word.reason in PARENT_HAD:
        return f"It was cancelled at {_at(word.at)} because its parent had {PARENT_HAD[word.reason]},"
    return _by_a_person("cancelled", word)


def _of(failure: Failure) -> str:
    kind = "" if failure.error_class is None else f": {_words(failure.error_class)}"
    return kind + _because(None if failure.error is None else error_text(failure.error))


def _because(reason: str | None) -> str:
    return f" ({_words(reason)})" if reason else ""


def _words(text: str) -> str:
    """Somebody else's words on one line, clipped."""
    line = " ".join(text.split())
    return line if len(line) <= WORDS_MAX else line[: WORDS_MAX - 1] + "…"


def _count(n: int, most: int, one: str, many: str | None = None) -> str:
    if n > most:
        return f"More than {most:,} {many or one + 's'}"
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _are(n: int) -> str:
    return "is" if n == 1 else "are"


def _route(it: Standing, name: str, method: str = "GET") -> str:
    return f"{method} /api/v1/executions/{show_execution(it.id)}/{name}"


def _at(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
