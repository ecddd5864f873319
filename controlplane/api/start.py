"""When work may begin that is asked for now: at once, after a delay, or at a moment."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from controlplane.domain.ids import ExecutionId, made_at
from controlplane.errors import Invalid

DELAY_MAX_SECONDS = 366 * 86_400.0
"""How far ahead work may be asked for."""


def start_of(delay_seconds: float | None, run_at: datetime | None, id_: ExecutionId) -> tuple[float, datetime | None]:
    """The delay in seconds and the moment, at most one of which says something. Raises Invalid.

    The id knows the database's time, by which a moment that is too far away is refused. A moment that has passed means
    now: whether it has, the database decides.
    """
    if delay_seconds is not None and run_at is not None:
        raise Invalid("Either delay_seconds or run_at.", where="body.run_at", fix="Leave one of the two out.")
    if delay_seconds is not None:
        if not (math.isfinite(delay_seconds) and 0 <= delay_seconds <= DELAY_MAX_SECONDS):
            raise Invalid(f"A number of seconds from 0 to {DELAY_MAX_SECONDS:g}.", where="body.delay_seconds")
        return delay_seconds, None
    return 0.0, None if run_at is None else _moment(run_at, made_at(id_))


def _moment(run_at: datetime, now: datetime) -> datetime:
    if run_at.tzinfo is None:
        raise Invalid(
            "A moment needs its offset from UTC.", where="body.run_at", fix="Like this: 2030-01-31T09:00:00+01:00."
        )
    try:
        moment = run_at.astimezone(UTC)
    except OverflowError:  # in the first or the last hours that a calendar has
        raise Invalid("Not a moment that there is in UTC.", where="body.run_at") from None
    if moment - now > timedelta(seconds=DELAY_MAX_SECONDS):
        raise Invalid(f"More than {DELAY_MAX_SECONDS:g} seconds ahead.", where="body.run_at")
    return moment
