"""What is promised to AgentField's clients, and to those of `/jobs` and `/agent`: in their words, where ours differ."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Struct

from controlplane.api.agentfield import (
    actions,
    approvals,
    callbacks,
    calls,
    discovery,
    identities,
    logs,
    processes,
    runs,
    workflow,
)
from controlplane.api.contract.executions import (
    FENCED,
    MADE_UP,
    OBJECT,
    URL,
    WAITED,
    ExecutionAnswer,
    ExecutionFailed,
)
from controlplane.api.contract.memory import SSE
from controlplane.api.contract.nodes import ADDRESS
from controlplane.api.contract.said import (
    NAME_PATTERN,
    PRINTABLE,
    Contract,
    Count,
    ExecutionText,
    Link,
    Maybe,
    Media,
    Milliseconds,
    Moment,
    Rules,
    Said,
    Schema,
    Target,
    integer,
    one_of,
    or_hidden,
    text,
    whole,
    words,
)
from controlplane.api.facades import jobs, tasks
from controlplane.domain.approval import Decision, decisions
from controlplane.domain.execution import Status
from controlplane.domain.facade import JobStatus, TaskStatus
from controlplane.domain.ids import ATTEMPT, TAIL


class Beat(Struct):
    success: Literal[True]
    message: str
    timestamp: Moment


class LeaseRenewed(Struct):
    lease_seconds: Count
    next_lease_renewal: Moment


class ShutdownTaken(LeaseRenewed, kw_only=True):
    message: str


class ServerlessNode(Struct):
    id: str
    version: str
    deployment_type: Literal["serverless"]
    invocation_url: str


class ServerlessRegistered(Struct):
    success: Literal[True]
    message: str
    node: ServerlessNode
    reasoners: Count
    skills: Count


class LogsTaken(Struct):
    success: Literal[True]
    execution_id: str
    accepted: Count
    dropped: Count


class EventTaken(Struct):
    success: Literal[True]
    updated: bool
    message: Maybe[str] = UNSET


class LocalCallAnswer(Struct):
    execution_id: str
    reasoner_id: str
    status: str
    created_at: Moment
    updated_at: Moment
    parent_execution_id: Maybe[str] = UNSET
    status_reason: Maybe[str] = UNSET
    result: Any = UNSET
    error: Any = UNSET
    duration_ms: Maybe[Milliseconds] = UNSET


class LocalCallList(Struct):
    execution_id: ExecutionText
    items: list[LocalCallAnswer]


class Pagination(Struct):
    limit: Count
    offset: Count
    has_more: bool


class CapabilityEntry(Struct):
    id: str
    tags: list[str]
    invocation_target: Target
    description: Maybe[str] = UNSET
    input_schema: Any = UNSET
    output_schema: Any = UNSET
    examples: Maybe[list[Any]] = UNSET


class CapabilityAnswer(Struct):
    agent_id: str
    group_id: str
    base_url: str
    version: str
    health_status: Literal["active", "inactive"]
    deployment_type: Literal["serverless", "long_running"]
    last_heartbeat: Moment
    reasoners: list[CapabilityEntry]
    skills: list[CapabilityEntry]


class Discovery(Struct):
    discovered_at: Moment
    total_agents: Count
    total_reasoners: Count
    total_skills: Count
    pagination: Pagination
    capabilities: list[CapabilityAnswer]


class CompactEntry(Struct):
    id: str
    agent_id: str
    target: Target
    tags: list[str]


class DiscoveryCompact(Struct):
    discovered_at: Moment
    reasoners: list[CompactEntry]
    skills: list[CompactEntry]


class OlderResult(Struct):
    """A result as older clients read it."""

    result: Any
    node_id: str
    duration_ms: Milliseconds
    timestamp: Moment


class ActiveRunAnswer(Struct):
    run_id: str
    root_execution_id: ExecutionText
    target: Target
    agent_id: str
    reasoner_id: str
    root_status: Status
    active_executions: Count
    status_counts: dict[str, Count]
    started_at: Moment
    latest_activity: Moment
    session_id: Maybe[str] = UNSET


class ActiveRunList(Struct):
    count: Count
    runs: list[ActiveRunAnswer]


class CancelledNode(Struct):
    execution_id: ExecutionText
    previous_status: Status
    status: Literal["cancelled"]
    settled: bool


class TreeCancelled(Struct):
    run_id: str
    workflow_id: str
    total_nodes: Count
    cancelled_count: Count
    skipped_count: Count
    error_count: Literal[0]
    truncated: bool
    nodes: list[CancelledNode]
    reason: Maybe[str] = UNSET


class ActionList(LeaseRenewed, kw_only=True):
    items: list[Any]
    next_poll_after: Count


class ApprovalAnswer(Struct):
    """A question to people as it stands."""

    status: Decision
    approval_request_id: str
    execution_id: ExecutionText
    requested_at: Moment
    title: Maybe[str] = UNSET
    request_url: Maybe[str] = UNSET
    feedback: Maybe[str] = UNSET
    response: Any = UNSET
    responded_at: Maybe[Moment] = UNSET
    expires_at: Maybe[Moment] = UNSET


class ApprovalAsked(ApprovalAnswer, kw_only=True):
    approval_request_url: str


class ApprovalProcessed(Struct):
    """What became of a decision. `execution_ids`: of all that waited for it, where there were several."""

    status: Literal["processed", "already_processed"]
    decision: Decision
    new_status: Status
    approval_request_id: str
    execution_id: ExecutionText
    requested_at: Moment
    title: Maybe[str] = UNSET
    request_url: Maybe[str] = UNSET
    feedback: Maybe[str] = UNSET
    response: Any = UNSET
    responded_at: Maybe[Moment] = UNSET
    expires_at: Maybe[Moment] = UNSET
    execution_ids: Maybe[list[ExecutionText]] = UNSET


class AwaiterAnswer(Struct):
    execution_id: ExecutionText
    status: Status
    applied: bool


class NoIdentity(Struct):
    success: Literal[False]
    error: str


class JobAccepted(Struct):
    job_id: ExecutionText
    status: Literal["pending"]


HowFar = Annotated[Any, or_hidden({"type": "integer", "minimum": 0})]


class JobAnswer(Struct):
    """How a job stands. `result` is any JSON, or why it failed."""

    status: JobStatus
    created_at: Moment
    type: Maybe[str] = UNSET
    updated_at: Maybe[Moment] = UNSET
    progress: HowFar = UNSET
    progress_message: Maybe[str] = UNSET
    result: Any = UNSET


class JobListed(JobAnswer, kw_only=True):
    job_id: ExecutionText


class JobCancelled(Struct):
    status: Literal["cancelled"]


class TaskAccepted(Struct):
    task_id: ExecutionText
    status: Literal["pending", "submitted"]


class TaskSubmitted(Struct):
    task_id: ExecutionText


class TaskAnswer(Struct):
    id: ExecutionText
    status: TaskStatus
    progress: HowFar
    result: Any
    error: str | None


class TaskUnknown(Struct):
    error: Literal["Task not found"]


def said(*known: str) -> Schema:
    """One of these in a query, in letters of any size, or nothing."""
    return text(pattern=rf"^\s*$|{words(known)}")


JOB = {"job_id": "$response.body#/job_id"}
AFTER_JOB = {
    "read": Link(to="/jobs/{job_id}", parameters=JOB),
    "cancel": Link(to="/jobs/{job_id}/cancel", by="POST", parameters=JOB),
}
AFTER_TASK = {"read": Link(to="/agent/status/{task_id}", parameters={"task_id": "$response.body#/task_id"})}
ACCEPTED = ("Location", "X-Execution-ID", "X-Run-ID", "Idempotent-Replayed")
# AgentField's clients say these in many spellings; what is none of them is refused with 400 and `parameter`.
FLAG = said(*discovery.TRUE, *discovery.FALSE)
PATTERN = text(0, discovery.PATTERN_MAX)
LIST: Schema = {"type": "string", "description": "Comma-separated."}
ATTEMPTED = text(pattern=whole(f"exec_{TAIL.pattern}~{ATTEMPT.pattern}"))
WORD = {"type": "string", "pattern": words([*callbacks.VERDICTS, *callbacks.UNDER_WAY])}
DECISIONS = {"type": "string", "pattern": words(decisions())}
LISTENER = {"X-Session-ID": text(1, 200, r"^[!-~]([ -~]*[!-~])?$")}
ANY_TEXT: Schema = {"type": "string"}

CONTRACT: Contract = {
    processes.heartbeat: Said(answers={200: Beat}),
    processes.renew_lease: Said(answers={200: LeaseRenewed}),
    processes.shutdown: Said(answers={202: ShutdownTaken}),
    processes.register_serverless: Said(answers={201: ServerlessRegistered}),
    callbacks.status: Said(answers={200: ExecutionAnswer}, parameters={"execution_id": ATTEMPTED}),
    logs.take: Said(answers={202: LogsTaken}, parameters={"execution_id": ANY_TEXT}),
    workflow.event: Said(answers={200: EventTaken}),
    workflow.calls: Said(answers={200: LocalCallList}, parameters=FENCED | {"limit": integer(1, 1_000, default=200)}),
    discovery.capabilities: Said(
        answers={200: (Discovery, DiscoveryCompact, Media(type="application/xml"))},
        parameters={
            **dict.fromkeys(("agent", "node_id", "agent_ids", "node_ids", "tags"), LIST),
            "reasoner": PATTERN,
            "skill": PATTERN,
            **dict.fromkeys(
                ("include_input_schema", "include_output_schema", "include_descriptions", "include_examples"), FLAG
            ),
            "format": said(*discovery.FORMATS),
            "health_status": said(*discovery.UP, *discovery.DOWN),
            "limit": integer(0, discovery.LIMIT_MAX, default=discovery.LIMIT_DEFAULT),
            "offset": integer(0, discovery.OFFSET_MAX, default=0),
        },
    ),
    # A failure is answered with the node's own status where that was a 4xx, which may be any.
    calls.call: Said(
        answers={200: OlderResult, 502: ExecutionFailed},
        headers={200: WAITED, 502: WAITED, 504: WAITED},
        any_refusal=True,
    ),
    runs.active: Said(
        answers={200: ActiveRunList},
        parameters={
            "agent_id": text(0, 200, PRINTABLE),
            "session_id": text(0, 200, PRINTABLE),
            "limit": integer(1, 10**19 - 1, default=runs.RUNS_DEFAULT),  # more than 200 counts as 200
        },
    ),
    runs.cancel_tree: Said(answers={200: TreeCancelled}),
    actions.claim: Said(answers={200: ActionList}),
    actions.acknowledge: Said(answers={200: LeaseRenewed}),
    approvals.ask: Said(answers={200: ApprovalAsked}, parameters=FENCED),
    approvals.read: Said(answers={200: ApprovalAnswer}, parameters=FENCED),
    approvals.hear: Said(answers={200: ApprovalProcessed}),
    approvals.decide: Said(answers={200: ApprovalProcessed}, parameters=FENCED),
    approvals.awaiter: Said(answers={200: AwaiterAnswer}, parameters=FENCED),
    identities.register: Said(answers={200: NoIdentity}),
    jobs.create: Said(
        answers={200: JobAccepted},
        parameters=LISTENER,
        headers={200: ACCEPTED},
        links={200: AFTER_JOB},
    ),
    jobs.page: Said(answers={200: list[JobListed]}, parameters={"status": one_of(list(JobStatus))}),
    jobs.read: Said(answers={200: JobAnswer}),
    jobs.request_cancel: Said(answers={200: JobCancelled}),
    jobs.stream: Said(answers={200: SSE, 204: None}),
    tasks.start: Said(answers={200: TaskAccepted}, headers={200: ACCEPTED}, links={200: AFTER_TASK}),
    tasks.submit: Said(answers={200: TaskSubmitted}, headers={200: ACCEPTED}, links={200: AFTER_TASK}),
    tasks.submit_with_callback: Said(answers={200: TaskAccepted}, headers={200: ACCEPTED}, links={200: AFTER_TASK}),
    tasks.status: Said(answers={200: (TaskAnswer, TaskUnknown)}),
}

RULES: Rules = {
    processes.HeartbeatForm: {"instance_id": text(1, 200, PRINTABLE)},
    processes.ShutdownForm: {"timeout_seconds": {"minimum": 0, "maximum": processes.DRAIN_MAX_SECONDS}},
    processes.ServerlessForm: {"invocation_url": ADDRESS | {"minLength": 1}},
    callbacks.StatusForm: {"status": WORD},
    # A line by itself, or lines.
    logs.EntryForm: {"": {"allOf": [{"required": ["message"], "properties": {"message": text(1)}}]}},
    logs.LogsForm: {
        "entries": {"maxItems": logs.ENTRIES_MAX},
        "": {
            "anyOf": [
                {"required": ["message"], "properties": {"message": text(1)}},
                {"required": ["entries"], "properties": {"entries": {"type": "array"}}},
            ]
        },
    },
    workflow.EventForm: {"execution_id": MADE_UP, "parent_execution_id": MADE_UP},
    actions.ClaimForm: {"node_id": text(pattern=NAME_PATTERN)},
    approvals.AskForm: {
        "approval_request_id": MADE_UP,
        "approval_request_url": text(0, 2048, PRINTABLE),
        "expires_in_hours": {"maximum": approvals.EXPIRES_HOURS_MAX},
    },
    approvals.DecisionForm: {
        "decision": DECISIONS,
        "approval_request_id": MADE_UP,
        "feedback": text(0, approvals.FEEDBACK_CHARS_MAX),
    },
    approvals.EnvelopeData: {"response": OBJECT},
    approvals.HearForm: {
        "feedback": text(0, approvals.FEEDBACK_CHARS_MAX),
        "namespace": text(1, 200, PRINTABLE),
        "": {
            "anyOf": [
                {"required": ["requestId", "decision"], "properties": {"requestId": MADE_UP, "decision": DECISIONS}},
                {"required": ["data"], "properties": {"data": {"type": "object"}}},
            ]
        },
    },
    tasks.CallbackForm: {"callback_url": URL},
    jobs.JobForm: {"webhook_url": URL, "type": MADE_UP, "params": {"type": "object"}, "session_id": MADE_UP},
}
