"""Real processes die at the awaits of what waits for others: all are passed, and some of them, others each time, kill.

`make crash-awaits` kills at all of them.
"""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.crash.awaits import campaign
from tests.crash.awaits.campaign import Death, Ended
from tests.crash.awaits.modules import EXCEPTIONS
from tests.crash.awaits.place import Place

PLACES = 2
BESIDE = 4
KILL_SECONDS = 100.0
KILLS_LEAST = 12
"""Of a busy machine; a free one makes some sixty in that time."""

SEED = int(os.environ.get("CRASH_SEED") or random.randrange(1_000_000))


@dataclass
class Surveyed:
    """Places at which something may die, and the deaths that there are."""

    runner: asyncio.Runner
    places: list[Place]
    deaths: list[Death]


@pytest.fixture(scope="module")
def surveyed(server: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surveyed]:
    """Every act was played once, and nobody has died."""
    names = [f"awaits_{uuid.uuid4().hex}" for _ in range(PLACES)]
    dsns = [urlsplit(server)._replace(path=f"/{name}").geturl() for name in names]
    with asyncio.Runner() as runner:
        runner.run(execute(server, *(f"create database {one} template {template} strategy file_copy" for one in names)))
        stack = AsyncExitStack()
        places = runner.run(stack.enter_async_context(campaign.company(dsns, tmp_path_factory.mktemp("crash"))))
        try:
            yield Surveyed(runner, places, campaign.deaths(runner.run(campaign.survey(places, seed=SEED))))
        finally:
            runner.run(stack.aclose())
            runner.run(execute(server, *(f"drop database {one} with (force)" for one in names)))


@pytest.mark.timeout(600)
def test_every_await_is_passed(surveyed: Surveyed) -> None:
    """Both sides of every await, but for those of which it is said why not."""
    missing = sorted(f"{name} {side}" for name, side in campaign.missing(surveyed.deaths))

    assert missing == [], "write a story that passes these (tests/crash/awaits), or say why there is none"


def test_exceptions_are_there() -> None:
    """A reason that is given for nothing is taken out."""
    names = {name for name, _ in campaign.known()}

    assert EXCEPTIONS.keys() <= names | {name.partition("#")[0] for name in names}


@pytest.mark.timeout(900)
def test_whoever_dies_breaks_no_promise(surveyed: Surveyed) -> None:
    """A server, an agent or a caller dies at some of them: all that was acknowledged comes to its one end."""
    print(f"CRASH_SEED={SEED}")
    wanted = list(surveyed.deaths)
    random.Random(SEED).shuffle(wanted)

    hows: list[str] = []

    def told(_: Death, ended: Ended) -> None:
        how, said = ended
        hows.append(how)
        if said:
            print(said)

    result = surveyed.runner.run(
        campaign.run(
            surveyed.places,
            wanted,
            seed=SEED,
            beside=BESIDE,
            seconds=KILL_SECONDS,
            told=told,
        )
    )

    print(f"measured: {len(result.died)} deaths in {result.seconds:.0f} s")
    assert result.failures == []
    assert len(result.died) >= KILLS_LEAST
    facts = result.facts(surveyed.deaths)
    assert facts["kills"] == hows.count("died") == sum(one["killed"] for one in facts["modules"].values())
    assert facts["not_passed"] == []


async def execute(dsn: str, *statements: str) -> None:
    conn = await asyncpg.connect(dsn)
    for statement in statements:
        await conn.execute(statement)
    await conn.close()
