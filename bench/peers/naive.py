"""What a service would begin with: a route that commits one INSERT per request, and the same without a database."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
from fastapi import FastAPI
from pydantic import BaseModel

CONNECTIONS = 16  # more were no quicker on two cores
TABLE = """
create table if not exists naive (
  id uuid primary key,
  target text not null,
  input jsonb not null,
  status text not null default 'queued',
  created_at timestamptz not null default now()
)
"""
INSERT = "insert into naive (id, target, input) values ($1, $2, $3)"


class Wish(BaseModel):
    input: dict[str, Any]


class Accepted(BaseModel):
    execution_id: UUID
    status: str


@asynccontextmanager
async def life(app: FastAPI) -> AsyncIterator[None]:
    dsn = os.environ["DATABASE_URL"]
    async with asyncpg.create_pool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
        await pool.execute(TABLE)
        app.state.pool = pool
        yield


app = FastAPI(lifespan=life)


@app.post("/kept/{target}", status_code=202)
async def keep(target: str, wish: Wish) -> Accepted:
    id_ = uuid4()
    await app.state.pool.execute(INSERT, id_, target, orjson.dumps(wish.input).decode())
    return Accepted(execution_id=id_, status="queued")


@app.post("/unkept/{target}", status_code=202)
async def forget(target: str, wish: Wish) -> Accepted:  # noqa: ARG001 - as the other takes it
    return Accepted(execution_id=uuid4(), status="queued")


@app.get("/readyz")
async def ready() -> dict[str, str]:
    return {"status": "ok"}
