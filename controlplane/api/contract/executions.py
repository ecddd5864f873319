"""What is promised of executions: submit, watch, list, cancel, restart, retry, runs, explain, attempts, batch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct

from controlplane.api import attempts, batch, executions, explain, pauses, restart, retry, runs
from controlplane.api.contract.said import (
    EXECUTION_PATTERN,
    FENCED_PATTERN,
    MOMENT,
    PRINTABLE,
    TARGET_PATTERN,
    URL_PATTERN,
    Attempt,
    ByName,
    Contract,
    Count,
    ExecutionText,
    Hidden,
    HttpStatus,
    Link,
    Maybe,
    Milliseconds,
    Moment,
    Rules,
    Said,
    Seconds,
    SessionText,
    Target,
    integer,
    listed,
    one_of,
    or_hidden,
    or_nothing,
    refer,
    text,
)
from controlplane.api.executions import (
    BATCH_STATUS_MAX,
    PRIORITY_MAX,
    REASON_MAX,
    SECRET_MAX,
    TIMEOUT_MAX_SECONDS,
    WAIT_MAX_SECONDS,
    WEBHOOKS_MAX,
    BatchStatusForm,
    CancelForm,
    ConcurrencyForm,
    SubmitForm,
    WebhookForm,
)
from controlplane.api.pauses import PauseForm
from controlplane.api.policy import DELAY_MAX_SECONDS as RETRY_DELAY_MAX_SECONDS
from controlplane.api.policy import ERRORS_MAX, FACTOR_MAX, RETRIES_MAX, Backoff, RetryPolicyForm
from controlplane.api.start import DELAY_MAX_SECONDS
from controlplane.domain.endpoint import ALL, EXECUTION_WIDE
from controlplane.domain.execution import ParentEnd, ReplayMode, State, Status
from controlplane.domain.explain import Cause
from controlplane.domain.limit import CONCURRENCY_MAX, LABEL_MAX
from controlplane.domain.step import NAME_MAX
from controlplane.security.egress import URL_CHARS_MAX

KEY_MAX = 200
"""Characters of a name that a caller makes up (`body.clean`)."""
Words = Literal["reasoner", "skill"]


class Warned(Struct):
    """Something that whoever asks should know; it has been done all the same."""

    code: str
    message: str


class RetryPolicyAnswer(Struct):
    """When a failure is tried again."""

    max: Count
    backoff: Backoff
    delay_seconds: Seconds
    factor: Annotated[float, Meta(ge=1)]
    cap_seconds: Seconds
    jitter: Annotated[float, Meta(ge=0, le=1)]
    fatal_errors: list[str]
    retry_errors: list[str]


class ProgressAnswer(Struct):
    """How far a node has said that it is."""

    done: Maybe[float | None] = UNSET
    total: Maybe[float | None] = UNSET
    fraction: Maybe[float | None] = UNSET
    message: Maybe[str | None] = UNSET
    updated_at: Maybe[Moment] = UNSET


ProgressShown = Annotated[Any, or_hidden(refer(ProgressAnswer))]


class WebhookEvent(Struct):
    """One attempt to tell somebody, in AgentField's shape."""

    id: Count
    execution_id: ExecutionText
    event_type: str
    status: Literal["delivered", "failed"]
    created_at: Moment
    attempt: Count
    delivery_id: str
    http_status: Maybe[int] = UNSET
    response_body: Maybe[str] = UNSET
    error_message: Maybe[str] = UNSET


class ExecutionSummary(Struct):
    """An execution without its payloads. `result` and `error` are any JSON."""

    execution_id: ExecutionText
    run_id: str
    workflow_id: str
    root_execution_id: ExecutionText
    target: Target
    node_id: str
    type: Words
    status: Status
    attempt: Attempt
    attempts: Attempt
    failures: Count
    priority: int
    created_at: Moment
    webhook_registered: bool
    parent_execution_id: Maybe[ExecutionText] = UNSET
    source_execution_id: Maybe[ExecutionText] = UNSET
    status_reason: Maybe[str] = UNSET
    state: Maybe[State] = UNSET
    concurrency_key: Maybe[str] = UNSET
    fairness_key: Maybe[str] = UNSET
    blocked_by: Maybe[str] = UNSET
    available_at: Maybe[Moment] = UNSET
    started_at: Maybe[Moment] = UNSET
    completed_at: Maybe[Moment] = UNSET
    duration_ms: Maybe[Milliseconds] = UNSET
    progress: ProgressShown = UNSET
    error: Any = UNSET
    error_message: Maybe[str] = UNSET
    error_class: Maybe[str] = UNSET
    error_status_code: Maybe[HttpStatus] = UNSET
    session_key: Maybe[str] = UNSET
    actor_key: Maybe[str] = UNSET


