"""What is promised to nodes: register, sessions, leases, results, steps, signals; and of nodes to those who look."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct

from controlplane.api import described, leases, nodes, signals, steps
from controlplane.api.contract.executions import BARE, FENCED, LABEL, RetryPolicyAnswer, Words
from controlplane.api.contract.said import (
    EXECUTION_PATTERN,
    NAME_PATTERN,
    PRINTABLE,
    Contract,
    Count,
    ExecutionText,
    HttpStatus,
    Link,
    Maybe,
    Moment,
    Rules,
    Said,
    Schema,
    Seconds,
    SessionText,
    Target,
    id_pattern,
    integer,
    text,
)
from controlplane.api.policy import RETRIES_MAX
from controlplane.domain.execution import ParentEnd, Status
from controlplane.domain.lease import Transport
from controlplane.domain.limit import CONCURRENCY_MAX
from controlplane.domain.step import EVENT_MAX, NAME_MAX, SLEEP_MAX_SECONDS, WAITS_MAX, StepKind, StepStatus
from controlplane.security.egress import URL_CHARS_MAX
from controlplane.stages.lease import LEASES_MAX

INT_MAX = 2**31 - 1


class Registered(Struct):
    id: str
    status: Literal["registered"]
    success: Literal[True]
    reasoners: Count
    transport: Literal["pull", "push"]
    resolved_base_url: str | None


class NodeSummary(Struct):
    """A node and its processes."""

    id: str
    node_id: str
    transport: Transport
    version: str
    lifecycle_status: Literal["ready", "offline"]
    health_status: Literal["healthy", "unknown"]
    sessions: Count
    slots: Count
    running: Count
    paused: bool
    draining: Count
    draining_running: Count
    registered_at: Moment
    updated_at: Moment
    base_url: Maybe[str] = UNSET
    last_heartbeat: Maybe[Moment] = UNSET
    metadata: Any = UNSET


class Filters(Struct):
    show_all: bool


class NodeList(Struct):
    nodes: list[NodeSummary]
    count: Count
    filters: Filters


class ReasonerSummary(Struct):
    """A function that a node serves. `up`: a process of it is connected."""

    target: Target
    node_id: str
    id: str
    type: Words
    tags: list[str]
    retries: Count
    retry: RetryPolicyAnswer
    up: bool
    paused: bool
    description: Maybe[str] = UNSET
    timeout_seconds: Maybe[Seconds] = UNSET
    schedule_to_start_seconds: Maybe[Seconds] = UNSET
    total_seconds: Maybe[Seconds] = UNSET
    heartbeat_seconds: Maybe[Seconds] = UNSET
    on_parent_end: Maybe[ParentEnd] = UNSET


class ReasonerAnswer(ReasonerSummary, kw_only=True):
    input_schema: Any = UNSET
    output_schema: Any = UNSET


class ReasonerList(Struct):
    items: list[ReasonerSummary]


class KeptBy(Struct):
    """What keeps a node from being forgotten: open sessions, unfinished executions, what submits to it."""

    detail: str
    fix: str
    sessions: Count
    executions: Count
    executions_is_more: bool
    schedules: list[str]
    triggers: list[str]


class NodeAnswer(NodeSummary, kw_only=True):
    reasoners: list[ReasonerAnswer]
    skills: list[ReasonerAnswer]
    kept_by: Maybe[KeptBy] = UNSET


class NodeForgotten(Struct):
    node_id: str
    deleted: Literal[True]
    targets: list[Target]


class SessionAnswer(Struct):
    session_id: SessionText
    node_id: str
    lease_seconds: Seconds
    heartbeat_seconds: Seconds
    expires_in_seconds: Seconds


class LeaseAnswer(Struct):
    """Work for a process, and the fence that its every word about it carries."""

    execution_id: ExecutionText
    attempt: Annotated[int, Meta(ge=1)]
    failures: Count
    target: Target
    reasoner: str
    type: Words
    run_id: str
    root_execution_id: ExecutionText
    parent_execution_id: ExecutionText | None
    session_key: str | None
    actor_key: str | None
    input: dict[str, Any]
    timeout_seconds: Seconds | None
    deadline_in_seconds: float | None
    heartbeat_seconds: Seconds | None
    steps: Count
    created_at: Moment
    context: Any = UNSET


class LeaseList(Struct):
    leases: list[LeaseAnswer]
    draining: Maybe[Literal[True]] = UNSET


class FenceAnswer(Struct):
    execution_id: ExecutionText
    attempt: Annotated[int, Meta(ge=1)]


class Stop(FenceAnswer, kw_only=True):
    reason: str | None


class Beaten(Struct):
    """Renewed. `tell_all`: the next beat shall name everything that the process holds.

    `idle_wait_seconds`: so long a beat may be held while its process holds nothing; the session is renewed meanwhile.
    """

    expires_in_seconds: Seconds
    cancel: list[Stop]
    lost: list[FenceAnswer]
    draining: bool
    idle_wait_seconds: Seconds
    tell_all: Maybe[Literal[True]] = UNSET


class ResultAnswer(Struct):
    """What became of one report. `code`: recorded, already_recorded, discarded, or why it was refused."""

    execution_id: str
    attempt: int
    http_status: HttpStatus
    code: str
    status: Maybe[Status | None] = UNSET
    message: Maybe[str] = UNSET


class ResultsAnswer(Struct):
    results: list[ResultAnswer]


class LogsAnswer(Struct):
    accepted: Count
    dropped: Count
    lost: list[FenceAnswer]


class Closed(Struct):
    released: Count


class StepAnswer(Struct):
    """A step as it stands: `value` once it is done."""

    name: str
    kind: StepKind
    status: StepStatus
    due_in_seconds: float | None
    timed_out: bool
    child_id: ExecutionText | None
    value: Any = UNSET
    attempt: Maybe[int] = UNSET
    event: Maybe[str] = UNSET
    approval_request_id: Maybe[str] = UNSET
    approval_request_url: Maybe[str] = UNSET
    child_status: Maybe[Status] = UNSET
    error: Any = UNSET
    error_class: Maybe[str] = UNSET
    due_at: Maybe[Moment] = UNSET
    created_at: Maybe[Moment] = UNSET
    done_at: Maybe[Moment] = UNSET


class StepPage(Struct):
    steps: list[StepAnswer]
    next_cursor: str | None


class StepGroupAnswer(Struct):
    """What became of one group; the facts of a refusal stand beside its `code`."""

    http_status: HttpStatus
    code: str
    steps: Maybe[list[StepAnswer]] = UNSET
    message: Maybe[str] = UNSET
    attempt: Maybe[int] = UNSET
    status: Maybe[str] = UNSET
    limit_bytes: Maybe[int] = UNSET


class StepsAnswer(Struct):
    results: list[StepGroupAnswer]


class SignalAnswer(Struct):
    signal_id: Annotated[str, Meta(pattern=id_pattern("sig"))]
    execution_id: ExecutionText
    event: str
    delivered: bool


OF_NODE = {"node_id": "$response.body#/id"}
AFTER_REGISTER = {
    "read": Link(to="/api/v1/nodes/{node_id}", parameters=OF_NODE),
    "openSession": Link(to="/api/v1/nodes/{node_id}/sessions", by="POST", parameters=OF_NODE),
    "pause": Link(to="/api/v1/nodes/{node_id}/pause", by="POST", parameters=OF_NODE),
    "resume": Link(to="/api/v1/nodes/{node_id}/resume", by="POST", parameters=OF_NODE),
    "drain": Link(to="/api/v1/nodes/{node_id}/drain", by="POST", parameters=OF_NODE),
}
OF_SESSION = {"session_id": "$response.body#/session_id"}
OF_PATH = {"session_id": "$request.path.session_id"}
AFTER_OPEN = {
    "lease": Link(
        to="/api/v1/sessions/{session_id}/lease", by="POST", parameters=OF_SESSION, body={"max": 1, "wait_seconds": 0}
    ),
    "heartbeat": Link(to="/api/v1/sessions/{session_id}/heartbeat", by="POST", parameters=OF_SESSION),
    "close": Link(to="/api/v1/sessions/{session_id}/close", by="POST", parameters=OF_SESSION),
}
FIRST = {"execution_id": "$response.body#/leases/0/execution_id", "attempt": "$response.body#/leases/0/attempt"}
AFTER_LEASE = {
    "results": Link(
        to="/api/v1/sessions/{session_id}/results",
        by="POST",
        parameters=OF_PATH,
        body={"results": [FIRST | {"status": "succeeded", "result": {"done": True}}]},
    ),
    "logs": Link(
        to="/api/v1/sessions/{session_id}/logs",
        by="POST",
        parameters=OF_PATH,
        body={"entries": [FIRST | {"message": "going"}]},
    ),
    "heartbeat": Link(
        to="/api/v1/sessions/{session_id}/heartbeat", by="POST", parameters=OF_PATH, body={"executions": [FIRST]}
    ),
}

CONTRACT: Contract = {
    nodes.register_node: Said(answers={201: Registered}, links={201: AFTER_REGISTER}),
    # What is not `true` is false, and refuses nothing: AgentField's clients ask so.
    nodes.list_nodes: Said(answers={200: NodeList}, parameters={"show_all": {"type": "string"}}),
    nodes.read_node: Said(answers={200: NodeAnswer}),
    nodes.forget: Said(answers={200: NodeForgotten}),
    nodes.list_reasoners: Said(answers={200: ReasonerList}),
    leases.open_session: Said(answers={201: SessionAnswer}, links={201: AFTER_OPEN}),
    leases.lease: Said(answers={200: LeaseList}, links={200: AFTER_LEASE}),
    leases.heartbeat: Said(answers={200: Beaten}),
    leases.results: Said(answers={200: ResultsAnswer}),
    leases.logs: Said(answers={202: LogsAnswer}),
    leases.close: Said(answers={200: Closed}),
    steps.write: Said(answers={200: StepsAnswer}),
    steps.page: Said(
        answers={200: StepPage},
        parameters=FENCED
        | {"limit": integer(1, steps.PAGE_MAX, default=steps.PAGE_DEFAULT), "after": text(0, NAME_MAX, PRINTABLE)},
    ),
    signals.send: Said(
        answers={202: SignalAnswer},
        parameters=BARE | {"event": text(1, EVENT_MAX, r"^[!-.0-~]*$")},
        headers={202: ("Idempotent-Replayed",)},
        body={"application/json": {}},
    ),
}

ADDRESS = text(0, URL_CHARS_MAX, r"^([hH][tT][tT][pP][sS]?://[^\s\\?]+)?$", format="uri-reference")
SECONDS: dict[str, Any] = {"minimum": 0.001, "maximum": described.SECONDS_MAX}
WAIT: dict[str, Any] = {"minimum": 0, "maximum": leases.WAIT_MAX_SECONDS}
DURATION: dict[str, Any] = {"minimum": 0, "maximum": SLEEP_MAX_SECONDS}
FENCE: dict[str, Schema] = {
    "execution_id": text(pattern=EXECUTION_PATTERN),
    "attempt": {"minimum": 1, "maximum": INT_MAX},
}
NAMES: dict[str, Any] = {"maxItems": described.REASONERS_MAX}

RULES: Rules = {
    described.ReasonerForm: {
        "id": text(pattern=NAME_PATTERN),
        "tags": {"maxItems": described.TAGS_MAX, "items": text(1, 200, PRINTABLE)},
        "retries": {"minimum": 0, "maximum": RETRIES_MAX},
        "retry_delay_seconds": {"minimum": 0, "maximum": described.SECONDS_MAX},
        "retry_factor": {"minimum": 1, "maximum": described.SECONDS_MAX},
        "retry_cap_seconds": {"minimum": 0, "maximum": described.SECONDS_MAX},
        **dict.fromkeys(
            ("timeout_seconds", "schedule_to_start_seconds", "total_seconds", "heartbeat_seconds"), SECONDS
        ),
        "concurrency": {"minimum": 0, "maximum": CONCURRENCY_MAX},
        "concurrency_key": LABEL,
    },
    described.RegisterForm: {
        "id": text(pattern=NAME_PATTERN),
        "version": text(1, 200, PRINTABLE),
        "base_url": ADDRESS,
        "reasoners": NAMES,
        "skills": NAMES,
        "": {
            "if": {"required": ["transport"], "properties": {"transport": {"const": "push"}}},
            "then": {"required": ["base_url"], "properties": {"base_url": text(1)}},
        },
    },
    leases.OpenForm: {
        "instance_id": text(1, 200, PRINTABLE),
        "slots": {"minimum": 1, "maximum": leases.SLOTS_MAX},
        "heartbeat_seconds": {"minimum": 0.1, "maximum": leases.HEARTBEAT_MAX_SECONDS},
    },
    leases.LeaseForm: {"max": {"minimum": 1, "maximum": LEASES_MAX}, "wait_seconds": WAIT},
    leases.FenceForm: FENCE,
    leases.HeartbeatForm: {"executions": {"maxItems": leases.HELD_MAX}, "wait_seconds": WAIT},
    leases.ResultsForm: {"results": {"minItems": 1, "maxItems": leases.RESULTS_MAX}},
    leases.ResultForm: FENCE
    | {
        "waits": {"maxItems": WAITS_MAX, "items": text(1, NAME_MAX, PRINTABLE)},
        "": {
            "if": {"required": ["status"], "properties": {"status": {"const": "waiting"}}},
            "then": {"required": ["waits"], "properties": {"waits": {"minItems": 1}}},
        },
    },
    leases.CloseForm: {"reason": text(0, leases.WORD_MAX, PRINTABLE)},
    leases.LogsForm: {"entries": {"maxItems": leases.ENTRIES_MAX}, "progress": {"maxItems": leases.ENTRIES_MAX}},
    leases.LineForm: FENCE,
    leases.ProgressForm: FENCE
    | {
        "fraction": {"minimum": 0, "maximum": 1},
        "done": {"minimum": 0, "maximum": 2**53 - 1},
        "total": {"minimum": 0, "maximum": 2**53 - 1},
    },
    steps.StepGroupForm: FENCE | {"ops": {"minItems": 1}},
    steps.StepsWriteForm: {"writes": {"minItems": 1, "maxItems": steps.OPS_MAX}},
    steps.StepOpForm: {
        "name": text(1, NAME_MAX, PRINTABLE),
        "seconds": DURATION,
        "timeout_seconds": DURATION,
        "expires_seconds": DURATION,
        "": {
            "allOf": [
                {
                    "if": {"required": ["op"], "properties": {"op": {"const": "sleep"}}},
                    "then": {"required": ["seconds"], "properties": {"seconds": {"type": "number"}}},
                },
                {
                    "if": {"required": ["op"], "properties": {"op": {"const": "event"}}},
                    "then": {
                        "required": ["event"],
                        "properties": {"event": text(1, EVENT_MAX, r"^[\p{L}\p{M}\p{N}\p{P}\p{S} ]*$")},
                    },
                },
            ]
        },
    },
}
