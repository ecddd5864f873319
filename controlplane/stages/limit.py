"""Limit: a person says how many of a key may be under way and how many may begin; `admit.py` keeps to it."""

from __future__ import annotations

from collections.abc import Mapping

from controlplane.domain.limit import KEY, Limit, Rule
from controlplane.errors import LimitNotFound
from controlplane.postgres.pool import Connection

LOCK = """
select namespace, key, concurrency_max, declared_max, rate_max, rate_seconds, spent_at, spent, turn, updated_at
from limits
where bucket = $1
  and namespace = $2
  and key = $3
for update
"""

# A new limit of a reasoner or a node takes in the rows that are there already: looked through twice.
PUT = """
insert into limits (bucket, namespace, key, concurrency_max, rate_max, rate_seconds, adopt_passes, updated_at)
values ($1, $2, $3, $4, $5, $6, $7, clock())
on conflict (bucket, namespace, key) do update
set concurrency_max = excluded.concurrency_max,
  rate_max = excluded.rate_max,
  rate_seconds = excluded.rate_seconds,
  adopt_after = null,
  adopt_passes = excluded.adopt_passes,
  updated_at = clock()
returning namespace, key, concurrency_max, declared_max, rate_max, rate_seconds, spent_at, spent, turn, updated_at,
  xmax = 0 as new
"""

FORGET = """
delete from limits
where bucket = $1
  and namespace = $2
  and key = $3
  and declared_max is null
returning key
"""

# What the node itself says stays, until it says something else.
WITHDRAW = """
update limits
set concurrency_max = null, rate_max = null, rate_seconds = null, spent_at = '{}', spent = '{}', updated_at = clock()
where bucket = $1
  and namespace = $2
  and key = $3
  and (concurrency_max is not null or rate_max is not null)
returning key
"""

DECLARE = """
insert into limits (bucket, namespace, key, declared_max, adopt_passes, updated_at)
select $1, $2, l.key, l.declared_max, 2, clock()
from unnest($3::text[], $4::int[]) as l(key, declared_max)
order by l.key
on conflict (bucket, namespace, key) do update
set declared_max = excluded.declared_max, adopt_after = null, adopt_passes = 2, updated_at = clock()
where limits.declared_max is distinct from excluded.declared_max
"""

UNDECLARE = """
update limits
set declared_max = null, updated_at = clock()
where bucket = $1
  and namespace = $2
  and key = any(array(
    select key
    from limits
    where bucket = $1
      and namespace = $2
      and key = any($3::text[])
      and declared_max is not null
    order by key
    for update
  ))
"""

FORGET_EMPTY = """
delete from limits
where bucket = $1
  and namespace = $2
  and key = any($3::text[])
  and declared_max is null
  and concurrency_max is null
  and rate_max is null
"""


async def put(conn: Connection, bucket: int, rule: Rule, *, namespace: int, key: str) -> tuple[Limit, bool]:
    """The limit of this key is this one from here on; says whether it is new.

    What runs beyond a lower limit runs to its end. Guard: one row per key, which `admit` holds while it decides.
    """
    row = await conn.fetchrow(
        PUT,
        bucket,
        namespace,
        key,
        rule.concurrency_max,
        rule.rate_max,
        rule.rate_seconds,
        0 if key.startswith(KEY) else 2,  # what has a key of its own always stands in line
    )
    assert row is not None
    return Limit.from_row(row), row["new"]


async def lock(conn: Connection, bucket: int, *, namespace: int, key: str) -> Limit | None:
    """The limit of this key as it stands until the caller's transaction ends; None when there is none."""
    row = await conn.fetchrow(LOCK, bucket, namespace, key)
    return None if row is None else Limit.from_row(row)


async def remove(conn: Connection, bucket: int, *, namespace: int, key: str) -> bool:
    """Forget what was set: all that waits for it is let in, as far as the node's own word allows it.

    Says whether nothing is left of the limit. Guard: the row. Raises: LimitNotFound.
    """
    async with conn.transaction():
        if await conn.fetchval(FORGET, bucket, namespace, key) is not None:
            return True
        if await conn.fetchval(WITHDRAW, bucket, namespace, key) is None:
            raise LimitNotFound
        return False


async def declare(conn: Connection, bucket: int, declared: Mapping[str, int | None], *, namespace: int) -> None:
    """What a node says of its reasoners, by the keys of their limits; None: it says nothing (any more).

    The caller is inside a transaction. Guard: keys are taken in order; saying the same again changes nothing.
    """
    said = {key: most for key, most in declared.items() if most is not None}
    if said:
        await conn.execute(DECLARE, bucket, namespace, list(said), list(said.values()))
    silent = [key for key, most in declared.items() if most is None]
    if silent:
        await conn.execute(UNDECLARE, bucket, namespace, silent)
        await conn.execute(FORGET_EMPTY, bucket, namespace, silent)
