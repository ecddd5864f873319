"""Waiting for what has to come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

Found = TypeVar("Found")

LOOK_SECONDS = 0.05
NOT_YET = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What somebody says who is only just coming up."""


async def until(what: str, look: Callable[[], Awaitable[Found]], *, seconds: float) -> Found:
    """What `look` finds, as soon as it finds something. Fails when nothing came within so many seconds."""
    end = time.monotonic() + seconds
    last: BaseException | None = None
    while time.monotonic() < end:
        try:
            if found := await look():
                return found
        except NOT_YET as error:
            last = error
        await asyncio.sleep(LOOK_SECONDS)
    raise AssertionError(f"waited {seconds:g} s in vain for {what} ({last!r})")
