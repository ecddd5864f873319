"""Tickets: what a browser opens a stream with, instead of a key in an address."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.body import clean, read_form
from controlplane.api.doors import asker_of, doors_of, namespace_of
from controlplane.api.operation import READ_OR_NODE, Operation
from controlplane.api.shapes import answer
from controlplane.errors import Invalid
from controlplane.security.keys import digest, make_ticket
from controlplane.stages import ticket
from controlplane.stages.ticket import TICKET_SECONDS

PATH_MAX = 500


class TicketForm(msgspec.Struct, forbid_unknown_fields=True):
    """For which stream: its path, without a query."""

    path: str


async def create(request: Request) -> Response:
    """A ticket for one stream, once, within a minute. It may do there what the key may that asks."""
    doors, caller = doors_of(request), asker_of(request)
    form = await read_form(request, TicketForm, doors.limits.body_bytes_max)
    path = clean(form.path, where="body.path", chars_max=PATH_MAX)
    if not path.startswith("/") or "?" in path:
        raise Invalid("A path without a query, as /api/ui/v1/executions/events.", where="body.path")
    text = make_ticket()
    await doors.run(
        ticket.issue,
        digest(text.encode()),
        namespace=namespace_of(request),
        path=path,
        key_id=caller.key_id,
        seconds=TICKET_SECONDS,
    )
    shape = {"ticket": text, "path": path, "expires_in_seconds": TICKET_SECONDS}
    return answer(shape, 201, {"Cache-Control": "no-store"})


OPERATIONS = [
    Operation(
        scope=READ_OR_NODE,
        method="POST",
        path="/api/v1/tickets",
        handler=create,
        summary="A ticket that opens one stream, once, within a minute",
        tag="keys",
        takes=TicketForm,
        answers={201: "The ticket.", 400: "Malformed.", 413: "Too large.", 422: "Not valid.", 503: "Try again."},
    ),
]
