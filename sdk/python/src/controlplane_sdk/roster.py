"""Who is at work here: what the heartbeat answers for, and how many slots are free."""

from __future__ import annotations

import threading

from controlplane_sdk.attempt import Attempt
from controlplane_sdk.context import Fence


class Roster:
    """The attempts this process answers for: at work, or with a report that is not acknowledged yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attempts: dict[Fence, Attempt] = {}
        self._of: dict[str, dict[Fence, Attempt]] = {}
        self._reported: set[Fence] = set()
        self._abandoned: set[threading.Thread] = set()

    def held(self) -> list[Fence]:
        """Everything not acknowledged; from any thread."""
        with self._lock:
            return [*self._attempts, *(fence for fence in self._reported if fence not in self._attempts)]

    def attempts(self) -> list[Attempt]:
        return list(self._attempts.values())

    def find(self, fence: Fence) -> Attempt | None:
        return self._attempts.get(fence)

    def same_execution(self, fence: Fence) -> list[Attempt]:
        """Attempts at the same execution: when a newer one is leased, these have been lost."""
        return list(self._of.get(fence.execution_id, {}).values())

    def add(self, attempt: Attempt) -> None:
        with self._lock:
            self._attempts[attempt.fence] = attempt
            self._of.setdefault(attempt.fence.execution_id, {})[attempt.fence] = attempt

    def end(self, attempt: Attempt, *, reported: bool) -> bool:
        """Whether this is news: an attempt ends once."""
        if attempt.thread is not None and attempt.thread.is_alive():
            self._abandoned.add(attempt.thread)
        with self._lock:
            if self._attempts.pop(attempt.fence, None) is None:
                return False
            left = self._of[attempt.fence.execution_id]
            del left[attempt.fence]
            if not left:
                del self._of[attempt.fence.execution_id]
            if reported:
                self._reported.add(attempt.fence)
            return True

    def acknowledge(self, fence: Fence) -> None:
        with self._lock:
            self._reported.discard(fence)

    def unacknowledged(self) -> int:
        return len(self._reported)

    def busy(self) -> int:
        """Slots in use. Who waits gives his away, else a node could wait for itself for ever."""
        self._abandoned = {thread for thread in self._abandoned if thread.is_alive()}
        return sum(not attempt.waits for attempt in self._attempts.values()) + len(self._abandoned)
