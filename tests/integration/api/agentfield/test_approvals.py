"""Approvals over HTTP: an attempt asks, people decide, and a real process is told, whatever dies in between."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest

from controlplane.domain.approval import Decision
from controlplane.domain.ids import bucket_of, read_execution
from controlplane.postgres.pool import Connection
from controlplane.stages import approve
from tests.integration.api.serving import (
    Answer,
    Api,
    Json,
    Receiver,
    fenced,
    serving,
    streaming,
    the_problem,
    until,
)
from tests.make import make_id

SECRET = "approve-me"
KEYED = pytest.mark.parametrize("settings", [{"api_key": "k-1", "approval_secret": SECRET}], ids=["signed"])
DOWN = Answer(status=503)


@dataclass(frozen=True)
class Attempt:
    """An attempt of `n.echo` that runs, and the agent that runs it: `agent` takes its callbacks."""

    api: Api
    agent: Receiver
    session: str
    lease: dict[str, Json]

    @property
    def execution_id(self) -> str:
        return str(self.lease["execution_id"])

    @property
    def fenced(self) -> str:
        return fenced(self.lease)

    async def ask(self, request_id: str = "r-1", *, id_: str | None = None, **over: Json) -> httpx.Response:
        """As AgentField's SDK asks: under the node's name, with the id that it was given."""
        body = {
            "approval_request_id": request_id,
            "expires_in_hours": 1,
            "approval_request_url": "https://people.example/r-1",
            "callback_url": self.agent.url,
        }
        return await self.api.post(f"/agents/n/executions/{id_ or self.fenced}/request-approval", body | over)

    async def status(self) -> Json:
        return await self.api.get(f"/agents/n/executions/{self.fenced}/approval-status")

    async def finish(self, result: Json = None, **over: Json) -> httpx.Response:
        return await self.api.finish(self.session, self.lease, result, **over)


@pytest.fixture
async def attempt(api: Api, receiver: Receiver) -> Attempt:
    """One that runs."""
    return await running(api, receiver)


@pytest.fixture
async def hooks() -> AsyncIterator[Receiver]:
    """Somebody who takes webhooks, beside the agent who takes callbacks."""
    async with Receiver() as listening:
        yield listening


async def running(api: Api, agent: Receiver, **body: Json) -> Attempt:
    session = await api.node()
    await api.submit(**body)
    return Attempt(api, agent, session, await api.take(session))


async def tell(api: Api, decision: str = "approved", request_id: str = "r-1", **more: Json) -> httpx.Response:
    """As a service that asks people tells it."""
    return await api.post("/webhooks/approval-response", {"requestId": request_id, "decision": decision} | more)


async def callback_of(api: Api, execution_id: str, state: str) -> Json:
    """The one callback of this execution, as soon as it is in this state."""

    async def look() -> Json:
        found = [one for one in await api.deliveries(execution_id) if one["event"].startswith("approval.decided:")]
        return found[0] if [one["state"] for one in found] == [state] else None

    return await until(look)


async def test_asked_decided_told(api: Api, attempt: Attempt) -> None:
    """The whole way: it waits, people approve, the agent is told in AgentField's words, and the result counts."""
    asked = await attempt.ask()
    assert (asked.status_code, asked.json()["status"]) == (200, "pending")
    assert asked.json()["approval_request_id"] == "r-1"
    assert asked.json()["approval_request_url"] == "https://people.example/r-1"
    waiting = await api.read(attempt.execution_id)
    assert (waiting["status"], waiting["status_reason"]) == ("waiting", "waiting_for_approval")
    assert (waiting["approval_request_id"], waiting["approval_status"]) == ("r-1", "pending")
    assert waiting["approval_request_url"] == "https://people.example/r-1"
    assert (await attempt.status())["status"] == "pending"

    told = await tell(api, feedback="go on", response={"by": "Ada"})
    assert told.status_code == 200
    assert told.json() | {"status": "processed", "decision": "approved", "new_status": "running"} == told.json()
    assert told.json()["execution_id"] == attempt.execution_id
    [received] = await attempt.agent.wait_for(1)
    assert received.json == {
        "execution_id": attempt.fenced,
        "decision": "approved",
        "new_status": "running",
        "feedback": "go on",
        "approval_request_id": "r-1",
        "response": '{"by":"Ada"}',
    }
    assert not {"webhook-id", "webhook-signature", "x-agentfield-signature"} & received.headers.keys()
    status = await attempt.status()
    assert (status["status"], status["response"], status["feedback"]) == ("approved", {"by": "Ada"}, "go on")
    assert {"requested_at", "responded_at", "expires_at", "request_url"} <= status.keys()
    goes_on = await api.read(attempt.execution_id)
    assert (goes_on["status"], goes_on["status_reason"]) == ("running", "approval_approved")
    assert goes_on["approval_status"] == "approved"
    delivered = await callback_of(api, attempt.execution_id, "delivered")
    assert [one["http_status"] for one in delivered["attempts"]] == [200]
    await attempt.finish({"done": True})
    ended = await api.read(attempt.execution_id)
    assert (ended["status"], ended["approval_status"]) == ("succeeded", "approved")


