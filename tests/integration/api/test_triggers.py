"""Triggers over HTTP: what is signed becomes an execution once, with senders that sign by their public recipes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import subprocess
import time
import uuid
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest

from tests.integration.api.serving import Api, Json, serving, the_problem

HOUSE = {"api_key": "k-1", "payload_bytes_max": 100_000}
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
GITHUB = {"target": "n.echo", "preset": "github", "secret": SECRET}
PUSH = {"ref": "refs/heads/main", "repository": {"full_name": "a/b", "id": 2**64}}


@pytest.fixture
async def api(shared: Api) -> Api:
    """The house with a node `n`; the client has the key, who sends a hook has not."""
    shared.client.headers["X-API-Key"] = "k-1"
    await shared.register("n", "echo", "other")
    return shared


async def created(api: Api, **over: Json) -> str:
    """A trigger with a name of its own."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    answer = await api.post("/triggers", {"name": name, **GITHUB, **over})
    assert answer.status_code == 201, answer.text
    return name


async def send(api: Api, name: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    """As an outside sender does: without a key."""
    async with httpx.AsyncClient(base_url=api.url, trust_env=False, timeout=30) as sender:
        said = {"Content-Type": "application/json", "Host": "plane.example"} | headers
        return await sender.post(f"/hooks/{name}", content=body, headers=said)


def mac(message: bytes, key: bytes = SECRET.encode()) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


def github(body: bytes, *, event: str = "push", delivery: str | None = None) -> dict[str, str]:
    return {
        "X-Hub-Signature-256": "sha256=" + mac(body).hex(),
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": delivery or str(uuid.uuid4()),
    }


def stripe(body: bytes) -> dict[str, str]:
    at = int(time.time())
    return {"Stripe-Signature": f"t={at},v1={mac(b'%d.%b' % (at, body)).hex()}"}


def slack(body: bytes) -> dict[str, str]:
    at = int(time.time())
    return {
        "X-Slack-Request-Timestamp": str(at),
        "X-Slack-Signature": "v0=" + mac(b"v0:%d:%b" % (at, body)).hex(),
    }


def standard(body: bytes) -> dict[str, str]:
    at, id_ = int(time.time()), "msg_" + hashlib.sha256(body).hexdigest()[:20]
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    signature = base64.b64encode(mac(b"%b.%d.%b" % (id_.encode(), at, body), key)).decode()
    return {"webhook-id": id_, "webhook-timestamp": str(at), "webhook-signature": f"v1,{signature}"}


def plain(body: bytes) -> dict[str, str]:
    return {"X-Signature": mac(body).hex()}


def bearer(body: bytes) -> dict[str, str]:
    return {"Authorization": f"Bearer {SECRET}"}


SENDERS = {
    "github": github,
    "stripe": stripe,
    "slack": slack,
    "standard": standard,
    "hmac": plain,
    "bearer": bearer,
}


async def asked(api: Api, execution_id: str) -> bytes:
    """The input of an execution, as the bytes it is kept as."""
    return (await api.client.get(f"/api/v1/executions/{execution_id}/input")).content


async def events(api: Api, name: str, **params: Json) -> list[Json]:
    items: list[Json] = (await api.get(f"/triggers/{name}/events", **params))["items"]
    return items


@pytest.mark.parametrize("preset", SENDERS)
async def test_what_is_signed_becomes_an_execution(api: Api, preset: str) -> None:
    """Whoever signs: the event is the argument `event`, not a byte of it changed."""
    name = await created(api, preset=preset)
    body = b'{"id": "evt_1", "type" : "a.b", "n": 18446744073709551616, "f": 1.0}'

    answer = await send(api, name, body, SENDERS[preset](body))

    assert answer.status_code == 202, answer.text
    assert answer.json()["outcome"] == "submitted"
    assert b'{"event":%b}' % body in await asked(api, answer.json()["execution_id"])


@pytest.mark.parametrize("preset", SENDERS)
async def test_sent_again_it_is_the_same_execution(api: Api, preset: str) -> None:
    """One after the other, and many at once: one is new, and all are told of one execution."""
    name = await created(api, preset=preset)
    body = json.dumps({"id": "evt_1", "event_id": "Ev1"}).encode()
    headers = SENDERS[preset](body)

    answers = await asyncio.gather(*(send(api, name, body, headers) for _ in range(8)))

    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
    assert len({answer.json()["execution_id"] for answer in answers}) == 1
    assert [one["outcome"] for one in await events(api, name)] == ["submitted"]


@pytest.mark.parametrize("preset", SENDERS)
async def test_who_does_not_sign_learns_nothing(api: Api, preset: str) -> None:
    """A wrong signature, none at all, and a trigger that there is not are one and the same 401; nothing is kept."""
    name, body = await created(api, preset=preset), b'{"id": "evt_1"}'
    good = SENDERS[preset](body)
    forged = {header: value[:-1] + ("0" if value[-1] != "0" else "1") for header, value in good.items()}
    answers = [
        await send(api, name, body, forged),
        await send(api, name, body, {}),
        await send(api, name, b"\xff not even JSON", good if preset != "bearer" else {}),
        await send(api, "nobody-has-this-name", body, good),
        await send(api, "2." + name, body, good),
        await send(api, "no slug %00", body, good),
    ]

    for answer in answers:
        the_problem(answer, 401, "unauthorized")
    assert len({json.dumps(answer.json() | {"request_id": None}) for answer in answers}) == 1
    assert await events(api, name) == []


async def test_an_old_request_is_not_taken(api: Api) -> None:
    """Signed six minutes ago: whoever has overheard it comes too late."""
    name, body, at = await created(api, preset="stripe"), b'{"id": "evt_1"}', int(time.time()) - 360

    answer = await send(api, name, body, {"Stripe-Signature": f"t={at},v1={mac(b'%d.%b' % (at, body)).hex()}"})

    the_problem(answer, 401, "unauthorized")


async def test_slack_asks_first(api: Api) -> None:
    """Its challenge is given back, to who signs it only; it is no event."""
    name = await created(api, preset="slack")
    body = b'{"token": "x", "challenge": "3eZbrw1aB", "type": "url_verification"}'

    answer = await send(api, name, body, slack(body))

    assert (answer.status_code, answer.json()) == (200, {"challenge": "3eZbrw1aB"})
    the_problem(await send(api, name, body, {}), 401, "unauthorized")
    assert await events(api, name) == []


async def test_arguments_come_from_where_they_are_said_to(api: Api) -> None:
    """By pointer, by header, or the whole; what the event does not have is left out."""
    arguments = {
        "ref": "/ref",
        "id": "/repository/id",
        "second": "/list/1/a~1b",
        "kind": "header:X-GitHub-Event",
        "all": "",
        "none": "/nothing/here",
        "beyond": "/list/7",
        "odd": "/list/x",
        "unsaid": "header:X-Not-There",
    }
    name = await created(api, arguments=arguments)
    body = json.dumps(PUSH | {"list": [0, {"a/b": None}]}).encode()

    id_ = (await send(api, name, body, github(body))).json()["execution_id"]

    given = json.loads(await asked(api, id_))["input"]
    assert given == {
        "ref": "refs/heads/main",
        "id": 2**64,
        "second": None,
        "kind": "push",
        "all": json.loads(body),
    }


async def test_only_what_is_asked_for_submits(api: Api) -> None:
    """The others are kept as filtered; a ping of GitHub submits for nobody who has not asked for it."""
    body = json.dumps(PUSH).encode()
    name, every = await created(api, event_types=["push"]), await created(api)

    answers = [await send(api, name, body, github(body, event=event)) for event in ("push", "issues", "ping")]
    ping = await send(api, every, body, github(body, event="ping"))

    assert [one.json()["outcome"] for one in [*answers, ping]] == ["submitted", "filtered", "filtered", "filtered"]
    assert [one.status_code for one in answers] == [202, 200, 200]
    assert [one["type"] for one in await events(api, name, outcome="filtered")] == ["ping", "issues"]


async def test_a_form_is_an_event_too(api: Api) -> None:
    """Slack's commands are its fields; GitHub's form has its JSON in one."""
    slacks, githubs = await created(api, preset="slack"), await created(api)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    command = urlencode({"command": "/run", "text": "now & here", "n": ["1", "2"]}, doseq=True).encode()
    payload = urlencode({"payload": json.dumps(PUSH)}).encode()

    one = await send(api, slacks, command, slack(command) | form)
    two = await send(api, githubs, payload, github(payload) | form)

    given = [json.loads(await asked(api, each.json()["execution_id"]))["input"]["event"] for each in (one, two)]
    assert given == [{"command": "/run", "text": "now & here", "n": ["1", "2"]}, PUSH]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"a": NaN}', b"[" * 300 + b"]" * 300, b'"\\ud800"'], ids=repr)
