"""What the names of parameters and headers always mean, where a handler's contract does not say otherwise."""

from __future__ import annotations

from collections.abc import Mapping

from controlplane.api.agentfield.vectors import INCOMPLETE
from controlplane.api.body import TEXT_MAX
from controlplane.api.contract.said import (
    EXECUTION_PATTERN,
    FENCED_PATTERN,
    NAME_PATTERN,
    PRINTABLE,
    SAID_MOMENT,
    TARGET_PATTERN,
    Schema,
    id_pattern,
    integer,
    text,
    whole,
)
from controlplane.api.guard import WELL_FORMED
from controlplane.api.paging import LIMIT_DEFAULT, LIMIT_MAX
from controlplane.api.replay import HIT_HEADER

HEADER_TEXT = r"^[!-~]([ -~]*[!-~])?$"
"""A header's value as every client can send it: printable ASCII, and no space at its ends."""
MADE_UP = text(1, TEXT_MAX, HEADER_TEXT)
SAID = text(0, TEXT_MAX, r"^([!-~]([ -~]*[!-~])?)?$")
"""One that may be empty, which says nothing."""
PLACE = r"[0-9]{1,4}\.[0-9]{1,18}\.[0-9]{1,18}"
CURSOR = text(pattern=rf"^({PLACE}(_{PLACE})*)?$")


def policies(said: str) -> str:
    """The pattern of a header that says this of each caller, of its namespace, or of both."""
    one = rf'"(default|namespace)";{said}'
    return f"^{one}(, {one})?$"


IN_PATH: Mapping[str, Schema] = {
    "execution_id": text(pattern=FENCED_PATTERN),
    "run_id": text(1, TEXT_MAX, r"^[!-.0-~]*$"),
    "session_id": text(pattern=id_pattern("ses")),
    "bulk_id": text(pattern=id_pattern("bulk")),
    "delivery_id": text(pattern=id_pattern("dlv")),
    "event_id": text(pattern=id_pattern("tev")),
    "key_id": text(pattern=id_pattern("key")),
    "namespace": text(pattern=NAME_PATTERN),
    "job_id": text(pattern=EXECUTION_PATTERN),
    "task_id": {"type": "string"},
    "target": text(pattern=TARGET_PATTERN, examples=["node_id.reasoner_name"]),
    "node_id": text(pattern=NAME_PATTERN),
    "name": text(pattern=NAME_PATTERN),
}
IN_QUERY: Mapping[str, Schema] = {
    "limit": integer(1, LIMIT_MAX, default=LIMIT_DEFAULT),
    "cursor": text(0, 260, PRINTABLE),
    "after": CURSOR,
    **dict.fromkeys(("created_after", "created_before", "ended_after", "ended_before"), SAID_MOMENT),
}
IN_HEADER: Mapping[str, Schema] = {
    "Idempotency-Key": MADE_UP,
    **dict.fromkeys(("X-Run-ID", "X-Session-ID", "X-Actor-ID", "X-Agent-Node-ID"), SAID),
    "X-Parent-Execution-ID": text(0, TEXT_MAX, r"^(?!exec_)([!-~]([ -~]*[!-~])?)?$" + "|" + FENCED_PATTERN),
    "Last-Event-ID": CURSOR,
}
HEADERS: Mapping[str, Schema] = {
    "X-Request-ID": {
        "description": "The id of this request: the caller's own, or a new one. It stands in the server's log.",
        "required": True,
        "schema": text(pattern=whole(WELL_FORMED.pattern.decode())),
    },
    "RateLimit": {
        "description": "What is left to this caller and to its namespace, where the operator limits requests.",
        "schema": text(pattern=policies("r=[0-9]+;t=[0-9]+")),
    },
    "RateLimit-Policy": {
        "description": "How many requests are allowed, where the operator limits them.",
        "schema": text(pattern=policies("q=[0-9]+;w=[0-9]+")),
    },
    "Retry-After": {
        "description": "Seconds to wait.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {"description": "How to say the key.", "required": True, "schema": {"const": "Bearer"}},
    "Location": {
        "description": "Where to look at what was begun.",
        "required": True,
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "X-Execution-ID": {"description": "The execution.", "required": True, "schema": text(pattern=EXECUTION_PATTERN)},
    "X-Run-ID": {"description": "Its run.", "required": True, "schema": text(1, TEXT_MAX)},
    "X-Routed-Version": {"description": "The version of the node that is asked.", "schema": {"type": "string"}},
    "Idempotent-Replayed": {
        "description": "It was asked for before, and this is the answer of the first time.",
        "schema": {"const": "true"},
    },
    HIT_HEADER: {
        "description": "The execution whose result was taken over.",
        "schema": text(pattern=EXECUTION_PATTERN),
    },
    INCOMPLETE: {"description": "Not all vectors of the scope were compared.", "schema": {"type": "string"}},
}
