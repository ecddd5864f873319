"""What a migration is watched with: tables that are full, servers of before that go on, and what it held meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import Connection, event
from sqlalchemy.engine import Engine

Conn = asyncpg.Connection


EXECUTIONS = """
insert into executions (
  bucket, id, namespace, run_id, root_id, target, type, input, priority, retries_max, retry_delay_seconds, retry_factor,
  retry_cap_seconds, webhooks, created_at
)
select 0, id, 1, 'r', id, 'n.a', 'reasoner', '{}', 0, 3, 1, 2, 60, 1, clock() from unnest($1::uuid[]) as ids(id)
"""
QUEUE = """
insert into queue (
  bucket, id, namespace, target, run_id, state, priority, available_at, retries_max, webhooks
)
select 0, id, 1, 'n.a', 'r', 'ready', 0, clock(), 3, 1 from unnest($1::uuid[]) as ids(id)
"""
EVENTS = """
insert into events (bucket, execution_id, namespace, run_id, target, type, attempt, at)
select 0, id, 1, 'r', 'n.a', $2, 1, clock() from unnest($1::uuid[]) as ids(id)
"""
OUTCOMES = """
insert into outcomes (bucket, id, namespace, status, result, attempt, failures, finished_at)
select 0, id, 1, 'succeeded', '1', 1, 0, clock() from unnest($1::uuid[]) as ids(id)
"""
DELIVERIES = """
insert into deliveries (
  bucket, id, namespace, execution_id, webhook_n, event, host, url, body, state, attempts_max, next_at, created_at
)
select 0, id, 1, id, 1, 'execution.completed', 'h.example', 'https://h.example/', '{}', 'pending', 5, clock(), clock()
from unnest($1::uuid[]) as ids(id)
"""
KEYS = """
insert into idempotency_keys (bucket, namespace, scope, key, execution_id, request_hash, expires_at)
select 0, 1, 's', id::text, id, '', clock() + interval '1 day' from unnest($1::uuid[]) as ids(id)
"""
MEMORY = """
insert into memory (bucket, namespace, scope, scope_id, key, value, created_at, updated_at)
select 0, 1, 'run', 'r', id::text, '1', clock(), clock() from unnest($1::uuid[]) as ids(id)
"""
WEBHOOKS = """
insert into webhooks (bucket, execution_id, n, namespace, url, host, attempts_max, created_at)
select 0, id, 1, 1, 'https://h.example/', 'h.example', 5, clock() from unnest($1::uuid[]) as ids(id)
"""
LOCAL_CALLS = """
insert into local_calls (bucket, execution_id, local_id, namespace, reasoner_id, status, created_at, updated_at)
select 0, id, 'l', 1, 'a', 'succeeded', clock(), clock() from unnest($1::uuid[]) as ids(id)
"""
APPROVALS = """
insert into approvals (bucket, execution_id, request_id, namespace, attempt, node_id, status, requested_at)
select 0, id, 'r', 1, 1, 'n', 'pending', clock() from unnest($1::uuid[]) as ids(id)
"""
CLAIM = """
update queue
set state = 'leased', attempt = attempt + 1, session_id = id, leased_at = clock()
where bucket = 0 and id = (
  select id from queue where bucket = 0 and namespace = 1 and target = 'n.a' and state = 'ready'
  order by priority desc, available_at, id limit 1 for update skip locked
)
returning id
"""
FINISH = "delete from queue where bucket = 0 and id = any($1::uuid[])"
DELIVER = """
update deliveries set state = 'delivered', settled_at = clock(), attempt = 1
where bucket = 0 and id = any($1::uuid[])
"""
READ = "select count(*) from executions e join queue q on q.bucket = 0 and q.id = e.id where e.bucket = 0 and e.id = $1"


PAUSE_SECONDS = 0.01
"""Between two executions of a writer, so that the machine has time for the migration."""


def make_ids(count: int, source: random.Random) -> list[UUID]:
    """Of this week, so that they lie in a partition of their own."""
    now = int(time.time() * 1000) << 80
    return [UUID(int=now | source.getrandbits(80)) for _ in range(count)]


async def fill(conn: Conn, count: int) -> None:
    """So many rows in every table of the first schema that grows with the work."""
    ids = make_ids(count, random.Random(0))
    for statement in (EXECUTIONS, QUEUE, OUTCOMES, DELIVERIES, KEYS, MEMORY, WEBHOOKS, LOCAL_CALLS):
        await conn.execute(statement, ids)
    await conn.execute(EVENTS, ids, "execution.queued")


@dataclass(slots=True)
class Writers:
    """Servers of the first version: they accept, claim, finish and deliver, with statements that never change."""

    dsn: str
    counts: Counter[str] = field(default_factory=Counter)
    longest_seconds: float = 0.0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(self._run(random.Random(number)))

    async def more(self, count: int) -> None:
        """Return when so many more executions have been finished."""
        wanted = self.counts["finished"] + count
        while self.counts["finished"] < wanted:  # noqa: ASYNC110 - it is the work of others that is waited for
            await asyncio.sleep(0.01)

    async def _run(self, source: random.Random) -> None:
        conn = await asyncpg.connect(self.dsn, statement_cache_size=0)
        try:
            while True:
                began = time.monotonic()
                await self._one(conn, make_ids(1, source))
                self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
                await asyncio.sleep(PAUSE_SECONDS)
        finally:
            conn.terminate()

    async def _one(self, conn: Conn, ids: list[UUID]) -> None:
        """The life of an execution, in the transactions and the order of locks that stages have."""
        async with conn.transaction():
            await conn.execute(KEYS, ids)
            await conn.execute(EXECUTIONS, ids)
            await conn.execute(QUEUE, ids)
            await conn.execute(WEBHOOKS, ids)
            await conn.execute(EVENTS, ids, "execution.queued")
        self.counts["accepted"] += 1
        assert await conn.fetchval(READ, ids[0]) == 1
        async with conn.transaction():
            taken = await conn.fetchval(CLAIM)
            if taken is not None:  # others may have claimed what this one accepted, and finished what they accepted
                await conn.execute(EVENTS, [taken], "execution.started")
        async with conn.transaction():
            await conn.execute(FINISH, ids)
            await conn.execute(OUTCOMES, ids)
            await conn.execute(DELIVERIES, ids)
            await conn.execute(EVENTS, ids, "execution.completed")
        self.counts["finished"] += 1
        await conn.execute(DELIVER, ids)


# Tables that this transaction keeps writers out of.
HELD = """
select distinct c.relname::text as name
from pg_locks l
join pg_class c on c.oid = l.relation and c.relkind in ('r', 'p')
where l.pid = pg_backend_pid()
  and l.granted
  and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  and c.relnamespace = 'public'::regnamespace
