"""Deliveries: what was sent to whom, the feed of all of them in order, and sending them again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Unpack
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from controlplane_sdk.bulk import Bulk, BulkCount, BulkFilter, Bulks
from controlplane_sdk.transport import ANSWER_SECONDS, Transport

WAIT_SECONDS = 20.0
"""How long the control plane may hold a poll of the feed."""
PAGE = 100
SETTLED = ("delivered", "dead")


class Delivery(BaseModel):
    """A delivery at one moment. Fields that a newer control plane adds are kept.

    `body` is what is sent, where it was asked for; `cursor` is the place behind it in the feed. `held_by`: what keeps
    it from its host until `next_attempt_at`: `breaker` or `retry_after`.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    delivery_id: str
    execution_id: str = ""
    run_id: str = ""
    target: str = ""
    event: str
    url: str
    state: str
    endpoint_id: str | None = None
    created_at: datetime | None = None
    next_attempt_at: datetime | None = None
    held_by: str | None = None
    settled_at: datetime | None = None
    attempts: tuple[dict[str, Any], ...] = ()
    body: Any = None
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """Some deliveries, newest first, and the cursor to the next ones."""

    items: Sequence[Delivery]
    next_cursor: str | None


class Feed:
    """Every delivery once, oldest first: `async for delivery in feed`. `cursor` is where to go on another time.

    It stands behind the delivery that was handed out last, so keep it when that one is dealt with: who dies in between
    has that one again, and nothing is missed.
    """

    def __init__(self, read: Callable[[str], Any], *, after: str, follow: bool) -> None:
        self._read = read
        self._follow = follow
        self.cursor = after

    async def __aiter__(self) -> AsyncIterator[Delivery]:
        while True:
            page = await self._read(self.cursor)
            for item in page["items"]:
                delivery = Delivery.model_validate(item)
                self.cursor = delivery.cursor or self.cursor
                yield delivery
            self.cursor = page["next_cursor"]
            if not (self._follow or page["more"]):
                return


class Deliveries:
    """`client.deliveries`."""

    def __init__(self, transport: Callable[[], Transport], *, patience_seconds: float) -> None:
        self._transport = transport
        self._patience_seconds = patience_seconds
        self._bulk = Bulks(transport, patience_seconds=patience_seconds)

    async def list(
        self,
        *,
        state: str | Sequence[str] | None = "dead",
        event: str | None = None,
        target: str | None = None,
        node_id: str | None = None,
        run_id: str | None = None,
        execution_id: str | None = None,
        endpoint_id: str | None = None,
        host: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        ended_after: datetime | None = None,
        ended_before: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> DeliveryPage:
        """The newest first: those that are dead, or of another state, of several, or of any (None).

        `ended_…`: when they were delivered or died. A page may be short although there are more.
        """
        body = await self._ask(
            "GET",
            "",
            {
                "state": _words(state),
                "event": event,
                "target": target,
                "node_id": node_id,
                "run_id": run_id,
                "execution_id": execution_id,
                "endpoint_id": endpoint_id,
                "host": host,
                "created_after": _moment(created_after),
                "created_before": _moment(created_before),
                "ended_after": _moment(ended_after),
                "ended_before": _moment(ended_before),
                "limit": str(limit),
                "cursor": cursor,
            },
        )
        return DeliveryPage([Delivery.model_validate(item) for item in body["items"]], body.get("next_cursor"))

    async def get(self, delivery_id: str) -> Delivery:
        """One delivery with every attempt and its body. Raises: NotFound."""
        return Delivery.model_validate(await self._ask("GET", f"/{quote(delivery_id, safe='')}"))

    def feed(
        self,
        *,
        after: str = "beginning",
        follow: bool = True,
        bodies: bool = True,
        state: str | Sequence[str] | None = None,
        event: str | None = None,
        execution_id: str | None = None,
        endpoint_id: str | None = None,
        host: str | None = None,
        created_after: datetime | None = None,
    ) -> Feed:
        """Every delivery of the namespace, oldest first, from `after` on: a cursor, `beginning` or `now`.

        `follow`: then those that come, for ever and through outages of the control plane; else it ends with the last.
        """
        wanted = {
            "include": "body" if bodies else None,
            "state": _words(state),
            "event": event,
            "execution_id": execution_id,
            "endpoint_id": endpoint_id,
            "host": host,
            "created_after": _moment(created_after),
            "limit": str(PAGE),
            "wait_seconds": f"{WAIT_SECONDS:g}" if follow else None,
        }

        async def read(cursor: str) -> Any:
            return await self._transport().ask(
                "GET",
                "/deliveries",
                params=wanted | {"after": cursor},
                answer_seconds=ANSWER_SECONDS + WAIT_SECONDS,
                patience_seconds=None if follow else self._patience_seconds,
            )

        return Feed(read, after=after, follow=follow)

    async def retry(self, delivery_id: str) -> None:
        """Send it again, now: the same id, the same bytes. Raises: NotFound."""
        await self._ask("POST", f"/{quote(delivery_id, safe='')}/retry")

    async def replay(
        self,
        *,
        reason: str | None = None,
        confirm: bool = False,
        idempotency_key: str | None = None,
        **filter_: Unpack[BulkFilter],
    ) -> Bulk:
        """Send all that match again, delivered or dead: the same ids, the same bytes, a few at a time.

        It goes on by itself (`client.bulk.wait`, `stop`). More than 10,000 need `confirm`. Raises: RequestRefused.
        """
        wanted: BulkFilter = {"state": SETTLED, **filter_}
        return await self._bulk.redrive_deliveries(
            reason=reason, confirm=confirm, idempotency_key=idempotency_key, **wanted
        )

    async def count_replay(self, **filter_: Unpack[BulkFilter]) -> BulkCount:
        """How many `replay` would send, without doing anything. Raises: RequestRefused."""
        wanted: BulkFilter = {"state": SETTLED, **filter_}
        return await self._bulk.dry_run("redrive_deliveries", **wanted)

    async def _ask(self, method: str, path: str, params: Mapping[str, str | None] | None = None) -> Any:
        return await self._transport().ask(
            method, f"/deliveries{path}", params=params, patience_seconds=self._patience_seconds
        )


def _words(said: str | Sequence[str] | None) -> str | None:
    return said if said is None or isinstance(said, str) else ",".join(said)


def _moment(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
