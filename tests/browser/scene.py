"""A day in the life of a control plane, made with its own words: several hundred executions in every state."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.integration.api.serving import Answer, Api, Receiver, fence, fenced

Json = Any
TARGETS = ("corpus.process", "corpus.summarize", "release.build", "release.publish", "mail.classify")
ERRORS = (
    ("TimeoutError", "The model did not answer within 60 s: api.example.com"),
    ("RateLimitError", "429 Too Many Requests: tokens per minute, limit 90000"),
    ("ValidationError", "1 validation error for Invoice\ntotal\n  Input should be a valid number"),
)
BIG = 12345678901234567890123


@dataclass(slots=True)
class Scene:
    """What the tests want to look at, by what it is."""

    ids: dict[str, str]


async def play(api: Api, receiver: Receiver, *, rows: int = 300, seed: int = 8) -> Scene:
    """Three nodes that serve, one that has gone; work in every state, a parent with children, logs, webhooks."""
    dice = random.Random(seed)
    sessions = {}
    for node in ("corpus", "release", "mail"):
        names = [one.partition(".")[2] for one in TARGETS if one.startswith(f"{node}.")]
        await api.register(node, *names, description=f"Part of {node}.", tags=["demo"])
        sessions[node] = await api.open_session(node, slots=400)
    await api.register("nightly", "report")
    ids: dict[str, str] = {}
    for n in range(rows):
        target = dice.choice(TARGETS)
        await api.submit(target, input={"document": f"doc-{n}", "pages": dice.randrange(900), "id": BIG + n})
    await _work(api, sessions, dice)
    ids["failed"] = await _failed(api, sessions["mail"])
    ids["parent"] = await _family(api, sessions["corpus"])
    ids["told"] = await _told(api, receiver, sessions["release"])
    ids["paused"] = (await api.submit("release.publish", input={"version": "2.4.1"}))["execution_id"]
    await api.post(f"/executions/{ids['paused']}/pause", {"reason": "wait for the release notes"})
    ids["running"] = await _running(api, sessions["corpus"])
    for n in range(12):
        ids["queued"] = (await api.submit("nightly.report", input={"day": n}))["execution_id"]
    return Scene(ids)


async def _work(api: Api, sessions: Mapping[str, str], dice: random.Random) -> None:
    for session in sessions.values():
        leases = await api.lease(session, limit=200, wait_seconds=1)
        for lease in leases:
            luck = dice.random()
            if luck < 0.72:
                await api.finish(session, lease, {"summary": "ok", "tokens": dice.randrange(9_000), "exact": BIG})
            elif luck < 0.86:
                name, said = dice.choice(ERRORS)
                await api.finish(session, lease, status="failed", error=said, error_class=name)
            elif luck < 0.92:
                await api.post(f"/executions/{lease['execution_id']}/cancel", {"reason": "superseded"})
                await api.finish(session, lease, {})


async def _failed(api: Api, session: str) -> str:
    accepted = await api.submit(
        "mail.classify", input={"subject": "Re: invoice 4711", "html": "<script>alert(1)</script>"}
    )
    lease = next(one for one in await api.lease(session, limit=200) if one["execution_id"] == accepted["execution_id"])
    await _log(api, session, lease, [("info", "connecting to the model"), ("error", "no answer\nafter 60 s")])
    await api.finish(session, lease, status="failed", error=ERRORS[0][1], error_class=ERRORS[0][0])
    return str(accepted["execution_id"])


async def _family(api: Api, session: str) -> str:
    accepted = await api.submit("corpus.process", input={"items": [str(n) for n in range(8)], "id": BIG})
    parent = next(one for one in await api.lease(session, limit=200) if one["execution_id"] == accepted["execution_id"])
    for n in range(8):
        await api.submit("corpus.summarize", input={"part": n}, headers={"X-Parent-Execution-ID": fenced(parent)})
    for n, lease in enumerate(await api.lease(session, limit=8)):
        if n < 5:
            await api.finish(session, lease, {"part": n})
        elif n == 5:
            await api.finish(session, lease, status="failed", error=ERRORS[1][1], error_class=ERRORS[1][0])
    return str(accepted["execution_id"])


async def _told(api: Api, receiver: Receiver, session: str) -> str:
    receiver.queue.extend([Answer(status=503, body=b"over capacity"), Answer()])
    accepted = await api.submit(
        "release.build", input={"version": "2.4.0"}, webhook={"url": receiver.url, "secret": "s"}
    )
    lease = next(one for one in await api.lease(session, limit=200) if one["execution_id"] == accepted["execution_id"])
    await api.finish(session, lease, {"image": "app:2.4.0", "bytes": BIG})
    await receiver.wait_for(1)
    return str(accepted["execution_id"])


async def _running(api: Api, session: str) -> str:
    accepted = await api.submit("corpus.process", input={"items": list(range(10_000)), "id": BIG})
    lease = next(one for one in await api.lease(session, limit=200) if one["execution_id"] == accepted["execution_id"])
    await _log(api, session, lease, [("info", f"processed {n} of 10000") for n in range(0, 4_000, 100)])
    body = {"progress": [fence(lease) | {"done": 4_012, "total": 10_000, "message": "processed 4012/10000"}]}
    await api.post(f"/sessions/{session}/logs", body)
    ops = [{"op": "set", "key": "done", "value": 4_012, "scope": "run", "scope_id": lease["run_id"]}]
    written = await api.post("/memory/write", {"writes": [fence(lease) | {"ops": ops}]})
    assert written.status_code == 200, written.text
    return str(accepted["execution_id"])


async def _log(api: Api, session: str, lease: Mapping[str, Json], lines: list[tuple[str, str]]) -> None:
    entries = [fence(lease) | {"level": level, "message": message} for level, message in lines]
    answer = await api.post(f"/sessions/{session}/logs", {"entries": entries})
    assert answer.status_code in (200, 202), answer.text
