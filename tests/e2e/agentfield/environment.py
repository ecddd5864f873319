"""The environment of the agents of these tests: the SDK as it is published, apart from everything of ours.

Made once, from the package registry, and made anew when what it consists of changes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"
ENVIRONMENT = HERE.parents[2] / ".venv-agentfield"
PYTHON = ENVIRONMENT / "bin" / "python"
INSTALL_SECONDS = 900.0


def installed() -> Path:
    """The interpreter that has the SDK. Whoever comes while another installs it waits."""
    contents = f"{sys.version}\n{REQUIREMENTS.read_text()}"
    stamp = ENVIRONMENT / "installed"
    with REQUIREMENTS.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != contents:
            shutil.rmtree(ENVIRONMENT, ignore_errors=True)
            run(sys.executable, "-m", "venv", str(ENVIRONMENT))
            pip = (str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
            run(*pip, "--requirement", str(REQUIREMENTS))
            stamp.write_text(contents)
    return PYTHON


def run(*command: str) -> None:
    """Skips what needs it when it cannot be done, with what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        skip_or_fail(f"AgentField's SDK was not installed within {INSTALL_SECONDS:g} s")
        return
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        skip_or_fail(f"AgentField's SDK cannot be installed from the package registry: {' '.join(last)}")


def skip_or_fail(reason: str) -> None:
    """Skip the test; but where everything has to be there, in CI, what is missing is a failure."""
    if os.environ.get("CI") == "true" and os.geteuid() == 0:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
