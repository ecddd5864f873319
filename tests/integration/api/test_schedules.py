"""Schedules over HTTP: created, looked at, paused, run now, and fired by a server that is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from controlplane.domain.notice import moment
from tests.integration.api.serving import Api, Json, serving, the_problem, until

HOURLY = {"target": "n.echo", "cron": "0 * * * *"}


@pytest.fixture
async def other(database: str) -> AsyncIterator[Api]:
    """A second server on this test's database."""
    async with serving(database) as running:
        yield running


async def create(api: Api, name: str = "s", **over: Json) -> httpx.Response:
    return await api.post("/schedules", {"name": name, **HOURLY, **over})


async def created(api: Api, name: str = "s", **over: Json) -> Json:
    answer = await create(api, name, **over)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def put(api: Api, name: str = "s", **body: Json) -> httpx.Response:
    return await api.client.put(f"/api/v1/schedules/{name}", json={**HOURLY, **body})


def soon(seconds: float = 0.2) -> str:
    return moment(datetime.now(UTC) + timedelta(seconds=seconds))


async def test_created_and_read(api: Api) -> None:
    """What was asked comes back in its words, with what is planned."""
    await api.register()
    asked: dict[str, Any] = {
        "cron": "30 9 * * MON-FRI",
        "time_zone": "Europe/Berlin",
        "overlap": "queue",
        "catch_up": "all",
        "jitter_seconds": 5.0,
        "input": {"x": 1.0},
        "priority": 2,
        "retries": 0,
        "timeout_seconds": 9.0,
    }
    made = await created(api, **asked)
    read = await api.get("/schedules/s")

    assert asked.items() <= read.items()
    assert made == read | {"warnings": made["warnings"]}
    assert (read["name"], read["paused"], read["waiting"]) == ("s", False, 0)
    assert len(read["next"]) == 5
    assert read["next"][0] == read["next_at"]
    assert {one[14:16] for one in read["next"]} == {"30"}


async def test_the_next_times(api: Api) -> None:
    """As many as are asked for; of a paused schedule those after now, as if it went on."""
    await api.register()
    await created(api, cron="*/10 * * * *")
    await created(api, "paused", paused=True)
    three = (await api.get("/schedules/s/next", count=3))["next"]
    first, second = (datetime.fromisoformat(text) for text in three[:2])

    assert len(three) == 3
    assert second - first == timedelta(minutes=10)
    assert len((await api.get("/schedules/paused/next"))["next"]) == 5
    the_problem(await api.client.get("/api/v1/schedules/s/next?count=101"), 422, "invalid")


async def test_creating_again_is_creating_once(api: Api) -> None:
    """In the same words it is there already; in others the name is taken."""
    await api.register()
    made = await created(api)
    again = await create(api)

    assert (again.status_code, again.json()["schedule_id"]) == (200, made["schedule_id"])
    the_problem(await create(api, cron="1 * * * *"), 409, "schedule_exists")
    assert (await api.get("/schedules/s"))["cron"] == HOURLY["cron"]


async def test_replaced(api: Api) -> None:
    """PUT makes it what it says, again and again the same."""
    await api.register()
    first, second, third = await put(api), await put(api, cron="1 * * * *"), await put(api, cron="1 * * * *")

    assert [one.status_code for one in (first, second, third)] == [201, 200, 200]
    assert second.json()["schedule_id"] == first.json()["schedule_id"]
    assert second.json() == third.json()


@pytest.mark.parametrize(
    ("body", "status", "where"),
    [
        ({"cron": "nonsense"}, 422, "body.cron"),
        ({"cron": None}, 422, "body"),
        ({"cron": "* * * * *", "interval_seconds": 5}, 422, "body"),
        ({"time_zone": "Europe/Berlinn"}, 422, "body.time_zone"),
        ({"cron": None, "interval_seconds": 0.1}, 422, "body.interval_seconds"),
        ({"cron": None, "run_at": "2030-01-01T00:00:00"}, 422, "body.run_at"),
        ({"cron": None, "run_at": "2001-01-01T00:00:00Z"}, 422, "body.run_at"),
        ({"cron": None, "run_at": "tomorrow"}, 422, "body.run_at"),
        ({"overlap": "allow"}, 422, "body.overlap"),
        ({"catch_up": "all"}, 422, "body.catch_up"),
        ({"jitter_seconds": -1}, 422, "body.jitter_seconds"),
        ({"input": [1]}, 422, "body.input"),
        ({"input": {"x": "x" * 1_100_000}}, 413, "body.input"),
        ({"target": "n"}, 400, "path"),
        ({"target": "n.nobody"}, 404, "path"),
        ({"name": "a/b"}, 422, "body.name"),
        ({"crom": "* * * * *"}, 422, "body"),
    ],
)
async def test_what_cannot_be_is_refused(api: Api, body: dict[str, Json], status: int, where: str) -> None:
    """With the part that is wrong, and nothing is kept of it."""
    await api.register()
    answer = await create(api, **body)

    assert answer.status_code == status, answer.text
    assert answer.json()["where"] == where
    assert (await api.get("/schedules"))["items"] == []


async def test_listed(api: Api) -> None:
    """By name, in pages, without inputs, of one target."""
    await api.register("n", "echo", "two")
    for name in ("c", "a", "b"):
        await created(api, name, target="n.two" if name == "b" else "n.echo")
    first = await api.get("/schedules", limit=2)
    second = await api.get("/schedules", limit=2, cursor=first["next_cursor"])

    assert [one["name"] for one in first["items"] + second["items"]] == ["a", "b", "c"]
    assert second["next_cursor"] is None
    assert "input" not in first["items"][0]
    assert [one["name"] for one in (await api.get("/schedules", target="n.two"))["items"]] == ["b"]


