"""Approvals in AgentField's shape: an attempt asks people, their answer comes in, and a parent says that it waits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.audited import audited
from controlplane.api.body import clean, decode, payload, read_body, read_form, spoken
from controlplane.api.doors import CALLER, EVENTS_TOPIC, Doors, asker_of, doors_of, namespace_of
from controlplane.api.links import decided, linked
from controlplane.api.operation import NODE, OPERATE, READ_OR_NODE, Operation
from controlplane.api.shapes import answer
from controlplane.api.whose import refusals
from controlplane.domain.approval import Approval, Decision, decision_of
from controlplane.domain.ids import ExecutionId, bucket_of, read_execution, read_fenced, show_execution
from controlplane.domain.key import KeyScope
from controlplane.domain.target import is_name
from controlplane.errors import (
    Conflict,
    ExecutionNotFound,
    Invalid,
    NoApprovalRequest,
    NodeNotAllowed,
    NodeNotFound,
    NotItsNode,
    Unauthorized,
)
from controlplane.reads import approvals, executions, keys
from controlplane.security.egress import URL_CHARS_MAX
from controlplane.security.signature import verify_approval
from controlplane.stages import approve, wait
from controlplane.stages.approve import Answered, Question

SIGNED_PATH = "/api/v1/webhooks/approval-response"
"""Open to whoever knows the secret of approvals, when there is one."""

SIGNATURE_HEADERS = ("x-hax-signature", "x-webhook-signature", "x-hub-signature-256")
EXPIRES_HOURS = 72.0
EXPIRES_HOURS_MAX = 10 * 365 * 24.0
FEEDBACK_CHARS_MAX = 65_536
RESPONSE_BYTES_MAX = 1_048_576
SIGNED_BYTES_MAX = 2 * RESPONSE_BYTES_MAX
"""The largest body that is read of somebody who has no key, before the signature is known to be right."""

MESSAGE_CHARS_MAX = 1_000
SAME_REQUEST_MAX = 100
"""How many executions may wait for one and the same request."""


class AskForm(msgspec.Struct):
    """What is to be approved: its id and page on whatever service shows it, and where to tell of the decision."""

    approval_request_id: str
    approval_request_url: str | None = None
    callback_url: str | None = None
    expires_in_hours: float | None = None


class DecisionForm(msgspec.Struct):
    """A decision: approved, rejected, request_changes or expired."""

    decision: str
    approval_request_id: str | None = None
    feedback: str | None = None
    response: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class EnvelopeData(msgspec.Struct, rename="camel"):
    """`response` is an object with `decision` or `action`, perhaps `feedback`, and whatever the form asked."""

    request_id: str | None = None
    response: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class HearForm(msgspec.Struct, rename="camel"):
    """A decision on a request: flat, or in `data` of an envelope. Unknown fields are left alone.

    `namespace`: where it was asked, for who comes without a key and where several have asked under this id.
    """

    request_id: str | None = None
    decision: str | None = None
    feedback: str | None = None
    response: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    data: EnvelopeData | None = None
    namespace: str | None = None


class Said(msgspec.Struct):
    """What an envelope's `response` says for us."""

    decision: str | None = None
    action: str | None = None
    feedback: str | None = None


class AwaiterForm(msgspec.Struct):
    """The child that an execution awaits has begun (`waiting`) or ceased (`running`) to wait."""

    status: Literal["waiting", "running"]
    reason: str | None = None


