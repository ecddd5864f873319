"""The life of a node process: connect, lease, run, report, drain, close."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Mapping
from typing import Any

from controlplane_sdk import report as reports
from controlplane_sdk import strict_json
from controlplane_sdk.attempt import STOP_GRACE_SECONDS, Attempt, Ending
from controlplane_sdk.checkpoints import Keys
from controlplane_sdk.connection import Connection
from controlplane_sdk.contact import Contact
from controlplane_sdk.context import Context, Fence, read_lease
from controlplane_sdk.durable import Durable
from controlplane_sdk.errors import ServerError, ServerUnavailable
from controlplane_sdk.heartbeat import SESSION_GONE, Watchdog
from controlplane_sdk.membership import Membership
from controlplane_sdk.node import Node
from controlplane_sdk.report import Report
from controlplane_sdk.results import Results
from controlplane_sdk.roster import Roster
from controlplane_sdk.trace import Trace
from controlplane_sdk.transport import Backoff, Reply

LEASE_WAIT_SECONDS = 25.0
LEASE_MAX = 256
LEASE_PACE_SECONDS = 0.5
TIMEOUT_MARGIN_SECONDS = 1.0
UNREPORTED_MAX = 1000
TRACE_GRACE_SECONDS = 1.0
FLUSH_SECONDS = 10.0
UNKNOWN_TRIES = 10

_log = logging.getLogger("controlplane_sdk")


class Session:
    """One process of a node at one control plane. It reconnects for as long as it is not asked to stop."""

    def __init__(self, node: Node, connection: Connection, headers: Mapping[str, str]) -> None:
        self._node = node
        self._connection = connection
        transport = connection.transport
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._contact = Contact(transport.server)
        self._roster = Roster()
        self._room = asyncio.Event()
        self._draining = False
        self._deliveries: set[asyncio.Task[None]] = set()
        self._watchdog = Watchdog(_log)
        self._membership = Membership(
            node,
            transport,
            headers,
            held=self._roster.held,
            contact=self._contact,
            on_answer=self._answered,
            on_closed=self._closed,
        )
        self._results = Results(
            transport, session_id=self._membership.opened, on_gone=self._membership.gone, contact=self._contact
        )
        self.trace = Trace(self._loop, self._post_trace, self._lost)

    async def serve(self, stop: asyncio.Event, hurry: asyncio.Event) -> None:
        """Work until `stop` is set, then drain: let the running finish, hand back the rest. `hurry` cuts that short.

        Raises: RequestRefused when the control plane refuses the very first registration.
        """
        self._watchdog.start()
        try:
            await self._lease_until(stop)
            await _unless(hurry, self._drain())
        finally:
            await self._close()

    async def opened(self) -> None:
        """The node is registered and this process is one of its."""
        await self._membership.opened()

    def waiting(self, fence: Fence, change: int) -> None:
        """The attempt has begun (+1) or ended (-1) to wait for others; meanwhile its slot is free."""
        if attempt := self._roster.find(fence):
            attempt.waits += change
            self._room.set()

    # What the control plane says.

    def _answered(self, answer: dict[str, Any]) -> None:
        draining = bool(answer.get("draining"))
        if draining != self._draining:
            self._draining = draining
            self._room.set()
            _log.info("%s: %s", self._node.node_id, "asked to drain: no new work" if draining else "taking work again")
        for item in answer.get("cancel") or []:
            self._stop(Fence(str(item["execution_id"]), int(item["attempt"])), "cancelled")
        if answer.get("tell_all"):
            self._membership.tell_all()
        for item in answer.get("lost") or []:
            self._lost(Fence(str(item["execution_id"]), int(item["attempt"])))

    def _closed(self) -> None:
        running = self._roster.attempts()
        _log.warning("the session is closed; %d running attempts are lost; opening a new one", len(running))
        self._draining = False
        self._room.set()
        for attempt in running:
            attempt.stop("lost")

    def _lost(self, fence: Fence) -> None:
        self._stop(fence, "lost")

    def _stop(self, fence: Fence, ending: Ending) -> None:
        if attempt := self._roster.find(fence):
            if attempt.ending is None:
                _log.info("%s [%s] is %s", attempt.context.target, fence, ending)
            attempt.stop(ending)

    # Lease and run.

    async def _lease_until(self, stop: asyncio.Event) -> None:
        leasing = asyncio.create_task(self._lease_on(), name="controlplane-lease")
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({leasing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if leasing.done():
                leasing.result()
        finally:
            leasing.cancel()
            stopping.cancel()
            await asyncio.wait({leasing, stopping})
        self._membership.tell_all()  # A lease whose answer was cut off here is freed by the next full list.

    async def _lease_on(self) -> None:
        backoff = Backoff()
        wait_seconds = LEASE_WAIT_SECONDS
        while True:
            session_id = self._membership.session_id or await self._membership.connect()
            free = await self._free_slots()
            if session_id != self._membership.session_id:
                continue
            began = self._loop.time()
            try:
                leases = await self._lease(session_id, free, wait_seconds)
            except ServerError as error:
                wait_seconds = 0.0  # The next answer should come at once, be it only to say that there is one.
                self._contact.lost("lease", error)
                self._membership.tell_all()
                await asyncio.sleep(backoff.next_seconds())
                continue
            backoff.reset()
            wait_seconds = LEASE_WAIT_SECONDS
            for lease in leases:
                self._begin(lease)
            if leases:
                self._membership.tell_all()
                await asyncio.sleep(0)  # What was leased begins before the next poll is written, not after it.
            elif self._loop.time() - began < LEASE_PACE_SECONDS:
                await asyncio.sleep(LEASE_PACE_SECONDS)

    async def _free_slots(self) -> int:
        while self._membership.session_id is not None:
            self._room.clear()
            free = self._node.slots - self._roster.busy()
            if free > 0 and not self._draining and self._roster.unacknowledged() < UNREPORTED_MAX:
                return min(free, LEASE_MAX)
            # A thread that was given up frees its slot without a word, so look again now and then.
            await _at_most(1.0, self._room.wait())
        return 0

    async def _lease(self, session_id: str, free: int, wait_seconds: float) -> list[dict[str, Any]]:
        body = strict_json.encode({"max": free, "wait_seconds": wait_seconds})
        path = f"/sessions/{session_id}/lease"
        reply = await self._transport.send("POST", path, body, answer_seconds=LEASE_WAIT_SECONDS + 10)
        if reply.code in SESSION_GONE or reply.code == "node_not_found":
            self._membership.gone(session_id, reply)
            return []
        leases = list(reply.expect()["leases"])
        self._contact.made("lease")
        return leases

    def _begin(self, lease: dict[str, Any]) -> None:
        try:
            context = read_lease(lease, node_id=self._node.node_id)
        except (KeyError, TypeError, ValueError) as error:
            _log.error("a lease cannot be read and is left to the control plane: %r", error)
            return
        for earlier in self._roster.same_execution(context.fence):
            earlier.stop("lost")
        function = self._node.functions.get(context.reasoner)
        if function is None:
            self._hand_back_unknown(context)
            return
        context.trace = self.trace
        context.keys = Keys()
        context.durable = Durable(
            context,
            self._connection,
            stored=lease.get("steps"),
            waiting=lambda change: self.waiting(context.fence, change),
        )
        attempt = Attempt(context, function)
        context.lose = attempt.lose
        self._roster.add(attempt)
        attempt.task = self._loop.create_task(self._carry(attempt), name=f"{context.target} {context.fence}")
        context.durable.task = attempt.task
        # A task that is cancelled before its first step never runs: only the callback is sure to come.
        attempt.task.add_done_callback(lambda _: self._ended(attempt))
        if context.deadline_in_seconds is not None:
            # By then the control plane has ended it, and says so to a heartbeat that names it.
            overdue = self._loop.call_later(
                context.deadline_in_seconds + TIMEOUT_MARGIN_SECONDS, self._membership.tell_all
            )
            attempt.task.add_done_callback(lambda _: overdue.cancel())

    async def _carry(self, attempt: Attempt) -> None:
        await attempt.run()
        # Lines of an attempt are refused once it has ended, so they go first; but they hold nothing up for long.
        if self.trace.holds(attempt.fence):
            await _at_most(TRACE_GRACE_SECONDS, self.trace.settled(attempt.fence))

    def _ended(self, attempt: Attempt) -> None:
        last_word = attempt.last_word
        if not self._roster.end(attempt, reported=last_word is not None):
            return
        if attempt.context.keys is not None:
            attempt.context.keys.forget()
        self._room.set()
        if last_word is not None:
            self._deliver(last_word)

    def _deliver(self, report: Report) -> None:
        async def deliver() -> None:
            try:
                await self._results.deliver(report)
            finally:
                self._roster.acknowledge(report.fence)
                self._room.set()

        task = self._loop.create_task(deliver())
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)

    def _hand_back_unknown(self, context: Context) -> None:
        """While a new version is rolled out another process may know the reasoner: hand it back, but not for ever."""
        _log.warning("%s [%s] is not served here", context.target, context.fence)
        if context.attempt < UNKNOWN_TRIES:
            self._loop.call_later(1.0, self._deliver, reports.released(context.fence))
        else:
            error = LookupError(f"{context.target} is not served by this version of the node")
            self._deliver(reports.failed(context.fence, error, 0))

    async def _post_trace(self, path: str, body: bytes, headers: dict[str, str]) -> Reply:
        session_id = await self._membership.opened()
        path = path.replace("{session}", f"/sessions/{session_id}")
        reply = await self._transport.send("POST", path, body, headers=headers)
        if reply.code in SESSION_GONE:
            self._membership.gone(session_id)
            raise ServerUnavailable(reply.code)
        return reply

    # Stop.

    async def _drain(self) -> None:
        node = self._node
        if running := self._roster.attempts():
            _log.info("%s: draining, %d running, at most %.0f s", node.node_id, len(running), node.drain_seconds)
            await asyncio.wait(_tasks(running), timeout=node.drain_seconds)
        if rest := self._roster.attempts():
            _log.info("%s: handing back %d unfinished attempts", node.node_id, len(rest))
            for attempt in rest:
                attempt.stop("released")
            await asyncio.wait(_tasks(rest), timeout=STOP_GRACE_SECONDS)
        for attempt in self._roster.attempts():
            self._ended(attempt)  # It swallows the cancellation; its lease is given up all the same.
        lines = asyncio.ensure_future(self.trace.settled())
        await asyncio.wait({lines, *self._deliveries}, timeout=FLUSH_SECONDS)
        lines.cancel()

    async def _close(self) -> None:
        for attempt in self._roster.attempts():
            attempt.stop("lost")
        self._watchdog.stop()
        await self._membership.close()
        self._results.close()
        self.trace.close()
        for task in list(self._deliveries):
            task.cancel()
        await asyncio.to_thread(self._watchdog.join, 2.0)
        _log.info("%s: closed", self._node.node_id)


def _tasks(attempts: list[Attempt]) -> set[asyncio.Task[None]]:
    return {attempt.task for attempt in attempts if attempt.task is not None}


async def _at_most(seconds: float, work: Awaitable[object]) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(work, seconds)


async def _unless(event: asyncio.Event, work: Awaitable[None]) -> None:
    """Do the work, or leave it when the event comes."""
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        working.cancel()
        waiting.cancel()
        await asyncio.wait({working, waiting})
