"""The table of controls is whole, and every test that it names is there."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs.generated import ROOT

TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \| (.+) \|$", TEXT, re.MULTILINE)
PROOFS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", TEXT)))
STATES = {"holds", "partly", "not yet", "no pages"}


def test_forty_controls() -> None:
    """Each has its row; what holds has a test, what does not says so."""
    assert [int(number) for number, *_ in ROWS] == list(range(1, 41))
    assert {state for _, _, state, _ in ROWS} <= STATES
    assert [number for number, _, state, how in ROWS if state == "holds" and "`tests/" not in how] == []


@pytest.mark.parametrize(("path", "name"), PROOFS)
def test_what_is_said_to_show_it_is_there(path: str, name: str) -> None:
    """A test that is renamed takes its row with it."""
    found = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    tests = {node.name for node in ast.walk(found) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}

    assert not name or name in tests
