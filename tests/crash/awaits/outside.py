"""The outside world of a server that dies: who is told by webhooks, and a node that is called.

Both go on as their like do, and keep what they saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
from aiohttp import web

from controlplane_sdk import webhook
from tests.integration.api.agentfield.agent import LOST, TAKEN, AgentDouble, Asked, Reply, inline

SECRET = "the-secret-of-those-who-are-told"
CALLED, FUNCTIONS = "called", "functions"
REASONERS = "echo hang ask lose stuck mute cut late full away"
UNREACHED = "Failed to set memory: All connection attempts failed"
FAR = Reply(500, json.dumps({"error": UNREACHED}).encode())
BAD_BEGINNINGS = {"lose": LOST, "cut": LOST, "late": LOST, "full": Reply(429, b"{}"), "stuck": TAKEN, "away": TAKEN}
BEAT_SECONDS = 0.3
WORK_SECONDS = 0.05
LOOK_SECONDS = 1.0
CALLBACK_TRIES = 8
CALLBACK_PAUSE_SECONDS = 0.25
DECISION = "/decision"


@dataclass(frozen=True, slots=True)
class Heard:
    """One request of a webhook. `good`: both of its signatures fit; `taken`: it was answered with 200."""

    webhook_id: str
    digest: str
    good: bool
    taken: bool


class Receiver:
    """`url` takes everything. `hiccup_url` answers 500 to the first attempt to tell of what ends with `.flaky`.
    `gone_url` wants nothing any more, and says so with 410.
    """

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self._seen: Counter[str] = Counter()

    @property
    def webhook(self) -> dict[str, str]:
        return {"url": self.url, "secret": SECRET}

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{door}", self._hear)
        self._runner = web.AppRunner(app, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        # Two names, so that each is a host of its own to the breaker.
        self.url, self.hiccup_url = f"http://127.0.0.1:{port}/told", f"http://localhost:{port}/hiccup"
        self.gone_url = f"http://127.0.0.1:{port}/gone"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _hear(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = dict(request.headers)
        id_ = headers.get("Webhook-Id", headers.get("webhook-id", ""))
        at = int(headers.get("Webhook-Timestamp", headers.get("webhook-timestamp", "0")))
        good = webhook.verify(body, headers.get("X-AgentField-Signature", ""), SECRET) and webhook.verify_standard(
            body, headers, SECRET, now=at
        )
        self._seen[id_] += 1
        flaky = request.path == "/hiccup" and json.loads(body).get("target", "").endswith(".flaky")
        taken = not flaky or self._seen[id_] > 1
        self.heard.append(Heard(id_, hashlib.sha256(body).hexdigest(), good, taken))
        return web.Response(status=410 if request.path == "/gone" else 200 if taken else 500)


class Wire:
    """How one speaks with a server that is away now and then."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx.AsyncClient(base_url=f"{url}/api/v1", timeout=15.0)

    async def post(self, path: str, body: Any = None) -> httpx.Response:
        return await self.client.post(path, json=body)

    async def close(self) -> None:
        await self.client.aclose()


