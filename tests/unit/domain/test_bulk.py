"""A bulk: what may be asked, how a filter is kept, and what its parts add up to."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from controlplane.domain.bulk import (
    ERROR_CHARS_MAX,
    ERRORS_MAX,
    REPLAYED_MAX,
    Action,
    Asked,
    Bulk,
    BulkId,
    BulkState,
    Count,
    Filter,
    Tally,
    bounds,
    check,
    check_count,
    dump,
    load,
    together,
)
from controlplane.domain.delivery import DeliveryState
from controlplane.domain.execution import Status
from controlplane.domain.ids import EARLY_SECONDS, LATE_SECONDS, IdMaker
from controlplane.errors import Invalid

NOW = datetime(2030, 1, 31, 9, 0, 0, 123456, tzinfo=UTC)


def asked(action: Action = Action.CANCEL, **filter_: Any) -> Asked:
    return Asked(namespace=1, action=action, filter=Filter(**filter_))


def part(**over: Any) -> Bulk:
    made = Bulk(
        id=BulkId(UUID(int=1)),
        action=Action.CANCEL,
        filter=b"{}",
        reason=None,
        reuse=None,
        state=BulkState.DONE,
        error=None,
        matched=1,
        exact=True,
        tally=Tally(done=1),
        created_at=NOW,
        began_at=NOW,
        ended_at=NOW,
    )
    return replace(made, **over)


def id_made_at(at: datetime) -> UUID:
    return IdMaker(lambda: int(at.timestamp() * 1000), lambda bits: 0).new(0)


@pytest.mark.parametrize("action", Action)
def test_a_filter_is_kept_in_the_words_of_the_wire(action: Action) -> None:
    """And reads back as what it was, to the microsecond."""
    one = Filter(statuses=(Status.FAILED,), target="n.echo", run_id="r", created_after=NOW, ended_before=NOW)
    named = Filter(ids=(UUID(int=7), UUID(int=8)))

    assert b'"status": ["failed"]' in dump(one, action)
    assert [load(dump(each, action), action) for each in (one, named)] == [one, named]


@pytest.mark.parametrize("raw", [b'{"moon": "full"}', b'{"status": ["odd"]}', b'{"ids": ["x"]}', b"[]", b"{"])
def test_what_is_no_filter_is_not_guessed_at(raw: bytes) -> None:
    """Whoever wrote it meant something that is not known here."""
    with pytest.raises(ValueError, match=r"."):
        load(raw, Action.CANCEL)


def test_everything_must_be_said() -> None:
    """An empty filter is refused, and so is a filter beside `all`."""
    check(asked(), everything=True)
    check(asked(target="n.echo"), everything=False)
    for what, everything in ((asked(), False), (asked(target="n.echo"), True)):
        with pytest.raises(Invalid):
            check(what, everything=everything)


def test_a_retry_means_what_has_failed_or_timed_out() -> None:
    """What was cancelled only when it is named."""
    assert asked(Action.RETRY).wanted == ["failed", "timeout"]
    assert asked(Action.RETRY, statuses=(Status.CANCELLED,)).wanted == ["cancelled"]
    assert asked(statuses=(Status.QUEUED,)).wanted == ["ready", "delayed", "blocked"]


def test_ids_bound_what_can_match() -> None:
    """Also of one whose id is older than its row, or was stamped by a clock that is ahead."""
    day = timedelta(days=1)
    low, high = bounds(Filter(created_after=NOW - 2 * day, ended_before=NOW - day), NOW)

    assert bounds(Filter(), NOW)[0] == UUID(int=0)
    assert low < id_made_at(NOW - 2 * day - timedelta(seconds=LATE_SECONDS))
    assert id_made_at(NOW - day + timedelta(seconds=EARLY_SECONDS - 1)) < high < id_made_at(NOW)


def test_failures_are_counted_and_the_first_of_them_kept() -> None:
    """Their words are bounded and hold nothing that a terminal would obey."""
    tally = Tally(done=1)
    for n in range(2 * ERRORS_MAX):
        tally.fail(f"exec_{n}", "boom", "\x1b" + "x" * 2 * ERROR_CHARS_MAX)
    tally.skip("moved_on")
    read = Tally.load(1, tally.dump())

    assert read == tally
    assert (read.failed, read.skipped, len(read.errors)) == ({"boom": 2 * ERRORS_MAX}, {"moved_on": 1}, ERRORS_MAX)
    assert read.errors[0]["message"] == " " + "x" * (ERROR_CHARS_MAX - 1)


@pytest.mark.parametrize(
    ("states", "state"),
    [
        (("done", "done"), "done"),
        (("done", "running"), "running"),
        (("stopped", "running"), "running"),
        (("done", "stopped"), "stopped"),
        (("done", "failed"), "failed"),
    ],
)
def test_the_whole_of_its_parts(states: tuple[str, str], state: str) -> None:
    """It runs while a part of it does; numbers add up, and it has ended when all have."""
    parts = [part(state=BulkState(one), ended_at=None if one == "running" else NOW) for one in states]
    whole = together(parts)

    assert (whole.state, whole.matched, whole.tally.done) == (state, 2, 2)
    assert (whole.ended_at is None) == ("running" in states)


BOTH = (DeliveryState.DELIVERED, DeliveryState.DEAD)


def test_a_filter_of_deliveries_is_kept_as_it_was_said() -> None:
    """In the words of the wire, whatever server reads it next."""
    said = Filter(states=BOTH, event="execution.failed", endpoint_id=UUID(int=7))
    raw = dump(said, Action.REDRIVE_DELIVERIES)

    assert b'"state": ["delivered", "dead"]' in raw
    assert load(raw, Action.REDRIVE_DELIVERIES) == said


@pytest.mark.parametrize(
    ("filter_", "where"),
    [
        ({"states": (DeliveryState.PENDING,)}, "body.filter.state"),
        ({"ids": (UUID(int=1),), "event": "x"}, "body.filter.ids"),
    ],
)
def test_what_cannot_be_sent_again(filter_: dict[str, Any], where: str) -> None:
    """What is not over, and ids with more than a state beside them."""
    with pytest.raises(Invalid) as refused:
        check(asked(Action.REDRIVE_DELIVERIES, **filter_), everything=False)

    assert refused.value.where == where


@pytest.mark.parametrize("name", ["states", "event", "endpoint_id", "host"])
def test_only_deliveries_have_it(name: str) -> None:
    """An execution has no state of a delivery, no event and no receiver."""
    value: Any = BOTH if name == "states" else UUID(int=7) if name == "endpoint_id" else "x"
    with pytest.raises(Invalid):
        check(asked(Action.CANCEL, **{name: value}), everything=False)


@pytest.mark.parametrize(
    ("states", "number", "exact", "refused"),
    [
        (BOTH, REPLAYED_MAX, True, False),
        (BOTH, REPLAYED_MAX + 1, True, True),
        (BOTH, 1, False, True),
        ((), REPLAYED_MAX + 1, True, False),
    ],
    ids=["at the limit", "over it", "not counted to the end", "the dead ones alone"],
)
def test_a_storm_needs_a_yes(states: tuple[DeliveryState, ...], number: int, exact: bool, refused: bool) -> None:
    """Of what was taken already; the dead ones were always sent without one."""
    what = asked(Action.REDRIVE_DELIVERIES, states=states, host="h")
    counted = Count(matched={0: number}, exact={0: exact}, sample=())
    check_count(what, counted, confirmed=True)
    if not refused:
        check_count(what, counted, confirmed=False)
        return

    with pytest.raises(Invalid):
        check_count(what, counted, confirmed=False)
