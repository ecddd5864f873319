"""When a failed attempt is tried again. A crash is not a failure: it spends no retry and waits for nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """`retries_max` more attempts after the first; the wait grows from `delay_seconds` by `factor` to `cap_seconds`."""

    retries_max: int = 0
    delay_seconds: float = 5.0
    factor: float = 2.0
    cap_seconds: float = 300.0


def delay_seconds(policy: RetryPolicy, *, failures: int, jitter: float = 0.0) -> float:
    """Seconds to wait after the `failures`-th failure (from 1). `jitter` in [0, 1) adds up to a fifth, never less."""
    base = min(policy.delay_seconds, policy.cap_seconds)
    for _ in range(failures - 1):  # not `factor ** failures`, which overflows
        if not 0 < base < policy.cap_seconds or policy.factor <= 1:
            break
        base = min(base * policy.factor, policy.cap_seconds)
    return base * (1 + 0.2 * jitter)
