"""What is promised of API keys, tickets, namespaces and their caps, retention and health."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct

from controlplane.api import caps, health, keys, retention, tickets
from controlplane.api.contract.said import (
    NAME_PATTERN,
    PRINTABLE,
    Contract,
    Count,
    Link,
    Maybe,
    Media,
    Moment,
    Rules,
    Said,
    id_pattern,
    or_nothing,
    text,
    whole,
)
from controlplane.domain.cap import MOST, Cap
from controlplane.domain.key import (
    LIFE_MAX_SECONDS,
    LIFE_MIN_SECONDS,
    NAME_MAX,
    NODES_MAX,
    OVERLAP_MAX_SECONDS,
    KeyScope,
    KeyState,
)
from controlplane.domain.target import NAME
from controlplane.security.keys import TICKET_FORM
from controlplane.stages.ticket import TICKET_SECONDS

KeyText = Annotated[str, Meta(pattern=id_pattern("key"))]


class KeyAnswer(Struct):
    """A key: its beginning, never itself."""

    key_id: KeyText
    name: str
    namespace: str
    prefix: str
    scopes: list[KeyScope]
    hide_payloads: bool
    state: KeyState
    created_at: Moment
    node_ids: Maybe[list[str]] = UNSET
    created_by: Maybe[str] = UNSET
    expires_at: Maybe[Moment] = UNSET
    last_used_at: Maybe[Moment] = UNSET
    revoked_at: Maybe[Moment] = UNSET
    revoked_by: Maybe[str] = UNSET
    replaced_by: Maybe[KeyText] = UNSET


class NewKey(KeyAnswer, kw_only=True):
    """The one answer in which a key can be read."""

    key: str


class RotatedKey(NewKey, kw_only=True):
    replaces: KeyAnswer


class KeyPage(Struct):
    items: list[KeyAnswer]
    next_cursor: KeyText | None


class NamespaceAnswer(Struct):
    name: str
    created_at: Moment


class NamespacePage(Struct):
    items: list[NamespaceAnswer]
    next_cursor: str | None


class CapAnswer(Struct):
    """How many it may have (null: any number), how many any namespace may, and how many it has (null: not counted).

    `said`: whether something was said of this namespace.
    """

    cap: Cap
    most: Count | None
    default: Count | None
    said: bool
    present: Count | None


class CapsAnswer(Struct):
    namespace: str
    caps: list[CapAnswer]


class TicketAnswer(Struct):
    """What opens this stream, once and within so many seconds, as `?ticket=`."""

    ticket: Annotated[str, Meta(pattern=whole(TICKET_FORM))]
    path: str
    expires_in_seconds: Annotated[float, Meta(ge=0, le=TICKET_SECONDS)]


class RetentionAnswer(Struct):
    """Days from the end, null for what is kept; tables with rows outside of their weeks."""

    keep_days: dict[str, float | None]
    default_not_empty: list[str]


class Alive(Struct):
    status: Literal["ok"]


class Checks(Struct):
    database: bool
    serving: bool


class ReadyAnswer(Struct):
    status: Literal["ready", "not ready"]
    checks: Checks


class HealthAnswer(Struct):
    """`degraded`: what somebody has to look after, and what keeps nobody from working."""

    status: Literal["healthy", "unhealthy"]
    timestamp: Moment
    version: str
    checks: Checks
    secrets: Literal["openable", "not_openable"]
    degraded: Maybe[list[str]] = UNSET


OF_KEY = {"key_id": "$response.body#/key_id", "namespace": "$response.body#/namespace"}
AFTER_KEY = {
    "revoke": Link(to="/api/v1/keys/{key_id}/revoke", by="POST", parameters=OF_KEY),
    "rotate": Link(to="/api/v1/keys/{key_id}/rotate", by="POST", parameters=OF_KEY),
}
OF_NAMESPACE = {"namespace": "$response.body#/name"}
CAPS_PATH = "/api/v1/namespaces/{namespace}/caps"
AFTER_NAMESPACE = {
    "caps": Link(to=CAPS_PATH, parameters=OF_NAMESPACE),
    "cap": Link(to=CAPS_PATH, by="PUT", parameters=OF_NAMESPACE),
}
CURSOR = {"cursor": text(pattern=or_nothing(id_pattern("key")))}
NAMESPACE = {"namespace": text(0, 200, PRINTABLE)}

CONTRACT: Contract = {
    keys.create: Said(answers={201: NewKey}, links={201: AFTER_KEY}),
    keys.page: Said(
        answers={200: KeyPage}, parameters=NAMESPACE | {"cursor": text(pattern=or_nothing(id_pattern("key")))}
    ),
    keys.revoke: Said(answers={200: KeyAnswer}, parameters=NAMESPACE),
    keys.rotate: Said(answers={201: RotatedKey}, parameters=NAMESPACE, links={201: AFTER_KEY}),
    keys.create_namespace: Said(answers={201: NamespaceAnswer}, links={201: AFTER_NAMESPACE}),
    keys.list_namespaces: Said(answers={200: NamespacePage}, parameters={"cursor": text(0, 260, PRINTABLE)}),
    caps.read: Said(answers={200: CapsAnswer}),
    caps.put: Said(answers={200: CapsAnswer}),
    tickets.create: Said(answers={201: TicketAnswer}),
    retention.policy: Said(answers={200: RetentionAnswer}),
    health.livez: Said(answers={200: Alive}),
    health.readyz: Said(answers={200: ReadyAnswer, 503: ReadyAnswer}),
    health.health: Said(answers={200: HealthAnswer, 503: HealthAnswer}),
    health.metrics: Said(answers={200: Media(type="text/plain")}),
}

LIFE = {"minimum": LIFE_MIN_SECONDS, "maximum": LIFE_MAX_SECONDS}

RULES: Rules = {
    keys.KeyForm: {
        "name": text(1, NAME_MAX, PRINTABLE),
        "scopes": {"minItems": 1},
        "node_ids": {"maxItems": NODES_MAX, "items": text(pattern=whole(rf"({NAME.pattern}\*?|\*)"))},
        "namespace": text(1, 200, PRINTABLE),
        "expires_in_seconds": LIFE,
        # With the scope `node` there are nodes, and without it there are none.
        "": {
            "if": {"required": ["scopes"], "properties": {"scopes": {"contains": {"const": "node"}}}},
            "then": {
                "required": ["node_ids"],
                "properties": {
                    "node_ids": {"type": "array", "minItems": 1},
                    "hide_payloads": {"const": False},  # it is given payloads to work on
                },
            },
            "else": {"properties": {"node_ids": {"anyOf": [{"type": "null"}, {"type": "array", "maxItems": 0}]}}},
        },
    },
    keys.RotateForm: {
        "overlap_seconds": {"minimum": 0, "maximum": OVERLAP_MAX_SECONDS},
        "expires_in_seconds": LIFE,
    },
    caps.CapsForm: {cap.value: {"minimum": 0, "maximum": MOST} for cap in Cap},
    # Without a query.
    tickets.TicketForm: {"path": text(1, tickets.PATH_MAX, r"^/(?!.*\?)[\p{L}\p{M}\p{N}\p{P}\p{S} ]*$")},
    keys.NamespaceForm: {"name": text(pattern=NAME_PATTERN)},
}
