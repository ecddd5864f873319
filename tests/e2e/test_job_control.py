"""Job control as a user joins it: one story through limits, steps, children, people and two kinds of kill."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.conftest import StartNode
from tests.e2e.processes import LEASE_SECONDS, Plane, until
from tests.e2e.receiver import Receiver

SOON_SECONDS = 20.0
AT_ONCE = 4
DOCUMENTS = 12
STOPS_AT = 7
CHILDREN = 300
REST = 200

NODE = """
import asyncio, os, time
from pathlib import Path
from controlplane_sdk import Agent, Context

app = Agent("press", slots=16, heartbeat_seconds=0.5)
folder = Path(os.environ["FOLDER"])

def note(file: str, *words: object) -> None:
    with (folder / file).open("a") as lines:
        print(*words, file=lines)

async def read(document: int) -> int:
    if str(document) == os.environ.get("STOPS_AT"):
        note("stopped", document)
        await asyncio.sleep(3600)
    note("read", document)
    return document

def tell(link: str) -> None:
    note("links", link)

def publish() -> str:
    note("published", "once")
    return "published"

@app.reasoner(concurrency=int(os.environ["AT_ONCE"]))
async def draw(n: int) -> int:
    note("drawn", "begin", n, os.getpid(), time.time())
    await asyncio.sleep(0.03)
    note("drawn", "end", n, os.getpid(), time.time())
    return 2 * n

@app.reasoner
async def edition(ctx: Context, documents: int, pictures: int) -> dict:
    note("begun", ctx.attempt)
    read_ = [await ctx.step(read, n) for n in range(documents)]
    drawn = await draw.map(range(pictures))
    window = await ctx.wait_for_event("press.free")
    decision = await ctx.approve("Print it?", expires=3600, tell=tell)
    said = await ctx.step(publish)
    return {
        "read": sum(read_), "drawn": sum(drawn), "window": window, "decision": decision.decision,
        "comment": decision.feedback, "said": said, "attempt": ctx.attempt,
    }

@app.reasoner
async def advert(n: int) -> None:
    await asyncio.sleep(3600)

app.run()
"""


class Notes:
    """What the processes of the node wrote down, whatever became of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"FOLDER": str(folder), "AT_ONCE": str(AT_ONCE)}

    def lines(self, file: str) -> list[str]:
        path = self.folder / file
        return path.read_text().splitlines() if path.exists() else []

    def drawn(self) -> Counter[int]:
        """How often the drawing of each picture began."""
        return Counter(int(line.split()[1]) for line in self.lines("drawn") if line.startswith("begin"))

    def most_at_once(self, killed_at: dict[int, float]) -> int:
        """How many were drawn at the same time; what a kill cut off, until that moment."""
        begun: dict[tuple[str, str], float] = {}
        changes = []
        for line in self.lines("drawn"):
            word, n, pid, at = line.split()
            if word == "begin":
                begun[n, pid] = float(at)
            else:
                changes += [(begun.pop((n, pid)), 1), (float(at), -1)]
        for (_, pid), at_ in begun.items():
            changes += [(at_, 1), (killed_at[int(pid)], -1)]
        most = now = 0
        for _, change in sorted(changes):
            now += change
            most = max(most, now)
        return most


def waits(plane: Plane, id_: str, reason: str) -> None:
    def look() -> bool:
        shown = plane.look(id_)
        return (shown["status"], shown.get("status_reason")) == ("waiting", reason)

    until(f"{id_} to wait: {reason}", look, seconds=SOON_SECONDS)


def explained(plane: Plane, id_: str) -> dict[str, Any]:
    return dict(plane.api.get(f"/executions/{id_}/explain").json())


