"""Steps and signals over HTTP: an attempt writes and suspends, somebody signals, another attempt goes on."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.api.doors import NEWS_TOPIC
from tests.integration.api.serving import Api, Json, fence, the_problem, until

NOBODY = "exec_00000000000000000000000000"


async def write(api: Api, lease: Json, *ops: Json) -> Json:
    """How the steps stand, of an attempt that may write them."""
    answer = await api.post("/steps/write", {"writes": [{**fence(lease), "ops": list(ops)}]})
    assert answer.status_code == 200, answer.text
    [result] = answer.json()["results"]
    assert result["http_status"] == 200, result
    return result["steps"]


async def park(api: Api, session: str, lease: Json, *waits: str, **over: Json) -> Json:
    answer = await api.finish(session, lease, status="waiting", waits=list(waits), **over)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]


async def signal(api: Api, execution_id: str, event: str, payload: Json = None) -> Json:
    answer = await api.post(f"/executions/{execution_id}/signals/{event}", payload)
    assert answer.status_code == 202, answer.text
    return answer.json()


async def test_a_loop_with_steps_and_a_signal(api: Api) -> None:
    """The whole way: a memo, a wait without a lease, a signal, and an attempt that finds both."""
    session = await api.node()
    id_ = (await api.submit())["execution_id"]
    first = await api.take(session)
    await write(api, first, {"op": "done", "name": "plan", "value": {"n": 1}})
    [wait] = await write(api, first, {"op": "event", "name": "go", "event": "deploy.approved"})

    parked = await park(api, session, first, "go")
    waiting = await api.read(id_)
    sent = await signal(api, id_, "deploy.approved", {"by": "ana"})
    second = await api.take(session)
    found = (await api.get(f"/executions/{id_}/steps"))["steps"]
    await api.finish(session, second, "ok")

    assert (wait["status"], wait["value"], wait["due_in_seconds"], wait["timed_out"]) == ("pending", None, None, False)
    assert (parked["code"], parked["status"]) == ("recorded", "waiting")
    assert (waiting["status"], waiting["status_reason"]) == ("waiting", "waiting_for_event")
    assert sent["delivered"]
    assert sent["signal_id"].startswith("sig_")
    assert (second["attempt"], second["steps"]) == (2, 2)
    assert [(one["name"], one["value"]) for one in found] == [("go", {"by": "ana"}), ("plan", {"n": 1})]
    assert (await api.read(id_))["status"] == "succeeded"


@pytest.mark.parametrize("settings", [{}, {"notify": False}], ids=["notify", "polling"])
async def test_a_sleep_goes_on_by_itself(api: Api) -> None:
    """No one has to do anything."""
    session = await api.node()
    await api.submit()
    first = await api.take(session)
    await write(api, first, {"op": "sleep", "name": "nap", "seconds": 0.5})

    await park(api, session, first, "nap")
    second = await api.take(session)

    [nap] = await write(api, second, {"op": "sleep", "name": "nap", "seconds": 0.5})
    assert (second["attempt"], nap["status"]) == (2, "done")


async def test_a_signal_before_the_wait_is_kept(api: Api) -> None:
    """Even before the first attempt; a second one waits for the second wait."""
    session = await api.node()
    id_ = (await api.submit())["execution_id"]
    sent = [await signal(api, id_, "go", n) for n in (1, 2)]

    found = await write(api, await api.take(session), {"op": "event", "name": "a", "event": "go"})

    assert [one["delivered"] for one in sent] == [False, False]
    assert [(one["status"], one["value"]) for one in found] == [("done", 1)]


async def test_a_signal_without_a_payload(api: Api) -> None:
    """An empty body is null."""
    session = await api.node()
    id_ = (await api.submit())["execution_id"]
    first = await api.take(session)
    await write(api, first, {"op": "event", "name": "a", "event": "go"})

    answer = await api.client.post(f"/api/v1/executions/{id_}/signals/go")
    [found] = await write(api, first, {"op": "event", "name": "a", "event": "go"})

    assert answer.json()["delivered"]
    assert (found["status"], found["value"]) == ("done", None)


async def test_the_same_key_is_the_same_signal(api: Api) -> None:
    """Said again it is answered so; with another payload it is refused."""
    await api.node()
    id_ = (await api.submit())["execution_id"]
    path, key = f"/executions/{id_}/signals/go", {"Idempotency-Key": "k"}

    one, two, other = [await api.post(path, payload, headers=key) for payload in (1, 1, 2)]

    assert one.json() == two.json()
    assert two.headers["Idempotent-Replayed"] == "true"
    the_problem(other, 422, "idempotency_conflict")


async def test_too_many_signals(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept for an execution is bounded, and the refusal says what to do."""
    monkeypatch.setattr("controlplane.stages.signal.SIGNALS_MAX", 2)
    await api.node()
    id_ = (await api.submit())["execution_id"]
    for _ in range(2):
        await signal(api, id_, "go")

    refused = the_problem(await api.post(f"/executions/{id_}/signals/other", 1), 409, "signals_full")

    assert refused["fix"]


