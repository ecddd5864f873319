"""The campaign: which awaits there are to die at, which acts pass them, and a death at each side of every one.

First each act is played without a death, which says what it passes (`survey`). Then each side of each point is died at
in the first act that passes it (`deaths`): several places beside each other, each with its database and its server.
The seed decides at which of its visits a point kills and when something is cut off; what real processes do meanwhile
is up to the machine, so a seed tells the same story again, and not always to the millisecond.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.crash.awaits.modules import EXCEPTIONS, MODULES
from tests.crash.awaits.nursery import At, Nursery
from tests.crash.awaits.outside import unique
from tests.crash.awaits.place import Broken, Place
from tests.crash.awaits.scenes import ACTS, Act, Passed, play
from tests.crash.points import PACKAGE, Side, points_of

Sides = tuple[str, Side]
Ended = tuple[Literal["died", "missed", "failed"], str]
"""How it came, and what failed."""
SURVEYS = 3
TRIES = 3
EARLY = 3
"""A point that is passed often kills at one of its first so many visits: later ones may not come any more."""


@dataclass(frozen=True, slots=True, order=True)
class Death:
    """To be died at this side of this point, in an act that passes it so often."""

    act: Act
    name: str
    side: Side
    visits: int

    def __str__(self) -> str:
        return f"{self.name} {self.side} ({self.act})"


@dataclass(slots=True)
class Result:
    """What a campaign came to. `missed`: who did not come by the point again, three times in a row."""

    seed: int
    died: list[Sides] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def facts(self, passed: Sequence[Death]) -> dict[str, Any]:
        """What docs/reliability shows of it. `passed`: the deaths that there were."""
        sides = {
            "passed": Counter(module_of(one.name) for one in passed),
            "killed": Counter(module_of(name) for name, _ in self.died),
        }
        counted = {module: len(points_of(module)) for module in MODULES}
        return {
            "form": "awaits",
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "kills": len(self.died),
            "modules": {
                (name := module.removeprefix(PACKAGE)): {"points": count, "sides": 2 * count}
                | {word: of[name] for word, of in sides.items()}
                for module, count in counted.items()
            },
            "exceptions": EXCEPTIONS,
            "not_passed": sorted(f"{name} {side}" for name, side in missing(passed)),
            "missed": self.missed,
            "failures": self.failures,
        }


def module_of(name: str) -> str:
    """Of the name of a point."""
    return name.partition(":")[0]


@asynccontextmanager
async def company(dsns: Sequence[str], folder: Path) -> AsyncIterator[list[Place]]:
    """A place at each of these databases, with everybody who belongs there."""
    async with Nursery(MODULES, folder) as nursery, AsyncExitStack() as stack:
        places = [await stack.enter_async_context(Place(nursery, dsn, name=f"p{n}")) for n, dsn in enumerate(dsns)]
        for place in places:
            await place.join()
        yield places


def known() -> set[Sides]:
    """Everything that there is to die at."""
    return {(point.name, side) for module in MODULES for point in points_of(module) for side in Side}


def missing(passed: Iterable[Death]) -> set[Sides]:
    """What no act passes, and nobody says why not."""
    left = known() - {(one.name, one.side) for one in passed}
    return {(name, side) for name, side in left if not {name, name.partition("#")[0]} & EXCEPTIONS.keys()}


async def survey(places: Sequence[Place], acts: Sequence[Act] = ACTS, *, seed: int) -> dict[Act, Passed]:
    """What each act passes when nobody dies; they are shared out among the places. Raises Broken.

    What comes by chance (a hint that is late, two who meet) may not come at once: then all are played again.
    """
    passed: dict[Act, Passed] = {act: Counter() for act in acts}
    for turn in range(SURVEYS):
        await _survey(places, acts, passed, seed=f"{seed} survey {turn}")
        if not missing(deaths(passed, acts)):
            break
    return passed


async def _survey(places: Sequence[Place], acts: Sequence[Act], passed: dict[Act, Passed], *, seed: str) -> None:
    waiting = list(reversed(acts))
    broken: list[str] = []

    async def go_on(n: int, place: Place) -> None:
        rng = random.Random(f"{seed} {n}")
        while waiting:
            act = waiting.pop()
            try:
                _, found = await play(act, place, None, rng, node_id=unique("surveyed"))
            except Broken as error:
                broken.append(f"{act}: {error}")
            else:
                passed[act] |= found

    await _all(go_on(n, place) for n, place in enumerate(places))
    if broken:
        raise Broken("\n".join(broken))


def deaths(passed: dict[Act, Passed], acts: Sequence[Act] = ACTS) -> list[Death]:
    """One for each side that any of them passes, in the first act that does."""
    found: dict[Sides, Death] = {}
    for act in acts:
        for (name, side), visits in passed[act].items():
            found.setdefault((name, side), Death(act, name, side, visits))
    return sorted(found.values())


async def run(
    places: Sequence[Place],
    wanted: Sequence[Death],
    *,
    seed: int,
    beside: int = 1,
    seconds: float = math.inf,
    told: Callable[[Death, Ended], None] = lambda *_: None,
) -> Result:
    """Die these deaths, as many as there is time for. `beside`: so many agents or callers die at once in one place.

    `told` hears of each as it comes to its end, so that a run that is stopped has not been for nothing.
    """
    result = Result(seed)
    began = time.monotonic()
    servers = [one for one in reversed(wanted) if one.act.who == "server"]
    others = [one for one in reversed(wanted) if one.act.who != "server"]

    async def go_on(place: Place, waiting: list[Death], until: float) -> None:
        while waiting and time.monotonic() - began < until:
            death = waiting.pop()
            told(death, await _die(place, death, result))

    await _all(go_on(place, servers, seconds * len(servers) / max(1, len(wanted))) for place in places)
    await _all(go_on(place, others, seconds) for place in places for _ in range(beside))
    result.seconds = time.monotonic() - began
    return result


async def _die(place: Place, death: Death, result: Result) -> Ended:
    rng = random.Random(f"{result.seed} {death}")
    for turn in range(TRIES):
        visit = rng.randint(1, min(EARLY, max(1, death.visits // 2))) if turn == 0 else 1
        act = death.act if turn < TRIES - 1 else death.act.from_the_beginning
        at: At = (death.name, str(death.side), visit)
        try:
            died, _ = await play(act, place, at, rng, node_id=unique("dies"))
        except Exception as error:  # noqa: BLE001 - whatever is wrong is told of this death, and the others go on
            result.failures.append(f"{death}, visit {visit}: {type(error).__name__}: {error}")
            await place.recover()
            return "failed", result.failures[-1]
        if died:
            result.died.append((death.name, death.side))
            return "died", ""
    result.missed.append(str(death))
    return "missed", ""


async def _all(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for one in coroutines:
            group.create_task(one)