def listed(plane: Plane, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = plane.api.get("/executions", params={"limit": 200, **query} | ({"cursor": cursor} if cursor else {}))
        found += page.json()["items"]
        if (cursor := page.json()["next_cursor"]) is None:
            return found


def submit_rest(plane: Plane) -> None:
    """Adverts, of which the key lets one run: the others are blocked through all that follows."""
    items = [
        {"target": "press.advert", "input": {"n": n}, "concurrency": {"key": "adverts", "max": 1}} for n in range(REST)
    ]
    answer = plane.api.post("/execute/batch", json={"items": items})
    assert answer.json()["counts"]["accepted"] == REST


def cancel_rest(plane: Plane) -> tuple[int, dict[str, Any]]:
    """What a dry run counts, and the bulk when it is over."""
    asked = {"action": "cancel", "filter": {"target": "press.advert"}, "reason": "no paper"}
    counted = plane.api.post("/bulk", json=asked | {"dry_run": True}).json()["matched"]
    bulk_id = plane.api.post("/bulk", json=asked).json()["bulk_id"]

    def over() -> dict[str, Any] | None:
        found = dict(plane.api.get(f"/bulk/{bulk_id}").json())
        return None if found["state"] == "running" else found

    return counted, until("the end of the bulk", over, seconds=SOON_SECONDS)  # type: ignore[return-value]


def test_an_edition_through_everything_that_may_happen(
    plane: Plane, node: StartNode, receiver: Receiver, tmp_path: Path, measured: Callable[[str, float], None]
) -> None:
    """Steps once, the limit kept, the parent resumed once by 300 children, one webhook, and the rest cancelled."""
    notes = Notes(tmp_path)
    killed_at: dict[int, float] = {}

    def kill(process: Any) -> None:
        pid = process.pid
        process.kill()
        killed_at[pid] = time.time()

    began = time.monotonic()
    first = node(NODE, STOPS_AT=str(STOPS_AT), **notes.env)
    submit_rest(plane)
    webhook = receiver.webhook
    id_ = plane.submit("press.edition", webhook=webhook, documents=DOCUMENTS, pictures=CHILDREN)
    until("the middle of the loop", lambda: notes.lines("stopped"), seconds=SOON_SECONDS)
    kill(first)
    second = node(NODE, **notes.env)

    waits(plane, id_, "awaiting_child")
    until("some pictures", lambda: len(notes.drawn()) >= CHILDREN // 10, seconds=SOON_SECONDS)
    plane.kill()
    plane.restart()
    until("more pictures", lambda: len(notes.drawn()) >= CHILDREN // 3, seconds=SOON_SECONDS)
    kill(second)
    third = node(NODE, **notes.env)
    measured("until the third process serves", time.monotonic() - began)

    waits(plane, id_, "waiting_for_event")
    measured("until all pictures are drawn", time.monotonic() - began)
    kill(third)
    answer = plane.api.post(f"/executions/{id_}/signals/press.free", json={"at": "noon"})
    assert answer.json()["delivered"] is True
    node(NODE, **notes.env)

    waits(plane, id_, "waiting_for_approval")
    plane.kill()
    plane.restart()
    [link] = notes.lines("links")
    asked = explained(plane, id_)
    decided = [httpx.post(link, data={"decision": word, "feedback": word}) for word in ("approved", "rejected")]
    ended = plane.end_of(id_, within=LEASE_SECONDS + SOON_SECONDS)
    counted, bulk = cancel_rest(plane)
    until("the end of the adverts", lambda: not listed(plane, status="queued,running"), seconds=SOON_SECONDS)
    measured("the whole story", time.monotonic() - began)

    assert (asked["code"], asked["facts"]["approval_request_url"]) == ("waiting_for_approval", link)
    assert [answer.status_code for answer in decided] == [200, 409]
    assert ended["result"] == {
        "read": sum(range(DOCUMENTS)),
        "drawn": 2 * sum(range(CHILDREN)),
        "window": {"at": "noon"},
        "decision": "approved",
        "comment": "approved",
        "said": "published",
        "attempt": 5,
    }
    # One that was killed, and one for each of children, event and approval that it waited for.
    assert notes.lines("begun") == ["1", "2", "3", "4", "5"]
    assert Counter(notes.lines("read")) == Counter(str(n) for n in range(DOCUMENTS))
    assert notes.lines("published") == ["once"]
    assert set(notes.drawn()) == set(range(CHILDREN))
    assert notes.drawn().total() <= CHILDREN + AT_ONCE  # what the kill cut off
    assert 1 < notes.most_at_once(killed_at) <= AT_ONCE
    assert plane.event_types_of(id_).count("lease.expired") == 1
    assert [heard.body["event"] for heard in receiver.about(id_)] == ["execution.completed"]
    assert (counted, bulk["state"], bulk["done"]) == (REST, "done", REST)
    assert Counter(one["status"] for one in listed(plane, target="press.advert")) == Counter(cancelled=REST)
    assert plane.api.get("/limits/key:adverts").json()["held"] == 0
