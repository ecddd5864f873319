"""Stories of programs on our SDK, an agent or a caller, that die; the server lives on and other agents beside them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.crash.awaits.callers import ENDS, STARTED
from tests.crash.awaits.nursery import At, Child
from tests.crash.awaits.outside import unique
from tests.crash.awaits.place import QUIET_SECONDS, Broken, Place, Told


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a reasoner, and what must come of it. `signalled`: it waits for the signal `go`."""

    reasoner: str
    result: Any
    input: dict[str, Any]
    signalled: bool = False
    children: int = 0
    status: str = "succeeded"

    async def begin(self, place: Place, node_id: str) -> Told:
        told = Told(key=unique(self.reasoner), started=1 + self.children)
        headers = {"Idempotency-Key": told.key, "X-Session-ID": told.key}
        given = {name: told.key if value == KEY else value for name, value in self.input.items()}
        path = f"/execute/async/{node_id}.{self.reasoner}"
        id_ = (await place.ask("POST", path, {"input": given}, headers=headers)).json()["execution_id"]
        told.ends[id_] = (self.status, self.result)
        told.repeats_of.append(id_)
        if self.signalled:
            said = await place.ask("POST", f"/executions/{id_}/signals/go", {"n": 1}, headers=headers)
            if said.status_code >= 300:
                raise Broken(f"the signal was answered {said.status_code}: {said.text}")
        return told


KEY = "(key)"
AGAIN_CHILDREN = 4
MEMORIES = {"keys": ["begun"], "list": [0, 1, 2, 3, 4], "grown": [1, 2]}
RUNS = {
    "corpus": Run("corpus", {"results": ["A", "B", "C"]}, {"items": ["a", "b", "c"]}),
    "memories": Run("memories", MEMORIES, {"session": KEY}),
    "blocking": Run("blocking", 3, {"n": 3}),
    "stepwise": Run("stepwise", [3, 4], {"n": 1}),
    "waits": Run("waits", {"word": {"n": 1}, "decision": "expired"}, {}, signalled=True),
    "stays": Run("stays", {"word": {"n": 1}, "found": [1]}, {}, signalled=True, children=1),
    "slow": Run("slow", 5, {"n": 5}),
    "lingers": Run("lingers", None, {}, status="cancelled"),
    "long": Run("corpus", {"results": [f"{n}" for n in range(30)]}, {"items": [f"{n}" for n in range(30)]}),
    "large": Run("large", None, {}, status="failed"),
    "again": Run("again", [1, 2], {}, children=AGAIN_CHILDREN),
    "parent": Run("parent", {"one": 7, "few": [1, 2, 3], "all": [4, 5]}, {"n": 7}, children=6),
}


class Caller:
    """A program that has work done, begun again with the same key for as long as it has not got its results."""

    def __init__(self, place: Place, story: str, node_id: str) -> None:
        self.place = place
        self.story = story
        self.key = unique(story)
        self._node_id = node_id
        self._says = Path(place.folder) / f"{self.key}.said"

    async def start(self, at: At | None = None) -> Child:
        env = {"CONTROLPLANE_SERVER": self.place.url}
        arguments = [self.story, self._node_id, self.key, str(self._says)]
        return await self.place.nursery.start(
            "call", f"{self.place.name}.{self.story}", env, at=at, arguments=arguments
        )

    async def check(self, child: Child) -> None:
        """It ends with what it asked for, and nothing was begun twice."""
        async with asyncio.timeout(QUIET_SECONDS):
            code = await child.ended()
        if code != 0:
            raise Broken(f"the caller has ended with {code}: {child.log()[-2000:]}")
        if (said := json.loads(self._says.read_text())) != ENDS[self.story]:
            raise Broken(f"the caller got {said}")
        await self.place.check(Told(key=self.key, started=STARTED[self.story]))
