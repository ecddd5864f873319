"""The feed: every delivery of a namespace, oldest first, for receivers that catch up or have no public address."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.connection import has_left
from controlplane.api.doors import DELIVERIES_TOPIC, doors_of, namespace_of
from controlplane.api.executions import query_text
from controlplane.api.paging import limit_of, query_instant, seconds, words
from controlplane.api.shapes import answer
from controlplane.domain.delivery import ENDPOINT, DeliveryState
from controlplane.domain.ids import BUCKETS_MAX, read, read_fenced, show
from controlplane.errors import Invalid
from controlplane.reads import feed
from controlplane.reads.deliveries import DeliveryView
from controlplane.reads.feed import FeedFilter, Place

WAIT_MAX_SECONDS = 30.0
LOOK_FIRST_SECONDS = 0.01
LOOK_CAP_SECONDS = 1.0
"""How often whoever waits looks without a hint, which may be lost; and with hints that were somebody else's."""
FROM_BEGINNING = "beginning"
FROM_NOW = "now"
XID_MAX = 2**63 - 1
NOT_OF_THE_FEED = ("cursor", "target", "node_id", "run_id", "created_before", "ended_after", "ended_before")


class FeedCursor(dict[int, Place]):
    """A place in every bucket; on the wire an opaque text."""

    def __str__(self) -> str:
        return "_".join(f"{bucket}.{xid}.{show('', id_)[1:]}" for bucket, (xid, id_) in sorted(self.items()))

    @classmethod
    def parse(cls, text: str) -> FeedCursor:
        """Raises Invalid for anything we did not make."""
        cursor = cls()
        for part in text.split("_"):
            numbers, _, id_ = part.rpartition(".")
            bucket, _, xid = numbers.partition(".")
            if not all(one.isascii() and one.isdigit() and len(one) < 20 for one in (bucket, xid)):
                raise _not_a_cursor()
            try:
                place = Place(int(xid), read("", f"_{id_}", where="query/after"))
            except Invalid:
                raise _not_a_cursor() from None
            if int(bucket) >= BUCKETS_MAX or place.xid > XID_MAX or int(bucket) in cursor:
                raise _not_a_cursor()
            cursor[int(bucket)] = place
        return cursor


async def page(request: Request) -> Response:
    """What came to be behind a cursor, at once or as soon as there is some within `wait_seconds`.

    `next_cursor` is where to go on, also when there is nothing; `more`: there is more already. Every delivery has the
    cursor that stands behind it.
    """
    doors, namespace, limit = doors_of(request), namespace_of(request), limit_of(request)
    for name in NOT_OF_THE_FEED:
        if name in request.query_params:
            raise Invalid("The feed knows no such filter.", where=f"query/{name}", fix="Leave it out, or `after`.")
    wanted, bodies = _wanted(request), _bodies(request)
    until = time.monotonic() + seconds(request, "wait_seconds", most=WAIT_MAX_SECONDS)
    after = await _after(request)
    pause, gap = LOOK_CAP_SECONDS, LOOK_FIRST_SECONDS
    with doors.hints.waiter(DELIVERIES_TOPIC) as hint:  # before the first look, so that nothing falls between
        while True:
            found = await doors.run(
                feed.page,
                wanted,
                after,
                namespace=namespace,
                limit=limit,
                placement=doors.placement,
                bodies=bodies,
            )
            left = until - time.monotonic()
            if found.items or found.more or left <= 0 or doors.stopping or has_left(request):
                break
            after = FeedCursor(found.reached)
            if await hint.wait(min(pause, left)) and not doors.stopping:
                # It comes with a commit, which is told when those that were begun before it are over, too: so soon
                # again. But where many wait and most ends are others', not for each of them.
                await asyncio.sleep(min(gap, left))
                pause = gap = min(2 * gap, LOOK_CAP_SECONDS)
            else:
                pause = min(2 * pause, LOOK_CAP_SECONDS)
    place = FeedCursor(after)
    items = []
    for one in found.items:
        place[one.bucket] = one.place
        items.append(shape(one.view) | {"cursor": str(place)})
    return answer({"items": items, "next_cursor": str(FeedCursor(found.reached)), "more": found.more})


def shape(view: DeliveryView) -> shapes.Shape:
    """A delivery, and what it tells about."""
    return shapes.delivery(view) | shapes.present(
        {
            "execution_id": None if view.execution_id is None else show("exec", view.execution_id),
            "run_id": view.run_id,
            "target": view.target,
            "body": shapes.raw(view.body),
        }
    )


def states_of(request: Request) -> tuple[DeliveryState, ...]:
    """The states in the query. Raises Invalid."""
    try:
        return tuple(dict.fromkeys(DeliveryState(word) for word in words(request, "state")))
    except ValueError:
        raise Invalid(f"One or several of {', '.join(DeliveryState)}.", where="query/state") from None


def execution_of(request: Request) -> UUID | None:
    text = request.query_params.get("execution_id")
    return read_fenced(text, where="query/execution_id")[0] if text else None


def endpoint_of(request: Request) -> UUID | None:
    text = request.query_params.get("endpoint_id")
    return read(ENDPOINT, text, where="query/endpoint_id") if text else None


def _wanted(request: Request) -> FeedFilter:
    return FeedFilter(
        states=states_of(request),
        event=query_text(request, "event"),
        host=query_text(request, "host"),
        endpoint_id=endpoint_of(request),
        execution_id=execution_of(request),
        created_after=query_instant(request, "created_after"),
    )


def _bodies(request: Request) -> bool:
    said = words(request, "include")
    if set(said) - {"body"}:
        raise Invalid("Only body can be included.", where="query/include")
    return bool(said)


async def _after(request: Request) -> Mapping[int, Place]:
    """Where to begin. Raises Invalid for a cursor that is not one of this database."""
    doors, text = doors_of(request), request.query_params["after"]
    if text in ("", FROM_BEGINNING):
        return dict.fromkeys(doors.placement.all(), feed.BEGINNING)
    if text == FROM_NOW:
        return await doors.run(feed.now, doors.placement)
    cursor = FeedCursor.parse(text)
    if await doors.run(feed.is_ahead, cursor):
        raise Invalid(
            "This cursor lies ahead of everything: it was made by another database, or by this one before it was "
            "restored from a backup.",
            where="query/after",
            fix="Go on with after=beginning&created_after=…, and leave out the ids that you know.",
        )
    return {bucket: cursor.get(bucket, feed.BEGINNING) for bucket in doors.placement.all()}


def _not_a_cursor() -> Invalid:
    return Invalid(
        "This is not a cursor of the feed.", where="query/after", fix="beginning, now, or the next_cursor of an answer."
    )
