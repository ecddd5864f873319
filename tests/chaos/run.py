"""One run: load, faults by a seed, quiet, and the oracle's word."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from typing import Any

import asyncpg
import httpx

from controlplane.postgres.pool import PASSING
from controlplane.reads import verify
from tests.chaos import oracle, work
from tests.chaos.cast import Cast
from tests.chaos.faults import LEASE_SECONDS
from tests.chaos.stage import Fault, Stage

DRAIN_SECONDS = LEASE_SECONDS + 10.0
"""What is left after the last fault takes a lease to be noticed, and then as long as it takes: so much at most."""
QUIET_SECONDS = 300.0
"""How long a run waits for its end, and for the last webhook, until it says that they never come."""
SAMPLE_SECONDS = 5.0
CONNECT_SECONDS = 5.0
ASK_SECONDS = 30.0
LOOK_SECONDS = 0.5
LONGER = 4
"""So many times as long as it was to be a storm lasts at most."""
BROKEN = ("Traceback", '"level": "error"', '"level": "critical"')
"""What stands in a server's log only when something happened that it does not expect."""
GRACE_IS_OVER = "timeout graceful shutdown exceeded"
"""What it says of the requests that it cuts off, because it was asked to end and they took longer than it may wait."""

ENDED = "select count(*) from outcomes"
UNFINISHED = "select count(*) from queue"
UNTOLD = "select count(*) from deliveries where state in ('pending', 'leased')"


@dataclass(frozen=True, kw_only=True)
class Hand:
    """A series of faults, one after the other. Hands strike at the same time, each by a seed of its own.

    `rest_seconds`: how long it rests between two, on average. `least`: so many it must have done in a run.
    """

    name: str
    faults: Sequence[Fault]
    rest_seconds: float
    least: int = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run consists of, and the least that it must have done in order to mean anything.

    `least_share`: of what the calm beginning of the same run ended per second, so much per second under faults;
    `least_ended`: so many executions, until which the storm goes on.
    """

    seed: int
    seconds: float
    calm_seconds: float
    rate: float
    hands: Sequence[Hand]
    servers: int = 2
    nodes: int = 4
    receivers: int = 2
    least_share: float = 0.6
    least_ended: int = 0
    drain_seconds: float = DRAIN_SECONDS


@dataclass(kw_only=True)
class Report:
    """What a run came to."""

    seed: int
    seconds: float
    faults: dict[str, int] = field(default_factory=dict)
    strikes: list[str] = field(default_factory=list)
    calm_ended: int = 0
    calm_per_second: float = 0.0
    storm_ended: int = 0
    storm_per_second: float = 0.0
    drain_seconds: float | None = None
    told_seconds: float | None = None
    samples: int = 0
    figures: dict[str, int] = field(default_factory=dict)
    violations: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def shape(self) -> dict[str, Any]:
        return asdict(self)

    def bad(self, what: str, *words: object) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
        named = self.violations.setdefault(what, [])
        if len(named) < oracle.SHOWN_MAX:
            named.append(" ".join(map(str, words)))


async def run(plan: Plan, stage: Stage, *, say: Callable[[str], None] = print) -> Report:
    """Play the plan, and leave nothing behind but the folder."""
    try:
        return await play(plan, stage, say=say)
    finally:
        await stage.close()


async def play(plan: Plan, stage: Stage, *, say: Callable[[str], None] = print) -> Report:
    """Load, calm, storm, quiet, the oracle's word. The report says what does not hold; nothing is raised for that."""
    report = Report(seed=plan.seed, seconds=plan.seconds)
    say(f"seed {plan.seed}")
    await _begin(plan, stage)
    await asyncio.sleep(plan.calm_seconds)
    report.calm_ended = await _count(stage, ENDED)
    report.calm_per_second = report.calm_ended / plan.calm_seconds
    say(f"calm: {report.calm_per_second:.1f} ended per second")
    await storm(plan, stage, report, say)
    if plan.hands:
        await _was_enough(plan, stage, report)
    await _settle(plan, stage, report, say)
    await _judge(plan, stage, report)
    return report