class ExecutionAnswer(ExecutionSummary, kw_only=True):
    """An execution as it stands."""

    retry: RetryPolicyAnswer
    retries_used: Count
    next_retry_at: Maybe[Moment] = UNSET
    timeout_seconds: Maybe[Seconds] = UNSET
    schedule_to_start_seconds: Maybe[Seconds] = UNSET
    total_seconds: Maybe[Seconds] = UNSET
    heartbeat_seconds: Maybe[Seconds] = UNSET
    deadline_at: Maybe[Moment] = UNSET
    on_parent_end: Maybe[ParentEnd] = UNSET
    result: Any = UNSET
    error_details: Any = UNSET


class ExecutionRead(ExecutionAnswer, kw_only=True):
    """An execution, with what was told of it and what it has asked people."""

    webhook_events: Maybe[list[WebhookEvent]] = UNSET
    approval_request_id: Maybe[str] = UNSET
    approval_status: Maybe[str] = UNSET
    approval_request_url: Maybe[str] = UNSET


class ExecutionDone(ExecutionAnswer, kw_only=True):
    """The end of an execution that was waited for."""

    finished_at: Moment


class ExecutionFailed(ExecutionDone, kw_only=True):
    """The end of an execution without a result, with members of a problem. `type` is that of what was called."""

    title: str
    code: Literal["execution_failed"]
    message: str


class UnknownExecution(Struct):
    execution_id: str
    status: Literal["not_found"]


class ExecutionPage(Struct):
    items: list[ExecutionSummary]
    next_cursor: ExecutionText | None


class InputAnswer(Struct):
    execution_id: ExecutionText
    input: dict[str, Any]
    context: Any = UNSET


class Accepted(Struct):
    """Accepted and durable. `replayed`: the step has called it before."""

    execution_id: ExecutionText
    run_id: str
    workflow_id: str
    status: Literal["queued", "succeeded"]
    target: Target
    type: Words
    created_at: Moment
    enqueued_at: Moment
    webhook_registered: bool
    status_reason: Maybe[str] = UNSET
    available_at: Maybe[Moment] = UNSET
    blocked_by: Maybe[str] = UNSET
    replayed: Maybe[Literal[True]] = UNSET
    warnings: Maybe[list[Warned]] = UNSET


class RetryAccepted(Accepted, kw_only=True):
    source_execution_id: ExecutionText
    kind: Literal["retry"]


class RestartAccepted(Struct):
    execution_id: ExecutionText
    run_id: str
    workflow_id: str
    status: Literal["queued"]
    target: Target
    type: Words
    created_at: Moment
    enqueued_at: Moment
    source_execution_id: ExecutionText
    source_run_id: str
    restarted_execution_id: ExecutionText
    replay_mode: ReplayMode
    scope: restart.Scope
    kind: Literal["fork", "restart"]
    webhook_registered: bool
    replay_before_execution_id: Maybe[ExecutionText] = UNSET
    warnings: Maybe[list[Warned]] = UNSET


class CancelAnswer(Struct):
    execution_id: ExecutionText
    previous_status: Status
    status: Literal["cancelled"]
    settled: bool
    cancelled_at: Moment
    reason: Maybe[str] = UNSET


class PauseAnswer(Struct):
    execution_id: ExecutionText
    previous_status: Status
    status: Literal["paused"]
    paused_at: Moment
    reason: Maybe[str] = UNSET


class ResumeAnswer(Struct):
    execution_id: ExecutionText
    previous_status: Literal["paused"]
    status: Literal["queued", "running"]
    resumed_at: Moment


