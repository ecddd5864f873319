"""Two roles: one that owns the schema and migrates it, and one that the server runs as, which may not change it."""

from __future__ import annotations

from typing import NamedTuple

from controlplane.postgres.pool import Connection

NAMED = "select set_config('controlplane.app_role', $1, false)"

# Of the schema that the migrations went to. The role gets no right that it does not name here, and loses what an
# earlier version or a person gave it. What the next migration makes, it may use at once: the default privileges.
SEPARATE = """
do $$
declare
  app constant text := current_setting('controlplane.app_role');
  place constant text := current_schema();
begin
  if app = current_user then
    raise exception 'the server needs a role of its own, % is the one that migrates', app
      using errcode = 'invalid_parameter_value';
  end if;
  if not exists (select from pg_roles where rolname = app) then
    execute format('create role %I login nosuperuser nocreatedb nocreaterole noinherit noreplication nobypassrls', app);
  elsif exists (select from pg_roles where rolname = app and (rolsuper or rolcreaterole or rolcreatedb)) then
    raise exception 'the role % may do more than a server needs', app using errcode = 'invalid_parameter_value';
  elsif pg_has_role(app, current_user, 'member') then
    raise exception 'the role % is a member of %, which owns the schema', app, current_user
      using errcode = 'invalid_parameter_value';
  end if;
  execute format('revoke create on schema %I from public', place);
  execute format('revoke all on schema %I from %I', place, app);
  execute format('grant usage on schema %I to %I', place, app);
  execute format('revoke all on all tables in schema %I from %I', place, app);
  execute format('grant select, insert, update, delete on all tables in schema %I to %I', place, app);
  execute format('alter default privileges in schema %I grant select, insert, update, delete on tables to %I', place,
    app);
  execute format('grant usage, select on all sequences in schema %I to %I', place, app);
  execute format('alter default privileges in schema %I grant usage, select on sequences to %I', place, app);
  execute format('grant execute on all functions in schema %I to %I', place, app);
  execute format('alter default privileges in schema %I grant execute on functions to %I', place, app);
  -- Read, never written by a server: where the schema stands.
  execute format('revoke insert, update, delete on %I.alembic_version from %I', place, app);
  -- Written once: what was done stays as it was told. The trigger lets nothing go but what retention takes away.
  execute format('revoke update on %I.audit from %I', place, app);
end
$$
"""

STANDING = """
select current_user as name,
  (select rolsuper from pg_roles where rolname = current_user) as superuser,
  exists (
    select from pg_class where oid = to_regclass('queue') and pg_has_role(current_user, relowner, 'usage')
  ) as owner,
  has_schema_privilege(current_user, current_schema(), 'create') as creates
"""


class Standing(NamedTuple):
    """What the role that is connected may do beyond reading and writing rows."""

    name: str
    superuser: bool
    owner: bool
    creates: bool

    @property
    def excess(self) -> str | None:
        """In words, the most of what a server does not need; None when it has nothing of it."""
        if self.superuser:
            return "is a superuser"
        if self.owner:
            return "owns the tables"
        return "may create in the schema" if self.creates else None


async def separate(conn: Connection, role: str) -> None:
    """From here on this role may read and write every row and change nothing else; made where there is none.

    To be run as the role that migrates; again, it does the same again. A role that is made has no password yet.
    """
    async with conn.transaction():
        await conn.fetchval(NAMED, role)
        await conn.execute(SEPARATE)


async def standing(conn: Connection) -> Standing:
    """Of the role that this connection is."""
    row = await conn.fetchrow(STANDING)
    assert row is not None
    return Standing(row["name"], row["superuser"], row["owner"], row["creates"])
