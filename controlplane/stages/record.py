"""Append what happened. Runs inside the transaction of the stage that made it happen, as its last write."""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.domain.event import Event, EventType
from controlplane.domain.execution import Held
from controlplane.postgres.pool import Connection

APPEND = """
insert into events (bucket, execution_id, namespace, run_id, target, type, attempt, at, data)
select $1, e.execution_id, e.namespace, e.run_id, e.target, e.type, e.attempt, clock(), e.data
from unnest($2::uuid[], $3::smallint[], $4::text[], $5::text[], $6::text[], $7::int[], $8::bytea[])
  as e(execution_id, namespace, run_id, target, type, attempt, data)
"""


def about(held: Held, type_: EventType, data: bytes | None = None) -> Event:
    """What happened to an execution whose queue row is in hand, at the attempt that the row is at."""
    return Event(
        execution_id=held.id,
        namespace=held.namespace,
        run_id=held.run_id,
        target=held.target,
        type=type_,
        attempt=held.attempt,
        data=data,
    )


async def append(conn: Connection, bucket: int, events: Sequence[Event]) -> None:
    """Add these events of one bucket, in order."""
    if not events:
        return
    await conn.execute(
        APPEND,
        bucket,
        [event.execution_id for event in events],
        [event.namespace for event in events],
        [event.run_id for event in events],
        [event.target for event in events],
        [event.type.value for event in events],
        [event.attempt for event in events],
        [event.data for event in events],
    )
