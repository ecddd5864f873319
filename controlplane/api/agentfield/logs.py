"""Log lines of processes that are called: taken along at once, written in batches, the first to be left behind.

AgentField's SDK posts one line per request and five requests per checkpoint, and waits for none of them.
"""

from __future__ import annotations

import re

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.body import decode, payload, read_body, spoken
from controlplane.api.doors import EVENTS_TOPIC, Doors, doors_of, namespace_of
from controlplane.api.leases import LEVELS, MESSAGE_MAX, WORD_MAX, moment_of
from controlplane.api.operation import NODE, Operation
from controlplane.api.shapes import answer
from controlplane.api.whose import refusals
from controlplane.domain.ids import is_execution, read_fenced
from controlplane.domain.lease import Fence
from controlplane.errors import ControlPlaneError, Invalid
from controlplane.stages.log import Line, Progress

ENTRIES_MAX = 1_000
ATTRIBUTES_BYTES_MAX = 64 * 1024
COUNTED = re.compile(r"(?<![\d./])(\d{1,15})\s?/\s?(\d{1,15})(?![\d./])")


class EntryForm(msgspec.Struct):
    """One line of an execution."""

    message: str | None = None
    level: str | None = None
    ts: str | None = None
    event_type: str | None = None
    source: str | None = None
    execution_id: str | None = None
    parent_execution_id: str | None = None
    attributes: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class LogsForm(EntryForm):
    """Lines of one execution, or a single one by itself."""

    entries: list[EntryForm] | None = None


async def take(request: Request) -> Response:
    """Answered before it is written: a line may be lost, and a stale attempt's lines always are."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_ = request.path_params["execution_id"]
    form = decode(await read_body(request, doors.limits.body_bytes_max) or b"{}", LogsForm)
    entries = [form] if form.entries is None else form.entries
    if len(entries) > ENTRIES_MAX:
        raise Invalid(f"More than {ENTRIES_MAX} entries.", where="body.entries", fix="Send them in several requests.")
    taken = 0
    for n, entry in enumerate(entries):
        where = "body" if form.entries is None else f"body.entries[{n}]"
        if not entry.message:
            raise Invalid("A line needs a message.", where=f"{where}.message")
        if entry.execution_id is not None and entry.execution_id != id_:
            raise Invalid("Not the execution in the path.", where=f"{where}.execution_id")
    spoken_for = [_fence(doors, namespace, id_, entry) for entry in entries]
    refused = await refusals(request, (fence.execution_id for fence in spoken_for if fence is not None))
    for entry, fence in zip(entries, spoken_for, strict=True):
        if fence is None or fence.execution_id in refused:
            continue
        taken += doors.lanes.log.offer(_line(fence, entry))
        _tell_progress(doors, fence, entry)
    shape = {"success": True, "execution_id": id_[:WORD_MAX], "accepted": taken, "dropped": len(entries) - taken}
    return answer(shape, 202)


def _fence(doors: Doors, namespace: int, id_: str, entry: EntryForm) -> Fence | None:
    """The attempt that speaks; for a call inside a process the one that it is part of, when that is known."""
    for known in (id_, entry.parent_execution_id or ""):
        if is_execution(known):
            execution_id, attempt = read_fenced(known, where="path/execution_id")
            return None if attempt is None else Fence(execution_id, attempt)
        owner = doors.processes.owner(namespace, known)
        if owner is not None:
            return owner
    return None


def _line(fence: Fence, entry: EntryForm) -> Line:
    level = (entry.level or "info").lower()
    return Line(
        fence=fence,
        level={"warn": "warning", "critical": "error"}.get(level, level if level in LEVELS else "info"),
        message=spoken((entry.message or "")[:MESSAGE_MAX]),
        at=moment_of(entry.ts),
        event_type=None if entry.event_type is None else spoken(entry.event_type[:WORD_MAX]),
        source=None if entry.source is None else spoken(entry.source[:WORD_MAX]),
        attributes=_attributes(entry.attributes),
    )


def _attributes(raw: msgspec.Raw) -> bytes | None:
    """Attributes that are too large or not strict JSON are left out; the line itself is kept."""
    kept = bytes(raw)
    if kept in (b"", b"null", b"{}"):
        return None
    try:
        return payload(kept, where="attributes", bytes_max=ATTRIBUTES_BYTES_MAX)[0]
    except ControlPlaneError:
        return None


def _tell_progress(doors: Doors, fence: Fence, entry: EntryForm) -> None:
    """A line that says how far the work is, as "processed 3/10" does, is its progress too."""
    if entry.event_type != "log.info" or "/" not in (entry.message or ""):
        return
    counted = [(int(done), int(total)) for done, total in COUNTED.findall(entry.message or "")]
    done, total = next(((one, all_) for one, all_ in reversed(counted) if all_ > 0 and one <= all_), (0, 0))
    if total and (done == total or doors.processes.counted.due(fence)):
        said = {"done": done, "total": total, "fraction": round(done / total, 4)}
        # At once: it is of no use after the end, which may be the next thing that is told.
        if doors.lanes.log.offer(Progress(fence=fence, progress=orjson.dumps(said)), gathers=False):
            doors.hints.tell(EVENTS_TOPIC)


OPERATIONS = [
    Operation(
        scope=NODE,
        method="POST",
        path="/api/v1/executions/{execution_id}/logs",
        handler=take,
        summary="Log lines of an attempt, best effort",
        tag="events",
        takes=LogsForm,
        gives_way=True,
        answers={202: "Taken along.", 400: "Malformed.", 413: "Too large.", 422: "Not valid.", 503: "Try again."},
    ),
]
