"""Audited: a change and the row of the audit log that says who made it, in one transaction: both, or neither.

What a call is called in the log stands in its `Operation`. It writes one row when it succeeds, also when it was said
before and changes nothing more; what is refused writes none.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar
from uuid import UUID

from starlette.requests import Request

from controlplane.api.doors import CALLER, Doors, asker_of, doors_of
from controlplane.api.front import FOUND, Found
from controlplane.api.problems import REQUEST_ID
from controlplane.domain.audit import PLACE, Actor, ActorKind, AuditId, Entry, Facts, changed, clipped
from controlplane.domain.execution import DEFAULT_NAMESPACE, Accepted, Submission
from controlplane.domain.ids import ExecutionId, show_execution
from controlplane.domain.key import DEFAULT, STARTER
from controlplane.errors import ControlPlaneError, DatabaseUnavailable
from controlplane.postgres.lane import RACED_SECONDS, Raced
from controlplane.postgres.pool import Connection
from controlplane.stages import audit, cancel, submit
from controlplane.stages.cancel import Cancelled

P = ParamSpec("P")
Result = TypeVar("Result")
Seen = TypeVar("Seen")


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """What was changed, what was known of it before and what after. `namespace`: another than the caller's own."""

    kind: str
    id: str
    before: Facts | None = None
    after: Facts | None = None
    namespace: int | None = None


async def audited(
    request: Request,
    note: Callable[[Result], Noted | None],
    call: Callable[Concatenate[Connection, P], Awaitable[Result]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Result:
    """What this stage does, as `doors.run` runs it, and the row that says so: the last thing before the commit.

    `note` None: it was refused after all.
    """
    doors = doors_of(request)
    row_id = AuditId(doors.ids.new(_bucket(doors, asker_of(request).namespace)))

    async def both(conn: Connection) -> Result:
        async with conn.transaction():
            done = await call(conn, *args, **kwargs)
            noted = note(done)
            if noted is not None:
                await audit.append(conn, [_entry(request, row_id, noted)])
        return done

    until = time.monotonic() + RACED_SECONDS
    while True:
        try:
            return await doors.run(both)
        except Raced as error:
            if time.monotonic() > until:
                raise DatabaseUnavailable from error


async def submit_audited(request: Request, submission: Submission, source: str) -> Accepted:
    """Accept an execution that is asked for again, and write down who asked. Raises: what `submit.accept` says."""
    doors = doors_of(request)
    accepted = await audited(
        request,
        lambda done: Noted(kind="execution", id=source, after={"execution_id": show_execution(done.id)}),
        _accept,
        submission,
    )
    if submission.parent_id is not None:  # whoever waits for a child holds nothing
        doors.admission.freed()
    if accepted.blocked_by is not None:
        doors.admission.blocked()
    return accepted


def seeing(
    look: Callable[[Connection], Awaitable[Seen]], call: Callable[Concatenate[Connection, P], Awaitable[Result]]
) -> Callable[Concatenate[Connection, P], Awaitable[tuple[Seen, Result]]]:
    """The call with what stood there before it. The look locks, so that nobody changes it in between."""

    async def both(conn: Connection, /, *args: P.args, **kwargs: P.kwargs) -> tuple[Seen, Result]:
        seen = await look(conn)
        return seen, await call(conn, *args, **kwargs)

    return both


async def cancel_audited(request: Request, id_: ExecutionId, reason: str | None) -> Cancelled:
    """Let an execution only end as cancelled, and write down who wanted that. Raises: what `cancel.request` says."""
    return await audited(
        request,
        lambda done: Noted(
            kind="execution",
            id=show_execution(id_),
            before={"status": done.previous.value},
            after={"status": "cancelled", "reason": reason},
        ),
        _cancel,
        id_,
        reason,
        doors_of(request).ids.new,
    )


def first_seen(seen: Seen | None, *, new: bool) -> Seen | None:
    """What was there before; where somebody else has made it between the look and the call, all is done anew."""
    if seen is None and not new:
        raise Raced
    return seen


async def _accept(conn: Connection, submission: Submission) -> Accepted:
    [accepted] = await submit.accept(conn, [submission])
    if isinstance(accepted, ControlPlaneError):
        raise accepted
    return accepted


async def _cancel(conn: Connection, id_: ExecutionId, reason: str | None, make_id: Callable[[int], UUID]) -> Cancelled:
    [done] = await cancel.request(conn, [id_], reason=reason, make_id=make_id)
    if isinstance(done, ControlPlaneError):
        raise done
    return done


def _entry(request: Request, row_id: AuditId, noted: Noted) -> Entry:
    found: Found = request.scope[FOUND]
    action = found.operation.audit
    assert action, f"{found.operation.path} says no action"
    caller = asker_of(request)
    namespace = caller.namespace if noted.namespace is None else noted.namespace
    before, after = changed(noted.before, noted.after)
    return Entry(
        id=row_id,
        bucket=_bucket(doors_of(request), namespace),
        namespace=namespace,
        actor=_actor(request, namespace),
        action=action,
        object_kind=noted.kind,
        object_id=noted.id,
        before=before,
        after=after,
    )


def _actor(request: Request, namespace: int) -> Actor:
    """Who asks. Only admins of `default` reach into another namespace than their own."""
    caller, kind = asker_of(request), ActorKind.ANYBODY
    if CALLER not in request.scope:
        kind = ActorKind.LINK
    elif caller.key_id is not None:
        kind = ActorKind.KEY
    elif caller is STARTER:
        kind = ActorKind.ENVIRONMENT
    elsewhere = kind is not ActorKind.LINK and caller.namespace == DEFAULT_NAMESPACE != namespace
    return Actor(
        kind=kind,
        name=caller.name,
        key_id=caller.key_id,
        namespace=DEFAULT if elsewhere else None,
        request_id=request.scope.get(REQUEST_ID),
        address=None if request.client is None else clipped(request.client.host),
        user_agent=clipped(request.headers.get("user-agent")),
    )


def _bucket(doors: Doors, namespace: int) -> int:
    return doors.placement.of_key(namespace, PLACE)
