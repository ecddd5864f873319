"""Send one webhook attempt, and say what it came to."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from controlplane.domain.delivery import (
    ERROR_CHARS_MAX,
    RESPONSE_BYTES_MAX,
    Attempt,
    AttemptOutcome,
    parse_retry_after,
)
from controlplane.outbound.exchange import Client, Exchange, Fault
from controlplane.security.egress import EgressPolicy

GONE = 410
REDIRECTS = frozenset({301, 302, 303, 307, 308})


class WebhookSender:
    """Calls receivers. Use as `async with WebhookSender(policy) as sender`."""

    def __init__(
        self, policy: EgressPolicy, *, user_agent: str = "controlplane", tls: ssl.SSLContext | None = None
    ) -> None:
        """`tls` replaces the system's certificate authorities."""
        self._client = Client(policy, user_agent=user_agent, tls=tls)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def send(
        self,
        *,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        total_seconds: float = 15.0,
        connect_seconds: float = 4.0,
    ) -> Attempt:
        """POST exactly these bytes and say what came of it; nothing but cancellation gets out of here.

        The status decides: a 2xx whose body then stalls or breaks was delivered. `headers` have passed
        `egress.check_headers`, or are our own. A kept-alive connection that turns out to be closed is replaced once by
        a new one, within the same attempt: a receiver has to bear a webhook that comes twice.
        """
        exchange = await self._client.send(
            url=url,
            body=body,
            headers=headers,
            total_seconds=total_seconds,
            connect_seconds=connect_seconds,
            answer_bytes_max=RESPONSE_BYTES_MAX,
            repeatable=True,
        )
        return _attempt(exchange)


def _attempt(exchange: Exchange) -> Attempt:
    status, error, retry_after = exchange.status, exchange.error, None
    refused = exchange.fault is Fault.FORBIDDEN
    if status is None:
        outcome = AttemptOutcome.REFUSED if refused else AttemptOutcome.FAILED
    elif 200 <= status < 300:
        outcome = AttemptOutcome.DELIVERED
    else:
        outcome = AttemptOutcome.FAILED
        retry_after = parse_retry_after(exchange.retry_after, now=datetime.now(UTC))
        error = f"redirect: answered {status}, redirects are not followed" if status in REDIRECTS else f"http: {status}"
    return Attempt(
        outcome=outcome,
        http_status=status,
        latency_ms=exchange.latency_ms,
        error=None if error is None else error[:ERROR_CHARS_MAX],
        response_body=bytes(exchange.body),
        retry_after_seconds=retry_after,
        final=refused or status == GONE,
    )
