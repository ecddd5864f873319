"""Vectors as they were committed, and the nearest of them.

Compared in SQL over plain arrays, one scope at a time: no extension is needed, and a scope of 10,000 is the limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.domain.memory import Place, Scope
from controlplane.domain.vector import LOOKED_AT_MAX, Embedding, Hit, Vector, matches, unit
from controlplane.postgres.pool import Connection

PAGE = 200

READ = """
select scope, scope_id, key, embedding, metadata, created_at, updated_at
from memory_vectors
where bucket = $1
  and namespace = $2
  and scope = $3
  and scope_id = $4
  and key = $5
"""

# The query has the norm 1. Rounding may lead a little beyond 1, where no cosine is. `unnest` stands in the select list:
# in `from` it fills a store first, and 10,000 vectors of 1,536 numbers took 1.3 s instead of 0.7.
RANK = """
with looked_at as (
  select key, embedding, norm
  from memory_vectors
  where bucket = $1
    and namespace = $2
    and scope = $3
    and scope_id = $4
  order by key
  limit $6
)
select l.key, least(1, greatest(-1, product.sum / l.norm)) as score
from looked_at l
cross join lateral (
  select sum(pair.a * pair.b) as sum
  from (select unnest(l.embedding) as a, unnest($5::double precision[]) as b) pair
) product
where cardinality(l.embedding) = cardinality($5::double precision[])
order by score desc, l.key
limit $7
"""

READ_HITS = """
select scope, scope_id, key, metadata, created_at, updated_at
from memory_vectors
where bucket = $1
  and namespace = $2
  and scope = $3
  and scope_id = $4
  and key = any($5::text[])
"""

HAS_MORE = """
select exists (
  select 1
  from memory_vectors
  where bucket = $1
    and namespace = $2
    and scope = $3
    and scope_id = $4
  order by key
  offset $5
)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search found, best first. `complete`: the whole scope was looked at."""

    hits: list[Hit]
    complete: bool


async def read(conn: Connection, place: Place) -> Vector | None:
    """The vector under this key, or None."""
    row = await conn.fetchrow(READ, *_scope(place), place.key)
    if row is None:
        return None
    return Vector(
        scope=Scope(row["scope"]),
        scope_id=row["scope_id"],
        key=row["key"],
        embedding=tuple(row["embedding"]),
        metadata=row["metadata"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


async def search(
    conn: Connection,
    scope: Place,
    query: Embedding,
    *,
    wanted: Mapping[str, object],
    top_k: int,
    looked_at_max: int = LOOKED_AT_MAX,
) -> Found:
    """The nearest vectors of this scope that have the query's dimension and the wanted metadata; equals by key.

    Looks at the first `looked_at_max` of the scope, in the order of their keys.
    """
    limit = looked_at_max if wanted else top_k
    ranked = await conn.fetch(RANK, *_scope(scope), unit(query), looked_at_max, limit)
    hits: list[Hit] = []
    for start in range(0, len(ranked), PAGE):
        hits += await _hits(conn, scope, {row["key"]: row["score"] for row in ranked[start : start + PAGE]}, wanted)
        if len(hits) >= top_k:
            break
    more: bool = await conn.fetchval(HAS_MORE, *_scope(scope), looked_at_max)
    return Found(hits=hits[:top_k], complete=not more)


async def _hits(conn: Connection, scope: Place, scores: Mapping[str, float], wanted: Mapping[str, object]) -> list[Hit]:
    """In the order of the scores; what was forgotten meanwhile is left out."""
    rows = {row["key"]: row for row in await conn.fetch(READ_HITS, *_scope(scope), list(scores))}
    return [
        Hit(
            scope=Scope(row["scope"]),
            scope_id=row["scope_id"],
            key=key,
            score=score,
            metadata=row["metadata"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
        )
        for key, score in scores.items()
        if (row := rows.get(key)) is not None and matches(row["metadata"], wanted)
    ]


def _scope(place: Place) -> tuple[int, int, str, str]:
    return (place.bucket, place.namespace, place.scope.value, place.scope_id)