async def ask(request: Request) -> Response:
    """The execution waits until people have decided; asked again it is the same question."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_, attempt = read_fenced(request.path_params["execution_id"], where="path/execution_id")
    form = await read_form(request, AskForm, doors.limits.body_bytes_max)
    url = form.approval_request_url
    question = Question(
        execution_id=id_,
        attempt=attempt,
        namespace=namespace,
        node_id=_node(request),
        request_id=clean(form.approval_request_id, where="body.approval_request_id"),
        url=clean(url, where="body.approval_request_url", chars_max=URL_CHARS_MAX) if url else None,
        callback_url=doors.nodes_egress.check_url(form.callback_url, where="body.callback_url").url
        if form.callback_url
        else None,
        expires_seconds=_hours(form.expires_in_hours) * 3600,
    )
    await _require_own(request, id_)
    asked = await doors.run(approve.ask, question, make_id=doors.ids.new)
    doors.due()
    return answer(shapes.approval(asked) | {"approval_request_url": asked.url or ""})


async def read(request: Request) -> Response:
    """What the execution waits for, or what it asked last."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_, _ = read_fenced(request.path_params["execution_id"], where="path/execution_id")
    node_id = _node(request)
    found = await doors.run(approvals.latest, bucket_of(id_), id_, namespace=namespace)
    await _require_own(request, id_)
    if found is None:
        known = await doors.run(executions.read, [id_], namespace=namespace)
        raise NoApprovalRequest if known else ExecutionNotFound
    if node_id not in (None, found.node_id):
        raise NotItsNode
    return answer(shapes.approval(linked(doors, found)))


async def hear(request: Request) -> Response:
    """People have decided on a request: whoever waits for it goes on. Said again it changes nothing."""
    doors = doors_of(request)
    if doors.approval_secret is not None and not any(name in request.headers for name in SIGNATURE_HEADERS):
        raise _unsigned()
    raw = await read_body(request, min(SIGNED_BYTES_MAX, doors.limits.body_bytes_max))
    _check_signature(request, doors, raw)
    form = decode(raw or b"{}", HearForm)
    request_id, decision, feedback, response = _heard(form)
    namespace, found = await _asked(request, doors, request_id, form.namespace)
    waiting = [one for one in found if one.status is Decision.PENDING]
    ids = [one.execution_id for one in waiting or found[:1]]
    answers = [
        await _decide(request, id_, namespace, request_id, decision, feedback, response, all_ids=ids) for id_ in ids
    ]
    shape = _shape(answers[0])
    if len(answers) > 1:
        shape["execution_ids"] = [show_execution(one.approval.execution_id) for one in answers]
    return answer(shape)


async def _asked(request: Request, doors: Doors, request_id: str, named: str | None) -> tuple[int, list[Approval]]:
    """Who has asked under this id, and in which namespace: the key's, or for who only signs the one where it was asked.

    Raises: NoApprovalRequest; Conflict where several namespaces have asked and none is named.
    """
    if named is not None:
        one = await doors.run(keys.namespace, clean(named, where="body.namespace"))
        there = [] if one is None else [one.id]
    else:
        there = await doors.run(keys.namespace_ids)
    if CALLER in request.scope:
        there = [one for one in there if one == namespace_of(request)]
    found = await doors.run(
        approvals.of_request, request_id, namespaces=there, limit=SAME_REQUEST_MAX, placement=doors.placement
    )
    places = {namespace for namespace, _ in found}
    if not places:
        raise NoApprovalRequest
    if len(places) > 1:  # also of those that are decided: what is said again must not decide another
        raise Conflict(
            "Several namespaces have asked under this id.", where="body.namespace", fix="Name one: `namespace`."
        )
    [place] = places
    return place, [one for namespace, one in found if namespace == place]


async def decide(request: Request) -> Response:
    """People have decided on what this execution waits for."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_ = read_execution(request.path_params["execution_id"].partition("~")[0], where="path/execution_id")
    form = await read_form(request, DecisionForm, doors.limits.body_bytes_max)
    request_id = form.approval_request_id
    if request_id is not None:
        clean(request_id, where="body.approval_request_id")
    answered = await _decide(
        request,
        id_,
        namespace,
        request_id,
        _decision(form.decision, "body.decision"),
        _feedback(form.feedback, "body.feedback"),
        _response(form.response, "body.response"),
    )
    return answer(_shape(answered))


async def awaiter(request: Request) -> Response:
    """An execution shows that it waits because a child of it does; so do its own parents, up to the root."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_, attempt = read_fenced(request.path_params["execution_id"], where="path/execution_id")
    form = await read_form(request, AwaiterForm, doors.limits.body_bytes_max)
    await _require_own(request, id_)
    heard = await doors.run(
        wait.hear,
        id_,
        namespace=namespace,
        node_id=_node(request),
        attempt=attempt,
        waits=form.status == "waiting",
        message=None if form.reason is None else spoken(form.reason[:MESSAGE_CHARS_MAX]),
    )
    if heard.applied:
        doors.hints.tell(EVENTS_TOPIC)
    return answer({"execution_id": show_execution(id_), "status": heard.status.value, "applied": heard.applied})


