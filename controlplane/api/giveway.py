"""Of what may be lost one request goes on in each turn of the loop while there are others, which so pass it by.

AgentField's SDK posts a request per log line and waits for none of them. A submit needs some ten turns of the loop, and
with sixteen lines in each of them it took fifty milliseconds where it takes three.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send

from controlplane.api.front import FOUND, Found

OTHERS_SECONDS = 0.02
"""For how long after another request has come its turns are kept short."""


class GiveWay:
    """Lets requests whose operation gives way on one by one, in the order they came; all at once when nobody else asks.

    Long polls that wait are not in the way of anything: what counts is when somebody last came.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turning = False
        """Whether one has gone on in this turn."""
        self._others_until = 0.0

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        found: Found | None = scope.get(FOUND)
        if found is not None and found.operation.gives_way:
            return self._in_turn(scope, receive, send)
        self._others_until = time.monotonic() + OTHERS_SECONDS
        return self._app(scope, receive, send)

    async def _in_turn(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        if self._turning:
            mine: asyncio.Future[None] = loop.create_future()
            self._waiting.append(mine)
            await mine
        elif time.monotonic() < self._others_until:
            self._turning = True
            loop.call_soon(self._next)
        await self._app(scope, receive, send)

    def _next(self) -> None:
        self._turning = False
        while self._waiting and not self._turning:
            first = self._waiting.popleft()
            if not first.done():  # else its caller has left
                first.set_result(None)
                self._turning = time.monotonic() < self._others_until
        if self._turning:
            asyncio.get_running_loop().call_soon(self._next)