async def _begin(plan: Plan, stage: Stage) -> None:
    await stage.ground.start()
    cast = Cast(stage, seed=plan.seed)
    await asyncio.gather(*(cast.server().start() for _ in range(plan.servers)))
    await stage.front.start([server.port for server in stage.servers])
    await asyncio.gather(*(cast.receiver().start() for _ in range(plan.receivers)))
    await asyncio.gather(*(cast.node().start() for _ in range(plan.nodes)))
    rule = {
        "target": f"{work.NODE}.quick",
        "input": {"name": work.SCHEDULED},
        "interval_seconds": 1,
        "overlap": "queue",
    }
    await _ask(stage, "POST", "/schedules", {"name": work.SCHEDULE} | rule)
    await cast.callers(rate=plan.rate).start()
    await cast.stale().start()


async def storm(plan: Plan, stage: Stage, report: Report, say: Callable[[str], None]) -> None:
    """All hands until the time is over; a fault that has begun is healed before this returns."""
    began = time.monotonic()
    sampling = asyncio.create_task(_sample(stage, report))
    hands = [_strikes(hand, plan.seed, stage, report, say) for hand in plan.hands]
    await asyncio.gather(_end(plan, stage, report), *hands)
    sampling.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sampling
    report.seconds = round(time.monotonic() - began, 1)
    for name, struck in _too_few(plan, report).items():
        report.bad("too few faults", name, struck)


async def _end(plan: Plan, stage: Stage, report: Report) -> None:
    """The time is over, and later than that on a machine so busy that too little has happened by then."""
    for seconds in (plan.seconds, *[LOOK_SECONDS] * round(plan.seconds * LONGER / LOOK_SECONDS)):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stage.over.wait(), seconds)
        if stage.over.is_set() or not (_too_few(plan, report) or await _too_little(plan, stage, report)):
            break
    stage.over.set()


async def _was_enough(plan: Plan, stage: Stage, report: Report) -> None:
    """What did not happen proves nothing."""
    report.storm_ended = await _ended(stage, report)
    report.storm_per_second = report.storm_ended / report.seconds
    least = plan.least_share * report.calm_per_second
    if report.storm_per_second < least or report.storm_ended < plan.least_ended:
        report.bad(
            "too little was done", report.storm_ended, f"{report.storm_per_second:.1f} per second of {least:.1f}"
        )


async def _too_little(plan: Plan, stage: Stage, report: Report) -> bool:
    return plan.least_ended > 0 and await _ended(stage, report) < plan.least_ended


async def _ended(stage: Stage, report: Report) -> int:
    """The executions that ended in the storm so far."""
    return await _count(stage, ENDED) - report.calm_ended


def _too_few(plan: Plan, report: Report) -> dict[str, int]:
    """The hands that have not done what they must have, with how often they struck."""
    struck = {hand.name: sum(report.faults.get(fault.name, 0) for fault in hand.faults) for hand in plan.hands}
    return {hand.name: struck[hand.name] for hand in plan.hands if struck[hand.name] < hand.least}


async def _strikes(hand: Hand, seed: int, stage: Stage, report: Report, say: Callable[[str], None]) -> None:
    """The n-th fault of a hand and every choice in it follow from the seed, whatever time the others take."""
    for n in itertools.count():
        rng = random.Random(f"{seed}:{hand.name}:{n}")
        rest_seconds = rng.uniform(0.5, 1.5) * hand.rest_seconds
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stage.over.wait(), rest_seconds)
            return
        fault, began = rng.choice(hand.faults), time.monotonic()
        line = f"{hand.name} {n}: {fault.name}"
        try:
            await fault.strike(stage, rng)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on and says so in the end
            report.bad("a fault could not be done or healed", line, repr(error))
        else:
            report.faults[fault.name] = report.faults.get(fault.name, 0) + 1
        report.strikes.append(line)
        say(f"{time.strftime('%H:%M:%S')} {line}, healed after {time.monotonic() - began:.1f} s")


