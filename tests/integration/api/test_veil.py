"""A key that hides payloads: by no route, stream or socket does a byte of one come out, and all the rest works."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import msgspec
import pytest
import websockets

from controlplane.api.operation import NODE, OPEN, Operation
from controlplane.app import operations_of
from controlplane.settings import Settings
from controlplane_sdk import Client
from tests.integration.api.corpus import example
from tests.integration.api.serving import Answer, Api, Json, Receiver, fence, fenced, the_problem, until
from tests.integration.api.test_namespaces import PARAMETER

ON = {"api_key": "the-first-key", "jobs_target": "n.echo", "agent_target": "n.echo", "sync_wait_seconds": 0.2}
HOUSE = ON
OPERATIONS = [one for one in operations_of(Settings(**ON)) if one.scope != OPEN]
BROKEN = (500, 502, 503)  # 504: nobody works here, so that a synchronous call is told to wait
CANARY = "kolibri"
PAYLOAD = {"bird": CANARY, "n": 1}
SCOPES = ["execute", "read", "operate", "admin"]
SIDE = {"X-Run-ID": "a-run", "X-Session-ID": "a-session"}

# Where a key of the same scopes that is shown payloads finds one: else the walk would prove nothing.
SHOWN = {
    "/api/v1/executions/{execution_id}",
    "/api/v1/executions/{execution_id}/input",
    "/api/v1/executions/{execution_id}/attempts",
    "/api/v1/executions/{execution_id}/explain",
    "/api/v1/executions/{execution_id}/logs",
    "/api/v1/executions/{execution_id}/notes",
    "/api/v1/executions/{execution_id}/steps",
    "/api/v1/executions/{execution_id}/local-calls",
    "/api/v1/executions/{execution_id}/deliveries",
    "/api/v1/executions/{execution_id}/approval-status",
    "/api/v1/executions",
    "/api/v1/nodes",
    "/api/v1/nodes/{node_id}",
    "/api/v1/memory/list",
    "/api/v1/memory/vector/{key}",
    "/api/v1/memory/events/history",
    "/api/v1/schedules/{name}",
    "/api/v1/triggers/{name}/events/{event_id}",
    "/api/v1/discovery/capabilities",
    "/jobs",
    "/jobs/{job_id}",
    "/agent/status/{task_id}",
}
# `fix` and `sentence` are an explanation's, which quotes errors and links; `type` is a job's, made up by its caller.
PAYLOADS = {
    "attributes",
    "context",
    "data",
    "embedding",
    "error",
    "error_details",
    "error_message",
    "examples",
    "feedback",
    "fix",
    "input",
    "message",
    "metadata",
    "previous_data",
    "progress",
    "progress_message",
    "response",
    "response_body",
    "result",
    "sentence",
    "title",
    "traceback",
    "type",
    "value",
    "body",
    "headers",
    "curl",
    "body_base64",
}
STREAMS = [
    "/api/ui/v1/executions/events",
    "/api/ui/v1/executions/{execution_id}/events",
    "/api/v1/memory/events/sse",
    "/jobs/{job_id}/stream",
    "/api/v1/executions/{execution_id}/events",
]
SOCKETS = [
    "/api/ui/v1/executions/ws",
    "/api/ui/v1/executions/{execution_id}/ws",
    "/api/v1/memory/events/ws",
    "/ws/{session_id}",
]


@pytest.fixture
def settings() -> dict[str, object]:
    return ON


@pytest.fixture
async def house_api(shared: Api) -> Api:
    """The house, by the key that it was started with."""
    shared.client.headers["X-API-Key"] = "the-first-key"
    return shared


@dataclass(frozen=True, slots=True)
class Planted:
    """Where payloads lie: executions that have ended, failed, fail again, run and wait for people."""

    executions: tuple[str, ...]
    path: dict[str, str]
    known: dict[str, object]

    def paths_of(self, template: str) -> list[str]:
        """This path, for each of the executions that it may speak of."""
        names = set(PARAMETER.findall(template)) & {"execution_id", "job_id", "task_id"}
        every = [dict.fromkeys(names, id_) for id_ in self.executions] if names else [{}]
        return [PARAMETER.sub(lambda found, said=said: (self.path | said)[found[1]], template) for said in every]


@pytest.fixture
async def planted(api: Api, receiver: Receiver) -> Planted:
    """Something in every place that holds a payload."""
    receiver.answer = Answer(200, body=CANARY.encode())
    said = {"reasoners": [{"id": "echo", "retries": 0}], "skills": []}
    custom = {"custom": {"examples": {"echo": [PAYLOAD]}}, "bird": CANARY}
    assert (await api.post("/nodes/register", {"id": "n", "metadata": custom} | said)).status_code == 201
    session = await api.open_session("n")
    hook = {"webhook": {"url": receiver.url}}
    ended = await api.submit(input=PAYLOAD, context=PAYLOAD, headers=SIDE, **hook)
    lease = await api.take(session)
    speaking = SIDE | {"X-Execution-ID": fenced(lease)}
    progress = [fence(lease) | {"fraction": 0.5, "message": CANARY}]
    line = fence(lease) | {"message": CANARY, "attributes": PAYLOAD}
    parent = {"parent_execution_id": fenced(lease), "execution_id": "inside", "reasoner_id": "r"}
    more: list[tuple[str, Json]] = [
        (f"/sessions/{session}/logs", {"entries": [line], "progress": progress}),
        ("/executions/note", {"message": CANARY}),
        ("/memory/set", {"key": "k", "data": PAYLOAD, "scope": "global"}),
        ("/memory/append", {"key": "list", "items": [CANARY], "scope": "global"}),
        ("/memory/vector", {"key": "v", "embedding": [1, 2], "metadata": {"text": CANARY}, "scope": "global"}),
        ("/workflow/executions/events", parent | {"status": "failed", "result": PAYLOAD, "error": CANARY}),
        ("/steps/write", {"writes": [fence(lease) | {"ops": [{"op": "done", "name": "s", "value": PAYLOAD}]}]}),
        (f"/executions/{lease['execution_id']}/signals/an-event", PAYLOAD),
        ("/schedules", {"name": "yearly", "target": "n.echo", "cron": "0 0 29 2 *", "input": PAYLOAD}),
        ("/triggers", {"name": "door", "target": "n.echo", "preset": "bearer", "secret": "a-secret"}),
        ("/endpoints", {"name": "ear", "url": "https://r.example/", "headers": {"X-Bird": CANARY}}),
    ]
    for where, body in more:
        assert (await api.post(where, body, headers=speaking)).is_success, where
    bearer = {"Authorization": "Bearer a-secret", "Content-Type": "application/json"}
    assert (await api.client.post("/hooks/door", json={"id": "e1"} | PAYLOAD, headers=bearer)).status_code == 202
    assert (await api.finish(session, lease, PAYLOAD)).status_code == 200
    await until(lambda: _delivered(api, str(ended["execution_id"])))
    hooked = await api.take(session)
    details = {"error": CANARY, "traceback": CANARY, "error_details": PAYLOAD, "error_class": "ValueError"}
    assert (await api.finish(session, hooked, status="failed", **details)).status_code == 200
    job = await api.client.post("/jobs", json={"type": CANARY, "params": PAYLOAD, "session_id": "a-session"})
    assert job.status_code == 200
    assert (await api.finish(session, await api.take(session), PAYLOAD)).status_code == 200
    again = await api.submit(input=PAYLOAD, retry={"max": 3, "delay_seconds": 3_000.0})
    assert (await api.finish(session, await api.take(session), status="failed", **details)).status_code == 200
    asking = await api.submit(input=PAYLOAD)
    asked = {"op": "approval", "name": "a", "title": CANARY, "request_id": "r"}
    waiting = fence(await api.take(session))
    assert (await api.post("/steps/write", {"writes": [waiting | {"ops": [asked]}]})).is_success
    decided = {"decision": "approved", "feedback": CANARY, "response": PAYLOAD, "approval_request_id": "r"}
    assert (await api.post(f"/executions/{asking['execution_id']}/approval-response", decided)).is_success
    event = (await api.get("/triggers/door/events"))["items"][0]["trigger_event_id"]
    bulk = (await api.post("/bulk", {"action": "cancel", "filter": {"target": "n.none"}})).json()["bulk_id"]
    key = (await api.post("/keys", {"name": "other", "scopes": ["read"]})).json()["key_id"]
    delivery = (await api.deliveries(str(ended["execution_id"])))[0]["delivery_id"]
    ids = [str(one["execution_id"]) for one in (ended, hooked, again, asking)] + [job.json()["job_id"]]
    path = {
        "target": "n.echo",
        "run_id": "a-run",
        "session_id": "a-session",
        "node_id": "n",
        "name": "yearly",
        "namespace": "default",
        "endpoint_id": "ear",
    }
    path |= {
        "delivery_id": delivery,
        "bulk_id": bulk,
        "key": "v",
        "key_id": key,
        "event_id": event,
        "event": "an-event",
    }
    known: dict[str, object] = {"execution_ids": ids, "key": "k", "scope": "global", "target": "n.echo"}
    known |= {"cron": "0 0 29 2 *", "name": "made", "scopes": ["read"], "hide_payloads": True, "items": []}
    known |= {"action": "cancel", "filter": {"ids": [ids[0]]}, "dry_run": True, "embedding": [1, 2]}
    return Planted(tuple(ids), path, known)


async def _delivered(api: Api, execution_id: str) -> bool:
    return [one["state"] for one in await api.deliveries(execution_id)] == ["delivered"]


@contextlib.asynccontextmanager
async def keyed(api: Api, *, hide_payloads: bool, scopes: list[str] | None = None) -> AsyncIterator[Api]:
    """Who comes with a key of these scopes."""
    wish = {"name": "k", "scopes": scopes or SCOPES, "hide_payloads": hide_payloads}
    made = (await api.post("/keys", wish)).json()
    headers = {"X-API-Key": made["key"]}
    async with httpx.AsyncClient(base_url=api.url, headers=headers, timeout=30, trust_env=False) as client:
        yield Api(api.app, api.host, api.port, client)


@pytest.fixture
async def blind(api: Api) -> AsyncIterator[Api]:
    async with keyed(api, hide_payloads=True) as one:
        yield one


@pytest.fixture
async def seeing(api: Api) -> AsyncIterator[Api]:
    async with keyed(api, hide_payloads=False) as one:
        yield one


async def ask(api: Api, one: Operation, planted: Planted) -> list[httpx.Response]:
    """What this route answers, with its flags that show more."""
    flags = "?scope=global&include_examples=true&payloads=true&limit=50&agent=n" if one.method == "GET" else ""
    paths = planted.paths_of(one.path)
    if one.path.startswith("/api/v1/triggers/{name}"):
        paths = [path.replace("yearly", "door") for path in paths]
    body = None if one.takes is None else example(one.takes, planted.known)
    return [await api.client.request(one.method, path + flags, content=body, headers=SIDE) for path in paths]


async def test_no_route_shows_a_payload(api: Api, blind: Api, seeing: Api, planted: Planted) -> None:
    """Every route, reading ones first; a key of the same scopes that is shown payloads finds them there."""
    shown: set[str] = set()
    wrong: list[str] = []
    walk = sorted((one for one in OPERATIONS if not one.streams), key=lambda one: one.method != "GET")
    for one in walk:
        wrong += [
            f"{one.method} {one.path}: {answer.status_code} {answer.text[:400]}"
            for answer in await ask(blind, one, planted)
            if CANARY in answer.text or CANARY in str(answer.headers) or answer.status_code in BROKEN
        ]
        if one.method == "GET" and any(CANARY in answer.text for answer in await ask(seeing, one, planted)):
            shown.add(one.path)

    assert not wrong, "\n".join(wrong)
    assert not SHOWN - shown, f"not shown to who may see: {sorted(SHOWN - shown)}"


async def heard(api: Api, path: str, *, seconds: float) -> str:
    """What a stream has said in the first moments, from its beginning on."""
    text = ""
    headers = {"Last-Event-ID": "0.0.0"}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds), api.client.stream("GET", path, headers=headers) as stream:
            async for part in stream.aiter_text():
                text += part
                if CANARY in text:
                    break
    return text


async def heard_by_socket(api: Api, path: str, *, seconds: float) -> str:
    url = f"ws://{api.host}:{api.port}{path}?after=0.0.0"
    key = {"X-API-Key": api.client.headers["X-API-Key"]}
    text = ""
    async with websockets.connect(url, additional_headers=key, proxy=None) as socket:
        with contextlib.suppress(TimeoutError, websockets.ConnectionClosed):
            async with asyncio.timeout(seconds):
                while CANARY not in text:
                    text += str(await socket.recv())
    return text


async def test_no_stream_shows_a_payload(api: Api, blind: Api, seeing: Api, planted: Planted) -> None:
    """From the beginning on, by SSE and by WebSocket: what is told comes, and nothing is in it."""

    async def both(path: str) -> tuple[str, str, str]:
        hear = heard_by_socket if path in SOCKETS else heard
        id_ = planted.executions[-1 if "{job_id}" in path else 0]
        own = planted.path | {"execution_id": id_, "job_id": id_}
        named = PARAMETER.sub(lambda found: own[found[1]], path)
        seen, told = await asyncio.gather(hear(seeing, named, seconds=10), hear(blind, named, seconds=2))
        return path, seen, told

    for path, seen, told in await asyncio.gather(*(both(path) for path in STREAMS + SOCKETS)):
        assert CANARY in seen, path
        assert '"hidden"' in told or "hidden: " in told, path
        assert CANARY not in told, path


def test_every_stream_is_named_above() -> None:
    """A new one that browsers read is walked, too."""
    assert set(STREAMS) == {one.path for one in OPERATIONS if one.streams}


async def test_what_is_hidden_is_told_of(house_api: Api) -> None:
    """Its size and its hash, byte for byte as it is kept; what is not there is not said to be."""
    session = await house_api.node()
    async with keyed(house_api, hide_payloads=True) as blind:
        result = '{"a": 1.0}'
        accepted = await blind.submit(input={"own": 1})
        lease = await house_api.take(session)
        said = json.dumps(fence(lease) | {"status": "succeeded", "result": 0})
        report = f'{{"results":[{said.replace(": 0}", f": {result}}}")}]}}'
        assert (await house_api.client.post(f"/api/v1/sessions/{session}/results", content=report)).is_success
        told = await blind.read(str(accepted["execution_id"]))

    digest = hashlib.sha256(result.encode()).hexdigest()
    assert lease["input"] == {"own": 1}
    assert told["result"] == {"hidden": True, "bytes": len(result), "sha256": digest}
    assert (told["status"], told["target"], "error" in told) == ("succeeded", "n.echo", False)


async def test_a_synchronous_call_hides_how_it_ended(house_api: Api) -> None:
    """Its failure, too, which comes with a status of its own."""
    session = await house_api.node("fails")
    async with keyed(house_api, hide_payloads=True) as blind:
        for status, over in (("succeeded", {}), ("failed", {"error": CANARY, "retryable": False})):
            calling = asyncio.create_task(blind.post("/execute/n.fails", {"input": {}}))
            lease = await house_api.take(session)
            await house_api.finish(session, lease, CANARY, status=status, **over)
            answer = await calling
            assert answer.status_code in (200, 502, 504)
            assert CANARY not in answer.text
            assert answer.json()["execution_id"] == lease["execution_id"]


async def test_no_key_that_sees_is_made_by_one_that_does_not(house_api: Api) -> None:
    """Neither anew nor in place of another; one that hides is, and its successor hides as well."""
    other = (await house_api.post("/keys", {"name": "other", "scopes": ["read"]})).json()
    async with keyed(house_api, hide_payloads=True) as blind:
        wish = {"name": "k", "scopes": ["read"]}
        refused = the_problem(await blind.post("/keys", wish), 403, "payloads_hidden")
        the_problem(await blind.post(f"/keys/{other['key_id']}/rotate", {}), 403, "payloads_hidden")
        made = await blind.post("/keys", wish | {"hide_payloads": True})
        turned = await blind.post(f"/keys/{made.json()['key_id']}/rotate", {})

    assert refused["where"] == "body.hide_payloads"
    assert [answer.status_code for answer in (made, turned)] == [201, 201]
    assert turned.json()["hide_payloads"] is True


async def test_a_node_sees(house_api: Api) -> None:
    """It has to work on payloads: no key is both."""
    wish = {"name": "k", "scopes": ["node"], "node_ids": ["*"], "hide_payloads": True}
    refused = the_problem(await house_api.post("/keys", wish), 422, "invalid")

    assert refused["where"] == "body.hide_payloads"


OUTWARD = [
    ("/api/v1/execute/async/n.echo", {"webhook": {"url": "http://127.0.0.1:1/"}}),
    ("/api/v1/execute/n.echo", {"webhook": {"url": "http://127.0.0.1:1/"}}),
    ("/api/v1/executions/{}/retry", {"webhook": {"url": "http://127.0.0.1:1/"}}),
    ("/api/v1/executions/{}/restart", {"webhook": {"url": "http://127.0.0.1:1/"}}),
    ("/jobs", {"type": "t", "webhook_url": "http://127.0.0.1:1/"}),
    ("/agent/submit-with-callback", {"prompt": "p", "callback_url": "http://127.0.0.1:1/"}),
    ("/api/v1/memory/vector/search", {"query_embedding": [1], "filters": {"text": "guess"}}),
]


async def test_nothing_is_sent_to_an_address_of_its_own(house_api: Api) -> None:
    """A webhook would have the result in it; nor are values guessed by looking for them."""
    session = await house_api.node()
    failed = await house_api.submit(retries=0)
    await house_api.finish(session, await house_api.take(session), status="failed", error="e")
    async with keyed(house_api, hide_payloads=True) as blind:
        for path, body in OUTWARD:
            answer = await blind.client.post(path.format(failed["execution_id"]), json=body)
            the_problem(answer, 403, "payloads_hidden")
        item = {"target": "n.echo", "webhook": {"url": "http://127.0.0.1:1/"}}
        batch = (await blind.post("/execute/batch", {"items": [item, {"target": "n.echo"}]})).json()

    assert [one.get("code", "accepted") for one in batch["items"]] == ["payloads_hidden", "accepted"]


def test_every_form_with_an_address_is_refused_above() -> None:
    """A new route that takes one says `reveals`, or stands in the list and is refused by what it takes."""
    words = re.compile(r"webhook|callback|url")
    with_one = {
        one.path
        for one in OPERATIONS
        if one.takes is not None and not one.reveals and one.scope != NODE
        if any(words.search(field.encode_name) for field in msgspec.structs.fields(one.takes))
    }
    refused = {path.replace("n.echo", "{target}").replace("{}", "{execution_id}") for path, _ in OUTWARD}
    assert with_one <= refused | {"/api/v1/reasoners/{target}", "/api/v1/skills/{target}"}, with_one - refused


async def test_the_sdk_reads_what_is_hidden(api: Api, blind: Api, planted: Planted) -> None:
    """What it is told instead of a payload fits where the payload stands."""
    _, failed, again, asking, _ = planted.executions
    async with Client(api.url, api_key=blind.client.headers["X-API-Key"]) as client:
        read = [await client.get(one) for one in planted.executions]
        said = [await client.explain(one) for one in (failed, again)]
        attempts = await client.attempts(failed)
        steps = await client.steps(asking)
        schedule = await client.schedules.get("yearly")
        triggers = await client.triggers.list()
        event = await client.triggers.event("door", planted.path["event_id"])

    assert read[0].result["hidden"] is True
    assert str(read[1].error).startswith("hidden: ")
    assert [one.code for one in said] == ["failed", "retrying"]
    assert [len(found) for found in (attempts, steps, triggers.items)] == [1, 1, 1]
    assert (schedule.name, event.headers["hidden"]) == ("yearly", True)


def hidden_in(said: Json, names: set[str]) -> set[str]:
    """The names of what is hidden in an answer."""
    if isinstance(said, list):
        for one in said:
            hidden_in(one, names)
    elif isinstance(said, dict):
        for name, value in said.items():
            told = value[0] if isinstance(value, list) and value else value
            if (isinstance(told, dict) and "hidden" in told) or str(told).startswith("hidden: "):
                names.add(name)
            hidden_in(value, names)
    return names


async def test_what_is_hidden_is_a_payload(blind: Api, planted: Planted) -> None:
    """And nothing else: states, counts, times and names are shown by every route."""
    names: set[str] = set()
    for one in OPERATIONS:
        if one.streams or one.path == "/metrics":
            continue
        for answer in await ask(blind, one, planted):
            if answer.content:
                hidden_in(answer.json(), names)

    assert names <= PAYLOADS, " ".join(sorted(names - PAYLOADS))
