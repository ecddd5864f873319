"""What is promised of what happened: traces, logs, notes, live streams, and of webhooks that tell of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct

from controlplane.api import deliveries, events, links
from controlplane.api.contract.executions import FENCED
from controlplane.api.contract.memory import SSE
from controlplane.api.contract.said import (
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
    one_of,
    or_nothing,
    text,
)
from controlplane.api.leases import MESSAGE_MAX
from controlplane.domain.delivery import AttemptOutcome, DeliveryState
from controlplane.domain.ids import ATTEMPT, TAIL

DeliveryText = Annotated[str, Meta(pattern=id_pattern("dlv"))]
Digits = Annotated[str, Meta(pattern=r"^[0-9]+$")]


class EventAnswer(Struct):
    """An append-only fact about a transition."""

    id: Count
    type: str
    at: Moment
    attempt: Maybe[int] = UNSET
    data: Any = UNSET


class EventPage(Struct):
    items: list[EventAnswer]
    next_cursor: Digits | None


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
    items: list[LineAnswer]
    next_cursor: Digits | None


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
    settled_at: Maybe[Moment] = UNSET


class DeliveryList(Struct):
    items: list[DeliveryAnswer]


class DeadDelivery(DeliveryAnswer, kw_only=True):
    execution_id: ExecutionText
    target: Target


class DeliveryPage(Struct):
    items: list[DeadDelivery]
    next_cursor: DeliveryText | None


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
        answers={200: DeliveryPage},
        parameters={
            "state": one_of(["", DeliveryState.DEAD.value]),
            **dict.fromkeys(("target", "node_id", "run_id", "host"), FILTER),
            "cursor": text(pattern=or_nothing(id_pattern("dlv"))),
        },
    ),
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
