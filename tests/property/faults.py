"""Connections, and those that die: a server is killed, or cut off from its database, in the middle of a stage."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import asyncpg

from controlplane.postgres.pool import SESSION_SETTINGS, Connection

GONE_MILLISECONDS = 30_000
END_BACKEND = "select pg_terminate_backend($1, $2)"
# Without its time limits: who looks at a busy machine may be slow.
SESSION = {name: value for name, value in SESSION_SETTINGS.items() if "timeout" not in name}


class Death(StrEnum):
    """When it dies: `before` its n-th statement is sent, `after` the answer of that came, or its backend is `ended`.

    BEGIN and COMMIT are statements: after a COMMIT all is done and nobody knows.
    """

    BEFORE = "before"
    AFTER = "after"
    ENDED = "ended"


class Frail(asyncpg.Connection):
    """A connection that dies once, at its `nth` statement."""

    __slots__ = ("dead", "death", "nth", "other", "pid", "said")

    dead: bool
    death: Death
    nth: int
    pid: int
    said: int
    other: Connection

    async def execute(self, *args: Any, **options: Any) -> Any:
        return await self._say(super().execute, *args, **options)

    async def fetch(self, *args: Any, **options: Any) -> Any:
        return await self._say(super().fetch, *args, **options)

    async def fetchrow(self, *args: Any, **options: Any) -> Any:
        return await self._say(super().fetchrow, *args, **options)

    async def fetchval(self, *args: Any, **options: Any) -> Any:
        return await self._say(super().fetchval, *args, **options)

    async def _say(self, say: Any, *args: Any, **options: Any) -> Any:
        self.said += 1
        mine = self.said == self.nth
        self.dead = self.dead or mine
        if mine and self.death is Death.BEFORE:
            self.terminate()
        if mine and self.death is Death.ENDED:
            await self.other.fetchval(END_BACKEND, self.pid, GONE_MILLISECONDS)
        answer = await say(*args, **options)
        if mine and self.death is Death.AFTER:
            self.terminate()
            raise asyncpg.ConnectionDoesNotExistError("cut off before the answer was read")
        return answer


async def connect(dsn: str) -> Connection:
    """A connection as the pool makes them, which also remembers the plan of a very long question."""
    return await asyncpg.connect(dsn, server_settings=SESSION, max_cacheable_statement_size=0)


async def frail(dsn: str, other: Connection, *, nth: int, death: Death) -> Frail:
    """A connection that will die at its `nth` statement from now on; `other` is one that lives on."""
    conn = await asyncpg.connect(dsn, connection_class=Frail, server_settings=SESSION)
    conn.dead, conn.death, conn.nth, conn.said = False, death, nth, 0
    conn.other, conn.pid = other, conn.get_server_pid()
    return conn


async def bury(conn: Frail) -> bool:
    """Its backend is gone when this returns, and with it what was not committed. Says whether it had died."""
    conn.terminate()
    await conn.other.fetchval(END_BACKEND, conn.pid, GONE_MILLISECONDS)
    return conn.dead
