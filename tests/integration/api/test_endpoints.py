"""Endpoints: registered once, told of everything that they subscribe to, and never of what is secret."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from controlplane.security.signature import verify_agentfield, verify_standard
from tests.integration.api.serving import Answer, Api, Json, Received, Receiver, serving, the_problem, until

ALL_ENDS = ["execution.completed", "execution.failed", "execution.cancelled", "execution.timeout"]
QUICK = [0.0, 0.05, 0.05]


async def register(api: Api, receiver: Receiver, name: str = "orders", **over: Json) -> dict[str, Json]:
    answer = await api.post("/endpoints", {"name": name, "url": receiver.url} | over)
    assert answer.status_code == 201, answer.text
    made: dict[str, Json] = answer.json()
    return made


async def act(api: Api, verb: str, name: str = "orders", **body: Json) -> dict[str, Json]:
    answer = await api.post(f"/endpoints/{name}/{verb}", body)
    assert answer.status_code == 200, answer.text
    done: dict[str, Json] = answer.json()
    return done


async def settled(api: Api, id_: str, *states: str) -> list[Json]:
    """The deliveries of this execution, once they are as many and in these states."""

    async def look() -> list[Json] | None:
        found = await api.deliveries(id_)
        return found if sorted(one["state"] for one in found) == sorted(states) else None

    return await until(look)


def standard_signature(secret: str, told: Received) -> str:
    """The Standard Webhooks scheme, worked out without any of our code."""
    signed = b".".join((told.headers["webhook-id"].encode(), told.headers["webhook-timestamp"].encode(), told.body))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def signed_by(told: Received, secret: str) -> bool:
    return verify_standard(
        secret,
        webhook_id=told.headers["webhook-id"],
        timestamp=told.headers["webhook-timestamp"],
        body=told.body,
        signature=told.headers["webhook-signature"],
    )


async def test_it_is_told_of_ends(api: Api, receiver: Receiver) -> None:
    """Signed in both ways, with the body of a webhook."""
    made = await register(api, receiver)
    id_ = await api.run(await api.node(), {"x": 1})
    [told] = await receiver.wait_for(1)

    said = told.json
    assert told.headers["webhook-signature"] == standard_signature(made["secret"], told)
    assert (said["event"], said["execution_id"], said["result"]) == ("execution.completed", id_, {"x": 1})
    assert verify_agentfield(made["secret"], told.body, told.headers["x-agentfield-signature"])
    assert made["events"] == ALL_ENDS
    [delivery] = await settled(api, id_, "delivered")
    assert (delivery["endpoint_id"], delivery["attempts_max"]) == (made["endpoint_id"], 10)


async def test_it_hears_what_it_subscribes_to(api: Api, receiver: Receiver) -> None:
    """Only these events, and only of these targets."""
    await register(api, receiver, events=["execution.started", "execution.failed"], targets=["n.echo"])
    await api.register("other", "echo")
    session = await api.node()
    await api.run(await api.open_session("other"), 1, target="other.echo")
    id_ = await api.run(session, 1)
    [told] = await receiver.wait_for(1)
    await api.get("/endpoints/orders")

    assert told.json == {
        "event": "execution.started",
        "execution_id": id_,
        "run_id": told.json["run_id"],
        "workflow_id": told.json["run_id"],
        "agent_node_id": "n",
        "reasoner_id": "echo",
        "target": "n.echo",
        "attempt": 1,
        "data": {"node_id": "n"},
        "timestamp": told.json["timestamp"],
    }
    await settled(api, id_, "delivered")
    assert len(receiver.received) == 1


async def test_the_same_again_is_the_same(api: Api, receiver: Receiver) -> None:
    """Said twice it is one endpoint, and its secret is shown once; something else under its name is refused."""
    made = await register(api, receiver, headers={"X-Mine": "1"})
    same = await api.post("/endpoints", {"name": "orders", "url": receiver.url, "headers": {"X-Mine": "1"}})
    other = await api.post("/endpoints", {"name": "orders", "url": receiver.url, "events": ["*"]})

    assert same.status_code == 200
    assert {**same.json(), "secret": made["secret"]} == made
    the_problem(other, 409, "endpoint_exists")
    assert [one["name"] for one in (await api.get("/endpoints"))["items"]] == ["orders"]


@pytest.mark.parametrize("settings", [{"endpoints_max": 2}], ids=["two"])
async def test_there_are_so_many(api: Api, receiver: Receiver) -> None:
    """Of many at once exactly as many are made as there may be; one that goes makes room."""
    bodies = [{"name": f"e{n}", "url": receiver.url} for n in range(6)]
    answers = await asyncio.gather(*[api.post("/endpoints", body) for body in bodies])
    full = next(answer for answer in answers if answer.status_code != 201)

    assert sorted(answer.status_code for answer in answers) == [201, 201, 409, 409, 409, 409]
    the_problem(full, 409, "endpoints_full")
    [first, _] = (await api.get("/endpoints"))["items"]
    assert (await api.client.delete(f"/api/v1/endpoints/{first['endpoint_id']}")).status_code == 200
    assert (await api.post("/endpoints", {"name": "late", "url": receiver.url})).status_code == 201


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"name": "a b"}, "body.name"),
        ({"name": "ep_1"}, "body.name"),
        ({"url": "ftp://x"}, "body.url"),
        ({"url": "http://10.0.0.1/"}, "body.url"),
        ({"events": []}, "body.events"),
        ({"events": ["execution.queued"]}, "body.events[0]"),
        ({"targets": ["a.b.c"]}, "body.targets[0]"),
        ({"schedule": []}, "body.schedule"),
        ({"schedule": [0, -1]}, "body.schedule[1]"),
        ({"schedule": [0, 1e9]}, "body.schedule[1]"),
        ({"schedule": [0] * 31}, "body.schedule"),
        ({"headers": {"Host": "x"}}, "body.headers"),
        ({"secret": ""}, "body.secret"),
        ({"description": "\x00"}, "body.description"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
async def test_what_cannot_be(api: Api, receiver: Receiver, body: Json, where: str) -> None:
    """It is said where and why, and nothing is made."""
    answer = await api.post("/endpoints", {"name": "bad", "url": receiver.url} | body)

    assert answer.status_code == 422, answer.text
    assert answer.json()["where"].startswith(where)
    assert (await api.get("/endpoints"))["items"] == []


async def test_a_change_counts_for_what_is_pending(api: Api, receiver: Receiver) -> None:
    """A receiver that has moved is sent what failed at its old place; what is left out stays."""
    async with Receiver() as old:
        old.answer = Answer(status=500)
        made = await register(api, old, headers={"X-Mine": "1"}, schedule=[0.0] + [0.2] * 20)
        id_ = await api.run(await api.node(), 1)
        await old.wait_for(1)
        answer = await api.client.patch("/api/v1/endpoints/orders", json={"url": receiver.url})
        [told] = await receiver.wait_for(1)

    assert answer.json()["events"] == made["events"]
    assert told.headers["x-mine"] == "1"
    await settled(api, id_, "delivered")


async def test_while_it_is_disabled_it_is_sent_nothing(api: Api, receiver: Receiver) -> None:
    """What was pending waits and is sent when it is enabled; what happens meanwhile is not for it."""
    receiver.answer = Answer(status=500)
    await register(api, receiver, schedule=[0.0] + [0.2] * 20)
    session = await api.node()
    id_ = await api.run(session, "before")
    await receiver.wait_for(1)
    disabled = await act(api, "disable", reason="moving house")

    async def parked() -> bool:
        [one] = await api.deliveries(id_)
        return one["state"] == "pending" and "next_attempt_at" not in one

    await until(parked)
    came = len(receiver.received)
    unheard = await api.run(session, "meanwhile")
    receiver.answer = Answer()
    enabled = await act(api, "enable")
    await settled(api, id_, "delivered")
    await api.run(session, "after")
    told = await receiver.wait_for(came + 2)

    assert (disabled["state"], disabled["disabled_reason"], disabled["disabled_by"]) == (
        "disabled",
        "moving house",
        "somebody",
    )
    assert (enabled["state"], "disabled_at" in enabled) == ("enabled", False)
    assert [one.json["result"] for one in told[came:]] == ["before", "after"]
    assert await api.deliveries(unheard) == []


async def test_deleted_it_is_told_nothing(api: Api, receiver: Receiver) -> None:
    """What was pending is dead, and says why."""
    receiver.answer = Answer(status=500)
    await register(api, receiver, schedule=[0.0] + [0.2] * 20)
    id_ = await api.run(await api.node(), 1)
    await receiver.wait_for(1)
    assert (await api.client.delete("/api/v1/endpoints/orders")).json()["deleted"]
    [dead] = await settled(api, id_, "dead")

    assert dead["attempts"][-1]["error"].startswith("endpoint_deleted:")
    the_problem(await api.client.get("/api/v1/endpoints/orders"), 404, "endpoint_not_found")


async def test_parked_and_then_deleted(api: Api, receiver: Receiver) -> None:
    """What waited for a disabled endpoint does not wait for one that is gone."""
    receiver.answer = Answer(status=500)
    await register(api, receiver, schedule=[0.0] + [0.1] * 20)
    id_ = await api.run(await api.node(), 1)
    await receiver.wait_for(1)
    await act(api, "disable")
    await until(lambda: _parked(api, id_))
    await api.client.delete("/api/v1/endpoints/orders")

    await settled(api, id_, "dead")


async def _parked(api: Api, id_: str) -> bool:
    return all("next_attempt_at" not in one and one["state"] == "pending" for one in await api.deliveries(id_))


async def test_rotation_signs_with_both(api: Api, receiver: Receiver) -> None:
    """Inside the overlap the old and the new key verify; the header that holds one has the new one; then it is over."""
    old = (await register(api, receiver))["secret"]
    new = (await act(api, "rotate", overlap_seconds=3_600))["secret"]
    session = await api.node()
    await api.run(session, 1)
    [told] = await receiver.wait_for(1)
    last = (await act(api, "rotate", overlap_seconds=0))["secret"]
    await api.run(session, 2)
    [_, after] = await receiver.wait_for(2)

    assert (signed_by(told, old), signed_by(told, new)) == (True, True)
    assert verify_agentfield(new, told.body, told.headers["x-agentfield-signature"])
    assert [signed_by(after, one) for one in (old, new, last)] == [False, False, True]
    assert len({old, new, last}) == 3


async def test_rotating_to_what_it_is_changes_nothing(api: Api, receiver: Receiver) -> None:
    """Sent again after a lost answer, the old secret is not the new one too."""
    old = (await register(api, receiver))["secret"]
    for _ in range(2):
        rotated = await act(api, "rotate", secret="mine")
    await api.run(await api.node(), 1)
    [told] = await receiver.wait_for(1)

    assert "secret" not in rotated
    assert rotated["signing_key_format"] == "raw"
    assert (signed_by(told, old), signed_by(told, "mine")) == (True, True)


async def test_a_receiver_survives_a_rotation_under_load(api: Api, receiver: Receiver) -> None:
    """It verifies with one key at a time and changes it somewhere in the overlap: nothing fails."""
    old = (await register(api, receiver, schedule=QUICK))["secret"]
    session = await api.node()

    async def work(n: int) -> None:
        for _ in range(n):
            await api.run(session, n)

    working = asyncio.create_task(work(40))
    await receiver.wait_for(10)
    new = (await act(api, "rotate"))["secret"]
    await working
    told = await receiver.wait_for(40)

    first = next(n for n, one in enumerate(told) if signed_by(one, new))
    assert all(signed_by(one, old) for one in told)
    assert all(signed_by(one, new) for one in told[first:])
    assert first < 40


async def test_gone_disables(api: Api, receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """A 410 says it: others hear of it, the list and health show it, and the log warns."""
    async with Receiver() as other:
        receiver.answer = Answer(status=410)
        await register(api, other, "other", events=["endpoint.disabled"])
        made = await register(api, receiver)
        id_ = await api.run(await api.node(), 1)
        [told] = await other.wait_for(1)
    shown = await api.get("/endpoints/orders")
    health = await api.client.get("/health")

    assert (shown["state"], shown["disabled_by"]) == ("disabled", "controlplane")
    assert shown["disabled_reason"].startswith("gone:")
    assert told.json["data"] == {
        "endpoint_id": made["endpoint_id"],
        "name": "orders",
        "reason": shown["disabled_reason"],
    }
    assert (told.json["event"], told.json["execution_id"]) == ("endpoint.disabled", id_)
    assert (health.status_code, health.json()["status"]) == (200, "healthy")
    assert health.json()["degraded"] == ["endpoints_disabled"]
    assert (await api.client.get("/readyz")).status_code == 200
    assert "endpoint.disabled" in [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]


@pytest.mark.parametrize("settings", [{"endpoint_dead_max": 3, "endpoint_failing_hours": 0.0}], ids=["three"])
async def test_one_that_fails_for_long_is_disabled(api: Api, receiver: Receiver) -> None:
    """After so many dead in a row; one that is taken in between begins anew."""
    await register(api, receiver, schedule=[0.0])
    session = await api.node()
    for status in (500, 500, 200, 500, 500):
        receiver.answer = Answer(status=status)
        await settled(api, await api.run(session, 1), "delivered" if status == 200 else "dead")
    before = await api.get("/endpoints/orders")
    await settled(api, await api.run(session, 1), "dead")
    after = await api.get("/endpoints/orders")

    assert (before["state"], before["dead_streak"]) == ("enabled", 2)
    assert (after["state"], after["disabled_reason"].partition(":")[0]) == ("disabled", "failing")


async def test_the_death_of_a_delivery_is_told(api: Api, receiver: Receiver) -> None:
    """To others than to whom it was not delivered, and the death of that is told to nobody."""
    async with Receiver() as deaf:
        deaf.answer = Answer(status=500)
        receiver.answer = Answer(status=500)
        await register(api, deaf, "deaf", events=["execution.completed", "delivery.dead"], schedule=[0.0])
        await register(api, receiver, "watch", events=["delivery.dead"], schedule=[0.0])
        id_ = await api.run(await api.node(), 1)
        [told] = await receiver.wait_for(1)
        found = await settled(api, id_, "dead", "dead")
        await api.run(await api.open_session("n"), 2)
        await receiver.wait_for(2)

    first = next(one for one in found if one["event"] == "execution.completed")
    assert told.json["data"]["delivery_id"] == first["delivery_id"]
    assert told.json["data"]["event"] == "execution.completed"
    assert len(await api.deliveries(id_)) == 2


async def test_a_test_shows_both_sides(api: Api, receiver: Receiver, conn: asyncpg.Connection) -> None:
    """A signed event sent at once; what was sent without secrets, what was said; nothing is kept."""
    receiver.answer = Answer(status=503, body=b"\xffno")
    made = await register(api, receiver, headers={"Authorization": "Bearer hidden"})
    said = await act(api, "test")
    [told] = receiver.received

    assert (told.json["event"], told.json["data"]["name"]) == ("endpoint.test", "orders")
    assert (signed_by(told, made["secret"]), told.headers["authorization"]) == (True, "Bearer hidden")
    assert (said["delivered"], said["request"]["body"]) == (False, told.json)
    assert said["request"]["headers"]["webhook-signature"] == told.headers["webhook-signature"]
    assert said["response"] | {"latency_ms": 0} == {
        "outcome": "failed",
        "status": 503,
        "error": "http: 503",
        "latency_ms": 0,
        "body_base64": "/25v",
    }
    assert "hidden" not in str(said)
    assert await conn.fetchval("select count(*) from deliveries") == 0


async def test_a_test_of_nobody(api: Api) -> None:
    """Where nothing listens the answer is how it failed, and no error of ours."""
    made = await api.post("/endpoints", {"name": "orders", "url": "http://127.0.0.1:1024/x"})
    assert made.status_code == 201, made.text
    said = await act(api, "test", made.json()["endpoint_id"])

    assert (said["delivered"], said["response"]["outcome"]) == (False, "failed")


async def test_secrets_stay_inside(
    api: Api, receiver: Receiver, conn: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither an answer nor the log nor a row has the secret, a header or the query of the URL."""
    caplog.set_level(logging.DEBUG)
    hidden = ["canary-secret", "canary-header", "canary-query", "canary-later"]
    url = f"{receiver.url}?key=canary-query"
    body = {"name": "orders", "url": url, "secret": "canary-secret", "headers": {"X-Key": "canary-header"}}
    said = [(await api.post("/endpoints", body)).text]
    await api.run(await api.node(), 1)
    await receiver.wait_for(1)
    said.append((await api.post("/endpoints/orders/rotate", {"secret": "canary-later"})).text)
    said += [(await api.post(f"/endpoints/orders/{verb}", {})).text for verb in ("test", "disable", "enable")]
    said += [(await api.client.get(f"/api/v1/endpoints{more}")).text for more in ("", "/orders")]
    said += [str(row) for row in await conn.fetch("select t::text from endpoints t")]
    said += [str(record.__dict__) for record in caplog.records]

    found = [word for word in hidden if any(word in text for text in said)]
    assert found == ["canary-query"]  # in the row alone, as the URL of any webhook
    assert not [text for text in said if "canary-query" in text and "endpoint_id" in text]


