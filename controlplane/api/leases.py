"""Sessions of pull nodes: open, lease, heartbeat, results, logs, close. What a node writes here is fenced."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Literal, Protocol, TypeVar
from uuid import UUID

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.body import clean, payload, read_form, spoken
from controlplane.api.connection import has_left
from controlplane.api.doors import (
    EVENTS_TOPIC,
    Doors,
    doors_of,
    namespace_of,
    put_each,
)
from controlplane.api.matching import Poll
from controlplane.api.operation import NODE, Operation
from controlplane.api.problems import answer as problem
from controlplane.api.problems import status_of
from controlplane.api.shapes import answer
from controlplane.api.upkeep import IDLE_WAIT_SECONDS
from controlplane.api.whose import refusals, require_node
from controlplane.domain import topic
from controlplane.domain.cap import Cap
from controlplane.domain.execution import Conclusion, Status
from controlplane.domain.ids import ExecutionId, SessionId, bucket_of, read, read_execution, show, show_execution
from controlplane.domain.lease import Beat, Claim, Extended, Fence, Lease, Report, ReportCode, Session, Verdict
from controlplane.domain.notice import text
from controlplane.domain.retry import after_error
from controlplane.domain.step import NAME_MAX, WAITS_MAX
from controlplane.domain.target import is_name
from controlplane.errors import (
    ControlPlaneError,
    Invalid,
    LeaseLost,
    NodeNotFound,
    SessionClosed,
    SessionDraining,
    SessionNotFound,
    bare,
)
from controlplane.postgres.listen import QUEUE
from controlplane.reads import nodes
from controlplane.stages import expire, register
from controlplane.stages.expire import Swept
from controlplane.stages.lease import LEASES_MAX
from controlplane.stages.log import Entry, Line, Progress

Said = TypeVar("Said")
Item = TypeVar("Item")


class Spoken(Protocol):
    """Something that is said of an attempt."""

    @property
    def fence(self) -> Fence: ...


WAIT_MAX_SECONDS = 30.0
SLOTS_MAX = 10_000
HEARTBEAT_MAX_SECONDS = 300.0
HELD_MAX = 20_000
RESULTS_MAX = 1_000
ENTRIES_MAX = 500
MESSAGE_MAX = 16_384
WORD_MAX = 200
TRACEBACK_MAX = 65_536
LEVELS = frozenset({"debug", "info", "warning", "error"})
SESSIONS_KEPT = 10_000
DRAINED_LOOK_SECONDS = 2.0
"""How often a poll of a process that drains looks whether it still does: a hint may be lost."""
WAITS_LONG_SECONDS = 1.0
GATHER_SECONDS = 0.2
"""Beats of processes that wait for news are written so often, together: a thousand nodes cost five commits a second."""
NOT_KEPT: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
MOVED = frozenset({Status.QUEUED.value, Status.WAITING.value})


class OpenForm(msgspec.Struct, forbid_unknown_fields=True):
    """A process of a node: `slots` executions at once, a heartbeat every so many seconds."""

    instance_id: str
    slots: int
    heartbeat_seconds: float = 10.0


class LeaseForm(msgspec.Struct, forbid_unknown_fields=True):
    """At most so many, waiting at most so long for the first."""

    max: int
    wait_seconds: float = 0.0


class FenceForm(msgspec.Struct, forbid_unknown_fields=True):
    execution_id: str
    attempt: int


class HeartbeatForm(msgspec.Struct, forbid_unknown_fields=True):
    """`executions`: the full list of what the process holds, or null on the beats between."""

    executions: list[FenceForm] | None = None
    count: int = 0
    wait_seconds: float = 0.0


class ResultForm(msgspec.Struct):
    """How an attempt went. `waits`: the names of the steps that a `waiting` one waits for, `any` or `all` of them."""

    execution_id: str
    attempt: int
    status: Literal["succeeded", "failed", "cancelled", "released", "waiting"]
    result: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    error: str | None = None
    error_class: str | None = None
    error_details: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    traceback: str | None = None
    retryable: bool = True
    retry_after_seconds: float | None = None
    duration_ms: float | None = None
    waits: list[str] = []
    until: Literal["any", "all"] = "all"


class ResultsForm(msgspec.Struct, forbid_unknown_fields=True):
    results: list[ResultForm]


class CloseForm(msgspec.Struct, forbid_unknown_fields=True):
    reason: str | None = None


class LineForm(msgspec.Struct):
    execution_id: str
    attempt: int
    message: str
    level: str = "info"
    ts: str | None = None
    event_type: str | None = None
    source: str | None = None
    attributes: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class ProgressForm(msgspec.Struct, forbid_unknown_fields=True):
    execution_id: str
    attempt: int
    done: int | None = None
    total: int | None = None
    fraction: float | None = None
    message: str | None = None


class LogsForm(msgspec.Struct, forbid_unknown_fields=True):
    entries: list[LineForm] = []
    progress: list[ProgressForm] = []


Looked = tuple[int, tuple[str, ...]]
"""How much had been said of all queues before a look, and for which targets it was."""


class Sessions:
    """Open sessions that this process has met: what a session is never changes, whether it is open is asked in SQL."""

    def __init__(self) -> None:
        self._known: dict[UUID, Session] = {}
        self._emptied: dict[UUID, Looked] = {}

    def keep(self, session: Session) -> None:
        if len(self._known) >= SESSIONS_KEPT:
            self._known.clear()
        self._known[session.id] = session

    def emptied(self, id_: UUID, looked: Looked) -> None:
        """This session has taken all the work that there was for it."""
        if len(self._emptied) >= SESSIONS_KEPT:
            self._emptied.clear()
        self._emptied[id_] = looked

    def knows(self, id_: UUID, now: Looked) -> bool:
        """Whether it has, and nothing has become ready since. Said once: what was not said to anybody is looked for.

        While it waits `Lookout` does that for it.
        """
        return self._emptied.pop(id_, None) == now

    async def find(self, request: Request) -> Session:
        """The session in the path. Raises SessionNotFound, NodeNotAllowed, SessionClosed."""
        doors = doors_of(request)
        id_ = read("ses", request.path_params["session_id"], where="path/session_id")
        session = self._known.get(id_)
        if session is None:
            found = await doors.run(nodes.session, bucket_of(id_), id_)
            if found is None:
                raise SessionNotFound
            session, is_open = found
            if session.namespace != namespace_of(request):
                raise SessionNotFound
            require_node(request, session.node_id)
            if not is_open:
                raise SessionClosed
            self.keep(session)
            doors.catalogue.doubt()
        if session.namespace != namespace_of(request):
            raise SessionNotFound
        require_node(request, session.node_id)
        return session


async def open_session(request: Request) -> Response:
    """A process of a registered node may take work from here on."""
    doors, namespace = doors_of(request), namespace_of(request)
    node_id = request.path_params["node_id"]
    if not is_name(node_id):
        raise NodeNotFound
    form = await read_form(request, OpenForm, doors.limits.body_bytes_max)
    clean(form.instance_id, where="body.instance_id")
    _bounded(form.slots, "body.slots", 1, SLOTS_MAX)
    _bounded(form.heartbeat_seconds, "body.heartbeat_seconds", 0.1, HEARTBEAT_MAX_SECONDS)
    bucket = doors.placement.of_key(namespace, node_id)
    id_ = SessionId(doors.ids.new(bucket))
    session = await doors.run(
        register.open_session,
        id_,
        namespace=namespace,
        node_id=node_id,
        node_bucket=bucket,
        instance_id=form.instance_id,
        slots=form.slots,
        heartbeat_seconds=form.heartbeat_seconds,
        lease_floor_seconds=doors.limits.lease_floor_seconds,
        ceiling=doors.caps.ceiling(namespace, Cap.SESSIONS_PER_NODE, bucket=bucket),
    )
    doors.sessions.keep(session)
    await doors.catalogue.refresh()
    shape = {
        "session_id": show("ses", session.id),
        "node_id": node_id,
        "lease_seconds": session.lease_seconds,
        "heartbeat_seconds": session.heartbeat_seconds,
        "expires_in_seconds": session.lease_seconds,
    }
    return answer(shape, 201)


async def lease(request: Request) -> Response:
    """Work for this session, at once or as soon as there is some within `wait_seconds`."""
    doors = doors_of(request)
    session = await doors.sessions.find(request)
    form = await read_form(request, LeaseForm, doors.limits.body_bytes_max)
    limit = int(_bounded(form.max, "body.max", 1, LEASES_MAX))
    until = _until(_bounded(form.wait_seconds, "body.wait_seconds", 0, WAIT_MAX_SECONDS))
    while True:
        try:
            leases = await _claim(request, doors, session, limit, until)
        except SessionDraining:
            if await _drained(request, doors, session, until):
                continue
            return answer({"leases": [], "draining": True})
        for one in leases:
            doors.whose.keep(one.execution_id, one.namespace, one.target)
        return answer({"leases": [shapes.lease(one) for one in leases]})


async def _drained(request: Request, doors: Doors, session: Session, until: float) -> bool:
    """Hold the poll of a process that is handed nothing, outside of the lines. Says whether to look once more."""
    for target in await doors.catalogue.targets_of(session.namespace, session.node_id):
        doors.hints.wake(topic.queue(session.namespace, target), most=1)  # what it was woken for is the next one's
    with doors.hints.waiter(topic.session(session.id)) as hint:
        left = until - time.monotonic()
        if left > 0 and not doors.stopping:
            await hint.wait(min(left, DRAINED_LOOK_SECONDS))
    return left > 0 and not doors.stopping and not has_left(request)


async def _claim(request: Request, doors: Doors, session: Session, limit: int, until: float) -> Sequence[Lease]:
    targets = await doors.catalogue.targets_of(session.namespace, session.node_id)
    topics = [topic.queue(session.namespace, target) for target in targets]
    turn = next(doors.turns)  # every poll begins with another target, or the first one would starve the others
    asked = gone = handed = False
    leases: Sequence[Lease] = ()
    with doors.hints.waiter(*topics) as hint:  # before the first look, so that no submit falls between
        looked = (doors.hints.said(QUEUE), targets)
        knows = doors.sessions.knows(session.id, looked)  # the poll before was a moment ago
        while True:
            left = until - time.monotonic()
            if not knows or left <= 0:
                turned = targets[turn % len(targets) :] + targets[: turn % len(targets)] if targets else ()
                looked = (doors.hints.said(QUEUE), targets)
                leases = await doors.lanes.claim.put(Claim(session=session, targets=turned, limit=limit))
                asked = True
                left = until - time.monotonic()
            knows = False
            if leases or left <= 0 or doors.stopping:
                break
            poll = Poll(session, limit, hint, partial(has_left, request))
            with doors.matching.waiting(poll, topics):
                woken = await hint.wait(left)
            leases = await poll.leases()
            handed = bool(leases)
            if handed or not woken:  # nothing became ready: `Lookout` looks for whoever waits
                break
            turn += 1
            gone = has_left(request)
            if gone:
                break
    # A claim also says whether the session still is one: where nobody else asks that, every second poll does.
    nothing = not leases and not gone and (asked or doors.upkeep.keeps(session.id))
    if nothing or 0 < len(leases) < limit:
        doors.sessions.emptied(session.id, looked)
    # One hint wakes one process: what this one does not take, or look for, is the next one's.
    if gone or len(leases) == limit or (handed and doors.hints.said(QUEUE) != looked[0]):
        for one in topics:
            doors.hints.wake(one, most=1)
    if leases:
        doors.hints.tell(EVENTS_TOPIC)
    return leases


async def heartbeat(request: Request) -> Response:
    """The process is alive; everything it holds is its for another lease. Answers what to stop and what is lost.

    `tell_all`: something may be lost; the next beat shall name everything that the process holds.
    `idle_wait_seconds`: so long a beat may be held of a process that holds nothing, also when that is longer than its
    heartbeat. Meanwhile `Upkeep` renews its session, and ends the beat when the process has to speak for itself: it
    holds something now, shall drain, or is closed. The last renewal in its name is from before the claim, and the beat
    comes back within a heartbeat of it, so that the death of a process that holds something is noticed as soon as ever.
    One that holds nothing and was cut off without a word (no power, no network) counts as alive until the end of the
    wait, at most `wait_seconds` longer than otherwise; one whose connection is closed does not.
    """
    doors = doors_of(request)
    session = await doors.sessions.find(request)
    form = await read_form(request, HeartbeatForm, doors.limits.body_bytes_max)
    until = _until(_bounded(form.wait_seconds, "body.wait_seconds", 0, WAIT_MAX_SECONDS))
    held = None if form.executions is None else tuple(_fence(one, "body.executions") for one in form.executions)
    if held is not None and len(held) > HELD_MAX:
        raise Invalid(f"More than {HELD_MAX} executions.", where="body.executions")
    beat = Beat(session_id=session.id, held=held, count=max(0, min(form.count, HELD_MAX)))
    longer = form.wait_seconds > session.heartbeat_seconds and not beat.held and not beat.count
    woken = over = False
    with doors.hints.waiter(topic.session(session.id)) as hint:
        renewed_at = doors.upkeep.renewed_at(session) if longer and held is None else None
        if renewed_at is None:
            if form.wait_seconds > WAITS_LONG_SECONDS:
                await asyncio.sleep(_gathered_in())
            renewed_at = time.monotonic()
            extended = await doors.lanes.renew.put(beat)
        else:
            extended = Extended(session=session, draining=False, expires_in_seconds=session.lease_seconds)
        if held is not None:
            await _release_unnamed(doors, session, held)
        cancels = await doors.lookout.cancelling(session.id)
        keeping = doors.upkeep.keeping(session, request, hint, renewed_at=renewed_at) if longer else NOT_KEPT
        with keeping as kept:
            while not (cancels or extended.lost or doors.stopping):
                left = until - time.monotonic()
                if left <= 0 or not await hint.wait(left):
                    break
                over = kept is not None and kept.over
                if over:  # it hears what to stop when it speaks: to look takes as long as the database is away
                    break
                if kept is not None:
                    kept.over = True  # there was news: what was renewed before says nothing of its next beat
                cancels = await doors.lookout.cancelling(session.id)
                woken = not cancels
                if woken:  # told for another reason: it shall drain, or something it holds has run out of time
                    extended = extended if held is None else await doors.lanes.renew.put(beat)
                    break
    shape = {
        "expires_in_seconds": extended.expires_in_seconds,
        "cancel": [_shown(one.fence) | {"reason": one.reason} for one in cancels],
        "lost": [_shown(fence) for fence in extended.lost],
        "draining": extended.draining,
        "idle_wait_seconds": IDLE_WAIT_SECONDS,
    }
    return answer(shape | ({"tell_all": True} if over or (woken and held is None) else {}))


def _until(wait_seconds: float) -> float:
    """When a wait is over, by `time.monotonic`: one of seconds a moment early, together with those of others.

    Those who are answered together ask anew together: this process is woken for all of them at once.
    """
    until = time.monotonic() + wait_seconds
    return until - until % GATHER_SECONDS if wait_seconds > WAITS_LONG_SECONDS else until


def _gathered_in() -> float:
    """Seconds to the next of the moments at which beats that wait anyway are written together."""
    return GATHER_SECONDS - time.monotonic() % GATHER_SECONDS


async def _release_unnamed(doors: Doors, session: Session, held: tuple[Fence, ...]) -> None:
    """Take back what the process does not know of after two beats: the claim's answer never reached it."""
    for bucket in doors.placement.all():
        swept = await doors.run(
            expire.release_unnamed,
            bucket,
            session.id,
            held,
            older_than_seconds=2 * session.heartbeat_seconds,
            make_id=doors.ids.new,
        )
        _tell(doors, swept)


