"""The status callback: a process that is called says how an attempt went.

Callbacks come in any order and more than once. What cannot be kept as a result fails the attempt, because its process
says it only once and would never be asked again.
"""

from __future__ import annotations

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.body import decode, payload, read_body
from controlplane.api.doors import EVENTS_TOPIC, Doors, doors_of, namespace_of
from controlplane.api.leases import WORD_MAX
from controlplane.api.operation import NODE, Operation
from controlplane.api.shapes import answer
from controlplane.api.whose import require_node
from controlplane.domain import topic
from controlplane.domain.call import AGAIN_SECONDS, AWAY_REASON, away, printable, refused, worded
from controlplane.domain.ids import bucket_of, read_fenced
from controlplane.domain.lease import Fence, Report, ReportCode, Verdict
from controlplane.domain.notice import text
from controlplane.domain.target import parse
from controlplane.errors import ControlPlaneError, ExecutionNotFound, Invalid, LeaseLost, Malformed, TooLarge
from controlplane.reads import executions
from controlplane.reads.executions import ExecutionView
from controlplane.stages import expire, send
from controlplane.stages.log import Progress

# What AgentField's SDKs and the agents before them call the ends of an execution.
VERDICTS = {
    word: verdict
    for verdict, words in {
        Verdict.SUCCEEDED: "succeeded success successful completed complete done ok",
        Verdict.FAILED: "failed error failure errored timeout timed_out",
        Verdict.CANCELLED: "cancelled canceled cancel",
    }.items()
    for word in words.split()
}
UNDER_WAY = frozenset(
    [
        "running",
        "in_progress",
        "processing",
        "pending",
        "queued",
        "wait",
        "waiting",
        "awaiting_approval",
        "awaiting_human",
        "approval_pending",
    ]
)
SHUTDOWN = "shutdown"


class StatusForm(msgspec.Struct):
    """How an attempt goes or went. Everything but the status may be any JSON: a callback is not sent again."""

    status: str
    result: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    error: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    error_details: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    error_status_code: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    progress: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


async def status(request: Request) -> Response:
    """Recorded for the attempt that the id names, as long as it holds its lease; said again, it says the same."""
    doors, namespace = doors_of(request), namespace_of(request)
    fence = _fence(request)
    view = await _view(doors, fence, namespace)
    require_node(request, parse(view.target).node_id)
    form: StatusForm | None = None
    try:
        form = decode(await read_body(request, doors.limits.body_bytes_max) or b"{}", StatusForm)
    except TooLarge as error:
        report: Report | None = refused(fence, f"The result cannot be kept: {error.detail}")
    except Malformed:
        report = refused(fence, "The result cannot be kept: it is not valid JSON.")
    else:
        report = _report(fence, form, doors.limits.payload_bytes_max)
    if report is None:
        assert form is not None
        await _under_way(doors, fence, form)
        return answer(shapes.execution(view))
    if away(report, up_seconds=doors.up_seconds) and await _hand_back(doors, fence):
        return answer(shapes.execution(await _view(doors, fence, namespace)))
    recorded = await doors.lanes.complete.put(worded(report))
    if recorded.code is ReportCode.LEASE_LOST:
        raise LeaseLost(status=view.status.value)
    if recorded.status is not None and recorded.status.final:
        if recorded.code is not ReportCode.ALREADY_RECORDED:
            doors.ended([fence.execution_id])
    else:
        doors.ready(namespace, view.target)
    doors.hints.tell(topic.slots(namespace, parse(view.target).node_id))
    return answer(shapes.execution(await _view(doors, fence, namespace)))


async def _hand_back(doors: Doors, fence: Fence) -> bool:
    """The process could not reach us, and its reasoner has failed of that: the attempt begins again where it was."""
    swept = await doors.run(
        expire.take_back,
        bucket_of(fence.execution_id),
        [fence],
        reason=AWAY_REASON,
        crash=True,
        make_id=doors.ids.new,
        delay_seconds=AGAIN_SECONDS,
    )
    doors.ended(swept.ended)
    doors.hints.tell(EVENTS_TOPIC)
    return bool(swept.rows)


