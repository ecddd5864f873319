"""What is promised of what happened: traces, logs, notes, live streams, and of webhooks that tell of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct

from controlplane.api import deliveries, events, feed, links
from controlplane.api.contract.endpoints import EndpointText
from controlplane.api.contract.executions import FENCED
from controlplane.api.contract.memory import SSE
from controlplane.api.contract.said import (
    FENCED_PATTERN,
    PRINTABLE,
    Contract,
    Count,
    ExecutionText,
    HttpStatus,
    Link,
    Maybe,
    Media,
    Milliseconds,
    Moment,
    Rules,
    Said,
    Target,
    id_pattern,
    integer,
    listed,
    one_of,
    or_nothing,
    text,
    whole,
)
from controlplane.api.leases import MESSAGE_MAX
from controlplane.domain.delivery import ENDPOINT, AttemptOutcome, DeliveryState
from controlplane.domain.ids import ATTEMPT, TAIL

DeliveryText = Annotated[str, Meta(pattern=id_pattern("dlv"))]
FEED_PLACE = rf"[0-9]{{1,4}}\.[0-9]{{1,19}}\.{TAIL.pattern}"
FEED_PATTERN = rf"{FEED_PLACE}(_{FEED_PLACE})*"
FeedText = Annotated[str, Meta(pattern=whole(FEED_PATTERN), description="A place in the feed; opaque.")]
Digits = Annotated[str, Meta(pattern=r"^[0-9]+$")]


class EventAnswer(Struct):
    """An append-only fact about a transition."""

    id: Count
    type: str
    at: Moment
    attempt: Maybe[int] = UNSET
    data: Any = UNSET


class EventPage(Struct):
    """`previous_cursor`: of a page that was asked for by `before`, the `before` of the one before it."""

    items: list[EventAnswer]
    next_cursor: Digits | None
    previous_cursor: Maybe[Digits | None] = UNSET


class LineAnswer(Struct):
    id: Count
    attempt: int
    at: Moment
    level: str
    message: str
    event_type: Maybe[str] = UNSET
    source: Maybe[str] = UNSET
    attributes: Any = UNSET


class LinePage(Struct):
    """`previous_cursor`: of a page that was asked for by `before`, the `before` of the one before it."""

    items: list[LineAnswer]
    next_cursor: Digits | None
    previous_cursor: Maybe[Digits | None] = UNSET


class NoteAnswer(Struct):
    message: str
    tags: list[str]
    timestamp: Moment


class NoteList(Struct):
    execution_id: ExecutionText
    notes: list[NoteAnswer]
    total: Count


class NoteKept(Struct):
    success: Literal[True]
    note: NoteAnswer
    message: str


class TryAnswer(Struct):
    """One attempt to tell a receiver."""

    attempt: Count
    at: Moment
    outcome: AttemptOutcome
    http_status: Maybe[HttpStatus] = UNSET
    latency_ms: Maybe[Milliseconds] = UNSET
    error: Maybe[str] = UNSET
    response_body: Maybe[str] = UNSET


class DeliveryAnswer(Struct):
    """A duty to tell a URL. Of the URL only where it points: its query may hold a secret."""

    delivery_id: DeliveryText
    webhook_id: DeliveryText
    event: str
    url: str
    state: DeliveryState
    attempts_max: Count
    attempts_charged: Count
    created_at: Moment
    attempts: list[TryAnswer]
    next_attempt_at: Maybe[Moment] = UNSET
    endpoint_id: Maybe[EndpointText] = UNSET
    held_by: Maybe[Literal["retry_after", "breaker"]] = UNSET
    settled_at: Maybe[Moment] = UNSET


class DeliveryList(Struct):
    items: list[DeliveryAnswer]


class DeliveryFound(DeliveryAnswer, kw_only=True):
    """A delivery, and what it tells about: an execution, unless an endpoint was disabled."""

    execution_id: Maybe[ExecutionText] = UNSET
    run_id: Maybe[str] = UNSET
    target: Maybe[Target] = UNSET


class DeliveryRead(DeliveryFound, kw_only=True):
    """With the body that is sent."""

    body: Any = UNSET


class DeliveryPage(Struct):
    items: list[DeliveryFound]
    next_cursor: DeliveryText | None


class DeliveryInFeed(DeliveryRead, kw_only=True):
    """`cursor` stands behind it. `body`, where it is asked for."""

    cursor: FeedText


class DeliveryFeed(Struct):
    """The oldest first. `next_cursor`: where to go on, also when there is nothing; `more`: there is more already."""

    items: list[DeliveryInFeed]
    next_cursor: FeedText
    more: bool


class DeliveryDue(Struct):
    delivery_id: DeliveryText
    state: Literal["pending"]


class WebhooksDue(Struct):
    status: Literal["queued"]


FILTER = text(0, 260, PRINTABLE)
HTML = Media(type="text/html")
BIGINT_MAX = 2**63 - 1
LINES = integer(1, 1_000, default=200)
SPEAKER = text(1, 200, rf"^(?!exec_)[!-~]+$|^exec_{TAIL.pattern}~{ATTEMPT.pattern}$")
"""An attempt, or a call inside a process by the id that its SDK has made up."""
LOOK = Link(to="/api/v1/deliveries/{delivery_id}", parameters={"delivery_id": "$response.body#/items/0/delivery_id"})
AFTER_LOOK = {
    "retry": Link(
        to="/api/v1/deliveries/{delivery_id}/retry",
        by="POST",
        parameters={"delivery_id": "$response.body#/items/0/delivery_id"},
    )
}

CONTRACT: Contract = {
    # To who accepts text/event-stream the same facts are told as they happen.
    events.trace: Said(
        answers={200: (EventPage, SSE), 204: None},
        parameters=FENCED | {"limit": LINES, "cursor": integer(0, BIGINT_MAX)},
    ),
    events.log_lines: Said(
        answers={200: LinePage},
        parameters=FENCED | {"limit": LINES, "after": integer(0, BIGINT_MAX), "attempt": integer(0, 2**31 - 1)},
    ),
    events.notes: Said(answers={200: NoteList}, parameters=FENCED | {"tags": {"type": "string"}}),
    events.add_note: Said(
        answers={200: NoteKept}, parameters={"X-Execution-ID": SPEAKER}, required=("X-Execution-ID",)
    ),
    events.stream_all: Said(answers={200: SSE}),
    events.stream_one: Said(answers={200: SSE, 204: None}, parameters=FENCED),
    deliveries.of_execution: Said(answers={200: DeliveryList}, parameters=FENCED, links={200: AFTER_LOOK}),
    deliveries.page: Said(
        answers={200: (DeliveryPage, DeliveryFeed)},
        parameters={
            "after": text(pattern=or_nothing(f"{feed.FROM_BEGINNING}|{feed.FROM_NOW}|{FEED_PATTERN}")),
            "wait_seconds": {"type": "number", "minimum": 0, "maximum": feed.WAIT_MAX_SECONDS, "default": 0},
            "include": listed(["body"]),
            "state": listed([*DeliveryState]),
            **dict.fromkeys(("event", "target", "node_id", "run_id", "host"), FILTER),
            "execution_id": text(pattern=or_nothing(FENCED_PATTERN)),
            "endpoint_id": text(pattern=or_nothing(id_pattern(ENDPOINT))),
            "cursor": text(pattern=or_nothing(id_pattern("dlv"))),
        },
        links={200: AFTER_LOOK | {"read": LOOK}},
    ),
    deliveries.look: Said(answers={200: DeliveryRead}),
    deliveries.retry: Said(answers={202: DeliveryDue}),
    deliveries.retry_execution: Said(answers={202: WebhooksDue}, parameters=FENCED),
    links.show: Said(answers={200: HTML}, parameters={"token": {"type": "string"}}),
    links.decide: Said(
        answers={200: HTML, 409: (HTML, Media(type="application/problem+json"))},
        parameters={"token": {"type": "string"}},
        body={
            "application/x-www-form-urlencoded": {
                "type": "object",
                "required": ["decision"],
                "properties": {
                    "decision": one_of(["approved", "rejected", "request_changes"]),
                    "feedback": text(0, links.FEEDBACK_CHARS_MAX),
                },
            }
        },
    ),
}

RULES: Rules = {
    events.NoteForm: {
        "message": text(0, MESSAGE_MAX),
        "tags": {"maxItems": events.TAGS_MAX, "items": text(1, 200, PRINTABLE)},
    },
}
