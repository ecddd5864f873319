"""Places: who may have how many of the attempts that are under way at once.

A host that hangs holds its places until the deadline of each attempt. So hosts that have not answered lately have half
of the places at most, and together with those of which nothing is known three quarters: ten thousand receivers that
hang delay each other, and leave room for those that answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from controlplane.domain.breaker import Said
from controlplane.observe.gauges import WEBHOOKS_IN_FLIGHT
from controlplane.stages.deliver import Due, Place

FAILING_SHARE = 1 / 2
STRANGERS_SHARE = 3 / 4
KNOWN_MAX = 10_000
KNOWN_AT_ONCE = 200


class Standing(StrEnum):
    """What is known of a host."""

    KNOWN = "known"
    STRANGER = "stranger"
    FAILING = "failing"


@dataclass(frozen=True, slots=True)
class Taken:
    """A place, until it is given back."""

    host: str
    standing: Standing


class Places:
    def __init__(self, *, in_flight_max: int, per_host_max: int) -> None:
        self._most = in_flight_max
        self._per_host_max = per_host_max
        self._by_host: Counter[str] = Counter()
        self._by_standing: Counter[Standing] = Counter()
        self._known: dict[Place, None] = {}
        self._round = 0

    @property
    def free(self) -> int:
        return self._most - self._by_standing.total()

    @property
    def for_strangers(self) -> int:
        """Places for hosts of which nothing good is known."""
        taken = self._by_standing[Standing.STRANGER] + self._by_standing[Standing.FAILING]
        return min(self.free, max(1, int(self._most * STRANGERS_SHARE)) - taken)

    @property
    def for_failing(self) -> int:
        """Places for hosts that have not answered lately, as for any other."""
        return min(self.for_strangers, max(1, int(self._most * FAILING_SHARE)) - self._by_standing[Standing.FAILING])

    def full_hosts(self, more: int) -> list[str]:
        """Hosts that have no room for so many more."""
        return [host for host, busy in self._by_host.items() if busy + more > self._per_host_max]

    def next_known(self) -> tuple[Sequence[Place], bool]:
        """Some hosts that have answered lately, all in turn; and whether this round has more of them."""
        some = [place for place, _ in zip(self._known, range(KNOWN_AT_ONCE), strict=False)]
        for place in some:
            self._known[place] = self._known.pop(place)
        self._round += len(some)
        more = self._round < len(self._known)
        if not more:
            self._round = 0
        return some, more

    def take(self, due: Due) -> Taken:
        place = Taken(due.host, self._standing(due))
        self._by_host[place.host] += 1
        self._by_standing[place.standing] += 1
        WEBHOOKS_IN_FLIGHT.inc()
        return place

    def give_back(self, place: Taken) -> None:
        self._by_standing[place.standing] -= 1
        self._by_host[place.host] -= 1
        if not self._by_host[place.host]:
            del self._by_host[place.host]
        WEBHOOKS_IN_FLIGHT.dec()

    def recall(self, places: Sequence[Place]) -> None:
        """These have answered, as others know, or this process did before it was started anew."""
        for place in places:
            if len(self._known) < KNOWN_MAX:
                self._known.setdefault(place)

    def learn(self, said: Said) -> None:
        """Remember who answers."""
        if said.answered is None:
            return
        self._known.pop((said.host, said.namespace), None)
        if said.answered:
            if len(self._known) >= KNOWN_MAX:
                del self._known[next(iter(self._known))]
            self._known[said.host, said.namespace] = None

    def _standing(self, due: Due) -> Standing:
        if due.failing:
            return Standing.FAILING
        return Standing.KNOWN if (due.host, due.namespace) in self._known else Standing.STRANGER
