"""The audit log: who changed what, and whether the log of it is whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from controlplane_sdk.transport import Transport

PAGE = 1_000


class AuditRow(BaseModel):
    """What somebody has done. `before` and `after`: the facts that changed. Fields of a newer server are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    audit_id: str
    seq: int
    at: datetime
    actor_kind: str
    actor: str | None = None
    key_id: str | None = None
    actor_namespace: str | None = None
    request_id: str | None = None
    address: str | None = None
    user_agent: str | None = None
    action: str
    object_kind: str
    object_id: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    previous: str
    hash: str


class BrokenRow(BaseModel):
    """The first row that is not what was written, or is not there."""

    model_config = ConfigDict(frozen=True, extra="allow")

    seq: int
    why: str


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Some rows, newest first, and what to give as `before` for the next ones."""

    items: Sequence[AuditRow]
    next_before: int | None


@dataclass(frozen=True, slots=True)
class AuditVerified:
    """Whether the log holds. `head` is worth keeping elsewhere: `verify(head=…)` finds it again on another day."""

    holds: bool
    rows: int
    head: str
    broken: BrokenRow | None


class Audit:
    """`client.audit`, for a key with the scope `admin`. `namespace`: another than its own, for those of `default`."""

    def __init__(self, transport: Callable[[], Transport], *, patience_seconds: float) -> None:
        self._transport = transport
        self._patience_seconds = patience_seconds

    async def list(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        object: str | None = None,  # noqa: A002 - the wire's word
        since: datetime | None = None,
        until: datetime | None = None,
        before: int | None = None,
        limit: int = 50,
        namespace: str | None = None,
    ) -> AuditPage:
        """Who changed what, newest first. `action`: also a beginning, as `key`. A page may be empty and not the last.

        `since` and `until` need their offset from UTC.
        """
        body = await self._ask(
            "/audit",
            actor=actor,
            action=action,
            object=object,
            since=_instant(since),
            until=_instant(until),
            before=None if before is None else str(before),
            limit=str(limit),
            namespace=namespace,
        )
        return AuditPage([AuditRow.model_validate(item) for item in body["items"]], body.get("next_before"))

    async def export(self, *, after: int = 0, namespace: str | None = None) -> AsyncIterator[AuditRow]:
        """Every row behind this one, oldest first."""
        following: int | None = after
        while following is not None:
            body = await self._ask("/audit", after=str(following), limit=str(PAGE), namespace=namespace)
            for item in body["items"]:
                yield AuditRow.model_validate(item)
            following = body.get("next_after")

    async def verify(self, *, head: str | None = None, namespace: str | None = None) -> AuditVerified:
        """Go along the whole log. `head`: one of an earlier day, which must be in it still."""
        rows = 0
        after: str | None = None
        while True:
            body = await self._ask("/audit/verify", after=after, head=head, namespace=namespace)
            rows += body["rows"]
            if body["broken"] is not None or body["complete"]:
                broken = None if body["broken"] is None else BrokenRow.model_validate(body["broken"])
                return AuditVerified(body["holds"], rows, body["head"], broken)
            after = body["end"]

    async def _ask(self, path: str, **params: str | None) -> Any:
        return await self._transport().ask("GET", path, params=params, patience_seconds=self._patience_seconds)


def _instant(at: datetime | None) -> str | None:
    if at is None:
        return None
    if at.tzinfo is None:
        raise ValueError("a moment needs its offset from UTC")
    return at.astimezone(UTC).isoformat()
