"""How much of the time that CI has each suite took, printed before pytest's own last line."""

from __future__ import annotations

import time
from collections import Counter

import pytest

# Minutes of test time: two workers have eighty of them in the forty that a run may take.
SHARES = {
    "tests/crash/awaits": 4,
    "tests/unit": 1,
    "tests/integration": 34,
    "tests/migrations": 1,
    "tests/property": 5,
    "tests/e2e/agentfield": 5,
    "tests/e2e": 16,
    "tests/docs": 2,
    "sdk/python/tests": 3,
}

_spent: Counter[str] = Counter()
_began = time.monotonic()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    suite = next((name for name in SHARES if report.nodeid.startswith(name)), "other")
    _spent[suite] += report.duration


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _spent or hasattr(terminalreporter.config, "workerinput"):
        return
    terminalreporter.section("seconds spent, of the share in minutes")
    for suite, seconds in sorted(_spent.items()):
        terminalreporter.line(f"{suite:<20} {seconds:8.1f} s of {SHARES.get(suite, 0):>3} min")
    terminalreporter.line(f"{'wall clock':<20} {time.monotonic() - _began:8.1f} s of  40 min")