async def test_a_moment_comes(api: Api) -> None:
    """A node that waits is handed the work when its time has come, and the execution knows where it is from."""
    session = await api.node()
    await created(api, cron=None, run_at=soon(), input={"x": 1})
    lease = await api.take(session)
    [tick] = (await api.get("/schedules/s/ticks"))["items"]
    [queued, *_] = (await api.get(f"/executions/{lease['execution_id']}/events"))["items"]

    assert lease["input"] == {"x": 1}
    assert (tick["outcome"], tick["execution_id"], tick["by_hand"]) == ("submitted", lease["execution_id"], False)
    assert (queued["data"]["kind"], queued["data"]["schedule"]) == ("schedule", "s")
    assert (await api.get("/schedules/s"))["next"] == []


async def test_every_second_at_two_replicas(api: Api, other: Api) -> None:
    """Whoever fires: each tick is one line, each execution one of them, and none is early."""
    session = await api.node()
    for n in range(4):
        await created((api, other)[n % 2], f"s{n}", cron=None, interval_seconds=1, overlap="queue")

    async def submitted() -> list[Json]:
        pages = [(await api.get(f"/schedules/s{n}/ticks"))["items"] for n in range(4)]
        found = [tick | {"n": n} for n, page in enumerate(pages) for tick in page if tick["outcome"] == "submitted"]
        return found if len(found) >= 12 else []

    async def work() -> None:
        while True:
            for lease in await api.lease(session, limit=10, wait_seconds=1):
                await api.finish(session, lease)

    working = asyncio.create_task(work())
    found = await until(submitted)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)

    assert len({tick["execution_id"] for tick in found}) == len(found)
    assert len({(tick["n"], tick["planned_at"]) for tick in found}) == len(found)
    assert all(datetime.fromisoformat(tick["at"]) >= datetime.fromisoformat(tick["planned_at"]) for tick in found)


async def test_a_schedule_outlives_its_server(database: str) -> None:
    """What came due while nobody was there is made up for by the next server, once."""
    async with serving(database) as first:
        await first.register()
        await created(first, cron=None, run_at=soon(0.5))
    await asyncio.sleep(0.6)
    async with serving(database) as second:
        session = await second.open_session()
        lease = await second.take(session)
        ticks = (await second.get("/schedules/s/ticks"))["items"]

    assert [one["execution_id"] for one in ticks] == [lease["execution_id"]]


async def test_run_now(api: Api) -> None:
    """At once, also while it is paused; with a key once; the plan stays."""
    await api.register()
    made = await created(api, paused=True, input={"x": 1})
    first = await api.post("/schedules/s/run", {"idempotency_key": "k"})
    again = await api.post("/schedules/s/run", {"idempotency_key": "k"})
    beside = await api.post("/schedules/s/run")
    ticks = (await api.get("/schedules/s/ticks", limit=1))["items"]

    assert (first.status_code, again.status_code, beside.status_code) == (202, 202, 202)
    assert first.json()["execution_id"] == again.json()["execution_id"] != beside.json()["execution_id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert (await api.get(f"/executions/{first.json()['execution_id']}/input"))["input"] == {"x": 1}
    assert ticks[0]["by_hand"] is True
    assert (await api.get("/schedules/s"))["next_at"] == made["next_at"]


async def test_what_runs_keeps_to_its_policy(api: Api) -> None:
    """What the node says of the reasoner holds for a tick as for a submit."""
    session = await api.node(heartbeat_seconds=30.0, total_seconds=600.0, schedule_to_start_seconds=60.0)
    await created(api, paused=True)
    ran = (await api.post("/schedules/s/run")).json()["execution_id"]
    [lease] = await api.lease(session)

    assert lease["execution_id"] == ran
    assert (lease["heartbeat_seconds"], lease["deadline_in_seconds"] > 0) == (30.0, True)


async def test_ticks_come_in_pages(api: Api) -> None:
    """The latest first, each once."""
    await api.register()
    await created(api)
    ran = [(await api.post("/schedules/s/run")).json()["execution_id"] for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while cursor or not seen:
        page = await api.get("/schedules/s/ticks", limit=2, **({"cursor": cursor} if cursor else {}))
        seen += [one["execution_id"] for one in page["items"]]
        cursor = page["next_cursor"]

    assert seen == ran[::-1]


async def test_paused_and_resumed(api: Api) -> None:
    """Both say where it stands; nothing comes of a tick in between."""
    session = await api.node()
    await created(api, cron=None, interval_seconds=1)
    paused = await api.post("/schedules/s/pause")
    for lease in await api.lease(session, wait_seconds=0):
        await api.finish(session, lease)
    quiet = await api.lease(session, wait_seconds=1.5)
    resumed = await api.post("/schedules/s/resume")

    assert (paused.json()["paused"], resumed.json()["paused"]) == (True, False)
    assert quiet == []
    assert (await api.take(session))["target"] == "n.echo"


async def test_deleted(api: Api) -> None:
    """It is gone, and what is gone is not there for any route."""
    await api.register()
    await created(api)
    gone = await api.client.delete("/api/v1/schedules/s")

    assert gone.json() == {"name": "s", "deleted": True}
    for method, path in [("GET", ""), ("DELETE", ""), ("GET", "/next"), ("GET", "/ticks")]:
        the_problem(await api.client.request(method, f"/api/v1/schedules/s{path}"), 404, "schedule_not_found")
    for path in ("/pause", "/resume", "/run"):
        the_problem(await api.post(f"/schedules/s{path}"), 404, "schedule_not_found")
