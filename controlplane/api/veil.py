"""Veil: what a key that hides payloads is shown instead of them: that something is there, how much, and its hash.

It stands behind the gate and before every route, and looks at whatever goes out: JSON, event streams and sockets. A
member of an answer is shown when its name stands in PLAIN, and hidden otherwise, so that what is added to an answer is
hidden until somebody has decided that it is no payload.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable

import msgspec
import orjson
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controlplane.api.doors import CALLER
from controlplane.api.front import FOUND, Found
from controlplane.api.operation import Operation
from controlplane.api.problems import MEDIA_TYPE, answer
from controlplane.domain.ids import is_execution
from controlplane.domain.key import Caller
from controlplane.errors import PayloadsHidden

STREAM = "text/event-stream"
JSON = "application/json"
METRICS_PATH = "/metrics"
DATA = b"data: "
SEEING_KEY = "Ask with a key that is shown payloads."
OTHER_FORM = "Ask for it as JSON, or with a key that is shown payloads."


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


IDS = _words(
    "id ids agent_id agent_ids agent_node_id bulk_id child_id delivery_id endpoint_id webhook_id event_key "
    "execution_id execution_ids group_id job_id key_id node node_id node_ids parent_execution_id "
    "replay_before_execution_id replay_execution_id restarted_execution_id root_execution_id run_id schedule_id "
    "session_id signal_id source_execution_id source_run_id task_id trigger_event_id trigger_id workflow_id "
    "approval_request_id"
)
NAMES = _words(
    "name names key key_name ticket namespace namespace_name scope scope_id scopes prefix slug target targets reasoner "
    "reasoner_id skill type types kind event events event_type event_types tag tags version versions actor_id "
    "actor_key session_key concurrency_key fairness_key idempotency_key managed_by invocation_target "
    "deployment_type transport patterns source level preset algorithm encoding signing_key_format "
    "header timestamp_header id_from type_from"
)
PLACES = _words("url base_url invocation_url resolved_base_url host method path")
STATES = _words(
    "state status statuses status_reason reason reasons outcome action ended up paused paused_reason pause_reason "
    "draining draining_running cancel cancelled deleted done delivered duplicate success updated settled serving "
    "database checks lifecycle_status health_status approval_status decision new_status previous_status "
    "child_status root_status execution_status error_class error_status_code http_status code timed_out by_hand "
    "exact dry_run truncated refused accepted replayed replay_mode reuse released appended weak signed looked_at "
    "webhook_registered hide_payloads by created_by revoked_by paused_by still_paused_by blocked_by also_paused all "
    "changed show_all held_by disabled_by replaced_by"
)
TIMES = _words(
    "at since timestamp created_at updated_at started_at ended_at finished_at completed_at cancelled_at enqueued_at "
    "available_at began_at begins_at deadline_at times_out_at waiting_at due_at done_at discovered_at expires_at "
    "last_at last_used_at last_heartbeat latest_activity next_at next_attempt_at next_retry_at planned_at paused_at "
    "resumed_at progress_at registered_at requested_at responded_at retry_at revoked_at run_at settled_at until_at "
    "failed_at failing_since node_left_at node_registered_at lease_expires_at previous_secret_until drain_requested_at "
    "pause_requested_at cancel_requested_at created_after created_before ended_after ended_before ends_at "
    "disabled_at"
)
RULES = _words(
    "retry retries retries_max retries_used max backoff delay_seconds factor cap_seconds jitter jitter_seconds "
    "fatal_errors retry_errors timeout_seconds schedule_to_start_seconds total_seconds heartbeat_seconds "
    "on_parent_end cron time_zone interval_seconds overlap catch_up priority rate_max rate_seconds concurrency_max "
    "declared_max attempts_max tolerance_seconds keep_days filter filters lease_seconds next_lease_renewal "
    "next_poll_after expires_in_seconds idle_wait_seconds"
)
COUNTS = _words(
    "count counts counts_are_more attempt attempts attempts_charged failures failed failed_attempt failed_reasons "
    "skipped skipped_count skipped_reasons matched total total_agents total_nodes total_reasoners total_skills "
    "limit offset has_more sessions slots slots_taken running waiting queued queued_is_more held blocked processes "
    "active_executions cancelled_count error_count status_counts unfinished executions children_unfinished "
    "children_are_more ahead ahead_is_more finishes finishes_seconds estimate_seconds duration_ms latency_ms "
    "wait_seconds retry_in_seconds retry_after_seconds due_in_seconds deadline_in_seconds attempt_heartbeat_seconds "
    "heartbeat_age_seconds log_age_seconds length dropped lost awaited awaited_done waits_until default_not_empty "
    "critical replays dead_streak postgresql_version schema_version schema_version_known oldest_ready_seconds "
    "oldest_due_delivery_seconds counted_seconds_ago oldest_snapshot_seconds pins_unseen"
)
WITHIN = _words(
    "items runs nodes results leases entries replaces replay steps reasoners skills capabilities pagination facts "
    "children holders fairness_keys awaited_steps trigger schedule webhook_events ticks errors notes caps deliveries "
    "keys before chain removed schedules triggers"
)
CURSORS = _words("cursor next_cursor next after next_after next_before begin end")
AUDIT = _words(
    "actor actor_kind address audit_id complete hash head holds object_id object_kind previous request_id rows seq "
    "user_agent cap most default said present"
)

PLAIN = IDS | NAMES | PLACES | STATES | TIMES | RULES | COUNTS | WITHIN | CURSORS | AUDIT
"""Members that are shown. Inside of them the same holds, but for those below."""
WHOLE = _words(
    "arguments warnings input_schema output_schema counts status_counts keep_days kept_by pins tables standbys"
)
"""Members that are shown with everything in them: not every name in there is ours, and nothing is a payload."""
IN_PROBLEMS = PLAIN | _words("title detail message fix where error details fields parameter request_id")
"""What a refusal says are words of ours."""
HIDDEN_OF: dict[str, frozenset[str]] = {"jobs": frozenset({"type"})}
"""By the tag of a route: what is plain elsewhere and comes out of a payload there."""


class Veil:
    """Nothing of a payload passes to who comes with a key that hides them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        caller: Caller | None = scope.get(CALLER)
        if caller is None or not caller.hide_payloads:
            return self._app(scope, receive, send)
        return self._veiled(scope, receive, send)

    async def _veiled(self, scope: Scope, receive: Receive, send: Send) -> None:
        found: Found | None = scope.get(FOUND)
        if found is not None and found.operation.reveals:
            await answer(PayloadsHidden(fix=SEEING_KEY))(scope, receive, send)
        elif found is not None and found.operation.page:
            await self._app(scope, receive, send)  # it asks for what it shows, and hears it through `seen_by`
        elif scope["type"] == "websocket":
            await self._app(scope, receive, _socket(send))
        else:
            tag = "" if found is None else found.operation.tag
            await self._app(scope, receive, _Answer(scope, receive, send, plain=plain_of(tag)))


