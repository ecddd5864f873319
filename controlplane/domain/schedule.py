"""A schedule: a rule that plans ticks, and what becomes of each. What is planned is a pure function of the rule.

Cron is read as Debian's cron reads it (minute, hour, day of month, month, day of week), in a time zone. Where the clock
is changed there, a rule that names its hours and minutes (`30 2 * * *`) fires once a day all the same: a time that is
skipped at the first minute after the gap, a time that comes twice at its first coming. A rule with a star in front of
its minutes or hours (`*/15 * * * *`) goes by the time that really passes: nothing in the gap, and both comings. A zone
that changes by half an hour (Lord Howe) is the exception: of the hours that a starred rule names, the one after the
change may lose ticks.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from typing import NewType, assert_never
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from controlplane.domain.retry import RetryPolicy
from controlplane.domain.row import Row
from controlplane.domain.target import parse
from controlplane.errors import Invalid

ScheduleId = NewType("ScheduleId", UUID)

CRON_CHARS_MAX = 200
CRON_FIELDS = 5
INTERVAL_MIN_SECONDS = 1.0
INTERVAL_MAX_SECONDS = 366 * 86_400.0
JITTER_MAX_SECONDS = 86_400.0
LATE_SECONDS = 60.0
"""A tick that comes later than this after it was due was missed, and is made up for as `catch_up` says."""
CATCH_UP_MAX = 100
"""Ticks that `catch_up: all` makes up for after one outage: the latest ones."""
WAITING_MAX = 100
"""Ticks of one schedule that `overlap: queue` lets wait; those that come then are skipped."""
CODE = "code"
"""What the names of schedules begin with that a node's code declares."""
CODE_NODE_CHARS = 48
MICROSECOND = timedelta(microseconds=1)
ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")
MACHINE_ZONES = frozenset({"localtime", "Factory"})  # another on every machine, or none
CRON_EXAMPLE = "Five fields: minute, hour, day of month, month, day of week, as in `30 9 * * MON-FRI`."


class Overlap(StrEnum):
    """What a tick does while an execution of the schedule has not ended.

    `skip`: nothing. `queue`: it waits for that end. `cancel_other`: it cancels that one.
    """

    SKIP = "skip"
    QUEUE = "queue"
    CANCEL_OTHER = "cancel_other"


class CatchUp(StrEnum):
    """Which of the ticks that were missed are made up for: `none`, the last `one`, or `all` (`CATCH_UP_MAX`)."""

    NONE = "none"
    ONE = "one"
    ALL = "all"


