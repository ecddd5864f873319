"""A pool of connections, and the list of failures that pass by themselves."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from controlplane.errors import DatabaseUnavailable

# Text, because asyncpg's classes take no parameters at run time.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

Result = TypeVar("Result")

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
STATEMENT_SECONDS = 30.0
OPEN_RETRY_SECONDS = 0.2
RETRY_FIRST_SECONDS = 0.02
RETRY_CAP_SECONDS = 0.5

# A transaction left open would hold back the readers of events (see `reads/events.py`) and every vacuum. Every
# statement has its index, but one that was planned while its table was empty would go on reading the whole of it until
# the next ANALYZE: with 50,000 rows a claim took 17 ms instead of 0.7.
SESSION_SETTINGS = {
    "idle_in_transaction_session_timeout": "10s",
    "statement_timeout": "30s",
    "jit": "off",
    "enable_seqscan": "off",
}

# Failures of the database or the way to it, not of what was asked: the same call may succeed a moment later.
PASSING = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidTransactionStateError,
    asyncpg.DeadlockDetectedError,
    asyncpg.InvalidCachedStatementError,  # the schema was migrated under a prepared statement
    asyncpg.SerializationError,
    asyncpg.ObjectNotInPrerequisiteStateError,  # a lock that is not to be had, a database closed for maintenance
)


async def open_pool(
    dsn: str,
    *,
    size: int,
    name: str,
    pooler: bool = False,
    settings: Mapping[str, str] = SESSION_SETTINGS,
    wait: bool = True,
) -> Pool:
    """Connect, waiting for a database that is still starting or recovering.

    `pooler`: a transaction pooler (PgBouncer) stands between, so nothing may be prepared or set per session.
    """
    said = False
    while True:
        try:
            return await asyncpg.create_pool(
                dsn,
                min_size=1,
                max_size=size,
                timeout=CONNECT_SECONDS,
                command_timeout=STATEMENT_SECONDS,
                max_inactive_connection_lifetime=300,
                statement_cache_size=0 if pooler else 1024,
                reset=_as_it_is,
                server_settings={"application_name": name} if pooler else {"application_name": name, **settings},
            )
        except PASSING as error:
            if not wait or isinstance(error, asyncpg.InvalidCatalogNameError):
                raise
            if not said:
                log.warning("database.waiting", extra={"error": str(error)})
                said = True
            await asyncio.sleep(OPEN_RETRY_SECONDS)


async def _as_it_is(_conn: Connection) -> None:
    """Connections go back as they are: nothing is set, listened to or locked here that outlives its transaction.

    asyncpg ends a transaction that was left open by itself; what it would ask of the server beside that is one more
    round trip after every use.
    """


async def persist(
    pool: Pool, call: Callable[[Connection], Awaitable[Result]], *, seconds: float, name: str = "call"
) -> Result:
    """Run this with a connection, again and again for at most so long while the database is out of reach.

    Only for calls that say the same thing twice: an answer may be lost after the commit.
    Raises: DatabaseUnavailable.
    """
    until = time.monotonic() + seconds
    wait = RETRY_FIRST_SECONDS
    while True:
        try:
            async with pool.acquire(timeout=max(1.0, until - time.monotonic())) as conn:
                return await call(conn)
        except PASSING as error:
            if time.monotonic() + wait > until:
                log.warning("database.unavailable", extra={"call": name, "error": repr(error)})
                raise DatabaseUnavailable from error
        await asyncio.sleep(wait)
        wait = min(wait * 2, RETRY_CAP_SECONDS)


async def outlast(call: Callable[[], Awaitable[object]]) -> None:
    """Call it again and again until the database is there for it: what follows on `open_pool` is as patient.

    Only for calls that may be repeated, whatever they had done when the database went away.
    """
    while True:
        try:
            await call()
            return
        except (*PASSING, DatabaseUnavailable) as error:
            log.warning("database.waiting", extra={"error": repr(error)})
        await asyncio.sleep(OPEN_RETRY_SECONDS)