def plain_of(tag: str) -> frozenset[str]:
    """What is shown in the answers of the routes with this tag."""
    return PLAIN - HIDDEN_OF.get(tag, frozenset())


def seen_by(caller: Caller, operation: Operation, body: bytes) -> bytes:
    """What this caller is shown of an answer in JSON. Raises PayloadsHidden."""
    if not caller.hide_payloads:
        return body
    if operation.reveals:
        raise PayloadsHidden(fix=SEEING_KEY)
    return veiled(body, plain_of(operation.tag))


class _Answer:
    """The `send` of one request: an answer is held until it is whole, a stream goes on line by line."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, plain: frozenset[str]) -> None:
        self._scope, self._receive, self._send, self._plain = scope, receive, send, plain
        self._start: Message = {}
        self._kind = ""
        self._held = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            self._kind = MutableHeaders(raw=message["headers"]).get("content-type", "").partition(";")[0]
            if self._streams or self._passes:
                await self._send(message)
        elif message["type"] != "http.response.body" or self._passes:
            await self._send(message)
        elif self._streams:
            *lines, self._held = (self._held + message.get("body", b"")).split(b"\n")
            await self._send({**message, "body": b"".join(_line(one, self._plain) + b"\n" for one in lines)})
        else:
            self._held += message.get("body", b"")
            if not message.get("more_body", False):
                await self._whole()

    @property
    def _streams(self) -> bool:
        return self._kind == STREAM

    @property
    def _passes(self) -> bool:
        return bool(self._scope["path"] == METRICS_PATH)

    async def _whole(self) -> None:
        if self._held and self._kind not in (JSON, MEDIA_TYPE):  # what cannot be looked into
            await answer(PayloadsHidden(fix=OTHER_FORM))(self._scope, self._receive, self._send)
            return
        plain = self._plain | IN_PROBLEMS if self._kind == MEDIA_TYPE else self._plain
        body = veiled(self._held, plain) if self._held else b""
        if self._held:
            MutableHeaders(raw=self._start["headers"])["content-length"] = str(len(body))
        await self._send(self._start)
        await self._send({"type": "http.response.body", "body": body})


def _socket(send: Send) -> Send:
    async def told(message: Message) -> None:
        if message["type"] == "websocket.send":
            said = message.get("text")
            message = {**message, "text": veiled((said or "").encode()).decode(), "bytes": None}
        await send(message)

    return told


def veiled(said: bytes, plain: frozenset[str] = PLAIN) -> bytes:
    """This JSON with nothing in it but what is plain. What is no JSON is hidden whole."""
    try:
        whole = msgspec.json.decode(said, type=msgspec.Raw)
    except msgspec.DecodeError:
        return orjson.dumps(_hidden(said))
    text = bytes(whole).strip()
    return orjson.dumps(_walk(text, plain) if text[:1] in b"{[" else _hidden(text))


def _walk(text: bytes, plain: frozenset[str]) -> object:
    if text[:1] == b"{":
        members = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        return {name: _member(name, bytes(value).strip(), plain) for name, value in members.items()}
    if text[:1] == b"[":
        return [_walk(bytes(one).strip(), plain) for one in msgspec.json.decode(text, type=list[msgspec.Raw])]
    return orjson.Fragment(text)


def _member(name: str, text: bytes, plain: frozenset[str]) -> object:
    if text == b"null" or name in WHOLE:
        return orjson.Fragment(text)
    if name in plain or (is_execution(name) and text[:1] == b"{"):
        return _walk(text, plain)
    return _hidden(text)


def _hidden(text: bytes) -> object:
    """A text for a text and a list for a list, which a client may have to have there; else an object."""
    digest = hashlib.sha256(text).hexdigest()
    if text[:1] == b'"':
        return f"hidden: {len(text)} bytes, sha256 {digest}"
    told = {"hidden": True, "bytes": len(text), "sha256": digest}
    return [told] if text[:1] == b"[" else told


def _line(line: bytes, plain: frozenset[str]) -> bytes:
    return DATA + veiled(line[len(DATA) :], plain) if line.startswith(DATA) else line
