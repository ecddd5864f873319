"""Places: however many hosts hang, there is room for those that answer."""

from __future__ import annotations

from uuid import UUID

from controlplane.daemons.places import KNOWN_AT_ONCE, KNOWN_MAX, Places
from controlplane.domain.breaker import Said
from controlplane.domain.ids import DeliveryId
from controlplane.stages.deliver import Due


def due(host: str = "h:1", *, failing: bool = False) -> Due:
    return Due(
        id=DeliveryId(UUID(int=0)),
        namespace=1,
        execution_id=UUID(int=0),
        webhook_n=1,
        event="execution.completed",
        host=host,
        url=f"http://{host}",
        body=b"{}",
        attempt=1,
        charged=0,
        attempts_max=5,
        secret_sealed=None,
        headers_sealed=None,
        now_seconds=0.0,
        failing=failing,
    )


def answered(host: str, *, answered: bool | None = True) -> Said:
    return Said(host=host, namespace=1, answered=answered)


def room(places: Places) -> tuple[int, int, int]:
    return places.free, places.for_strangers, places.for_failing


def test_strangers_and_those_that_fail_have_their_share() -> None:
    """Half for hosts that fail, three quarters with those of whom nothing is known, all for those that answer."""
    places = Places(in_flight_max=16, per_host_max=16)
    places.learn(answered("good:1"))
    empty = room(places)
    for n in range(8):
        places.take(due(f"bad{n}:1", failing=True))
    failing = room(places)
    for n in range(4):
        places.take(due(f"new{n}:1"))
    strangers = room(places)
    for _ in range(4):
        places.take(due("good:1"))

    assert (empty, failing, strangers, room(places)) == ((16, 12, 8), (8, 4, 0), (4, 0, 0), (0, 0, 0))


def test_a_place_is_given_back_as_what_it_was_taken_for() -> None:
    """Though the host has answered meanwhile."""
    places = Places(in_flight_max=16, per_host_max=2)
    taken = [places.take(due()), places.take(due())]
    places.learn(answered("h:1"))
    full = places.full_hosts(1)
    for one in taken:
        places.give_back(one)

    assert (full, places.full_hosts(1), room(places)) == (["h:1"], [], (16, 12, 8))


def test_who_hangs_is_not_known_any_more() -> None:
    """The last word counts; a refusal of our own is none."""
    places = Places(in_flight_max=16, per_host_max=16)
    places.recall([("a:1", 1), ("b:1", 1)])
    places.learn(answered("a:1", answered=None))
    places.learn(answered("b:1", answered=False))

    assert places.next_known() == ([("a:1", 1)], False)


def test_the_known_come_in_turn_and_are_not_endless() -> None:
    """Some at once, all in the end; the one that was silent for longest makes room."""
    places = Places(in_flight_max=16, per_host_max=16)
    for n in range(KNOWN_MAX + 1):
        places.learn(answered(f"{n}:1"))
    rounds = [places.next_known() for _ in range(KNOWN_MAX // KNOWN_AT_ONCE)]
    seen = {place for some, _ in rounds for place in some}

    assert len(seen) == KNOWN_MAX
    assert [more for _, more in rounds] == [True] * (len(rounds) - 1) + [False]
    assert ("0:1", 1) not in seen


def test_one_place_is_enough() -> None:
    """With a single place everybody may have it, in turn."""
    assert room(Places(in_flight_max=1, per_host_max=1)) == (1, 1, 1)
