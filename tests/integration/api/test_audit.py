"""The audit log over HTTP: whoever changes something is written down with it, once, and nobody else is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx
import pytest

from controlplane.api.operation import ADMIN, NOTHING, OPEN, OPERATE, READ, Operation
from controlplane.app import operations_of
from controlplane.domain.audit import Audited
from controlplane.settings import Settings
from tests.integration.api import test_links as links
from tests.integration.api import test_namespaces as walked
from tests.integration.api.serving import Api, Json, Receiver, fenced, the_problem, until
from tests.integration.api.test_namespaces import Theirs
from tests.make import until_blocked

OPERATIONS = operations_of(Settings(**walked.ON))
AUDITED = [one for one in OPERATIONS if one.audit]
FIRST = walked.FIRST
theirs = walked.theirs
stranger = walked.stranger
# What the walk below cannot bring to an end, or has done already by another route; each has a test of its own.
ELSEWHERE = {
    "DELETE /api/v1/nodes/{node_id}",
    "POST /api/v1/executions/{execution_id}/approval-response",
    "POST /api/v1/webhooks/approval-response",
    "POST /api/v1/executions/{execution_id}/retry",
    "POST /api/v1/bulk/{bulk_id}/stop",
    "POST /api/ui/v1/executions/{execution_id}/webhook/retry",
}
WAITS_FOR_US = (
    "select exists (select from pg_locks where not granted and pg_backend_pid() = any(pg_blocking_pids(pid)))"
)
SECRETS = ("the-first-key", "canary-secret", "canary-new-secret", "canary-word", "cp_")


async def log_of(api: Api, **query: Json) -> list[dict[str, Json]]:
    """The whole log, oldest first."""
    items: list[dict[str, Json]] = (await api.get("/audit", after=0, limit=1_000, **query))["items"]
    return items


@pytest.fixture
async def keyed(api: Api) -> AsyncIterator[Api]:
    """Somebody with a name."""
    key = (await api.post("/keys", {"name": "mara", "scopes": ["admin", "operate", "execute", "read"]})).json()
    headers = {"X-API-Key": key["key"], "User-Agent": "tests/1 " + "x" * 500, "X-Request-ID": "req-of-mine"}
    async with httpx.AsyncClient(base_url=api.url, headers=headers, timeout=30, trust_env=False) as client:
        yield Api(api.app, api.host, api.port, client)


def operation(method: str, scope: frozenset[Json], audit: str | None) -> Operation:
    async def nothing(_: object) -> Json:
        raise NotImplementedError

    return Operation(method=method, path="/", handler=nothing, summary="", tag="", scope=scope, audit=audit)


@pytest.mark.parametrize("scope", [OPERATE, ADMIN, READ | OPERATE], ids=["operate", "admin", "either"])
def test_no_route_changes_something_without_a_word_for_it(scope: frozenset[Json]) -> None:
    """An operation that may change something says what the log calls it, or is not built."""
    with pytest.raises(ValueError, match="audit log"):
        operation("POST", scope, None)

    assert operation("POST", scope, NOTHING)
    assert operation("GET", scope, None)


def test_every_action_says_what_was_done_to_what() -> None:
    """`key.revoked`: a thing, a dot, and what has happened to it."""
    actions = {one.audit for one in OPERATIONS if one.audit}

    assert all(action.replace(".", "").replace("_", "").isalpha() and action.count(".") == 1 for action in actions)
    assert {"key.revoked", "execution.cancelled", "bulk.begun", "delivery.retried", "limit.set"} <= actions


@FIRST
async def test_every_change_leaves_one_row(api: Api, theirs: Theirs) -> None:
    """Every route that changes something leaves one row when it is done, and none when it is refused."""
    done: set[str] = set()
    wrong: list[str] = []
    before = len(await log_of(api))
    own: dict[str, Json] = {
        "/api/v1/limits/{key}": {"concurrency_max": 1},
        "/api/v1/bulk": {"action": "cancel", "all": True},
        "/api/v1/endpoints": {"name": "walk", "url": "https://r.example/"},
        "/api/v1/triggers": {"name": "walk", "target": "canary.echo", "preset": "bearer", "secret": "canary-secret"},
    }
    walk = [one for one in AUDITED if one.scope != OPEN and one.audit != "memory.deleted"]
    for one in sorted(walk, key=_rank):
        body = own.get(one.path)
        answer = await (
            walked.ask(api, one, theirs)
            if body is None
            else api.client.request(one.method, theirs.path_of(one), json=body)
        )
        rows = (await log_of(api))[before:]
        before += len(rows)
        if [row["action"] for row in rows] != ([one.audit] if answer.is_success else []):
            wrong.append(f"{one.method} {one.path} {answer.status_code} {answer.text[:200]}: {rows}")
        if answer.is_success:
            done.add(f"{one.method} {one.path}")

    assert not wrong, "\n".join(wrong)
    missed = {f"{one.method} {one.path}" for one in walk} - done - ELSEWHERE
    assert not missed
    assert (await api.get("/audit/verify"))["holds"] is True


@FIRST
async def test_what_is_no_change_by_somebody_leaves_no_row(api: Api, conn: asyncpg.Connection) -> None:
    """What callers and nodes do all day is not in it: submit, lease, log, remember, finish."""
    await api.register("n", "echo")
    session = await api.open_session("n")
    await api.submit()
    lease = await api.take(session)
    speaking = {"X-Execution-ID": fenced(lease)}
    assert (await api.post("/memory/set", {"key": "k", "data": 1, "scope": "global"}, headers=speaking)).is_success
    assert (await api.post("/executions/note", {"message": "m"}, headers=speaking)).is_success
    assert (await api.finish(session, lease, 1)).is_success

    assert await conn.fetchval("select count(*) from audit") == 0


def _rank(one: Operation) -> int:
    """What ends something comes after what is done to it."""
    words = ("pause", "resume", "", "revoke", "bulk", "cancel")
    found = next((n for n, word in enumerate(words) if word and word in one.path), 2)
    return len(words) if one.method == "DELETE" else max(found, 1)


@FIRST
async def test_the_webhooks_of_an_execution_are_one_row(api: Api, receiver: Receiver) -> None:
    """Sent again together, they are written down together."""
    await api.register("n", "echo")
    execution_id = await api.run(await api.open_session("n"), target="n.echo", webhook={"url": receiver.url})
    await receiver.wait_for(1)
    again = await api.client.post(f"/api/ui/v1/executions/{execution_id}/webhook/retry")

    assert again.status_code == 202, again.text
    [row] = await log_of(api)
    [delivery] = await api.deliveries(execution_id)
    assert (row["action"], row["object_id"]) == ("delivery.retried", execution_id)
    assert row["after"] == {"deliveries": [delivery["delivery_id"]]}


@FIRST
async def test_a_retry_and_a_bulk_that_is_stopped(api: Api, conn: asyncpg.Connection, database: str) -> None:
    """The two that the walk cannot bring to an end."""
    await api.register("n", "echo")
    execution_id = (await api.submit())["execution_id"]
    await api.post(f"/executions/{execution_id}/cancel", {"reason": "enough"})
    again = (await api.post(f"/executions/{execution_id}/retry", {})).json()
    begun = (await api.post("/bulk", {"action": "cancel", "filter": {"target": "n.none"}})).json()
    await until(lambda: _done(api, begun["bulk_id"]))
    async with _connected(database) as holder:
        async with holder.transaction():
            async with conn.transaction():
                await conn.execute("update bulks set state = 'running', ended_at = null")
                holding = asyncio.create_task(holder.execute("select from bulks for update"))
                await until_blocked(conn, holder.get_server_pid())
            await holding  # before any server could do more of it
            stopping = asyncio.create_task(api.post(f"/bulk/{begun['bulk_id']}/stop"))
            await until(lambda: holder.fetchval(WAITS_FOR_US))
        assert (await stopping).is_success

    cancelled, retried, _, stopped = await log_of(api)
    assert (cancelled["before"], cancelled["after"]) == (
        {"status": "queued"},
        {"reason": "enough", "status": "cancelled"},
    )
    assert (retried["action"], retried["object_id"]) == ("execution.retried", execution_id)
    assert retried["after"] == {"execution_id": again["execution_id"]}
    assert (stopped["action"], stopped["object_id"]) == ("bulk.stopped", begun["bulk_id"])


async def test_who_has_done_what(api: Api, keyed: Api) -> None:
    """The key, the request, the address and the program; before and after; the row says the hash that it has."""
    await keyed.client.put("/api/v1/limits/key:a", json={"concurrency_max": 3})
    await keyed.client.put("/api/v1/limits/key:a", json={"concurrency_max": 5, "rate_max": 1, "rate_seconds": 2})
    await keyed.client.delete("/api/v1/limits/key:a")

    made, first, second, third = await log_of(keyed)
    assert (first["actor"], first["actor_kind"], first["request_id"]) == ("mara", "key", "req-of-mine")
    assert (first["address"], len(first["user_agent"])) == ("127.0.0.1", 256)
    assert (first["action"], first["object_kind"], first["object_id"]) == ("limit.set", "limit", "key:a")
    assert first["key_id"] == made["object_id"]
    assert ("before" in first, first["after"]) == (False, {"concurrency_max": 3})
    assert (second["before"], second["after"]) == (
        {"concurrency_max": 3},
        {"concurrency_max": 5, "rate_max": 1, "rate_seconds": 2.0},
    )
    assert (third["before"], "after" in third) == (second["after"], False)
    assert all(Audited.from_shape(row).rehashed().hex() == row["hash"] for row in (made, first, second, third))


async def test_nobody_with_a_name(api: Api) -> None:
    """Before there is a key, it is anybody from this machine."""
    await api.client.put("/api/v1/limits/key:a", json={"concurrency_max": 3})

    [row] = await log_of(api)
    assert (row["actor_kind"], "actor" in row) == ("anybody", False)
    assert [one["seq"] for one in await log_of(api, actor="anybody")] == [1]


@FIRST
async def test_the_key_of_the_environment_has_a_name(api: Api) -> None:
    """Who comes with the key that the server was started with is told apart from the keys in the database."""
    await api.client.put("/api/v1/limits/key:a", json={"concurrency_max": 3})

    [row] = await log_of(api)
    assert (row["actor_kind"], row["actor"], "key_id" in row) == ("environment", "environment", False)


async def test_what_is_refused_leaves_no_row(api: Api) -> None:
    """Neither what is not valid, nor what is not there, nor what is not in a state for it."""
    await api.register("n", "echo")
    execution_id = (await api.submit())["execution_id"]
    assert (await api.post(f"/executions/{execution_id}/cancel", {})).status_code == 200
    before = await log_of(api)
    answers = [
        await api.client.put("/api/v1/limits/key:a", json={"concurrency_max": -1}),
        await api.client.delete("/api/v1/limits/key:a"),
        await api.post(f"/executions/{execution_id}/cancel", {}),
        await api.post(f"/executions/{execution_id}/pause", {}),
        await api.post("/schedules", {"name": "a", "target": "n.echo", "cron": "never"}),
        await api.post("/namespaces", {"name": "default"}),
        await api.post("/bulk", {"action": "cancel", "all": True, "dry_run": True}),
    ]

    assert [one.status_code for one in answers] == [422, 404, 409, 409, 422, 409, 200]
    assert await log_of(api) == before


async def test_said_twice_it_is_there_twice_and_changed_nothing(api: Api) -> None:
    """Each call that is answered is a row; the second says that nothing is otherwise."""
    yearly = {"name": "a", "target": "n.echo", "cron": "0 0 29 2 *"}
    await api.register("n", "echo")
    for _ in range(2):
        assert (await api.post("/schedules", yearly)).is_success

    first, second = await log_of(api)
    assert ("before" in first, first["after"]["cron"]) == (False, "0 0 29 2 *")
    assert (second["before"], second["after"]) == ({}, {})


async def test_what_a_schedule_was_and_is(api: Api) -> None:
    """Only what differs is written down, and of what it submits only that it is something else."""
    await api.register("n", "echo")
    yearly = {"target": "n.echo", "cron": "0 0 29 2 *", "input": {"word": "canary-word"}}
    await api.client.put("/api/v1/schedules/a", json=yearly)
    await api.client.put("/api/v1/schedules/a", json=yearly | {"cron": "0 1 29 2 *", "input": {}})
    await api.post("/schedules/a/pause")
    await api.client.delete("/api/v1/schedules/a")

    _, replaced, paused, deleted = await log_of(api)
    assert (replaced["before"], replaced["after"]) == (
        {"cron": "0 0 29 2 *"},
        {"cron": "0 1 29 2 *", "input_changed": True},
    )
    assert (paused["before"], paused["after"]) == ({"paused": False}, {"paused": True})
    assert (deleted["before"]["target"], "after" in deleted) == ("n.echo", False)


@FIRST
async def test_no_secret_is_in_it(api: Api, conn: asyncpg.Connection) -> None:
    """Keys, secrets of triggers, inputs and payloads are in no row, in whatever form they came."""
    await api.register("n", "echo")
    trigger = {"name": "t", "target": "n.echo", "preset": "github", "secret": "canary-secret"}
    execution_id = (await api.submit(input={"word": "canary-word"}))["execution_id"]
    yearly = {"name": "s", "target": "n.echo", "cron": "0 0 29 2 *", "input": {"word": "canary-word"}}
    made = (await api.post("/keys", {"name": "k", "scopes": ["read"]})).json()
    answers = [
        await api.post("/triggers", trigger),
        await api.client.patch("/api/v1/triggers/t", json={"secret": "canary-new-secret", "overlap_seconds": 0}),
        await api.post("/triggers/t/test", {"body": {"word": "canary-word"}}),
        await api.post(f"/keys/{made['key_id']}/rotate", {}),
        await api.post("/schedules", yearly),
        await api.post(f"/executions/{execution_id}/signals/go", {"word": "canary-word"}),
        await api.post(f"/executions/{execution_id}/restart", {"input": {"word": "canary-word"}}),
    ]

    assert all(one.is_success for one in answers), [one.text for one in answers]
    rows = await conn.fetch("select a::text as row, convert_from(after, 'utf8') as after from audit a")
    said = "\n".join(f"{one['row']} {one['after']}" for one in rows).replace(made["prefix"], "")
    assert "secret_changed" in said
    assert made["key"].removeprefix(made["prefix"]) not in said
    assert not [one for one in SECRETS[1:4] if one in said]


@FIRST
async def test_each_namespace_has_its_own(api: Api, stranger: Api) -> None:
    """What an admin of `default` does in another stands there, with where he comes from; nobody else reads it."""
    await stranger.client.put("/api/v1/limits/key:a", json={"concurrency_max": 3})
    theirs_log, ours = await log_of(stranger), await log_of(api)

    assert [(row["action"], row.get("actor_namespace")) for row in theirs_log] == [
        ("key.created", "default"),
        ("limit.set", None),
    ]
    assert [row["action"] for row in ours] == ["namespace.created"]
    assert await log_of(api, namespace="elsewhere") == theirs_log
    the_problem(await stranger.client.get("/api/v1/audit?namespace=default"), 403, "namespace_not_allowed")
    the_problem(await stranger.client.get("/api/v1/audit/verify?namespace=default"), 403, "namespace_not_allowed")


async def test_filters(api: Api, keyed: Api) -> None:
    """By who, what, on which and when; a beginning of an action means all of them."""
    for n in range(3):
        await keyed.client.put(f"/api/v1/limits/key:{n}", json={"concurrency_max": n})
    await keyed.client.delete("/api/v1/limits/key:1")
    at = (await log_of(keyed))[2]["at"]

    async def seqs(**query: Json) -> list[int]:
        return [row["seq"] for row in await log_of(keyed, **query)]

    assert await seqs(action="limit") == [2, 3, 4, 5]
    assert await seqs(action="limit.deleted") == [5]
    assert await seqs(object="key:1") == [3, 5]
    assert await seqs(actor="mara") == [2, 3, 4, 5]
    assert await seqs(since=at) == [3, 4, 5]
    assert await seqs(until=at) == [1, 2]
    assert await seqs(action="lim") == []


async def test_pages_both_ways(api: Api) -> None:
    """From the newest and from the oldest, each row once."""
    for n in range(5):
        await api.client.put("/api/v1/limits/key:a", json={"concurrency_max": n})

    for start, name, expected in (({}, "before", [5, 4, 3, 2, 1]), ({"after": 0}, "after", [1, 2, 3, 4, 5])):
        query, seen = dict(start), list[int]()
        while True:
            page = await api.get("/audit", limit=2, **query)
            seen += [row["seq"] for row in page["items"]]
            if page[f"next_{name}"] is None:
                break
            query = {name: page[f"next_{name}"]}
        assert seen == expected


@pytest.mark.parametrize(
    "query",
    ["after=-1", "before=x", "limit=0", "limit=1001", "since=yesterday", "actor=%00", "after=99999999999999999999"],
)
async def test_what_cannot_be_asked(shared: Api, query: str) -> None:
    """422, and where."""
    the_problem(await shared.client.get(f"/api/v1/audit?{query}"), 422, "invalid")


@pytest.mark.parametrize(
    "mark", ["1", "1:", "1:zz", "x:" + "0" * 64, "1:" + "0" * 63, "-1:" + "0" * 64, "1:" + "A" * 64]
)
async def test_what_is_no_head(shared: Api, mark: str) -> None:
    """422, and how it looks."""
    the_problem(await shared.client.get("/api/v1/audit/verify", params={"head": mark}), 422, "invalid")


async def test_verify_goes_on_and_finds_what_was_changed(api: Api, conn: asyncpg.Connection) -> None:
    """It says how far it holds, and the first row that does not."""
    for n in range(4):
        await api.client.put("/api/v1/limits/key:a", json={"concurrency_max": n})
    good = await api.get("/audit/verify")
    rest = await api.get("/audit/verify", after=f"2:{(await log_of(api))[1]['hash']}", head=good["head"])
    await conn.execute("alter table audit disable trigger user; update audit set actor = 'nobody' where seq = 3")
    bad = await api.get("/audit/verify")

    assert (good["holds"], good["complete"], good["rows"], good["broken"]) == (True, True, 4, None)
    assert (rest["holds"], rest["rows"]) == (True, 2)
    assert (bad["holds"], bad["broken"]["seq"], bad["end"].partition(":")[0]) == (False, 3, "2")


async def test_nothing_was_ever_written_down(shared: Api) -> None:
    """An empty log holds."""
    found = await shared.get("/audit/verify")

    assert (found["holds"], found["complete"], found["rows"]) == (True, True, 0)


async def test_many_at_once(api: Api) -> None:
    """Fifty who change things at once each have their row, and what was before one is what was after another."""
    await asyncio.gather(*(api.client.put("/api/v1/limits/key:a", json={"concurrency_max": n + 1}) for n in range(50)))

    log = await log_of(api)
    assert len(log) == 50
    assert [row["before"] for row in log[1:]] == [row["after"] for row in log[:-1]]
    assert (await api.get("/audit/verify"))["holds"] is True


@FIRST
async def test_a_bulk_is_one_row_and_says_who_began_it(api: Api, keyed: Api) -> None:
    """Whatever it does to however many, it was one person who asked."""
    await api.register("n", "echo")
    for _ in range(3):
        await api.submit()
    begun = (await keyed.post("/bulk", {"action": "cancel", "all": True, "reason": "enough"})).json()
    done = await until(lambda: _done(api, begun["bulk_id"]))

    [row] = await log_of(keyed, action="bulk")
    assert (done["done"], done["created_by"], row["actor"]) == (3, "mara", "mara")
    assert (row["object_id"], row["after"]) == (
        begun["bulk_id"],
        {"action": "cancel", "filter": {}, "matched": 3, "reason": "enough"},
    )
    assert await log_of(keyed, action="execution") == []


async def test_what_is_taken_out_of_memory(api: Api) -> None:
    """By somebody who is no attempt: which keys, once; by an attempt, or where there was nothing, none."""
    await api.register("n", "echo")
    session = await api.open_session("n")
    await api.submit()
    speaking = {"X-Execution-ID": fenced(await api.take(session))}
    for key in "abc":
        await api.post("/memory/set", {"key": key, "data": "canary-word", "scope": "global"})
    ops = [{"op": "delete", "key": "b", "scope": "global"}, {"op": "delete", "key": "x", "scope": "global"}]
    answers = [
        await api.post("/memory/delete", {"key": "a", "scope": "global"}),
        await api.post("/memory/delete", {"key": "a", "scope": "global"}),
        await api.post("/memory/write", {"writes": [{"ops": ops}]}),
        await api.post("/memory/delete", {"key": "c", "scope": "global"}, headers=speaking),
    ]

    assert [one.status_code for one in answers] == [204, 404, 200, 204], answers[2].text
    rows = await log_of(api)
    assert [row["action"] for row in rows] == ["memory.deleted"] * 2
    assert [row["before"] for row in rows] == [{"keys": ["global/global/a"]}, {"keys": ["global/global/b"]}]


@FIRST
async def test_a_decision_by_a_link(api: Api) -> None:
    """Who holds the link has no name; that it was decided by one, and from where, is written down, once."""
    _, lease, step = await links.ask(api)
    answers = [await api.client.post(links.path_of(step), data=links.YES) for _ in range(2)]

    assert [one.status_code for one in answers] == [200, 409]
    [row] = await log_of(api)
    assert (row["action"], row["actor_kind"], "actor" in row) == ("approval.decided", "link", False)
    assert (row["before"]["status"], row["after"]["status"]) == ("pending", "approved")
    assert row["after"]["execution_ids"] == [lease["execution_id"]]
    assert "ahead" not in str(row)


@FIRST
@pytest.mark.parametrize("by_request", [True, False], ids=["request", "execution"])
async def test_a_decision_by_the_api(api: Api, by_request: bool) -> None:
    """Of who comes with a key it is written down who that was; said again it changes nothing more."""
    _, lease, step = await links.ask(api)
    wish = {"decision": "rejected", "feedback": "canary-word"}
    path, body = f"/executions/{lease['execution_id']}/approval-response", wish
    if by_request:
        path, body = "/webhooks/approval-response", wish | {"requestId": step["approval_request_id"]}
    answers = [await api.post(path, body) for _ in range(2)]

    assert [one.json()["status"] for one in answers] == ["processed", "already_processed"]
    first, second = await log_of(api)
    assert (first["actor"], first["object_id"]) == ("environment", step["approval_request_id"])
    assert (first["before"]["status"], first["after"]["status"]) == ("pending", "rejected")
    assert "status" not in second["before"]
    assert "canary-word" not in str(first)


async def _done(api: Api, bulk_id: str) -> Json:
    found = await api.get(f"/bulk/{bulk_id}")
    return found if found["state"] == "done" else None


@asynccontextmanager
async def _connected(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    try:
        yield connection
    finally:
        await connection.close()
