"""What is promised of how it goes with all of it."""

from __future__ import annotations

from msgspec import UNSET, Struct

from controlplane.api import system
from controlplane.api.contract.said import Contract, Count, Maybe, Moment, Rules, Said, Seconds
from controlplane.postgres.pins import Kind


class PinAnswer(Struct):
    """Who keeps what is dead from being cleared away. `detail` says it in a sentence, `fix` says what ends it."""

    kind: Kind
    transactions: int
    detail: str
    fix: str
    seconds: Maybe[float] = UNSET
    pid: Maybe[int] = UNSET
    name: Maybe[str] = UNSET
    role: Maybe[str] = UNSET
    application: Maybe[str] = UNSET
    state: Maybe[str] = UNSET


class TableAnswer(Struct):
    """Rows as PostgreSQL estimates them."""

    name: str
    live: Count
    dead: Count
    vacuumed_at: Maybe[Moment] = UNSET


class StandbyAnswer(Struct):
    """Who takes what is written. What is not there, the server's role may not see, or it is behind by nothing."""

    name: Maybe[str] = UNSET
    state: Maybe[str] = UNSET
    sync: Maybe[str] = UNSET
    lag_seconds: Maybe[float] = UNSET
    lag_bytes: Maybe[int] = UNSET


class SystemAnswer(Struct):
    """The ages of what is ready and due are as they were `counted_seconds_ago`, null before the first count."""

    version: str
    postgresql_version: str
    schema_version: str | None
    schema_version_known: str
    oldest_ready_seconds: Count
    oldest_due_delivery_seconds: Count
    counted_seconds_ago: float | None
    oldest_snapshot_seconds: Seconds
    pins: list[PinAnswer]
    pins_unseen: Count
    tables: list[TableAnswer]
    standbys: list[StandbyAnswer]


CONTRACT: Contract = {system.show: Said(answers={200: SystemAnswer})}
RULES: Rules = {}
