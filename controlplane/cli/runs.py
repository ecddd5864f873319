"""`controlplane runs …`: list, show, cancel."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Sequence
from urllib.parse import quote

import msgspec
import orjson

from controlplane.cli import output
from controlplane.cli.client import PREFIX, Client, members

PATH = f"{PREFIX}/runs"
PAGE = 1_000


class Run(msgspec.Struct):
    """How far a run is."""

    run_id: str
    root_execution_id: str
    target: str
    status: str
    created_at: str
    executions: int
    unfinished: int
    counts: dict[str, int]
    truncated: bool = False
    completed_at: str | None = None

    @property
    def done(self) -> str:
        more = "+" if self.truncated else ""
        return f"{self.executions - self.unfinished}/{self.executions}{more}"

    @property
    def said(self) -> str:
        return ", ".join(f"{n} {status}" for status, n in self.counts.items())


class Listing(msgspec.Struct):
    items: list[Run]
    next_cursor: str | None = None


class Member(msgspec.Struct):
    """An execution as a line of the tree."""

    execution_id: str
    target: str
    status: str
    attempt: int
    parent_execution_id: str | None = None
    status_reason: str | None = None
    error_class: str | None = None
    duration_ms: int | None = None

    @property
    def line(self) -> str:
        took = None if self.duration_ms is None else f"{self.duration_ms / 1000:.3g} s"
        tries = f"attempt {self.attempt}" if self.attempt > 1 else None
        reason = None if self.status_reason == self.status else self.status_reason
        parts = (self.execution_id, self.target, self.status, reason, self.error_class, tries, took)
        return "  ".join(part for part in parts if part)


class Tree(msgspec.Struct):
    items: list[msgspec.Raw]
    next_cursor: str | None = None


def listing(client: Client, *, target: str | None, limit: int, cursor: str | None, as_json: bool) -> None:
    """Print one page, newest first."""
    body = client.get(PATH, {"target": target, "limit": limit, "cursor": cursor})
    if as_json:
        output.data(body)
        return
    page = msgspec.json.decode(body, type=Listing)
    if not page.items:
        output.say("No runs." if page.next_cursor is None else "None among the latest.")
    else:
        output.table(
            ("RUN", "STATUS", "TARGET", "DONE", "COUNTS", "CREATED"),
            (
                (one.run_id, one.status, one.target, one.done, one.said, output.moment(one.created_at))
                for one in page.items
            ),
        )
    if page.next_cursor is not None:
        output.say(f"More: --cursor {page.next_cursor}")


def show(client: Client, run_id: str, *, limit: int, as_json: bool) -> None:
    """Print how far a run is and its tree, at most `limit` executions, the oldest."""
    body = client.get(_path(run_id), {"limit": min(limit, PAGE)}, about=run_id)
    tree = msgspec.json.decode(body, type=Tree)
    items, cursor = list(tree.items), tree.next_cursor
    while cursor is not None and len(items) < limit:
        more = client.get(_path(run_id), {"limit": min(limit - len(items), PAGE), "cursor": cursor}, about=run_id)
        page = msgspec.json.decode(more, type=Tree)
        items, cursor = [*items, *page.items], page.next_cursor
    if as_json:
        output.data(msgspec.json.encode(members(body) | {"items": items, "next_cursor": cursor}))
        return
    run = msgspec.json.decode(body, type=Run)
    output.facts(
        [
            ("run_id", run.run_id),
            ("status", run.status),
            ("target", run.target),
            ("done", run.done),
            ("counts", run.said),
            ("created_at", run.created_at),
            ("completed_at", run.completed_at),
        ]
    )
    _draw([msgspec.json.decode(raw, type=Member) for raw in items])
    if cursor is not None:
        output.say(f"{len(items)} of its executions are shown; --limit shows more.")


def cancel(client: Client, run_id: str, *, reason: str | None, as_json: bool) -> None:
    """Cancel everything unfinished of it, however many requests that takes."""
    cancelled, settled = 0, 0
    while True:
        body = client.post(_path(run_id, "/cancel"), orjson.dumps({"reason": reason}), about=run_id)
        said = orjson.loads(body)
        cancelled += said["cancelled"]
        settled += said["settled"]
        if not said["truncated"]:
            break
    if as_json:
        output.data(orjson.dumps(said | {"cancelled": cancelled, "settled": settled}))
        return
    output.data(f"{run_id} cancelled: {cancelled} executions")
    if cancelled > settled:
        output.say(f"The nodes that run {cancelled - settled} of them have been told to stop.")


def _path(run_id: str, more: str = "") -> str:
    return f"{PATH}/{quote(run_id, safe='')}{more}"


def _draw(found: Sequence[Member]) -> None:
    """Children under their parents. One whose parent is not there (it is of another run) stands at the top."""
    from rich.console import Console  # noqa: PLC0415 - as in `output.table`
    from rich.text import Text  # noqa: PLC0415
    from rich.tree import Tree as Branch  # noqa: PLC0415

    top = Branch("", hide_root=True)
    branches: dict[str, Branch] = {}
    for one in found:  # a parent comes before its children
        above = branches.get(one.parent_execution_id or "", top)
        branches[one.execution_id] = above.add(Text(output.plain(one.line)))
    terminal = sys.stdout.isatty()
    drawn = io.StringIO()
    width = shutil.get_terminal_size().columns if terminal else output.PIPED_COLUMNS
    Console(file=drawn, force_terminal=terminal, highlight=False, width=width).print(top)
    output.data("\n".join(line.rstrip() for line in drawn.getvalue().splitlines()))
