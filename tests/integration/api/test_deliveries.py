"""Webhooks: signed twice, retried, visible, and sent again by hand with the same bytes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
import standardwebhooks

from tests.e2e import seed_receiver
from tests.integration.api.serving import Answer, Api, Json, Received, Receiver, serving, the_problem, until

KEY = b"0123456789abcdef0123456789abcdef"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
FAILING = Answer(status=500, body=b"no")


async def settled(api: Api, id_: str, state: str, *, attempts: int = 1) -> Json:
    """The one delivery of this execution, once it is in this state after so many attempts."""

    async def look() -> Json:
        found = await api.deliveries(id_)
        return found[0] if found and found[0]["state"] == state and len(found[0]["attempts"]) >= attempts else None

    return await until(look)


async def announced(api: Api, receiver: Receiver, **webhook: Json) -> tuple[str, Received]:
    """An execution that succeeded, and what its receiver was told."""
    session = await api.node()
    id_ = await api.run(session, {"x": 1.0}, webhook={"url": receiver.url} | webhook)
    [told] = await receiver.wait_for(1)
    return id_, told


def standard_signature(key: bytes, told: Received) -> str:
    """The Standard Webhooks scheme, worked out without any of our code."""
    signed = b".".join((told.headers["webhook-id"].encode(), told.headers["webhook-timestamp"].encode(), told.body))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


async def test_both_signatures_verify(api: Api, receiver: Receiver) -> None:
    """The seed's header over the raw body with the literal secret, and the Standard Webhooks triple."""
    id_, told = await announced(api, receiver, secret=SECRET)

    seed = "sha256=" + hmac.new(SECRET.encode(), told.body, hashlib.sha256).hexdigest()
    assert told.headers["x-agentfield-signature"] == seed
    assert told.headers["webhook-signature"] == standard_signature(KEY, told)
    assert abs(time.time() - int(told.headers["webhook-timestamp"])) < 5
    assert told.headers["content-type"] == "application/json"
    delivered = await settled(api, id_, "delivered")
    assert told.headers["webhook-id"] == delivered["delivery_id"] == delivered["webhook_id"]
    assert delivered["attempts"][0]["http_status"] == 200


async def test_the_receiver_of_the_article_takes_it(api: Api, receiver: Receiver) -> None:
    """Its own dozen lines verify what we send, and refuse it when a byte is changed."""
    _, told = await announced(api, receiver, secret=seed_receiver.SECRET.decode())
    headers = {"X-AgentField-Signature": told.headers["x-agentfield-signature"]}

    assert seed_receiver.handle(told.body, headers) == (200, "ok")
    assert seed_receiver.handle(told.body + b" ", headers) == (401, "bad signature")


@pytest.mark.parametrize(
    "secret",
    [
        "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(),
        base64.b64encode(KEY).decode(),
        seed_receiver.SECRET.decode(),
    ],
    ids=["generated", "base64 of the client", "raw"],
)
async def test_the_public_library_takes_it(api: Api, receiver: Receiver, secret: str) -> None:
    """As it is published, at every attempt, and not when a byte is changed; a raw secret is given to it as bytes."""
    receiver.queue.append(FAILING)
    id_, _ = await announced(api, receiver, secret=secret)
    pending = await settled(api, id_, "pending")
    await api.post(f"/deliveries/{pending['delivery_id']}/retry")
    told = await receiver.wait_for(2)
    raw = secret == seed_receiver.SECRET.decode()
    library = standardwebhooks.Webhook(secret.encode() if raw else secret)

    for one in told:
        assert library.verify(one.body, dict(one.headers))["execution_id"] == id_
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            library.verify(one.body + b" ", dict(one.headers))
        if raw:
            seed = {"X-AgentField-Signature": one.headers["x-agentfield-signature"]}
            assert seed_receiver.handle(one.body, seed) == (200, "ok")


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        (base64.b64encode(KEY).decode(), KEY),
        ("whsec_" + base64.b64encode(b"short").decode(), None),
        ("whsec_" + base64.b64encode(KEY).decode().rstrip("="), None),
        ("whsec_your_signing_secret", None),
        ("sécret ✓", None),
        ("x" * 4_096, None),
    ],
    ids=["no prefix", "short", "no padding", "no base64", "unicode", "long"],
)
async def test_any_secret_signs(api: Api, receiver: Receiver, secret: str, key: bytes | None) -> None:
    """The Standard Webhooks key is what is in the base64, if it is a good one, else the secret letter by letter."""
    _, told = await announced(api, receiver, secret=secret)

    seed = hmac.digest(secret.encode(), told.body, hashlib.sha256).hex()
    assert told.headers["x-agentfield-signature"] == f"sha256={seed}"
    assert told.headers["webhook-signature"] == standard_signature(key or secret.encode(), told)


