"""`controlplane deliveries …`: list those that are dead, send one again."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from controlplane.cli import output
from controlplane.cli.client import PREFIX, Client
from controlplane.cli.failure import ExitCode, Failure
from controlplane.domain.ids import read
from controlplane.errors import Invalid


class Try(msgspec.Struct):
    outcome: str
    http_status: int | None = None
    error: str | None = None


class Row(msgspec.Struct):
    """A delivery as one line of a list."""

    delivery_id: str
    execution_id: str
    target: str
    event: str
    url: str
    attempts: list[Try]
    settled_at: str | None = None

    @property
    def last(self) -> str | None:
        if not self.attempts:
            return None
        one = self.attempts[-1]
        return " ".join(str(part) for part in (one.outcome, one.http_status, one.error) if part is not None)


class Listing(msgspec.Struct):
    items: list[Row]
    next_cursor: str | None = None


def listing(client: Client, query: Mapping[str, str | int | float | list[str] | None], *, as_json: bool) -> None:
    """Print one page, newest first."""
    body = client.get(f"{PREFIX}/deliveries", query)
    if as_json:
        output.data(body)
        return
    page = msgspec.json.decode(body, type=Listing)
    if not page.items:
        output.say("No dead deliveries.")
        return
    output.table(
        ("DELIVERY", "EXECUTION", "TARGET", "EVENT", "DIED", "TRIES", "LAST", "URL"),
        (
            (
                row.delivery_id,
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


def retry(client: Client, delivery_id: str, *, as_json: bool) -> None:
    """Send it again, now."""
    try:
        read("dlv", delivery_id, where="DELIVERY")
    except Invalid as error:
        raise Failure(f"{delivery_id!r}: {error.detail}", code=ExitCode.USAGE) from None
    body = client.post(f"{PREFIX}/deliveries/{delivery_id}/retry", about=delivery_id)
    output.data(body if as_json else f"{delivery_id} pending")