class Called(AgentDouble):
    """A node on AgentField's protocol that does its work by itself: it beats, works, calls back, and is not put off.

    `echo` calls back, `hang` only when it is stopped, `ask` once people have decided, `mute` never, though it is done;
    the skill `add` answers at once. What goes wrong the first time: of `lose` the connection breaks, of `cut` after its
    work is done, of `late` after it began; `full` has no room, `stuck` does nothing, `away` and the skill `far` fail
    because they cannot reach the server. Each end also stands in its own log, as with the real SDK.
    """

    def __init__(self, wire: Wire, node_id: str = CALLED) -> None:
        super().__init__(wire, node_id, heartbeat=f"{BEAT_SECONDS:g}s")  # type: ignore[arg-type]  # it only posts
        self.reasoners = [{"id": name} for name in REASONERS.split()]
        self.skills = [{"id": "add"}, {"id": "far"}]
        self.functions(FUNCTIONS)
        self.begun: Counter[str] = Counter()
        self.overlaps: list[str] = []
        self.silent = False
        self._wire = wire
        self._tasks: set[asyncio.Task[None]] = set()

    def functions(self, node_id: str) -> None:
        """It is also where the functions of this node are."""
        self.discovered = inline({"node_id": node_id, "version": "1", "reasoners": [{"id": "double"}]})

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._do(self._beat_on())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await super().__aexit__()

    def _reply(self, asked: Asked) -> Reply:
        if asked.path == DECISION:
            self._do(self._decided(asked))
            return Reply(200, b"{}")
        kind, _, name = asked.path[1:].partition("/")
        if kind not in {"reasoners", "skills", "execute"}:
            return super()._reply(asked)
        self.overlaps += [f"{one} ran when {asked.id} began" for one in self.running if _same(one, asked.id)]
        self.begun[asked.execution_id] += 1
        first = self.begun[asked.execution_id] == 1
        if kind == "execute":
            n = asked.json["input"]["n"]
            return LOST if first and n > 10 else inline({"doubled": 2 * n})
        if kind == "skills":
            return FAR if name == "far" and first else inline({"sum": sum(asked.json.values())})
        return self._begin_badly(asked, name) if first and name in BAD_BEGINNINGS else self._begin(asked, name)

    def _begin(self, asked: Asked, name: str) -> Reply:
        self.running.add(asked.id)
        if name == "ask":
            self._do(self._ask(asked))
        elif name != "hang":
            self._do(self._work(asked.id, {"echo": asked.json.get("n")}, calls_back=name != "mute"))
        return TAKEN

    def _begin_badly(self, asked: Asked, name: str) -> Reply:
        if name == "cut":
            self.ring.append(json.dumps(_last_line(asked.id, {"echo": asked.json.get("n")})))
        elif name in {"late", "stuck"}:
            self.running.add(asked.id)
        if name == "away":
            self._do(self._end(asked.id, status="failed", error=UNREACHED))
        return BAD_BEGINNINGS[name]

    def _stop(self, id_: str) -> Reply:
        """As the SDK: what is stopped says so by its callback, too."""
        if id_ in self.running:
            self._do(self._end(id_, status="cancelled", error="stopped"))
        return super()._stop(id_)

    async def _work(self, id_: str, result: Any, *, calls_back: bool = True) -> None:
        await self._end(id_, status="running", progress=50)
        await asyncio.sleep(WORK_SECONDS)
        if id_ in self.running:
            self.running.discard(id_)
            self.ring.append(json.dumps(_last_line(id_, result)))
            if calls_back:
                await self._end(id_, status="succeeded", result=result)

    async def _ask(self, asked: Asked) -> None:
        body = {
            "approval_request_id": asked.execution_id,
            "expires_in_hours": 1,
            "callback_url": f"{self.base_url}{DECISION}",
        }
        path = f"/agents/{self.node}/executions/{asked.id}"
        await self._speak(f"{path}/request-approval", body)
        while asked.id in self.running:  # a callback may be lost, as the SDK knows
            with contextlib.suppress(httpx.TransportError):
                said = await self._wire.client.get(f"{path}/approval-status")
                if said.status_code == 200 and (decision := said.json().get("decision")):
                    await self._work(asked.id, {"decision": decision})
            await asyncio.sleep(LOOK_SECONDS)

    async def _decided(self, asked: Asked) -> None:
        """People have decided: whatever attempt waits for it goes on."""
        execution_id = asked.json["approval_request_id"]
        for id_ in [one for one in self.running if one.startswith(execution_id)]:
            await self._work(id_, {"decision": asked.json["decision"]})

    async def _end(self, id_: str, **said: Any) -> None:
        await self._speak(f"/executions/{id_}/status", {"execution_id": id_, "duration_ms": 5, **said})

    async def _speak(self, path: str, body: Any) -> None:
        """Some tries and no more, as the SDK does it; what is lost then stands in the log."""
        for _ in range(CALLBACK_TRIES):
            with contextlib.suppress(httpx.TransportError):
                if (await self._wire.post(path, body)).status_code < 500:
                    return
            await asyncio.sleep(CALLBACK_PAUSE_SECONDS)

    async def _beat_on(self) -> None:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if not self.silent and (await self.beat()).status_code == 404:
                    await self.register()
            await asyncio.sleep(BEAT_SECONDS)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _same(one: str, other: str) -> bool:
    """Whether both are attempts at one execution."""
    return one.partition("~")[0] == other.partition("~")[0]


def _last_line(id_: str, result: Any) -> dict[str, Any]:
    event = {"execution_id": id_, "event_type": "reasoner.completed", "message": "over"}
    return event | {"attributes": {"result": result}}


class Lines:
    """The file in which agents leave a line for each piece of work."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def repeated(self, execution_id: str) -> int:
        """How many pieces of its work were done again."""
        counted = Counter(line for line in self.path.read_text().splitlines() if line.startswith(execution_id))
        return counted.total() - len(counted)


def unique(what: str) -> str:
    """A name that no run before has used in this database."""
    return f"{what}-{os.getpid()}-{time.monotonic_ns()}"
