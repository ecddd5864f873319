"""Discovery: who serves what, for agents that look for each other (`app.discover` of AgentField's SDK)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.sax.saxutils import escape, quoteattr

import orjson
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.doors import Doors, doors_of, namespace_of
from controlplane.api.operation import READ_OR_NODE, Operation
from controlplane.api.paging import words
from controlplane.api.shapes import Shape, answer
from controlplane.domain.notice import moment
from controlplane.errors import InvalidParameter
from controlplane.reads import nodes
from controlplane.reads.nodes import Entry, NodeView

LIMIT_DEFAULT = 100
LIMIT_MAX = 500
OFFSET_MAX = 1_000_000
PATTERN_MAX = 200
PATTERNS_MAX = 200

FORMATS = ("json", "compact", "xml")
TRUE = ("true", "1", "yes")
FALSE = ("false", "0", "no")
UP = ("active", "healthy", "ready")
DOWN = ("inactive", "unhealthy", "unknown", "offline", "stale")
NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Matches = Callable[[str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the query asks for. `up`: only nodes that are connected, or only those that are not."""

    node_ids: frozenset[str]
    reasoner: Matches | None
    skill: Matches | None
    tags: tuple[Matches, ...]
    up: bool | None
    input_schema: bool
    output_schema: bool
    descriptions: bool
    examples: bool
    format: str
    limit: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """A node and what of it was asked for."""

    node: NodeView
    reasoners: tuple[Entry, ...]
    skills: tuple[Entry, ...]


async def capabilities(request: Request) -> Response:
    """Nodes and what they serve; a limit and an offset count nodes, the totals all that match."""
    doors, namespace = doors_of(request), namespace_of(request)
    wanted = _wanted(request)
    found = await _found(doors, namespace, wanted)
    page = found[wanted.offset : wanted.offset + wanted.limit]
    if wanted.format == "compact":
        return answer(_compact(page))
    schemas = await _schemas(doors, namespace, page) if wanted.input_schema or wanted.output_schema else {}
    shape: Shape = {
        "discovered_at": moment(datetime.now(UTC)),
        "total_agents": len(found),
        "total_reasoners": sum(len(one.reasoners) for one in found),
        "total_skills": sum(len(one.skills) for one in found),
        "pagination": {
            "limit": wanted.limit,
            "offset": wanted.offset,
            "has_more": wanted.offset + wanted.limit < len(found),
        },
        "capabilities": [_capability(one, wanted, schemas) for one in page],
    }
    return _xml(shape) if wanted.format == "xml" else answer(shape)


async def _found(doors: Doors, namespace: int, wanted: Wanted) -> list[Capability]:
    """Every node that matches, by its id. A pattern for reasoners alone leaves the skills out, and the reverse."""
    served: dict[str, list[Entry]] = {}
    for entry in await doors.catalogue.entries(namespace):
        served.setdefault(entry.node_id, []).append(entry)
    found: list[Capability] = []
    for bucket in doors.placement.all():
        for view in await doors.run(nodes.nodes, bucket, namespace=namespace):
            if wanted.node_ids and view.id not in wanted.node_ids:
                continue
            if wanted.up is not None and wanted.up != bool(view.sessions):
                continue
            entries = served.get(view.id, [])
            one = Capability(
                node=view,
                reasoners=_matching(entries, "reasoner", wanted.reasoner, wanted.skill, wanted.tags),
                skills=_matching(entries, "skill", wanted.skill, wanted.reasoner, wanted.tags),
            )
            if one.reasoners or one.skills or not (wanted.reasoner or wanted.skill or wanted.tags):
                found.append(one)
    return sorted(found, key=lambda one: one.node.id)


def _matching(
    entries: Iterable[Entry], type_: str, name: Matches | None, other: Matches | None, tags: Sequence[Matches]
) -> tuple[Entry, ...]:
    if name is None and other is not None:
        return ()
    return tuple(
        entry
        for entry in entries
        if entry.type == type_
        and (name is None or name(entry.reasoner_id))
        and (not tags or any(matches(tag) for matches in tags for tag in entry.tags))
    )


async def _schemas(
    doors: Doors, namespace: int, page: Sequence[Capability]
) -> dict[str, tuple[bytes | None, bytes | None]]:
    """Those of one node where one is asked for, else of all: a page may hold 500."""
    if len(page) == 1:
        node_id = page[0].node.id
        bucket = doors.placement.of_key(namespace, node_id)
        return await doors.run(nodes.schemas, bucket, namespace=namespace, node_id=node_id)
    found: dict[str, tuple[bytes | None, bytes | None]] = {}
    for bucket in doors.placement.all():
        found |= await doors.run(nodes.schemas, bucket, namespace=namespace)
    return found


