"""Nodes: say what they serve, and are seen."""

from __future__ import annotations

import math

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.body import clean, payload, read_form, spoken
from controlplane.api.doors import Doors, doors_of, namespace_of
from controlplane.api.operation import Operation
from controlplane.api.shapes import answer
from controlplane.domain.retry import RetryPolicy
from controlplane.domain.target import Target, is_name
from controlplane.errors import Invalid, NodeNotFound
from controlplane.reads import nodes
from controlplane.reads.nodes import NodeView
from controlplane.stages import register
from controlplane.stages.register import Node, Reasoner

REASONERS_MAX = 1_000
TAGS_MAX = 50
SECONDS_MAX = 10 * 365 * 86_400.0
RETRIES_MAX = 1_000
DESCRIPTION_MAX = 10_000


class ReasonerForm(msgspec.Struct):
    """A function that the node serves, and how often and how soon a failure of it is tried again."""

    id: str
    description: str | None = None
    tags: list[str] | None = None
    input_schema: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    output_schema: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    retries: int = 0
    retry_delay_seconds: float = 5.0
    retry_factor: float = 2.0
    retry_cap_seconds: float = 300.0
    timeout_seconds: float | None = None


class RegisterForm(msgspec.Struct):
    """A node. Unknown fields are left alone: AgentField's SDKs send many."""

    id: str
    version: str = "1.0.0"
    transport: str | None = None
    base_url: str | None = None
    reasoners: list[ReasonerForm] = []
    skills: list[ReasonerForm] = []
    metadata: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


async def register_node(request: Request) -> Response:
    """From here on the node's targets are known."""
    doors, namespace = doors_of(request), namespace_of(request)
    form = await read_form(request, RegisterForm, doors.limits.body_bytes_max)
    if form.transport not in (None, "pull") or (form.transport is None and form.base_url):
        raise Invalid(
            "Only nodes that fetch their work (`transport: pull`) are served here.",
            where="body.transport",
            fix="Use the controlplane SDK, or open sessions and lease over HTTP.",
        )
    node = _node(form, namespace, doors)
    bucket = doors.placement.of_key(namespace, node.id)
    await doors.run(register.register, node, bucket=bucket)
    await doors.catalogue.refresh()
    shape = {"id": node.id, "status": "registered", "reasoners": len(node.reasoners), "resolved_base_url": None}
    return answer(shape, 201)


async def list_nodes(request: Request) -> Response:
    """Every node with its live processes; without `show_all` those that have one."""
    doors, namespace = doors_of(request), namespace_of(request)
    found: list[NodeView] = []
    for bucket in doors.placement.all():
        found += await doors.run(nodes.nodes, bucket, namespace=namespace)
    show_all = request.query_params.get("show_all", "").lower() in ("1", "true", "yes")
    shown = [shapes.node(view) for view in found if show_all or view.sessions]
    return answer({"nodes": shown, "count": len(shown), "filters": {"show_all": show_all}})


async def read_node(request: Request) -> Response:
    """One node and what it serves."""
    doors, namespace = doors_of(request), namespace_of(request)
    node_id = request.path_params["node_id"]
    if not is_name(node_id):
        raise NodeNotFound
    bucket = doors.placement.of_key(namespace, node_id)
    found = await doors.run(nodes.nodes, bucket, namespace=namespace, node_id=node_id)
    if not found:
        raise NodeNotFound
    schemas = await doors.run(nodes.schemas, bucket, namespace=namespace, node_id=node_id)
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
        shapes.node(found[0])
        | {
            "reasoners": [one for one in described if one["type"] == "reasoner"],
            "skills": [one for one in described if one["type"] == "skill"],
        }
    )


async def list_reasoners(request: Request) -> Response:
    """Every target that was ever registered, and whether somebody serves it now."""
    doors, namespace = doors_of(request), namespace_of(request)
    entries = await doors.catalogue.entries(namespace)
    return answer({"items": [shapes.reasoner(entry) for entry in sorted(entries, key=lambda entry: entry.target)]})