async def test_without_a_secret_nothing_is_signed(api: Api, receiver: Receiver) -> None:
    """The id is still there, to tell a repeat by; headers of the caller's own are sent along."""
    _, told = await announced(api, receiver, headers={"Authorization": "Bearer t", "X-Mine": "1"})

    assert not {"x-agentfield-signature", "webhook-signature"} & told.headers.keys()
    assert told.headers["webhook-id"].startswith("dlv_")
    assert (told.headers["authorization"], told.headers["x-mine"]) == ("Bearer t", "1")


async def test_success_is_told(api: Api, receiver: Receiver) -> None:
    """AgentField's payload, field for field."""
    session = await api.node()
    headers = {"X-Session-ID": "s", "X-Actor-ID": "a"}
    accepted = await api.submit(headers=headers, context={"c": 1}, webhook={"url": receiver.url})
    await api.finish(session, await api.take(session), None)
    [told] = await receiver.wait_for(1)
    read = await api.read(accepted["execution_id"])

    assert told.json == {
        "event": "execution.completed",
        "execution_id": accepted["execution_id"],
        "run_id": accepted["run_id"],
        "workflow_id": accepted["run_id"],
        "agent_node_id": "n",
        "reasoner_id": "echo",
        "target": "n.echo",
        "type": "reasoner",
        "status": "succeeded",
        "started_at": read["started_at"],
        "completed_at": read["completed_at"],
        "duration_ms": read["duration_ms"],
        "retry_count": 0,
        "session_id": "s",
        "actor_id": "a",
        "context": {"c": 1},
        "result": None,
        "timestamp": read["completed_at"],
    }


@pytest.mark.parametrize("end", ["failed", "cancelled", "timeout"])
async def test_every_other_end_is_told_as_failed(api: Api, receiver: Receiver, end: str) -> None:
    """AgentField knows one event for them; the exact word stands in `status`. There is no result."""
    session = await api.node("echo", retries=1)
    more = {"timeout_seconds": 0.1} if end == "timeout" else {}
    id_ = (await api.submit(webhook={"url": receiver.url}, **more))["execution_id"]
    lease = await api.take(session)
    if end == "failed":
        await api.finish(session, lease, status="failed", error="once", retry_after_seconds=0)
        report = {"status": "failed", "error": "boom", "error_details": {"at": 3}}
        await api.finish(session, await api.take(session), **report)
    elif end == "cancelled":
        await api.post(f"/executions/{id_}/cancel", {"reason": "changed my mind"})
        await api.finish(session, lease, "too late")
    [told] = await receiver.wait_for(1)

    body = told.json
    assert (body["event"], body["status"], body["execution_id"]) == ("execution.failed", end, id_)
    assert "result" not in body
    expected = {"failed": ("boom", 1, {"at": 3}), "cancelled": ("changed my mind", 0, None)}
    if end in expected:
        assert (body["error_message"], body["retry_count"], body.get("error_details")) == expected[end]
    assert body["error_category"] == body["status_reason"]


async def test_what_nobody_ran_is_told_as_well(api: Api, receiver: Receiver) -> None:
    """Cancelled in the queue: the webhook was promised at the submit."""
    await api.register()
    id_ = (await api.submit(webhook={"url": receiver.url}))["execution_id"]

    await api.post(f"/executions/{id_}/cancel")
    [told] = await receiver.wait_for(1)

    assert (told.json["execution_id"], told.json["status"]) == (id_, "cancelled")