def _capability(one: Capability, wanted: Wanted, schemas: dict[str, tuple[bytes | None, bytes | None]]) -> Shape:
    view = one.node
    custom = _custom(view)
    return {
        "agent_id": view.id,
        "group_id": view.id,
        "base_url": view.base_url or "",
        "version": view.version,
        "health_status": "active" if view.sessions else "inactive",
        "deployment_type": "serverless" if view.transport == "serverless" else "long_running",
        "last_heartbeat": moment(view.renewed_at or view.updated_at),
        "reasoners": [_entry(entry, wanted, schemas, custom) for entry in one.reasoners],
        "skills": [_entry(entry, wanted, schemas, custom) for entry in one.skills],
    }


def _entry(entry: Entry, wanted: Wanted, schemas: dict[str, tuple[bytes | None, bytes | None]], custom: Shape) -> Shape:
    input_schema, output_schema = schemas.get(entry.target, (None, None))
    return shapes.present(
        {
            "id": entry.reasoner_id,
            "description": _description(entry, custom) if wanted.descriptions else None,
            "tags": list(entry.tags),
            "input_schema": shapes.raw(input_schema) if wanted.input_schema else None,
            "output_schema": shapes.raw(output_schema) if wanted.output_schema else None,
            "examples": _examples(entry, custom) if wanted.examples else None,
            "invocation_target": entry.target,
        }
    )


def _custom(view: NodeView) -> Shape:
    """`metadata.custom` as the SDK sends it, where that is an object."""
    metadata = orjson.loads(view.metadata) if view.metadata else None
    custom = metadata.get("custom") if isinstance(metadata, dict) else None
    return custom if isinstance(custom, dict) else {}


def _description(entry: Entry, custom: Shape) -> str | None:
    named = custom.get("descriptions")
    said = named.get(entry.reasoner_id) if isinstance(named, dict) else None
    return entry.description or (said if isinstance(said, str) and said.strip() else None)


def _examples(entry: Entry, custom: Shape) -> list[Shape] | None:
    named = custom.get("examples")
    said = named.get(entry.reasoner_id) if isinstance(named, dict) else None
    return [one for one in said if isinstance(one, dict)] or None if isinstance(said, list) else None


def _compact(page: Sequence[Capability]) -> Shape:
    def short(entry: Entry) -> Shape:
        return {
            "id": entry.reasoner_id,
            "agent_id": entry.node_id,
            "target": entry.target,
            "tags": list(entry.tags),
        }

    return {
        "discovered_at": moment(datetime.now(UTC)),
        "reasoners": [short(entry) for one in page for entry in one.reasoners],
        "skills": [short(entry) for one in page for entry in one.skills],
    }


def _xml(shape: Shape) -> Response:
    """The same as elements: what is a list becomes one element for each, what is JSON stays JSON inside of its own."""
    body = [
        '<?xml version="1.0" encoding="UTF-8"?>\n',
        _open("discovery", {name: shape[name] for name in shape if name.startswith(("discovered", "total"))}),
        _open("pagination", shape["pagination"]),
        "</pagination><capabilities>",
    ]
    for one in shape["capabilities"]:
        plain = {name: value for name, value in one.items() if isinstance(value, str)}
        body += [_open("agent", plain), "<reasoners>"]
        body += [_element("reasoner", entry) for entry in one["reasoners"]]
        body += ["</reasoners><skills>"]
        body += [_element("skill", entry) for entry in one["skills"]]
        body += ["</skills></agent>"]
    body.append("</capabilities></discovery>\n")
    return Response("".join(body).encode(), media_type="application/xml")


def _element(name: str, entry: Shape) -> str:
    parts = [_open(name, {"id": entry["id"], "invocation_target": entry["invocation_target"]})]
    if "description" in entry:
        parts.append(f"<description>{_text(entry['description'])}</description>")
    parts += ["<tags>", *(f"<tag>{_text(tag)}</tag>" for tag in entry["tags"]), "</tags>"]
    for part in ("input_schema", "output_schema", "examples"):
        if part in entry:
            parts.append(f"<{part}>{_text(orjson.dumps(entry[part]).decode())}</{part}>")
    return "".join([*parts, f"</{name}>"])


def _open(name: str, attributes: Shape) -> str:
    said = "".join(f" {key}={quoteattr(_fit(_word(value)))}" for key, value in attributes.items())
    return f"<{name}{said}>"


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _text(value: str) -> str:
    return escape(_fit(value))


