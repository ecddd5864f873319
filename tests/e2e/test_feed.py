"""Catching up without trusting push: the feed outlives receivers and servers, and what was missed is sent again."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from controlplane_sdk import Client, Delivery
from tests.e2e.conftest import StartNode
from tests.e2e.processes import Plane, free_port, until

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
QUICK = """
from controlplane_sdk import Agent

app = Agent("batch", heartbeat_seconds=0.5)

@app.reasoner
async def quick(n: int) -> int:
    return n

app.run()
"""
PART = 40


class Reader:
    """A receiver that only reads the feed: it keeps what it has dealt with and where it stands, and may die."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.cursor = "beginning"
        self.told: list[Delivery] = []

    async def read(self, *, until_number: int | None = None, seconds: float = 60.0) -> None:
        async with Client(self.plane.url) as client, asyncio.timeout(seconds):
            async for delivery in client.deliveries.feed(after=self.cursor, follow=until_number is not None):
                self.told.append(delivery)
                self.cursor = delivery.cursor or ""
                if len(self.told) == until_number:
                    return

    def ids(self) -> list[str]:
        return [one.execution_id for one in self.told]


def submit(plane: Plane, numbers: range, url: str) -> list[str]:
    return [plane.submit("batch.quick", webhook={"url": url, "secret": SECRET}, n=n) for n in numbers]


def told(plane: Plane, state: str) -> int:
    return len(plane.api.get("/deliveries", params={"state": state, "limit": 200}).json()["items"])


async def test_a_receiver_that_was_down_has_every_event_once(plane: Plane, node: StartNode) -> None:
    """Nobody listens, the server is killed twice, the reader dies once: the feed has each end exactly once."""
    node(QUICK)
    nowhere = f"http://127.0.0.1:{free_port()}/hook"
    reader = Reader(plane)
    following = asyncio.create_task(reader.read(until_number=2 * PART))
    ids = await asyncio.to_thread(submit, plane, range(PART), nowhere)
    plane.kill()
    await asyncio.to_thread(plane.restart)
    ids += await asyncio.to_thread(submit, plane, range(PART, 2 * PART), nowhere)
    await following
    ids += await asyncio.to_thread(submit, plane, range(2 * PART, 3 * PART), nowhere)
    for id_ in ids:
        await asyncio.to_thread(plane.end_of, id_, within=30)
    plane.kill()
    await asyncio.to_thread(plane.restart)
    await reader.read()
    anew = Reader(plane)
    await anew.read()

    assert sorted(reader.ids()) == sorted(ids)
    assert anew.ids() == reader.ids()
    assert len({one.delivery_id for one in anew.told}) == len(ids)
    assert {one.body["execution_id"]: one.body["result"] for one in anew.told} == dict(
        zip(ids, range(3 * PART), strict=True)
    )


class Shell:
    """The command line against one server."""

    def __init__(self, plane: Plane) -> None:
        self.env = os.environ | {"CONTROLPLANE_SERVER": plane.url}

    def run(self, *words: str) -> str:
        command = [sys.executable, "-m", "controlplane", *words]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def receive(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "controlplane", "receive", *words]
        return subprocess.Popen(command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def shell(plane: Plane) -> Iterator[Shell]:
    return Shell(plane)


def test_the_command_line_sends_again_what_was_missed(plane: Plane, node: StartNode, shell: Shell) -> None:
    """Followed, shown, counted, replayed to a receiver that is back, and verified there."""
    node(QUICK)
    port = free_port()
    [id_] = submit(plane, range(1), f"http://127.0.0.1:{port}/hook")
    until("the delivery", lambda: told(plane, "pending"), seconds=15)
    [line] = shell.run("deliveries", "follow", "--after", "beginning", "--no-wait").splitlines()
    [fed] = shell.run("deliveries", "follow", "--after", "beginning", "--no-wait", "--json").splitlines()
    delivery_id = json.loads(fed)["delivery_id"]
    receiver = shell.receive("--port", str(port), "--secret", SECRET, "--count", "2", "--json")
    assert receiver.stderr is not None
    assert re.match("Listening on", receiver.stderr.readline())
    shell.run("deliveries", "retry", delivery_id)
    until("that it is taken", lambda: told(plane, "delivered"), seconds=15)
    counted = shell.run("deliveries", "replay", "--event", "execution.completed", "--dry-run")
    shell.run("deliveries", "replay", "--event", "execution.completed", "--wait")
    heard = [json.loads(one) for one in receiver.communicate(timeout=30)[0].splitlines()]
    shown = shell.run("deliveries", "show", delivery_id)

    assert line.split()[1:] == [delivery_id, "pending", "execution.completed", id_, "batch.quick"]
    assert counted.split() == ["1"]
    assert [(one["webhook_id"], one["verified"], one["agentfield_verified"]) for one in heard] == [
        (delivery_id, True, True)
    ] * 2
    assert [one["again"] for one in heard] == [False, True]
    assert heard[0]["body"] == json.loads(fed)["body"]
    assert f'"execution_id":"{id_}"' in shown


def test_what_is_not_verified_is_refused(plane: Plane, node: StartNode, shell: Shell) -> None:
    """The receiver of the command line answers 401 to another secret; the attempt says so."""
    node(QUICK)
    port = free_port()
    receiver = shell.receive("--port", str(port), "--secret", "another", "--count", "1")
    try:
        assert receiver.stderr is not None
        receiver.stderr.readline()
        [id_] = submit(plane, range(1), f"http://127.0.0.1:{port}/hook")
        said = receiver.communicate(timeout=30)[0]
    finally:
        with suppress(ProcessLookupError):
            receiver.kill()

    assert "NOT VERIFIED" in said
    assert id_ in said

    def answered() -> list[int]:
        [delivery] = plane.api.get(f"/executions/{id_}/deliveries").json()["items"]
        return [one["http_status"] for one in delivery["attempts"][:1]]  # after it the receiver has gone

    assert until("the attempt", answered, seconds=15) == [401]


def test_the_command_line_follows_through_a_restart(plane: Plane, node: StartNode, shell: Shell) -> None:
    """A line for each delivery as it comes to be, and after Ctrl-C the command that goes on."""
    node(QUICK)
    nowhere = f"http://127.0.0.1:{free_port()}/hook"
    [old] = submit(plane, range(1), nowhere)
    plane.end_of(old, within=15)
    command = [sys.executable, "-m", "controlplane", "deliveries", "follow", "--after", "beginning"]
    with subprocess.Popen(
        command, env=shell.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as following:
        assert following.stdout is not None
        first = following.stdout.readline()
        plane.kill()
        plane.restart()
        [new] = submit(plane, range(1, 2), nowhere)
        second = following.stdout.readline()
        following.send_signal(signal.SIGINT)
        said = following.communicate(timeout=30)[1]

    assert old in first
    assert new in second
    assert following.returncode == 130
    assert "deliveries follow --server" in said
    assert "--after 0." in said
