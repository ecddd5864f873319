"""Payloads as people read them: laid out on lines, each number and each text as exactly the bytes that came."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

SHOWN_BYTES_MAX = 200_000
"""As much of one payload stands on a page; the rest is a download away."""
SHORT_CHARS_MAX = 160
INDENT = "  "
TOKEN = re.compile(
    r'(?P<space>\s+)|(?P<text>"(?:[^"\\]|\\.)*+")|(?P<number>-?[0-9][0-9.eE+-]*)|(?P<word>true|false|null)'
    r"|(?P<mark>[{}\[\],:])|(?P<rest>.)",
    re.DOTALL,
)


class Piece(NamedTuple):
    """A bit of a laid-out payload: what kind of thing it is (for its colour), and its letters."""

    kind: str
    letters: str


@dataclass(frozen=True, slots=True)
class Payload:
    """A JSON value as its bytes."""

    raw: bytes

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        """A text without its quotes, and anything else as it was written."""
        if self.raw[:1] == b'"':
            try:
                return msgspec.json.decode(self.raw, type=str)
            except msgspec.DecodeError:  # half of a pair of surrogates is a text in JSON and none anywhere else
                pass
        return self.raw.decode("utf-8", "replace")

    @property
    def size(self) -> int:
        return len(self.raw)

    @property
    def cut(self) -> bool:
        return len(self.raw) > SHOWN_BYTES_MAX

    @property
    def short(self) -> str:
        """Its beginning, on one line."""
        text = " ".join(str(self).split())
        return text if len(text) <= SHORT_CHARS_MAX else text[: SHORT_CHARS_MAX - 1] + "…"

    @property
    def is_text(self) -> bool:
        return self.raw[:1] == b'"'

    @property
    def pieces(self) -> list[Piece]:
        """Laid out with one member on a line; neighbours of a kind are one piece."""
        return list(_joined(_laid_out(self.raw[:SHOWN_BYTES_MAX].decode("utf-8", "replace"))))

    def get(self, name: str) -> Payload | None:
        """A member of it, if it is an object that has one."""
        try:
            found = msgspec.json.decode(self.raw, type=dict[str, msgspec.Raw]).get(name)
        except msgspec.DecodeError:
            return None
        return None if found is None else Payload(bytes(found))


def _laid_out(text: str) -> Iterator[Piece]:
    depth = 0
    tokens = [(str(match.lastgroup), match[0]) for match in TOKEN.finditer(text) if match.lastgroup != "space"]
    for at, (kind, letters) in enumerate(tokens):
        following = tokens[at + 1][1] if at + 1 < len(tokens) else ""
        if letters in ("{", "["):
            empty = following == ("}" if letters == "{" else "]")
            depth += not empty
            yield Piece("mark", letters if empty else f"{letters}\n{INDENT * depth}")
        elif letters in ("}", "]"):
            empty = at > 0 and tokens[at - 1][1] in ("{", "[")
            depth -= not empty
            yield Piece("mark", letters if empty else f"\n{INDENT * depth}{letters}")
        elif letters == ",":
            yield Piece("mark", f",\n{INDENT * depth}")
        elif letters == ":":
            yield Piece("mark", ": ")
        else:
            yield Piece("name" if kind == "text" and following == ":" else kind, letters)


def _joined(pieces: Iterator[Piece]) -> Iterator[Piece]:
    last: Piece | None = None
    for piece in pieces:
        if last is not None and last.kind == piece.kind:
            last = Piece(last.kind, last.letters + piece.letters)
            continue
        if last is not None:
            yield last
        last = piece
    if last is not None:
        yield last
