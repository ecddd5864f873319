"""System: what an operator looks at first when all of it is slow."""

from __future__ import annotations

from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import Response

from controlplane import __version__
from controlplane.api.doors import asker_of, doors_of
from controlplane.api.operation import READ, Operation
from controlplane.api.shapes import Shape, answer, present
from controlplane.domain.execution import DEFAULT_NAMESPACE
from controlplane.domain.notice import moment
from controlplane.errors import NamespaceNotAllowed
from controlplane.postgres.pins import PINNED_SECONDS, Pin, ends, longest_seconds, says
from controlplane.postgres.schema import head
from controlplane.postgres.vitals import Table
from controlplane.reads.system import system

SHARED = "The database is shared by all namespaces: only keys of `default` are told how it does."


async def show(request: Request) -> Response:
    """Versions, what waits, who pins, what is dead and who is behind; of all namespaces and replicas together."""
    doors = doors_of(request)
    if asker_of(request).namespace != DEFAULT_NAMESPACE:
        raise NamespaceNotAllowed(SHARED)
    found = await doors.run(system, buckets=doors.placement.all())
    pins = found.pins.found
    return answer(
        {
            "version": __version__,
            "postgresql_version": found.postgresql_version,
            "schema_version": found.schema_version,
            "schema_version_known": head(),
            "oldest_ready_seconds": found.oldest_ready_seconds,
            "oldest_due_delivery_seconds": found.oldest_due_delivery_seconds,
            "counted_seconds_ago": found.counted_seconds_ago,
            "oldest_snapshot_seconds": longest_seconds(pins),
            "pins": [_pin(pin) for pin in pins if pin.seconds is None or pin.seconds > PINNED_SECONDS],
            "pins_unseen": found.pins.unseen,
            "tables": [_table(one) for one in found.tables],
            "standbys": [present(asdict(one)) for one in found.standbys],
        }
    )


def _pin(pin: Pin) -> Shape:
    return present(asdict(pin) | {"kind": pin.kind.value, "detail": says(pin), "fix": ends(pin)})


def _table(one: Table) -> Shape:
    vacuumed_at = None if one.vacuumed_at is None else moment(one.vacuumed_at)
    return present({"name": one.name, "live": one.live, "dead": one.dead, "vacuumed_at": vacuumed_at})


OPERATIONS = [
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/system",
        handler=show,
        summary="How it goes with all of it: versions, lag, pinned snapshots, dead rows, standbys",
        tag="health",
        answers={
            200: "`pins`: who keeps what is dead from being cleared away for longer than 10 s, and what ends that.",
            403: "The key is of another namespace than `default`.",
            503: "Try again.",
        },
    ),
]
