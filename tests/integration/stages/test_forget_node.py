"""Forgetting a node: what goes with it, what stays, what keeps it, and who comes at the same moment."""

from __future__ import annotations

import pytest

from controlplane.domain.ids import SessionId
from controlplane.domain.limit import NODE, REASONER, Rule
from controlplane.domain.pause import Paused
from controlplane.errors import NodeInUse, NodeNotFound
from controlplane.postgres.pool import Connection
from controlplane.stages import expire, forget_node, limit, register, withhold
from controlplane.stages.forget_node import COUNT_MAX, ForgottenNode
from controlplane.stages.register import Node, Reasoner
from tests.make import (
    NAMESPACE,
    TARGET,
    accept,
    all_rows,
    counts,
    make_execution,
    make_id,
    make_process,
    make_session,
    race,
    submission,
)

ECHO = Reasoner(target=TARGET, reasoner_id="echo", type="reasoner", concurrency=2)
REST = """
update queue
set state = $1,
  line = case when $1 = 'blocked' then 'turn:n.echo' end,
  session_id = case when $1 in ('leased', 'waiting') then session_id end
"""
STATES = ["ready", "delayed", "leased", "waiting", "paused", "blocked"]


async def register_it(conn: Connection, node_id: str = "n", *reasoners: Reasoner) -> None:
    node = Node(namespace=NAMESPACE, id=node_id, transport="pull", version="1", reasoners=reasoners)
    await register.register(conn, node, bucket=0)


async def forget(conn: Connection, buckets: tuple[int, ...] = (0,)) -> ForgottenNode:
    return await forget_node.forget(conn, 0, buckets=buckets, namespace=NAMESPACE, node_id="n")


async def open_session(conn: Connection) -> bool:
    """Whether it was let in."""
    try:
        await register.open_session(
            conn,
            SessionId(make_id(0)),
            namespace=NAMESPACE,
            node_id="n",
            node_bucket=0,
            instance_id="i",
            slots=1,
            heartbeat_seconds=10.0,
            lease_floor_seconds=30.0,
        )
    except NodeNotFound:
        return False
    return True


async def forgets(conn: Connection) -> bool:
    """Whether it was there to be forgotten."""
    try:
        await forget(conn)
    except (NodeNotFound, NodeInUse):
        return False
    return True


async def test_what_belongs_to_it_alone_goes(conn: Connection) -> None:
    """Its reasoners, what it declared of them, its closed sessions and its pauses; another node's stay."""
    for name in ("n", "n2"):
        await register_it(
            conn, name, Reasoner(target=f"{name}.echo", reasoner_id="echo", type="reasoner", concurrency=2)
        )
        session = await make_session(conn, name)
        await expire.leave(conn, session.id, 0, reason="shutdown", make_id=make_id)
        for what in (Paused.node(name), Paused.reasoner(name, f"{name}.echo")):
            await withhold.pause(conn, [0], what, namespace=NAMESPACE, reason=None, paused_by=None)

    gone = await forget(conn)

    assert gone.targets == [TARGET]
    assert await counts(conn, "nodes", "reasoners", "sessions", "limits", "pauses") == {
        "nodes": 1, "reasoners": 1, "sessions": 1, "limits": 1, "pauses": 2,
    }  # fmt: skip
    assert await all_rows(conn, "select id from nodes") == [("n2",)]


async def test_what_a_person_has_set_stays(conn: Connection) -> None:
    """A limit of it or of its reasoner holds for whoever comes under this name next."""
    await register_it(conn, "n", ECHO)
    for key in (NODE + "n", REASONER + TARGET):
        await limit.put(conn, 0, Rule(concurrency_max=7), namespace=NAMESPACE, key=key)

    await forget(conn)

    assert await all_rows(conn, "select key, concurrency_max, declared_max from limits order by key") == [
        (NODE + "n", 7, None), (REASONER + TARGET, 7, None),
    ]  # fmt: skip


async def test_what_has_ended_stays(conn: Connection) -> None:
    """Executions, outcomes and events do not know of it."""
    await make_execution(conn, "succeeded")
    await conn.execute("update sessions set closed_at = clock()")
    before = await counts(conn, "executions", "outcomes", "events")

    await forget(conn)

    assert await counts(conn, "executions", "outcomes", "events") == before


@pytest.mark.parametrize("called", [False, True])
async def test_a_process_keeps_it(conn: Connection, called: bool) -> None:
    """As long as its session is open, also when it is late; nothing is changed."""
    await (make_process(conn) if called else make_session(conn))
    await conn.execute("update sessions set expires_at = clock() - interval '1 hour'")

    with pytest.raises(NodeInUse, match="1 process of it is connected") as refused:
        await forget(conn)

    assert refused.value.facts["sessions"] == 1
    assert await counts(conn, "nodes", "sessions") == {"nodes": 1, "sessions": 1}


