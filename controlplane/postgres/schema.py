"""Bring a database to the newest schema, or say how far it is."""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

VERSION = "select version_num from alembic_version"


def migrate(dsn: str) -> None:
    """Upgrade the database to the newest schema; safe to run again and by several at once.

    Alembic's environment runs its own event loop, so it gets a thread of its own and may be called from anywhere.
    """
    config = _config()
    config.attributes["url"] = dsn
    failure: list[BaseException] = []

    def run() -> None:
        try:
            command.upgrade(config, "head")
        except BaseException as error:  # noqa: BLE001 - carried over to the calling thread
            failure.append(error)

    thread = threading.Thread(target=run, name="migrate")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def head() -> str:
    """The newest revision this code knows."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def _config() -> Config:
    packaged = Path(__file__).parent.parent / "_migrations"
    folder = packaged if packaged.is_dir() else Path(__file__).parent.parent.parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    return config
