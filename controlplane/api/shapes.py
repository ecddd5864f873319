"""How things look on the wire. Payloads are spliced in as the bytes they are; absent values are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import MAXYEAR
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import orjson
from starlette.responses import Response

from controlplane.domain.approval import Approval
from controlplane.domain.delivery import ENDPOINT
from controlplane.domain.execution import Status
from controlplane.domain.ids import show, show_execution
from controlplane.domain.kept import Kept
from controlplane.domain.lease import Lease
from controlplane.domain.memory import WORKFLOW, Action, Scope, Value
from controlplane.domain.notice import error_text, milliseconds, moment
from controlplane.domain.pause import Pause, Paused
from controlplane.domain.retry import RetryPolicy
from controlplane.domain.schedule import Schedule
from controlplane.domain.step import Step
from controlplane.domain.target import parse
from controlplane.domain.vector import Hit, Vector
from controlplane.reads.changes import ChangeView
from controlplane.reads.deliveries import AttemptView, DeliveryView
from controlplane.reads.events import EventView
from controlplane.reads.executions import ExecutionView
from controlplane.reads.logs import LineView
from controlplane.reads.nodes import Entry, NodeView
from controlplane.reads.pauses import Drained
from controlplane.reads.schedules import TickView

Shape = dict[str, Any]

FRAME_OF = {
    "execution.queued": "execution_created",
    "execution.started": "execution_started",
    "execution.progress": "execution_updated",
    "execution.retrying": "execution_retried",
    "lease.released": "execution_retried",
    "lease.expired": "execution_retried",
    "execution.cancelling": "execution_updated",
    "execution.completed": "execution_completed",
    "execution.failed": "execution_failed",
    "execution.timeout": "execution_failed",
    "execution.cancelled": "execution_cancelled",
    "execution.waiting": "execution_waiting",
    "execution.continued": "execution_updated",
    "execution.suspended": "execution_waiting",
    "execution.woken": "execution_updated",
    "execution.paused": "execution_paused",
    "execution.resumed": "execution_resumed",
    "approval.requested": "execution_waiting",
    "approval.decided": "execution_approval_resolved",
    "note.added": "workflow_note_added",
}
STATUS_AFTER = {
    "execution.queued": Status.QUEUED,
    "execution.started": Status.RUNNING,
    "execution.progress": Status.RUNNING,
    "execution.cancelling": Status.RUNNING,
    "execution.waiting": Status.WAITING,
    "approval.requested": Status.WAITING,
    "execution.continued": Status.RUNNING,
    "execution.suspended": Status.WAITING,
    "execution.woken": Status.QUEUED,
    "execution.paused": Status.WAITING,
    "execution.retrying": Status.QUEUED,
    "lease.released": Status.QUEUED,
    "lease.expired": Status.QUEUED,
    "execution.completed": Status.SUCCEEDED,
    "execution.failed": Status.FAILED,
    "execution.timeout": Status.TIMEOUT,
    "execution.cancelled": Status.CANCELLED,
}


class Json(Response):
    """An answer of JSON, whose head is written as it is: the framework's looks through the fields for its own two."""

    def __init__(self, body: bytes, status: int, fields: Mapping[str, str]) -> None:
        self.status_code, self.background, self.body = status, None, body
        self.raw_headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in fields.items()]
        self.raw_headers += ((b"content-length", b"%d" % len(body)), JSON)


JSON = (b"content-type", b"application/json")
NO_FIELDS: Mapping[str, str] = MappingProxyType({})


def answer(shape: object, status: int = 200, headers: Mapping[str, str] = NO_FIELDS) -> Response:
    return Json(orjson.dumps(shape), status, headers)


def raw(payload: bytes | None) -> orjson.Fragment | None:
    return None if payload is None else orjson.Fragment(payload)


def present(shape: Shape) -> Shape:
    """Without what is not there."""
    return {name: value for name, value in shape.items() if value is not None}


