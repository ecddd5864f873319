"""The database, asked once before a server is built on it."""

from __future__ import annotations

import pytest

from controlplane.cli.client import Unreachable
from controlplane.cli.database import ask
from controlplane.postgres.pool import Connection


class Breaks:
    """A question in the middle of which the database ends the connection, the first few times."""

    def __init__(self, times: int) -> None:
        self.left = times

    async def __call__(self, conn: Connection) -> int:
        self.left -= 1
        if self.left >= 0:
            await conn.execute("select pg_terminate_backend(pg_backend_pid())")
        return int(await conn.fetchval("select 7"))


def test_who_has_patience_asks_a_database_again_that_broke_off(database: str) -> None:
    """Server and database may fall at the same moment, and both are started again: the server must not give up."""
    assert ask(database, Breaks(2), patience_seconds=30) == 7


def test_who_has_none_is_told_at_once(database: str) -> None:
    """A command says what happened, and that it may be tried again."""
    with pytest.raises(Unreachable, match="broke off"):
        ask(database, Breaks(1))
