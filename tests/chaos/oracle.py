"""The oracle: what callers, nodes and receivers wrote down, compared with what the database says when all is quiet."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import orjson

from controlplane.domain.ids import show_execution
from controlplane.reads import verify
from tests.chaos.journal import records
from tests.chaos.stale import STALE
from tests.chaos.work import ROOM, SCHEDULED, Piece, piece, trivial

SHOWN_MAX = 20
"""Cases that are named of one violation; the number of all of them is kept."""
BUCKETS = (0,)
ACCEPTED = 200
ENDS = ("execution.completed", "execution.failed", "execution.cancelled", "execution.timeout")

EXECUTIONS = """
select e.id, e.parent_id, e.run_id, convert_from(e.input, 'UTF8')::json ->> 'name' as name, o.status, o.status_reason,
  o.attempt, o.result
from executions e
left join outcomes o on o.bucket = e.bucket and o.id = e.id
"""
END_EVENTS = "select execution_id, array_agg(type) as types from events where type = any($1) group by execution_id"
ROOMS = """
select m.scope_id, array_agg(convert_from(i.value, 'UTF8') order by i.position) as items
from memory m
join memory_items i using (bucket, namespace, scope, scope_id, key)
where m.scope = 'run' and m.key = $1
group by m.scope_id
"""
BASES = "select scope_id, convert_from(value, 'UTF8') as value from memory where scope = 'run' and key = $1"
STALE_KEYS = "select scope_id from memory where key = $1"
DELIVERIES = "select execution_id, state, attempt, body from deliveries"
TICKS = "select count(*) from schedule_ticks where outcome = 'submitted'"


@dataclass(slots=True)
class Findings:
    """What does not agree, by what kind of thing it is; and the figures of the run."""

    violations: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[str] = field(default_factory=Counter)
    figures: dict[str, int] = field(default_factory=dict)

    def bad(self, what: str, *words: object) -> None:
        self.counts[what] += 1
        if len(self.violations[what]) < SHOWN_MAX:
            self.violations[what].append(" ".join(map(str, words)))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt as a process saw it."""

    execution_id: str
    number: int
    by: str


@dataclass(slots=True)
class Seen:
    """The journals of a run, sorted by who is spoken of."""

    accepted: dict[str, str] = field(default_factory=dict)  # by name, the id
    cancelled: set[str] = field(default_factory=set)
    odd: list[str] = field(default_factory=list)
    begun: Counter[Attempt] = field(default_factory=Counter)
    ended: set[Attempt] = field(default_factory=set)
    items: Counter[tuple[str, int]] = field(default_factory=Counter)
    steps: set[tuple[str, str]] = field(default_factory=set)
    late: Counter[str] = field(default_factory=Counter)
    late_attempts: set[tuple[str, int]] = field(default_factory=set)
    late_accepted: list[str] = field(default_factory=list)
    heard: dict[str, list[tuple[str, str, bool]]] = field(default_factory=lambda: defaultdict(list))


def read_journals(folder: Path) -> Seen:
    """What everybody saw."""
    seen = Seen()
    for word, *rest in records(folder, "callers*.journal"):
        _hear_caller(seen, word, rest)
    for word, execution_id, attempt, by, *rest in records(folder, "node*.journal"):
        _hear_node(seen, word, Attempt(execution_id, attempt, by), rest)
    for word, what, *rest in records(folder, "stale*.journal"):
        if word == "accepted":
            seen.late_accepted.append(f"{what} {rest}")
        else:
            seen.late[what if word == "refused" else word] += 1
            seen.late_attempts.add((rest[0], rest[1]))
    for _, webhook_id, sha, good, _, body in records(folder, "receiver*.journal"):
        seen.heard[orjson.loads(body)["execution_id"]].append((webhook_id, sha, good))
    return seen


def _hear_caller(seen: Seen, word: str, rest: list[Any]) -> None:
    if word == "accepted":
        seen.accepted[rest[0]] = rest[1]
    elif word == "acted":
        verb, id_, status = rest
        if verb == "cancel" and status == ACCEPTED:
            seen.cancelled.add(id_)
    else:
        seen.odd.append(str(rest))


def _hear_node(seen: Seen, word: str, one: Attempt, rest: list[Any]) -> None:
    if word == "begin":
        seen.begun[one] += 1
    elif word == "end":
        seen.ended.add(one)
    elif word == "item":
        seen.items[one.execution_id, rest[0]] += 1
    elif word == "step":
        seen.steps.add((one.execution_id, f"{one.number} {one.by}"))
    elif word == "refused":
        seen.late["memory of a node"] += 1