async def _decide(
    request: Request,
    id_: ExecutionId,
    namespace: int,
    request_id: str | None,
    decision: Decision,
    feedback: str | None,
    response: bytes | None,
    *,
    all_ids: Sequence[ExecutionId] | None = None,
) -> Answered:
    """With `all_ids` it is one of several that are decided together, of which the first says so in the audit log."""
    doors = doors_of(request)
    ids = [id_] if all_ids is None else all_ids
    decide_it = partial(
        approve.decide,
        id_=id_,
        namespace=namespace,
        request_id=request_id,
        decision=decision,
        feedback=feedback,
        response=response,
        make_id=doors.ids.new,
    )
    if id_ == ids[0]:
        answered = await audited(request, lambda done: decided(done, ids, namespace), decide_it)
    else:
        answered = await doors.run(decide_it)
    if answered.processed:
        doors.woken(answered.ready)
        doors.due()
    return answered


def _shape(answered: Answered) -> shapes.Shape:
    approval = shapes.approval(answered.approval)
    return approval | {
        "status": "processed" if answered.processed else "already_processed",
        "decision": answered.approval.status.value,
        "new_status": answered.status.value,
    }


def _check_signature(request: Request, doors: Doors, raw: bytes) -> None:
    """With a secret nobody is heard without a signature, not even with a key. Raises: Unauthorized."""
    secret, headers = doors.approval_secret, request.headers
    if secret is not None and not verify_approval(
        secret,
        raw,
        hax=headers.get("x-hax-signature"),
        webhook=headers.get("x-webhook-signature"),
        hub=headers.get("x-hub-signature-256"),
    ):
        raise _unsigned()


def _unsigned() -> Unauthorized:
    return Unauthorized(
        "The signature of this body is missing, wrong or too old.",
        fix="Sign the body with CONTROLPLANE_APPROVAL_SECRET: X-Hax-Signature, X-Webhook-Signature or"
        " X-Hub-Signature-256.",
    )


def _heard(form: HearForm) -> tuple[str, Decision, str | None, bytes | None]:
    """Request, decision, feedback and response of either form."""
    if form.data is None:
        return (
            clean(form.request_id or "", where="body.requestId"),
            _decision(form.decision or "", "body.decision"),
            _feedback(form.feedback, "body.feedback"),
            _response(form.response, "body.response"),
        )
    where = "body.data.response"
    response = _response(form.data.response, where)
    said = decode(response or b"{}", Said)
    return (
        clean(form.data.request_id or form.request_id or "", where="body.data.requestId"),
        _decision(said.decision or said.action or form.decision or "", f"{where}.decision"),
        _feedback(said.feedback or form.feedback, f"{where}.feedback"),
        response,
    )


def _decision(word: str, where: str) -> Decision:
    found = decision_of(word)
    if found is None:
        raise Invalid("One of approved, rejected, request_changes, expired.", where=where)
    return found


def _feedback(words: str | None, where: str) -> str | None:
    if words is not None and len(words) > FEEDBACK_CHARS_MAX:
        raise Invalid(f"Longer than {FEEDBACK_CHARS_MAX} characters.", where=where)
    return spoken(words) if words else None


def _response(raw: msgspec.Raw, where: str) -> bytes | None:
    return None if bytes(raw) in (b"", b"null") else payload(raw, where=where, bytes_max=RESPONSE_BYTES_MAX)[0]


