"""`controlplane executions steps` and `signal`: what an execution has done, and waits for, and how that comes."""

from __future__ import annotations

import uuid
from urllib.parse import quote

import msgspec
import orjson

from controlplane.cli import output
from controlplane.cli.client import PREFIX, Client, members
from controlplane.cli.failure import ExitCode, Failure
from controlplane.cli.payload import read_json
from controlplane.domain.ids import read_fenced
from controlplane.errors import Invalid

PAGE = 1_000
VALUE_CHARACTERS = 60
"""How much of a value one line shows; --json has all of it."""


class Row(msgspec.Struct):
    """A step as one line of a list."""

    name: str
    kind: str
    status: str
    created_at: str
    attempt: int = 0
    done_at: str | None = None
    due_at: str | None = None
    child_id: str | None = None
    timed_out: bool | None = None
    value: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)

    @property
    def shown(self) -> str:
        """The value, or what will bring it."""
        if self.timed_out:
            return "timed out"
        if self.child_id is not None:
            return self.child_id
        text = output.plain(bytes(self.value).decode())
        return text if len(text) <= VALUE_CHARACTERS else f"{text[:VALUE_CHARACTERS]}…"


class Page(msgspec.Struct):
    steps: list[msgspec.Raw]
    next_cursor: str | None = None


def steps(client: Client, execution_id: str, *, as_json: bool) -> None:
    """Print every step, the first one first."""
    path = f"{execution_path(execution_id)}/steps"
    found: list[msgspec.Raw] = []
    cursor: str | None = None
    while True:
        page = msgspec.json.decode(client.get(path, {"limit": PAGE, "after": cursor}, about=execution_id), type=Page)
        found += page.steps
        if (cursor := page.next_cursor) is None:
            break
    rows = sorted(((msgspec.json.decode(raw, type=Row), raw) for raw in found), key=lambda pair: pair[0].created_at)
    if as_json:
        output.data(msgspec.json.encode({"steps": [raw for _, raw in rows]}))
        return
    if not rows:
        output.say("No steps.")
        return
    output.table(
        ("STEP", "KIND", "STATUS", "ATTEMPT", "BEGAN", "DONE", "DUE", "VALUE"),
        (
            (
                row.name,
                row.kind,
                row.status,
                row.attempt,
                output.moment(row.created_at),
                row.done_at and output.moment(row.done_at),
                row.due_at and output.moment(row.due_at),
                row.shown,
            )
            for row, _ in rows
        ),
    )


def signal(
    client: Client, execution_id: str, event: str, *, payload: str | None, idempotency_key: str | None, as_json: bool
) -> None:
    """Send it once, and say whether somebody waited for it."""
    if event in {"", ".", ".."}:
        raise Failure(f"{event!r} is no event.", fix="Like this: deploy.approved.", code=ExitCode.USAGE)
    body = client.post(
        f"{execution_path(execution_id)}/signals/{quote(event, safe='')}",
        orjson.dumps(None) if payload is None else read_json(payload, "--payload"),
        headers={"Idempotency-Key": idempotency_key or uuid.uuid4().hex},
        about=execution_id,
    )
    if as_json:
        output.data(body)
        return
    delivered = msgspec.json.decode(members(body)["delivered"], type=bool)
    output.data(f"{execution_id} {event} {'delivered' if delivered else 'kept'}")
    if not delivered:
        output.say("Nobody waits for it yet; who does later, gets it.")


def execution_path(execution_id: str) -> str:
    """Where it is, by an id that has nothing in it that a path could be led astray by. Raises Failure."""
    try:
        read_fenced(execution_id, where="EXECUTION")
    except Invalid as error:
        raise Failure(f"{execution_id!r}: {error.detail}", code=ExitCode.USAGE) from None
    return f"{PREFIX}/executions/{execution_id}"
