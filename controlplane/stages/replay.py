"""Replay: a run that was started anew takes over what its source run had finished, instead of running it again.

    submit ──► lease ──► complete ──► finish ──► deliver
       └── *replay* ────────────────────►│

A child whose question was answered in the source run is accepted and ends in one transaction: nobody ever sees it in
the queue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple
from uuid import UUID

from controlplane.domain.execution import Accepted, Held, Replay, ReplayMode, Settlement, Status, Submission
from controlplane.domain.ids import ExecutionId, show_execution
from controlplane.domain.placement import by_bucket, span
from controlplane.domain.replay import question
from controlplane.errors import ControlPlaneError
from controlplane.postgres.lane import Raced
from controlplane.postgres.pool import Connection
from controlplane.stages import finish, hold, submit

CANDIDATES_MAX = 2_000
"""Finished executions of one target that a flush compares as JSON, after none had the very same bytes."""
CANDIDATE_BYTES_MAX = 4 * 1024 * 1024
"""Their inputs and contexts together: they are parsed between two turns of the event loop."""
ANCESTORS_MAX = 1_000
"""How far up from the restarted execution its callers are looked for."""
AFTER_ALL = UUID(int=2**128 - 1)

# Who called the restarted execution cannot be taken over: then it would not be called again.
ANCESTORS = """
with recursive ancestors(id, parent_id, depth) as (
  select e.id, e.parent_id, 0
  from executions e
  where e.bucket = $1
    and e.id = $2
  union all
  select above.id, above.parent_id, a.depth + 1
  from ancestors a
  cross join lateral (
    select e.id, e.parent_id
    from executions e
    where e.bucket = $1
      and e.id = a.parent_id
    limit 1
  ) as above
  where a.depth < $3
)
select id from ancestors
"""

# Taken are the sources of what the new run has taken over before, but for what an earlier attempt of the same parent
# took: an attempt asks all its questions again and gets the same answers. `not in`, because it is hashed whatever the
# statistics say; `limit 1`, because so each candidate is one probe, and never a join with all that there ever was.
MATCH = """
select n, id
from (
  select w.n, w.wanted, e.id, row_number() over (partition by w.n order by e.id) as k
  from unnest($9::int[], $10::bytea[], $11::bytea[], $12::int[]) as w(n, input, context, wanted)
  join executions e on e.input = w.input and e.context is not distinct from w.context
  cross join lateral (
    select o.id
    from outcomes o
    where o.bucket = $1
      and o.id = e.id
      and o.status = 'succeeded'
    limit 1
  ) as done
  where e.bucket = $1
    and e.namespace = $2
    and e.run_id = $3
    and e.target = $4
    and e.id < $5
    and e.id <> all($6::uuid[])
    and e.id not in (
      select t.source_execution_id
      from executions t
      where t.bucket = $1
        and t.run_id = $7
        and t.source_execution_id is not null
        and (t.parent_id is distinct from $8 or t.created_at >= coalesce(
          (select q.leased_at from queue q where q.bucket = $1 and q.id = $8), '-infinity'
        ))
    )
) as candidates
where k <= wanted
order by n, id
"""

# Ordered by `created_at`, then the id: by the id alone the primary key was walked until the limit was full, past
# everybody's executions.
READ_CANDIDATES = """
select id, input, context
from (
  select c.id, c.input, c.context,
    sum(octet_length(c.input) + coalesce(octet_length(c.context), 0)) over (order by c.id) as bytes
  from (
    select e.id, e.input, e.context
    from executions e
    cross join lateral (
      select o.id
      from outcomes o
      where o.bucket = $1
        and o.id = e.id
        and o.status = 'succeeded'
      limit 1
    ) as done
    where e.bucket = $1
      and e.namespace = $2
      and e.run_id = $3
      and e.target = $4
      and e.id < $5
      and e.id <> all($6::uuid[])
      and e.id not in (
        select t.source_execution_id
        from executions t
        where t.bucket = $1
          and t.run_id = $7
          and t.source_execution_id is not null
          and (t.parent_id is distinct from $8 or t.created_at >= coalesce(
            (select q.leased_at from queue q where q.bucket = $1 and q.id = $8), '-infinity'
          ))
      )
    order by e.created_at, e.id
    limit $9
  ) as c
) as measured
where bytes <= $10
order by id
"""

READ_RESULTS = """
select id, result
from outcomes
where bucket = $1
  and id = any($2::uuid[])
  and id between $3 and $4
  and status = 'succeeded'
"""

# What no attempt has ended: only replay does that.
READ_SOURCES = """
select e.id, e.source_execution_id
from executions e
join outcomes o on o.bucket = $1 and o.id = e.id and o.id = any($2::uuid[]) and o.id between $3 and $4
where e.bucket = $1
  and e.id = any($2::uuid[])
  and e.id between $3 and $4
  and e.source_execution_id is not null
  and o.attempt = 0
  and o.status = 'succeeded'
