"""Webhooks: signed twice, retried, visible, and sent again by hand with the same bytes."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from tests.integration.api.serving import Answer, Api, Json, Receiver, the_problem, until

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


async def settled(api: Api, id_: str, state: str) -> Json:
    async def look() -> Json:
        found = await api.deliveries(id_)
        return found[0] if found and found[0]["state"] == state else None

    return await until(look)


async def test_both_signatures_verify(api: Api, receiver: Receiver) -> None:
    """The seed's header over the raw body with the literal secret, and the Standard Webhooks triple."""
    session = await api.node()
    id_ = await api.run(session, {"x": 1.0}, webhook={"url": receiver.url, "secret": SECRET})
    [told] = await receiver.wait_for(1)
    signed = b".".join((told.headers["webhook-id"].encode(), told.headers["webhook-timestamp"].encode(), told.body))
    standard = base64.b64encode(hmac.digest(base64.b64decode(SECRET[6:]), signed, hashlib.sha256)).decode()

    seed = "sha256=" + hmac.new(SECRET.encode(), told.body, hashlib.sha256).hexdigest()
    assert told.headers["x-agentfield-signature"] == seed
    assert told.headers["webhook-signature"] == f"v1,{standard}"
    assert (told.json["event"], told.json["execution_id"]) == ("execution.completed", id_)
    assert b'"result":{"x":1.0}' in told.body.replace(b" ", b"")
    assert (await settled(api, id_, "delivered"))["attempts"][0]["http_status"] == 200


async def test_failure_is_told_as_failed(api: Api, receiver: Receiver) -> None:
    """A failed execution is announced with its words and without a result."""
    session = await api.node()
    await api.submit(webhook={"url": receiver.url})
    await api.finish(session, await api.take(session), status="failed", error="boom")
    [told] = await receiver.wait_for(1)

    assert (told.json["event"], told.json["status"], told.json["error_message"]) == (
        "execution.failed",
        "failed",
        "boom",
    )
    assert "result" not in told.json


@pytest.mark.parametrize("settings", [{"webhook_attempts_max": 1}], ids=["one attempt"])
async def test_dead_is_visible_and_sent_again(api: Api, receiver: Receiver) -> None:
    """After the last attempt it is dead; by hand it goes again, with the same id and bytes."""
    receiver.answer = Answer(status=500, body=b"no")
    session = await api.node()
    id_ = await api.run(session, {"x": 1}, webhook={"url": receiver.url, "secret": SECRET})
    dead = await settled(api, id_, "dead")
    receiver.answer = Answer()

    answer = await api.post(f"/deliveries/{dead['delivery_id']}/retry")
    delivered = await settled(api, id_, "delivered")
    first, second = await receiver.wait_for(2)

    assert answer.status_code == 202
    assert [(one["outcome"], one["http_status"]) for one in delivered["attempts"]] == [
        ("failed", 500),
        ("delivered", 200),
    ]
    assert dead["attempts"][0]["response_body"] == "no"
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])


async def test_a_failed_attempt_is_tried_again_after_its_wait(api: Api, receiver: Receiver) -> None:
    """A 503 leaves the delivery pending, five seconds or a little more ahead."""
    receiver.answer = Answer(status=503)
    session = await api.node()
    id_ = await api.run(session, webhook={"url": receiver.url})
    await receiver.wait_for(1)

    async def look() -> Json:
        [one] = await api.deliveries(id_)
        return one if one["attempts"] else None

    pending = await until(look)
    assert pending["state"] == "pending"
    assert pending["next_attempt_at"] > pending["attempts"][0]["at"]


@pytest.mark.parametrize("settings", [{"egress_allow_loopback": False}], ids=["production"])
@pytest.mark.parametrize("url", ["http://127.0.0.1/x", "http://169.254.169.254/", "http://[::1]/", "http://10.0.0.1/"])
async def test_private_addresses_refuse_the_submit(api: Api, url: str) -> None:
    """A webhook that may not be called is refused at the door; nothing is accepted whose caller cannot be told."""
    await api.register()

    the_problem(await api.post("/execute/async/n.echo", {"webhook": {"url": url}}), 422, "egress_refused")
    assert (await api.get("/executions"))["items"] == []


async def test_url_shows_only_where_it_points(api: Api, receiver: Receiver) -> None:
    """The query of a webhook URL may hold a secret, and is shown nowhere."""
    session = await api.node()
    id_ = await api.run(session, webhook={"url": receiver.url + "?token=hidden"})
    delivered = await settled(api, id_, "delivered")

    assert "hidden" not in str(delivered)
    assert "hidden" in receiver.received[0].path
