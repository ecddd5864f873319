"""Bad ways between everybody: half-open, held, doubled. What was promised holds, and all is well when it clears up."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest

from controlplane.postgres.listen import Hints
from controlplane.postgres.pool import open_pool
from tests.chaos.patience import until
from tests.chaos.proxy import BOTH, FINE, Proxy, Way, Weather
from tests.e2e.processes import Node
from tests.integration.api.serving import Api, serving, the_problem

REPLACED_SECONDS = 30.0
"""A ping every 5 s, 3 s for its answer, half a second until the next connection; the rest is a busy machine's."""
PATIENCE_SECONDS = 12.0
HANGS_SECONDS = 25.0
"""Less than a statement may take."""
LEAVES_SECONDS = 30.0
LEASE_SECONDS = 20.0
LOST_SECONDS = 5.0
SUBMIT = "/execute/async/n.echo"

WORKS = """
import asyncio
from pathlib import Path
from controlplane_sdk import Agent

app = Agent("n", heartbeat_seconds=0.5)

@app.reasoner
async def echo() -> str:
    with Path("begun").open("a") as file:
        print("begun", file=file)
    while not Path("go").exists():
        await asyncio.sleep(0.05)
    return "done"

app.run()
"""


@pytest.fixture
async def way(database: str) -> AsyncIterator[Proxy]:
    """The way to the database."""
    parts = urlsplit(database)
    folder = parse_qs(parts.query).get("host")
    async with Proxy(
        f"{folder[0]}/.s.PGSQL.{parse_qs(parts.query)['port'][0]}" if folder else (parts.hostname, parts.port or 5432)
    ) as proxy:
        yield proxy


@pytest.fixture
def by(database: str, way: Proxy) -> str:
    """The DSN of the database by that way."""
    parts = urlsplit(database)
    who = f"{quote(parts.username or '')}:{quote(parts.password or '')}"
    return f"postgresql://{who}@127.0.0.1:{way.port}{parts.path}?sslmode=disable"


async def test_a_half_open_listener_is_replaced(database: str, by: str, way: Proxy) -> None:
    """A connection that hears nothing more is noticed by its ping, and its successor hears."""
    pool = await open_pool(database, size=2, name="hints")
    here, there = Hints(pool, database), Hints(pool, by)
    async with here.running(), there.running():
        with there.waiter("topic") as waiter:
            assert await waiter.wait(REPLACED_SECONDS)  # it listens
            way.forget()
            here.tell("topic")
            assert await waiter.wait(REPLACED_SECONDS)  # everybody is woken: hints may have been missed
            here.tell("topic")
            heard = await waiter.wait(REPLACED_SECONDS)
    await pool.close()

    assert heard
    assert way.connected >= 2


async def test_a_server_refuses_in_time_and_recovers(by: str, way: Proxy) -> None:
    """Nothing comes through to the database: 503 when the patience is over, and work again when it clears up."""
    async with serving(by, database_patience_seconds=1.0) as api:
        await api.register()
        way.weather = Weather(hold=BOTH)
        async with asyncio.timeout(HANGS_SECONDS):
            refused = await api.post(SUBMIT, {})
        way.weather = FINE
        accepted = await api.submit()
        shown = await api.read(accepted["execution_id"])

    the_problem(refused, 503, "database_unavailable")
    assert shown["status"] == "queued"


async def test_connections_that_died_silently_are_left_within_the_patience(by: str, way: Proxy) -> None:
    """All of the pool is half-open, as after a failover by an address: the submit is late, and accepted.

    Nor does the server wait for ever for such connections when it leaves.
    """
    async with serving(by, database_patience_seconds=PATIENCE_SECONDS) as api:
        await api.register()
        await asyncio.gather(*(api.submit() for _ in range(20)), *(api.get("/executions") for _ in range(20)))
        way.forget()
        async with asyncio.timeout(HANGS_SECONDS):
            first, second = await asyncio.gather(api.submit(), api.submit())
        way.forget()
        left_at = time.monotonic()

    assert time.monotonic() - left_at < LEAVES_SECONDS
    assert first["execution_id"] != second["execution_id"]