async def test_what_no_input_can_be_made_of_is_kept(api: Api, body: bytes) -> None:
    """Its sender is known and would only send the same again: it is told so, and it can be looked at."""
    name = await created(api)

    answer = await send(api, name, body, github(body))
    [kept] = await events(api, name)
    whole = await api.get(f"/triggers/{name}/events/{kept['trigger_event_id']}")

    assert (answer.status_code, answer.json()["outcome"], kept["outcome"]) == (200, "rejected", "rejected")
    assert answer.json()["reason"] == kept["reason"]
    assert base64.b64decode(whole["body_base64"]) == body
    replayed = await api.post(f"/triggers/{name}/events/{kept['trigger_event_id']}/replay", {})
    the_problem(replayed, 422, "invalid")


async def test_an_input_that_is_too_large_is_kept(api: Api) -> None:
    """Beyond what an execution may be given; with other arguments it can be replayed."""
    name = await created(api)
    body = json.dumps({"ref": "r", "large": "x" * 100_000}).encode()
    kept = (await send(api, name, body, github(body))).json()
    assert kept["outcome"] == "rejected"

    changed = await api.client.patch(f"/api/v1/triggers/{name}", json={"arguments": {"ref": "/ref"}})
    again = await api.post(f"/triggers/{name}/events/{kept['trigger_event_id']}/replay", {})

    assert (changed.status_code, again.status_code) == (200, 202)
    assert json.loads(await asked(api, again.json()["execution_id"]))["input"] == {"ref": "r"}


