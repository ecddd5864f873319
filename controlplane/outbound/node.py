"""Call a node: hand it work, tell it to stop, ask whether it is there and what it remembers."""

from __future__ import annotations

import asyncio
import json
import ssl
from datetime import UTC, datetime
from types import TracebackType
from typing import Self
from urllib.parse import quote

from controlplane.domain.call import Answer, Stop, event_of, fenced, finished_in, headers_of, path_of, read_stop
from controlplane.domain.delivery import parse_retry_after
from controlplane.domain.lease import Fence, Lease, Report, Session, Transport
from controlplane.errors import Invalid
from controlplane.outbound.exchange import NOTHING_SENT, Client, Exchange, Fault
from controlplane.security.egress import EgressPolicy

USER_AGENT = "controlplane-node/1"
CONNECT_SECONDS = 4.0
CANCEL_SECONDS = 5.0
ALIVE_SECONDS = 3.0
RING_SECONDS = 10.0
RING_LINES = 20_000
RING_BYTES_MAX = 64 * 1024 * 1024
DISCOVER_SECONDS = 10.0
SHORT_BYTES_MAX = 64 * 1024
RETRY_AFTER_MAX_SECONDS = 3_600.0
SOURCE = "cancel-dispatcher"


class NodeCaller:
    """Calls nodes at the addresses that the operator allows. Use as `async with NodeCaller(policy) as nodes`.

    `token`: what nodes that check who calls them expect as their bearer token.
    """

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        answer_bytes_max: int,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._client = Client(policy, user_agent=USER_AGENT, tls=tls)
        self._answer_bytes_max = answer_bytes_max
        self._auth = {} if token is None else {"Authorization": f"Bearer {token}"}

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def hand_over(self, session: Session, lease: Lease, *, total_seconds: float) -> Answer:
        """Send this work to this process. Never sent twice: a connection that breaks leaves it unknown."""
        serverless = session.transport is Transport.SERVERLESS
        exchange = await self._ask(
            f"{session.base_url}/execute" if serverless else f"{session.base_url}{path_of(lease)}",
            event_of(lease) if serverless else lease.input,
            headers=headers_of(lease),
            seconds=total_seconds,
            bytes_max=self._answer_bytes_max,
        )
        return _answer(exchange)

    async def stop(self, session: Session, fence: Fence, *, run_id: str, reason: str | None) -> Stop:
        """Tell this process to stop this attempt."""
        if session.transport is Transport.SERVERLESS:
            return Stop.UNABLE
        id_ = fenced(fence)
        body = {
            "execution_id": id_,
            "workflow_id": run_id,
            "reason": reason or "cancelled",
            "emitted_at": datetime.now(UTC).isoformat(),
        }
        exchange = await self._ask(
            f"{session.base_url}/_internal/executions/{quote(id_)}/cancel",
            json.dumps(body).encode(),
            headers={"X-Execution-ID": id_, "X-Workflow-ID": run_id, "X-AgentField-Source": SOURCE},
            seconds=CANCEL_SECONDS,
            bytes_max=SHORT_BYTES_MAX,
        )
        return Stop.GONE if exchange.fault is Fault.NOBODY else read_stop(_answer(exchange))

    async def listens(self, session: Session) -> bool | None:
        """Whether somebody answers at its address. None: it cannot be told."""
        exchange = await self._ask(
            f"{session.base_url}/health", None, headers={}, seconds=ALIVE_SECONDS, bytes_max=SHORT_BYTES_MAX
        )
        if exchange.status is not None:
            return True
        return False if exchange.fault is Fault.NOBODY else None

    async def remembers(self, session: Session) -> dict[Fence, Report | None]:
        """The attempts that this process remembers having finished; empty when it keeps no log or does not answer."""
        exchange = await self._ask(
            f"{session.base_url}/agentfield/v1/logs?tail_lines={RING_LINES}",
            None,
            headers={},
            seconds=RING_SECONDS,
            bytes_max=RING_BYTES_MAX,
        )
        if exchange.status != 200:
            return {}
        # In a thread: what a process calls its log may be long, and everybody else's work goes on meanwhile.
        return await asyncio.to_thread(lambda: dict(finished_in(bytes(exchange.body))))

    async def discover(self, url: str) -> bytes:
        """What the functions at this address say of themselves. Raises Invalid with what is wrong with the address."""
        exchange = await self._ask(
            f"{url}/discover", None, headers={}, seconds=DISCOVER_SECONDS, bytes_max=self._answer_bytes_max
        )
        if exchange.status != 200 or exchange.clipped or exchange.fault is not None:
            why = exchange.error or f"it answered {exchange.status}"
            raise Invalid(
                f"The node could not be asked what it serves: {why}.",
                where="body.invocation_url",
                fix="GET invocation_url + /discover has to answer 200 from where this server stands.",
            )
        return bytes(exchange.body)

    async def _ask(
        self, url: str, body: bytes | None, *, headers: dict[str, str], seconds: float, bytes_max: int
    ) -> Exchange:
        return await self._client.send(
            url=url,
            body=body,
            headers=headers | self._auth,
            total_seconds=seconds,
            connect_seconds=CONNECT_SECONDS,
            answer_bytes_max=bytes_max,
            repeatable=body is None,
        )


def _answer(exchange: Exchange) -> Answer:
    after = parse_retry_after(exchange.retry_after, now=datetime.now(UTC))
    return Answer(
        status=exchange.status,
        body=bytes(exchange.body),
        broken=exchange.fault is not None,
        clipped=exchange.clipped,
        sent=exchange.fault not in NOTHING_SENT,
        retry_after_seconds=None if after is None else min(after, RETRY_AFTER_MAX_SECONDS),
    )
