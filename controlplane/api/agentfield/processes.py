"""Processes of nodes that are called: they register, send heartbeats, say goodbye. Serverless nodes are asked."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import uuid
from collections import OrderedDict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.agentfield.counted import Counted
from controlplane.api.body import clean, decode, read_form
from controlplane.api.described import Communication, read_node
from controlplane.api.doors import Doors, doors_of, namespace_of
from controlplane.api.operation import NODE, Operation
from controlplane.api.shapes import answer
from controlplane.api.whose import require_node
from controlplane.domain import topic
from controlplane.domain.cap import Cap
from controlplane.domain.ids import SessionId
from controlplane.domain.lease import Beat, Fence, Session, Transport, lease_seconds
from controlplane.domain.notice import moment
from controlplane.domain.target import is_name
from controlplane.errors import ControlPlaneError, EgressRefused, Invalid, NodeNotFound, SessionClosed
from controlplane.reads import nodes
from controlplane.stages import register
from controlplane.stages.register import Node, Process

KNOWN_MAX = 10_000
LOCALS_MAX = 50_000
HEARTBEAT_SECONDS = {"go": 120.0}
HEARTBEAT_DEFAULT_SECONDS = 30.0
"""How often a node is taken to be heard of that does not say so: AgentField's TypeScript SDK every 30 s, Go's 120 s."""

ACKNOWLEDGES = frozenset({"python", "go"})
"""SDKs that answer 202 at once and report later, whatever the reasoner."""

HEARTBEAT_MAX_SECONDS = 600.0
DRAIN_SECONDS = 30.0
DRAIN_MARGIN_SECONDS = 5.0
DRAIN_MAX_SECONDS = 3_600.0
SERVERLESS = "serverless"
SERVERLESS_LEASE_SECONDS = 10.0
"""The shortest lease of functions that we renew ourselves, once a second at best."""
INTERVAL = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(ms|s|m)")
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}


class Tags(msgspec.Struct):
    language: str | None = None
    sdk_language: str | None = None


class Deployment(msgspec.Struct):
    tags: Tags | None = None


class Sdk(msgspec.Struct):
    language: str | None = None


class Metadata(msgspec.Struct):
    deployment: Deployment | None = None
    sdk: Sdk | None = None


class HeartbeatForm(msgspec.Struct):
    """A process is alive. Its time is its own and not looked at."""

    instance_id: str | None = None


class LeaseForm(msgspec.Struct):
    """A process is alive (AgentField's Go and TypeScript SDKs)."""

    phase: str | None = None
    status: str | None = None


class ShutdownForm(msgspec.Struct):
    """A process goes, and takes so long at most to finish what it runs."""

    reason: str | None = None
    timeout_seconds: float | None = None


class ServerlessForm(msgspec.Struct):
    """Where the functions are: `/discover` and `/execute` below it."""

    invocation_url: str


class Processes:
    """What this process of ours has learnt of theirs: their sessions, and to whose attempts their own calls belong."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[tuple[int, str, str], SessionId] = OrderedDict()
        self._locals: OrderedDict[tuple[int, str], Fence] = OrderedDict()
        self.counted = Counted()

    def keep(self, session: Session) -> None:
        self._sessions[session.namespace, session.node_id, session.instance_id] = session.id
        if len(self._sessions) > KNOWN_MAX:
            self._sessions.popitem(last=False)

    def find(self, namespace: int, node_id: str, instance_id: str) -> SessionId | None:
        return self._sessions.get((namespace, node_id, instance_id))

    def forget(self, namespace: int, node_id: str, instance_id: str) -> None:
        self._sessions.pop((namespace, node_id, instance_id), None)

    def keep_local(self, namespace: int, local_id: str, owner: Fence) -> None:
        """A call inside a process, by the id that its SDK made up, belongs to this attempt."""
        self._locals[namespace, local_id] = owner
        if len(self._locals) > LOCALS_MAX:
            self._locals.popitem(last=False)

    def owner(self, namespace: int, local_id: str) -> Fence | None:
        return self._locals.get((namespace, local_id))


async def join(
    request: Request, node: Node, *, instance_id: str | None, communication: Communication | None
) -> Session:
    """Register a node and the process of it that asks. Raises Invalid, EgressRefused for its address."""
    doors = doors_of(request)
    assert node.base_url is not None
    base_url = _address(doors, node.base_url, peer=request.client.host if request.client else "", where="body.base_url")
    language = _language(node.metadata)
    heartbeat = _heartbeat_seconds(communication, language)
    process = Process(
        namespace=node.namespace,
        node_id=node.id,
        transport=Transport.PUSH,
        base_url=base_url,
        # Without an id of its own every registration is a new process: it is sent at the start of one.
        instance_id=clean(instance_id, where="body.instance_id") if instance_id else uuid.uuid4().hex,
        slots=_slots(doors, node.id),
        heartbeat_seconds=heartbeat,
        lease_seconds=lease_seconds(heartbeat_seconds=heartbeat, floor_seconds=doors.limits.push_lease_seconds),
        acknowledges=language in ACKNOWLEDGES,
        start_to_close_seconds=doors.limits.push_start_to_close_seconds if language == "python" else None,
    )
    return await _join(doors, replace(node, base_url=base_url), process)


async def register_serverless(request: Request) -> Response:
    """Ask the functions at this address what they are; from here on they are called there."""
    doors, namespace = doors_of(request), namespace_of(request)
    form = await read_form(request, ServerlessForm, doors.limits.body_bytes_max)
    url = _address(doors, form.invocation_url, peer="", where="body.invocation_url")
    try:
        node = read_node(await doors.discover(url), namespace, doors, base_url=url)
    except ControlPlaneError as error:  # what is wrong is what they answered, not what was asked
        raise Invalid(
            f"What the node says of itself is not usable: {error.detail}", where="body.invocation_url", fix=error.fix
        ) from None
    require_node(request, node.id)
    process = Process(
        namespace=namespace,
        node_id=node.id,
        transport=Transport.SERVERLESS,
        base_url=url,
        instance_id=SERVERLESS,
        slots=_slots(doors, node.id),
        heartbeat_seconds=HEARTBEAT_DEFAULT_SECONDS,
        lease_seconds=max(doors.limits.push_lease_seconds, SERVERLESS_LEASE_SECONDS),
        acknowledges=False,
        start_to_close_seconds=None,
    )
    await _join(doors, node, process)
    return answer(
        {
            "success": True,
            "message": "registered",
            "node": {"id": node.id, "version": node.version, "deployment_type": SERVERLESS, "invocation_url": url},
            "reasoners": sum(one.type == "reasoner" for one in node.reasoners),
            "skills": sum(one.type == "skill" for one in node.reasoners),
        },
        201,
    )


async def heartbeat(request: Request) -> Response:
    """The process is alive, and what it runs is its for another lease."""
    doors, namespace = doors_of(request), namespace_of(request)
    node_id = _node_id(request)
    form = await read_form(request, HeartbeatForm, doors.limits.body_bytes_max)
    await _renew(doors, namespace, node_id, form.instance_id)
    return answer({"success": True, "message": "heartbeat received", "timestamp": moment(datetime.now(UTC))})


async def renew_lease(request: Request) -> Response:
    """As a heartbeat, with the lease in the answer."""
    doors, namespace = doors_of(request), namespace_of(request)
    node_id = _node_id(request)
    await read_form(request, LeaseForm, doors.limits.body_bytes_max)
    return answer(_lease(int(await _renew_all(doors, namespace, node_id))))


async def shutdown(request: Request) -> Response:
    """A process goes: it is given nothing more, and what it does not finish in time runs elsewhere."""
    doors, namespace = doors_of(request), namespace_of(request)
    node_id = _node_id(request)
    form = await read_form(request, ShutdownForm, doors.limits.body_bytes_max)
    seconds = DRAIN_SECONDS if form.timeout_seconds is None else form.timeout_seconds
    if not 0 <= seconds <= DRAIN_MAX_SECONDS:
        raise Invalid(f"A number of seconds from 0 to {DRAIN_MAX_SECONDS:g}.", where="body.timeout_seconds")
    bucket = doors.placement.of_key(namespace, node_id)
    await doors.run(
        register.drain, bucket, namespace=namespace, node_id=node_id, seconds=seconds + DRAIN_MARGIN_SECONDS
    )
    doors.hints.tell(topic.NODES)
    return answer(_lease(0) | {"message": "shutdown acknowledged"}, 202)


async def _join(doors: Doors, node: Node, process: Process) -> Session:
    bucket = doors.placement.of_key(node.namespace, node.id)
    ceiling = doors.caps.ceiling(node.namespace, Cap.NODES)
    session = await doors.run(register.join, node, process, SessionId(doors.ids.new(bucket)), ceiling=ceiling)
    doors.processes.keep(session)
    await doors.registered()
    doors.hints.tell(topic.process(session.id))
    doors.hints.tell(topic.NODES)
    return session


async def _renew(doors: Doors, namespace: int, node_id: str, instance_id: str | None) -> None:
    """Raises NodeNotFound when nothing is known of the process: it has to register."""
    if instance_id is None:
        await _renew_all(doors, namespace, node_id)
        return
    known = doors.processes.find(namespace, node_id, clean(instance_id, where="body.instance_id"))
    if known is not None:
        try:
            await doors.lanes.renew.put(Beat(session_id=known, held=None, count=0))
            return
        except SessionClosed:
            doors.processes.forget(namespace, node_id, instance_id)
    bucket = doors.placement.of_key(namespace, node_id)
    session = await doors.run(
        register.revive,
        bucket,
        namespace=namespace,
        node_id=node_id,
        instance_id=instance_id,
        session_id=SessionId(doors.ids.new(bucket)),
    )
    if session is None:
        raise NodeNotFound
    with contextlib.suppress(SessionClosed):  # another process has taken its place: it is told nothing
        await doors.lanes.renew.put(Beat(session_id=session.id, held=None, count=0))
        doors.processes.keep(session)
        doors.hints.tell(topic.NODES)


async def _renew_all(doors: Doors, namespace: int, node_id: str) -> float:
    """Renew every process of the node, for none of them says who it is. Says for how many seconds."""
    bucket = doors.placement.of_key(namespace, node_id)
    open_ = await doors.run(nodes.processes, bucket, namespace=namespace, node_id=node_id)
    if not open_:
        raise NodeNotFound
    seconds: list[float] = []
    for id_ in open_:
        with contextlib.suppress(SessionClosed):
            extended = await doors.lanes.renew.put(Beat(session_id=id_, held=None, count=0))
            seconds.append(extended.expires_in_seconds)
    if not seconds:
        raise NodeNotFound
    return min(seconds)


def _slots(doors: Doors, node_id: str) -> int:
    return max(1, doors.limits.push_slots_of.get(node_id, doors.limits.push_slots))


def _node_id(request: Request) -> str:
    node_id: str = request.path_params["node_id"]
    if not is_name(node_id):
        raise NodeNotFound
    return node_id


def _lease(seconds: int) -> dict[str, object]:
    return {"lease_seconds": seconds, "next_lease_renewal": moment(datetime.now(UTC) + timedelta(seconds=seconds))}


def _address(doors: Doors, url: str, *, peer: str, where: str) -> str:
    """The address of a process in the one spelling that is used from here on.

    One that calls itself localhost and asks from elsewhere is where it asks from.
    """
    if "?" in url:
        raise Invalid("The address holds a query.", where=where, fix="Leave out '?' and what follows.")
    with contextlib.suppress(ValueError):  # what is no address is refused below, in words
        parts = urlsplit(url.rstrip("/")) if url.isprintable() else None
        if parts is not None and _is_loopback(parts.hostname or "") and peer and not _is_loopback(peer):
            host = f"[{peer}]" if ":" in peer else peer
            url = parts._replace(netloc=host if parts.port is None else f"{host}:{parts.port}").geturl()
    try:
        return doors.nodes_egress.check_url(url, where=where).url.rstrip("/")
    except EgressRefused as error:
        if "port" not in error.detail:
            error.fix = "Let the operator add the node's network to CONTROLPLANE_NODES_ALLOW."
        raise


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _language(metadata: bytes | None) -> str | None:
    try:
        said = decode(metadata or b"{}", Metadata)
    except ControlPlaneError:
        return None
    tags = said.deployment.tags if said.deployment else None
    known = (tags and (tags.language or tags.sdk_language)) or (said.sdk and said.sdk.language)
    return known.lower() if known else None


def _heartbeat_seconds(communication: Communication | None, language: str | None) -> float:
    said = INTERVAL.fullmatch((communication and communication.heartbeat_interval) or "")
    seconds = float(said[1]) * UNITS[said[2]] if said else 0.0
    if seconds <= 0:
        return HEARTBEAT_SECONDS.get(language or "", HEARTBEAT_DEFAULT_SECONDS)
    return min(max(seconds, 0.1), HEARTBEAT_MAX_SECONDS)


NODE_ANSWERS = {400: "Malformed.", 404: "Unknown: register.", 413: "Too large.", 422: "Not valid.", 503: "Try again."}

OPERATIONS = [
    Operation(
        scope=NODE,
        method="POST",
        path="/api/v1/nodes/{node_id}/heartbeat",
        handler=heartbeat,
        summary="A process that is called is alive",
        tag="nodes",
        takes=HeartbeatForm,
        answers={200: "Heard."} | NODE_ANSWERS,
    ),
    Operation(
        scope=NODE,
        method="PATCH",
        path="/api/v1/nodes/{node_id}/status",
        handler=renew_lease,
        summary="A process that is called is alive, with its lease in the answer",
        tag="nodes",
        takes=LeaseForm,
        answers={200: "Renewed."} | NODE_ANSWERS,
    ),
    Operation(
        scope=NODE,
        method="POST",
        path="/api/v1/nodes/{node_id}/shutdown",
        handler=shutdown,
        summary="A process that is called goes",
        tag="nodes",
        takes=ShutdownForm,
        answers={202: "It is given nothing more."} | NODE_ANSWERS,
    ),
    Operation(
        scope=NODE,
        method="POST",
        path="/api/v1/nodes/register-serverless",
        handler=register_serverless,
        summary="Register functions that exist only while they are called",
        tag="nodes",
        takes=ServerlessForm,
        answers={201: "Known from now on."} | {code: word for code, word in NODE_ANSWERS.items() if code != 404},
    ),
]
