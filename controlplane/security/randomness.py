"""Random bits from the operating system, drawn a block at a time: asking for each few of them cost more than an id."""

from __future__ import annotations

import os
from collections.abc import Iterator

WORD_BYTES = 8
BLOCK_WORDS = 512


class RandomBits:
    """At most 64 bits a call, none of them given twice. Not for processes that fork: both would draw the same."""

    def __init__(self) -> None:
        self._words = _words()

    def __call__(self, bits: int) -> int:
        return next(self._words) >> (8 * WORD_BYTES - bits)


def _words() -> Iterator[int]:
    while True:
        block = os.urandom(WORD_BYTES * BLOCK_WORDS)
        for at in range(0, len(block), WORD_BYTES):
            yield int.from_bytes(block[at : at + WORD_BYTES])
