"""The agent file of `controlplane dev`: a child process whose output is shown and whose end is told."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO

from controlplane.cli import output
from controlplane.cli.failure import ExitCode, Failure
from controlplane.postgres.footing import LAUNCH

DRAIN_SECONDS = 35.0  # the SDK's own drain is 30 s


class Agent:
    """`python agent.py`, told where the server is. On Linux it never outlives us."""

    def __init__(self, file: Path) -> None:
        if not file.exists():
            raise Failure(f"There is no agent file {file}.", fix="Name one that exists.", code=ExitCode.USAGE)
        self.file = file
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = False
        self._again = ""
        self._threads: list[threading.Thread] = []
        self.told = threading.Event()  # its end has been seen, and told unless we have asked for it

    def start(self, url: str, *, api_key: str | None) -> None:
        """Start it; to be called from the main thread, whose end would end it."""
        self._again = f"CONTROLPLANE_SERVER={url} {shlex.join(['python', str(self.file)])}"
        environment = os.environ | {"CONTROLPLANE_SERVER": url, "AGENTFIELD_SERVER": url, "PYTHONUNBUFFERED": "1"}
        if api_key is not None:
            environment["CONTROLPLANE_API_KEY"] = api_key
        command = [sys.executable, str(self.file)]
        if sys.platform != "win32":
            # Asks the kernel for a SIGINT when we die, however we die, and then becomes the command.
            command = [sys.executable, "-I", "-S", str(LAUNCH), "same", "0", "0", str(os.getpid()), ".", *command]
        self._process = process = subprocess.Popen(  # noqa: S603 - the file that the user named
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C in our terminal is for us: it drains while the server still serves
        )
        assert process.stdout is not None
        output.say(f"{self.file.name} runs (pid {process.pid}).")
        for name, work, argument in (("output", self._pass_on, process.stdout), ("end", self._tell_end, process)):
            thread = threading.Thread(target=work, args=(argument,), name=f"agent-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def end(self) -> None:
        """Let it drain, then end it the hard way. Harmless when it has not begun or has ended."""
        self._ending = True
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            output.say(f"{self.file.name} is asked to finish (at most {DRAIN_SECONDS:g} s; Ctrl-C again to hurry).")
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(DRAIN_SECONDS)
        self.kill()
        process.wait()
        for thread in self._threads:
            thread.join(1)  # its last words; a grandchild may keep the pipe open for ever

    def kill(self) -> None:
        """End it at once."""
        self._ending = True
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def _pass_on(self, lines: IO[bytes]) -> None:
        prefix = f"{self.file.stem} | "
        with lines:
            for line in lines:
                sys.stderr.write(prefix + line.decode(errors="replace").rstrip("\r\n") + "\n")
                sys.stderr.flush()

    def _tell_end(self, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        if not self._ending:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            output.say(f"{self.file.name} has ended ({how}). The server goes on; run it again: {self._again}")
        self.told.set()
