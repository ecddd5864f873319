"""AgentField's own pull mode: never anything to do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.integration.api.serving import Api, Json, the_problem


@pytest.mark.parametrize(("wait", "poll"), [(None, 5), (0, 5), (-3, 5), (12, 12), (10_000, 60)])
async def test_there_is_nothing_to_claim(api: Api, wait: int | None, poll: int) -> None:
    """No items, and when to ask again: as long as the node would wait, within bounds."""
    await api.register()

    answer = await api.post("/actions/claim", {"node_id": "n", "max_items": 5, "wait_seconds": wait})
    body = answer.json()

    assert answer.status_code == 200
    assert (body["items"], body["lease_seconds"], body["next_poll_after"]) == ([], 300, poll)
    assert abs(datetime.fromisoformat(body["next_lease_renewal"]) - datetime.now(UTC)) < timedelta(seconds=310)


async def test_an_action_is_acknowledged(api: Api) -> None:
    """Whatever it was."""
    await api.register()

    answer = await api.post("/nodes/n/actions/ack", {"action_id": "a", "status": "succeeded", "result": {"x": 1}})

    assert answer.status_code == 200
    assert answer.json().keys() == {"lease_seconds", "next_lease_renewal"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/actions/claim", {"node_id": "nobody"}),
        ("/actions/claim", {"node_id": "no.name"}),
        ("/nodes/nobody/actions/ack", {"action_id": "a", "status": "succeeded"}),
    ],
)
async def test_nodes_that_nobody_knows(shared: Api, path: str, body: Json) -> None:
    """404, so that they register again."""
    the_problem(await shared.post(path, body), 404, "node_not_found")


@pytest.mark.parametrize(
    ("path", "body"),
    [("/actions/claim", {}), ("/nodes/n/actions/ack", {"action_id": "a"}), ("/nodes/n/actions/ack", {})],
)
async def test_what_is_missing(shared: Api, path: str, body: Json) -> None:
    """Said by name."""
    the_problem(await shared.post(path, body), 422, "invalid")
