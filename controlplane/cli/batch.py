"""`controlplane batch`: submit what the lines of a file say, a thousand to a request."""

from __future__ import annotations

import re
import shlex
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import orjson

from controlplane.cli import output
from controlplane.cli.call import run_header
from controlplane.cli.client import Client, Problem, refusal
from controlplane.cli.failure import ExitCode, Failure

PIECE_MAX = 1_000
REFUSALS_SHOWN = 10
PIECE_BYTES_MAX = 8 * 1024 * 1024
EXAMPLE = """A line is like this: {"target": "node.reasoner", "input": {"n": 1}}."""
IN_ITEM = re.compile(r"body\.items\[\d+\]")

Line = tuple[int, bytes]
"""The number of a line, and the item that it says."""


class Said(Problem):
    """What the server says of one line."""

    http_status: int = 0
    execution_id: str | None = None


class Answer(msgspec.Struct):
    items: list[msgspec.Raw]
    warnings: list[dict[str, str]] = []


def batch(
    client: Client,
    file: str,
    *,
    same_run: bool,
    run_id: str | None,
    names: Mapping[str, str | None],
    idempotency_key: str | None,
    again: str,
    as_json: bool,
) -> None:
    """Print the id of each line's execution, in order. Raises Failure in the end where lines were refused.

    Each line has an idempotency key of its own: sent again with the same key, a file whose wrong lines were put right
    submits those, and no other line twice. `again` + a run is the command that shows how far it is.
    """
    key = idempotency_key or f"cli-{uuid.uuid4().hex}"
    headers = run_header(run_id or (f"batch-{key}"[:200] if same_run else None))
    headers |= {name: value for name, value in names.items() if value is not None}
    lines = list(read_lines(_read(file), key=key))
    refused: list[Failure] = []
    warned: set[str] = set()
    for piece in _pieces(lines):
        body = b'{"items":[%b]}' % b",".join(item for _, item in piece)
        answer = msgspec.json.decode(client.submit_batch(body, headers=headers), type=Answer)
        for (n, _), raw in zip(piece, answer.items, strict=True):
            said = msgspec.json.decode(raw, type=Said)
            if said.execution_id is None:
                said.where = IN_ITEM.sub("body", said.where or "")
                refused.append(refusal(said.http_status, said, about=f"line {n}"))
            if as_json:
                output.data(bytes(raw))
            elif said.execution_id is not None:
                output.data(said.execution_id)
        warned |= {one.get("message", "") for one in answer.warnings}
    _tell(refused, warned)
    output.say(f"{len(lines) - len(refused)} of {len(lines)} lines are accepted.")
    if shared := headers.get("X-Run-ID"):
        output.say(f"How far they are: {again} {shlex.quote(shared)}")
    if refused:
        raise Failure(
            f"{len(refused)} of {len(lines)} lines were refused.",
            fix=f"Put them right and send the file again with --idempotency-key {key}: no line is submitted twice.",
            code=ExitCode(refused[0].code),
        )


def read_lines(raw: bytes, *, key: str) -> Iterator[Line]:
    """The lines that are not empty, each with an idempotency key. Raises Failure where one is no JSON object."""
    for n, line in enumerate(raw.splitlines(), 1):
        item = line.strip()
        if not item:
            continue
        try:
            value = orjson.loads(item)
        except orjson.JSONDecodeError as error:
            raise Failure(f"Line {n} is not JSON: {error.msg}.", fix=EXAMPLE, code=ExitCode.USAGE) from None
        if not isinstance(value, dict):
            raise Failure(f"Line {n} is not an object.", fix=EXAMPLE, code=ExitCode.USAGE)
        if "idempotency_key" not in value:
            more = b"," if value else b""
            item = b'{"idempotency_key":%b%b%b' % (orjson.dumps(f"{key}-{n}"), more, item[1:])
        yield n, item


def _tell(refused: list[Failure], warned: set[str]) -> None:
    """Every warning once, and the first refusals: a mistake of the program that wrote the file is in every line."""
    for one in refused[:REFUSALS_SHOWN]:
        output.complain(str(one))
    if len(refused) > REFUSALS_SHOWN:
        output.say(f"… and {len(refused) - REFUSALS_SHOWN} more lines were refused; --json prints an answer for each.")
    for warning in sorted(warned):
        output.say(f"Note: {warning}")


def _pieces(lines: list[Line]) -> Iterator[list[Line]]:
    """The lines in as few requests as their number and their size allow."""
    piece: list[Line] = []
    size = 0
    for line in lines:
        if piece and (len(piece) == PIECE_MAX or size + len(line[1]) > PIECE_BYTES_MAX):
            yield piece
            piece, size = [], 0
        piece.append(line)
        size += len(line[1]) + 1
    if piece:
        yield piece


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise Failure(f"The file {file} cannot be read: {error.strerror}.", code=ExitCode.USAGE) from None
