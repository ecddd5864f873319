"""What a list can be asked for: whose executions, with what error, from when; and the deliveries that are dead."""

from __future__ import annotations

import pytest

from tests.integration.api.serving import Answer, Api, Json, Receiver, the_problem, until

LONG_AGO, FAR_AHEAD = "2020-01-01T00:00:00Z", "2120-01-01T01:00:00+01:00"


@pytest.fixture
async def four(api: Api) -> dict[str, str]:
    """One that has failed, one that has succeeded, one that runs and one that waits, by the letter of its session."""
    session = await api.node()
    ids = {}
    for letter in "abcd":
        headers = {"X-Session-ID": letter, "X-Actor-ID": letter * 2, "X-Run-ID": "r" if letter in "ad" else "s"}
        ids[letter] = (await api.submit(headers=headers))["execution_id"]
    failed, succeeded, _ = await api.lease(session, limit=3)
    await api.finish(session, failed, status="failed", error="boom", error_class="Boom", retryable=False)
    await api.finish(session, succeeded, 1)
    return {id_: letter for letter, id_ in ids.items()}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"session_key": "a"}, "a"),
        ({"actor_key": "dd"}, "d"),
        ({"session_key": "a", "actor_key": "dd"}, ""),
        ({"session_key": "d", "status": "queued"}, "d"),
        ({"session_key": "c", "status": "queued,running"}, "c"),
        ({"session_key": "d", "status": "failed"}, ""),
        ({"session_key": "d", "run_id": "r"}, "d"),
        ({"error_class": "Boom"}, "a"),
        ({"error_class": "Bo*"}, "a"),
        ({"error_class": "Bo"}, ""),
        ({"error_class": "*", "run_id": "r"}, "a"),
        ({"error_class": "Other"}, ""),
        ({"error_class": "Boom", "run_id": "r"}, "a"),
        ({"error_class": "Boom", "status": "queued"}, ""),
        ({"created_after": LONG_AGO}, "abcd"),
        ({"created_after": FAR_AHEAD}, ""),
        ({"created_before": LONG_AGO}, ""),
        ({"created_before": FAR_AHEAD, "status": "queued"}, "d"),
        ({"created_before": LONG_AGO, "status": "queued"}, ""),
        ({"ended_after": LONG_AGO}, "ab"),
        ({"ended_after": LONG_AGO, "run_id": "r"}, "a"),
        ({"ended_after": LONG_AGO, "status": "succeeded"}, "b"),
        ({"ended_before": LONG_AGO}, ""),
    ],
)
async def test_what_a_list_is_narrowed_to(api: Api, four: dict[str, str], query: Json, found: str) -> None:
    """All that is asked must hold; an error or an end leaves out what has not ended."""
    page = await api.get("/executions", **query)

    assert "".join(sorted(four[one["execution_id"]] for one in page["items"])) == found


@pytest.mark.parametrize("query", ["created_after=yesterday", "ended_before=2030-01-31T09:00:00", "error_class=%00"])
async def test_what_is_no_filter(shared: Api, query: str) -> None:
    """Is refused with its name."""
    answer = await shared.client.get(f"/api/v1/executions?{query}")

    assert the_problem(answer, 422, "invalid")["where"] == f"query/{query.partition('=')[0]}"


async def test_dead_deliveries_are_listed(api: Api, receiver: Receiver) -> None:
    """The newest first, with every attempt and what they would have told about, until they are sent again."""
    session = await api.node()
    receiver.answer = Answer(status=410)  # gone: no second try
    ids = [await api.run(session, webhook={"url": receiver.url}) for _ in range(3)]
    host = receiver.url.split("/")[2]

    async def dead(**query: Json) -> Json:
        return (await api.get("/deliveries", **{"state": "dead"} | query))["items"]

    async def all_dead() -> bool:
        return len(await dead()) == 3

    await until(all_dead)
    first = await api.get("/deliveries", limit=2)
    rest = await api.get("/deliveries", limit=2, cursor=first["next_cursor"])
    one = first["items"][0]

    assert [item["execution_id"] for item in first["items"] + rest["items"]] == ids[::-1]
    assert (one["target"], one["state"], one["attempts"][0]["http_status"]) == ("n.echo", "dead", 410)
    assert len(await dead(host=host, target="n.echo", node_id="n", ended_after=LONG_AGO)) == 3
    assert [await dead(host="h:1"), await dead(target="n.x"), await dead(ended_before=LONG_AGO)] == [[], [], []]
    the_problem(await api.client.get("/api/v1/deliveries?state=lost"), 422, "invalid")
    receiver.answer = Answer()
    await api.post(f"/deliveries/{one['delivery_id']}/retry")
    assert len(await dead()) == 2
