"""What is printed where: data to stdout as the bytes it is, everything else to stderr."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence

import typer

PIPED_COLUMNS = 10_000  # a pipe has no width, so nothing is cut or folded there
# All but tab and line end; and what turns the direction of writing around.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
READER_LEFT = 128 + 13  # what a shell says of a process that SIGPIPE ended


def data(line: bytes | str) -> None:
    """One line of data; bytes go out exactly as they are. Ends the command when nobody reads any more."""
    raw = line.encode(errors="replace") if isinstance(line, str) else line
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(raw + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise typer.Exit(reader_left()) from None


def say(line: str) -> None:
    """One line of talk."""
    sys.stderr.write(plain(line) + "\n")
    sys.stderr.flush()


def complain(line: str) -> None:
    """Why it could not be done."""
    say(f"controlplane: {line}")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows for people; the first column is never folded. Nothing in a cell is taken for markup or obeyed."""
    from rich.console import Console  # noqa: PLC0415 - only some commands draw, and it is slow to import
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    terminal = sys.stdout.isatty()
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for n, name in enumerate(columns):
        shown.add_column(name, no_wrap=n == 0 or not terminal, overflow="fold")
    for row in rows:
        shown.add_row(*(Text("" if cell is None else plain(str(cell)).replace("\n", " ")) for cell in row))
    drawn = io.StringIO()
    width = shutil.get_terminal_size().columns if terminal else PIPED_COLUMNS
    Console(file=drawn, force_terminal=terminal, highlight=False, width=width).print(shown)
    data("\n".join(line.rstrip() for line in drawn.getvalue().splitlines()))


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Names and values below one another; what is not there is left out."""
    present = [(name, value) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in present), default=0)
    for name, value in present:
        data(f"{name:<{width}}  {plain(str(value))}")


def moment(text: str | None) -> str | None:
    """A time as the server writes it, to the second."""
    return None if text is None else f"{text[:19]}Z"


def plain(text: str) -> str:
    """The text with its control characters made visible: a terminal must not obey what somebody else wrote."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def reader_left() -> int:
    """Whoever read our output has gone: say no more, also not while the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return READER_LEFT
