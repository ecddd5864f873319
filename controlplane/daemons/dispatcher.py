"""Dispatcher: sends webhooks and callbacks that are due. Claim, give the connection back, send, settle.

A slow receiver occupies its own few places and nobody else's: what is claimed at once is limited per host and in all,
and hosts that are full are left out of the next claim. However many hosts hang, some places are left for others
(`places.py`). It looks again when a delivery has ended only where there may be something that waits for that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import orjson

from controlplane.daemons.places import Places, Taken
from controlplane.domain.approval import CALLBACK_SECONDS
from controlplane.domain.breaker import HOLD_SECONDS_MAX, said_by
from controlplane.domain.delivery import USER_AGENT, Attempt, AttemptOutcome, DeliveryState, backoff_seconds, sealed_for
from controlplane.domain.endpoint import sealed_for as sealed_for_endpoint
from controlplane.domain.ids import show, show_execution
from controlplane.domain.placement import Placement
from controlplane.errors import ControlPlaneError
from controlplane.outbound.webhook import WebhookSender
from controlplane.postgres.lane import Lane
from controlplane.postgres.listen import Hints
from controlplane.postgres.pool import Pool
from controlplane.security.secrets import KeyRing, SealBroken
from controlplane.security.signature import signed_headers
from controlplane.stages import deliver
from controlplane.stages.deliver import BEGINNING, Claimed, Due, Place, Sent
from controlplane.stages.endpoint import Patience

log = logging.getLogger(__name__)

LEASE_MARGIN_SECONDS = 30.0
PER_HOST_CLAIM = 4
RECALL_EVERY_SECONDS = 30.0
RECALL_SECONDS = 86_400.0
RECALL_DELIVERIES_MAX = 10_000


class Dispatcher:
    """`jitter` in [0, 1) stretches waits; `told` is called after something was settled.

    `caller` sends what goes to nodes, which other addresses are allowed for than for webhooks.
    """

    def __init__(
        self,
        pool: Pool,
        placement: Placement,
        sender: WebhookSender,
        caller: WebhookSender,
        keyring: KeyRing,
        hints: Hints,
        *,
        jitter: Callable[[], float],
        attempt_seconds: float,
        in_flight_max: int,
        per_host_max: int,
        topic: str,
        told: Callable[[], None],
        patience: Patience,
    ) -> None:
        self._pool = pool
        self._placement = placement
        self._sender = sender
        self._caller = caller
        self._keyring = keyring
        self._hints = hints
        self._jitter = jitter
        self._attempt_seconds = attempt_seconds
        self._topic = topic
        self._told = told
        self._after: dict[int, Place] = {}
        self._recall_at: dict[int, float] = {}
        self._per_host = min(PER_HOST_CLAIM, per_host_max)
        self._places = Places(in_flight_max=in_flight_max, per_host_max=per_host_max)
        self._sending: set[asyncio.Task[None]] = set()
        self._left = True
        """Whether the last look may have left something behind that is due."""
        settle = partial(deliver.settle, patience=patience, freed=partial(hints.wake, topic))
        self._settle: Lane[Sent, None] = Lane(pool, settle, name="deliver", retry_seconds=attempt_seconds)

    async def turn(self) -> int:
        """As `tick`, for a loop that looks again when it is told of any: 0 where nothing can be left that is due."""
        began = await self.tick()
        return began if self._left else 0

    async def tick(self) -> int:
        """Claim what is due as far as there is room, and begin to send it. Says how many."""
        began, left = 0, False
        self._left = True  # who gives a place back while this looks cannot know whether it was missed
        for bucket in self._placement.all():
            if self._after.get(bucket, BEGINNING) != BEGINNING or self._places.for_strangers <= 0:
                began += await self._claim_known(bucket)
            took, some = await self._walk(bucket)
            began, left = began + took, left or some
        self._left = left
        return began

    async def _walk(self, bucket: int) -> tuple[int, bool]:
        """Claim of all hosts in turn, as far as there is room for those of whom nothing good is known.

        Says also whether something may have been left: unless all hosts were looked at, and none gave all it might.
        """
        failing = self._places.for_failing > 0
        room = self._places.for_failing if failing else self._places.for_strangers
        if room <= 0:
            return 0, True
        begun, full = self._after.get(bucket, BEGINNING), self._places.full_hosts(self._per_host)
        claimed = await self._claim(bucket, full, after=begun, limit=room, failing=failing)
        self._after[bucket] = claimed.after
        cut = claimed.after != BEGINNING  # perhaps there was nothing yet, but there are more
        left = begun != BEGINNING or cut or claimed.more or bool(full) or not failing
        return len(claimed.due) or int(cut or claimed.more), left

    async def _claim_known(self, bucket: int) -> int:
        """Claim of the hosts that have answered lately: those before them in the walk may be many, and hang."""
        if self._places.free <= 0:
            return 0
        await self._recall(bucket)
        known, more = self._places.next_known()
        if not known:
            return 0
        full = self._places.full_hosts(self._per_host)
        claimed = await self._claim(bucket, full, limit=self._places.free, only=known)
        return len(claimed.due) or int(more)

    async def _recall(self, bucket: int) -> None:
        """Ask the database who has answered lately: this process may be new, and the others know more."""
        now = time.monotonic()
        if now < self._recall_at.get(bucket, 0.0):
            return
        self._recall_at[bucket] = now + RECALL_EVERY_SECONDS
        async with self._pool.acquire() as conn:
            self._places.recall(
                await deliver.answered(conn, bucket, within_seconds=RECALL_SECONDS, limit=RECALL_DELIVERIES_MAX)
            )

    async def _claim(
        self,
        bucket: int,
        full_hosts: Sequence[str],
        *,
        limit: int,
        after: Place = BEGINNING,
        failing: bool = True,
        only: Sequence[Place] | None = None,
    ) -> Claimed:
        async with self._pool.acquire() as conn:
            claimed_at = time.monotonic()
            claimed = await deliver.claim_due(
                conn,
                bucket,
                after=after,
                full_hosts=full_hosts,
                per_host=self._per_host,
                limit=limit,
                lease_seconds=self._attempt_seconds + LEASE_MARGIN_SECONDS,
                failing=failing,
                only=only,
            )
        for one in claimed.due:
            task = asyncio.create_task(self._deliver(one, self._places.take(one), claimed_at), name="deliver")
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        return claimed

    async def drain(self, seconds: float) -> None:
        """Let what is under way finish; what does not is taken up by its lease."""
        if self._sending:
            _, late = await asyncio.wait(self._sending, timeout=seconds)
            for task in late:
                task.cancel()
        await self._settle.close()

    async def _deliver(self, due: Due, place: Taken, claimed_at: float) -> None:
        delivered = False
        try:
            attempt = await self._send(due, claimed_at)
            self._places.learn(said_by(attempt, host=due.host, namespace=due.namespace, probe=due.probe))
            sent = Sent(due=due, attempt=attempt, state=_state(due, attempt), wait_seconds=self._wait(due, attempt))
            await self._settle.put(sent)
            delivered = sent.state is DeliveryState.DELIVERED
        except ControlPlaneError as error:  # settled by nobody: the lease runs out and it is sent again
            log.warning("delivery.unsettled", extra={"delivery_id": show("dlv", due.id), "error": error.code})
            return
        finally:
            self._places.give_back(place)
            if self._left or not delivered:  # a probe that asked nobody makes room for another
                self._hints.wake(self._topic)
        log.info(
            "delivery.attempted",
            extra={
                "delivery_id": show("dlv", due.id),
                "execution_id": show_execution(due.execution_id),
                "attempt": due.attempt,
                "state": sent.state.value,
                "http_status": attempt.http_status,
                "latency_ms": attempt.latency_ms,
                "error": attempt.error,
            },
        )
        self._told()

    async def _send(self, due: Due, claimed_at: float) -> Attempt:
        if due.endpoint_id is not None and due.endpoint is None:
            return _refused("endpoint_deleted: there is no such endpoint any more", final=True)
        return await (self._call(due) if due.callback else self._send_webhook(due, claimed_at))

    async def _call(self, due: Due) -> Attempt:
        """Tell a process of a node. It is known to us, and what it is told is not secret: nothing is signed."""
        if due.moot:
            return _refused("moot: the attempt that asked no longer holds its lease", final=True)
        headers = {"Content-Type": "application/json", "User-Agent": USER_AGENT}
        return await self._caller.send(url=due.url, body=due.body, headers=headers, total_seconds=self._attempt_seconds)

    async def _send_webhook(self, due: Due, claimed_at: float) -> Attempt:
        try:
            secrets, extra = self._opened(due)
        except SealBroken:
            return _refused("seal: the webhook's secret cannot be opened with this server's key ring", final=False)
        timestamp = int(due.now_seconds + time.monotonic() - claimed_at)
        headers: dict[str, str] = orjson.loads(extra) if extra else {}
        headers |= {"Content-Type": "application/json", "User-Agent": USER_AGENT}
        headers |= signed_headers(secrets, webhook_id=show("dlv", due.id), timestamp=timestamp, body=due.body)
        return await self._sender.send(url=due.url, body=due.body, headers=headers, total_seconds=self._attempt_seconds)

    def _opened(self, due: Due) -> tuple[list[str], bytes | None]:
        """The secrets that sign it, the newest first, and the headers that are sent along."""
        to = due.endpoint
        if to is None:
            secret = self._open(due, "secret", due.secret_sealed)
            return [] if secret is None else [secret.decode()], self._open(due, "headers", due.headers_sealed)
        place = sealed_for_endpoint(to.id, "secret")
        secrets = [self._keyring.open(one, bound_to=place).decode() for one in to.secrets_sealed]
        if to.headers_sealed is None:
            return secrets, None
        return secrets, self._keyring.open(to.headers_sealed, bound_to=sealed_for_endpoint(to.id, "headers"))

    def _open(self, due: Due, what: Literal["secret", "headers"], sealed: bytes | None) -> bytes | None:
        if sealed is None or due.webhook_n is None:
            return None
        return self._keyring.open(sealed, bound_to=sealed_for(due.execution_id, due.webhook_n, what))

    def _wait(self, due: Due, attempt: Attempt) -> float:
        schedule = None if due.endpoint is None else due.endpoint.definition.schedule[1:]
        if due.callback:
            schedule = CALLBACK_SECONDS
        wait = backoff_seconds(due.charged + 1, schedule=schedule, jitter=self._jitter())
        if attempt.retry_after_seconds is not None:
            wait = max(wait, min(attempt.retry_after_seconds, HOLD_SECONDS_MAX))
        return wait


def _refused(error: str, *, final: bool) -> Attempt:
    """An attempt in which nothing was sent."""
    return Attempt(
        outcome=AttemptOutcome.REFUSED,
        http_status=None,
        latency_ms=0,
        error=error,
        response_body=b"",
        retry_after_seconds=None,
        final=final,
    )


def _state(due: Due, attempt: Attempt) -> DeliveryState:
    if attempt.outcome is AttemptOutcome.DELIVERED:
        return DeliveryState.DELIVERED
    if attempt.final or due.charged + 1 >= due.attempts_max:
        return DeliveryState.DEAD
    return DeliveryState.PENDING
