"""Triggers: outside senders whose signed events become executions, and what came in from them.

`webhook` and `cron` declare in code what starts a reasoner: `@app.reasoner(triggers=[webhook(…), cron(…)])`.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from controlplane_sdk import strict_json
from controlplane_sdk.errors import RequestRefused
from controlplane_sdk.schedules import CatchUp, Overlap
from controlplane_sdk.transport import Transport, present

Preset = Literal["github", "stripe", "slack", "standard", "hmac", "bearer"]
Started = TypeVar("Started")

EXISTS = "trigger_exists"
WHOLE: Mapping[str, str] = {"event": ""}
"""The arguments when nothing is said: the whole event is `event`."""


class Trigger(BaseModel):
    """A trigger at one moment, without its secret. Fields that a newer control plane adds are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    trigger_id: str = ""
    slug: str = ""
    url: str = ""
    target: str
    preset: str
    arguments: Mapping[str, str] = Field(default_factory=dict)
    event_types: tuple[str, ...] = ()
    managed_by: str | None = None
    previous_secret_until: datetime | None = None
    paused: bool = False
    paused_reason: str | None = None


class TriggerEvent(BaseModel):
    """What came in, and what became of it: `submitted`, `filtered`, `held` or `rejected` (for a `reason`)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    trigger_event_id: str
    key: str
    type: str | None = None
    outcome: str
    reason: str | None = None
    execution_id: str | None = None
    replays: int = 0
    replay_execution_id: str | None = None
    at: datetime
    body: Any = None
    headers: Mapping[str, Any] = Field(default_factory=dict)


class Sample(BaseModel):
    """A request as its sender would make it, signed."""

    model_config = ConfigDict(frozen=True, extra="allow")

    method: str
    url: str
    headers: Mapping[str, str]
    body: str
    curl: str


@dataclass(frozen=True, slots=True)
class TriggerPage:
    """Some triggers, by name, and the cursor to the next ones."""

    items: Sequence[Trigger]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class TriggerEventPage:
    """Some events, the newest first, and the cursor to the older ones."""

    items: Sequence[TriggerEvent]
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """An outside sender that starts a reasoner, as the code of a node declares it."""

    slug: str
    preset: str
    secret_env: str
    arguments: Mapping[str, str] = field(default_factory=lambda: dict(WHOLE))
    event_types: Sequence[str] = ()
    scheme: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """Planned moments at which a reasoner is started, as the code of a node declares it."""

    expression: str
    tz: str = "UTC"
    input: Mapping[str, Any] | None = None
    overlap: str | None = None
    catch_up: str | None = None
    jitter_seconds: float | None = None
    name: str | None = None

    def key(self) -> str:
        """By what it is known again at the next start: its name, else its words."""
        words = strict_json.encode([self.expression, self.tz, None if self.input is None else dict(self.input)])
        return self.name or hashlib.sha256(words).hexdigest()[:12]


def webhook(
    *,
    slug: str,
    preset: Preset,
    secret_env: str,
    arguments: Mapping[str, str] | None = None,
    event_types: Sequence[str] = (),
    header: str | None = None,
    prefix: str | None = None,
    algorithm: str | None = None,
    encoding: str | None = None,
    signed: str | None = None,
    timestamp_header: str | None = None,
    id_from: str | None = None,
    type_from: str | None = None,
    tolerance_seconds: float | None = None,
) -> Webhook:
    """What somebody sends to `/hooks/{slug}`, signed with the secret in the environment variable `secret_env`.

    `arguments`: argument → JSON pointer into the event ("" is all of it) or `header:NAME`; without any the whole is
    `event`. `event_types`: those that start it, else all. The rest says how an `hmac` or `bearer` sender signs.
    """
    scheme = {
        "header": header,
        "prefix": prefix,
        "algorithm": algorithm,
        "encoding": encoding,
        "signed": signed,
        "timestamp_header": timestamp_header,
        "id_from": id_from,
        "type_from": type_from,
        "tolerance_seconds": tolerance_seconds,
    }
    return Webhook(
        slug=slug,
        preset=preset,
        secret_env=secret_env,
        arguments=dict(WHOLE if arguments is None else arguments),
        event_types=tuple(event_types),
        scheme={word: value for word, value in scheme.items() if value is not None},
    )


def cron(
    expression: str,
    *,
    tz: str = "UTC",
    input: Mapping[str, Any] | None = None,  # noqa: A002 - the wire's word
    overlap: Overlap | None = None,
    catch_up: CatchUp | None = None,
    jitter_seconds: float | None = None,
    name: str | None = None,
) -> Cron:
    """A schedule: five fields, in the time zone `tz`. With a `name` it stays the same one when its words change."""
    return Cron(
        expression=expression,
        tz=tz,
        input=input,
        overlap=overlap,
        catch_up=catch_up,
        jitter_seconds=jitter_seconds,
        name=name,
    )


class Triggers(Generic[Started]):
    """`client.triggers`. Every call may be sent again after a lost answer and says the same thing."""

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
        *,
        preset: Preset | str,
        secret: str,
        arguments: Mapping[str, str] | None = None,
        event_types: Sequence[str] | None = None,
        managed_by: str | None = None,
        paused: bool | None = None,
        replace: bool = False,
        **scheme: Any,
    ) -> Trigger:
        """A new trigger, at `/hooks/{name}`; with `replace` the one of this name becomes this one.

        `scheme`: `header`, `prefix`, `algorithm`, `encoding`, `signed`, `timestamp_header`, `id_from`, `type_from` for
        the presets `hmac` and `bearer`, and `tolerance_seconds`.
        Raises: RequestRefused, also where another trigger has this name; NotFound for the target.
        """
        said = _said(
            target=target,
            preset=preset,
            secret=secret,
            arguments=None if arguments is None else dict(arguments),
            event_types=None if event_types is None else list(event_types),
            managed_by=managed_by,
            **scheme,
        )
        try:
            made = await self._ask("POST", None, {"name": name} | said | _said(paused=paused))
        except RequestRefused as error:
            if not replace or error.code != EXISTS:
                raise
            made = await self._ask("PATCH", name, {"arguments": dict(WHOLE), "event_types": []} | said)
        return Trigger.model_validate(made)

    async def change(
        self,
        name: str,
        *,
        target: str | None = None,
        secret: str | None = None,
        overlap_seconds: float | None = None,
        arguments: Mapping[str, str] | None = None,
        event_types: Sequence[str] | None = None,
        **scheme: Any,
    ) -> Trigger:
        """What is named changes. The secret before is taken for `overlap_seconds` more, a day by default.

        Raises: NotFound, RequestRefused.
        """
        said = _said(
            target=target,
            secret=secret,
            overlap_seconds=overlap_seconds,
            arguments=None if arguments is None else dict(arguments),
            event_types=None if event_types is None else list(event_types),
            **scheme,
        )
        return Trigger.model_validate(await self._ask("PATCH", name, said))

    async def get(self, name: str) -> Trigger:
        """The trigger as it is now. Raises: NotFound."""
        return Trigger.model_validate(await self._ask("GET", name))

    async def list(
        self,
        *,
        target: str | None = None,
        managed_by: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> TriggerPage:
        """Triggers by name."""
        body = await self._ask("GET", None, target=target, managed_by=managed_by, limit=str(limit), cursor=cursor)
        return TriggerPage([Trigger.model_validate(item) for item in body["items"]], body.get("next_cursor"))

    async def pause(self, name: str, reason: str | None = None) -> Trigger:
        """What comes in is kept, and starts nothing until it is resumed. Raises: NotFound."""
        return Trigger.model_validate(await self._ask("POST", name, _said(reason=reason), more="/pause"))

    async def resume(self, name: str) -> Trigger:
        """What comes in starts something again; what was held can be replayed. Raises: NotFound."""
        return Trigger.model_validate(await self._ask("POST", name, {}, more="/resume"))

    async def delete(self, name: str) -> None:
        """Close the door; what has come in goes on. Raises: NotFound."""
        await self._ask("DELETE", name)

    async def test(self, name: str, body: Any = None, *, event_type: str | None = None) -> Sample:
        """A signed sample request, also as a line for curl. Raises: NotFound."""
        return Sample.model_validate(
            await self._ask("POST", name, _said(body=body, event_type=event_type), more="/test")
        )

    async def events(
        self, name: str, *, outcome: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> TriggerEventPage:
        """What came in, the newest first, without bodies. Raises: NotFound."""
        body = await self._ask("GET", name, more="/events", outcome=outcome, limit=str(limit), cursor=cursor)
        return TriggerEventPage([TriggerEvent.model_validate(one) for one in body["items"]], body.get("next_cursor"))

    async def event(self, name: str, trigger_event_id: str) -> TriggerEvent:
        """One event with its body. Raises: NotFound."""
        return TriggerEvent.model_validate(await self._ask("GET", name, more=f"/events/{quote(trigger_event_id)}"))

    async def replay(self, name: str, trigger_event_id: str, *, idempotency_key: str | None = None) -> Started:
        """Start what an event starts once more, with the trigger as it is today. Raises: NotFound, RequestRefused."""
        key = idempotency_key or uuid.uuid4().hex
        path = f"/events/{quote(trigger_event_id)}/replay"
        body = await self._ask("POST", name, {}, more=path, headers={"Idempotency-Key": key})
        return self._started(body["execution_id"], body.get("run_id", ""))

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
        path = "/triggers" if name is None else f"/triggers/{quote(name, safe='')}{more}"
        return await self._transport().ask(
            method,
            path,
            body,
            headers=headers,
            params=params,
            patience_seconds=self._patience_seconds,
        )


def _said(**words: Any) -> dict[str, Any]:
    return present(words)