"""

# How many rows of each table this connection has read; of some transactions before this one, too.
READS = "select relname::text as name, seq_tup_read + idx_tup_fetch as rows_read from pg_stat_xact_user_tables"


@dataclass(slots=True)
class Watch:
    """The migrations of this process, statement by statement.

    `read`: of each table, the most rows that a transaction read which kept its writers out at its end. `held_seconds`:
    the longest that a transaction went on once it kept anybody out. `refused`: locks that were given up.
    """

    read: Counter[str] = field(default_factory=Counter)
    held_seconds: float = 0.0
    refused: int = 0
    apart: list[str] = field(default_factory=list)
    """Statements outside of any transaction."""
    _since: float = 0.0
    _before: dict[str, int] = field(default_factory=dict)
    _asking: bool = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        listeners = {
            "begin": self._begins,
            "before_cursor_execute": self._executes,
            "commit": self._commits,
            "handle_error": self._fails,
        }
        for name, listener in listeners.items():
            event.listen(Engine, name, listener)
        try:
            yield
        finally:
            for name, listener in listeners.items():
                event.remove(Engine, name, listener)

    def _begins(self, connection: Connection) -> None:
        self._before = self._reads(connection)

    def _executes(self, connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if self._asking:
            return
        if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            self.apart.append(statement)
        elif not self._held(connection):  # by nothing before this statement
            self._since = time.monotonic()

    def _commits(self, connection: Connection) -> None:
        reads, held = self._reads(connection), self._held(connection)
        for name in held:
            self.read[name] = max(self.read[name], reads.get(name, 0) - self._before.get(name, 0))
        if held:
            self.held_seconds = max(self.held_seconds, time.monotonic() - self._since)

    def _fails(self, context: Any) -> None:
        self.refused += getattr(context.original_exception, "sqlstate", None) == "55P03"

    def _held(self, connection: Connection) -> set[str]:
        """What is new in this transaction is nobody else's yet."""
        return {row.name for row in self._ask(connection, HELD)} & self._before.keys()

    def _reads(self, connection: Connection) -> dict[str, int]:
        return {row.name: row.rows_read or 0 for row in self._ask(connection, READS)}

    def _ask(self, connection: Connection, question: str) -> Sequence[Any]:
        self._asking = True
        try:
            return connection.exec_driver_sql(question).all()
        finally:
            self._asking = False