async def results(request: Request) -> Response:
    """How attempts went. Each is answered by itself, after its commit; saying it again is harmless."""
    doors = doors_of(request)
    await doors.sessions.find(request)
    form = await read_form(request, ResultsForm, doors.limits.body_bytes_max)
    _bounded(len(form.results), "body.results", 1, RESULTS_MAX)
    reports = _each(partial(_report, bytes_max=doors.limits.payload_bytes_max), form.results, "body.results")
    refused_of = await _not_own(request, reports)
    reports = [
        one if isinstance(one, ControlPlaneError) else refused_of.get(one.fence.execution_id, one) for one in reports
    ]
    answers = await put_each(doors.lanes.complete, reports)
    shown: list[shapes.Shape] = []
    ended: dict[UUID, Conclusion | None] = {}
    children = False
    refused: ControlPlaneError | None = None
    for one, report, recorded in zip(form.results, reports, answers, strict=True):
        shape: shapes.Shape = {"execution_id": one.execution_id[:WORD_MAX], "attempt": one.attempt}
        if not isinstance(recorded, ControlPlaneError) and recorded.code is ReportCode.LEASE_LOST:
            recorded = LeaseLost()  # noqa: PLW2901
        if isinstance(recorded, ControlPlaneError):
            refused = recorded
            shape |= {"http_status": status_of(recorded), "code": recorded.code, "message": recorded.detail}
        else:
            status = recorded.status
            shape |= {"http_status": 200, "code": recorded.code.value, "status": status and status.value}
            if recorded.ready is not None:
                doors.woken([recorded.ready])
            if status is not None and status.final and recorded.code is not ReportCode.ALREADY_RECORDED:
                assert isinstance(report, Report)
                ended[report.fence.execution_id] = recorded.end
                children = children or recorded.child
        shown.append(shape)
    doors.concluded(ended, children=children)
    if any(one.get("status") in MOVED for one in shown):
        doors.hints.tell(EVENTS_TOPIC)
    if refused is not None and len(shown) == 1:
        return problem(refused)
    return answer({"results": shown})


