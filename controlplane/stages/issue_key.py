"""Issue key: who may come in is decided here: a key is made, replaced by another, or revoked.

Beside the thread: no execution moves. A key is a row whose hash is all that is kept of it. It is never changed back:
what is revoked stays so, what was replaced once is not replaced again, and what has expired is made anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from controlplane.domain.cap import MOST, Cap, reached
from controlplane.domain.ids import bucket_of, show
from controlplane.domain.key import KEYS_MAX, Key, KeyId, KeyScope
from controlplane.errors import KeyNotFound, KeyReplaced, KeyRevoked, PayloadsHidden
from controlplane.postgres.pool import Connection

SEEING_KEY = "Ask somebody with a key that is shown payloads."

# The limit is of what the statement sees: keys made in the same moment may exceed it by a few.
ISSUE = """
insert into api_keys (
  bucket, id, namespace, name, prefix, hash, scopes, node_ids, created_at, created_by, expires_at, hide_payloads
)
select $1, $2::uuid, $3::smallint, $4::text, $5::text, $6::bytea, $7::text[], $8::text[], clock(), $9::text,
  clock() + make_interval(secs => $10::float8), $12::boolean
where (
  select count(*)
  from api_keys
  where bucket = $1
    and namespace = $3::smallint
    and revoked_at is null
    and (expires_at is null or expires_at > clock())
) < $11::bigint
returning id, namespace, name, prefix, scopes, node_ids, hide_payloads, created_at, created_by, expires_at,
  last_used_at, revoked_at, revoked_by, replaced_by, false as expired
"""

LOCK = """
select id, namespace, name, prefix, scopes, node_ids, hide_payloads, created_at, created_by, expires_at,
  last_used_at, revoked_at, revoked_by, replaced_by, coalesce(expires_at <= clock(), false) as expired,
  extract(epoch from expires_at - created_at)::float8 as life_seconds
from api_keys
where bucket = $1
  and id = $2
  and namespace = $3
for update
"""

REPLACE = """
update api_keys
set replaced_by = $3, expires_at = least(expires_at, clock() + make_interval(secs => $4))
where bucket = $1
  and id = $2
  and replaced_by is null
  and revoked_at is null
returning id, namespace, name, prefix, scopes, node_ids, hide_payloads, created_at, created_by, expires_at,
  last_used_at, revoked_at, revoked_by, replaced_by, coalesce(expires_at <= clock(), false) as expired
"""

# Said again it keeps the first moment and the first name.
REVOKE = """
update api_keys
set revoked_at = coalesce(revoked_at, clock()), revoked_by = case when revoked_at is null then $4 else revoked_by end
where bucket = $1
  and id = $2
  and namespace = $3
returning id, namespace, name, prefix, scopes, node_ids, hide_payloads, created_at, created_by, expires_at,
  last_used_at, revoked_at, revoked_by, replaced_by, coalesce(expires_at <= clock(), false) as expired
"""

# Rows that another replica touches right now have been used as well: they are left to it.
TOUCH = """
update api_keys
set last_used_at = clock()
where bucket = $1
  and id = any(array(
    select id
    from api_keys
    where bucket = $1
      and id = any($2::uuid[])
      and (last_used_at is null or last_used_at < clock() - make_interval(secs => $3))
    order by id
    for update skip locked
  ))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A key that is to be made. The text is the caller's to keep: only its hash comes this far."""

    id: KeyId
    namespace: int
    name: str
    prefix: str
    hash: bytes
    scopes: Sequence[KeyScope]
    node_ids: Sequence[str]
    created_by: str | None
    expires_in_seconds: float | None
    hide_payloads: bool = False


async def issue(conn: Connection, wish: Wish, *, keys_max: int | None = KEYS_MAX) -> Key:
    """A new key.

    Moves: nothing → a row. Guard: its id is new each time; asked again after a lost answer it is another key, and the
    one that nobody has seen is of no use to anybody.
    Raises: CapReached when the namespace has as many keys as it may have.
    """
    row = await conn.fetchrow(
        ISSUE,
        bucket_of(wish.id),
        wish.id,
        wish.namespace,
        wish.name,
        wish.prefix,
        wish.hash,
        [scope.value for scope in wish.scopes],
        list(wish.node_ids) or None,
        wish.created_by,
        wish.expires_in_seconds,
        MOST if keys_max is None else keys_max,
        wish.hide_payloads,
    )
    if row is None:
        assert keys_max is not None
        raise reached(Cap.KEYS, most=keys_max, present=keys_max)
    return Key.from_row(row)


async def lock(conn: Connection, id_: KeyId, *, namespace: int) -> Key | None:
    """The key as it stands until the caller's transaction ends; None when there is none."""
    row = await conn.fetchrow(LOCK, bucket_of(id_), id_, namespace)
    return None if row is None else Key.from_row(row)


async def rotate(
    conn: Connection,
    old_id: KeyId,
    new_id: KeyId,
    *,
    prefix: str,
    key_hash: bytes,
    namespace: int,
    overlap_seconds: float,
    expires_in_seconds: float | None,
    created_by: str | None,
    keys_max: int | None = KEYS_MAX,
    hidden_only: bool = False,
) -> tuple[Key, Key]:
    """A key that may do the same, and the old one, which goes on for so long at most. The new one lives as long.

    Moves: a live key → one with a successor and an end. Guard: the row lock and `replaced_by is null`; of two that
    rotate the same key at once, the second is told of the first. `hidden_only`: not of one that is shown payloads,
    for a caller who would see by the new one what it may not see.
    Raises: KeyNotFound; KeyRevoked, also of one that has expired; KeyReplaced; PayloadsHidden; CapReached as `issue`.
    """
    async with conn.transaction():
        row = await conn.fetchrow(LOCK, bucket_of(old_id), old_id, namespace)
        old = _live(row)
        assert row is not None
        if hidden_only and not old.hide_payloads:
            raise PayloadsHidden(fix=SEEING_KEY)
        new = await issue(
            conn,
            Wish(
                id=new_id,
                namespace=namespace,
                name=old.name,
                prefix=prefix,
                hash=key_hash,
                scopes=old.scopes,
                node_ids=old.node_ids,
                created_by=created_by,
                expires_in_seconds=row["life_seconds"] if expires_in_seconds is None else expires_in_seconds,
                hide_payloads=old.hide_payloads,
            ),
            keys_max=keys_max,
        )
        replaced = await conn.fetchrow(REPLACE, bucket_of(old_id), old_id, new_id, overlap_seconds)
        assert replaced is not None
    return new, Key.from_row(replaced)


async def revoke(conn: Connection, id_: KeyId, *, namespace: int, revoked_by: str | None) -> Key:
    """From here on nobody comes in by it.

    Moves: any → revoked. Guard: the first moment stays; said again it changes nothing. Raises: KeyNotFound.
    """
    row = await conn.fetchrow(REVOKE, bucket_of(id_), id_, namespace, revoked_by)
    if row is None:
        raise KeyNotFound
    return Key.from_row(row)


async def touch(conn: Connection, bucket: int, ids: Sequence[UUID], *, older_than_seconds: float) -> None:
    """These keys were used just now, which is written where the last time is longer ago than this.

    Guard: the age, which a second replica finds too young.
    """
    await conn.execute(TOUCH, bucket, ids, older_than_seconds)


def _live(row: asyncpg.Record | None) -> Key:
    if row is None:
        raise KeyNotFound
    key = Key.from_row(row)
    if key.replaced_by is not None:
        raise KeyReplaced(key_id=show("key", key.replaced_by))
    if key.revoked_at is not None or row["expired"]:
        raise KeyRevoked
    return key
