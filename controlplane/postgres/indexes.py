"""Indexes of tables that are in use: built beside everybody who writes, however many rows there are.

For migrations. A build of PostgreSQL's own that keeps nobody out runs outside of any transaction, so what a migration
did before it is committed by then, and comes again when the build was broken off: it must be harmless the second time
(`add column if not exists`). What may happen only once comes after all builds, with the number of the migration.
"""

from __future__ import annotations

import re

from alembic import op

INDEX = re.compile(
    r"\s*create (?P<unique>unique )?index (?P<name>\w+) on (?P<table>\w+)\s+(?P<what>\((?P<columns>.*?)\).*)", re.DOTALL
)

# Of a table that has partitions those, else itself.
LEAVES = """
select c.relname::text as name, pg_relation_size(c.oid) > 0 as filled
from pg_class c
where c.oid = $1::text::regclass and c.relkind = 'r'
  or c.oid in (select relid from pg_partition_tree($1::text::regclass) where isleaf)
order by c.relname
"""

STATE = """
select indisvalid
from pg_index
where indexrelid = to_regclass($1::text)
"""


def build(statement: str) -> None:
    """Run this `create index name on table (…)`, or go on with it where it was broken off.

    An empty table gets its index at once, in the transaction that there is. Of a table with partitions each one's is
    built by itself, and the whole is put together from them; `columns` must be plain names then.
    """
    found = INDEX.fullmatch(statement)
    assert found is not None, statement
    unique, name, table, what = found["unique"] or "", found["name"], found["table"], found["what"]
    leaves = op.get_bind().exec_driver_sql(LEAVES, (table,)).all()
    if not any(leaf.filled for leaf in leaves):
        _run(f"create {unique}index if not exists {name} on {table} {what}")
        return
    if [leaf.name for leaf in leaves] == [table]:
        with op.get_context().autocommit_block():
            _concurrently(f"{unique}index", name, table, what)
        return
    # From here on a new partition gets its own with the table.
    _run(f"create {unique}index if not exists {name} on only {table} {what}")
    columns = "_".join(column.strip() for column in found["columns"].split(","))
    parts = {leaf.name: f"{leaf.name}_{columns}_idx" for leaf in leaves}  # as PostgreSQL would name them
    with op.get_context().autocommit_block():
        for leaf, part in parts.items():
            _concurrently(f"{unique}index", part, leaf, what)
    for part in parts.values():
        _run(f"alter index {name} attach partition {part}")


def _concurrently(kind: str, name: str, table: str, what: str) -> None:
    valid = op.get_bind().exec_driver_sql(STATE, (name,)).scalar()
    if valid:
        return
    if valid is not None:  # a build that was broken off leaves one that is of no use
        _run(f"drop index concurrently {name}")
    _run(f"create {kind} concurrently {name} on {table} {what}")


def _run(statement: str) -> None:
    op.get_bind().exec_driver_sql(statement)
