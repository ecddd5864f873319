"""Every code block of the documentation runs: Python is executed, shell is pasted into bash against a live server.

Port and URL aside, the text is used as it stands. `make` lines must name a target and are not run again from here.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.docs.generated import ROOT

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", ROOT / "sdk" / "python" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TARGET = re.compile(r"^([\w-]+):", re.MULTILINE)
START_SECONDS = 60.0


class Block(NamedTuple):
    page: Path
    number: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}-{self.number}"


class Served(NamedTuple):
    """A server and its database."""

    url: str
    database_url: str


OF_THE_DATABASE = {"verify.md"}
"""Pages of commands that read DATABASE_URL; others bring databases of their own."""
BLOCKS = [
    Block(page, number, *match.groups())
    for page in PAGES
    for number, match in enumerate(BLOCK.finditer(page.read_text()), 1)
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A development server with the README's own node."""
    folder = tmp_path_factory.mktemp("docs")
    agent = folder / "agent.py"
    agent.write_text(next(block.text for block in BLOCKS if "app.run()" in block.text))
    command = [
        sys.executable,
        "-m",
        "controlplane",
        "dev",
        "--port",
        "0",
        "--data-dir",
        str(folder / "data"),
        str(agent),
    ]
    # What a page says of the façades is run here, too; what they accept waits for nodes that nobody starts.
    on = {"CONTROLPLANE_JOBS_TARGET": "worker.process_job", "CONTROLPLANE_AGENT_TARGET": "assistant.answer"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=os.environ | on)
    try:
        noted = _ready(folder, process)
        yield Served(noted["url"], noted["database_url"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


@pytest.fixture
def url(served: Served) -> str:
    """Where it is."""
    return served.url


def _ready(folder: Path, process: subprocess.Popen[bytes]) -> dict[str, str]:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            found: dict[str, str] = json.loads((folder / "data" / "dev.json").read_text())
            if httpx.get(f"{found['url']}/api/v1/nodes").json()["count"]:
                return found
        except (OSError, ValueError, KeyError, httpx.TransportError):
            pass
        time.sleep(0.05)
    raise AssertionError((folder / "log").read_text())


def _run(command: list[str], url: str, folder: Path) -> str:
    env = os.environ | {"CONTROLPLANE_SERVER": url, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, check=False, env=env, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"], ids=str)
def test_python_runs(block: Block, url: str, tmp_path: Path) -> None:
    """The block is executed from its first line to its last; a node is defined, not served."""
    (tmp_path / "block.py").write_text(block.text.replace("http://localhost:8080", url))

    _run([sys.executable, "-c", "import runpy; runpy.run_path('block.py', run_name='docs')"], url, tmp_path)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "bash"], ids=str)
def test_shell_runs(block: Block, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block is pasted into bash and every line of it succeeds."""
    url = served.url
    if block.page.name in OF_THE_DATABASE:
        monkeypatch.setenv("DATABASE_URL", served.database_url)
    targets = set(TARGET.findall((ROOT / "Makefile").read_text()))
    lines = block.text.splitlines()
    made = [line.split()[1] for line in lines if line.startswith("make ")]
    script = "\n".join(line for line in lines if not line.startswith("make ")).replace("http://localhost:8080", url)

    said = _run(["bash", "-euo", "pipefail", "-c", script], url, tmp_path)

    assert set(made) <= targets
    assert '"status":4' not in said
    assert '"status":5' not in said


def test_every_block_is_of_a_kind_that_runs() -> None:
    """There is no block that nobody executes."""
    assert {block.language for block in BLOCKS} <= {"python", "bash"}
    assert len(BLOCKS) >= 5


def test_readme_is_short() -> None:
    """A newcomer reads it in one sitting."""
    assert len((ROOT / "README.md").read_text().splitlines()) < 150
