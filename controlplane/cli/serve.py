"""`controlplane serve`, `migrate` and `generate-secret-key`: what runs in production."""

from __future__ import annotations

import logging

import orjson

from controlplane.app import build
from controlplane.cli import output, serving
from controlplane.cli.database import bring_up, require_newest
from controlplane.cli.failure import ExitCode, Failure
from controlplane.observe.log import configure
from controlplane.security.secrets import KeyRing
from controlplane.settings import Settings

log = logging.getLogger(__name__)

SET_DATABASE = "Set DATABASE_URL=postgresql://…; without a database of your own, `controlplane dev` brings one."
MAKE_KEY = 'Make one: export CONTROLPLANE_SECRET_KEY="$(controlplane generate-secret-key)", and keep it safe.'
DATABASE_PATIENCE_SECONDS = 10.0  # both may have been started at the same moment


def serve(*, host: str | None, port: int | None, database_url: str | None) -> None:
    """Serve until SIGTERM or Ctrl-C, on a database that is migrated already."""
    settings = serving.settings_with(host=host, port=port, database_url=database_url)
    serving.configure_log(settings, pretty=False)
    serving.require_key_if_open(settings)
    dsn = _database_url(settings)
    keyring = _keyring(settings)
    require_newest(dsn, patience_seconds=DATABASE_PATIENCE_SECONDS)
    listener = serving.listen(settings)
    url = serving.url_of(listener, settings)
    app = build(settings, database_url=dsn, keyring=keyring)
    ready = serving.Running(
        app,
        drain_seconds=settings.drain_seconds,
        ready=lambda: log.info("server.ready", extra={"url": url}),
    )
    serving.run(ready, listener)
    log.info("server.stopped", extra={"url": url})


def migrate(*, database_url: str | None, as_json: bool) -> None:
    """Bring the database to the newest schema."""
    settings = serving.settings_with(database_url=database_url)
    configure("WARNING", pretty=False)
    before, now = bring_up(_database_url(settings))
    if as_json:
        output.data(orjson.dumps({"before": before, "revision": now}))
    else:
        output.data(f"The schema is at {now}" + (", as before." if before == now else "."))


def generate_secret_key(*, as_json: bool) -> None:
    """Print a new key ring."""
    text = KeyRing.generate()
    output.data(orjson.dumps({"secret_key": text}) if as_json else text)


def _database_url(settings: Settings) -> str:
    if not settings.database_url:
        raise Failure("There is no database.", fix=SET_DATABASE, code=ExitCode.USAGE)
    return settings.database_url


def _keyring(settings: Settings) -> KeyRing:
    if settings.secret_key is None or not settings.secret_key.get_secret_value():
        raise Failure("There is no key to seal webhook secrets with.", fix=MAKE_KEY, code=ExitCode.USAGE)
    try:
        return KeyRing.from_text(settings.secret_key.get_secret_value())
    except ValueError as error:
        raise Failure(f"CONTROLPLANE_SECRET_KEY: {error}.", fix=MAKE_KEY, code=ExitCode.USAGE) from None
