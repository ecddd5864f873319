"""Begun: how an attempt stood that began in the very commit that accepted it, for its end.

Whatever an end has to know is known then, and nobody has to look before it. Most such attempts last for milliseconds.
What has become of one since is not known here: the end is written only where its row is still the version kept here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from controlplane.domain.execution import Held, State, Submission
from controlplane.domain.ids import ExecutionId, SessionId
from controlplane.domain.lease import Fence
from controlplane.domain.value import value

KEPT_SECONDS = 60.0
"""For how long one is kept. It is also how far the clocks of this process and of the database have time to part."""
KEPT_MAX = 10_000
PAYLOAD_MAX = 4_096
"""Bytes of a context with which one is kept at most, and of a context and an input with which all that was asked is."""


@value(frozen=True, slots=True, kw_only=True)
class Hook:
    """Whom an end is told, and what was asked."""

    n: int
    url: str
    host: str
    attempts_max: int
    type: str
    context: bytes | None
    session_key: str | None
    actor_key: str | None
    created_at: datetime


@value(frozen=True, slots=True, kw_only=True)
class Seen:
    """An execution as it stood in the queue, which nobody has locked: which version of it that was, and when."""

    held: Held
    version: int
    open: bool
    """Whether it has a step that is not done, or a question that nobody has answered."""
    at: datetime
    hooks: list[Hook]
    submission: Submission | None = None
    """What was asked, where that is known."""

    def later(self, seconds: float) -> Seen:
        """The same, so much later."""
        return replace(self, at=self.at + timedelta(seconds=seconds))


class Begun:
    """Of one process. What it does not know is looked at, as ever."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Fence, tuple[float, Seen]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, item: Submission, *, session_id: SessionId, version: int, at: datetime, now: float) -> None:
        """This one was leased to a session as its first attempt. `at`: when, and `now` is the same moment here.

        A child is not kept: of its end its parent is told, too.
        """
        while self._kept and (len(self._kept) >= KEPT_MAX or self._is_old(next(iter(self._kept.values()))[0], now)):
            self._kept.popitem(last=False)
        if item.parent_id is not None or len(item.context or b"") > PAYLOAD_MAX:
            return
        held = Held(
            id=item.id,
            namespace=item.namespace,
            target=item.target,
            run_id=item.run_id,
            state=State.LEASED,
            attempt=1,
            failures=0,
            crashes=0,
            retries_max=item.retry.retries_max,
            webhooks=len(item.webhooks),
            session_id=session_id,
            leased_at=at,
            started_at=at,
            cancel_requested=False,
            cancel_reason=None,
            progress=None,
        )
        hooks = [
            Hook(
                n=n,
                url=webhook.url,
                host=webhook.host,
                attempts_max=webhook.attempts_max,
                type=item.type,
                context=item.context,
                session_key=item.session_key,
                actor_key=item.actor_key,
                created_at=at,
            )
            for n, webhook in item.hooks
        ]
        asked = item if len(item.input) + len(item.context or b"") <= PAYLOAD_MAX else None
        seen = Seen(held=held, version=version, open=False, at=at, hooks=hooks, submission=asked)
        self._kept[Fence(item.id, 1)] = now, seen

    def knows(self, id_: ExecutionId, namespace: int) -> bool:
        """Whether it began here, and its end was not told here."""
        _, seen = self._kept.get(Fence(id_, 1), (0.0, None))
        return seen is not None and seen.held.namespace == namespace

    def take(self, fence: Fence, *, now: float) -> Seen | None:
        """How this attempt stood when it began, as of now; nobody is told it again."""
        since, seen = self._kept.pop(fence, (now, None))
        return None if seen is None or self._is_old(since, now) else seen.later(now - since)

    def forget(self, ids: Iterable[UUID]) -> None:
        """These have ended, however that came."""
        for id_ in ids:
            self._kept.pop(Fence(ExecutionId(id_), 1), None)

    @staticmethod
    def _is_old(since: float, now: float) -> bool:
        return now - since > KEPT_SECONDS
