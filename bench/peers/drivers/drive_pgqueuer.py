"""PgQueuer on asyncpg: it keeps that a job succeeded, not its result, so the entrypoint puts that into a table."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import speak
from pgqueuer import PgQueuer, Queries
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job

CONNECTIONS = 16
BATCH = 200
KEPT = "create table kept (id bigint primary key, result jsonb not null)"
KEEP = "insert into kept (id, result) values ($1, $2::jsonb)"
RESULT = "select result from kept where id = $1"
COUNT = "select count(*) from pgqueuer_log where status = 'successful'"


async def setup() -> None:
    conn = await asyncpg.connect(speak.URL)
    await Queries(AsyncpgDriver(conn)).install()
    await conn.execute(KEPT)
    await conn.close()


@contextlib.asynccontextmanager
async def client() -> AsyncIterator[speak.Client]:
    async with asyncpg.create_pool(speak.URL, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
        queries = Queries(AsyncpgPoolDriver(pool))

        async def put(payload: dict[str, Any]) -> int:
            [id_] = await queries.enqueue("echo", json.dumps(payload).encode())
            return id_

        async def result(id_: int) -> Any:
            while (found := await pool.fetchval(RESULT, id_)) is None:
                await asyncio.sleep(speak.LOOK_SECONDS)
            return json.loads(found)

        async def finished() -> int:
            return int(await pool.fetchval(COUNT))

        yield speak.Client(put=put, result=result, finished=finished)


async def work() -> None:
    conn = await asyncpg.connect(speak.URL)
    async with asyncpg.create_pool(speak.URL, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
        queuer = PgQueuer(AsyncpgDriver(conn))

        @queuer.entrypoint("echo")
        async def echo(job: Job) -> None:
            payload = json.loads(job.payload or b"null")
            await pool.execute(KEEP, int(job.id), json.dumps(payload))

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queuer.shutdown.set)
        await queuer.run(dequeue_timeout=timedelta(seconds=5), batch_size=BATCH)


if __name__ == "__main__":
    speak.main(speak.Peer(packages=("pgqueuer", "asyncpg"), setup=setup, client=client, work=work))
