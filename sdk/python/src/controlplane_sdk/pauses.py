"""Hold work back: pause and resume a reasoner, a node or everything, and let the processes of a node drain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from controlplane_sdk.transport import Transport


class Pause(BaseModel):
    """What is paused: `scope` is `all`, `node` or `reasoner`. Fields that a newer control plane adds are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    scope: str
    name: str | None = None
    reason: str | None = None
    paused_by: str | None = None
    paused_at: datetime | None = None


class Paused(Pause):
    """The answer to a pause or a resume. `changed`: not so before; `queued` waits, `running` goes on to its end."""

    paused: bool
    changed: bool
    queued: int
    queued_is_more: bool = False
    running: int
    still_paused_by: tuple[Pause, ...] = ()


class Drain(BaseModel):
    """How many processes of a node drain, and what they still run: at 0 they can be stopped."""

    model_config = ConfigDict(frozen=True, extra="allow")

    node_id: str
    changed: bool
    draining: int
    draining_running: int


@dataclass(frozen=True, slots=True)
class PausePage:
    """Some pauses, everything first and then by node, and the cursor to the next ones."""

    items: Sequence[Pause]
    next_cursor: str | None


class Pauses:
    """`client.pauses`. Every call may be sent again after a lost answer and says the same thing but for `changed`."""

    def __init__(self, transport: Callable[[], Transport], *, patience_seconds: float) -> None:
        self._transport = transport
        self._patience_seconds = patience_seconds

    async def list(self, *, limit: int = 50, cursor: str | None = None) -> PausePage:
        """What is paused, by whom and since when."""
        params = {"limit": str(limit), "cursor": cursor}
        body = await self._transport().ask("GET", "/pauses", params=params, patience_seconds=self._patience_seconds)
        return PausePage([Pause.model_validate(item) for item in body["items"]], body.get("next_cursor"))

    async def pause(
        self,
        *,
        reasoner: str | None = None,
        node: str | None = None,
        all: bool = False,  # noqa: A002 - the wire's word
        reason: str | None = None,
    ) -> Paused:
        """Hand out no more work of one of them: what runs goes on, what is submitted waits. Raises: NotFound."""
        return await self._turn(_path(reasoner, node, all), "pause", reason)

    async def resume(
        self,
        *,
        reasoner: str | None = None,
        node: str | None = None,
        all: bool = False,  # noqa: A002 - as above
    ) -> Paused:
        """Hand it out again; what was paused by another name stays so. Raises: NotFound."""
        return await self._turn(_path(reasoner, node, all), "resume", None)

    async def _turn(self, path: str, verb: str, reason: str | None) -> Paused:
        said = {} if reason is None else {"reason": reason}
        body = await self._transport().ask("POST", f"{path}/{verb}", said, patience_seconds=self._patience_seconds)
        return Paused.model_validate(body)


class Nodes:
    """`client.nodes`."""

    def __init__(self, transport: Callable[[], Transport], *, patience_seconds: float) -> None:
        self._transport = transport
        self._patience_seconds = patience_seconds

    async def drain(self, node: str, reason: str | None = None) -> Drain:
        """Let the processes that it has now finish, and give them nothing new. Those started later serve.

        Said again, it tells how much still runs. Raises: NotFound.
        """
        return await self._turn(node, "drain", {} if reason is None else {"reason": reason})

    async def undrain(self, node: str) -> Drain:
        """Give its processes work again. Raises: NotFound."""
        return await self._turn(node, "undrain", {})

    async def forget(self, node: str) -> None:
        """Let a node that is gone for good not be known any more, nor what it served. Its executions stay.

        Raises: NotFound; RequestRefused, which says what stands in the way, while something needs it.
        """
        path = f"/nodes/{quote(node, safe='')}"
        await self._transport().ask("DELETE", path, patience_seconds=self._patience_seconds)

    async def _turn(self, node: str, verb: str, said: Mapping[str, Any]) -> Drain:
        path = f"/nodes/{quote(node, safe='')}/{verb}"
        body = await self._transport().ask("POST", path, said, patience_seconds=self._patience_seconds)
        return Drain.model_validate(body)


def _path(reasoner: str | None, node: str | None, everything: bool) -> str:
    if (reasoner is not None) + (node is not None) + everything != 1:
        raise ValueError("say what: one of reasoner, node and all")
    if reasoner is not None:
        return f"/reasoners/{quote(reasoner, safe='')}"
    return "" if node is None else f"/nodes/{quote(node, safe='')}"
