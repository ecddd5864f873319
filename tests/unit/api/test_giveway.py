"""What may be lost goes on one by one while others ask, and freely when nobody does."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from starlette.types import Receive, Scope, Send

from controlplane.api.agentfield import logs
from controlplane.api.front import FOUND, Found
from controlplane.api.giveway import OTHERS_SECONDS, GiveWay

LINE = Found(logs.OPERATIONS[0], {})
OTHER = Found(replace(logs.OPERATIONS[0], gives_way=False), {})


class Desk:
    """Notes in which turn of the loop each request has come through."""

    def __init__(self) -> None:
        self.turns: list[tuple[int, str]] = []
        self._turn = 0
        self._counting: asyncio.Handle | None = None
        self.way = GiveWay(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.turns.append((self._turn, scope["path"]))

    def count(self) -> None:
        self._turn += 1
        self._counting = asyncio.get_running_loop().call_soon(self.count)

    def ask(self, found: Found, path: str) -> asyncio.Task[None]:
        async def nothing(*_: Any) -> Any:
            return None

        return asyncio.create_task(self.way({FOUND: found, "path": path}, nothing, nothing))

    async def asked(self, *tasks: asyncio.Task[None]) -> None:
        self.count()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert self._counting is not None
        self._counting.cancel()


async def test_beside_others_one_goes_on_in_each_turn() -> None:
    """In the order they came; nothing else waits for a turn."""
    desk = Desk()

    await desk.asked(desk.ask(OTHER, "first"), *[desk.ask(LINE, str(n)) for n in range(6)], desk.ask(OTHER, "last"))

    at = {path: turn for turn, path in desk.turns}
    assert at["first"] == at["last"] == at["0"]
    assert [path for _, path in desk.turns if path.isdigit()] == ["0", "1", "2", "3", "4", "5"]
    assert len({at[str(n)] for n in range(6)}) == 6


async def test_without_others_nobody_waits() -> None:
    """Lines alone are taken as they come."""
    desk = Desk()

    await desk.asked(*[desk.ask(LINE, str(n)) for n in range(6)])

    assert len({turn for turn, _ in desk.turns}) == 1


async def test_who_left_takes_nobodys_turn() -> None:
    """A caller that goes while its line waits is passed over, and those behind it still come."""
    desk = Desk()
    tasks = [desk.ask(OTHER, "other"), *[desk.ask(LINE, str(n)) for n in range(4)]]
    await asyncio.sleep(0)
    tasks[2].cancel()

    await desk.asked(*tasks)

    assert {path for _, path in desk.turns} == {"other", "0", "2", "3"}


async def test_when_the_others_are_done_the_rest_goes_on() -> None:
    """Whoever waits is let through at once when nobody has come for a while."""
    desk = Desk()
    tasks = [desk.ask(OTHER, "other"), *[desk.ask(LINE, str(n)) for n in range(2_000)]]
    await asyncio.sleep(0)
    until = asyncio.get_running_loop().time() + OTHERS_SECONDS
    while asyncio.get_running_loop().time() < until:
        pass  # the loop has no turn meanwhile

    await desk.asked(*tasks)

    assert len(desk.turns) == 2_001
    assert len({turn for turn, _ in desk.turns}) < 10
