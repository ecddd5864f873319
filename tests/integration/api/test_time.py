"""Time and children: what holds for an execution is what it, its reasoner or nobody has said, and can be seen."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.api.serving import DEADLINE_SECONDS, Api, fence, the_problem

Json = Any
REGISTERED = {
    "timeout_seconds": 600,
    "schedule_to_start_seconds": 3_000,
    "total_seconds": 7_000,
    "heartbeat_seconds": 60,
    "on_parent_end": "keep",
    "retry": {"max": 2, "delay_seconds": 3, "fatal_errors": ["ValueError"]},
}
TIMES = ("timeout_seconds", "schedule_to_start_seconds", "total_seconds", "heartbeat_seconds")


def times(shape: Json) -> dict[str, Json]:
    return {name: shape[name] for name in TIMES if name in shape}


def child(parent: Json) -> dict[str, str]:
    """The header of a call that this attempt makes."""
    return {"X-Parent-Execution-ID": f"{parent['execution_id']}~{parent['attempt']}"}


async def submit_child(api: Api, lease: Json, **body: Json) -> str:
    answer = await api.post("/execute/async/n.echo", body, headers=child(lease))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["execution_id"])


async def test_what_a_reasoner_was_registered_with_holds(api: Api) -> None:
    """For a submit that says nothing else, which is shown with its whole policy; the catalogue shows it, too."""
    await api.node(**REGISTERED)

    seen = await api.read((await api.submit())["execution_id"])
    [known] = (await api.get("/reasoners"))["items"]

    assert times(seen) == times(REGISTERED) == times(known)
    assert seen["retry"].items() >= REGISTERED["retry"].items()
    assert (seen["retries_used"], known["on_parent_end"]) == (0, "keep")
    assert seen["deadline_at"] > seen["created_at"]
    assert "on_parent_end" not in seen, "it has no parent"


async def test_a_submit_overrules_its_reasoner(api: Api) -> None:
    """Each member by itself."""
    await api.node(**REGISTERED)

    seen = await api.read((await api.submit(heartbeat_seconds=5, total_seconds=50))["execution_id"])

    assert times(seen) == times(REGISTERED) | {"heartbeat_seconds": 5, "total_seconds": 50}


async def test_nobody_says_anything(api: Api) -> None:
    """Then nothing is limited, and nothing is tried again."""
    await api.node()

    seen = await api.read((await api.submit())["execution_id"])

    assert (times(seen), seen["retry"]["max"], "deadline_at" in seen) == ({}, 0, False)


@pytest.mark.parametrize("name", ["schedule_to_start_seconds", "total_seconds", "heartbeat_seconds"])
@pytest.mark.parametrize("value", [0, -1, 1e300, "1"])
async def test_a_reasoner_with_no_time_is_refused(api: Api, name: str, value: Json) -> None:
    """It names the member, and nothing is registered."""
    reasoner = {"id": "echo", name: value}

    answer = await api.post("/nodes/register", {"id": "n", "reasoners": [reasoner]})

    assert answer.status_code in (400, 422)
    assert the_problem(answer, answer.status_code, answer.json()["code"])["where"].endswith(name)
    assert (await api.get("/reasoners"))["items"] == []


@pytest.mark.parametrize("body", [{"heartbeat_seconds": 0}, {"on_parent_end": "abandon"}, {"on_parent_end": 1}])
async def test_what_is_no_policy_is_refused(api: Api, body: Json) -> None:
    """Nothing is accepted."""
    await api.node()

    answer = await api.post("/execute/async/n.echo", body)

    assert answer.status_code == 422
    assert answer.json()["where"] == f"body.{next(iter(body))}"


async def test_a_silent_attempt_is_taken_from_its_node(api: Api) -> None:
    """It ends as a timeout with the reason, the node hears of it, and what it says then changes nothing."""
    session = await api.node()
    id_ = (await api.submit(heartbeat_seconds=0.3))["execution_id"]
    lease = await api.take(session)

    end = await api.read(id_, wait_seconds=DEADLINE_SECONDS)
    beat = (await api.heartbeat(session, executions=[fence(lease)], count=1, wait_seconds=0)).json()
    late = await api.finish(session, lease, 1)

    assert (lease["heartbeat_seconds"], end["status"], end["status_reason"]) == (0.3, "timeout", "heartbeat")
    assert end["error_class"] == "HeartbeatMissed"
    assert beat["lost"] == [fence(lease)]
    assert late.json()["results"][0]["code"] == "already_recorded"


@pytest.mark.parametrize("named", [True, False])
async def test_a_waiting_heartbeat_hears_of_it(api: Api, named: bool) -> None:
    """At once: what it has lost where it had named it, else that it shall name all it holds."""
    session = await api.node()
    await api.submit(heartbeat_seconds=0.5)
    lease = await api.take(session)
    held = [fence(lease)] if named else None

    beat = (await api.heartbeat(session, executions=held, count=1, wait_seconds=DEADLINE_SECONDS)).json()

    assert (beat["lost"], beat.get("tell_all", False)) == ([fence(lease)] if named else [], not named)


async def test_with_a_retry_left_it_is_tried_again(api: Api) -> None:
    """It shows how often that may happen and when, and the history says why."""
    session = await api.node()
    id_ = (await api.submit(heartbeat_seconds=0.3, retry={"max": 2, "delay_seconds": 0}))["execution_id"]
    first, second = await api.take(session), await api.take(session)

    [attempt, _] = (await api.get(f"/executions/{id_}/attempts"))["items"]
    seen = await api.read(id_)

    assert (first["attempt"], second["attempt"], seen["retries_used"]) == (1, 2, 1)
    assert (attempt["ended"], attempt["error_class"]) == ("retried", "HeartbeatMissed")


async def test_the_error_says_when(api: Api) -> None:
    """Before the backoff; the execution, its attempts and the explanation show it."""
    session = await api.node()
    id_ = (await api.submit(retry={"max": 1, "delay_seconds": 1, "jitter": 0}))["execution_id"]
    await api.finish(session, await api.take(session), status="failed", error="busy", retry_after_seconds=500)

    seen = await api.read(id_)
    [attempt] = (await api.get(f"/executions/{id_}/attempts"))["items"]
    why = await api.get(f"/executions/{id_}/explain")

    assert (attempt["retry_in_seconds"], attempt["retry_after_seconds"]) == (500, 500)
    assert (seen["next_retry_at"], seen["retries_used"]) == (seen["available_at"], 1)
    assert "tried again as the error asks at" in why["sentence"]
    assert why["facts"]["retry_after_seconds"] == 500


@pytest.mark.parametrize(("said", "waits"), [(-5, 0), (1e300, 366 * 86_400)])
async def test_what_an_error_asks_for_has_its_bounds(api: Api, said: float, waits: float) -> None:
    """It comes at once at the earliest, and within a year."""
    session = await api.node()
    id_ = (await api.submit(retries=1))["execution_id"]
    await api.finish(session, await api.take(session), status="failed", error="busy", retry_after_seconds=said)

    [attempt] = (await api.get(f"/executions/{id_}/attempts?limit=1"))["items"]

    assert attempt["retry_in_seconds"] == waits


async def test_a_child_ends_with_its_parent(api: Api) -> None:
    """And one that shall go on does, as it says itself or was registered."""
    session = await api.node()
    await api.submit()
    lease = await api.take(session)
    child_id = await submit_child(api, lease)
    kept_id = await submit_child(api, lease, on_parent_end="keep")
    await api.finish(session, lease, status="failed", error="boom")

    end = await api.read(child_id, wait_seconds=DEADLINE_SECONDS)
    kept = await api.read(kept_id)

    assert (end["status"], end["error_message"], end["on_parent_end"]) == ("cancelled", "parent failed", "cancel")
    assert (kept["status"], kept["on_parent_end"]) == ("queued", "keep")


async def test_a_child_that_runs_is_stopped(api: Api) -> None:
    """Its node is told, and the explanation says whose end it was."""
    session = await api.node()
    root_id = (await api.submit())["execution_id"]
    lease = await api.take(session)
    child_id = await submit_child(api, lease)
    below = await api.take(session)
    await api.post(f"/executions/{root_id}/cancel", {"reason": "enough"})
    await api.finish(session, lease, status="cancelled")

    beat = (await api.heartbeat(session, executions=None, count=1, wait_seconds=DEADLINE_SECONDS)).json()
    why = await api.get(f"/executions/{child_id}/explain")

    assert beat["cancel"] == [fence(below) | {"reason": "parent cancelled"}]
    assert "because its parent had been cancelled, while attempt 1 ran" in why["sentence"]
