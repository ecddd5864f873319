"""Several server processes behind one address: each a replica with a socket of its own, and this process minds them.

Python runs on one core at a time, so that a machine is full only with as many servers as it has cores. The sockets are
bound here, and the kernel spreads new connections over them (SO_REUSEPORT); they stay open here while a worker that
died is begun anew, so that who connects meanwhile waits and is not refused. A worker is begun by fork, before anything
that would not survive one: no loop, no thread, no connection.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

from controlplane.cli.failure import ExitCode, Failure

log = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0
"""Until what died is begun anew: what kills it at once again shall not keep a core busy."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def require_able() -> None:
    """Raises Failure where there can be no workers."""
    if not hasattr(os, "fork") or not hasattr(socket, "SO_REUSEPORT"):
        raise Failure("Several workers need fork and SO_REUSEPORT.", fix="Use --workers 1.", code=ExitCode.USAGE)


def spread(listeners: Sequence[Sequence[socket.socket]]) -> int:
    """Begin a worker for each of these, and return in each, with its number. Never returns in this process.

    It passes on what it is told to end by. A worker that is killed, or ends without being told and without a complaint,
    is begun anew; one that fails has said why, and ends all with its exit code. When this process is killed they die
    with it.
    """
    crew = _Crew(listeners)
    for number in range(len(listeners)):
        if crew.begin(number):
            return number
    begun_anew = crew.mind()
    if begun_anew is not None:
        return begun_anew
    sys.exit(crew.code)


class _Crew:
    def __init__(self, listeners: Sequence[Sequence[socket.socket]]) -> None:
        self._listeners = listeners
        self._workers: dict[int, int] = {}
        """Their numbers, by their process ids."""
        self._leaving = False
        self.code = int(ExitCode.OK)
        self._lifeline, self._held = os.pipe()
        for one in SIGNALS:
            signal.signal(one, self._told)

    def begin(self, number: int) -> bool:
        """Whether this is the new worker."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # one that comes now is for the new one, too
        try:
            if self._leaving:
                return False
            pid = os.fork()
            if pid:
                self._workers[pid] = number
            else:
                self._become(number)
            return not pid
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def mind(self) -> int | None:
        """Until all have ended. In a worker that is begun meanwhile, its number."""
        while self._workers:
            pid, status = os.wait()
            number, code = self._workers.pop(pid, None), os.waitstatus_to_exitcode(status)
            if number is None:  # somebody's child whose parent has died: the first process of a container gets them
                continue
            if self._leaving:
                self.code = self.code or max(0, code)
            elif code > 0:
                self.code = code
                self._leave()
            else:
                log.warning("worker.died", extra={"worker": number, "exit_code": code})
                time.sleep(PAUSE_SECONDS)
                if self.begin(number):
                    return number
        return None

    def _told(self, _signal: int, _frame: FrameType | None) -> None:
        self._leave()

    def _leave(self) -> None:
        """Each time it is called they hurry more, as a server by itself does."""
        self._leaving = True
        for listener in self._listeners:
            for one in listener:
                one.close()  # whoever connects from here on is refused, and does not wait for nobody
        for pid in list(self._workers):
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(pid, signal.SIGTERM)

    def _become(self, number: int) -> None:
        """Of a process that has just begun: it is a worker from here on."""
        for told in SIGNALS:
            signal.signal(told, signal.SIG_DFL)
        os.setpgid(0, 0)  # Ctrl-C is told to the one that minds it, which passes it on once
        os.close(self._held)
        for other, listener in enumerate(self._listeners):
            for one in listener if other != number else ():
                one.close()
        threading.Thread(target=_die_with, args=(self._lifeline,), name="lifeline", daemon=True).start()


def _die_with(lifeline: int) -> None:
    """The other end is open for as long as the process lives that minds this one."""
    os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGKILL)
