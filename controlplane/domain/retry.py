"""When a failed attempt is tried again. A crash is not a failure: it spends no retry and waits for nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from controlplane.domain.row import Row

JITTER = 0.2
RETRY_AFTER_MAX_SECONDS = 366 * 86_400.0
"""How far an error may put off its next try: as far ahead as work may be asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """`retries_max` more attempts after the first; the wait grows from `delay_seconds` by `factor` to `cap_seconds`.

    Chance adds up to the share `jitter` of the wait. `fatal_errors` and `retry_errors` name classes of errors, exactly
    or by how they begin (`HTTP 5*`): the former are never tried again; if there are any of the latter, only they are.
    """

    retries_max: int = 0
    delay_seconds: float = 5.0
    factor: float = 2.0
    cap_seconds: float = 300.0
    jitter: float = JITTER
    fatal_errors: tuple[str, ...] = ()
    retry_errors: tuple[str, ...] = ()

    @classmethod
    def from_row(cls, row: Row) -> Self:
        return cls(
            retries_max=row["retries_max"],
            delay_seconds=row["retry_delay_seconds"],
            factor=row["retry_factor"],
            cap_seconds=row["retry_cap_seconds"],
            jitter=JITTER if row["retry_jitter"] is None else row["retry_jitter"],
            fatal_errors=tuple(row["fatal_errors"] or ()),
            retry_errors=tuple(row["retry_errors"] or ()),
        )

    def retries(self, error_class: str | None) -> bool:
        """Whether an error of this class may be tried again, as long as there are retries left.

        An error without a class is none of those that are named.
        """
        if _named(error_class, self.fatal_errors):
            return False
        return not self.retry_errors or _named(error_class, self.retry_errors)


def delay_seconds(policy: RetryPolicy, *, failures: int, jitter: float = 0.0) -> float:
    """Seconds to wait after the `failures`-th failure (from 1). `jitter` in [0, 1): how much of what chance may add."""
    base = min(policy.delay_seconds, policy.cap_seconds)
    for _ in range(failures - 1):  # not `factor ** failures`, which overflows
        if not 0 < base < policy.cap_seconds or policy.factor <= 1:
            break
        base = min(base * policy.factor, policy.cap_seconds)
    return base * (1 + policy.jitter * jitter)


def after_error(seconds: float) -> float:
    """Seconds to wait when the error itself has said when: that comes before the policy, within bounds."""
    return max(0.0, min(seconds, RETRY_AFTER_MAX_SECONDS))


def _named(error_class: str | None, patterns: tuple[str, ...]) -> bool:
    if error_class is None:
        return False
    return any(
        error_class.startswith(pattern[:-1]) if pattern.endswith("*") else error_class == pattern
        for pattern in patterns
    )