async def test_said_again_nothing_changes(api: Api, attempt: Attempt) -> None:
    """A second decision hears the first, by either path, and the agent is told once."""
    await attempt.ask()
    await tell(api, "rejected", feedback="no")
    again = await tell(api, "approved")
    by_id = await api.post(f"/executions/{attempt.execution_id}/approval-response", {"decision": "approved"})
    await callback_of(api, attempt.execution_id, "delivered")

    for one in (again, by_id):
        assert one.status_code == 200
        assert one.json() | {"status": "already_processed", "decision": "rejected", "feedback": "no"} == one.json()
    assert len(attempt.agent.received) == 1


async def test_many_decide_at_once(api: Api, attempt: Attempt) -> None:
    """One of them is heard."""
    await attempt.ask()
    answers = await asyncio.gather(*(tell(api, ("approved", "rejected")[n % 2]) for n in range(8)))
    decisions = {one.json()["decision"] for one in answers}

    assert sorted(one.json()["status"] for one in answers) == ["already_processed"] * 7 + ["processed"]
    assert len(decisions) == 1
    [received] = await attempt.agent.wait_for(1)
    assert {received.json["decision"]} == decisions


@pytest.mark.parametrize(
    ("said", "decision", "response"),
    [
        ({"decision": "approved"}, "approved", '{"decision":"approved"}'),
        ({"action": "Reject", "feedback": "no", "x": 1}, "rejected", '{"action":"Reject","feedback":"no","x":1}'),
        ({"decision": "request_changes"}, "request_changes", '{"decision":"request_changes"}'),
    ],
)
async def test_an_envelope(api: Api, attempt: Attempt, said: Json, decision: str, response: str) -> None:
    """The other form: the request in `data`, the decision in its response, which the agent gets whole."""
    await attempt.ask()
    data = {"requestId": "r-1", "response": said}
    envelope = {"id": "e", "type": "request.completed", "createdAt": "now", "data": data}
    answered = await api.post("/webhooks/approval-response", envelope)
    [received] = await attempt.agent.wait_for(1)

    assert (answered.status_code, answered.json()["decision"]) == (200, decision)
    assert (received.json["decision"], received.json["response"]) == (decision, response)
    assert received.json["feedback"] == said.get("feedback", "")


async def test_by_its_execution(api: Api, attempt: Attempt) -> None:
    """Who has a key may decide without knowing the request, and may name it."""
    await attempt.ask()
    path = f"/executions/{attempt.execution_id}/approval-response"
    body = {"decision": "approved", "approval_request_id": "r-2"}
    the_problem(await api.post(path, body), 404, "no_approval_request")
    answered = await api.post(path, {"decision": "approved", "feedback": "ok"})

    assert answered.json()["status"] == "processed"
    assert (await attempt.agent.wait_for(1))[0].json["feedback"] == "ok"


