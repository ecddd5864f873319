"""The daemons of a control plane, as `app` builds them, over the pool of a story; each story calls their ticks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from controlplane.daemons.admitter import Admitter
from controlplane.daemons.announcer import Announcer
from controlplane.daemons.archivist import Archivist
from controlplane.daemons.bulker import Bulker
from controlplane.daemons.census import Census
from controlplane.daemons.inspector import Inspector
from controlplane.daemons.janitor import DatabaseClock, Janitor
from controlplane.daemons.reaper import STOOD_STILL_SECONDS, WHOLE_SECONDS, Reaper
from controlplane.daemons.scheduler import Scheduler
from controlplane.daemons.waker import Waker
from controlplane.domain.placement import Placement
from controlplane.domain.retention import Keep
from controlplane.domain.retry import RetryPolicy
from controlplane.domain.schedule import Served
from controlplane.postgres.pool import Pool
from controlplane.reads import bulks, executions
from controlplane.security.secrets import KeyRing
from tests.crash.world import World
from tests.make import horizon_passed, make_id, no_jitter

STOCK = Placement()
FOREVER_SECONDS = 1e9
"""For so long the reaper has been up: whoever is silent is dead and not kept from renewing by us."""
GRACE_SECONDS = 60.0
KEPT_SECONDS = 3_600.0
KEEP = Keep(
    succeeded_seconds=KEPT_SECONDS,
    failed_seconds=KEPT_SECONDS,
    delivered_seconds=KEPT_SECONDS,
    dead_seconds=KEPT_SECONDS,
    events_seconds=KEPT_SECONDS,
    logs_seconds=KEPT_SECONDS,
)
MAX_PASSES = 20
Tick = Callable[[], Awaitable[int]]


def nobody(*_: Any) -> None:
    """Who is told is a hint; what a hint wakes looks by itself, too."""


@dataclass
class Admission:
    waits: bool = False


async def serves(_: int, __: str) -> Served:
    return Served(type="reasoner", retry=RetryPolicy(), timeout_seconds=None)


def reaper(pool: Pool, *, whole_seconds: float = WHOLE_SECONDS, still_seconds: float = STOOD_STILL_SECONDS) -> Reaper:
    made = Reaper(
        pool,
        STOCK,
        make_id=make_id,
        cancel_grace_seconds=GRACE_SECONDS,
        ready=nobody,
        ended=nobody,
        due=nobody,
        stopped=nobody,
        cancelling=nobody,
        jitter=no_jitter,
        blocked=nobody,
        whole_seconds=whole_seconds,
        still_seconds=still_seconds,
    )
    made._up_since = -FOREVER_SECONDS
    return made


def waker(pool: Pool) -> Waker:
    made = Waker(pool, STOCK, woken=nobody)
    made._catch_up_at = 0.0
    return made


def admitter(pool: Pool) -> Admitter:
    return Admitter(pool, STOCK, ready=nobody, admission=Admission())


def scheduler(pool: Pool) -> Scheduler:
    return Scheduler(pool, STOCK, make_id=make_id, serves=serves, ready=nobody, ended=nobody, cancelling=nobody)


def bulker(pool: Pool) -> Bulker:
    return Bulker(
        pool,
        STOCK,
        find=bulks.find,
        read_asked=executions.read_asked,
        make_id=make_id,
        ready=nobody,
        ended=nobody,
        cancelling=nobody,
        due=nobody,
    )


def announcer(pool: Pool) -> Announcer:
    return Announcer(pool, STOCK, make_id=make_id, public_url="http://here", planned=nobody)


def janitor(pool: Pool) -> Janitor:
    return Janitor(
        pool,
        STOCK,
        DatabaseClock(),
        weeks_ahead=1,
        secret_days=1.0,
        changes_seconds=KEPT_SECONDS,
        trigger_events_days=1.0,
        audit_days=31.0,
    )


def archivist(pool: Pool) -> Archivist:
    return Archivist(pool, STOCK, KEEP)


def census(pool: Pool) -> Census:
    return Census(pool, STOCK, memory=lambda: True, stored=lambda: True)


def inspector(pool: Pool, ring: KeyRing) -> Inspector:
    return Inspector(pool, STOCK, ring, found=nobody)


async def all_once(world: World) -> None:
    """What a server does first when it is back."""
    pool = world.pool
    for one in (reaper(pool), waker(pool), scheduler(pool), admitter(pool), bulker(pool), announcer(pool)):
        await one.tick()


async def announced(world: World) -> None:
    """All that has happened is announced, once nobody on the server writes any more what began before now."""
    async with world.pool.acquire() as conn:
        await horizon_passed(conn)
    await until_quiet(world, announcer(world.pool).tick)


async def until_quiet(world: World, tick: Tick) -> None:
    """Pass after pass, as `daemons.loop` does, until there is nothing to do."""
    for _ in range(MAX_PASSES):
        if not await world.tick(tick):
            return
    raise AssertionError(f"{tick} does not come to rest")
