"""How a command ends when it cannot do what was asked."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a script may rely on; shown by `controlplane --help`."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    NOT_FOUND = 3
    AUTH = 4
    CONFLICT = 5
    EXECUTION_FAILED = 6
    WAIT_TIMED_OUT = 7
    CANCELLED = 8
    UNREACHABLE = 9
    INTERRUPTED = 130


MEANING = {
    ExitCode.OK: "done",
    ExitCode.INTERNAL: "something broke, or a check of doctor failed",
    ExitCode.USAGE: "used wrongly: an option, an input or a setting is not valid",
    ExitCode.NOT_FOUND: "there is no such execution, run, target, node, schedule, bulk or database",
    ExitCode.AUTH: "the API key or the database's password is wrong",
    ExitCode.CONFLICT: "it contradicts what is already true: finished, port taken, schema behind",
    ExitCode.EXECUTION_FAILED: "the execution failed or ran out of its time; something of a bulk failed",
    ExitCode.WAIT_TIMED_OUT: "waited too long; the execution goes on",
    ExitCode.CANCELLED: "the execution was cancelled",
    ExitCode.UNREACHABLE: "the server or its database is out of reach",
    ExitCode.INTERRUPTED: "Ctrl-C; an execution that was waited for goes on",
}


class Failure(Exception):
    """It cannot be done: what and why, the next step, and the exit code."""

    def __init__(self, what: str, *, fix: str | None = None, code: ExitCode) -> None:
        self.what = what
        self.fix = fix
        self.code = code
        super().__init__(what if fix is None else f"{what} {fix}")
