"""How it goes with all of it, namespaces and replicas together: what waits, what is pinned, dead or behind."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from controlplane.domain.cap import Cap
from controlplane.postgres.pins import Pins, pins
from controlplane.postgres.pool import Connection
from controlplane.postgres.schema import revision
from controlplane.postgres.vitals import Standby, Table, standbys, tables, version
from controlplane.reads import caps

HOT = (
    "queue",
    "deliveries",
    "sessions",
    "memory",
    "steps",
    "limits",
    "idempotency_keys",
    "bulks",
    "schedules",
)
"""Tables whose rows change or go: what is dead in them is in the way of everybody until it is cleared away."""
OLDEST_READY = "executions.oldest_ready_seconds"
OLDEST_DUE = "deliveries.oldest_due_seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """`oldest_…`: as they were `counted_seconds_ago`; None where nobody has counted yet."""

    postgresql_version: str
    schema_version: str | None
    oldest_ready_seconds: int
    oldest_due_delivery_seconds: int
    counted_seconds_ago: float | None
    pins: Pins
    tables: tuple[Table, ...]
    standbys: tuple[Standby, ...]


async def system(conn: Connection, *, buckets: Collection[int]) -> System:
    """A dozen small reads of catalogues, and of what is counted anyway: they cost the same however much there is."""
    totals = await caps.totals(conn, buckets=buckets)
    ago = await caps.age_seconds(conn, Cap.EXECUTIONS, buckets=buckets)
    return System(
        postgresql_version=await version(conn),
        schema_version=await revision(conn),
        oldest_ready_seconds=totals.get(OLDEST_READY, 0),
        oldest_due_delivery_seconds=totals.get(OLDEST_DUE, 0),
        counted_seconds_ago=ago if math.isfinite(ago) else None,
        pins=await pins(conn, longer_than_seconds=0.0),
        tables=await tables(conn, HOT),
        standbys=await standbys(conn),
    )
