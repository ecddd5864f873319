"""The audit log through every door, and through the death of the server that writes it."""

from __future__ import annotations

import itertools
import json
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from controlplane_sdk import Client
from tests.e2e.processes import Plane
from tests.e2e.test_cli import Ended, cli


@pytest.fixture
def up(plane: Plane) -> Plane:
    """A server without a key, and three changes."""
    plane.restart()
    for n in range(3):
        plane.api.put("/limits/key:a", json={"concurrency_max": n}).raise_for_status()
    return plane


def audit(plane: Plane, *arguments: str) -> Ended:
    return cli("audit", *arguments, "--server", plane.url)


def test_list_export_verify(up: Plane, tmp_path: Path) -> None:
    """What is exported is verified without any server, with the head that was said."""
    listed = audit(up, "list", "--action", "limit", "--limit", "2")
    exported = audit(up, "export")
    file = tmp_path / "audit.jsonl"
    file.write_bytes(exported.out)
    head = exported.err.split()[-1]
    online = audit(up, "verify", "--head", head)
    offline = cli("audit", "verify", "--file", str(file), "--head", head, "--json")

    assert listed.out.decode().count("limit.set") == 2
    assert "--before 2" in listed.err
    assert [json.loads(line)["seq"] for line in exported.out.splitlines()] == [1, 2, 3]
    assert (online.code, offline.code) == (0, 0)
    assert json.loads(offline.out) == {
        "holds": True,
        "rows": 3,
        "begin": "0:" + "0" * 64,
        "end": head,
        "head": head,
        "broken": None,
    }


@pytest.mark.parametrize(
    ("change", "seq"),
    [
        (lambda lines: [lines[0], lines[1].replace(b'"concurrency_max":1', b'"concurrency_max":9'), lines[2]], 2),
        (lambda lines: [lines[0], lines[2]], 2),
        (lambda lines: [lines[1], lines[0], lines[2]], 1),
        (lambda lines: lines[:2], 3),
    ],
    ids=["changed", "gap", "order", "tail"],
)
def test_an_export_that_somebody_touched(up: Plane, tmp_path: Path, change: object, seq: int) -> None:
    """Exit 5, and the first row that is not what was written."""
    exported = audit(up, "export")
    file = tmp_path / "audit.jsonl"
    file.write_bytes(b"\n".join(change(exported.out.splitlines())))  # type: ignore[operator]
    ended = cli("audit", "verify", "--file", str(file), "--head", exported.err.split()[-1])

    assert ended.code == 5
    assert f"Row {seq} of the audit log" in ended.err


@pytest.mark.breaks("audit_chain_holds")
async def test_a_database_that_somebody_touched(up: Plane, database: str) -> None:
    """The command names the row, and so does the SDK."""
    connection = await asyncpg.connect(database)
    await connection.execute("alter table audit disable trigger user; update audit set address = '' where seq = 2")
    await connection.close()
    ended = audit(up, "verify")
    async with Client(up.url) as client:
        found = await client.audit.verify()

    assert (ended.code, "Row 2 of the audit log" in ended.err) == (5, True)
    assert found.broken is not None
    assert (found.holds, found.broken.seq) == (False, 2)


async def test_by_sdk(up: Plane) -> None:
    """Page by page, from the newest and from the oldest; the head is found again."""
    async with Client(up.url) as client:
        page = await client.audit.list(action="limit.set", limit=2)
        rest = await client.audit.list(before=page.next_before)
        every = [row async for row in client.audit.export()]
        verified = await client.audit.verify()
        again = await client.audit.verify(head=verified.head)

    assert [row.seq for row in (*page.items, *rest.items)] == [3, 2, 1]
    assert [(row.before, row.after) for row in every[:2]] == [
        (None, {"concurrency_max": 0}),
        ({"concurrency_max": 0}, {"concurrency_max": 1}),
    ]
    assert (verified.holds, verified.rows, again.holds, again.head) == (True, 3, True, verified.head)


async def test_a_killed_server_leaves_both_or_none(up: Plane, database: str) -> None:
    """Killed in the middle of requests that change things: what stands there is what the log says last, each time."""
    connection = await asyncpg.connect(database)
    for round_ in range(3):
        changed = threading.Event()
        threads = [threading.Thread(target=_change, args=(up.url, f"key:{round_}-{n}", changed)) for n in range(4)]
        for thread in threads:
            thread.start()
        assert changed.wait(30)
        up.kill()
        for thread in threads:
            thread.join()
        up.restart()

        stands = {row["key"]: row["concurrency_max"] for row in await connection.fetch("select * from limits")}
        assert {row["object_id"]: row["after"]["concurrency_max"] for row in _log(up)} == stands
        assert up.api.get("/audit/verify").json()["holds"] is True
    await connection.close()


def _change(url: str, key: str, changed: threading.Event) -> None:
    """Until nobody answers any more."""
    with httpx.Client(base_url=f"{url}/api/v1") as api, suppress(httpx.TransportError):
        for value in itertools.count(1):
            api.put(f"/limits/{key}", json={"concurrency_max": value}).raise_for_status()
            changed.set()


def _log(plane: Plane) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        page = plane.api.get("/audit", params={"after": after, "limit": 1000}).json()
        rows += page["items"]
        after = page["next_after"]
    return rows