async def close(request: Request) -> Response:
    """The process leaves; what it held is available again at once."""
    doors = doors_of(request)
    id_ = SessionId(read("ses", request.path_params["session_id"], where="path/session_id"))
    form = await read_form(request, CloseForm, doors.limits.body_bytes_max)
    reason = clean(form.reason, where="body.reason", chars_max=WORD_MAX) if form.reason else "closed"
    with contextlib.suppress(SessionClosed):  # said again, here or to another replica
        await doors.sessions.find(request)
    released = 0
    for bucket in doors.placement.all():
        swept = await doors.run(expire.leave, id_, bucket, reason=reason, make_id=doors.ids.new)
        released += swept.rows
        _tell(doors, swept)
    doors.hints.tell(topic.session(id_))  # its heartbeat may be held for a while yet
    return answer({"released": released})


async def logs(request: Request) -> Response:
    """Lines and progress of attempts; best effort, but never for an attempt that lost its lease."""
    doors = doors_of(request)
    await doors.sessions.find(request)
    form = await read_form(request, LogsForm, doors.limits.body_bytes_max)
    if len(form.entries) + len(form.progress) > ENTRIES_MAX:
        raise Invalid(f"More than {ENTRIES_MAX} entries.", where="body.entries")
    entries: list[Entry | ControlPlaneError] = [
        *_each(_line, form.entries, "body.entries"),
        *_each(_progress, form.progress, "body.progress"),
    ]
    refused_of = await _not_own(request, entries)
    entries = [
        one if isinstance(one, ControlPlaneError) else refused_of.get(one.fence.execution_id, one) for one in entries
    ]
    answers = await put_each(doors.lanes.log, entries)
    lost = {
        entry.fence
        for entry, done in zip(entries, answers, strict=True)
        if isinstance(done, LeaseLost) and not isinstance(entry, ControlPlaneError)
    }
    refused = [done for done in answers if done is not None]
    dropped = len(refused)
    if dropped < len(entries):
        doors.hints.tell(EVENTS_TOPIC)
    if dropped == len(entries) == 1:
        return problem(refused[0])
    shape = {"accepted": len(entries) - dropped, "dropped": dropped, "lost": [_shown(fence) for fence in sorted(lost)]}
    return answer(shape, 202)