async def test_one_decision_for_all_who_ask_it(api: Api, receiver: Receiver) -> None:
    """Several executions may wait for one request: all of them go on."""
    first = await running(api, receiver)
    second = await running(api, receiver)
    await first.ask("batch")
    await second.ask("batch")
    answered = (await tell(api, request_id="batch")).json()
    received = await receiver.wait_for(2)

    assert sorted(answered["execution_ids"]) == sorted([first.execution_id, second.execution_id])
    assert {one.json["execution_id"] for one in received} == {first.fenced, second.fenced}
    assert (await tell(api, request_id="batch")).json()["status"] == "already_processed"


async def test_rejected_and_yet_done(api: Api, attempt: Attempt) -> None:
    """A rejection ends nothing: the agent's own report decides how it ends."""
    await attempt.ask()
    await tell(api, "rejected")
    await attempt.agent.wait_for(1)
    done = await attempt.finish({"did": "something else"})
    ended = await api.read(attempt.execution_id)

    assert done.status_code == 200
    assert (ended["status"], ended["result"], ended["approval_status"]) == (
        "succeeded",
        {"did": "something else"},
        "rejected",
    )


async def test_nobody_decides(api: Api, attempt: Attempt) -> None:
    """The server itself ends the wait when its time is over, and tells the agent."""
    await attempt.ask(expires_in_hours=0.0001)
    [received] = await attempt.agent.wait_for(1)

    assert received.json["decision"] == "expired"
    assert (await attempt.status())["status"] == "expired"
    late = (await tell(api)).json()
    assert (late["status"], late["decision"]) == ("already_processed", "expired")
    assert (await api.read(attempt.execution_id))["status"] == "running"


@pytest.mark.parametrize("settings", [{"lease_seconds": 1.0}])
async def test_asked_again_after_a_crash(api: Api, receiver: Receiver) -> None:
    """The process dies while people think, they decide meanwhile, and the next attempt is told as soon as it asks."""
    await api.register()
    first = await api.open_session(heartbeat_seconds=0.1)
    await api.submit()
    lost = Attempt(api, receiver, first, await api.take(first))
    await lost.ask()
    second = await api.open_session()
    again = Attempt(api, receiver, second, await api.take(second))  # once the first lease has run out
    answered = (await tell(api, feedback="yes")).json()
    assert (answered["status"], receiver.received) == ("processed", [])
    the_problem(await lost.ask(), 409, "lease_lost")
    asked = (await again.ask()).json()
    [received] = await receiver.wait_for(1)

    assert (asked["status"], asked["feedback"]) == ("approved", "yes")
    assert again.fenced.endswith("~2")
    assert (received.json["execution_id"], received.json["decision"]) == (again.fenced, "approved")
    assert (await api.read(again.execution_id))["status"] == "running"


async def test_the_agent_is_away_for_a_moment(api: Api, attempt: Attempt) -> None:
    """It is tried again soon, until it takes it; every try can be seen."""
    attempt.agent.queue.extend([DOWN, DOWN])
    await attempt.ask()
    await tell(api)
    await attempt.agent.wait_for(3, seconds=10)
    delivered = await callback_of(api, attempt.execution_id, "delivered")

    assert [one["http_status"] for one in delivered["attempts"]] == [503, 503, 200]


async def test_the_server_restarts_before_it_is_told(database: str, receiver: Receiver) -> None:
    """What one server decided, the next one tells."""
    receiver.answer = DOWN
    async with serving(database) as api:
        attempt = await running(api, receiver)
        await attempt.ask()
        await tell(api)
        await receiver.wait_for(1)
    failed = len(receiver.received)
    receiver.answer = Answer()
    async with serving(database) as api:
        received = (await receiver.wait_for(failed + 1))[-1]
        delivered = await callback_of(api, attempt.execution_id, "delivered")
        status = await api.get(f"/executions/{attempt.execution_id}/approval-status")

    assert received.json["decision"] == "approved"
    assert delivered["attempts"][-1]["http_status"] == 200
    assert status["status"] == "approved"


