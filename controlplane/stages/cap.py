"""Cap: an operator says how much a namespace may have; `room.py` and the doors keep to it."""

from __future__ import annotations

from collections.abc import Mapping

from controlplane.domain.cap import Cap
from controlplane.postgres.pool import Connection

NAMESPACES_BUCKET = 0

# The namespace first, so that two that say something about it come one after the other.
HOLD = "select id from namespaces where bucket = $1 and id = $2 for no key update"
SAID = "select name, most from caps where bucket = $1 and namespace = $2"

FORGET = """
delete from caps
where bucket = $1
  and namespace = $2
  and name <> all($3::text[])
"""

SAY = """
insert into caps (bucket, namespace, name, most, updated_at)
select $1, $2, c.name, c.most, clock()
from unnest($3::text[], $4::bigint[]) as c(name, most)
order by c.name
on conflict (bucket, namespace, name) do update
set most = excluded.most, updated_at = excluded.updated_at
where caps.most is distinct from excluded.most
"""


async def put(conn: Connection, said: Mapping[Cap, int | None], *, namespace: int) -> dict[str, int | None]:
    """From here on these hold for the namespace, and of the rest what the settings say. Answers with what held before.

    What is there already stays, also beyond its cap. Guard: one row for each; said again it changes nothing.
    """
    names = [cap.value for cap in said]
    async with conn.transaction():
        await conn.execute(HOLD, NAMESPACES_BUCKET, namespace)
        before = await conn.fetch(SAID, NAMESPACES_BUCKET, namespace)
        await conn.execute(FORGET, NAMESPACES_BUCKET, namespace, names)
        await conn.execute(SAY, NAMESPACES_BUCKET, namespace, names, list(said.values()))
    return {row["name"]: row["most"] for row in before}
