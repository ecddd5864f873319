"""Bulk: one action on everything that a filter matches, done by the control plane itself, batch by batch."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict, Unpack
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from controlplane_sdk.transport import Transport

Action = Literal["cancel", "retry", "redrive_deliveries", "pause", "resume"]
FIRST_LOOK_SECONDS = 0.05
LOOK_CAP_SECONDS = 1.0


class BulkFilter(TypedDict, total=False):
    """Which ones: all that is said must hold. `ids` stand alone. Moments know their offset from UTC."""

    status: str | Sequence[str]
    target: str
    node_id: str
    run_id: str
    session_key: str
    actor_key: str
    error_class: str
    host: str
    created_after: datetime | str
    created_before: datetime | str
    ended_after: datetime | str
    ended_before: datetime | str
    ids: Sequence[str]
    state: str | Sequence[str]
    event: str
    endpoint_id: str


class BulkCount(BaseModel):
    """How many match: exactly, or at least so many; and some of them."""

    model_config = ConfigDict(frozen=True, extra="allow")

    action: str
    matched: int
    exact: bool
    sample: tuple[str, ...] = ()


class Bulk(BaseModel):
    """A bulk at one moment. Fields that a newer control plane adds are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    bulk_id: str
    action: str
    state: str
    matched: int
    exact: bool = True
    done: int = 0
    skipped: int = 0
    failed: int = 0
    skipped_reasons: dict[str, int] = {}
    failed_reasons: dict[str, int] = {}
    errors: tuple[dict[str, str], ...] = ()
    reason: str | None = None
    error: str | None = None
    created_at: datetime | None = None
    created_by: str | None = None
    began_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def over(self) -> bool:
        """Whether it is `done`, `stopped` or `failed`."""
        return self.state != "running"


@dataclass(frozen=True, slots=True)
class BulkPage:
    """Some bulks, newest first, and the cursor to the next ones."""

    items: Sequence[Bulk]
    next_cursor: str | None


class Bulks:
    """`client.bulk`. What it begins goes on without this program; sent again after a lost answer, it begins once.

    An empty filter is refused unless `all=True`.
    """

    def __init__(self, transport: Callable[[], Transport], *, patience_seconds: float) -> None:
        self._transport = transport
        self._patience_seconds = patience_seconds

    async def cancel(
        self,
        *,
        all: bool = False,  # noqa: A002 - the wire's word
        reason: str | None = None,
        idempotency_key: str | None = None,
        **filter_: Unpack[BulkFilter],
    ) -> Bulk:
        """Cancel executions that have not ended. Raises: RequestRefused."""
        return await self._begin("cancel", filter_, all, idempotency_key, reason=reason)

    async def retry(
        self,
        *,
        all: bool = False,  # noqa: A002 - the wire's word
        reason: str | None = None,
        reuse: Literal["succeeded-before", "none"] | None = None,
        idempotency_key: str | None = None,
        **filter_: Unpack[BulkFilter],
    ) -> Bulk:
        """Ask once more what has failed or run out of time (with `status="cancelled"` what was cancelled).

        Each at most once: what has a retry already is skipped. Raises: RequestRefused.
        """
        return await self._begin("retry", filter_, all, idempotency_key, reason=reason, reuse=reuse)

    async def redrive_deliveries(
        self,
        *,
        all: bool = False,  # noqa: A002 - the wire's word
        confirm: bool = False,
        reason: str | None = None,
        idempotency_key: str | None = None,
        **filter_: Unpack[BulkFilter],
    ) -> Bulk:
        """Send webhooks again that are dead; with `state=("delivered", "dead")` also those that were taken.

        `confirm`: more than 10,000 that were taken. Raises: RequestRefused.
        """
        more = {"confirm": True} if confirm else {}
        return await self._begin("redrive_deliveries", filter_, all, idempotency_key, reason=reason, **more)

    async def pause(
        self,
        *,
        all: bool = False,  # noqa: A002 - the wire's word
        reason: str | None = None,
        idempotency_key: str | None = None,
        **filter_: Unpack[BulkFilter],
    ) -> Bulk:
        """Hold executions back; what runs of them goes on. Raises: RequestRefused."""
        return await self._begin("pause", filter_, all, idempotency_key, reason=reason)

    async def resume(
        self,
        *,
        all: bool = False,  # noqa: A002 - the wire's word
        reason: str | None = None,
        idempotency_key: str | None = None,
        **filter_: Unpack[BulkFilter],
    ) -> Bulk:
        """Let paused executions go on. Raises: RequestRefused."""
        return await self._begin("resume", filter_, all, idempotency_key, reason=reason)

    async def dry_run(
        self,
        action: Action,
        *,
        all: bool = False,  # noqa: A002 - the wire's word
        **filter_: Unpack[BulkFilter],
    ) -> BulkCount:
        """How many it would be, without doing anything. Raises: RequestRefused."""
        body = {"action": action, "filter": _wire(filter_), "all": all, "dry_run": True}
        return BulkCount.model_validate(await self._ask("POST", "", body))

    async def get(self, bulk_id: str) -> Bulk:
        """How far it is. Raises: NotFound."""
        return Bulk.model_validate(await self._ask("GET", _path(bulk_id)))

    async def stop(self, bulk_id: str) -> Bulk:
        """No further batch begins; what was done stays done. Raises: NotFound, RequestRefused when it is over."""
        return Bulk.model_validate(await self._ask("POST", f"{_path(bulk_id)}/stop", {}))

    async def list(self, *, state: str | None = None, limit: int = 50, cursor: str | None = None) -> BulkPage:
        """Bulks, newest first."""
        body = await self._ask("GET", "", state=state, limit=str(limit), cursor=cursor)
        return BulkPage([Bulk.model_validate(item) for item in body["items"]], body.get("next_cursor"))

    async def wait(self, bulk_id: str, timeout: float | None = None) -> Bulk:
        """The bulk when it is over. Raises: NotFound, TimeoutError."""
        until = None if timeout is None else time.monotonic() + timeout
        pause = FIRST_LOOK_SECONDS
        while not (found := await self.get(bulk_id)).over:
            if until is not None and time.monotonic() + pause > until:
                raise TimeoutError(f"{bulk_id} is not over: {found.done} of {found.matched} are done")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LOOK_CAP_SECONDS)
        return found

    async def _begin(
        self, action: Action, filter_: BulkFilter, everything: bool, idempotency_key: str | None, **more: Any
    ) -> Bulk:
        said = {word: value for word, value in more.items() if value is not None}
        body = {"action": action, "filter": _wire(filter_), "all": everything} | said
        key = idempotency_key or uuid.uuid4().hex
        return Bulk.model_validate(await self._ask("POST", "", body, headers={"Idempotency-Key": key}))

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        **params: str | None,
    ) -> Any:
        return await self._transport().ask(
            method,
            f"/bulk{path}",
            body,
            headers=headers,
            params=params,
            patience_seconds=self._patience_seconds,
        )


def _path(bulk_id: str) -> str:
    return f"/{quote(bulk_id, safe='')}"


def _wire(filter_: BulkFilter) -> dict[str, Any]:
    return {word: _value(word, value) for word, value in filter_.items() if value is not None}


def _value(word: str, value: Any) -> Any:
    """A part of a filter as it is written. Raises: ValueError for a moment that does not say where its clock stands."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{word} needs a time zone: datetime.now(UTC)")
        return value.isoformat()
    return value if isinstance(value, str) else [str(one) for one in value]
