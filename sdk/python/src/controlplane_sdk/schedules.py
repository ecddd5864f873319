"""Schedules: executions that the control plane starts by itself, at planned times."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from controlplane_sdk.transport import Transport

Overlap = Literal["skip", "queue", "cancel_other"]
CatchUp = Literal["none", "one", "all"]
Started = TypeVar("Started")


class Schedule(BaseModel):
    """A schedule at one moment. Fields that a newer control plane adds are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    schedule_id: str = ""
    target: str
    cron: str | None = None
    time_zone: str | None = None
    interval_seconds: float | None = None
    run_at: datetime | None = None
    overlap: str = "skip"
    catch_up: str = "one"
    jitter_seconds: float = 0.0
    input: Any = None
    paused: bool = False
    waiting: int = 0
    next_at: datetime | None = None
    last_at: datetime | None = None
    next: tuple[datetime, ...] = ()


class Tick(BaseModel):
    """What became of a planned time: `submitted`, `waiting`, `skipped`, or `missed` (with all up to `until_at`)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    planned_at: datetime
    outcome: str
    by_hand: bool = False
    until_at: datetime | None = None
    execution_id: str | None = None


@dataclass(frozen=True, slots=True)
class SchedulePage:
    """Some schedules, by name, and the cursor to the next ones."""

    items: Sequence[Schedule]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class TickPage:
    """Some ticks, the latest first, and the cursor to the earlier ones."""

    items: Sequence[Tick]
    next_cursor: str | None


class Schedules(Generic[Started]):
    """`client.schedules`. Every call may be sent again after a lost answer and says the same thing."""

    def __init__(
        self,
        transport: Callable[[], Transport],
        started: Callable[[str, str], Started],
        *,
        patience_seconds: float,
    ) -> None:
        self._transport = transport
        self._started = started
        self._patience_seconds = patience_seconds

    async def create(
        self,
        name: str,
        target: str,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - the wire's word
        *,
        cron: str | None = None,
        time_zone: str | None = None,
        interval_seconds: float | None = None,
        run_at: datetime | None = None,
        overlap: Overlap | None = None,
        catch_up: CatchUp | None = None,
        jitter_seconds: float | None = None,
        context: Any = None,
        priority: int | None = None,
        retries: int | None = None,
        timeout_seconds: float | None = None,
        paused: bool | None = None,
        replace: bool = False,
    ) -> Schedule:
        """A new schedule: exactly one of `cron` (in `time_zone`), `interval_seconds` and `run_at` says when.

        `overlap`: what a tick does while one is running; `catch_up`: which of those missed in an outage are made up
        for; `jitter_seconds`: how much later, never earlier, each may come. With `replace` the schedule of this name
        becomes this one. Raises: RequestRefused, also where another schedule has this name; NotFound for the target.
        """
        body: dict[str, Any] = {
            "target": target,
            "input": None if input is None else dict(input),
            "cron": cron,
            "time_zone": time_zone,
            "interval_seconds": interval_seconds,
            "run_at": None if run_at is None else _instant(run_at),
            "overlap": overlap,
            "catch_up": catch_up,
            "jitter_seconds": jitter_seconds,
            "context": context,
            "priority": priority,
            "retries": retries,
            "timeout_seconds": timeout_seconds,
            "paused": paused,
        }
        said = {word: value for word, value in body.items() if value is not None}
        if replace:
            return Schedule.model_validate(await self._ask("PUT", name, said))
        return Schedule.model_validate(await self._ask("POST", None, {"name": name} | said))

    async def get(self, name: str) -> Schedule:
        """The schedule as it is now, with its next five times. Raises: NotFound."""
        return Schedule.model_validate(await self._ask("GET", name))

    async def list(self, *, target: str | None = None, limit: int = 50, cursor: str | None = None) -> SchedulePage:
        """Schedules by name, without their inputs."""
        body = await self._ask("GET", None, target=target, limit=str(limit), cursor=cursor)
        return SchedulePage([Schedule.model_validate(item) for item in body["items"]], body.get("next_cursor"))

    async def next(self, name: str, count: int = 5) -> Sequence[datetime]:
        """When it comes next. Raises: NotFound."""
        body = await self._ask("GET", name, more="/next", count=str(count))
        return [datetime.fromisoformat(at) for at in body["next"]]

    async def ticks(self, name: str, *, limit: int = 50, cursor: str | None = None) -> TickPage:
        """What became of its ticks, the latest first. Raises: NotFound."""
        body = await self._ask("GET", name, more="/ticks", limit=str(limit), cursor=cursor)
        return TickPage([Tick.model_validate(item) for item in body["items"]], body.get("next_cursor"))

    async def pause(self, name: str) -> Schedule:
        """Start nothing until it is resumed. Raises: NotFound."""
        return Schedule.model_validate(await self._ask("POST", name, {}, more="/pause"))

    async def resume(self, name: str) -> Schedule:
        """Go on with the next tick after now. Raises: NotFound."""
        return Schedule.model_validate(await self._ask("POST", name, {}, more="/resume"))

    async def run(self, name: str, *, idempotency_key: str | None = None) -> Started:
        """Start now what it starts, whatever is planned, running or paused. Raises: NotFound."""
        key = idempotency_key or uuid.uuid4().hex
        body = await self._ask("POST", name, {}, more="/run", headers={"Idempotency-Key": key})
        return self._started(body["execution_id"], body.get("run_id", ""))

    async def delete(self, name: str) -> None:
        """Forget it; what it has started goes on. Raises: NotFound."""
        await self._ask("DELETE", name)

    async def _ask(
        self,
        method: str,
        name: str | None,
        body: Mapping[str, Any] | None = None,
        *,
        more: str = "",
        headers: Mapping[str, str] | None = None,
        **params: str | None,
    ) -> Any:
        path = "/schedules" if name is None else f"/schedules/{quote(name, safe='')}{more}"
        return await self._transport().ask(
            method,
            path,
            body,
            headers=headers,
            params=params,
            patience_seconds=self._patience_seconds,
        )


def _instant(at: datetime) -> str:
    if at.tzinfo is None:
        raise ValueError("run_at needs a time zone: a local time would be another moment in every zone")
    return at.isoformat()
