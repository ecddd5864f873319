"""Limits: who may become ready, and in whose line the others wait.

A limit's key says what it counts: `reasoner:node.name`, `node:name`, or `key:anything` for what was submitted with
that `concurrency_key`. A row under limits is let in by `stages/admit.py` when all of them have room; until then it
stands in the line of the first that has none. A row with a fairness key (a child's is its run) that is under no limit
stands in the line `turn:node.name` when enough of its own kind are ready there already.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Self

from controlplane.domain.ids import ExecutionId
from controlplane.domain.placement import Placement
from controlplane.domain.row import Row
from controlplane.domain.target import is_name, parse
from controlplane.errors import TargetMalformed

CONCURRENCY_MAX = 100_000
LABEL_MAX = 200
"""Characters of a concurrency key or a fairness key."""
RATE_MAX = 1_000_000
RATE_SECONDS_MIN = 0.1
RATE_SECONDS_MAX = 31 * 86_400.0
READY_MAX = 32
"""Executions of one fairness key that are ready for one target at once; the others let those of other keys pass."""
PIECES = 32
"""Parts of a rate's window in which what began is counted: an execution counts for at most 1/32 longer than that."""

REASONER, NODE, KEY, TURN = "reasoner:", "node:", "key:", "turn:"


def keys_of(target: str, concurrency_key: str | None) -> tuple[str, ...]:
    """The keys of all limits that may count an execution, in the order in which they are asked for room."""
    own = () if concurrency_key is None else (KEY + concurrency_key,)
    return (REASONER + target, NODE + parse(target).node_id, *own)


def is_key(text: str) -> bool:
    """Whether a limit may be called this."""
    kind, _, rest = text.partition(":")
    match kind + ":":
        case "reasoner:":
            return _is_target(rest)
        case "node:":
            return is_name(rest)
        case "key:":
            return bool(rest) and rest.isprintable()
    return False


def bucket_of_key(placement: Placement, namespace: int, key: str) -> int:
    """Where the limit of this key lives: that of a node and of its reasoners with the node."""
    if key.startswith(REASONER):
        return placement.of_key(namespace, parse(key.removeprefix(REASONER)).node_id)
    return placement.of_key(namespace, key.removeprefix(NODE) if key.startswith(NODE) else key)


def range_of(key: str) -> tuple[str, str]:
    """From which target on, and up to which (exclusive), a limit of a reasoner or a node counts, compared as bytes."""
    if key.startswith(REASONER):
        target = key.removeprefix(REASONER)
        return target, target + "\x01"
    node = key.removeprefix(NODE)
    return f"{node}.", f"{node}/"  # `/` comes after the dot


