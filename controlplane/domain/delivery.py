"""A delivery: the duty to tell one URL about one event. What an attempt came to, and when the next one is due."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal
from uuid import UUID

RESPONSE_BYTES_MAX = 16 * 1024
"""How much of a receiver's answer is kept."""

ERROR_CHARS_MAX = 300

USER_AGENT = "controlplane-webhook/1"
"""What a receiver is told about who sends."""
ENDPOINT = "ep"
"""How the id of a registered endpoint begins on the wire."""

FIRST_DELAY_SECONDS = 5.0
DELAY_CAP_SECONDS = 300.0

_SECONDS = re.compile(r"[0-9]{1,9}")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH, _TIME = rf"(?P<month>{'|'.join(_MONTHS)})", r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_SHORT, _LONG = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)", "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_DATES = (  # RFC 9110 §5.6.7: the form to send, and the two old ones a recipient must still read
    re.compile(rf"{_SHORT}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT"),
    re.compile(rf"{_LONG}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT"),
    re.compile(rf"{_SHORT} {_MONTH} (?P<day>[ 0-9][0-9]) {_TIME} (?P<year>[0-9]{{4}})"),
)


class DeliveryState(StrEnum):
    """Where a delivery stands; `delivered` and `dead` are final."""

    PENDING = "pending"
    LEASED = "leased"
    DELIVERED = "delivered"
    DEAD = "dead"


class AttemptOutcome(StrEnum):
    """What one attempt came to.

    `refused`: nothing was sent, we may not or cannot call that URL. `unknown`: the dispatcher died before it knew.
    """

    DELIVERED = "delivered"
    FAILED = "failed"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at telling a receiver.

    `error` is a short class, a colon and a sentence (`timeout: …`); it holds neither the URL nor the receiver's words.
    `final` forbids another try: the receiver is gone (410), or the URL may not be called.
    """

    outcome: AttemptOutcome
    http_status: int | None
    latency_ms: int
    error: str | None
    response_body: bytes
    retry_after_seconds: float | None
    final: bool


def sealed_for(execution_id: UUID, n: int, what: Literal["secret", "headers"]) -> bytes:
    """What a sealed value of the `n`-th webhook is bound to: moved to another row it does not open."""
    return b"webhook:%b:%d:%b" % (execution_id.bytes, n, what.encode())


def backoff_seconds(failures: int, *, schedule: Sequence[float] | None = None, jitter: float = 0.0) -> float:
    """Seconds to wait after the `failures`-th failed attempt (from 1): 5, 10, 20, 40 … up to 300, or by `schedule`.

    A schedule that has run out repeats its last entry. `jitter` in [0, 1) adds up to a fifth and never takes away:
    an attempt is not made earlier than promised.
    """
    if failures < 1:
        raise ValueError("failures counts from 1")
    if not 0 <= jitter < 1:
        raise ValueError("jitter must be in [0, 1)")
    if schedule:
        delay = schedule[min(failures, len(schedule)) - 1]
    else:  # the exponent is bounded before it is raised: 2 ** 5000 would overflow
        delay = min(FIRST_DELAY_SECONDS * 2 ** min(failures - 1, 16), DELAY_CAP_SECONDS)
    return delay * (1 + 0.2 * jitter)


def parse_retry_after(text: str | None, *, now: datetime) -> float | None:
    """Seconds a receiver asks us to wait (RFC 9110 §10.2.3), or None if it says nothing that can be understood.

    Strict, because `int()` also reads `-5`, ` 10 ` and digits of other scripts. The caller caps the answer.
    """
    if text is None:
        return None
    if _SECONDS.fullmatch(text):
        return float(text)
    until = _http_date(text, now=now)
    return None if until is None else max(0.0, (until - now).total_seconds())


def _http_date(text: str, *, now: datetime) -> datetime | None:
    found = next((match for pattern in _DATES if (match := pattern.fullmatch(text))), None)
    if found is None:
        return None
    year = int(found["year"])
    if len(found["year"]) == 2:  # a two-digit year more than 50 years ahead means the last century
        year += now.year // 100 * 100
        year -= 100 if year > now.year + 50 else 0
    month = _MONTHS.index(found["month"]) + 1
    hour, minute, second = int(found["hour"]), int(found["minute"]), int(found["second"])
    try:
        return datetime(year, month, int(found["day"]), hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
