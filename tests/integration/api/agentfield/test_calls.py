"""Synchronous calls: AgentField's older paths, and the node's own status and version."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest

from controlplane.postgres.pool import Connection
from tests.integration.api.serving import Api, Json, the_problem


@pytest.mark.parametrize("path", ["reasoners", "skills"])
async def test_a_call_of_an_older_client(api: Api, path: str) -> None:
    """Result, node, duration and time, and nothing else."""
    session = await api.node()

    calling = asyncio.create_task(api.post(f"/{path}/n.echo", {"input": {"a": 1}}))
    lease = await api.take(session)
    await api.finish(session, lease, ["b"])
    answer = await calling
    body = answer.json()

    assert lease["input"] == {"a": 1}
    assert answer.status_code == 200
    assert body.keys() == {"result", "node_id", "duration_ms", "timestamp"}
    assert (body["result"], body["node_id"]) == (["b"], "n")
    assert datetime.fromisoformat(body["timestamp"])
    assert answer.headers["x-execution-id"] == lease["execution_id"]


async def test_an_older_call_of_what_fails(api: Api) -> None:
    """As every synchronous call: 502 with what went wrong."""
    session = await api.node()

    calling = asyncio.create_task(api.post("/reasoners/n.echo", {}))
    await api.finish(session, await api.take(session), status="failed", error="no way")
    answer = await calling

    assert answer.status_code == 502
    assert answer.json()["error_message"] == "no way"


async def test_an_older_call_of_nobody(api: Api) -> None:
    """As every submit."""
    await api.register()

    the_problem(await api.post("/reasoners/n.eco", {}), 404, "target_not_found")
    the_problem(await api.post("/skills/n", {}), 400, "target_malformed")


@pytest.mark.parametrize("settings", [{"sync_wait_seconds": 0.3}])
async def test_an_older_call_that_takes_too_long(api: Api) -> None:
    """504, and the execution goes on."""
    session = await api.node()

    late = the_problem(await api.post("/reasoners/n.echo", {}), 504, "waited_too_long")

    assert (await api.take(session))["execution_id"] == late["execution_id"]


async def test_the_version_that_ran_it(api: Api) -> None:
    """In a header, where a header can say it."""
    said: list[str | None] = []
    for version in ("1.2.3-beta", "版本"):
        await api.post("/nodes/register", {"id": "n", "version": version, "reasoners": [{"id": "echo"}]})
        session = await api.open_session("n")
        calling = asyncio.create_task(api.post("/execute/n.echo", {}))
        await api.finish(session, await api.take(session), 1)
        said.append((await calling).headers.get("x-routed-version"))

    assert said == ["1.2.3-beta", None]


MARK = """
create function mark() returns trigger language plpgsql as $$
begin
  new.http_status := (convert_from(new.error_details, 'UTF8')::json ->> 'http_status')::smallint;
  return new;
end
$$;
create trigger mark before insert on outcomes for each row execute function mark();
"""


@pytest.mark.parametrize(
    ("said", "answered"), [(418, 418), (400, 400), (499, 499), (399, 502), (500, 502), (503, 502), (None, 502)]
)
async def test_a_status_of_the_node_itself(api: Api, conn: Connection, said: int | None, answered: int) -> None:
    """A 4xx is passed on, everything else is 502; every read shows what it was."""
    await conn.execute(MARK)  # stands in for a node that is called
    session = await api.node()

    calling = asyncio.create_task(api.post("/execute/n.echo", {}))
    failure: Json = {"status": "failed", "error": "no way", "error_details": {"http_status": said}}
    await api.finish(session, await api.take(session), **failure)
    answer = await calling
    body = answer.json()

    assert answer.status_code == answered
    assert body.get("error_status_code") == said
    assert (body["status"], body["error_message"]) == ("failed", "no way")
    assert (await api.read(body["execution_id"])).get("error_status_code") == said