async def judge(conn: asyncpg.Connection, folder: Path, *, seed: int, receivers: int) -> Findings:
    """Everything that does not agree."""
    seen, found = read_journals(folder), Findings()
    rows = {show_execution(row["id"]): row for row in await conn.fetch(EXECUTIONS)}
    _nothing_is_lost(seen, rows, found)
    _nothing_is_there_twice(seen, rows, await conn.fetchval(TICKS), found)
    await _each_ends_once(conn, rows, found)
    expected = _expected(seen, rows, seed=seed, receivers=receivers)
    _ends_as_it_should(seen, rows, expected, found)
    await _memory_is_what_was_kept(conn, rows, found)
    _little_is_repeated(seen, rows, found)
    await _everybody_is_told(conn, seen, expected, found)
    _nobody_late_is_heard(seen, rows, found)
    for words in seen.odd:
        found.bad("an odd answer", words)
    for invariant, ids in (await verify.broken(conn, BUCKETS)).items():
        found.bad(f"verify {invariant.name}", *ids)
    found.figures |= {
        "accepted": len(seen.accepted),
        "executions": len(rows),
        "attempts_begun": sum(seen.begun.values()),
        "attempts_superseded": sum((row["attempt"] or 0) - 1 for row in rows.values() if (row["attempt"] or 0) > 1),
        "items": len(seen.items),
        "items_repeated": sum(seen.items.values()) - len(seen.items),
        "late_attempts": len(seen.late_attempts),
        "webhooks_heard": sum(len(heard) for heard in seen.heard.values()),
        **{f"late_{what.replace(' ', '_')}": number for what, number in sorted(seen.late.items())},
    }
    return found


def _expected(seen: Seen, rows: Mapping[str, asyncpg.Record], *, seed: int, receivers: int) -> list[tuple[str, Piece]]:
    """What was to be done, by id. What nodes or a schedule asked for is trivial, and nobody is told of it."""
    asked = {id_: piece(seed, int(name.rsplit("-", 1)[1]), receivers) for name, id_ in seen.accepted.items()}
    return [(id_, asked.get(id_) or trivial(row["name"])) for id_, row in rows.items()]


def _nothing_is_lost(seen: Seen, rows: Mapping[str, asyncpg.Record], found: Findings) -> None:
    for name, id_ in seen.accepted.items():
        if id_ not in rows:
            found.bad("acknowledged, and not there", name, id_)
    for id_, row in rows.items():
        if row["status"] is None:
            found.bad("without an end", row["name"], id_)


def _nothing_is_there_twice(seen: Seen, rows: Mapping[str, asyncpg.Record], ticks: int, found: Findings) -> None:
    """A name is one execution's, whether a caller chose it or a parent; a schedule's are as many as its ticks."""
    names = Counter(row["name"] for row in rows.values())
    scheduled = names.pop(SCHEDULED, 0)
    for name, number in names.items():
        if number > 1:
            found.bad("there more than once", name, number)
    for id_, row in rows.items():
        if row["parent_id"] is None and row["name"] != SCHEDULED and seen.accepted.get(row["name"]) != id_:
            found.bad("there, and nobody was told", row["name"], id_)
    if scheduled != ticks:
        found.bad("ticks and what they submitted", ticks, scheduled)
    found.figures["scheduled"] = scheduled


async def _each_ends_once(conn: asyncpg.Connection, rows: Mapping[str, asyncpg.Record], found: Findings) -> None:
    ends = {show_execution(row["execution_id"]): row["types"] for row in await conn.fetch(END_EVENTS, ENDS)}
    for id_, row in rows.items():
        if row["status"] is not None and len(ends.get(id_, ())) != 1:
            found.bad("not exactly one end", row["name"], id_, ends.get(id_))


def _ends_as_it_should(
    seen: Seen, rows: Mapping[str, asyncpg.Record], expected: Sequence[tuple[str, Piece]], found: Findings
) -> None:
    """Its result is the one that the attempt which it ended with has found, by its own account. Whoever was told that
    it is being cancelled sees it cancelled."""
    statuses: Counter[str] = Counter()
    for id_, one in expected:
        row = rows[id_]
        if row["status"] is None:
            continue
        statuses[row["status"]] += 1
        if row["status"] == "cancelled" and one.act == "cancel":
            continue
        if row["status"] != one.end or id_ in seen.cancelled:
            found.bad(f"ended otherwise: {row['status_reason'] or row['status']}", one.name, id_, row["attempt"])
        elif row["status"] == "succeeded" and (why := _wrong(seen, id_, one, row)):
            found.bad("a result that nobody found", one.name, id_, why)
    found.figures |= {f"ended_{status}": number for status, number in sorted(statuses.items())}


def _wrong(seen: Seen, id_: str, one: Piece, row: asyncpg.Record) -> str | None:
    result = orjson.loads(row["result"])
    if result.get(STALE) or result.get("name") != one.name:
        return f"{result}"
    if result["attempt"] != row["attempt"]:
        return f"attempt {row['attempt']} has the result of {result['attempt']}"
    if Attempt(id_, result["attempt"], result["by"]) not in seen.ended:
        return f"attempt {result['attempt']} of {result['by']} never came to its end"
    if one.kind == "sleeps":
        return None if (id_, result["value"]) in seen.steps else f"a step that nobody took: {result['value']}"
    expected = {
        "items": one.input.get("count"),
        "asks": one.name,
        "family": [f"{one.name}/{n}" for n in range(one.input.get("count", 0))],
    }.get(one.kind)
    return None if result["value"] == expected else f"{result['value']} instead of {expected}"


