"""What an operator is told in numbers: bounded however much there is, and never whose it is or what it holds."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import asyncpg
import pytest

from controlplane.app import OPERATIONS
from controlplane.domain.execution import State
from controlplane.observe.metrics import METHODS, OTHER
from controlplane.reads.verify import HOT
from tests.integration.api.serving import Api, Receiver, until

SERIES = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')
CANARY = "whsec_CANARY"
MANY = 10_000
NODES_MAX = {"cap_nodes": "unlimited"}
KNOWN = {
    "method": METHODS | {OTHER},
    "route": {one.path for one in OPERATIONS} | {OTHER},
    "status": {"1xx", "2xx", "3xx", "4xx", "5xx"},
    "invariant": set(HOT),
    "lane": {"submit", "replay", "claim", "renew", "complete", "memory", "steps", "log", "read"},
}
STATES = {"ready", "delayed", "leased", "waiting", "paused", "blocked", "pending", "open", "draining", "used", "idle"}


async def scrape(api: Api) -> str:
    answer = await api.client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return answer.text


async def value(api: Api, name: str, **labels: str) -> float:
    """Of one series; 0 where there is none."""
    for found, text, number in SERIES.findall(await scrape(api)):
        if found == name and dict(LABEL.findall(text)) == labels:
            return float(number)
    return 0.0


def ours(text: str) -> list[tuple[str, dict[str, str]]]:
    return [
        (name, dict(LABEL.findall(labels)))
        for name, labels, _ in SERIES.findall(text)
        if name.startswith("controlplane_")
    ]


async def use(api: Api, receiver: Receiver, n: int) -> None:
    """Whatever a caller may choose the name of, with names of its own."""
    node = f"node-{n}"
    await api.register(node)
    session = await api.open_session(node)
    webhook = {"url": receiver.url, "secret": CANARY}
    await api.submit(f"{node}.echo", input={"is": CANARY}, webhook=webhook, headers={"X-Run-ID": f"run-{n}"})
    await api.finish(session, await api.take(session), CANARY)
    await api.submit(f"{node}.echo", input={"is": CANARY})
    await api.client.get(f"/no/such/path/{n}")
    await api.client.request(f"VERB{n}", "/api/v1/nodes")
    await api.client.get(f"/api/v1/executions/{CANARY}-{n}", headers={"X-API-Key": f"{CANARY}{n}"})


async def test_the_number_of_series_does_not_grow(api: Api, receiver: Receiver) -> None:
    """With names that callers choose; each label has one of a list of ours."""
    await use(api, receiver, 0)
    await until(lambda: counted(api))
    before = ours(await scrape(api))
    for n in range(1, 20):
        await use(api, receiver, n)
    text = await scrape(api)

    assert sorted(map(str, ours(text))) == sorted(map(str, before))
    for _, labels in ours(text):
        for label, found in labels.items():
            assert label == "le" or found in KNOWN.get(label, STATES), (label, found)


async def test_every_state_is_there(api: Api) -> None:
    """What there is none of is 0, and not absent: an alert could not tell that from a broken scrape."""
    await until(lambda: value(api, "controlplane_counted_seconds_ago"))
    shown = [labels["state"] for name, labels in ours(await scrape(api)) if name == "controlplane_executions"]

    assert shown == [state.value for state in State]


async def counted(api: Api) -> bool:
    """What there is has been counted while it was there, and the delivery has gone out."""
    ready = await value(api, "controlplane_executions", state="ready")
    return ready > 0 and not await value(api, "controlplane_deliveries", state="pending")


@pytest.mark.parametrize("settings", [NODES_MAX], ids=["any"])
async def test_ten_thousand_of_everything(api: Api, conn: asyncpg.Connection) -> None:
    """Nodes, keys, hosts and targets of as many names, at once: not one series more."""
    before = len(ours(await scrape(api)))
    await conn.execute(NODES, MANY)
    await conn.execute(QUEUE, MANY)
    await conn.execute(DELIVERIES, MANY)
    await conn.execute("update census set counted_at = '-infinity'")
    await until(lambda: all_counted(api))
    text = await scrape(api)

    assert len(ours(text)) <= before + len(STATES)
    assert "canary" not in text
    assert len(text) < 100_000


async def all_counted(api: Api) -> bool:
    deliveries = await value(api, "controlplane_deliveries", state="pending")
    return MANY == await value(api, "controlplane_executions", state="paused") == deliveries


NODES = """
insert into nodes (bucket, namespace, id, transport, version, registered_at, updated_at)
select 0, 1, 'canary-node-' || n, 'pull', '', clock(), clock() from generate_series(1, $1) n
"""
QUEUE = """
insert into queue (bucket, id, namespace, target, run_id, state, priority, available_at, retries_max, webhooks)
select 0, gen_random_uuid(), 1 + n % 1000, 'canary.' || n, 'canary-' || n, 'paused', 0, clock(), 0, 0
from generate_series(1, $1) n
"""
DELIVERIES = """
insert into deliveries (
  bucket, id, namespace, execution_id, webhook_n, event, host, url, body, state, attempts_max, next_at, created_at
)
select 0, gen_random_uuid(), 1, gen_random_uuid(), 1, 'canary', 'canary-' || n, 'https://canary', '', 'pending', 1,
  clock() + interval '1 day', clock()