class Explanation(Struct):
    """Why an execution waits, or what it does."""

    execution_id: ExecutionText
    status: Status
    code: Cause
    sentence: str
    facts: dict[str, Any]
    since: Maybe[Moment] = UNSET
    fix: Maybe[str] = UNSET


class AttemptAnswer(Struct):
    attempt: Annotated[int, Meta(ge=1)]
    started_at: Moment
    duration_ms: Milliseconds
    ended: str
    node_id: Maybe[str | None] = UNSET
    session_id: Maybe[SessionText | None] = UNSET
    ended_at: Maybe[Moment] = UNSET
    reason: Maybe[str | None] = UNSET
    retry_in_seconds: Maybe[float | None] = UNSET
    retry_after_seconds: Maybe[float | None] = UNSET
    error: Any = UNSET
    error_class: Maybe[str | None] = UNSET
    traceback: Maybe[str | None] = UNSET
    progress: Any = UNSET


class AttemptPage(Struct):
    items: list[AttemptAnswer]
    next_cursor: Annotated[str, Meta(pattern=r"^[0-9]+$")] | None


class RunAnswer(Struct):
    """A run: how many of its executions are at each status. `truncated`: there are more than were counted."""

    run_id: str
    root_execution_id: ExecutionText
    target: Target
    status: Status
    created_at: Moment
    executions: Count
    unfinished: Count
    counts: dict[str, Count]
    truncated: bool
    status_reason: Maybe[str] = UNSET
    completed_at: Maybe[Moment] = UNSET


class RunPage(Struct):
    items: list[RunAnswer]
    next_cursor: ExecutionText | None


class RunMember(Struct):
    execution_id: ExecutionText
    target: Target
    node_id: str
    type: Words
    status: Status
    attempt: Attempt
    created_at: Moment
    parent_execution_id: Maybe[ExecutionText] = UNSET
    status_reason: Maybe[str] = UNSET
    started_at: Maybe[Moment] = UNSET
    completed_at: Maybe[Moment] = UNSET
    duration_ms: Maybe[Milliseconds] = UNSET
    error_class: Maybe[str] = UNSET


class RunRead(RunAnswer, kw_only=True):
    items: list[RunMember]
    next_cursor: ExecutionText | None


class RunCancelled(Struct):
    run_id: str
    cancelled: Count
    settled: Count
    truncated: bool
    reason: Maybe[str] = UNSET


class BatchCounts(Struct):
    items: Count
    accepted: Count
    replayed: Count
    refused: Count


class BatchAccepted(Accepted, kw_only=True):
    http_status: Literal[202]


class BatchRefused(Struct):
    """A problem, as a submit of this item by itself would be answered with."""

    http_status: HttpStatus
    type: str
    title: str
    status: HttpStatus
    detail: str
    code: str
    error: str
    message: str
    where: str
    fix: Maybe[str] = UNSET


class BatchAnswer(Struct):
    counts: BatchCounts
    items: list[Any]
    run_id: Maybe[str] = UNSET
    warnings: Maybe[list[Warned]] = UNSET


