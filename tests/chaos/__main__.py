"""`make chaos`: the long form. It prints its seed and every fault, and writes what it came to as JSON."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import signal
import sys
import tempfile
from pathlib import Path
from pkgutil import resolve_name

import orjson

from tests.chaos.faults import KillNode, KillReceiver, KillServer, RollServers, StopNode, StopServer
from tests.chaos.run import Hand, Plan, Report, run
from tests.chaos.stage import Stage


def main() -> int:
    """0 when everything holds."""
    parser = argparse.ArgumentParser(prog="tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--minutes", type=float, default=60.0, help="of faults")
    parser.add_argument("--calm", type=float, default=60.0, help="seconds before the first fault, to compare with")
    parser.add_argument("--rate", type=float, default=40.0, help="executions per second that callers ask for")
    parser.add_argument("--haste", type=float, default=1.0, help="how much faster faults follow each other")
    parser.add_argument("--hands", type=int, default=1, help="that kill servers and nodes at the same time")
    parser.add_argument("--ground", default="tests.chaos.embedded:Embedded", help="the database, and what befalls it")
    parser.add_argument("--front", default="tests.chaos.forwarder:Forwarder", help="what the servers stand behind")
    parser.add_argument("--folder", type=Path, help="where journals, logs and report.json go; kept")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"journals, logs and report in {folder}", flush=True)
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp") as short:
        ground = resolve_name(asked.ground)(Path(short))
        front = resolve_name(asked.front)()
        plan = Plan(
            seed=asked.seed,
            seconds=asked.minutes * 60,
            calm_seconds=asked.calm,
            rate=asked.rate,
            servers=1 + asked.hands,
            nodes=2 + 2 * asked.hands,
            hands=[
                *(
                    hand
                    for n in range(asked.hands)
                    for hand in (
                        Hand(name=f"servers {n}", faults=[KillServer()], rest_seconds=5 / asked.haste),
                        Hand(name=f"nodes {n}", faults=[KillNode()], rest_seconds=4 / asked.haste),
                    )
                ),
                Hand(name="ground", faults=ground.faults, rest_seconds=20 / asked.haste),
                Hand(name="stops", faults=[StopNode(), StopNode(), StopServer()], rest_seconds=8 / asked.haste),
                Hand(name="rest", faults=[RollServers(), KillReceiver()], rest_seconds=20 / asked.haste),
            ],
        )
        report = asyncio.run(_run(plan, Stage(folder, ground, front)))
    shape = orjson.dumps(report.shape(), option=orjson.OPT_INDENT_2)
    (folder / "report.json").write_bytes(shape)
    print(orjson.dumps({**report.shape(), "strikes": len(report.strikes)}, option=orjson.OPT_INDENT_2).decode())
    return 1 if report.violations else 0


async def _run(plan: Plan, stage: Stage) -> Report:
    """Ctrl-C ends the faults, not the run: what was done until then is judged."""
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stage.over.set)
    return await run(plan, stage)


if __name__ == "__main__":
    sys.exit(main())
