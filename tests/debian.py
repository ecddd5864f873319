"""Debian's packages, for tests of what only they have."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

LOCK = Path(tempfile.gettempdir()) / "controlplane-debian.lock"
UPDATED = LOCK.with_suffix(".updated")
"""There once the lists of packages have been asked for on this machine."""


def install(*packages: str) -> None:
    """Install these as root, one worker at a time. Skips where nobody may: without root, or without apt."""
    missing = [one for one in packages if not _installed(one)]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(f"needs root and apt to install {', '.join(missing)}")
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not UPDATED.exists():
            _run("apt-get", "update", "-q")
            UPDATED.touch()
        _run("apt-get", "install", "-q", "-y", "--no-install-recommends", *missing)


def _installed(package: str) -> bool:
    if shutil.which("dpkg-query") is None:
        return False
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Status}", package], capture_output=True, text=True, check=False
    )
    return asked.stdout == "install ok installed"


def _run(*command: str) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
