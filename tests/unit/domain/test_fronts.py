"""Where a look for work begins while old snapshots are held."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from controlplane.domain.fronts import LATE, LINES_MAX, LOOK_SECONDS, PRIORITIES_MAX, Front, Fronts

AT = datetime(2026, 1, 1, tzinfo=UTC)
PLACE = (0, 1)


def pinned() -> Fronts:
    """Both lines have just been looked at from their beginning."""
    made = Fronts()
    made.pin(True)
    assert made.of(*PLACE, ["a", "b"], now=0.0) == []
    return made


def test_while_nobody_holds_a_snapshot_all_is_looked_at() -> None:
    """What was found while somebody did is forgotten, too."""
    fronts = pinned()
    fronts.took(*PLACE, [("a", 0, AT)])
    fronts.pin(False)
    calm = fronts.of(*PLACE, ["a"], now=0.0)
    fronts.took(*PLACE, [("a", 0, AT)])
    fronts.pin(True)
    fronts.of(*PLACE, ["a"], now=0.0)

    assert calm == []
    assert fronts.of(*PLACE, ["a"], now=1.0) == []


def test_it_begins_where_work_was_found_last() -> None:
    """In the order of the targets, the most urgent first, and never before a place that it has been at."""
    fronts = pinned()
    later = AT + timedelta(minutes=1)
    fronts.took(*PLACE, [("b", 0, later), ("b", 5, AT), ("a", -1, AT), ("b", 0, AT)])

    assert fronts.of(*PLACE, ["a", "b"], now=1.0) == [
        Front("a", -1, AT - LATE),
        Front("b", 5, AT - LATE),
        Front("b", 0, later - LATE),
    ]
    assert fronts.of(1, 1, ["a", "b"], now=1.0) == []


def test_it_looks_from_the_beginning_now_and_then() -> None:
    """Each line by itself, and where nothing is known yet always."""
    fronts = pinned()
    fronts.took(*PLACE, [("a", 0, AT)])
    known = [Front("a", 0, AT - LATE)]

    assert fronts.of(*PLACE, ["a", "b"], now=LOOK_SECONDS - 0.1) == known  # of b there is no place
    assert fronts.of(*PLACE, ["a"], now=LOOK_SECONDS) == []
    assert fronts.of(*PLACE, ["a"], now=LOOK_SECONDS + 0.1) == known
    assert fronts.of(*PLACE, ["a"], now=2 * LOOK_SECONDS) == []


def test_it_is_bounded() -> None:
    """In lines, and a line with too many priorities is looked at as ever."""
    fronts = pinned()
    fronts.took(*PLACE, [("a", priority, AT) for priority in range(PRIORITIES_MAX + 1)])
    crowded = fronts.of(*PLACE, ["a"], now=1.0)
    fronts.took(*PLACE, [("b", 0, AT)])
    for n in range(LINES_MAX + 2):
        fronts.of(*PLACE, [f"t{n}"], now=1.0)

    assert crowded == []
    assert fronts.of(*PLACE, ["b"], now=1.0) == []
