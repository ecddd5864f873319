"""The peers' own environments: made from PyPI by the first run, kept for the next ones, never part of ours."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "controlplane-bench"
INSTALL_SECONDS = 240.0
WORDS = 300


class Absent(Exception):
    """This peer cannot be measured here, and why."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    name: str
    store: str
    """`postgres` or `redis`."""
    packages: tuple[str, ...]
    settings: str
    """What is not its default, from earlier pilots on two cores, and what that leaves out."""


PEERS = (
    Peer(
        name="dbos",
        store="postgres",
        packages=("dbos>=3.4,<4", "psycopg[binary]>=3.3,<4"),
        settings="polled every 0.1 s (by default 1 s), no limit of concurrency, 16 connections, called by threads",
    ),
    Peer(
        name="procrastinate",
        store="postgres",
        packages=("procrastinate>=3.10,<4", "psycopg[binary]>=3.3,<4", "uvloop"),
        settings="listen/notify, 32 at once, 16 connections; keeps no results, so the task inserts its own",
    ),
    Peer(
        name="pgqueuer",
        store="postgres",
        packages=("pgqueuer[asyncpg]>=1.6,<2", "uvloop"),
        settings="batches of 200, 16 connections; keeps no results, so the entrypoint inserts its own",
    ),
    Peer(
        name="celery",
        store="redis",
        packages=("celery[redis]>=5.7,<6", "hiredis"),
        settings="prefork, 2 processes, prefetch 4, called by threads; acknowledges early, so a killed worker loses "
        "what it holds",
    ),
    Peer(
        name="taskiq",
        store="redis",
        packages=("taskiq>=0.13,<0.14", "taskiq-redis>=1.2,<2", "hiredis", "uvloop", "orjson"),
        settings="list broker, 1 process of 100 at once; does not acknowledge, so a killed worker loses what it holds",
    ),
)


def environment(peer: Peer) -> Path:
    """The Python of its environment, which is made if it is not there or was left half made. Raises Absent."""
    key = hashlib.sha256(" ".join((sys.version, *peer.packages)).encode()).hexdigest()[:8]
    folder = CACHE / f"{peer.name}-{key}"
    python, whole = folder / "bin" / "python", folder / ".installed"
    if whole.exists():
        return python
    print(f"Installing {peer.name} (once, kept in {CACHE}) ...", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
    try:
        venv.create(folder, with_pip=True)
        done = subprocess.run(
            [*command, *peer.packages], capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Absent(f"not installed: {error}") from error
    if done.returncode:
        raise Absent(f"not installed: {last_words(done.stderr)}")
    whole.touch()
    return python


def redis_server() -> str:
    """Where Redis is; Debian's is installed if nobody has one. Raises Absent."""
    found = shutil.which("redis-server")
    if found is None:
        from tests import debian  # noqa: PLC0415 - needed on few machines

        try:
            debian.install("redis-server")
        except (pytest.skip.Exception, AssertionError) as error:
            raise Absent(f"no redis-server: {last_words(str(error))}") from error
        found = shutil.which("redis-server")
    if found is None:
        raise Absent("no redis-server on the path")
    return found


def last_words(text: str) -> str:
    """The last line that says something, cut to what a table holds."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:WORDS] if lines else "without a word"
