"""Random bits come from the system a block at a time, and none of them twice."""

from __future__ import annotations

import pytest

from controlplane.security.randomness import BLOCK_WORDS, RandomBits


@pytest.mark.parametrize("bits", [1, 40, 61, 64])
def test_as_many_as_were_asked_for(bits: int) -> None:
    """No number is larger than its bits, and the highest bit is used."""
    drawn = RandomBits()
    numbers = [drawn(bits) for _ in range(200)]

    assert bits - 1 <= max(numbers).bit_length() <= bits


def test_none_twice() -> None:
    """Also across the border of a block."""
    drawn = RandomBits()
    numbers = [drawn(64) for _ in range(3 * BLOCK_WORDS)]

    assert len(set(numbers)) == len(numbers)
