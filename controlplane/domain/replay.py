"""When two calls ask the same: a run that was started anew takes over only answers to the very question it asks."""

from __future__ import annotations

import json


def question(input_: bytes, context: bytes | None) -> str | None:
    """Input and context in one form for all ways to write them: keys in order, no blanks, equal numbers alike.

    Where in doubt two questions differ, and the call is run: `true` is not 1, and numbers that a double cannot tell
    apart are not equal when one of them is whole and longer than that. None for what Python cannot read (a number of
    some thousand digits): it is equal to nothing but its own bytes.
    """
    try:
        return json.dumps([_value(input_), None if context is None else _value(context)], sort_keys=True)
    except (ValueError, RecursionError):
        return None


def _value(raw: bytes) -> object:
    return json.loads(raw, parse_float=_number)


def _number(digits: str) -> int | float:
    """1.0 and 1e0 as 1."""
    number = float(digits)
    return int(number) if number.is_integer() else number
