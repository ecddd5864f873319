"""A place where a server may die: its database, its server of the moment, and those around it who live on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import asyncpg
import httpx

from controlplane.domain.ids import show
from controlplane.reads import verify
from controlplane.security.secrets import KeyRing
from tests.crash.awaits.nursery import At, Child, Nursery
from tests.crash.awaits.outside import SECRET, Called, Lines, Receiver, Wire
from tests.e2e.processes import free_port

LEASE_SECONDS = 2.0
READY_SECONDS = 60.0
QUIET_SECONDS = 60.0
AWAY_SECONDS = 1.0
PAYLOAD_BYTES = 65_536
OUTAGE_SECONDS = 45.0
"""How far the database's clock goes on while the server is away: longer than the lease of a delivery."""

KEEPER = "keeper"
PARKED = "parked"
ENDPOINTS: dict[str, dict[str, Any]] = {
    "all": {"events": [*(f"execution.{end}" for end in ("completed", "failed", "cancelled", "timeout"))]},
    "odd": {"events": ["delivery.dead", "approval.requested"]},
    PARKED: {"targets": [f"{KEEPER}.slow"]},
}
"""Who hears of everything that ends, who of what is odd, and one that is disabled and enabled again."""

ENDS = frozenset({"succeeded", "failed", "cancelled", "timeout"})
MOVE_CLOCK = "alter database {} set controlplane.clock_offset = '{} seconds'"
CLOCK = "select set_config('controlplane.clock_offset', $1, false)"
BREAK_OFF = """
select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
"""
DELIVERIES = """
select d.id, d.state, d.event, d.url
from deliveries d
join executions e on e.bucket = d.bucket and e.id = d.execution_id
where e.session_key = $1
  and d.webhook_n is distinct from 0
"""
STARTED = "select count(*) from executions where session_key = $1"

Found = TypeVar("Found")


class Broken(AssertionError):
    """A promise was not kept."""


@dataclass(slots=True)
class Told:
    """What a story has begun: executions that were acknowledged, and how each has to end."""

    key: str
    started: int = 0
    deliveries_least: int = 0
    dead: int = 0
    ends: dict[str, tuple[str, Any]] = field(default_factory=dict)
    repeats_of: list[str] = field(default_factory=list)