async def _memory_is_what_was_kept(
    conn: asyncpg.Connection, rows: Mapping[str, asyncpg.Record], found: Findings
) -> None:
    """Each item is there once and in its place, and none was kept by an attempt after a later one had kept one."""
    bases = {row["scope_id"]: orjson.loads(row["value"]) for row in await conn.fetch(BASES, ROOM)}
    added = {row["scope_id"]: [orjson.loads(item) for item in row["items"]] for row in await conn.fetch(ROOMS, ROOM)}
    for row in await conn.fetch(STALE_KEYS, STALE):
        found.bad("a stale write was accepted", row["scope_id"])
    for id_, row in rows.items():
        kept = bases.get(row["run_id"], []) + added.get(row["run_id"], [])
        if STALE in kept:
            found.bad("a stale write was accepted", row["name"], id_)
            continue
        attempts = [item["attempt"] for item in kept]
        if [item["item"] for item in kept] != list(range(len(kept))):
            found.bad("an item is missing or there twice", row["name"], id_, kept)
        if attempts != sorted(attempts) or (attempts and row["attempt"] is not None and attempts[-1] > row["attempt"]):
            found.bad("a stale write was accepted", row["name"], id_, attempts, row["attempt"])
        if row["status"] == "succeeded" and kept and len(kept) != orjson.loads(row["result"]).get("value"):
            found.bad("an item is missing or there twice", row["name"], id_, len(kept))


def _little_is_repeated(seen: Seen, rows: Mapping[str, asyncpg.Record], found: Findings) -> None:
    """An attempt is begun by one process, once; the next one repeats one item of it at most."""
    begun: Counter[tuple[str, int]] = Counter()
    for one, times in seen.begun.items():
        begun[one.execution_id, one.number] += times
    for (id_, attempt), times in begun.items():
        if times > 1:
            found.bad("one attempt was begun twice", id_, attempt, times)
    repeated: Counter[str] = Counter()
    for (id_, _), times in seen.items.items():
        repeated[id_] += times - 1
    for id_, times in repeated.items():
        if id_ in rows and times > max(0, (rows[id_]["attempt"] or 0) - 1):
            found.bad("more was repeated than there were attempts lost", id_, times, rows[id_]["attempt"])


async def _everybody_is_told(
    conn: asyncpg.Connection, seen: Seen, expected: Sequence[tuple[str, Piece]], found: Findings
) -> None:
    """At least once, under one id, with one body, which is signed and is the one that was planned."""
    planned: dict[str, list[asyncpg.Record]] = defaultdict(list)
    for row in await conn.fetch(DELIVERIES):
        planned[show_execution(row["execution_id"])].append(row)
    told = 0
    for id_, one in expected:
        heard, rows_of = seen.heard.get(id_, []), planned.get(id_, [])
        if one.receiver is None:
            if heard or rows_of:
                found.bad("told, though nobody asked", one.name, id_)
            continue
        told += 1
        if not heard:
            found.bad("nobody was told", one.name, id_, [(row["state"], row["attempt"]) for row in rows_of])
        if [row["state"] for row in rows_of] != ["delivered"]:
            found.bad("not delivered", one.name, id_, [(row["state"], row["attempt"]) for row in rows_of])
        _heard_as_planned(id_, one, heard, rows_of, found)
    found.figures |= {"deliveries": told, "webhooks_repeated": sum(len(one) - 1 for one in seen.heard.values())}


def _heard_as_planned(
    id_: str, one: Piece, heard: Sequence[tuple[str, str, bool]], rows_of: Sequence[asyncpg.Record], found: Findings
) -> None:
    if len({webhook_id for webhook_id, _, _ in heard}) > 1:
        found.bad("told under two ids", one.name, id_, heard)
    if not {sha for _, sha, _ in heard} <= {hashlib.sha256(row["body"]).hexdigest() for row in rows_of}:
        found.bad("told something else", one.name, id_, heard)
    if not all(good for _, _, good in heard):
        found.bad("told without a good signature", one.name, id_, heard)


def _nobody_late_is_heard(seen: Seen, rows: Mapping[str, Any], found: Findings) -> None:
    """Every word of a lost lease was refused; ends that nodes came to too late are counted."""
    for words in seen.late_accepted:
        found.bad("a stale write was accepted", words)
    found.figures["late_ends_of_nodes"] = sum(
        1
        for one in seen.ended
        if (row := rows.get(one.execution_id)) is not None
        and row["result"] is not None
        and row["attempt"] != one.number
    )
