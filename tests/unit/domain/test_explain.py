"""The sentence for every cause, word for word, and what decides which it is."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from controlplane.domain.execution import Status
from controlplane.domain.explain import Cause, duration, explain
from controlplane.domain.lease import Transport
from controlplane.domain.standing import AHEAD_MAX, Line
from tests.standings import LATE, SAMPLES, ago, called, ended, leased, process, ready

CHILD = "exec_00000000000000000000000002"

SENTENCES = {
    "all paused": "all_paused: Everything is paused by ops since 2030-01-01T11:45:00Z: the upstream is down.",
    "node paused": "node_paused: Node n is paused by ops since 2030-01-01T11:45:00Z.",
    "reasoner paused": ("reasoner_paused: Reasoner n.echo is paused since 2030-01-01T11:45:00Z: the upstream is down."),
    "drained": (
        "node_draining: Node n was asked to drain by ops at 2030-01-01T11:59:00Z (update): it finishes what it runs "
        "and takes nothing new."
    ),
    "no node": (
        "no_node: No process of node n, which serves n.echo, is connected; the last one was gone at "
        "2030-01-01T11:00:00Z."
    ),
    "no node, nobody knows since when": (
        "no_node: No process of node n, which serves n.echo, is connected; the node registered at 2029-12-31T12:00:00Z."
    ),
    "draining": "node_draining: Node n is draining: it finishes what it runs and takes nothing new.",
    "late": "node_late: Node n is late: its last heartbeat came 45 s ago, one is due every 10 s.",
    "unreachable": (
        "node_unreachable: Node n, which is called, is silent: its last heartbeat came 45 s ago, one is due every 2 s."
    ),
    "full": (
        "node_full: Node n is full: 16 of 16 slots are taken; 12 executions of n.echo are before it, about 2 min away."
    ),
    "full, and next": "node_full: Node n is full: 8 of 8 slots are taken; it is the next.",
    "behind": "queued_behind: 12 executions of n.echo are before it, which take about 2 min.",
    "behind one": "queued_behind: 1 execution of n.echo is before it.",
    "behind many": "queued_behind: More than 1,000 executions of n.echo are before it.",
    "next": "next: It is the next of n.echo, and node n has a free slot.",
    "retrying": ("retrying: Attempt 2 failed: Boom (no way); it is tried again at 2030-01-01T12:00:20Z, retry 2 of 3."),
    "not reached": (
        "node_unreachable: Node n could not be reached for attempt 2; it is called again at 2030-01-01T12:00:20Z."
    ),
    "no room": "node_full: Node n had no room for attempt 2; it is called again at 2030-01-01T12:00:20Z.",
    "taken back": (
        "taken_back: Attempt 2 was taken back (server_unreachable); it begins again at 2030-01-01T12:00:20Z."
    ),
    "scheduled": "scheduled: It begins at 2030-01-01T12:00:20Z.",
    "paused": "paused: A person paused it at 2030-01-01T11:59:50Z (hold on).",
    "pausing": (
        "pausing: A person paused it at 2030-01-01T11:59:50Z; attempt 1 still goes on to its end on node n, and what "
        "comes after it waits."
    ),
    "blocked": (
        f"blocked: key:tools allows 2 at once, held by {CHILD} and 1 more; 4 executions of that line are before it."
    ),
    "blocked, and next": "blocked: key:tools allows 0 at once, held by nobody; it is the next.",
    "rate": (
        "rate_limited: key:tools lets 10 begin in any 60 s; the next may begin at 2030-01-01T12:00:40Z; it is the next."
    ),
    "turn": (
        "waiting_for_turn: 32 of run-a are ready for n.echo already, so that others may pass; 12 executions of that "
        "line are before it, about 78 s away."
    ),
    "let in": "let_in: key:tools has room for it; it is the next, and it is about to be let in.",
    "approval": (
        "waiting_for_approval: Attempt 1 waits since 2030-01-01T11:59:30Z for people to decide r-1; without an answer "
        "it goes on as expired at 2030-01-01T13:00:00Z."
    ),
    "child": (
        f"waiting_for_child: Attempt 1 waits since 2030-01-01T11:59:30Z for its unfinished child {CHILD} "
        "(n.child, ready)."
    ),
    "children": (
        "waiting_for_child: Attempt 1 waits since 2030-01-01T11:59:30Z for 3 unfinished children, first "
        f"{CHILD} (n.child, ready)."
    ),
    "something": "waiting: Attempt 1 waits since 2030-01-01T11:59:30Z (something).",
    "sleeping": "sleeping: It sleeps until 2030-01-01T13:00:00Z; then attempt 2 goes on where it stopped.",
    "sleeping, or woken": (
        "sleeping: It sleeps until 2030-01-01T13:00:00Z (or 2 more steps); then attempt 2 goes on where it stopped."
    ),
    "event": "waiting_for_event: It waits since 2030-01-01T11:59:30Z for the event deploy.approved.",
    "event, and more": (
        "waiting_for_event: It waits since 2030-01-01T11:59:30Z for the event deploy.approved (and 1 more step); "
        "without it it goes on at 2030-01-01T12:01:00Z."
    ),
    "approval, without a lease": (
        'waiting_for_approval: It waits since 2030-01-01T11:59:30Z, without a lease, for people to decide "Deploy '
        '1.2?"; without an answer it goes on as expired at 2030-01-01T13:00:00Z.'
    ),
    "children, without a lease": (
        "waiting_for_child: It waits since 2030-01-01T11:59:30Z for all of its children: 3 of 5 have not ended, first "
        f"{CHILD} (n.child, ready)."
    ),
    "any child, without a lease": (
        "waiting_for_child: It waits since 2030-01-01T11:59:30Z for any of its children: 2 of 2 have not ended, first "
        f"{CHILD} (n.child, ready)."
    ),
    "cancelling": (
        "cancelling: A person cancelled it at 2030-01-01T11:59:56Z (enough) while attempt 1 ran; it ends as soon as "
        "node n has stopped it, at 2030-01-01T12:00:06Z at the latest."
    ),
    "withdrawing": "withdrawing: Attempt 1 is being taken back from node n.",
    "process gone": (
        "process_gone: The process of node n that ran attempt 1 is gone since 2030-01-01T11:59:58Z (expired); the "
        "attempt is about to be taken back."
    ),
    "holder late": (
        "node_late: Attempt 1 runs on node n, which is late: its last heartbeat came 45 s ago, one is due every 10 s; "
        "if none comes by 2030-01-01T12:00:05Z, the attempt is taken back and begins again."
    ),
    "holder silent": (
        "node_unreachable: Attempt 1 is with node n, which is silent: its last heartbeat came 45 s ago, one is due "
        "every 2 s; if nobody answers at its address, or by 2030-01-01T12:01:15Z, the attempt is taken back and begins "
        "again."
    ),
    "not acknowledged": (
        "not_acknowledged: Attempt 1 was sent to node n at 2030-01-01T11:59:00Z, which has not acknowledged it yet; "
        "after 30 s the node is asked what became of it."
    ),
    "running": "running: Attempt 1 runs on node n since 2030-01-01T11:59:00Z.",
    "running with children": (
        "running: Attempt 1 runs on node n since 2030-01-01T11:59:00Z, with 2 unfinished children, first "
        f"{CHILD} (n.child, ready); it times out at 2030-01-01T12:10:00Z."
    ),
    "succeeded": "succeeded: It succeeded in attempt 2 at 2030-01-01T11:59:55Z.",
    "failed": "failed: It failed in attempt 2 at 2030-01-01T11:59:55Z (no way).",
    "cancelled": "cancelled: It was cancelled at 2030-01-01T11:59:55Z (enough).",
    "timeout": (
        "timeout: It ran out of its time in attempt 2 at 2030-01-01T11:59:55Z: the attempt took longer than "
        "timeout_seconds."
    ),
}


def test_a_cancel_without_a_reason() -> None:
    """Nothing is said twice."""
    found = explain(ended(Status.CANCELLED, error=b'"cancelled"'))

    assert found.sentence == "It was cancelled at 2030-01-01T11:59:55Z."


@pytest.mark.parametrize("name", SAMPLES)
def test_the_sentence(name: str) -> None:
    """Cause and sentence are stable: programs go by the one, people remember the other."""
    found = explain(SAMPLES[name])

    assert f"{found.code}: {found.sentence}" == SENTENCES[name]


def test_every_cause_has_a_sentence() -> None:
    """There is no cause that nothing brings about."""
    assert {explain(one).code for one in SAMPLES.values()} == set(Cause)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_facts_are_json(name: str) -> None:
    """Whatever the cause, its facts can be sent, and name the target."""
    facts = explain(SAMPLES[name]).facts

    assert orjson.loads(orjson.dumps(facts))["target"] == "n.echo"


def test_one_free_process_is_enough() -> None:
    """A node of which one process is full, one late and one draining still has room in the fourth."""
    found = explain(ready(process(held=8), LATE, process(draining=True), process(), line=Line(ahead=2)))

    assert found.code is Cause.QUEUED_BEHIND
    assert (found.facts["slots"], found.facts["slots_taken"], found.facts["ahead"]) == (16, 9, 2)


def test_a_serverless_function_is_never_late() -> None:
    """It sends no heartbeats."""
    found = explain(ready(called(transport=Transport.SERVERLESS, renewed_at=ago(60))))

    assert found.code is Cause.NEXT


def test_a_cancel_comes_before_everything() -> None:
    """Whoever cancelled wants to know when it ends, not that it was paused before or that its node is late."""
    found = explain(replace(SAMPLES["cancelling"], pause_requested=True, holder=LATE))

    assert found.code is Cause.CANCELLING


@pytest.mark.parametrize(
    ("over", "code"),
    [({"accepted": True}, Cause.RUNNING), ({"type": "skill"}, Cause.RUNNING), ({}, Cause.NOT_ACKNOWLEDGED)],
)
def test_only_reasoners_are_acknowledged(over: dict[str, object], code: Cause) -> None:
    """A skill is answered with its result; until then it runs."""
    assert explain(leased(holder=called(), **over)).code is code


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        (Line(ahead=9, finishes=5, seconds=10.0), 20.0),
        (Line(ahead=9, finishes=4, seconds=10.0), None),
        (Line(ahead=AHEAD_MAX + 1, finishes=5, seconds=10.0), None),
        (Line(ahead=9, finishes=5, seconds=0.0), None),
    ],
)
def test_an_estimate_needs_data(line: Line, seconds: float | None) -> None:
    """Fewer than five finishes of late say nothing, nor does a queue that was not counted to its end."""
    assert line.estimate_seconds == seconds


def test_other_peoples_words_are_clipped_to_one_line() -> None:
    """An error may be a book; the sentence stays one."""
    found = explain(ended(SAMPLES["failed"].status, error=orjson.dumps("a\n" * 5_000)))

    assert "\n" not in found.sentence
    assert len(found.sentence) < 300


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.0, "1 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (172_800, "2 days")]
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    """One number, one unit."""
    assert duration(seconds) == said
