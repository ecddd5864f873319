"""What processes have used, as the kernel tells it in /proc."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
UTIME, CUTIME = 11, 13
"""Fields of /proc/PID/stat behind the name; the system's time follows each."""


def family(pid: int) -> Iterator[int]:
    """This process and its descendants, however they were started."""
    yield pid
    yield from children(pid)


def children(pid: int) -> Iterator[int]:
    """The descendants alone."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                yield from family(int(child))


def cpu_seconds(pid: int) -> float:
    """Seconds of a core that this process and its descendants have used, and those of them that have ended."""
    return sum(map(_seconds, family(pid)))


def pss_mb(pid: int) -> float:
    """Megabytes of this process alone, pages that it shares divided by those who share them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no Pss of process {pid}")


def open_files(wanted: int) -> int:
    """Let this process and those that it starts have so many files open; how many they can have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    except (ValueError, OSError):  # only root goes beyond the hard limit, and not everywhere
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def slope(points: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Of the straight line through these points, by least squares, with its standard error."""
    xs, ys = zip(*points, strict=True)
    n = len(xs)
    mean_x, mean_y = sum(xs) / n, sum(ys) / n
    spread = sum((x - mean_x) ** 2 for x in xs)
    rise = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
    left = sum((y - mean_y - rise * (x - mean_x)) ** 2 for x, y in zip(xs, ys, strict=True))
    return rise, (left / max(n - 2, 1) / spread) ** 0.5


def _seconds(pid: int) -> float:
    """Its own and of the children that it has buried: what a backend used is not lost with it."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(fields[at]) for at in (UTIME, UTIME + 1, CUTIME, CUTIME + 1)) / TICKS
    return 0.0
