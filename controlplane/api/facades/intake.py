"""How a façade submits: with everything that a submit of ours checks, to the one target that a setting names."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from uuid import UUID

import msgspec
from starlette.requests import Request

from controlplane.api.doors import Doors, doors_of, namespace_of
from controlplane.api.executions import (
    Keyed,
    SubmitForm,
    WebhookForm,
    bucket_for,
    caller_of,
    submission_of,
    webhook_of,
)
from controlplane.api.facades.sockets import mark
from controlplane.domain.execution import Accepted, Wording
from controlplane.domain.ids import ExecutionId, bucket_of, read_execution
from controlplane.domain.retry import RetryPolicy
from controlplane.domain.target import parse
from controlplane.errors import Invalid, TargetNotFound
from controlplane.reads import jobs
from controlplane.reads.nodes import Entry

SESSIONS_KEPT = 10_000
"""Executions whose session a process remembers, so that many sockets cost one look per job."""


@dataclass(slots=True, kw_only=True)
class Facades:
    """The targets behind `/jobs` and `/agent`; None: that one is off."""

    jobs_target: str | None
    agent_target: str | None
    _sessions: dict[UUID, asyncio.Task[str | None]] = field(default_factory=dict)

    async def session_of(self, doors: Doors, namespace: int, id_: UUID) -> str | None:
        """The session of an execution. Raises DatabaseUnavailable."""
        task = self._sessions.get(id_)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            look = doors.run(jobs.session_key, bucket_of(id_), id_, namespace=namespace)
            task = self._sessions[id_] = asyncio.ensure_future(look)
            task.add_done_callback(_heed)  # its sockets may have gone
            if len(self._sessions) > SESSIONS_KEPT:
                del self._sessions[next(iter(self._sessions))]
        return await asyncio.shield(task)


def _heed(task: asyncio.Task[str | None]) -> None:
    """Let no failure be called unheard: it is looked at again by the next who asks."""
    if not task.cancelled():
        task.exception()


class Told(NamedTuple):
    """Whom to tell of the end, in whose words; `where` the URL stood in the request."""

    url: str
    wording: Wording
    where: str


async def accept(
    request: Request, target: str, input_: bytes, *, asked: bytes, told: Told | None = None, session: str | None = None
) -> Accepted:
    """Accept work for this target, which need not have been registered: then it waits for its node.

    `asked`: the request, for the idempotency key. `session`: who listens on a socket for its end.
    Raises what a submit is refused with.
    """
    doors, namespace = doors_of(request), namespace_of(request)
    entry = await _entry(doors, namespace, target)
    caller = await caller_of(request, doors, namespace)
    if session is not None:
        caller = replace(caller, session_key=session)
    key = request.headers.get("idempotency-key")
    scope = request.url.path.encode() + b"\0" + target.encode() + b"\0"
    keyed = None if key is None else Keyed.of(key, caller.run_id or "", scope + asked)
    bucket = bucket_for(doors, caller, keyed)
    form = SubmitForm(input=msgspec.Raw(input_))
    submission = submission_of(doors, caller, entry, form, bucket=bucket, keyed=keyed, replay=None)
    if told is not None:
        webhook = webhook_of(doors, WebhookForm(url=told.url), submission.id, sees=caller.sees, url_where=told.where)
        submission = replace(submission, webhooks=(replace(webhook, wording=told.wording),))
    if session is not None:
        await mark(doors, namespace, session)
    return await doors.lanes.submit.put(submission)


def id_of(request: Request, name: str) -> ExecutionId | None:
    """The execution behind an id that a façade gave out; None for a text that can be none."""
    try:
        return read_execution(request.path_params[name])
    except Invalid:
        return None


async def _entry(doors: Doors, namespace: int, target: str) -> Entry:
    """What is known of the target. One that nobody knows is no fault of who asks: an operator named it."""
    try:
        return await doors.catalogue.find(namespace, target)
    except TargetNotFound:
        node_id, reasoner_id = parse(target)
        return Entry(
            namespace=namespace,
            target=target,
            node_id=node_id,
            reasoner_id=reasoner_id,
            type="reasoner",
            description=None,
            tags=(),
            retry=RetryPolicy(),
            timeout_seconds=None,
            schedule_to_start_seconds=None,
            total_seconds=None,
            heartbeat_seconds=None,
            on_parent_end=None,
            version="",
            up=False,
            paused=False,
        )
