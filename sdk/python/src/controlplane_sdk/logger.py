"""`log_info` and its kin: a line on stderr, and inside an execution a line in its trace.

A line that says how far the work is, as "processed 3/10" does, is its progress too. From any thread.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import Any

from controlplane_sdk import strict_json
from controlplane_sdk.context import current
from controlplane_sdk.trace import MESSAGE_CHARACTERS

_log = logging.getLogger("controlplane_sdk")
_lines = logging.getLogger("controlplane_sdk.reasoner")

# "3/10" as a word of its own: not part of a path, a date, a version or a decimal number.
_PROGRESS = re.compile(r"(?<![\w/.\-])([0-9]{1,12})/([0-9]{1,12})(?![\w/\-]|\.[0-9])")


def log_debug(message: str, *args: object, event_type: str | None = None, **attributes: Any) -> None:
    """A line for those who look for a fault."""
    _write(logging.DEBUG, message, args, event_type, attributes)


def log_info(message: str, *args: object, event_type: str | None = None, **attributes: Any) -> None:
    """A line that tells what happens; "processed 3/10" is progress as well."""
    _write(logging.INFO, message, args, event_type, attributes)


def log_warning(message: str, *args: object, event_type: str | None = None, **attributes: Any) -> None:
    """A line about something odd that the work survived."""
    _write(logging.WARNING, message, args, event_type, attributes)


def log_error(message: str, *args: object, event_type: str | None = None, **attributes: Any) -> None:
    """A line about something that went wrong."""
    _write(logging.ERROR, message, args, event_type, attributes)


log_warn = log_warning


def find_progress(message: str) -> tuple[int, int] | None:
    """The last "n/m" of the text with n ≤ m, if there is one."""
    found = [(int(done), int(total)) for done, total in _PROGRESS.findall(message)]
    return next(((done, total) for done, total in reversed(found) if total > 0 and done <= total), None)


def _write(
    level: int, message: str, args: tuple[object, ...], event_type: str | None, attributes: dict[str, Any]
) -> None:
    text = str(message)
    if args:
        try:
            text = text % args
        except (TypeError, ValueError):
            text = " ".join([text, *map(str, args)])
    text = strict_json.printable(text, MESSAGE_CHARACTERS)
    context = current.get()
    extra = f" [{context.target} {context.fence}]" if context else ""
    _lines.log(level, "%s%s", text, extra)
    if context is None or context.trace is None:
        return
    name = logging.getLevelName(level).lower()
    context.trace.log(context.fence, name, text, event_type=event_type, attributes=attributes or None)
    if level >= logging.INFO and (progress := find_progress(text)):
        context.trace.progress(context.fence, *progress, None)


class _Stderr(logging.Handler):
    """Writes to stderr until the program sets up logging of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        if logging.getLogger().handlers:
            return  # The record reaches those by itself.
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError, UnicodeError):
            self.handleError(record)


def set_up() -> None:
    """Make lines visible at once. Level: CONTROLPLANE_LOG_LEVEL, else INFO."""
    if any(isinstance(handler, _Stderr) for handler in _log.handlers):
        return
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    _log.addHandler(handler)
    level = os.environ.get("CONTROLPLANE_LOG_LEVEL", "INFO").upper()
    _log.setLevel(level if level in logging.getLevelNamesMapping() else logging.INFO)


set_up()