def execution(view: ExecutionView, *, payloads: bool = True) -> Shape:
    """An execution as AgentField shows it, and some more. `duration_ms` also grows while it runs."""
    shape = present(
        {
            "execution_id": show_execution(view.id),
            "run_id": view.run_id,
            "workflow_id": view.run_id,
            "parent_execution_id": None if view.parent_id is None else show("exec", view.parent_id),
            "root_execution_id": show("exec", view.root_id),
            "source_execution_id": None if view.source_execution_id is None else show("exec", view.source_execution_id),
            "target": view.target,
            "node_id": parse(view.target).node_id,
            "type": view.type,
            "status": view.status.value,
            "status_reason": view.status_reason,
            "state": None if view.state is None else view.state.value,
            "attempt": view.attempt,
            "attempts": view.attempt,
            "failures": view.failures,
            "priority": view.priority,
            "concurrency_key": view.concurrency_key,
            "fairness_key": view.fairness_key,
            "blocked_by": view.blocked_by,
            "created_at": moment(view.created_at),
            "available_at": None if view.available_at is None else moment(view.available_at),
            "started_at": None if view.started_at is None else moment(view.started_at),
            "completed_at": None if view.finished_at is None else moment(view.finished_at),
            "duration_ms": None
            if view.started_at is None
            else milliseconds(view.started_at, view.finished_at or view.now),
            "progress": _progress(view),
            "error_class": view.error_class,
            "error_status_code": view.http_status,
            "webhook_registered": view.webhooks > 0,
            "session_key": view.session_key,
            "actor_key": view.actor_key,
        }
    )
    if view.error is not None:
        shape["error"] = raw(view.error)
        shape["error_message"] = error_text(view.error)
    if payloads:
        shape |= policy(view)
        if view.result is not None:
            shape["result"] = raw(view.result)
        if view.error_details is not None:
            shape["error_details"] = raw(view.error_details)
    return shape


def policy(view: ExecutionView) -> Shape:
    """What holds for an execution, whoever has said it: the submit, its reasoner, or nobody."""
    return present(
        {
            "retry": retry(view.retry),
            "retries_used": view.retries_used,
            "next_retry_at": None if view.next_retry_at is None else moment(view.next_retry_at),
            "timeout_seconds": view.timeout_seconds,
            "schedule_to_start_seconds": view.schedule_to_start_seconds,
            "total_seconds": view.total_seconds,
            "heartbeat_seconds": view.heartbeat_seconds,
            "deadline_at": None if view.deadline_at is None else moment(view.deadline_at),
            "on_parent_end": None if view.parent_id is None else view.on_parent_end.value,
        }
    )


def _progress(view: ExecutionView) -> Shape | None:
    if view.progress is None:
        return None
    said: Shape = orjson.loads(view.progress)
    return said if view.progress_at is None else said | {"updated_at": moment(view.progress_at)}


def lease(one: Lease) -> Shape:
    shape: Shape = {
        "execution_id": show_execution(one.execution_id),
        "attempt": one.attempt,
        "failures": one.failures,
        "target": one.target,
        "reasoner": parse(one.target).reasoner_id,
        "type": one.type,
        "run_id": one.run_id,
        "root_execution_id": show("exec", one.root_id),
        "parent_execution_id": None if one.parent_id is None else show("exec", one.parent_id),
        "session_key": one.session_key,
        "actor_key": one.actor_key,
        "input": raw(one.input),
        "timeout_seconds": one.timeout_seconds,
        "deadline_in_seconds": one.deadline_in_seconds,
        "heartbeat_seconds": one.heartbeat_seconds,
        "steps": one.steps,
        "created_at": moment(one.created_at),
    }
    if one.context is not None:
        shape["context"] = raw(one.context)
    return shape


def schedule(one: Schedule, *, payloads: bool = False) -> Shape:
    """A schedule in the words it was asked for in, and where it stands."""
    asked, rule = one.definition, one.definition.rule
    return present(
        {
            "name": one.name,
            "schedule_id": show("sch", one.id),
            "target": asked.target,
            "cron": rule.cron,
            "time_zone": None if rule.cron is None else rule.time_zone,
            "interval_seconds": rule.interval_seconds,
            "run_at": None if rule.run_at is None else moment(rule.run_at),
            "overlap": asked.overlap.value,
            "catch_up": asked.catch_up.value,
            "jitter_seconds": asked.jitter_seconds,
            "priority": asked.priority,
            "retries": asked.retries_max,
            "timeout_seconds": asked.timeout_seconds,
            "input": raw(asked.input) if payloads else None,
            "context": raw(asked.context) if payloads else None,
            "paused": one.paused,
            "waiting": one.waiting,
            "next_at": None if one.next_at is None else moment(one.next_at),
            "last_at": None if one.last_at is None else moment(one.last_at),
            "created_at": moment(one.created_at),
            "updated_at": moment(one.updated_at),
        }
    )


def paused(what: Paused) -> Shape:
    """What is, or was, paused; that of everything has no name."""
    return {"scope": what.scope.value, "name": what.name or None, "node_id": what.node_id or None}


def pause(one: Pause) -> Shape:
    more = {"reason": one.reason, "paused_by": one.paused_by, "paused_at": moment(one.paused_at)}
    return present(paused(one.what) | more)


