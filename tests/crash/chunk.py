"""How the tests ask for kills: in a process of its own, for pytest's has threads and cannot be forked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[2]


def run(folder: Path, server: str, template: str, *arguments: str, form: str) -> dict[str, Any]:
    """What `python -m tests.crash` has found."""
    file = folder / "crash.json"
    command = [sys.executable, "-m", "tests.crash", "--form", form, "--json", str(file), *arguments]
    ended = subprocess.run(
        [*command, "--server", server, "--template", template], cwd=HERE, capture_output=True, text=True, check=False
    )
    assert file.exists(), ended.stderr
    told: dict[str, Any] = json.loads(file.read_text())
    return told
