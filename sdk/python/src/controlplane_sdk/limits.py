"""Limits: how many executions may be under way at once, and how many may begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from controlplane_sdk.transport import Transport


class Limit(BaseModel):
    """A limit at one moment: what it `held`, and how many were `blocked` by it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    key: str
    concurrency_max: int | None = None
    declared_max: int | None = None
    rate_max: int | None = None
    rate_seconds: float | None = None
    held: int = 0
    blocked: int = 0
    next_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LimitPage:
    """Some limits, by key, and the cursor to the next ones."""

    items: Sequence[Limit]
    next_cursor: str | None


class Limits:
    """`client.limits`. Keys: `reasoner:node.name`, `node:name`, `key:` and a concurrency key."""

    def __init__(self, transport: Callable[[], Transport], *, patience_seconds: float) -> None:
        self._transport = transport
        self._patience_seconds = patience_seconds

    async def set(
        self,
        key: str,
        *,
        concurrency_max: int | None = None,
        rate_max: int | None = None,
        rate_seconds: float | None = None,
    ) -> Limit:
        """The limit of this key is this one from here on. What runs beyond a lower one runs to its end.

        At most `concurrency_max` are under way at once; at most `rate_max` begin in any `rate_seconds`.
        Raises: RequestRefused.
        """
        said = {"concurrency_max": concurrency_max, "rate_max": rate_max, "rate_seconds": rate_seconds}
        body = {word: value for word, value in said.items() if value is not None}
        return Limit.model_validate(await self._ask("PUT", key, body))

    async def get(self, key: str) -> Limit:
        """The limit as it is now. Raises: NotFound."""
        return Limit.model_validate(await self._ask("GET", key))

    async def list(self, *, limit: int = 50, cursor: str | None = None) -> LimitPage:
        """Limits by key."""
        body = await self._ask("GET", None, limit=str(limit), cursor=cursor)
        return LimitPage([Limit.model_validate(item) for item in body["items"]], body.get("next_cursor"))

    async def delete(self, key: str) -> None:
        """Forget what was set: what waited for it is let in. Raises: NotFound."""
        await self._ask("DELETE", key)

    async def _ask(
        self, method: str, key: str | None, body: Mapping[str, Any] | None = None, **params: str | None
    ) -> Any:
        return await self._transport().ask(
            method,
            "/limits" if key is None else f"/limits/{quote(key, safe='/:')}",
            body,
            params=params,
            patience_seconds=self._patience_seconds,
        )
