"""Schedules: say what shall be submitted when, look at what comes next and at what became of it, pause, run now."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.audited import Noted, audited, first_seen, seeing
from controlplane.api.body import clean, read_form
from controlplane.api.doors import SCHEDULES_TOPIC, Doors, asker_of, doors_of, namespace_of
from controlplane.api.executions import (
    PRIORITY_MAX,
    TIMEOUT_MAX_SECONDS,
    bounded,
    context_of,
    input_of,
    no_node,
    query_text,
)
from controlplane.api.operation import (
    EXECUTE_OR_OPERATE,
    OPERATE,
    OPERATE_OR_NODE,
    READ,
    READ_OR_NODE,
    Handler,
    Operation,
)
from controlplane.api.paging import instant, integer, limit_of
from controlplane.api.policy import retries_of
from controlplane.api.shapes import answer
from controlplane.api.whose import as_node, require_declared
from controlplane.domain import target as targets
from controlplane.domain.cap import Cap
from controlplane.domain.ids import ExecutionId, show, show_execution
from controlplane.domain.key import KeyScope
from controlplane.domain.notice import moment
from controlplane.domain.schedule import (
    CatchUp,
    Definition,
    Overlap,
    Rule,
    Schedule,
    ScheduleId,
    declared_by,
    following,
)
from controlplane.domain.target import is_name
from controlplane.errors import Invalid, ScheduleNotFound
from controlplane.postgres.pool import Connection
from controlplane.reads import schedules
from controlplane.reads.schedules import ScheduleView, TickView
from controlplane.stages import schedule

INPUT_BYTES_MAX = 1024 * 1024
"""Input and context of a schedule, each: those of a whole pass of the scheduler are in memory at once."""
NEXT_SHOWN = 5
STANDING = frozenset({"waiting", "next_at", "last_at", "updated_at"})
NEXT_MAX = 100


P = ParamSpec("P")
Result = TypeVar("Result")


class RuleForm(msgspec.Struct, forbid_unknown_fields=True):
    """What is submitted (`target`, `input` …), when (exactly one of `cron`, `interval_seconds`, `run_at`), and how."""

    target: str
    cron: str | None = None
    interval_seconds: float | None = None
    run_at: str | None = None
    time_zone: str | None = None
    overlap: Overlap = Overlap.SKIP
    catch_up: CatchUp = CatchUp.ONE
    jitter_seconds: float = 0.0
    input: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    context: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    priority: int = 0
    retries: int | None = None
    timeout_seconds: float | None = None
    paused: bool | None = None


class ScheduleForm(RuleForm, forbid_unknown_fields=True, kw_only=True):
    name: str


class RunForm(msgspec.Struct, forbid_unknown_fields=True):
    idempotency_key: str | None = None


async def create(request: Request) -> Response:
    """A new schedule; one of this name that says the same is answered as it stands."""
    form = await read_form(request, ScheduleForm, doors_of(request).limits.body_bytes_max)
    if not is_name(form.name):
        raise Invalid("1 to 128 letters, digits, _ - or :", where="body.name")
    return await _put(request, form.name, form, replacing=False)


async def replace(request: Request) -> Response:
    """The schedule of this name is this one from here on; who says when in the same words keeps the plan."""
    name = request.path_params["name"]
    if not is_name(name):
        raise Invalid("1 to 128 letters, digits, _ - or :", where="path/name")
    form = await read_form(request, RuleForm, doors_of(request).limits.body_bytes_max)
    return await _put(request, name, form, replacing=True)


async def page(request: Request) -> Response:
    """By name, without inputs."""
    doors, namespace = doors_of(request), namespace_of(request)
    limit, cursor = limit_of(request), query_text(request, "cursor")
    views = await doors.run(
        schedules.page,
        namespace=namespace,
        after=cursor or "",
        target=query_text(request, "target"),
        limit=limit + 1,
        placement=doors.placement,
    )
    more = len(views) > limit
    shown = [view.schedule for view in views[:limit] if not as_node(request, KeyScope.READ) or _own(request, view)]
    return answer(
        {
            "items": [shapes.schedule(one) for one in shown],
            "next_cursor": views[limit - 1].schedule.name if more else None,
        }
    )


async def read(request: Request) -> Response:
    """One schedule with its input and its next five ticks."""
    return answer(_whole(await _view(request)))


async def coming(request: Request) -> Response:
    """The ticks that are planned next, without their jitter; also of a paused schedule, as if it were resumed now."""
    count = integer(request, "count", default=NEXT_SHOWN, least=1, most=NEXT_MAX)
    view = await _view(request)
    return answer({"name": view.schedule.name, "next": _next(view, count)})


async def ticks(request: Request) -> Response:
    """What became of each tick, the latest first: for 30 days."""
    doors, limit = doors_of(request), limit_of(request)
    before = instant(request.query_params.get("cursor"), "query/cursor")
    one = (await _view(request)).schedule
    found = await doors.run(schedules.ticks, _bucket(request), one.id, before=before, limit=limit + 1)
    more = len(found) > limit
    shown: list[TickView] = found[:limit]
    cursor = moment(shown[-1].planned_at) if more else None
    return answer({"items": [shapes.tick(tick) for tick in shown], "next_cursor": cursor})


async def pause(request: Request) -> Response:
    """Nothing is submitted until it is resumed; what falls into the pause is not made up for."""
    return await _turn(request, partial(schedule.pause, allow=lambda there: _allow(request, there)))


async def resume(request: Request) -> Response:
    """Go on with the next tick after now."""
    return await _turn(request, schedule.resume)


async def run(request: Request) -> Response:
    """Submit now, whatever is planned, running or paused."""
    doors, namespace = doors_of(request), namespace_of(request)
    form = await read_form(request, RunForm, doors.limits.body_bytes_max)
    key = request.headers.get("idempotency-key", form.idempotency_key)
    if key is not None:
        clean(key, where="Idempotency-Key")
    view, bucket = await _view(request), _bucket(request)
    target = view.schedule.definition.target
    entry = await doors.catalogue.find(namespace, target)
    doors.caps.enter(namespace)
    accepted, one = await audited(
        request,
        lambda done: Noted(kind="schedule", id=done[1].name, after={"execution_id": show_execution(done[0].id)}),
        schedule.run_now,
        bucket,
        ExecutionId(doors.ids.new(bucket)),
        show("run", doors.ids.new(bucket)),
        namespace=namespace,
        name=view.schedule.name,
        served=doors.catalogue.served(entry),
        target=target,
        idempotency_key=key,
    )
    if accepted.blocked_by is not None:
        doors.admission.blocked()
    elif not accepted.replayed:
        doors.ready(namespace, target)
    id_ = show_execution(accepted.id)
    shape = {
        "execution_id": id_,
        "run_id": accepted.run_id,
        "status": "queued",
        "target": target,
        "schedule": one.name,
        "created_at": moment(accepted.created_at),
        "warnings": no_node(entry) or None,
    }
    headers = {"Location": f"/api/v1/executions/{id_}", "X-Execution-ID": id_, "X-Run-ID": accepted.run_id}
    if accepted.replayed:
        headers["Idempotent-Replayed"] = "true"
    return answer(shapes.present(shape), 202, headers)


async def remove(request: Request) -> Response:
    """Forget the schedule; what it has submitted goes on."""
    name = _name(request)
    await audited(
        request,
        lambda done: _noted(name, done[0], None),
        _seeing(request, name, schedule.remove),
        _bucket(request),
        namespace=namespace_of(request),
        name=name,
    )
    return answer({"name": name, "deleted": True})


async def _put(request: Request, name: str, form: RuleForm, *, replacing: bool) -> Response:
    doors, namespace = doors_of(request), namespace_of(request)
    definition = _definition(doors, form)
    if as_node(request, KeyScope.OPERATE):
        require_declared(request, definition.target, declared_by(name, definition.target))
    entry = await doors.catalogue.find(namespace, definition.target)
    bucket = doors.placement.of_key(namespace, name)
    _, (made, new) = await audited(
        request,
        lambda done: _noted(name, first_seen(done[0], new=done[1][1]), done[1][0]),
        _seeing(request, name, schedule.put),
        bucket,
        ScheduleId(doors.ids.new(bucket)),
        definition,
        namespace=namespace,
        name=name,
        paused=form.paused,
        replacing=replacing,
        ceiling=doors.caps.ceiling(namespace, Cap.SCHEDULES),
        allow=lambda there: _allow(request, there),
    )
    doors.hints.tell(SCHEDULES_TOPIC)
    view = await doors.run(schedules.read, bucket, namespace=namespace, name=name)
    shape = shapes.schedule(made) if view is None else _whole(view)
    warnings = no_node(entry)
    return answer(shape | ({"warnings": warnings} if warnings else {}), 201 if new else 200)


async def _turn(request: Request, call: Callable[..., Awaitable[Schedule]]) -> Response:
    doors, name = doors_of(request), _name(request)
    await audited(
        request,
        lambda done: _noted(name, done[0], done[1]),
        _seeing(request, name, call),
        _bucket(request),
        namespace=namespace_of(request),
        name=name,
    )
    doors.hints.tell(SCHEDULES_TOPIC)
    return answer(_whole(await _view(request)))


def _seeing(
    request: Request, name: str, call: Callable[Concatenate[Connection, P], Awaitable[Result]]
) -> Callable[Concatenate[Connection, P], Awaitable[tuple[Schedule | None, Result]]]:
    namespace = namespace_of(request)
    bucket = doors_of(request).placement.of_key(namespace, name)
    return seeing(partial(schedule.lock, bucket=bucket, namespace=namespace, name=name), call)


def _noted(name: str, before: Schedule | None, after: Schedule | None) -> Noted:
    """Where it stands is no change of it, and what it submits is only said to be another."""
    was, now = (
        None if one is None else {word: said for word, said in shapes.schedule(one).items() if word not in STANDING}
        for one in (before, after)
    )
    if before is not None and after is not None and now is not None:
        asked, said = before.definition, after.definition
        now["input_changed"] = True if (asked.input, asked.context) != (said.input, said.context) else None
    return Noted(kind="schedule", id=name, before=was, after=now)


def _allow(request: Request, there: Schedule) -> None:
    """The caller may touch this schedule: a node's only its own. Raises: NodeNotAllowed."""
    if as_node(request, KeyScope.OPERATE):
        target = there.definition.target
        require_declared(request, target, declared_by(there.name, target))


