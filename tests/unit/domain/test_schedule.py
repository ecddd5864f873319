"""What a schedule plans: through clock changes, after outages, and with jitter that never comes early."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain import schedule
from controlplane.domain.schedule import (
    CATCH_UP_MAX,
    LATE_SECONDS,
    WAITING_MAX,
    CatchUp,
    Definition,
    Outcome,
    Overlap,
    Rule,
    Schedule,
    ScheduleId,
)
from controlplane.errors import Invalid

FAST = settings(max_examples=60, deadline=None)
ID = ScheduleId(UUID("01900000-0000-7000-8000-000000000000"))
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
LATE = timedelta(seconds=LATE_SECONDS)
HOUR = timedelta(hours=1)
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "America/Havana", "Pacific/Auckland"]
FIELDS = ["* * * * *", "*/15 * * * *", "0 * * * *", "30 2 * * *", "0,30 1-3 * * *", "*/7 0-3 * * SUN", "15 */2 * * *"]

moments = st.integers(1_735_689_600_000, 1_830_297_600_000).map(lambda ms: datetime.fromtimestamp(ms / 1_000, UTC))
rules = st.one_of(
    st.builds(Rule, cron=st.sampled_from(FIELDS), time_zone=st.sampled_from(ZONES)),
    st.builds(Rule, interval_seconds=st.floats(1, 1e6)),
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text + "Z")


def cron(expression: str, after: str, count: int, zone: str = "Europe/Berlin") -> list[str]:
    """The next ticks after an instant, as UTC to the minute."""
    ticks = schedule.following(Rule(cron=expression, time_zone=zone), at(after))
    return [f"{next(ticks):%d %H:%M}" for _ in range(count)]


def a_schedule(first: datetime | None = NOON, **over: Any) -> Schedule:
    definition = Definition(target="n.echo", input=b"{}", rule=Rule(interval_seconds=3_600.0, anchor_at=NOON - HOUR))
    return Schedule(
        id=ID,
        namespace=1,
        name="s",
        definition=replace(definition, **over),
        paused=False,
        waiting=0,
        next_at=first,
        last_at=None,
        created_at=NOON,
        updated_at=NOON,
    )


def refused(**over: Any) -> Invalid:
    with pytest.raises(Invalid) as caught:
        schedule.check(a_schedule(**over).definition, now=NOON)
    return caught.value


def test_cron_is_local_time() -> None:
    """Nine in Berlin is eight in UTC, and seven in summer."""
    assert cron("0 9 * * *", "2026-03-27T12:00", 3) == ["28 08:00", "29 07:00", "30 07:00"]


def test_a_skipped_time_fires_after_the_gap() -> None:
    """On the day without a half past two, it is three."""
    assert cron("30 2 * * *", "2026-03-28T12:00", 2) == ["29 01:00", "30 00:30"]


def test_several_skipped_times_fire_once() -> None:
    """Of what falls into the gap nothing is left but its end, also when a tick is planned there anyway."""
    assert cron("0,30 2,3 * * *", "2026-03-28T12:00", 3) == ["29 01:00", "29 01:30", "30 00:00"]


def test_a_time_that_comes_twice_fires_at_the_first() -> None:
    """The day with two half past twos has one tick, whoever asks between the two."""
    assert cron("30 2 * * *", "2026-10-24T12:00", 2) == ["25 00:30", "26 01:30"]
    assert cron("30 2 * * *", "2026-10-25T01:10", 1) == ["26 01:30"]


def test_a_starred_rule_goes_by_the_time_that_passes() -> None:
    """Every half hour is every thirty minutes, through the gap and through both comings."""
    assert cron("*/30 * * * *", "2026-03-29T00:10", 3) == ["29 00:30", "29 01:00", "29 01:30"]
    assert cron("*/30 * * * *", "2026-10-24T23:50", 5) == ["25 00:00", "25 00:30", "25 01:00", "25 01:30", "25 02:00"]


def test_the_gap_at_midnight() -> None:
    """Where the clock goes from midnight to one, what is planned at midnight fires at one."""
    assert cron("0 0 * * *", "2026-03-07T12:00", 2, "America/Havana") == ["08 05:00", "09 04:00"]


def test_the_rare_day() -> None:
    """The next 29 February that is a Monday is far away, and found."""
    assert schedule.next_after(Rule(cron="0 0 29 2 *"), NOON) == at("2028-02-29T00:00")
    assert schedule.next_after(Rule(cron="0 0 * 2 MON#5"), NOON) == at("2044-02-29T00:00")


def test_an_interval_keeps_its_grid() -> None:
    """Whenever it is looked at, ticks are whole intervals away from where it began."""
    rule = Rule(interval_seconds=90.0, anchor_at=NOON)

    assert schedule.next_after(rule, NOON - HOUR) == NOON + timedelta(seconds=90)
    assert schedule.next_after(rule, NOON + timedelta(seconds=90)) == NOON + timedelta(seconds=180)
    assert schedule.next_after(rule, NOON + HOUR + timedelta(seconds=1)) == NOON + timedelta(seconds=3690)


def test_a_single_moment_comes_once() -> None:
    """There is nothing after it; one that has just gone by is still the first of its schedule."""
    rule = Rule(run_at=NOON)

    assert list(schedule.following(rule, NOON - HOUR)) == [NOON]
    assert list(schedule.following(rule, NOON)) == []
    assert schedule.first_of(rule, NOON + timedelta(seconds=1)) == NOON


@FAST
@given(rules, moments)
def test_ticks_only_grow(rule: Rule, after: datetime) -> None:
    """Each is later than the one before and than the moment that was asked for."""
    ticks = schedule.following(rule, after)
    found = [after, *(next(ticks) for _ in range(20))]

    assert found == sorted(set(found))


@FAST
@given(rules, moments, st.integers(0, 19))
def test_it_does_not_matter_where_one_begins_to_count(rule: Rule, after: datetime, n: int) -> None:
    """A scheduler that comes back in the middle plans what one that never left had planned."""
    ticks = schedule.following(rule, after)
    found = [next(ticks) for _ in range(n + 2)]

    assert schedule.next_after(rule, found[n]) == found[n + 1]
    assert schedule.next_after(rule, found[n + 1] - timedelta(milliseconds=1)) == found[n + 1]


@FAST
@given(st.sampled_from(["*/20 * * * *", "5 * * * *"]), st.sampled_from(ZONES), moments)
def test_a_starred_rule_loses_nothing(expression: str, zone: str, after: datetime) -> None:
    """It fires at each minute of real time whose local minute it names, and at no other."""
    rule = Rule(cron=expression, time_zone=zone)
    start = after.replace(second=0, microsecond=0)
    minutes = [start + timedelta(minutes=n) for n in range(1, 24 * 60)]
    wanted = {0, 20, 40} if expression.startswith("*") else {5}
    expected = [one for one in minutes if one.astimezone(schedule.zone_of(zone)).minute in wanted]
    ticks = schedule.following(rule, start)

    assert [next(ticks) for _ in expected] == expected


@FAST
@given(st.text(st.sampled_from("0123456789*/,-#LW MONSUNJANé²"), max_size=40))
def test_any_text_is_a_rule_or_refused(expression: str) -> None:
    """What is no cron expression is refused with a word, never with a crash."""
    definition = a_schedule(rule=Rule(cron=expression, time_zone="Europe/Berlin")).definition
    where = "body.cron"
    try:
        schedule.check(definition, now=NOON)
    except Invalid as error:
        where = error.where or ""

    assert where == "body.cron"


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "@daily",
        "* * * * MON#6",
        "0 0 30 2 *",
        "0 0 */31 * MON#5",
        "* " * 150,
    ],
)
def test_what_is_no_cron_expression_is_refused(expression: str) -> None:
    """Too few or too many fields, what is out of range, and what would never fire."""
    assert refused(rule=Rule(cron=expression)).where == "body.cron"


@pytest.mark.parametrize(
    "zone", ["", "Berlin", "../UTC", "Europe", "localtime", "Europe/Berlin\x00", "x" * 5_000, "/etc"]
)
def test_what_is_no_zone_is_refused(zone: str) -> None:
    """No path leads out of the zones, and this machine's own zone is nobody's."""
    assert refused(rule=Rule(cron="* * * * *", time_zone=zone)).where == "body.time_zone"


def test_a_zone_that_is_nearly_right_is_named() -> None:
    """The next step is in the answer."""
    assert "Europe/Berlin" in (refused(rule=Rule(cron="* * * * *", time_zone="Europe/Berlinn")).fix or "")


@pytest.mark.parametrize(
    ("over", "where"),
    [
        ({"rule": Rule()}, "body"),
        ({"rule": Rule(cron="* * * * *", interval_seconds=60.0)}, "body"),
        ({"rule": Rule(interval_seconds=0.5)}, "body.interval_seconds"),
        ({"rule": Rule(interval_seconds=float("nan"))}, "body.interval_seconds"),
        ({"rule": Rule(interval_seconds=60.0, time_zone="Europe/Berlin")}, "body.time_zone"),
        ({"rule": Rule(run_at=NOON - HOUR)}, "body.run_at"),
        ({"jitter_seconds": -1.0}, "body.jitter_seconds"),
        ({"jitter_seconds": float("inf")}, "body.jitter_seconds"),
        ({"catch_up": CatchUp.ALL}, "body.catch_up"),
    ],
)
def test_what_contradicts_itself_is_refused(over: dict[str, Any], where: str) -> None:
    """The part that cannot be is named."""
    assert refused(**over).where == where


@FAST
@given(st.floats(0, 86_400), st.uuids(), moments)
def test_jitter_is_never_early_and_always_the_same(jitter: float, id_: UUID, planned: datetime) -> None:
    """A tick is due at or after its plan, within its jitter, for every scheduler at the same moment."""
    due = schedule.due_at(id_, planned, jitter)

    assert timedelta() <= due - planned <= timedelta(seconds=jitter)
    assert schedule.due_at(id_, planned, jitter) == due


def test_jitter_differs_from_schedule_to_schedule() -> None:
    """What is planned at the same moment is spread out."""
    assert len({schedule.due_at(UUID(int=n), NOON, 60.0) for n in range(100)}) == 100


@pytest.mark.parametrize("catch_up", CatchUp)
def test_in_time_every_tick_happens(catch_up: CatchUp) -> None:
    """Whatever is to become of missed ones."""
    plan = schedule.plan(a_schedule(catch_up=catch_up), now=NOON + LATE)

    assert plan == schedule.Plan(ticks=(NOON,), missed=None, next_at=NOON + HOUR)


@pytest.mark.parametrize(("catch_up", "hours"), [(CatchUp.NONE, []), (CatchUp.ONE, [3]), (CatchUp.ALL, [0, 1, 2, 3])])
def test_after_an_outage(catch_up: CatchUp, hours: list[int]) -> None:
    """Three and a half hours without a scheduler: none, the last, or all are made up for."""
    plan = schedule.plan(a_schedule(catch_up=catch_up), now=NOON + 3.5 * HOUR)

    assert list(plan.ticks) == [NOON + n * HOUR for n in hours]
    assert plan.next_at == NOON + 4 * HOUR
    assert plan.missed == (None if 0 in hours else (NOON, plan.ticks[0] if hours else plan.next_at))


def test_none_still_takes_what_is_in_time() -> None:
    """After an outage that ends just after a tick, that tick is none of the missed ones."""
    plan = schedule.plan(a_schedule(catch_up=CatchUp.NONE), now=NOON + 2 * HOUR + LATE)

    assert plan.ticks == (NOON + 2 * HOUR,)
    assert plan.missed == (NOON, NOON + 2 * HOUR)


@pytest.mark.parametrize("rule", [Rule(cron="* * * * *", time_zone="Europe/Berlin"), Rule(interval_seconds=60.0)])
def test_all_has_a_bound(rule: Rule) -> None:
    """After a year without a scheduler the latest hundred are made up for, and it takes no year to find them."""
    first = schedule.next_after(rule, NOON)
    now = NOON + timedelta(days=365, seconds=1)
    plan = schedule.plan(a_schedule(first, rule=rule, catch_up=CatchUp.ALL, overlap=Overlap.QUEUE), now=now)

    assert len(plan.ticks) == CATCH_UP_MAX
    assert now - plan.ticks[-1] < timedelta(seconds=60) < plan.next_at - plan.ticks[-1] + LATE
    assert plan.missed == (first, plan.ticks[0])


@FAST
@given(rules, moments, st.timedeltas(timedelta(), timedelta(days=3)), st.integers(1, 30))
def test_latest_is_the_end_of_all(rule: Rule, after: datetime, outage: timedelta, most: int) -> None:
    """However they are found: the last ones that one would have counted to."""
    first = schedule.next_after(rule, after)
    assert first is not None
    every = list(schedule._until(rule, first - schedule.MICROSECOND, first + outage))

    assert schedule.latest(rule, first, first + outage, most) == every[-most:]


def test_a_tick_whose_jitter_is_not_over_waits() -> None:
    """What is planned but not due stays planned, and nothing after it overtakes it."""
    one = a_schedule(jitter_seconds=3_600.0)
    due = schedule.due_at(ID, NOON, 3_600.0)

    assert schedule.plan(one, now=due - schedule.MICROSECOND) == schedule.Plan(ticks=(), missed=None, next_at=NOON)
    assert schedule.plan(one, now=due).ticks == (NOON,)


@pytest.mark.parametrize(
    ("overlap", "unfinished", "waiting", "expected"),
    [
        (Overlap.SKIP, False, 0, "submitted skipped skipped"),
        (Overlap.SKIP, True, 0, "skipped skipped skipped"),
        (Overlap.QUEUE, False, 0, "submitted waiting waiting"),
        (Overlap.QUEUE, True, 0, "waiting waiting waiting"),
        (Overlap.QUEUE, False, 1, "waiting waiting waiting"),
        (Overlap.QUEUE, True, WAITING_MAX - 1, "waiting skipped skipped"),
        (Overlap.CANCEL_OTHER, True, 0, "skipped skipped submitted"),
    ],
)
def test_overlap_decides(overlap: Overlap, unfinished: bool, waiting: int, expected: str) -> None:
    """At most one of a look submits, and none does beside another, but for the one that cancels it."""
    ticks = [NOON + n * HOUR for n in range(3)]

    assert schedule.judge(overlap, ticks, unfinished=unfinished, waiting=waiting) == [
        Outcome(word) for word in expected.split()
    ]
