"""Open namespace: a part of the control plane gets its name and its number, for good.

Beside the thread: no execution moves. Every row that work flows through carries the number.
"""

from __future__ import annotations

import asyncpg

from controlplane.domain.key import NAMESPACES_MAX, Namespace
from controlplane.errors import Invalid, NamespaceExists
from controlplane.postgres.pool import Connection

BUCKET = 0
"""Where all of them lie."""
TRIES = 20

# The next number: of two that take the same one at once, the second finds it taken and tries the one after it.
OPEN = """
insert into namespaces (bucket, id, name, created_at)
select $1, coalesce(max(id), 0) + 1, $2, clock()
from namespaces
where bucket = $1
having count(*) < $3
on conflict do nothing
returning id, name, created_at
"""

NAMED = "select id, name, created_at from namespaces where bucket = $1 and name = $2"

COUNT = "select count(*) from namespaces where bucket = $1"


async def open_namespace(conn: Connection, name: str) -> Namespace:
    """A new namespace.

    Moves: nothing → a row, which nothing ever takes away. Guard: the unique name and the unique number.
    Raises: NamespaceExists; Invalid when there are as many as there may be.
    """
    for _ in range(TRIES):
        row: asyncpg.Record | None = await conn.fetchrow(OPEN, BUCKET, name, NAMESPACES_MAX)
        if row is not None:
            return Namespace(row["id"], row["name"], row["created_at"])
        if await conn.fetchrow(NAMED, BUCKET, name) is not None:
            raise NamespaceExists
        if await conn.fetchval(COUNT, BUCKET) >= NAMESPACES_MAX:
            raise Invalid(f"There are {NAMESPACES_MAX} namespaces already.", where="body.name")
    raise NamespaceExists("Others make namespaces at this very moment.", fix="Try again.")