def tick(view: TickView) -> Shape:
    return present(
        {
            "planned_at": moment(view.planned_at),
            "by_hand": view.by_hand,
            "outcome": view.outcome.value,
            "until_at": None if view.until_at is None else moment(view.until_at),
            "execution_id": None if view.execution_id is None else show_execution(view.execution_id),
            "at": moment(view.at),
        }
    )


def step(one: Step) -> Shape:
    """A step as it stands: `value` once it is done, null where a wait ran out of its time."""
    shape: Shape = {
        "name": one.name,
        "kind": one.kind.value,
        "status": one.status.value,
        "value": raw(one.value),
        "due_in_seconds": one.due_in_seconds,
        "timed_out": one.timed_out,
        "child_id": None if one.child_id is None else show_execution(one.child_id),
    }
    more: Shape = {
        "attempt": one.attempt,
        "event": one.event,
        "approval_request_id": one.request_id,
        "child_status": one.child_status,
        "error": raw(one.error),
        "error_class": one.error_class,
        "due_at": None if one.due_at is None else moment(one.due_at),
        "created_at": None if one.created_at is None else moment(one.created_at),
        "done_at": None if one.done_at is None else moment(one.done_at),
    }
    return shape | present(more)


def memory(value: Value, scope: str) -> Shape:
    """A row of memory; `scope` is the name that whoever asks has for its scope."""
    return {
        "scope": scope,
        "scope_id": value.scope_id,
        "key": value.key,
        "data": raw(value.value),
        "version": value.version,
        "created_at": moment(value.created_at),
        "updated_at": moment(value.updated_at),
    }


def vector(one: Vector, scope: str) -> Shape:
    return _named(one, scope) | {"embedding": one.embedding}


def hit(one: Hit, scope: str) -> Shape:
    """A vector that was found; `distance` is what is missing to the score of the same direction."""
    return _named(one, scope) | {"score": one.score, "distance": 1 - one.score}


def _named(one: Vector | Hit, scope: str) -> Shape:
    return {
        "scope": scope,
        "scope_id": one.scope_id,
        "key": one.key,
        "metadata": raw(one.metadata or b"{}"),
        "created_at": moment(one.created_at),
        "updated_at": moment(one.updated_at),
    }


def asked(one: Approval) -> Shape:
    """What an execution shows of what it asked people."""
    return present(
        {
            "approval_request_id": one.request_id,
            "approval_status": one.status.value,
            "approval_request_url": one.url,
        }
    )


def approval(one: Approval) -> Shape:
    """A question to people as it stands (AgentField's words, and some more)."""
    return present(
        {
            "status": one.status.value,
            "approval_request_id": one.request_id,
            "execution_id": show_execution(one.execution_id),
            "title": one.title,
            "request_url": one.url,
            "feedback": one.feedback,
            "response": raw(one.response),
            "requested_at": moment(one.requested_at),
            "responded_at": None if one.decided_at is None else moment(one.decided_at),
            "expires_at": None if one.expires_at is None else moment(one.expires_at),
        }
    )


def event(view: EventView) -> Shape:
    return present(
        {
            "id": view.position.seq,
            "type": view.type,
            "attempt": view.attempt or None,
            "at": moment(view.at),
            "data": raw(view.data),
        }
    )


def frame(view: EventView) -> Shape:
    """An event as a frame of the live streams (AgentField's shape). `event` is our own name for it."""
    target = parse(view.target)
    status = STATUS_AFTER.get(view.type)
    return present(
        {
            "type": FRAME_OF.get(view.type, view.type.replace(".", "_")),
            "event": view.type,
            "execution_id": show("exec", view.execution_id),
            "workflow_id": view.run_id,
            "run_id": view.run_id,
            "agent_node_id": target.node_id,
            "reasoner_id": target.reasoner_id,
            "status": None if status is None else status.value,
            "attempt": view.attempt or None,
            "timestamp": moment(view.at),
            "data": raw(view.data),
        }
    )


def change(view: ChangeView) -> Shape:
    """A change of memory as AgentField tells it. It knows no append: that is a `set` whose value is not told."""
    return present(
        {
            "id": f"{view.bucket}.{view.position.xid}.{view.position.seq}",
            "type": "memory_change",
            "timestamp": moment(view.at),
            "scope": WORKFLOW if view.scope is Scope.RUN else view.scope.value,
            "scope_id": view.scope_id,
            "key": view.key,
            "action": (Action.SET if view.action is Action.APPEND else view.action).value,
            "appended": True if view.action is Action.APPEND else None,
            "data": raw(view.value),
            "previous_data": raw(view.previous),
            "metadata": present(
                {"agent_id": view.node_id, "actor_id": view.actor_key, "workflow_id": view.run_id},
            ),
        }
    )