async def test_replayed_once_for_each_key(api: Api) -> None:
    """A new execution, of the same event; the same key again is the same, another is another."""
    name, body = await created(api), json.dumps(PUSH).encode()
    first = (await send(api, name, body, github(body))).json()
    path = f"/triggers/{name}/events/{first['trigger_event_id']}"

    answers = [await api.post(f"{path}/replay", {}, headers={"Idempotency-Key": key}) for key in ("a", "a", "b")]
    one, same, other = (answer.json()["execution_id"] for answer in answers)

    assert [answer.status_code for answer in answers] == [202] * 3
    assert answers[1].headers["idempotent-replayed"] == "true"
    assert one == same
    assert len({first["execution_id"], one, other}) == 3
    kept = await api.get(path)
    assert (kept["replays"], kept["replay_execution_id"], kept["body"]) == (2, other, PUSH)
    assert kept["execution_id"] == first["execution_id"]
    assert await asked(api, one) != await asked(api, other)  # only by its id
    said = (await api.get(f"/executions/{one}/events"))["items"][0]
    assert said["data"] | {"kind": "trigger", "trigger": name, "replay": True} == said["data"]


async def test_while_it_is_paused_everything_is_held(api: Api) -> None:
    """It is verified and kept, and submits nothing until somebody replays it."""
    name, body = await created(api), json.dumps(PUSH).encode()
    paused = await api.post(f"/triggers/{name}/pause", {"reason": "too much"})
    held = await send(api, name, body, github(body))
    resumed = await api.post(f"/triggers/{name}/resume")
    after = await send(api, name, body, github(body))

    assert (paused.json()["paused"], paused.json()["paused_reason"]) == (True, "too much")
    assert (held.status_code, held.json()["outcome"]) == (200, "held")
    assert resumed.json()["paused"] is False
    assert after.status_code == 202
    path = f"/triggers/{name}/events/{held.json()['trigger_event_id']}/replay"
    assert (await api.post(path, {})).status_code == 202


