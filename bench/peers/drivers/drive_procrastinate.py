"""Procrastinate: it keeps no results, so the task puts its own into a table, through its connector."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import procrastinate
import speak

CONNECTIONS = 16
CONCURRENCY = 32
KEPT = "create table kept (id bigint primary key, result jsonb not null)"
KEEP = "insert into kept (id, result) values (%(id)s, %(result)s::jsonb)"
RESULT = "select result from kept where id = %(id)s"
COUNT = "select count(*) as n from procrastinate_jobs where status = 'succeeded'"

connector = procrastinate.PsycopgConnector(conninfo=speak.URL, min_size=CONNECTIONS, max_size=CONNECTIONS)
app = procrastinate.App(connector=connector)


@app.task(name="echo", queue="bench", pass_context=True)
async def echo(context: procrastinate.JobContext, **payload: Any) -> None:
    await connector.execute_query_async(KEEP, id=context.job.id, result=json.dumps(payload))


async def setup() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await connector.execute_query_async(KEPT)


@contextlib.asynccontextmanager
async def client() -> AsyncIterator[speak.Client]:
    async def put(payload: dict[str, Any]) -> int:
        return await echo.defer_async(**payload)

    async def result(id_: int) -> Any:
        while not (rows := await connector.execute_query_all_async(RESULT, id=id_)):
            await asyncio.sleep(speak.LOOK_SECONDS)
        return rows[0]["result"]

    async def finished() -> int:
        return int((await connector.execute_query_one_async(COUNT))["n"])

    async with app.open_async():
        yield speak.Client(put=put, result=result, finished=finished)


async def work() -> None:
    async with app.open_async():
        await app.run_worker_async(queues=["bench"], concurrency=CONCURRENCY, listen_notify=True)


if __name__ == "__main__":
    speak.main(speak.Peer(packages=("procrastinate", "psycopg"), setup=setup, client=client, work=work))
