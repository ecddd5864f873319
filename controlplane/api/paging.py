"""Pages, numbers and moments in a query: keyset paging with an opaque cursor, never an offset."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from starlette.requests import HTTPConnection, Request

from controlplane.errors import Invalid

LIMIT_DEFAULT = 50
LIMIT_MAX = 200
YEAR_MIN, YEAR_MAX = 2000, 2200
SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{0,9})?")


def limit_of(request: Request, *, default: int = LIMIT_DEFAULT, most: int = LIMIT_MAX) -> int:
    return integer(request, "limit", default=default, least=1, most=most)


def integer(request: Request, name: str, *, default: int, least: int, most: int) -> int:
    """A whole number in the query. Raises Invalid outside of its bounds."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise Invalid(f"A whole number from {least} to {most}.", where=f"query/{name}")
    return int(text)


def seconds(request: Request, name: str, *, most: float) -> float:
    """A duration in seconds in the query, 0 when absent. Raises Invalid outside of its bounds."""
    text = request.query_params.get(name, "0")
    if not SECONDS.fullmatch(text) or float(text) > most:  # not float() alone, which also reads `1_0`, ` 5 ` and `inf`
        raise Invalid(f"A number of seconds from 0 to {most:g}.", where=f"query/{name}")
    return float(text)


def words(request: HTTPConnection, name: str) -> list[str]:
    """A repeatable or comma-separated parameter."""
    return [word for text in request.query_params.getlist(name) for word in text.split(",") if word]


def instant(text: str | None, where: str) -> datetime | None:
    """An instant with its offset: a local time without one would be another in every zone. Raises Invalid."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        known = None if at.tzinfo is None or not YEAR_MIN <= at.year <= YEAR_MAX else at.astimezone(UTC)
    except (ValueError, OverflowError):
        known = None
    if known is None:
        raise Invalid(
            f"Not an instant of ISO 8601 with its offset, from {YEAR_MIN} to {YEAR_MAX}.",
            where=where,
            fix="Like this: 2030-01-31T09:00:00+01:00, or with Z for UTC.",
        )
    return known


def query_instant(request: Request, name: str) -> datetime | None:
    """A moment in the query; a `+` that was not escaped has come as a space. Raises Invalid."""
    text = request.query_params.get(name)
    return instant(text.replace(" ", "+") if text else None, f"query/{name}")