from generate_series(1, $1) n
"""


async def test_it_tells_no_secret(api: Api, receiver: Receiver) -> None:
    """No input, result, secret, key, address, id or target; nor does health."""
    await use(api, receiver, 1)
    texts = [await scrape(api)]
    texts += [(await api.client.get(path)).text for path in ("/livez", "/readyz", "/health", "/api/v1/health")]

    for text in texts:
        for told in (CANARY, "node-1", "run-1", urlsplit(receiver.url).netloc, "n.echo"):
            assert told not in text


async def test_what_an_operator_looks_for(api: Api, receiver: Receiver, conn: asyncpg.Connection) -> None:
    """Depth of the queue, the oldest that waits, the oldest due delivery, processes, lanes and connections."""
    await api.register("n")
    await api.open_session("n")
    for _ in range(3):
        await api.submit()
    await conn.execute("update queue set available_at = available_at - interval '1 hour'")
    await conn.execute("update census set counted_at = '-infinity'")

    await until(lambda: waiting(api, 3))

    assert await value(api, "controlplane_oldest_ready_seconds") >= 3600
    assert await value(api, "controlplane_sessions", state="open") == 1
    assert await value(api, "controlplane_lane_items_total", lane="submit") == 3
    assert 1 <= await value(api, "controlplane_lane_flushes_total", lane="submit") <= 3
    assert await value(api, "controlplane_lane_flush_seconds_total", lane="submit") > 0
    assert await value(api, "controlplane_database_connections", state="idle") >= 1
    assert await value(api, "controlplane_database_connections_max") == 10
    submits = {"method": "POST", "route": "/api/v1/execute/async/{target}", "status": "2xx"}
    assert await value(api, "controlplane_http_answers_total", **submits) == 3


async def waiting(api: Api, count: int) -> bool:
    """The two counts are made one after the other."""
    ready = await value(api, "controlplane_executions", state="ready")
    return ready == count and await value(api, "controlplane_oldest_ready_seconds") > 0


async def violated(api: Api) -> list[str]:
    return list((await api.client.get("/health")).json().get("degraded", []))


@pytest.mark.parametrize("settings", [{"verify_seconds": 0.2}], ids=["often"])
async def test_a_promise_that_is_broken(api: Api, conn: asyncpg.Connection) -> None:
    """Is a number of its own, and health says that somebody has to look; all is well again when it is mended."""
    await api.register()
    await api.submit()
    await conn.execute("update queue set cancel_requested_at = clock()")
    await until(lambda: violated(api))
    name = "controlplane_invariant_violations"

    assert await violated(api) == ["invariants_violated"]
    assert (await api.client.get("/health")).status_code == 200
    assert await value(api, name, invariant="cancel_is_the_end") == 1
    assert {labels["invariant"] for found, labels in ours(await scrape(api)) if found == name} == set(HOT)
    await conn.execute("delete from queue")
    await until(lambda: kept(api))


async def kept(api: Api) -> bool:
    return not await violated(api)


@pytest.mark.parametrize("settings", [{"snapshot_seconds": 0}], ids=["at-once"])
async def test_a_snapshot_that_somebody_holds(api: Api, database: str) -> None:
    """Is a number of its own, and health says it in a word; both are over when its transaction is."""
    reader = await asyncpg.connect(database)
    await reader.execute("begin isolation level repeatable read")
    await reader.execute("select 1 from pg_class limit 1")

    assert await violated(api) == ["snapshot_pinned"]
    assert await value(api, "controlplane_oldest_snapshot_seconds") > 0
    await reader.execute("rollback")
    await reader.close()
    await until(lambda: kept(api))


@pytest.mark.parametrize("settings", [{"verify_seconds": 0}], ids=["off"])
async def test_who_does_not_ask_says_nothing(api: Api, conn: asyncpg.Connection) -> None:
    """A server that was told not to look shows no number, not even an old one, and is not degraded by it."""
    await conn.execute(
        "insert into census (bucket, namespace, name, count, counted_at) values (0, 0, 'invariants.x', 3, clock())"
    )

    assert "controlplane_invariant_violations" not in await scrape(api)
    assert await violated(api) == []
