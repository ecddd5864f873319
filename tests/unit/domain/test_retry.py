"""The wait before a failed attempt is tried again."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.retry import RetryPolicy, delay_seconds

FAST = settings(max_examples=50, deadline=None)
policies = st.builds(
    RetryPolicy,
    delay_seconds=st.floats(0, 1e9),
    factor=st.floats(1, 1e9),
    cap_seconds=st.floats(0, 1e9),
)


@pytest.mark.parametrize(("failures", "seconds"), [(1, 5), (2, 10), (3, 20), (7, 300), (8, 300), (5_000, 300)])
def test_doubles_up_to_the_cap(failures: int, seconds: float) -> None:
    """5, 10, 20 … 300 seconds, by default."""
    assert delay_seconds(RetryPolicy(), failures=failures) == seconds


@pytest.mark.parametrize(
    ("policy", "seconds"),
    [
        (RetryPolicy(delay_seconds=3, factor=1), 3),
        (RetryPolicy(delay_seconds=0, factor=9), 0),
        (RetryPolicy(delay_seconds=50, cap_seconds=20), 20),
        (RetryPolicy(delay_seconds=50, cap_seconds=0), 0),
    ],
)
def test_odd_policies(policy: RetryPolicy, seconds: float) -> None:
    """A constant wait, none at all, and a cap below the first wait."""
    assert delay_seconds(policy, failures=10) == seconds


def test_jitter_only_adds() -> None:
    """Up to a fifth; nothing is tried earlier than promised."""
    assert delay_seconds(RetryPolicy(), failures=1, jitter=0.0) == 5
    assert delay_seconds(RetryPolicy(), failures=1, jitter=0.5) == pytest.approx(5.5)


def test_jitter_is_a_share_of_the_wait() -> None:
    """None at all, or up to the whole wait once more."""
    assert delay_seconds(RetryPolicy(jitter=0.0), failures=1, jitter=0.9) == 5
    assert delay_seconds(RetryPolicy(jitter=1.0), failures=1, jitter=0.5) == pytest.approx(7.5)


@pytest.mark.parametrize(
    ("fatal", "only", "error_class", "retried"),
    [
        ((), (), "Boom", True),
        ((), (), None, True),
        (("Boom",), (), "Boom", False),
        (("Boom",), (), "Boomerang", True),
        (("Boom*",), (), "Boomerang", False),
        (("*",), (), "Boom", False),
        (("*",), (), None, True),
        ((), ("Timeout", "HTTP 5*"), "HTTP 503", True),
        ((), ("Timeout", "HTTP 5*"), "HTTP 429", False),
        ((), ("Timeout",), None, False),
        (("HTTP 501",), ("HTTP 5*",), "HTTP 501", False),
        (("HTTP 501",), ("HTTP 5*",), "HTTP 502", True),
    ],
)
def test_which_errors_are_tried_again(
    fatal: tuple[str, ...], only: tuple[str, ...], error_class: str | None, retried: bool
) -> None:
    """By their exact name or its beginning; what is fatal comes first, and what has no class is none that is named."""
    assert RetryPolicy(fatal_errors=fatal, retry_errors=only).retries(error_class) is retried


@FAST
@given(policies, st.integers(1, 40_000))
def test_the_wait_can_always_be_computed(policy: RetryPolicy, failures: int) -> None:
    """A finite number between nothing and the cap, however steep the policy and however long the row."""
    wait = delay_seconds(policy, failures=failures)

    assert math.isfinite(wait)
    assert 0 <= wait <= policy.cap_seconds


@FAST
@given(policies, st.integers(1, 200))
def test_the_wait_never_shrinks(policy: RetryPolicy, failures: int) -> None:
    """After one more failure it is at least as long."""
    assert delay_seconds(policy, failures=failures + 1) >= delay_seconds(policy, failures=failures)
