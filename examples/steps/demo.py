"""Steps and waits, played on real processes. Exits 0 only if every promise held.

A corpus is worked through in steps, and its node is killed with SIGKILL in the middle: what was done is not done again.
A release waits for a person, for the clock and for an event; its node has one slot, and does other work meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from controlplane_sdk import Client, NotFound

HERE = Path(__file__).parent
ITEMS = [f"document {n} of the corpus" for n in range(60)]
PATIENCE_SECONDS = 60.0

began = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - began:6.1f} s] {text}", flush=True)


class Stage:
    """The control plane with a database of its own, and the node: real processes, none of which is left behind."""

    def __init__(self, folder: Path) -> None:
        self.calls = folder / "calls.txt"
        self._folder = folder
        self._running: list[subprocess.Popen[str]] = []
        server = self._start("-m", "controlplane", "dev", "--port", "0", "--data-dir", str(folder / "data"))
        assert server.stdout is not None
        self.url = server.stdout.readline().strip()

    def node(self) -> subprocess.Popen[str]:
        return self._start("agent.py", CONTROLPLANE_SERVER=self.url, DEMO_CALLS_FILE=str(self.calls))

    def done(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def _start(self, *command: str, **env: str) -> subprocess.Popen[str]:
        known = os.environ | {"CONTROLPLANE_LEASE_SECONDS": "3"} | env
        with (self._folder / "log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=HERE, env=known, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self._running.append(process)
        return process

    def stop(self) -> None:
        for process in reversed(self._running):
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="controlplane-steps-") as name:
        stage = Stage(Path(name))
        try:
            yield stage
        finally:
            stage.stop()


async def wait_for(what: str, look: Callable[[], Awaitable[Any]]) -> Any:
    """Look until something is there. Gives up, loudly, after a minute."""
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(NotFound):  # the node has not registered yet
            if found := await look():
                return found
        await asyncio.sleep(0.02)
    raise SystemExit(f"waited {PATIENCE_SECONDS:g} s in vain for {what}")


async def corpus(stage: Stage, client: Client) -> dict[str, bool]:
    """Killed in the middle of the loop."""
    node = stage.node()
    handle = await wait_for("the node", lambda: client.start("steps.process_corpus", items=ITEMS))
    say(f"{len(ITEMS)} documents are being summarised, one step each")

    async def half_done() -> bool:
        return len(await handle.steps()) >= len(ITEMS) // 2

    await wait_for("half of them", half_done)
    node.kill()
    node.wait()
    calls, committed = len(stage.done()), await handle.steps()
    say(f"kill -9 {node.pid} (the node): {len(committed)} steps are done")
    stage.node()
    result = await handle.result(timeout=PATIENCE_SECONDS)
    shown = await handle.status()
    after = stage.done()[calls:]
    say(f"attempt {shown.attempt} ran the function from its first line and called the model {len(after)} times")
    return {
        "every document was summarised": len(result["results"]) == len(ITEMS),
        "nothing that was done was done again": not set(ITEMS[: len(committed)]) & set(after),
    }


async def release(stage: Stage, client: Client) -> dict[str, bool]:
    """Waits for a person, the clock and an event."""
    handle = await client.start("steps.release", version="1.2")

    async def waits_for(reason: str) -> bool:
        shown = await handle.status()
        return (shown.status, shown.status_reason) == ("waiting", reason)

    await wait_for("the question", lambda: waits_for("waiting_for_approval"))
    asked = await handle.approval()
    say(f"the release asks: {asked.request_url or asked.approval_request_id}; it holds no slot, no lease, no process")
    other = await client.call("steps.read_aloud", text="meanwhile")
    say("its node has one slot, and ran something else in it")
    await handle.approve("looks good")
    await wait_for("the sleep", lambda: waits_for("sleeping"))
    say("approved; now it sleeps for 2 s")
    sent = await handle.signal("deploy.window", {"opened_by": "operations"})
    say(f"the event it will wait for comes too early ({'delivered' if sent.delivered else 'kept'})")
    result = await handle.result(timeout=PATIENCE_SECONDS)
    say(f"{result['said']}, after {result['attempts']} attempts")
    done = stage.done()
    return {
        "other work was done while it waited": other == len("meanwhile"),
        "the event that came too early was not lost": result["window"] == {"opened_by": "operations"},
        "built once, deployed once": (done.count("build 1.2"), done.count("deploy app:1.2")) == (1, 1),
    }


async def fan_out(client: Client) -> dict[str, bool]:
    """A child for each item."""
    handle = await client.start("steps.measure_all", items=ITEMS)
    result = await handle.result(timeout=PATIENCE_SECONDS)
    say(f"{len(ITEMS)} children measured {result['characters']} characters; their parent had no process meanwhile")
    return {"every child was counted once": result["characters"] == sum(map(len, ITEMS))}


async def play() -> int:
    with stage() as set_up:
        say(f"the control plane is up on {set_up.url}")
        async with Client(set_up.url) as client:
            promises = await corpus(set_up, client) | await release(set_up, client) | await fan_out(client)
    print()
    for promise, held in promises.items():
        print(f"  {'✓' if held else '✗'} {promise}")
    return 0 if all(promises.values()) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(play()))
