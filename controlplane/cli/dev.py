"""`controlplane dev`: a database, a server and perhaps an agent, with nothing to set up."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from fastapi import FastAPI

from controlplane import __version__
from controlplane.app import build
from controlplane.cli import output, serving
from controlplane.cli.agent import Agent
from controlplane.cli.database import bring_up
from controlplane.cli.environment import settings_with
from controlplane.cli.failure import ExitCode, Failure
from controlplane.postgres.embedded import EmbeddedPostgres, EmbeddedPostgresError
from controlplane.security.secrets import KeyRing
from controlplane.settings import Settings

log = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 0.5
AFTER_REFUSAL_SECONDS = 5.0

PASTE = """
Submit, look, watch:

curl -s -X POST {url}/api/v1/execute/async/batch.process_corpus \\
  -H "Content-Type: application/json" \\{key_line}
  -d '{{"input": {{"items": ["a", "b", "c"]}}}}'
curl -s{key} {url}/api/v1/executions/exec_...
curl -N{key} {url}/api/ui/v1/executions/events

controlplane call batch.process_corpus --input '{{"items": ["a", "b", "c"]}}'{server}
"""
KEY = ' -H "X-API-Key: $CONTROLPLANE_API_KEY"'


def dev(*, host: str | None, port: int | None, data_dir: Path | None, agent_file: Path | None) -> None:
    """Serve until Ctrl-C or SIGTERM, then end the agent, the server and the database, in that order."""
    settings = settings_with(host=host, port=port, data_dir=data_dir, egress_allow_loopback=True)
    serving.configure_log(settings, pretty=True)
    if not (settings.database_url or settings.data_dir.exists()):
        serving.require_key_if_open(settings)
    agent = None if agent_file is None else Agent(agent_file)
    signal.signal(signal.SIGTERM, _interrupt)
    _make(settings.data_dir)
    with _listener(settings) as listener, _database(settings) as dsn:
        bring_up(dsn)
        serving.require_key_if_open(settings, keyed=lambda: serving.has_key(dsn, settings))
        url = serving.url_of(listener, settings)
        app = build(settings, database_url=dsn, keyring=_keyring(settings), url=url)
        _serve(app, settings, listener, agent, own_dsn=None if settings.database_url else dsn)
    output.say("Stopped.")


def _serve(
    app: FastAPI, settings: Settings, listener: socket.socket, agent: Agent | None, *, own_dsn: str | None
) -> None:
    url = serving.url_of(listener, settings)
    api_key = None if settings.api_key is None else settings.api_key.get_secret_value()
    note = settings.data_dir / "dev.json"

    def ready() -> None:
        _write(note, url, own_dsn)
        _welcome(url, key=api_key is not None)
        if agent is not None:
            agent.start(url, api_key=api_key)

    server = serving.Running(
        app,
        drain_seconds=settings.drain_seconds,
        limits=settings.wire,
        ready=ready,
        leave=None if agent is None else agent.end,
        hurry=None if agent is None else agent.kill,
    )
    try:
        serving.run(server, listener)
    finally:
        _withdraw(note)
        if agent is not None:
            agent.kill()


def _welcome(url: str, *, key: bool) -> None:
    output.say(f"\ncontrolplane {__version__} is ready; Ctrl-C stops it.")
    output.data(url)
    shown = url.replace("127.0.0.1", "localhost")
    output.say(
        PASTE.format(
            url=shown,
            key=KEY if key else "",
            key_line=f"\n {KEY} \\" if key else "",
            server="" if shown.endswith(":8080") else f" --server {shown}",
        )
    )


def _make(folder: Path) -> None:
    """The folder for everything, kept out of version control."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), (folder / ".gitignore").open("x") as ignore:
            ignore.write("*\n")
    except OSError as error:
        raise Failure(
            f"The folder {folder} cannot be used: {error.strerror}.",
            fix="Name another with --data-dir.",
            code=ExitCode.USAGE,
        ) from None


@contextmanager
def _listener(settings: Settings) -> Iterator[socket.socket]:
    with serving.listen(settings, next_free=True) as listener:
        port = listener.getsockname()[1]
        if settings.port not in (0, port):
            output.say(f"Port {settings.port} is taken; {port} is free and used instead.")
        yield listener


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    """The DSN of the database of DATABASE_URL, else of one of our own that is kept running meanwhile."""
    if settings.database_url:
        yield settings.database_url
        return
    with EmbeddedPostgres(settings.data_dir / "postgres") as postgres, _kept(postgres):
        yield postgres.dsn


@contextmanager
def _kept(postgres: EmbeddedPostgres) -> Iterator[None]:
    """Start the database again whenever it has ended, until the block is left."""
    leaving = threading.Event()

    def look() -> None:
        pause = LOOK_EVERY_SECONDS
        while not leaving.wait(pause):
            pause = LOOK_EVERY_SECONDS
            if postgres.attached and _alive(postgres):
                continue
            try:
                postgres.start()
            except EmbeddedPostgresError as error:
                log.error("postgres.restart_failed", extra={"error": error.detail, "again_in": AFTER_REFUSAL_SECONDS})
                pause = AFTER_REFUSAL_SECONDS

    watcher = threading.Thread(target=look, name="postgres-watcher", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        leaving.set()
        watcher.join()


def _alive(postgres: EmbeddedPostgres) -> bool:
    """Whether the server of another process is still there."""
    try:
        os.kill(postgres.pid, 0)
    except PermissionError:
        return True
    except (EmbeddedPostgresError, ProcessLookupError):
        return False
    return True


def _write(note: Path, url: str, own_dsn: str | None) -> None:
    """Leave our address, pid and database there for programs; they see all of it or nothing.

    Nobody but this user reads it, and only a database of our own is named.
    """
    draft = note.with_name(f"{note.name}.{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps({"url": url, "pid": os.getpid(), "database_url": own_dsn}) + "\n")
    draft.replace(note)


def _withdraw(note: Path) -> None:
    with suppress(OSError, ValueError):
        if json.loads(note.read_text()).get("pid") == os.getpid():  # else another dev has taken its place
            note.unlink()


def _keyring(settings: Settings) -> KeyRing:
    file = settings.data_dir / "secret.key"
    given = settings.secret_key.get_secret_value() if settings.secret_key else ""
    try:
        return KeyRing.from_text(given) if given else KeyRing.load_or_create(file)
    except (ValueError, OSError) as error:
        where = "CONTROLPLANE_SECRET_KEY" if given else str(file)
        raise Failure(
            f"{where} holds no key ring: {error}.",
            fix="Put the right one back; what was sealed with it opens with no other.",
            code=ExitCode.USAGE,
        ) from None


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt
