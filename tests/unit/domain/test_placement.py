"""Where a row lives is decided once, and always somewhere that is looked at."""

from __future__ import annotations

import random
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.ids import IdMaker, bucket_of, show
from controlplane.domain.placement import Placement, by_bucket

FAST = settings(max_examples=50, deadline=None)
STOCK = Placement()
WIDE = Placement(buckets=64, hashed=32)
make_id = IdMaker(lambda: 1_700_000_000_000, random.Random(1).getrandbits).new


def test_a_stock_installation_has_one_bucket() -> None:
    """Whatever it is asked about."""
    assert {STOCK.of_key(1, "x"), STOCK.of_run(1, "made-up"), STOCK.next(), STOCK.next()} == {0}
    assert list(STOCK.all()) == [0]


def test_what_belongs_to_nothing_goes_round() -> None:
    """All buckets in turn."""
    placement = Placement(buckets=3, hashed=2)

    assert [placement.next() for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_a_name_has_its_place() -> None:
    """The same every time, among the hashed ones, and another for another namespace or name."""
    names = [f"name-{n}" for n in range(200)]
    places = [WIDE.of_key(1, name) for name in names]

    assert places == [Placement(buckets=128, hashed=32).of_key(1, name) for name in names]
    assert set(places) == set(range(32))
    assert places != [WIDE.of_key(2, name) for name in names]


def test_parts_of_a_name_do_not_run_together() -> None:
    """`ab` and `c` is not `a` and `bc`."""
    wide = Placement(buckets=4096, hashed=4096)

    assert wide.of_key(1, "ab", "c") != wide.of_key(1, "a", "bc")


def test_a_run_of_ours_says_where_it_lives() -> None:
    """The bucket is in its id."""
    assert WIDE.of_run(1, show("run", make_id(63))) == 63


@FAST
@given(st.integers(0, 2**128 - 1), st.sampled_from([STOCK, WIDE, Placement(buckets=1, hashed=8)]))
def test_no_run_id_leads_where_nobody_looks(number: int, placement: Placement) -> None:
    """A run id is the caller's to choose; one that looks like ours must not hide its work from every claim."""
    assert placement.of_run(1, show("run", UUID(int=number))) in placement.all()


def test_a_run_comes_before_a_key() -> None:
    """A run's executions live together; without a run the idempotency key decides, so that its repeat finds it."""
    run = show("run", make_id(40))

    assert WIDE.of_submit(1, run_id=run, idempotency_key="k") == 40
    assert WIDE.of_submit(1, run_id=None, idempotency_key="k") == WIDE.of_key(1, "k")


@pytest.mark.parametrize("buckets", [[], [3, 1, 3, 2, 1]])
def test_batches_go_bucket_by_bucket(buckets: list[int]) -> None:
    """Lowest first, the items of each in their order."""
    made = [make_id(bucket) for bucket in buckets]

    parts = list(by_bucket(made, lambda id_: id_))

    assert [bucket for bucket, _ in parts] == sorted(set(buckets))
    assert [id_ for _, part in parts for id_ in part] == sorted(made, key=lambda id_: (bucket_of(id_), id_.int >> 12))