def _own(request: Request, view: ScheduleView) -> bool:
    """Whether the code of a node that the caller speaks as declares it."""
    one = view.schedule
    node_id = declared_by(one.name, one.definition.target)
    return node_id is not None and asker_of(request).speaks_for(node_id)


def _definition(doors: Doors, form: RuleForm) -> Definition:
    bytes_max = min(INPUT_BYTES_MAX, doors.limits.payload_bytes_max)
    timeout = form.timeout_seconds
    if timeout is not None and not 0 < timeout <= TIMEOUT_MAX_SECONDS:
        raise Invalid(f"A number of seconds above 0, at most {TIMEOUT_MAX_SECONDS:g}.", where="body.timeout_seconds")
    return Definition(
        target=str(targets.parse(form.target)),
        input=input_of(form.input, bytes_max),
        context=context_of(form.context, bytes_max),
        rule=Rule(
            cron=form.cron,
            interval_seconds=form.interval_seconds,
            run_at=instant(form.run_at, "body.run_at"),
            time_zone="UTC" if form.time_zone is None else form.time_zone,
        ),
        overlap=form.overlap,
        catch_up=form.catch_up,
        jitter_seconds=form.jitter_seconds,
        priority=bounded(form.priority, "body.priority", -PRIORITY_MAX, PRIORITY_MAX),
        retries_max=None if form.retries is None else retries_of(form.retries, where="body.retries"),
        timeout_seconds=timeout,
    )


