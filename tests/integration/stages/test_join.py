"""Join: processes that are called come, come back under another name, and say goodbye without saying who they are."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from controlplane.domain.ids import SessionId
from controlplane.domain.lease import Beat, Session, Transport
from controlplane.errors import NodeNotFound
from controlplane.postgres.pool import Connection
from controlplane.stages import expire, register, renew, send
from tests.make import (
    ADDRESS,
    NAMESPACE,
    a_process,
    all_rows,
    counts,
    make_id,
    make_process,
    make_sent,
    make_session,
    move_clock,
    only_row,
    queue_row,
    race,
)

OTHER = "http://127.0.0.1:8002"
OPEN = "select instance_id from sessions where closed_at is null order by instance_id"
CLOSED = "select instance_id, closed_reason from sessions where closed_at is not null order by instance_id"
LEFT = "select draining, extract(epoch from expires_at - clock())::float8 as seconds from sessions where id = $1"


async def revive(conn: Connection, instance_id: str, node_id: str = "n") -> Session | None:
    return await register.revive(
        conn, 0, namespace=NAMESPACE, node_id=node_id, instance_id=instance_id, session_id=SessionId(make_id(0))
    )


async def drain(conn: Connection, seconds: float = 35.0) -> None:
    await register.drain(conn, 0, namespace=NAMESPACE, node_id="n", seconds=seconds)


async def functions_at(conn: Connection, url: str) -> Session:
    return await make_process(conn, transport=Transport.SERVERLESS, base_url=url, instance_id="serverless")


async def gave_up(conn: Connection, **over: Any) -> Session:
    """A process that was silent for too long."""
    session = await make_process(conn, **over)
    await move_clock(conn, "91 seconds")
    assert await expire.close_expired(conn, 0, up_seconds=1e6) == 1
    return session


async def test_a_process_joins(conn: Connection) -> None:
    """It is written down as it says it is, and lives for one lease."""
    session = await make_process(conn, slots=3, start_to_close_seconds=60.0)
    row = await only_row(conn, "select *, extract(epoch from expires_at - clock())::float8 as seconds from sessions")

    assert (session.transport, session.base_url, session.slots) == (Transport.PUSH, ADDRESS, 3)
    assert Session.from_row(row) == session
    assert (row["draining"], row["closed_at"]) == (False, None)
    assert 85 < row["seconds"] <= 90


async def test_a_new_instance_replaces_the_old(conn: Connection) -> None:
    """At one address only one can listen: the one before it is dead, and its work runs elsewhere as after a crash."""
    old = await make_process(conn, instance_id="old")
    made = await make_sent(conn, session=old)

    new = await make_process(conn, instance_id="new")
    swept = await expire.sweep(conn, 0, make_id=make_id)

    assert new.id != old.id
    assert await all_rows(conn, CLOSED) == [("old", "replaced")]
    assert swept.rows == 1
    assert (await queue_row(conn, made.id))["crashes"] == 1


async def test_a_second_address_is_a_second_process(conn: Connection) -> None:
    """Two processes of one node serve it together, each with its own session."""
    first = await make_process(conn, instance_id="a")
    second = await make_process(conn, instance_id="b", base_url=OTHER)

    assert first.id != second.id
    assert await all_rows(conn, OPEN) == [("a",), ("b",)]


async def test_functions_that_moved_are_called_where_they_are_now(conn: Connection) -> None:
    """Nothing more is sent to where they were, and that address is not kept alive; processes beside them stay."""
    beside = await make_process(conn, instance_id="beside")
    made = await make_sent(conn, session=await functions_at(conn, OTHER))
    now = await functions_at(conn, "http://127.0.0.1:8003")
    await move_clock(conn, "60 seconds")
    await send.renew_serverless(conn, 0)
    await move_clock(conn, "100 seconds")

    assert await expire.close_expired(conn, 0, up_seconds=1e6) == 2
    assert await all_rows(conn, "select id from sessions where closed_at is null") == [(now.id,)]
    assert await all_rows(conn, "select closed_reason from sessions where id = $1", made.session.id) == [("drained",)]
    assert await all_rows(conn, "select draining from sessions where id = $1", beside.id) == [(False,)]


async def test_another_node_at_the_address_replaces_nobody(conn: Connection) -> None:
    """Only processes of one node stand in for each other."""
    await make_process(conn, instance_id="a")
    await make_process(conn, instance_id="b", node_id="m")

    assert await all_rows(conn, OPEN) == [("a",), ("b",)]


async def test_a_process_that_fetches_is_never_replaced(conn: Connection) -> None:
    """It has no address that somebody else could answer at."""
    await make_session(conn)
    await make_process(conn, instance_id="new")

    assert await all_rows(conn, OPEN) == [("instance",), ("new",)]


async def test_the_same_instance_again_is_the_same_session(conn: Connection) -> None:
    """Registered again (a lost answer, an outage of ours) it keeps what it holds, and its newest word counts."""
    first = await make_process(conn)
    made = await make_sent(conn, session=first)
    await move_clock(conn, "60 seconds")

    again = await make_process(conn, slots=2, heartbeat_seconds=5.0, acknowledges=False, start_to_close_seconds=None)
    row = await only_row(conn, "select * from sessions")

    assert again.id == first.id
    assert Session.from_row(row) == again
    assert 85 < (await only_row(conn, LEFT, first.id))["seconds"] <= 90
    assert (await queue_row(conn, made.id))["session_id"] == first.id


async def test_who_comes_back_does_not_drain_any_more(conn: Connection) -> None:
    """A process that registers again after a goodbye is given work again."""
    session = await make_process(conn)
    await drain(conn)

    await make_process(conn)

    assert (await only_row(conn, LEFT, session.id))["draining"] is False


async def test_a_draining_process_is_not_replaced(conn: Connection) -> None:
    """It finishes what it runs while its successor already listens."""
    old = await make_process(conn, instance_id="old")
    made = await make_sent(conn, session=old)
    await drain(conn)

    await make_process(conn, instance_id="new")
    swept = await expire.sweep(conn, 0, make_id=make_id)

    assert await all_rows(conn, OPEN) == [("new",), ("old",)]
    assert swept.rows == 0
    assert (await queue_row(conn, made.id))["session_id"] == old.id


async def test_the_same_instance_registers_twice_at_once(
    conn: Connection, other: Connection, observer: Connection
) -> None:
    """The second waits for the first and finds its session."""
    first, second = await race(conn, other, observer, first=make_process, second=make_process)

    assert first.id == second.id
    assert await counts(conn, "sessions") == {"sessions": 1}


async def test_two_instances_register_at_once(conn: Connection, other: Connection, observer: Connection) -> None:
    """Whoever comes second has the address."""
    await race(
        conn,
        other,
        observer,
        first=lambda c: make_process(c, instance_id="a"),
        second=lambda c: make_process(c, instance_id="b"),
    )

    assert await all_rows(conn, OPEN) == [("b",)]
    assert await all_rows(conn, CLOSED) == [("a", "replaced")]


async def test_the_index_keeps_a_process_single(conn: Connection) -> None:
    """Even past all guards there is one open session for one instance at one address."""
    await make_process(conn)
    copy = """
    insert into sessions
    select (jsonb_populate_record(s, jsonb_build_object('id', gen_random_uuid(), 'closed_at', null))).*
    from sessions s
    """

    with pytest.raises(asyncpg.UniqueViolationError, match="sessions_process"):
        await conn.execute(copy)
    await conn.execute("update sessions set closed_at = clock(), closed_reason = 'expired'")
    await conn.execute(copy)


async def test_who_was_given_up_comes_back(conn: Connection) -> None:
    """Heard of again, it has a new session like the old one, with nothing of what it held."""
    old = await gave_up(conn, slots=3)
    made = await make_sent(conn, session=old)
    await expire.sweep(conn, 0, make_id=make_id)

    new = await revive(conn, "instance")

    assert new is not None
    assert new.id != old.id
    assert (new.slots, new.base_url, new.lease_seconds) == (3, ADDRESS, 90.0)
    assert await all_rows(conn, OPEN) == [("instance",)]
    assert (await queue_row(conn, made.id))["session_id"] is None


async def test_who_is_there_does_not_come_back_twice(conn: Connection) -> None:
    """An open session is simply given back."""
    session = await make_process(conn)

    assert await revive(conn, "instance") == session
    assert await counts(conn, "sessions") == {"sessions": 1}


async def test_who_was_replaced_stays_away(conn: Connection) -> None:
    """The heartbeat of a process whose address another one has taken brings nothing back."""
    old = await make_process(conn, instance_id="old")
    await make_process(conn, instance_id="new")

    assert await revive(conn, "old") == old
    assert await all_rows(conn, OPEN) == [("new",)]


async def test_who_was_replaced_does_not_outlive_its_successor(conn: Connection) -> None:
    """Also when nobody is at its address any more: a new process was there, so the old one is gone."""
    old = await make_process(conn, instance_id="old")
    await gave_up(conn, instance_id="new")

    assert await revive(conn, "old") == old
    assert await all_rows(conn, OPEN) == []


async def test_nobody_comes_back_to_a_taken_address(conn: Connection) -> None:
    """Given up and not replaced, it still stays closed when somebody newer answers there."""
    old = await gave_up(conn, instance_id="old")
    await make_process(conn, instance_id="new")

    assert await revive(conn, "old") == old
    assert await all_rows(conn, OPEN) == [("new",)]


async def test_who_drains_takes_no_address(conn: Connection) -> None:
    """A process that is about to leave keeps nobody from coming back."""
    await gave_up(conn, instance_id="old")
    await make_process(conn, instance_id="leaving")
    await drain(conn)

    assert await revive(conn, "old") is not None
    assert await all_rows(conn, OPEN) == [("leaving",), ("old",)]


@pytest.mark.parametrize(("instance_id", "node_id"), [("stranger", "n"), ("instance", "m")])
async def test_who_is_not_known_has_to_register(conn: Connection, instance_id: str, node_id: str) -> None:
    """A heartbeat alone does not say where its process listens."""
    await make_process(conn)

    assert await revive(conn, instance_id, node_id) is None


async def test_a_process_that_fetches_is_not_revived(conn: Connection) -> None:
    """It opens a session of its own."""
    await make_session(conn)

    assert await revive(conn, "instance") is None


async def test_two_heartbeats_revive_once(conn: Connection, other: Connection, observer: Connection) -> None:
    """Two beats of one process that are read at once bring back one session."""
    await gave_up(conn)

    first, second = await race(
        conn, other, observer, first=lambda c: revive(c, "instance"), second=lambda c: revive(c, "instance")
    )

    assert first == second
    assert await all_rows(conn, OPEN) == [("instance",)]


async def test_a_beat_that_waits_for_a_newer_process(conn: Connection, other: Connection, observer: Connection) -> None:
    """Whoever registers at the address at this very moment keeps it."""
    old = await gave_up(conn, instance_id="old")

    _, answer = await race(
        conn,
        other,
        observer,
        first=lambda c: make_process(c, instance_id="new"),
        second=lambda c: revive(c, "old"),
    )

    assert answer == old
    assert await all_rows(conn, OPEN) == [("new",)]


async def test_the_only_process_says_goodbye(conn: Connection) -> None:
    """It is this one: it drains, and has so long to finish what it holds."""
    session = await make_process(conn)
    made = await make_sent(conn, session=session)

    await drain(conn, 35.0)
    row = await only_row(conn, LEFT, session.id)

    assert row["draining"] is True
    assert 30 < row["seconds"] <= 35
    assert (await queue_row(conn, made.id))["session_id"] == session.id


async def test_a_goodbye_gives_no_more_time_than_there_was(conn: Connection) -> None:
    """A lease that runs out sooner still does, and a second goodbye prolongs nothing."""
    session = await make_process(conn, lease_seconds=10.0)
    await drain(conn, 35.0)
    before = await only_row(conn, "select expires_at, draining from sessions")
    await move_clock(conn, "5 seconds")

    await drain(conn, 35.0)

    assert (await only_row(conn, LEFT, session.id))["seconds"] <= 5
    assert await only_row(conn, "select expires_at, draining from sessions") == before


async def test_one_of_several_says_goodbye(conn: Connection) -> None:
    """It does not say which: nobody drains until it shows who does not listen any more."""
    await make_process(conn, instance_id="a")
    await make_process(conn, instance_id="b", base_url=OTHER)

    await drain(conn)

    assert await all_rows(conn, "select draining from sessions") == [(False,), (False,)]
    assert await conn.fetchval("select left_at is not null from nodes")


async def test_the_last_of_several_says_goodbye(conn: Connection) -> None:
    """Those that drain already, are closed or fetch their work do not count."""
    gone = await gave_up(conn, instance_id="gone")
    await make_session(conn)
    await make_process(conn, instance_id="last")
    leaving = await make_process(conn, instance_id="leaving", base_url=OTHER)
    await conn.execute("update sessions set draining = true where id = $1", leaving.id)

    await drain(conn)

    assert await all_rows(
        conn, "select instance_id from sessions where draining and base_url is not null order by instance_id"
    ) == [("last",), ("leaving",)]
    assert not await conn.fetchval("select draining from sessions where id = $1", gone.id)


async def test_who_was_replaced_may_be_the_one_that_goes(conn: Connection) -> None:
    """Behind one address for both, a successor registers before the process that it replaces is told to stop."""
    await make_process(conn, instance_id="old")
    session = await make_process(conn, instance_id="new")

    await drain(conn)

    assert (await only_row(conn, LEFT, session.id))["draining"] is False
    assert await conn.fetchval("select left_at is not null from nodes")


@pytest.mark.parametrize(("beat_after", "stays"), [(None, False), ("30 seconds", False), ("40 seconds", True)])
async def test_who_is_heard_of_after_its_goodbye_stays(conn: Connection, beat_after: str | None, stays: bool) -> None:
    """It was another one's, if a process still sends heartbeats when it should have gone long ago."""
    session = await make_process(conn)
    await drain(conn)
    if beat_after is not None:
        await move_clock(conn, beat_after)
        await renew.extend(conn, [Beat(session_id=session.id, held=None, count=0)])

    said = [await register.stay(conn, 0, session.id, after_seconds=35.0) for _ in range(2)]

    assert said == [stays, False]
    assert (await only_row(conn, LEFT, session.id))["draining"] is not stays


