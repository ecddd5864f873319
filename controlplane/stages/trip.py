"""Trip: a host that fails is left alone for a while, by every replica.

submit ──► lease ──► complete ──► finish ──► deliver ──► *trip*
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from controlplane.domain.breaker import Breaker, Said, after
from controlplane.postgres.pool import Connection

# In order, and before the others are locked: two that name the same hosts never wait for each other in a ring.
BEGIN = """
insert into breakers (bucket, host, namespace, failures, windows, changed_at)
select $1, s.host, s.namespace, 0, 0, clock()
from unnest($2::text[], $3::smallint[]) as s(host, namespace)
order by s.host, s.namespace
on conflict (bucket, host, namespace) do nothing
"""

LOCK = """
select b.host, b.namespace, b.failures, b.windows, b.held_until > clock() as held
from (
  select host, namespace
  from unnest($2::text[], $3::smallint[]) as s(host, namespace)
  order by host, namespace
) as s
cross join lateral (
  select host, namespace, failures, windows, held_until
  from breakers
  where bucket = $1
    and host = s.host
    and namespace = s.namespace
  for update
) as b
"""

WRITE = """
update breakers b
set failures = s.failures,
  windows = s.windows,
  opened_at = case when s.windows > 0 then coalesce(b.opened_at, clock()) end,
  open_until = case
    when s.windows = 0 then null
    when s.open_seconds is null then b.open_until
    else clock() + make_interval(secs => s.open_seconds)
  end,
  held_until = greatest(b.held_until, clock() + make_interval(secs => nullif(s.hold_seconds, 0))),
  changed_at = clock()
from unnest($2::text[], $3::smallint[], $4::int[], $5::smallint[], $6::float8[], $7::float8[])
  as s(host, namespace, failures, windows, open_seconds, hold_seconds)
where b.bucket = $1
  and b.host = s.host
  and b.namespace = s.namespace
"""

END_WINDOW = """
update breakers
set open_until = clock()
where bucket = $1
  and host = $2
  and namespace = $3
  and open_until > clock()
"""

COUNT_OPEN = "select count(*) from breakers where bucket = $1 and open_until is not null"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turned:
    """A breaker that has opened for so long, for the `windows`-th time in a row, or has `closed`.

    `hold_seconds`: for how long the host has asked to be left alone, when it was not so before.
    """

    host: str
    namespace: int
    failures: int
    windows: int
    open_seconds: float | None
    closed: bool
    hold_seconds: float


async def hear(conn: Connection, bucket: int, said: Sequence[Said]) -> list[Turned]:
    """Take in what attempts say about their hosts, in the transaction that settles them. Says what has turned.

    Moves: closed → open after straight failures, open → open for longer after a probe that failed, open → closed.
    Guard: the locked row; an attempt is heard once, because it is settled once.
    """
    if not said:
        return []
    by_host = {key: list(part) for key, part in groupby(sorted(said, key=_key), key=_key)}
    failing = [key for key, part in by_host.items() if any(one.answered is False or one.hold_seconds for one in part)]
    if failing:
        await conn.execute(BEGIN, bucket, [host for host, _ in failing], [namespace for _, namespace in failing])
    rows = await conn.fetch(LOCK, bucket, [host for host, _ in by_host], [namespace for _, namespace in by_host])
    written: list[tuple[str, int, int, int, float | None, float]] = []
    turned: list[Turned] = []
    for row in rows:
        key = row["host"], row["namespace"]
        was = Breaker(failures=row["failures"], windows=row["windows"])
        now = after(was, by_host[key])
        hold = max(one.hold_seconds for one in by_host[key])
        if now == was and not hold:
            continue
        written.append((*key, now.failures, now.windows, now.open_seconds, hold))
        new_hold = hold if hold and not row["held"] else 0.0
        closed = bool(was.windows and not now.windows)
        if now.open_seconds or closed or new_hold:
            turned.append(
                Turned(
                    host=key[0],
                    namespace=key[1],
                    failures=now.failures,
                    windows=now.windows,
                    open_seconds=now.open_seconds,
                    closed=closed,
                    hold_seconds=new_hold,
                )
            )
    if written:
        await conn.execute(WRITE, bucket, *[list(column) for column in zip(*written, strict=True)])
    return turned


async def end_window(conn: Connection, bucket: int, host: str, *, namespace: int) -> None:
    """A person says that the host is there again: let it be asked now, once. What it has asked for itself holds on."""
    await conn.execute(END_WINDOW, bucket, host, namespace)


async def count_open(conn: Connection, bucket: int) -> int:
    """How many hosts are left alone just now."""
    found: int = await conn.fetchval(COUNT_OPEN, bucket)
    return found


def _key(one: Said) -> tuple[str, int]:
    return one.host, one.namespace
