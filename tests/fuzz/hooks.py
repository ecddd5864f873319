"""What Schemathesis loads into its own process: short waits, and the reasons for which a failure is none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import schemathesis

from tests.fuzz.reasons import reason_of

EXCUSED = os.environ.get("FUZZ_EXCUSED")
"""Where it is written which reasons were needed, one a line."""
WAIT_SECONDS = 0.05
LONGEST_SECONDS = 60
"""The longest that any route holds an answer: what is more is refused, and has to stay as it is."""


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: Any, kwargs: dict[str, Any]) -> None:
    """Long polls are asked for shortly, so that a campaign spends cases and not waits."""
    for part in (case.query, case.body):
        said = part.get("wait_seconds") if isinstance(part, dict) else None
        if isinstance(said, int | float) and WAIT_SECONDS < said <= LONGEST_SECONDS:
            part["wait_seconds"] = WAIT_SECONDS if isinstance(said, float) else 0


@schemathesis.hook
def filter_failure(context: schemathesis.HookContext, failure: Any, case: Any, response: Any) -> bool:
    """Whether it is a failure after all."""
    try:
        said = json.loads(response.content)
    except ValueError:
        said = None
    label = f"{case.operation.method.upper()} {case.operation.path}"
    reason = reason_of(type(failure).__name__, label, response.status_code, said)
    if reason is not None and EXCUSED:
        with Path(EXCUSED).open("a") as excused:
            excused.write(f"{reason.why}\n")
    return reason is None