async def _under_way(doors: Doors, fence: Fence, form: StatusForm) -> None:
    """The process works on it, and may say how far it is (0 to 100)."""
    await doors.run(send.accept, [fence])
    percent = _number(form.progress)
    if percent is not None and 0 <= percent <= 100:
        said = orjson.dumps({"fraction": round(percent / 100, 4)})
        if doors.lanes.log.offer(Progress(fence=fence, progress=said), gathers=False):
            doors.hints.tell(EVENTS_TOPIC)


def _fence(request: Request) -> Fence:
    id_, attempt = read_fenced(request.path_params["execution_id"], where="path/execution_id")
    if attempt is None:
        raise Invalid(
            "Needs the attempt: exec_…~1.",
            where="path/execution_id",
            fix="Send back the X-Execution-ID that the work was dispatched with, as it came.",
        )
    return Fence(id_, attempt)


def _report(fence: Fence, form: StatusForm, bytes_max: int) -> Report | None:
    """The last word on the attempt, or None when it is none. Raises Invalid for a word that nobody knows."""
    word = form.status.strip().lower()
    if word in UNDER_WAY:
        return None
    if word not in VERDICTS:
        raise Invalid("Not a status.", where="body.status", fix="One of succeeded, failed, cancelled, running.")
    verdict = VERDICTS[word]
    try:
        result = _kept(form.result, "body.result", bytes_max)
        details = _kept(form.error_details, "body.error_details", bytes_max)
    except ControlPlaneError as error:
        return refused(fence, f"The result cannot be kept: {error.detail}")
    reason = _reason(details)
    if verdict is Verdict.CANCELLED and reason == SHUTDOWN:  # a worker that goes, not a caller who does not want it
        return Report(fence=fence, verdict=Verdict.RELEASED)
    code = _number(form.error_status_code)
    return Report(
        fence=fence,
        verdict=verdict,
        result=result,
        error=None if verdict is Verdict.SUCCEEDED else _words(form.error, word),
        error_class=None if reason is None else printable(reason)[:WORD_MAX],
        error_details=None if details == b"null" else details,
        http_status=int(code) if code is not None and 400 <= code < 600 else None,
    )


def _kept(raw: msgspec.Raw, where: str, bytes_max: int) -> bytes | None:
    return payload(raw, where=where, bytes_max=bytes_max)[0] if bytes(raw) else None


def _reason(details: bytes | None) -> str | None:
    said = orjson.loads(details) if details else None
    reason = said.get("reason") if isinstance(said, dict) else None
    return reason if isinstance(reason, str) else None


def _words(raw: msgspec.Raw, word: str) -> bytes:
    """The error as a JSON string, whatever it came as."""
    kept = bytes(raw)
    try:
        said = orjson.loads(kept) if kept else None
    except orjson.JSONDecodeError:
        said = None
    if said is None:
        return text(word)
    return text(printable(said if isinstance(said, str) else orjson.dumps(said).decode()))


def _number(raw: msgspec.Raw) -> float | None:
    try:
        said = orjson.loads(bytes(raw)) if bytes(raw) else None
    except orjson.JSONDecodeError:
        return None
    return float(said) if isinstance(said, int | float) and not isinstance(said, bool) else None


async def _view(doors: Doors, fence: Fence, namespace: int) -> ExecutionView:
    views = await doors.run(executions.read, [fence.execution_id], namespace=namespace)
    if fence.execution_id not in views:
        raise ExecutionNotFound
    return views[fence.execution_id]


OPERATIONS = [
    Operation(
        scope=NODE,
        method="POST",
        path="/api/v1/executions/{execution_id}/status",
        handler=status,
        summary="A node that is called says how an attempt went",
        tag="leases",
        takes=StatusForm,
        answers={
            200: "Recorded; the execution as it stands.",
            404: "Unknown.",
            409: "The attempt has lost its lease; nothing changed.",
            413: "Too large: the attempt has failed.",
            422: "Not valid.",
            503: "Try again.",
        },
    ),
]
