"""What tests have to say, before pytest's own last line: figures, seconds of CI's time, and which of them raced.

CI runs a test that failed once more (`--reruns 1`): among ten thousand on two cores one may lose a race of its own.
Such a test is named, to be repaired; more than a few of them are no accident, and fail the run.
"""

from __future__ import annotations

import faulthandler
import signal
import time
from collections import Counter
from functools import cache

import httpx
import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

# Minutes of test time: three workers have a hundred and twenty of them in the forty that a run may take.
SHARES = {
    "tests/crash/awaits": 4,
    "tests/unit": 1,
    "tests/browser": 9,
    "tests/integration": 40,
    "tests/migrations": 1,
    "tests/property": 13,
    "tests/model": 2,
    "tests/e2e/agentfield": 6,
    "tests/e2e": 16,
    "tests/docs": 3,
    "tests/crash": 13,
    "tests/chaos": 9,
    "sdk/python/tests": 2,
}

FIRST = (
    "tests/property/test_machine.py",
    "tests/crash",
    "tests/browser",
    "tests/chaos",
    "tests/e2e",
)
"""Files of minutes begin first, so that at the end no worker waits for another to end one."""

RACES_MAX = 3
"""Tests that may pass only when run once more."""

GRACE_SECONDS = 60.0
"""What a test has to end after its time is up. A process that hangs then says where and dies: its test has failed, and
the others go on in a new one."""

# Where the tests run in the background of a script they are told to ignore Ctrl-C, and so is every program that they
# start: one that is interrupted by a test would never end.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Every client reads all certificate authorities, which takes 50 ms, and most tests make one that asks this machine.
httpx._transports.default.create_ssl_context = cache(httpx.create_ssl_context)  # noqa: SLF001

_raced: dict[str, str] = {}
_spent: Counter[str] = Counter()
_said: list[str] = []
_began = time.monotonic()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((i for i, name in enumerate(FIRST) if item.nodeid.startswith(name)), len(FIRST)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    _die_unless_done(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    _die_unless_done(item)  # pytest puts an end to it when the test has failed


def pytest_runtest_logfinish() -> None:
    faulthandler.cancel_dump_traceback_later()


def _die_unless_done(item: pytest.Item) -> None:
    """pytest-timeout raises in the main thread, once: what swallows that, or waits again to clean up, has no limit."""
    marker = item.get_closest_marker("timeout")
    seconds = float(marker.args[0] if marker else item.config.getini("timeout"))
    stderr = item.config.stash[fault_handler_stderr_fd_key]
    faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=stderr)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    suite = next((name for name in SHARES if report.nodeid.startswith(name)), "other")
    _spent[suite] += report.duration
    if report.outcome == "rerun":  # type: ignore[comparison-overlap]  # the plugin's word
        _raced[report.nodeid] = report.longreprtext
    if report.when == "call":
        _said.extend(str(what) for name, what in report.user_properties if name == "said")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if len(_raced) > RACES_MAX and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _spent or hasattr(terminalreporter.config, "workerinput"):
        return
    for what in _said:
        terminalreporter.section("said by a test")
        terminalreporter.line(what)
    terminalreporter.section("seconds spent, of the share in minutes")
    for suite, seconds in sorted(_spent.items()):
        terminalreporter.line(f"{suite:<20} {seconds:8.1f} s of {SHARES.get(suite, 0):>3} min")
    terminalreporter.line(f"{'wall clock':<20} {time.monotonic() - _began:8.1f} s of  40 min")
    if _raced:
        terminalreporter.section(f"failed once, run once more (at most {RACES_MAX} may)")
        for name, said in sorted(_raced.items()):
            terminalreporter.line(name)
            terminalreporter.line(said)
