"""Where a look for work begins while old snapshots are held."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from controlplane.domain.fronts import LATE, LINES_MAX, LOOK_SECONDS, PRIORITIES_MAX, Found, Front, Fronts

AT = datetime(2026, 1, 1, tzinfo=UTC)
LATER = AT + timedelta(minutes=1)
PLACE = (0, 1)


def pinned() -> Fronts:
    """Both lines have just been looked at from their beginning."""
    made = Fronts()
    made.pin(True)
    assert made.of(*PLACE, ["a", "b"], now=0.0) == []
    return made


def took(fronts: Fronts, *rows: Found, places: Sequence[Front] = (), cut: bool = False) -> None:
    """By a claim that asked for both; without places it has looked from the beginning."""
    fronts.took(*PLACE, rows, asked=["a", "b"], places=places, cut=cut)


def test_while_nobody_holds_a_snapshot_all_is_looked_at() -> None:
    """What was found while somebody did is forgotten, too."""
    fronts = pinned()
    took(fronts, ("a", 0, AT))
    fronts.pin(False)
    calm = fronts.of(*PLACE, ["a"], now=0.0)
    took(fronts, ("a", 0, AT))
    fronts.pin(True)
    fronts.of(*PLACE, ["a"], now=0.0)

    assert calm == []
    assert fronts.of(*PLACE, ["a"], now=1.0) == []


def test_it_begins_where_work_was_found_last() -> None:
    """In the order of the targets, the most urgent first, and not before a place where it has found all there was."""
    fronts = pinned()
    took(fronts, ("b", 0, LATER), ("b", 5, AT), ("a", -1, AT))
    took(fronts, ("b", 0, AT))

    assert fronts.of(*PLACE, ["a", "b"], now=1.0) == [
        Front("a", -1, AT - LATE),
        Front("b", 5, AT - LATE),
        Front("b", 0, LATER - LATE),
    ]
    assert fronts.of(1, 1, ["a", "b"], now=1.0) == []


def test_where_a_look_from_the_beginning_found_more_than_it_wanted_it_goes_on() -> None:
    """Much became ready in an old place: the next claims take it, whatever one says that began further on."""
    fronts = pinned()
    newest = [Front("a", 0, LATER - LATE)]
    took(fronts, ("a", 0, LATER))
    took(fronts, ("a", 0, AT - LATE), ("a", 0, AT), cut=True)
    set_back = [Front("a", 0, AT - LATE)]
    assert fronts.of(*PLACE, ["a"], now=1.0) == set_back

    took(fronts, ("a", 0, LATER), places=newest, cut=True)
    assert fronts.of(*PLACE, ["a"], now=1.0) == set_back
    took(fronts, ("a", 0, LATER), places=set_back)
    assert fronts.of(*PLACE, ["a"], now=1.0) == newest


def test_a_line_that_had_no_turn_is_looked_at_next() -> None:
    """The claim had enough before it came to it, and the look that was due is due still."""
    fronts = pinned()
    took(fronts, ("a", 0, AT), ("b", 0, AT))
    assert fronts.of(*PLACE, ["a", "b"], now=LOOK_SECONDS) == []
    took(fronts, ("a", 0, LATER), cut=True)

    assert fronts.of(*PLACE, ["a", "b"], now=LOOK_SECONDS) == [Front("a", 0, LATER - LATE)]
    assert fronts.of(*PLACE, ["b"], now=LOOK_SECONDS + 0.1) == [Front("b", 0, AT - LATE)]


def test_it_looks_from_the_beginning_now_and_then() -> None:
    """Each line by itself, and where nothing is known yet always."""
    fronts = pinned()
    took(fronts, ("a", 0, AT))
    known = [Front("a", 0, AT - LATE)]

    assert fronts.of(*PLACE, ["a", "b"], now=LOOK_SECONDS - 0.1) == known  # of b there is no place
    assert fronts.of(*PLACE, ["a"], now=LOOK_SECONDS) == []
    assert fronts.of(*PLACE, ["a"], now=LOOK_SECONDS + 0.1) == known
    assert fronts.of(*PLACE, ["a"], now=2 * LOOK_SECONDS) == []


def test_it_is_bounded() -> None:
    """In lines, and a line with too many priorities is looked at as ever."""
    fronts = pinned()
    took(fronts, *[("a", priority, AT) for priority in range(PRIORITIES_MAX + 1)])
    crowded = fronts.of(*PLACE, ["a"], now=1.0)
    took(fronts, ("b", 0, AT))
    for n in range(LINES_MAX + 2):
        fronts.of(*PLACE, [f"t{n}"], now=1.0)

    assert crowded == []
    assert fronts.of(*PLACE, ["b"], now=1.0) == []
