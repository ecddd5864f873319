"""The database, reached once before anything is built on it: every way it can refuse is one line."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import urlsplit

import asyncpg
from sqlalchemy.exc import SQLAlchemyError

from controlplane.cli.client import Unreachable
from controlplane.cli.failure import ExitCode, Failure
from controlplane.postgres.footing import OLDEST_MAJOR
from controlplane.postgres.pool import Connection
from controlplane.postgres.schema import behind, head, migrate, revision, revisions
from controlplane.settings import Settings

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

CONNECT_SECONDS = 5.0
REPEAT_SECONDS = 0.5
SET_IT = "Set DATABASE_URL=postgresql://…; without a database of your own, `controlplane dev` brings one."
WRONG_DSN = "Like this: postgresql://user:password@host:5432/database, special characters percent-encoded."


def dsn_of(settings: Settings) -> str:
    """The database that was named. Raises Failure where none was."""
    if not settings.database_url:
        raise Failure("There is no database.", fix=SET_IT, code=ExitCode.USAGE)
    return settings.database_url


def ask(dsn: str, question: Callable[[Connection], Awaitable[Answer]], *, patience_seconds: float = 0.0) -> Answer:
    """What one connection answers. A database that is away, or goes meanwhile, has `patience_seconds` to be back.

    Raises Failure: a DSN that is none, nobody there, wrong password, no such database, too old, not allowed.
    """
    return asyncio.run(_ask(dsn, question, patience_seconds))


def bring_up(dsn: str) -> tuple[str | None, str]:
    """Migrate; answers with the revision it was at and the newest."""
    at = ask(dsn, revision)
    if at is not None and at not in revisions():
        raise Failure(
            f"The database is at revision {at}, which this version does not know: a newer one has migrated it.",
            fix="Install that version.",
            code=ExitCode.CONFLICT,
        )
    try:
        migrate(dsn)
    except (SQLAlchemyError, asyncpg.PostgresError, OSError) as error:
        raise Failure(
            f"The migration of {place(dsn)} failed: {_line(error)}.",
            fix="The role must own the database, or be allowed to create in it. Then run it again: it goes on there.",
            code=ExitCode.INTERNAL,
        ) from error
    return at, head()


def require_newest(dsn: str, *, patience_seconds: float) -> None:
    """Refuse a database that this version's code does not fit."""
    at = ask(dsn, behind, patience_seconds=patience_seconds)
    if at is not None:
        raise Failure(
            f"The schema of {place(dsn)} is {_standing(at)}; this version needs {head()}.",
            fix="Run `controlplane migrate` first.",
            code=ExitCode.CONFLICT,
        )


def place(dsn: str) -> str:
    """Where a DSN leads, without user and password."""
    try:
        parts = urlsplit(dsn)
        host = "localhost" if not parts.hostname else parts.hostname
        return f"{host}{f':{parts.port}' if parts.port else ''}{parts.path}"
    except ValueError:
        return "the database"


def _standing(at: str) -> str:
    return "empty" if at == "empty" else f"at {at}"


async def _ask(dsn: str, question: Callable[[Connection], Awaitable[Answer]], patience_seconds: float) -> Answer:
    until = time.monotonic() + patience_seconds
    said = False
    while True:
        try:
            return await _ask_once(dsn, question)
        except Unreachable as error:
            if time.monotonic() + REPEAT_SECONDS > until:
                raise
            if not said:
                log.warning("database.waiting", extra={"error": error.what, "at_most_seconds": patience_seconds})
                said = True
        await asyncio.sleep(REPEAT_SECONDS)


async def _ask_once(dsn: str, question: Callable[[Connection], Awaitable[Answer]]) -> Answer:
    conn = await _connect(dsn)
    try:
        major = conn.get_server_version().major
        if major < OLDEST_MAJOR:
            raise Failure(
                f"PostgreSQL {major} at {place(dsn)} is too old.",
                fix=f"Use {OLDEST_MAJOR} or newer.",
                code=ExitCode.CONFLICT,
            )
        return await question(conn)
    except asyncpg.InsufficientPrivilegeError as error:
        raise Failure(
            f"The role may not read {place(dsn)}: {_line(error)}.", fix="Grant it what it needs.", code=ExitCode.AUTH
        ) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise Unreachable(f"The database at {place(dsn)} broke off: {_line(error)}.", fix="Try again.") from error
    finally:
        conn.terminate()


async def _connect(dsn: str) -> asyncpg.Connection[asyncpg.Record]:
    try:
        return await asyncpg.connect(dsn, timeout=CONNECT_SECONDS, statement_cache_size=0)
    except asyncpg.ClientConfigurationError as error:
        raise Failure(f"DATABASE_URL is not usable: {_line(error)}.", fix=WRONG_DSN, code=ExitCode.USAGE) from error
    except asyncpg.InvalidCatalogNameError as error:
        raise Failure(f"{_line(error)}.", fix="Create it: `createdb`.", code=ExitCode.NOT_FOUND) from error
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        raise Failure(
            f"{place(dsn)} lets us not in: {_line(error)}.", fix="Check user and password.", code=ExitCode.AUTH
        ) from error
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Unreachable(
            f"No PostgreSQL answers at {place(dsn)} ({_line(error)}).",
            fix="Start it, or correct DATABASE_URL; without that, `controlplane dev` brings its own.",
        ) from error
    except ValueError as error:  # of a parser; its words may quote a part of the password
        raise Failure("DATABASE_URL is not usable: it cannot be parsed.", fix=WRONG_DSN, code=ExitCode.USAGE) from error


def _line(error: BaseException) -> str:
    said = " ".join(str(getattr(error, "orig", None) or error).split()).rstrip(".")
    return said or type(error).__name__
