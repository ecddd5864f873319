"""Memory as it was committed, byte for byte."""

from __future__ import annotations

import asyncpg

from controlplane.domain.memory import Place, Scope, Value, assemble
from controlplane.postgres.pool import Connection

READ = """
select m.scope, m.scope_id, m.key, m.value, m.length, m.version, m.created_at, m.updated_at,
  case
    when m.appended > 0 then array(
      select i.value
      from memory_items i
      where i.bucket = $1
        and i.namespace = m.namespace
        and i.scope = m.scope
        and i.scope_id = m.scope_id
        and i.key = m.key
      order by i.position
    )
  end as items
from memory m
where m.bucket = $1
  and m.namespace = $2
  and m.scope = $3
  and m.scope_id = $4
  and m.key = $5
"""

LIST = """
select m.scope, m.scope_id, m.key, m.value, m.length, m.version, m.created_at, m.updated_at,
  case
    when m.appended > 0 then array(
      select i.value
      from memory_items i
      where i.bucket = $1
        and i.namespace = m.namespace
        and i.scope = m.scope
        and i.scope_id = m.scope_id
        and i.key = m.key
      order by i.position
    )
  end as items
from memory m
where m.bucket = $1
  and m.namespace = $2
  and m.scope = $3
  and m.scope_id = $4
  and m.key > $5
  and ($6::text = '' or starts_with(m.key, $6))
order by m.key
limit $7
"""


async def read(conn: Connection, place: Place) -> Value | None:
    """The value under this key, whole, or None."""
    row = await conn.fetchrow(READ, place.bucket, place.namespace, place.scope.value, place.scope_id, place.key)
    return None if row is None else _value(row)


async def page(conn: Connection, start: Place, *, prefix: str, limit: int) -> list[Value]:
    """The values of a scope in the order of their keys, those after `start.key`."""
    rows = await conn.fetch(
        LIST, start.bucket, start.namespace, start.scope.value, start.scope_id, start.key, prefix, limit
    )
    return [_value(row) for row in rows]


def _value(row: asyncpg.Record) -> Value:
    return Value(
        scope=Scope(row["scope"]),
        scope_id=row["scope_id"],
        key=row["key"],
        value=assemble(row["value"], row["items"] or ()),
        length=row["length"],
        version=row["version"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
