"""The campaign: every story dies at every place that it passes, is lived again, and must end as if it had not died.

How to read a result. A *point* is an await of the code, with two *sides* (see `points`). The story is lived once
undisturbed, and what it passes is written down; then for each point and side that it passes, on a database of its own:
a process lives the story and dies there (`os._exit`, no `finally`); a second one lives it again, asking again only what
was not answered (see `world`), and comes to the end. In every other of these second lives the daemons make a pass
before anybody asks again. Then three things must hold: no invariant of `controlplane verify`
is broken, the story's own assertions hold, and the database holds the same executions, outcomes, memory, deliveries and
events, each exactly as often, as after the undisturbed life (see `ending`).

Two sides with nothing between them but Python are one *moment*: `after` one await and `before` the next, where a
process that dies leaves the same world behind. `moments` kills once in each, and so covers every side that was passed
for the first time there; `every` kills at each of them all the same.

Nothing is random. Processes are forked from one that has imported everything and has neither a loop nor a thread.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import asyncpg

from tests.crash import daemons, ending, points
from tests.crash.ending import Ending
from tests.crash.points import KILLED, Side
from tests.crash.world import Memory, World

GONE_SECONDS = 20.0
OTHERS = """
select count(*)
from pg_stat_activity
where datname = current_database()
  and pid <> pg_backend_pid()
  and backend_type = 'client backend'
"""
Passed = tuple[str, Side]
Returns = Callable[[World], Awaitable[None]]
Story = Callable[[World], Awaitable[None]]


class Form(StrEnum):
    MOMENTS = "moments"
    EVERY = "every"


@dataclass(frozen=True, slots=True)
class Place:
    """Where databases are made: a server's DSN, and the template of a migrated one."""

    server: str
    template: str


@dataclass
class Life:
    """What a process has to tell of a story that it has lived to its end."""

    ending: Ending
    broken: list[str]
    moments: list[list[Passed]]
    """What was passed, parted where something outside may have changed in between."""


@dataclass(frozen=True, slots=True)
class Kill:
    """One death: at this side of this point, at its first visit. `covers`: what else is passed there for the first."""

    story: str
    at: Passed
    covers: tuple[Passed, ...]


@dataclass
class Result:
    """`killed`: the sides at which a process died, or at whose very moment one did; after `wrong` ones not all held."""

    kills: int = 0
    killed: set[Passed] = field(default_factory=set)
    wrong: set[Passed] = field(default_factory=set)
    passed: set[Passed] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


def run(
    stories: Sequence[Story], place: Place, form: Form, *, part: tuple[int, int] = (0, 1), within: str = ""
) -> Result:
    """Kill these stories wherever they pass something for the first time; of `part` (n, of) every of-th kill.

    `within`: only at the points of this module.
    """
    began, result = time.monotonic(), Result()
    lives = {_name(story): _live(story, place) for story in stories}
    by_name = {_name(story): story for story in stories}
    for name, life in lives.items():
        result.failures += [f"{name}, undisturbed: {one}" for one in life.broken]
    for n, kill in enumerate(kills({name: life.moments for name, life in lives.items()}, form)):
        result.passed.update(kill.covers)
        if n % part[1] != part[0] or not any(one.startswith(within) for one, _ in kill.covers):
            continue
        result.kills += 1
        result.killed.update(kill.covers)
        wrong = _die(by_name[kill.story], kill.at, lives[kill.story].ending, place, daemons_first=bool(n % 2))
        result.failures += [f"{kill.story}, killed {kill.at[1]} {kill.at[0]}: {one}" for one in wrong]
        if wrong:
            result.wrong.update(kill.covers)
            print(*result.failures[-len(wrong) :], sep="\n", file=sys.stderr, flush=True)
    result.seconds = time.monotonic() - began
    return result


def passed_by(stories: Iterable[Story], place: Place) -> set[Passed]:
    """All sides that the undisturbed lives of these stories pass."""
    return {one for story in stories for moment in _live(story, place).moments for one in moment}


def kills(lives: dict[str, list[list[Passed]]], form: Form) -> Iterator[Kill]:
    """In the order of the stories; what an earlier one passes is not passed for the first time any more."""
    known: set[Passed] = set()
    for story, moments in lives.items():
        for moment in moments:
            new = tuple(dict.fromkeys(one for one in moment if one not in known))
            known.update(new)
            if form is Form.EVERY:
                yield from (Kill(story, one, (one,)) for one in new)
            elif new:
                yield Kill(story, new[0], new)