def _name(request: Request) -> str:
    name: str = request.path_params["name"]
    if not is_name(name):
        raise ScheduleNotFound
    return name


def _bucket(request: Request) -> int:
    return doors_of(request).placement.of_key(namespace_of(request), _name(request))


async def _view(request: Request) -> ScheduleView:
    view = await doors_of(request).run(
        schedules.read, _bucket(request), namespace=namespace_of(request), name=_name(request)
    )
    if view is None:
        raise ScheduleNotFound
    return view


def _whole(view: ScheduleView) -> shapes.Shape:
    return shapes.schedule(view.schedule, payloads=True) | {"next": _next(view, NEXT_SHOWN)}


def _next(view: ScheduleView, count: int) -> list[str]:
    one, rule = view.schedule, view.schedule.definition.rule
    if one.next_at is None:
        return []
    first = view.now if one.paused and rule.run_at is None else None
    after = following(rule, one.next_at if first is None else first)
    planned = after if first is not None else itertools.chain([one.next_at], after)
    return [moment(at) for at in itertools.islice(planned, count)]


KEYED = {"Idempotency-Key": "The same key again answers with the first execution, for 24 hours."}
LOOK = {404: "There is no schedule of this name.", 422: "Not valid.", 503: "Try again."}
FORM = {
    400: "The target or the body is malformed.",
    404: "No registered node has this target; `nearest` names some.",
    413: "Larger than a limit, which is named.",
    422: "The body says something that cannot be; nothing was changed.",
    503: "The database is out of reach; try again.",
}


