"""Debian packages that a test needs: installed as root, skipped without it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

_LOCK = Path(tempfile.gettempdir()) / "controlplane-tests-debian.lock"


def install(*packages: str) -> None:
    """These packages are there from here on; without root the test is skipped. One worker at a time installs."""
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [one for one in packages if not _is_installed(one)]
        if not missing:
            return
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            pytest.skip(f"needs Debian's {', '.join(missing)}, and root to install it")
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
        if subprocess.run(command, env=environment, capture_output=True, check=False).returncode != 0:
            subprocess.run(["apt-get", "update", "-q"], env=environment, capture_output=True, check=True)
            subprocess.run(command, env=environment, capture_output=True, check=True)


def _is_installed(package: str) -> bool:
    asked = ["dpkg-query", "-W", "-f=${Status}", package]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    return found.stdout.endswith(" installed")