def _tell(doors: Doors, swept: Swept) -> None:
    for namespace, target in swept.ready:
        doors.ready(namespace, target)
    doors.ended(swept.ended)


def _each(read_one: Callable[[Said, str], Item], said: Sequence[Said], where: str) -> list[Item | ControlPlaneError]:
    """They speak for different executions: what is wrong with one must not keep the others from being heard."""
    found: list[Item | ControlPlaneError] = []
    for n, one in enumerate(said):
        try:
            found.append(read_one(one, f"{where}[{n}]"))
        except ControlPlaneError as error:
            found.append(bare(error))
    return found


async def _not_own(request: Request, said: Sequence[Spoken | ControlPlaneError]) -> dict[UUID, ControlPlaneError]:
    """The executions among these that are not the caller's to speak of."""
    return await refusals(request, {one.fence.execution_id for one in said if not isinstance(one, ControlPlaneError)})


def _fence(form: FenceForm | ResultForm | LineForm | ProgressForm, where: str) -> Fence:
    if not 1 <= form.attempt < 2**31:
        raise Invalid("A whole number from 1.", where=f"{where}.attempt")
    return Fence(read_execution(form.execution_id, where=f"{where}.execution_id"), form.attempt)


def _shown(fence: Fence) -> shapes.Shape:
    return {"execution_id": show_execution(ExecutionId(fence.execution_id)), "attempt": fence.attempt}


