"""Endpoint: a receiver that is registered once and told of everything that it subscribes to.

    event ──► announced ──► delivery per endpoint that hears it ──► deliver

What an endpoint hears is read from the events; nobody who makes something happen looks whether somebody listens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal, NewType
from uuid import UUID

from controlplane.domain.event import EventType
from controlplane.domain.row import Row
from controlplane.domain.target import is_name
from controlplane.errors import Invalid

EndpointId = NewType("EndpointId", UUID)

SUBSCRIBABLE: Mapping[EventType, str] = {
    EventType.STARTED: "an attempt has begun",
    EventType.RETRYING: "an attempt has failed and there will be another",
    EventType.WAITING: "it waits for people or a child, and keeps its lease",
    EventType.CONTINUED: "it goes on after that",
    EventType.SUSPENDED: "it waits without a lease",
    EventType.WOKEN: "what it waited for so has come",
    EventType.PAUSED: "somebody holds it back",
    EventType.RESUMED: "nobody holds it back any more",
    EventType.APPROVAL_REQUESTED: "it asks people",
    EventType.APPROVAL_DECIDED: "they have decided, or their time is over",
    EventType.COMPLETED: "it has succeeded",
    EventType.FAILED: "it has failed",
    EventType.CANCELLED: "it was cancelled",
    EventType.TIMED_OUT: "it took too long",
    EventType.DELIVERY_DEAD: "a delivery of it will not be tried any more",
    EventType.ENDPOINT_DISABLED: "an endpoint was disabled because its receiver fails",
}
"""What may be subscribed to, and what it means."""

ENDS = (EventType.COMPLETED, EventType.FAILED, EventType.CANCELLED, EventType.TIMED_OUT)
"""What an endpoint hears when nothing is said."""
ALL = "*"
"""Kept as it is said, and not as what it means today: whoever wants all wants what comes later, too."""
EXECUTION_WIDE = tuple(one for one in SUBSCRIBABLE if one not in (EventType.DELIVERY_DEAD, EventType.ENDPOINT_DISABLED))
"""What the webhook of one execution may ask for: those two come when its end has been told."""

ENDPOINTS_MAX = 20
"""Of one namespace, when nothing else is set."""
TARGETS_MAX = 100
DESCRIPTION_CHARS_MAX = 500
SECRET_CHARS_MAX = 4_096
REASON_CHARS_MAX = 200

SCHEDULE: Sequence[float] = (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds before each attempt: ten of them, over a little more than three days."""
ATTEMPTS_MAX = 30
WAIT_MAX_SECONDS = 7 * 86_400.0
"""Before one attempt."""

OVERLAP_SECONDS = 86_400.0
"""How long the secret before goes on to sign, when nothing else is said."""
OVERLAP_MAX_SECONDS = 7 * 86_400.0

CONTROLPLANE = "controlplane"
"""`disabled_by`, when nobody did it by hand."""
GONE = "gone: the receiver has answered 410"
FAILING = "failing: its receiver has taken nothing for too long"


