"""For programs that start executions and wait for them, without being a node."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

from controlplane_sdk import executions, signals, steps, strict_json
from controlplane_sdk.audit import Audit
from controlplane_sdk.bulk import Bulks
from controlplane_sdk.connection import Connection
from controlplane_sdk.deliveries import Deliveries
from controlplane_sdk.endpoints import Endpoints
from controlplane_sdk.errors import AlreadyFinished, LeaseLost, RequestRefused, ServerUnavailable, ServerUnreachable
from controlplane_sdk.executions import AttemptRecord, Execution, Explanation, Retention
from controlplane_sdk.keys import Keys
from controlplane_sdk.limits import Limits
from controlplane_sdk.memory import Memory
from controlplane_sdk.pauses import Nodes, Pauses
from controlplane_sdk.runs import Runs
from controlplane_sdk.schedules import Schedules
from controlplane_sdk.signals import Approval, Signal
from controlplane_sdk.sse import frames
from controlplane_sdk.steps import Step
from controlplane_sdk.system import System
from controlplane_sdk.transport import (
    Backoff,
    Reply,
    Transport,
    refusal,
    server_url,
    standard_headers,
)
from controlplane_sdk.triggers import Triggers

SILENCE_SECONDS = 75.0
ATTEMPTS_PAGE = 200
LAST_WORD_SECONDS = 2.0
_LAST = {"succeeded": "execution_completed", "cancelled": "execution_cancelled"}
_LAST_TYPES = frozenset({"execution_completed", "execution_failed", "execution_cancelled", "execution_timeout"})
_NOT_SO, _PAUSED, _CANCELLING = "invalid_state", "paused", "cancelling"
_QUIET = frozenset({"connected", "heartbeat"})


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to an execution."""

    type: str
    data: dict[str, Any]
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some executions, newest first, and the cursor to the next ones."""

    items: Sequence[Execution]
    next_cursor: str | None


class Handle:
    """An execution that was started."""

    def __init__(
        self, transport: Transport, execution_id: str, run_id: str = "", patience_seconds: float = 60.0
    ) -> None:
        self.execution_id = execution_id
        self.run_id = run_id
        self._transport = transport
        self._patience_seconds = patience_seconds

    def __repr__(self) -> str:
        return f"Handle({self.execution_id!r})"

    async def status(self) -> Execution:
        """The execution as it is now."""
        return await executions.look(self._transport, self.execution_id, patience_seconds=self._patience_seconds)

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the result, through restarts of the control plane too.

        Raises: ExecutionFailed, ExecutionCancelled, ExecutionTimeout; TimeoutError after `timeout` seconds, and the
        execution goes on.
        """
        try:
            async with asyncio.timeout(timeout):
                ended = await executions.wait(self._transport, self.execution_id)
        except TimeoutError:
            raise TimeoutError(f"{self.execution_id} has not ended within {timeout} s; it goes on") from None
        return ended.outcome()

    async def cancel(self, reason: str | None = None) -> bool:
        """Ask it to stop. False when it had finished already."""
        reply = await self._ask("POST", "cancel", strict_json.encode({"reason": reason} if reason else {}))
        try:
            reply.expect()
        except AlreadyFinished:
            return False
        return True

    async def explain(self) -> Explanation:
        """Why it waits, or what it does, in one sentence with the facts behind it."""
        return Explanation.model_validate((await self._ask("GET", "explain")).expect())

    async def attempts(self) -> Sequence[AttemptRecord]:
        """Every attempt so far, the newest last."""
        found: list[AttemptRecord] = []
        cursor: str | None = "0"
        while cursor is not None:
            asked = {"limit": str(ATTEMPTS_PAGE), "cursor": cursor}
            body = (await self._ask("GET", "attempts", params=asked)).expect()
            found += [AttemptRecord.model_validate(item) for item in body["items"]]
            cursor = body.get("next_cursor")
        return found

    async def pause(self, reason: str | None = None) -> None:
        """Hold it back: an attempt that runs goes on to its end, what would run next waits.

        One that is paused stays so. Raises: AlreadyFinished; RequestRefused when it is being cancelled.
        """
        reply = await self._ask("POST", "pause", strict_json.encode({"reason": reason} if reason else {}))
        if reply.code == _NOT_SO and (await self.status()).status_reason == _PAUSED:
            return  # perhaps by us: the answer was lost
        reply.expect()

    async def resume(self) -> None:
        """Let it go on; one that is not paused does. Raises: AlreadyFinished; RequestRefused when it is cancelled."""
        reply = await self._ask("POST", "resume", b"{}")
        if reply.code == _NOT_SO and (await self.status()).status_reason not in (_PAUSED, _CANCELLING):
            return
        reply.expect()

    async def signal(self, event: str, payload: Any = None, *, idempotency_key: str | None = None) -> Signal:
        """Tell it that something has happened: who waits for this event goes on with the payload, now or later.

        Sent again after a lost answer, or by you with the same `idempotency_key`, it is one signal.
        Raises: NotFound, AlreadyFinished, RequestRefused when too many are kept already.
        """
        return await signals.signal(
            self._transport,
            self.execution_id,
            event,
            payload,
            idempotency_key=idempotency_key,
            patience_seconds=self._patience_seconds,
        )

    async def steps(self) -> Sequence[Step]:
        """What it has done and waits for, the first one first."""
        return await steps.read(self._transport, self.execution_id, patience_seconds=self._patience_seconds)

    async def approval(self) -> Approval:
        """What it asks people, or asked last. Raises: NotFound when it never did."""
        return await signals.approval(self._transport, self.execution_id, patience_seconds=self._patience_seconds)

    async def approve(
        self, feedback: str | None = None, *, response: Any = None, approval_request_id: str | None = None
    ) -> str:
        """Say yes to what it asks; the decision that stands, which is the first one."""
        return await self._decide("approved", feedback, response, approval_request_id)

    async def reject(
        self, feedback: str | None = None, *, response: Any = None, approval_request_id: str | None = None
    ) -> str:
        """Say no to what it asks; the decision that stands, which is the first one."""
        return await self._decide("rejected", feedback, response, approval_request_id)

    async def _decide(self, decision: str, feedback: str | None, response: Any, approval_request_id: str | None) -> str:
        said = {
            "decision": decision,
            "feedback": feedback,
            "response": response,
            "approval_request_id": approval_request_id,
        }
        return await signals.decide(self._transport, self.execution_id, said, patience_seconds=self._patience_seconds)

    async def events(self) -> AsyncIterator[Event]:
        """What happens to the execution from now on, until it has ended. Resumes where a lost connection left off."""
        cursor: str | None = None
        last: Event | None = None
        backoff = Backoff()
        while True:
            try:
                async with aclosing(self._stream(cursor)) as stream:
                    while event := await _next(stream, LAST_WORD_SECONDS if last else None):
                        backoff.reset()
                        cursor = event.id or cursor
                        if event.type in _QUIET:
                            # It may have ended before the stream began: then what is still to come, comes at once.
                            last = last or await self._last_word()
                            continue
                        yield event
                        if event.type in _LAST_TYPES:
                            return
            except (ServerUnreachable, ServerUnavailable):
                pass
            if last is not None:
                yield last
                return
            await asyncio.sleep(backoff.next_seconds())

    async def _ask(
        self, method: str, name: str, body: bytes | None = None, *, params: Mapping[str, str] | None = None
    ) -> Reply:
        path = f"/executions/{quote(self.execution_id, safe='')}/{name}"
        return await self._transport.send_until_answered(
            method, path, body, params=params, patience_seconds=self._patience_seconds
        )

    async def _last_word(self) -> Event | None:
        execution = await self.status()
        if not execution.finished:
            return None
        return Event(_LAST.get(execution.status, "execution_failed"), execution.model_dump(exclude_none=True))

    async def _stream(self, cursor: str | None) -> AsyncGenerator[Event, None]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": cursor} if cursor else {})
        path = f"/executions/{quote(self.execution_id, safe='')}/events"
        pieces = self._transport.stream(path, headers=headers, silence_seconds=SILENCE_SECONDS)
        async with aclosing(pieces), aclosing(frames(pieces)) as found:
            async for frame in found:
                data = strict_json.decode(frame.data.encode())
                if isinstance(data, dict):
                    yield Event(str(data.get("type") or ""), data, frame.id)