async def test_five_attempts_by_the_schedule(api: Api, receiver: Receiver) -> None:
    """5, 10, 20, 40 seconds and at most a fifth more between them; then it is dead, and that is an event."""
    receiver.answer = FAILING
    id_, _ = await announced(api, receiver, secret=SECRET)
    waits = []
    for count in range(1, 5):
        pending = await settled(api, id_, "pending", attempts=count)
        last = datetime.fromisoformat(pending["attempts"][-1]["at"])
        waits.append((datetime.fromisoformat(pending["next_attempt_at"]) - last).total_seconds())
        await api.post(f"/deliveries/{pending['delivery_id']}/retry")  # now, and not after the wait
    dead = await settled(api, id_, "dead", attempts=5)
    told = await receiver.wait_for(5)
    trace = await api.get(f"/executions/{id_}/events")

    for wait, least in zip(waits, (5, 10, 20, 40), strict=True):
        assert least <= wait <= least * 1.2 + 1
    assert (dead["attempts_max"], dead["attempts_charged"], len(dead["attempts"])) == (5, 5, 5)
    assert {(one["outcome"], one["http_status"], one["response_body"]) for one in dead["attempts"]} == {
        ("failed", 500, "no")
    }
    assert "next_attempt_at" not in dead
    assert len({one.body for one in told}) == len({one.headers["webhook-id"] for one in told}) == 1
    assert [one["type"] for one in trace["items"]][-1] == "delivery.dead"


@pytest.mark.parametrize("settings", [{"webhook_attempts_max": 1}], ids=["one attempt"])
async def test_dead_is_visible_and_sent_again(api: Api, receiver: Receiver) -> None:
    """After the last attempt it is dead; by hand it goes again, with the same id and bytes and a new time."""
    receiver.answer = FAILING
    id_, first = await announced(api, receiver, secret=SECRET)
    dead = await settled(api, id_, "dead")
    receiver.answer = Answer()

    answer = await api.post(f"/deliveries/{dead['delivery_id']}/retry")
    delivered = await settled(api, id_, "delivered")
    _, second = await receiver.wait_for(2)

    assert (answer.status_code, answer.json()) == (202, {"delivery_id": dead["delivery_id"], "state": "pending"})
    assert [(one["outcome"], one["http_status"]) for one in delivered["attempts"]] == [
        ("failed", 500),
        ("delivered", 200),
    ]
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])
    assert first.headers["x-agentfield-signature"] == second.headers["x-agentfield-signature"]
    assert second.headers["webhook-signature"] == standard_signature(KEY, second)


async def test_sent_again_the_schedule_begins_anew(api: Api, receiver: Receiver) -> None:
    """However often: five seconds after the first failure, and five attempts."""
    receiver.answer = Answer(status=410)
    id_, _ = await announced(api, receiver)
    for count in range(1, 4):
        dead = await settled(api, id_, "dead", attempts=count)
        await api.post(f"/deliveries/{dead['delivery_id']}/retry")
    await settled(api, id_, "dead", attempts=4)
    receiver.answer = FAILING
    await api.post(f"/deliveries/{dead['delivery_id']}/retry")
    pending = await settled(api, id_, "pending", attempts=5)
    last = datetime.fromisoformat(pending["attempts"][-1]["at"])

    assert pending["attempts_max"] == 5
    assert datetime.fromisoformat(pending["next_attempt_at"]) - last < timedelta(seconds=7)


async def test_delivered_may_be_sent_again(api: Api, receiver: Receiver) -> None:
    """A receiver that lost its own database asks for it; AgentField's path does the same by execution."""
    id_, _ = await announced(api, receiver)
    delivered = await settled(api, id_, "delivered")

    await api.post(f"/deliveries/{delivered['delivery_id']}/retry")
    await settled(api, id_, "delivered", attempts=2)
    answer = await api.client.post(f"/api/ui/v1/executions/{id_}/webhook/retry")
    await settled(api, id_, "delivered", attempts=3)

    assert (answer.status_code, answer.json()) == (202, {"status": "queued"})
    assert len({(one.body, one.headers["webhook-id"]) for one in await receiver.wait_for(3)}) == 1


@pytest.mark.parametrize(
    ("retry_after", "least", "most"),
    [
        ("120", 120, 121),
        ("1", 5, 7),
        ("999999999", 3_600, 3_601),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 5, 7),
        ("-5", 5, 7),
        ("soon", 5, 7),
    ],
    ids=["seconds", "sooner than ours", "for ever", "past", "negative", "garbage"],
)
async def test_a_receiver_may_ask_for_time(
    api: Api, receiver: Receiver, retry_after: str, least: float, most: float
) -> None:
    """`Retry-After` makes the wait longer, up to an hour, and never shorter."""
    receiver.answer = Answer(status=503, headers={"Retry-After": retry_after})
    id_, _ = await announced(api, receiver)
    pending = await settled(api, id_, "pending")
    last = datetime.fromisoformat(pending["attempts"][-1]["at"])

    assert least <= (datetime.fromisoformat(pending["next_attempt_at"]) - last).total_seconds() <= most


