"""A breaker: a host that fails again and again is left alone for a while, and asked once whether it is there again.

It speaks about the host, not about one path of it: whoever answers 404 or 500 is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from controlplane.domain.delivery import Attempt, AttemptOutcome

FAILURES_MAX = 5
"""Straight failures of a host that open its breaker."""

OPEN_SECONDS = 5.0
OPEN_SECONDS_MAX = 300.0
"""How long it is open: doubled with each probe that fails, up to this."""

WINDOWS_MAX = 16
HOLD_SECONDS_MAX = 3_600.0
"""What a host may ask for at most by `Retry-After`."""

GIVE_UP_SECONDS = 7 * 86_400.0
"""How long a delivery may be due and held back by an open breaker before it is dead."""

AGAINST = frozenset({429, 502, 503, 504})
HOLDS = frozenset({429, 503})

_OURS = "request:"  # we could not send it, whoever was to have it


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one attempt says about its host. `answered`: it is there; None: nothing was learnt.

    `probe`: it was the one attempt that an open breaker lets through.
    """

    host: str
    namespace: int
    answered: bool | None
    probe: bool = False
    hold_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """How it stands: `failures` in a row, and the `windows` it has been open for in a row; 0 is closed.

    `open_seconds`: from now on; None leaves the window as it is.
    """

    failures: int = 0
    windows: int = 0
    open_seconds: float | None = None


def said_by(attempt: Attempt, *, host: str, namespace: int, probe: bool) -> Said:
    """What this attempt says about its host."""
    held = attempt.retry_after_seconds if attempt.http_status in HOLDS else None
    return Said(
        host=host,
        namespace=namespace,
        answered=_answered(attempt),
        probe=probe,
        hold_seconds=0.0 if held is None else min(held, HOLD_SECONDS_MAX),
    )


def _answered(attempt: Attempt) -> bool | None:
    if attempt.outcome in (AttemptOutcome.REFUSED, AttemptOutcome.UNKNOWN):
        return None
    if attempt.http_status is not None:
        return attempt.http_status not in AGAINST
    return None if (attempt.error or "").startswith(_OURS) else False


def after(breaker: Breaker, said: Iterable[Said]) -> Breaker:
    """How it stands after these, which came at the same time: one answer among them closes it.

    Of an open breaker only the probe decides: what was under way when it opened tells nothing new.
    """
    heard = list(said)
    if any(one.answered for one in heard):
        return Breaker()
    against = sum(one.answered is False for one in heard)
    failures = breaker.failures + against
    probes = [one for one in heard if one.probe]
    if not breaker.windows:
        return _open(failures, 1) if failures >= FAILURES_MAX else Breaker(failures=failures)
    if any(one.answered is False for one in probes):
        return _open(failures, breaker.windows + 1)
    again = 0.0 if probes else None  # nothing was learnt: another may ask at once
    return Breaker(failures=failures, windows=breaker.windows, open_seconds=again)


def _open(failures: int, windows: int) -> Breaker:
    return Breaker(failures=failures, windows=min(windows, WINDOWS_MAX), open_seconds=open_seconds(windows))


def open_seconds(windows: int) -> float:
    """How long the `windows`-th window in a row is (from 1): 5, 10, 20 … up to 300 seconds."""
    return min(OPEN_SECONDS * 2.0 ** (min(windows, WINDOWS_MAX) - 1), OPEN_SECONDS_MAX)
