"""The count that a replica keeps of a namespace, without a database: never lower than what it let in itself."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.api.caps import Caps, Standing
from controlplane.domain.cap import PASSING, Cap, reached
from controlplane.errors import CapReached, NamespaceFull
from tests.make import submission

DEFAULTS: dict[Cap, int | None] = dict.fromkeys(Cap, None) | {Cap.EXECUTIONS: 10}


@pytest.fixture
def caps() -> Caps:
    nothing: Any = None  # it asks nobody here
    return Caps(nothing, nothing, defaults=DEFAULTS)


def let_in(caps: Caps, count: int, *, accepted: bool = True) -> tuple[int, int]:
    """How many of so many found room, and how many did not."""
    with caps.passing([submission() for _ in range(count)]) as passing:
        for item in passing.items if accepted else []:
            passing.settle(item.namespace)
    return len(passing.items), len(passing.full)


def test_what_is_let_in_is_counted_at_once(caps: Caps) -> None:
    """Nobody is asked for it, and the last ones find no room."""
    assert [let_in(caps, 6) for _ in range(3)] == [(6, 0), (4, 2), (0, 6)]
    assert caps.full(1)
    assert not caps.full(2)


def test_what_was_not_accepted_takes_no_room(caps: Caps) -> None:
    """A replay, a refusal, or a flush that failed."""
    assert let_in(caps, 10, accepted=False) == (10, 0)
    with pytest.raises(RuntimeError), caps.passing([submission() for _ in range(10)]):
        raise RuntimeError

    assert let_in(caps, 10) == (10, 0)


def test_what_is_on_its_way_takes_room(caps: Caps) -> None:
    """Two flushes at once do not both fill it."""
    with caps.passing([submission() for _ in range(8)]):
        assert let_in(caps, 4) == (2, 2)


def test_a_count_replaces_what_it_knows_of(caps: Caps) -> None:
    """What came in after it began stays on top of it; an older one changes nothing."""
    standing = Standing(total=7)
    standing.adopt(3, 100.0, total=5)
    standing.adopt(0, 99.0, total=7)

    assert standing.present == 3 + 2


def test_what_an_old_census_does_not_know_is_not_forgotten() -> None:
    """What came in between the look before it and the census counts twice rather than not at all."""
    standing = Standing()
    for moment, total in ((10.0, 4), (12.0, 9), (14.0, 20)):
        standing.marks.append((moment, total))
    standing.total = 21

    assert [standing.total_at(moment) for moment in (9.0, 10.0, 13.9, 15.0)] == [0, 4, 9, 20]


@pytest.mark.parametrize("cap", Cap, ids=str)
def test_every_cap_says_what_to_do(cap: Cap) -> None:
    """With what there may be and what there is; 429 for what comes free by itself."""
    error = reached(cap, most=5, present=7)

    assert type(error) is (NamespaceFull if cap in PASSING else CapReached)
    assert error.fix is not None
    assert "/caps" in error.fix
    assert error.facts == {"cap": cap.value, "most": 5, "present": 7}


def test_a_flush_of_several_namespaces(caps: Caps) -> None:
    """One that is full keeps none of the others out."""
    let_in(caps, 10)

    with caps.passing([submission(), submission(namespace=7), submission(namespace=8)]) as passing:
        assert [item.namespace for item in passing.items] == [7, 8]
        assert [item.namespace for item in passing.full] == [1]
