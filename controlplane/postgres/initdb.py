"""Make an empty cluster for the embedded PostgreSQL."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from controlplane.postgres.footing import EmbeddedPostgresError, Footing, environment

BUILTIN_LOCALE_MAJOR = 17


def initdb(footing: Footing, *, superuser: str, password: str, durable: bool, pass_fds: Collection[int]) -> None:
    """Make the cluster of this footing; it appears in its place whole or not at all.

    Strings sort by code point on every system: by the builtin provider, and before 17, which has none, by "C".
    """
    cluster = footing.cluster
    staging, pwfile = cluster.with_name(cluster.name + ".new"), cluster.with_name(cluster.name + ".pwfile")
    if cluster.exists():
        cluster.rmdir()  # which refuses if somebody's files are in it
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    footing.give(staging)
    builtin = footing.binaries.version[0] >= BUILTIN_LOCALE_MAJOR
    options = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if builtin else ["--no-locale"]
    options += ["-E", "UTF8", "-A", "scram-sha-256", "-U", superuser, f"--pwfile={pwfile}"]
    options += [] if durable else ["--no-sync"]
    command = footing.command("initdb", "-D", str(staging), *options)
    try:
        write_private(pwfile, password)
        footing.give(pwfile)
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=False, env=environment(), pass_fds=pass_fds
        )
    finally:
        pwfile.unlink(missing_ok=True)
    if done.returncode != 0:
        raise EmbeddedPostgresError(f"initdb failed.\n{done.stdout}{done.stderr}", fix="see what it says above.")
    staging.rename(cluster)
    if durable:
        _sync(cluster.parent)


def write_private(file: Path, text: str) -> None:
    """Write a file, whole and on disk when this returns, that nobody else can read."""
    draft = file.with_name(file.name + ".new")
    draft.unlink(missing_ok=True)
    with open(draft, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as new:
        new.write(text)
        new.flush()
        os.fsync(new.fileno())
    draft.replace(file)


def _sync(folder: Path) -> None:
    """Put the names in a folder on disk: else a power cut could take back the rename, and with it all data."""
    if sys.platform == "win32":
        return
    names = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(names)
    finally:
        os.close(names)