def _report(form: ResultForm, where: str, bytes_max: int) -> Report:
    """A report; a result that cannot be kept fails the attempt, so that it does not run for ever."""
    fence = _fence(form, where)
    try:
        result = (
            None if not bytes(form.result) else payload(form.result, where=f"{where}.result", bytes_max=bytes_max)[0]
        )
        details = bytes(form.error_details)
        kept = (
            None
            if details in (b"", b"null")
            else payload(details, where=f"{where}.error_details", bytes_max=bytes_max)[0]
        )
    except ControlPlaneError as error:
        return Report(
            fence=fence,
            verdict=Verdict.FAILED,
            error=text(f"The result cannot be kept: {error.detail}"),
            error_class="ResultInvalid",
            retryable=False,
        )
    if form.status == "waiting":
        return Report(
            fence=fence, verdict=Verdict.WAITING, waits=_waits(form.waits, where), waits_any=form.until == "any"
        )
    after = form.retry_after_seconds
    return Report(
        fence=fence,
        verdict=Verdict(form.status),
        result=result,
        error=None if form.error is None else text(form.error[:MESSAGE_MAX]),
        error_class=None if form.error_class is None else spoken(form.error_class[:WORD_MAX]),
        error_details=kept,
        traceback=None if form.traceback is None else form.traceback[:TRACEBACK_MAX],
        retryable=form.retryable,
        retry_after_seconds=None if after is None or not math.isfinite(after) else after_error(after),
    )


