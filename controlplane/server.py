"""One process that serves: uvicorn, a socket of our own choosing, and a stop that lets everybody go first."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import sys
from functools import partial

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from controlplane.app import release_waiters
from controlplane.settings import Settings
from controlplane.wire.limits import SURPLUS_MAX, WireLimits

if sys.platform != "win32":
    import resource

    from controlplane.wire.protocol import Protocol

log = logging.getLogger(__name__)

PORTS_TRIED = 20
BACKLOG = 2048
STALLED_SECONDS = 30
FILES_RESERVED = 256 + SURPLUS_MAX
"""Open files beside the connections of callers: the database, webhooks under way, the log."""


class Server(uvicorn.Server):
    """Long polls and streams never end by themselves: they are released before connections are waited for."""

    def __init__(self, app: FastAPI, *, drain_seconds: float, limits: WireLimits) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_http(limits),
                ws_max_size=limits.message_bytes_max,
                log_config=None,
                access_log=False,
                lifespan="on",
                timeout_keep_alive=75,
                timeout_graceful_shutdown=max(1, round(drain_seconds)),
                server_header=False,
                proxy_headers=False,
                date_header=False,
            )
        )
        self._app = app
        self._connections_max = limits.connections_max

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        allow_files(self._connections_max + FILES_RESERVED)
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        release_waiters(self._app)
        await super().shutdown(sockets)


def _http(limits: WireLimits) -> type[asyncio.Protocol]:
    if sys.platform == "win32":  # the parser below the guard is not built there
        return H11Protocol
    return partial(Protocol, limits=limits)  # type: ignore[return-value]  # it is only called


def allow_files(wanted: int) -> None:
    """Raise this process' limit of open files as far as that, or as it may be: at the limit nobody is even refused."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        with contextlib.suppress(ValueError, OSError):  # some systems allow less than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        log.warning("server.few_files", extra={"files_max": soft, "files_wanted": wanted})


def bind(settings: Settings, *, next_free: bool = False, shared: bool = False) -> socket.socket:
    """A listening socket. With `next_free` a taken port is passed over for the next one.

    `shared`: with others of ours that are, too. Raises OSError when the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    last: OSError | None = None
    for port in range(settings.port, settings.port + (PORTS_TRIED if next_free and settings.port else 1)):
        # asyncio switches Nagle's algorithm off only where the protocol is named; with it every answer took 44 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # else a reader of a stream who stops reading keeps it open for ever
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_SECONDS * 1000)
        try:
            listener.bind((settings.host, port))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            last = error
            if error.errno != errno.EADDRINUSE:
                break
            continue
        listener.set_inheritable(True)
        return listener
    assert last is not None
    raise last
