"""How many wrong keys an address may send, by a clock that stands still until it is told to go on."""

from __future__ import annotations

import logging

import pytest

from controlplane.api.guesses import Guesses
from controlplane.api.rate import CALLERS_MAX
from controlplane.errors import RateLimited


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guesses(clock: Clock) -> Guesses:
    return Guesses(per_minute=3, clock=clock)


def taken(guesses: Guesses, host: str, times: int) -> int:
    """How many of so many are looked at."""
    done = 0
    for _ in range(times):
        try:
            guesses.begin(host)
        except RateLimited:
            continue
        done += 1
    return done


def test_so_many_a_minute(guesses: Guesses, clock: Clock) -> None:
    """Each address by itself; after a minute as many again."""
    assert (taken(guesses, "192.0.2.1", 10), taken(guesses, "192.0.2.2", 10)) == (3, 3)
    clock.now += 60

    assert taken(guesses, "192.0.2.1", 10) == 3


def test_the_wait_that_is_said_is_enough(guesses: Guesses, clock: Clock) -> None:
    """And short: a key that was never seen here has its turn soon."""
    taken(guesses, "192.0.2.1", 3)
    with pytest.raises(RateLimited) as refused:
        guesses.begin("192.0.2.1")
    seconds = refused.value.facts["retry_after_seconds"]
    assert isinstance(seconds, int)
    clock.now += seconds

    assert seconds <= 20
    assert taken(guesses, "192.0.2.1", 1) == 1


def test_a_right_key_counts_for_nothing(guesses: Guesses) -> None:
    """However many of them there are."""
    for _ in range(10):
        guesses.begin("192.0.2.1")
        guesses.right("192.0.2.1")

    assert taken(guesses, "192.0.2.1", 10) == 3


def test_one_network_is_one_address(guesses: Guesses) -> None:
    """Who has 2^64 addresses does not guess 2^64 times as often."""
    assert sum(taken(guesses, f"2001:db8::{n}", 1) for n in range(10)) == 3


def test_it_is_said_once_a_minute(guesses: Guesses, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """And not for every key that is tried."""
    for _ in range(2):
        taken(guesses, "192.0.2.1", 50)
        clock.now += 60

    assert [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING] == ["keys.guessed"] * 2


def test_memory_is_bounded(guesses: Guesses) -> None:
    """Of more addresses than that the oldest is forgotten."""
    for n in range(CALLERS_MAX + 10):
        taken(guesses, f"10.{n // 65_536}.{n // 256 % 256}.{n % 256}", 4)

    assert len(guesses) == CALLERS_MAX
