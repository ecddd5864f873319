"""`controlplane audit …`: who changed what; take the log away; see that nothing in it was changed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import orjson

from controlplane.cli import output
from controlplane.cli.client import PREFIX, Client
from controlplane.cli.failure import ExitCode, Failure
from controlplane.domain.audit import START, Audited, Broken, Mark, walk
from controlplane.errors import Invalid

PATH = f"{PREFIX}/audit"
PAGE = 1_000
LINE_BYTES_MAX = 1024 * 1024


class Row(msgspec.Struct):
    """A row as one line of a list."""

    seq: int
    at: str
    actor_kind: str
    action: str
    object_kind: str
    object_id: str
    actor: str | None = None
    address: str | None = None
    before: msgspec.Raw = msgspec.Raw()
    after: msgspec.Raw = msgspec.Raw()


class Listing(msgspec.Struct):
    items: list[Row]
    next_before: int | None = None


class Page(msgspec.Struct):
    items: list[msgspec.Raw]
    next_after: int | None = None


class BrokenShape(msgspec.Struct):
    seq: int
    why: str


class Verified(msgspec.Struct):
    namespace: str
    complete: bool
    rows: int
    begin: str
    end: str
    head: str
    broken: BrokenShape | None = None


def listing(client: Client, query: dict[str, str | int | None], *, as_json: bool) -> None:
    """Print one page, newest first."""
    body = client.get(PATH, query)
    if as_json:
        output.data(body)
        return
    page = msgspec.json.decode(body, type=Listing)
    if not page.items:
        output.say("Nothing here.")
    else:
        output.table(
            ("SEQ", "AT", "WHO", "FROM", "ACTION", "OBJECT", "BEFORE", "AFTER"),
            (
                (
                    one.seq,
                    output.moment(one.at),
                    one.actor or one.actor_kind,
                    one.address,
                    one.action,
                    f"{one.object_kind} {one.object_id}",
                    bytes(one.before).decode(),
                    bytes(one.after).decode(),
                )
                for one in page.items
            ),
        )
    if page.next_before is not None:
        output.say(f"More: --before {page.next_before}")


def export(client: Client, *, after: int, namespace: str | None) -> None:
    """Print every row as a line of JSON, oldest first, and say the head at the end."""
    last: msgspec.Raw | None = None
    following: int | None = after
    while following is not None:
        body = client.get(PATH, {"after": following, "namespace": namespace, "limit": PAGE})
        page = msgspec.json.decode(body, type=Page)
        for one in page.items:
            output.data(bytes(one))
            last = one
        following = page.next_after
    if last is not None:
        output.say(f"head {_row(bytes(last)).mark}")


def verify(client: Client, *, namespace: str | None, head: str | None, as_json: bool) -> None:
    """Let the server go along its chain, bit by bit, and say the first row that is not what was written."""
    after: str | None = None
    rows, first = 0, ""
    while True:
        body = client.get(f"{PATH}/verify", {"after": after, "head": head, "namespace": namespace})
        found = msgspec.json.decode(body, type=Verified)
        rows, first = rows + found.rows, first or found.begin
        if found.broken is not None or found.complete:
            break
        after = found.end
    broken = None if found.broken is None else Broken(found.broken.seq, found.broken.why)
    _say(broken, rows=rows, begin=first, end=found.end, head=found.head, as_json=as_json)


def verify_file(path: Path, *, head: str | None, as_json: bool) -> None:
    """The same of an export, without any server."""
    kept = None if head is None else _mark(head)
    begin: Mark | None = None
    end, rows, broken, compared = START, 0, None, False
    for row in _rows(path):
        if begin is None:
            begin = end = START if row.seq == 1 else Mark(row.seq - 1, row.previous)
        broken = walk(end, [row]).broken
        if broken is None and kept is not None and row.seq == kept.seq:
            compared = True
            if row.hash != kept.hash:
                broken = Broken(row.seq, "It has another hash than it had.")
        if broken is not None:
            break
        end, rows = row.mark, rows + 1
    if broken is None and kept is not None and not compared and kept.seq > end.seq:
        broken = Broken(end.seq + 1, "It is missing: the chain has gone further.")
    _say(broken, rows=rows, begin=str(begin or START), end=str(end), head=str(end), as_json=as_json)


def _rows(path: Path) -> Iterator[Audited]:
    stream = sys.stdin.buffer if str(path) == "-" else _opened(path)
    with stream:
        for n, line in enumerate(iter(lambda: stream.readline(LINE_BYTES_MAX), b""), 1):
            if line.strip():
                try:
                    yield _row(line)
                except ValueError as error:
                    raise Failure(f"Line {n} of {path}: {error}", code=ExitCode.USAGE) from None


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}", code=ExitCode.USAGE) from None


def _row(line: bytes) -> Audited:
    return Audited.from_shape(orjson.loads(line))


def _mark(text: str) -> Mark:
    try:
        return Mark.read(text, where="--head")
    except Invalid as error:
        raise Failure(f"--head: {error.detail}", fix=error.fix, code=ExitCode.USAGE) from None


def _say(broken: Broken | None, *, rows: int, begin: str, end: str, head: str, as_json: bool) -> None:
    if as_json:
        said = None if broken is None else {"seq": broken.seq, "why": broken.why}
        output.data(
            orjson.dumps(
                {"holds": broken is None, "rows": rows, "begin": begin, "end": end, "head": head, "broken": said}
            )
        )
    elif broken is None:
        output.facts([("holds", "yes"), ("rows", rows), ("begin", begin), ("head", head)])
    if broken is not None:
        raise Failure(
            f"Row {broken.seq} of the audit log: {broken.why}",
            fix=f"All up to {end} is as it was written.",
            code=ExitCode.CONFLICT,
        )
