"""Nodes: say what they serve, are seen, and are forgotten."""

from __future__ import annotations

import logging

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.agentfield.processes import join
from controlplane.api.audited import Noted, audited
from controlplane.api.body import read_form
from controlplane.api.described import RegisterForm, node_of
from controlplane.api.doors import caller_of, doors_of, namespace_of
from controlplane.api.operation import NODE, OPERATE, READ, Operation
from controlplane.api.shapes import answer
from controlplane.api.whose import require_node
from controlplane.domain.cap import Cap
from controlplane.domain.notice import moment
from controlplane.domain.target import is_name
from controlplane.errors import NodeNotFound
from controlplane.reads import nodes, pauses
from controlplane.reads.nodes import NodeView
from controlplane.reads.pauses import Drained
from controlplane.stages import forget_node, register
from controlplane.stages.forget_node import ForgottenNode

log = logging.getLogger(__name__)


async def register_node(request: Request) -> Response:
    """From here on the node's targets are known."""
    doors, namespace = doors_of(request), namespace_of(request)
    form = await read_form(request, RegisterForm, doors.limits.body_bytes_max)
    node = node_of(form, namespace, doors)
    require_node(request, node.id)
    shape = {"id": node.id, "status": "registered", "success": True, "reasoners": len(node.reasoners)}
    if node.base_url is None:
        bucket, ceiling = doors.placement.of_key(namespace, node.id), doors.caps.ceiling(namespace, Cap.NODES)
        await doors.run(register.register, node, bucket=bucket, ceiling=ceiling)
        await doors.registered()
        return answer(shape | {"transport": "pull", "resolved_base_url": None}, 201)
    session = await join(request, node, instance_id=form.instance_id, communication=form.communication_config)
    return answer(shape | {"transport": "push", "resolved_base_url": session.base_url}, 201)


async def list_nodes(request: Request) -> Response:
    """Every node with its live processes; without `show_all` those that have one."""
    doors, namespace = doors_of(request), namespace_of(request)
    found: list[NodeView] = []
    for bucket in doors.placement.all():
        found += await doors.run(nodes.nodes, bucket, namespace=namespace)
    show_all = request.query_params.get("show_all", "").lower() in ("1", "true", "yes")
    drained = await doors.run(pauses.drained, namespace=namespace, node_id=None, placement=doors.placement)
    shown = [shapes.node(view, drained.get(view.id, Drained())) for view in found if show_all or view.sessions]
    return answer({"nodes": shown, "count": len(shown), "filters": {"show_all": show_all}})


async def read_node(request: Request) -> Response:
    """One node, what it serves, and what keeps it from being forgotten."""
    doors, namespace, node_id = doors_of(request), namespace_of(request), _node_id(request)
    bucket = doors.placement.of_key(namespace, node_id)
    found = await doors.run(nodes.nodes, bucket, namespace=namespace, node_id=node_id)
    if not found:
        raise NodeNotFound
    drained = await doors.run(pauses.drained, namespace=namespace, node_id=node_id, placement=doors.placement)
    schemas = await doors.run(nodes.schemas, bucket, namespace=namespace, node_id=node_id)
    kept = await doors.run(
        forget_node.keeps, bucket, buckets=doors.placement.all(), namespace=namespace, node_id=node_id
    )
    served = [entry for entry in await doors.catalogue.entries(namespace) if entry.node_id == node_id]
    described = [
        shapes.present(
            shapes.reasoner(entry)
            | {
                "input_schema": shapes.raw(schemas.get(entry.target, (None, None))[0]),
                "output_schema": shapes.raw(schemas.get(entry.target, (None, None))[1]),
            }
        )
        for entry in served
    ]
    return answer(
        shapes.node(found[0], drained.get(node_id, Drained()))
        | {
            "reasoners": [one for one in described if one["type"] == "reasoner"],
            "skills": [one for one in described if one["type"] == "skill"],
        }
        | ({"kept_by": shapes.kept(kept, node_id)} if kept else {})
    )


async def forget(request: Request) -> Response:
    """One that is gone for good is not known any more, nor is what it served."""
    doors, namespace, node_id = doors_of(request), namespace_of(request), _node_id(request)
    gone = await audited(
        request,
        lambda done: Noted(kind="node", id=node_id, before=_facts(done)),
        forget_node.forget,
        doors.placement.of_key(namespace, node_id),
        buckets=doors.placement.all(),
        namespace=namespace,
        node_id=node_id,
    )
    await doors.catalogue.refresh()
    log.info("node.forgotten", extra={"node_id": node_id, "by": caller_of(request), "targets": len(gone.targets)})
    return answer({"node_id": node_id, "deleted": True, "targets": list(gone.targets)})


def _facts(gone: ForgottenNode) -> shapes.Shape:
    return {
        "transport": gone.transport,
        "version": gone.version,
        "base_url": gone.base_url,
        "registered_at": moment(gone.registered_at),
        "targets": list(gone.targets),
    }


def _node_id(request: Request) -> str:
    node_id: str = request.path_params["node_id"]
    if not is_name(node_id):
        raise NodeNotFound
    return node_id


async def list_reasoners(request: Request) -> Response:
    """Every target that is registered, and whether somebody serves it now."""
    doors, namespace = doors_of(request), namespace_of(request)
    entries = await doors.catalogue.entries(namespace)
    return answer({"items": [shapes.reasoner(entry) for entry in sorted(entries, key=lambda entry: entry.target)]})


OPERATIONS = [
    *(
        Operation(
            scope=NODE,
            method="POST",
            path=path,
            handler=register_node,
            summary="Register a node and what it serves",
            tag="nodes",
            takes=RegisterForm,
            answers={
                201: "Known from now on.",
                400: "Malformed.",
                413: "Too large.",
                422: "Not valid.",
                503: "Try again.",
            },
        )
        for path in ("/api/v1/nodes/register", "/api/v1/nodes")
    ),
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/nodes",
        handler=list_nodes,
        summary="List nodes",
        tag="nodes",
        query={"show_all": "true: also those without a live process"},
        answers={200: "The nodes.", 503: "Try again."},
    ),
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/nodes/{node_id}",
        handler=read_node,
        summary="Read one node",
        tag="nodes",
        answers={200: "The node.", 404: "Unknown.", 503: "Try again."},
    ),
    Operation(
        scope=OPERATE,
        method="DELETE",
        path="/api/v1/nodes/{node_id}",
        handler=forget,
        audit="node.forgotten",
        summary="Forget a node that is gone for good; its executions stay",
        tag="nodes",
        answers={
            200: "It is not known any more, nor are its targets.",
            404: "Unknown.",
            409: "Something needs it; what, and the next step.",
            503: "Try again.",
        },
    ),
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/reasoners",
        handler=list_reasoners,
        summary="List every known target",
        tag="nodes",
        answers={200: "The targets.", 503: "Try again."},
    ),
]
