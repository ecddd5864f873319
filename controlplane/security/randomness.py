"""Random bits from the operating system, drawn a block at a time: asking for each few of them cost more than an id."""

from __future__ import annotations

import os
import struct
from itertools import chain

WORD_BITS = 64
BLOCK_WORDS = 512
BLOCK = struct.Struct(f"{BLOCK_WORDS}Q")


class RandomBits:
    """At most 64 bits a call, none of them given twice. Not for processes that fork: both would draw the same."""

    def __init__(self) -> None:
        self._words = chain.from_iterable(iter(_block, ()))

    def __call__(self, bits: int) -> int:
        return next(self._words) >> (WORD_BITS - bits)


def _block() -> tuple[int, ...]:
    return BLOCK.unpack(os.urandom(BLOCK.size))
