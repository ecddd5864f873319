"""What is promised of memory: values, vectors, and their changes as they happen."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct

from controlplane.api import changes, memory
from controlplane.api.agentfield import vectors
from controlplane.api.contract.said import (
    FENCED_PATTERN,
    LOCAL_MOMENT,
    PRINTABLE,
    Contract,
    Count,
    HttpStatus,
    Link,
    Maybe,
    Media,
    Moment,
    Rules,
    Said,
    Schema,
    integer,
    one_of,
    or_hidden,
    or_nothing,
    refer,
    text,
    whole,
)
from controlplane.domain.memory import KEY_MAX, SCOPE_ID_MAX, SCOPE_WORDS
from controlplane.domain.vector import DIMENSIONS_MAX, TOP_K_MAX

ScopeWord = Literal["run", "session", "actor", "global", "workflow"]


class ValueAnswer(Struct):
    """A value of memory; `data` is any JSON, as it came."""

    scope: ScopeWord
    scope_id: str
    key: str
    data: Any
    version: Count
    created_at: Moment
    updated_at: Moment


class Appended(Struct):
    scope: ScopeWord
    scope_id: str
    key: str
    length: Count
    version: Count


class Version(Struct):
    key: str
    version: Maybe[Count] = UNSET
    length: Maybe[Count] = UNSET


class GroupAnswer(Struct):
    """What became of one group; the facts of a refusal stand beside its `code`."""

    http_status: HttpStatus
    code: str
    versions: Maybe[list[Version]] = UNSET
    message: Maybe[str] = UNSET
    expected_length: Maybe[int] = UNSET
    actual_length: Maybe[int] = UNSET
    length: Maybe[int] = UNSET
    limit_bytes: Maybe[int] = UNSET
    status: Maybe[str] = UNSET


class WriteAnswer(Struct):
    results: list[GroupAnswer]


class VectorKept(Struct):
    key: str
    scope: ScopeWord
    scope_id: str
    metadata: dict[str, Any]


class VectorSummary(Struct):
    scope: ScopeWord
    scope_id: str
    key: str
    metadata: dict[str, Any]
    created_at: Moment
    updated_at: Moment


class VectorAnswer(VectorSummary, kw_only=True):
    embedding: list[Annotated[Any, or_hidden({"type": "number"})]]


class VectorHit(VectorSummary, kw_only=True):
    score: float
    distance: float


class VectorsForgotten(Struct):
    namespace: str
    scope: ScopeWord
    scope_id: str
    deleted: Count
    status: Literal["deleted"]


class ChangeAbout(Struct):
    agent_id: Maybe[str] = UNSET
    actor_id: Maybe[str] = UNSET
    workflow_id: Maybe[str] = UNSET


class ChangeAnswer(Struct):
    """A change of memory as AgentField tells it. An append is a `set` whose value is not told."""

    id: Annotated[str, Meta(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")]
    type: Literal["memory_change"]
    timestamp: Moment
    scope: ScopeWord
    scope_id: str
    key: str
    action: Literal["set", "delete"]
    metadata: Annotated[Any, or_hidden(refer(ChangeAbout))]
    appended: Maybe[Literal[True]] = UNSET
    data: Any = UNSET
    previous_data: Any = UNSET


SSE = Media(
    type="text/event-stream",
    schema={"description": "Lines of `id:`, the cursor to come back with, and of `data:`, one JSON object each."},
)
SCOPE = one_of(["", *SCOPE_WORDS])
KEY = text(1, KEY_MAX, PRINTABLE)
IN_QUERY: dict[str, Schema] = {"scope": SCOPE, "scope_id": {"type": "string"}}
PATTERNS = text(0, None, PRINTABLE, description="Patterns, comma-separated.")
SOUGHT: dict[str, Schema] = {"patterns": PATTERNS, "scope": SCOPE, "scope_id": text(0, SCOPE_ID_MAX, PRINTABLE)}
AROUND: dict[str, Schema] = dict.fromkeys(
    ("X-Run-ID", "X-Session-ID", "X-Actor-ID"), text(0, SCOPE_ID_MAX, r"^([!-~]([ -~]*[!-~])?)?$")
)
"""Of memory a scope may have a longer name than a run may."""
OF_VALUE = {"key": "$response.body#/key", "scope": "$response.body#/scope", "scope_id": "$response.body#/scope_id"}
AFTER_SET = {
    "get": Link(to="/api/v1/memory/get", by="POST", body=OF_VALUE),
    "append": Link(to="/api/v1/memory/append", by="POST", body=OF_VALUE | {"items": [1]}),
    "delete": Link(to="/api/v1/memory/delete", by="POST", body=OF_VALUE),
}
AFTER_VECTOR = {
    "get": Link(to="/api/v1/memory/vector/{key}", parameters=OF_VALUE),
    "delete": Link(to="/api/v1/memory/vector/{key}", by="DELETE", parameters=OF_VALUE),
}

CONTRACT: Contract = {
    memory.set_value: Said(answers={200: ValueAnswer}, parameters=AROUND, links={200: AFTER_SET}),
    memory.get_value: Said(answers={200: ValueAnswer}, parameters=AROUND),
    memory.delete_value: Said(answers={204: None}, parameters=AROUND),
    memory.append_items: Said(answers={200: Appended}, parameters=AROUND),
    memory.write: Said(answers={200: WriteAnswer}, parameters=AROUND),
    memory.list_values: Said(
        answers={200: list[ValueAnswer]},
        parameters={
            **IN_QUERY,
            **AROUND,
            "prefix": text(0, KEY_MAX, PRINTABLE),
            "after": text(0, KEY_MAX, PRINTABLE),
            "limit": integer(1, memory.LIST_MAX, default=memory.LIST_MAX),
        },
    ),
    changes.stream: Said(answers={200: SSE}, parameters=SOUGHT),
    changes.history: Said(
        answers={200: list[ChangeAnswer]},
        parameters=SOUGHT
        | {
            "since": text(pattern=or_nothing(whole(LOCAL_MOMENT)), examples=["2030-01-31T09:00:00Z"]),
            "limit": integer(1, changes.HISTORY_MAX, default=changes.HISTORY_DEFAULT),
        },
    ),
    vectors.set_vector: Said(answers={200: VectorKept}, parameters=AROUND, links={200: AFTER_VECTOR}),
    vectors.search: Said(answers={200: list[VectorHit]}, parameters=AROUND, headers={200: (vectors.INCOMPLETE,)}),
    vectors.get_vector: Said(answers={200: VectorAnswer}, parameters={"key": KEY, **IN_QUERY, **AROUND}),
    vectors.delete_vector: Said(answers={204: None}, parameters=AROUND),
    vectors.delete_named: Said(answers={204: None}, parameters={"key": KEY, **IN_QUERY, **AROUND}),
    vectors.delete_namespace: Said(answers={200: VectorsForgotten}, parameters=AROUND),
}

WHERE: dict[str, Schema] = {"scope": {"enum": ["", *SCOPE_WORDS]}}
"""Where a scope has an id, that of the body is looked at like any name; with the global one it is left alone."""
EMBEDDING: dict[str, Any] = {"minItems": 1, "maxItems": DIMENSIONS_MAX}
OBJECT: dict[str, Any] = {"type": ["object", "null"]}
ITEMS: dict[str, Any] = {"minItems": 1, "maxItems": memory.ITEMS_MAX}
LENGTH: dict[str, Any] = {"minimum": 0, "maximum": 2**31 - 1 - memory.ITEMS_MAX}

RULES: Rules = {
    ChangeAbout: {},
    memory.SetForm: {"key": KEY, **WHERE, "": {"required": ["key", "data"]}},
    memory.KeyForm: {"key": KEY, **WHERE},
    memory.AppendForm: {"key": KEY, "items": ITEMS, "expected_length": LENGTH, **WHERE},
    memory.OpForm: {
        "key": KEY,
        "expected_length": LENGTH,
        **WHERE,
        "": {
            "allOf": [
                {
                    "if": {"required": ["op"], "properties": {"op": {"const": "set"}}},
                    "then": {"required": ["value"]},
                },
                {
                    "if": {"required": ["op"], "properties": {"op": {"const": "append"}}},
                    "then": {"required": ["items"], "properties": {"items": ITEMS}},
                },
            ]
        },
    },
    memory.GroupForm: {
        "ops": {"minItems": 1},
        "execution_id": text(pattern=FENCED_PATTERN),
        "attempt": {"minimum": 1, "maximum": 2**31 - 1},
        **dict.fromkeys(("run_id", "session_key", "actor_key"), text(1, SCOPE_ID_MAX, PRINTABLE)),
    },
    memory.WriteForm: {"writes": {"minItems": 1, "maxItems": memory.OPS_MAX}},
    vectors.VectorForm: {"key": KEY, "embedding": EMBEDDING, "metadata": OBJECT, **WHERE},
    vectors.VectorSearchForm: {
        "query_embedding": EMBEDDING,
        "top_k": {"minimum": 0, "maximum": TOP_K_MAX},
        "filters": OBJECT,
        **WHERE,
    },
    vectors.VectorKeyForm: {"key": KEY, **WHERE},
    vectors.NamespaceForm: {"namespace": KEY, **WHERE},
}
