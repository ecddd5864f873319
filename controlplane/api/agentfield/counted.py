"""When the progress of an attempt was last told: a line each millisecond must not become a write each."""

from __future__ import annotations

import time
from collections import OrderedDict

from controlplane.domain.lease import Fence

PROGRESS_EVERY_SECONDS = 1.0
PROGRESS_KEPT = 10_000


class Counted:
    def __init__(self) -> None:
        self._told: OrderedDict[Fence, float] = OrderedDict()

    def due(self, fence: Fence) -> bool:
        now = time.monotonic()
        if now - self._told.get(fence, float("-inf")) < PROGRESS_EVERY_SECONDS:
            return False
        self._told[fence] = now
        self._told.move_to_end(fence)
        if len(self._told) > PROGRESS_KEPT:
            self._told.popitem(last=False)
        return True
