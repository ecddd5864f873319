"""What is promised of schedules, triggers, bulks, limits and pauses: what somebody sets up or does to many."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct

from controlplane.api import bulk, hooks, limits, schedules, triggers, withhold
from controlplane.api.contract.executions import KEY_MAX, MADE_UP, OBJECT, ONE, REASON, SUBMITTED, Warned
from controlplane.api.contract.said import (
    FENCED_PATTERN,
    MOMENT,
    NAME_PATTERN,
    PRINTABLE,
    TARGET_PATTERN,
    Contract,
    Count,
    ExecutionText,
    Link,
    Maybe,
    Moment,
    Rules,
    Said,
    Schema,
    Seconds,
    Target,
    id_pattern,
    integer,
    one_of,
    or_hidden,
    or_nothing,
    text,
    whole,
)
from controlplane.api.executions import PRIORITY_MAX, REASON_MAX, TIMEOUT_MAX_SECONDS
from controlplane.api.policy import RETRIES_MAX
from controlplane.domain.bulk import IDS_MAX, SETTLED, Action, BulkState
from controlplane.domain.delivery import ENDPOINT
from controlplane.domain.execution import Status
from controlplane.domain.limit import CONCURRENCY_MAX, LABEL_MAX, RATE_MAX, RATE_SECONDS_MAX, RATE_SECONDS_MIN
from controlplane.domain.pause import PauseScope
from controlplane.domain.replay import Reuse
from controlplane.domain.schedule import (
    CRON_CHARS_MAX,
    INTERVAL_MAX_SECONDS,
    INTERVAL_MIN_SECONDS,
    JITTER_MAX_SECONDS,
    CatchUp,
    Overlap,
)
from controlplane.domain.schedule import Outcome as TickOutcome
from controlplane.domain.target import NAME
from controlplane.domain.trigger import (
    ARGUMENTS_MAX,
    HEADER_NAME,
    PLAIN,
    SECRET_CHARS_MAX,
    TOLERANCE_MAX_SECONDS,
    TYPES_MAX,
    Algorithm,
    Encoding,
    Preset,
)
from controlplane.domain.trigger import OVERLAP_MAX_SECONDS as SECRET_OVERLAP_MAX_SECONDS
from controlplane.domain.trigger import Outcome as EventOutcome

Name = Annotated[str, Meta(pattern=NAME_PATTERN)]


class ScheduleSummary(Struct):
    """A schedule without its input."""

    name: Name
    schedule_id: Annotated[str, Meta(pattern=id_pattern("sch"))]
    target: Target
    overlap: Overlap
    catch_up: CatchUp
    jitter_seconds: Seconds
    priority: int
    paused: bool
    waiting: Count
    created_at: Moment
    updated_at: Moment
    cron: Maybe[str] = UNSET
    time_zone: Maybe[str] = UNSET
    interval_seconds: Maybe[Seconds] = UNSET
    run_at: Maybe[Moment] = UNSET
    retries: Maybe[Count] = UNSET
    timeout_seconds: Maybe[Seconds] = UNSET
    next_at: Maybe[Moment] = UNSET
    last_at: Maybe[Moment] = UNSET


class ScheduleAnswer(ScheduleSummary, kw_only=True):
    """A schedule with its input and its next five ticks."""

    input: dict[str, Any]
    next: list[Moment]
    context: Any = UNSET
    warnings: Maybe[list[Warned]] = UNSET


class SchedulePage(Struct):
    items: list[ScheduleSummary]
    next_cursor: Name | None


class Coming(Struct):
    name: Name
    next: list[Moment]


class Tick(Struct):
    """What became of one tick; `until_at`: and of all after it up to that one."""

    planned_at: Moment
    by_hand: bool
    outcome: TickOutcome
    at: Moment
    until_at: Maybe[Moment] = UNSET
    execution_id: Maybe[ExecutionText] = UNSET


class TickPage(Struct):
    items: list[Tick]
    next_cursor: Moment | None


class Deleted(Struct):
    name: Name
    deleted: bool


class ScheduleRun(Struct):
    execution_id: ExecutionText
    run_id: str
    status: Literal["queued"]
    target: Target
    schedule: Name
    created_at: Moment
    warnings: Maybe[list[Warned]] = UNSET


class TriggerAnswer(Struct):
    """A trigger, without its secret."""

    name: Name
    trigger_id: Annotated[str, Meta(pattern=id_pattern("trg"))]
    slug: str
    url: str
    target: Target
    preset: Preset
    tolerance_seconds: Seconds
    arguments: dict[str, str]
    event_types: list[str]
    paused: bool
    created_at: Moment
    updated_at: Moment
    weak: Maybe[Literal[True]] = UNSET
    id_from: Maybe[str] = UNSET
    type_from: Maybe[str] = UNSET
    managed_by: Maybe[str] = UNSET
    previous_secret_until: Maybe[Moment] = UNSET
    paused_reason: Maybe[str] = UNSET
    header: Maybe[str] = UNSET
    prefix: Maybe[str] = UNSET
    algorithm: Maybe[Algorithm] = UNSET
    encoding: Maybe[Encoding] = UNSET
    signed: Maybe[str] = UNSET
    timestamp_header: Maybe[str] = UNSET
    warnings: Maybe[list[Warned]] = UNSET


class TriggerPage(Struct):
    items: list[TriggerAnswer]
    next_cursor: Name | None


class SampleAnswer(Struct):
    """A request that the sender would make."""

    method: Literal["POST"]
    url: str
    headers: dict[str, str]
    body: str
    curl: str


class TriggerEvent(Struct):
    trigger_event_id: Annotated[str, Meta(pattern=id_pattern("tev"))]
    key: str
    outcome: EventOutcome
    replays: Count
    at: Moment
    type: Maybe[str] = UNSET
    reason: Maybe[str] = UNSET
    execution_id: Maybe[ExecutionText] = UNSET
    replay_execution_id: Maybe[ExecutionText] = UNSET


class TriggerEventPage(Struct):
    items: list[TriggerEvent]
    next_cursor: Annotated[str, Meta(pattern=id_pattern("tev"))] | None


class TriggerEventRead(TriggerEvent, kw_only=True):
    """`body` as it came, or `body_base64` where it is no JSON that can be kept."""

    headers: Annotated[Any, or_hidden({"type": "object", "additionalProperties": {"type": "string"}})]
    body: Any = UNSET
    body_base64: Maybe[str] = UNSET


class TriggerReplayed(Struct):
    execution_id: ExecutionText
    run_id: str
    status: Literal["queued"]
    target: Target
    trigger: Name
    trigger_event_id: Annotated[str, Meta(pattern=id_pattern("tev"))]
    created_at: Moment


class Heard(Struct):
    """What became of an event that was sent."""

    trigger_event_id: Annotated[str, Meta(pattern=id_pattern("tev"))]
    outcome: EventOutcome
    duplicate: bool
    execution_id: Maybe[ExecutionText] = UNSET
    reason: Maybe[str] = UNSET


class Challenged(Struct):
    """What a sender asks to hear before it sends anything."""

    challenge: str


class BulkAnswer(Struct):
    """A bulk, and how far it is. `filter` in the words it was asked for in."""

    bulk_id: Annotated[str, Meta(pattern=id_pattern("bulk"))]
    action: Action
    filter: dict[str, Any]
    all: bool
    state: BulkState
    matched: Count
    exact: bool
    done: Count
    skipped: Count
    skipped_reasons: dict[str, Count]
    failed: Count
    failed_reasons: dict[str, Count]
    errors: list[Any]
    created_at: Moment
    created_by: Maybe[str] = UNSET
    reason: Maybe[str] = UNSET
    reuse: Maybe[Reuse] = UNSET
    error: Maybe[str] = UNSET
    began_at: Maybe[Moment] = UNSET
    ended_at: Maybe[Moment] = UNSET


class BulkCounted(Struct):
    """What a dry run has counted."""

    dry_run: Literal[True]
    action: Action
    filter: dict[str, Any]
    all: bool
    matched: Count
    exact: bool
    sample: list[str]


class BulkPage(Struct):
    items: list[BulkAnswer]
    next_cursor: Annotated[str, Meta(pattern=id_pattern("bulk"))] | None


class LimitAnswer(Struct):
    """A limit, what it holds and how many wait. `counts_are_more`: both were counted only so far."""

    key: str
    held: Count
    blocked: Count
    concurrency_max: Maybe[Count] = UNSET
    declared_max: Maybe[Count] = UNSET
    rate_max: Maybe[Count] = UNSET
    rate_seconds: Maybe[Seconds] = UNSET
    counts_are_more: Maybe[Literal[True]] = UNSET
    next_at: Maybe[Moment] = UNSET
    updated_at: Maybe[Moment] = UNSET


class LimitPage(Struct):
    items: list[LimitAnswer]
    next_cursor: str | None


class LimitDeleted(Struct):
    key: str
    deleted: bool


class Held(Struct):
    """Something that is paused; what is paused as everything has no name."""

    scope: PauseScope
    paused_at: Moment
    name: Maybe[str] = UNSET
    node_id: Maybe[str] = UNSET
    reason: Maybe[str] = UNSET
    paused_by: Maybe[str] = UNSET


class HeldPage(Struct):
    items: list[Held]
    next_cursor: str | None


class PausedAnswer(Held, kw_only=True):
    """It is paused, and so much waits and runs."""

    paused: Literal[True]
    changed: bool
    queued: Count
    queued_is_more: bool
    running: Count


class ResumedAnswer(Struct):
    """It is not paused, and what else still holds it back."""

    scope: PauseScope
    name: str | None
    node_id: str | None
    paused: Literal[False]
    changed: bool
    still_paused_by: list[Held]
    queued: Count
    queued_is_more: bool
    running: Count


class DrainAnswer(Struct):
    node_id: Name
    changed: bool
    draining: Count
    draining_running: Count


OF_SCHEDULE = {"name": "$response.body#/name"}
AFTER_SCHEDULE = {
    "read": Link(to="/api/v1/schedules/{name}", parameters=OF_SCHEDULE),
    "next": Link(to="/api/v1/schedules/{name}/next", parameters=OF_SCHEDULE),
    "ticks": Link(to="/api/v1/schedules/{name}/ticks", parameters=OF_SCHEDULE),
    "pause": Link(to="/api/v1/schedules/{name}/pause", by="POST", parameters=OF_SCHEDULE),
    "resume": Link(to="/api/v1/schedules/{name}/resume", by="POST", parameters=OF_SCHEDULE),
    "run": Link(to="/api/v1/schedules/{name}/run", by="POST", parameters=OF_SCHEDULE),
    "replace": Link(to="/api/v1/schedules/{name}", by="PUT", parameters=OF_SCHEDULE),
    "remove": Link(to="/api/v1/schedules/{name}", by="DELETE", parameters=OF_SCHEDULE),
}
AFTER_TRIGGER = {
    "read": Link(to="/api/v1/triggers/{name}", parameters=OF_SCHEDULE),
    "events": Link(to="/api/v1/triggers/{name}/events", parameters=OF_SCHEDULE),
    "pause": Link(to="/api/v1/triggers/{name}/pause", by="POST", parameters=OF_SCHEDULE),
    "resume": Link(to="/api/v1/triggers/{name}/resume", by="POST", parameters=OF_SCHEDULE),
    "test": Link(to="/api/v1/triggers/{name}/test", by="POST", parameters=OF_SCHEDULE),
    "change": Link(to="/api/v1/triggers/{name}", by="PATCH", parameters=OF_SCHEDULE),
    "remove": Link(to="/api/v1/triggers/{name}", by="DELETE", parameters=OF_SCHEDULE),
    "send": Link(to="/hooks/{slug}", by="POST", parameters={"slug": "$response.body#/slug"}),
}
AFTER_BULK = {
    "read": Link(to="/api/v1/bulk/{bulk_id}", parameters={"bulk_id": "$response.body#/bulk_id"}),
    "stop": Link(to="/api/v1/bulk/{bulk_id}/stop", by="POST", parameters={"bulk_id": "$response.body#/bulk_id"}),
}
AFTER_LIMIT = {
    "read": Link(to="/api/v1/limits/{key}", parameters={"key": "$response.body#/key"}),
    "remove": Link(to="/api/v1/limits/{key}", by="DELETE", parameters={"key": "$response.body#/key"}),
}
AFTER_RUN = {
    "read": Link(to="/api/v1/executions/{execution_id}", parameters=ONE),
    "explain": Link(to="/api/v1/executions/{execution_id}/explain", parameters=ONE),
    "cancel": Link(to="/api/v1/executions/{execution_id}/cancel", by="POST", parameters=ONE),
}
NAMED = {"name": text(pattern=NAME_PATTERN)}
FILTER = text(0, 260, PRINTABLE)
LIMIT_KEY = {
    "key": text(
        pattern=whole(rf"(reasoner:{NAME.pattern}\.{NAME.pattern}|node:{NAME.pattern}|key:[!-.0-~]{{1,{LABEL_MAX}}})"),
        examples=["reasoner:node_id.reasoner_name", "node:node_id", "key:concurrency_key"],
    )
}
EVENT_CURSOR = {"cursor": text(pattern=or_nothing(id_pattern("tev")))}
PAUSED = Said(answers={200: PausedAnswer})
RESUMED = Said(answers={200: ResumedAnswer})

CONTRACT: Contract = {
    schedules.create: Said(
        answers={200: ScheduleAnswer, 201: ScheduleAnswer}, links={200: AFTER_SCHEDULE, 201: AFTER_SCHEDULE}
    ),
    schedules.replace: Said(
        answers={200: ScheduleAnswer, 201: ScheduleAnswer}, parameters=NAMED, links={201: AFTER_SCHEDULE}
    ),
    schedules.page: Said(answers={200: SchedulePage}, parameters={"target": FILTER, "cursor": FILTER}),
    schedules.read: Said(answers={200: ScheduleAnswer}, parameters=NAMED),
    schedules.coming: Said(
        answers={200: Coming},
        parameters=NAMED | {"count": integer(1, schedules.NEXT_MAX, default=schedules.NEXT_SHOWN)},
    ),
    schedules.ticks: Said(answers={200: TickPage}, parameters=NAMED | {"cursor": MOMENT}),
    schedules.pause: Said(answers={200: ScheduleAnswer}, parameters=NAMED),
    schedules.resume: Said(answers={200: ScheduleAnswer}, parameters=NAMED),
    schedules.run: Said(
        answers={202: ScheduleRun}, parameters=NAMED, headers={202: SUBMITTED[:4]}, links={202: AFTER_RUN}
    ),
    schedules.remove: Said(answers={200: Deleted}, parameters=NAMED),
    triggers.create: Said(
        answers={200: TriggerAnswer, 201: TriggerAnswer}, links={200: AFTER_TRIGGER, 201: AFTER_TRIGGER}
    ),
    triggers.page: Said(
        answers={200: TriggerPage}, parameters=dict.fromkeys(("target", "managed_by", "cursor"), FILTER)
    ),
    triggers.read: Said(answers={200: TriggerAnswer}, parameters=NAMED),
    triggers.change: Said(answers={200: TriggerAnswer}, parameters=NAMED),
    triggers.remove: Said(answers={200: Deleted}, parameters=NAMED),
    triggers.pause: Said(answers={200: TriggerAnswer}, parameters=NAMED),
    triggers.resume: Said(answers={200: TriggerAnswer}, parameters=NAMED),
    triggers.sample: Said(answers={200: SampleAnswer}, parameters=NAMED),
    triggers.events: Said(
        answers={200: TriggerEventPage},
        parameters=NAMED | {"outcome": one_of(["", *EventOutcome]), **EVENT_CURSOR},
    ),
    triggers.event: Said(answers={200: TriggerEventRead}, parameters=NAMED),
    triggers.replay: Said(
        answers={202: TriggerReplayed}, parameters=NAMED, headers={202: SUBMITTED[:4]}, links={202: AFTER_RUN}
    ),
    # Whoever sends signs as its trigger says: neither the body nor the headers can be the same for all.
    hooks.hear: Said(
        answers={200: (Heard, Challenged), 202: Heard},
        parameters={"slug": text(1, KEY_MAX)},
        body={"application/json": {}},
    ),
    bulk.begin: Said(
        answers={200: BulkCounted, 202: BulkAnswer},
        headers={202: ("Location", "Idempotent-Replayed")},
        links={202: AFTER_BULK},
    ),
    bulk.page: Said(
        answers={200: BulkPage},
        parameters={"state": one_of(["", *BulkState]), "cursor": text(pattern=or_nothing(id_pattern("bulk")))},
    ),
    bulk.look: Said(answers={200: BulkAnswer}),
    bulk.stop: Said(answers={200: BulkAnswer}),
    limits.page: Said(answers={200: LimitPage}, parameters={"cursor": text(0, limits.KEY_MAX, PRINTABLE)}),
    limits.read: Said(answers={200: LimitAnswer}, parameters=LIMIT_KEY),
    limits.put: Said(
        answers={200: LimitAnswer, 201: LimitAnswer}, parameters=LIMIT_KEY, links={200: AFTER_LIMIT, 201: AFTER_LIMIT}
    ),
    limits.remove: Said(answers={200: LimitDeleted}, parameters=LIMIT_KEY),
    withhold.page: Said(answers={200: HeldPage}, parameters={"cursor": FILTER}),
    withhold.pause_all: PAUSED,
    withhold.pause_node: PAUSED,
    withhold.pause_reasoner: PAUSED,
    withhold.resume_all: RESUMED,
    withhold.resume_node: RESUMED,
    withhold.resume_reasoner: RESUMED,
    withhold.drain: Said(answers={200: DrainAnswer}),
    withhold.undrain: Said(answers={200: DrainAnswer}),
}


def exactly_one(*fields: str) -> Schema:
    """One of these says something, and the others are left out or null."""
    return {
        "oneOf": [
            {
                "required": [one],
                "properties": {one: {"not": {"type": "null"}}}
                | {other: {"type": "null"} for other in fields if other != one},
            }
            for one in fields
        ]
    }


HEADER: Schema = text(1, 100, whole(HEADER_NAME))
SOURCE: Schema = text(0, 500, examples=["/repository/full_name", "header:X-Event"])
STATUS: Schema = one_of([one.value for one in Status])
FREE_WORDS = ("header", "prefix", "algorithm", "encoding", "signed", "timestamp_header", "id_from", "type_from")

RULES: Rules = {
    schedules.RuleForm: {
        "target": text(pattern=TARGET_PATTERN),
        "cron": text(1, CRON_CHARS_MAX, r"^\S+(\s+\S+){4}$", examples=["30 9 * * MON-FRI"]),
        "interval_seconds": {"minimum": INTERVAL_MIN_SECONDS, "maximum": INTERVAL_MAX_SECONDS},
        "run_at": MOMENT,
        "time_zone": {"examples": ["UTC", "Europe/Berlin"]},
        "jitter_seconds": {"minimum": 0, "maximum": JITTER_MAX_SECONDS},
        "input": OBJECT,
        "priority": {"minimum": -PRIORITY_MAX, "maximum": PRIORITY_MAX},
        "retries": {"minimum": 0, "maximum": RETRIES_MAX},
        "timeout_seconds": {"exclusiveMinimum": 0, "maximum": TIMEOUT_MAX_SECONDS},
        "": exactly_one("cron", "interval_seconds", "run_at")
        | {
            # No more than one of those that were missed would run to its end otherwise.
            "if": {"required": ["catch_up"], "properties": {"catch_up": {"const": CatchUp.ALL.value}}},
            "then": {"required": ["overlap"], "properties": {"overlap": {"const": Overlap.QUEUE.value}}},
        },
    },
    schedules.ScheduleForm: {"name": text(pattern=NAME_PATTERN)},
    schedules.RunForm: {"idempotency_key": MADE_UP},
    triggers.SchemeForm: {
        "header": HEADER,
        "prefix": text(0, 100, whole(PLAIN)),
        "signed": text(6, 100, r"^[ -~]*\{body\}[ -~]*$"),
        "timestamp_header": text(0, 100, whole(f"({HEADER_NAME.pattern})?")),
        "id_from": SOURCE,
        "type_from": SOURCE,
        "tolerance_seconds": {"minimum": 1, "maximum": TOLERANCE_MAX_SECONDS},
    },
    triggers.TriggerForm: {
        "name": text(pattern=NAME_PATTERN),
        "target": text(pattern=TARGET_PATTERN),
        "secret": text(1, SECRET_CHARS_MAX, PRINTABLE),
        "arguments": {"maxProperties": ARGUMENTS_MAX},
        "event_types": {"maxItems": TYPES_MAX, "items": MADE_UP},
        "managed_by": text(pattern=whole(f"({NAME.pattern})?")),
    },
    triggers.ChangeForm: {
        "target": text(pattern=TARGET_PATTERN),
        "secret": text(1, SECRET_CHARS_MAX, PRINTABLE),
        "overlap_seconds": {"minimum": 0, "maximum": SECRET_OVERLAP_MAX_SECONDS},
        "arguments": {"maxProperties": ARGUMENTS_MAX},
        "event_types": {"maxItems": TYPES_MAX, "items": MADE_UP},
        "managed_by": text(pattern=whole(f"({NAME.pattern})?")),
    },
    triggers.ReasonForm: {"reason": text(1, triggers.REASON_MAX, PRINTABLE)},
    triggers.SampleForm: {"event_type": MADE_UP},
    triggers.ReplayForm: {"idempotency_key": MADE_UP},
    bulk.BulkForm: {
        "reason": REASON,
        "idempotency_key": MADE_UP,
        # Either a filter that says something, or all of them.
        "": {"anyOf": [{"required": ["all"], "properties": {"all": {"const": True}}}, {"required": ["filter"]}]},
    },
    bulk.BulkFilterForm: {
        "target": text(pattern=TARGET_PATTERN),
        "node_id": text(pattern=NAME_PATTERN),
        "endpoint_id": text(pattern=id_pattern(ENDPOINT)),
        "state": one_of([*SETTLED]),
        **dict.fromkeys(
            ("run_id", "session_key", "actor_key", "error_class", "host", "event"), text(1, bulk.TEXT_MAX, PRINTABLE)
        ),
        **dict.fromkeys(("created_after", "created_before", "ended_after", "ended_before"), MOMENT),
        "ids": {"minItems": 1, "maxItems": IDS_MAX, "items": text(pattern=f"{FENCED_PATTERN}|{id_pattern('dlv')}")},
    },
    limits.LimitForm: {
        "concurrency_max": {"minimum": 0, "maximum": CONCURRENCY_MAX},
        "rate_max": {"minimum": 0, "maximum": RATE_MAX},
        "rate_seconds": {"minimum": RATE_SECONDS_MIN, "maximum": RATE_SECONDS_MAX},
        "": {
            "anyOf": [
                {
                    "required": ["concurrency_max"],
                    "properties": {
                        "concurrency_max": {"type": "integer"},
                        "rate_max": {"type": "null"},
                        "rate_seconds": {"type": "null"},
                    },
                },
                {
                    "required": ["rate_max", "rate_seconds"],
                    "properties": {"rate_max": {"type": "integer"}, "rate_seconds": {"type": "number"}},
                },
            ]
        },
    },
    withhold.WithholdForm: {"reason": text(0, REASON_MAX, PRINTABLE)},
}
