"""How many requests one caller may make: a bucket of tokens per API key, or per address where there is no key; and one
per namespace, which all of its keys share.

Each replica counts for itself and forgets when it stops: this keeps one caller from crowding out the others, and is no
quota that anybody is billed by. Off unless the operator sets a rate. Health is never limited.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controlplane.api.auth import OPEN_PATHS
from controlplane.api.doors import CALLER
from controlplane.api.problems import answer
from controlplane.domain.key import Caller
from controlplane.errors import RateLimited

CALLERS_MAX = 10_000
"""Callers that are remembered; of more, the one that was not seen for longest begins anew."""
SITE_BITS = 64
"""Of an IPv6 address, what belongs to one caller."""


@dataclass(slots=True)
class Bucket:
    tokens: float
    filled: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`left`: requests that may follow at once. `full_seconds`: until all may. `wait_seconds`: until the next may."""

    allowed: bool
    left: int
    full_seconds: int
    wait_seconds: int


class Rates:
    """`per_second` requests in the long run, and `burst` at once. `name`: what a policy calls itself in the headers."""

    def __init__(
        self,
        *,
        per_second: float,
        burst: int,
        name: str = "default",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._name = name
        self.policy = f'"{name}";q={burst};w={math.ceil(burst / per_second)}'

    def take(self, caller: str) -> Verdict:
        """One request of this caller, if it may make one."""
        now = self._clock()
        bucket = self._buckets.get(caller)
        if bucket is None:
            bucket = self._buckets[caller] = Bucket(self._burst, now)
            if len(self._buckets) > CALLERS_MAX:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(caller)
            bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.filled) * self._per_second)
            bucket.filled = now
        allowed = bucket.tokens >= 1
        bucket.tokens -= allowed
        return Verdict(
            allowed=allowed,
            left=int(bucket.tokens),
            full_seconds=math.ceil((self._burst - bucket.tokens) / self._per_second),
            wait_seconds=max(1, math.ceil((1 - bucket.tokens) / self._per_second)),
        )

    def said(self, verdict: Verdict) -> str:
        """A verdict, as the header has it."""
        return f'"{self._name}";r={verdict.left};t={verdict.full_seconds}'

    def __len__(self) -> int:
        return len(self._buckets)

    def give_back(self, caller: str) -> None:
        """What was taken last should not have counted."""
        bucket = self._buckets.get(caller)
        if bucket is not None:
            bucket.tokens = min(self._burst, bucket.tokens + 1)


class Limiter:
    """Stands behind the gate, which leaves the name of the key and its namespace in the scope.

    `rates` of each caller, `namespaces` of each namespace, all of whose callers share it; at least one of them is set.
    Who has no key belongs to no namespace here: it is counted by its address alone.
    """

    def __init__(self, app: ASGIApp, *, rates: Rates | None = None, namespaces: Rates | None = None) -> None:
        self._app = app
        self._rates = rates
        self._namespaces = namespaces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        verdicts = self._take(scope)
        refused = [verdict for _, verdict in verdicts if not verdict.allowed]
        if scope["type"] == "websocket":
            if not refused:
                await self._app(scope, receive, send)
            else:
                await receive()
                await send({"type": "websocket.close", "code": 1013, "reason": RateLimited.code})
            return
        said = {
            "RateLimit-Policy": ", ".join(rates.policy for rates, _ in verdicts),
            "RateLimit": ", ".join(rates.said(verdict) for rates, verdict in verdicts),
        }
        if refused:
            wait_seconds = max(verdict.wait_seconds for verdict in refused)
            said["Retry-After"] = str(wait_seconds)
            fix = f"Wait {wait_seconds} s; RateLimit-Policy says how much is allowed."
            await answer(RateLimited(fix=fix), said)(scope, receive, send)
            return
        headers = [(name.lower().encode(), value.encode()) for name, value in said.items() if value]

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        await self._app(scope, receive, told)

    def _take(self, scope: Scope) -> list[tuple[Rates, Verdict]]:
        """Every verdict. A request that one of them refuses uses nothing up of the others."""
        asked = [(self._rates, caller_of(scope)), (self._namespaces, namespace_of(scope))]
        taken = [
            (rates, caller, rates.take(caller)) for rates, caller in asked if rates is not None and caller is not None
        ]
        if not all(verdict.allowed for _, _, verdict in taken):
            for rates, caller, verdict in taken:
                if verdict.allowed:
                    rates.give_back(caller)
        return [(rates, verdict) for rates, _, verdict in taken]


def namespace_of(scope: Scope) -> str | None:
    """Whose share a request is of; None where no key says so."""
    caller: Caller | None = scope.get(CALLER)
    return None if caller is None or caller.name is None else f"namespace {caller.namespace}"


def caller_of(scope: Scope) -> str:
    """Who is counted: the key that the gate let in, else the address (of IPv6 its network)."""
    caller: Caller | None = scope.get(CALLER)
    if caller is not None and caller.name is not None:
        return f"key {caller.key_id or caller.name}"
    return network_of(scope["client"][0]) if scope.get("client") else ""


@lru_cache(CALLERS_MAX)
def network_of(host: str) -> str:
    """What one caller has of addresses."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    inner = address.ipv4_mapped
    return str(inner) if inner is not None else f"{int(address) >> SITE_BITS:x}::/{SITE_BITS}"
