"""How often and how soon a failure is tried again, and which: as a submit or a registration says it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from controlplane.api.body import clean
from controlplane.domain.retry import RetryPolicy
from controlplane.errors import Invalid

RETRIES_MAX = 1_000
DELAY_MAX_SECONDS = 10 * 365 * 86_400.0
FACTOR_MAX = 1_000.0
ERRORS_MAX = 50
"""Classes of errors that a policy may name."""


class Backoff(StrEnum):
    """Whether the wait stays as it is or grows by `factor` with every failure."""

    FIXED = "fixed"
    EXPONENTIAL = "exponential"


class RetryPolicyForm(msgspec.Struct, forbid_unknown_fields=True):
    """What is left out is as the reasoner was registered.

    `jitter`: the share of a wait that chance may add, 0 to 1. `fatal_errors` are never tried again, and where there are
    `retry_errors`, only they are: names of error classes, a `*` at the end for any rest.
    """

    max: int | None = None
    backoff: Backoff | None = None
    delay_seconds: float | None = None
    factor: float | None = None
    cap_seconds: float | None = None
    jitter: float | None = None
    fatal_errors: list[str] | None = None
    retry_errors: list[str] | None = None


def policy_of(form: RetryPolicyForm, known: RetryPolicy, *, where: str) -> RetryPolicy:
    """The policy that this form makes of a known one. Raises Invalid."""
    if form.backoff is Backoff.FIXED and form.factor is not None:
        raise Invalid("A fixed wait does not grow.", where=f"{where}.factor", fix="Leave one of the two out.")
    factor = known.factor if form.factor is None else _within(form.factor, 1, FACTOR_MAX, f"{where}.factor")
    if form.backoff is Backoff.FIXED:
        factor = 1.0
    elif form.backoff is Backoff.EXPONENTIAL and form.factor is None and factor <= 1:
        factor = RetryPolicy().factor
    delay = _or(form.delay_seconds, known.delay_seconds)
    cap = _or(form.cap_seconds, max(known.cap_seconds, delay) if math.isfinite(delay) else known.cap_seconds)
    return RetryPolicy(
        retries_max=known.retries_max if form.max is None else retries_of(form.max, where=f"{where}.max"),
        delay_seconds=_within(delay, 0, DELAY_MAX_SECONDS, f"{where}.delay_seconds"),
        factor=factor,
        cap_seconds=_within(cap, 0, DELAY_MAX_SECONDS, f"{where}.cap_seconds"),
        jitter=_within(_or(form.jitter, known.jitter), 0, 1, f"{where}.jitter"),
        fatal_errors=_names(form.fatal_errors, known.fatal_errors, f"{where}.fatal_errors"),
        retry_errors=_names(form.retry_errors, known.retry_errors, f"{where}.retry_errors"),
    )


def retries_of(value: int, *, where: str) -> int:
    if not 0 <= value <= RETRIES_MAX:
        raise Invalid(f"A whole number from 0 to {RETRIES_MAX}.", where=where)
    return value


def _or(said: float | None, known: float) -> float:
    return known if said is None else said


def _within(value: float, least: float, most: float, where: str) -> float:
    if not (math.isfinite(value) and least <= value <= most):
        raise Invalid(f"A number from {least:g} to {most:g}.", where=where)
    return value


def _names(said: Sequence[str] | None, known: tuple[str, ...], where: str) -> tuple[str, ...]:
    if said is None:
        return known
    if len(said) > ERRORS_MAX:
        raise Invalid(f"More than {ERRORS_MAX} names.", where=where)
    return tuple(clean(name, where=f"{where}[{n}]") for n, name in enumerate(said))