def _fit(text: str) -> str:
    """Without what XML 1.0 has no way to write."""
    return NOT_IN_XML.sub("\ufffd", text)


def _wanted(request: Request) -> Wanted:
    ask = request.query_params.get
    format_ = ask("format", "json").strip().lower() or "json"
    if format_ not in FORMATS:
        raise _unfit("format", f"One of {', '.join(FORMATS)}.")
    health = ask("health_status", "").strip().lower()
    if health and health not in UP + DOWN:
        raise _unfit("health_status", f"One of {', '.join(UP + DOWN)}.")
    return Wanted(
        node_ids=frozenset(
            one.strip() for name in ("agent", "node_id", "agent_ids", "node_ids") for one in _list(request, name)
        ),
        reasoner=_pattern(ask("reasoner"), "reasoner"),
        skill=_pattern(ask("skill"), "skill"),
        tags=tuple(one for tag in _list(request, "tags") if (one := _pattern(tag, "tags")) is not None),
        up=None if not health else health in UP,
        input_schema=_flag(request, "include_input_schema", default=False),
        output_schema=_flag(request, "include_output_schema", default=False),
        descriptions=_flag(request, "include_descriptions", default=True),
        examples=_flag(request, "include_examples", default=False),
        format=format_,
        limit=_whole(request, "limit", default=LIMIT_DEFAULT, most=LIMIT_MAX),
        offset=_whole(request, "offset", default=0, most=OFFSET_MAX),
    )


def _list(request: Request, name: str) -> list[str]:
    found = [one for one in (word.strip() for word in words(request, name)) if one]
    if len(found) > PATTERNS_MAX:
        raise _unfit(name, f"At most {PATTERNS_MAX}.")
    return found


def _pattern(text: str | None, name: str) -> Matches | None:
    """A name, or one with `*` for anything in it; nothing and a bare `*` match all."""
    said = (text or "").strip()
    if not said or said == "*":
        return None
    if len(said) > PATTERN_MAX:
        raise _unfit(name, f"At most {PATTERN_MAX} characters.")
    parts = said.split("*")
    return lambda word: _is_like(word, parts)


def _is_like(word: str, parts: Sequence[str]) -> bool:
    """Whether the parts stand in the word in their order, the first at its beginning and the last at its end.

    Not by a regular expression, which many stars would keep busy for ever.
    """
    if len(parts) == 1:
        return word == parts[0]
    if not word.startswith(parts[0]):
        return False
    at = len(parts[0])
    for part in parts[1:-1]:
        at = word.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return word.endswith(parts[-1]) and len(word) - len(parts[-1]) >= at


def _flag(request: Request, name: str, *, default: bool) -> bool:
    said = request.query_params.get(name, "").strip().lower()
    if said and said not in TRUE + FALSE:
        raise _unfit(name, "true or false.")
    return said in TRUE if said else default


def _whole(request: Request, name: str, *, default: int, most: int) -> int:
    said = request.query_params.get(name, "").strip()
    if not said:
        return default
    if not (said.isascii() and said.isdigit() and len(said) < 20 and int(said) <= most):
        raise _unfit(name, f"A whole number from 0 to {most}.")
    return int(said)


def _unfit(name: str, wanted: str) -> InvalidParameter:
    return InvalidParameter(f"`{name}`: {wanted}", where=f"query/{name}", parameter=name)


OPERATIONS = [
    Operation(
        scope=READ_OR_NODE,
        method="GET",
        path="/api/v1/discovery/capabilities",
        handler=capabilities,
        summary="Find nodes and what they serve",
        tag="discovery",
        query={
            "agent": "Only this node (also node_id)",
            "node_id": "Only this node",
            "agent_ids": "Only these nodes, comma-separated (also node_ids)",
            "node_ids": "Only these nodes, comma-separated",
            "reasoner": "Reasoners of this name; * stands for anything",
            "skill": "Skills of this name; * stands for anything",
            "tags": "Only with one of these, comma-separated; * stands for anything",
            "include_input_schema": "true: with input schemas",
            "include_output_schema": "true: with output schemas",
            "include_descriptions": "false: without descriptions",
            "include_examples": "true: with examples",
            "format": "json, compact or xml",
            "health_status": "active: connected nodes; inactive: those that are not",
            "limit": "Nodes on a page, 0 to 500, 100 by default",
            "offset": "Nodes to leave out, 0 to 1000000",
        },
        answers={200: "What there is.", 400: "A parameter is not valid; `parameter` names it.", 503: "Try again."},
    )
]
