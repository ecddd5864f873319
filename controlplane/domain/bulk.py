"""A bulk: one action on everything that a filter matches, done by the server, batch by batch, to its end or its stop.

    running ──► done
       ├──────► stopped   somebody asked for it
       └──────► failed    it cannot go on (its filter cannot be read); one item that fails never does that

What it goes through is fixed when it begins: what was accepted, ended or died after that moment is left alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, NewType
from uuid import UUID

from controlplane.domain.delivery import ENDPOINT, DeliveryState
from controlplane.domain.execution import STATUS_OF_STATE, Status
from controlplane.domain.ids import read, show, within
from controlplane.domain.notice import moment
from controlplane.domain.replay import Reuse
from controlplane.domain.row import Row
from controlplane.errors import Invalid

BulkId = NewType("BulkId", UUID)

IDS_MAX = 1_000
"""Ids that a filter may name."""
REPLAYED_MAX = 10_000
"""Deliveries that were taken once already and are sent again by one bulk, unless more is confirmed."""
ERRORS_MAX = 10
"""Failures that are kept with their words; the others are counted."""
ERROR_CHARS_MAX = 300


class Action(StrEnum):
    """What is done to each: the same words as for a single one."""

    CANCEL = "cancel"
    RETRY = "retry"
    REDRIVE_DELIVERIES = "redrive_deliveries"
    PAUSE = "pause"
    RESUME = "resume"


class BulkState(StrEnum):
    """Where a bulk stands (the CHECK of `bulks.state` holds the same words)."""

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


UNFINISHED = (Status.QUEUED, Status.RUNNING, Status.WAITING)
UNHAPPY = (Status.FAILED, Status.TIMEOUT, Status.CANCELLED)
DEAD_LETTERS = (Status.FAILED, Status.TIMEOUT)
"""What a retry means when no status is named: somebody has cancelled the others on purpose."""
SETTLED = (DeliveryState.DELIVERED, DeliveryState.DEAD)
"""What can be sent again; without a word the dead ones are meant."""
STATUSES_OF: Mapping[Action, tuple[Status, ...]] = {
    Action.CANCEL: UNFINISHED,
    Action.PAUSE: UNFINISHED,
    Action.RESUME: UNFINISHED,
    Action.RETRY: UNHAPPY,
    Action.REDRIVE_DELIVERIES: (),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which ones; None means any, and all that is said must hold. `ids` stand alone.

    `created_…` and `ended_…` are moments of what the action is about: of an execution its submit and its end, of a
    delivery its planning and its end (delivered or dead). From `after` on, and up to before `before`.
    """

    statuses: tuple[Status, ...] = ()
    target: str | None = None
    node_id: str | None = None
    run_id: str | None = None
    session_key: str | None = None
    actor_key: str | None = None
    error_class: str | None = None
    host: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    ended_after: datetime | None = None
    ended_before: datetime | None = None
    ids: tuple[UUID, ...] = ()
    states: tuple[DeliveryState, ...] = ()
    event: str | None = None
    endpoint_id: UUID | None = None

    @property
    def said(self) -> tuple[str, ...]:
        """The names of what it says."""
        return tuple(one.name for one in fields(self) if getattr(self, one.name) not in (None, ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be done to which ones. `reuse`: of a retry."""

    namespace: int
    action: Action
    filter: Filter
    reason: str | None = None
    reuse: Reuse | None = None

    @property
    def statuses(self) -> tuple[Status, ...]:
        """The statuses that it looks for."""
        if self.filter.statuses:
            return self.filter.statuses
        return DEAD_LETTERS if self.action is Action.RETRY else STATUSES_OF[self.action]

    @property
    def states(self) -> list[str]:
        """The states of deliveries that it looks for."""
        return [state.value for state in self.filter.states or (DeliveryState.DEAD,)]

    @property
    def replays(self) -> bool:
        """Whether it sends again what was taken already."""
        return DeliveryState.DELIVERED in self.filter.states

    @property
    def wanted(self) -> list[str]:
        """The same as states of the queue and statuses of outcomes."""
        states = [state.value for state, status in STATUS_OF_STATE.items() if status in self.statuses]
        return states + [status.value for status in self.statuses if status.final]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """One that the filter has found. `skip`: why it is left alone all the same (it was named, and is not so).

    `host`: of a delivery, its receiver.
    """

    id: UUID
    run_id: str = ""
    host: str = ""
    skip: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The next ones, in the order of their ids, the last id that was looked at, and whether there may be more."""

    items: tuple[Match, ...]
    cursor: UUID | None
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many match: exactly, or at least so many in a part of a bucket that was not looked at to its end."""

    matched: Mapping[int, int]
    exact: Mapping[int, bool]
    sample: tuple[UUID, ...]

    @property
    def total(self) -> int:
        return sum(self.matched.values())

    @property
    def is_exact(self) -> bool:
        return all(self.exact.values())


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of some items: how many were done, why others were skipped, what failed."""

    done: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    errors: list[dict[str, str]] = field(default_factory=list)

    def skip(self, why: str) -> None:
        self.skipped[why] += 1

    def fail(self, shown_id: str, code: str, message: str) -> None:
        self.failed[code] += 1
        if len(self.errors) < ERRORS_MAX:
            said = "".join(one if one.isprintable() else " " for one in message[:ERROR_CHARS_MAX])
            self.errors.append({"id": shown_id, "code": code, "message": said})

    def add(self, other: Tally) -> None:
        self.done += other.done
        self.skipped.update(other.skipped)
        self.failed.update(other.failed)
        self.errors = [*self.errors, *other.errors][:ERRORS_MAX]

    def dump(self) -> bytes:
        """All but the number of those that were done, as it is kept."""
        return json.dumps({"skipped": self.skipped, "failed": self.failed, "errors": self.errors}).encode()

    @classmethod
    def load(cls, done: int, raw: bytes | None) -> Tally:
        said: dict[str, Any] = {} if raw is None else json.loads(raw)
        return cls(
            done=done,
            skipped=Counter(said.get("skipped", {})),
            failed=Counter(said.get("failed", {})),
            errors=list(said.get("errors", ())),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """A bulk as it stands: of one bucket, or of all together. `filter` is what was said, as JSON."""

    id: BulkId
    action: Action
    filter: bytes
    reason: str | None
    reuse: Reuse | None
    state: BulkState
    error: str | None
    matched: int
    exact: bool
    tally: Tally
    created_at: datetime
    began_at: datetime | None
    ended_at: datetime | None
    created_by: str | None = None

    @classmethod
    def from_row(cls, row: Row) -> Bulk:
        return cls(
            id=BulkId(row["id"]),
            action=Action(row["action"]),
            filter=row["filter"],
            reason=row["reason"],
            reuse=None if row["reuse"] is None else Reuse(row["reuse"]),
            state=BulkState(row["state"]),
            error=row["error"],
            matched=row["matched"],
            exact=row["exact"],
            tally=Tally.load(row["done"], row["reasons"]),
            created_at=row["created_at"],
            began_at=row["began_at"],
            ended_at=row["ended_at"],
            created_by=row["created_by"],
        )


def together(parts: Sequence[Bulk]) -> Bulk:
    """The whole of a bulk, of its parts in each bucket: it runs while one of them does."""
    first, tally = parts[0], Tally()
    for part in parts:
        tally.add(part.tally)
    states = {part.state for part in parts}
    order = (BulkState.RUNNING, BulkState.STOPPED, BulkState.FAILED, BulkState.DONE)
    state = next(one for one in order if one in states)
    ends = [part.ended_at for part in parts if part.ended_at is not None]
    return Bulk(
        id=first.id,
        action=first.action,
        filter=first.filter,
        reason=first.reason,
        reuse=first.reuse,
        state=state,
        error=next((part.error for part in parts if part.error is not None), None),
        matched=sum(part.matched for part in parts),
        exact=all(part.exact for part in parts),
        tally=tally,
        created_at=min(part.created_at for part in parts),
        began_at=min((part.began_at for part in parts if part.began_at is not None), default=None),
        ended_at=max(ends) if len(ends) == len(parts) else None,
        created_by=first.created_by,
    )


_WORD = {"statuses": "status", "states": "state"}


def prefix_of(action: Action) -> Literal["dlv", "exec"]:
    """How the ids begin that the action is about."""
    return "dlv" if action is Action.REDRIVE_DELIVERIES else "exec"


def check(asked: Asked, *, everything: bool) -> None:
    """Raises Invalid for what means nothing, and for a filter that would mean everything without saying so."""
    said = set(asked.filter.said)
    if not said and not everything:
        raise Invalid(
            "An empty filter would match everything.", where="body.filter", fix='Narrow it, or say "all": true.'
        )
    if said and everything:
        raise Invalid("Either a filter or all.", where="body.all", fix="Leave one of the two out.")
    if "ids" in said and said - {"states"} != {"ids"}:
        raise Invalid("Ids stand alone.", where="body.filter.ids", fix="Leave the rest of the filter out.")
    unsettled = [state.value for state in asked.filter.states if state not in SETTLED]
    if unsettled:
        raise Invalid("What is sent again is delivered or dead.", where="body.filter.state")
    known = STATUSES_OF[asked.action]
    odd = [status.value for status in asked.filter.statuses if status not in known]
    if odd:
        words = ", ".join(known) or "no status at all: deliveries have a state"
        raise Invalid(f"For {asked.action} this may be {words}.", where="body.filter.status")
    for names, actions, why in (
        (("host", "event"), (Action.REDRIVE_DELIVERIES,), "only deliveries have one"),
        (("states", "endpoint_id"), (Action.REDRIVE_DELIVERIES,), "it is about deliveries"),
        (("error_class",), (Action.RETRY,), "only what has ended without a result has an error"),
        (("ended_after", "ended_before"), (Action.RETRY, Action.REDRIVE_DELIVERIES), "it has not ended yet"),
    ):
        for name in names:
            if name in said and asked.action not in actions:
                where = f"body.filter.{_WORD.get(name, name)}"
                raise Invalid(f"This cannot be asked for {asked.action}: {why}.", where=where)


def check_count(asked: Asked, counted: Count, *, confirmed: bool) -> None:
    """Raises Invalid for a storm that nobody has said yes to."""
    if asked.replays and not confirmed and (counted.total > REPLAYED_MAX or not counted.is_exact):
        number = counted.total if counted.is_exact else f"at least {counted.total}"
        raise Invalid(
            f"This would send {number} deliveries again, and more than {REPLAYED_MAX} need a yes.",
            where="body.confirm",
            fix='Narrow the filter, or say "confirm": true.',
        )


def bounds(filter_: Filter, began_at: datetime) -> tuple[UUID, UUID]:
    """Ids between which (both left out) is everything that the filter can match: they know when they were made."""
    low, high = within(filter_.created_after, began_at, filter_.created_before, filter_.ended_before)
    assert high is not None
    return low or UUID(int=0), high


def dump(filter_: Filter, action: Action) -> bytes:
    """The filter in the words that it is said in on the wire."""
    said: dict[str, object] = {}
    for name in filter_.said:
        value = getattr(filter_, name)
        match value:
            case datetime():
                said[name] = moment(value)
            case tuple() if name == "ids":
                said[name] = [show(prefix_of(action), one) for one in value]
            case tuple():
                said[_WORD[name]] = [one.value for one in value]
            case UUID():
                said[name] = show(ENDPOINT, value)
            case _:
                said[name] = value
    return json.dumps(said).encode()


def load(raw: bytes, action: Action) -> Filter:
    """The filter as it was kept. Raises ValueError for one of a newer server, which this one cannot read."""
    said = json.loads(raw)
    try:
        moments = {
            name: datetime.fromisoformat(text).astimezone(UTC)
            for name, text in said.items()
            if name.endswith(("_after", "_before"))
        }
        plain = {name: value for name, value in said.items() if name not in ("status", "state", "ids", "endpoint_id")}
        return Filter(
            **(plain | moments),
            statuses=tuple(Status(word) for word in said.get("status", ())),
            states=tuple(DeliveryState(word) for word in said.get("state", ())),
            endpoint_id=read(ENDPOINT, said["endpoint_id"], where="filter.endpoint_id")
            if "endpoint_id" in said
            else None,
            ids=tuple(read(prefix_of(action), one, where="filter.ids") for one in said.get("ids", ())),
        )
    except (AttributeError, TypeError, Invalid) as error:
        raise ValueError(f"the filter cannot be read by this server: {error}") from error


def in_bucket(ids: Iterable[UUID], bucket: int, buckets_max: int) -> list[UUID]:
    """Those of these ids that live in the bucket, in order."""
    return sorted(one for one in set(ids) if one.int % buckets_max == bucket)