async def test_who_is_held_speaks_for_itself_when_the_database_is_away(by: str, way: Proxy) -> None:
    """Its session cannot be renewed here: it is answered long before its lease is over, and may ask another server."""
    async with serving(by, lease_seconds=LEASE_SECONDS) as api:
        await api.register("n")
        session = await api.open_session("n", heartbeat_seconds=1.0)
        beat = asyncio.create_task(api.heartbeat(session, executions=[], wait_seconds=HANGS_SECONDS))

        async def is_held() -> bool:
            return len(api.app.state.doors.upkeep) == 1

        await until("a beat that is held", is_held, seconds=PATIENCE_SECONDS)
        await way.refuse()
        async with asyncio.timeout(PATIENCE_SECONDS):
            told = await beat
        await way.listen()

    assert told.status_code == 200
    assert told.json()["tell_all"] is True


@pytest.fixture
async def front(database: str) -> AsyncIterator[tuple[Api, Proxy]]:
    """A server, and the way that callers and nodes come by."""
    async with (
        serving(database, lease_seconds=LEASE_SECONDS) as api,
        Proxy((api.host, api.port)) as proxy,
        httpx.AsyncClient(base_url=proxy.url, timeout=60, trust_env=False) as client,
    ):
        yield Api(api.app, api.host, api.port, client), proxy


async def test_a_request_that_arrives_twice_does_nothing_twice(front: tuple[Api, Proxy]) -> None:
    """Submit with a key, lease, report, each byte by byte twice: one execution, one lease, one end."""
    api, proxy = front
    session = await api.node()
    proxy.double = re.compile("POST /api/v1/(execute/async|sessions/[^/]+/(lease|results))")
    accepted = await api.submit(headers={"Idempotency-Key": "once"})
    leases = await api.lease(session, limit=5, wait_seconds=0.3)
    await proxy.settle()
    submitted, leased = map(_body, proxy.echoes)
    [lease] = leases + leased["leases"]
    answer = await api.finish(session, lease, 1)
    await proxy.settle()
    codes = {one["results"][0]["code"] for one in (answer.json(), _body(proxy.echoes[-1]))}
    events = [one["type"] for one in (await api.get(f"/executions/{accepted['execution_id']}/events"))["items"]]

    assert submitted["execution_id"] == accepted["execution_id"]
    assert codes == {"recorded", "already_recorded"}
    assert events == ["execution.queued", "execution.started", "execution.completed"]


def _body(answer: bytes) -> dict[str, object]:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


async def test_lost_answers_of_heartbeats_run_nothing_again(front: tuple[Api, Proxy], tmp_path: Path) -> None:
    """Beats arrive and their answers do not, for less than a lease: the attempt goes on, and it is the only one."""
    api, proxy = front
    (tmp_path / "node.py").write_text(WORKS)
    node = Node(
        "n", "node.py", folder=tmp_path, env={"AGENTFIELD_SERVER": proxy.url}, python=sys.executable, says=" serves "
    )
    node.start()
    try:
        await asyncio.to_thread(node.ready)
        accepted = await api.submit()
        await until("the work to begin", lambda: _begun(tmp_path), seconds=20)
        proxy.weather = Weather(hold=frozenset({Way.DOWN}))
        await asyncio.sleep(LOST_SECONDS)  # what is tested is a silence of this length
        proxy.weather = FINE
        proxy.cut()
        (tmp_path / "go").touch()
        shown = await until("the end", lambda: _ended(api, accepted["execution_id"]), seconds=LEASE_SECONDS)
    finally:
        node.close()

    assert (shown["status"], shown["result"], shown["attempt"]) == ("succeeded", "done", 1)
    assert (tmp_path / "begun").read_text().splitlines() == ["begun"]


async def _begun(folder: Path) -> bool:
    return (folder / "begun").exists()


async def _ended(api: Api, id_: str) -> dict[str, object] | None:
    try:
        shown = await api.read(id_)
    except httpx.TransportError:  # it was cut
        return None
    return shown if shown["status"] == "succeeded" else None
