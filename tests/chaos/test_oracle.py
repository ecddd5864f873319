"""The oracle sees what is wrong: a run without faults, and one lie at a time about what it came to."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from tests.chaos import oracle
from tests.chaos.embedded import Embedded
from tests.chaos.forwarder import Forwarder
from tests.chaos.run import Plan, Report, play
from tests.chaos.stage import Stage

SEED = 7
RECEIVERS = 1
PLAN = Plan(seed=SEED, seconds=0, calm_seconds=8, rate=25, hands=(), nodes=1, servers=1, receivers=RECEIVERS)
Lines = list[list[Any]]

ONE_OF = """
select o.id
from outcomes o
join executions e using (bucket, id)
where o.status = 'succeeded' and starts_with(convert_from(e.input, 'UTF8'), '{"name":"quick-')
order by o.id
limit 1
"""

BY_THE_FIRST = """'"attempt":1', '"attempt":7'"""
COLUMNS = "bucket, namespace, scope, scope_id, key, value, created_at, updated_at"

IN_THE_DATABASE = {
    "lost": ("without an end", f"delete from outcomes where id in ({ONE_OF})"),
    "gone": ("acknowledged, and not there", f"delete from executions where id in ({ONE_OF})"),
    "named twice": ("there more than once", 'update executions set input = \'{"name": "twin"}\''),
    "schedule": ("ticks and what they submitted", "delete from schedule_ticks where outcome = 'submitted'"),
    "two ends": (
        "not exactly one end",
        f"update events set type = 'execution.failed' where execution_id in ({ONE_OF})",
    ),
    "no end": ("not exactly one end", "delete from events where type = 'execution.completed'"),
    "other end": ("ended otherwise: failed", f"update outcomes set status = 'failed' where id in ({ONE_OF})"),
    "other attempt": ("a result that nobody found", f"update outcomes set attempt = 9 where id in ({ONE_OF})"),
    "item missing": ("an item is missing or there twice", "delete from memory_items where position = 1"),
    "old attempt": (
        "a stale write was accepted",
        f"update memory_items set value = convert_to(replace(convert_from(value, 'UTF8'), {BY_THE_FIRST}), 'UTF8')",
    ),
    "stale key": (
        "a stale write was accepted",
        f"insert into memory ({COLUMNS}) values (0, 1, 'run', 'any', 'stale', '1', clock(), clock())",
    ),
    "dead": ("not delivered", "update deliveries set state = 'dead'"),
    "other body": ("told something else", "update deliveries set body = '{}'"),
    "broken": ("verify in_one_place", f"delete from outcomes where id in ({ONE_OF})"),
}


def _but_the_first(word: str) -> Callable[[Lines], Lines]:
    def edit(lines: Lines) -> Lines:
        first = next(line for line in lines if line[0] == word)
        return [line for line in lines if line is not first]

    return edit


def _again(word: str) -> Callable[[Lines], Lines]:
    return lambda lines: [*lines, next(line for line in lines if line[0] == word)]


def _heard(place: int, value: Any) -> Callable[[Lines], Lines]:
    """The last word that was heard once more, with this in place of what was heard."""
    return lambda lines: [*lines, [*lines[-1][:place], value, *lines[-1][place + 1 :]]]


def _cancelled(lines: Lines) -> Lines:
    return [*lines, ["acted", "cancel", next(line[2] for line in lines if line[1].startswith("quick")), 200]]


def _never_ended(lines: Lines) -> Lines:
    return [line for line in lines if line[0] != "end"]


IN_A_JOURNAL: dict[str, tuple[str, str, Callable[[Lines], Lines]]] = {
    "not there": (
        "acknowledged, and not there",
        "callers",
        lambda lines: [*lines, ["accepted", f"quick-{SEED}-0", "exec_none", 0.0]],
    ),
    "not told": ("there, and nobody was told", "callers", _but_the_first("accepted")),
    "odd": ("an odd answer", "callers", lambda lines: [*lines, ["odd", "one key named two"]]),
    "not cancelled": ("ended otherwise: succeeded", "callers", _cancelled),
    "made up": ("a result that nobody found", "node", _never_ended),
    "begun twice": ("one attempt was begun twice", "node", _again("begin")),
    "repeated": ("more was repeated than there were attempts lost", "node", _again("item")),
    "not heard": ("nobody was told", "receiver", lambda _: []),
    "two ids": ("told under two ids", "receiver", _heard(1, "another")),
    "two bodies": ("told something else", "receiver", _heard(2, "0" * 64)),
    "unsigned": ("told without a good signature", "receiver", _heard(3, False)),
    "accepted late": (
        "a stale write was accepted",
        "stale",
        lambda lines: [*lines, ["accepted", "completion", "exec_any", 1, 200, {}, 0.0]],
    ),
}


@pytest.fixture(scope="module")
def played() -> Iterator[tuple[Stage, Report]]:
    """A run without faults, whose database is still there."""
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp") as folder, asyncio.Runner() as runner:
        stage = Stage(Path(folder), Embedded(Path(folder)), Forwarder())
        try:
            yield stage, runner.run(play(PLAN, stage))
        finally:
            runner.run(stage.close())


@pytest.fixture
async def conn(played: tuple[Stage, Report]) -> AsyncIterator[asyncpg.Connection]:
    """A connection, what is written through which is never committed."""
    connection = await asyncpg.connect(played[0].ground.dsn)
    changes = connection.transaction()
    await changes.start()
    yield connection
    await changes.rollback()
    await connection.close()


async def _violations(conn: asyncpg.Connection, folder: Path) -> set[str]:
    return set((await oracle.judge(conn, folder, seed=SEED, receivers=RECEIVERS)).violations)


async def test_all_is_well_when_nothing_went_wrong(played: tuple[Stage, Report]) -> None:
    """Without faults nothing is found, and much was done."""
    report = played[1]

    assert report.violations == {}
    assert report.figures["accepted"] > 100
    assert report.figures["deliveries"] > 30
    assert report.figures["late_completion"] > 0


@pytest.mark.parametrize(("what", "statement"), IN_THE_DATABASE.values(), ids=IN_THE_DATABASE)
async def test_a_lie_of_the_database_is_seen(
    played: tuple[Stage, Report], conn: asyncpg.Connection, what: str, statement: str
) -> None:
    """What the database says now is not what people saw."""
    await conn.execute(statement)

    assert what in await _violations(conn, played[0].folder)


def _retold(folder: Path, into: Path, kind: str, edit: Callable[[Lines], Lines]) -> None:
    """The journals of a run, one of this kind of process changed."""
    for journal in folder.glob("*.journal"):
        shutil.copy(journal, into)
    told = min(into.glob(f"{kind}*.journal"))
    lines = edit([orjson.loads(line) for line in told.read_bytes().splitlines()])
    told.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))


@pytest.mark.parametrize(("what", "kind", "edit"), IN_A_JOURNAL.values(), ids=IN_A_JOURNAL)
async def test_what_somebody_saw_is_believed(
    played: tuple[Stage, Report],
    conn: asyncpg.Connection,
    tmp_path: Path,
    what: str,
    kind: str,
    edit: Callable[[Lines], Lines],
) -> None:
    """What people saw is not what the database says."""
    _retold(played[0].folder, tmp_path, kind, edit)

    assert what in await _violations(conn, tmp_path)