@pytest.fixture
async def elsewhere(api: Api) -> AsyncIterator[Api]:
    """Who has every scope, of another namespace."""
    assert (await api.post("/namespaces", {"name": "elsewhere"})).status_code == 201
    wish = {"name": "k", "scopes": ["read", "operate", "execute", "node"], "node_ids": ["*"], "namespace": "elsewhere"}
    key = (await api.post("/keys", wish)).json()["key"]
    async with httpx.AsyncClient(base_url=api.url, headers={"X-API-Key": key}, timeout=30, trust_env=False) as client:
        yield Api(api.app, api.host, api.port, client)


@pytest.mark.parametrize("settings", [{"api_key": "the-first-key"}], ids=["keyed"])
async def test_it_hears_its_namespace_alone(api: Api, elsewhere: Api, receiver: Receiver) -> None:
    """Of two namespaces with a node and an endpoint of the same names each hears its own work."""
    async with Receiver() as own:
        await register(api, receiver, events=["*"])
        await register(elsewhere, own, events=["*"])
        id_ = await api.run(await api.node(), "here")
        there = await elsewhere.run(await elsewhere.node(), "there")
        for listening, which in ((receiver, id_), (own, there)):
            told = await listening.wait_for(2)
            assert {one.json["execution_id"] for one in told} == {which}
            assert {one.json["event"] for one in told} == {"execution.started", "execution.completed"}


