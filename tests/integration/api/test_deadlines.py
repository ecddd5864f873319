"""Deadlines: an execution that takes too long ends as a timeout, and says which of its times was over."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.api.serving import DEADLINE_SECONDS, Api, fence, the_problem

Json = Any


async def ended(api: Api, execution_id: str) -> tuple[str, str]:
    found = await api.read(execution_id, wait_seconds=DEADLINE_SECONDS)
    return found["status"], found["status_reason"]


async def test_nobody_begins_it(api: Api) -> None:
    """It ends without an attempt."""
    await api.node()

    accepted = await api.submit(schedule_to_start_seconds=0.1)

    assert await ended(api, accepted["execution_id"]) == ("timeout", "schedule_to_start")


@pytest.mark.parametrize(
    ("body", "reason"), [({"total_seconds": 0.3}, "total"), ({"timeout_seconds": 0.3}, "start_to_close")]
)
async def test_it_takes_too_long(api: Api, body: Json, reason: str) -> None:
    """The node knows when, is told that it has lost the attempt, and what it reports then changes nothing."""
    session = await api.node()
    accepted = await api.submit(**body)
    lease = await api.take(session)

    end = await ended(api, accepted["execution_id"])
    beat = (await api.heartbeat(session, executions=[fence(lease)], count=1, wait_seconds=0)).json()
    late = await api.finish(session, lease, 1)

    assert 0 < lease["deadline_in_seconds"] <= 0.3
    assert end == ("timeout", reason)
    assert beat["lost"] == [fence(lease)]
    assert late.json()["results"][0]["code"] == "already_recorded"
    assert await ended(api, accepted["execution_id"]) == end


async def test_a_retry_has_its_whole_time_again(api: Api) -> None:
    """What ran out of time is asked once more, with the same deadlines."""
    session = await api.node()
    old = await api.submit(schedule_to_start_seconds=1, total_seconds=3_600)
    await ended(api, old["execution_id"])

    await api.post(f"/executions/{old['execution_id']}/retry", {})
    lease = await api.take(session)

    assert 3_590 < lease["deadline_in_seconds"] <= 3_600


@pytest.mark.parametrize("name", ["timeout_seconds", "schedule_to_start_seconds", "total_seconds"])
@pytest.mark.parametrize("value", [0, -1, 1e300, "1"])
async def test_what_is_no_time_is_refused(api: Api, name: str, value: Json) -> None:
    """It names the member, and nothing is accepted."""
    await api.node()

    refused = the_problem(await api.post("/execute/async/n.echo", {name: value}), 422, "invalid")

    assert refused["where"] == f"body.{name}"
