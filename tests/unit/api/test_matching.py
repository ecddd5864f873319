"""Matching: whose turn it is, and what becomes of an offer. The database's part is tested where there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, cast

import pytest

from controlplane.api.matching import Matching, Poll
from controlplane.domain import topic
from controlplane.domain.ids import SessionId
from controlplane.domain.lease import Lease, Session
from controlplane.postgres.listen import Hints, Waiter
from tests.make import NAMESPACE, TARGET, make_id, submission

QUEUE = topic.queue(NAMESPACE, TARGET)


def a_hint() -> Waiter:
    return Hints(cast("Any", None), None, notify=False).waiter()


def a_poll(*, room: int = 1, has_left: Callable[[], bool] = lambda: False, hint: Waiter | None = None) -> Poll:
    session = Session(
        id=SessionId(make_id(0)),
        namespace=NAMESPACE,
        node_id="n",
        instance_id="i",
        slots=8,
        heartbeat_seconds=10.0,
        lease_seconds=30.0,
    )
    return Poll(session, room, hint or a_hint(), has_left)


async def test_whoever_has_left_is_looked_at_once() -> None:
    """A thousand connections that were closed cost one submit a moment, and those after it nothing."""
    looks = 0

    def left() -> bool:
        nonlocal looks
        looks += 1
        return True

    matching, there = Matching(), a_poll(room=3)
    with ExitStack() as waiting:
        for poll in [*(a_poll(has_left=left) for _ in range(1_000)), there]:
            waiting.enter_context(matching.waiting(poll, [QUEUE]))
        for _ in range(3):
            item = submission()
            with matching.offering([item]) as offering:
                assert offering.sessions == {item.id: there.session}

        assert looks == 1_000
    assert len(matching) == 0


async def test_what_fails_is_decided_too() -> None:
    """Nobody waits for ever for a flush that has ended in an error."""
    matching, poll = Matching(), a_poll()

    async def flush() -> None:
        with matching.offering([submission()]):
            flushing.set()
            await failing.wait()
            raise OSError("gone")

    flushing, failing = asyncio.Event(), asyncio.Event()
    with matching.waiting(poll, [QUEUE]):
        flushed = asyncio.create_task(flush())
        await flushing.wait()
        decided = asyncio.create_task(_leases(poll))
        await asyncio.wait({decided}, timeout=0.01)
        waits = not decided.done()
        failing.set()
        with pytest.raises(OSError, match="gone"):
            await flushed

        assert waits
        assert await decided == []
        assert poll.waits


async def _leases(poll: Poll) -> list[Lease]:
    return list(await poll.leases())


async def test_a_poll_is_offered_no_more_than_it_has_room_for() -> None:
    """Offers count from the moment they are made."""
    matching, poll = Matching(), a_poll(room=2)
    batch = [submission() for _ in range(3)]
    with matching.waiting(poll, [QUEUE]), matching.offering(batch) as offering:
        assert list(offering.sessions) == [item.id for item in batch[:2]]


@pytest.mark.parametrize("over", [{"target": "n.other"}, {"namespace": NAMESPACE + 1}, {"bucket": 1}])
async def test_what_it_does_not_wait_for_is_not_offered(over: dict[str, Any]) -> None:
    """Nor what lies in another bucket than its session, of which a submit does not ask."""
    matching, poll = Matching(), a_poll()
    with matching.waiting(poll, [QUEUE]), matching.offering([submission(**over)]) as offering:
        assert offering.sessions == {}


async def test_who_was_woken_looks_for_itself() -> None:
    """There is news that it has not looked for yet, and that came before."""
    hint = a_hint()
    matching, poll = Matching(), a_poll(hint=hint)
    hint.wake()
    with matching.waiting(poll, [QUEUE]), matching.offering([submission()]) as offering:
        assert offering.sessions == {}
    assert await _leases(poll) == []
