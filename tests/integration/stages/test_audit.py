"""The chain of the audit log: it is appended to with the change, and whatever is done to it afterwards is seen."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from uuid import uuid4

import asyncpg
import pytest

from controlplane.daemons.janitor import DatabaseClock, Janitor
from controlplane.domain.audit import START, Actor, ActorKind, Audited, AuditId, Entry, Mark
from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Connection
from controlplane.reads import audit as rows
from controlplane.reads.audit import EVERYTHING, Verified
from controlplane.reads.verify import AUDIT_CHAIN_HOLDS
from controlplane.stages import audit
from tests.make import NAMESPACE, move_clock

DAY = 86_400.0
TAMPERED = {
    "at": "at + interval '1 microsecond'",
    "actor_kind": "'daemon'",
    "actor": "'somebody else'",
    "key_id": "gen_random_uuid()",
    "actor_namespace": "'other'",
    "request_id": "null",
    "address": "'10.0.0.9'",
    "user_agent": "user_agent || ' '",
    "action": "'key.created'",
    "object_kind": "'key '",
    "object_id": "'key_other'",
    "before": "'{}'",
    "after": "null",
    "id": "gen_random_uuid()",
    "previous": "sha256('')",
    "hash": "sha256('')",
    "seq": "seq + 1000",
    "namespace": "namespace + 1",
    "bucket": "bucket + 1",
}


def entry(n: int = 0, *, namespace: int = NAMESPACE, id_: AuditId | None = None) -> Entry:
    return Entry(
        id=id_ or AuditId(uuid4()),
        bucket=0,
        namespace=namespace,
        actor=Actor(
            kind=ActorKind.KEY,
            name="Zoë: 3:x",
            key_id=uuid4(),
            request_id="req_1",
            address="10.0.0.1",
            user_agent="curl/8 “é”",
        ),
        action="key.revoked",
        object_kind="key",
        object_id=f"key_{n}",
        before=b'{"state":"active"}',
        after=b'{"note":"\\u0000\\ud800","state":"revoked"}',
    )


async def append(conn: Connection, *entries: Entry) -> None:
    async with conn.transaction():
        for one in entries:
            await audit.append(conn, [one])


async def verified(conn: Connection, *, kept: Mark | None = None, after: Mark | None = None) -> Verified:
    return await rows.verify(conn, 0, namespace=NAMESPACE, after=after, kept=kept)


async def all_of_it(conn: Connection, namespace: int = NAMESPACE) -> list[Audited]:
    return (await rows.oldest(conn, 0, EVERYTHING, namespace=namespace, after=0, limit=1_000)).rows


@pytest.fixture
async def unlocked(conn: Connection) -> Connection:
    """A chain of five, and somebody who may do everything to it."""
    await append(conn, *(entry(n) for n in range(5)))
    await conn.execute("alter table audit disable trigger user; alter table audit_heads disable trigger user")
    return conn


async def test_a_row_says_what_was_written(conn: Connection) -> None:
    """Every field comes back as it was given, and the first row goes on from nothing."""
    one = entry()
    await append(conn, one)

    [row] = await all_of_it(conn)

    assert (row.seq, row.previous, row.id, row.action, row.object_id) == (1, START.hash, one.id, one.action, "key_0")
    assert (row.actor, row.key_id, row.user_agent) == (one.actor.name, one.actor.key_id, one.actor.user_agent)
    assert (row.before, row.after) == (one.before, one.after)


async def test_the_database_and_we_hash_alike(conn: Connection) -> None:
    """What the database has hashed is what anybody else makes of the row."""
    await append(conn, entry())
    await append(conn, Entry(**{**_fields(entry()), "before": None, "after": None, "actor": Actor.daemon("x")}))

    assert [row.rehashed() for row in await all_of_it(conn)] == [row.hash for row in await all_of_it(conn)]


async def test_each_goes_on_from_the_one_before(conn: Connection) -> None:
    """A chain holds from its first row to its head."""
    await append(conn, *(entry(n) for n in range(5)))

    found = await verified(conn)

    assert (found.walked.broken, found.walked.rows, found.complete) == (None, 5, True)
    assert found.walked.end == found.chain.head


async def test_what_is_rolled_back_leaves_no_row(conn: Connection) -> None:
    """A change that did not happen is not in the log, and the next row has its number."""
    await append(conn, entry(0))
    with suppress(RuntimeError):
        async with conn.transaction():
            await audit.append(conn, [entry(1)])
            raise RuntimeError
    await append(conn, entry(2))

    assert [(row.seq, row.object_id) for row in await all_of_it(conn)] == [(1, "key_0"), (2, "key_2")]
    assert (await verified(conn)).walked.broken is None


async def test_written_twice_it_is_one_row(conn: Connection) -> None:
    """A row that is written again after a lost answer is the one that is there."""
    one = entry()
    await append(conn, one)
    await append(conn, one)

    assert len(await all_of_it(conn)) == 1
    assert (await verified(conn)).walked.broken is None


async def test_fifty_at_once_make_one_chain(conn: Connection, database: str) -> None:
    """Whoever comes at once waits for the head: no number is used twice or left out."""
    pool = await asyncpg.create_pool(database, min_size=50, max_size=50)

    async def write(n: int) -> None:
        async with pool.acquire() as one:
            await append(one, entry(n))

    async with pool:
        await asyncio.gather(*(write(n) for n in range(200)))

    assert [row.seq for row in await all_of_it(conn)] == list(range(1, 201))
    assert (await verified(conn)).walked.broken is None


async def test_namespaces_have_chains_of_their_own(conn: Connection) -> None:
    """Each begins with 1, and what is done to one is not seen in the other."""
    await append(conn, entry(0), entry(1, namespace=7), entry(2))

    assert [row.seq for row in await all_of_it(conn)] == [1, 2]
    assert [row.seq for row in await all_of_it(conn, 7)] == [1]


@pytest.mark.parametrize("statement", ["update audit set actor = 'x'", "delete from audit", "truncate audit"])
async def test_nothing_of_it_is_changed(conn: Connection, statement: str) -> None:
    """The database refuses whatever is no insert."""
    await append(conn, entry())

    with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
        await conn.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "update audit_heads set seq = 0",
        "update audit_heads set hash = sha256('')",
        "update audit_heads set removed_seq = 1",
        "update audit_heads set removed_seq = 1, removed_hash = (select hash from audit where seq = 1)",
        "delete from audit_heads",
        "truncate audit_heads",
    ],
)
async def test_a_head_only_goes_forward(conn: Connection, statement: str) -> None:
    """The end of a chain cannot be moved back, nor its beginning over what is young."""
    await append(conn, entry(0), entry(1))

    with pytest.raises(asyncpg.RestrictViolationError):
        await conn.execute(statement)


@pytest.mark.parametrize("column", TAMPERED)
async def test_whoever_changes_a_column_is_seen(unlocked: Connection, column: str) -> None:
    """Of every column of a row, with every lock taken off: the row is named."""
    changed = await unlocked.execute(f"update audit set {column} = {TAMPERED[column]} where seq = 3")

    assert changed == "UPDATE 1"
    broken = (await verified(unlocked)).walked.broken
    assert broken is not None
    assert broken.seq == 3


async def asked(conn: Connection) -> list[asyncpg.Record]:
    """What breaks the invariant, by SQL alone."""
    found: list[asyncpg.Record] = await conn.fetch(AUDIT_CHAIN_HOLDS, 0)
    return found


async def test_the_invariant_sees_nothing_wrong(conn: Connection) -> None:
    """Neither in a chain that grows nor in one that retention has shortened."""
    await append(conn, *(entry(n) for n in range(3)))
    assert await asked(conn) == []
    await move_clock(conn, "100 days")
    await append(conn, entry(3))
    await audit.forget(conn, 0, after_seconds=90 * DAY)

    assert await asked(conn) == []


@pytest.mark.parametrize("column", sorted(TAMPERED))
async def test_the_invariant_sees_what_was_changed(unlocked: Connection, column: str) -> None:
    """The same of every column, as one query (I32)."""
    await unlocked.execute(f"update audit set {column} = {TAMPERED[column]} where seq = 3")

    assert await asked(unlocked)


async def test_every_column_can_be_tampered_with(conn: Connection) -> None:
    """The list above has all of them."""
    columns = "select column_name from information_schema.columns where table_name = 'audit'"

    assert {row["column_name"] for row in await conn.fetch(columns)} == set(TAMPERED)


async def test_a_row_whose_hash_was_made_anew_is_seen(unlocked: Connection) -> None:
    """Who also computes the hash of what is changed breaks the row after it."""
    [row] = [row for row in await all_of_it(unlocked) if row.seq == 3]
    await unlocked.execute("update audit set actor = 'x' where seq = 3")
    [forged] = [row for row in await all_of_it(unlocked) if row.seq == 3]
    await unlocked.execute("update audit set hash = $1 where seq = 3", forged.rehashed())

    broken = (await verified(unlocked)).walked.broken

    assert row.hash != forged.rehashed()
    assert broken is not None
    assert broken.seq == 4


@pytest.mark.parametrize(
    ("statement", "seq"),
    [
        ("delete from audit where seq = 2", 2),
        ("delete from audit where seq = 1", 1),
        ("delete from audit where seq = 5", 5),
        ("delete from audit", 1),
        ("update audit set seq = case seq when 2 then 30 when 3 then 20 end where seq in (2, 3)", 2),
        ("delete from audit_heads", 5),
    ],
)
async def test_a_gap_is_seen(unlocked: Connection, statement: str, seq: int) -> None:
    """What is taken out or put elsewhere is missing where it was."""
    await unlocked.execute(statement)

    broken = (await verified(unlocked)).walked.broken

    assert broken is not None
    assert broken.seq == seq


async def test_two_rows_in_each_others_place_are_seen(unlocked: Connection) -> None:
    """The order is part of what was written."""
    await unlocked.execute("update audit set seq = seq + 100 where seq in (2, 3)")
    await unlocked.execute("update audit set seq = case seq when 102 then 3 else 2 end where seq > 100")

    broken = (await verified(unlocked)).walked.broken

    assert broken is not None
    assert broken.seq == 2


async def test_a_tail_that_was_cut_off_is_missed_by_who_kept_the_head(unlocked: Connection) -> None:
    """Cut off together with its head, a chain holds by itself, but not for who knows how far it went."""
    head = (await verified(unlocked)).chain.head
    await unlocked.execute("delete from audit where seq > 3")
    await unlocked.execute("update audit_heads set seq = a.seq, hash = a.hash from audit a where a.seq = 3")

    assert (await verified(unlocked)).walked.broken is None
    broken = (await verified(unlocked, kept=head)).walked.broken
    assert broken is not None
    assert broken.seq == 5


async def test_a_chain_that_was_written_anew_is_not_the_one_that_was_kept(unlocked: Connection) -> None:
    """Who forges everything from one row on cannot give the head the hash that it had."""
    head = (await verified(unlocked)).chain.head
    await unlocked.execute("delete from audit; delete from audit_heads")
    await append(unlocked, *(entry(n) for n in range(6)))

    assert (await verified(unlocked)).walked.broken is None
    assert (await verified(unlocked, kept=head)).walked.broken is not None


async def test_a_head_of_an_earlier_day_is_still_in_it(conn: Connection) -> None:
    """What comes after a head that was kept does not make it another."""
    await append(conn, entry(0))
    head = (await verified(conn)).chain.head
    await append(conn, entry(1))

    assert (await verified(conn, kept=head)).walked.broken is None
    assert (await verified(conn, after=head)).walked.rows == 1


async def test_retention_takes_a_beginning_and_leaves_its_hash(conn: Connection) -> None:
    """What is left goes on from the last that was taken away, and still holds."""
    await append(conn, *(entry(n) for n in range(3)))
    await move_clock(conn, "100 days")
    await append(conn, entry(3), entry(4))

    gone = await audit.forget(conn, 0, after_seconds=90 * DAY)

    found = await verified(conn)
    assert gone == 3
    assert [row.seq for row in await all_of_it(conn)] == [4, 5]
    assert (found.walked.broken, found.walked.begin.seq, found.walked.rows) == (None, 3, 2)


async def test_retention_does_not_hide_what_is_missing_behind_it(conn: Connection) -> None:
    """The first row that is left has to go on from the anchor."""
    await append(conn, *(entry(n) for n in range(3)))
    await move_clock(conn, "100 days")
    await append(conn, entry(3), entry(4))
    await audit.forget(conn, 0, after_seconds=90 * DAY)
    await conn.execute("alter table audit disable trigger user")
    await conn.execute("delete from audit where seq = 4")

    broken = (await verified(conn)).walked.broken

    assert broken is not None
    assert broken.seq == 4


async def test_retention_takes_nothing_younger_than_thirty_days(conn: Connection) -> None:
    """Whatever is asked of it, the database says no."""
    await append(conn, entry())
    await move_clock(conn, "2 days")

    with pytest.raises(asyncpg.RestrictViolationError):
        await audit.forget(conn, 0, after_seconds=DAY)
    assert len(await all_of_it(conn)) == 1


async def test_the_janitor_keeps_to_what_is_set(conn: Connection, database: str) -> None:
    """Without a number of days it takes nothing; with one, what is older."""
    await append(conn, *(entry(n) for n in range(3)))
    pool = await asyncpg.create_pool(database, min_size=1, max_size=1, setup=_in_a_hundred_days)

    async def tick(days: float | None) -> int:
        janitor = Janitor(
            pool,
            Placement(),
            DatabaseClock(),
            weeks_ahead=1,
            secret_days=7,
            changes_seconds=60,
            trigger_events_days=30,
            audit_days=days,
        )
        await janitor.tick()
        return len(await all_of_it(conn))

    async with pool:
        assert await tick(None) == 3
        assert await tick(200.0) == 3
        assert await tick(90.0) == 0


async def _in_a_hundred_days(one: Connection) -> None:
    await move_clock(one, "100 days")


async def test_a_head_that_retention_has_passed_can_be_compared_no_more(conn: Connection) -> None:
    """That is no reproach: nothing of it is there."""
    await append(conn, entry(0), entry(1))
    first = (await all_of_it(conn))[0].mark
    await move_clock(conn, "100 days")
    await audit.forget(conn, 0, after_seconds=90 * DAY)

    assert (await verified(conn, kept=first)).walked.broken is None


def _fields(one: Entry) -> dict[str, object]:
    return {name: getattr(one, name) for name in Entry.__dataclass_fields__}
