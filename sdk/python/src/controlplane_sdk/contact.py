"""Whether the control plane answers. One line when it stops, one when it is back: never one per try."""

from __future__ import annotations

import logging
import threading
import time

_log = logging.getLogger("controlplane_sdk")


class Contact:
    """Hears from everything that speaks to the control plane; from any thread."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._silent: set[str] = set()
        self._since = 0.0

    def lost(self, who: str, why: object) -> None:
        """`who` got no answer."""
        with self._lock:
            first = not self._silent
            self._silent.add(who)
            if first:
                self._since = time.monotonic()
        if first:
            _log.warning("%s; trying again until it is back", why)

    def made(self, who: str) -> None:
        """`who` got an answer."""
        if who not in self._silent:
            return
        with self._lock:
            self._silent.discard(who)
            back = not self._silent
        if back:
            _log.info("%s answers again after %.1f s", self._server, time.monotonic() - self._since)
