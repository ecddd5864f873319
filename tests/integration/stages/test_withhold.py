"""Pauses and drains: what is held back, from whom, and until when."""

from __future__ import annotations

import asyncpg
import pytest

from controlplane.domain.ids import SessionId
from controlplane.domain.lease import Beat, Claim, Transport
from controlplane.domain.pause import Paused
from controlplane.errors import NodeNotFound, SessionDraining
from controlplane.postgres.pool import Connection
from controlplane.stages import expire, lease, register, renew, withhold
from tests.make import (
    ADDRESS,
    NAMESPACE,
    STOCK,
    TARGET,
    a_process,
    accept,
    all_rows,
    make_execution,
    make_id,
    make_process,
    make_session,
    must,
    queue_row,
    race,
    report,
    submission,
)
from tests.make import lease as take

REASONER = Paused.reasoner("n", TARGET)
NODE = Paused.node("n")
WIDE = [REASONER, NODE, Paused.all()]
DRAINING = "select drain_requested_at is not null, drain_requested_by, drain_reason from sessions order by opened_at"


async def pause(conn: Connection, what: Paused = REASONER, *, reason: str | None = None, by: str | None = None) -> bool:
    """Whether it is new."""
    _, new = await withhold.pause(conn, [0], what, namespace=NAMESPACE, reason=reason, paused_by=by)
    return new


async def resume(conn: Connection, what: Paused = REASONER) -> bool:
    """Whether something was taken back."""
    return await withhold.resume(conn, [0], what, namespace=NAMESPACE) is not None


async def drain(conn: Connection, node_id: str = "n") -> int:
    """How many were told so."""
    return len(await withhold.drain(conn, 0, namespace=NAMESPACE, node_id=node_id, reason="update", asked_by="ops"))


async def undrain(conn: Connection) -> int:
    return len(await withhold.undrain(conn, 0, namespace=NAMESPACE, node_id="n"))


@pytest.mark.parametrize("transport", Transport)
@pytest.mark.parametrize("what", WIDE)
async def test_what_is_paused_is_not_handed_out(conn: Connection, what: Paused, transport: Transport) -> None:
    """To no process, whether it fetches its work or is called; resumed, it is handed out."""
    pull = transport is Transport.PULL
    session = await make_session(conn) if pull else await make_process(conn, transport=transport)
    made = await make_execution(conn)
    await pause(conn, what)

    held, _, freed = await take(conn, session), await resume(conn, what), await take(conn, session)

    assert held == []
    assert [one.execution_id for one in freed] == [made.id]


@pytest.mark.parametrize(("what", "left"), [(REASONER, ["n.other", "m.echo"]), (NODE, ["m.echo"]), (Paused.all(), [])])
async def test_others_go_on(conn: Connection, what: Paused, left: list[str]) -> None:
    """A pause holds back what it names and nothing beside it."""
    here, there = await make_session(conn), await make_session(conn, "m")
    await accept(conn, *(submission(target=target) for target in (TARGET, "n.other", "m.echo")))
    await pause(conn, what)

    leases = await take(conn, here, (TARGET, "n.other")) + await take(conn, there, ("m.echo",))

    assert [one.target for one in leases] == left


async def test_a_process_that_comes_later_gets_nothing_either(conn: Connection) -> None:
    """A pause is of the node, not of its processes."""
    await make_session(conn)
    await make_execution(conn)
    await pause(conn, NODE)

    assert await take(conn, await make_session(conn)) == []


async def test_what_runs_goes_on_to_its_end(conn: Connection) -> None:
    """Nobody is stopped, and what is submitted meanwhile is accepted."""
    made = await make_execution(conn, "running")
    await pause(conn, Paused.all())

    await report(conn, made.fence)
    later = await make_execution(conn)

    assert (await queue_row(conn, later.id))["state"] == "ready"
    assert await all_rows(conn, "select status from outcomes") == [("succeeded",)]


async def test_said_twice(conn: Connection) -> None:
    """The first word stands: who pauses what is paused, or resumes what is not, changes nothing."""
    await make_session(conn)
    said = [await pause(conn, reason="first", by="ops"), await pause(conn, reason="second")]
    kept = await all_rows(conn, "select scope, name, reason, paused_by from pauses")
    taken_back = [await resume(conn), await resume(conn)]

    assert said == taken_back == [True, False]
    assert kept == [("reasoner", TARGET, "first", "ops")]


async def test_two_at_once(conn: Connection, other: Connection, observer: Connection) -> None:
    """Of two that pause the same at once, one is told what the other has said."""
    await make_session(conn)
    first, second = await race(conn, other, observer, first=pause, second=pause)

    assert (first, second) == (True, False)


async def test_everything_and_one_are_apart(conn: Connection) -> None:
    """Who resumes everything does not resume what was paused by itself."""
    session = await make_session(conn)
    await make_execution(conn)
    for what in WIDE:
        await pause(conn, what)

    left = []
    for what in reversed(WIDE):
        await resume(conn, what)
        left.append(len(await take(conn, session)))

    assert left == [0, 0, 1]


@pytest.mark.parametrize("buckets", [[0, 1, 2]])
async def test_everything_lies_wherever_nodes_do(conn: Connection, buckets: list[int]) -> None:
    """A claim looks only in the bucket of its own session."""
    session = await make_session(conn, bucket=2)
    await make_execution(conn)
    await withhold.pause(conn, buckets, Paused.all(), namespace=NAMESPACE, reason=None, paused_by=None)
    held = await take(conn, session)
    gone = await withhold.resume(conn, buckets, Paused.all(), namespace=NAMESPACE)

    assert (held, gone is not None) == ([], True)
    assert await all_rows(conn, "select 1 from pauses") == []