def _waits(names: Sequence[str], where: str) -> tuple[str, ...]:
    if not 1 <= len(names) <= WAITS_MAX:
        raise Invalid(f"From 1 to {WAITS_MAX} names of steps.", where=f"{where}.waits")
    for n, name in enumerate(names):
        clean(name, where=f"{where}.waits[{n}]", chars_max=NAME_MAX)
    return tuple(dict.fromkeys(names))


def _line(form: LineForm, where: str) -> Line:
    kept = bytes(form.attributes)
    return Line(
        fence=_fence(form, where),
        level=form.level.lower() if form.level.lower() in LEVELS else "info",
        message=spoken(form.message[:MESSAGE_MAX]),
        at=moment_of(form.ts),
        event_type=None if form.event_type is None else spoken(form.event_type[:WORD_MAX]),
        source=None if form.source is None else spoken(form.source[:WORD_MAX]),
        attributes=None
        if kept in (b"", b"null", b"{}")
        else payload(kept, where=f"{where}.attributes", bytes_max=MESSAGE_MAX * 4)[0],
    )


def moment_of(stamp: str | None) -> datetime | None:
    """A node's word for when something happened; None when it cannot be read or would not fit a calendar."""
    try:
        at = None if stamp is None else datetime.fromisoformat(stamp)
    except ValueError:
        return None
    if at is None or not 2000 <= at.year <= 2200:
        return None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at


