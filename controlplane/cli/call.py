"""`controlplane call`: submit, and wait for the result."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

import msgspec
import orjson

from controlplane.cli import output
from controlplane.cli.client import Client, members, text_of
from controlplane.cli.failure import ExitCode, Failure
from controlplane.cli.follow import follow, report
from controlplane.cli.payload import read_input, read_json, submit_body
from controlplane.domain.target import parse
from controlplane.errors import TargetMalformed


def call(
    client: Client,
    target: str,
    *,
    input_given: str | None,
    pairs: list[str],
    wait: bool,
    timeout_seconds: float | None,
    run_id: str | None,
    names: Mapping[str, str | None],
    options: Mapping[str, object],
    objects: Mapping[str, str | None],
    webhook_url: str | None,
    webhook_secret: str | None,
    webhook_headers: Sequence[str],
    webhook_events: Sequence[str] = (),
    idempotency_key: str | None,
    again: str,
    as_json: bool,
) -> None:
    """Submit once and print the result; with `wait` off print the id. `again` + id is the command that waits anew.

    `options` are members of the body, `objects` those that are given as JSON or the file of it, `names` headers.
    """
    if not _is_target(target):
        raise Failure(
            f"{target!r} is not of the form node_id.reasoner_name.",
            fix="`controlplane nodes` shows who is there.",
            code=ExitCode.USAGE,
        )
    headers = run_header(run_id) | {name: printable(said, name) for name, said in names.items() if said is not None}
    given = {name: orjson.Fragment(read_json(said, f"--{name}")) for name, said in objects.items() if said is not None}
    body = submit_body(
        read_input(input_given, pairs),
        # One of our own where none is given: a submit whose answer was lost is said again, and accepted once.
        idempotency_key=idempotency_key or f"cli-{uuid.uuid4().hex}",
        webhook_url=webhook_url,
        webhook_secret=webhook_secret,
        webhook_headers=webhook_headers,
        webhook_events=webhook_events,
        options={**options, **given},
    )
    accepted = client.submit(target, body, headers=headers)
    found = members(accepted)
    execution_id = text_of(found, "execution_id") or ""
    for warning in msgspec.json.decode(found.get("warnings", msgspec.Raw(b"[]")), type=list[dict[str, str]]):
        output.say(f"Note: {warning.get('message', '')}")
    if "available_at" in found:
        output.say(f"It begins at {output.moment(text_of(found, 'available_at'))}.")
    if not wait:
        output.data(accepted if as_json else execution_id)
        output.say(f"Wait for it: {again} {execution_id}")
        return
    output.say(f"{execution_id} is accepted; waiting for its end (Ctrl-C leaves it running).")
    seen = follow(client, execution_id, timeout_seconds=timeout_seconds, again=f"{again} {execution_id}")
    report(seen, execution_id, as_json=as_json)


def run_header(run_id: str | None) -> dict[str, str]:
    """The header that names a run. Raises Failure."""
    if run_id is None:
        return {}
    return {"X-Run-ID": printable(run_id, "A run")}


def printable(text: str, what: str) -> str:
    """A name that a header can carry. Raises Failure."""
    if not (text.isascii() and text.isprintable()):
        raise Failure(f"{what} is named in a header: printable ASCII only.", code=ExitCode.USAGE)
    return text


def _is_target(text: str) -> bool:
    try:
        parse(text)
    except TargetMalformed:
        return False
    return True
