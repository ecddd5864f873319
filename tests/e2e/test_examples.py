"""The examples do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

BATCH = Path(__file__).parent.parent.parent / "examples" / "batch"
STORY_SECONDS = 100.0


def test_the_whole_story(measured: Callable[[str, float], None]) -> None:
    """`make demo`: hundreds of documents, two processes killed with SIGKILL, one signed webhook, every promise held."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "DATABASE_URL"))}
    done = subprocess.run(
        [sys.executable, "demo.py"],
        cwd=BATCH,
        env=env,
        capture_output=True,
        text=True,
        timeout=STORY_SECONDS,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗" not in done.stdout
    assert done.stdout.count("✓") == 6
    assert done.stdout.count("kill -9") == 2
    measured("the whole story", float(re.findall(r"seconds +([0-9.]+)", done.stdout)[0]))


def test_steps_and_waits() -> None:
    """A node killed in the middle of its steps, a release that waits in a node of one slot, and a fan-out."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "DATABASE_URL"))}
    done = subprocess.run(
        [sys.executable, "demo.py"],
        cwd=BATCH.parent / "steps",
        env=env,
        capture_output=True,
        text=True,
        timeout=STORY_SECONDS,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("✓") == 6
    assert "kill -9" in done.stdout
