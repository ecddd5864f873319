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
INSTALL = ("apt-get", "install", "-q", "-y", "--no-install-recommends")


def install(*packages: str) -> None:
    """Install these as root, one worker at a time. Skips where nobody may: without root, or without apt."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [one for one in packages if not _installed(one)]
        if not missing:
            return
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            pytest.skip(f"needs root and apt to install {', '.join(missing)}")
        if _run(*INSTALL, *missing).returncode:  # the lists of packages are missing, or old
            _run("apt-get", "update", "-q")
            done = _run(*INSTALL, *missing)
            assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-2000:]}"


def _installed(package: str) -> bool:
    if shutil.which("dpkg-query") is None:
        return False
    return _run("dpkg-query", "-W", "-f", "${Status}", package).stdout == "install ok installed"


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
