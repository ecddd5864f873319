"""Ids route themselves: a uuidv7 (RFC 9562) whose last twelve bits are the bucket of its row.

Layout: 48 bits of Unix milliseconds, version, 62 bits that only grow within one millisecond of one process, variant,
and the bucket in the low 12 bits. On the wire an id is a prefix and 26 lower-case base32 digits, which sort as the
uuid does. A fenced id is `exec_…~3`: the execution and the attempt that speaks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NewType
from uuid import UUID

from controlplane.errors import Invalid

ExecutionId = NewType("ExecutionId", UUID)
SessionId = NewType("SessionId", UUID)
DeliveryId = NewType("DeliveryId", UUID)

BUCKETS_MAX = 4096
DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
PAIRS = [first + second for first in DIGITS for second in DIGITS]
THIRTY_BITS = (1 << 30) - 1
TO_PYTHON = str.maketrans(DIGITS, "0123456789abcdefghijklmnopqrstuv")
"""Our digits as Python's of the same value."""
TAIL = re.compile(r"[0-7][0-9abcdefghjkmnpqrstvwxyz]{25}")
ATTEMPT = re.compile(r"[1-9][0-9]{0,8}")

COUNTER_BITS = 62
COUNTER_STEP_BITS = 40
TEXT_MAX = 200
LATE_SECONDS = 600.0
"""How much older an id may be than its row: it is made before a submit waits for a database that is away."""
EARLY_SECONDS = 60.0
"""How far apart the clocks may be that replicas stamp ids with."""


class IdMaker:
    """Makes ids that only grow, stamped with the clock it is given (the database's, see `daemons/janitor.py`)."""

    def __init__(self, milliseconds: Callable[[], int], random_bits: Callable[[int], int]) -> None:
        self._milliseconds = milliseconds
        self._random_bits = random_bits
        self._last = 0
        self._counter = 0

    def new(self, bucket: int) -> UUID:
        now = max(self._milliseconds(), self._last)
        if now == self._last:
            self._counter += 1 + self._random_bits(COUNTER_STEP_BITS)
        if now > self._last or self._counter >> COUNTER_BITS:
            now = max(now, self._last + 1)
            self._counter = self._random_bits(COUNTER_BITS - 1)
        self._last = now
        high, low = self._counter >> 50, self._counter & ((1 << 50) - 1)
        return UUID(int=now << 80 | 7 << 76 | high << 64 | 2 << 62 | low << 12 | bucket)


def made_at(id_: UUID) -> datetime:
    """When this id was made, by the clock of its maker (the database's, give or take a round trip)."""
    return datetime.fromtimestamp((id_.int >> 80) / 1000, UTC)


def within(after: datetime | None, *before: datetime | None) -> tuple[UUID | None, UUID | None]:
    """Ids between which (both left out) all rows lie that were written from `after` on and up to the first `before`."""
    low = None if after is None else _floor(after - timedelta(seconds=LATE_SECONDS))
    end = min((at for at in before if at is not None), default=None)
    return low, None if end is None else _floor(end + timedelta(seconds=EARLY_SECONDS))


def _floor(at: datetime) -> UUID:
    """The smallest id that can have been made at this moment."""
    return UUID(int=max(0, int(at.timestamp() * 1000)) << 80)


def bucket_of(id_: UUID) -> int:
    """The bucket that the row of this id lives in."""
    return id_.int & (BUCKETS_MAX - 1)


def show(prefix: str, id_: UUID) -> str:
    """The id as it is written. Two digits at a time, of numbers that fit a machine word: every answer shows three."""
    whole = id_.int
    a, b, c, d = whole >> 90 & THIRTY_BITS, whole >> 60 & THIRTY_BITS, whole >> 30 & THIRTY_BITS, whole & THIRTY_BITS
    return (
        f"{prefix}_{PAIRS[whole >> 120]}"
        f"{PAIRS[a >> 20]}{PAIRS[a >> 10 & 1023]}{PAIRS[a & 1023]}"
        f"{PAIRS[b >> 20]}{PAIRS[b >> 10 & 1023]}{PAIRS[b & 1023]}"
        f"{PAIRS[c >> 20]}{PAIRS[c >> 10 & 1023]}{PAIRS[c & 1023]}"
        f"{PAIRS[d >> 20]}{PAIRS[d >> 10 & 1023]}{PAIRS[d & 1023]}"
    )


def read(prefix: str, text: str, *, where: str) -> UUID:
    """The uuid behind an id on the wire. Raises Invalid for anything this module did not make."""
    head, _, tail = text.partition("_")
    if head != prefix or not TAIL.fullmatch(tail):
        raise Invalid(f"This is not an id of the form {prefix}_… with 26 digits.", where=where)
    return UUID(int=int(tail.translate(TO_PYTHON), 32))


def show_execution(id_: UUID) -> str:
    return show("exec", id_)


def read_execution(text: str, *, where: str = "execution_id") -> ExecutionId:
    return ExecutionId(read("exec", text, where=where))


def read_fenced(text: str, *, where: str) -> tuple[ExecutionId, int | None]:
    """`exec_…~3` as the execution and its attempt; a bare id has none."""
    head, mark, attempt = text.partition("~")
    if mark and not ATTEMPT.fullmatch(attempt):
        raise Invalid("After `~` stands the attempt, a whole number from 1.", where=where)
    return read_execution(head, where=where), int(attempt) if mark else None


def is_execution(text: str) -> bool:
    """Whether this text could be an execution id of ours (with or without its fence)."""
    head, _, tail = text.partition("~")[0].partition("_")
    return head == "exec" and TAIL.fullmatch(tail) is not None


def run_bucket(run_id: str) -> int | None:
    """The bucket inside a run id of our own making; None for one that a caller made up."""
    head, _, tail = run_id.partition("_")
    if head != "run" or not TAIL.fullmatch(tail):
        return None
    id_ = read("run", run_id, where="run_id")
    return bucket_of(id_) if id_.version == 7 else None
