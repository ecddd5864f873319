"""Scenes: in which way something dies at a point, and that everything which was promised is kept all the same."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tests.crash.awaits.agents import RUNS, Caller
from tests.crash.awaits.callers import STORIES as CALLER_STORIES
from tests.crash.awaits.nursery import At, Child
from tests.crash.awaits.place import Broken, Place
from tests.crash.awaits.stories import STORIES
from tests.crash.points import KILLED, Side

BREAKS = 2
BREAK_SECONDS = 0.25
HELD_SECONDS = 0.4
"""A death that comes from outside comes within so long after the story began."""

Passed = Counter[tuple[str, Side]]


class Scene(StrEnum):
    """While its story goes on; while what it relies on breaks off (the database of a server, the server of an agent or
    a caller); when it begins with work to do; when it is told to leave in the middle of it."""

    TELLING = "telling"
    SHAKEN = "shaken"
    BEGINNING = "beginning"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True, order=True)
class Act:
    """A story of somebody (`server`, `agent`, `caller`) who dies in this scene of it."""

    who: str
    scene: Scene
    story: str

    @property
    def from_the_beginning(self) -> Act:
        """The same, but dying as soon as it comes there in its life: some points are passed only then."""
        begins = Act(self.who, Scene.BEGINNING, self.story)
        return (
            begins if self.who == "server" else Act("agent", Scene.BEGINNING, "corpus") if self.who == "agent" else self
        )

    def __str__(self) -> str:
        return f"{self.who} {self.story} {self.scene}"


ACTS = [
    *(Act("server", Scene.TELLING, story) for story in STORIES),
    *(Act("server", Scene.BEGINNING, story) for story in ("called", "callers", "overrun")),
    *(Act("server", Scene.LEAVING, story) for story in ("called", "callers", "lost")),
    *(Act("server", Scene.SHAKEN, story) for story in ("called", "callers", "lost")),
    *(Act("caller", Scene.TELLING, story) for story in CALLER_STORIES),
    *(Act("caller", Scene.SHAKEN, story) for story in ("one", "follow")),
    *(Act("agent", Scene.TELLING, story) for story in RUNS),
    Act("agent", Scene.BEGINNING, "corpus"),
    *(Act("agent", Scene.LEAVING, story) for story in ("corpus", "waits", "slow")),
    *(Act("agent", Scene.SHAKEN, story) for story in ("long", "slow", "stays")),
]
"""In the order of what they cost: a point is died at in the first that comes there."""


async def play(act: Act, place: Place, at: At | None, rng: random.Random, *, node_id: str = "") -> tuple[bool, Passed]:
    """Whether it died there; without `at`, what it passed. Raises Broken."""
    match act.who:
        case "server":
            return await _server(act, place, at, rng)
        case "agent":
            return await _agent(act, place, at, rng, node_id)
        case _:
            return await _caller(act, place, at, rng)


async def _server(act: Act, place: Place, at: At | None, rng: random.Random) -> tuple[bool, Passed]:
    first = place.plane
    await first.visits()
    if act.scene in (Scene.TELLING, Scene.SHAKEN):
        await first.arm(at)
    left: Passed = Counter()
    job = asyncio.create_task(_told_and_kept(act.story, place))
    try:
        match act.scene:
            case Scene.TELLING:
                died = await _dies(place, job)
            case Scene.SHAKEN:
                for _ in range(BREAKS):
                    await asyncio.sleep(rng.uniform(0.0, BREAK_SECONDS))
                    await place.break_off()
                died = await _dies(place, job)
            case Scene.BEGINNING:
                await asyncio.sleep(rng.uniform(HELD_SECONDS / 2, HELD_SECONDS))
                await first.kill()
                await place.pause()
                await place.start(at)
                died = await _dies(place, job)
            case Scene.LEAVING:
                await asyncio.sleep(rng.uniform(0.0, HELD_SECONDS))
                await first.arm(at)
                first.terminate()
                died = _code_of(first, await first.ended()) == KILLED
                left = first.passed()
                await place.begin_again()
        await job
    finally:
        job.cancel()
    return died, left if act.scene is Scene.LEAVING else await place.plane.visits()


async def _told_and_kept(story: str, place: Place) -> None:
    await place.check(await STORIES[story](place))


async def _dies(place: Place, job: asyncio.Task[None]) -> bool:
    """Whether the server dies before the job is done; then there is another."""
    death = asyncio.ensure_future(place.plane.ended())
    await asyncio.wait({job, death}, return_when=asyncio.FIRST_COMPLETED)
    if not death.done():
        death.cancel()
        return False
    _code_of(place.plane, death.result())
    await place.begin_again()
    return True


async def _agent(act: Act, place: Place, at: At | None, rng: random.Random, node_id: str) -> tuple[bool, Passed]:
    """A node of its own, so that many can die beside each other."""
    story = RUNS[act.story]
    passed: Passed
    if act.scene is Scene.BEGINNING:
        await place.introduce(node_id, act.story)
        told = await story.begin(place, node_id)
        child = await place.agent(node_id, at=at)
    else:
        child = await place.agent(node_id)
        await place.serving(node_id, child)
        await child.visits()
        if act.scene in (Scene.TELLING, Scene.SHAKEN):
            await child.arm(at)
        told = await story.begin(place, node_id)
    if act.scene is Scene.LEAVING:
        await place.begun(told)
        await asyncio.sleep(rng.uniform(0.0, HELD_SECONDS))
        await child.arm(at)
        child.terminate()
        died = _code_of(child, await child.ended()) == KILLED
        passed = child.passed()
        child = await place.agent(node_id)
        await place.check(told)
    else:
        if act.scene is Scene.SHAKEN:
            await place.begun(told)
            await place.shake()
        died, child = await _survives(place, node_id, child, place.check(told))
        passed = Counter() if died else await child.visits()
    await child.kill()
    return died, passed


async def _survives(place: Place, node_id: str, child: Child, check: Coroutine[Any, Any, None]) -> tuple[bool, Child]:
    job, death = asyncio.create_task(check), asyncio.ensure_future(child.ended())
    try:
        await asyncio.wait({job, death}, return_when=asyncio.FIRST_COMPLETED)
        if died := death.done():
            _code_of(child, death.result())
            child = await place.agent(node_id)
        await job
    finally:
        job.cancel()
        death.cancel()
    return died, child


async def _caller(act: Act, place: Place, at: At | None, rng: random.Random) -> tuple[bool, Passed]:
    caller = Caller(place, act.story, place.keeper_id)
    child = await caller.start(at)
    if act.scene is Scene.SHAKEN:
        await asyncio.sleep(rng.uniform(HELD_SECONDS, 2 * HELD_SECONDS))
        await place.shake()
    died = False
    if at is not None and (died := _code_of(child, await child.ended()) == KILLED):
        child = await caller.start()
    await caller.check(child)
    return died, child.passed()


def _code_of(child: Child, code: int) -> int:
    """Raises Broken when it has not died as it should."""
    if code not in {0, KILLED}:
        raise Broken(f"{child.name} has ended with {code}: {child.log()[-3000:]}")
    return code
