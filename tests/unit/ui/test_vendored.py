"""Other people's files that we serve or test with: they are what was reviewed, and their licences stand beside them."""

from __future__ import annotations

import hashlib
import json
import re

import pytest

from tests.docs.generated import ROOT
from tests.unit.test_supply import ALLOWED

FOLDERS = [ROOT / "controlplane/ui/static", ROOT / "tests/browser/vendored"]
PARTS = [(folder, part) for folder in FOLDERS for part in json.loads((folder / "vendored.json").read_text())]
OURS = {"pages.js", "theme.js"}


@pytest.mark.parametrize(("folder", "part"), PARTS, ids=[part["file"] for _, part in PARTS])
def test_a_vendored_file_is_what_was_recorded(folder, part) -> None:
    """Its sum, its version and its licence, which is one that we may use."""
    assert hashlib.sha256((folder / part["file"]).read_bytes()).hexdigest() == part["sha256"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", part["version"])
    assert re.fullmatch(r"[0-9a-f]{64}", part["package_sha256"])
    assert part["license"] in ALLOWED | {"0BSD"}
    assert len((folder / part["license_file"]).read_text()) > 200


def test_no_script_is_forgotten() -> None:
    """Each is ours, or stands in the list."""
    known = OURS | {part["file"] for _, part in PARTS}

    assert {path.name for folder in FOLDERS for path in folder.glob("*.js")} == known


def test_no_script_of_ours_makes_code_of_text() -> None:
    """Nor do templates hold any: the policy would stop them, in the browser of somebody at three in the morning."""
    scripts = "".join((FOLDERS[0] / name).read_text() for name in OURS)
    pages = "".join(path.read_text() for path in (ROOT / "controlplane/ui/templates").glob("*.html"))

    assert not re.search(r"\beval\(|new Function|document\.write", scripts)
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|javascript:|\|\s*safe\b|autoescape", pages)