async def test_a_receiver_may_name_the_time(api: Api, receiver: Receiver) -> None:
    """As an HTTP date, by its own clock."""
    later = datetime.now(UTC) + timedelta(minutes=30)
    receiver.answer = Answer(status=429, headers={"Retry-After": format_datetime(later, usegmt=True)})
    id_, _ = await announced(api, receiver)
    pending = await settled(api, id_, "pending")

    assert abs(datetime.fromisoformat(pending["next_attempt_at"]) - later) < timedelta(seconds=5)


@pytest.mark.parametrize(
    ("answer", "state", "error"),
    [
        (Answer(status=204, body=b""), "delivered", None),
        (Answer(status=299), "delivered", None),
        (Answer(status=302, headers={"Location": "http://127.0.0.1:1/"}), "pending", "redirect"),
        (Answer(status=404), "pending", "http"),
        (Answer(status=410), "dead", "http"),
        (Answer(status=200, body=b"\xff\x00" * 20_000), "delivered", None),
    ],
    ids=["204", "299", "302", "404", "410", "binary"],
)
async def test_what_an_answer_means(
    api: Api, receiver: Receiver, answer: Answer, state: str, error: str | None
) -> None:
    """Any 2xx is success, 410 is for good, redirects are not followed; of the body a part is kept."""
    receiver.answer = answer
    id_, _ = await announced(api, receiver)
    delivery = await settled(api, id_, state)
    [attempt] = delivery["attempts"]

    assert attempt["http_status"] == answer.status
    assert (attempt.get("error") or "").partition(":")[0] == (error or "")
    assert len(attempt["response_body"]) <= 16 * 1024
    assert len(receiver.received) == 1


@pytest.mark.parametrize("settings", [{"webhook_seconds": 0.3}])
async def test_a_receiver_that_hangs_delays_nobody_else(api: Api, receiver: Receiver) -> None:
    """Its attempts end at the deadline; others are told meanwhile."""
    async with Receiver() as hanging:
        hanging.answer = Answer(hang=True)
        session = await api.node()
        for _ in range(20):
            await api.run(session, webhook={"url": hanging.url})
        id_, _ = await announced(api, receiver)
        await settled(api, id_, "delivered")
        late = await settled(api, hanging.received[0].json["execution_id"], "pending")

    assert late["attempts"][0]["error"].startswith("timeout")
    assert late["attempts"][0]["latency_ms"] >= 300


async def test_a_host_that_fails_is_left_alone(api: Api, receiver: Receiver) -> None:
    """After five failures in a row nothing is sent there, what waits says so, and `/metrics` counts it."""
    receiver.answer = Answer(status=503)
    session = await api.node()
    ids = [await api.run(session, webhook={"url": receiver.url}) for _ in range(5)]
    for id_ in ids:
        await settled(api, id_, "pending")
    waiting = await api.run(session, webhook={"url": receiver.url})

    async def held() -> Json:
        [one] = await api.deliveries(waiting)
        return one if one.get("held_by") == "breaker" else None

    one = await until(held)
    assert one["state"] == "pending"
    assert one["next_attempt_at"] > one["created_at"]
    assert "controlplane_breakers_open" in (await api.client.get("/metrics")).text


async def test_a_host_that_asks_for_time_gets_it(api: Api, receiver: Receiver) -> None:
    """Nothing else is sent there meanwhile, though it is due."""
    receiver.answer = Answer(status=429, headers={"Retry-After": "60"})
    session = await api.node()
    await settled(api, await api.run(session, webhook={"url": receiver.url}), "pending")
    [held] = await api.deliveries(await api.run(session, webhook={"url": receiver.url + "/other"}))

    alone = await api.get(f"/deliveries/{held['delivery_id']}")
    listed = (await api.get("/deliveries", state="pending"))["items"]

    assert (held["held_by"], held["attempts"]) == ("retry_after", [])
    assert [one["held_by"] for one in (alone, *listed)] == ["retry_after"] * 3
    assert len(receiver.received) == 1


async def test_nobody_listens(api: Api, receiver: Receiver) -> None:
    """A refused connection is a failed attempt; when the receiver is there again it is told."""
    session = await api.node()
    async with Receiver() as gone:
        url = gone.url
    id_ = await api.run(session, webhook={"url": url})
    pending = await settled(api, id_, "pending")

    assert pending["attempts"][0]["outcome"] == "failed"
    assert pending["attempts"][0]["error"].startswith("connect")
    assert "http_status" not in pending["attempts"][0]


