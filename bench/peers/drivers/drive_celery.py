"""Celery with Redis as its broker and its store of results."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import redis
import speak
from celery import Celery

PROCESSES = 2
CONNECTIONS = 64
PREFETCH = 4

app = Celery("bench", broker=f"{speak.URL}/0", backend=f"{speak.URL}/1")
app.conf.update(
    broker_pool_limit=CONNECTIONS,
    broker_connection_retry_on_startup=True,
    redis_max_connections=4 * CONNECTIONS,
    worker_prefetch_multiplier=PREFETCH,
    worker_hijack_root_logger=False,
)


@app.task(name="echo")
def echo(payload: dict[str, Any]) -> dict[str, Any]:
    return payload


def setup() -> None:
    redis.Redis.from_url(speak.URL).flushall()


@contextlib.asynccontextmanager
async def client() -> AsyncIterator[speak.Client]:
    results = redis.Redis.from_url(f"{speak.URL}/1")
    yield speak.Client(
        put=echo.delay,
        result=lambda handle: handle.get(timeout=speak.FIRST_SECONDS),
        finished=results.dbsize,
    )


def work() -> None:
    quiet = ["--loglevel", "ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    app.worker_main(["worker", "--pool", "prefork", "--concurrency", str(PROCESSES), *quiet])


if __name__ == "__main__":
    speak.main(speak.Peer(packages=("celery", "redis"), setup=setup, client=client, work=work))