class Trace:
    """Parts what is passed into moments."""

    def __init__(self) -> None:
        self.moments: list[list[Passed]] = [[]]

    def passed(self, point: str, side: Side) -> None:
        now = self.moments[-1]
        if side is Side.AFTER and now and now[-1] == (point, Side.BEFORE):  # the await itself lies between
            self.moments.append(now := [])
        now.append((point, side))

    def answered(self) -> None:
        self.moments.append([])


def _live(story: Story, place: Place) -> Life:
    """An undisturbed life."""
    status, told = _in_child(lambda: _whole_life(story, place))
    if not isinstance(told, Life):
        raise AssertionError(f"{_name(story)}, undisturbed, ended with {status}: {told}")
    return told


async def _whole_life(story: Story, place: Place) -> Life:
    trace, name = Trace(), _new_name()
    await _make(place, name)
    points.watch(trace.passed)
    life = await _to_its_end(story, Memory(), _of(place, name), trace)
    await _drop(place, name)
    return life


def _die(story: Story, at: Passed, expected: Ending, place: Place, *, daemons_first: bool) -> list[str]:
    """One death and the life after it: what is wrong then."""
    name = _new_name()
    with tempfile.NamedTemporaryFile() as heard:
        status, told = _in_child(lambda: _first_life(story, at, place, name, heard.fileno()))
        if status != KILLED:
            return [f"it did not die there but ended with {status}: {told}"]
        memory = Memory.read(Path(heard.name).read_bytes())
    status, told = _in_child(lambda: _second_life(story, place, name, memory, daemons_first))
    if not isinstance(told, Life):
        return [f"the second life ended with {status}: {told}"]
    return told.broken + ending.difference(expected, told.ending)


async def _first_life(story: Story, at: Passed, place: Place, name: str, pipe: int) -> Life:
    await _make(place, name)
    points.arm(*at)
    return await _to_its_end(story, Memory(pipe=pipe), _of(place, name), Trace())


async def _second_life(story: Story, place: Place, name: str, memory: Memory, daemons_first: bool) -> Life:
    await _wait_for_the_dead(_of(place, name))
    returns = daemons.all_once if daemons_first else None
    life = await _to_its_end(story, memory, _of(place, name), Trace(), returns)
    await _drop(place, name)
    return life


async def _to_its_end(story: Story, memory: Memory, dsn: str, trace: Trace, returns: Returns | None = None) -> Life:
    world = World(memory, trace.answered)
    world.returns = returns
    await world.connect(dsn)
    await story(world)
    async with world.pool.acquire() as conn:
        life = Life(await ending.read(conn, world.names), await ending.broken(conn), trace.moments)
    await world.pool.close()
    return life


async def _wait_for_the_dead(dsn: str) -> None:
    """The server notices that a client is gone a moment later, and gives back then what its transaction held."""
    conn = await asyncpg.connect(dsn)
    async with asyncio.timeout(GONE_SECONDS):
        while await conn.fetchval(OTHERS):  # noqa: ASYNC110 - the end of a backend has no event
            await asyncio.sleep(0.002)
    await conn.close()


def _in_child(live: Callable[[], Coroutine[Any, Any, Life]]) -> tuple[int, Life | str]:
    """The exit status of a process that does this, and what it tells at its end: a life, or why it could not live."""
    with tempfile.NamedTemporaryFile() as told:
        pid = os.fork()
        if pid == 0:
            _live_and_exit(live, told.fileno())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        raw = Path(told.name).read_bytes()
    return status, pickle.loads(raw) if raw else "nothing was told"


def _live_and_exit(live: Callable[[], Coroutine[Any, Any, Life]], told: int) -> NoReturn:
    try:
        end: Life | str = asyncio.run(live())
    except BaseException:  # noqa: BLE001 - it is told, and nothing of the parent may go on in the child
        end = traceback.format_exc()
    with os.fdopen(told, "wb") as file:
        pickle.dump(end, file)
    os._exit(isinstance(end, str))


def _new_name() -> str:
    return f"crash_{os.getpid()}_{time.monotonic_ns()}"


async def _make(place: Place, name: str) -> None:
    await execute(place.server, f"create database {name} template {place.template} strategy file_copy")


async def _drop(place: Place, name: str) -> None:
    await execute(place.server, f"drop database {name} with (force)")


def _of(place: Place, name: str) -> str:
    return urlsplit(place.server)._replace(path=f"/{name}").geturl()


async def execute(dsn: str, statement: str) -> None:
    """Run this on a connection of its own."""
    conn = await asyncpg.connect(dsn)
    await conn.execute(statement)
    await conn.close()


def _name(story: Story) -> str:
    return getattr(story, "__name__", repr(story))