async def test_two_say_goodbye_at_once(conn: Connection, other: Connection, observer: Connection) -> None:
    """The second waits for the first; together they still say no more than that somebody leaves."""
    await make_process(conn, instance_id="a")
    await make_process(conn, instance_id="b", base_url=OTHER)

    await race(conn, other, observer, first=drain, second=drain)

    assert await all_rows(conn, "select draining from sessions") == [(False,), (False,)]


async def test_nobody_says_goodbye(conn: Connection) -> None:
    """A node that never registered cannot leave."""
    with pytest.raises(NodeNotFound):
        await drain(conn)


async def test_only_what_is_called_has_an_address(conn: Connection) -> None:
    """The schema keeps both halves of that."""
    await make_process(conn)

    for broken in ("transport = 'pull'", "base_url = null", "transport = 'pigeon', base_url = 'x'"):
        with pytest.raises(asyncpg.CheckViolationError):
            await conn.execute(f"update sessions set {broken}")


async def test_a_process_of_another_bucket(conn: Connection) -> None:
    """The session lives in the bucket of its node, where everybody looks for it."""
    session = await register.join(
        conn,
        register.Node(namespace=NAMESPACE, id="n", transport="push", version="1", base_url=ADDRESS),
        a_process(),
        SessionId(make_id(3)),
    )

    assert await all_rows(conn, "select bucket from nodes union all select bucket from sessions") == [(3,), (3,)]
    assert (await conn.fetchval("select id from sessions where bucket = 3")) == session.id