def _one(
    method: str,
    path: str,
    handler: Handler,
    summary: str,
    done: str = "The schedule.",
    *,
    audit: str | None = None,
    scope: frozenset[KeyScope] | None = None,
) -> Operation:
    return Operation(
        scope=scope or (READ if method == "GET" else OPERATE),
        method=method,
        path=f"/api/v1/schedules/{{name}}{path}",
        handler=handler,
        audit=audit,
        summary=summary,
        tag="schedules",
        answers={200: done, **LOOK},
    )


OPERATIONS = [
    Operation(
        scope=OPERATE,
        method="POST",
        path="/api/v1/schedules",
        handler=create,
        audit="schedule.created",
        summary="Create a schedule",
        tag="schedules",
        takes=ScheduleForm,
        answers={200: "It was there already.", 201: "Created.", 409: "There is another of this name.", **FORM},
    ),
    Operation(
        scope=READ_OR_NODE,
        method="GET",
        path="/api/v1/schedules",
        handler=page,
        summary="List schedules by name",
        tag="schedules",
        query={
            "target": "Those that submit this node_id.reasoner_name",
            "limit": "1 to 200, 50 by default",
            "cursor": "next_cursor of the page before",
        },
        answers={200: "A page.", 422: "A filter is not valid.", 503: "Try again."},
    ),
    _one("GET", "", read, "Read one schedule and its next five ticks"),
    Operation(
        scope=OPERATE_OR_NODE,
        method="PUT",
        path="/api/v1/schedules/{name}",
        handler=replace,
        audit="schedule.replaced",
        summary="Create a schedule, or replace the one of this name",
        tag="schedules",
        takes=RuleForm,
        answers={200: "Replaced, or as it was.", 201: "Created.", **FORM},
    ),
    _one("DELETE", "", remove, "Delete a schedule; what it has submitted goes on", "Gone.", audit="schedule.deleted"),
    _one("GET", "/next", coming, "The ticks that are planned next", "The moments, in UTC."),
    _one("GET", "/ticks", ticks, "What became of each tick, the latest first", "A page."),
    _one("POST", "/pause", pause, "Pause a schedule", audit="schedule.paused", scope=OPERATE_OR_NODE),
    _one("POST", "/resume", resume, "Resume a schedule with its next tick after now", audit="schedule.resumed"),
    Operation(
        scope=EXECUTE_OR_OPERATE,
        method="POST",
        path="/api/v1/schedules/{name}/run",
        handler=run,
        audit="schedule.run",
        summary="Submit what a schedule submits, now",
        tag="schedules",
        takes=RunForm,
        headers=KEYED,
        answers={202: "Accepted and durable.", 400: "Malformed.", 413: "Too large.", **LOOK},
    ),
]
