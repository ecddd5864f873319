"""Bring a database to the newest schema, or say how far it is.

Who only asks how far it is reads the names of the migrations; Alembic, and with it SQLAlchemy, is for who migrates.
"""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path

import asyncpg

from controlplane.postgres.pool import Connection

# Alembic keeps its context in module globals; across processes the migrations themselves take a lock.
ONE_AT_A_TIME = threading.Lock()
VERSION = "select version_num from alembic_version"


def migrate(dsn: str, *, to: str = "head") -> None:
    """Upgrade the database to the newest schema; safe to run again, by several at once, and beside who works with it.

    One revision after the other: when one fails, those before it stay.
    Alembic's environment runs its own event loop, so it gets a thread of its own and may be called from anywhere.
    """
    from alembic import command  # noqa: PLC0415 - a quarter of what a server imports, which never needs it
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_folder()).replace("%", "%%"))
    config.attributes["url"] = dsn
    failure: list[BaseException] = []

    def run() -> None:
        try:
            with ONE_AT_A_TIME:
                command.upgrade(config, to)
        except BaseException as error:  # noqa: BLE001 - carried over to the calling thread
            failure.append(error)

    thread = threading.Thread(target=run, name="migrate")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def head() -> str:
    """The newest revision this code knows."""
    return max(revisions())


async def revision(conn: Connection) -> str | None:
    """The revision that the database is at, None before the first."""
    try:
        found: str | None = await conn.fetchval(VERSION)
    except asyncpg.UndefinedTableError:
        return None
    return found


async def behind(conn: Connection) -> str | None:
    """Where the database is if `migrate` has work there: a revision, or `empty`. None if it has not.

    A revision that this code does not know was made by a newer one. The schema only ever grows within a release, so
    that is not behind: old and new replicas run side by side.
    """
    at = await revision(conn)
    if at is None:
        return "empty"
    return at if at in revisions() and at != head() else None


@cache
def revisions() -> frozenset[str]:
    """Every revision this code knows. They are numbered, each in a file of its name, and follow one another."""
    return frozenset(file.name.partition("_")[0] for file in _folder().glob("versions/[0-9]*_*.py"))


def _folder() -> Path:
    packaged = Path(__file__).parent.parent / "_migrations"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent.parent / "migrations"