class Client:
    """A caller's connection: `async with Client() as client: handle = await client.start("node.fn", items=[…])`."""

    def __init__(
        self, server: str | None = None, api_key: str | None = None, *, patience_seconds: float = 60.0
    ) -> None:
        """`patience_seconds`: how long a control plane that does not answer is tried before the call fails."""
        self.server = server_url(server)
        self._headers = standard_headers(api_key)
        self._patience_seconds = patience_seconds
        self._connection: Connection | None = None
        self.memory = Memory(self._reach)
        self.pauses = Pauses(lambda: self._transport, patience_seconds=patience_seconds)
        self.nodes = Nodes(lambda: self._transport, patience_seconds=patience_seconds)
        self.deliveries = Deliveries(lambda: self._transport, patience_seconds=patience_seconds)
        self.bulk = Bulks(lambda: self._transport, patience_seconds=patience_seconds)
        self.keys = Keys(lambda: self._transport, patience_seconds=patience_seconds)
        self.audit = Audit(lambda: self._transport, patience_seconds=patience_seconds)
        self.runs = Runs(lambda: self._transport, patience_seconds=patience_seconds)
        self.schedules: Schedules[Handle] = Schedules(
            lambda: self._transport, self._handle, patience_seconds=patience_seconds
        )
        self.triggers: Triggers[Handle] = Triggers(
            lambda: self._transport, self._handle, patience_seconds=patience_seconds
        )
        self.endpoints = Endpoints(lambda: self._transport, patience_seconds=patience_seconds)
        self.limits = Limits(lambda: self._transport, patience_seconds=patience_seconds)

    async def __aenter__(self) -> Self:
        self._reach()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()

    async def start(
        self,
        target: str,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - the wire's word
        *,
        webhook: str | Mapping[str, Any] | None = None,
        webhooks: Sequence[str | Mapping[str, Any]] | None = None,
        run_id: str | None = None,
        idempotency_key: str | None = None,
        session_id: str | None = None,
        actor_id: str | None = None,
        context: Any = None,
        priority: int | None = None,
        retries: int | None = None,
        retry: Mapping[str, Any] | None = None,
        timeout_seconds: float | None = None,
        schedule_to_start_seconds: float | None = None,
        total_seconds: float | None = None,
        heartbeat_seconds: float | None = None,
        delay_seconds: float | None = None,
        run_at: datetime | str | None = None,
        concurrency_key: str | None = None,
        concurrency: Mapping[str, Any] | None = None,
        fairness_key: str | None = None,
        **arguments: Any,
    ) -> Handle:
        """Start an execution of `node.reasoner` and return at once. Arguments by name, or as `input`.

        `webhook` is a URL or {"url", "secret", "headers", "events"}, `webhooks` are several. It begins after
        `delay_seconds`, or at `run_at` (a moment with its offset from UTC); from then on it may wait
        `schedule_to_start_seconds` for a node and take `total_seconds` in all, and each attempt `timeout_seconds`, of
        which it may be silent for `heartbeat_seconds`.
        `retry` says more than `retries`: {"max", "backoff", "delay_seconds", "factor", "cap_seconds", "jitter",
        "fatal_errors", "retry_errors"}.
        Of one `concurrency_key` no more run at once than its limit allows; `concurrency` {"key", "max"} sets that limit
        along with the key. Of one `fairness_key` few are ready at once, so that others pass.
        Sent again after a lost answer, it still starts once.
        """
        body = {
            "input": {**(input or {}), **arguments},
            "webhook": _webhook(webhook),
            "webhooks": None if webhooks is None else [_webhook(one) for one in webhooks],
            "context": context,
            "priority": priority,
            "retries": retries,
            "retry": retry,
            "timeout_seconds": timeout_seconds,
            "schedule_to_start_seconds": schedule_to_start_seconds,
            "total_seconds": total_seconds,
            "heartbeat_seconds": heartbeat_seconds,
            "delay_seconds": delay_seconds,
            "run_at": _moment(run_at),
            "concurrency_key": concurrency_key,
            "concurrency": concurrency,
            "fairness_key": fairness_key,
        }
        names = {"X-Run-ID": run_id, "X-Session-ID": session_id, "X-Actor-ID": actor_id}
        names |= {"Idempotency-Key": idempotency_key}
        started = await executions.submit(
            self._transport, target, body, headers=names, patience_seconds=self._patience_seconds
        )
        return self._begun(started)

    async def submit_many(
        self,
        items: Iterable[Mapping[str, Any]],
        *,
        same_run: bool = False,
        run_id: str | None = None,
        idempotency_key: str | None = None,
        session_id: str | None = None,
        actor_id: str | None = None,
    ) -> builtins.list[Handle | RequestRefused | LeaseLost]:
        """Start many executions with few requests, and get a handle for each, or the error that it was refused with.

        An item says `target`, `input` and what else the body of a submit takes, by the same names; session and actor
        hold for all of them. `same_run`: they share one run, `run_id` or a new
        one. Sent again after a lost answer, or by you with the same `idempotency_key` and items, each still starts
        once.
        """
        names = {"X-Run-ID": run_id, "X-Session-ID": session_id, "X-Actor-ID": actor_id}
        answers = await executions.submit_many(
            self._transport,
            [
                {**item, "webhook": _webhook(item.get("webhook")), "run_at": _moment(item.get("run_at"))}
                for item in items
            ],
            same_run=same_run,
            headers=names | {"Idempotency-Key": idempotency_key},
            patience_seconds=self._patience_seconds,
        )
        return [
            self._handle(one["execution_id"], one.get("run_id", ""))
            if one["http_status"] == 202
            else refusal(one["http_status"], one["code"], one)
            for one in answers
        ]

    async def call(self, target: str, input: Mapping[str, Any] | None = None, **arguments: Any) -> Any:  # noqa: A002
        """Start an execution and wait for its result."""
        return await (await self.start(target, input, **arguments)).result()

    async def restart(
        self,
        execution_id: str,
        *,
        scope: Literal["workflow", "execution"] = "workflow",
        reuse: Literal["succeeded-before", "all-succeeded", "none"] = "succeeded-before",
        fork: bool = False,
        reason: str | None = None,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - the wire's word
        context: Any = None,
        webhook: str | Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Handle:
        """Begin the execution's run again from its root, or with `scope="execution"` the execution by itself.

        It is a new execution in a new run, whose memory is empty; the old one stays as it is. Calls that had succeeded
        are answered with what they had found, where target, input and context are equal: those made before the
        execution (of a root: all), all of the old run, or none. `input` and `context` replace the old ones.
        """
        body = {
            "scope": scope,
            "reuse": reuse,
            "fork": fork or None,
            "reason": reason,
            "input": None if input is None else dict(input),
            "context": context,
            "webhook": _webhook(webhook),
        }
        started = await executions.restart(
            self._transport,
            execution_id,
            body,
            headers={"Idempotency-Key": idempotency_key},
            patience_seconds=self._patience_seconds,
        )
        return self._begun(started)

    async def retry(
        self,
        execution_id: str,
        *,
        reuse: Literal["succeeded-before", "none"] = "succeeded-before",
        reason: str | None = None,
        delay_seconds: float | None = None,
        run_at: datetime | str | None = None,
        webhook: str | Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Handle:
        """Ask once more what failed, was cancelled or ran out of time.

        It is a new execution in the same run, whose memory it finds. Calls that had succeeded in the run are answered
        with what they had found, or made again with `reuse="none"`. Raises: RequestRefused when there is nothing to
        retry.
        """
        body = {
            "reuse": reuse,
            "reason": reason,
            "delay_seconds": delay_seconds,
            "run_at": _moment(run_at),
            "webhook": _webhook(webhook),
        }
        started = await executions.retry(
            self._transport,
            execution_id,
            body,
            headers={"Idempotency-Key": idempotency_key},
            patience_seconds=self._patience_seconds,
        )
        return self._begun(started)

    def execution(self, execution_id: str) -> Handle:
        """A handle on an execution that was started elsewhere."""
        return Handle(self._transport, execution_id, patience_seconds=self._patience_seconds)

    async def get(self, execution_id: str) -> Execution:
        """The execution as it is now. Raises: NotFound."""
        return await self.execution(execution_id).status()

    async def explain(self, execution_id: str) -> Explanation:
        """Why the execution waits, or what it does. Raises: NotFound."""
        return await self.execution(execution_id).explain()

    async def attempts(self, execution_id: str) -> Sequence[AttemptRecord]:
        """Every attempt of the execution, the newest last. Raises: NotFound."""
        return await self.execution(execution_id).attempts()

    async def retention(self) -> Retention:
        """How long the control plane keeps what is over."""
        reply = await self._transport.send_until_answered("GET", "/retention", patience_seconds=self._patience_seconds)
        return Retention.model_validate(reply.expect())

    async def system(self) -> System:
        """How it goes with all of it, for a key of the namespace `default`. Raises: RequestRefused."""
        reply = await self._transport.send_until_answered("GET", "/system", patience_seconds=self._patience_seconds)
        return System.model_validate(reply.expect())

    async def pause(self, execution_id: str, reason: str | None = None) -> None:
        """Hold the execution back, as `Handle.pause`. Raises: NotFound, AlreadyFinished, RequestRefused."""
        await self.execution(execution_id).pause(reason)

    async def resume(self, execution_id: str) -> None:
        """Let the execution go on, as `Handle.resume`. Raises: NotFound, AlreadyFinished, RequestRefused."""
        await self.execution(execution_id).resume()

    async def signal(
        self, execution_id: str, event: str, payload: Any = None, *, idempotency_key: str | None = None
    ) -> Signal:
        """Tell the execution that something has happened, as `Handle.signal`."""
        return await self.execution(execution_id).signal(event, payload, idempotency_key=idempotency_key)

    async def steps(self, execution_id: str) -> Sequence[Step]:
        """What the execution has done and waits for. Raises: NotFound."""
        return await self.execution(execution_id).steps()

    async def approval(self, execution_id: str) -> Approval:
        """What the execution asks people, or asked last. Raises: NotFound."""
        return await self.execution(execution_id).approval()

    async def approve(
        self,
        execution_id: str,
        feedback: str | None = None,
        *,
        response: Any = None,
        approval_request_id: str | None = None,
    ) -> str:
        """Say yes to what the execution asks, as `Handle.approve`."""
        handle = self.execution(execution_id)
        return await handle.approve(feedback, response=response, approval_request_id=approval_request_id)

    async def reject(
        self,
        execution_id: str,
        feedback: str | None = None,
        *,
        response: Any = None,
        approval_request_id: str | None = None,
    ) -> str:
        """Say no to what the execution asks, as `Handle.reject`."""
        handle = self.execution(execution_id)
        return await handle.reject(feedback, response=response, approval_request_id=approval_request_id)

    async def list(
        self,
        *,
        status: str | None = None,
        target: str | None = None,
        run_id: str | None = None,
        node_id: str | None = None,
        session_key: str | None = None,
        actor_key: str | None = None,
        error_class: str | None = None,
        created_after: datetime | str | None = None,
        created_before: datetime | str | None = None,
        ended_after: datetime | str | None = None,
        ended_before: datetime | str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Executions that match, newest first. Moments know their offset from UTC."""
        wanted = {
            "status": status,
            "target": target,
            "run_id": run_id,
            "node_id": node_id,
            "session_key": session_key,
            "actor_key": actor_key,
            "error_class": error_class,
            "created_after": _moment(created_after),
            "created_before": _moment(created_before),
            "ended_after": _moment(ended_after),
            "ended_before": _moment(ended_before),
            "cursor": cursor,
        }
        reply = await self._transport.send_until_answered(
            "GET",
            "/executions",
            params={"limit": str(limit)} | {name: value for name, value in wanted.items() if value is not None},
            patience_seconds=self._patience_seconds,
        )
        body = reply.expect()
        return Page([Execution.model_validate(item) for item in body["items"]], body.get("next_cursor"))

    def _begun(self, started: Mapping[str, Any]) -> Handle:
        return self._handle(started["execution_id"], started.get("run_id", ""))

    def _handle(self, execution_id: str, run_id: str) -> Handle:
        return Handle(self._transport, execution_id, run_id, self._patience_seconds)

    def _reach(self) -> Connection:
        if self._connection is None:
            self._connection = Connection(self.server, self._headers)
        return self._connection

    @property
    def _transport(self) -> Transport:
        return self._reach().transport


def _webhook(given: str | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return {"url": given} if isinstance(given, str) else given


def _moment(given: datetime | str | None) -> str | None:
    """A moment as it is written on the wire. Raises: ValueError when it does not say where its clock stands."""
    if not isinstance(given, datetime):
        return given
    if given.tzinfo is None:
        raise ValueError("A moment (run_at, …) needs a time zone: datetime.now(UTC) + timedelta(hours=1)")
    return given.isoformat()


async def _next(stream: AsyncIterator[Event], within_seconds: float | None) -> Event | None:
    try:
        async with asyncio.timeout(within_seconds):
            return await anext(stream)
    except (StopAsyncIteration, TimeoutError):
        return None
