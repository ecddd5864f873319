"""The feed over HTTP: what a receiver missed, what it waits for, and what it may not ask."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from controlplane.domain.bulk import REPLAYED_MAX
from controlplane.stages.bulk import DUE_MAX
from tests.integration.api.serving import Answer, Api, Json, Receiver, the_problem, until

NOWHERE = "http://127.0.0.1:1999/hook"
UNKNOWN = "dlv_00000000000000000000000000"
MORE = """
insert into deliveries (
  bucket, id, namespace, execution_id, webhook_n, event, host, url, body, state, attempts_max, next_at, created_at,
  settled_at
)
select 0, (lpad(to_hex((extract(epoch from clock()) * 1000)::bigint), 12, '0') || '7000800000'
  || lpad(to_hex(n), 7, '0') || '000')::uuid, namespace, execution_id, n, event, host, url, body, 'delivered', 5,
  clock(), clock(), clock()
from deliveries, generate_series(2, $1::int + 1) as n
"""


async def read_on(api: Api, after: str = "beginning", **query: Json) -> list[Json]:
    """The feed from a place to its end, page by page."""
    found: list[Json] = []
    while True:
        page = await api.get("/deliveries", after=after, **query)
        found += page["items"]
        after = page["next_cursor"]
        if not page["more"]:
            return found


async def reached(api: Api, execution_id: str) -> bool:
    """Whether the feed goes so far: others' transactions on the same server hold it back, too."""
    return execution_id in [one["execution_id"] for one in await read_on(api)]


async def test_a_receiver_that_was_down_has_it_all(api: Api, receiver: Receiver) -> None:
    """Ids and bodies of the feed are those of the requests it would have had, with where each stands."""
    session = await api.node()
    ids = [await api.run(session, {"n": n}, webhook={"url": receiver.url}) for n in range(5)]
    told = await receiver.wait_for(5)
    await until(lambda: reached(api, ids[-1]))
    found = await read_on(api, include="body", limit=2)

    assert [one["execution_id"] for one in found] == ids
    assert {one["webhook_id"]: one["body"] for one in found} == {one.headers["webhook-id"]: one.json for one in told}
    assert {(one["target"], one["event"]) for one in found} == {("n.echo", "execution.completed")}
    assert await read_on(api, found[2]["cursor"]) == (await read_on(api))[3:]
    assert await read_on(api, "") == await read_on(api)


async def test_the_body_is_the_very_bytes(api: Api, receiver: Receiver) -> None:
    """A receiver can check the signature that it kept over the body that it reads here."""
    session = await api.node()
    await api.run(session, {"x": 1.0, "é": "\u2028"}, webhook={"url": receiver.url})
    [told] = await receiver.wait_for(1)
    answer = await api.client.get("/api/v1/deliveries?after=beginning&include=body&wait_seconds=20")
    shown = await api.client.get(f"/api/v1/deliveries/{told.headers['webhook-id']}")

    assert told.body in answer.content
    assert told.body in shown.content


async def test_it_waits_for_the_next(api: Api) -> None:
    """Without a public address: a poll is held until something came to be, and ends empty when nothing did."""
    session = await api.node()
    nothing = await api.get("/deliveries", after="now", wait_seconds=0.2)
    poll = asyncio.create_task(api.get("/deliveries", after=nothing["next_cursor"], wait_seconds=20))
    id_ = await api.run(session, webhook={"url": NOWHERE})
    found = await poll

    assert (nothing["items"], nothing["more"]) == ([], False)
    assert [one["execution_id"] for one in found["items"]] == [id_]


