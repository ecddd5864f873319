"""Keys as rows: made, replaced once, revoked for good, whoever else does the same at the same moment."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from controlplane.domain.key import KEYS_MAX, Key, KeyId, KeyScope, KeyState
from controlplane.errors import CapReached, KeyNotFound, KeyReplaced, KeyRevoked, NamespaceExists
from controlplane.postgres.pool import Connection
from controlplane.reads import keys
from controlplane.security.keys import digest, make, prefix_of
from controlplane.stages import issue_key
from controlplane.stages.issue_key import Wish
from controlplane.stages.open_namespace import open_namespace
from tests.make import make_id

MANY = """
insert into api_keys (bucket, id, namespace, name, prefix, hash, scopes, created_at)
select 0, gen_random_uuid(), 1, 'many', n::text, sha256(n::text::bytea), array['read'], clock()
from generate_series(1, $1) as n
"""
PASS = "update api_keys set expires_at = clock() - interval '1 s' where id = $1"


async def issue(conn: Connection, **over: Any) -> Key:
    id_ = KeyId(make_id(0))
    wish: dict[str, Any] = {
        "id": id_,
        "namespace": 1,
        "name": "k",
        "prefix": prefix_of(id_),
        "hash": digest(make(id_).encode()),
        "scopes": [KeyScope.READ],
        "node_ids": [],
        "created_by": "boss",
        "expires_in_seconds": None,
    }
    return await issue_key.issue(conn, Wish(**(wish | over)))


async def rotate(conn: Connection, old: Key, *, overlap_seconds: float = 60, namespace: int = 1) -> tuple[Key, Key]:
    id_ = KeyId(make_id(0))
    return await issue_key.rotate(
        conn,
        old.id,
        id_,
        prefix=prefix_of(id_),
        key_hash=digest(make(id_).encode()),
        namespace=namespace,
        overlap_seconds=overlap_seconds,
        expires_in_seconds=None,
        created_by="boss",
    )


async def test_a_key_is_found_by_its_id(conn: Connection) -> None:
    """With whom it lets in, and for how much longer."""
    made = await issue(conn, scopes=[KeyScope.NODE], node_ids=["w*"], expires_in_seconds=100)
    known = await keys.known(conn, made.id)

    assert known is not None
    assert (known.caller.name, known.caller.namespace, known.caller.node_ids) == ("k", 1, ("w*",))
    assert known.caller.scopes == {KeyScope.NODE}
    assert known.state is KeyState.ACTIVE
    assert 90 < (known.seconds_left or 0) <= 100


@pytest.mark.parametrize("over", [{"scopes": []}, {"scopes": [KeyScope.NODE]}, {"node_ids": ["n"]}, {"hash": b"short"}])
async def test_the_schema_refuses_what_no_key_may_be(conn: Connection, over: dict[str, Any]) -> None:
    """Also what a door has let through."""
    with pytest.raises(asyncpg.CheckViolationError):
        await issue(conn, **over)


async def test_there_is_an_end_to_keys(conn: Connection) -> None:
    """Those that are revoked do not count."""
    await conn.execute(MANY, KEYS_MAX)
    with pytest.raises(CapReached):
        await issue(conn)
    await conn.execute("update api_keys set revoked_at = clock() where prefix = '1'")

    assert (await issue(conn)).state is KeyState.ACTIVE


async def test_of_two_that_rotate_one_wins(conn: Connection, other: Connection) -> None:
    """The second is told of the first; there is one successor."""
    old = await issue(conn)
    done = await asyncio.gather(rotate(conn, old), rotate(other, old), return_exceptions=True)

    assert {type(one) for one in done} == {tuple, KeyReplaced}
    assert await conn.fetchval("select count(*) from api_keys") == 2


async def test_the_end_of_the_old_one_only_comes_nearer(conn: Connection) -> None:
    """A key that had less time left than the overlap does not gain any."""
    old = await issue(conn, expires_in_seconds=10)
    new, replaced = await rotate(conn, old, overlap_seconds=1_000)

    assert replaced.expires_at == old.expires_at
    assert new.expires_at is not None
    assert abs((new.expires_at - new.created_at).total_seconds() - 10) < 0.001


async def test_what_is_over_is_not_rotated(conn: Connection) -> None:
    """Neither what is revoked nor what has expired, and nothing is made."""
    revoked, expired = await issue(conn), await issue(conn)
    await issue_key.revoke(conn, revoked.id, namespace=1, revoked_by=None)
    await conn.execute(PASS, expired.id)
    for one in (revoked, expired):
        with pytest.raises(KeyRevoked):
            await rotate(conn, one)

    assert await conn.fetchval("select count(*) from api_keys") == 2


async def test_a_key_of_another_namespace_is_not_there(conn: Connection) -> None:
    """Neither to be revoked nor to be rotated."""
    made = await issue(conn)
    with pytest.raises(KeyNotFound):
        await issue_key.revoke(conn, made.id, namespace=2, revoked_by=None)
    with pytest.raises(KeyNotFound):
        await rotate(conn, made, namespace=2)

    assert [one.state for one in await keys.page(conn, 0, namespace=1, before=None, limit=9)] == [KeyState.ACTIVE]
    assert await keys.page(conn, 0, namespace=2, before=None, limit=9) == []


async def test_revoked_by_the_first(conn: Connection) -> None:
    """Said again, the first name and moment stay, also where that name was none."""
    made = await issue(conn)
    first = await issue_key.revoke(conn, made.id, namespace=1, revoked_by=None)
    second = await issue_key.revoke(conn, made.id, namespace=1, revoked_by="late")

    assert (second.revoked_at, second.revoked_by) == (first.revoked_at, None)


async def test_use_is_not_waited_for(conn: Connection, other: Connection) -> None:
    """A row that another replica holds right now is left to it."""
    made = await issue(conn)
    async with other.transaction():
        await other.execute("select from api_keys for update")
        async with asyncio.timeout(5):
            await issue_key.touch(conn, 0, [made.id], older_than_seconds=30)
    await issue_key.touch(conn, 0, [made.id], older_than_seconds=30)
    used = await conn.fetchval("select last_used_at from api_keys")
    await issue_key.touch(conn, 0, [made.id], older_than_seconds=30)

    assert used is not None
    assert await conn.fetchval("select last_used_at from api_keys") == used


async def test_namespaces_are_numbered_in_turn(conn: Connection) -> None:
    """After `default`, which is there from the beginning and whose name nobody else gets."""
    made = [await open_namespace(conn, name) for name in ("b", "a")]
    with pytest.raises(NamespaceExists):
        await open_namespace(conn, "default")

    assert [one.id for one in made] == [2, 3]
    assert [one.name for one in await keys.namespaces(conn, after="", limit=9)] == ["a", "b", "default"]
