"""Start: work that is asked for now and begins later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.integration.api.serving import Api, the_problem

Json = Any
AHEAD = timedelta(hours=1)


def in_an_hour() -> str:
    return (datetime.now(UTC) + AHEAD).isoformat()


async def test_a_delay_shows_until_when(api: Api) -> None:
    """The answer and the execution say that it is scheduled, and for when."""
    await api.node()

    accepted = await api.submit(delay_seconds=3600)
    seen = await api.read(accepted["execution_id"])

    assert (accepted["status"], accepted["status_reason"]) == ("queued", "scheduled")
    assert (seen["status"], seen["status_reason"], seen["state"]) == ("queued", "scheduled", "delayed")
    assert seen["available_at"] == accepted["available_at"] > accepted["created_at"]


async def test_a_moment_is_kept_to_the_microsecond(api: Api) -> None:
    """Whatever its offset."""
    await api.node()

    accepted = await api.submit(run_at="2026-01-01T00:00:00+05:30")
    later = in_an_hour()
    scheduled = await api.submit(run_at=later)

    assert "available_at" not in accepted
    assert datetime.fromisoformat(scheduled["available_at"]) == datetime.fromisoformat(later)


async def test_it_is_leased_when_its_time_has_come(api: Api) -> None:
    """A node that waits for work is woken by then, and no reason is left over."""
    session = await api.node()
    delayed = await api.submit(delay_seconds=0.2)

    lease = await api.take(session)

    assert lease["execution_id"] == delayed["execution_id"]
    assert (await api.read(delayed["execution_id"])).get("status_reason") is None


async def test_what_is_scheduled_can_be_cancelled(api: Api) -> None:
    """It has ended when the answer comes."""
    await api.node()
    execution_id = (await api.submit(delay_seconds=3600))["execution_id"]

    answer = await api.post(f"/executions/{execution_id}/cancel", {})

    assert answer.json()["settled"] is True


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"delay_seconds": 1, "run_at": "2030-01-01T00:00:00Z"}, "body.run_at"),
        ({"delay_seconds": -1}, "body.delay_seconds"),
        ({"delay_seconds": 366 * 86_400 + 1}, "body.delay_seconds"),
        ({"delay_seconds": "1"}, "body.delay_seconds"),
        ({"run_at": "2030-01-01T00:00:00"}, "body.run_at"),
        ({"run_at": "tomorrow"}, "body.run_at"),
        ({"run_at": 1}, "body.run_at"),
        ({"run_at": "9999-12-31T23:59:59Z"}, "body.run_at"),
        ({"run_at": "9999-12-31T23:59:59-23:59"}, "body.run_at"),
        ({"run_at": "0001-01-01T00:00:00+23:59"}, "body.run_at"),
    ],
)
async def test_what_cannot_be_is_refused(api: Api, body: Json, where: str) -> None:
    """It names what is wrong, and nothing is accepted."""
    await api.node()

    refused = the_problem(await api.post("/execute/async/n.echo", body), 422, "invalid")

    assert refused["where"] == where
    assert (await api.get("/executions"))["items"] == []
