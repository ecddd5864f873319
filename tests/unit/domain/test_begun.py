"""What is remembered of an attempt that began as it was accepted."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from controlplane.domain.begun import KEPT_MAX, KEPT_SECONDS, PAYLOAD_MAX, Begun, Seen
from controlplane.domain.execution import Submission, Wording
from controlplane.domain.ids import SessionId
from controlplane.domain.lease import Fence
from tests.make import make_id, new_execution_id, submission, webhook

AT = datetime(2026, 1, 1, tzinfo=UTC)
SESSION = SessionId(make_id(0))
NOW = 1_000.0


def keep(begun: Begun, item: Submission, now: float = NOW) -> None:
    begun.keep(item, session_id=SESSION, version=7, at=AT, now=now)


def kept(item: Submission, *, after: float = 0.0) -> Seen | None:
    begun = Begun()
    keep(begun, item)
    return begun.take(Fence(item.id, 1), now=NOW + after)


def test_it_is_known_as_it_stood() -> None:
    """What was asked, whom to tell, and which version of the row that was."""
    hook = webhook(attempts_max=3)
    wish = submission(webhooks=(hook, replace(hook, wording=Wording.JOB)), context=b"{}", actor_key="a")

    seen = kept(wish)

    assert seen is not None
    assert (seen.version, seen.open, seen.at) == (7, False, AT)
    assert (seen.held.id, seen.held.attempt, seen.held.session_id) == (wish.id, 1, SESSION)
    assert (seen.held.started_at, seen.held.webhooks) == (AT, 2)
    assert [(one.n, one.url, one.attempts_max) for one in seen.hooks] == [(1, hook.url, 3), (2_002, hook.url, 3)]
    assert {(one.context, one.actor_key, one.created_at) for one in seen.hooks} == {(b"{}", "a", AT)}


def test_its_moment_goes_on() -> None:
    """It stands so much later as has passed here."""
    seen = kept(submission(), after=1.5)

    assert seen is not None
    assert (seen.at, seen.held.started_at) == (AT + timedelta(seconds=1.5), AT)


def test_it_is_told_once() -> None:
    """Whoever asks again has to look: the first answer may have been lost, and more may have changed."""
    begun, wish = Begun(), submission()
    keep(begun, wish)

    assert begun.take(Fence(wish.id, 1), now=NOW) is not None
    assert begun.take(Fence(wish.id, 1), now=NOW) is None


def test_it_is_known_until_somebody_says_how_it_went() -> None:
    """And only where it was asked."""
    begun, wish = Begun(), submission()
    keep(begun, wish)

    assert begun.knows(wish.id, wish.namespace)
    assert not begun.knows(wish.id, wish.namespace + 1)
    assert not begun.knows(new_execution_id(), wish.namespace)
    begun.take(Fence(wish.id, 1), now=NOW)
    assert not begun.knows(wish.id, wish.namespace)


def test_what_has_ended_is_forgotten() -> None:
    """Also what others have ended."""
    begun, wish, other = Begun(), submission(), submission()
    keep(begun, wish)
    keep(begun, other)

    begun.forget([wish.id, new_execution_id()])

    assert not begun.knows(wish.id, wish.namespace)
    assert begun.take(Fence(wish.id, 1), now=NOW) is None
    assert begun.knows(other.id, other.namespace)


def test_another_attempt_is_not_known() -> None:
    """Only the first began as it was accepted."""
    begun, wish = Begun(), submission()
    keep(begun, wish)

    assert begun.take(Fence(wish.id, 2), now=NOW) is None


def test_what_takes_long_is_looked_at() -> None:
    """Its row has most probably been written since, and two clocks part."""
    assert kept(submission(), after=KEPT_SECONDS) is not None
    assert kept(submission(), after=KEPT_SECONDS + 0.1) is None


def test_who_has_more_to_tell_is_not_kept() -> None:
    """Of a child's end its parent is told; a large context is not held in memory."""
    not_kept: list[dict[str, Any]] = [{"parent_id": new_execution_id()}, {"context": b"x" * (PAYLOAD_MAX + 1)}]

    assert [kept(submission(**over)) for over in not_kept] == [None, None]
    assert kept(submission(context=b"x" * PAYLOAD_MAX)) is not None


def test_no_more_are_kept_than_the_most() -> None:
    """The oldest is forgotten first."""
    begun, first, last = Begun(), submission(), submission()
    keep(begun, first)
    for _ in range(KEPT_MAX - 1):
        keep(begun, submission())
    keep(begun, last)

    assert len(begun) == KEPT_MAX
    assert begun.take(Fence(first.id, 1), now=NOW) is None
    assert begun.take(Fence(last.id, 1), now=NOW) is not None


def test_the_old_are_forgotten_as_others_come() -> None:
    """What never ended here holds no memory."""
    begun = Begun()
    for n in range(3):
        keep(begun, submission(), now=NOW + n)

    keep(begun, submission(), now=NOW + KEPT_SECONDS + 1.5)

    assert len(begun) == 2
