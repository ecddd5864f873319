"""How deep a payload nests, counted without reading it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.payload import DEPTH_MAX, shallow

FAST = settings(max_examples=100, deadline=None)
brackets = st.text('[]{}"\\a', max_size=8)
values = st.recursive(
    st.none() | st.integers() | brackets,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(brackets, inner, max_size=3),
    max_leaves=20,
)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@FAST
@given(value=values, depth_max=st.integers(0, 5), indent=st.sampled_from([None, 1]))
def test_counts_what_nests(value: Any, depth_max: int, indent: int | None) -> None:
    """Brackets in strings, escapes and blanks do not count."""
    raw = json.dumps(value, indent=indent).encode()

    assert shallow(raw, depth_max) == (depth(value) <= depth_max)


@pytest.mark.parametrize(
    ("opening", "closing", "levels"), [(b"[", b"]", 1), (b'{"a":', b"}", 1), (b'[{"]":', b"}]", 2)]
)
def test_the_limit_is_the_last_that_fits(opening: bytes, closing: bytes, levels: int) -> None:
    """Lists and objects count alike."""
    fit = DEPTH_MAX // levels

    assert shallow(opening * fit + b"1" + closing * fit)
    assert not shallow(opening * (fit + 1) + b"1" + closing * (fit + 1))


def test_many_side_by_side_are_not_deep() -> None:
    """Wide is no trouble."""
    assert shallow(b"[" + b",".join([b"[{}]"] * 10_000) + b"]")
