"""When two calls ask the same: a run that was started anew takes over only answers to the very question it asks.

And what a retry asks: what the execution asked that has failed, in the same run.
"""

from __future__ import annotations

import json
from dataclasses import replace
from enum import StrEnum

from controlplane.domain.execution import Replay, ReplayMode, Submission
from controlplane.domain.ids import ExecutionId, show_execution


class Reuse(StrEnum):
    """What becomes of the calls a retry makes: those that had succeeded in its run are answered from there, or none."""

    SUCCEEDED_BEFORE = "succeeded-before"
    NONE = "none"


def retry_of(old: Submission, id_: ExecutionId, *, reuse: Reuse, reason: str | None, **origin: str) -> Submission:
    """The old question once more, in its run. What the run had found before it was asked for is not asked again."""
    said = {"kind": "retry", "source_execution_id": show_execution(old.id)} | origin
    return replace(
        old,
        id=id_,
        source_execution_id=old.id,
        replay=None
        if reuse is Reuse.NONE
        else Replay(source_run_id=old.run_id, mode=ReplayMode.SUCCEEDED_BEFORE, before_id=id_),
        origin=json.dumps(said | ({} if reason is None else {"reason": reason})).encode(),
    )


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
