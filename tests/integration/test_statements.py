"""Every SQL constant is accepted by a migrated database, and stays inside one bucket."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator

import asyncpg
import pytest

import controlplane.reads
import controlplane.stages

SQL = re.compile(r"\s*(select|insert|update|delete|with)\b", re.IGNORECASE)
# Found by name or made by DDL, not by bucket; each with its reason.
BUCKETLESS = {
    "controlplane.stages.cancel.READ_CLOCK": "touches no table",
    "controlplane.stages.prune.READ_CLOCK": "touches no table",
    "controlplane.stages.prune.ENSURE_PARTITIONS": "DDL of all buckets",
    "controlplane.stages.prune.ANALYZE_GROWN": "whole tables, of all buckets",
    "controlplane.stages.prune.DROP_PARTITION": "DDL of all buckets",
    "controlplane.stages.prune.STRAYS": "whole partitions, of all buckets",
    "controlplane.stages.schedule.READ_CLOCK": "touches no table",
    "controlplane.reads.bulks.READ_CLOCK": "touches no table",
    "controlplane.reads.events.HORIZON": "touches no table",
    "controlplane.reads.feed.CLOCK": "touches no table",
    "controlplane.stages.announce.HORIZON": "touches no table",
}
# Who becomes ready passes its limits first, so a statement that says `ready` asks whether there is a line to stand in.
BECOMES_READY = re.compile(r"\bset\s+state\s*=\s*(case\b.*?\bend\b|'ready')", re.IGNORECASE | re.DOTALL)
TABLES = (
    "executions|queue|outcomes|events|logs|memory|memory_items|nodes|sessions|reasoners|webhooks|deliveries"
    "|delivery_attempts|idempotency_keys|limits|schedules|schedule_ticks|api_keys|local_calls|approvals|memory_changes|memory_vectors"
    "|pauses|bulks"
    "|triggers|trigger_events"
    "|retention_walks"
    "|ended_parents"
    "|steps|signals"
    "|namespaces"
    "|breakers"
    "|caps|census"
    "|audit|audit_heads"
    "|tickets"
    "|endpoints|announced|listeners"
)
READ = re.compile(rf"\b(from|join|update|into|using)\s+({TABLES})\b", re.IGNORECASE)

WEEKLY = re.compile(r"\b(from|join) (?P<table>executions|outcomes)\b(?: (?!on\b|where\b|join\b)(?P<alias>[a-z]+))?")
NAMED = re.compile(r"\b(from|join) (executions|outcomes)\b.*\bid = any\(\$2", re.DOTALL)


def statements() -> Iterator[tuple[str, str]]:
    for package in (controlplane.stages, controlplane.reads):
        for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            module = importlib.import_module(found.name)
            for name, value in vars(module).items():
                if name.isupper() and isinstance(value, str) and SQL.match(value):
                    yield f"{found.name}.{name}", value


STATEMENTS = dict(statements())


@pytest.mark.parametrize("name", STATEMENTS)
async def test_is_accepted_by_the_schema(name: str, conn: asyncpg.Connection) -> None:
    """A statement prepares against the migrated schema."""
    prepared = await conn.prepare(STATEMENTS[name])

    assert prepared.get_query()


@pytest.mark.parametrize("name", [name for name, statement in STATEMENTS.items() if NAMED.search(statement)])
def test_looks_only_into_the_weeks_of_what_is_named(name: str) -> None:
    """What finds executions by a list of ids says from when to when they are: of a list alone every week is read."""
    statement = STATEMENTS[name]

    for alias in {found["alias"] or found["table"] for found in WEEKLY.finditer(statement)}:
        prefix = "" if alias in ("executions", "outcomes") else rf"{alias}\."
        if re.search(rf"\b{prefix}id = any\(\$2", statement):
            assert re.search(rf"\b{prefix}id between \$\d+ and \$\d+", statement), alias


@pytest.mark.parametrize("name", [name for name in STATEMENTS if name not in BUCKETLESS])
def test_stays_in_one_bucket(name: str) -> None:
    """Every table that a statement reads or writes is narrowed to the bucket in $1."""
    statement = STATEMENTS[name]
    tables = len(READ.findall(statement))
    narrowed = len(re.findall(r"\bbucket = \$1", statement)) + len(
        re.findall(r"\b(select|values \()\s*\$1\b", statement)
    )

    assert tables > 0
    assert narrowed >= tables, f"{tables} tables, {narrowed} of them by bucket:\n{statement}"


def ready_makers() -> list[str]:
    made = {name: BECOMES_READY.search(text) for name, text in STATEMENTS.items()}
    return [name for name, found in made.items() if found is not None and "'ready'" in found[1]]


@pytest.mark.parametrize("name", ready_makers())
def test_what_becomes_ready_has_passed_its_limits(name: str) -> None:
    """Whatever wakes stands in its line again; only admit lets it in."""
    assert re.search(r"\bline\b", STATEMENTS[name]), STATEMENTS[name]


def test_those_that_make_ready_are_found() -> None:
    """The pattern above sees all that there are."""
    assert {"expire.PROMOTE", "expire.RELEASE", "pause.LET_GO", "complete.RETRY", "admit.LET_IN"} <= {
        name.removeprefix("controlplane.stages.") for name in ready_makers()
    }


def test_there_are_statements_to_test() -> None:
    """The collection above has not lost its rooms."""
    assert len(STATEMENTS) > 40
