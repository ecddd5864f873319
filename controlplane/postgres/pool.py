"""A pool of connections, and the list of failures that pass by themselves."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from controlplane.errors import DatabaseFull, DatabaseUnavailable

# Text, because asyncpg's classes take no parameters at run time.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

Result = TypeVar("Result")

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
STATEMENT_SECONDS = 30.0
CLOSE_SECONDS = 2.0
OPEN_RETRY_SECONDS = 0.2
RETRY_FIRST_SECONDS = 0.02
RETRY_CAP_SECONDS = 0.5
TRY_SECONDS = 10.0
TRY_SHARE = 2 / 3
"""What a try is given of the patience that is left, so that another one finds a way around what hangs; at least
`try_seconds`, for it may only be slow."""
RELEASE_SECONDS = 1.0
"""How long a call that was given up may take to be ended by the server, until its connection is thrown away."""

PING = "select 1"
CONFIRM = "select pg_logical_emit_message(true, 'controlplane', '')"

# A transaction left open would hold back the readers of events (see `reads/events.py`) and every vacuum. Every
# statement has its index, but one that was planned while its table was empty would go on reading the whole of it until
# the next ANALYZE: with 50,000 rows a claim took 17 ms instead of 0.7. A plan is made once: what finds its partition
# only by its parameters seemed cheaper planned anew for each call, and planning took three times as long as the rest.
SESSION_SETTINGS = {
    "idle_in_transaction_session_timeout": "10s",
    "statement_timeout": "30s",
    "jit": "off",
    "enable_seqscan": "off",
    "plan_cache_mode": "force_generic_plan",
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

# After these none of the connections is worth a try: the host behind them is gone without a word, or takes no writes
# any more because another one was promoted. There may be as many as the pool holds, and each would cost its time.
DEAF = (TimeoutError, asyncpg.ReadOnlySQLTransactionError)


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


async def close_pool(pool: Pool) -> None:
    """Say goodbye to the database, and leave without one where nobody answers."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await pool.close()
    except TimeoutError:
        pool.terminate()


async def _as_it_is(_conn: Connection) -> None:
    """Connections go back as they are: nothing is set, listened to or locked here that outlives its transaction.

    asyncpg ends a transaction that was left open by itself; what it would ask of the server beside that is one more
    round trip after every use.
    """


async def persist(
    pool: Pool,
    call: Callable[[Connection], Awaitable[Result]],
    *,
    seconds: float,
    name: str = "call",
    repeated: bool = False,
    try_seconds: float = TRY_SECONDS,
) -> Result:
    """Run this with a connection, again and again for at most so long while the database is out of reach.

    Only for calls that say the same thing twice: an answer may be lost after the commit. What an earlier try left is
    then answered for only after `confirm`. `repeated`: there was one before this call.
    Raises: DatabaseUnavailable, also when a try hangs (a host that is gone, a synchronous standby that is away).
    """
    until = time.monotonic() + seconds
    wait = RETRY_FIRST_SECONDS
    while True:
        try:
            seconds_left = until - time.monotonic()
            return await _try(pool, call, seconds=max(try_seconds, seconds_left * TRY_SHARE), repeated=repeated)
        except PASSING as error:
            repeated = True
            if time.monotonic() + wait > until or pool.is_closing():
                log.warning("database.unavailable", extra={"call": name, "error": repr(error)})
                raise unavailable(error) from error
        await asyncio.sleep(wait)
        wait = min(wait * 2, RETRY_CAP_SECONDS)


def unavailable(error: BaseException) -> DatabaseUnavailable:
    """How to say what passes by itself, and that a full disk does not."""
    return DatabaseFull() if isinstance(error, asyncpg.DiskFullError) else DatabaseUnavailable()


async def confirm(conn: Connection) -> None:
    """Return once everything that this connection has seen is as safe as what it commits itself.

    With synchronous standbys a commit waits for them, and what is only read does not. A wait that was given up, or cut
    short by a crash, leaves a commit that everybody sees and that the primary alone has. Whoever answers for what an
    earlier try may have left commits something of its own behind it: the log is passed on in order.
    """
    await conn.execute(CONFIRM)


async def _try(
    pool: Pool, call: Callable[[Connection], Awaitable[Result]], *, seconds: float, repeated: bool
) -> Result:
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    conn = await pool.acquire(timeout=seconds)
    # The server is asked to end what takes too long, and its transaction; one that does not even hear is left.
    leave = loop.call_at(until + RELEASE_SECONDS, conn.terminate)
    try:
        async with asyncio.timeout_at(until):
            result = await call(conn)
            if repeated:
                await confirm(conn)
            return result
    except DEAF as error:
        log.warning("database.deaf", extra={"error": repr(error)})
        await pool.expire_connections()
        raise
    finally:
        leave.cancel()
        await pool.release(conn, timeout=RELEASE_SECONDS)


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
