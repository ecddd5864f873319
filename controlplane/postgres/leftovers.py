"""End the backends that a dead postmaster left behind."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

BACKEND_TITLE = "postgres: "  # begins the command line of every process of a server but the postmaster's


def end_leftovers(cluster: Path) -> list[int]:
    """Kill the processes in this data folder if the postmaster is not among them; returns their pids. Linux only.

    A backend deep in a query does not notice that the postmaster is gone, and while it lives nobody may start another.
    What it does is lost already. `cluster` has no symlinks.
    """
    if sys.platform != "linux":
        return []
    titles = dict(_processes(cluster))
    if not all(title.startswith(BACKEND_TITLE) for title in titles.values()):
        return []  # the postmaster lives, perhaps it is only starting
    for pid in titles:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return list(titles)


def _processes(cluster: Path) -> Iterator[tuple[int, str]]:
    """The pid and the command line of each process of PostgreSQL that has this working directory."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or is somebody else's
            if (process / "cwd").readlink() == cluster and (process / "exe").readlink().name.startswith("postgres"):
                yield int(process.name), (process / "cmdline").read_text(errors="replace")
