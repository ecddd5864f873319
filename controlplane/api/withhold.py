"""Hold work back: pause and resume a reasoner, a node, everything; let the processes of a node drain."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.audited import Noted, audited
from controlplane.api.body import clean, read_form
from controlplane.api.doors import Doors, caller_of, doors_of, namespace_of
from controlplane.api.executions import query_text
from controlplane.api.operation import OPERATE, READ, Handler, Operation
from controlplane.api.paging import limit_of
from controlplane.api.shapes import Shape, answer
from controlplane.domain import target as targets
from controlplane.domain import topic
from controlplane.domain.ids import SessionId
from controlplane.domain.pause import Pause, Paused, PauseScope
from controlplane.domain.target import is_name
from controlplane.errors import NodeNotFound
from controlplane.reads import pauses
from controlplane.reads.pauses import Drained
from controlplane.stages import withhold

log = logging.getLogger(__name__)

REASON_MAX = 1_000


class WithholdForm(msgspec.Struct, forbid_unknown_fields=True):
    """`reason`: why, for those who look at it later."""

    reason: str | None = None


async def pause_reasoner(request: Request) -> Response:
    """Hand out no more work of this reasoner; what runs of it goes on."""
    return await _pause(request, await _reasoner(request))


async def resume_reasoner(request: Request) -> Response:
    return await _resume(request, await _reasoner(request))


async def pause_node(request: Request) -> Response:
    """Hand out no more work of this node, to no process that it has or will have."""
    return await _pause(request, Paused.node(_node_id(request)))


async def resume_node(request: Request) -> Response:
    return await _resume(request, Paused.node(_node_id(request)))


async def pause_all(request: Request) -> Response:
    """Hand out nothing at all."""
    return await _pause(request, Paused.all())


async def resume_all(request: Request) -> Response:
    return await _resume(request, Paused.all())


async def page(request: Request) -> Response:
    """What is paused, by whom and since when: everything first, then by node."""
    doors, limit = doors_of(request), limit_of(request)
    cursor = query_text(request, "cursor")
    node_id, _, name = (cursor or "").partition("/")
    found = await doors.run(
        pauses.page,
        namespace=namespace_of(request),
        after=None if cursor is None else (node_id, name),
        limit=limit + 1,
        placement=doors.placement,
    )
    shown = found[:limit]
    last = shown[-1].what if len(found) > limit else None
    return answer(
        {
            "items": [shapes.pause(one) for one in shown],
            "next_cursor": None if last is None else f"{last.node_id}/{last.name}",
        }
    )


async def drain(request: Request) -> Response:
    """The processes of the node that are there now take nothing new and finish what they run."""
    node_id = _node_id(request)
    reason = await _reason(request)
    told = await audited(
        request,
        lambda done: Noted(kind="node", id=node_id, after={"draining": True, "processes": len(done), "reason": reason}),
        withhold.drain,
        _bucket(request, node_id),
        namespace=namespace_of(request),
        node_id=node_id,
        reason=reason,
        asked_by=caller_of(request),
    )
    return await _drained(request, node_id, told, "node.draining")


async def undrain(request: Request) -> Response:
    """The processes of the node take work again."""
    node_id = _node_id(request)
    await _reason(request)
    told = await audited(
        request,
        lambda done: Noted(kind="node", id=node_id, after={"draining": False, "processes": len(done)}),
        withhold.undrain,
        _bucket(request, node_id),
        namespace=namespace_of(request),
        node_id=node_id,
    )
    return await _drained(request, node_id, told, "node.undrained")


async def _pause(request: Request, what: Paused) -> Response:
    doors, by = doors_of(request), caller_of(request)
    reason = await _reason(request)
    one, new = await audited(
        request,
        lambda done: _noted(what, before=None if done[1] else done[0], after=done[0]),
        withhold.pause,
        _buckets(request, what),
        what,
        namespace=namespace_of(request),
        reason=reason,
        paused_by=by,
    )
    await doors.catalogue.refresh()
    log.info("work.paused", extra={"scope": what.scope.value, "paused": what.name, "by": by, "changed": new})
    return answer(shapes.pause(one) | {"paused": True, "changed": new} | await _backlog(request, what))


async def _resume(request: Request, what: Paused) -> Response:
    doors, namespace = doors_of(request), namespace_of(request)
    await _reason(request)
    gone = await audited(
        request,
        lambda done: _noted(what, before=done, after=None),
        withhold.resume,
        _buckets(request, what),
        what,
        namespace=namespace,
    )
    await doors.catalogue.refresh()
    await _wake(doors, namespace, what)
    by = caller_of(request)
    log.info(
        "work.resumed", extra={"scope": what.scope.value, "paused": what.name, "by": by, "changed": gone is not None}
    )
    shape: Shape = shapes.paused(what) | {"paused": False, "changed": gone is not None}
    still = await doors.run(
        pauses.about, _buckets(request, what)[0], namespace=namespace, node_id=what.node_id, target=what.name
    )
    return answer(shape | {"still_paused_by": [shapes.pause(one) for one in still]} | await _backlog(request, what))


def _noted(what: Paused, *, before: Pause | None, after: Pause | None) -> Noted:
    return Noted(
        kind=what.scope.value,
        id=what.name or "*",
        before=None if before is None else shapes.pause(before),
        after=None if after is None else shapes.pause(after),
    )


async def _backlog(request: Request, what: Paused) -> Shape:
    """What waits and what runs of it now: read after the commit, so that it counts what came before."""
    doors, namespace = doors_of(request), namespace_of(request)
    found = await doors.run(
        pauses.backlog,
        namespace=namespace,
        node_id=what.node_id or None,
        target=what.name if what.scope is PauseScope.REASONER else None,
        targets=await _targets(doors, namespace, what),
        placement=doors.placement,
    )
    return {"queued": found.queued, "queued_is_more": found.queued_is_more, "running": found.running}


async def _drained(request: Request, node_id: str, told: Sequence[SessionId], event: str) -> Response:
    doors, namespace, by = doors_of(request), namespace_of(request), caller_of(request)
    for session_id in told:
        doors.hints.tell(topic.session(session_id))
        doors.hints.tell(topic.process(session_id))
    log.info(event, extra={"node_id": node_id, "by": by, "processes": len(told)})
    found = await doors.run(pauses.drained, namespace=namespace, node_id=node_id, placement=doors.placement)
    now = found.get(node_id, Drained())
    return answer(
        {"node_id": node_id, "changed": bool(told), "draining": now.processes, "draining_running": now.running}
    )


async def _wake(doors: Doors, namespace: int, what: Paused) -> None:
    for target in await _targets(doors, namespace, what):
        doors.hints.tell(topic.queue(namespace, target))


async def _targets(doors: Doors, namespace: int, what: Paused) -> Sequence[str]:
    match what.scope:
        case PauseScope.REASONER:
            return [what.name]
        case PauseScope.NODE:
            return await doors.catalogue.targets_of(namespace, what.node_id)
        case PauseScope.ALL:
            return [entry.target for entry in await doors.catalogue.entries(namespace)]


async def _reason(request: Request) -> str | None:
    form = await read_form(request, WithholdForm, doors_of(request).limits.body_bytes_max)
    return clean(form.reason, where="body.reason", chars_max=REASON_MAX) if form.reason else None


async def _reasoner(request: Request) -> Paused:
    """The reasoner in the path, which somebody has registered. Raises TargetNotFound, TargetMalformed."""
    target = str(targets.parse(request.path_params["target"]))
    entry = await doors_of(request).catalogue.find(namespace_of(request), target)
    return Paused.reasoner(entry.node_id, target)


def _node_id(request: Request) -> str:
    node_id: str = request.path_params["node_id"]
    if not is_name(node_id):
        raise NodeNotFound
    return node_id


def _bucket(request: Request, node_id: str) -> int:
    return doors_of(request).placement.of_key(namespace_of(request), node_id)


def _buckets(request: Request, what: Paused) -> Sequence[int]:
    """Where a pause lies: with its node; that of everything wherever nodes are."""
    if what.scope is PauseScope.ALL:
        return range(doors_of(request).placement.hashed)
    return [_bucket(request, what.node_id)]


def _operation(path: str, handler: Handler, summary: str, done: str, *, audit: str, tag: str = "pauses") -> Operation:
    answers = {
        200: done,
        400: "Malformed.",
        404: "Nobody has registered it.",
        413: "Too large.",
        422: "Not valid.",
        503: "Try again.",
    }
    if "{" not in path:
        del answers[404]
    return Operation(
        scope=OPERATE,
        method="POST",
        path=f"/api/v1/{path}",
        handler=handler,
        audit=audit,
        summary=summary,
        tag=tag,
        takes=WithholdForm,
        answers=answers,
    )


PAUSED = "It is paused, and so much waits and runs."
RESUMED = "It is not paused, and what else still holds it back."
OPERATIONS = [
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/pauses",
        handler=page,
        summary="List what is paused",
        tag="pauses",
        query={"limit": "1 to 200, 50 by default", "cursor": "next_cursor of the page before"},
        answers={200: "A page.", 422: "A parameter is not valid.", 503: "Try again."},
    ),
    _operation("pause", pause_all, "Pause everything", PAUSED, audit="work.paused"),
    _operation(
        "resume", resume_all, "Resume everything; what is paused by itself stays so", RESUMED, audit="work.resumed"
    ),
    _operation("reasoners/{target}/pause", pause_reasoner, "Pause a reasoner", PAUSED, audit="reasoner.paused"),
    _operation("reasoners/{target}/resume", resume_reasoner, "Resume a reasoner", RESUMED, audit="reasoner.resumed"),
    _operation(
        "nodes/{node_id}/pause",
        pause_node,
        "Pause a node, whatever processes it has or gets",
        PAUSED,
        audit="node.paused",
    ),
    _operation("nodes/{node_id}/resume", resume_node, "Resume a node", RESUMED, audit="node.resumed"),
    _operation(
        "nodes/{node_id}/drain",
        drain,
        "Let the processes that a node has now finish, and give them nothing new",
        "So many processes drain, and so much still runs in them.",
        audit="node.drained",
        tag="nodes",
    ),
    _operation(
        "nodes/{node_id}/undrain",
        undrain,
        "Give the processes of a node work again",
        "So many processes still drain.",
        audit="node.undrained",
        tag="nodes",
    ),
]