def _progress(form: ProgressForm, where: str) -> Progress:
    fraction = form.fraction
    if fraction is not None and not (math.isfinite(fraction) and 0 <= fraction <= 1):
        raise Invalid("A number from 0 to 1.", where=f"{where}.fraction")
    for name, value in (("done", form.done), ("total", form.total)):
        if value is not None and not 0 <= value < 2**53:
            raise Invalid("A whole number from 0.", where=f"{where}.{name}")
    if fraction is None and form.done is not None and form.total:
        fraction = min(1.0, form.done / form.total)
    said = {
        "done": form.done,
        "total": form.total,
        "fraction": None if fraction is None else round(fraction, 4),
        "message": None if form.message is None else form.message[:WORD_MAX],
    }
    return Progress(fence=_fence(form, where), progress=orjson.dumps(shapes.present(said)))


def _bounded(value: float, where: str, least: float, most: float) -> float:
    if not least <= value <= most:
        raise Invalid(f"A number from {least:g} to {most:g}.", where=where)
    return value


NODE_REFUSALS = {
    400: "Malformed.",
    404: "Unknown session; open one.",
    409: "The session is closed; open a new one.",
    413: "Too large.",
    422: "Not valid.",
    503: "Try again.",
}

OPERATIONS = [
    Operation(
        scope=NODE,
        method="POST",
        path="/api/v1/nodes/{node_id}/sessions",
        handler=open_session,
        summary="Open a session for a process of a node",
        tag="leases",
        takes=OpenForm,
        answers={201: "Open.", 400: "Malformed.", 404: "Register the node first.", 413: "Too large.", 422: "Not valid."}
        | {503: "Try again."},
    ),
    Operation(
        scope=NODE,
        method="POST",
        path="/api/v1/sessions/{session_id}/lease",
        handler=lease,
        summary="Take work, waiting for it",
        tag="leases",
        takes=LeaseForm,
        answers={200: "Leases, or none in time."} | NODE_REFUSALS,
    ),
    Operation(
        scope=NODE,
        method="POST",
        path="/api/v1/sessions/{session_id}/heartbeat",
        handler=heartbeat,
        summary="Renew every lease of the session",
        tag="leases",
        takes=HeartbeatForm,
        answers={200: "Renewed; what to stop, what is lost."} | NODE_REFUSALS,
    ),
    Operation(
        scope=NODE,
        method="POST",
        path="/api/v1/sessions/{session_id}/results",
        handler=results,
        summary="Report how attempts went",
        tag="leases",
        takes=ResultsForm,
        answers={200: "An answer for each."} | NODE_REFUSALS,
    ),
    Operation(
        scope=NODE,
        method="POST",
        path="/api/v1/sessions/{session_id}/logs",
        handler=logs,
        summary="Log lines and progress of attempts",
        tag="leases",
        takes=LogsForm,
        answers={202: "Taken."} | NODE_REFUSALS,
    ),
    Operation(
        scope=NODE,
        method="POST",
        path="/api/v1/sessions/{session_id}/close",
        handler=close,
        summary="Close the session and hand everything back",
        tag="leases",
        takes=CloseForm,
        answers={200: "Closed."} | NODE_REFUSALS,
    ),
]
