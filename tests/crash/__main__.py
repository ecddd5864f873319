"""`make crash`: kill every story at every point, or, asked by a test, some of them on its server.

    python -m tests.crash --json crash.json              # all of it, on a server of its own in memory
    python -m tests.crash waits clock --form moments …   # as the tests do it

The exit status is 1 when anything was lost, doubled or broken. How to read the rest: `campaign`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.crash import points
from tests.crash.modules import EXCEPTIONS, MODULES

if TYPE_CHECKING:
    from tests.crash.campaign import Place, Result, Story

CHUNKS = ("work", "waits", "clock", "control", "called", "doors", "keeping")
"""The modules of `stories`."""
MEMORY = Path("/dev/shm")


def main() -> None:
    asked = _arguments()
    points.install(MODULES, torn=[asked.torn])  # before the first import of any of them
    if asked.server:
        from tests.crash.campaign import Place

        told = _run(asked, Place(asked.server, asked.template))
    else:
        with _server() as place:
            told = _together(asked, place)
        _print(told)
    Path(asked.json).write_text(json.dumps(told, indent=1))
    sys.exit(bool(told["failures"]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("chunks", nargs="*", choices=[*CHUNKS, []], default=[], help="stories: all when none is named")
    parser.add_argument("--form", choices=["moments", "every", "none"], default="every", help="none: only live them")
    parser.add_argument("--json", default="crash.json", help="the file that the result is written to")
    parser.add_argument("--jobs", type=int, default=2, help="processes that kill at the same time")
    parser.add_argument("--part", default="0/1", help="n/of: only every of-th kill")
    parser.add_argument("--torn", default="", help="take this module's transactions away, and kill only there")
    parser.add_argument("--server", help="the DSN of a server on which databases may be made")
    parser.add_argument("--template", help="a migrated database of it")
    return parser.parse_args()


def _run(asked: argparse.Namespace, place: Place) -> dict[str, Any]:
    from tests.crash import campaign

    stories = _stories(asked.chunks or CHUNKS)
    if asked.form == "none":
        return _told(campaign.Result(passed=campaign.passed_by(stories, place)))
    part, of = map(int, asked.part.split("/"))
    within = asked.torn and f"{asked.torn.removeprefix(points.PACKAGE)}:"
    return _told(campaign.run(stories, place, campaign.Form(asked.form), part=(part, of), within=within))


def _stories(chunks: tuple[str, ...]) -> list[Story]:
    from importlib import import_module

    return [story for chunk in chunks for story in import_module(f"tests.crash.stories.{chunk}").STORIES]


def _told(result: Result) -> dict[str, Any]:
    return {
        "kills": result.kills,
        "seconds": round(result.seconds, 1),
        "passed": _shown(result.passed),
        "killed": _shown(result.killed),
        "wrong": _shown(result.wrong),
        "failures": result.failures,
    }


def _shown(passed: set[tuple[str, points.Side]]) -> list[str]:
    return sorted(f"{point} {side}" for point, side in passed)


@contextmanager
def _server() -> Iterator[Place]:
    """A server of our own, in memory where there is room, and a migrated template on it."""
    from controlplane.postgres.embedded import EmbeddedPostgres
    from controlplane.postgres.schema import migrate
    from tests.crash.campaign import Place, execute

    folder = Path(tempfile.mkdtemp(prefix="controlplane-crash-", dir=MEMORY if MEMORY.is_dir() else None))
    settings = {"autovacuum": "off", "max_connections": "100"}
    try:
        with EmbeddedPostgres(folder / "postgres", durable=False, settings=settings) as postgres:
            asyncio.run(execute(postgres.dsn, "create database crash_template"))
            migrate(urlsplit(postgres.dsn)._replace(path="/crash_template").geturl())
            asyncio.run(execute(postgres.dsn, "alter database crash_template with is_template true"))
            yield Place(postgres.dsn, "crash_template")
    finally:
        shutil.rmtree(folder)


def _together(asked: argparse.Namespace, place: Place) -> dict[str, Any]:
    """Several processes, each of which makes its part of the kills: none of them has a thread, so each can fork."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, str(n)) for n in range(asked.jobs)]
        command = [sys.executable, "-m", "tests.crash", *asked.chunks, "--form", asked.form]
        command += ["--server", place.server, "--template", place.template]
        started = [
            subprocess.Popen([*command, "--part", f"{n}/{asked.jobs}", "--json", str(file)])
            for n, file in enumerate(files)
        ]
        for one in started:
            one.wait()
        parts = [json.loads(file.read_text()) for file in files]
    return {
        "form": asked.form,
        "seed": None,
        "seconds": round(time.monotonic() - began, 1),
        "kills": sum(part["kills"] for part in parts),
        "modules": _by_module(parts),
        "exceptions": EXCEPTIONS,
        "failures": [one for part in parts for one in part["failures"]],
    }


def _by_module(parts: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """How many points and sides each module has, and how many of the sides were passed, killed and found wrong."""
    words = ("passed", "killed", "wrong")
    sides = {word: Counter(map(_module, {one for part in parts for one in part[word]})) for word in words}
    counted: dict[str, dict[str, int]] = {}
    for module in MODULES:
        if known := points.points_of(module):
            name = module.removeprefix(points.PACKAGE)
            counted[name] = {"points": len(known), "sides": 2 * len(known)}
            counted[name] |= {word: of[name] for word, of in sides.items()}
    return counted


def _module(side: str) -> str:
    return side.partition(":")[0]


def _print(told: dict[str, Any]) -> None:
    words = ("points", "sides", "passed", "killed", "wrong")
    print(f"{'module':<26}", *(f"{word:>7}" for word in words))
    for name, one in told["modules"].items():
        print(f"{name:<26}", *(f"{one[word]:>7}" for word in words))
    print(f"{told['kills']} kills in {told['seconds']} s, {len(told['failures'])} went wrong")
    for failure in told["failures"]:
        print(failure)


if __name__ == "__main__":
    main()