async def test_a_crash_right_after_the_decision(database: str, conn: Connection, receiver: Receiver) -> None:
    """The server that decided never came to send anything: the next one does."""
    async with serving(database) as api:
        attempt = await running(api, receiver)
        await attempt.ask()
    id_ = read_execution(attempt.execution_id)
    await approve.decide(
        conn,
        id_,
        namespace=1,
        request_id="r-1",
        decision=Decision.APPROVED,
        feedback=None,
        response=None,
        make_id=make_id,
    )
    assert receiver.received == []
    async with serving(database) as api:
        [received] = await receiver.wait_for(1)
        await callback_of(api, attempt.execution_id, "delivered")

    assert bucket_of(id_) == 0
    assert received.json["decision"] == "approved"


async def test_cancelled_while_it_waits(api: Api, receiver: Receiver, hooks: Receiver) -> None:
    """Nobody can decide any more, the agent is not called back, and the caller is told once."""
    attempt = await running(api, receiver, webhook={"url": hooks.url})
    await attempt.ask()
    cancelled = await api.post(f"/executions/{attempt.execution_id}/cancel", {})
    assert (cancelled.json()["previous_status"], cancelled.json()["settled"]) == ("waiting", False)
    the_problem(await tell(api), 409, "invalid_state")
    await attempt.finish(status="cancelled")
    [received] = await hooks.wait_for(1)
    late = (await tell(api)).json()

    assert received.json["status"] == "cancelled"
    assert (late["status"], late["decision"], late["new_status"]) == ("already_processed", "expired", "cancelled")
    assert (await attempt.status())["status"] == "expired"
    settled = await until(lambda: _all_settled(api, attempt.execution_id))
    assert [one["event"] for one in settled] == ["execution.failed"]
    assert (len(hooks.received), receiver.received) == (1, [])


async def _all_settled(api: Api, execution_id: str) -> list[Json] | None:
    found = await api.deliveries(execution_id)
    return found if found and all(one["state"] == "delivered" for one in found) else None


async def test_a_callback_to_nobody_is_given_up(api: Api, attempt: Attempt) -> None:
    """Once its attempt is over, nobody is waited for; the caller's view is not disturbed."""
    attempt.agent.answer = DOWN
    await attempt.ask()
    await tell(api)
    await attempt.agent.wait_for(1)
    await attempt.finish()
    dead = await callback_of(api, attempt.execution_id, "dead")

    assert dead["attempts"][-1]["error"].startswith("moot: ")
    assert dead["attempts"][-1]["outcome"] == "refused"


async def test_the_end_closes_the_question(api: Api, attempt: Attempt) -> None:
    """An agent that reports without waiting for the answer leaves nothing pending."""
    await attempt.ask()
    await attempt.finish(1)
    late = (await tell(api)).json()

    assert (late["status"], late["new_status"], late["feedback"]) == (
        "already_processed",
        "succeeded",
        "The execution has ended.",
    )
    the_problem(await attempt.ask(), 409, "already_finished")
    assert attempt.agent.received == []


async def test_refusals_of_asking(api: Api, attempt: Attempt) -> None:
    """Each says what is wrong, and nothing waits."""
    path = f"/executions/{attempt.fenced}/request-approval"
    body = {"approval_request_id": "r-1"}
    other = f"{attempt.execution_id}~2"

    the_problem(await api.post(f"/agents/m{path}", body), 403, "execution_ownership_mismatch")
    the_problem(await api.post(f"/agents/%20{path}", body), 404, "node_not_found")
    the_problem(await attempt.ask(id_=other), 409, "lease_lost")
    the_problem(await attempt.ask(id_="exec_00000000000000000000000000"), 404, "execution_not_found")
    the_problem(await api.post(path, {}), 422, "invalid")
    the_problem(await attempt.ask(""), 422, "invalid")
    the_problem(await attempt.ask("x" * 201), 422, "invalid")
    the_problem(await attempt.ask("a\x00b"), 422, "invalid")
    the_problem(await attempt.ask(expires_in_hours=1e9), 422, "invalid")
    the_problem(await attempt.ask(approval_request_url="x" * 3_000), 422, "invalid")
    assert (await api.read(attempt.execution_id))["status"] == "running"
    the_problem(await api.client.get(f"/api/v1{path.replace('request-approval', 'approval-status')}"), 404,
                "no_approval_request")  # fmt: skip


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("ftp://agent.example/x", "invalid"),
        ("http://agent.example/x#y", "invalid"),
        ("http://user:pw@agent.example/", "invalid"),
        ("http://169.254.169.254/latest", "egress_refused"),
        ("http://10.0.0.1:8001/x", "egress_refused"),
        ("http://agent.example:22/", "egress_refused"),
    ],
)
async def test_an_address_that_may_not_be_called(api: Api, attempt: Attempt, url: str, code: str) -> None:
    """It is refused at the door, with what to do about it."""
    refused = the_problem(await attempt.ask(callback_url=url), 422, code)

    assert refused["where"] == "body.callback_url"
    assert refused["fix"]
    assert (await api.read(attempt.execution_id))["status"] == "running"


