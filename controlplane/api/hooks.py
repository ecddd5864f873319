"""The way in for outside senders: `POST /hooks/{slug}`, open to whoever signs as the trigger says.

Nothing is answered with a 2xx before it is in the database, and to who is not known it is not even said whether there
is such a trigger.
"""

from __future__ import annotations

import json
import logging

import orjson
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import incoming
from controlplane.api.body import read_body
from controlplane.api.doors import Doors, doors_of
from controlplane.api.operation import OPEN, Operation
from controlplane.api.shapes import answer, present
from controlplane.domain.execution import Submission
from controlplane.domain.ids import ExecutionId, show, show_execution
from controlplane.domain.retry import RetryPolicy
from controlplane.domain.schedule import Served
from controlplane.domain.trigger import (
    PRESETS,
    Incoming,
    Outcome,
    Preset,
    Taken,
    Trigger,
    TriggerEventId,
    read_slug,
    sealed_for,
)
from controlplane.errors import (
    ControlPlaneError,
    NamespaceFull,
    TargetNotFound,
    TriggerNotFound,
    Unauthorized,
    Unavailable,
)
from controlplane.reads import triggers
from controlplane.reads.triggers import TriggerView
from controlplane.security.incoming import Headers, refused
from controlplane.security.secrets import SealBroken
from controlplane.stages import trigger

log = logging.getLogger(__name__)

PREFIX = "/hooks/"
BODY_BYTES_MAX = 5 * 1024 * 1024
"""The largest body that is read of somebody who has no key; `body_bytes_max` where that is less."""
NOBODY = "nobody"
"""What a request for no trigger is compared with: it takes as long, and is never right."""


async def hear(request: Request) -> Response:
    """One event. Sent again, it is answered with what became of it the first time; nothing is done twice."""
    doors = doors_of(request)
    body = await read_body(request, min(BODY_BYTES_MAX, doors.limits.body_bytes_max))
    headers = incoming.headers_of(request)
    view, bucket = await _known(doors, request.path_params["slug"], body, headers)
    one = view.trigger
    event, why = incoming.read(body, headers)
    challenge = _challenge(one, event)
    if challenge is not None:
        return answer({"challenge": challenge})
    try:
        taken = await _take(doors, bucket, one, body, event, why, headers)
    except TriggerNotFound:  # removed in this very moment
        raise _unknown() from None
    _log(one, taken)
    if taken.blocked:
        doors.admission.blocked()
    elif taken.began:
        doors.ready(one.namespace, one.definition.target)
    shape = {
        "trigger_event_id": show("tev", taken.id),
        "outcome": taken.outcome.value,
        "execution_id": None if taken.execution_id is None else show_execution(taken.execution_id),
        "reason": taken.reason,
        "duplicate": taken.duplicate,
    }
    return answer(present(shape), 202 if taken.execution_id is not None and not taken.duplicate else 200)


def secrets_of(doors: Doors, view: TriggerView) -> list[str]:
    """The secrets that count now, the newest first. Raises Unavailable when they cannot be opened."""
    one = view.trigger
    sealed = [one.secret_sealed]
    if one.previous_sealed is not None and one.previous_until is not None and one.previous_until > view.now:
        sealed.append(one.previous_sealed)
    try:
        return [doors.keyring.open(part, bound_to=sealed_for(one.id)).decode() for part in sealed]
    except SealBroken as error:
        log.error("trigger.sealed", extra={"trigger": one.name, "error": str(error)})
        raise Unavailable("The secret cannot be opened: its key is not on the ring.") from None


async def submission_of(
    doors: Doors, bucket: int, one: Trigger, event_id: TriggerEventId, input_: bytes, *, key: str, replay: bool
) -> Submission:
    """What an event of this trigger submits. `key`: by what its sender knows it."""
    served = await _served(doors, one)
    id_ = ExecutionId(doors.ids.new(bucket))
    origin = {
        "kind": "trigger",
        "trigger": one.name,
        "trigger_event_id": show("tev", event_id),
        "event_key": key,
        "replay": replay,
    }
    return Submission(
        id=id_,
        namespace=one.namespace,
        run_id=show("run", doors.ids.new(bucket)),
        root_id=id_,
        target=one.definition.target,
        type=served.type,
        input=input_,
        origin=json.dumps(origin).encode(),
        retry=served.retry,
        timeout_seconds=served.timeout_seconds,
        schedule_to_start_seconds=served.schedule_to_start_seconds,
        total_seconds=served.total_seconds,
        heartbeat_seconds=served.heartbeat_seconds,
        concurrency_key=served.concurrency_key,
        line=served.line,
    )


