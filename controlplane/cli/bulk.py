"""`controlplane bulk …`: cancel, retry, pause, resume or send again what a filter matches; list, show, stop."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping

import msgspec
import orjson

from controlplane.cli import output
from controlplane.cli.client import PREFIX, Client
from controlplane.cli.failure import ExitCode, Failure
from controlplane.domain.ids import read
from controlplane.errors import Invalid

PATH = f"{PREFIX}/bulk"
LOOK_SECONDS = 0.3


class Row(msgspec.Struct):
    """A bulk as one line of a list."""

    bulk_id: str
    action: str
    state: str
    matched: int
    exact: bool
    done: int
    skipped: int
    failed: int
    created_at: str
    filter: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    skipped_reasons: dict[str, int] = {}
    errors: list[dict[str, str]] = []
    reason: str | None = None
    error: str | None = None
    ended_at: str | None = None

    @property
    def counted(self) -> str:
        return str(self.matched) if self.exact else f"at least {self.matched}"


class Listing(msgspec.Struct):
    items: list[Row]
    next_cursor: str | None = None


class Counted(msgspec.Struct):
    """What a dry run says."""

    matched: int
    exact: bool
    sample: list[str]


def begin(
    client: Client,
    action: str,
    filter_: Mapping[str, object],
    *,
    everything: bool,
    reason: str | None,
    reuse: str | None,
    dry_run: bool,
    wait: bool,
    timeout_seconds: float | None,
    again: str,
    as_json: bool,
    confirm: bool = False,
) -> None:
    """Begin it and print its id, or with `wait` what it has done; a dry run prints how many it would be.

    `again` + its id is the command that shows how far it is.
    """
    said: dict[str, object] = {
        "action": action,
        "filter": {name: value for name, value in filter_.items() if value not in (None, [])},
        "all": everything,
    }
    said |= {name: value for name, value in (("reason", reason), ("reuse", reuse)) if value is not None}
    if confirm:
        said["confirm"] = True
    if dry_run:
        _counted(client.post(PATH, orjson.dumps(said | {"dry_run": True})), as_json=as_json)
        return
    body = client.post(PATH, orjson.dumps(said), headers={"Idempotency-Key": uuid.uuid4().hex})
    if wait:
        body = _wait(client, msgspec.json.decode(body, type=Row).bulk_id, timeout_seconds, again)
    row = msgspec.json.decode(body, type=Row)
    if as_json:
        output.data(body)
    elif wait:
        _summary(row)
    else:
        output.data(row.bulk_id)
        output.say(f"It goes on by itself ({row.counted}). How far it is: {again} {row.bulk_id}")
    if wait and (row.state != "done" or row.failed):
        raise Failure(f"{row.bulk_id} is {row.state}; {row.failed} failed.", code=ExitCode.EXECUTION_FAILED)


def listing(client: Client, *, state: str | None, limit: int, cursor: str | None, as_json: bool) -> None:
    """Print one page, newest first."""
    body = client.get(PATH, {"state": state, "limit": limit, "cursor": cursor})
    if as_json:
        output.data(body)
        return
    page = msgspec.json.decode(body, type=Listing)
    if not page.items:
        output.say("No bulks.")
        return
    output.table(
        ("BULK", "ACTION", "STATE", "MATCHED", "DONE", "SKIPPED", "FAILED", "CREATED", "FILTER"),
        (
            (
                row.bulk_id,
                row.action,
                row.state,
                row.counted,
                row.done,
                row.skipped,
                row.failed,
                output.moment(row.created_at),
                bytes(row.filter).decode(),
            )
            for row in page.items
        ),
    )
    if page.next_cursor is not None:
        output.say(f"More: --cursor {page.next_cursor}")


def show(client: Client, bulk_id: str, *, as_json: bool) -> None:
    """Print how far it is."""
    _done(client.get(f"{PATH}/{_id(bulk_id)}", about=bulk_id), as_json=as_json)


def stop(client: Client, bulk_id: str, *, as_json: bool) -> None:
    """Stop it before its next batch."""
    _done(client.post(f"{PATH}/{_id(bulk_id)}/stop", about=bulk_id), as_json=as_json)


def _wait(client: Client, bulk_id: str, timeout_seconds: float | None, again: str) -> bytes:
    until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    shown = -1
    while True:
        body = client.get(f"{PATH}/{bulk_id}", about=bulk_id)
        row = msgspec.json.decode(body, type=Row)
        if row.state != "running":
            return body
        if row.done != shown:
            output.say(f"{row.done} of {row.counted} done")
            shown = row.done
        if until is not None and time.monotonic() >= until:
            raise Failure(
                f"{bulk_id} is not over yet; it goes on.",
                fix=f"How far it is: {again} {bulk_id}",
                code=ExitCode.WAIT_TIMED_OUT,
            )
        time.sleep(LOOK_SECONDS)


def _counted(body: bytes, *, as_json: bool) -> None:
    if as_json:
        output.data(body)
        return
    found = msgspec.json.decode(body, type=Counted)
    output.data(str(found.matched) if found.exact else f"at least {found.matched}")
    for one in found.sample:
        output.say(one)
    if found.matched > len(found.sample):
        output.say("…")


def _done(body: bytes, *, as_json: bool) -> None:
    if as_json:
        output.data(body)
    else:
        _summary(msgspec.json.decode(body, type=Row))


def _summary(row: Row) -> None:
    pairs: list[tuple[str, object]] = [("bulk_id", row.bulk_id), ("action", row.action), ("state", row.state)]
    pairs += [("filter", bytes(row.filter).decode()), ("reason", row.reason), ("error", row.error)]
    pairs += [("matched", row.counted), ("done", row.done), ("skipped", row.skipped)]
    pairs += [(f"  {why}", number) for why, number in row.skipped_reasons.items()]
    pairs += [("failed", row.failed)]
    pairs += [(f"  {one.get('id')}", one.get("message")) for one in row.errors]
    pairs += [("created", output.moment(row.created_at)), ("ended", output.moment(row.ended_at))]
    output.facts(pairs)


def _id(text: str) -> str:
    """The id, which has nothing in it that a path could be led astray by. Raises Failure."""
    try:
        read("bulk", text, where="BULK")
    except Invalid as error:
        raise Failure(f"{text!r}: {error.detail}", code=ExitCode.USAGE) from None
    return text
