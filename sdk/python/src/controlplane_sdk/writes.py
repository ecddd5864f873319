"""Atomic groups of writes on their way: many in one request, and repeated until each of them is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from controlplane_sdk.errors import ServerError, ServerUnavailable, ServerUnreachable
from controlplane_sdk.lane import Lane
from controlplane_sdk.transport import Backoff, Transport, refusal

GROUPS_MAX = 100
BYTES_MAX = 4 * 1024 * 1024
PATIENCE_SECONDS = 120.0


class Written(NamedTuple):
    """What became of a group."""

    status: int
    code: str
    body: dict[str, Any]

    def expect(self) -> dict[str, Any]:
        """What a committed group is answered with. Raises: LeaseLost, RequestRefused."""
        if self.status != 200:
            raise refusal(self.status, self.code, self.body)
        return self.body


class Writes:
    """A lane to one path. Repeating a group changes nothing, so every failure to reach the control plane is retried,
    for up to two minutes."""

    def __init__(self, transport: Transport, path: str, *, name: str) -> None:
        self._transport = transport
        self._path = path
        self._name = name
        self._lane: Lane[bytes, Written] = Lane(
            self._send, size=len, items_max=GROUPS_MAX, bytes_max=BYTES_MAX, name=name
        )

    async def put(self, group: bytes) -> dict[str, Any]:
        """Return when the group is committed. Raises: LeaseLost, RequestRefused, ServerUnreachable."""
        return (await self._lane.put(group)).expect()

    async def idle(self) -> None:
        await self._lane.idle()

    def close(self) -> None:
        self._lane.close()

    async def _send(self, groups: Sequence[bytes]) -> list[Written]:
        backoff = Backoff()
        began = time.monotonic()
        results: list[Written | None] = [None] * len(groups)
        open_ = list(range(len(groups)))
        while True:
            try:
                answers = await self._send_once([groups[number] for number in open_])
            except (ServerUnreachable, ServerUnavailable):
                if time.monotonic() - began >= PATIENCE_SECONDS:
                    raise
            else:
                for number, answer in zip(open_, answers, strict=True):
                    results[number] = answer
                open_ = [number for number in open_ if (results[number] or _NONE).status >= 500]
                if not open_ or time.monotonic() - began >= PATIENCE_SECONDS:
                    return [result or _NONE for result in results]
            await asyncio.sleep(backoff.next_seconds())

    async def _send_once(self, groups: Sequence[bytes]) -> list[Written]:
        reply = await self._transport.send("POST", self._path, b'{"writes":[' + b",".join(groups) + b"]}")
        if reply.ok:
            found = reply.body.get("results") if isinstance(reply.body, dict) else None
            if not isinstance(found, list) or len(found) != len(groups):
                raise ServerError(f"the control plane did not answer each write of {self._name}")
            return [Written(int(item["http_status"]), str(item.get("code") or ""), item) for item in found]
        if len(groups) == 1:
            return [Written(reply.status, reply.code, reply.body if isinstance(reply.body, dict) else {})]
        # Refused as a whole: one of them cannot be read, or they are too many. Halve until it stands alone.
        middle = len(groups) // 2
        return [*await self._send_once(groups[:middle]), *await self._send_once(groups[middle:])]


_NONE = Written(500, "no_answer", {})
