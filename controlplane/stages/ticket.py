"""Ticket: one way in for one stream, for a browser, which can send a key in no header.

Beside the thread: no execution moves. Only a hash is kept of a ticket; it is gone with its use or with its time.
"""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.domain.key import KeyId
from controlplane.errors import Invalid
from controlplane.postgres.pool import Connection

TICKET_SECONDS = 60.0
TICKETS_MAX = 10_000
"""Of one namespace at once; more than a house full of browsers asks for in a minute."""
SWEEP_MAX = 100
BUCKET = 0
"""Where all of them lie: few, and for a minute."""

# What is over goes with the next one that is made.
SWEEP = """
delete from tickets
where bucket = $1
  and hash = any(array(
    select hash
    from tickets
    where bucket = $1
      and expires_at < clock()
    order by expires_at
    limit $2
    for update skip locked
  ))
"""

ISSUE = """
insert into tickets (bucket, hash, namespace, path, key_id, expires_at)
select $1, $2::bytea, $3::smallint, $4::text, $5::uuid, clock() + make_interval(secs => $6::float8)
where (
  select count(*)
  from tickets
  where bucket = $1
    and namespace = $3::smallint
    and expires_at >= clock()
) < $7::bigint
returning true
"""

REDEEM = """
delete from tickets
where bucket = $1
  and hash = $2
returning path, key_id, expires_at > clock() as live
"""


@dataclass(frozen=True, slots=True)
class Redeemed:
    """By which key the ticket was asked for; None: by the one that the server was started with, or by none."""

    key_id: KeyId | None


async def issue(
    conn: Connection, ticket_hash: bytes, *, namespace: int, path: str, key_id: KeyId | None, seconds: float
) -> None:
    """A ticket for this path.

    Moves: nothing → a row. Guard: its hash is new each time. Raises: Invalid when the namespace has too many.
    """
    await conn.execute(SWEEP, BUCKET, SWEEP_MAX)
    row = await conn.fetchval(ISSUE, BUCKET, ticket_hash, namespace, path, key_id, seconds, TICKETS_MAX)
    if row is None:
        raise Invalid(f"There are {TICKETS_MAX} unused tickets already.", fix="Wait a minute.")


async def redeem(conn: Connection, ticket_hash: bytes, *, path: str) -> Redeemed | None:
    """Whoever comes first with it is let in, once, also when it was for another path; None for everybody else.

    Moves: a row → nothing. Guard: of two that delete one row, one finds it.
    """
    row = await conn.fetchrow(REDEEM, BUCKET, ticket_hash)
    if row is None or not row["live"] or row["path"] != path:
        return None
    return Redeemed(row["key_id"])
