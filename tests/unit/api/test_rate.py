"""The bucket of tokens, by a clock that stands still until it is told to go on."""

from __future__ import annotations

import pytest

from controlplane.api.doors import CALLER
from controlplane.api.rate import CALLERS_MAX, Rates, caller_of, namespace_of
from controlplane.domain.key import ANYBODY, Caller


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rates(clock: Clock) -> Rates:
    return Rates(per_second=2, burst=4, clock=clock)


def test_a_burst_and_then_the_rate(rates: Rates, clock: Clock) -> None:
    """Over a long time exactly the rate, plus the burst that came first."""
    allowed = 0
    for _ in range(1_000):
        allowed += rates.take("a").allowed
        clock.now += 0.1

    assert allowed == 4 + 200 - 1


def test_waiting_as_long_as_is_said_is_enough(rates: Rates, clock: Clock) -> None:
    """And not much longer."""
    while (verdict := rates.take("a")).allowed:
        pass
    clock.now += verdict.wait_seconds

    assert verdict.wait_seconds == 1
    assert rates.take("a").allowed


def test_a_bucket_holds_no_more_than_the_burst(rates: Rates, clock: Clock) -> None:
    """Who was away for a year has no year of requests."""
    rates.take("a")
    clock.now += 3e7

    assert [rates.take("a").allowed for _ in range(6)] == [True] * 4 + [False] * 2


def test_callers_do_not_take_from_each_other(rates: Rates) -> None:
    """One that is refused changes nothing for the next."""
    for _ in range(10):
        rates.take("a")

    assert rates.take("b").left == 3


def test_what_is_remembered_has_an_end(rates: Rates) -> None:
    """However many addresses there are; those seen last are kept."""
    for _ in range(5):
        rates.take("busy")
    for n in range(CALLERS_MAX * 2):
        rates.take(str(n))
        if n % 100 == 0:
            assert not rates.take("busy").allowed

    assert len(rates._buckets) == CALLERS_MAX


@pytest.mark.parametrize(
    ("scope", "caller"),
    [
        ({CALLER: Caller(name="ci", namespace=1, scopes=frozenset()), "client": ("192.0.2.1", 1)}, "key ci"),
        ({"client": ("192.0.2.1", 1)}, "192.0.2.1"),
        ({"client": ("::ffff:192.0.2.1", 1)}, "192.0.2.1"),
        ({"client": ("unix", 0)}, "unix"),
        ({"client": None}, ""),
        ({}, ""),
    ],
)
def test_who_is_counted(scope: dict[str, object], caller: str) -> None:
    """The key, else the address; what has neither shares one bucket."""
    assert caller_of(scope) == caller


def test_one_house_is_one_caller() -> None:
    """Of IPv6 a house has 2^64 addresses."""
    one, other, next_door = ({"client": (host, 1)} for host in ("2001:db8::1", "2001:db8::f:2", "2001:db8:0:1::1"))

    assert caller_of(one) == caller_of(other) != caller_of(next_door)


def test_a_namespace_is_counted_by_its_keys() -> None:
    """Who came with none is counted by its address alone, and takes nothing from a namespace."""
    caller = Caller(name="ci", namespace=7, scopes=frozenset())

    assert namespace_of({CALLER: caller}) == "namespace 7"
    assert namespace_of({}) is namespace_of({CALLER: ANYBODY}) is None


def test_what_is_given_back_may_be_taken_again(rates: Rates) -> None:
    """A request that another policy refuses uses nothing up."""
    for _ in range(10):
        rates.take("a")
        rates.give_back("a")

    assert rates.take("a").left == 3