async def test_a_restart_forgets_nothing(database: str, receiver: Receiver) -> None:
    """What was due when the server stopped is sent by the next one, with the attempts counted on."""
    receiver.queue.append(FAILING)
    async with serving(database) as api:
        id_, first = await announced(api, receiver, secret=SECRET)
        await settled(api, id_, "pending")
    async with serving(database) as api:
        await api.client.post(f"/api/ui/v1/executions/{id_}/webhook/retry")
        delivered = await settled(api, id_, "delivered", attempts=2)
    second = receiver.received[1]

    assert [one["attempt"] for one in delivered["attempts"]] == [1, 2]
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])


INSIDE = [
    "http://127.0.0.1/x",
    "http://127.1/x",
    "http://2130706433/",
    "http://169.254.169.254/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://10.0.0.1/",
    "https://93.184.216.34:25/",
]


@pytest.mark.parametrize("settings", [{"egress_allow_loopback": False}], ids=["production"])
async def test_private_addresses_refuse_the_submit(api: Api) -> None:
    """A webhook that may not be called is refused at the door; nothing is accepted whose caller cannot be told."""
    await api.register()

    for url in INSIDE:
        the_problem(await api.post("/execute/async/n.echo", {"webhook": {"url": url}}), 422, "egress_refused")
    assert (await api.get("/executions"))["items"] == []


@pytest.mark.parametrize("settings", [{"egress_allow_loopback": False}], ids=["production"])
async def test_a_name_that_leads_inside_is_never_called(api: Api, receiver: Receiver) -> None:
    """Names are looked up when they are called: the attempt is refused, for good."""
    session = await api.node()
    id_ = await api.run(session, webhook={"url": receiver.url.replace("127.0.0.1", "localhost")})
    dead = await settled(api, id_, "dead")

    assert dead["attempts"][0]["outcome"] == "refused"
    assert dead["attempts"][0]["error"].startswith("egress_refused")
    assert receiver.received == []


async def test_url_shows_only_where_it_points(api: Api, receiver: Receiver) -> None:
    """The query of a webhook URL may hold a secret, and is shown nowhere; nor are the secret and the headers."""
    session = await api.node()
    webhook = {"url": receiver.url + "?token=hidden", "secret": "hidden too", "headers": {"X-Token": "hidden also"}}
    id_ = await api.run(session, webhook=webhook)
    delivered = await settled(api, id_, "delivered")
    everything = [
        delivered,
        await api.read(id_),
        await api.get(f"/executions/{id_}/events"),
        await api.get("/executions"),
    ]

    assert "hidden" not in str(everything)
    assert delivered["url"] == receiver.url
    assert "hidden" in receiver.received[0].path


async def test_deliveries_of_nobody(api: Api) -> None:
    """Unknown is 404, garbage 422, an execution without a webhook has none."""
    session = await api.node()
    id_ = await api.run(session)
    nobody = "exec_00000000000000000000000000"

    assert await api.deliveries(id_) == []
    the_problem(await api.client.get(f"/api/v1/executions/{nobody}/deliveries"), 404, "execution_not_found")
    the_problem(await api.client.get("/api/v1/executions/garbage/deliveries"), 422, "invalid")
    the_problem(await api.post(f"/deliveries/{nobody.replace('exec', 'dlv')}/retry"), 404, "delivery_not_found")
    the_problem(await api.post(f"/deliveries/{nobody}/retry"), 422, "invalid")


async def test_what_has_no_webhook_is_not_sent_again(api: Api, receiver: Receiver) -> None:
    """No webhook and not yet ended are bad requests, unknown is 404: AgentField's own answers."""
    session = await api.node()
    mute = await api.run(session)
    unfinished = (await api.submit(webhook={"url": receiver.url}))["execution_id"]

    async def again(id_: str) -> httpx.Response:
        return await api.client.post(f"/api/ui/v1/executions/{id_}/webhook/retry")

    the_problem(await again(mute), 400, "no_webhook")
    the_problem(await again(unfinished), 400, "no_webhook")
    the_problem(await again("exec_00000000000000000000000000"), 404, "execution_not_found")
    the_problem(await again("garbage"), 422, "invalid")