async def _sample(stage: Stage, report: Report) -> None:
    """What holds in every moment is asked meanwhile, of what is unfinished."""
    hot = [one for one in verify.INVARIANTS if one.hot]
    while True:
        await asyncio.sleep(SAMPLE_SECONDS)
        with contextlib.suppress(*PASSING):
            conn = await _connect(stage)
            try:
                for one in hot:
                    if ids := await verify.violations(conn, one.query, 0):
                        report.bad(f"verify {one.name} in between", *ids)
                report.samples += 1
            finally:
                conn.terminate()


async def _settle(plan: Plan, stage: Stage, report: Report, say: Callable[[str], None]) -> None:
    """The last fault is healed: from here on nothing goes wrong, and all that was begun comes to its end."""
    began = time.monotonic()
    for receiver in stage.receivers:
        receiver.process.signal(signal.SIGUSR1)
    if await _ask(stage, "DELETE", f"/schedules/{work.SCHEDULE}", None) == HTTPStatus.NOT_FOUND:
        report.bad("acknowledged, and not there", work.SCHEDULE)
    for caller in stage.callers:
        caller.process.terminate()
    for caller in stage.callers:
        await asyncio.to_thread(caller.process.ended, within=QUIET_SECONDS)
    report.drain_seconds = await _until_none(stage, UNFINISHED, began)
    report.told_seconds = await _until_none(stage, UNTOLD, began)
    say(f"drained after {report.drain_seconds} s, told after {report.told_seconds} s")
    if report.drain_seconds is None or report.drain_seconds > plan.drain_seconds:
        report.bad("not drained in time", report.drain_seconds, "of", plan.drain_seconds)
    if report.told_seconds is None:
        report.bad("not told in time", QUIET_SECONDS)


async def _until_none(stage: Stage, query: str, began: float) -> float | None:
    """The seconds since `began` until the query counts nothing; None if it never does."""
    while time.monotonic() - began < QUIET_SECONDS:
        if not await _count(stage, query):
            return round(time.monotonic() - began, 1)
        await asyncio.sleep(0.1)
    return None


async def _judge(plan: Plan, stage: Stage, report: Report) -> None:
    for node in stage.nodes:
        await node.kill()  # what it still had to say it would say now
    conn = await _connect(stage)
    try:
        found = await oracle.judge(conn, stage.folder, seed=plan.seed, receivers=plan.receivers)
    finally:
        await conn.close()
    report.figures |= found.figures
    report.violations |= found.violations
    report.counts |= found.counts
    for server in stage.servers:
        for line in server.process.log().splitlines():
            if any(word in line for word in BROKEN) and GRACE_IS_OVER not in line:
                report.bad("a server says that it is broken", line)


async def _count(stage: Stage, query: str) -> int:
    """Asked until it is answered: the database may be on its way up."""
    while True:
        with contextlib.suppress(*PASSING):
            conn = await _connect(stage)
            try:
                return int(await conn.fetchval(query))
            finally:
                conn.terminate()
        await asyncio.sleep(0.1)


async def _connect(stage: Stage) -> asyncpg.Connection:
    """Nothing is prepared, because a pooler may stand in between."""
    return await asyncpg.connect(stage.ground.dsn, timeout=CONNECT_SECONDS, statement_cache_size=0)


async def _ask(stage: Stage, method: str, path: str, body: Mapping[str, Any] | None) -> int:
    """The status of the first answer that is one: servers may be on their way up."""
    async with httpx.AsyncClient(base_url=f"{stage.front.url}/api/v1", timeout=ASK_SECONDS) as http:
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = await http.request(method, path, json=body)
                if answer.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
                    return answer.status_code
            await asyncio.sleep(0.1)
