"""When a delivery is tried again, and what a receiver may ask of us."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from controlplane.domain.delivery import backoff_seconds, parse_retry_after

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def test_default_schedule_doubles_up_to_five_minutes() -> None:
    """5, 10, 20, 40 … and never more than 300 s."""
    assert [backoff_seconds(n) for n in range(1, 10)] == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert backoff_seconds(10**9) == 300


def test_own_schedule_repeats_its_last_entry() -> None:
    """A schedule shorter than the attempts goes on as it ended."""
    assert [backoff_seconds(n, schedule=(1, 60)) for n in (1, 2, 3, 99)] == [1, 60, 60, 60]


def test_empty_schedule_is_the_default() -> None:
    """Nothing given means nothing changed."""
    assert backoff_seconds(1, schedule=()) == 5


@pytest.mark.parametrize("jitter", [0.0, 0.3, 0.999999])
def test_jitter_only_ever_adds(jitter: float) -> None:
    """An attempt is at most a fifth late and never early."""
    for failures in range(1, 12):
        plain = backoff_seconds(failures)
        assert plain <= backoff_seconds(failures, jitter=jitter) < plain * 1.2


@pytest.mark.parametrize(("failures", "jitter"), [(0, 0.0), (-1, 0.0), (1, 1.0), (1, -0.1), (1, float("nan"))])
def test_nonsense_is_refused(failures: int, jitter: float) -> None:
    """Failures count from 1, jitter stays below 1."""
    with pytest.raises(ValueError, match=r"must be|counts"):
        backoff_seconds(failures, jitter=jitter)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("007", 7),
        ("120", 120),
        ("999999999", 999_999_999),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30),
        ("Sunday, 01-Mar-26 12:01:00 GMT", 60),
        ("Sun Mar  1 13:00:00 2026", 3600),
        ("Sun Mar 01 13:00:00 2026", 3600),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
        ("Tuesday, 01-Mar-94 12:00:00 GMT", 0),
    ],
)
def test_retry_after_in_seconds_or_as_any_http_date(text: str, seconds: float) -> None:
    """All forms of RFC 9110 are read; a date gone by means now."""
    assert parse_retry_after(text, now=NOW) == seconds


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        " 10",
        "10 ",
        "10\n",
        "-5",
        "+5",
        "1.5",
        "1e3",
        "1_0",
        "0x10",
        "1" * 10,
        "1" * 5000,
        "\u0661\u0662",
        "inf",
        "nan",
        "soon",
        "Sun, 31 Feb 2026 12:00:00 GMT",
        "Sun, 01 Mar 2026 25:00:00 GMT",
        "Sun, 01 Mar 2026 12:00:60 GMT",
        "Sun, 01 Mar 0000 12:00:00 GMT",
        "Sun, 01 Mar 2026 12:00:00 +0100",
        "Sun, 01 Mar 2026 12:00:00",
        "01 Mar 2026 12:00:00 GMT",
        "Sun Mar    13:00:00 2026",
        "\udcff",
    ],
)
def test_retry_after_that_is_no_such_thing_is_none(text: str | None) -> None:
    """`int()` would take some of these; none is a Retry-After."""
    assert parse_retry_after(text, now=NOW) is None
