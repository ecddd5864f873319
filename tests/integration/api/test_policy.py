"""Policies: how often, how soon and after which errors an execution is tried again."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.api.serving import Api, the_problem

Json = Any
REGISTERED = {"retries": 2, "retry_delay_seconds": 7, "retry_factor": 3, "retry_cap_seconds": 70}


async def fail(api: Api, session: str, error_class: str, **body: Json) -> dict[str, Json]:
    """The execution after its first attempt has failed so."""
    execution_id = (await api.submit(**body))["execution_id"]
    await api.finish(session, await api.take(session), status="failed", error="boom", error_class=error_class)
    return await api.read(execution_id)


async def wait_of(api: Api, execution_id: str) -> float:
    """How long it waits for its next attempt."""
    [event] = [
        one
        for one in (await api.get(f"/executions/{execution_id}/events"))["items"]
        if one["type"] == "execution.retrying"
    ]
    return float(event["data"]["retry_in_seconds"])


async def test_a_submit_says_what_is_tried_again(api: Api) -> None:
    """Fatal errors end it with retries left, others wait as it says; Retry-After still comes first."""
    session = await api.node()
    policy = {"max": 3, "backoff": "fixed", "delay_seconds": 100, "jitter": 0, "fatal_errors": ["Value*"]}

    fatal = await fail(api, session, "ValueError", retry=policy)
    again = await fail(api, session, "OSError", retry=policy)

    assert (fatal["status"], fatal["attempt"], fatal["error_class"]) == ("failed", 1, "ValueError")
    assert (again["status"], again["status_reason"]) == ("queued", "retrying")
    assert await wait_of(api, again["execution_id"]) == 100


async def test_what_is_left_out_is_as_it_was_registered(api: Api) -> None:
    """One member overrules its own part of the reasoner's policy."""
    session = await api.node(**REGISTERED)

    seen = await fail(api, session, "E", retry={"jitter": 0})
    await fail(api, session, "E", retry={"max": 0})

    assert await wait_of(api, seen["execution_id"]) == 7
    assert [one["status"] for one in (await api.get("/executions"))["items"]] == ["failed", "queued"]


async def test_a_reasoner_says_what_is_tried_again(api: Api) -> None:
    """Its registration takes the same object; the catalogue shows it, and a submit inherits it."""
    policy = {"max": 4, "backoff": "exponential", "delay_seconds": 0.5, "factor": 3, "cap_seconds": 9, "jitter": 0.5}
    session = await api.node(retry=policy | {"fatal_errors": ["ValueError"], "retry_errors": ["HTTP 5*"]})

    [shown] = (await api.get("/reasoners"))["items"]
    ends = [(await fail(api, session, one))["status"] for one in ("ValueError", "HTTP 404")]

    assert shown["retry"] == policy | {"fatal_errors": ["ValueError"], "retry_errors": ["HTTP 5*"]}
    assert ends == ["failed", "failed"]
    assert (await fail(api, session, "HTTP 503"))["status"] == "queued"


async def test_a_retried_and_a_restarted_one_keep_their_policy(api: Api) -> None:
    """It belongs to what was asked."""
    session = await api.node()
    policy = {"max": 3, "fatal_errors": ["Boom"]}
    old = (await fail(api, session, "Boom", retry=policy))["execution_id"]

    for how in ("retry", "restart"):
        again = (await api.post(f"/executions/{old}/{how}", {})).json()["execution_id"]
        await api.finish(session, await api.take(session), status="failed", error="boom", error_class="Boom")
        assert (await api.read(again))["status"] == "failed"


@pytest.mark.parametrize(
    ("policy", "where"),
    [
        ({"max": -1}, "max"),
        ({"max": 1_001}, "max"),
        ({"backoff": "some"}, "backoff"),
        ({"backoff": "fixed", "factor": 2}, "factor"),
        ({"factor": 0.5}, "factor"),
        ({"factor": 1e300}, "factor"),
        ({"delay_seconds": -1}, "delay_seconds"),
        ({"delay_seconds": 1e300}, "delay_seconds"),
        ({"cap_seconds": -1}, "cap_seconds"),
        ({"jitter": 1.1}, "jitter"),
        ({"fatal_errors": [""]}, "fatal_errors[0]"),
        ({"fatal_errors": ["a"] * 51}, "fatal_errors"),
        ({"retry_errors": ["a", "\x1f"]}, "retry_errors[1]"),
        ({"retry_errors": ["a" * 201]}, "retry_errors[0]"),
    ],
)
async def test_what_cannot_be_is_refused(api: Api, policy: Json, where: str) -> None:
    """By a submit and by a registration, which name the same member."""
    await api.node()

    submit = await api.post("/execute/async/n.echo", {"retry": policy})
    register = await api.post("/nodes/register", {"id": "n", "reasoners": [{"id": "echo", "retry": policy}]})

    assert the_problem(submit, 422, "invalid")["where"] == f"body.retry.{where}"
    assert the_problem(register, 422, "invalid")["where"] == f"body.reasoners[0].retry.{where}"


async def test_one_of_two_words(api: Api) -> None:
    """`retries` and `retry` together could mean two things."""
    await api.node()

    refused = the_problem(await api.post("/execute/async/n.echo", {"retries": 1, "retry": {}}), 422, "invalid")

    assert refused["where"] == "body.retries"