async def test_one_question_at_a_time(api: Api, attempt: Attempt) -> None:
    """The second is refused and names the first; the first may be asked again."""
    await attempt.ask()
    refused = the_problem(await attempt.ask("r-2"), 409, "approval_already_requested")

    assert (refused["error"], refused["approval_request_id"]) == ("approval_already_requested", "r-1")
    assert (await attempt.ask()).json()["status"] == "pending"


async def test_without_a_node_and_without_an_attempt(api: Api, attempt: Attempt) -> None:
    """The short path, and the bare id, which is the attempt that runs; without an address one polls."""
    body = {"approval_request_id": "r-9"}
    asked = await api.post(f"/executions/{attempt.execution_id}/request-approval", body)
    assert (asked.status_code, asked.json()["approval_request_url"]) == (200, "")
    await tell(api, "request_changes", "r-9")
    status = await api.get(f"/executions/{attempt.execution_id}/approval-status")

    assert status["status"] == "request_changes"
    assert await api.deliveries(attempt.execution_id) == []


async def test_refusals_of_deciding(api: Api, attempt: Attempt) -> None:
    """A decision that cannot be understood decides nothing."""
    await attempt.ask()
    bad: list[Any] = [
        {"requestId": "r-1"},
        {"requestId": "r-1", "decision": "maybe"},
        {"requestId": "r-1", "decision": "pending"},
        {"requestId": "r-1", "decision": "approved", "feedback": "x" * 70_000},
        {"decision": "approved"},
        {"data": {"requestId": "r-1"}},
        {"data": {"requestId": "r-1", "response": "approved"}},
        {"data": {"requestId": "r-1", "response": {"decision": 1}}},
        {"data": []},
    ]
    for body in bad:
        the_problem(await api.post("/webhooks/approval-response", body), 422, "invalid")
    large = {"requestId": "r-1", "decision": "approved", "response": "x" * 1_100_000}
    the_problem(await api.post("/webhooks/approval-response", large), 413, "too_large")
    the_problem(await tell(api, request_id="r-2"), 404, "no_approval_request")

    assert (await attempt.status())["status"] == "pending"


async def test_what_it_says_is_seen_live(api: Api, receiver: Receiver) -> None:
    """The stream shows that it waits, and that it was decided, in AgentField's words."""
    async with streaming(api) as stream:
        attempt = await running(api, receiver)
        await attempt.ask()
        [*_, waiting] = await stream.until("execution_waiting")
        await tell(api)
        [*_, decided] = await stream.until("execution_approval_resolved")

    assert (waiting.data["execution_id"], waiting.data["status"]) == (attempt.execution_id, "waiting")
    assert decided.data["data"]["decision"] == "approved"


async def test_a_parent_shows_that_its_child_waits(api: Api, attempt: Attempt) -> None:
    """As the SDK says it, there and back; what is over is not moved."""
    path = f"/agents/n/executions/{attempt.fenced}/awaiter-status"

    async def say(status: str) -> tuple[str, bool]:
        said = await api.post(path, {"status": status, "reason": "awaiting child exec_x"})
        assert said.status_code == 200, said.text
        return said.json()["status"], said.json()["applied"]

    assert await say("waiting") == ("waiting", True)
    assert (await api.read(attempt.execution_id))["status_reason"] == "awaiting_child"
    assert await say("waiting") == ("waiting", False)
    assert await say("running") == ("running", True)
    await attempt.finish()
    assert await say("waiting") == ("succeeded", False)
    the_problem(await api.post(path, {"status": "done"}), 422, "invalid")


