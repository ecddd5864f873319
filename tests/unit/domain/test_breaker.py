"""What an attempt says about its host, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from controlplane.domain.breaker import WINDOWS_MAX, Breaker, Said, after, open_seconds, said_by
from controlplane.domain.delivery import Attempt, AttemptOutcome


def attempt(
    status: int | None, error: str | None = None, *, retry_after: float | None = None, refused: bool = False
) -> Attempt:
    """What such an answer comes to, or an attempt without one."""
    delivered = status is not None and 200 <= status < 300
    outcome = AttemptOutcome.DELIVERED if delivered else AttemptOutcome.FAILED
    return Attempt(
        outcome=AttemptOutcome.REFUSED if refused else outcome,
        http_status=status,
        latency_ms=1,
        error=error,
        response_body=b"",
        retry_after_seconds=retry_after,
        final=False,
    )


def said(*answered: bool | None, probe: bool = False) -> list[Said]:
    return [Said(host="h:1", namespace=1, answered=one, probe=probe) for one in answered]


@pytest.mark.parametrize(
    ("one", "answered"),
    [
        *[(attempt(status), True) for status in (200, 204, 301, 308, 400, 404, 410, 500, 501, 999)],
        *[(attempt(status), False) for status in (429, 502, 503, 504)],
        *[(attempt(None, f"{kind}: x"), False) for kind in ("timeout", "connect", "dns", "tls", "protocol")],
        (attempt(None, "disconnected: x"), False),
        (attempt(None, "request: x"), None),
        (attempt(None, "egress_refused: x", refused=True), None),
        (attempt(None, "seal: x", refused=True), None),
    ],
    ids=lambda one: f"{one.http_status or one.error}" if isinstance(one, Attempt) else str(one),
)
def test_what_speaks_against_a_host(one: Attempt, answered: bool | None) -> None:
    """Nobody there, too much to do, a gateway that reaches nobody; a path that fails says that somebody is there."""
    assert said_by(one, host="h:1", namespace=1, probe=False).answered is answered


@pytest.mark.parametrize(
    ("status", "asked", "held"),
    [(429, 30, 30), (503, 30, 30), (429, None, 0), (429, 1e9, 3_600), (503, 0, 0), (500, 30, 0), (502, 30, 0)],
)
def test_what_holds_a_host_back(status: int, asked: float | None, held: float) -> None:
    """`Retry-After` of 429 and 503 speaks for the whole host, for an hour at most."""
    one = said_by(attempt(status, retry_after=asked), host="h:1", namespace=1, probe=False)

    assert one.hold_seconds == held


def told(*batches: Sequence[Said]) -> Breaker:
    now = Breaker()
    for batch in batches:
        now = after(now, batch)
    return now


def test_five_in_a_row_open_it() -> None:
    """Not four, and not five with an answer between them."""
    no, yes = said(False), said(True)

    assert told(no, no, no, no) == Breaker(failures=4)
    assert told(no, no, no, no, yes, no) == Breaker(failures=1)
    assert told(no, no, no, no, no) == Breaker(failures=5, windows=1, open_seconds=5)
    assert told(said(*[False] * 16)) == Breaker(failures=16, windows=1, open_seconds=5)


def test_only_the_probe_prolongs_it() -> None:
    """What was under way when it opened fails as well, and says nothing new."""
    opened = told(said(*[False] * 5))
    more = after(opened, said(False, False))

    assert more == Breaker(failures=7, windows=1)
    assert after(more, said(False, probe=True)) == Breaker(failures=8, windows=2, open_seconds=10)


def test_one_answer_closes_it() -> None:
    """The probe's, or one that was under way; failures beside it count for nothing."""
    opened = told(said(*[False] * 5), said(False, probe=True))

    assert after(opened, said(True)) == after(opened, said(False, True)) == Breaker()


def test_a_probe_that_learns_nothing_makes_room_for_another() -> None:
    """It was refused before anything was sent: the next may ask at once."""
    opened = told(said(*[False] * 5))

    assert after(opened, said(None, probe=True)) == Breaker(failures=5, windows=1, open_seconds=0)
    assert after(opened, said(None)) == Breaker(failures=5, windows=1)
    assert after(Breaker(failures=3), said(None)) == Breaker(failures=3)


def test_windows_double_up_to_their_cap() -> None:
    """5, 10, 20 … and never more than five minutes."""
    assert [open_seconds(n) for n in range(1, 9)] == [5, 10, 20, 40, 80, 160, 300, 300]
    assert open_seconds(10**6) == 300
    assert told(said(*[False] * 5), *[said(False, probe=True)] * 40).windows == WINDOWS_MAX
