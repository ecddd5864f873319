"""Health: alive, ready, and what AgentField's clients ask."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from controlplane import __version__
from controlplane.api.doors import doors_of
from controlplane.api.operation import OPEN, READ, Operation
from controlplane.api.shapes import answer
from controlplane.domain.cap import Cap
from controlplane.domain.notice import moment
from controlplane.observe.metrics import MEDIA_TYPE, LaneLook, Look, text
from controlplane.postgres.lane import Lane
from controlplane.postgres.pins import holding, oldest_seconds
from controlplane.postgres.pool import PASSING, PING
from controlplane.reads import caps, endpoints

READY_SECONDS = 2.0
ENDPOINTS_DISABLED = "endpoints_disabled"
"""Of some webhook endpoint the receiver has failed for so long that it is sent nothing any more."""
INVARIANTS_VIOLATED = "invariants_violated"
"""Something is not as it was promised: the log and `controlplane verify` say what."""
SNAPSHOT_PINNED = "snapshot_pinned"
"""Somebody keeps the database from clearing away what is dead: `controlplane doctor` says who, and how to end it."""


async def livez(_: Request) -> Response:
    """The process turns; nothing is asked of the database."""
    return answer({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Work can be taken: the database answers and the server is not draining."""
    checks = await _checks(request)
    ready = all(checks.values())
    return answer({"status": "ready" if ready else "not ready", "checks": checks}, 200 if ready else 503)


async def health(request: Request) -> Response:
    """`degraded`: what somebody has to look after, and what keeps nobody from working."""
    checks = await _checks(request)
    healthy = all(checks.values())
    degraded = await _degraded(request) if healthy else []
    shape = {
        "status": "healthy" if healthy else "unhealthy",
        "timestamp": moment(datetime.now(UTC)),
        "version": __version__,
        "checks": checks,
        "secrets": "not_openable" if doors_of(request).secrets_broken else "openable",
    } | ({"degraded": degraded} if degraded else {})
    return answer(shape, 200 if healthy else 503)


async def metrics(request: Request) -> Response:
    """Prometheus' text format; while the database is out of reach, what is known without it."""
    doors = doors_of(request)
    totals: Mapping[str, int] | None = None
    ago: float | None = None
    snapshot: float | None = None
    try:
        async with asyncio.timeout(READY_SECONDS), doors.pool.acquire() as conn:
            buckets = doors.placement.all()
            totals = await caps.totals(conn, buckets=buckets)
            ago = await caps.age_seconds(conn, Cap.EXECUTIONS, buckets=buckets)
            snapshot = await oldest_seconds(conn)
    except PASSING:
        totals = None
    look = Look(
        totals=totals,
        counted_seconds_ago=ago if ago is not None and math.isfinite(ago) else None,
        lanes=tuple(_look(lane) for lane in doors.lanes.all()),
        connections=doors.pool.get_size(),
        connections_idle=doors.pool.get_idle_size(),
        connections_max=doors.pool.get_max_size(),
        verifies=doors.verifies,
        snapshot_seconds=snapshot,
    )
    return Response(text(doors.meter, look), media_type=MEDIA_TYPE)


def _look(lane: Lane[Any, Any]) -> LaneLook:
    return LaneLook(
        name=lane.name,
        waiting=lane.waiting,
        flushes=lane.flushes,
        items=lane.items,
        flush_seconds=lane.flush_seconds,
        connection_seconds=lane.connection_seconds,
    )


async def _checks(request: Request) -> dict[str, bool]:
    doors = doors_of(request)
    try:
        async with asyncio.timeout(READY_SECONDS), doors.pool.acquire() as conn:
            await conn.execute(PING)
        database = True
    except PASSING:
        database = False
    return {"database": database, "serving": not doors.stopping}


async def _degraded(request: Request) -> list[str]:
    """Words, and no number: health is for everybody."""
    doors = doors_of(request)
    try:
        async with asyncio.timeout(READY_SECONDS), doors.pool.acquire() as conn:
            buckets = doors.placement.all()
            disabled = await endpoints.count_given_up(conn, buckets) > 0
            violated = doors.verifies and await caps.violations(conn, buckets=buckets) > 0
            pinned = await holding(conn, longer_than_seconds=doors.snapshot_seconds)
    except PASSING:
        return []
    words = {ENDPOINTS_DISABLED: disabled, INVARIANTS_VIOLATED: violated, SNAPSHOT_PINNED: pinned}
    return [word for word, said in words.items() if said]


OPERATIONS = [
    Operation(method="GET", path="/livez", handler=livez, summary="Alive", tag="health", scope=OPEN),
    Operation(
        scope=OPEN,
        method="GET",
        path="/readyz",
        handler=readyz,
        summary="Ready for work",
        tag="health",
        answers={200: "Ready.", 503: "The database is out of reach, or the server is shutting down."},
    ),
    *(
        Operation(
            scope=OPEN,
            method="GET",
            path=path,
            handler=health,
            summary="Health as AgentField shows it",
            tag="health",
            answers={200: "Healthy.", 503: "Unhealthy."},
        )
        for path in ("/health", "/api/v1/health")
    ),
    Operation(
        scope=READ,
        method="GET",
        path="/metrics",
        handler=metrics,
        summary="Metrics for Prometheus",
        tag="health",
    ),
]
