"""A pool of connections, and the list of failures that pass by themselves."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import TypeAlias, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from controlplane.errors import DatabaseFull, DatabaseUnavailable

# Text, because asyncpg's classes take no parameters at run time.
Pooled: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

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
KEPT_MAX = 4
KEPT_SECONDS = 60.0
"""How long a connection is lent again and again until it goes back to asyncpg once, which looks how old it is."""

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


class Pool:
    """asyncpg's pool, and before it a few connections that are kept at hand.

    To take one from there and to give it back costs this process more than a small statement does: a task of its own,
    for there may be something to wait for. One that comes back clean while nobody waits for any is lent to the next
    call as it is. Whatever else comes back goes to asyncpg, which mends it, replaces it, or closes what is idle.
    """

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool
        self._kept: deque[tuple[Pooled, float]] = deque()
        """The one that was used last comes last; with the moment in which it was taken from asyncpg."""
        self._waiting = 0
        self._expired_at = float("-inf")

    def acquire(self, *, timeout: float | None = None) -> Lent:
        """A connection for as long as `async with` lasts; at most `timeout` seconds are waited for it."""
        return Lent(self, timeout)

    def get_size(self) -> int:
        return self._pool.get_size()

    def get_idle_size(self) -> int:
        return self._pool.get_idle_size() + sum(_is_clean(conn) for conn, _ in self._kept)

    def get_max_size(self) -> int:
        return self._pool.get_max_size()

    def is_closing(self) -> bool:
        return self._pool.is_closing()

    async def expire_connections(self) -> None:
        """Use none of those any more that are open now."""
        self._expired_at = _now()
        kept, self._kept = self._kept, deque()
        for conn, _ in kept:
            if _is_clean(conn):
                conn.terminate()
        await self._pool.expire_connections()

    async def close(self) -> None:
        """Wait for what is lent, then say goodbye to the database."""
        while self._kept:
            await self._release(self._kept.pop()[0])
        await self._pool.close()

    def terminate(self) -> None:
        self._kept.clear()
        self._pool.terminate()

    async def take(self, timeout: float | None) -> tuple[Pooled, float]:
        """A connection, and since when it is out of asyncpg's hands."""
        while self._kept:
            conn, since = self._kept.pop()
            if _is_clean(conn):
                return conn, since
            await self._release(conn)
        self._waiting += 1
        try:
            return await self._pool.acquire(timeout=timeout), _now()
        finally:
            self._waiting -= 1

    async def give_back(self, conn: Pooled, since: float, *, clean: bool) -> None:
        over = max(self._expired_at, _now() - KEPT_SECONDS)
        at_hand = len(self._kept) < KEPT_MAX and not self._waiting and not self.is_closing()
        if clean and at_hand and since > over and _is_clean(conn):
            self._kept.append((conn, since))
        else:
            await self._release(conn)
        if self._kept and self._kept[0][1] <= over:  # the one that has not been used for the longest
            await self._release(self._kept.popleft()[0])

    async def _release(self, conn: Pooled) -> None:
        await self._pool.release(conn, timeout=RELEASE_SECONDS)


class Lent:
    """A connection of a pool, from `async with` to its end."""

    __slots__ = ("_conn", "_pool", "_since", "_timeout")

    def __init__(self, pool: Pool, timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout

    async def __aenter__(self) -> Pooled:
        self._conn, self._since = await self._pool.take(self._timeout)
        return self._conn

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.give_back(self._conn, self._since, clean=kind is None)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _is_clean(conn: Pooled) -> bool:
    """Whether it can be lent as it is. One that was closed has gone back by itself, and says so as an error."""
    try:
        return not conn.is_closed() and not conn.is_in_transaction()
    except asyncpg.InterfaceError:
        return False


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
            pool = await asyncpg.create_pool(
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
            return Pool(pool)
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
    async with pool.acquire(timeout=seconds) as conn:
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
