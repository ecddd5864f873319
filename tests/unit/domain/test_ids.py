"""Ids sort by time, carry their bucket and come back from the wire as they went."""

from __future__ import annotations

import random
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain import ids
from controlplane.errors import Invalid

RANDOM = UUID("b53fef1d-7700-4dd0-b440-73a66b6937ea")
FAST = settings(max_examples=50, deadline=None)
uuids = st.integers(0, 2**128 - 1).map(lambda number: UUID(int=number))


def maker(*moments: int, seed: int = 1) -> ids.IdMaker:
    """Makes ids at these milliseconds, the last one for ever."""
    left = list(moments)
    return ids.IdMaker(lambda: left.pop(0) if len(left) > 1 else left[0], random.Random(seed).getrandbits)


def test_is_a_uuid_of_version_seven() -> None:
    """Version and variant are those of RFC 9562, the first 48 bits the milliseconds."""
    id_ = maker(1_700_000_000_123).new(0)

    assert (id_.version, id_.variant, id_.int >> 80) == (7, "specified in RFC 4122", 1_700_000_000_123)


@pytest.mark.parametrize("bucket", [0, 1, 31, 4095])
def test_carries_its_bucket(bucket: int) -> None:
    """An id leads to its row."""
    assert ids.bucket_of(maker(1).new(bucket)) == bucket


@pytest.mark.parametrize("moments", [(5,), (5, 6, 7, 8), (9, 3, 1)])
def test_only_grows(moments: tuple[int, ...]) -> None:
    """Within a millisecond, over several, and when the clock steps back."""
    make = maker(*moments)

    made = [make.new(n % 7) for n in range(2_000)]

    assert [id_.int >> 12 for id_ in made] == sorted({id_.int >> 12 for id_ in made})


def test_a_full_millisecond_borrows_the_next() -> None:
    """When the counter runs over, time is pushed on and order is kept."""
    make = ids.IdMaker(lambda: 5, lambda bits: (1 << bits) - 1)
    made = [make.new(0) for _ in range(3)]
    make._counter = (1 << ids.COUNTER_BITS) - 1

    last = make.new(0)

    assert last > made[-1]
    assert last.int >> 80 == 6


@FAST
@given(uuids)
def test_comes_back_from_the_wire(id_: UUID) -> None:
    """What is shown is read as the same id."""
    assert ids.read_execution(ids.show_execution(id_)) == id_


@FAST
@given(uuids, uuids)
def test_sorts_on_the_wire_as_in_the_database(one: UUID, other: UUID) -> None:
    """Text order is id order."""
    assert (ids.show("x", one) < ids.show("x", other)) == (one < other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "exec",
        "exec_",
        "run_" + "0" * 26,
        "exec_" + "0" * 25,
        "exec_" + "0" * 27,
        "exec_8" + "0" * 25,
        "exec_" + "0" * 25 + "i",
        "EXEC_" + "0" * 26,
        "exec_" + "A" * 26,
        "exec_" + "0" * 26 + "\n",
        "exec_" + "٠" * 26,
    ],
)
def test_what_we_did_not_make_is_invalid(text: str) -> None:
    """Wrong prefix, length, digits, case or script, or more than 128 bits."""
    with pytest.raises(Invalid) as refused:
        ids.read_execution(text)
    assert refused.value.where == "execution_id"
    assert not ids.is_execution(text)


@pytest.mark.parametrize(("tail", "attempt"), [("", None), ("~1", 1), ("~999999999", 999_999_999)])
def test_a_fenced_id_names_its_attempt(tail: str, attempt: int | None) -> None:
    """`exec_…~3` is the third attempt; a bare id names none."""
    id_ = maker(1).new(3)

    assert ids.read_fenced(ids.show_execution(id_) + tail, where="x") == (id_, attempt)
    assert ids.is_execution(ids.show_execution(id_) + tail)


@pytest.mark.parametrize("tail", ["~", "~0", "~-1", "~01", "~1.0", "~1~1", "~1234567890", "~x", "~1 ", "~٣"])
def test_a_fence_that_is_no_attempt_is_invalid(tail: str) -> None:
    """Attempts are whole numbers from 1, in plain digits."""
    with pytest.raises(Invalid):
        ids.read_fenced(ids.show_execution(maker(1).new(0)) + tail, where="x")


def test_a_run_id_of_ours_names_its_bucket() -> None:
    """It was made with the bucket of the run in it."""
    assert ids.run_bucket(ids.show("run", maker(1).new(17))) == 17


@pytest.mark.parametrize(
    "run_id", ["", "run", "my-run", "run_1", "exec_" + "0" * 26, "run_" + "0" * 26, ids.show("run", RANDOM)]
)
def test_a_run_id_that_a_caller_made_up_names_none(run_id: str) -> None:
    """Not even one that is as long as ours."""
    assert ids.run_bucket(run_id) is None
