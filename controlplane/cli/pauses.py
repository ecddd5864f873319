"""`controlplane pause`, `resume` and `pauses`: hold work back, let it go, and see what is held."""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from controlplane.cli import output
from controlplane.cli.client import PREFIX, Client
from controlplane.cli.failure import ExitCode, Failure

EVERYTHING = "everything"
BEFORE = {"pause": "was paused already", "resume": "was not paused"}


class Pause(msgspec.Struct):
    scope: str
    name: str = EVERYTHING
    paused_at: str | None = None
    paused_by: str | None = None
    reason: str | None = None


class Listing(msgspec.Struct):
    items: list[Pause]
    next_cursor: str | None = None


class Turned(msgspec.Struct):
    """What a pause or a resume answers."""

    queued: int
    queued_is_more: bool
    running: int
    changed: bool = True
    still_paused_by: list[Pause] = []


def listing(client: Client, *, limit: int, cursor: str | None, as_json: bool) -> None:
    """Print one page: everything first, then by node."""
    body = client.get(f"{PREFIX}/pauses", {"limit": limit, "cursor": cursor})
    if as_json:
        output.data(body)
        return
    page = msgspec.json.decode(body, type=Listing)
    if not page.items:
        output.say("Nothing is paused.")
        return
    output.table(
        ("PAUSED", "SCOPE", "SINCE", "BY", "REASON"),
        ((one.name, one.scope, output.moment(one.paused_at), one.paused_by, one.reason) for one in page.items),
    )
    if page.next_cursor is not None:
        output.say(f"More: --cursor {page.next_cursor}")


def turn(
    client: Client,
    verb: str,
    *,
    reasoner: str | None,
    node: str | None,
    everything: bool,
    reason: str | None,
    as_json: bool,
) -> None:
    """Pause or resume one of them, and say how much waits and runs."""
    name, path = _one(reasoner, node, everything)
    said = {} if reason is None else {"reason": reason}
    body = client.post(f"{PREFIX}{path}/{verb}", msgspec.json.encode(said), about=name)
    if as_json:
        output.data(body)
        return
    now = msgspec.json.decode(body, type=Turned)
    output.data(f"{name} {verb}d" if now.changed else f"{name} {BEFORE[verb]}")
    more = "More than " if now.queued_is_more else ""
    output.say(f"{more}{now.queued} queued, {now.running} running")
    for one in now.still_paused_by:
        output.say(f"Still held back: {one.name} is paused.")
    if verb == "resume" and everything and not now.changed:
        output.say("What is paused by itself, and by whom: controlplane pauses list")


def _one(reasoner: str | None, node: str | None, everything: bool) -> tuple[str, str]:
    """How it is called, and where it is. Raises Failure unless exactly one was named."""
    if (reasoner is not None) + (node is not None) + everything != 1:
        raise Failure("Say what: one of --reasoner, --node and --all.", code=ExitCode.USAGE)
    if reasoner is not None:
        return reasoner, f"/reasoners/{quote(reasoner, safe='')}"
    return (EVERYTHING, "") if node is None else (node, f"/nodes/{quote(node, safe='')}")
