"""What one flush of a lane and one request cost, in CPU time that neighbours hardly touch.

    python bench/flush.py [--batch 16] [--rounds 200]

Everything of ours runs in this one process, in slices so short that most are not interrupted; the lowest decile of them
counts, in microseconds per item. `stages`: a batch is accepted, claimed and reported through the pool, and the time of
the database's backend stands beside. `requests`: so many submits at once, one claim of them and one report, as bytes
given to the protocol and taken from it, with the lanes and the database behind. To compare with another checkout run it
with that one first in PYTHONPATH, in turns. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import uvloop
from lifecycle import BODY, register, server
from uvicorn.server import ServerState

from controlplane.app import build
from controlplane.domain.execution import Submission
from controlplane.domain.ids import ExecutionId, IdMaker, SessionId, read, show
from controlplane.domain.lease import Claim, Fence, Report, Session, Verdict
from controlplane.domain.placement import Placement
from controlplane.domain.retry import RetryPolicy
from controlplane.observe import log
from controlplane.postgres.embedded import EmbeddedPostgres
from controlplane.postgres.pool import open_pool, persist
from controlplane.security.secrets import KeyRing
from controlplane.server import Server
from controlplane.settings import Settings
from controlplane.stages import complete, lease, submit
from controlplane.wire.limits import WireLimits

WARM = 20
SESSION = {"instance_id": "flush", "slots": 10_000, "heartbeat_seconds": 300}
LIMITS = WireLimits(
    head_seconds=10.0,
    head_bytes_max=65_536,
    body_seconds=60.0,
    body_bytes_per_second_min=100,
    stalled_seconds=30.0,
    connections_max=1_000,
    message_bytes_max=1_048_576,
)
Took = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    log.configure("ERROR", pretty=False)
    with (
        tempfile.TemporaryDirectory(prefix="controlplane-bench-") as folder,
        EmbeddedPostgres(Path(folder) / "postgres", settings={"shared_buffers": "512MB"}) as postgres,
    ):
        with server(postgres.dsn, Path(folder)) as port:
            register(port)
            opened = httpx.post(f"http://127.0.0.1:{port}/api/v1/nodes/bench/sessions", json=SESSION)
            session_id = opened.raise_for_status().json()["session_id"]
        took = uvloop.run(stages(postgres.dsn, session_id, options))
        took |= uvloop.run(requests(postgres.dsn, session_id, options))
    figures = {name: statistics.quantiles(each[WARM:], n=10)[0] for name, each in took.items()}
    print(f"batches of {options.batch}, {options.rounds} rounds; microseconds of CPU per item, lowest decile")
    for name, figure in figures.items():
        print(f"  {name:<32} {figure:>8.1f}")
    print(json.dumps({name: round(figure, 1) for name, figure in figures.items()}))


async def stages(dsn: str, session_id: str, options: argparse.Namespace) -> Took:
    """The stages by themselves, through one connection."""
    pool = await open_pool(dsn, size=1, name="flush")
    async with pool.acquire() as conn:
        pid = conn.get_server_pid()
    ids = IdMaker(lambda: time.time_ns() // 1_000_000, random.getrandbits)
    session = Session(
        id=SessionId(read("ses", session_id, where="session")),
        namespace=1,
        node_id="bench",
        instance_id="flush",
        slots=10_000,
        heartbeat_seconds=300.0,
        lease_seconds=900.0,
    )
    took: Took = {}

    async def timed(name: str, call: Callable[[Any], Awaitable[Any]]) -> Any:
        ours, theirs = time.process_time_ns(), backend_ns(pid)
        answers = await persist(pool, call, seconds=1.0, name=name)
        ours, theirs = time.process_time_ns() - ours, backend_ns(pid) - theirs
        took.setdefault(f"stages, {name}", []).append(ours / 1e3 / options.batch)
        took.setdefault(f"stages, {name}, database", []).append(theirs / 1e3 / options.batch)
        return answers

    claim = Claim(session=session, targets=("bench.echo",), limit=options.batch)
    for _ in range(options.rounds):
        batch = [submission(ids) for _ in range(options.batch)]
        await timed("submit", partial(submit.accept, batch=batch))
        (leases,) = await timed("claim", partial(lease.claim, batch=[claim], placement=Placement()))
        reports = [
            Report(fence=Fence(one.execution_id, one.attempt), verdict=Verdict.SUCCEEDED, result=BODY) for one in leases
        ]
        await timed("report", partial(complete.report, batch=reports, make_id=ids.new, jitter=random.random))
    await pool.close()
    return took


def submission(ids: IdMaker) -> Submission:
    id_ = ExecutionId(ids.new(0))
    return Submission(
        id=id_,
        namespace=1,
        run_id=show("run", id_),
        root_id=id_,
        target="bench.echo",
        type="reasoner",
        input=BODY,
        retry=RetryPolicy(),
    )


def backend_ns(pid: int) -> int:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


class Wire(asyncio.Transport):
    """Takes what the protocol writes; `answered` is done when an answer is complete."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        self.protocol = make()
        self._soon = False
        self.protocol.connection_made(self)

    async def ask(self, request: bytes) -> bytes:
        self._written: list[bytes] = []
        self._answered = asyncio.get_running_loop().create_future()
        self.protocol.data_received(request)
        await self._answered
        return b"".join(self._written)

    def write(self, data: bytes) -> None:
        self._written.append(data)
        if not self._soon:
            self._soon = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._soon = False
        if self.protocol.cycle.response_complete and not self._answered.done():
            self._answered.set_result(None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def requests(dsn: str, session_id: str, options: argparse.Namespace) -> Took:
    """The whole way in and out, but for the sockets."""
    app = build(Settings(), database_url=dsn, keyring=KeyRing.from_text(KeyRing.generate()))
    config = Server(app, drain_seconds=1, limits=LIMITS).config
    config.load()
    took: Took = {}

    async def timed(name: str, wires: list[Wire], request: bytes) -> bytes:
        began = time.process_time_ns()
        answer, *_ = await asyncio.gather(*(wire.ask(request) for wire in wires))
        took.setdefault(f"requests, {name}", []).append((time.process_time_ns() - began) / 1e3 / options.batch)
        return answer.partition(b"\r\n\r\n")[2]

    async with app.router.lifespan_context(app):
        make = partial(config.http_protocol_class, config=config, server_state=ServerState(), app_state={})
        wires = [Wire(make) for _ in range(options.batch)]
        for _ in range(options.rounds):
            await timed("submit", wires, request_of("/api/v1/execute/async/bench.echo", BODY))
            wanted = json.dumps({"max": options.batch}).encode()
            said = await timed("claim", wires[:1], request_of(f"/api/v1/sessions/{session_id}/lease", wanted))
            results = [
                {"execution_id": one["execution_id"], "attempt": one["attempt"], "status": "succeeded", "result": "x"}
                for one in json.loads(said)["leases"]
            ]
            if len(results) != options.batch:
                raise RuntimeError(f"{len(results)} leases of {options.batch}")
            body = json.dumps({"results": results}).encode()
            await timed("report", wires[:1], request_of(f"/api/v1/sessions/{session_id}/results", body))
    return took


def request_of(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


if __name__ == "__main__":
    main()
