"""The agent object itself: decorators, addresses, misuse."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from controlplane_sdk import Agent, errors
from controlplane_sdk.lane import WORTH_ITEMS, Lane
from controlplane_sdk.strict_json import decode, encode
from controlplane_sdk.transport import server_url


async def test_a_decorated_function_is_still_itself():
    """It can be called directly, with and without options on the decorator."""
    app = Agent("n")

    @app.reasoner
    async def one(a: int) -> int:
        return a

    @app.skill("another", tags=["t"])
    def two(a: int) -> int:
        return a * 2

    assert (await one(1), two(2)) == (1, 4)
    with pytest.raises(ValueError, match="two functions called one"):
        app.reasoner("one")(two)


def test_the_server_comes_from_the_environment(monkeypatch):
    """agentfield_server=os.getenv(…) may well be None."""
    for name in ("CONTROLPLANE_SERVER", "AGENTFIELD_SERVER", "AGENTFIELD_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    plain = Agent("n", agentfield_server=None).server
    monkeypatch.setenv("AGENTFIELD_SERVER_URL", "http://c")
    monkeypatch.setenv("AGENTFIELD_SERVER", "b:1/")

    assert plain == "http://localhost:8080"
    assert Agent("n").server == "http://b:1"
    assert Agent("n", agentfield_server="https://a").server == "https://a"
    with pytest.raises(ValueError, match="http"):
        server_url("ftp://x")


async def test_app_wait_refuses_to_block_the_loop(double, make_agent, serving):
    """It is for synchronous reasoners only."""
    app = make_agent()

    @app.reasoner
    async def wrong() -> None:
        app.wait(asyncio.sleep(0))

    async with serving(app):
        report = await double.report(double.offer("n.wrong"))

    assert report["error_class"] == "RuntimeError"


async def test_notes_and_progress_outside_an_execution_do_nothing():
    """The same code runs as a plain function in a test."""
    app = Agent("n")

    app.progress(1, 2)
    await app.note("hello")


def test_the_sdk_does_not_import_the_server():
    """It stands alone: no server, no openai, until they are asked for."""
    code = "import sys, controlplane_sdk; print([m for m in ('controlplane', 'openai', 'fastapi') if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_the_drawing_shows_every_error():
    """The tree in the docstring of errors.py is complete."""
    drawn = errors.__doc__ or ""

    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, Exception):
            assert name in drawn


@pytest.mark.parametrize("value", ["NaN", "Infinity", ["-Infinity", 1], {"NaN": "é\u2028\x00"}, 2**70, [[[]]]])
def test_strict_json_keeps_what_is_json(value):
    """Words that look like NaN are only words."""
    assert decode(encode(value)) == value


def test_deep_json_is_read():
    """The fast parser gives up early; the value is read all the same."""
    assert decode(b"[" * 500 + b"]" * 500)


async def test_a_lane_batches_what_comes_while_it_sends():
    """One request in flight; what gathers meanwhile leaves together, within the limits."""
    batches: list[list[int]] = []

    async def send(items):
        batches.append(list(items))
        await asyncio.sleep(0)
        return [item * 2 for item in items]

    lane: Lane[int, int] = Lane(send, size=lambda n: n, items_max=3, bytes_max=10, name="test")
    futures = [lane.put(n) for n in (1, 2, 3, 4, 9, 50, 1)]
    futures[3].cancel()
    answers = [await future for future in futures if not future.cancelled()]
    await lane.idle()

    assert answers == [2, 4, 6, 18, 100, 2]
    assert batches == [[1, 2, 3], [9], [50], [1]]


async def test_while_a_batch_is_in_flight_many_leave_and_few_wait():
    """At most two are in flight; what gathers then leaves with the first that comes back."""
    batches: list[list[int]] = []
    back = [asyncio.Event() for _ in range(3)]

    async def send(items):
        batches.append(list(items))
        await back[len(batches) - 1].wait()
        return items

    lane: Lane[int, int] = Lane(send, size=lambda _: 1, items_max=100, bytes_max=100, name="test")
    first = lane.put(0)
    await asyncio.sleep(0)
    second = [lane.put(n) for n in range(1, WORTH_ITEMS)]
    await asyncio.sleep(0)
    assert batches == [[0]]
    second.append(lane.put(WORTH_ITEMS))
    await asyncio.sleep(0)
    rest = [lane.put(n) for n in range(2 * WORTH_ITEMS)]
    await asyncio.sleep(0)
    assert batches == [[0], list(range(1, WORTH_ITEMS + 1))]
    back[2].set()
    back[1].set()

    assert await asyncio.gather(*second, *rest) == [*range(1, WORTH_ITEMS + 1), *range(2 * WORTH_ITEMS)]
    assert not first.done()
    back[0].set()
    assert await first == 0
    await lane.idle()


async def test_errors_are_announced_by_their_names(double, make_agent, serving):
    """Classes as failures are reported, words as they are."""
    app = make_agent()

    @app.reasoner(retry_jitter=0, fatal_errors=[ValueError, "HTTP 4*"], retry_errors=["HTTP *"])
    async def picky() -> None: ...

    async with serving(app):
        await double.until(lambda: double.registrations)
    [said] = double.registrations[0]["reasoners"]

    assert said["retry"] == {"jitter": 0, "fatal_errors": ["ValueError", "HTTP 4*"], "retry_errors": ["HTTP *"]}
