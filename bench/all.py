"""Every bench, one after the other.

    python bench/all.py            short forms, at most 10 minutes (`make bench`)
    python bench/all.py --full     long forms, hours; what each measured is kept in docs/performance (`make bench-full`)

Each runs by itself, so one that fails costs the others nothing. At the end each is named with how it went and how many
of its bars were met; nothing is left out without a word. Exits with 1 if one of them failed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEPT = HERE.parent / "docs/performance"
SHORT_MINUTES = 10.0
STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Bench:
    """`short` and `long`: its arguments. `minutes`: of the long form, then it is ended."""

    name: str
    short: str
    long: str
    minutes: float


BENCHES = (
    Bench("lifecycle", "--runs 1 --requests 3000 --seconds 2", "--runs 5 --requests 20000", 20),
    Bench("latency", "--rounds 1 --seconds 5", "--rounds 5 --seconds 60", 40),
    Bench("memory", "--rounds 1 --sets 300 --sets-each 100 --items 300,1000", "--rounds 5", 40),
    Bench("logs", "--rounds 1 --requests 5000", "--rounds 5", 30),
    Bench("growth", "--rounds 1 --scale 0.005 --calls 20", "--scale 1", 120),
    Bench("pinned", "--rounds 1 --seconds 10", "--minutes 10", 60),
    Bench("replicas", "--rounds 1 --seconds 3 --watch-seconds 5", "--rounds 5 --seconds 15 --watch-seconds 60", 40),
    Bench(
        "resident", "--rounds 1 --lifecycles 10000 --polls 2000 --readers 2000", "--rounds 5 --lifecycles 1000000", 120
    ),
    Bench("webhooks", "--seconds 3 --backlog 5000 --hung 1000", "--seconds 30", 30),
    Bench("peers", "--rounds 1 --seconds 2 --minutes 4", "--rounds 5 --seconds 10 --minutes 100", 110),
)


@dataclass
class Outcome:
    name: str
    how: str
    """`measured`, or why not."""
    seconds: float = 0.0
    met: int = 0
    bars: int = 0

    @property
    def ok(self) -> bool:
        return self.how == "measured"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the long forms, kept in docs/performance")
    parser.add_argument("--only", default="", help="these alone, by name, with commas")
    options = parser.parse_args()
    only = [name for name in options.only.split(",") if name]
    if unknown := set(only) - {one.name for one in BENCHES}:
        parser.error(f"no such benches: {', '.join(sorted(unknown))}; there are {', '.join(o.name for o in BENCHES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    asked = [one for one in BENCHES if not only or one.name in only]
    with tempfile.TemporaryDirectory(prefix="controlplane-bench-") as folder:
        if options.full:
            KEPT.mkdir(exist_ok=True)
        outcomes = run(asked, full=options.full, keep=KEPT if options.full else Path(folder))
    for one in outcomes:
        bars = f"{one.met} of {one.bars} bars met" if one.bars else ""
        print(f"  {one.name:<12}{one.seconds:>8,.0f} s  {one.how:<48}{bars}")
    print(json.dumps({one.name: vars(one) for one in outcomes}))
    sys.exit(0 if all(one.ok for one in outcomes) else 1)


def run(benches: Iterable[Bench], *, full: bool, keep: Path, folder: Path = HERE) -> list[Outcome]:
    """How each went. Short forms together have their ten minutes; what does not fit is named."""
    until = time.monotonic() + SHORT_MINUTES * 60
    outcomes = []
    for one in benches:
        script = script_of(one.name, folder)
        left = one.minutes * 60 if full else until - time.monotonic()
        if script is None:
            outcomes.append(Outcome(one.name, "not there"))
        elif left <= 0:
            outcomes.append(Outcome(one.name, f"not begun: the {SHORT_MINUTES:g} minutes were over"))
        else:
            print(f"\n== {one.name}", flush=True)
            outcomes.append(_measure(one, script, full=full, keep=keep, seconds=left))
    return outcomes


def script_of(name: str, folder: Path = HERE) -> Path | None:
    """A file, or a folder with a main module."""
    for path, main in ((folder / f"{name}.py",) * 2, (folder / name, folder / name / "__main__.py")):
        if main.exists():
            return path
    return None


def keeps(script: Path) -> bool:
    """Whether it has the option `--json` of all that tell a record."""
    return "keeping(parser)" in (script / "__main__.py" if script.is_dir() else script).read_text()


def _measure(one: Bench, script: Path, *, full: bool, keep: Path, seconds: float) -> Outcome:
    kept = keep / f"{one.name}.json"
    command = [sys.executable, str(script), *(one.long if full else one.short).split()]
    command += ["--json", str(kept)] if keeps(script) else []
    began, began_at = time.monotonic(), time.time()
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            how = {0: "measured"}.get(code := process.wait(seconds), f"failed: status {code}")
        except subprocess.TimeoutExpired:
            how = f"ended: not done within {seconds / 60:.1f} minutes"
        finally:
            _end(process)
    outcome = Outcome(one.name, how, round(time.monotonic() - began, 1))
    if outcome.ok and kept.exists() and kept.stat().st_mtime >= began_at - 1:
        bars = json.loads(kept.read_text())["bars"]
        outcome.bars, outcome.met = len(bars), sum(bar["met"] is True for bar in bars)
    return outcome


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let it clean up what it has started, and then be sure of it."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
