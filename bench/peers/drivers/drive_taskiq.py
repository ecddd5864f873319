"""taskiq with Redis: its list broker, and its store of results."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import redis
import speak
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

KEPT_SECONDS = 86_400
TASKS = 100

kept: RedisAsyncResultBackend[Any] = RedisAsyncResultBackend(f"{speak.URL}/1", result_ex_time=KEPT_SECONDS)
broker = ListQueueBroker(f"{speak.URL}/0").with_result_backend(kept)


@broker.task(task_name="echo")
async def echo(payload: dict[str, Any]) -> dict[str, Any]:
    return payload


def setup() -> None:
    redis.Redis.from_url(speak.URL).flushall()


@contextlib.asynccontextmanager
async def client() -> AsyncIterator[speak.Client]:
    results = redis.Redis.from_url(f"{speak.URL}/1")

    async def put(payload: dict[str, Any]) -> Any:
        return await echo.kiq(payload)

    async def result(task: Any) -> Any:
        return (await task.wait_result(timeout=speak.FIRST_SECONDS)).return_value

    await broker.startup()
    yield speak.Client(put=put, result=result, finished=results.dbsize)
    await broker.shutdown()


def work() -> None:
    command = ["-m", "taskiq", "worker", "drive_taskiq:broker", "--workers", "1", "--max-async-tasks", str(TASKS)]
    os.execv(sys.executable, [sys.executable, *command, "--log-level", "ERROR"])


if __name__ == "__main__":
    packages = ("taskiq", "taskiq-redis", "redis")
    speak.main(speak.Peer(packages=packages, setup=setup, client=client, work=work))