class EndpointState(StrEnum):
    """Whether it is sent anything (the CHECK of `endpoints.state` holds the same words)."""

    ENABLED = "enabled"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """An endpoint as it was asked for, but for what is secret.

    `targets`: `node_id.reasoner_name`, or a `node_id` for all of a node; none named are all. `schedule`: seconds before
    each attempt.
    """

    url: str
    host: str
    events: tuple[str, ...] = tuple(one.value for one in ENDS)
    targets: tuple[str, ...] = ()
    schedule: tuple[float, ...] = tuple(map(float, SCHEDULE))
    description: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An endpoint as it stands. What is sealed is bound to its place (`sealed_for`).

    `previous`: whether the secret before signs still. `dead_streak`: how many deliveries died without one in between
    that was taken.
    """

    id: EndpointId
    namespace: int
    name: str
    definition: Definition
    secret_sealed: bytes
    previous_sealed: bytes | None
    previous_until: datetime | None
    headers_sealed: bytes | None
    state: EndpointState
    disabled_at: datetime | None
    disabled_by: str | None
    disabled_reason: str | None
    dead_streak: int
    failing_since: datetime | None
    created_at: datetime
    updated_at: datetime
    now: datetime

    @classmethod
    def from_row(cls, row: Row) -> Endpoint:
        return cls(
            id=EndpointId(row["id"]),
            namespace=row["namespace"],
            name=row["name"],
            definition=Definition(
                url=row["url"],
                host=row["host"],
                events=tuple(row["events"]),
                targets=tuple(row["targets"]),
                schedule=tuple(row["schedule"]),
                description=row["description"],
            ),
            secret_sealed=row["secret_sealed"],
            previous_sealed=row["previous_sealed"],
            previous_until=row["previous_until"],
            headers_sealed=row["headers_sealed"],
            state=EndpointState(row["state"]),
            disabled_at=row["disabled_at"],
            disabled_by=row["disabled_by"],
            disabled_reason=row["disabled_reason"],
            dead_streak=row["dead_streak"],
            failing_since=row["failing_since"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
            now=row["now"],
        )

    @property
    def secrets_sealed(self) -> tuple[bytes, ...]:
        """Those that sign now, the newest first."""
        if self.previous_sealed is None or self.previous_until is None or self.previous_until <= self.now:
            return (self.secret_sealed,)
        return self.secret_sealed, self.previous_sealed


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Who hears of events: an endpoint, or the `heard_n`-th webhook of one execution.

    `since_xid`: only of what later transactions did.
    """

    namespace: int
    url: str
    host: str
    events: frozenset[str]
    targets: frozenset[str]
    attempts_max: int
    first_seconds: float = 0.0
    endpoint_id: UUID | None = None
    heard_n: int | None = None
    since_xid: int = 0

    def hears(self, type_: str, target: str, *, xid: int) -> bool:
        """Whether it is told of this event of its namespace."""
        if xid <= self.since_xid:
            return False
        if type_ not in self.events and not (ALL in self.events and type_ in _WORDS):
            return False
        return not self.targets or target in self.targets or target.partition(".")[0] in self.targets


_WORDS = frozenset(one.value for one in SUBSCRIBABLE)


def types_of(listeners: Iterable[Listener]) -> list[str]:
    """Every type that one of these hears."""
    said = {type_ for one in listeners for type_ in one.events}
    return sorted(_WORDS if ALL in said else said & _WORDS)


def sealed_for(id_: UUID, what: Literal["secret", "headers"]) -> bytes:
    """What a sealed value of an endpoint is bound to: moved to another row it does not open."""
    return b"endpoint:%b:%b" % (id_.bytes, what.encode())


def events_of(given: Iterable[str], *, where: str, known: Iterable[EventType] = SUBSCRIBABLE) -> tuple[str, ...]:
    """The types as they are kept: each once, in the order of the list of all. Raises Invalid."""
    said, words = list(given), [one.value for one in known]
    for n, one in enumerate(said):
        if one != ALL and one not in words:
            raise Invalid("Not an event that can be heard.", where=f"{where}[{n}]", fix=f"* or {', '.join(words)}.")
    if not said:
        raise Invalid("Names no event.", where=where, fix="Leave it out, or name at least one.")
    return (ALL,) if ALL in said else tuple(one for one in words if one in said)


def check(definition: Definition) -> None:
    """Raises Invalid where an endpoint cannot be as it is asked for; URL and events have been looked at."""
    if len(definition.targets) > TARGETS_MAX:
        raise Invalid(f"At most {TARGETS_MAX}.", where="body.targets")
    for n, one in enumerate(definition.targets):
        if not all(is_name(part) for part in one.split(".", 1)):
            raise Invalid("node_id.reasoner_name, or a node_id for all of it.", where=f"body.targets[{n}]")
    if not 1 <= len(definition.schedule) <= ATTEMPTS_MAX:
        raise Invalid(f"1 to {ATTEMPTS_MAX} waits, one before each attempt.", where="body.schedule")
    for n, seconds in enumerate(definition.schedule):
        if not 0 <= seconds <= WAIT_MAX_SECONDS:
            raise Invalid(f"Seconds from 0 to {WAIT_MAX_SECONDS:g}.", where=f"body.schedule[{n}]")
