"""Inspector: looks whether this server can open the secrets that are stored, and says loudly when it cannot.

A server whose ring lacks a key still does all the rest: what it cannot sign waits for one that can. To refuse to start
would turn some late webhooks into an outage of everything.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial

from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Pool, persist
from controlplane.security.secrets import KeyRing
from controlplane.stages import reseal

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0


class Inspector:
    """`found`: told after each look how many of the newest stored secrets cannot be opened."""

    def __init__(self, pool: Pool, placement: Placement, keyring: KeyRing, *, found: Callable[[int], None]) -> None:
        self._pool, self._placement, self._keyring, self._found = pool, placement, keyring, found

    async def tick(self) -> int:
        """Of each place and bucket the newest values. Nothing is left to do afterwards."""
        broken: Counter[str] = Counter()
        for bucket in self._placement.all():
            for place in reseal.PLACES:
                look = partial(reseal.newest_broken, bucket=bucket, place=place, ring=self._keyring)
                broken[place.name] += await persist(self._pool, look, seconds=RETRY_SECONDS)
        self._found(broken.total())
        if broken.total():
            log.warning(
                "secrets.not_openable",
                extra={
                    "values": dict(+broken),
                    "fix": "Put the missing key back on CONTROLPLANE_SECRET_KEY; controlplane secrets status names it.",
                },
            )
        return 0
