"""`controlplane approvals …`: list, show, approve, reject: what executions ask people."""

from __future__ import annotations

import msgspec
import orjson

from controlplane.cli import output
from controlplane.cli.client import PREFIX, Client
from controlplane.cli.failure import ExitCode, Failure
from controlplane.cli.payload import read_json
from controlplane.cli.steps import execution_path
from controlplane.domain.approval import WAITING_FOR_APPROVAL


class Asked(msgspec.Struct):
    """A question as it stands."""

    approval_request_id: str
    status: str
    title: str | None = None
    request_url: str | None = None
    requested_at: str | None = None
    expires_at: str | None = None
    responded_at: str | None = None
    feedback: str | None = None


class Waiting(msgspec.Struct):
    """An execution that waits for something."""

    execution_id: str
    target: str
    status_reason: str | None = None


class Listing(msgspec.Struct):
    items: list[Waiting]
    next_cursor: str | None = None


class Decided(msgspec.Struct):
    """`status`: processed, or already_processed when somebody was first."""

    status: str
    decision: str


def listing(client: Client, *, limit: int, as_json: bool) -> None:
    """Print what is open of the newest executions that wait, one request each."""
    page = msgspec.json.decode(client.get(f"{PREFIX}/executions", {"status": "waiting", "limit": limit}), type=Listing)
    waiting = [one for one in page.items if one.status_reason == WAITING_FOR_APPROVAL]
    asked = [
        client.get(f"{execution_path(one.execution_id)}/approval-status", about=one.execution_id) for one in waiting
    ]
    if as_json:
        output.data(msgspec.json.encode({"items": [msgspec.Raw(body) for body in asked]}))
        return
    if not waiting:
        output.say("Nobody is asked anything.")
    else:
        rows = [(one, msgspec.json.decode(body, type=Asked)) for one, body in zip(waiting, asked, strict=True)]
        output.table(
            ("EXECUTION", "TARGET", "ASKED", "EXPIRES", "QUESTION"),
            [
                (
                    one.execution_id,
                    one.target,
                    output.moment(question.requested_at),
                    output.moment(question.expires_at),
                    question.title or question.approval_request_id,
                )
                for one, question in rows
            ],
        )
    if page.next_cursor is not None:
        output.say(f"Of the newest {limit} that wait for something; --limit looks at more.")


def show(client: Client, execution_id: str, *, as_json: bool) -> None:
    """Print what it asks, or asked last."""
    body = client.get(f"{execution_path(execution_id)}/approval-status", about=execution_id)
    if as_json:
        output.data(body)
        return
    asked = msgspec.json.decode(body, type=Asked)
    output.facts([(name, getattr(asked, name)) for name in Asked.__struct_fields__])


def decide(
    client: Client,
    execution_id: str,
    decision: str,
    *,
    feedback: str | None,
    response: str | None,
    request_id: str | None,
    as_json: bool,
) -> None:
    """Say it, and print what is decided. Raises Failure where somebody has decided otherwise before."""
    said: dict[str, object] = {"decision": decision, "feedback": feedback, "approval_request_id": request_id}
    if response is not None:
        said["response"] = orjson.Fragment(read_json(response, "--response"))
    body = client.post(
        f"{execution_path(execution_id)}/approval-response",
        orjson.dumps({name: value for name, value in said.items() if value is not None}),
        about=execution_id,
    )
    decided = msgspec.json.decode(body, type=Decided)
    if decided.decision != decision:
        raise Failure(f"{execution_id}: It is {decided.decision} already; a decision stands.", code=ExitCode.CONFLICT)
    output.data(body if as_json else f"{execution_id} {decided.decision}")
