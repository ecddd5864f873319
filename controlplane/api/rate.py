"""How many requests one caller may make: a bucket of tokens per API key, or per address where there is no key.

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
    """`per_second` requests in the long run, and `burst` at once."""

    def __init__(self, *, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self.policy = f'"default";q={burst};w={math.ceil(burst / per_second)}'

    def take(self, caller: str) -> Verdict:
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

    def __len__(self) -> int:
        return len(self._buckets)

    def give_back(self, caller: str) -> None:
        """What was taken last should not have counted."""
        bucket = self._buckets.get(caller)
        if bucket is not None:
            bucket.tokens = min(self._burst, bucket.tokens + 1)


class Limiter:
    """Stands behind the gate, which leaves the name of the key in the scope."""

    def __init__(self, app: ASGIApp, *, rates: Rates) -> None:
        self._app = app
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        verdict = self._rates.take(caller_of(scope))
        if scope["type"] == "websocket":
            if verdict.allowed:
                await self._app(scope, receive, send)
            else:
                await receive()
                await send({"type": "websocket.close", "code": 1013, "reason": RateLimited.code})
            return
        said = {
            "RateLimit-Policy": self._rates.policy,
            "RateLimit": f'"default";r={verdict.left};t={verdict.full_seconds}',
        }
        if not verdict.allowed:
            said["Retry-After"] = str(verdict.wait_seconds)
            fix = f"Wait {verdict.wait_seconds} s; RateLimit-Policy says how much is allowed."
            await answer(RateLimited(fix=fix), said)(scope, receive, send)
            return
        headers = [(name.lower().encode(), value.encode()) for name, value in said.items()]

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        await self._app(scope, receive, told)


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
