"""How it goes with all of it: versions, lag, who pins a snapshot, dead rows, standbys."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict


class Pin(BaseModel):
    """Who keeps what is dead from being cleared away: `detail` in a sentence, `fix` says what ends it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: str
    detail: str
    fix: str
    transactions: int = 0
    seconds: float | None = None


class HotTable(BaseModel):
    """Rows as PostgreSQL estimates them."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    live: int
    dead: int
    vacuumed_at: datetime | None = None


class Standby(BaseModel):
    """Who takes what is written. None: the server's role may not see it, or it is behind by nothing."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str | None = None
    state: str | None = None
    sync: str | None = None
    lag_seconds: float | None = None
    lag_bytes: int | None = None


class System(BaseModel):
    """`oldest_ready_seconds` and `oldest_due_delivery_seconds` are as they were `counted_seconds_ago`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    version: str
    postgresql_version: str
    schema_version: str | None
    schema_version_known: str
    oldest_ready_seconds: int
    oldest_due_delivery_seconds: int
    counted_seconds_ago: float | None
    oldest_snapshot_seconds: float
    pins: tuple[Pin, ...] = ()
    pins_unseen: int = 0
    tables: tuple[HotTable, ...] = ()
    standbys: tuple[Standby, ...] = ()