def signed(header: str, body: bytes, *, secret: str = SECRET, at: float | None = None) -> dict[str, str]:
    """A signature worked out without any of our code."""
    stamp = str(int(time.time() if at is None else at))
    plain = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    stamped = hmac.new(secret.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    forms = {
        "X-Hax-Signature": f"t={stamp},v1={stamped}",
        "X-Webhook-Signature": plain,
        "X-Hub-Signature-256": f"sha256={plain}",
    }
    return {header: forms[header]}


BODY = b'{"requestId": "r-1",  "decision": "approved"}'
HEADERS = ["X-Hax-Signature", "X-Webhook-Signature", "X-Hub-Signature-256"]


@KEYED
@pytest.mark.parametrize("header", HEADERS)
async def test_a_signature_is_the_key(api: Api, attempt: Attempt, header: str) -> None:
    """With a secret, who signs needs no API key; any of the three headers will do, and any name of the server."""
    await attempt.ask()
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as stranger:
        answered = await stranger.post(
            "/api/v1/webhooks/approval-response",
            content=BODY,
            headers=signed(header, BODY) | {"Host": "plane.example"},
        )

    assert (answered.status_code, answered.json()["status"]) == (200, "processed")


@KEYED
@pytest.mark.parametrize(("size", "signs", "status"), [(11_000_000, False, 401), (2_097_153, True, 413)])
async def test_a_stranger_may_not_send_much(api: Api, size: int, signs: bool, status: int) -> None:
    """Of who has no key little is read, and nothing of who does not even say that it signs."""
    body = b" " * size
    headers = signed("X-Hub-Signature-256", body) if signs else {}
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as stranger:
        answered = await stranger.post("/api/v1/webhooks/approval-response", content=body, headers=headers)

    assert answered.status_code == status, answered.text


@KEYED
async def test_hostile_signatures(api: Api, attempt: Attempt) -> None:
    """Nobody is heard without the right one, not even with the API key, and nothing is said of what is right."""
    await attempt.ask()
    good = signed("X-Hax-Signature", BODY)["X-Hax-Signature"]
    stamp = good.partition(",")[0]
    wrong: list[dict[str, Any]] = [
        {},
        *(signed(one, BODY, secret="guess") for one in HEADERS),
        *(signed(one, BODY, secret="") for one in HEADERS),
        *(signed(one, BODY + b" ") for one in HEADERS),
        signed("X-Hax-Signature", BODY, at=time.time() - 330),
        signed("X-Hax-Signature", BODY, at=time.time() + 330),
        {"X-Hax-Signature": good.replace("t=", "t=0")},
        {"X-Hax-Signature": good.partition(",")[2]},
        {"X-Hax-Signature": stamp},
        {"X-Hax-Signature": f"{stamp},{good}"},
        {"X-Hax-Signature": good.replace("v1=", "v0=")},
        {"X-Hax-Signature": good.upper()},
        {"X-Hax-Signature": f"{stamp},v1="},
        {"X-Hax-Signature": f"t=1e9,{good.partition(',')[2]}"},
        {"X-Hax-Signature": "," * 5_000},
        {"X-Hax-Signature": signed("X-Webhook-Signature", BODY)["X-Webhook-Signature"]},
        {"X-Hub-Signature-256": signed("X-Webhook-Signature", BODY)["X-Webhook-Signature"]},
        {"X-Webhook-Signature": "sha256="},
        {"X-Webhook-Signature": ""},
        {"X-Webhook-Signature": b"sha256=\xff\xfe"},
        {"X-API-Key": "k-1"},
    ]
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as stranger:
        for headers in wrong:
            answered = await stranger.post("/api/v1/webhooks/approval-response", content=BODY, headers=headers)
            the_problem(answered, 401, "unauthorized")
        closed = await stranger.post(f"/api/v1/executions/{attempt.execution_id}/approval-response", content=BODY)
        the_problem(closed, 401, "unauthorized")
        broken = signed("X-Hub-Signature-256", b"{")
        answered = await stranger.post("/api/v1/webhooks/approval-response", content=b"{", headers=broken)
        the_problem(answered, 400, "malformed_json")

    assert (await attempt.status())["status"] == "pending"


@contextlib.asynccontextmanager
async def elsewhere(api: Api) -> AsyncIterator[Api]:
    """Who has every right in another namespace."""
    assert (await api.post("/namespaces", {"name": "elsewhere"})).status_code == 201
    every = ["execute", "read", "operate", "admin", "node"]
    wish = {"name": "all", "scopes": every, "node_ids": ["*"], "namespace": "elsewhere"}
    headers = {"X-API-Key": (await api.post("/keys", wish)).json()["key"]}
    async with httpx.AsyncClient(base_url=api.url, headers=headers, timeout=30, trust_env=False) as client:
        yield Api(api.app, api.host, api.port, client)


async def sign(api: Api, **more: Json) -> httpx.Response:
    """As who has no key tells it."""
    body = orjson.dumps({"requestId": "r-1", "decision": "approved"} | more)
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as stranger:
        headers = signed("X-Hub-Signature-256", body)
        return await stranger.post("/api/v1/webhooks/approval-response", content=body, headers=headers)


@KEYED
async def test_a_signature_decides_where_it_was_asked(api: Api, receiver: Receiver) -> None:
    """In the namespace of the question, which no key names; the callback goes out there, too."""
    async with elsewhere(api) as there:
        theirs = await running(there, receiver)
        await theirs.ask()
        answered = await sign(api)
        again = await sign(api)

        assert (answered.json()["status"], again.json()["status"]) == ("processed", "already_processed")
        assert answered.json()["execution_id"] == theirs.execution_id
        assert (await theirs.status())["status"] == "approved"
        await receiver.wait_for(1)


@KEYED
async def test_one_request_of_two_namespaces(api: Api, attempt: Attempt, receiver: Receiver) -> None:
    """Nobody decides for the other by taking its id: without a namespace neither is decided, with one the one named."""
    await attempt.ask()
    async with elsewhere(api) as there:
        theirs = await running(there, receiver)
        await theirs.ask()
        the_problem(await sign(api), 409, "conflict")
        the_problem(await sign(api, namespace="nowhere"), 404, "no_approval_request")
        assert [(await one.status())["status"] for one in (attempt, theirs)] == ["pending", "pending"]
        answered = await sign(api, namespace="elsewhere")

        assert answered.json()["execution_id"] == theirs.execution_id
        assert [(await one.status())["status"] for one in (attempt, theirs)] == ["pending", "approved"]
    the_problem(await sign(api), 409, "conflict")
    assert (await sign(api, namespace="default")).json()["execution_id"] == attempt.execution_id


@KEYED
async def test_a_key_decides_in_its_namespace_alone(api: Api, attempt: Attempt) -> None:
    """Also with a signature, and whatever namespace the body names."""
    await attempt.ask()
    async with elsewhere(api) as there:
        for named in ({}, {"namespace": "default"}):
            body = orjson.dumps({"requestId": "r-1", "decision": "approved"} | named)
            headers = signed("X-Hub-Signature-256", body)
            refused = await there.client.post("/api/v1/webhooks/approval-response", content=body, headers=headers)
            the_problem(refused, 404, "no_approval_request")

    assert (await attempt.status())["status"] == "pending"


@pytest.mark.parametrize("settings", [{"api_key": "k-1"}], ids=["with a key"])
async def test_without_a_secret_it_needs_the_key(api: Api, attempt: Attempt) -> None:
    """A signature is nothing then."""
    await attempt.ask()
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as stranger:
        refused = await stranger.post(
            "/api/v1/webhooks/approval-response", content=BODY, headers=signed("X-Hub-Signature-256", BODY, secret="")
        )

    the_problem(refused, 401, "unauthorized")
    assert (await tell(api)).json()["status"] == "processed"
