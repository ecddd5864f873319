"""The nursery: one process that has imported everything with its crash points, and forks those that are to die.

A server takes a second to be imported and a tenth to begin: with some thousand deaths to die, that decides whether all
of them can be tried. What is forked is a process like any other: it is killed, it ends, it is started again, and shares
nothing with its mother but code.

    with Nursery(modules, folder) as nursery:
        child = await nursery.start("serve", "server", env)    # `parts`: what a child can be
        await child.arm(("daemons.dispatcher:Dispatcher.tick#1", "before", 1))
        code = await child.ended()                      # 137, once it has come there

The driver speaks with each child on a line of its own; a child whose line breaks ends at once, so none is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.crash import points
from tests.crash.points import Side

ANSWER_SECONDS = 20.0
PIECE_BYTES = 1 << 20
ROOT = Path(__file__).parents[3]

At = tuple[str, str, int]
"""A point, a side of it, and the visit at which it kills."""


class Child:
    """A process of the nursery's, seen from the driver."""

    def __init__(self, name: str, line: socket.socket, log: Path) -> None:
        loop = asyncio.get_running_loop()
        self.name = name
        self.log_file = log
        self.pid: asyncio.Future[int] = loop.create_future()
        self.code: asyncio.Future[int] = loop.create_future()
        self._line = line

    @property
    def alive(self) -> bool:
        return not self.code.done()

    async def arm(self, at: At | None) -> None:
        """It dies there; with None it does not any more."""
        await self._ask({"arm": at})

    async def visits(self) -> Counter[tuple[str, Side]]:
        """What it has passed since it was asked last."""
        return _counted(await self._ask({"visits": True}))

    def passed(self) -> Counter[tuple[str, Side]]:
        """What it had passed since then when it ended by itself; nothing when it was killed."""
        file = self.log_file.with_suffix(".visits")
        return _counted(json.loads(file.read_text())) if file.exists() else Counter()

    async def ended(self) -> int:
        return await asyncio.shield(self.code)

    async def kill(self) -> None:
        self._signal(signal.SIGKILL)
        await self.ended()

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def close(self) -> None:
        """Its line: it ends, if it has not."""
        self._line.close()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid.result(), number)

    async def _ask(self, words: Mapping[str, Any]) -> Any:
        """Its answer; nothing when it has died meanwhile."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await loop.sock_sendall(self._line, json.dumps(words).encode() + b"\n")
                heard = b""
                while not heard.endswith(b"\n"):
                    piece = await loop.sock_recv(self._line, PIECE_BYTES)
                    if not piece:
                        return {}
                    heard += piece
        except ConnectionError:
            return {}
        return json.loads(heard)


class Nursery:
    """`modules` have their points in every child. Used within the event loop that it is started in."""

    def __init__(self, modules: Iterable[str], folder: Path) -> None:
        self.folder = folder
        self._modules = list(modules)
        self._children: dict[str, Child] = {}
        self._numbers: Counter[str] = Counter()
        self._lines: list[Child] = []
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._line, theirs = socket.socketpair()
        with (self.folder / "nursery.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "tests.crash.awaits.nursery", str(theirs.fileno()), *self._modules),
                cwd=ROOT,
                env=_environment(),
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
            )
        theirs.close()
        self._line.setblocking(False)
        self._hearing = asyncio.create_task(self._hear())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in (*self._children.values(), *self._lines):
            child.close()
        self._hearing.cancel()
        await asyncio.gather(self._hearing, return_exceptions=True)
        self._line.close()
        await self._process.wait()

    async def start(
        self, part: str, name: str, env: Mapping[str, str], *, at: At | None = None, arguments: Sequence[str] = ()
    ) -> Child:
        """A new process that plays this part, and dies there if it comes there. Called off meanwhile it ends."""
        self._numbers[name] += 1
        mine, theirs = socket.socketpair()
        mine.setblocking(False)
        log = self.folder / f"{name}.log"
        log.with_suffix(".visits").unlink(missing_ok=True)
        known = f"{name}#{self._numbers[name]}"
        wish = {"name": known, "part": part, "env": dict(env), "log": str(log), "at": at, "arguments": list(arguments)}
        child = Child(name, mine, log)
        try:
            async with self._turn:
                self._children[known] = child
                socket.send_fds(self._line, [json.dumps(wish).encode()], [theirs.fileno()])
                await asyncio.shield(child.pid)
        except asyncio.CancelledError:
            child.close()
            raise
        finally:
            theirs.close()
        return child

    async def _hear(self) -> None:
        loop = asyncio.get_running_loop()
        heard = b""
        while piece := await loop.sock_recv(self._line, PIECE_BYTES):
            *lines, heard = (heard + piece).split(b"\n")
            for line in lines:
                said = json.loads(line)
                if "pid" in said:
                    self._children[said["name"]].pid.set_result(said["pid"])
                else:
                    child = self._children.pop(said["name"])
                    child.code.set_result(said["code"])
                    self._lines.append(child)
                    loop.call_later(ANSWER_SECONDS, child.close)  # somebody may be asking it still


def _counted(said: Mapping[str, int]) -> Counter[tuple[str, Side]]:
    return Counter({(name.rpartition(" ")[0], Side(name.rpartition(" ")[2])): n for name, n in said.items()})


def _environment() -> dict[str, str]:
    """The driver's own settings are not those of what it drives."""
    ours = ("CONTROLPLANE_", "AGENTFIELD_", "DATABASE_URL", "CRASH_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


# In the nursery's process.


def main() -> None:
    line = socket.socket(fileno=int(sys.argv[1]))
    points.install(sys.argv[2:])
    from tests.crash.awaits.parts import PARTS  # the first import of anything that has points

    names: dict[int, str] = {}

    def say(**words: Any) -> None:
        line.sendall(json.dumps(words).encode() + b"\n")

    def reap(*_: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                say(name=names.pop(found[0]), code=os.waitstatus_to_exitcode(found[1]))

    signal.signal(signal.SIGCHLD, reap)
    while True:
        data, [*fds], _, _ = socket.recv_fds(line, PIECE_BYTES, 1)
        if not data:  # the driver is gone, and every child's line with it
            return
        wish = json.loads(data)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        if not (pid := os.fork()):
            line.close()
            _live(PARTS[wish["part"]], wish, socket.socket(fileno=fds[0]))
        os.close(fds[0])
        names[pid] = wish["name"]
        say(name=wish["name"], pid=pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def _live(part: Callable[..., None], wish: dict[str, Any], line: socket.socket) -> None:
    """The whole life of a child; does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    os.setsid()
    log = os.open(wish["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(wish["env"])
    if wish["at"]:
        name, side, visit = wish["at"]
        points.arm(name, Side(side), visit)
    threading.Thread(target=_listen, args=(line,), daemon=True).start()
    code = 1
    try:
        code = _play(part, wish["arguments"])
    finally:
        with contextlib.suppress(OSError):
            (Path(wish["log"]).with_suffix(".visits")).write_text(json.dumps(_told()))
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _play(part: Callable[..., None], arguments: Sequence[str]) -> int:
    try:
        part(*arguments)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - it is told where it is looked for
        traceback.print_exc()
        return 1
    return 0


def _listen(line: socket.socket) -> None:
    """Do what the driver says."""
    with line.makefile("rwb") as words:
        for word in words:
            said = json.loads(word)
            if "arm" in said:
                points.disarm()
                if said["arm"]:
                    name, side, visit = said["arm"]
                    points.arm(name, Side(side), visit)
                answer: object = {}
            else:
                answer = _told()
            words.write(json.dumps(answer).encode() + b"\n")
            words.flush()
    os._exit(1)


_told_before: Counter[tuple[str, Side]] = Counter()


def _told() -> dict[str, int]:
    """What was passed since this was asked last."""
    global _told_before
    before, _told_before = _told_before, points.visits()
    return {f"{name} {side}": count for (name, side), count in (_told_before - before).items()}


if __name__ == "__main__":
    main()
