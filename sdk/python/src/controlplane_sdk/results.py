"""Reports on their way: in batches, tried until they are recorded or refused for a reason that will not go away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from controlplane_sdk import report as reports
from controlplane_sdk.contact import Contact
from controlplane_sdk.errors import ServerError, ServerUnavailable
from controlplane_sdk.heartbeat import SESSION_GONE
from controlplane_sdk.lane import Lane
from controlplane_sdk.report import Report
from controlplane_sdk.transport import Backoff, Reply, Transport

ITEMS_MAX = 200
BYTES_MAX = 4 * 1024 * 1024

_log = logging.getLogger("controlplane_sdk")


class Ack(NamedTuple):
    """What the control plane made of a report."""

    code: str
    message: str

    @property
    def settled(self) -> bool:
        return self.code in {"recorded", "already_recorded", "discarded", "lease_lost"}


class Results:
    """The outbox of reports. `session_id` waits for an open session; `on_gone` is told when one is closed."""

    def __init__(
        self,
        transport: Transport,
        *,
        session_id: Callable[[], Awaitable[str]],
        on_gone: Callable[[str], None],
        contact: Contact,
    ) -> None:
        self._transport = transport
        self._session_id = session_id
        self._on_gone = on_gone
        self._contact = contact
        self._lane: Lane[Report, Ack] = Lane(
            self._send, size=lambda item: len(item.body), items_max=ITEMS_MAX, bytes_max=BYTES_MAX, name="results"
        )

    async def deliver(self, item: Report) -> None:
        """Return when the control plane has taken the report, or has said that it is not wanted any more."""
        ack = await self._lane.put(item)
        if ack.settled:
            return
        if item.status in {"succeeded", "waiting"}:
            # An execution must end: what cannot be stored as a result is stored as the reason why not.
            _log.error("%s: the result was refused: %s", item.fence, ack.message)
            ack = await self._lane.put(reports.refused(item.fence, ack.message))
        if not ack.settled:
            _log.error("%s: the report was refused, the lease is left to expire: %s", item.fence, ack.message)

    async def idle(self) -> None:
        await self._lane.idle()

    def close(self) -> None:
        self._lane.close()

    async def _send(self, batch: Sequence[Report]) -> list[Ack]:
        backoff = Backoff()
        while True:
            session_id = await self._session_id()
            body = b'{"results":[' + b",".join(item.body for item in batch) + b"]}"
            try:
                reply = await self._transport.send("POST", f"/sessions/{session_id}/results", body)
            except ServerError as error:
                self._contact.lost("results", error)
                after = error.retry_after_seconds if isinstance(error, ServerUnavailable) else None
                await asyncio.sleep(backoff.next_seconds(after))
                continue
            if reply.status in {401, 403}:
                self._contact.lost("results", f"results refused: {reply.status} {reply.code}")
                await asyncio.sleep(backoff.next_seconds())
                continue
            self._contact.made("results")
            if reply.code in SESSION_GONE:
                self._on_gone(session_id)
                await asyncio.sleep(backoff.next_seconds())
                continue
            return await self._acks(batch, reply)

    async def _acks(self, batch: Sequence[Report], reply: Reply) -> list[Ack]:
        if not reply.ok:
            if len(batch) == 1:
                return [Ack(reply.code or str(reply.status), _message(reply.body, reply.status))]
            # Refused as a whole, so one of them cannot be read: halve until it stands alone.
            middle = len(batch) // 2
            return [*await self._send(batch[:middle]), *await self._send(batch[middle:])]
        acks: list[Ack] = []
        for item, answer in zip(batch, reply.body["results"], strict=True):
            if int(answer["http_status"]) >= 500:
                await asyncio.sleep(Backoff().next_seconds())
                acks += await self._send([item])
            else:
                acks.append(Ack(str(answer.get("code") or ""), _message(answer, int(answer["http_status"]))))
        return acks


def _message(body: object, status: int) -> str:
    found = body.get("message") or body.get("detail") or body.get("code") if isinstance(body, dict) else None
    return str(found or f"HTTP {status}")