async def test_a_pause_before_a_claim_begins(conn: Connection, other: Connection) -> None:
    """Whoever begins to claim after the pause is answered gets nothing, on whatever connection."""
    session = await make_session(conn)
    await make_execution(conn)
    await take(other, session, ("n.nothing",))  # its statements are planned, and remember nothing
    await pause(conn)

    assert await take(other, session) == []


@pytest.mark.parametrize("call", [pause, resume])
async def test_an_unknown_node(conn: Connection, call: object) -> None:
    """What nobody has registered cannot be paused."""
    assert callable(call)
    with pytest.raises(NodeNotFound):
        await call(conn, Paused.node("nobody"))

    assert await all_rows(conn, "select 1 from pauses") == []


@pytest.mark.parametrize("row", ["'', 'n', 'all'", "'n', 'm', 'node'", "'n', 'm.echo', 'reasoner'", "'n', 'n', 'odd'"])
async def test_the_schema_knows_what_a_pause_is(conn: Connection, row: str) -> None:
    """A scope and a name that do not belong together cannot be stored."""
    with pytest.raises(asyncpg.CheckViolationError):
        await conn.execute(
            f"insert into pauses (bucket, namespace, node_id, name, scope, paused_at) values (0, 1, {row}, clock())"
        )


@pytest.mark.parametrize("transport", Transport)
async def test_a_process_drains(conn: Connection, transport: Transport) -> None:
    """It is told instead of being handed work, keeps what it holds, and is told so on its heartbeat."""
    pull = transport is Transport.PULL
    session = await make_session(conn) if pull else await make_process(conn, transport=transport)
    running = await make_execution(conn, "running", session=session)
    await make_execution(conn)
    assert (await drain(conn), await drain(conn)) == (1, 0)

    [claimed] = await lease.claim(conn, [Claim(session=session, targets=(TARGET,), limit=9)], STOCK)
    [beat] = await renew.extend(conn, [Beat(session_id=session.id, held=(running.fence,), count=1)])

    assert isinstance(claimed, SessionDraining)
    assert (must(beat).draining, must(beat).lost) == (True, ())
    assert await all_rows(conn, DRAINING) == [(True, "ops", "update")]


async def test_undrained_it_takes_work_again(conn: Connection) -> None:
    """It goes on as if nothing had been said."""
    session = await make_session(conn)
    await make_execution(conn)
    await drain(conn)

    assert (await undrain(conn), await undrain(conn)) == (1, 0)
    assert len(await take(conn, session)) == 1
    assert await all_rows(conn, DRAINING) == [(False, None, None)]


async def test_a_process_that_starts_later_serves(conn: Connection) -> None:
    """A drain is of the processes that are there: an update drains them and starts others."""
    await make_process(conn)
    await drain(conn)
    await make_execution(conn)

    new = await make_process(conn, instance_id="new")

    assert len(await take(conn, new)) == 1
    assert await all_rows(conn, "select closed_reason from sessions order by opened_at") == [("replaced",), (None,)]


@pytest.mark.parametrize("told", [True, False])
async def test_a_pull_process_that_comes_back_still_drains(conn: Connection, told: bool) -> None:
    """It was cut off and opens another session; undrained meanwhile, it serves."""
    session = await make_session(conn)
    await drain(conn)
    await expire.leave(conn, session.id, 0, reason="cut off", make_id=make_id)
    if not told:
        await undrain(conn)

    await make_session(conn)

    assert [row[0] for row in await all_rows(conn, DRAINING)] == [told, told]


async def test_a_called_process_that_comes_back_still_drains(conn: Connection) -> None:
    """It was given up and is heard of again: what a person has said of it counts."""
    session = await make_process(conn)
    await drain(conn)
    await expire.leave(conn, session.id, 0, reason="silent", make_id=make_id)

    back = await register.revive(
        conn, 0, namespace=NAMESPACE, node_id="n", instance_id="instance", session_id=SessionId(make_id(0))
    )

    assert back is not None
    assert back.id != session.id
    assert await all_rows(conn, DRAINING) == [(True, "ops", "update")] * 2


async def test_a_called_process_that_registers_again_still_drains(conn: Connection) -> None:
    """What its heartbeats and registrations clear is its own goodbye, not a person's word."""
    session = await make_process(conn)
    await register.drain(conn, 0, namespace=NAMESPACE, node_id="n", seconds=0.0)
    await drain(conn)
    await conn.execute("update sessions set renewed_at = clock() + interval '1 minute'")

    stays = await register.stay(conn, 0, session.id, after_seconds=35.0)
    node = register.Node(namespace=NAMESPACE, id="n", transport="push", version="2", base_url=ADDRESS)
    await register.join(conn, node, a_process(), session.id)

    assert stays
    assert await all_rows(conn, DRAINING) == [(True, "ops", "update")]


async def test_only_the_node_that_was_named_drains(conn: Connection) -> None:
    """Others take work as before; an unknown one is refused."""
    await make_session(conn, "m")
    there = await make_session(conn)
    await make_execution(conn)
    await drain(conn, "m")
    with pytest.raises(NodeNotFound):
        await drain(conn, "nobody")

    assert len(await take(conn, there)) == 1