@pytest.mark.parametrize("state", STATES)
async def test_work_keeps_it(conn: Connection, state: str) -> None:
    """Whatever has not ended, held by a session that has closed or by nobody; of its own name only."""
    await make_execution(conn, "running")
    await conn.execute("update sessions set closed_at = clock()")
    await conn.execute(REST, state)
    await register_it(conn, "n2")

    with pytest.raises(NodeInUse, match="1 execution of it has not ended"):
        await forget(conn)
    other = await forget_node.keeps(conn, 0, buckets=[0], namespace=NAMESPACE, node_id="n2")

    assert not other


async def test_work_of_any_bucket_keeps_it(conn: Connection) -> None:
    """The node lies in one, what it shall do in all."""
    await register_it(conn, "n", ECHO)
    await accept(conn, submission(bucket=2))

    kept = await forget_node.keeps(conn, 0, buckets=[0, 1, 2], namespace=NAMESPACE, node_id="n")

    assert kept.executions == 1


async def test_work_is_counted_only_so_far(conn: Connection) -> None:
    """And said to be more."""
    await register_it(conn, "n", ECHO)
    await accept(conn, *(submission() for _ in range(COUNT_MAX + 2)))

    kept = await forget_node.keeps(conn, 0, buckets=[0], namespace=NAMESPACE, node_id="n")

    assert (kept.executions, kept.executions_is_more) == (COUNT_MAX, True)
    assert "more than 1,000 executions of it have not ended" in kept.sentence


async def test_who_was_never_there(conn: Connection) -> None:
    """Nor who was forgotten before."""
    await register_it(conn)
    await forget(conn)

    with pytest.raises(NodeNotFound):
        await forget(conn)


async def test_two_at_once(conn: Connection, other: Connection, observer: Connection) -> None:
    """The second waits, and finds nothing."""
    await register_it(conn)

    assert await race(conn, other, observer, first=forgets, second=forgets) == (True, False)


async def test_a_session_that_opens_first_keeps_it(conn: Connection, other: Connection, observer: Connection) -> None:
    """Whoever forgets it waits for the session, and sees it."""
    await register_it(conn)

    assert await race(conn, other, observer, first=open_session, second=forgets) == (True, False)
    assert await counts(conn, "nodes", "sessions") == {"nodes": 1, "sessions": 1}


async def test_a_session_that_opens_later_has_to_register(
    conn: Connection, other: Connection, observer: Connection
) -> None:
    """It waits for the end, finds no node, and leaves nothing."""
    await register_it(conn)

    assert await race(conn, other, observer, first=forgets, second=open_session) == (True, False)
    assert await counts(conn, "nodes", "sessions") == {"nodes": 0, "sessions": 0}


async def test_a_registration_meanwhile_is_a_new_node(
    conn: Connection, other: Connection, observer: Connection
) -> None:
    """It waits for the end, and is known from then on."""
    await register_it(conn, "n", ECHO, Reasoner(target="n.old", reasoner_id="old", type="reasoner"))

    async def again(own: Connection) -> None:
        await register_it(own, "n", ECHO)

    await race(conn, other, observer, first=forgets, second=again)

    assert await all_rows(conn, "select target from reasoners") == [(TARGET,)]
    assert await all_rows(conn, "select key, declared_max from limits") == [(REASONER + TARGET, 2)]


async def test_a_process_that_is_called_cannot_come_back_by_itself(conn: Connection) -> None:
    """What was known of its instance is gone with the node: it has to register."""
    session = await make_process(conn)
    await expire.leave(conn, session.id, 0, reason="shutdown", make_id=make_id)
    await forget(conn)

    back = await register.revive(
        conn, 0, namespace=NAMESPACE, node_id="n", instance_id="instance", session_id=SessionId(make_id(0))
    )

    assert back is None


async def test_a_pause_at_the_same_moment_is_of_nobody(
    conn: Connection, other: Connection, observer: Connection
) -> None:
    """It waits for the end and is refused: none is left that nobody could take back."""
    await register_it(conn, "n", ECHO)

    async def paused(own: Connection) -> bool:
        try:
            what = Paused.reasoner("n", TARGET)
            await withhold.pause(own, [0], what, namespace=NAMESPACE, reason=None, paused_by=None)
        except NodeNotFound:
            return False
        return True

    assert await race(conn, other, observer, first=forgets, second=paused) == (True, False)
    assert await counts(conn, "pauses") == {"pauses": 0}
