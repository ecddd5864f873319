"""A node in a few lines: decorate functions, then `app.run()`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, ParamSpec, TypeVar, overload

from controlplane_sdk.ai import AI, Backend
from controlplane_sdk.children import Children
from controlplane_sdk.connection import Connection
from controlplane_sdk.context import SENT, Context, Sent, current
from controlplane_sdk.declared import Declared
from controlplane_sdk.errors import LeaseLost
from controlplane_sdk.function import Function, ParentEnd, Serve, Served, names_of
from controlplane_sdk.logger import set_up
from controlplane_sdk.memory import Memory
from controlplane_sdk.node import Node
from controlplane_sdk.process import leave, new_loop, signals
from controlplane_sdk.session import Session
from controlplane_sdk.transport import server_url, standard_headers
from controlplane_sdk.triggers import Cron, Webhook

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Calls:
    """Calls of other reasoners that are asked for in one way (`Agent.options`)."""

    def __init__(
        self,
        reach: Callable[[Callable[[Children], Awaitable[Any]], Mapping[str, Any]], Awaitable[Any]],
        arguments: Callable[[str, Any], Mapping[str, Any]],
        how: Mapping[str, Any],
    ) -> None:
        self._reach = reach
        self._arguments = arguments
        self._how = how

    async def call(self, target: str, /, **arguments: Any) -> Any:
        """As `Agent.call`."""
        return await self._reach(lambda children: children.call(target, arguments), self._how)

    async def map(
        self, target: str, items: Iterable[Any], *, at_once: int | None = None, return_exceptions: bool = False
    ) -> list[Any]:
        """As `Agent.map`."""
        calls = [self._arguments(target, item) for item in items]
        results: list[Any] = await self._reach(
            lambda children: children.map(target, calls, at_once=at_once, return_exceptions=return_exceptions),
            self._how,
        )
        return results


class Agent:
    """A process that serves reasoners. It dials the control plane, so it needs no address of its own."""

    def __init__(
        self,
        node_id: str,
        server: str | None = None,
        *,
        agentfield_server: str | None = None,
        api_key: str | None = None,
        version: str = "1.0.0",
        slots: int = 100,
        heartbeat_seconds: float = 10.0,
        drain_seconds: float = 30.0,
        ai: Backend | None = None,
    ) -> None:
        """`server` (also `agentfield_server`) comes from CONTROLPLANE_SERVER or AGENTFIELD_SERVER when it is not given.

        `slots` executions run at once; CONTROLPLANE_NODE_SLOTS in the environment overrules it.
        `ai` replaces the model behind `app.ai`: an async callable (system=, user=, model=, **kw) -> str.
        """
        self.node_id = node_id
        self.version = version
        self.slots = int(os.environ.get("CONTROLPLANE_NODE_SLOTS") or slots)
        if self.slots < 1:
            raise ValueError("a node needs at least one slot")
        self.server = server_url(server or agentfield_server)
        self.heartbeat_seconds = heartbeat_seconds
        self.drain_seconds = drain_seconds
        self.memory = Memory(self._reach)
        self._ai = AI(ai)
        self._headers = standard_headers(api_key)
        self._functions: dict[str, Function] = {}
        self._connection: Connection | None = None
        self._session: Session | None = None
        self._stop: Callable[[], None] | None = None

    @overload
    def reasoner(self, name: Callable[P, R], /) -> Served[P, R]: ...
    @overload
    def reasoner(
        self,
        name: str | None = ...,
        *,
        tags: Sequence[str] = ...,
        description: str | None = ...,
        retries: int = ...,
        retry_delay: float = ...,
        retry_factor: float = ...,
        retry_cap: float = ...,
        retry_jitter: float = ...,
        fatal_errors: Sequence[type[BaseException] | str] = ...,
        retry_errors: Sequence[type[BaseException] | str] = ...,
        timeout: float | None = ...,
        schedule_to_start: float | None = ...,
        total: float | None = ...,
        heartbeat: float | None = ...,
        on_parent_end: ParentEnd | None = ...,
        concurrency: int | None = ...,
        concurrency_key: str | None = ...,
        triggers: Sequence[Webhook | Cron] = ...,
    ) -> Serve: ...

    def reasoner(self, name: Any = None, **options: Any) -> Any:
        """Serve the function as `node.name`; it can still be called directly, and many times at once with `map`.

        Its input schema comes from its signature. `retries` counts the new tries after a failure of its own: the
        first comes `retry_delay` seconds later, the next `retry_factor` times as late, none later than `retry_cap`;
        chance adds up to the share `retry_jitter` of each wait. Errors of the classes `fatal_errors` are not tried
        again, and with `retry_errors` no others are: classes (not what is derived from them), or names, where a `*` at
        the end stands for any rest.
        A crash of the process costs no retry. `timeout` bounds one attempt, `heartbeat` how long it may be silent (no
        progress, log line, note or memory write), `schedule_to_start` how long it waits for its first attempt, and
        `total` all of it, in seconds. `on_parent_end`: "cancel" or "keep" it when its parent ends without a result.
        No more than `concurrency` run at once, on all processes together; `concurrency_key` is that of submits which
        name none. `triggers`: outside senders and planned moments that start it, see `webhook` and
        `cron` in `controlplane_sdk.triggers`.
        """
        return self._serve("reasoner", name, options)

    @overload
    def skill(self, name: Callable[P, R], /) -> Served[P, R]: ...
    @overload
    def skill(
        self,
        name: str | None = ...,
        *,
        tags: Sequence[str] = ...,
        description: str | None = ...,
        retries: int = ...,
        retry_delay: float = ...,
        retry_factor: float = ...,
        retry_cap: float = ...,
        retry_jitter: float = ...,
        fatal_errors: Sequence[type[BaseException] | str] = ...,
        retry_errors: Sequence[type[BaseException] | str] = ...,
        timeout: float | None = ...,
        schedule_to_start: float | None = ...,
        total: float | None = ...,
        heartbeat: float | None = ...,
        on_parent_end: ParentEnd | None = ...,
        concurrency: int | None = ...,
        concurrency_key: str | None = ...,
        triggers: Sequence[Webhook | Cron] = ...,
    ) -> Serve: ...

    def skill(self, name: Any = None, **options: Any) -> Any:
        """The same as `reasoner`, for functions that do not think."""
        return self._serve("skill", name, options)

    async def call(self, target: str, /, **arguments: Any) -> Any:
        """Run `node.reasoner` as a child of this execution and wait for its result; meanwhile our own slot is free.

        It is a step: an attempt that comes later finds the child instead of starting another, unless the child had
        failed and with it the attempt. Raises: ExecutionFailed, ExecutionCancelled, ExecutionTimeout, NotFound,
        LeaseLost.
        """
        return await Calls(self._with_children, self._arguments, {}).call(target, **arguments)

    async def map(
        self,
        target: str,
        items: Iterable[Any],
        *,
        at_once: int | None = None,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """Run `node.reasoner` once for each item, as children of this execution; the results in the items' order.

        An item is a dict of arguments, or the one argument of a function that this node serves. All begin with few
        requests. Without `at_once` an asynchronous reasoner that waits longer than a second gives its attempt up, and
        is run again from its beginning, once, when all have ended. With it at most so many are under way, and the
        parent stays in its process, its slot free.
        Raises: the first error in the order of the items, when all have ended (with `at_once`: when it happens); with
        `return_exceptions` errors are results, as `asyncio.gather` has it.
        """
        calls = Calls(self._with_children, self._arguments, {})
        return await calls.map(target, items, at_once=at_once, return_exceptions=return_exceptions)

    def options(
        self,
        *,
        on_parent_end: ParentEnd | None = None,
        priority: int | None = None,
        retries: int | None = None,
        retry: Mapping[str, Any] | None = None,
        timeout_seconds: float | None = None,
        schedule_to_start_seconds: float | None = None,
        total_seconds: float | None = None,
        heartbeat_seconds: float | None = None,
    ) -> Calls:
        """How children are asked for: `await app.options(on_parent_end="keep", priority=5).call("node.fn", x=1)`.

        What is left out is as the child's reasoner was registered. `on_parent_end`: whether the child is cancelled when
        this execution ends without a result, as it is when nothing is said, or goes on ("keep").
        """
        how = {
            "on_parent_end": on_parent_end,
            "priority": priority,
            "retries": retries,
            "retry": retry,
            "timeout_seconds": timeout_seconds,
            "schedule_to_start_seconds": schedule_to_start_seconds,
            "total_seconds": total_seconds,
            "heartbeat_seconds": heartbeat_seconds,
        }
        return Calls(self._with_children, self._arguments, how)

    @property
    def ctx(self) -> Context:
        """The execution that is running. Raises: RuntimeError outside of one."""
        context = current.get()
        if context is None:
            raise RuntimeError("app.ctx is there inside an execution")
        return context

    @property
    def ai(self) -> AI:
        """Ask a language model: `await app.ai(system=…, user=…, model=None, schema=None)`."""
        return self._ai

    def note(self, message: str, tags: list[str] | None = None) -> Sent:
        """Leave a note on the running execution for people to read. May be awaited, need not be."""
        context = current.get()
        return context.note(message, tags) if context else SENT

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> Sent:
        """Tell how far the running execution is. May be awaited, need not be."""
        context = current.get()
        return context.progress(done, total, message) if context else SENT

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """For synchronous reasoners: `app.wait(app.memory.get("done"))` blocks this thread until it is done."""
        connection = self._connection
        if connection is None or self._session is None:
            work.close()
            raise RuntimeError("app.wait works inside a synchronous reasoner; elsewhere use asyncio.run")
        if threading.get_ident() == connection.thread_id:
            work.close()
            raise RuntimeError("app.wait would block the event loop; use await")
        return asyncio.run_coroutine_threadsafe(work, connection.loop).result()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain and return. On uvloop where it is installed."""
        loop = new_loop()
        try:
            loop.run_until_complete(self.serve())
        finally:
            leave(loop)

    async def serve(self) -> None:
        """Serve on this event loop until a signal comes.

        The first one drains: running executions may finish within `drain_seconds`, the rest is handed back. The second
        closes at once. Raises: RequestRefused when the very first registration is refused, RuntimeError when the
        environment lacks the secret of a webhook that starts a reasoner.
        """
        if self._session is not None:
            raise RuntimeError("this agent is serving already")
        set_up()  # also a node that writes no line of its own says that it serves
        declared = Declared(self.node_id, self._functions.values())
        await self._drop_connection()
        node = Node(
            node_id=self.node_id,
            version=self.version,
            functions=self._functions,
            slots=self.slots,
            heartbeat_seconds=self.heartbeat_seconds,
            drain_seconds=self.drain_seconds,
        )
        self._connection = Connection(self.server, self._headers)
        stop, hurry = asyncio.Event(), asyncio.Event()
        declaring: asyncio.Task[None] | None = None

        def heard() -> None:
            (hurry if stop.is_set() else stop).set()

        try:
            self._session = Session(node, self._connection, self._headers)
            self._stop = heard
            declaring = asyncio.create_task(self._declare(declared, self._session, self._connection))
            with signals(heard):
                await self._session.serve(stop, hurry)
        finally:
            if declaring is not None:
                declaring.cancel()
            self._session = self._stop = None
            await self.aclose()

    async def _declare(self, declared: Declared, session: Session, connection: Connection) -> None:
        await session.opened()  # by then the targets are registered
        await declared.make_true(lambda: connection.transport)

    def stop(self) -> None:
        """Begin to drain, as the first signal does; called again, close at once. From any thread."""
        stop, connection = self._stop, self._connection
        if stop is not None and connection is not None:
            connection.loop.call_soon_threadsafe(stop)

    async def aclose(self) -> None:
        """Close what was opened for use outside `serve`."""
        await self._drop_connection()
        await self._ai.aclose()

    def _serve(self, kind: Literal["reasoner", "skill"], name: Any, options: dict[str, Any]) -> Any:
        if callable(name):
            return self._add(kind, name, None, **options)
        return lambda function: self._add(kind, function, name, **options)

    def _add(
        self,
        kind: Literal["reasoner", "skill"],
        call: F,
        name: str | None,
        *,
        tags: Sequence[str] = (),
        description: str | None = None,
        retries: int = 0,
        retry_delay: float = 5.0,
        retry_factor: float = 2.0,
        retry_cap: float = 300.0,
        retry_jitter: float = 0.2,
        fatal_errors: Sequence[type[BaseException] | str] = (),
        retry_errors: Sequence[type[BaseException] | str] = (),
        timeout: float | None = None,
        schedule_to_start: float | None = None,
        total: float | None = None,
        heartbeat: float | None = None,
        on_parent_end: ParentEnd | None = None,
        concurrency: int | None = None,
        concurrency_key: str | None = None,
        triggers: Sequence[Webhook | Cron] = (),
    ) -> F:
        known = name or call.__name__
        if known in self._functions:
            raise ValueError(f"{self.node_id} has two functions called {known}")
        self._functions[known] = Function(
            name=known,
            kind=kind,
            call=call,
            description=description,
            tags=tuple(tags),
            retries=retries,
            retry_delay=retry_delay,
            retry_factor=retry_factor,
            retry_cap=retry_cap,
            retry_jitter=retry_jitter,
            fatal_errors=names_of(fatal_errors),
            retry_errors=names_of(retry_errors),
            timeout=timeout,
            schedule_to_start=schedule_to_start,
            total=total,
            heartbeat=heartbeat,
            on_parent_end=on_parent_end,
            concurrency=concurrency,
            concurrency_key=concurrency_key,
            triggers=tuple(triggers),
        )
        with contextlib.suppress(AttributeError):  # a bound method carries nothing
            call.map = partial(self.map, f"{self.node_id}.{known}")  # type: ignore[attr-defined]
        return call

    async def _with_children(self, work: Callable[[Children], Awaitable[Any]], how: Mapping[str, Any]) -> Any:
        context = current.get()
        reach = self._reach()
        try:
            return await reach.here(work(Children(reach.transport, context, how)))
        except LeaseLost:
            if context is not None:
                context.lost()
            raise

    def _arguments(self, target: str, item: Any) -> Mapping[str, Any]:
        """The arguments that an item stands for. Raises: TypeError."""
        if isinstance(item, Mapping):
            return item
        node_id, _, name = target.partition(".")
        function = self._functions.get(name) if node_id == self.node_id else None
        names = function.signature.names if function else []
        if len(names) != 1:
            raise TypeError(f"an item for {target} is a dict of its arguments by name, not {type(item).__name__}")
        return {names[0]: item}

    def _reach(self) -> Connection:
        """The connection of the serving loop; outside `serve`, one that belongs to the running loop."""
        known = self._connection
        if self._session is None and (known is None or known.loop is not asyncio.get_running_loop()):
            self._connection = Connection(self.server, self._headers)
        if self._connection is None:
            raise RuntimeError("the agent is closing")
        return self._connection

    async def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and connection.loop is asyncio.get_running_loop():
            await connection.aclose()