async def test_a_large_result_is_not_sent(api: Api, receiver: Receiver) -> None:
    """It says so, and where the result is."""
    await register(api, receiver)
    id_ = await api.run(await api.node(), "x" * 300_000)
    [told] = await receiver.wait_for(1)

    assert (told.json["truncated"], "result" in told.json) == (True, False)
    assert told.json["result_url"].endswith(f"/api/v1/executions/{id_}")
    assert (await api.read(id_))["result"] == "x" * 300_000


async def test_two_replicas_tell_once(database: str, receiver: Receiver) -> None:
    """Each event is one delivery, however many look at it at once."""
    async with serving(database) as api, serving(database) as other:
        await register(api, receiver, events=["*"])
        session = await api.node()
        ids = [await (api, other)[n % 2].run(session, n) for n in range(15)]
        told = await receiver.wait_for(30)
        for id_ in ids:
            await settled(api, id_, "delivered", "delivered")

    assert len({one.headers["webhook-id"] for one in receiver.received}) == 30
    assert {(one.json["execution_id"], one.json["event"]) for one in told} == {
        (id_, event) for id_ in ids for event in ("execution.started", "execution.completed")
    }


async def test_a_webhook_may_hear_more_than_the_end(api: Api, receiver: Receiver) -> None:
    """Of one execution, signed with its own secret; beside it another that hears its end alone."""
    async with Receiver() as second:
        session = await api.node()
        hooks = [
            {"url": receiver.url, "secret": "mine", "events": ["execution.started"], "headers": {"X-Mine": "1"}},
            {"url": second.url, "secret": "other"},
        ]
        id_ = await api.run(session, 1, webhooks=hooks)
        told = await receiver.wait_for(2)
        [end] = await second.wait_for(1)

    assert sorted(one.json["event"] for one in told) == ["execution.completed", "execution.started"]
    assert all(signed_by(one, "mine") and one.headers["x-mine"] == "1" for one in told)
    assert (end.json["event"], signed_by(end, "other")) == ("execution.completed", True)
    await settled(api, id_, *["delivered"] * 3)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"webhook": {"events": ["delivery.dead"]}}, "body.webhook.events[0]"),
        ({"webhooks": [{}, {"headers": {"Host": "x"}}]}, "body.webhooks[1].headers"),
        ({"webhook": {}, "webhooks": [{}] * 5}, "body.webhooks"),
    ],
    ids=["events", "headers", "many"],
)
async def test_webhooks_that_cannot_be(api: Api, receiver: Receiver, body: Json, where: str) -> None:
    """The submit is refused."""
    await api.node()
    body = {
        name: [{"url": receiver.url} | one for one in said] if isinstance(said, list) else {"url": receiver.url} | said
        for name, said in body.items()
    }
    answer = await api.post("/execute/async/n.echo", body)

    assert answer.status_code == 422
    assert answer.json()["where"].startswith(where)


@pytest.mark.parametrize("settings", [{"buckets": 4, "buckets_hashed": 3}], ids=["buckets"])
async def test_in_whatever_bucket_it_happens(api: Api, receiver: Receiver) -> None:
    """An endpoint lies in one, and hears of executions in all of them."""
    await register(api, receiver)
    session = await api.node()
    ids = {await api.run(session, n) for n in range(6)}
    told = await receiver.wait_for(6)

    assert {one.json["execution_id"] for one in told} == ids