SUBMITTED = ("Location", "X-Execution-ID", "X-Run-ID", "Idempotent-Replayed", "X-AgentField-Replay-Hit")
WAITED = ("X-Execution-ID", "X-Run-ID", "X-Routed-Version", "X-AgentField-Replay-Hit")
ONE = {"execution_id": "$response.body#/execution_id"}
AFTER_SUBMIT = {
    "read": Link(to="/api/v1/executions/{execution_id}", parameters=ONE),
    "input": Link(to="/api/v1/executions/{execution_id}/input", parameters=ONE),
    "explain": Link(to="/api/v1/executions/{execution_id}/explain", parameters=ONE),
    "attempts": Link(to="/api/v1/executions/{execution_id}/attempts", parameters=ONE),
    "events": Link(to="/api/v1/executions/{execution_id}/events", parameters=ONE),
    "steps": Link(to="/api/v1/executions/{execution_id}/steps", parameters=ONE),
    "deliveries": Link(to="/api/v1/executions/{execution_id}/deliveries", parameters=ONE),
    "cancel": Link(to="/api/v1/executions/{execution_id}/cancel", by="POST", parameters=ONE),
    "pause": Link(to="/api/v1/executions/{execution_id}/pause", by="POST", parameters=ONE),
    "resume": Link(to="/api/v1/executions/{execution_id}/resume", by="POST", parameters=ONE),
    "restart": Link(to="/api/v1/executions/{execution_id}/restart", by="POST", parameters=ONE),
    "retry": Link(to="/api/v1/executions/{execution_id}/retry", by="POST", parameters=ONE),
    "run": Link(to="/api/v1/runs/{run_id}", parameters={"run_id": "$response.body#/run_id"}),
    "cancelRun": Link(to="/api/v1/runs/{run_id}/cancel", by="POST", parameters={"run_id": "$response.body#/run_id"}),
}
FENCED = {"execution_id": text(pattern=FENCED_PATTERN)}
BARE = {"execution_id": text(pattern=EXECUTION_PATTERN)}
EXECUTION_CURSOR = {"cursor": text(pattern=or_nothing(EXECUTION_PATTERN))}
FILTER = text(0, 260, PRINTABLE)
ANY_END = {200: ExecutionDone, 502: ExecutionFailed}

CONTRACT: Contract = {
    executions.submit_async: Said(answers={202: Accepted}, headers={202: SUBMITTED}, links={202: AFTER_SUBMIT}),
    # A failure is answered with the node's own status where that was a 4xx, which may be any.
    executions.submit_sync: Said(answers=ANY_END, headers={200: WAITED, 502: WAITED, 504: WAITED}, any_refusal=True),
    executions.batch_status: Said(answers={200: ByName((ExecutionAnswer, UnknownExecution))}),
    executions.page: Said(
        answers={200: ExecutionPage},
        parameters={
            "status": listed([one.value for one in Status]),
            **dict.fromkeys(("target", "node_id", "run_id", "session_key", "actor_key", "error_class"), FILTER),
            **EXECUTION_CURSOR,
        },
    ),
    executions.read: Said(
        answers={200: ExecutionRead},
        parameters=FENCED
        | {"wait_seconds": {"type": "number", "minimum": 0, "maximum": WAIT_MAX_SECONDS, "default": 0}},
    ),
    executions.read_input: Said(answers={200: InputAnswer}, parameters=BARE),
    executions.request_cancel: Said(answers={200: CancelAnswer}, parameters=FENCED),
    pauses.request_pause: Said(answers={200: PauseAnswer}, parameters=FENCED),
    pauses.resume: Said(answers={200: ResumeAnswer}, parameters=FENCED),
    explain.of_execution: Said(answers={200: Explanation}, parameters=FENCED),
    attempts.of_execution: Said(
        answers={200: AttemptPage}, parameters=FENCED | {"cursor": integer(0, attempts.ATTEMPT_MAX)}
    ),
    restart.restart: Said(
        answers={202: RestartAccepted}, parameters=FENCED, headers={202: SUBMITTED}, links={202: AFTER_SUBMIT}
    ),
    retry.retry: Said(
        answers={202: RetryAccepted}, parameters=FENCED, headers={202: SUBMITTED}, links={202: AFTER_SUBMIT}
    ),
    runs.page: Said(answers={200: RunPage}, parameters={"target": FILTER, **EXECUTION_CURSOR}),
    runs.read: Said(
        answers={200: RunRead}, parameters=EXECUTION_CURSOR | {"limit": integer(0, runs.MEMBERS_MAX, default=50)}
    ),
    runs.request_cancel: Said(answers={200: RunCancelled}),
    batch.submit_batch: Said(answers={200: BatchAnswer}, headers={200: ("Idempotent-Replayed",)}),
}

