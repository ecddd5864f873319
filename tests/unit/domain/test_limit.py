"""Limits: keys, what a rate has let go, and whom of a line there is room for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from controlplane.domain.ids import ExecutionId
from controlplane.domain.limit import (
    READY_MAX,
    Candidate,
    Held,
    Limit,
    decide,
    first_line,
    is_key,
    keys_of,
    range_of,
)

EMPTY = Held()


def limit(**over: Any) -> Limit:
    return Limit(namespace=1, key="key:k", **over)


def candidate(n: int, **over: Any) -> Candidate:
    return Candidate(**{"id": ExecutionId(UUID(int=n)), "target": "n.f", "concurrency_key": "k"} | over)


@pytest.mark.parametrize("text", ["reasoner:n.f", "node:n", "node:a:b", "key:openai/gpt 4"])
def test_a_key_says_what_it_counts(text: str) -> None:
    """A reasoner, a node, or whatever was submitted with a key."""
    assert is_key(text)


@pytest.mark.parametrize(
    "text", ["", "n.f", "reasoner:n", "node:n.f", "node:", "key:", "key:\n", "turn:n.f", "other:x"]
)
def test_anything_else_is_no_key(text: str) -> None:
    """Neither a line without a limit."""
    assert not is_key(text)


def test_all_limits_of_an_execution() -> None:
    """Its reasoner, its node, its key; it waits first where a limit is known, and with a key in any case."""
    assert keys_of("n.f", "k") == ("reasoner:n.f", "node:n", "key:k")
    assert first_line("n.f", None, set()) is None
    assert first_line("n.f", "k", set()) == "key:k"
    assert first_line("n.f", "k", {"node:n"}) == "node:n"


@pytest.mark.parametrize(
    ("key", "inside", "outside"),
    [
        ("node:n", ["n.a", "n.zz"], ["n-b.a", "n:b.a", "nn.a", "m.a"]),
        ("reasoner:n.f", ["n.f"], ["n.ff", "n.e", "n.f-"]),
    ],
)
def test_a_range_of_targets(key: str, inside: list[str], outside: list[str]) -> None:
    """Compared as bytes, a node's targets are one range and a reasoner's is itself."""
    low, high = (text.encode() for text in range_of(key))

    assert all(low <= target.encode() < high for target in inside)
    assert not any(low <= target.encode() < high for target in outside)


def test_a_person_overrules_the_node() -> None:
    """Also with a higher number."""
    assert limit(declared_max=2).room(Held(held=1), 0.0) == 1
    assert limit(declared_max=2, concurrency_max=5).room(Held(held=1), 0.0) == 4
    assert limit().room(Held(held=1), 0.0) is None


def test_room_is_never_less_than_none() -> None:
    """More may be held than a lower limit allows."""
    assert limit(concurrency_max=2).room(Held(held=5), 0.0) == 0


def test_no_window_holds_more_than_the_rate() -> None:
    """Spent as fast as there is room, no ten seconds hold more than four beginnings."""
    one, began = limit(rate_max=4, rate_seconds=10.0), list[float]()
    for n in range(1_000):
        now = n * 0.1
        room = one.room(EMPTY, now) or 0
        one = one.spend(room, now)
        began += [now] * room

    assert max(sum(at - 10.0 < other <= at for other in began) for at in began) == 4
    assert len(began) >= 4 * 9
    assert len(one.spent) <= 34


def test_a_rate_says_when_there_is_room() -> None:
    """When enough of what began has left the window, and not a moment before."""
    one = limit(rate_max=2, rate_seconds=32.0).spend(1, 100.5).spend(1, 110.5)
    at = one.next_at(111.0)

    assert at == datetime.fromtimestamp(133.0, UTC)
    assert (one.room(EMPTY, 132.9), one.room(EMPTY, 133.0)) == (0, 1)
    assert one.next_at(133.0) is None


def test_a_full_line_stays_in_order() -> None:
    """Nobody passes whoever waits for the same limit."""
    found = decide("key:k", [candidate(1), candidate(2)], {"key:k": 1}, {})

    assert [one.id.int for one in found.ready] == [1]
    assert found.moved == []


def test_who_waits_for_another_limit_goes_to_its_line() -> None:
    """And lets those pass that need it not."""
    found = decide("key:k", [candidate(1), candidate(2, target="n.g")], {"key:k": 5, "reasoner:n.f": 0}, {})

    assert [(one.id.int, line) for one, line in found.moved] == [(1, "reasoner:n.f")]
    assert [one.id.int for one in found.ready] == [2]


def test_a_fairness_key_leaves_room_in_its_line() -> None:
    """When enough of it are ready, the others of the line pass."""
    crowd = [candidate(n, fairness_key="a") for n in range(3)]
    found = decide("key:k", [*crowd, candidate(9)], {}, {("n.f", "a"): READY_MAX - 1})

    assert [one.id.int for one in found.ready] == [0, 9]
    assert found.turn == ""