def _is_target(text: str) -> bool:
    try:
        parse(text)
    except TargetMalformed:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What may be under way (`concurrency_max`) and begin (`rate_max` in any `rate_seconds`). None: any number.

    `declared_max` is what the node says of its reasoner; a person's `concurrency_max` overrules it. `turn`: the
    fairness key that was let in last. `spent`: until when pieces of the window lasted, and how many each let in.
    """

    namespace: int
    key: str
    concurrency_max: int | None = None
    declared_max: int | None = None
    rate_max: int | None = None
    rate_seconds: float | None = None
    spent: tuple[tuple[float, int], ...] = ()
    turn: str = ""
    updated_at: datetime | None = None

    @classmethod
    def from_row(cls, row: Row) -> Self:
        return cls(
            namespace=row["namespace"],
            key=row["key"],
            concurrency_max=row["concurrency_max"],
            declared_max=row["declared_max"],
            rate_max=row["rate_max"],
            rate_seconds=row["rate_seconds"],
            spent=tuple(zip(row["spent_at"], row["spent"], strict=True)),
            turn=row["turn"],
            updated_at=row["updated_at"],
        )

    @property
    def most(self) -> int | None:
        return self.declared_max if self.concurrency_max is None else self.concurrency_max

    def begun(self, now: float) -> int:
        """How many began within the window that ends now (seconds of the epoch, by the database's clock)."""
        seconds = self.rate_seconds or 0.0
        return sum(count for until, count in self.spent if until > now - seconds)

    def room(self, held: Held, now: float) -> int | None:
        """How many more may be let in now. None: any number.

        What is ready beyond the window counts too: while no node takes it, a rate must not pile up a flood.
        """
        rooms = []
        if self.most is not None:
            rooms.append(self.most - held.held)
        if self.rate_max is not None:
            rooms.append(self.rate_max - max(self.begun(now), held.ready))
        return max(0, min(rooms)) if rooms else None

    def spend(self, count: int, now: float) -> Self:
        """The limit after so many were let in now."""
        if self.rate_seconds is None or not count:
            return self
        piece = self.rate_seconds / PIECES
        until = (math.floor(now / piece) + 1) * piece
        kept = [(at, n) for at, n in self.spent if at > now - self.rate_seconds]
        if kept and kept[-1][0] == until:
            count += kept.pop()[1]
        return replace(self, spent=(*kept, (until, count)))

    def next_at(self, now: float) -> datetime | None:
        """When the rate has room again; None when it has now, or when there is none."""
        if self.rate_seconds is None or self.rate_max is None or self.begun(now) < self.rate_max or not self.spent:
            return None
        left, at = self.begun(now), now
        for until, count in self.spent:
            if until > now - self.rate_seconds:
                left, at = left - count, until + self.rate_seconds
                if left < self.rate_max:
                    break
        return datetime.fromtimestamp(at, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a limit's key holds: `held` ready or running ones, of which `ready` wait for a node."""

    held: int = 0
    ready: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A row that stands in a line."""

    id: ExecutionId
    target: str
    concurrency_key: str | None = None
    fairness_key: str | None = None
    limited: bool = True

    @property
    def keys(self) -> tuple[str, ...]:
        return keys_of(self.target, self.concurrency_key) if self.limited else ()

    @property
    def pair(self) -> tuple[str, str] | None:
        """Whose turn it is, where."""
        return None if self.fairness_key is None else (self.target, self.fairness_key)


@dataclass(slots=True, kw_only=True)
class Decision:
    """`ready`: whom to let in. `moved`: to which other line. `turn`: the fairness key that was looked at last."""

    ready: list[Candidate] = field(default_factory=list)
    moved: list[tuple[Candidate, str]] = field(default_factory=list)
    turn: str | None = None


def decide(
    line: str,
    candidates: Sequence[Candidate],
    rooms: Mapping[str, int | None],
    ready: Mapping[tuple[str, str], int],
) -> Decision:
    """Who of a line, in this order, becomes ready while there is room, and who goes to the line of another full limit.

    `rooms`: of every limit there is. `ready`: of a fairness key and target, how many are ready already.
    """
    left = {key: math.inf if room is None else room for key, room in rooms.items()}
    window = dict(ready)
    decision = Decision()
    for one in candidates:
        full = next((key for key in one.keys if left.get(key, math.inf) < 1), None)
        if full == line:
            break  # whoever comes after it waits for the same
        decision.turn = one.fairness_key or ""
        if full is not None:
            decision.moved.append((one, full))
        elif one.pair is None or window.get(one.pair, 0) < READY_MAX:
            decision.ready.append(one)
            for key in one.keys:
                left[key] = left.get(key, math.inf) - 1
            if one.pair is not None:
                window[one.pair] = window.get(one.pair, 0) + 1
    return decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The words of a limit, as a person sets it."""

    concurrency_max: int | None = None
    rate_max: int | None = None
    rate_seconds: float | None = None


def first_line(target: str, concurrency_key: str | None, known: Container[str]) -> str | None:
    """Where an execution waits first: with a key in any case, else when its reasoner or node is `known` for a limit."""
    return next((key for key in keys_of(target, concurrency_key) if key in known or key.startswith(KEY)), None)
