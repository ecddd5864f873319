"""What is promised of endpoints: receivers that are registered once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct

from controlplane.api import endpoints
from controlplane.api.contract.executions import URL
from controlplane.api.contract.said import (
    NAME_PATTERN,
    PRINTABLE,
    Contract,
    Count,
    HttpStatus,
    Link,
    Maybe,
    Milliseconds,
    Moment,
    Rules,
    Said,
    Schema,
    Seconds,
    id_pattern,
    one_of,
    or_hidden,
    refer,
    text,
    whole,
)
from controlplane.domain.delivery import ENDPOINT, AttemptOutcome
from controlplane.domain.endpoint import (
    ALL,
    ATTEMPTS_MAX,
    DESCRIPTION_CHARS_MAX,
    OVERLAP_MAX_SECONDS,
    REASON_CHARS_MAX,
    SECRET_CHARS_MAX,
    SUBSCRIBABLE,
    TARGETS_MAX,
    WAIT_MAX_SECONDS,
    EndpointState,
)
from controlplane.domain.ids import TAIL
from controlplane.domain.target import NAME

Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
EndpointText = Annotated[str, Meta(pattern=id_pattern(ENDPOINT))]


class EndpointAnswer(Struct):
    """An endpoint without what is secret. Of the URL only where it points; `headers`: the names of those sent along."""

    endpoint_id: EndpointText
    name: Name
    url: str
    events: list[str]
    targets: list[str]
    schedule: list[Seconds]
    headers: list[Annotated[Any, or_hidden({"type": "string"})]]
    state: EndpointState
    dead_streak: Count
    created_at: Moment
    updated_at: Moment
    description: Maybe[str] = UNSET
    signing_key_format: Maybe[Literal["standard", "raw"]] = UNSET
    previous_secret_until: Maybe[Moment] = UNSET
    disabled_at: Maybe[Moment] = UNSET
    disabled_by: Maybe[str] = UNSET
    disabled_reason: Maybe[str] = UNSET
    failing_since: Maybe[Moment] = UNSET


class EndpointRevealed(EndpointAnswer, kw_only=True):
    """With the secret, if it was made here: the one answer in which it can be read."""

    secret: Maybe[str] = UNSET


class EndpointPage(Struct):
    items: list[EndpointAnswer]
    next_cursor: Name | None


class EndpointDeleted(Struct):
    endpoint_id: EndpointText
    deleted: Literal[True]


class TestSent(Struct):
    """What was sent; the values of headers that are sent along are not shown."""

    method: Literal["POST"]
    url: str
    headers: Annotated[Any, or_hidden({"type": "object", "additionalProperties": {"type": "string"}})]
    body: Any


class TestHeard(Struct):
    """What came back: `body` as text, or `body_base64` where it is none."""

    outcome: AttemptOutcome
    latency_ms: Milliseconds
    status: Maybe[HttpStatus] = UNSET
    error: Maybe[str] = UNSET
    body: Maybe[str] = UNSET
    body_base64: Maybe[str] = UNSET


class TestAnswer(Struct):
    delivered: bool
    request: Annotated[Any, or_hidden(refer(TestSent))]
    response: Annotated[Any, or_hidden(refer(TestHeard))]


ONE: Schema = {"endpoint_id": text(pattern=rf"^({ENDPOINT}_{TAIL.pattern}|(?!{endpoints.PREFIX}){NAME.pattern})$")}
"""By its id, or by its name."""
OF_ENDPOINT = {"endpoint_id": "$response.body#/endpoint_id"}
PATH = "/api/v1/endpoints/{endpoint_id}"
AFTER_ENDPOINT = {
    "read": Link(to=PATH, parameters=OF_ENDPOINT),
    "change": Link(to=PATH, by="PATCH", parameters=OF_ENDPOINT),
    "enable": Link(to=f"{PATH}/enable", by="POST", parameters=OF_ENDPOINT),
    "disable": Link(to=f"{PATH}/disable", by="POST", parameters=OF_ENDPOINT),
    "rotate": Link(to=f"{PATH}/rotate", by="POST", parameters=OF_ENDPOINT),
    "test": Link(to=f"{PATH}/test", by="POST", parameters=OF_ENDPOINT),
    "remove": Link(to=PATH, by="DELETE", parameters=OF_ENDPOINT),
}

CONTRACT: Contract = {
    endpoints.create: Said(
        answers={200: EndpointAnswer, 201: EndpointRevealed}, links={200: AFTER_ENDPOINT, 201: AFTER_ENDPOINT}
    ),
    endpoints.page: Said(
        answers={200: EndpointPage},
        parameters={"state": one_of(["", *EndpointState]), "cursor": text(0, 260, PRINTABLE)},
    ),
    endpoints.read: Said(answers={200: EndpointAnswer}, parameters=ONE),
    endpoints.change: Said(answers={200: EndpointAnswer}, parameters=ONE),
    endpoints.remove: Said(answers={200: EndpointDeleted}, parameters=ONE),
    endpoints.enable: Said(answers={200: EndpointAnswer}, parameters=ONE),
    endpoints.disable: Said(answers={200: EndpointAnswer}, parameters=ONE),
    endpoints.rotate: Said(answers={200: EndpointRevealed}, parameters=ONE),
    endpoints.test: Said(answers={200: TestAnswer}, parameters=ONE),
}

SECRET = text(1, SECRET_CHARS_MAX, PRINTABLE)
ASKED: dict[str, Schema] = {
    "url": URL,
    "events": {"minItems": 1, "items": one_of([ALL, *(one.value for one in SUBSCRIBABLE)])},
    "targets": {"maxItems": TARGETS_MAX, "items": text(pattern=whole(rf"{NAME.pattern}(\.{NAME.pattern})?"))},
    "schedule": {
        "minItems": 1,
        "maxItems": ATTEMPTS_MAX,
        "items": {"type": "number", "minimum": 0, "maximum": WAIT_MAX_SECONDS},
    },
    "description": text(0, DESCRIPTION_CHARS_MAX, PRINTABLE),
}

RULES: Rules = {
    TestSent: {},
    TestHeard: {},
    endpoints.EndpointForm: {"name": text(pattern=whole(rf"(?!{endpoints.PREFIX}){NAME.pattern}")), "secret": SECRET}
    | ASKED,
    endpoints.EndpointChangeForm: ASKED,
    endpoints.DisableForm: {"reason": text(1, REASON_CHARS_MAX, PRINTABLE)},
    endpoints.RotateForm: {"secret": SECRET, "overlap_seconds": {"minimum": 0, "maximum": OVERLAP_MAX_SECONDS}},
}