async def test_a_secret_is_changed_without_a_gap(api: Api) -> None:
    """The one before is taken for as long as it is said, and not at all when that is nothing."""
    name, body = await created(api), b"{}"

    async def statuses() -> list[int]:
        old = github(body)
        new = old | {"X-Hub-Signature-256": "sha256=" + mac(body, b"newer").hex()}
        return [
            (await send(api, name, body, said | {"X-GitHub-Delivery": uuid.uuid4().hex})).status_code
            for said in (old, new)
        ]

    assert await statuses() == [202, 401]
    changed = (await api.client.patch(f"/api/v1/triggers/{name}", json={"secret": "newer"})).json()
    assert "previous_secret_until" in changed
    assert await statuses() == [202, 202]
    await api.client.patch(f"/api/v1/triggers/{name}", json={"secret": SECRET})
    await api.client.patch(f"/api/v1/triggers/{name}", json={"secret": "newer", "overlap_seconds": 0})
    assert await statuses() == [401, 202]


async def test_a_secret_is_never_shown(api: Api) -> None:
    """By no route, in no sample of a bearer, in no list, not in the event that carried it."""
    name, body = await created(api, preset="bearer"), b"{}"
    kept = (await send(api, name, body, bearer(body))).json()["trigger_event_id"]
    answers = [
        await api.post("/triggers", {"name": name, **GITHUB, "preset": "bearer"}),
        await api.client.patch(f"/api/v1/triggers/{name}", json={"secret": SECRET + "2"}),
        await api.client.get(f"/api/v1/triggers/{name}"),
        await api.client.get("/api/v1/triggers?limit=200"),
        await api.client.get(f"/api/v1/triggers/{name}/events/{kept}"),
        await api.post(f"/triggers/{name}/test"),
        await api.post(f"/triggers/{name}/pause", {}),
        await api.post(f"/triggers/{name}/resume"),
    ]

    assert [answer.status_code for answer in answers] == [200] * len(answers)
    assert not [answer for answer in answers if SECRET in answer.text or SECRET[6:] in answer.text]


async def test_creating_again_is_creating_once(api: Api) -> None:
    """In the same words it is there; with another secret, or another anything, the name is taken."""
    name = await created(api)

    again = await api.post("/triggers", {"name": name, **GITHUB})

    assert (again.status_code, again.json()["slug"]) == (200, name)
    assert again.json()["url"].endswith(f"/hooks/{name}")
    for other in ({"secret": "x"}, {"event_types": ["push"]}, {"target": "n.other"}, {"preset": "stripe"}):
        the_problem(await api.post("/triggers", {"name": name, **GITHUB, **other}), 409, "trigger_exists")


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"name": "a b"}, "body.name"),
        ({"secret": ""}, "body.secret"),
        ({"secret": "\x00"}, "body.secret"),
        ({"header": "X-Mine"}, "body.header"),
        ({"preset": "hmac", "timestamp_header": "X-At", "signed": "{body}"}, "body.signed"),
        ({"preset": "hmac", "event_types": ["a"]}, "body.type_from"),
        ({"arguments": {"a": "header:Authorization"}}, "body.arguments"),
        ({"tolerance_seconds": 0}, "body.tolerance_seconds"),
        ({"managed_by": "a b"}, "body.managed_by"),
    ],
)
async def test_what_cannot_be_is_refused(api: Api, body: Json, where: str) -> None:
    """Nothing is created, and it is said where the fault is."""
    answer = await api.post("/triggers", {"name": "refused", **GITHUB, **body})

    assert the_problem(answer, 422, "invalid")["where"] == where
    the_problem(await api.client.get("/api/v1/triggers/refused"), 404, "trigger_not_found")


async def test_a_target_must_be_known(api: Api) -> None:
    """When it is created, and when it is changed."""
    name = await created(api)

    the_problem(await api.post("/triggers", {"name": "x", **GITHUB, "target": "n.no"}), 404, "target_not_found")
    changed = await api.client.patch(f"/api/v1/triggers/{name}", json={"target": "n.no"})
    the_problem(changed, 404, "target_not_found")


