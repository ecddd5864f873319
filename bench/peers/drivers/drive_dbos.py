"""DBOS: workflows in a queue of the database; it keeps their results itself."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import AsyncIterator
from typing import Any

import speak
from dbos import DBOS, DBOSClient
from sqlalchemy import create_engine, text

SYSTEM_URL = speak.URL.replace("postgresql://", "postgresql+psycopg://", 1)
CONNECTIONS = 16
POLL_SECONDS = 0.1  # its default of a second would be half a second of waiting in each life
OPTIONS: Any = {"workflow_name": "echo", "queue_name": "bench", "app_version": "1"}
COUNT = text("select count(*) from dbos.workflow_status where status = 'SUCCESS'")


def launch() -> None:
    DBOS(config={"name": "bench", "system_database_url": SYSTEM_URL, "log_level": "ERROR", "application_version": "1"})

    @DBOS.workflow(name="echo")
    def echo(payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    DBOS.launch()


def setup() -> None:
    launch()
    DBOS.register_queue("bench", polling_interval_sec=POLL_SECONDS)
    DBOS.destroy()


@contextlib.asynccontextmanager
async def client() -> AsyncIterator[speak.Client]:
    asked = DBOSClient(system_database_url=SYSTEM_URL, system_database_pool_size=CONNECTIONS)
    engine = create_engine(SYSTEM_URL)

    def finished() -> int:
        with engine.connect() as conn:
            return int(conn.execute(COUNT).scalar_one())

    yield speak.Client(
        put=lambda payload: asked.enqueue(OPTIONS, payload),
        result=lambda handle: handle.get_result(),
        finished=finished,
    )


def work() -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    launch()
    stop.wait()


if __name__ == "__main__":
    speak.main(speak.Peer(packages=("dbos", "sqlalchemy"), setup=setup, client=client, work=work))