class Outcome(StrEnum):
    """What became of a tick.

    `submitted`: an execution. `waiting`: it will, when the one before has ended. `skipped`: nothing, because one had
    not ended. `missed`: nothing, because nobody was there in time; it stands for all up to `until_at`.
    """

    SUBMITTED = "submitted"
    WAITING = "waiting"
    SKIPPED = "skipped"
    MISSED = "missed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When: exactly one of `cron` (in `time_zone`), `interval_seconds` (counted from `anchor_at`) and `run_at`."""

    cron: str | None = None
    interval_seconds: float | None = None
    run_at: datetime | None = None
    time_zone: str = "UTC"
    anchor_at: datetime = datetime(2000, 1, 1, tzinfo=UTC)

    def same_times(self, other: Rule) -> bool:
        """Whether both were asked for in the same words."""
        return replace(self, anchor_at=other.anchor_at) == other


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A schedule as it was asked for. What is None about the execution is as the reasoner has it."""

    target: str
    input: bytes
    rule: Rule
    context: bytes | None = None
    overlap: Overlap = Overlap.SKIP
    catch_up: CatchUp = CatchUp.ONE
    jitter_seconds: float = 0.0
    priority: int = 0
    retries_max: int | None = None
    timeout_seconds: float | None = None

    def same(self, other: Definition) -> bool:
        """Whether both were asked for in the same words."""
        return self.rule.same_times(other.rule) and replace(self, rule=other.rule) == other


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A schedule as it stands. `next_at`: the tick planned next; it comes due up to `jitter_seconds` later."""

    id: ScheduleId
    namespace: int
    name: str
    definition: Definition
    paused: bool
    waiting: int
    next_at: datetime | None
    last_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def from_row(cls, row: Row) -> Schedule:
        rule = Rule(
            cron=row["cron"],
            interval_seconds=row["interval_seconds"],
            run_at=row["run_at"],
            time_zone=row["time_zone"],
            anchor_at=row["anchor_at"],
        )
        return cls(
            id=ScheduleId(row["id"]),
            namespace=row["namespace"],
            name=row["name"],
            definition=Definition(
                target=row["target"],
                input=row["input"],
                rule=rule,
                context=row["context"],
                overlap=Overlap(row["overlap"]),
                catch_up=CatchUp(row["catch_up"]),
                jitter_seconds=row["jitter_seconds"],
                priority=row["priority"],
                retries_max=row["retries_max"],
                timeout_seconds=row["timeout_seconds"],
            ),
            paused=row["paused"],
            waiting=row["waiting"],
            next_at=row["next_at"],
            last_at=row["last_at"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a target is, as its node has registered it."""

    type: str
    retry: RetryPolicy
    timeout_seconds: float | None
    schedule_to_start_seconds: float | None = None
    total_seconds: float | None = None
    heartbeat_seconds: float | None = None
    concurrency_key: str | None = None
    line: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a look at a schedule that is due comes to.

    `ticks`: those that happen now, in order. `missed`: the first tick of those that are left out, and the moment up to
    which none is made up for. `next_at`: the tick after all of them.
    """

    ticks: tuple[datetime, ...]
    missed: tuple[datetime, datetime] | None
    next_at: datetime | None


def check(definition: Definition, *, now: datetime) -> None:
    """Raises Invalid for what would never fire, or not as it says."""
    rule = definition.rule
    if sum(one is not None for one in (rule.cron, rule.interval_seconds, rule.run_at)) != 1:
        raise Invalid(
            "Exactly one of cron, interval_seconds and run_at says when.",
            where="body",
            fix="Name one and leave out the others.",
        )
    if rule.cron is not None:
        _check_cron(rule, now)
    elif rule.time_zone != "UTC":
        raise Invalid("A time zone goes with cron alone.", where="body.time_zone", fix="Leave it out.")
    interval = rule.interval_seconds
    if interval is not None and not INTERVAL_MIN_SECONDS <= interval <= INTERVAL_MAX_SECONDS:
        raise Invalid(
            f"A number of seconds from {INTERVAL_MIN_SECONDS:g} to {INTERVAL_MAX_SECONDS:.0f}.",
            where="body.interval_seconds",
        )
    if rule.run_at is not None and now - rule.run_at > timedelta(seconds=LATE_SECONDS):
        raise Invalid(
            "This moment is over.", where="body.run_at", fix="Submit an execution instead, or name a moment to come."
        )
    if not 0 <= definition.jitter_seconds <= JITTER_MAX_SECONDS:
        raise Invalid(f"A number of seconds from 0 to {JITTER_MAX_SECONDS:.0f}.", where="body.jitter_seconds")
    if definition.catch_up is CatchUp.ALL and definition.overlap is not Overlap.QUEUE:
        raise Invalid(
            f"With overlap {definition.overlap.value} no more than one of them would run to its end.",
            where="body.catch_up",
            fix="Say overlap queue, or catch_up one.",
        )


def following(rule: Rule, after: datetime) -> Iterator[datetime]:
    """The planned ticks after this moment, in UTC and in order; each of a cron rule may take 20 ms to find."""
    if rule.cron is not None:
        for tick in _cron(rule, after):
            at = tick.astimezone(UTC)  # two of one zone are compared without their offsets
            if at > after:  # what is asked for between the two comings of an hour finds the first ones again
                after = at
                yield at
    elif rule.interval_seconds is not None:
        step = timedelta(seconds=rule.interval_seconds)
        first = max(1, (after - rule.anchor_at) // step + 1)
        yield from (rule.anchor_at + n * step for n in itertools.count(first))
    elif rule.run_at is not None and rule.run_at > after:
        yield rule.run_at


def next_after(rule: Rule, after: datetime) -> datetime | None:
    """The first planned tick after this moment; None when there is none within fifty years."""
    return next(following(rule, after), None)


def first_of(rule: Rule, now: datetime) -> datetime | None:
    """The first tick of a schedule that begins now; a single moment may be over by the time that it is heard of."""
    return rule.run_at if rule.run_at is not None else next_after(rule, now)


def due_at(id_: UUID, planned_at: datetime, jitter_seconds: float) -> datetime:
    """When a tick comes due: never early, and by the same jitter whoever asks, and however often."""
    digest = hashlib.blake2b(id_.bytes + planned_at.isoformat().encode(), digest_size=6).digest()
    return planned_at + timedelta(seconds=jitter_seconds * int.from_bytes(digest) / 2**48)


def plan(schedule: Schedule, *, now: datetime) -> Plan:
    """Which of the ticks that are due happen, which were missed, and what is planned next."""
    definition, first = schedule.definition, schedule.next_at
    assert first is not None
    jitter, late = definition.jitter_seconds, timedelta(seconds=LATE_SECONDS)
    coming = latest(definition.rule, first, now, CATCH_UP_MAX)
    due = list(itertools.takewhile(lambda at: due_at(schedule.id, at, jitter) <= now, coming))
    if not due:
        return Plan(ticks=(), missed=None, next_at=first)
    in_time = [at for at in due if now - due_at(schedule.id, at, jitter) <= late]
    next_at = next_after(definition.rule, due[-1])
    kept = due if len(in_time) == len(due) else _made_up(definition.catch_up, due, in_time)
    missed = None if kept[:1] == [first] else (first, kept[0] if kept else next_at or now)
    return Plan(ticks=tuple(kept), missed=missed, next_at=next_at)


def judge(overlap: Overlap, ticks: Sequence[datetime], *, unfinished: bool, waiting: int) -> list[Outcome]:
    """What becomes of these ticks of one look, in order: at most one of them submits."""
    match overlap:
        case Overlap.CANCEL_OTHER:
            return [Outcome.SKIPPED] * (len(ticks) - 1) + [Outcome.SUBMITTED] * bool(ticks)
        case Overlap.SKIP:
            return [Outcome.SKIPPED if unfinished or n else Outcome.SUBMITTED for n in range(len(ticks))]
        case Overlap.QUEUE:
            at_once = 0 if unfinished or waiting else 1
            room = max(0, WAITING_MAX - waiting) + at_once
            return [
                Outcome.SUBMITTED if n < at_once else Outcome.WAITING if n < room else Outcome.SKIPPED
                for n in range(len(ticks))
            ]
        case _ as never:
            assert_never(never)


def latest(rule: Rule, first: datetime, now: datetime, most: int) -> list[datetime]:
    """The latest planned ticks from `first`, which is one, to now: at most so many, however long it has been."""
    if first > now:
        return []
    since = following(rule, _shortly_before(rule, first, now, most))
    ticks = list(deque(itertools.takewhile(lambda at: at <= now, since), maxlen=most))
    return ticks if len(ticks) == most else [first, *(at for at in ticks if at > first)]


def zone_of(name: str) -> tzinfo:
    """A time zone by its name. Raises Invalid."""
    if name == "UTC":
        return UTC
    if len(name) > 64 or not ZONE.fullmatch(name) or name in MACHINE_ZONES:
        raise _no_zone(name)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # a folder of zones is an OSError
        raise _no_zone(name) from None


def _check_cron(rule: Rule, now: datetime) -> None:
    assert rule.cron is not None
    zone_of(rule.time_zone)
    if len(rule.cron) > CRON_CHARS_MAX or len(rule.cron.split()) != CRON_FIELDS:
        raise Invalid("Not a cron expression of five fields.", where="body.cron", fix=CRON_EXAMPLE)
    if next_after(rule, now) is None:
        raise Invalid("It would not fire within fifty years.", where="body.cron", fix=CRON_EXAMPLE)


def _cron(rule: Rule, after: datetime, *, reverse: bool = False) -> CronSim:
    assert rule.cron is not None
    try:
        return CronSim(rule.cron, after.astimezone(zone_of(rule.time_zone)), reverse=reverse)
    except CronSimError as error:
        raise Invalid(f"Not a cron expression: {error}.", where="body.cron", fix=CRON_EXAMPLE) from None


def _made_up(catch_up: CatchUp, due: list[datetime], in_time: list[datetime]) -> list[datetime]:
    match catch_up:
        case CatchUp.NONE:
            return in_time
        case CatchUp.ONE:
            return due[-1:]
        case CatchUp.ALL:
            return due
        case _ as never:
            assert_never(never)


def _shortly_before(rule: Rule, first: datetime, now: datetime, most: int) -> datetime:
    """A moment from which it is not far to the last `most` ticks before now, but not before `first`.

    Backwards cron is only near enough: where the clock is changed it does not find quite the same moments.
    """
    start = first - MICROSECOND
    if rule.interval_seconds is not None:
        return max(start, now - most * timedelta(seconds=rule.interval_seconds))
    if rule.cron is not None and len(list(itertools.islice(_until(rule, start, now), most + 1))) > most:
        back = deque(itertools.islice(_cron(rule, now, reverse=True), most + 1), maxlen=1)
        return max(start, back[0].astimezone(UTC))
    return start


def _until(rule: Rule, after: datetime, now: datetime) -> Iterator[datetime]:
    return itertools.takewhile(lambda at: at <= now, following(rule, after))


def _no_zone(name: str) -> Invalid:
    near = get_close_matches(name[:64], _zones(), n=2)
    return Invalid(
        "There is no such time zone.",
        where="body.time_zone",
        fix=f"Did you mean {' or '.join(near)}?" if near else "Like this: Europe/Berlin, America/New_York, UTC.",
    )


@cache
def _zones() -> list[str]:
    return sorted(available_timezones() - MACHINE_ZONES)


def declared_by(name: str, target: str) -> str | None:
    """The node whose code declares the schedule of this name, which starts what that node serves itself.

    Its name is `code:NODE:…`; of a node with a long name the first 48 digits of its SHA-256 stand there.
    """
    node_id = parse(target).node_id
    short = node_id if len(node_id) <= CODE_NODE_CHARS else hashlib.sha256(node_id.encode()).hexdigest()
    return node_id if name.startswith(f"{CODE}:{short[:CODE_NODE_CHARS]}:") else None
