"""Matching: work is handed to a process that waits for it in the very commit that accepts it.

Else it is committed as ready, a waiting poll is woken, claims it in a commit of its own, and reads what was asked: half
of the time from a submit to its start. Only what may begin at once is offered, and only to polls that have looked and
found nothing, in turn. The database has the last word (`submit.INSERT`): what it refuses is ready, as ever. A lease
whose poll is gone before it hears of it is taken back like that of any claim whose answer was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from uuid import UUID

from controlplane.domain import topic
from controlplane.domain.execution import Accepted, Submission
from controlplane.domain.ids import bucket_of
from controlplane.domain.lease import Lease, Session
from controlplane.errors import ControlPlaneError
from controlplane.postgres.listen import Waiter

Place = tuple[int, str]
"""The bucket in which both the session and the work lie, and the topic of the queue."""


class Poll:
    """A process that waits for at most `room` leases. `has_left`: whether it is still there to take them."""

    def __init__(self, session: Session, room: int, hint: Waiter, has_left: Callable[[], bool]) -> None:
        self.session = session
        self._room = room
        self._hint = hint
        self._has_left = has_left
        self._leases: list[Lease] = []
        self._offered = 0
        self._decided = asyncio.Event()

    @property
    def waits(self) -> bool:
        """Whether it takes one more. One that was woken goes and looks for itself."""
        return self._offered + len(self._leases) < self._room and not self._hint.woken and not self._has_left()

    def offer(self) -> None:
        self._offered += 1
        self._decided.clear()

    def decide(self, lease: Lease | None) -> None:
        """What became of one offer."""
        self._offered -= 1
        if lease is not None:
            self._leases.append(lease)
        if not self._offered:
            self._decided.set()
            if self._leases:
                self._hint.wake()

    async def leases(self) -> Sequence[Lease]:
        """What it was handed, as soon as nothing is on offer any more."""
        if self._offered:
            await self._decided.wait()
        return self._leases


class Matching:
    """The polls that wait in this process."""

    def __init__(self) -> None:
        self._polls: dict[Place, dict[Poll, None]] = {}

    def __len__(self) -> int:
        return len({poll for polls in self._polls.values() for poll in polls})

    @contextlib.contextmanager
    def waiting(self, poll: Poll, topics: Sequence[str]) -> Iterator[None]:
        """Offer it work of these queues for as long as this lasts."""
        places = [(bucket_of(poll.session.id), one) for one in topics]
        for place in places:
            self._polls.setdefault(place, {})[poll] = None
        try:
            yield
        finally:
            for place in places:
                polls = self._polls.get(place, {})
                polls.pop(poll, None)
                if not polls:
                    self._polls.pop(place, None)

    @contextlib.contextmanager
    def offering(self, batch: Sequence[Submission]) -> Iterator[Offering]:
        """Find somebody for each of these, who waits until this is over to hear whether it got it."""
        offering = Offering({item.id: poll for item in batch if (poll := self._next(item)) is not None})
        try:
            yield offering
        finally:
            offering.end()

    def _next(self, item: Submission) -> Poll | None:
        """Whose turn it is; it goes to the end of the line. Who waits no more is looked at once."""
        if not self._polls or not item.at_once:
            return None
        polls = self._polls.get((bucket_of(item.id), topic.queue(item.namespace, item.target)))
        while polls:
            poll = next(iter(polls))
            del polls[poll]
            if poll.waits:
                polls[poll] = None
                poll.offer()
                return poll
        return None


class Offering:
    """What is on offer in one flush."""

    def __init__(self, polls: dict[UUID, Poll]) -> None:
        self._polls = polls

    @property
    def sessions(self) -> dict[UUID, Session]:
        return {id_: poll.session for id_, poll in self._polls.items()}

    def settle(self, answers: Sequence[Accepted | ControlPlaneError]) -> None:
        """After the commit: hand over what was leased."""
        for one in answers:
            if isinstance(one, Accepted) and one.lease is not None:
                self._polls.pop(one.id).decide(one.lease)

    def end(self) -> None:
        """Nobody gets any of the rest: it was refused, or nobody knows what became of it."""
        for poll in self._polls.values():
            poll.decide(None)
