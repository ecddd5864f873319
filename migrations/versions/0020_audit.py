"""The audit log: who changed what, one chain per namespace, of which nothing is changed or taken out."""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"

# `seq` counts from 1 without a gap, `previous` is the `hash` of the row before (32 zero bytes for the first), and
# `hash` is audit_hash over everything else. `before` and `after` are JSON: the facts that changed.
AUDIT = """
create table audit (
  bucket int not null,
  namespace smallint not null,
  seq bigint not null,
  id uuid not null,
  at timestamptz not null,
  actor_kind text not null,
  actor text,
  key_id uuid,
  actor_namespace text,
  request_id text,
  address text,
  user_agent text,
  action text not null,
  object_kind text not null,
  object_id text not null,
  before bytea,
  after bytea,
  previous bytea not null,
  hash bytea not null,
  constraint audit_once unique (bucket, id),
  constraint audit_counts_from_one check (seq > 0),
  constraint audit_actor_kind check (actor_kind in ('key', 'environment', 'anybody', 'link', 'command', 'daemon')),
  constraint audit_hashes check (octet_length(previous) = 32 and octet_length(hash) = 32)
)
"""

# Made last, it is what a statement that was planned while the table was empty goes through: either costs nothing then.
AUDIT_KEY = "alter table audit add primary key (bucket, namespace, seq)"

# Where each chain ends, and where what is kept of it begins: `removed_seq` and `removed_hash` are those of the last row
# that retention has taken away, on which the first row that is left goes on.
HEADS = """
create table audit_heads (
  bucket int not null,
  namespace smallint not null,
  seq bigint not null default 0,
  hash bytea not null default decode(repeat('00', 32), 'hex'),
  removed_seq bigint not null default 0,
  removed_hash bytea not null default decode(repeat('00', 32), 'hex'),
  primary key (bucket, namespace),
  constraint audit_heads_in_order check (0 <= removed_seq and removed_seq <= seq)
)
"""

# Each field with its length before it: no two lists of fields are the same text. A field that is null is a dash.
HASH = """
create function audit_hash(previous bytea, fields text[]) returns bytea
language sql immutable parallel safe
return sha256(
  previous || convert_to(
    (
      select string_agg(coalesce(octet_length(field) || ':' || field, '-'), '' order by n)
      from unnest(fields) with ordinality as f(field, n)
    ),
    'UTF8'
  )
)
"""

APPEND_ONLY = """
create function audit_is_append_only() returns trigger
language plpgsql as $$
begin
  if tg_op = 'DELETE' then
    perform from audit_heads h
    where h.bucket = old.bucket and h.namespace = old.namespace and h.removed_seq >= old.seq;
    if found then
      return old;
    end if;
  end if;
  raise exception 'audit is append-only: % refused', lower(tg_op)
    using errcode = 'restrict_violation', hint = 'Retention moves audit_heads.removed_seq first.';
end
$$
"""

# A head goes forward by one row at a time. What retention takes away is a beginning, older than 30 days whoever asks,
# and its last hash stays.
HEADS_GO_FORWARD = """
create function audit_heads_go_forward() returns trigger
language plpgsql as $$
declare
  last record;
begin
  if tg_op = 'UPDATE' then
    if (new.bucket, new.namespace) = (old.bucket, old.namespace)
      and (new.seq = old.seq and new.hash = old.hash or new.seq = old.seq + 1)
    then
      if (new.removed_seq, new.removed_hash) = (old.removed_seq, old.removed_hash) then
        return new;
      end if;
      select a.hash, a.at into last
      from audit a
      where a.bucket = new.bucket and a.namespace = new.namespace and a.seq = new.removed_seq;
      if new.removed_seq > old.removed_seq
        and last.hash = new.removed_hash
        and last.at < clock() - interval '30 days'
      then
        return new;
      end if;
    end if;
  end if;
  raise exception 'the head of an audit chain only goes forward: % refused', lower(tg_op)
    using errcode = 'restrict_violation';
end
$$
"""

TRIGGERS = [
    """
    create trigger audit_rows_stay before update or delete on audit
    for each row execute function audit_is_append_only()
    """,
    """
    create trigger audit_stays before truncate on audit
    for each statement execute function audit_is_append_only()
    """,
    """
    create trigger audit_heads_go_forward before update or delete on audit_heads
    for each row execute function audit_heads_go_forward()
    """,
    """
    create trigger audit_heads_stay before truncate on audit_heads
    for each statement execute function audit_heads_go_forward()
    """,
]

# Who began a bulk; nobody knows it of those that are there already.
BEGUN = "alter table bulks add column created_by text"


def upgrade() -> None:
    for statement in (AUDIT, AUDIT_KEY, HEADS, HASH, APPEND_ONLY, HEADS_GO_FORWARD, *TRIGGERS, BEGUN):
        op.get_bind().exec_driver_sql(statement)
