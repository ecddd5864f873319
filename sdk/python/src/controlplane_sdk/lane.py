"""Group sending: while one request is in flight the next batch gathers, and it leaves the moment that one returns.

Or at once, as soon as it is worth a request of its own: while one batch is being committed the next is on its way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")

FLIGHTS = 2
WORTH_ITEMS = 8
"""So many leave while another batch is in flight; of fewer each would cost what a request costs."""


class Lane(Generic[Item, Answer]):
    """Single calls in, batches out, each caller answered for its own item. No timers: an idle lane adds no delay."""

    def __init__(
        self,
        send: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        *,
        size: Callable[[Item], int],
        items_max: int,
        bytes_max: int,
        name: str,
    ) -> None:
        """`send` answers a batch in its order; what it raises every caller of the batch gets."""
        self._send = send
        self._size = size
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._name = name
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._flights: set[asyncio.Task[None]] = set()

    def put(self, item: Item) -> asyncio.Future[Answer]:
        """The answer to this item, once its batch has been sent. Cancelled before that, it is not sent."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((item, future))
        if not self._flights or (len(self._flights) < FLIGHTS and len(self._waiting) >= WORTH_ITEMS):
            flight = loop.create_task(self._fly(), name=f"controlplane-{self._name}")
            self._flights.add(flight)
            flight.add_done_callback(self._flights.discard)
        return future

    async def idle(self) -> None:
        """Return when everything has been answered."""
        while self._flights:
            await asyncio.wait(self._flights)

    def close(self) -> None:
        """Send nothing more; whoever still waits is cancelled."""
        for flight in self._flights:
            flight.cancel()
        while self._waiting:
            self._waiting.popleft()[1].cancel()

    async def _fly(self) -> None:
        try:
            while batch := self._take():
                await self._flush(batch)
        finally:
            # Here, too, and not in the callback alone: who puts between the last look and that would wait for ever.
            task = asyncio.current_task()
            assert task is not None
            self._flights.discard(task)

    async def _flush(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._send([item for item, _ in batch])
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - the callers get it; the lane has to go on
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    def _take(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        batch: list[tuple[Item, asyncio.Future[Answer]]] = []
        size = 0
        while self._waiting and len(batch) < self._items_max:
            item, future = self._waiting[0]
            size += 0 if future.cancelled() else self._size(item)
            if batch and size > self._bytes_max:
                break
            self._waiting.popleft()
            if not future.cancelled():
                batch.append((item, future))
        return batch