"""


class Asker(NamedTuple):
    """Who asks of which target: those that look at the same candidates."""

    namespace: int
    run_id: str
    parent_id: UUID | None
    target: str
    replay: Replay


async def accept(
    conn: Connection, batch: Sequence[Submission], *, make_id: finish.MakeId
) -> list[Accepted | ControlPlaneError]:
    """As `submit.accept`, but a child whose answer the source run holds is over when this returns (`source_id`).

    The k-th equal call of the new run takes the k-th of the source run.
    Moves: nothing → (outcome), through finish; nothing → ready for the others. Guard: as in submit; only what this very
    flush has put into the queue ends here. Two flushes at once may take the same source: neither sees the other's
    child. That is harmless, because its result is an answer to the question that both ask, and none is ever lost.
    Raises: per item LeaseLost, IdempotencyConflict. Raced when an earlier flush of the same ids is still committing.
    """
    answers: dict[UUID, Accepted | ControlPlaneError] = {}
    async with conn.transaction():
        for bucket, part in by_bucket(batch, lambda item: item.id):
            answers.update(await _accept(conn, bucket, part, make_id))
    return [answers[item.id] for item in batch]


async def _accept(
    conn: Connection, bucket: int, part: list[Submission], make_id: finish.MakeId
) -> dict[UUID, Accepted | ControlPlaneError]:
    answers = await submit.admit(conn, bucket, part)
    fresh = [item for item in part if item.id not in answers]
    answers |= await submit.accepted_before(conn, bucket, fresh)
    answers = await _with_sources(conn, bucket, answers)
    for asker, items in _askers([item for item in fresh if item.id not in answers]):
        hits = await _match(conn, bucket, asker, items)
        answers |= await _take_over(conn, bucket, [item for item in items if item.id in hits], hits, make_id)
    answers |= await submit.enqueue(conn, bucket, [item for item in fresh if item.id not in answers])
    if len(answers) < len(part):
        raise Raced
    return answers


def _askers(items: list[Submission]) -> Iterator[tuple[Asker, list[Submission]]]:
    groups: dict[Asker, list[Submission]] = {}
    for item in items:
        if item.replay is not None and item.replay.mode is not ReplayMode.NONE:
            asker = Asker(item.namespace, item.run_id, item.parent_id, item.target, item.replay)
            groups.setdefault(asker, []).append(item)
    yield from groups.items()


async def _match(conn: Connection, bucket: int, asker: Asker, items: list[Submission]) -> dict[UUID, UUID]:
    """The execution of the source run that each of these takes over; those that match none are left out."""
    before = asker.replay.before_id if asker.replay.mode is ReplayMode.SUCCEEDED_BEFORE else None
    ancestors = [] if before is None else await conn.fetch(ANCESTORS, bucket, before, ANCESTORS_MAX)
    where = (
        bucket,
        asker.namespace,
        asker.replay.source_run_id,
        asker.target,
        before or AFTER_ALL,
        [row["id"] for row in ancestors],
        asker.run_id,
        asker.parent_id,
    )
    equal: dict[tuple[bytes, bytes | None], list[Submission]] = {}
    for item in items:
        equal.setdefault((item.input, item.context), []).append(item)
    asking = list(equal.values())
    rows = await conn.fetch(
        MATCH,
        *where,
        list(range(len(asking))),
        [same[0].input for same in asking],
        [same[0].context for same in asking],
        [len(same) for same in asking],
    )
    sources: list[list[UUID]] = [[] for _ in asking]
    for row in rows:
        sources[row["n"]].append(row["id"])
    hits: dict[UUID, UUID] = {}
    for same, found in zip(asking, sources, strict=True):
        hits |= {item.id: source for item, source in zip(same, found, strict=False)}
    left = [item for item in items if item.id not in hits]
    if left:
        candidates = await conn.fetch(READ_CANDIDATES, *where, CANDIDATES_MAX, CANDIDATE_BYTES_MAX)
        taken = set(hits.values())
        hits |= _match_as_json(left, [tuple(row) for row in candidates if row["id"] not in taken])
    return hits


def _match_as_json(items: list[Submission], candidates: list[tuple[UUID, bytes, bytes | None]]) -> dict[UUID, UUID]:
    sources: dict[str | None, list[UUID]] = {}
    for id_, input_, context in reversed(candidates):
        sources.setdefault(question(input_, context), []).append(id_)
    hits: dict[UUID, UUID] = {}
    for item in items:
        asked = question(item.input, item.context)
        if asked is not None and sources.get(asked):
            hits[item.id] = sources[asked].pop()
    return hits


async def _take_over(
    conn: Connection, bucket: int, items: list[Submission], hits: dict[UUID, UUID], make_id: finish.MakeId
) -> dict[UUID, Accepted]:
    """Accept these and end them with what their sources found."""
    if not items:
        return {}
    kept = await hold.keep(conn, bucket, [hits[item.id] for item in items])
    rows = await conn.fetch(READ_RESULTS, bucket, list(kept), *span(kept))
    results = {row["id"]: row["result"] for row in rows}
    there = [item for item in items if hits[item.id] in results]
    new = await submit.enqueue(
        conn, bucket, [replace(item, source_execution_id=hits[item.id], replay=None) for item in there]
    )
    held = await hold.lock(conn, bucket, list(new))
    ends = [_end(held[accepted.id], hits[accepted.id], results[hits[accepted.id]]) for accepted in new.values()]
    await finish.settle(conn, bucket, ends, make_id=make_id)
    return {id_: replace(accepted, source_id=ExecutionId(hits[id_])) for id_, accepted in new.items()}


def _end(held: Held, source_id: UUID, result: bytes) -> Settlement:
    return Settlement(
        held=held,
        status=Status.SUCCEEDED,
        status_reason=f"replayed_from_execution:{show_execution(source_id)}",
        result=result,
    )


async def _with_sources(
    conn: Connection, bucket: int, answers: dict[UUID, Accepted | ControlPlaneError]
) -> dict[UUID, Accepted | ControlPlaneError]:
    """What was answered before is answered so again: with the source, where it was taken over."""
    before = {id_: answer for id_, answer in answers.items() if isinstance(answer, Accepted)}
    if not before:
        return answers
    ids = [answer.id for answer in before.values()]
    rows = await conn.fetch(READ_SOURCES, bucket, ids, *span(ids))
    sources = {row["id"]: ExecutionId(row["source_execution_id"]) for row in rows}
    return answers | {id_: replace(answer, source_id=sources.get(answer.id)) for id_, answer in before.items()}
