"""Register: a node says what it serves, and its processes open sessions."""

from __future__ import annotations

import pytest

from controlplane.domain.ids import SessionId
from controlplane.domain.lease import Session
from controlplane.domain.retry import RetryPolicy
from controlplane.errors import NodeNotFound
from controlplane.postgres.pool import Connection
from controlplane.stages import register
from controlplane.stages.register import Node, Reasoner
from tests.make import all_rows, counts, make_id, only_row, race

ECHO = Reasoner(
    target="n.echo",
    reasoner_id="echo",
    type="reasoner",
    description="says it again",
    tags=("a b", "c"),
    input_schema=b'{ "type":"object" }',
    retry=RetryPolicy(retries_max=3, delay_seconds=1.5, factor=3.0, cap_seconds=60.0),
    timeout_seconds=30.0,
)


def node(*reasoners: Reasoner, version: str = "1") -> Node:
    return Node(namespace=1, id="n", transport="pull", version=version, metadata=b"{}", reasoners=reasoners)


async def open_session(conn: Connection, id_: SessionId, **over: float) -> Session:
    options = {"heartbeat_seconds": 10.0, "lease_floor_seconds": 30.0} | over
    return await register.open_session(
        conn, id_, namespace=1, node_id="n", node_bucket=0, instance_id="i", slots=4, **options
    )


async def test_keeps_what_a_node_says(conn: Connection) -> None:
    """Schemas byte for byte, tags one by one, the retry policy and the timeout."""
    await register.register(conn, node(ECHO), bucket=0)
    row = await only_row(conn, "select * from reasoners")

    assert (row["target"], row["node_id"], row["tags"], row["input_schema"]) == (
        "n.echo", "n", ["a b", "c"], ECHO.input_schema,
    )  # fmt: skip
    assert (row["retries_max"], row["retry_delay_seconds"], row["retry_factor"], row["timeout_seconds"]) == (
        3, 1.5, 3.0, 30.0,
    )  # fmt: skip


async def test_registering_again_replaces(conn: Connection) -> None:
    """The newest word counts; what is no longer named stays known."""
    gone = Reasoner(target="n.old", reasoner_id="old", type="skill")
    await register.register(conn, node(ECHO, gone), bucket=0)

    await register.register(
        conn, node(Reasoner(target="n.echo", reasoner_id="echo", type="skill"), version="2"), bucket=0
    )
    rows = await conn.fetch("select target, type, tags from reasoners order by target")

    assert [tuple(row) for row in rows] == [("n.echo", "skill", []), ("n.old", "skill", [])]
    assert await conn.fetchval("select version from nodes") == "2"


async def test_registering_twice_says_the_same(conn: Connection) -> None:
    """A repeat after a lost answer changes nothing."""
    await register.register(conn, node(ECHO), bucket=0)
    before = await only_row(conn, "select registered_at from nodes")

    await register.register(conn, node(ECHO), bucket=0)

    assert await only_row(conn, "select registered_at from nodes") == before
    assert await counts(conn, "nodes", "reasoners") == {"nodes": 1, "reasoners": 1}


async def test_a_name_said_twice_is_one(conn: Connection) -> None:
    """Of two with one name the last counts."""
    twice = Reasoner(target="n.echo", reasoner_id="echo", type="skill")

    await register.register(conn, node(ECHO, twice), bucket=0)

    assert await conn.fetchval("select type from reasoners") == "skill"


async def test_two_processes_register_at_once(conn: Connection, other: Connection, observer: Connection) -> None:
    """Two processes of one node that start together leave one node."""
    await race(
        conn,
        other,
        observer,
        first=lambda c: register.register(c, node(ECHO), bucket=0),
        second=lambda c: register.register(c, node(ECHO, version="2"), bucket=0),
    )

    assert await all_rows(conn, "select version from nodes") == [("2",)]


async def test_a_node_without_reasoners(conn: Connection) -> None:
    """A node may serve nothing yet."""
    await register.register(conn, node(), bucket=0)

    assert await counts(conn, "nodes", "reasoners") == {"nodes": 1, "reasoners": 0}


async def test_a_session_of_an_unknown_node_is_refused(conn: Connection) -> None:
    """Register first."""
    with pytest.raises(NodeNotFound):
        await open_session(conn, SessionId(make_id(0)))


@pytest.mark.parametrize(("heartbeat", "lease"), [(1.0, 30.0), (10.0, 30.0), (20.0, 60.0)])
async def test_a_lease_outlives_three_beats(conn: Connection, heartbeat: float, lease: float) -> None:
    """The lease is the floor or three beats, whichever is longer."""
    await register.register(conn, node(), bucket=0)

    session = await open_session(conn, SessionId(make_id(0)), heartbeat_seconds=heartbeat)
    left = await conn.fetchval("select extract(epoch from expires_at - clock())::float8 from sessions")

    assert session.lease_seconds == lease
    assert lease - 5 < left <= lease


async def test_opening_twice_says_the_same(conn: Connection) -> None:
    """The same session opened again after a lost answer is the same session."""
    await register.register(conn, node(), bucket=0)
    id_ = SessionId(make_id(0))

    assert await open_session(conn, id_) == await open_session(conn, id_)
    assert await counts(conn, "sessions") == {"sessions": 1}
