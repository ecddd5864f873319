"""The next step of an explanation as a command, where there is one."""

from __future__ import annotations

import re
from collections.abc import Callable

AT = r"/api/v1"
NAME = r"([\w.:%/-]*[\w%/-])"
END = r"(?=\.$|[;,] )"
COMMANDS = [
    (rf"GET {AT}/executions/{NAME}/attempts", "executions attempts {0}"),
    (rf"GET {AT}/executions/{NAME}/explain", "executions explain {0}"),
    (rf"POST {AT}/executions/{NAME}/(resume|retry|restart)", "executions {1} {0}"),
    (rf"POST {AT}/executions/{NAME}/signals/{NAME}", "executions signal {0} {1}"),
    (rf"POST {AT}/executions/{NAME}/approval-response", "approvals approve {0}"),
    (rf"POST {AT}/reasoners/{NAME}/resume", "resume --reasoner {0}"),
    (rf"POST {AT}/nodes/{NAME}/resume", "resume --node {0}"),
    (rf"POST {AT}/nodes/{NAME}/undrain", "nodes undrain {0}"),
    (rf"POST {AT}/resume", "resume --all"),
    (rf"PUT {AT}/limits/{NAME}", "limits set {0} --concurrency-max N"),
]
"""Requests as explanations name them, and the command that sends each."""


def as_command(fix: str, command: Callable[[str], str]) -> str:
    """The sentence with its requests put as commands; `command` puts the program before one and its server behind it.

    What has no command stays the request that it is.
    """
    for request, words in COMMANDS:
        found = re.search(request + END, fix)
        if found is not None:
            fix = fix[: found.start()] + command(words.format(*found.groups())) + fix[found.end() :]
    return fix
