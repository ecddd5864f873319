"""`controlplane serve`: what runs in production, on a database that somebody else runs and has migrated."""

from __future__ import annotations

import logging
import socket

from controlplane.app import build
from controlplane.cli import serving
from controlplane.cli import workers as crew
from controlplane.cli.database import dsn_of, require_newest
from controlplane.cli.environment import settings_with
from controlplane.cli.failure import ExitCode, Failure
from controlplane.security.secrets import KeyRing
from controlplane.settings import Settings

log = logging.getLogger(__name__)

MAKE_KEY = 'Make one: export CONTROLPLANE_SECRET_KEY="$(controlplane generate-secret-key)", and keep it safe.'
DATABASE_PATIENCE_SECONDS = 10.0  # both may have been started, or fallen, at the same moment


def serve(*, host: str | None, port: int | None, workers: int | None, database_url: str | None) -> None:
    """Serve until SIGTERM or Ctrl-C, on a database that is migrated already."""
    settings = settings_with(host=host, port=port, workers=workers, database_url=database_url)
    serving.configure_log(settings, pretty=False)
    if not settings.database_url:
        serving.require_key_if_open(settings)
    dsn = dsn_of(settings)
    keyring = _keyring(settings)
    patience = DATABASE_PATIENCE_SECONDS
    require_newest(dsn, patience_seconds=patience)
    serving.require_key_if_open(settings, keyed=lambda: serving.has_key(dsn, settings, patience_seconds=patience))
    listeners, said = _listeners(settings)
    url = serving.url_of(listeners[0], settings)
    said |= {"url": url}
    app = build(settings, database_url=dsn, keyring=keyring, url=url)
    ready = serving.Running(
        app,
        drain_seconds=settings.drain_seconds,
        limits=settings.wire,
        ready=lambda: log.info("server.ready", extra=said),
    )
    serving.run(ready, *listeners)
    log.info("server.stopped", extra=said)


def _listeners(settings: Settings) -> tuple[list[socket.socket], dict[str, object]]:
    """The sockets of this process, and what it says of itself. One of several workers returns from here for each."""
    if settings.workers == 1:
        return [serving.listen(settings)], {}
    crew.require_able()
    sockets = serving.listen_each(settings)
    number = crew.spread(sockets)
    return sockets[number], {"worker": number}


def _keyring(settings: Settings) -> KeyRing:
    if settings.secret_key is None or not settings.secret_key.get_secret_value():
        raise Failure("There is no key to seal webhook secrets with.", fix=MAKE_KEY, code=ExitCode.USAGE)
    try:
        return KeyRing.from_text(settings.secret_key.get_secret_value())
    except ValueError as error:
        raise Failure(f"CONTROLPLANE_SECRET_KEY: {error}.", fix=MAKE_KEY, code=ExitCode.USAGE) from None
