"""`controlplane deliveries …`: list, show, follow the feed, send one again."""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec
import typer

from controlplane.cli import output
from controlplane.cli.client import PREFIX, Client, Unreachable
from controlplane.cli.failure import ExitCode, Failure
from controlplane.domain.ids import read
from controlplane.errors import Invalid

Query = Mapping[str, str | int | float | list[str] | None]

POLL_SECONDS = 20.0
OUTAGE_SECONDS = 60.0
RETRY_SECONDS = 0.5


class Try(msgspec.Struct):
    outcome: str
    attempt: int = 0
    at: str | None = None
    latency_ms: int | None = None
    response_body: str | None = None
    http_status: int | None = None
    error: str | None = None


class Row(msgspec.Struct):
    """A delivery as one line of a list."""

    delivery_id: str
    event: str
    url: str
    state: str
    attempts: list[Try]
    created_at: str | None = None
    execution_id: str | None = None
    run_id: str | None = None
    target: str | None = None
    endpoint_id: str | None = None
    next_attempt_at: str | None = None
    settled_at: str | None = None
    cursor: str | None = None
    body: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)

    @property
    def last(self) -> str | None:
        if not self.attempts:
            return None
        one = self.attempts[-1]
        return " ".join(str(part) for part in (one.outcome, one.http_status, one.error) if part is not None)


class Listing(msgspec.Struct):
    items: list[Row]
    next_cursor: str | None = None


class Fed(msgspec.Struct):
    """A page of the feed."""

    items: list[msgspec.Raw]
    next_cursor: str
    more: bool


def listing(client: Client, query: Query, *, as_json: bool) -> None:
    """Print one page, newest first."""
    body = client.get(f"{PREFIX}/deliveries", query)
    if as_json:
        output.data(body)
        return
    page = msgspec.json.decode(body, type=Listing)
    if not page.items:
        output.say("No deliveries like that.")
    else:
        output.table(
            ("DELIVERY", "STATE", "EXECUTION", "TARGET", "EVENT", "ENDED", "TRIES", "LAST", "URL"),
            (
                (
                    row.delivery_id,
                    row.state,
                    row.execution_id,
                    row.target,
                    row.event,
                    output.moment(row.settled_at),
                    len(row.attempts),
                    row.last,
                    row.url,
                )
                for row in page.items
            ),
        )
    if page.next_cursor is not None:
        output.say(f"More: --cursor {page.next_cursor}")


def show(client: Client, delivery_id: str, *, as_json: bool) -> None:
    """Print one with every attempt and its body."""
    body = client.get(f"{PREFIX}/deliveries/{_id(delivery_id)}", about=delivery_id)
    if as_json:
        output.data(body)
        return
    row = msgspec.json.decode(body, type=Row)
    output.facts(
        [
            ("delivery_id", row.delivery_id),
            ("state", row.state),
            ("event", row.event),
            ("execution_id", row.execution_id),
            ("run_id", row.run_id),
            ("target", row.target),
            ("endpoint_id", row.endpoint_id),
            ("url", row.url),
            ("created", output.moment(row.created_at)),
            ("next attempt", output.moment(row.next_attempt_at)),
            ("ended", output.moment(row.settled_at)),
            ("body", bytes(row.body).decode()),
        ]
    )
    if row.attempts:
        output.table(
            ("ATTEMPT", "AT", "OUTCOME", "STATUS", "MS", "ERROR", "ANSWER"),
            (
                (
                    one.attempt,
                    output.moment(one.at),
                    one.outcome,
                    one.http_status,
                    one.latency_ms,
                    one.error,
                    one.response_body,
                )
                for one in row.attempts
            ),
        )


def follow(client: Client, query: Query, *, after: str, wait: bool, again: str, as_json: bool) -> None:
    """Print the feed, one line for each delivery; with `wait` for ever, through restarts of the server.

    `again` + a cursor is the command that goes on where this one was left.
    """
    try:
        after = _feed(client, query, after, wait, as_json)
    except _Left as left:
        output.say(f"Go on: {again} {left.cursor}")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    output.say(f"Go on: {again} {after}")


class _Left(Exception):
    """Ctrl-C, at this place."""

    def __init__(self, cursor: str) -> None:
        super().__init__(cursor)
        self.cursor = cursor


def _feed(client: Client, query: Query, after: str, wait: bool, as_json: bool) -> str:
    lost_at: float | None = None
    seconds = POLL_SECONDS if wait else 0.0
    try:
        while True:
            try:
                said = {**query, "after": after, "wait_seconds": seconds}
                body = client.get(f"{PREFIX}/deliveries", said, wait_seconds=seconds)
            except Unreachable:
                lost_at = lost_at or time.monotonic()
                if not wait or time.monotonic() - lost_at > OUTAGE_SECONDS:
                    raise
                time.sleep(RETRY_SECONDS)
                continue
            lost_at = None
            page = msgspec.json.decode(body, type=Fed)
            for item in page.items:
                row = msgspec.json.decode(item, type=Row)
                output.data(bytes(item) if as_json else _line(row))
                after = row.cursor or after
            after = page.next_cursor
            if not (wait or page.more):
                return after
    except KeyboardInterrupt:
        raise _Left(after) from None


def _line(row: Row) -> str:
    parts = (output.moment(row.created_at), row.delivery_id, row.state, row.event, row.execution_id, row.target)
    return output.plain(" ".join(part for part in parts if part is not None))


def retry(client: Client, delivery_id: str, *, as_json: bool) -> None:
    """Send it again, now."""
    body = client.post(f"{PREFIX}/deliveries/{_id(delivery_id)}/retry", about=delivery_id)
    output.data(body if as_json else f"{delivery_id} pending")


def _id(text: str) -> str:
    """The id, which has nothing in it that a path could be led astray by. Raises Failure."""
    try:
        read("dlv", text, where="DELIVERY")
    except Invalid as error:
        raise Failure(f"{text!r}: {error.detail}", code=ExitCode.USAGE) from None
    return text