ABOVE_ZERO: dict[str, Any] = {"exclusiveMinimum": 0, "maximum": TIMEOUT_MAX_SECONDS}
LABEL = text(1, LABEL_MAX, PRINTABLE)
MADE_UP = text(1, KEY_MAX, PRINTABLE)
URL = text(1, URL_CHARS_MAX, URL_PATTERN, format="uri")
REASON = text(0, REASON_MAX, PRINTABLE)
OBJECT: dict[str, Any] = {"type": ["object", "null"]}
ERROR_NAMES: dict[str, Any] = {"maxItems": ERRORS_MAX, "items": MADE_UP}
NEVER_BOTH_STARTS: dict[str, Any] = {
    "not": {
        "required": ["delay_seconds", "run_at"],
        "properties": {"delay_seconds": {"type": "number"}, "run_at": {"type": "string"}},
    }
}
STARTS = {
    "delay_seconds": {"minimum": 0, "maximum": DELAY_MAX_SECONDS},
    "run_at": MOMENT,
}

RULES: Rules = {
    Hidden: {},
    ProgressAnswer: {},
    BatchAccepted: {},
    BatchRefused: {"": {"additionalProperties": True}},  # the facts of a problem stand beside its members
    BatchAnswer: {"items": {"items": {"anyOf": [refer(BatchAccepted), refer(BatchRefused)]}}},
    SubmitForm: {
        "input": OBJECT,
        "webhooks": {"maxItems": WEBHOOKS_MAX},
        "priority": {"minimum": -PRIORITY_MAX, "maximum": PRIORITY_MAX},
        "retries": {"minimum": 0, "maximum": RETRIES_MAX},
        "timeout_seconds": ABOVE_ZERO,
        "schedule_to_start_seconds": ABOVE_ZERO,
        "total_seconds": ABOVE_ZERO,
        "heartbeat_seconds": ABOVE_ZERO,
        "concurrency_key": LABEL,
        "fairness_key": LABEL,
        "idempotency_key": MADE_UP,
        "step": text(1, NAME_MAX, PRINTABLE),
        **STARTS,
        "": {
            "allOf": [
                NEVER_BOTH_STARTS,
                {
                    "not": {
                        "required": ["retries", "retry"],
                        "properties": {"retries": {"type": "integer"}, "retry": {"type": "object"}},
                    }
                },
                {
                    "not": {
                        "required": ["concurrency_key", "concurrency"],
                        "properties": {"concurrency_key": {"type": "string"}, "concurrency": {"type": "object"}},
                    }
                },
                {  # `webhook` counts in
                    "not": {
                        "required": ["webhook", "webhooks"],
                        "properties": {
                            "webhook": {"type": "object"},
                            "webhooks": {"type": "array", "minItems": WEBHOOKS_MAX},
                        },
                    }
                },
            ]
        },
    },
    batch.BatchItem: {"target": text(pattern=TARGET_PATTERN)},
    batch.BatchForm: {"items": {"minItems": 1, "maxItems": batch.ITEMS_MAX}, "idempotency_key": MADE_UP},
    WebhookForm: {
        "url": URL,
        "secret": text(1, SECRET_MAX, PRINTABLE),
        "events": {"minItems": 1, "items": one_of([ALL, *(one.value for one in EXECUTION_WIDE)])},
    },
    ConcurrencyForm: {"key": LABEL, "max": {"minimum": 0, "maximum": CONCURRENCY_MAX}},
    RetryPolicyForm: {
        "max": {"minimum": 0, "maximum": RETRIES_MAX},
        "delay_seconds": {"minimum": 0, "maximum": RETRY_DELAY_MAX_SECONDS},
        "factor": {"minimum": 1, "maximum": FACTOR_MAX},
        "cap_seconds": {"minimum": 0, "maximum": RETRY_DELAY_MAX_SECONDS},
        "jitter": {"minimum": 0, "maximum": 1},
        "fatal_errors": ERROR_NAMES,
        "retry_errors": ERROR_NAMES,
        "": {
            "not": {
                "required": ["backoff", "factor"],
                "properties": {"backoff": {"const": "fixed"}, "factor": {"type": "number"}},
            }
        },
    },
    BatchStatusForm: {"execution_ids": {"minItems": 1, "maxItems": BATCH_STATUS_MAX}},
    CancelForm: {"reason": REASON},
    PauseForm: {"reason": REASON},
    restart.RestartForm: {"input": OBJECT, "reason": REASON, "idempotency_key": MADE_UP},
    retry.RetryForm: {"reason": REASON, "idempotency_key": MADE_UP, **STARTS, "": NEVER_BOTH_STARTS},
}
