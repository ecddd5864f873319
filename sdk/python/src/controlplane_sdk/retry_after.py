"""When an error says that it is worth trying again."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any


def retry_after_seconds(error: BaseException) -> float | None:
    """Seconds from now, as the error says: its `retry_after` (seconds or a timedelta), or the header of its `response`.

    So `Retryable(after_seconds=…)` is heard, and what clients of other services raise when those ask for patience.
    """
    try:
        said = getattr(error, "retry_after", None)
        if said is None:
            said = getattr(getattr(error, "response", None), "headers", {}).get("retry-after")
        seconds = _seconds(said)
    except Exception:  # noqa: BLE001 - whatever their attributes are, the failure itself must be reported
        return None
    return None if seconds is None or not math.isfinite(seconds) else max(0.0, seconds)


def _seconds(said: Any) -> float | None:
    if isinstance(said, timedelta):
        return said.total_seconds()
    if isinstance(said, int | float) and not isinstance(said, bool):
        return float(said)
    if not isinstance(said, str):
        return None
    text = said.strip()
    if text.replace(".", "", 1).isdigit() and text.isascii():
        return float(text)
    return (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
