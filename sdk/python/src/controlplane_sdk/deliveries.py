"""Deliveries: webhooks that nobody took, and sending them again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from controlplane_sdk.transport import Transport


class Delivery(BaseModel):
    """A delivery at one moment. Fields that a newer control plane adds are kept.

    `held_by`: what keeps it from its host until `next_attempt_at`: `breaker` or `retry_after`.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    delivery_id: str
    execution_id: str = ""
    target: str = ""
    event: str
    url: str
    state: str
    next_attempt_at: datetime | None = None
    held_by: str | None = None
    settled_at: datetime | None = None
    attempts: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """Some deliveries, newest first, and the cursor to the next ones."""

    items: Sequence[Delivery]
    next_cursor: str | None


class Deliveries:
    """`client.deliveries`."""

    def __init__(self, transport: Callable[[], Transport], *, patience_seconds: float) -> None:
        self._transport = transport
        self._patience_seconds = patience_seconds

    async def list(
        self,
        *,
        target: str | None = None,
        node_id: str | None = None,
        run_id: str | None = None,
        host: str | None = None,
        ended_after: datetime | None = None,
        ended_before: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> DeliveryPage:
        """Those that are dead, newest first. `ended_…`: when they died."""
        wanted = {
            "target": target,
            "node_id": node_id,
            "run_id": run_id,
            "host": host,
            "ended_after": None if ended_after is None else ended_after.isoformat(),
            "ended_before": None if ended_before is None else ended_before.isoformat(),
            "cursor": cursor,
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        body = await self._ask("GET", "", {"state": "dead", "limit": str(limit)} | given)
        return DeliveryPage([Delivery.model_validate(item) for item in body["items"]], body.get("next_cursor"))

    async def retry(self, delivery_id: str) -> None:
        """Send it again, now: the same id, the same bytes. Raises: NotFound."""
        await self._ask("POST", f"/{quote(delivery_id, safe='')}/retry")

    async def _ask(self, method: str, path: str, params: Mapping[str, str] | None = None) -> Any:
        return await self._transport().ask(
            method, f"/deliveries{path}", params=params, patience_seconds=self._patience_seconds
        )