def _hours(said: float | None) -> float:
    """None, or a time that is over already, is the usual time."""
    if said is None or said <= 0:
        return EXPIRES_HOURS
    if not math.isfinite(said) or said > EXPIRES_HOURS_MAX:
        raise Invalid(f"At most {EXPIRES_HOURS_MAX:g} hours.", where="body.expires_in_hours")
    return said


async def _require_own(request: Request, id_: ExecutionId) -> None:
    """A key that speaks for single nodes speaks for theirs. Raises: NodeNotAllowed; of other namespaces say others."""
    if KeyScope.READ in asker_of(request).scopes and request.method == "GET":
        return
    refused = (await refusals(request, [id_])).get(id_)
    if isinstance(refused, NodeNotAllowed):
        raise refused


def _node(request: Request) -> str | None:
    """The node in whose name somebody speaks, where the path says one. Raises: NodeNotFound."""
    node_id: str | None = request.path_params.get("node_id")
    if node_id is not None and not is_name(node_id):
        raise NodeNotFound
    return node_id


PREFIXES = ("/api/v1/agents/{node_id}/executions/{execution_id}", "/api/v1/executions/{execution_id}")
REFUSALS = {400: "Malformed.", 404: "Unknown.", 413: "Too large.", 422: "Not valid.", 503: "Try again."}
OWN_REFUSALS = REFUSALS | {403: "The execution belongs to another node."}

OPERATIONS = [
    *(
        Operation(
            scope=NODE,
            method="POST",
            path=f"{prefix}/request-approval",
            handler=ask,
            summary="Wait for people to approve",
            tag="approvals",
            takes=AskForm,
            answers={
                200: "It waits; or, with the decision, it was decided before.",
                409: "The attempt has lost its lease, the execution has ended, or another approval is pending.",
            }
            | OWN_REFUSALS,
        )
        for prefix in PREFIXES
    ),
    *(
        Operation(
            scope=READ_OR_NODE,
            method="GET",
            path=f"{prefix}/approval-status",
            handler=read,
            summary="What an execution asked people, and their answer",
            tag="approvals",
            answers={
                200: "The pending request, or the last one.",
                403: "The execution belongs to another node.",
                404: "Unknown, or nothing was asked.",
                422: "Not an id.",
                503: "Try again.",
            },
        )
        for prefix in PREFIXES
    ),
    Operation(
        scope=OPERATE,
        method="POST",
        path=SIGNED_PATH,
        handler=hear,
        audit="approval.decided",
        summary="Decide on a request, as a webhook of whatever service asked",
        tag="approvals",
        takes=HearForm,
        headers={
            "X-Hax-Signature": "t=…,v1=…: HMAC-SHA256 of `t.body` in hex, at most five minutes old.",
            "X-Webhook-Signature": "HMAC-SHA256 of the body in hex, perhaps after `sha256=`.",
            "X-Hub-Signature-256": "sha256= and the HMAC-SHA256 of the body in hex.",
        },
        answers={
            200: "Processed, or it was decided before.",
            409: "The execution is being cancelled.",
        }
        | REFUSALS,
    ),
    Operation(
        scope=OPERATE,
        method="POST",
        path="/api/v1/executions/{execution_id}/approval-response",
        handler=decide,
        audit="approval.decided",
        summary="Decide on what an execution waits for",
        tag="approvals",
        takes=DecisionForm,
        answers={200: "Processed, or it was decided before.", 409: "The execution is being cancelled."} | REFUSALS,
    ),
    Operation(
        scope=NODE,
        method="POST",
        path="/api/v1/agents/{node_id}/executions/{execution_id}/awaiter-status",
        handler=awaiter,
        summary="Say that a child waits, or goes on",
        tag="approvals",
        takes=AwaiterForm,
        answers={200: "What the execution shows, and whether that moved it.", 409: "The attempt has lost its lease."}
        | OWN_REFUSALS,
    ),
]
