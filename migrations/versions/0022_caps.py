"""How much a namespace may have, how much there is, and a server whose role may not change the schema."""

from __future__ import annotations

from alembic import op

revision = "0022"
down_revision = "0021"

# What an operator has said of one namespace; what is not said is as the server's settings say. In the bucket of the
# namespaces: there are few, and they are written by hand. `most` null: any number.
CAPS = """
create table caps (
  bucket smallint not null,
  namespace smallint not null check (namespace > 0),
  name text not null check (name <> ''),
  most bigint check (most >= 0),
  updated_at timestamptz not null,
  primary key (bucket, namespace, name)
)
"""

# What there was when it was last counted, of each bucket; rewritten as a whole by whichever replica is the first to
# find it old. The namespace 0 stands for all of them, and its row is who counts's to lock. What is too much to count at
# once is walked through: `cursor` is where.
CENSUS = """
create table census (
  bucket smallint not null,
  namespace smallint not null,
  name text not null check (name <> ''),
  count bigint not null check (count >= 0),
  counted_at timestamptz not null,
  cursor uuid,
  primary key (bucket, namespace, name)
)
"""

# The two functions that make and drop tables do so as who migrates, whoever calls them: the server's own role then
# needs no such right. Names are looked up in the catalogue and in our own schema, where their caller cannot write.
DEFINERS = """
do $$
declare
  one text;
begin
  foreach one in array array['ensure_partitions(integer)', 'drop_partition(smallint[])'] loop
    execute format('alter function %I.%s security definer', current_schema(), one);
    execute format('alter function %I.%s set search_path = %I, pg_temp', current_schema(), one, current_schema());
    execute format('revoke all on function %I.%s from public', current_schema(), one);
  end loop;
end
$$
"""


def upgrade() -> None:
    for statement in (CAPS, CENSUS, DEFINERS):
        op.get_bind().exec_driver_sql(statement)