async def test_any_state_is_listed_newest_first(api: Api, receiver: Receiver) -> None:
    """Without `after` as ever, of one state, of several, or of any; and each is shown by its id."""
    session = await api.node()
    receiver.queue.append(Answer(status=410, body=b"gone"))
    ids = [await api.run(session, webhook={"url": receiver.url}) for _ in range(3)]

    async def settled() -> Json:
        found = (await api.get("/deliveries", state="delivered,dead"))["items"]
        return found if len(found) == 3 else None

    found = await until(settled)
    [dead] = (await api.get("/deliveries", state="dead"))["items"]
    first = await api.get("/deliveries", limit=2)
    rest = await api.get("/deliveries", limit=2, cursor=first["next_cursor"])
    shown = await api.get(f"/deliveries/{dead['delivery_id']}")

    assert [one["execution_id"] for one in found] == ids[::-1]
    assert first["items"] + rest["items"] == found
    assert rest["next_cursor"] is None
    assert len((await api.get("/deliveries", state="delivered", execution_id=dead["execution_id"]))["items"]) == 0
    assert shown == dead | {"body": shown["body"]}
    assert (shown["attempts"][0]["response_body"], shown["body"]["execution_id"]) == ("gone", dead["execution_id"])


@pytest.mark.parametrize(
    ("query", "where"),
    [
        ("after=x", "after"),
        ("after=0.1", "after"),
        ("after=0.1.x", "after"),
        ("after=9999.1.00000000000000000000000000", "after"),
        ("after=0.99999999999999999999.00000000000000000000000000", "after"),
        ("after=0.1.00000000000000000000000000_0.1.00000000000000000000000000", "after"),
        ("after=0.999999999999.00000000000000000000000000", "after"),
        ("after=now&wait_seconds=31", "wait_seconds"),
        ("after=now&include=url", "include"),
        ("after=now&target=n.echo", "target"),
        ("after=now&state=lost", "state"),
        ("after=now&limit=201", "limit"),
        ("after=now&execution_id=x", "execution_id"),
        ("wait_seconds=1", "wait_seconds"),
        ("include=body", "include"),
        ("endpoint_id=x", "endpoint_id"),
    ],
)
async def test_what_cannot_be_asked(shared: Api, query: str, where: str) -> None:
    """Is refused with its name."""
    answer = await shared.client.get(f"/api/v1/deliveries?{query}")

    assert the_problem(answer, 422, "invalid")["where"] == f"query/{where}"


async def test_no_such_delivery(shared: Api) -> None:
    """Unknown, or no id at all."""
    the_problem(await shared.client.get(f"/api/v1/deliveries/{UNKNOWN}"), 404, "delivery_not_found")
    the_problem(await shared.client.get("/api/v1/deliveries/x"), 422, "invalid")


async def test_what_is_fresh_comes_between_ten_thousand_replays(api: Api, receiver: Receiver, database: str) -> None:
    """A storm needs a yes, is sent with the same ids and bytes, and a new delivery does not wait for its end."""
    session = await api.node()
    await api.run(session, webhook={"url": receiver.url})
    [first] = await receiver.wait_for(1)
    connection = await asyncpg.connect(database)
    await connection.execute(MORE, REPLAYED_MAX)
    await connection.close()
    asked = {"action": "redrive_deliveries", "filter": {"state": ["delivered", "dead"], "event": "execution.completed"}}
    counted = (await api.post("/bulk", asked | {"dry_run": True})).json()
    refused = await api.post("/bulk", asked)
    begun = (await api.post("/bulk", asked | {"confirm": True})).json()
    await receiver.wait_for(20)
    before = len(receiver.received)
    fresh = await api.run(session, {"fresh": True}, webhook={"url": receiver.url})

    async def told() -> Json:
        return [n for n, one in enumerate(receiver.received) if one.json["execution_id"] == fresh]

    [place] = await until(told)
    stopped = (await api.post(f"/bulk/{begun['bulk_id']}/stop")).json()

    assert (counted["matched"], counted["exact"]) == (REPLAYED_MAX, False)
    assert the_problem(refused, 422, "invalid")["where"] == "body.confirm"
    assert place - before <= 2 * DUE_MAX
    assert (stopped["state"], stopped["done"] < REPLAYED_MAX) == ("stopped", True)
    assert {one.body for one in receiver.received[:place]} == {first.body}
