"""What an agent holds towards its control plane, bound to one event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Mapping
from typing import TypeVar

from controlplane_sdk.checkpoints import Checkpoints
from controlplane_sdk.steps import Steps
from controlplane_sdk.transport import Transport

T = TypeVar("T")


class Connection:
    """The transport and the lanes of memory and steps; usable from any event loop and thread through `here`."""

    def __init__(self, server: str, headers: Mapping[str, str]) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread_id = threading.get_ident()
        self.transport = Transport(server, headers)
        self.checkpoints = Checkpoints(self.transport)
        self.steps = Steps(self.transport)

    async def here(self, work: Awaitable[T]) -> T:
        """Do the work on this connection's event loop, wherever the caller's is."""
        if asyncio.get_running_loop() is self.loop:
            return await work

        # call_soon_threadsafe, which this uses, carries the caller's context variables over.
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_await(work), self.loop))

    async def aclose(self) -> None:
        self.checkpoints.close()
        self.steps.close()
        await self.transport.aclose()


async def _await(work: Awaitable[T]) -> T:
    return await work
