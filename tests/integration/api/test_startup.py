"""A server starts, whatever its database does meanwhile."""

from __future__ import annotations

import asyncpg

from tests.integration.api.serving import serving

DEATHS = 3
# Whoever asks what time it is loses the connection, a few times.
DIES = """
create sequence deaths;
create or replace function clock() returns timestamptz language plpgsql volatile as $$
begin
  if nextval('deaths') <= 3 then
    perform pg_terminate_backend(pg_backend_pid());
  end if;
  return now();
end
$$;
"""


async def test_a_database_that_goes_away_while_a_server_starts_is_waited_for(
    database: str, conn: asyncpg.Connection
) -> None:
    """Its first questions are lost with their connections; it asks again, and is ready."""
    await conn.execute(DIES)

    async with serving(database) as api:
        assert (await api.client.get("/readyz")).status_code == 200

    assert await conn.fetchval("select last_value from deaths") > DEATHS