def _node(form: RegisterForm, namespace: int, doors: Doors) -> Node:
    _name(form.id, "body.id")
    if len(form.reasoners) + len(form.skills) > REASONERS_MAX:
        raise Invalid(f"More than {REASONERS_MAX} reasoners and skills.", where="body.reasoners")
    limit = doors.limits.payload_bytes_max
    served = [
        _reasoner(one, form.id, "reasoner", f"body.reasoners[{n}]", limit) for n, one in enumerate(form.reasoners)
    ]
    served += [_reasoner(one, form.id, "skill", f"body.skills[{n}]", limit) for n, one in enumerate(form.skills)]
    if len({one.target for one in served}) < len(served):
        raise Invalid("Two reasoners or skills have the same name.", where="body.reasoners")
    return Node(
        namespace=namespace,
        id=form.id,
        transport="pull",
        version=clean(form.version, where="body.version"),
        base_url=None,
        metadata=_optional(form.metadata, "body.metadata", limit),
        reasoners=served,
    )


def _reasoner(form: ReasonerForm, node_id: str, type_: str, where: str, bytes_max: int) -> Reasoner:
    _name(form.id, f"{where}.id")
    if not 0 <= form.retries <= RETRIES_MAX:
        raise Invalid(f"A whole number from 0 to {RETRIES_MAX}.", where=f"{where}.retries")
    tags = form.tags or []
    if len(tags) > TAGS_MAX:
        raise Invalid(f"More than {TAGS_MAX} tags.", where=f"{where}.tags")
    return Reasoner(
        target=str(Target(node_id, form.id)),
        reasoner_id=form.id,
        type=type_,
        description=None if form.description is None else spoken(form.description[:DESCRIPTION_MAX]),
        tags=tuple(clean(tag, where=f"{where}.tags") for tag in tags),
        input_schema=_optional(form.input_schema, f"{where}.input_schema", bytes_max),
        output_schema=_optional(form.output_schema, f"{where}.output_schema", bytes_max),
        retry=RetryPolicy(
            retries_max=form.retries,
            delay_seconds=_within(form.retry_delay_seconds, 0, f"{where}.retry_delay_seconds"),
            factor=_within(form.retry_factor, 1, f"{where}.retry_factor"),
            cap_seconds=_within(form.retry_cap_seconds, 0, f"{where}.retry_cap_seconds"),
        ),
        timeout_seconds=None
        if form.timeout_seconds is None
        else _within(form.timeout_seconds, 0.001, f"{where}.timeout_seconds"),
    )


def _name(text: str, where: str) -> None:
    if not is_name(text):
        raise Invalid("1 to 128 letters, digits, _ - or :, beginning with a letter, a digit or _.", where=where)


def _within(value: float, least: float, where: str) -> float:
    if not (math.isfinite(value) and least <= value <= SECONDS_MAX):
        raise Invalid(f"A number from {least:g} to {SECONDS_MAX:g}.", where=where)
    return value


def _optional(raw: msgspec.Raw, where: str, bytes_max: int) -> bytes | None:
    return None if bytes(raw) in (b"", b"null") else payload(raw, where=where, bytes_max=bytes_max)[0]


OPERATIONS = [
    *(
        Operation(
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
        method="GET",
        path="/api/v1/nodes",
        handler=list_nodes,
        summary="List nodes",
        tag="nodes",
        query={"show_all": "true: also those without a live process"},
        answers={200: "The nodes.", 503: "Try again."},
    ),
    Operation(
        method="GET",
        path="/api/v1/nodes/{node_id}",
        handler=read_node,
        summary="Read one node",
        tag="nodes",
        answers={200: "The node.", 404: "Unknown.", 503: "Try again."},
    ),
    Operation(
        method="GET",
        path="/api/v1/reasoners",
        handler=list_reasoners,
        summary="List every known target",
        tag="nodes",
        answers={200: "The targets.", 503: "Try again."},
    ),
]
