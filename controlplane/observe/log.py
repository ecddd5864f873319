"""Log lines: an event name and facts; JSON for machines, aligned text for people at a terminal.

Never payloads, memory values, secrets or whole webhook URLs.
"""

from __future__ import annotations

import logging
import sys

import structlog


def configure(level: str, *, pretty: bool | None = None) -> None:
    """Send every log line of the process through one formatter, to stderr."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    people = sys.stderr.isatty() if pretty is None else pretty
    last: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if people else structlog.processors.JSONRenderer()
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                last,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for quiet in ("alembic", "asyncio", "uvicorn.access"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