@pytest.mark.parametrize("preset", SENDERS)
async def test_the_sample_works(api: Api, preset: str, tmp_path: Path) -> None:
    """Pasted into a shell it is an event; only a bearer has to fill in its secret."""
    name = await created(api, preset=preset)
    sample = (await api.post(f"/triggers/{name}/test", {"body": {"it's": "a $test"}})).json()

    curl = sample["curl"].replace(sample["url"], f"{api.url}/hooks/{name}")  # here it listens on any free port
    script = f"SECRET='{SECRET}'; {curl} -o {tmp_path / 'said'}"
    await asyncio.to_thread(subprocess.run, ["bash", "-euc", script], check=True)

    said = json.loads((tmp_path / "said").read_text())
    assert json.loads(await asked(api, said["execution_id"]))["input"] == {"event": {"it's": "a $test"}}


async def test_a_scheme_of_ones_own(api: Api) -> None:
    """Header, prefix, encoding, moment, id and type are the sender's."""
    name = await created(
        api,
        preset="hmac",
        header="X-Mine",
        prefix="v=",
        encoding="base64",
        timestamp_header="X-At",
        id_from="/meta/id",
        type_from="/meta/type",
        event_types=["made"],
    )
    body, at = b'{"meta": {"id": 17, "type": "made"}}', str(int(time.time()))
    signature = base64.b64encode(mac(f"{at}.".encode() + body)).decode()

    answer = await send(api, name, body, {"X-Mine": f"v={signature}", "X-At": at})

    assert answer.status_code == 202, answer.text
    assert [(one["key"], one["type"]) for one in await events(api, name)] == [("17", "made")]


async def test_lists_are_paged(api: Api) -> None:
    """Triggers by name, events by age; each of them once."""
    node = f"m-{uuid.uuid4().hex[:8]}"
    names = sorted([await created(api, managed_by=node) for _ in range(3)])
    for n in range(3):
        await send(api, names[0], b"%d" % n, github(b"%d" % n))

    first = await api.get("/triggers", managed_by=node, limit=2)
    rest = await api.get("/triggers", managed_by=node, limit=2, cursor=first["next_cursor"])
    newest = await api.get(f"/triggers/{names[0]}/events", limit=2)
    older = await api.get(f"/triggers/{names[0]}/events", limit=2, cursor=newest["next_cursor"])

    assert [one["name"] for one in first["items"] + rest["items"]] == names
    ids = [one["trigger_event_id"] for one in newest["items"] + older["items"]]
    assert ids == sorted(set(ids), reverse=True)
    assert (len(ids), rest["next_cursor"], older["next_cursor"]) == (3, None, None)


async def test_once_it_is_deleted_nobody_is_there(api: Api) -> None:
    """Its events go with its name: another trigger of it knows none of them."""
    name, body = await created(api), b"{}"
    headers = github(body)
    first = (await send(api, name, body, headers)).json()

    deleted = await api.client.delete(f"/api/v1/triggers/{name}")

    assert deleted.json() == {"name": name, "deleted": True}
    the_problem(await send(api, name, body, headers), 401, "unauthorized")
    the_problem(await api.client.delete(f"/api/v1/triggers/{name}"), 404, "trigger_not_found")
    assert (await api.read(first["execution_id"]))["status"] == "queued"
    assert (await api.post("/triggers", {"name": name, **GITHUB})).status_code == 201
    assert (await send(api, name, body, headers)).status_code == 202


async def test_a_body_without_end_is_cut(api: Api) -> None:
    """Before anybody is known, no more is read than a named limit."""
    name, body = await created(api), b"x" * (5 * 1024 * 1024 + 1)

    the_problem(await send(api, name, body, github(body)), 413, "too_large")


async def test_another_replica_knows_the_event(database: str) -> None:
    """Sent to two servers at once it is one execution."""
    async with serving(database) as one, serving(database) as two:
        await one.register()
        await one.post("/triggers", {"name": "t", **GITHUB})
        body = json.dumps(PUSH).encode()
        headers = github(body)

        answers = await asyncio.gather(*(send(each, "t", body, headers) for each in (one, two) * 4))

        assert len({answer.json()["execution_id"] for answer in answers}) == 1
        assert len((await one.get("/executions"))["items"]) == 1
