"""Who keeps the database from clearing away what is dead: a snapshot that somebody holds pins every row since.

A queue feels it first. What was claimed and has ended stays in front of what is ready, for as long as somebody's
transaction is open, and whoever looks for work steps over all of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from controlplane.postgres.pool import Connection

PINS_MAX = 20
PINNED_SECONDS = 10.0
"""A transaction of ours is ended by the database when it rests for so long."""
SLOT_TRANSACTIONS = 100_000
"""A slot, and a standby that tells what it reads, always hold a little back, and do not say for how long."""


class Kind(StrEnum):
    SESSION = "session"
    PREPARED = "prepared transaction"
    SLOT = "replication slot"
    STANDBY = "standby"


# Only this database's: what is read in others holds nothing back here. A vacuum's own snapshot counts for nobody. A
# transaction that has neither written nor kept a snapshot pins nothing, however long it is open.
SESSIONS = """
select pid, usename::text as role, application_name as application, state,
  extract(epoch from clock_timestamp() - xact_start)::float8 as seconds,
  greatest(age(backend_xid), age(backend_xmin)) as transactions
from pg_stat_activity
where datname = current_database()
  and pid <> pg_backend_pid()
  and backend_type <> 'autovacuum worker'
  and (backend_xid is not null or backend_xmin is not null)
  and xact_start < clock_timestamp() - make_interval(secs => $1)
order by transactions desc, xact_start
limit $2
"""

PREPARED = """
select gid as name, owner::text as role, extract(epoch from clock_timestamp() - prepared)::float8 as seconds,
  age(transaction) as transactions
from pg_prepared_xacts
where database = current_database()
  and prepared < clock_timestamp() - make_interval(secs => $1)
order by prepared
limit $2
"""

SLOTS = """
select slot_name::text as name, active, greatest(age(xmin), age(catalog_xmin)) as transactions
from pg_replication_slots
where age(xmin) > $1
order by age(xmin) desc
limit $2
"""

STANDBYS = """
select pid, usename::text as role, application_name as application, age(backend_xmin) as transactions
from pg_stat_activity
where backend_type = 'walsender'
  and age(backend_xmin) > $1
order by transactions desc
limit $2
"""

# What a role may not see of the others is null, and their number is all that it learns.
UNSEEN = """
select count(*)
from pg_stat_activity
where datname = current_database()
  and usename is distinct from current_user
  and query = '<insufficient privilege>'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One of those who hold something back. `transactions`: how many began since; `seconds`: None where nobody knows.

    `name`: of a prepared transaction or a slot. `state`: of a session, in PostgreSQL's words.
    """

    kind: Kind
    transactions: int
    seconds: float | None = None
    pid: int | None = None
    name: str | None = None
    role: str | None = None
    application: str | None = None
    state: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """The oldest first. `unseen`: sessions of other roles that this one may not look at."""

    found: tuple[Pin, ...]
    unseen: int


async def pins(conn: Connection, *, longer_than_seconds: float) -> Pins:
    """Who holds, and how many there are of whom this role cannot say."""
    found = await holding(conn, longer_than_seconds=longer_than_seconds)
    return Pins(found=found, unseen=await conn.fetchval(UNSEEN))


async def holding(conn: Connection, *, longer_than_seconds: float) -> tuple[Pin, ...]:
    """Everything that has held back for longer than this what is dead in the database of this connection."""
    found = await _timed(conn, longer_than_seconds)
    for row in await conn.fetch(SLOTS, SLOT_TRANSACTIONS, PINS_MAX):
        state = "active" if row["active"] else "nobody reads it"
        found.append(Pin(kind=Kind.SLOT, name=row["name"], state=state, transactions=row["transactions"]))
    found += [Pin(kind=Kind.STANDBY, **row) for row in await conn.fetch(STANDBYS, SLOT_TRANSACTIONS, PINS_MAX)]
    return tuple(sorted(found, key=lambda pin: (pin.transactions, pin.seconds or 0.0), reverse=True))


async def oldest_seconds(conn: Connection) -> float:
    """For how long somebody has held back what is dead; 0 where nobody does, or nobody says for how long."""
    return longest_seconds(await _timed(conn, 0.0))


def longest_seconds(found: Iterable[Pin]) -> float:
    """Of those of whom it is known since when; 0 where there are none."""
    return max((pin.seconds for pin in found if pin.seconds is not None), default=0.0)


def says(pin: Pin) -> str:
    """Who it is, and for how long."""
    who = f"pid {pin.pid}" if pin.name is None else f"{pin.kind} {pin.name!r}"
    about = [f"application {pin.application!r}"] if pin.application else []
    about += [f"role {pin.role}"] if pin.role else []
    about += [pin.state] if pin.state else []
    held = f"{pin.transactions:,} transactions" if pin.seconds is None else f"{pin.seconds:.0f} s"
    return f"{who} ({', '.join(about) or pin.kind}) holds back what is dead since {held}"


def ends(pin: Pin) -> str:
    """What to run to end it: for a person, who knows whose it is. Nothing here does it."""
    if pin.name is None:
        return f"run select pg_terminate_backend({pin.pid})"
    name = "'" + pin.name.replace("'", "''") + "'"
    if pin.kind is Kind.PREPARED:
        return f"run rollback prepared {name}"
    return f"run select pg_drop_replication_slot({name})"


async def _timed(conn: Connection, longer_than_seconds: float) -> list[Pin]:
    """Those of whom it is known since when."""
    asked = ((Kind.SESSION, SESSIONS), (Kind.PREPARED, PREPARED))
    return [
        Pin(kind=kind, **row)
        for kind, statement in asked
        for row in await conn.fetch(statement, longer_than_seconds, PINS_MAX)
    ]
