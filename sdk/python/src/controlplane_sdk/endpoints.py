"""Endpoints: receivers that are registered once and told of everything that they subscribe to."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from controlplane_sdk.transport import Transport, present


class Endpoint(BaseModel):
    """An endpoint at one moment. Fields that a newer control plane adds are kept.

    `secret` is only there in the answer that made it. `headers`: their names.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    endpoint_id: str = ""
    url: str = ""
    description: str | None = None
    events: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    schedule: tuple[float, ...] = ()
    headers: tuple[str, ...] = ()
    secret: str | None = Field(default=None, repr=False)
    previous_secret_until: datetime | None = None
    state: str = "enabled"
    disabled_at: datetime | None = None
    disabled_by: str | None = None
    disabled_reason: str | None = None
    dead_streak: int = 0
    failing_since: datetime | None = None

    @property
    def enabled(self) -> bool:
        return self.state == "enabled"


class EndpointTest(BaseModel):
    """What a test sent (without what is secret), and what the receiver said."""

    model_config = ConfigDict(frozen=True, extra="allow")

    delivered: bool
    request: Mapping[str, Any]
    response: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EndpointPage:
    """Some endpoints, by name, and the cursor to the next ones."""

    items: Sequence[Endpoint]
    next_cursor: str | None


def new_secret() -> str:
    """`whsec_` and 32 random bytes in base64."""
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()


class Endpoints:
    """`client.endpoints`. Every call may be sent again after a lost answer and says the same thing.

    For that, secrets that nobody gives are made here and not by the control plane.
    """

    def __init__(self, transport: Callable[[], Transport], *, patience_seconds: float) -> None:
        self._transport = transport
        self._patience_seconds = patience_seconds

    async def create(
        self,
        name: str,
        url: str,
        *,
        events: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        secret: str | None = None,
        headers: Mapping[str, str] | None = None,
        schedule: Sequence[float] | None = None,
        description: str | None = None,
    ) -> Endpoint:
        """A new endpoint, with its `secret`; keep it, it is not shown again.

        `events`: the four ends when nothing is said, `["*"]` for all. `targets`: `node.reasoner`, or a node for all of
        it. `schedule`: seconds before each attempt.
        Raises: RequestRefused, also where another endpoint has this name.
        """
        secret = secret or new_secret()
        said = _said(
            name=name,
            url=url,
            events=None if events is None else list(events),
            targets=None if targets is None else list(targets),
            secret=secret,
            headers=None if headers is None else dict(headers),
            schedule=None if schedule is None else list(schedule),
            description=description,
        )
        return Endpoint.model_validate(await self._ask("POST", None, said) | {"secret": secret})

    async def update(
        self,
        endpoint: str,
        *,
        url: str | None = None,
        events: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        headers: Mapping[str, str] | None = None,
        schedule: Sequence[float] | None = None,
        description: str | None = None,
    ) -> Endpoint:
        """What is named changes; what is pending goes to the new `url`. `endpoint`: its name or id.

        Raises: NotFound, RequestRefused.
        """
        said = _said(
            url=url,
            events=None if events is None else list(events),
            targets=None if targets is None else list(targets),
            headers=None if headers is None else dict(headers),
            schedule=None if schedule is None else list(schedule),
            description=description,
        )
        return Endpoint.model_validate(await self._ask("PATCH", endpoint, said))

    async def get(self, endpoint: str) -> Endpoint:
        """The endpoint as it is now. Raises: NotFound."""
        return Endpoint.model_validate(await self._ask("GET", endpoint))

    async def list(self, *, state: str | None = None, limit: int = 50, cursor: str | None = None) -> EndpointPage:
        """Endpoints by name; `state`: enabled or disabled."""
        body = await self._ask("GET", None, state=state, limit=str(limit), cursor=cursor)
        return EndpointPage([Endpoint.model_validate(item) for item in body["items"]], body.get("next_cursor"))

    async def enable(self, endpoint: str) -> Endpoint:
        """It hears of what happens from now on, and what was pending is sent. Raises: NotFound."""
        return Endpoint.model_validate(await self._ask("POST", endpoint, {}, more="/enable"))

    async def disable(self, endpoint: str, reason: str | None = None) -> Endpoint:
        """It is sent nothing; what is pending waits. Raises: NotFound."""
        return Endpoint.model_validate(await self._ask("POST", endpoint, _said(reason=reason), more="/disable"))

    async def rotate(
        self, endpoint: str, *, secret: str | None = None, overlap_seconds: float | None = None
    ) -> Endpoint:
        """Another `secret` signs; the one before signs too for `overlap_seconds`, a day by default.

        Raises: NotFound, RequestRefused.
        """
        secret = secret or new_secret()
        said = _said(secret=secret, overlap_seconds=overlap_seconds)
        return Endpoint.model_validate(await self._ask("POST", endpoint, said, more="/rotate") | {"secret": secret})

    async def test(self, endpoint: str) -> EndpointTest:
        """Send it an event now, and see what was sent and what came back. Raises: NotFound."""
        return EndpointTest.model_validate(await self._ask("POST", endpoint, {}, more="/test"))

    async def delete(self, endpoint: str) -> None:
        """It is told nothing any more; what is pending is dead. Raises: NotFound."""
        await self._ask("DELETE", endpoint)

    async def _ask(
        self,
        method: str,
        endpoint: str | None,
        body: Mapping[str, Any] | None = None,
        *,
        more: str = "",
        **params: str | None,
    ) -> Any:
        path = "/endpoints" if endpoint is None else f"/endpoints/{quote(endpoint, safe='')}{more}"
        return await self._transport().ask(method, path, body, params=params, patience_seconds=self._patience_seconds)


def _said(**words: Any) -> dict[str, Any]:
    return present(words)
