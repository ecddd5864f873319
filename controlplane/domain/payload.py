"""How deep a payload may nest: what is deeper cannot be read back by every client."""

from __future__ import annotations

import re

DEPTH_MAX = 200
STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
NOT_A_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
SQUARE = bytes.maketrans(b"{}", b"[]")


def shallow(raw: bytes, depth_max: int = DEPTH_MAX) -> bool:
    """Whether valid JSON nests at most so deep: innermost pairs are taken away until none is left."""
    if raw.count(b"[") + raw.count(b"{") <= depth_max:
        return True
    brackets = STRING.sub(b"", raw).translate(SQUARE, NOT_A_BRACKET)
    for _ in range(depth_max):
        brackets = brackets.replace(b"[]", b"")
    return not brackets
