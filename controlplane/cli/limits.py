"""`controlplane limits …`: list, show, set, delete."""

from __future__ import annotations

from urllib.parse import quote

import msgspec
import orjson

from controlplane.cli import output
from controlplane.cli.client import PREFIX, Client
from controlplane.cli.failure import ExitCode, Failure

PATH = f"{PREFIX}/limits"


class Row(msgspec.Struct):
    """A limit as one line of a list."""

    key: str
    held: int
    blocked: int
    concurrency_max: int | None = None
    rate_max: int | None = None
    rate_seconds: float | None = None
    next_at: str | None = None

    @property
    def rate(self) -> str | None:
        return None if self.rate_max is None else f"{self.rate_max} in {self.rate_seconds:g} s"


class Listing(msgspec.Struct):
    items: list[Row]
    next_cursor: str | None = None


def listing(client: Client, *, limit: int, cursor: str | None, as_json: bool) -> None:
    """Print one page, by key."""
    body = client.get(PATH, {"limit": limit, "cursor": cursor})
    if as_json:
        output.data(body)
        return
    page = msgspec.json.decode(body, type=Listing)
    if not page.items:
        output.say("No limits.")
        return
    output.table(
        ("LIMIT", "AT ONCE", "RATE", "HELD", "BLOCKED", "NEXT"),
        (
            (one.key, one.concurrency_max, one.rate, one.held, one.blocked, output.moment(one.next_at))
            for one in page.items
        ),
    )
    if page.next_cursor is not None:
        output.say(f"More: --cursor {page.next_cursor}")


def show(client: Client, key: str, *, as_json: bool) -> None:
    """Print what it allows, holds and blocks."""
    body = client.get(_path(key), about=key)
    if as_json:
        output.data(body)
        return
    row = msgspec.json.decode(body, type=Row)
    pairs: list[tuple[str, object]] = [("key", row.key), ("concurrency_max", row.concurrency_max), ("rate", row.rate)]
    output.facts([*pairs, ("held", row.held), ("blocked", row.blocked), ("next_at", output.moment(row.next_at))])


def put(
    client: Client,
    key: str,
    *,
    concurrency_max: int | None,
    rate_max: int | None,
    rate_seconds: float | None,
    as_json: bool,
) -> None:
    """Make the limit of this key what is said, and print what it holds."""
    if concurrency_max is None and rate_max is None:
        raise Failure("Say --concurrency-max or --rate-max with --rate-seconds.", code=ExitCode.USAGE)
    asked = {"concurrency_max": concurrency_max, "rate_max": rate_max, "rate_seconds": rate_seconds}
    said = {word: value for word, value in asked.items() if value is not None}
    body = client.put(_path(key), orjson.dumps(said), about=key)
    if as_json:
        output.data(body)
        return
    row = msgspec.json.decode(body, type=Row)
    output.data(f"{row.key} holds {row.held}, blocks {row.blocked}")


def delete(client: Client, key: str, *, as_json: bool) -> None:
    """Forget what was set; what waited for it is let in."""
    body = client.delete(_path(key), about=key)
    output.data(body if as_json else f"{key} deleted")


def _path(key: str) -> str:
    return f"{PATH}/{quote(key, safe='/:')}"
