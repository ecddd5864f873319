"""Guesses: how many wrong keys one address may send a minute before it is told to wait.

Nobody guesses 256 bits; what is kept short is the work that wrong keys make, and the chance at a key that an operator
has made up. Each replica counts for itself and forgets when it stops.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable

from controlplane.api.rate import CALLERS_MAX, Rates, network_of
from controlplane.errors import RateLimited
from controlplane.observe.gauges import KEYS_THROTTLED, KEYS_WRONG

log = logging.getLogger(__name__)

MINUTE_SECONDS = 60.0


class Guesses:
    """At most `per_minute` at once and in the long run. Of 10,000 addresses; of more the oldest begin anew."""

    def __init__(self, *, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rates = Rates(per_second=per_minute / MINUTE_SECONDS, burst=per_minute, clock=clock)
        self._clock = clock
        self._told: OrderedDict[str, float] = OrderedDict()

    def begin(self, host: str) -> None:
        """A key that is not known here is about to be looked at. Raises: RateLimited."""
        address = network_of(host)
        verdict = self._rates.take(address)
        if verdict.allowed:
            return
        KEYS_THROTTLED.inc()
        self._tell(address)
        raise RateLimited(
            "Too many wrong keys from this address.",
            fix=f"Wait {verdict.wait_seconds} s. A key that is in use here goes on working.",
            retry_after_seconds=verdict.wait_seconds,
        )

    def right(self, host: str) -> None:
        """It was a key after all: it counts for nothing."""
        self._rates.give_back(network_of(host))

    def wrong(self) -> None:
        KEYS_WRONG.inc()

    def __len__(self) -> int:
        """Addresses that are remembered."""
        return max(len(self._rates), len(self._told))

    def _tell(self, address: str) -> None:
        """Once a minute for each address."""
        now = self._clock()
        if now - self._told.get(address, float("-inf")) < MINUTE_SECONDS:
            return
        self._told[address] = now
        self._told.move_to_end(address)
        if len(self._told) > CALLERS_MAX:
            self._told.popitem(last=False)
        log.warning("keys.guessed", extra={"address": address})