class Place:
    """`plane` is the server of the moment. Everything else lives from the beginning to the end."""

    def __init__(self, nursery: Nursery, dsn: str, *, name: str, settings: dict[str, str] | None = None) -> None:
        self.nursery = nursery
        self.dsn = dsn
        self.name = name
        self.folder = Path(nursery.folder)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.lines = Lines(self.folder / f"{name}.work")
        self.keeper_id = KEEPER
        self.plane: Child
        self._offset_seconds = 0.0
        self._turn = asyncio.Lock()
        self._restart = asyncio.Lock()
        self._env = {
            "DATABASE_URL": dsn,
            "CONTROLPLANE_PORT": str(self.port),
            "CONTROLPLANE_SECRET_KEY": KeyRing.generate(),
            "CONTROLPLANE_EGRESS_ALLOW_LOOPBACK": "true",
            "CONTROLPLANE_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
            "CONTROLPLANE_PUSH_LEASE_SECONDS": f"{10 * OUTAGE_SECONDS:g}",
            "CONTROLPLANE_PUSH_DISPATCH_SECONDS": "0.5",
            "CONTROLPLANE_CANCEL_GRACE_SECONDS": "1",
            "CONTROLPLANE_DRAIN_SECONDS": "0.5",
            "CONTROLPLANE_PUSH_START_TO_CLOSE_SECONDS": f"{OUTAGE_SECONDS + LEASE_SECONDS:g}",
            "CONTROLPLANE_WEBHOOKS_IN_FLIGHT_MAX": "4",
            "CONTROLPLANE_PAYLOAD_BYTES_MAX": f"{PAYLOAD_BYTES}",
        } | (settings or {})

    async def __aenter__(self) -> Self:
        self._stack = AsyncExitStack()
        self._conn = await asyncpg.connect(self.dsn)
        self._stack.push_async_callback(self._conn.close)
        self.wire = Wire(self.url)
        self._stack.push_async_callback(self.wire.close)
        self.receiver = await self._stack.enter_async_context(Receiver())
        await self.start()
        await self.ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.plane.alive:
            await self.plane.kill()
        await self._stack.aclose()

    async def join(self) -> None:
        """Let those come who work here: an agent on our SDK, a node that is called, an endpoint that hears all ends."""
        self.keeper = await self.agent(KEEPER)
        self.called = await self._stack.enter_async_context(Called(self.wire))
        await self.called.register()
        hears = {"url": self.receiver.hiccup_url, "secret": SECRET, "schedule": [0.0] + [0.2] * 9}
        for name, more in ENDPOINTS.items():
            answer = await self.wire.post("/endpoints", {"name": name, **hears, **more})
            assert answer.status_code == 201, answer.text
        functions = {"invocation_url": self.called.base_url}
        assert (await self.wire.post("/nodes/register-serverless", functions)).status_code == 201
        await self.serving(KEEPER, self.keeper)

    async def introduce(self, node_id: str, reasoner: str) -> None:
        """The node is known, and nobody serves it yet."""
        answer = await self.ask("POST", "/nodes/register", {"id": node_id, "reasoners": [{"id": reasoner}]})
        assert answer.status_code == 201, answer.text

    async def serving(self, node_id: str, child: Child | None = None) -> None:
        """Return once a process of it is there. Raises Broken when the one that should be is dead."""

        async def serves() -> bool:
            if child is not None and not child.alive:
                raise Broken(f"{child.name} has ended with {await child.ended()}: {child.log()[-2000:]}")
            answer = await self.wire.client.get(f"/nodes/{node_id}")
            return answer.status_code == 200 and bool(answer.json().get("sessions"))

        await self.until(f"{node_id} to serve", serves, seconds=READY_SECONDS)

    async def begun(self, told: Told) -> None:
        """All of it is under way."""

        async def running() -> bool:
            said = [await self.wire.client.get(f"/executions/{id_}") for id_ in told.ends]
            return all(one.status_code == 200 and one.json()["status"] != "queued" for one in said)

        await self.until("it to begin", running, seconds=READY_SECONDS)

    async def agent(self, node_id: str, *, at: At | None = None) -> Child:
        env = {"CONTROLPLANE_SERVER": self.url, "CRASH_WORK": str(self.lines.path)}
        return await self.nursery.start("agent", f"{self.name}.{node_id}", env, at=at, arguments=[node_id])

    # The server's life.

    async def start(self, at: At | None = None) -> None:
        self.plane = await self.nursery.start("serve", f"{self.name}.plane", self._env, at=at)

    async def ready(self) -> None:
        """Return once work is taken."""

        async def look() -> bool:
            if not self.plane.alive:
                raise Broken(f"the server has ended with {await self.plane.ended()}")
            return (await self.wire.client.get(f"{self.url}/readyz")).status_code == 200

        await self.until("the server to be ready", look, seconds=READY_SECONDS)

    async def begin_again(self) -> None:
        """A new server after a while: leases of what the old one was doing are over by the database's clock."""
        await self.pause()
        await self.start()
        await self.ready()

    async def recover(self) -> None:
        """Whatever has become of the server: a new one, so that what comes next has a chance."""
        async with self._restart:
            if self.plane.alive:
                await self.plane.kill()
            await self.begin_again()

    async def shake(self) -> None:
        """The server dies and is back soon; of those who want that, or another one, the next waits."""
        async with self._restart:
            await self.plane.kill()
            await asyncio.sleep(AWAY_SECONDS)
            await self.start()
            await self.ready()

    async def pause(self) -> None:
        """The server is away for longer than the lease of a delivery."""
        await self.move_clock(OUTAGE_SECONDS)

    async def move_clock(self, seconds: float) -> None:
        """For whoever connects from now on, and for us."""
        self._offset_seconds += seconds
        async with self._turn:
            database = await self._conn.fetchval("select quote_ident(current_database())")
            await self._conn.execute(MOVE_CLOCK.format(database, self._offset_seconds))
            await self._conn.execute(CLOCK, f"{self._offset_seconds} seconds")

    async def break_off(self) -> None:
        """Every connection of the server to its database."""
        async with self._turn:
            await self._conn.execute(BREAK_OFF)

    async def rows(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        async with self._turn:
            found: list[asyncpg.Record] = await self._conn.fetch(query, *arguments)
            return found

    # What a caller does.

    async def ask(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, seconds: float = 60.0
    ) -> httpx.Response:
        """The answer to what may be asked again, asked until there is one."""

        async def look() -> httpx.Response | None:
            answer = await self.wire.client.request(method, path, json=body, headers=headers)
            return answer if answer.status_code < 500 or answer.status_code == 502 else None

        return await self.until(f"an answer to {method} {path}", look, seconds=seconds)

    async def end_of(self, id_: str, *, seconds: float = QUIET_SECONDS) -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            answer = await self.wire.client.get(f"/executions/{id_}", params={"wait_seconds": 5})
            if answer.status_code >= 500:
                return None
            shown: dict[str, Any] = answer.json()
            if answer.status_code != 200:
                raise Broken(f"{id_} was acknowledged, and reading it says {answer.status_code}: {shown}")
            return shown if shown["status"] in ENDS else None

        try:
            return await self.until(f"the end of {id_}", look, seconds=seconds)
        except Broken:
            why = await self.ask("GET", f"/executions/{id_}/explain")
            raise Broken(f"{id_} does not end: {why.text}") from None

    async def until(self, what: str, look: Callable[[], Awaitable[Found | None]], *, seconds: float) -> Found:
        """What `look` finds, as soon as it finds something. A server that is away just now has not answered yet."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            with contextlib.suppress(httpx.TransportError):
                if found := await look():
                    return found
            await asyncio.sleep(0.03)
        raise Broken(f"waited {seconds:g} s in vain for {what}")

    # What was promised.

    async def check(self, told: Told) -> None:
        """Everything that was acknowledged has ended as it had to, once, and whoever wanted to know was told."""
        for id_, (status, result) in told.ends.items():
            shown = await self.end_of(id_)
            if (shown["status"], shown.get("result")) != (status, result):
                raise Broken(f"{id_} should be {status} with {result}, and is {json.dumps(shown)}")
        [[found]] = await self.rows(STARTED, told.key)
        if found != told.started:
            raise Broken(f"{told.started} executions were asked for under {told.key}, and there are {found}")
        for id_ in told.repeats_of:
            attempts = (await self.end_of(id_))["attempt"]
            if (repeated := self.lines.repeated(id_)) > attempts - 1:
                raise Broken(f"{id_} did {repeated} pieces of work again in {attempts} attempts")
        if self.called.overlaps:
            raise Broken(f"two attempts at once: {self.called.overlaps}")
        await self.check_told(told)
        async with self._turn:
            broken = await verify.broken(self._conn, [0])
        if broken:
            raise Broken(f"verify: { ({one.name: [str(id_) for id_ in ids] for one, ids in broken.items()}) }")

    async def check_told(self, told: Told) -> None:
        async def settled() -> list[asyncpg.Record] | None:
            rows = await self.rows(DELIVERIES, told.key)
            states = Counter(row["state"] for row in rows)
            over = states.total() == states["delivered"] + states["dead"] >= told.deliveries_least
            return rows if over and states["dead"] == told.dead else None

        if not told.deliveries_least:
            return
        try:
            rows = await self.until("the deliveries", settled, seconds=QUIET_SECONDS)
        except Broken:
            rows = await self.rows(DELIVERIES, told.key)
            raise Broken(f"deliveries are not settled: {[dict(row) for row in rows]}") from None
        for row in rows:
            id_ = show("dlv", row["id"])
            heard = [one for one in self.receiver.heard if one.webhook_id == id_]
            if not any(one.taken for one in heard) and row["state"] == "delivered":
                raise Broken(f"{id_} is delivered, and nobody has heard it")
            if len({one.digest for one in heard}) > 1 or not all(one.good for one in heard):
                raise Broken(f"{id_} was told in different words, or not signed: {heard}")