async def _known(doors: Doors, slug: str, body: bytes, headers: Headers) -> tuple[TriggerView, int]:
    """The trigger, once whoever sends is known to it. Raises Unauthorized, whatever the reason is."""
    named = read_slug(slug)
    if named is None:
        raise _unknown()
    namespace, name = named
    bucket = doors.placement.of_key(namespace, name)
    view = await doors.run(triggers.read, bucket, namespace=namespace, name=name)
    if view is None:
        refused(PRESETS[Preset.GITHUB], [NOBODY], body, headers, now=0.0)
        raise _unknown()
    why = refused(view.trigger.definition.scheme, secrets_of(doors, view), body, headers, now=view.now.timestamp())
    if why is not None:
        log.warning("trigger.refused", extra={"trigger": name, "namespace": namespace, "reason": why})
        raise _unknown()
    return view, bucket


def _unknown() -> Unauthorized:
    return Unauthorized("There is nothing here for who does not sign as agreed.")


def _challenge(one: Trigger, event: bytes | None) -> str | None:
    """What Slack asks to see, signed as everything that it sends, when its address is first entered."""
    if one.definition.scheme.preset is not Preset.SLACK or event is None:
        return None
    said = orjson.loads(event)
    if not isinstance(said, dict) or said.get("type") != "url_verification":
        return None
    challenge = said.get("challenge")
    return challenge if isinstance(challenge, str) else None


async def _take(
    doors: Doors,
    bucket: int,
    one: Trigger,
    body: bytes,
    event: bytes | None,
    why: str | None,
    headers: Headers,
) -> Taken:
    definition, id_ = one.definition, TriggerEventId(doors.ids.new(bucket))
    came = Incoming(
        id=id_,
        key=incoming.key_of(definition, body, event, headers),
        type=incoming.type_of(definition, event, headers),
        body=body,
        headers=incoming.kept(definition, headers),
    )
    outcome, submission = Outcome.REJECTED if event is None else Outcome.SUBMITTED, None
    if not definition.wants(came.type):
        outcome, why = Outcome.FILTERED, None
    elif event is not None:
        try:
            doors.caps.enter(one.namespace)
            input_ = incoming.input_of(definition, event, came.headers, bytes_max=doors.limits.payload_bytes_max)
            submission = await submission_of(doors, bucket, one, id_, input_, key=came.key, replay=False)
        except NamespaceFull:
            raise  # nothing is kept: whoever sent it sends it again
        except ControlPlaneError as error:
            outcome, why = Outcome.REJECTED, error.detail
    return await doors.run(
        trigger.take, bucket, one.id, came, submission, namespace=one.namespace, outcome=outcome, reason=why
    )


async def _served(doors: Doors, one: Trigger) -> Served:
    """What the target is; one that nobody knows any more waits in the queue, as any other work would."""
    try:
        return doors.catalogue.served(await doors.catalogue.find(one.namespace, one.definition.target))
    except TargetNotFound:
        return Served(type="reasoner", retry=RetryPolicy(), timeout_seconds=None)


def _log(one: Trigger, taken: Taken) -> None:
    log.info(
        "trigger.taken",
        extra={
            "trigger": one.name,
            "trigger_event_id": show("tev", taken.id),
            "outcome": taken.outcome.value,
            "duplicate": taken.duplicate,
            "execution_id": None if taken.execution_id is None else show_execution(taken.execution_id),
        },
    )


OPERATIONS = [
    Operation(
        method="POST",
        scope=OPEN,
        path=PREFIX + "{slug}",
        handler=hear,
        summary="An outside sender's event; its signature is the key",
        tag="triggers",
        answers={
            200: "It had come before, or submits nothing; `outcome` and `reason` say why.",
            202: "It is kept, and so is its execution.",
            401: "Not signed as agreed, or there is no such trigger.",
            413: "Too large.",
            503: "Nothing was kept; send it again.",
        },
    ),
]
