"""Log lines: each is one JSON object, whatever is in it."""

from __future__ import annotations

import json
import logging

import pytest

from controlplane.observe import log

FORGED = ['\n{"level":"info","event":"forged"}', "\x1b[2J\x1b[31m", "a\u2028b\u2029c", "\r\nx", "\x00\x85\ud800", '"}']


def test_nobody_forges_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Node ids, errors and paths come from strangers: no break, no escape sequence gets out of its line."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        log.configure("INFO", pretty=False)
        for said in FORGED:
            logging.getLogger("controlplane.x").info("node.joined", extra={"node_id": said, "error": repr(said)})
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    lines = capsys.readouterr().err.splitlines()

    assert [json.loads(line)["node_id"] for line in lines] == FORGED
    assert {json.loads(line)["event"] for line in lines} == {"node.joined"}
    assert all(line.isascii() and line.isprintable() for line in lines)
