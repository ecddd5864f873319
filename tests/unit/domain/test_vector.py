"""Vectors: which numbers are one, and which metadata a filter means."""

from __future__ import annotations

import math

import pytest

from controlplane.domain.vector import (
    DIMENSIONS_MAX,
    NEGLIGIBLE,
    NORM_MAX,
    NORM_MIN,
    matches,
    measure,
    read_object,
    unit,
)
from controlplane.errors import Invalid


def test_an_embedding_is_measured() -> None:
    """Its numbers stay as they are."""
    made = measure([3.0, -4.0], where="x")

    assert (made.values, made.norm) == ((3.0, -4.0), 5.0)
    assert unit(made) == (0.6, -0.8)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([], "From 1 to 4096"),
        ([1.0] * (DIMENSIONS_MAX + 1), "From 1 to 4096"),
        ([0.0, -0.0], "zero vector"),
        ([math.nan, 1.0], "norm"),
        ([math.inf, 1.0], "norm"),
        ([1e308, 1e308], "norm"),
        ([5e-324], "norm"),
    ],
    ids=["none", "too many", "zero", "NaN", "infinite", "too large", "too small"],
)
def test_what_is_no_embedding(values: list[float], word: str) -> None:
    """The refusal says why and where."""
    with pytest.raises(Invalid, match=word) as refused:
        measure(values, where="body.embedding")

    assert refused.value.where == "body.embedding"


def test_as_many_dimensions_as_may_be() -> None:
    """4,096, of any size that a double compares."""
    for size in (NORM_MIN, 1.0, NORM_MAX / 100):
        assert len(measure([size] * DIMENSIONS_MAX, where="x").values) == DIMENSIONS_MAX


@pytest.mark.parametrize("large", [NORM_MIN, 1.0, NORM_MAX])
def test_what_is_negligible_is_zero(large: float) -> None:
    """No product or quotient of what is left leaves the range of a double."""
    made = measure([large, large * NEGLIGIBLE / 2, 5e-324], where="x")
    least = measure([large, large * NEGLIGIBLE * 2], where="x")

    assert made.values == (large, 0.0, 0.0)
    assert abs(least.values[1]) * min(unit(least)) > 0


@pytest.mark.parametrize(
    ("metadata", "wanted", "expected"),
    [
        (b'{"a":1,"b":2}', b"{}", True),
        (None, b"{}", True),
        (None, b'{"a":null}', False),
        (b'{"a":null}', b'{"a":null}', True),
        (b'{"a":1,"b":2}', b'{"a":1}', True),
        (b'{"a":1,"b":2}', b'{"a":1,"b":3}', False),
        (b'{"a":1,"b":2}', b'{"c":1}', False),
        (b'{"a":1}', b'{"a":1.0}', True),
        (b'{"a":1}', b'{"a":true}', False),
        (b'{"a":[0]}', b'{"a":[false]}', False),
        (b'{"a":"1"}', b'{"a":1}', False),
        (b'{"a":{"x":1,"y":[1,2]}}', b'{"a":{"y":[1,2],"x":1}}', True),
        (b'{"a":{"x":1,"y":2}}', b'{"a":{"x":1}}', False),
        (b'{"a":[1,2]}', b'{"a":[1]}', False),
        (b'{"a":{}}', b'{"a":[]}', False),
        (rb'{"\u0000":"\u00e9"}', '{"\\u0000":"é"}'.encode(), True),
    ],
)
def test_a_filter_is_equality_of_its_keys(metadata: bytes | None, wanted: bytes, expected: bool) -> None:
    """Every wanted key is there with the same JSON value; others do not matter."""
    assert matches(metadata, read_object(wanted)) == expected
