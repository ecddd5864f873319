"""Calls of other reasoners: one, or many at once, found again by whoever runs the parent once more."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from controlplane_sdk import executions
from controlplane_sdk.context import Context
from controlplane_sdk.durable import IN_PROCESS_SECONDS, Durable, call_name
from controlplane_sdk.errors import ControlPlaneError, ExecutionError, NotFound
from controlplane_sdk.executions import WAIT_SECONDS, Execution
from controlplane_sdk.steps import DONE
from controlplane_sdk.transport import Backoff, Transport, refusal
from controlplane_sdk.writes import PATIENCE_SECONDS

WINDOW_FIRST_SECONDS = 0.05
WINDOW_CAP_SECONDS = 2.0
"""How long a window that is full looks at its oldest child before it looks at all of them."""

WAITS_MAX = 10_000
"""How many the control plane watches for one execution at once; the rest is waited for when these have ended."""
NOT_FOUND = "not_found"


class Children:
    """What one execution calls, or a program that is none (`context` None). Everything here is on the loop of the
    transport. `how`: what is asked of each child, beside its input."""

    def __init__(self, transport: Transport, context: Context | None, how: Mapping[str, Any]) -> None:
        self._transport = transport
        self._context = context
        self._how = how
        known = context.durable if context else None
        self._durable = known if known and known.supported else None
        self._headers = {
            "X-Run-ID": context.run_id if context else None,
            "X-Parent-Execution-ID": str(context.fence) if context else None,
            "X-Session-ID": context.session_key if context else None,
            "X-Actor-ID": context.actor_key if context else None,
        }

    async def call(self, target: str, arguments: Mapping[str, Any]) -> Any:
        """Start one child, or find it, and wait for its result in this process."""
        durable = self._durable
        if durable is None:
            return (await self._wait(await self._start(target, arguments, None))).outcome()
        async with durable.at_work():
            name = durable.name(call_name(target, arguments))
            step = await durable.known(name, "call")
            if step is not None and step.child_id is not None:
                execution = await self._wait(step.child_id)
                if execution.status == "succeeded" or not await durable.failed_since(step.attempt):
                    return execution.outcome()
            return (await self._wait(await self._start(target, arguments, name))).outcome()

    async def map(
        self, target: str, items: Sequence[Mapping[str, Any]], *, at_once: int | None, return_exceptions: bool
    ) -> list[Any]:
        """The results of one child for each item, in their order."""
        if at_once is not None and at_once < 1:
            raise ValueError("at_once is at least 1")
        durable = self._durable
        if durable is None:
            fan = _Fan(target, items, [None] * len(items))
            return await self._collect(fan, at_once, return_exceptions)
        async with durable.at_work():
            fan = _Fan(target, items, [durable.name(call_name(target, item)) for item in items])
            await self._find(durable, fan)
            return await self._collect(fan, at_once, return_exceptions)

    # Many.

    async def _find(self, durable: Durable, fan: _Fan) -> None:
        """What earlier attempts have started. What failed with one of them is started again."""
        since: dict[int, int] = {}
        for n, name in enumerate(fan.names):
            step = await durable.known(str(name), "call")
            if step is None or step.child_id is None:
                continue
            since[n] = step.attempt
            fan.started(n, step.child_id)
            if step.status == DONE:  # its result is here already
                fan.seen(Execution(execution_id=step.child_id, status="succeeded", result=step.value))
        await self._look(fan)
        for n in fan.failed:
            if await durable.failed_since(since[n]):
                fan.forget(n)

    async def _collect(self, fan: _Fan, at_once: int | None, return_exceptions: bool) -> list[Any]:
        if at_once is None:
            await self._begin(fan, list(fan.missing))
            await self._all(fan)
        else:
            await self._windowed(fan, at_once, fail_fast=not return_exceptions)
        if fan.failed and not return_exceptions:
            raise fan.outcome(fan.failed[0])
        return [fan.outcome(n) for n in range(len(fan.names))]

    async def _all(self, fan: _Fan) -> None:
        """Until every child has ended. A while here, then without a slot where that can be. Raises: Suspended."""
        wait_seconds = IN_PROCESS_SECONDS
        with contextlib.ExitStack() as stack:
            while fan.open:
                began = time.monotonic()
                # They mostly end in the order in which they began, so the last one is looked at for all of them.
                await self._watch(fan.ids[max(fan.open.values())], wait_seconds)
                await self._look(fan)
                durable = self._durable
                if durable and fan.open and durable.may_suspend():
                    durable.suspend([str(fan.names[n]) for n in sorted(fan.open.values())][:WAITS_MAX], "all")
                if wait_seconds == IN_PROCESS_SECONDS:
                    stack.enter_context(self._slot_free())
                    wait_seconds = WAIT_SECONDS
                await executions.pace(began)

    async def _windowed(self, fan: _Fan, at_once: int, *, fail_fast: bool) -> None:
        """Until every child has ended, with at most so many under way. Stays in this process, its slot is free."""
        waiting = deque(fan.missing)
        backoff = Backoff(first_seconds=WINDOW_FIRST_SECONDS, cap_seconds=WINDOW_CAP_SECONDS)
        with self._slot_free():
            while waiting or fan.open:
                room = min(len(waiting), at_once - len(fan.open))
                if room > 0:
                    await self._begin(fan, [waiting.popleft() for _ in range(room)])
                before = len(fan.open)
                if before:
                    began = time.monotonic()
                    await self._watch(fan.ids[min(fan.open.values())], backoff.next_seconds())
                    await executions.pace(began, WINDOW_FIRST_SECONDS)
                    await self._look(fan)
                if len(fan.open) < before:
                    backoff.reset()
                if fail_fast and fan.failed:
                    return

    async def _begin(self, fan: _Fan, numbers: Sequence[int]) -> None:
        if not numbers:
            return
        answers = await executions.submit_many(
            self._transport,
            [{"target": fan.target, "input": fan.items[n], "step": fan.names[n], **self._how} for n in numbers],
            same_run=self._context is None,
            headers=self._headers,
            patience_seconds=PATIENCE_SECONDS,
        )
        for n, answer in zip(numbers, answers, strict=True):
            if answer["http_status"] == 202:
                fan.started(n, answer["execution_id"])
            else:
                fan.ended[n] = refusal(answer["http_status"], answer["code"], answer)

    async def _look(self, fan: _Fan) -> None:
        for execution in await executions.look_each(self._transport, list(fan.open)):
            fan.seen(execution)

    async def _watch(self, execution_id: str, wait_seconds: float) -> None:
        with contextlib.suppress(NotFound):  # the next look at all of them says so
            await executions.look(self._transport, execution_id, wait_seconds=wait_seconds)

    # One.

    async def _start(self, target: str, arguments: Mapping[str, Any], step: str | None) -> str:
        body = {"input": arguments, "step": step, **self._how}
        started = await executions.submit(
            self._transport, target, body, headers=self._headers, patience_seconds=PATIENCE_SECONDS
        )
        return str(started["execution_id"])

    async def _wait(self, execution_id: str) -> Execution:
        with self._slot_free():
            return await executions.wait(self._transport, execution_id)

    @contextlib.contextmanager
    def _slot_free(self) -> Iterator[None]:
        durable = self._context.durable if self._context else None
        with durable.slot_free() if durable else contextlib.nullcontext():
            yield


class _Fan:
    """A call for each item, and what has become of it."""

    def __init__(self, target: str, items: Sequence[Mapping[str, Any]], names: Sequence[str | None]) -> None:
        self.target = target
        self.items = items
        self.names = names
        self.ids: dict[int, str] = {}
        self.open: dict[str, int] = {}
        """By execution id, those that have begun and were not seen to end."""
        self.ended: dict[int, Execution | ControlPlaneError] = {}

    @property
    def missing(self) -> list[int]:
        """What has not begun."""
        return [n for n in range(len(self.names)) if n not in self.ids and n not in self.ended]

    @property
    def failed(self) -> list[int]:
        """What has ended otherwise than well, in order."""
        return sorted(
            n for n, one in self.ended.items() if not (isinstance(one, Execution) and one.status == "succeeded")
        )

    def started(self, n: int, execution_id: str) -> None:
        self.ids[n] = execution_id
        self.open[execution_id] = n

    def seen(self, execution: Execution) -> None:
        if execution.finished or execution.status == NOT_FOUND:
            self.ended[self.open.pop(execution.execution_id)] = execution

    def forget(self, n: int) -> None:
        """Let it be called again."""
        del self.ids[n], self.ended[n]

    def outcome(self, n: int) -> Any:
        """The result, or the error that says why there is none."""
        one = self.ended[n]
        if isinstance(one, ControlPlaneError):
            return one
        try:
            return one.outcome()
        except ExecutionError as error:
            return error
