"""How the database does, by its own account: what lies dead in tables, and how far standbys are behind.

Only what PostgreSQL counts anyway: no table is looked into.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from controlplane.postgres.pool import Connection

STANDBYS_MAX = 50

VERSION = "select split_part(current_setting('server_version'), ' ', 1)"

TABLES = """
select relname::text as name, n_live_tup as live, n_dead_tup as dead,
  greatest(last_autovacuum, last_vacuum) as vacuumed_at
from pg_stat_user_tables
where schemaname = current_schema()
  and relname = any($1::text[])
order by n_dead_tup desc, relname
"""

# A role that may not look at others learns that there is a standby, and no more of it. A standby that is idle has no
# lag in seconds, and how many bytes it has not replayed is 0.
STANDBYS = """
select application_name as name, state, sync_state as sync, extract(epoch from replay_lag)::float8 as lag_seconds,
  case when not pg_is_in_recovery() then pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::int8 end as lag_bytes
from pg_stat_replication
order by replay_lsn nulls first, pid
limit $1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows as PostgreSQL estimates them. `vacuumed_at`: last cleared of what is dead; None: never since it counts."""

    name: str
    live: int
    dead: int
    vacuumed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standby:
    """Who takes what is written. None: this role may not see it, or there is nothing to be behind of."""

    name: str | None
    state: str | None
    sync: str | None
    lag_seconds: float | None
    lag_bytes: int | None


async def tables(conn: Connection, names: Sequence[str]) -> tuple[Table, ...]:
    """Those of these names, the one with the most dead rows first."""
    return tuple(Table(**row) for row in await conn.fetch(TABLES, names))


async def standbys(conn: Connection) -> tuple[Standby, ...]:
    """The one that is furthest behind first."""
    return tuple(Standby(**row) for row in await conn.fetch(STANDBYS, STANDBYS_MAX))


async def version(conn: Connection) -> str:
    """Of the server at the other end, as 18.4. What the driver makes of it is 18.0."""
    found: str = await conn.fetchval(VERSION)
    return found