def line(view: LineView) -> Shape:
    return present(
        {
            "id": view.seq,
            "attempt": view.attempt,
            "at": moment(view.at),
            "level": view.level,
            "event_type": view.event_type,
            "source": view.source,
            "message": view.message,
            "attributes": raw(view.attributes),
        }
    )


def delivery(view: DeliveryView) -> Shape:
    """A delivery. Of the URL only where it points: its query may hold a secret."""
    url = urlsplit(view.url)
    return present(
        {
            "delivery_id": show("dlv", view.id),
            "webhook_id": show("dlv", view.id),
            "event": view.event,
            "url": f"{url.scheme}://{url.netloc}{url.path}",
            "state": view.state,
            "attempts_max": view.attempts_max,
            "attempts_charged": view.charged,
            "next_attempt_at": moment(view.next_at)
            if view.state == "pending" and view.next_at.year < MAXYEAR
            else None,
            "held_by": view.held_by,
            "endpoint_id": None if view.endpoint_id is None else show(ENDPOINT, view.endpoint_id),
            "created_at": moment(view.created_at),
            "settled_at": None if view.settled_at is None else moment(view.settled_at),
            "attempts": [attempt(one) for one in view.attempts],
        }
    )


def webhook_events(views: Sequence[DeliveryView]) -> list[Shape]:
    """Every attempt to tell somebody, in AgentField's shape and without the body that was sent, which is the result."""
    tries = sorted(((one, view) for view in views for one in view.attempts), key=lambda pair: pair[0].at)
    return [
        present(
            {
                "id": n,
                "execution_id": None if view.execution_id is None else show("exec", view.execution_id),
                "event_type": view.event,
                "status": "delivered" if one.outcome == "delivered" else "failed",
                "http_status": one.http_status,
                "response_body": _body(one),
                "error_message": one.error,
                "created_at": moment(one.at),
                "attempt": one.attempt,
                "delivery_id": show("dlv", view.id),
            }
        )
        for n, (one, view) in enumerate(tries, 1)
    ]


def attempt(view: AttemptView) -> Shape:
    return present(
        {
            "attempt": view.attempt,
            "at": moment(view.at),
            "outcome": view.outcome,
            "http_status": view.http_status,
            "latency_ms": view.latency_ms,
            "error": view.error,
            "response_body": _body(view),
        }
    )


def _body(view: AttemptView) -> str | None:
    return None if view.response_body is None else view.response_body.decode(errors="replace")


def node(view: NodeView, drained: Drained) -> Shape:
    return present(
        {
            "id": view.id,
            "node_id": view.id,
            "transport": view.transport,
            "version": view.version,
            "base_url": view.base_url,
            "lifecycle_status": "ready" if view.sessions else "offline",
            "health_status": "healthy" if view.sessions else "unknown",
            "sessions": view.sessions,
            "slots": view.slots,
            "running": view.running,
            "paused": view.paused,
            "draining": drained.processes,
            "draining_running": drained.running,
            "last_heartbeat": None if view.renewed_at is None else moment(view.renewed_at),
            "registered_at": moment(view.registered_at),
            "updated_at": moment(view.updated_at),
            "metadata": raw(view.metadata),
        }
    )


def kept(view: Kept, node_id: str) -> Shape:
    """What keeps a node from being forgotten."""
    return {
        "detail": view.sentence,
        "fix": view.fix(node_id),
        "sessions": view.sessions,
        "executions": view.executions,
        "executions_is_more": view.executions_is_more,
        "schedules": list(view.schedules),
        "triggers": list(view.triggers),
    }


def retry(policy: RetryPolicy) -> Shape:
    """When a failure is tried again, in the words that a submit takes."""
    return {
        "max": policy.retries_max,
        "backoff": "exponential" if policy.factor > 1 else "fixed",
        "delay_seconds": policy.delay_seconds,
        "factor": policy.factor,
        "cap_seconds": policy.cap_seconds,
        "jitter": policy.jitter,
        "fatal_errors": list(policy.fatal_errors),
        "retry_errors": list(policy.retry_errors),
    }


def reasoner(entry: Entry) -> Shape:
    return present(
        {
            "target": entry.target,
            "node_id": entry.node_id,
            "id": entry.reasoner_id,
            "type": entry.type,
            "description": entry.description,
            "tags": list(entry.tags),
            "retries": entry.retry.retries_max,
            "retry": retry(entry.retry),
            "timeout_seconds": entry.timeout_seconds,
            "schedule_to_start_seconds": entry.schedule_to_start_seconds,
            "total_seconds": entry.total_seconds,
            "heartbeat_seconds": entry.heartbeat_seconds,
            "on_parent_end": entry.on_parent_end and entry.on_parent_end.value,
            "up": entry.up,
            "paused": entry.paused,
        }
    )