async def test_whom_no_signal_reaches(api: Api) -> None:
    """404 for nobody, 409 for what has ended."""
    session = await api.node()
    ended = await api.run(session)

    the_problem(await api.post(f"/executions/{NOBODY}/signals/go", 1), 404, "execution_not_found")
    the_problem(await api.post(f"/executions/{ended}/signals/go", 1), 409, "already_finished")


@pytest.mark.parametrize(
    ("op", "where"),
    [
        ({"op": "done", "name": ""}, "name"),
        ({"op": "done", "name": "n" * 256}, "name"),
        ({"op": "done", "name": "a\x00"}, "name"),
        ({"op": "sleep", "name": "n"}, "seconds"),
        ({"op": "sleep", "name": "n", "seconds": -1}, "seconds"),
        ({"op": "sleep", "name": "n", "seconds": 1e12}, "seconds"),
        ({"op": "event", "name": "n"}, "event"),
        ({"op": "event", "name": "n", "event": "a/b"}, "event"),
        ({"op": "event", "name": "n", "event": "e", "timeout_seconds": -1}, "timeout_seconds"),
        ({"op": "approval", "name": "n", "expires_seconds": 1e30}, "expires_seconds"),
        ({"op": "approval", "name": "n", "title": "t" * 1001}, "title"),
    ],
    ids=str,
)
async def test_what_a_step_cannot_be(shared: Api, op: Json, where: str) -> None:
    """422 names the field."""
    answer = await shared.post("/steps/write", {"writes": [{"execution_id": NOBODY, "attempt": 1, "ops": [op]}]})

    assert the_problem(answer, 422, "invalid")["where"] == f"body.writes[0].ops[0].{where}"


@pytest.mark.parametrize("body", [{}, {"writes": []}, {"writes": [{"execution_id": NOBODY, "attempt": 1, "ops": []}]}])
async def test_what_a_write_cannot_be(shared: Api, body: Json) -> None:
    """Something has to be written."""
    the_problem(await shared.post("/steps/write", body), 422, "invalid")


async def test_a_write_without_a_lease(shared: Api) -> None:
    """409: stop working on it."""
    group = {"execution_id": NOBODY, "attempt": 1, "ops": [{"op": "done", "name": "n"}]}

    the_problem(await shared.post("/steps/write", {"writes": [group]}), 409, "lease_lost")


@pytest.mark.parametrize("waits", [[], [""], ["n" * 256], ["no such step"]], ids=str)
async def test_what_cannot_be_waited_for(api: Api, waits: list[str]) -> None:
    """The attempt still runs afterwards."""
    session = await api.node()
    await api.submit()
    lease = await api.take(session)

    refused = await api.finish(session, lease, status="waiting", waits=waits)
    done = await api.finish(session, lease, "ok")

    assert refused.status_code in (404, 422)
    assert done.json()["results"][0]["code"] == "recorded"


async def test_an_execution_without_steps(shared: Api) -> None:
    """An empty page for one that there is, 404 for nobody."""
    await shared.node()
    id_ = (await shared.submit())["execution_id"]

    assert await shared.get(f"/executions/{id_}/steps") == {"steps": [], "next_cursor": None}
    the_problem(await shared.client.get(f"/api/v1/executions/{NOBODY}/steps"), 404, "execution_not_found")


