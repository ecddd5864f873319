"""What `serve` and `dev` share: a socket, and a server that says when it is ready and ends in order."""

from __future__ import annotations

import errno
import gc
import logging
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

from fastapi import FastAPI

from controlplane.cli.database import ask
from controlplane.cli.failure import ExitCode, Failure
from controlplane.observe import log
from controlplane.reads.keys import any_key
from controlplane.server import Server, bind
from controlplane.settings import Settings
from controlplane.wire.limits import WireLimits

logger = logging.getLogger(__name__)

EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}  # noqa: S104
YOUNG_MAX = 20_000
"""New objects after which the collector looks for cycles among them: with 700 it went through what was still in use,
for 7 of 100 samples of this process with batches of submits, and for 16 with a thousand nodes that wait. Nearly all
goes without it, by its count of references.
"""


class Running(Server):
    """Calls `ready` once it serves. The first signal calls `leave` while it still serves, and then it stops;
    the second calls `hurry`; the third lets go of everything. run() returns instead of dying of the signal.
    """

    def __init__(
        self,
        app: FastAPI,
        *,
        drain_seconds: float,
        limits: WireLimits,
        ready: Callable[[], None],
        leave: Callable[[], None] | None = None,
        hurry: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(app, drain_seconds=drain_seconds, limits=limits)
        self._ready, self._leave, self._hurry = ready, leave, hurry
        self._signals = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.collect()
        gc.set_threshold(YOUNG_MAX, *gc.get_threshold()[1:])
        gc.freeze()  # what is loaded by now stays for good: no later collection has to go through it
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        logger.info("server.stopping", extra={"signal": signal.Signals(sig).name})
        if not self.started:  # nothing is under way, and the database may never come
            raise KeyboardInterrupt
        self._signals += 1
        if self._signals == 1 and self._leave is not None:
            threading.Thread(target=self._wind_down, args=(self._leave,), name="wind-down", daemon=True).start()
        elif self._signals <= 2:
            if self._hurry is not None:
                self._hurry()
            self.force_exit = self.should_exit
            self.should_exit = True
        else:
            self.should_exit = self.force_exit = True

    def _wind_down(self, leave: Callable[[], None]) -> None:
        try:
            leave()
        finally:
            self.should_exit = True


def configure_log(settings: Settings, *, pretty: bool) -> None:
    """Our own lines, and of others what we do not say ourselves."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("asyncpg").setLevel(logging.ERROR)  # its pool tells every lost connection with a traceback
    log.configure(settings.log_level.upper(), pretty=pretty)


def require_key_if_open(settings: Settings, *, keyed: Callable[[], bool] = lambda: False) -> None:
    """Refuse to let the whole network in. `keyed`: whether there is a key in the database."""
    if settings.open_to_others and settings.api_key is None and not keyed():
        raise Failure(
            f"{settings.host} is reachable by other machines, and there is no API key.",
            fix="Set CONTROLPLANE_API_KEY to a long random text, make a key (`controlplane keys create`),"
            " or listen on 127.0.0.1.",
            code=ExitCode.USAGE,
        )


def has_key(dsn: str, settings: Settings, *, patience_seconds: float = 0.0) -> bool:
    """Whether this database holds a key, or ever did."""
    return ask(dsn, lambda conn: any_key(conn, range(settings.buckets_hashed)), patience_seconds=patience_seconds)


def listen(settings: Settings, *, next_free: bool = False, shared: bool = False) -> socket.socket:
    """A listening socket. Raises Failure where the address cannot be had."""
    try:
        return bind(settings, next_free=next_free, shared=shared)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        if error.errno == errno.EADDRINUSE:
            raise Failure(
                f"The address {where} is taken.", fix="Choose another with --port.", code=ExitCode.CONFLICT
            ) from None
        raise Failure(
            f"Nobody may listen on {where}: {error.strerror or error}.",
            fix="Choose another with --host and --port.",
            code=ExitCode.USAGE,
        ) from None


def url_of(listener: socket.socket, settings: Settings) -> str:
    """The address under which this machine surely reaches the socket."""
    port = listener.getsockname()[1]
    host = EVERYWHERE.get(settings.host, settings.host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen_each(settings: Settings) -> list[list[socket.socket]]:
    """The sockets of every worker: one of many at the address of all, and one of its own. Raises Failure."""
    free = listen(settings)  # by itself, so that an address of somebody else is not shared with them
    port = free.getsockname()[1]
    free.close()
    everybody = settings.model_copy(update={"port": port})
    sockets = [[listen(everybody, shared=True)] for _ in range(settings.workers)]
    if settings.worker_port is not None:
        for number, own in enumerate(sockets):
            own.append(listen(settings.model_copy(update={"port": settings.worker_port + number})))
    return sockets


def run(server: Running, *listeners: socket.socket) -> None:
    """Serve until told to stop. Raises Failure when it could not start."""
    try:
        server.run(sockets=list(listeners))
    except SystemExit:
        raise Failure(
            "The server did not start; the log above says why.",
            fix="See `controlplane doctor`.",
            code=ExitCode.INTERNAL,
        ) from None
