"""Whether an execution has anything open yet, as of now and not as of the statement that asks."""

from __future__ import annotations

from alembic import op

revision = "0025"
down_revision = "0024"

# A statement sees what had been committed when it began. One that ends an execution may have waited since then for the
# row of the queue, held by who added a step or a question to it. Volatile: what is asked here is asked anew.
HAS_OPEN = """
create function has_open(of_bucket smallint, of_execution uuid) returns boolean
language plpgsql volatile
as $$
begin
  return exists (
    select 1
    from steps
    where bucket = of_bucket
      and execution_id = of_execution
      and (status = 'pending' or awaited)
    offset 0
  ) or exists (
    select 1
    from approvals
    where bucket = of_bucket
      and execution_id = of_execution
      and status = 'pending'
    offset 0
  );
end
$$
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(HAS_OPEN)
