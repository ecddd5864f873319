"""Retention: how long what is over is kept, counted from its end. What is not over is kept, however old it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from controlplane.domain.execution import Status

DAY_SECONDS = 86_400.0


class Why(StrEnum):
    """What holds a run although one of its executions is old enough; the first that is found."""

    UNFINISHED = "unfinished"
    YOUNG = "young"
    DELIVERY = "delivery"
    IDEMPOTENCY_KEY = "idempotency_key"
    SOURCE = "source"
    CHILD = "child"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """For how long, in seconds from the end; None is for ever, and for what hangs on an execution as long as that."""

    succeeded_seconds: float | None = None
    failed_seconds: float | None = None
    cancelled_seconds: float | None = None
    timeout_seconds: float | None = None
    events_seconds: float | None = None
    logs_seconds: float | None = None
    delivered_seconds: float | None = None
    dead_seconds: float | None = None

    def days(self) -> dict[str, float | None]:
        """As the settings say it, by the word between `keep` and `days`."""
        return {
            "succeeded": _days(self.succeeded_seconds),
            "failed": _days(self.failed_seconds),
            "cancelled": _days(self.cancelled_seconds),
            "timeout": _days(self.timeout_seconds),
            "events": _days(self.events_seconds),
            "logs": _days(self.logs_seconds),
            "delivered": _days(self.delivered_seconds),
            "dead": _days(self.dead_seconds),
        }

    def statuses(self) -> dict[Status, float]:
        """The statuses that are not kept for ever, in the order in which they are walked."""
        kept = {
            Status.SUCCEEDED: self.succeeded_seconds,
            Status.FAILED: self.failed_seconds,
            Status.CANCELLED: self.cancelled_seconds,
            Status.TIMEOUT: self.timeout_seconds,
        }
        return {status: seconds for status, seconds in kept.items() if seconds is not None}


def _days(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / DAY_SECONDS


@dataclass(slots=True, kw_only=True)
class Forgotten:
    """What a step removed: executions by their status, rows of what hung on them by table. `full`: there is more."""

    executions: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    full: bool = False

    def add(self, other: Forgotten) -> None:
        self.executions += other.executions
        self.rows += other.rows
        self.full = self.full or other.full

    @property
    def any(self) -> bool:
        return any(self.executions.values()) or any(self.rows.values())