async def test_a_slot_is_free_while_it_waits(api: Api) -> None:
    """A node with one slot runs others meanwhile (I-20)."""
    await api.register("n")
    session = await api.open_session("n", slots=1)
    for _ in range(2):
        await api.submit()
    first = await api.take(session)
    await write(api, first, {"op": "event", "name": "e", "event": "go"})
    await park(api, session, first, "e")

    second = await api.take(session)

    assert second["execution_id"] != first["execution_id"]


async def test_many_wait_and_all_go_on(api: Api) -> None:
    """Signals at once to executions that suspend at once: none is lost, each goes on once (I-19)."""
    session = await api.node()
    ids = [(await api.submit())["execution_id"] for _ in range(20)]
    leases = await api.lease(session, limit=20)
    for lease in leases:
        await write(api, lease, {"op": "event", "name": "e", "event": "go"})

    await asyncio.gather(
        *(park(api, session, lease, "e") for lease in leases), *(signal(api, id_, "go", id_) for id_ in ids)
    )
    again: list[Json] = []

    async def all_back() -> bool:
        again.extend(await api.lease(session, limit=20, wait_seconds=0.2))
        return len(again) >= len(ids)

    await until(all_back)
    assert sorted(one["execution_id"] for one in again) == sorted(ids)
    assert {one["attempt"] for one in again} == {2}


async def test_the_attempts_of_a_wait(api: Api) -> None:
    """One that suspended is told from one that failed."""
    session = await api.node()
    id_ = (await api.submit())["execution_id"]
    first = await api.take(session)
    await write(api, first, {"op": "sleep", "name": "nap", "seconds": 0})
    await park(api, session, first, "nap")
    await api.finish(session, await api.take(session), "ok")

    attempts = (await api.get(f"/executions/{id_}/attempts"))["items"]

    assert [one["ended"] for one in attempts] == ["suspended", "succeeded"]
    assert (await api.read(id_))["failures"] == 0


async def test_a_call_with_a_step_is_found_again(api: Api) -> None:
    """By the next attempt of the parent, alone and in a batch; the steps have the results of what has ended."""
    session = await api.node("echo", "child")
    await api.submit()
    parent = await api.take(session)
    asks = {"X-Parent-Execution-ID": f"{parent['execution_id']}~{parent['attempt']}"}
    child = await api.submit("n.child", headers=asks, step="one")
    items = [{"target": "n.child", "step": name} for name in ("one", "two")]

    batch = await api.post("/execute/batch", {"items": items, "idempotency_key": "k"}, headers=asks)
    parked = await park(api, session, parent, "one", "two")
    for lease in await api.lease(session, limit=2):
        await api.finish(session, lease, {"of": lease["execution_id"]})
    again = await api.take(session)
    asks = {"X-Parent-Execution-ID": f"{parent['execution_id']}~2"}
    found = await api.submit("n.child", headers=asks, step="one")
    steps = (await api.get(f"/executions/{parent['execution_id']}/steps"))["steps"]

    one, two = batch.json()["items"]
    assert "replayed" not in child
    assert (one["execution_id"], one["replayed"], "replayed" in two) == (child["execution_id"], True, False)
    assert (parked["status"], again["attempt"], again["steps"]) == ("waiting", 2, 2)
    assert (found["execution_id"], found["replayed"]) == (child["execution_id"], True)
    assert [(step["name"], step["status"], step["value"]["of"]) for step in steps] == [
        ("one", "done", one["execution_id"]),
        ("two", "done", two["execution_id"]),
    ]


@pytest.mark.parametrize("over", [{"step": "s"}, {"step": "s", "idempotency_key": "k"}, {"step": ""}], ids=str)
async def test_a_step_needs_who_asks(shared: Api, over: Json) -> None:
    """An attempt, and nothing else that makes it one."""
    await shared.node()

    refused = await shared.post("/execute/async/n.echo", over)

    assert the_problem(refused, 422, "invalid")["where"] == "body.step"


async def test_only_the_end_of_a_child_is_news(api: Api) -> None:
    """A parked parent is looked for when a child of somebody has ended, and not when anything else has."""
    session = await api.node()
    with api.app.state.doors.hints.waiter(NEWS_TOPIC) as news:
        await api.submit()
        await api.finish(session, await api.take(session))
        assert not news.woken

        await api.submit()
        parent = await api.take(session)
        await api.submit(headers={"X-Parent-Execution-ID": parent["execution_id"]})
        await api.finish(session, await api.take(session))
        assert news.woken
