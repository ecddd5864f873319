"""How it goes with all of it, as an operator asks."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Any

from controlplane.postgres.pool import Connection
from controlplane.postgres.schema import head
from controlplane.reads.system import HOT
from controlplane_sdk import Client
from tests.integration.api.serving import Api, the_problem, until
from tests.integration.api.test_veil import keyed

Json = Any
MANY = """
insert into limits (bucket, namespace, key, concurrency_max, updated_at)
select 0, 1, g::text, 1, now()
from generate_series(1, 500) g
"""


async def look(api: Api) -> Json:
    return await api.get("/system")


async def test_versions_are_told(api: Api) -> None:
    """Of the server, of PostgreSQL and of the schema, beside the one that this version knows."""
    found = await look(api)

    assert re.fullmatch(r"\d+\.\d+", str(found["postgresql_version"]))
    assert found["schema_version"] == found["schema_version_known"] == head()


async def test_the_hot_tables_are_there(api: Api) -> None:
    """Each by its name: one that was renamed would be missed."""
    found = await look(api)

    assert {one["name"] for one in found["tables"]} == set(HOT)
    assert all(one["dead"] >= 0 for one in found["tables"])


async def test_dead_rows_are_counted(api: Api, conn: Connection) -> None:
    """As PostgreSQL counts them, the table with the most first."""
    await conn.execute(MANY)
    await conn.execute("delete from limits")
    await conn.execute("select pg_stat_force_next_flush()")

    async def seen() -> bool:
        first = (await look(api))["tables"][0]
        return first["name"] == "limits" and first["dead"] >= 500

    await until(seen)


async def test_who_pins_is_named(api: Api, other: Connection) -> None:
    """By the number of seconds; and with what ends it once it has lasted for too long."""
    await other.execute("set application_name = 'forgotten-report'; begin; select pg_current_xact_id()")

    async def held() -> bool:
        return (await look(api))["oldest_snapshot_seconds"] > 0

    await until(held)
    assert all("forgotten-report" not in one["detail"] for one in (await look(api))["pins"])


async def test_only_of_default(api: Api) -> None:
    """The database is everybody's; who is of another namespace is told nothing of it."""
    await api.post("/namespaces", {"name": "other"})
    made = (await api.post("/keys", {"name": "o", "scopes": ["read", "admin"], "namespace": "other"})).json()
    answer = await api.client.get("/api/v1/system", headers={"X-API-Key": made["key"]})

    the_problem(answer, 403, "namespace_not_allowed")


async def test_a_key_that_hides_payloads_sees_all_of_it(api: Api) -> None:
    """There is no payload in it."""
    open_ = await look(api)
    async with keyed(api, hide_payloads=True, scopes=["read"]) as one:
        hidden = await look(one)

    volatile = ("oldest", "counted", "tables", "pins")
    assert {name: said for name, said in hidden.items() if not name.startswith(volatile)} == {
        name: said for name, said in open_.items() if not name.startswith(volatile)
    }
    assert [set(one) - {"vacuumed_at"} for one in hidden["tables"]] == [{"name", "live", "dead"}] * len(HOT)


async def test_the_same_by_sdk_and_command(api: Api) -> None:
    """Both read what the route says."""
    async with Client(api.url) as client:
        found = await client.system()
    command = [sys.executable, "-m", "controlplane", "system", "--server", api.url]
    told = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    text = (await told.communicate())[0].decode()

    assert {one.name for one in found.tables} == set(HOT)
    assert all(name in text for name in (found.postgresql_version, *HOT))
