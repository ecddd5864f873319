"""API keys and namespaces: who is let in by what, and what there is."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from controlplane.domain.ids import bucket_of
from controlplane.domain.key import Key, KeyId, Known, Namespace
from controlplane.domain.placement import by_bucket, span
from controlplane.postgres.pool import Connection

NAMESPACES_BUCKET = 0

KNOWN = """
select id, namespace, name, hash, scopes, node_ids, hide_payloads, revoked_at is not null as revoked,
  coalesce(expires_at <= clock(), false) as expired,
  extract(epoch from expires_at - clock())::float8 as seconds_left
from api_keys
where bucket = $1
  and id = $2
"""

ANY = "select exists (select from api_keys where bucket = $1)"

PAGE = """
select id, namespace, name, prefix, scopes, node_ids, hide_payloads, created_at, created_by, expires_at, last_used_at,
  revoked_at, revoked_by, replaced_by, coalesce(expires_at <= clock(), false) as expired
from api_keys
where bucket = $1
  and namespace = $2
  and ($3::uuid is null or id < $3)
order by id desc
limit $4
"""

NAMESPACES = """
select id, name, created_at
from namespaces
where bucket = $1
  and name > $2
order by name
limit $3
"""

NAMESPACE_IDS = "select id from namespaces where bucket = $1 order by id"

NAMED = "select id, name, created_at from namespaces where bucket = $1 and name = $2"

NUMBERED = "select id, name, created_at from namespaces where bucket = $1 and id = $2"

WHOSE = """
select id, namespace, target
from executions
where bucket = $1
  and id = any($2::uuid[])
  and id between $3 and $4
"""


async def known(conn: Connection, id_: KeyId) -> Known | None:
    """The key of this id, also one that is over."""
    row = await conn.fetchrow(KNOWN, bucket_of(id_), id_)
    return None if row is None else Known.from_row(row)


async def any_key(conn: Connection, buckets: Iterable[int]) -> bool:
    """Whether there is, or ever was, a key."""
    for bucket in buckets:
        if await conn.fetchval(ANY, bucket):
            return True
    return False


async def page(conn: Connection, bucket: int, *, namespace: int, before: UUID | None, limit: int) -> list[Key]:
    """The keys of a namespace, the newest first."""
    return [Key.from_row(row) for row in await conn.fetch(PAGE, bucket, namespace, before, limit)]


async def namespaces(conn: Connection, *, after: str, limit: int) -> list[Namespace]:
    """By name."""
    rows = await conn.fetch(NAMESPACES, NAMESPACES_BUCKET, after, limit)
    return [Namespace(row["id"], row["name"], row["created_at"]) for row in rows]


async def namespace_ids(conn: Connection) -> list[int]:
    """All there are, at most NAMESPACES_MAX."""
    return [row["id"] for row in await conn.fetch(NAMESPACE_IDS, NAMESPACES_BUCKET)]


async def namespace(conn: Connection, name: str) -> Namespace | None:
    row = await conn.fetchrow(NAMED, NAMESPACES_BUCKET, name)
    return None if row is None else Namespace(row["id"], row["name"], row["created_at"])


async def namespace_of(conn: Connection, id_: int) -> Namespace | None:
    row = await conn.fetchrow(NUMBERED, NAMESPACES_BUCKET, id_)
    return None if row is None else Namespace(row["id"], row["name"], row["created_at"])


async def whose(conn: Connection, ids: Iterable[UUID]) -> dict[UUID, tuple[int, str]]:
    """The namespace and the target of each execution: they never change. Of what there is not, nothing."""
    found: dict[UUID, tuple[int, str]] = {}
    for bucket, part in by_bucket(ids, lambda id_: id_):
        rows = await conn.fetch(WHOSE, bucket, part, *span(part))
        found |= {row["id"]: (row["namespace"], row["target"]) for row in rows}
    return found
